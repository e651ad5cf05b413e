"""From integrals to spectra: Hamiltonians on a mesh, levels, their filling, and their density.

The levels of orthogonal orbitals at a wave vector k are the eigenvalues of

    H_ab(k) = delta_ab eps_a + sum over bonds of exp(i k r) V_ab(r),

r from the atom of orbital a to that of b (J. C. Slater and G. F. Koster, Phys. Rev. 94, 1498
(1954)). Those of orbitals that overlap by S are the eigenvalues of A H A with A = S^(-1/2) (P.-O.
Löwdin, J. Chem. Phys. 18, 365 (1950)). Not S is learned but what is left of A without 1, which
to first order is half of the overlap of neighbours, with the other sign:

    A_ab(k) = delta_ab + sum over bonds of exp(i k r) X_ab(r).

So antibonding levels rise by more than bonding ones fall, second neighbours interact, and there are
levels whatever X is. Every level holds two electrons; the number of electrons decides how far they
are filled, so where the band edges or the Fermi level are is not learned. All of it can be
differentiated by the integrals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.architectures.parts.eigenvalues import at_once, eigenvalues, padded_size
from models.architectures.tight_binding.derivatives import (
    BlochSum,
    levels_of,
    orthogonalized,
    share_below,
    smeared,
)
from models.spectra.electronic_structure import SMALLEST_GAP

FERMI_WIDTH = 0.05  # eV of the Fermi distribution that finds the Fermi level of a metal
_EDGE_POINTS = np.stack(np.meshgrid(*[[0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
_CHUNK = 6_000_000  # elements of the matrices that are diagonalised at once
_EXACT = 1e-11  # eV
_TAIL = 40 * FERMI_WIDTH  # eV beyond which a level is full or empty
_NEAR = 10 * FERMI_WIDTH  # eV; so near to that of full and empty levels the Fermi level mostly is
_SLACK = 1e-9  # electrons


@dataclass(frozen=True, eq=False)
class Mesh:
    """Wave vectors and what they count.

    Parameters
    ----------
    points : Tensor, shape (Q, 3)
        In units of the reciprocal vectors.
    weights : Tensor, shape (Q,)
        With the sum 1; 0 for points where only band edges are looked for.
    """

    points: Tensor
    weights: Tensor

    def to(self, other: Tensor) -> Mesh:
        """On the device and with the precision of another tensor."""
        return Mesh(self.points.to(other), self.weights.to(other))


def mesh_sizes(lattice: np.ndarray, length: float) -> tuple[int, int, int]:
    """Points along each reciprocal vector b: that next to ``length |b| / (2 pi)``.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3)
        Lattice vectors as rows, in Å.
    length : float
        About the size of the supercell that has the points of the mesh at Gamma, in Å.
    """
    spacing = np.linalg.norm(np.linalg.inv(lattice.astype(float)), axis=0)
    n1, n2, n3 = np.maximum(1, np.rint(length * spacing)).astype(int).tolist()
    return n1, n2, n3


def shifted_mesh(
    sizes: tuple[int, ...], shift: np.ndarray | None = None, edges: bool = True
) -> Mesh:
    """Mesh (m + shift) / size.

    Parameters
    ----------
    shift : ndarray, shape (3,), optional
        Half a step without one, and of k and -k, which have the same levels, only one then.
    edges : bool
        Add Gamma and the seven points like it, where band edges often are; they count 0.
    """
    index = mesh_indices(sizes)
    points = (index + (0.5 if shift is None else shift)) / np.array(sizes)
    weights = np.full(len(points), 1 / len(points))
    if shift is None:
        opposite = np.ravel_multi_index(tuple((np.array(sizes) - 1 - index).T), sizes)
        first, counts = np.unique(np.minimum(np.arange(len(points)), opposite), return_counts=True)
        points, weights = points[first], counts / counts.sum()
    if edges:
        points = np.concatenate([points, _EDGE_POINTS])
        weights = np.concatenate([weights, np.zeros(len(_EDGE_POINTS))])
    return Mesh(torch.from_numpy(points).float(), torch.from_numpy(weights).float())


@lru_cache(maxsize=256)
def mesh_indices(sizes: tuple[int, ...]) -> np.ndarray:
    """Of the points of a mesh, shape (Q, 3); kept, not to be changed."""
    return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Integrals:
    """Hamiltonian of one crystal of n atoms in real space, in eV.

    Parameters
    ----------
    onsite : Tensor, shape (n, 10, 10)
        Half of what the atoms' own orbitals have; the conjugate transpose is added.
    hopping : Tensor, shape (E, 10, 10)
        Half of what each bond adds, a row for an orbital of its centre.
    center, neighbor : Tensor, shape (E,), int64
    steps : Tensor, shape (E, 3)
        From centre to neighbour, in units of the lattice vectors.
    orbitals : Tensor, shape (M,), int64
        Which of the 10 n orbitals there are.
    flat : Tensor, shape (F,)
        Levels that are the same at every wave vector.
    mixing : Tensor, shape (E, 10, 10), optional
        Half of what each bond adds to A, without a unit; None if orbitals do not overlap.
    """

    onsite: Tensor
    hopping: Tensor
    center: Tensor
    neighbor: Tensor
    steps: Tensor
    orbitals: Tensor
    flat: Tensor
    mixing: Tensor | None = None


def hamiltonians(integrals: Integrals, points: Tensor) -> Tensor:
    """Hamiltonians at some wave vectors, complex and Hermitian, shape (Q, M, M), in eV.

    Those of orbitals that overlap are A H A.

    Parameters
    ----------
    points : Tensor, shape (Q, 3)
        In units of the reciprocal vectors.
    """
    bonds = _bloch_sum(integrals)
    phases = bonds.phases(points)
    return orthogonalized(*(bonds.matrices(part, phases) for part in halves(integrals)))


def halves(integrals: Integrals) -> list[Tensor]:
    """What each atom and bond adds to half of H, and of A if orbitals overlap, (n + E, 100)."""
    parts = [torch.cat([integrals.onsite, integrals.hopping]).flatten(1)]
    if integrals.mixing is not None:
        own = torch.zeros_like(integrals.onsite)
        parts.append(torch.cat([own, integrals.mixing]).flatten(1))
    return parts


def _bloch_sum(integrals: Integrals) -> BlochSum:
    """Of an atom's own orbitals, as if it were bound to itself, and of the bonds."""
    n = len(integrals.onsite)
    own = torch.arange(n, device=integrals.center.device)
    center, neighbor = (torch.cat([own, ends]) for ends in (integrals.center, integrals.neighbor))
    steps = torch.cat([integrals.steps.new_zeros(n, 3), integrals.steps])
    return BlochSum.of(n, center, neighbor, steps, integrals.orbitals)


