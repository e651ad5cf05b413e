"""Distances that no crystal has: atoms that overlap, and atoms that touch no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

from models.crystal import Crystal

# Times the sum of the covalent radii. Of the 51,149 structures of the Materials Project that
# this was tried on, none has a nearer pair: the nearest are Nb-Nb (0.607), Pu-Pu (0.611) and
# Rb-Rb (0.611); 20 have one below 0.65, U-U, Ce-Ru and Zr-F among them, and 171 below 0.7. H2
# is at 1.2.
OVERLAP = 0.6
ISOLATED = 1.5  # times the sum of the covalent radii
LAWRENCIUM = 103  # the last element whose radius is known
SMALL = 512  # atoms; larger cells have too many pairs
PAIRS = 10_000  # of atoms, in arrays that are made at a time
_BOX = 4.0  # Å; pymatgen divides space into boxes as wide as the cutoff, too many if it is small


def _images(*counts: int) -> np.ndarray:
    """Lattice vectors up to so many of each basis vector, shape (m, 3)."""
    return np.array(list(product(*(range(-n, n + 1) for n in counts))), float)


_NEAREST, _AROUND = _images(0, 0, 0), _images(1, 1, 1)


def overlapping(
    numbers: np.ndarray, i: np.ndarray, j: np.ndarray, distance: np.ndarray
) -> int | None:
    """The pair that overlaps most, None if none does.

    Parameters
    ----------
    numbers : ndarray, shape (n,), int64
        Atomic numbers.
    i, j : ndarray, shape (p,), int
        Pairs of atoms.
    distance : ndarray, shape (p,)
        In Å.
    """
    covalent = _radii()[0]
    widest = 2 * OVERLAP * covalent[numbers].max()
    near = np.flatnonzero(distance < widest)
    if not len(near):
        return None
    ratio = distance[near] / (covalent[numbers[i[near]]] + covalent[numbers[j[near]]])
    worst = int(ratio.argmin())
    return int(near[worst]) if ratio[worst] < OVERLAP else None


def overlap(crystal: Crystal) -> tuple[int, int, float] | None:
    """The two atoms that overlap most and their distance in Å, None if none overlap.

    Atoms overlap that are nearer than 0.6 times the sum of their covalent radii.
    """
    widest = 2 * OVERLAP * _radii()[0][crystal.atomic_numbers].max()
    i, j, distance = close_pairs(crystal, float(widest))
    worst = overlapping(crystal.atomic_numbers, i, j, distance)
    return None if worst is None else (int(i[worst]), int(j[worst]), float(distance[worst]))


def isolated_atoms(crystal: Crystal) -> np.ndarray:
    """Which atoms touch no other, shape (n,), bool.

    Such an atom is farther than 1.5 times the sum of the covalent radii from every other one,
    and farther than van der Waals contact: covalent radii alone are too small for an anion
    between ammonium ions (NH4Cl) or an atom in a cage (SiB6).

    References
    ----------
    Covalent radii: B. Cordero et al., Dalton Trans. 2832 (2008); van der Waals radii:
    S. Alvarez, Dalton Trans. 42, 8617 (2013).
    """
    numbers = crystal.atomic_numbers
    covalent, contact = (radii[numbers] for radii in _radii())
    reach = 2 * max(ISOLATED * covalent.max(), contact.max())
    i, j, distance = close_pairs(crystal, float(reach))
    near = distance <= _reach(covalent[i] + covalent[j], contact[i] + contact[j])
    return np.bincount(i[near], minlength=len(numbers)) == 0


def has_isolated_atoms(crystal: Crystal) -> bool | None:
    """Whether an atom touches no other; see :func:`isolated_atoms`.

    None if an element has no known radius (beyond Lr).
    """
    return have_isolated_atoms([crystal])[0]


def have_isolated_atoms(crystals: Sequence[Crystal]) -> list[bool | None]:
    """:func:`has_isolated_atoms` of each.

    Of most small cells the nearest images of the pairs already show that every atom touches
    another, and of all cells of a size together; of most others the images around these do. That
    is faster than a list of the neighbours of each.
    """
    touching = [False] * len(crystals)
    of_size: dict[int, list[int]] = {}
    for i, crystal in enumerate(crystals):
        if len(crystal) <= SMALL and crystal.atomic_numbers.max() <= LAWRENCIUM:
            of_size.setdefault(len(crystal), []).append(i)
    for n, places in of_size.items():
        for some in _batched(places, max(PAIRS // n**2, 1)):
            near = _every_atom_touches([crystals[i] for i in some], _NEAREST)
            for i, is_near in zip(some, near, strict=True):
                touching[i] = is_near
    return [_isolated(*pair) for pair in zip(crystals, touching, strict=True)]


def _batched(places: list[int], size: int) -> Iterator[list[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))


def _isolated(crystal: Crystal, is_touching: bool) -> bool | None:
    if crystal.atomic_numbers.max() > LAWRENCIUM:
        return None
    if is_touching:
        return False
    if len(crystal) > SMALL:
        return bool(isolated_atoms(crystal).any())
    every = (_every_atom_touches([crystal], images)[0] for images in (_AROUND, _all(crystal)))
    return not any(every)


def _all(crystal: Crystal) -> np.ndarray:
    """Every image, from the nearest in fractional coordinates, that an atom could touch."""
    reach = 2 * max(ISOLATED * _radii()[0].max(), _radii()[1].max())
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    counts = np.floor(reach / heights + 0.5).astype(int).tolist()
    return _images(*counts)


def _every_atom_touches(crystals: list[Crystal], images: np.ndarray) -> list[bool]:
    """Of cells of one size, as far as some images of each pair tell: no may be a yes.

    Parameters
    ----------
    crystals : list of Crystal
    images : ndarray, shape (m, 3)
        Lattice vectors from that image of an atom that is nearest in fractional coordinates.
    """
    numbers = np.array([crystal.atomic_numbers for crystal in crystals])
    covalent, contact = (radii[numbers] for radii in _radii())
    coordinates = np.array([crystal.frac_coords for crystal in crystals])
    lattices = np.array([crystal.lattice for crystal in crystals])
    n_cells, n = numbers.shape
    i, j = np.triu_indices(n, 1)
    apart = coordinates[:, i] - coordinates[:, j]
    apart -= np.rint(apart)
    nearest = _shortest([(apart + image) @ lattices for image in images])
    touching = np.zeros((n_cells, n, n), bool)
    touching[:, i, j] = nearest <= _reach(
        covalent[:, i] + covalent[:, j], contact[:, i] + contact[:, j]
    )
    # An atom and its own image are one basis vector or another lattice vector apart.
    own = [image @ lattices for image in (*np.eye(3), *images) if image.any()]
    itself = _shortest([vectors[:, None] for vectors in own]) <= _reach(2 * covalent, 2 * contact)
    touch = touching.any(1) | touching.any(2) | itself
    return [bool(np.all(of_cell)) for of_cell in touch]


def _shortest(vectors: list[np.ndarray]) -> np.ndarray:
    """Length of the shortest of some vectors (..., 3) at each place."""
    squares = [np.einsum("...k,...k", v, v) for v in vectors]
    return np.sqrt(np.minimum.reduce(squares))


def _reach(covalent: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """How far atoms may be apart that touch, from the sums of their radii."""
    return np.maximum(ISOLATED * covalent, contact)


def close_pairs(crystal: Crystal, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of near atoms, each twice, and their distances in Å.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Largest distance, in Å.

    Returns
    -------
    i, j : ndarray, shape (p,), int64
    distance : ndarray, shape (p,)
    """
    positions, lattice = crystal.frac_coords @ crystal.lattice, crystal.lattice
    i, j, image, distance = find_points_in_spheres(
        positions, positions, max(cutoff, _BOX), np.ones(3, np.int64), lattice
    )
    near = (distance <= cutoff) & ((i != j) | image.any(1))  # without each atom itself
    return i[near], j[near], distance[near]


@cache
def _radii() -> tuple[np.ndarray, np.ndarray]:
    """Covalent and van der Waals radii in Å by atomic number; 0 where the latter is not known."""
    from ase.data import covalent_radii
    from ase.data.vdw_alvarez import vdw_radii

    covalent = np.array(covalent_radii, float)
    contact = np.zeros(len(covalent))
    known = np.nan_to_num(np.array(vdw_radii, float))[: len(covalent)]
    contact[: len(known)] = known
    return covalent, contact
