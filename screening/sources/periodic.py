"""Crystals from Cartesian positions, and what to say of what is no crystal."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.crystal import Crystal


def periodic_in(pbc: Any) -> str:
    """Why a structure that is not periodic in all directions is not read."""
    n = sum(bool(p) for p in pbc)
    if n == 0:
        return "it is a molecule: it is not periodic"
    return f"it is periodic in {n} of 3 directions: only crystals are judged"


def from_cartesian(lattice: Any, positions: Any, numbers: Any) -> Crystal:
    """Crystal of atoms in Cartesian coordinates.

    Parameters
    ----------
    lattice : array_like, shape (3, 3)
        Row vectors in Å.
    positions : array_like, shape (n, 3)
        In Å.
    numbers : array_like, shape (n,)
        Atomic numbers.

    Raises
    ------
    ModelError
        If the cell has no volume, or a number is none.
    """
    lattice, positions = np.array(lattice, float), np.array(positions, float)
    cell = Crystal(lattice, np.zeros_like(positions), np.array(numbers))  # checks the cell
    return Crystal(cell.lattice, np.linalg.solve(cell.lattice.T, positions.T).T, numbers)
