"""Harmonic vibrations of crystals held together by springs: springs to frequencies to spectra.

Born-von Karman lattice dynamics with central and transverse springs (M. T. Dove, Introduction to
Lattice Dynamics (1993), ch. 2 and 6). All of it can be differentiated by the springs.

Two things that crystals have are not in it:

- Rotational invariance. A transverse spring resists every displacement across the bond, also one
  that turns the whole crystal, so that a rotation costs energy (a translation costs none). Shear
  and bending modes of open frameworks, layers and molecules tend to come out too stiff; bending
  springs between three atoms would be needed.
- Dipoles. Without Born charges there is no LO-TO splitting: in polar crystals the longitudinal
  optical modes near Gamma come out too low.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from models.graphs.graph import GraphBatch

WAVENUMBER = 130.28
"""cm^-1 of 1 u on a spring of 1 N/m: sqrt((N/m) / u) / (2 pi c)."""

_SMALLEST = 1e-4  # N/m/u that frequencies are cut off at: the root has no derivative at 0


@dataclass(frozen=True, eq=False)
class Springs:
    """The springs that the edges of a batch stand for.

    The spring of an edge is half of the one between two atoms; the other half is the edge from
    the neighbour back. Where only one of them has the other among its neighbours, their spring is
    half as strong.

    Parameters
    ----------
    longitudinal, transverse : Tensor, shape (E,)
        Force constants along the edge and across it, in N/m.
    """

    longitudinal: Tensor
    transverse: Tensor


def alike(batch: GraphBatch, length: float) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Crystals of a batch that have as many atoms and the same mesh of wave vectors.

    A mesh has a power of 2 of points along each reciprocal vector b, that next to
    ``length |b| / (2 pi)``: a cell that is doubled along some of its vectors has the same points.

    Parameters
    ----------
    length : float
        About the size of the supercell that has the points of the mesh at Gamma, in Å.

    Yields
    ------
    Tensor, shape (b,), int64
        Graphs.
    tuple of int
        Points of their mesh along each reciprocal vector.
    """
    assert batch.lattice is not None
    points = length * torch.linalg.inv(batch.lattice).norm(dim=1)
    steps = points.log2().round().clamp_min(0).long()
    kinds, kind = torch.cat([batch.n_nodes[:, None], steps], 1).unique(dim=0, return_inverse=True)
    for i, (_, *powers) in enumerate(kinds.tolist()):
        yield (kind == i).nonzero().flatten(), tuple(2**p for p in powers)


@cache
def half_mesh(*sizes: int) -> Tensor:
    """Wave vectors in units of the reciprocal vectors, shape (Q, 3): (m + 1/2) / size.

    Gamma is not among them; of q and -q, which have the same frequencies, only one is.
    """
    halved = next((i for i, size in enumerate(sizes) if size > 1), None)
    with torch.inference_mode(False):  # kept, and wanted for training too
        axes = [
            (torch.arange(size // 2 if i == halved else size) + 0.5) / size
            for i, size in enumerate(sizes)
        ]
        return torch.cartesian_prod(*axes)


def frequencies(batch: GraphBatch, springs: Springs, masses: Tensor, mesh: Tensor) -> Tensor:
    """Frequencies of the modes of crystals of n atoms each, shape (B, Q, 3n), in cm^-1.

    Parameters
    ----------
    batch : GraphBatch
        Graphs with edge vectors.
    masses : Tensor, shape (N,)
        Of the atoms, in u.
    mesh : Tensor, shape (Q, 3)
        Wave vectors in units of the reciprocal vectors.
    """
    squares = torch.linalg.eigvalsh(dynamical_matrices(batch, springs, masses, mesh))
    return WAVENUMBER * squares.clamp_min(_SMALLEST).sqrt()


def dynamical_matrices(batch: GraphBatch, springs: Springs, masses: Tensor, mesh: Tensor) -> Tensor:
    """Dynamical matrices, complex and Hermitian, shape (B, Q, 3n, 3n), in N/m/u.

    Parameters are those of :func:`frequencies`.
    """
    assert batch.vector is not None
    assert batch.lattice is not None
    n, crystal = len(batch.atomic_numbers) // len(batch), batch.graph_index[batch.center]
    reciprocal = 2 * math.pi * torch.linalg.inv(batch.lattice).mT
    waves = (mesh.to(batch.vector) @ reciprocal)[crystal]
    phase = torch.einsum("eqx,ex->eq", waves, batch.vector)
    wave = torch.polar(torch.ones_like(phase), phase)[:, :, None, None]
    force = _force_constants(batch, springs)[:, None]
    mass_i, mass_j = (masses[end, None, None, None] for end in (batch.center, batch.neighbor))
    i, j = batch.center % n, batch.neighbor % n
    # Half of a Hermitian matrix, to which its conjugate transpose is added.
    half = wave.new_zeros(len(batch) * n * n, len(mesh), 3, 3)
    half = half.index_add(0, (crystal * n + i) * n + j, -force * wave / (mass_i * mass_j).sqrt())
    for end, mass in ((i, mass_i), (j, mass_j)):
        restoring = (0.5 * force / mass).expand_as(wave.expand(-1, -1, 3, 3)).to(wave.dtype)
        half = half.index_add(0, (crystal * n + end) * n + end, restoring)
    half = half.view(len(batch), n, n, len(mesh), 3, 3).permute(0, 3, 1, 4, 2, 5)
    half = half.reshape(len(batch), len(mesh), 3 * n, 3 * n)
    return half + half.mH


def _force_constants(batch: GraphBatch, springs: Springs) -> Tensor:
    """Half of the force-constant matrix of each edge, shape (E, 3, 3), in N/m."""
    assert batch.vector is not None
    direction = batch.vector / batch.distance[:, None]
    along = direction[:, :, None] * direction[:, None, :]
    longitudinal, transverse = (
        springs.longitudinal[:, None, None],
        springs.transverse[:, None, None],
    )
    return 0.5 * (longitudinal * along + transverse * (torch.eye(3).to(along) - along))


def smeared(frequency: Tensor, edges: Tensor, smearing: Tensor) -> Tensor:
    """Share of the modes of each crystal in each bin, shape (B, K').

    Parameters
    ----------
    frequency : Tensor, shape (B, ...)
        In cm^-1.
    edges : Tensor, shape (K' + 1,)
        Of the bins, in cm^-1.
    smearing : Tensor, scalar
        Scale of the logistic distribution that each mode becomes, in cm^-1.
    """
    below = torch.sigmoid((edges - frequency.flatten(1)[:, :, None]) / smearing)
    return below.mean(1).diff(dim=1)
