"""Real crystals, and one crystal written in many cells."""

from __future__ import annotations

from functools import cache

import numpy as np
import spglib
from pymatgen.core import Lattice, Structure

from models.crystal import Crystal

HEXAGONAL = Lattice.hexagonal(3.21, 5.21)
MONOCLINIC = Lattice.monoclinic(4.653, 3.41, 5.108, 99.48)  # tenorite
SPACE_GROUPS = {
    # ErSe, which has a VB gap in its primitive cell and, judged as given, none in the other
    "rocksalt": (225, Lattice.cubic(5.67484769), ["Er", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "zincblende": (216, Lattice.cubic(5.65), ["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "hcp": (194, HEXAGONAL, ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "bcc": (229, Lattice.cubic(3.3), ["Nb"], [[0, 0, 0]]),
    "perovskite": (
        221,
        Lattice.cubic(3.905),
        ["Sr", "Ti", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    ),
    "C-centred monoclinic": (15, MONOCLINIC, ["Cu", "O"], [[0.25, 0.25, 0], [0, 0.4184, 0.25]]),
}
PRIMITIVE_ATOMS = {
    "rocksalt": 2,
    "zincblende": 2,
    "hcp": 2,
    "bcc": 1,
    "perovskite": 5,
    "C-centred monoclinic": 4,
}
CELLS = {
    "2x1x1": [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    "1x3x2": [[1, 0, 0], [0, 3, 0], [0, 0, 2]],
    "oblique, 3 times": [[1, 1, 0], [0, 1, 1], [1, 0, 2]],
    "skewed": [[1, 3, 0], [0, 1, 0], [-2, 0, 1]],
    "skewed, 2 times": [[2, 1, 0], [4, 3, 0], [0, -3, 1]],
}


FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def conventional_rocksalt(a: float, cation: str, anion: str) -> Structure:
    """Eight atoms; the 192 operations of its space group take pymatgen a second."""
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, [*FCC, *(FCC + 0.5)])


@cache
def conventional(name: str) -> Crystal:
    """The conventional cell of one of the `SPACE_GROUPS`."""
    return Crystal.from_structure(Structure.from_spacegroup(*SPACE_GROUPS[name]))


def primitive(crystal: Crystal) -> Crystal:
    """A primitive cell by spglib's other function, which idealises it."""
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    return Crystal(*spglib.find_primitive(cell, symprec=1e-3))


def in_cell(crystal: Crystal, transform: list[list[int]] | np.ndarray) -> Crystal:
    """The same crystal in the cell whose vectors are integer sums of the old ones."""
    transform = np.array(transform)
    low = np.minimum(transform, 0).sum(0) - 1
    high = np.maximum(transform, 0).sum(0) + 1
    axes = [np.arange(*ends) for ends in zip(low, high, strict=True)]
    images = np.stack(np.meshgrid(*axes), -1).reshape(-1, 3)
    inside = (crystal.frac_coords[:, None] % 1 + images) @ np.linalg.inv(transform)
    atom, image = np.nonzero(((inside > -1e-9) & (inside < 1 - 1e-9)).all(-1))
    return Crystal(transform @ crystal.lattice, inside[atom, image], crystal.atomic_numbers[atom])


def all_cells(name: str) -> dict[str, Crystal]:
    """One of the crystals in every cell."""
    given = conventional(name)
    small = primitive(given)
    cells = {"primitive": small, "conventional": given}
    return cells | {kind: in_cell(small, transform) for kind, transform in CELLS.items()}


def displaced(crystal: Crystal, length: float, seed: int = 0) -> Crystal:
    """Every atom moved by `length` Å in a random direction."""
    moves = np.random.default_rng(seed).normal(size=(len(crystal), 3))
    moves *= length / np.linalg.norm(moves, axis=1, keepdims=True)
    sites = crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, sites, crystal.atomic_numbers)
