"""Which wave vectors of a mesh have the same levels, by the symmetry of a crystal.

The point group is not spglib's, which finds out much more: of 240 structures of the Materials
Project, whose rotations were the same, it took 10.3, 1.5, 0.6 and 0.9 ms (1 to 4, 5 to 10, 11 to 20
and 21 to 60 atoms), this 0.3, 0.3, 0.3 and 0.9, and a whole prediction takes 9 to 60.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from models.architectures.tight_binding.bands import mesh_indices
from models.graphs.graph import GraphBatch

SYMPREC = 1e-3  # Å
_VECTORS = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
_AT_ONCE = 300_000  # distances
_HEXAGONAL = 0.01  # by which lengths (relative) and cosines may be off
IDENTITY = np.eye(3, dtype=int)[None]
"""The rotations of a crystal without symmetry."""


@dataclass(frozen=True, eq=False)
class ReducedMesh:
    """Mesh of wave vectors m / size, those with the same levels taken once, and some beside it.

    Parameters
    ----------
    sizes : tuple of int
        Points along each reciprocal vector.
    points : Tensor, shape (Q, 3)
        In units of the reciprocal vectors; first those that equal their opposites, last those
        that are not of the mesh.
    n_real : int
        How many these are: Gamma and points like it, where a Hamiltonian can be real.
    point : Tensor, shape (N,), int64
        Which of the Q has the levels of each of the N points of the mesh.
    """

    sizes: tuple[int, int, int]
    points: Tensor
    n_real: int
    point: Tensor


def reduced_mesh(
    sizes: tuple[int, int, int], rotations: np.ndarray, beside: np.ndarray | None = None
) -> ReducedMesh:
    """The points of a mesh that neither a rotation nor k -> -k turns into another.

    Parameters
    ----------
    sizes : tuple of int
        Rotations that do not map the mesh onto itself are not used.
    rotations : ndarray, shape (R, 3, 3), int
        A group, for columns of fractional coordinates; see :func:`point_group`.
    beside : ndarray, shape (n, 3), optional
        Points that are not of the mesh; none of them equals its opposite.

    Examples
    --------
    >>> len(reduced_mesh((4, 4, 4), IDENTITY).points)
    36
    """
    mesh = _reduced(sizes, np.ascontiguousarray(rotations, dtype=np.int8).tobytes())
    if beside is None or not len(beside):
        return mesh
    return replace(mesh, points=torch.cat([mesh.points, torch.from_numpy(beside).float()]))


@lru_cache(maxsize=512)  # small cells of high symmetry are many, and of few kinds
def _reduced(sizes: tuple[int, int, int], packed: bytes) -> ReducedMesh:
    size = np.array(sizes)
    rotations = np.frombuffer(packed, np.int8).reshape(-1, 3, 3).astype(int)
    both = np.unique(np.concatenate([rotations, -rotations]), axis=0)
    turned, left_over = np.divmod(both * size, size[:, None])  # of m / size, a row
    turned = turned[(left_over == 0).all((1, 2))]
    index = mesh_indices(sizes)
    images = (index.astype(float) @ turned.astype(float)).astype(int) % size
    same = np.ravel_multi_index(tuple(np.moveaxis(images, -1, 0)), sizes).min(0)
    first, point = np.unique(same, return_inverse=True)
    real = (2 * index[first] % size == 0).all(1)
    order = np.argsort(~real, kind="stable")
    with torch.inference_mode(False):  # kept
        return ReducedMesh(
            sizes,
            torch.from_numpy(index[first[order]] / size).float(),
            int(real.sum()),
            torch.from_numpy(np.argsort(order)[point]),
        )


def in_reduced_cells(batch: GraphBatch) -> GraphBatch:
    """The same crystals, each with Niggli's vectors of its lattice.

    A mesh of wave vectors follows the vectors of a cell: with those of a skewed one it has many
    times the points, and other ones. Niggli's are the same whatever cell is given.

    Parameters
    ----------
    batch : GraphBatch

    References
    ----------
    I. Krivy and B. Gruber, Acta Cryst. A 32, 297 (1976).
    """
    if batch.lattice is None:
        return batch
    reduced = np.stack([_niggli(lattice) for lattice in batch.lattice.double().cpu().numpy()])
    return replace(batch, lattice=torch.from_numpy(reduced).to(batch.lattice))


def _niggli(lattice: np.ndarray) -> np.ndarray:
    """Niggli's vectors of a lattice, as rows, or those given if spglib finds none."""
    import spglib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how it reports errors
            reduced: np.ndarray | None = spglib.niggli_reduce(lattice, SYMPREC)
    except spglib.SpglibError:
        reduced = None
    return lattice if reduced is None else reduced


