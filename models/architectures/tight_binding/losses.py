"""What is learned of a crystal: the shape of its spectrum, its occupied states, its band gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.architectures.tight_binding.bands import Bands, states_of
from models.architectures.tight_binding.config import LossWeights
from models.spectra.band_labels import DEPTHS, BandLabels


def shape_loss(spectra: Tensor, labels: Tensor, width: float, weights: LossWeights) -> Tensor:
    """Wasserstein distance and absolute difference of spectra with the sum 1, shape (B,).

    Parameters
    ----------
    spectra : Tensor, shape (B, K')
        In states/eV/cell.
    labels : Tensor, shape (B, K')
        With the sum 1.
    width : float
        Of a bin, in eV.
    weights : LossWeights
    """
    difference = spectra / spectra.sum(1, keepdim=True).clamp_min(1e-3 / width) - labels
    distance = difference.cumsum(1).abs().sum(1) * width
    return weights.distance * distance + weights.difference * difference.abs().sum(1)


def gap_loss(crystals: Sequence[Bands], labels: BandLabels, weights: LossWeights) -> Tensor:
    """Error of the gaps of insulators whose bands are filled as such, shape (B,).

    Parameters
    ----------
    crystals : sequence of Bands
    labels : BandLabels
    weights : LossWeights
    """
    gaps = torch.stack([crystal.edges.gap for crystal in crystals])
    filled = torch.tensor([c.edges.filled is not None for c in crystals]).to(gaps.device)
    wanted = torch.where(filled & (labels.gap > 0), labels.gap, gaps.detach())
    return weights.gap * (gaps - wanted).abs()


def occupied_loss(
    crystals: Sequence[Bands],
    log_width: Tensor,
    electrons: Tensor,
    labels: BandLabels,
    weights: LossWeights,
    beyond: float,
) -> Tensor:
    """Mean depth in eV per electron by which occupied states are off, shape (B,).

    It is 0 where the labels do not say how many there are.

    Parameters
    ----------
    crystals : sequence of Bands
    log_width : Tensor, shape (3,)
        See :func:`~models.architectures.tight_binding.bands.states_below`.
    electrons : Tensor, shape (B,)
    labels : BandLabels
    weights : LossWeights
    beyond : float
        Levels that are farther from the depths of the labels do not reach them, in eV.
    """
    known = labels.occupied.isfinite().all(1).nonzero().flatten()
    loss = torch.zeros_like(electrons)
    if not len(known):
        return loss
    occupied = [
        (c.levels[:, : c.edges.filled] - c.edges.vbm, c.mesh.weights)
        for c in (crystals[i] for i in known.tolist())
    ]
    depths, most = torch.from_numpy(DEPTHS).to(loss), electrons[known]
    below = states_of(occupied, depths, log_width, (float(DEPTHS[0]) - beyond, beyond))
    states = (below[:, -1:] - below).minimum(most[:, None])
    off = (states - labels.occupied[known].minimum(most[:, None])).abs().sum(1)
    step = float(DEPTHS[1] - DEPTHS[0])
    return loss.index_add(0, known, weights.occupied * step / most * off)