def levels(integrals: Integrals, points: Tensor) -> Tensor:
    """Levels at some wave vectors, rising, shape (Q, M + F), in eV.

    Parameters
    ----------
    integrals : Integrals
    points : Tensor, shape (Q, 3)
        In units of the reciprocal vectors.
    """
    bonds, of_bonds = _bloch_sum(integrals), halves(integrals)
    parts = [levels_of(bonds, some, *of_bonds) for some in _chunks(integrals, points)]
    return with_flat(torch.cat(parts), integrals)


def levels_together(
    crystals: Sequence[Integrals],
    points: Sequence[Tensor],
    padded: Callable[[int, torch.device], int] = padded_size,
) -> list[Tensor]:
    """Levels of each crystal, as :func:`levels`; those of equal size are diagonalised at once.

    For GPUs, since many matrices are in memory together.

    Parameters
    ----------
    crystals : sequence of Integrals
    points : sequence of Tensor, shape (Q, 3)
        Wave vectors of each.
    padded : callable
        See :func:`models.architectures.parts.eigenvalues.padded_size`.
    """
    sizes = [padded(len(c.orbitals), c.onsite.device) for c in crystals]
    found: dict[int, Tensor] = {}
    for some in at_once(sizes, [len(p) for p in points]):
        more = [sizes[i] - len(crystals[i].orbitals) for i in some]
        matrices = torch.cat(
            [
                F.pad(hamiltonians(crystals[i], points[i]), (0, n, 0, n))
                for i, n in zip(some, more, strict=True)
            ]
        )
        n_points = [len(points[i]) for i in some]
        missing = torch.tensor(np.repeat(more, n_points), device=matrices.device)
        bands = eigenvalues(matrices, missing).split(n_points)
        for i, n, own in zip(some, more, bands, strict=True):
            found[i] = with_flat(own[:, n:], crystals[i])
    return [found[i] for i in range(len(crystals))]


