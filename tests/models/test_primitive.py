from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher

from models.crystal import Crystal
from models.primitive import SYMPREC, may_be_reducible, reduce_cell
from tests.models.cells import (
    CELLS,
    PRIMITIVE_ATOMS,
    SPACE_GROUPS,
    all_cells,
    conventional,
    displaced,
    in_cell,
    primitive,
)
from tests.models.model_examples import random_crystal, supercell


def same_crystal(a: Crystal, b: Crystal, tolerance: float = 1e-4) -> bool:
    """By pymatgen, without its own reduction or scaling; `tolerance` in Å."""
    matcher = StructureMatcher(primitive_cell=False, scale=False, attempt_supercell=False)
    rms = matcher.get_rms_dist(a.to_structure(), b.to_structure())
    unit = (a.volume / len(a)) ** (1 / 3)
    return rms is not None and rms[1] * unit < tolerance


@pytest.mark.parametrize("name", SPACE_GROUPS)
def test_every_cell_of_a_crystal_has_the_same_primitive_cell(name: str) -> None:
    cells = all_cells(name)
    n = PRIMITIVE_ATOMS[name]
    for kind, crystal in cells.items():
        reduction = reduce_cell(crystal)
        assert reduction.problem is None
        assert len(reduction.crystal) == n, kind
        assert reduction.multiplicity == len(crystal) / n
        assert same_crystal(reduction.crystal, cells["primitive"]), kind
        volume = crystal.volume / reduction.multiplicity
        assert reduction.crystal.volume == pytest.approx(volume, rel=1e-6)


@pytest.mark.parametrize("name", SPACE_GROUPS)
def test_pymatgen_finds_cells_of_the_same_size(name: str) -> None:
    for crystal in all_cells(name).values():
        smallest = crystal.to_structure().get_primitive_structure(tolerance=0.01)
        assert len(reduce_cell(crystal).crystal) == len(smallest)


def test_a_primitive_cell_stays_as_it_is() -> None:
    for name in SPACE_GROUPS:
        for kind in ("primitive", "skewed"):
            crystal = all_cells(name)[kind]
            reduction = reduce_cell(crystal)
            assert reduction.crystal is crystal
            assert reduction.multiplicity == 1
    one_atom = Crystal(np.eye(3) * 3.35, [[0.3, 0, 0]], [84])
    assert reduce_cell(one_atom).crystal is one_atom


unimodular = st.lists(st.tuples(st.permutations([0, 1, 2]), st.integers(-2, 2)), max_size=3)
sizes = st.tuples(*[st.integers(1, 3)] * 3)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6), sizes, unimodular)
def test_a_supercell_of_a_crystal_without_symmetry_gives_it_back(seed, n_atoms, size, steps):
    crystal = random_crystal(np.random.default_rng(seed), n_atoms)
    transform = np.diag(size)
    for (i, j, _), factor in steps:
        transform[i] += factor * transform[j]
    given_cell = in_cell(crystal, transform)
    order = np.random.default_rng(seed).permutation(len(given_cell))
    given_cell = Crystal(
        given_cell.lattice, given_cell.frac_coords[order], given_cell.atomic_numbers[order]
    )
    reduction = reduce_cell(given_cell)
    smallest = reduce_cell(crystal)  # of one atom of each kind it may be smaller still
    assert reduction.multiplicity == np.prod(size) * smallest.multiplicity
    assert same_crystal(reduction.crystal, smallest.crystal)


def test_the_quick_test_never_misses_what_spglib_finds() -> None:
    rng = np.random.default_rng(0)
    n_reduced = 0
    for seed in range(150):
        crystal = conventional(sorted(SPACE_GROUPS)[seed % len(SPACE_GROUPS)])
        if seed % 2:
            crystal = supercell(crystal, (1, 2, 1))
        crystal = displaced(crystal, rng.uniform(0.1, 0.8) * SYMPREC, seed)
        cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
        found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC)
        if len(found[2]) < len(crystal):
            n_reduced += 1
            assert may_be_reducible(crystal)
    assert n_reduced > 20


def test_the_quick_test_spares_spglib_nearly_all_primitive_cells(monkeypatch) -> None:
    def never(*arguments, **options):
        raise AssertionError("spglib was asked")

    monkeypatch.setattr(spglib, "standardize_cell", never)
    for name in SPACE_GROUPS:
        assert reduce_cell(primitive(conventional(name))).multiplicity == 1
    for seed in range(5):
        large = displaced(supercell(conventional("bcc"), (3, 3, 3)), 0.2, seed)
        assert reduce_cell(large).multiplicity == 1


def test_atoms_are_the_mean_of_those_that_they_stand_for() -> None:
    exact = supercell(conventional("C-centred monoclinic"), (2, 1, 1))
    reduction = reduce_cell(displaced(exact, 0.3 * SYMPREC))
    assert reduction.multiplicity == 4
    assert same_crystal(reduction.crystal, reduce_cell(exact).crystal, 0.3 * SYMPREC)


def test_a_distorted_crystal_keeps_its_cell() -> None:
    distorted = displaced(supercell(conventional("perovskite"), (2, 1, 1)), 5 * SYMPREC)
    reduction = reduce_cell(distorted)
    assert (reduction.crystal, reduction.multiplicity) == (distorted, 1)
    assert reduce_cell(distorted, symprec=0.3).multiplicity == 2


def test_a_cell_that_spglib_cannot_reduce_is_kept_with_the_reason() -> None:
    sites = [[0, 0, 0], [0, 0, 1e-4], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5001]]
    doubled = Crystal(np.eye(3) * 4, sites, [11, 11, 17, 17])
    reduction = reduce_cell(doubled)
    assert reduction.crystal is doubled
    assert reduction.multiplicity is None
    assert reduction.problem == "spglib finds no primitive cell to 0.01 Å; do atoms overlap?"


@pytest.mark.parametrize("wrong", ["raises", "too few atoms", "too small"])
def test_what_spglib_gives_is_checked(monkeypatch, wrong: str) -> None:
    crystal = conventional("rocksalt")
    small = primitive(crystal)

    def broken(*arguments, **options):
        if wrong == "raises":
            raise spglib.SpglibError("cell standardization failed")
        if wrong == "too few atoms":
            return small.lattice, small.frac_coords[:1], small.atomic_numbers[:1]
        return small.lattice * 0.9, small.frac_coords, small.atomic_numbers

    monkeypatch.setattr(spglib, "standardize_cell", broken)
    reduction = reduce_cell(crystal)
    assert (reduction.crystal, reduction.multiplicity) == (crystal, None)
    assert "spglib" in reduction.problem


@pytest.mark.data
def test_cells_of_the_materials_project(reference_data) -> None:
    columns = ["lattice", "species", "frac_coords", "spacegroup_number"]
    table = pq.read_table(reference_data / "mp_snapshot.parquet", columns=columns)
    chosen = np.random.default_rng(0).choice(len(table), 60, replace=False)
    for row in table.take(chosen).to_pylist():
        crystal = Crystal(row["lattice"], row["frac_coords"], row["species"])
        assert reduce_cell(crystal).crystal is crystal
        if len(crystal) > 30:
            continue
        for transform in CELLS.values():
            reduction = reduce_cell(in_cell(crystal, transform))
            assert reduction.multiplicity == round(abs(np.linalg.det(transform)))
            assert len(reduction.crystal) == len(crystal)
