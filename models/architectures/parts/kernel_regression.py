"""Kernel ridge regression as a module: fitted once, kept with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MAX_POINTS = 8192
BLOCK = 4096  # materials whose kernels are in memory at once
JITTER = 1e-10  # of the mean of a diagonal, so that points that coincide leave it definite


class KernelRegression(nn.Module):
    """Spectra as smooth functions of a few numbers, with the Laplacian kernel.

    The kernel of two materials is exp(-d / l), d the sum of the absolute differences of their
    features, and l a part of the median of d over the training materials.

    Up to `max_points` materials it is exact. Of more, that many drawn at random carry the
    function, which is fitted to all of them (subset of regressors, a Nystroem approximation). For n
    materials and m of these points that takes n m^2 operations, about 40 m^2 bytes, and m kernels
    for a prediction, instead of n^3 / 3, 28 n^2 and n.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    n_features : int
    length : float
        l as a part of the median distance.
    ridge : float
        Added to the diagonal of the kernel matrix.
    max_points : int
        Most materials that carry the function.

    References
    ----------
    F. Faber et al., Int. J. Quantum Chem. 115, 1094 (2015): the kernel, for crystals.
    C. K. I. Williams and M. Seeger, NIPS 13 (2000): Nystroem's approximation.
    J. Quinonero-Candela and C. E. Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005): the subset of
    regressors.
    """

    points: Tensor
    coefficients: Tensor
    mean: Tensor
    reach: Tensor

    def __init__(
        self,
        size: int,
        n_features: int,
        length: float = 0.5,
        ridge: float = 0.03,
        max_points: int = MAX_POINTS,
    ) -> None:
        super().__init__()
        self.length, self.ridge, self.max_points = length, ridge, max_points
        self.register_buffer("points", torch.zeros(0, n_features))
        self.register_buffer("coefficients", torch.zeros(0, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("reach", torch.ones(()))

    @property
    def fitted(self) -> bool:
        """Whether there is something to predict with."""
        return len(self.points) > 0

    def clear(self) -> None:
        """Forget what was fitted."""
        self.points, self.coefficients = self.points[:0], self.coefficients[:0]

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Solve for the coefficients.

        Parameters
        ----------
        features : Tensor, shape (n, n_features)
        targets : Tensor, shape (n, K')
        """
        self.points = features[self._drawn(len(features)).to(features.device)].clone()
        self.mean = targets.mean(0)
        distance = torch.cdist(self.points, self.points, p=1)
        self.reach = (self.length * distance.median()).clamp_min(1e-6)
        own, residual = self._kernel(self.points), targets - self.mean
        if len(self.points) == len(features):
            matrix, right = own, residual.double()
            matrix.diagonal().add_(self.ridge)
        else:
            matrix, right = self.ridge * own, own.new_zeros(len(own), targets.shape[1])
            for rows, wanted in zip(features.split(BLOCK), residual.split(BLOCK), strict=True):
                kernel = self._kernel(rows)
                matrix.addmm_(kernel.T, kernel)
                right.addmm_(kernel.T, wanted.double())
            matrix.diagonal().add_(JITTER * matrix.diagonal().mean())
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
        self.coefficients = solved.to(targets.dtype)

    def _drawn(self, n: int) -> Tensor:
        """Numbers of the materials that carry the function: all, or a fixed draw of many."""
        if n <= self.max_points:
            return torch.arange(n)
        return torch.randperm(n, generator=torch.Generator().manual_seed(0))[: self.max_points]

    def _kernel(self, features: Tensor) -> Tensor:
        """Kernel of materials with the points, shape (B, m), in double precision."""
        return torch.exp(-torch.cdist(features, self.points, p=1).double() / self.reach)

    def forward(self, features: Tensor) -> Tensor:
        """Prediction, shape (B, K'), for features (B, n_features)."""
        kernel = torch.exp(-torch.cdist(features, self.points, p=1) / self.reach)
        return kernel @ self.coefficients + self.mean

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many points as there are in the state."""
        for name in ("points", "coefficients"):
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and stored.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
