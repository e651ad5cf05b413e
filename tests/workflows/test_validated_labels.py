"""Labels from calculations: the same DOS, of recipes that may be mixed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.crystal import Crystal
from models.data.label_files import (
    LABEL_EDGES,
    LABELS_RECIPE,
    RECIPE,
    edos_labels,
    recipes_of,
)
from screening.errors import ScreeningError
from tests.conftest import crystal_row
from tests.models.model_examples import edos_label, label_row, write_rows
from tests.workflows.analytic_dos import RECIPE as ANALYTIC
from tests.workflows.analytic_dos import free_electrons
from tests.workflows.screened_run import candidate, crystal, put_run, validation
from workflows.validated_labels import (
    NothingToLearnError,
    are_alike,
    label_bins,
    labels_of,
    write_labels,
)
from workflows.validation import validation_of


def calculated(store, run, name, structure, **changes):
    """Store the calculation of a candidate, as the last job of a validation does."""
    document = free_electrons(structure, material_id=name, **changes)
    own = candidate(run.run_id, name, structure)
    key = {
        "material_id": name,
        "structure_hash": own.structure_hash,
        "engine": "gpaw",
        "recipe": document.recipe,
    }
    stored = validation_of(store, run.run_id, key, document)
    store.upsert_validations([stored])
    return stored


@pytest.fixture
def files(tmp_path):
    """A file of labels by the recipe of the formula that stands for DFT."""
    rows = [label_row("old", edos_label()) | {RECIPE: ANALYTIC}]
    return [write_rows(tmp_path / "old.parquet", rows)]


@pytest.mark.parametrize("gap", [0.0, 1.5])
def test_bins_are_averages_over_them(gap):
    document = free_electrons(crystal(0), gap=gap)
    centers = (LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2
    below = np.where(centers < 0, np.sqrt(np.maximum(centers + 6.0, 0.0)), 0.0)
    above = np.where(centers > gap, np.sqrt(np.maximum(centers - gap + 6.0, 0.0)), 0.0)
    expected = np.where(centers < document.emax - document.vbm, below + above, 0.0)
    bins = label_bins(document)
    smooth = np.min(np.abs(centers[:, None] - [-6.0, 0.0, gap, 6.0 + gap]), axis=1) > 0.05
    np.testing.assert_allclose(bins[smooth], expected[smooth], atol=2e-3)
    energies, dos = np.array(document.energies), np.array(document.dos)
    occupied = np.trapezoid(dos[energies <= document.vbm], energies[energies <= document.vbm])
    assert bins[LABEL_EDGES[:-1] < -1e-9].sum() * 0.02 == pytest.approx(occupied, rel=5e-3)


def test_a_label_is_read_as_the_spectrum_of_the_calculation(store, files, tmp_path):
    structures = {"metal": crystal(0), "insulator": crystal(1), "not calculated": crystal(2)}
    run = put_run(store, structures, ["metal"])
    stored = [
        calculated(store, run, "metal", structures["metal"]),
        calculated(store, run, "insulator", structures["insulator"], gap=1.5),
    ]
    labels = labels_of(store, [run], files)
    assert labels.left_out == {}
    write_labels(tmp_path / "new.parquet", labels.rows)
    assert recipes_of(tmp_path / "new.parquet") == {ANALYTIC}
    read = edos_labels([tmp_path / "new.parquet"])
    for own in stored:
        name = own.material_id
        np.testing.assert_allclose(read.spectra[name], own.spectrum, atol=0.02)
        same = Crystal.from_structure(structures[name]).structure_hash
        assert read.crystals[name].structure_hash == own.structure_hash == same
    assert read.gaps == {"metal": 0.0, "insulator": pytest.approx(1.5, abs=1e-5)}
    assert read.occupied["metal"][0] == pytest.approx(2 / 3 * 6.0**1.5, rel=1e-3)


def test_rules_of_labels_know_whether_there_was_spin_and_a_stand_in(store, files, tmp_path):
    structures = {name: crystal(i, name) for i, name in enumerate(("Fe", "Ni", "Nd"))}
    run = put_run(store, structures)
    spin = {"is_spin_polarized": True, "magnetization": 0.0, "largest_moment": 0.0}
    calculated(store, run, "Fe", structures["Fe"])
    calculated(store, run, "Ni", structures["Ni"], **spin)
    stand_in = {"recipe": f"{ANALYTIC}+La-for-Nd", "settings": {"stand_ins": {"Nd": "La"}}}
    calculated(store, run, "Nd", structures["Nd"], **stand_in)
    write_labels(tmp_path / "new.parquet", labels_of(store, [run], files).rows)
    read = edos_labels([tmp_path / "new.parquet"])
    assert set(read.spectra) == {"Ni", "Nd"}
    assert read.left_out == {"Fe": "Fe is magnetic"}


def test_magnetic_ones_and_those_without_a_dos_are_no_labels(store, files):
    structures = {"magnet": crystal(0), "lost": crystal(1)}
    run = put_run(store, structures)
    moments = {"is_spin_polarized": True, "magnetization": 2.0, "largest_moment": 2.0}
    calculated(store, run, "magnet", structures["magnet"], **moments)
    lost = validation(candidate("run-1", "lost", structures["lost"]), False, recipe=ANALYTIC)
    store.upsert_validations([lost])
    labels = labels_of(store, [run], files)
    assert labels.rows == []
    assert labels.left_out == {
        "magnet": "magnetic",
        "lost": "its structure or its DOS is not in the database",
    }


def test_only_recipes_that_are_alike_are_mixed(store, files, tmp_path):
    structures = {"like": crystal(0), "unlike": crystal(1)}
    run = put_run(store, structures)
    calculated(store, run, "unlike", structures["unlike"], recipe="vasp-pbe-mp-0123")
    shipped = write_rows(tmp_path / "shipped.parquet", [label_row("old", edos_label())])
    with pytest.raises(ScreeningError) as refused:
        labels_of(store, [run], [shipped])
    assert str(refused.value) == (
        "run run-1: labels by vasp-pbe-mp-0123 are not mixed with those by gpaw-pbe-labels in "
        "shipped.parquet; calculate with a recipe like theirs, or name other labels"
    )
    calculated(store, run, "like", structures["like"])
    assert [row["material_id"] for row in labels_of(store, [run], files).rows] == ["like"]
    silent = tmp_path / "silent.parquet"
    rows = [crystal_row("x", 4.0, ["Al"]) | {"spectrum": [1.0] * 128}]
    pq.write_table(pa.Table.from_pylist(rows), silent)
    with pytest.raises(ScreeningError, match=r"silent\.parquet does not say by which recipe"):
        labels_of(store, [run], [silent])


def test_a_newer_calculation_of_an_unlike_recipe_hides_none(store, files):
    structures = {"both": crystal(0), "unlike": crystal(1)}
    run = put_run(store, structures)
    calculated(store, run, "both", structures["both"])
    for name, structure in structures.items():
        newer = calculated(store, run, name, structure, recipe="vasp-pbe-mp-0123")
        later = newer.updated_at + timedelta(hours=1)
        store.upsert_validations([newer.model_copy(update={"updated_at": later})])
    labels = labels_of(store, [run], files)
    assert [(row["material_id"], row[RECIPE]) for row in labels.rows] == [("both", ANALYTIC)]
    assert labels.left_out == {"unlike": "its recipe is unlike that of the labels"}


def test_labels_without_a_recipe_beside_others_are_of_that_of_their_kind(store, tmp_path):
    rows = [label_row("old", edos_label()) | {RECIPE: recipe} for recipe in (ANALYTIC, None)]
    both = write_rows(tmp_path / "both.parquet", rows)
    assert recipes_of(both) == {ANALYTIC, LABELS_RECIPE}
    run = put_run(store, {"a": crystal(0)})
    calculated(store, run, "a", crystal(0))
    with pytest.raises(ScreeningError, match=r"not mixed with those by .*, gpaw-pbe-labels"):
        labels_of(store, [run], [both])
    row = crystal_row("x", 4.0, ["Al"]) | {"spectrum": [1.0] * 128}
    kindless = write_rows(tmp_path / "c.parquet", [row | {RECIPE: r} for r in (ANALYTIC, None)])
    assert recipes_of(kindless) == set()  # of one of them nothing says it


def test_presets_that_were_measured_are_alike_to_the_shipped_labels():
    assert are_alike("gpaw-pbe-labels", "gpaw-pbe-fast-c5de4d12")
    assert are_alike("gpaw-pbe-standard-8c0a6922", "gpaw-pbe-labels")
    assert not are_alike("gpaw-pbe-labels", "gpaw-pbe-fast-00000000")  # with spin, or relaxed
    assert not are_alike("mp-pbe", "gpaw-pbe-labels")


def test_without_a_finished_calculation_there_is_nothing_to_learn(store, files):
    structures = {"a": crystal(0), "b": crystal(1)}
    run = put_run(store, structures)
    with pytest.raises(NothingToLearnError, match="run run-1: no calculation has finished"):
        labels_of(store, [run], files)
    for name, structure in structures.items():
        store.upsert_validations([validation(candidate("run-1", name, structure), None)])
    failed = r"all 2 calculations failed \(a: no convergence\); `screen validate`"
    with pytest.raises(NothingToLearnError, match=failed):
        labels_of(store, [run], files)
