"""What a label says of the bands beyond its spectrum: the gap, and how many states lie deep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spectra.spectrum import IntegratedDos

if TYPE_CHECKING:
    import torch

DEPTHS = np.arange(-12.0, 0.1, 0.2)
"""Energies in eV below the VBM, or the Fermi level, from which occupied states are counted."""


@dataclass(frozen=True, eq=False)
class BandLabels:
    """Of n materials; NaN where a label does not say.

    Parameters
    ----------
    gap : Tensor, shape (n,)
        Band gap in eV, 0 of a metal.
    occupied : Tensor, shape (n, 61)
        States per cell between each of the `DEPTHS` and the VBM (or the Fermi level).
    """

    gap: torch.Tensor
    occupied: torch.Tensor

    def select(self, rows: torch.Tensor) -> BandLabels:
        """Of some of the materials."""
        return BandLabels(self.gap[rows], self.occupied[rows])

    def pin_memory(self) -> BandLabels:
        """The same labels in memory from which a GPU is sent to while the processor goes on."""
        return BandLabels(self.gap.pin_memory(), self.occupied.pin_memory())

    def to(self, device: Any, non_blocking: bool = False) -> BandLabels:
        """The same labels on another device.

        Parameters
        ----------
        device : torch.device or str
        non_blocking : bool
            As in :meth:`torch.Tensor.to`.
        """
        gap, occupied = (t.to(device, non_blocking=non_blocking) for t in (self.gap, self.occupied))
        return BandLabels(gap, occupied)


def occupied_states(edges: np.ndarray, dos: np.ndarray) -> np.ndarray:
    """States between each of the `DEPTHS` and 0, shape (61,).

    Parameters
    ----------
    edges : ndarray, shape (M + 1,)
        Of the bins of a DOS, in eV relative to the VBM or the Fermi level.
    dos : ndarray, shape (M,)
        Averages in states/eV/cell.
    """
    integral = IntegratedDos(edges, dos)
    return integral(np.zeros(1)) - integral(DEPTHS.clip(max=0.0))
