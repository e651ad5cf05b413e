"""Kernel ridge regression as a module: fitted once, kept with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KernelRegression(nn.Module):
    """Spectra as smooth functions of a few numbers, with the Laplacian kernel.

    The kernel of two materials is exp(-d / l), d the sum of the absolute differences of their
    features, and l a part of the median of d over the training materials.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    n_features : int
    length : float
        l as a part of the median distance.
    ridge : float
        Added to the diagonal of the kernel matrix.

    References
    ----------
    F. Faber et al., Int. J. Quantum Chem. 115, 1094 (2015): the kernel, for crystals.
    """

    points: Tensor
    coefficients: Tensor
    mean: Tensor
    reach: Tensor

    def __init__(
        self, size: int, n_features: int, length: float = 0.5, ridge: float = 0.03
    ) -> None:
        super().__init__()
        self.length, self.ridge = length, ridge
        self.register_buffer("points", torch.zeros(0, n_features))
        self.register_buffer("coefficients", torch.zeros(0, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("reach", torch.ones(()))

    @property
    def fitted(self) -> bool:
        """Whether there is something to predict with."""
        return len(self.points) > 0

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Solve for the coefficients.

        Parameters
        ----------
        features : Tensor, shape (n, n_features)
        targets : Tensor, shape (n, K')
        """
        self.points = features.clone()
        self.mean = targets.mean(0)
        distance = torch.cdist(self.points, self.points, p=1).double()
        self.reach = (self.length * distance.median()).clamp_min(1e-6).to(features.dtype)
        matrix = torch.exp(-distance / self.reach)
        matrix.diagonal().add_(self.ridge)
        solved = torch.linalg.solve(matrix, (targets - self.mean).double())
        self.coefficients = solved.to(targets.dtype)

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
