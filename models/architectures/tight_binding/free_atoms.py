"""Levels and valence electrons of the free atoms, where a Hamiltonian begins.

The numbers are ours: ``free_atoms.csv`` is computed by :mod:`.make_free_atoms`. A shell that the
free atom does not bind, or that lies so deep that it is left to the core, has an empty one above
the vacuum level in its place; what it is in a crystal is learned. The electrons are those in the
shells that are there, so that any two counts of the same element, such as this one and that of a
PAW set, differ by closed shells.

The lanthanides in :data:`models.elements.STAND_INS` have the levels of their stand-ins, and none of
their own. Of Ce, Eu and Yb the 4f electrons take part, and there are none for these.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from models.crystal import ATOMIC_NUMBERS
from models.elements import N_ELEMENTS, STAND_INS

SHELLS = "spd"
UNBOUND = 1.0  # eV; of p and d shells that the free atom has not
DIFFUSE, LOWEST_DIFFUSE = 11.0, 4.0  # eV; s* above s, and at least
WITHOUT_D = frozenset(range(1, 11))  # H to Ne: no d shell within reach
_STAND_INS = {ATOMIC_NUMBERS[e]: ATOMIC_NUMBERS[other] for e, other in STAND_INS.items()}


@dataclass(frozen=True, eq=False)
class FreeAtoms:
    """Tables whose row Z is the element Z.

    Parameters
    ----------
    levels : ndarray, shape (104, 4), float32
        Of the shells s, p, d and s*, in eV relative to the vacuum.
    bound : ndarray, shape (104, 3), float32
        1 where the free atom has the shell s, p or d.
    electrons : ndarray, shape (104,), float32
        In all shells, 4f included; 0 for elements that are not known.
    flat : dict of float
        Level of the 4f shell in eV, of the elements whose seven 4f orbitals are levels of their
        own that no bond changes: La, where they are empty, and Lu, where they are filled.
    """

    levels: np.ndarray
    bound: np.ndarray
    electrons: np.ndarray
    flat: dict[int, float]

    @property
    def known(self) -> np.ndarray:
        """Which elements have levels, shape (104,), bool."""
        known: np.ndarray = self.electrons > 0
        return known


@cache
def free_atoms() -> FreeAtoms:
    """The table, with the stand-ins of the lanthanides."""
    levels = np.zeros((N_ELEMENTS + 1, 4), np.float32)
    bound = np.zeros((N_ELEMENTS + 1, 3), np.float32)
    electrons = np.zeros(N_ELEMENTS + 1, np.float32)
    flat = {}
    table = files(__package__).joinpath("free_atoms.csv").read_text()
    for row in csv.DictReader(table.splitlines()):
        z = ATOMIC_NUMBERS[row["element"]]
        for column, shell in enumerate(SHELLS):
            bound[z, column] = bool(row[shell])
            levels[z, column] = row[shell] or UNBOUND
        levels[z, 3] = max(levels[z, 0] + DIFFUSE, LOWEST_DIFFUSE)
        electrons[z] = sum(float(row[f"n_{shell}"] or 0) for shell in "spdf")
        if row["f"]:
            flat[z] = float(row["f"])
    for z, other in _STAND_INS.items():
        for values in (levels, bound, electrons):
            values[z] = values[other]
        if other in flat:
            flat[z] = flat[other]
    for values in (levels, bound, electrons):
        values.setflags(write=False)
    return FreeAtoms(levels, bound, electrons, flat)


def stand_ins() -> np.ndarray:
    """Atomic number of the element that each stands for, shape (104,), int64: mostly itself."""
    numbers = np.arange(N_ELEMENTS + 1)
    numbers[list(_STAND_INS)] = list(_STAND_INS.values())
    return numbers
