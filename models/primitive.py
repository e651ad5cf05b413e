"""The primitive cell of a crystal, so that a verdict per cell does not depend on how it was typed.

spglib [1]_ finds the cell. Most cells of databases are primitive already, and a quick test that
never misses a smaller cell spares spglib's search, which takes milliseconds, for nearly all.

.. [1] A. Togo, K. Shinohara, I. Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Any

import numpy as np

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.errors import ModelError

SYMPREC = 0.01
"""Atoms that a lattice translation maps onto each other within this are the same, in Å."""

QUICK_ATOMS = 64  # of a large cell, the quick test compares so many with all others


@dataclass(frozen=True, slots=True)
class Reduction:
    """What became of a cell.

    Parameters
    ----------
    crystal : Crystal
        The primitive cell; the cell as given where it is primitive or cannot be reduced.
    multiplicity : int or None
        Primitive cells in the cell as given (its lattice points); None if that is not known.
    problem : str or None
        Why the cell could not be reduced.
    """

    crystal: Crystal
    multiplicity: int | None
    problem: str | None = None


def reduce_cell(crystal: Crystal, symprec: float = SYMPREC) -> Reduction:
    """Reduce a crystal to its primitive cell.

    A cell that is primitive stays as it is, to the last digit. Otherwise the new cell is
    spglib's standardised primitive one, not idealised: it is as large, and turned in space, as
    the crystal is, and an atom is the mean of those that it stands for, which were within
    `symprec` of each other. A crystal whose atoms are displaced by more keeps its cell.

    Parameters
    ----------
    crystal : Crystal
    symprec : float
        In Å; see :data:`SYMPREC`.

    Examples
    --------
    >>> corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    >>> copper = reduce_cell(Crystal(np.eye(3) * 3.6, corners, [29] * 4))
    >>> copper.multiplicity, len(copper.crystal)
    (4, 1)
    """
    if not may_be_reducible(crystal, symprec):
        return Reduction(crystal, 1)
    try:
        reduced = _reduced(crystal, symprec)
    except ModelError as error:
        return Reduction(crystal, None, str(error))
    multiplicity = len(crystal) // len(reduced)
    return Reduction(reduced if multiplicity > 1 else crystal, multiplicity)


def may_be_reducible(crystal: Crystal, symprec: float = SYMPREC) -> bool:
    """Whether a fraction of a lattice vector may map the crystal onto itself; a quick test.

    Its answer no is exact. The translations of a cell form a group whose order divides the
    numbers of atoms of every element, so one of them is 1/p of a lattice vector, p a prime
    divisor of them all, and it maps the first atom of the rarest element onto another.

    Parameters
    ----------
    crystal : Crystal
    symprec : float
        In Å; see :data:`SYMPREC`.
    """
    counts = crystal.composition
    divisor = gcd(*counts.values())
    if divisor == 1:
        return False
    # Seen from another atom, spglib's translation differs by less than its tolerance.
    tolerance = 2 * symprec
    numbers = crystal.atomic_numbers
    rarest = crystal.frac_coords[numbers == ATOMIC_NUMBERS[min(counts, key=counts.__getitem__)]]
    shifts = rarest[1:] - rarest[0]
    for p in _prime_divisors(divisor):
        for shift in shifts[_lengths(p * shifts, crystal.lattice) <= p * tolerance]:
            if _may_map_onto_itself(crystal, shift, tolerance):
                return True
    return False


def _may_map_onto_itself(crystal: Crystal, shift: np.ndarray, tolerance: float) -> bool:
    some = slice(None, None, -(-len(crystal) // QUICK_ATOMS))
    off = crystal.frac_coords[some, None] + shift - crystal.frac_coords
    near = _lengths(off, crystal.lattice) <= tolerance
    same = crystal.atomic_numbers[some, None] == crystal.atomic_numbers
    return bool((near & same).any(1).all())


@cache
def _prime_divisors(n: int) -> tuple[int, ...]:
    divisors = [d for d in range(2, n + 1) if n % d == 0]
    return tuple(d for d in divisors if all(d % smaller for smaller in range(2, d)))


def _lengths(frac: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Lengths in Å of fractional vectors (..., 3) that may differ by whole lattice vectors.

    Exact for what is far shorter than the cell, which is all that is asked here.
    """
    off = (frac - np.rint(frac)) @ lattice
    lengths: np.ndarray = np.sqrt((off * off).sum(-1))
    return lengths


def _reduced(crystal: Crystal, symprec: float) -> Crystal:
    """spglib's primitive cell.

    Raises
    ------
    ModelError
        If spglib finds none, or one that does not fill the cell as given.
    """
    import spglib

    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how it reports errors
            standardized = spglib.standardize_cell(
                cell, to_primitive=True, no_idealize=True, symprec=symprec
            )
    except spglib.SpglibError:  # its message says no more
        standardized = None
    if standardized is None:
        raise ModelError(f"spglib finds no primitive cell to {symprec:g} Å; do atoms overlap?")
    reduced = Crystal(*map(np.asarray, standardized))
    multiplicity = len(crystal) / len(reduced)
    counts = {element: n * multiplicity for element, n in reduced.composition.items()}
    if (
        counts != crystal.composition
        or abs(crystal.volume / reduced.volume / multiplicity - 1) > 1e-2
    ):
        raise ModelError(f"spglib's cell of {len(reduced)} atoms does not fill the cell as given")
    return reduced
