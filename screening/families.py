"""Families of crystals: one anonymous formula and space group, as ABC3 in Pm-3m."""

from __future__ import annotations

from functools import cache
from typing import Any

from pymatgen.core import Composition

from models.crystal import Crystal

SYMPREC = 0.01  # Å, as pymatgen's default
UNKNOWN = 0  # where no space group is found


def family_of(crystal: Crystal) -> tuple[str, int]:
    """Anonymous formula and number of the space group.

    It takes 4 to 10 ms, nearly all for the space group, so only what is to be chosen from has one.

    Parameters
    ----------
    crystal : Crystal

    Examples
    --------
    >>> import numpy as np
    >>> sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    >>> family_of(Crystal(4 * np.eye(3), sites, [38, 22, 8, 8, 8]))
    ('ABC3', 221)
    """
    import spglib

    cell: Any = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    except spglib.SpglibError:
        dataset = None
    formula = Composition(crystal.composition).anonymized_formula
    return formula, dataset.number if dataset else UNKNOWN


def space_group_symbol(number: int) -> str:
    """Short Hermann-Mauguin symbol of a space group.

    Examples
    --------
    >>> space_group_symbol(221), space_group_symbol(12), space_group_symbol(UNKNOWN)
    ('Pm-3m', 'C2/m', 'unknown space group')
    """
    return _symbols().get(number, "unknown space group")


@cache
def _symbols() -> dict[int, str]:
    """By the number of the space group, each in its first setting; pymatgen has C12/m1 for C2/m."""
    import spglib

    settings = (spglib.get_spacegroup_type(hall) for hall in range(530, 0, -1))
    return {setting.number: setting.international_short for setting in settings if setting}
