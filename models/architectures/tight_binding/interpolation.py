"""Spectra for predictions: few wave vectors are diagonalised, the levels between interpolated.

Levels on an even mesh around Gamma are those of the band edges too, as far as these are at Gamma
or at the boundary of the zone; of a hexagonal one K and H are added, where bands meet in graphene
and edges are in MoS2. Each band, counted from below, is interpolated by cubic convolution
(R. G. Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981)), which keeps computed
levels and is exact for parabolas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.architectures.tight_binding.bands import Integrals, halves, levels, states_below
from models.architectures.tight_binding.derivatives import orthogonalized
from models.architectures.tight_binding.slater_koster import N_ORBITALS
from models.architectures.tight_binding.symmetry import ReducedMesh

_CHUNK = 4_000_000  # elements of the matrices that are in memory at once
_MOST = 64_000_000  # elements of the matrices of all cells; above, the bonds are summed up directly
_STEPS = 4  # in a bin of the grid: levels are counted by such steps before they are broadened


@dataclass(frozen=True, eq=False)
class Sample:
    """Where levels of a crystal are computed, and where they are interpolated.

    Parameters
    ----------
    integrals : Integrals
        Of which only the numbers are not used: they are another network's.
    places : ndarray, shape (n, 3)
        Fractional coordinates of the atoms, see
        :func:`models.architectures.tight_binding.symmetry.sites`.
    mesh : ReducedMesh
    fine : tuple of int
        Sizes of the finer mesh, the first one even.
    """

    integrals: Integrals
    places: np.ndarray
    mesh: ReducedMesh
    fine: tuple[int, int, int]

    @classmethod
    def of(
        cls, integrals: Integrals, places: np.ndarray, mesh: ReducedMesh, fine: tuple[int, int, int]
    ) -> Sample:
        """With a finer mesh that is at least as fine, and half of which stands for all of it.

        Parameters
        ----------
        integrals, places, mesh
            See :class:`Sample`.
        fine : tuple of int
            Sizes of the finer mesh.
        """
        n1, n2, n3 = (max(both) for both in zip(fine, mesh.sizes, strict=True))
        return cls(integrals, places, mesh, (n1 + n1 % 2, n2, n3))

    @cached_property
    def by_cell(self) -> _ByCell:
        """Where the numbers go if Hamiltonians are summed up cell by cell, as on a CPU."""
        return _by_cell(self.integrals, self.places)

    @property
    def weights(self) -> Tensor:
        """Of the wave vectors of :func:`interpolated`; the computed ones count 0."""
        n_fine, n_computed = math.prod(self.fine) // 2, len(self.mesh.points)
        return torch.cat([torch.full((n_fine,), 1 / n_fine), torch.zeros(n_computed)])


def even_sizes(sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """The even numbers next to the sizes of a mesh, and at least 2.

    Examples
    --------
    >>> even_sizes((1, 3, 7))
    (2, 4, 8)
    """
    n1, n2, n3 = (2 * max(1, math.floor(n / 2 + 0.5)) for n in sizes)
    return n1, n2, n3


def computed(integrals: Integrals, sample: Sample) -> Tensor:
    """Levels where they are computed but for the flat ones, rising, shape (Q, M), in eV.

    The phases count lattice vectors only, so that Hamiltonians are real where exp(ikR) is.

    Parameters
    ----------
    integrals : Integrals
    sample : Sample
    """
    mesh, size, (cells, place) = sample.mesh, len(integrals.orbitals), sample.by_cell
    if len(cells) * size**2 > _MOST:
        return levels(replace(integrals, flat=integrals.flat[:0]), mesh.points.to(integrals.steps))
    parts = []
    for of_bonds in halves(integrals):
        summed = of_bonds.new_zeros(len(cells) * size**2 + 1).index_add_(
            0, place, of_bonds.flatten()
        )
        parts.append(summed[:-1].view(-1, size, size))
    angles = 2 * math.pi * (mesh.points @ cells.float().T).to(parts[0])
    real, rest = angles[: mesh.n_real], angles[mesh.n_real :]
    at_once = max(1, _CHUNK // size**2)
    even = [(part + part.mT).flatten(1) for part in parts]
    energies = [
        torch.linalg.eigvalsh(
            orthogonalized(*((some.cos() @ e).view(-1, size, size) for e in even))
        )
        for some in real.split(at_once)
    ]
    if len(rest):
        odd = [(part - part.mT).flatten(1) for part in parts]
        for some in rest.split(at_once):
            matrices = (
                torch.complex(some.cos() @ e, some.sin() @ o).view(-1, size, size)
                for e, o in zip(even, odd, strict=True)
            )
            energies.append(torch.linalg.eigvalsh(orthogonalized(*matrices)))
    return torch.cat(energies)


class _ByCell(NamedTuple):
    """Hamiltonians of lattice vectors that atoms are bound across.

    Parameters
    ----------
    cells : Tensor, shape (C, 3), int64
        These lattice vectors, of two opposite ones one.
    place : Tensor, shape (B,), int64
        Where the numbers of onsite and hopping blocks go in the Hamiltonians (C, M, M) of the
        cells, C M M for orbitals that there are not.
    """

    cells: Tensor
    place: Tensor


def _by_cell(integrals: Integrals, places: np.ndarray) -> _ByCell:
    n, size = len(integrals.onsite), len(integrals.orbitals)
    positions = torch.from_numpy(places).to(integrals.steps)
    center, neighbor = integrals.center, integrals.neighbor
    cells = (integrals.steps + positions[center] - positions[neighbor]).round().long()
    own = torch.arange(n, device=center.device)
    # Not a matrix product: a GPU has none of integers.
    code = (cells * cells.new_tensor([1 << 32, 1 << 16, 1])).sum(1)
    backward = torch.cat([own < 0, code < 0])  # the first number that is not 0 is negative
    _, kind = torch.cat([0 * own, code.abs()]).unique(return_inverse=True)
    unique = cells.new_zeros(int(kind.max()) + 1, 3).index_copy(
        0, kind[n:], cells * code.sign()[:, None]
    )
    orbital = own.new_full((n * N_ORBITALS,), -1)
    orbital[integrals.orbitals] = torch.arange(size, device=own.device)
    rows = orbital.view(n, N_ORBITALS)[torch.cat([own, center])][:, :, None]
    columns = orbital.view(n, N_ORBITALS)[torch.cat([own, neighbor])][:, None, :]
    inside = torch.where(backward[:, None, None], columns * size + rows, rows * size + columns)
    place = kind[:, None, None] * size**2 + inside
    missing = len(unique) * size**2
    return _ByCell(unique, place.masked_fill((rows < 0) | (columns < 0), missing).flatten())


def interpolated(values: Tensor, sample: Sample) -> Tensor:
    """Values on the finer mesh (m + 1/2) / size, of k and -k one, then as they are.

    Parameters
    ----------
    values : Tensor, shape (Q, ...)
        Where they are computed: levels, or what each has of something.

    Returns
    -------
    Tensor, shape (n1 n2 n3 / 2 + Q, ...)
    """
    mesh, sizes = sample.mesh, sample.fine
    n1, n2, n3 = mesh.sizes
    along = [_cubic(n, fine).to(values) for n, fine in zip(mesh.sizes, sizes, strict=True)]
    along[0] = along[0][: sizes[0] // 2]
    whole = values.index_select(0, mesh.point.to(values.device)).reshape(n1, n2 * n3, -1)
    whole = torch.tensordot(along[0], whole, 1).view(len(along[0]), n2, -1)
    whole = (along[1] @ whole).view(len(along[0]) * sizes[1], n3, -1)
    return torch.cat([(along[2] @ whole).reshape(-1, *values.shape[1:]), values])


@cache
def _cubic(n: int, n_fine: int) -> Tensor:
    """Weights of n points around a circle at (m + 1/2) / n_fine, shape (n_fine, n)."""
    position = (np.arange(n_fine) + 0.5) * n / n_fine
    weights = np.zeros((n_fine, n))
    for step in (-1, 0, 1, 2):
        nearby = np.floor(position).astype(int) + step
        d = np.abs(position - nearby)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        np.add.at(weights, (np.arange(n_fine), nearby % n), np.where(d < 1, near, far))
    with torch.inference_mode(False):  # kept
        return torch.from_numpy(weights).float()


@dataclass(frozen=True, eq=False)
class Smearing:
    """Integrated density of states of many levels, which are counted by small steps first.

    A level between two steps counts for both, so that the mean energy stays.

    Parameters
    ----------
    start, width : float
        The first step and the distance between them, in eV.
    below : Tensor, shape (K, S)
        What a level at each step has below each energy.
    """

    start: float
    width: float
    below: Tensor

    @classmethod
    def of(cls, energies: Tensor, log_width: Tensor, beyond: float) -> Smearing:
        """Of levels in a range.

        Parameters
        ----------
        energies : Tensor, shape (K,)
            Equally spaced, in eV, relative to the band edges.
        log_width : Tensor, shape (3,)
            See :func:`models.architectures.tight_binding.bands.states_below`.
        beyond : float
            By how much levels may be out of the range of the energies, in eV.
        """
        width = float(energies[1] - energies[0]) / _STEPS
        n = math.ceil(float(energies[-1] - energies[0] + 2 * beyond) / width) + 1
        start = float(energies[0]) - beyond
        steps = start + width * torch.arange(n).to(energies)
        return cls(
            start, width, states_below(steps, torch.eye(n).to(energies), energies, log_width)
        )

    def states_below(self, levels: Tensor, counts: Tensor) -> Tensor:
        """As :func:`models.architectures.tight_binding.bands.states_below`, (K,) or (K, P).

        Parameters
        ----------
        levels : Tensor, shape (L,)
            In eV; those out of the range do not count.
        counts : Tensor, shape (L,) or (L, P)
        """
        position = (levels - self.start) / self.width
        inside = ((position >= 0) & (position < self.below.shape[1] - 1)).nonzero().flatten()
        position, counts = position[inside], counts[inside]
        step = position.floor()
        share = (position - step).view(-1, *[1] * (counts.dim() - 1))
        total = counts.new_zeros(self.below.shape[1], *counts.shape[1:])
        total.index_add_(0, step.long(), counts * (1 - share))
        total.index_add_(0, step.long() + 1, counts * share)
        return self.below @ total
