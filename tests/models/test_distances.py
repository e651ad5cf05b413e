"""Overlaps and isolated atoms, against molecules and a brute force over images."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.build import molecule
from ase.data import covalent_radii
from ase.data.vdw_alvarez import vdw_radii

from models.crystal import Crystal
from models.data.label_files import read_crystals
from models.distances import (
    OVERLAP,
    close_pairs,
    has_isolated_atoms,
    have_isolated_atoms,
    isolated_atoms,
    overlap,
)
from models.errors import ModelError
from models.graphs.graph import build_graph
from tests.models.model_examples import random_crystals, rocksalt

MOLECULES = ["H2", "N2", "O2", "F2", "CO", "CO2", "H2O", "HF", "LiH", "NH3", "C2H2", "Na2", "SiO"]


def pair(a: int, b: int, distance: float) -> Crystal:
    return Crystal(np.eye(3) * 8.0, [[0, 0, 0], [distance / 8, 0, 0]], [a, b])


def images(crystal: Crystal, reach: int = 3) -> np.ndarray:
    """Distances of all atoms (n) to all images of all atoms (n, k), inf to themselves."""
    shifts = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    apart = (
        crystal.frac_coords[None, :, None] + shifts[None, None] - crystal.frac_coords[:, None, None]
    )
    distances = np.linalg.norm(apart @ crystal.lattice, axis=3)
    return np.where(distances < 1e-9, np.inf, distances)


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules_do_not_overlap(name: str) -> None:
    atoms = molecule(name, cell=[9, 9, 9], pbc=True)
    crystal = Crystal(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    assert overlap(crystal) is None
    assert not isolated_atoms(crystal).any()
    build_graph(crystal)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (11, 17), (55, 55), (26, 8), (1, 55)])
def test_overlap_begins_at_its_fraction_of_the_covalent_radii(a: int, b: int) -> None:
    limit = OVERLAP * (covalent_radii[a] + covalent_radii[b])
    assert overlap(pair(a, b, limit * 1.01)) is None
    found = overlap(pair(a, b, limit * 0.99))
    assert found is not None
    assert set(found[:2]) == {0, 1}
    assert found[2] == pytest.approx(limit * 0.99)
    with pytest.raises(ModelError, match=r"atoms \d \(\w+\) and \d \(\w+\) overlap: "):
        build_graph(pair(a, b, limit * 0.99))


def test_salt_at_a_third_of_its_volume_overlaps() -> None:
    build_graph(rocksalt(5.64))
    with pytest.raises(ModelError, match=r"\(Na\) .*\(Cl\) overlap|\(Cl\) .*\(Na\) overlap"):
        build_graph(rocksalt(3.2))  # 1.6 Å, which was no overlap when 0.5 Å was the limit


def test_the_worst_pair_is_named() -> None:
    crystal = Crystal(
        np.eye(3) * 12.0, [[0, 0, 0], [0.1, 0, 0], [0.5] * 3, [0.5, 0.5, 0.56]], [55] * 4
    )
    found = overlap(crystal)
    assert found is not None
    assert set(found[:2]) == {2, 3}


def test_close_pairs_equal_brute_force() -> None:
    for crystal in random_crystals(10):
        for cutoff in (0.1, 1.5, 3.0, 6.0):
            near = np.sort(images(crystal)[images(crystal) <= cutoff])
            np.testing.assert_allclose(np.sort(close_pairs(crystal, cutoff)[2]), near)


def test_isolated_atoms_equal_brute_force() -> None:
    van_der_waals = np.nan_to_num(vdw_radii)
    for crystal in [
        *random_crystals(10),
        pair(11, 17, 4.0),
        Crystal(np.eye(3) * 6, [[0] * 3], [2]),
    ]:
        numbers = crystal.atomic_numbers
        covalent = 1.5 * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
        contact = van_der_waals[numbers][:, None] + van_der_waals[numbers][None]
        near = images(crystal) <= np.maximum(covalent, contact)[:, :, None]
        np.testing.assert_array_equal(isolated_atoms(crystal), ~near.any((1, 2)))


def test_many_crystals_together_have_the_isolated_atoms_of_each() -> None:
    rng = np.random.default_rng(3)
    shear = np.array([[1, 0, 0], [2.6, 1, 0], [0, -1.7, 1]])  # the nearest image is not the nearest
    crystals = [
        Crystal(
            scale * (c.lattice if i % 2 else shear @ c.lattice), c.frac_coords, c.atomic_numbers
        )
        for i, c in enumerate(random_crystals(60, seed=4))
        for scale in rng.uniform(0.7, 2.0, 2)
    ]
    alone = [bool(isolated_atoms(crystal).any()) for crystal in crystals]
    assert have_isolated_atoms(crystals) == alone
    assert 5 < sum(alone) < 115
    assert have_isolated_atoms([]) == []


def test_one_isolated_atom_is_enough() -> None:
    assert has_isolated_atoms(rocksalt()) is False
    alone = Crystal(np.eye(3) * 9.0, [[0, 0, 0], [0.5] * 3, [0.1, 0, 0]], [1, 2, 1])
    assert has_isolated_atoms(alone) is True


@pytest.mark.slow
@pytest.mark.data
def test_no_structure_of_the_snapshot_overlaps(reference_data: Path) -> None:
    """A fifth of the 51,149; of all of them the nearest pair is at 0.607 of its radii."""
    path = reference_data / "mp_snapshot.parquet"
    ids = set(pq.read_table(path, columns=["material_id"])["material_id"].to_pylist())
    crystals = read_crystals(path, set(sorted(ids)[::5]))
    assert len(crystals) > 10_000
    assert [i for i, crystal in crystals.items() if overlap(crystal)] == []
