"""DOS by atom and shell, from the eigenvectors of a Hamiltonian."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.architectures.tight_binding.bands import (
    Edges,
    Integrals,
    fill,
    from_edges,
    projected_levels,
)
from models.architectures.tight_binding.interpolation import Sample, Smearing, interpolated
from models.architectures.tight_binding.slater_koster import N_ORBITALS, SHELL_OF_ORBITAL
from models.spectra.electronic_structure import SHELLS

_SHELL = (0, 1, 2, 0)  # s* counts as s
_F = SHELLS.index("f")
_BESIDE = 1e-4  # eV


def projections(
    integrals: Integrals,
    sample: Sample,
    electrons: float,
    with_f: Tensor,
    energies: Tensor,
    smearing: Smearing,
) -> tuple[Tensor, Tensor, Edges]:
    """States of each atom and shell in each bin, broadened and as they are, and the band edges.

    Parameters
    ----------
    integrals : Integrals
        Of a crystal of n atoms.
    sample : Sample
        Wave vectors, none left out because a rotation turns another into it.
    electrons : float
        In the cell.
    with_f : Tensor, shape (n,), bool
        Atoms with seven flat 4f levels.
    energies : Tensor, shape (K' + 1,)
        Edges of the bins in eV, relative to the band edges.
    smearing : Smearing
        Of levels near these energies.

    Returns
    -------
    Tensor, shape (n, 4, K')
        States per cell, s, p, d and f, of broadened levels.
    Tensor, shape (n, 4, K')
        Of sharp ones: nothing is on the wrong side of a gap.
    Edges
    """
    n = len(integrals.onsite)
    levels, shares = _interpolated(integrals, sample, _groups(integrals.orbitals, with_f))
    weights = sample.weights.to(levels)
    edges = fill(levels, weights, electrons)
    relative = from_edges(levels, edges)
    counts = (2 * weights[:, None, None] * shares).flatten(0, 1)
    below = smearing.states_below(relative.flatten(), counts)
    broadened = below.diff(dim=0).clamp_min(0)  # of rounded sums
    if edges.filled is not None:  # both edges are at 0
        filled, empty = relative[:, : edges.filled], relative[:, edges.filled :]
        relative = torch.cat([filled.clamp(max=-_BESIDE), empty.clamp(min=_BESIDE)], dim=1)
    bins = torch.bucketize(relative.flatten(), energies)  # 0 below the grid, K' + 1 above it
    sharp = counts.new_zeros(len(energies) + 1, counts.shape[1]).index_add(0, bins, counts)[1:-1]
    return _by_atom(broadened, n), _by_atom(sharp, n), edges


def _interpolated(integrals: Integrals, sample: Sample, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Levels, shape (Q, M + F), and shares of the groups, shape (Q, M + F, P).

    In the order that they have in the spectrum: bands as they are counted where computed, also
    where interpolated ones cross, and rising with flat levels among them.
    """
    orbitals, flat = groups.split([len(integrals.orbitals), len(integrals.flat)])
    points = sample.mesh.points.to(integrals.steps)
    bands, shares = projected_levels(replace(integrals, flat=integrals.flat[:0]), points, orbitals)
    bands, shares = interpolated(bands, sample), interpolated(shares, sample).clamp_min(0)
    shares = shares / shares.sum(2, keepdim=True)  # cubic interpolation may overshoot
    if not len(flat):
        return bands, shares
    n_groups = int(groups.max()) + 1
    of_flat = F.one_hot(flat, n_groups).to(shares).expand(len(bands), -1, -1)
    shares = torch.cat([F.pad(shares, (0, n_groups - shares.shape[2])), of_flat], dim=1)
    bands = torch.cat([bands, integrals.flat.expand(len(bands), -1)], dim=1)
    levels, order = bands.sort(dim=1)
    return levels, shares.take_along_dim(order[:, :, None], dim=1)


def _by_atom(states: Tensor, n: int) -> Tensor:
    """States (K', P) as (n, 4, K'); groups that no orbital is in are missing at the end."""
    padded = F.pad(states, (0, n * len(SHELLS) - states.shape[1]))
    return padded.T.reshape(n, len(SHELLS), -1)


def _groups(orbitals: Tensor, with_f: Tensor) -> Tensor:
    """Atom times 4 plus shell of each orbital, those of the 4f levels last."""
    shell = torch.tensor([_SHELL[s] for s in SHELL_OF_ORBITAL]).to(orbitals)
    of_orbital = orbitals // N_ORBITALS * len(SHELLS) + shell[orbitals % N_ORBITALS]
    of_f = with_f.nonzero().flatten() * len(SHELLS) + _F
    return torch.cat([of_orbital, of_f.repeat_interleave(7)])