def corners(lattice: np.ndarray) -> np.ndarray:
    """K and H of a hexagonal lattice, where a mesh need not have a point, shape (2, 3).

    Of other lattices none, shape (0, 3). In units of the reciprocal vectors.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3)
        Lattice vectors as rows, in Å.

    Examples
    --------
    >>> corners(np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 2]])).round(2).tolist()
    [[0.33, 0.33, 0.0], [0.33, 0.33, 0.5]]
    >>> len(corners(np.eye(3)))
    0
    """
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = lattice @ lattice.T / np.outer(lengths, lengths)
    for axis in range(3):
        a, b = (i for i in range(3) if i != axis)
        off = (
            lengths[a] / lengths[b] - 1,
            abs(cosines[a, b]) - 0.5,
            cosines[a, axis],
            cosines[b, axis],
        )
        if np.abs(off).max() < _HEXAGONAL:
            points = np.zeros((2, 3))
            points[:, a], points[:, b] = 1 / 3, -np.sign(cosines[a, b]) / 3
            points[1, axis] = 0.5
            return points
    return np.zeros((0, 3))


def sites(
    n_atoms: int, center: np.ndarray, neighbor: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates of atoms, from bonds, and the part that each belongs to.

    Parts of a crystal that no bond joins begin at the origin, each of them.

    Parameters
    ----------
    n_atoms : int
    center, neighbor : ndarray, shape (E,), int
    steps : ndarray, shape (E, 3)
        From centre to neighbour, in units of the lattice vectors.

    Returns
    -------
    ndarray, shape (n_atoms, 3)
    ndarray, shape (n_atoms,), int
        The first atom of the part.
    """
    between = np.zeros((n_atoms, n_atoms, 3))
    joined = np.zeros((n_atoms, n_atoms), bool)
    for one, other, step in ((neighbor, center, -steps), (center, neighbor, steps)):
        between[one, other] = step
        joined[one, other] = True
    places = np.zeros((n_atoms, 3))
    part = np.full(n_atoms, -1)
    for root in range(n_atoms):
        queue = [root] if part[root] < 0 else []
        part[queue] = root
        for atom in queue:
            found = np.flatnonzero(joined[atom] & (part < 0))
            places[found] = places[atom] + between[atom, found]
            part[found] = root
            queue.extend(found.tolist())
    return places, part


def point_group(lattice: np.ndarray, places: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rotations that map a crystal onto itself, for fractional coordinates, shape (R, 3, 3).

    A few operations of a cell far from a reduced one may be missing.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3)
        Lattice vectors as rows, in Å.
    places : ndarray, shape (n, 3)
        Fractional coordinates.
    numbers : ndarray, shape (n,), int
        Of their kinds.
    """
    turns = _turns(lattice.astype(float))
    turned = places @ turns
    _, kind, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.argsort(counts[kind], kind="stable")
    rare = order[: counts.min()]
    rare = rare[kind[rare] == kind[rare[0]]]
    shifts = places[rare] - turned[:, rare[:1]]  # the first of them may go to any
    turn, shift = np.nonzero(np.ones(shifts.shape[:2], bool))
    for some in (order[:3], order):  # a few atoms rule most out
        images = turned[turn][:, some] + shifts[turn, shift][:, None]
        alike = kind[some][:, None] == kind
        step = max(1, _AT_ONCE // alike.size)
        parts = [images[at : at + step] for at in range(0, len(images), step)]
        stays = np.concatenate([_coincide(part, places, lattice, alike) for part in parts])
        turn, shift = turn[stays], shift[stays]
    return turns[np.unique(turn)].transpose(0, 2, 1)


def _coincide(
    images: np.ndarray, places: np.ndarray, lattice: np.ndarray, alike: np.ndarray
) -> np.ndarray:
    """Whether all of the images (S, m, 3) are at places (n, 3) of their kind (m, n), (S,)."""
    away = images[:, :, None] - places
    away = (away - np.rint(away)) @ lattice
    near = np.einsum("smnx,smnx->smn", away, away) < SYMPREC**2
    return (near & alike).any(2).all(1)


def _turns(lattice: np.ndarray) -> np.ndarray:
    """Integer matrices that turn a lattice into itself, from the left, shape (R, 3, 3)."""
    metric = lattice @ lattice.T
    lengths = np.sqrt((_VECTORS @ metric * _VECTORS).sum(1))
    edges = np.sqrt(metric.diagonal())
    a, b, c = (_VECTORS[np.abs(lengths - edge) < SYMPREC] for edge in edges)

    def fit(one: np.ndarray, other: np.ndarray, i: int, j: int) -> np.ndarray:
        off = one @ metric @ other.T - metric[i, j]
        fits: np.ndarray = np.abs(off) < SYMPREC * (edges[i] + edges[j])
        return fits

    together = fit(a, b, 0, 1)[:, :, None] & fit(a, c, 0, 2)[:, None] & fit(b, c, 1, 2)
    i, j, k = np.nonzero(together)
    return np.stack([a[i], b[j], c[k]], axis=1)
