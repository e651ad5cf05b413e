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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.architectures.parts.eigenvalues import at_once, eigenvalues, padded_size
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
    longitudinal, transverse : Tensor, shape (..., E)
        Force constants along the edge and across it, in N/m; of several networks at once.
    """

    longitudinal: Tensor
    transverse: Tensor


@dataclass(frozen=True, eq=False)
class Waves:
    """Wave vectors of the crystals of a batch, those of each crystal together.

    Parameters
    ----------
    points : Tensor, shape (W, 3)
        In units of the reciprocal vectors.
    crystal : Tensor, shape (W,), int64
        That a wave is of, rising.
    counts : Tensor, shape (B,), int64
        Waves of each crystal.
    """

    points: Tensor
    crystal: Tensor
    counts: Tensor

    def of(self, crystals: Tensor) -> Waves:
        """Those of some crystals, which are numbered as before; the others have none.

        Parameters
        ----------
        crystals : Tensor, shape (B,), bool
        """
        some = crystals[self.crystal].nonzero().flatten()
        return Waves(self.points[some], self.crystal[some], self.counts * crystals)

    def each(self, crystal: Tensor) -> tuple[Tensor, Tensor]:
        """All pairs of an edge, or atom, and a wave of its crystal.

        Parameters
        ----------
        crystal : Tensor, shape (n,), int64
            Of each edge or atom.

        Returns
        -------
        edge, wave : Tensor, shape (P,), int64
        """
        counts = self.counts[crystal]
        edge = torch.arange(len(crystal), device=crystal.device).repeat_interleave(counts)
        first = (self.counts.cumsum(0) - self.counts)[crystal] - (counts.cumsum(0) - counts)
        return edge, torch.arange(len(edge), device=edge.device) + first[edge]


def waves_of(batch: GraphBatch, length: float) -> Waves:
    """A mesh of waves for each crystal: :func:`half_meshes` of suitable sizes.

    A mesh has a power of 2 of points along each reciprocal vector b, that next to
    ``length |b| / (2 pi)``: a cell that is doubled along some of its vectors has the same points.

    Parameters
    ----------
    batch : GraphBatch
    length : float
        About the size of the supercell that has the points of the mesh at Gamma, in Å.
    """
    assert batch.lattice is not None
    points = length * torch.linalg.inv(batch.lattice).norm(dim=1)
    return half_meshes(2 ** points.log2().round().clamp_min(0).long())


def half_meshes(sizes: Tensor) -> Waves:
    """Wave vectors (m + 1/2) / size.

    Gamma is not among them; of q and -q, which have the same frequencies, only one is.

    Parameters
    ----------
    sizes : Tensor, shape (B, 3), int64
        Points along each reciprocal vector, 1 or even.
    """
    first = torch.zeros_like(sizes).scatter(1, (sizes > 1).long().argmax(1, keepdim=True), 1)
    along = torch.where((first * sizes) > 1, sizes // 2, sizes)
    counts = along.prod(1)
    crystal = torch.arange(len(sizes), device=sizes.device).repeat_interleave(counts)
    place = torch.arange(len(crystal), device=sizes.device) - (counts.cumsum(0) - counts)[crystal]
    _, second, third = along[crystal].unbind(1)
    index = torch.stack([place // (second * third), place // third % second, place % third], 1)
    return Waves((index + 0.5) / sizes[crystal], crystal, counts)


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes of W waves.

    Parameters
    ----------
    frequency : Tensor, shape (..., W, 3n)
        In cm^-1.
    share : Tensor, shape (W, 3n)
        Of the crystal's modes; 0 of one that only fills up a matrix.
    crystal : Tensor, shape (W,), int64
    """

    frequency: Tensor
    share: Tensor
    crystal: Tensor


def modes(
    batch: GraphBatch,
    springs: Springs,
    masses: Tensor,
    waves: Waves,
    padded: Callable[[int, torch.device], int] = padded_size,
) -> Iterator[Modes]:
    """Modes of the crystals of a batch, those together whose matrices have one size.

    Parameters
    ----------
    batch : GraphBatch
        Graphs with edge vectors.
    springs : Springs
        Of the edges; of several networks at once, shape (..., E).
    masses : Tensor, shape (N,)
        Of the atoms, in u.
    waves : Waves
    padded : callable
        See :func:`models.architectures.parts.eigenvalues.padded_size`.
    """
    device, n_networks = batch.distance.device, springs.longitudinal[..., 0].numel()
    n_atoms, n_waves = torch.stack([batch.n_nodes, waves.counts]).tolist()
    sizes = [padded(n, device) for n in n_atoms]
    groups = list(at_once([3 * size for size in sizes], [n_networks * n for n in n_waves]))
    number_of = {crystal: number for number, group in enumerate(groups) for crystal in group}
    numbers = torch.tensor([number_of[crystal] for crystal in range(len(batch))], device=device)
    for number, group in enumerate(groups):
        size, some = sizes[group[0]], waves.of(numbers == number)
        matrices = dynamical_matrices(batch, springs, masses, some, size)
        n_modes = 3 * batch.n_nodes[some.crystal][:, None]
        if any(n_atoms[crystal] < size for crystal in group):
            squares = eigenvalues(matrices, 3 * size - n_modes[:, 0])
        else:
            squares = torch.linalg.eigvalsh(matrices)
        mode = torch.arange(3 * size, device=device)
        share = (mode >= 3 * size - n_modes) / (n_modes * some.counts[some.crystal][:, None])
        frequency = WAVENUMBER * squares.clamp_min(_SMALLEST).sqrt()
        yield Modes(frequency, share.to(frequency), some.crystal)


