"""What the Hamiltonian gets wrong in the same way for like materials, learned from the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.ensemble import distribution, scales, standardized
from models.architectures.parts.kernel_regression import KernelRegression
from models.graphs.graph import GraphBatch

OUTLIER = 4.0
SPECTRAL = 0.7  # of the distance of two materials, the share of their spectra
LENGTH, RIDGE = 0.2, 0.03  # of the kernel; chosen on validation materials, as `SPECTRAL`
MOST = 0.5  # of the logarithm by which there are more or fewer empty states
_NONE = 1e-6  # share of all states that counts as none
_EVERYWHERE = 1e-6  # of all states, in each bin: whose states are where the Hamiltonian has none


class Correction(nn.Module):
    """Adds to a spectrum what the labels of like materials had beyond the model's.

    A kernel regression of the residuals of the training materials: of their shapes, label less
    prediction, both with the sum 1; and of the empty states for each filled one, the logarithm
    of the label's over the prediction's. The latter counts fully: ten orbitals have too few or
    too many states to stand for the continuum, and no number of electrons tells. What the shape
    takes across the edge is added to it, so that in all it counts some 1.3 times; the validation
    materials do not tell this from once (0.0000 +- 0.0005 eV).

    How alike two materials are is decided by their
    :class:`~models.architectures.parts.crystal_statistics.CrystalStatistics` and by their
    predicted spectra, cumulated. The networks have seen the training materials, so that these
    residuals are smaller than those of others; what is done about that is `share`, chosen on
    materials that the networks have not seen.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    share : float
        Of the regression of shapes that is added.
    filled : int
        The first bins, up to the band edge. The electrons in them stay as many.
    """

    center: Tensor
    scale: Tensor
    lengths: Tensor

    def __init__(self, size: int, share: float, filled: int) -> None:
        super().__init__()
        self.share, self.filled = share, filled
        n_statistics = CrystalStatistics.size
        self.statistics = CrystalStatistics()
        self.kernel = KernelRegression(size + 1, n_statistics + size, LENGTH, RIDGE)
        self.register_buffer("center", torch.zeros(n_statistics))
        self.register_buffer("scale", torch.ones(n_statistics))
        self.register_buffer("lengths", torch.ones(2))

    @torch.no_grad()
    def fit(self, batch: GraphBatch, states: Tensor, target: Tensor) -> None:
        """Learn the residuals of the training materials.

        Parameters
        ----------
        batch : GraphBatch
            All n.
        states : Tensor, shape (n, K')
            Predicted, without a correction.
        target : Tensor, shape (n, K')
            Labels with the sum 1.
        """
        self.center, self.scale = scales(self.statistics(batch))
        self.lengths = torch.ones_like(self.lengths)
        parts = self._features(batch, states).split([len(self.center), states.shape[1]], dim=1)
        spreads = [(part - part.mean(0)).abs().sum(1).mean() for part in parts]
        self.lengths = torch.stack(spreads).clamp_min(1e-6)
        predicted = distribution(states)
        more = (self._emptiness(target) - self._emptiness(predicted)).clamp(-MOST, MOST)
        residuals = torch.cat([target - predicted, more], dim=1)
        self.kernel.fit(self._features(batch, states), residuals)

    def forward(self, batch: GraphBatch, states: Tensor) -> Tensor:
        """Corrected states/eV/cell, shape (B, K'), with as many electrons as those given.

        Parameters
        ----------
        batch : GraphBatch
        states : Tensor, shape (B, K')
        """
        if not self.kernel.fitted:
            return states
        shift, more = self.kernel(self._features(batch, states)).tensor_split([-1], dim=1)
        shape = distribution((distribution(states) + self.share * shift).clamp_min(0))
        below, above = (shape * states.sum(1, keepdim=True)).tensor_split([self.filled], dim=1)
        electrons = states[:, : self.filled].sum(1, keepdim=True)
        return torch.cat([distribution(below) * electrons, above * more.exp()], dim=1)

    def _emptiness(self, shapes: Tensor) -> Tensor:
        """Logarithm of the empty states for each filled one, shape (n, 1)."""
        filled, empty = (
            part.sum(1, keepdim=True).clamp_min(_NONE)
            for part in shapes.tensor_split([self.filled], dim=1)
        )
        return (empty / filled).log()

    def of_parts(self, batch: GraphBatch, parts: Tensor) -> Tensor:
        """Parts of a crystal's spectrum that add up to the corrected one; the shares stay.

        Parameters
        ----------
        batch : GraphBatch
            One crystal.
        parts : Tensor, shape (n, S, K')
            Of atoms and shells, in states/eV/cell.
        """
        whole = parts.sum((0, 1))
        parts = parts + _EVERYWHERE * parts.sum(2, keepdim=True)
        shares = parts / parts.sum((0, 1)).clamp_min(torch.finfo(parts.dtype).tiny)
        return shares * self(batch, whole[None])[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also what was fitted before empty states were counted: there are as many then."""
        for name in ("coefficients", "mean"):
            stored = state_dict.get(f"{prefix}kernel.{name}")
            if stored is not None and stored.shape[-1] == len(self.kernel.mean) - 1:
                state_dict[f"{prefix}kernel.{name}"] = F.pad(stored, (0, 1))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _features(self, batch: GraphBatch, states: Tensor) -> Tensor:
        statistics = standardized(self.statistics(batch), self.center, self.scale, OUTLIER)
        cumulated = distribution(states).cumsum(1)
        shares = (1 - SPECTRAL) / self.lengths[0], SPECTRAL / self.lengths[1]
        return torch.cat([shares[0] * statistics, shares[1] * cumulated], dim=1)
