"""What a page shows is what the store holds."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from db.open import open_store
from models.processes import WorkerPool
from models.zoo import model_id
from screening.errors import ScreeningError
from screening.trust import calibration_of
from tests.workflows.reported_run import EVIL, FIRST, RUN, SECOND, put_reported_run
from tests.workflows.screened_run import put_run, validation, with_gap
from workflows import reporting
from workflows.reporting import (
    find_validations,
    run_validations,
    view_material,
    view_materials,
    view_run,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(str(tmp_path_factory.mktemp("reporting") / "s.sqlite")) as store:
        put_reported_run(store)
        yield store


def test_a_material_has_its_spectra_and_its_band(store):
    view = view_material(store, store.run(RUN), "mp-1")
    assert view.candidate.structure is not None
    assert view.crystal.formula == "KMgF3"
    np.testing.assert_array_equal(view.spectrum.values, with_gap(True))
    np.testing.assert_array_equal(view.dft, with_gap(True))
    band = calibration_of(FIRST).band(with_gap(True), 0.25)
    np.testing.assert_allclose(view.band, band)
    assert view.electronic_structure is None  # the model does not know levels
    assert view.lacking == ()


def test_what_knows_levels_gives_the_parts(store):
    view = view_material(store, store.run(RUN), "mp-4")
    assert view.electronic_structure.symbols == ("Mg", "O")
    assert view_material(store, store.run(RUN), "mp-4", parts=False).electronic_structure is None


def test_views_come_in_the_order_that_is_asked_for(store):
    asked = ["mp-8", "no such", "mp-1", EVIL]
    views = view_materials(store, store.run(RUN), asked, band=False, parts=False)
    assert [view.candidate.material_id for view in views] == ["mp-8", "mp-1", EVIL]


@pytest.mark.slow
def test_processes_find_what_one_finds(store, monkeypatch):
    pools: list[int] = []

    def counted(workers, *arguments):
        pools.append(workers)
        return WorkerPool(workers, *arguments)

    monkeypatch.setattr(reporting, "_MANY", 3)
    monkeypatch.setattr(reporting, "WorkerPool", counted)
    asked = ["mp-4", "mp-8", "mp-1"]
    alone, shared = (
        list(view_materials(store, store.run(RUN), asked, workers=workers)) for workers in (1, 2)
    )
    assert pools == [2]
    assert [view.candidate.material_id for view in shared] == asked
    parts = [view.electronic_structure for view in (alone[0], shared[0])]
    np.testing.assert_array_equal(*(each.projected_dos for each in parts))
    np.testing.assert_array_equal(shared[2].band, alone[2].band)
    assert [view.lacking for view in shared] == [view.lacking for view in alone]


def test_an_unknown_material_is_named(store):
    with pytest.raises(ScreeningError, match=f"mp-99 is not in run {RUN}"):
        view_material(store, store.run(RUN), "mp-99")


def test_a_calculation_that_failed_is_told_apart_from_none(store):
    run = store.run(RUN)
    failed = view_material(store, run, "mp-2")
    assert (failed.validation, failed.unfinished.state) == (None, "failed")
    none = view_material(store, run, "mp-7")
    assert (none.validation, none.unfinished, none.dft) == (None, None, None)


def test_the_newest_calculation_of_the_structure_counts(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        run = put_reported_run(store)
        (document,) = store.candidates(run.run_id, material_ids=["mp-1"])
        newer = document.model_copy(update={"structure_hash": "relaxed"})
        (old,) = store.validations(material_ids=["mp-1"])
        store.upsert_validations(
            [
                validation(newer, False, recipe="other", updated_at=old.updated_at + timedelta(2)),
                validation(
                    document, False, engine="vasp", updated_at=old.updated_at + timedelta(1)
                ),
            ]
        )
        finished, others = find_validations(store, run, [document])
    assert finished["mp-1"].engine == "vasp"
    assert others == {}


def test_a_newer_calculation_that_is_magnetic_leaves_no_verdict(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        run = put_reported_run(store)
        assert set(run_validations(store, run)) == {"mp-1", EVIL, "mp-8"}
        (old,) = store.validations(material_ids=["mp-1"])
        changes = {"recipe": "finer", "state": "magnetic", "is_positive": None}
        newer = {"updated_at": old.updated_at + timedelta(1)}
        store.upsert_validations([old.model_copy(update=changes | newer)])
        assert set(run_validations(store, run)) == {EVIL, "mp-8"}
        assert view_material(store, run, "mp-1").validation.state == "magnetic"
        older = {"updated_at": old.updated_at - timedelta(1)}
        store.upsert_validations([old.model_copy(update=changes | older)])
        assert set(run_validations(store, run)) == {"mp-1", EVIL, "mp-8"}


def test_errors_are_those_of_the_prediction_that_is_shown(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        run = put_reported_run(store)
        (document,) = store.candidates(run.run_id, material_ids=["mp-1"])
        (stored,) = store.validations(material_ids=["mp-1"])
        assert view_material(store, run, "mp-1").validation.mae == stored.mae == 0.2
        of_another = stored.model_copy(update={"prediction_model_id": "another"})
        store.upsert_validations([of_another])
        found = view_material(store, run, "mp-1").validation
        assert (found.prediction_model_id, found.mae, found.wd) == (document.model_id, 0.0, 0.0)
        lost = document.model_copy(update={"model_id": "a third"})  # whose prediction is not there
        store.upsert_candidates([lost])
        found = view_material(store, run, "mp-1", band=False, parts=False).validation
    assert (found.prediction_model_id, found.mae, found.wd) == (None, None, None)


def test_a_calculation_without_its_spectrum_is_not_a_result(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        run = put_reported_run(store)
        (document,) = store.validations(material_ids=["mp-1"])
        store.upsert_validations([document.model_copy(update={"spectrum": None, "grid": None})])
        view = view_material(store, run, "mp-1")
    assert (view.validation, view.dft, view.unfinished.state) == (None, None, "done")


def test_a_run_has_its_positives_near_misses_and_what_was_calculated(store):
    view = view_run(store, store.run(RUN), n_positives=5, n_near_misses=1)
    names = [material.candidate.material_id for material in view.materials]
    assert names[:5] == ["mp-1", "mp-2", "my-3", "mp-4", EVIL]
    assert names[5:] == ["mp-7", "mp-8"]  # the near miss, and a negative that was calculated
    assert (view.n_positive, view.n_best) == (6, 5)
    assert view.screened.elements == {
        "K": 2, "Mg": 2, "F": 2, "Rb": 1, "Ca": 2, "Nb": 1, "O": 3, "Na": 1, "Cl": 1,
    }  # fmt: skip
    largest = view.families[0]
    assert (largest.anonymous_formula, largest.space_group, largest.symbol) == (
        "ABC3",
        221,
        "Pm-3m",
    )
    assert largest.material_ids == ("mp-1", "mp-2", "my-3")
    (metrics,) = view.metrics
    assert metrics.assessment.counts == {"tp": 1, "fp": 1, "fn": 0, "tn": 1}
    assert view.domains.inside == 4
    assert list(view.cards) == [model_id(FIRST), model_id(SECOND)]
    assert view.cards[model_id(FIRST)].name == FIRST.name


def test_a_model_that_is_gone_is_said_once_for_each_material(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        run = put_reported_run(store)
        (document,) = store.candidates(run.run_id, material_ids=["mp-1"], with_structure=True)
        gone = document.model_copy(update={"model_id": "gone-0123456789ab"})
        store.upsert_candidates([gone])
        key = ("mp-1", document.structure_hash, model_id(FIRST))
        (prediction,) = store.predictions([key])
        store.upsert_predictions([prediction.model_copy(update={"model_id": "gone-0123456789ab"})])
        view = view_material(store, run, "mp-1")
    assert view.band is None
    assert len(view.lacking) == 2
    assert all("the checkpoint of gone-0123456789ab is gone" in words for words in view.lacking)


def test_a_run_without_anything(tmp_path):
    with open_store(str(tmp_path / "s.sqlite")) as store:
        view = view_run(store, put_run(store, {}))
    assert (view.materials, view.families, view.metrics, view.n_positive) == ([], [], [], 0)
    assert view.screened.scores.shape == (0,)