def dynamical_matrices(
    batch: GraphBatch, springs: Springs, masses: Tensor, waves: Waves, size: int
) -> Tensor:
    """Dynamical matrices, complex and Hermitian, shape (..., W, 3 size, 3 size), in N/m/u.

    Parameters
    ----------
    batch : GraphBatch
    springs : Springs
    masses : Tensor, shape (N,)
    waves : Waves
        Of crystals of at most `size` atoms.
    size : int
        Rows and columns of atoms that a crystal does not have are 0.
    """
    assert batch.vector is not None
    assert batch.lattice is not None
    graph, device = batch.graph_index, batch.distance.device
    place = (
        torch.arange(len(graph), device=device) - (batch.n_nodes.cumsum(0) - batch.n_nodes)[graph]
    )
    tied = (springs.longitudinal > 0).reshape(-1, len(batch.center)).any(0)
    edges = (tied & (waves.counts[graph[batch.center]] > 0)).nonzero().flatten()
    atoms = (waves.counts[graph] > 0).nonzero().flatten()
    center, neighbor = batch.center[edges], batch.neighbor[edges]
    force, vectors = _force_constants(batch, springs, edges), batch.vector[edges]

    # Half of a Hermitian matrix, to which its conjugate transpose is added.
    own = force.new_zeros(*force.shape[:-3], len(graph), 3, 3)
    for end in (center, neighbor):
        own = own.index_add(-3, end, 0.5 * force / masses[end, None, None])
    between = -force / (masses[center] * masses[neighbor]).sqrt()[:, None, None]

    reciprocal = 2 * math.pi * torch.linalg.inv(batch.lattice).mT
    vector = torch.einsum("wi,wix->wx", waves.points.to(vectors), reciprocal[waves.crystal])
    edge, wave = waves.each(graph[center])
    phase = (vector[wave] * vectors[edge]).sum(1)
    factor = torch.polar(torch.ones_like(phase), phase)[:, None, None]
    half = factor.new_zeros(*force.shape[:-3], len(waves.points) * size**2, 3, 3)
    block = (wave * size + place[center][edge]) * size + place[neighbor][edge]
    half = half.index_add(-3, block, between.index_select(-3, edge) * factor)
    atom, wave = waves.each(graph[atoms])
    atom = atoms[atom]
    block = (wave * size + place[atom]) * size + place[atom]
    half = half.index_add(-3, block, own.index_select(-3, atom).to(half.dtype))
    half = half.unflatten(-3, (len(waves.points), size, size)).transpose(-3, -2)
    half = half.reshape(*force.shape[:-3], len(waves.points), 3 * size, 3 * size)
    return half + half.mH


def _force_constants(batch: GraphBatch, springs: Springs, edges: Tensor) -> Tensor:
    """Half of the force-constant matrix of some edges, shape (..., len(edges), 3, 3), in N/m."""
    assert batch.vector is not None
    direction = batch.vector[edges] / batch.distance[edges, None]
    along = direction[:, :, None] * direction[:, None, :]
    longitudinal, transverse = (
        k[..., edges, None, None] for k in (springs.longitudinal, springs.transverse)
    )
    return 0.5 * (longitudinal * along + transverse * (torch.eye(3).to(along) - along))


def smeared(modes: Modes, n_crystals: int, edges: Tensor, smearing: Tensor) -> Tensor:
    """Share of the modes of each crystal in each bin, shape (..., B, K').

    Parameters
    ----------
    modes : Modes
    n_crystals : int
        B; crystals without modes here have 0.
    edges : Tensor, shape (K' + 1,)
        Of the bins, in cm^-1.
    smearing : Tensor, shape (...)
        Scale of the logistic distribution that each mode becomes, in cm^-1.
    """
    apart = edges - modes.frequency[..., None]
    inside = torch.sigmoid(apart / smearing[..., None, None, None]).diff(dim=-1)
    of_waves = (modes.share[:, None] @ inside).squeeze(-2).clamp_min(0)
    empty = of_waves.new_zeros(*of_waves.shape[:-2], n_crystals, of_waves.shape[-1])
    return empty.index_add(-2, modes.crystal, of_waves)