def with_flat(bands: Tensor, integrals: Integrals) -> Tensor:
    """Bands and the levels that are the same everywhere, rising, shape (Q, M + F).

    Parameters
    ----------
    bands : Tensor, shape (Q, M)
        Rising, in eV.
    integrals : Integrals
    """
    if not len(integrals.flat):
        return bands
    flat = integrals.flat.expand(len(bands), -1)
    return torch.cat([bands, flat], dim=1).sort(dim=1).values


def projected_levels(integrals: Integrals, points: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Levels at some wave vectors, and what share of each lies on each group of orbitals.

    Parameters
    ----------
    points : Tensor, shape (Q, 3)
    groups : Tensor, shape (M + F,), int64
        Group of each orbital, those of the flat levels last; there are P of them.

    Returns
    -------
    Tensor, shape (Q, M + F)
        Levels in eV, rising.
    Tensor, shape (Q, M + F, P)
        Shares with the sum 1 over the groups.
    """
    indicator = torch.nn.functional.one_hot(groups).to(integrals.onsite)
    bonding, flat = indicator.split([len(integrals.orbitals), len(integrals.flat)])
    energies, shares = [], []
    for some in _chunks(integrals, points):
        values, vectors = torch.linalg.eigh(hamiltonians(integrals, some))
        energies.append(torch.cat([values, integrals.flat.expand(len(some), -1)], dim=1))
        share = vectors.abs().square().mT @ bonding
        shares.append(torch.cat([share, flat.expand(len(some), -1, -1)], dim=1))
    levels, order = torch.cat(energies).sort(dim=1)
    return levels, torch.cat(shares).take_along_dim(order[:, :, None], dim=1)


def _chunks(integrals: Integrals, points: Tensor) -> tuple[Tensor, ...]:
    """Wave vectors whose matrices fit the memory together."""
    return points.split(max(1, _CHUNK // len(integrals.orbitals) ** 2))


@dataclass(frozen=True, eq=False)
class Edges:
    """Where the filled levels end and the empty ones begin.

    Parameters
    ----------
    vbm, cbm : Tensor, scalar
        Band edges in eV; both the Fermi level in a metal.
    filled : int or None
        Filled bands of an insulator, None for a metal.
    """

    vbm: Tensor
    cbm: Tensor
    filled: int | None

    @property
    def gap(self) -> Tensor:
        """Band gap in eV, scalar; 0 in a metal."""
        return self.cbm - self.vbm

    @property
    def fermi_level(self) -> Tensor:
        """In eV, scalar: the middle of the gap in an insulator."""
        return (self.cbm + self.vbm) / 2


@dataclass(frozen=True, eq=False)
class Bands:
    """Levels of one crystal and how they are filled.

    Parameters
    ----------
    levels : Tensor, shape (Q, M)
        In eV, rising; relative to the vacuum as far as the free atoms' levels are.
    mesh : Mesh
        The Q wave vectors.
    edges : Edges
    """

    levels: Tensor
    mesh: Mesh
    edges: Edges


def fill(levels: Tensor, weights: Tensor, electrons: float, insulator: bool | None = None) -> Edges:
    """Fill the levels with electrons, two in each.

    A crystal is an insulator if its electrons fill whole bands, below a gap of at least
    `SMALLEST_GAP`; an odd number never does.

    Parameters
    ----------
    levels : Tensor, shape (Q, M)
        Rising, in eV.
    weights : Tensor, shape (Q,)
        Of the wave vectors, see :class:`Mesh`.
    electrons : float
        In the cell.
    insulator : bool, optional
        What the crystal is, where that is known; an insulator's edges may overlap then.
    """
    pairs = electrons / 2
    filled = round(pairs)
    if abs(pairs - filled) < 0.01 and 0 < filled < levels.shape[1]:
        vbm, cbm = levels[:, filled - 1].max(), levels[:, filled].min()
        if insulator or (insulator is None and (cbm - vbm).item() > SMALLEST_GAP):
            return Edges(vbm, cbm, filled)
    fermi = fermi_level(levels, weights, electrons)
    return Edges(fermi, fermi, None)


def fermi_level(levels: Tensor, weights: Tensor, electrons: float) -> Tensor:
    """Energy up to which the levels hold the electrons, scalar, in eV.

    The levels are filled by a Fermi distribution of the width `FERMI_WIDTH`. Where that leaves a
    range open, because all levels are filled or empty, it is the middle of it. Its derivative
    follows from the number of electrons, which does not change: each level moves the Fermi level
    by its share of the density of states there.

    Parameters
    ----------
    levels : Tensor, shape (Q, M)
        Rising, in eV.
    weights : Tensor, shape (Q,)
        Of the wave vectors, with the sum 1.
    electrons : float
        Two fill a level.
    """
    # On the host: a GPU would be waited for in each of the steps.
    bands = levels.detach().cpu().numpy().astype(float)
    weight = weights.cpu().numpy().astype(float)
    weight /= weight.sum()
    least, most = electrons - _SLACK, electrons + _SLACK
    for start, end in _ranges(bands, weight, electrons):
        filling = _Filling.of(bands, weight, start, end)
        if filling.fewest < least and filling.most > most:
            break
    energy = filling.reached(least)
    if filling.electrons(energy + FERMI_WIDTH) < most:  # nothing there: a range is open
        energy = (energy + filling.reached(most)) / 2
    fermi = levels.new_tensor(energy)
    if not levels.requires_grad:
        return fermi
    share = np.full(bands.shape, 1e-9)
    share[filling.some] += (1 - filling.tanh(energy) ** 2) / 4
    share *= weight[:, None]
    moved = (torch.from_numpy(share / share.sum()).to(levels) * levels).sum()
    return fermi + (moved - moved.detach())


def _ranges(
    bands: np.ndarray, weight: np.ndarray, electrons: float
) -> Iterator[tuple[float, float]]:
    """Ranges for the Fermi level in eV: a likely one, and one that has it if any has."""
    last = bands.shape[1] - 1
    start = float(bands[:, max(0, min(int(electrons / 2) - 1, last))].min()) - _TAIL
    end = float(bands[:, min(math.ceil(electrons / 2), last)].max()) + _TAIL
    low, high = start, end
    while high - low > FERMI_WIDTH:  # where levels that are full or empty hold the electrons
        middle = (low + high) / 2
        if 2 * weight @ (bands < middle).sum(1) < electrons:
            low = middle
        else:
            high = middle
    yield low - _NEAR, high + _NEAR
    yield start, end


@dataclass(frozen=True, eq=False)
class _Filling:
    """Levels that may be partly filled while the Fermi level is in some range.

    Parameters
    ----------
    start, end : float
        The range in eV.
    some : ndarray, shape (Q, M), bool
        Which levels these are.
    scaled : ndarray, shape (L,)
        They, over twice the width of the Fermi distribution.
    weight : ndarray, shape (L,)
    sure : float
        Electrons if each of them holds one, as at its own energy.
    """

    start: float
    end: float
    some: np.ndarray
    scaled: np.ndarray
    weight: np.ndarray
    sure: float

    @classmethod
    def of(cls, bands: np.ndarray, weight: np.ndarray, start: float, end: float) -> _Filling:
        """With the Fermi level from `start` to `end`, in eV."""
        below = bands <= start - _TAIL
        some = ~below & (bands < end + _TAIL)
        weight_of_each = np.broadcast_to(weight[:, None], bands.shape)[some]
        sure = 2 * float(weight @ below.sum(1)) + float(weight_of_each.sum())
        return cls(start, end, some, bands[some] / (2 * FERMI_WIDTH), weight_of_each, sure)

    @cached_property
    def fewest(self) -> float:
        """Electrons with the Fermi level at the start of the range."""
        return self.electrons(self.start)

    @cached_property
    def most(self) -> float:
        """Electrons with the Fermi level at the end of the range."""
        return self.electrons(self.end)

    def tanh(self, energy: float) -> np.ndarray:
        """Of each level, -1 where it is empty and 1 where it is full."""
        return np.tanh(energy / (2 * FERMI_WIDTH) - self.scaled)

    def electrons(self, energy: float) -> float:
        """In all levels, with the Fermi level at an energy in eV."""
        return self.sure + float(self.weight @ self.tanh(energy))

    def reached(self, number: float) -> float:
        """Fermi level of so many electrons; an end of the range if it is not in there."""
        if self.fewest >= number:
            return self.start
        if self.most < number:
            return self.end
        from scipy.optimize import brentq

        def beyond(energy: float) -> float:
            return self.electrons(energy) - number

        return float(brentq(beyond, self.start, self.end, xtol=_EXACT))


def from_edges(levels: Tensor, edges: Edges) -> Tensor:
    """Levels relative to the VBM if they are filled, else to the CBM; the gap is gone.

    Parameters
    ----------
    levels : Tensor, shape (Q, M)
        In eV.
    edges : Edges
    """
    if edges.filled is None:
        return levels - edges.vbm
    empty = levels.shape[1] - edges.filled
    return levels - torch.cat([edges.vbm.expand(edges.filled), edges.cbm.expand(empty)])


def states_below(levels: Tensor, counts: Tensor, energies: Tensor, log_width: Tensor) -> Tensor:
    """Integrated density of states at some energies, shape (K,) or (K, P).

    Each level is a logistic distribution; its scale may change with its energy.

    Parameters
    ----------
    levels : Tensor, shape (L,)
        In eV, relative to the band edges.
    counts : Tensor, shape (L,) or (L, P)
        States that each level stands for, or of P kinds.
    energies : Tensor, shape (K,)
        In eV.
    log_width : Tensor, shape (3,)
        Logarithm of the scale in eV at 0, and what it gains to 4 eV below and above that.
    """
    share, _ = share_below(levels, energies.to(levels), log_width.to(levels))
    return share @ counts


def states_of(
    crystals: Sequence[tuple[Tensor, Tensor]],
    energies: Tensor,
    log_width: Tensor,
    between: tuple[float, float],
) -> Tensor:
    """Integrated density of states of B crystals, shape (B, K); may be differentiated.

    Parameters
    ----------
    crystals : sequence of (Tensor, Tensor)
        Levels (Q, M) of each, in eV, and the weights (Q,) of its wave vectors.
    energies : Tensor, shape (K,)
        In eV.
    log_width : Tensor, shape (3,)
        See :func:`states_below`.
    between : tuple of float
        Only levels between these energies are counted.
    """
    levels = torch.cat([own.flatten() for own, _ in crystals])
    counts = [(2 * weights[:, None]).expand_as(own).flatten() for own, weights in crystals]
    states = torch.cat(counts)
    some = ((levels > between[0]) & (levels < between[1]) & (states > 0)).nonzero().flatten()
    ends = torch.tensor([len(own) for own in counts]).cumsum(0).to(some.device)
    until = torch.searchsorted(some, ends).tolist()
    sizes = [end - start for start, end in zip([0, *until], until, strict=False)]
    levels, states = levels.index_select(0, some), states.index_select(0, some)
    return smeared(levels, states, energies, log_width, sizes)
