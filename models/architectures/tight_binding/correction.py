"""What the Hamiltonian gets wrong in the same way for like materials, learned from the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.ensemble import distribution, scales, standardized
from models.architectures.parts.kernel_regression import KernelRegression
from models.graphs.graph import GraphBatch

OUTLIER = 4.0
SPECTRAL = 0.7  # of the distance of two materials, the share of their spectra
LENGTH, RIDGE = 0.2, 0.03  # of the kernel; chosen on validation materials, as `SPECTRAL`
_EVERYWHERE = 1e-6  # of all states, in each bin: whose states are where the Hamiltonian has none


class Correction(nn.Module):
    """Adds to the shape of a spectrum what the labels of like materials had beyond the model's.

    A kernel regression of the residuals of the training materials (label less prediction, both
    with the sum 1). How alike two materials are is decided by their
    :class:`~models.architectures.parts.crystal_statistics.CrystalStatistics` and by their predicted
    spectra, cumulated. The networks have seen the training materials, so that these residuals are
    smaller than those of others; what is done about that is `share`, chosen on materials that the
    networks have not seen.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    share : float
        Of the regression that is added.
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
        self.kernel = KernelRegression(size, n_statistics + size, LENGTH, RIDGE)
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
        self.kernel.fit(self._features(batch, states), target - distribution(states))

    def forward(self, batch: GraphBatch, states: Tensor) -> Tensor:
        """Corrected states/eV/cell, shape (B, K'), with as many electrons as those given.

        Parameters
        ----------
        batch : GraphBatch
        states : Tensor, shape (B, K')
        """
        if not self.kernel.fitted:
            return states
        shift = self.share * self.kernel(self._features(batch, states))
        shape = distribution((distribution(states) + shift).clamp_min(0))
        below, above = (shape * states.sum(1, keepdim=True)).tensor_split([self.filled], dim=1)
        electrons = states[:, : self.filled].sum(1, keepdim=True)
        return torch.cat([distribution(below) * electrons, above], dim=1)

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

    def _features(self, batch: GraphBatch, states: Tensor) -> Tensor:
        statistics = standardized(self.statistics(batch), self.center, self.scale, OUTLIER)
        cumulated = distribution(states).cumsum(1)
        shares = (1 - SPECTRAL) / self.lengths[0], SPECTRAL / self.lengths[1]
        return torch.cat([shares[0] * statistics, shares[1] * cumulated], dim=1)
