"""Families against the space groups of the Materials Project's snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from models.crystal import Crystal
from screening.families import UNKNOWN, family_of


def test_cells_of_one_crystal_are_one_family_and_elements_do_not_matter() -> None:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
    cell = Crystal(4 * np.eye(3), sites, [55, 17])
    double = Crystal(
        np.diag([4.0, 4.0, 8.0]),
        [[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]],
        [55, 17, 55, 17],
    )
    other = Crystal(3 * np.eye(3), sites, [4, 29])
    assert family_of(cell) == family_of(double) == family_of(other) == ("AB", 221)
    assert family_of(Crystal(4 * np.eye(3), sites, [29, 29])) == ("A", 229)


def test_a_cell_without_a_space_group_has_a_family_of_its_formula() -> None:
    same_place = Crystal(4 * np.eye(3), [[0, 0, 0], [0, 0, 0]], [29, 29])
    assert family_of(same_place) == ("A", UNKNOWN)


def test_space_groups_are_those_of_the_snapshot(reference_data: Path) -> None:
    table = pd.read_parquet(reference_data / "mp_snapshot.parquet")
    for row in table[table["nsites"] <= 20].sample(40, random_state=0).itertuples():
        crystal = Crystal(row.lattice, row.frac_coords, row.species)
        assert family_of(crystal)[1] == row.spacegroup_number
