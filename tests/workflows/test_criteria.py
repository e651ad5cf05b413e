"""Runs by other criteria than the VB gap: what is kept, what is refused, how DFT is judged."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from db.documents import CandidateDoc
from db.open import open_store
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID
from models.zoo import ZOO, model_id
from screening.criteria.interface import Criterion, Verdicts
from screening.criteria.registry import criterion_of, find_criterion, parameters_of
from screening.errors import ScreeningError
from tests.conftest import crystal_row
from tests.workflows.screened_run import crystal, put_run, validation, with_gap
from workflows.local import run_flow
from workflows.metrics import run_metrics
from workflows.plan import choose_validation
from workflows.runs import resumable_run
from workflows.screening import ScreeningFlowMaker
from workflows.verdicts import judged_for

FLAT = {
    "name": "flat",
    "spectra": "edos",
    "positive": "dos_at_fermi >= least",
    "score": "dos_at_fermi - least",
    "parameters": {"least": 0.0},
}


@pytest.fixture
def make(tmp_path, structure_table):
    """Makers of runs over five crystals, by a criterion."""
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C")]
    table = structure_table([crystal_row(f"m-{i}", 3.3, pairs[i]) for i in range(5)])

    def maker(criterion, rescore=0, **fields):
        db = str(tmp_path / "s.sqlite")
        return ScreeningFlowMaker(
            db=db, source=str(table), criterion=criterion, rescore=rescore, **fields
        )

    return maker


@pytest.fixture
def file(tmp_path):
    """Write a criterion file; its path."""

    def written(**changes):
        path = tmp_path / "flat.yaml"
        path.write_text(yaml.safe_dump(FLAT | changes))
        return str(path)

    return written


def test_a_run_by_a_file_is_judged_by_it_and_predictions_by_the_paper(make, file):
    maker = make(file(parameters={"least": 2.0}))
    summary = run_flow(maker.make("by-flat"))
    first = run_flow(make("vb-gap").make("by-gap"))
    assert first["counts"]["reused"] == 5
    with open_store(maker.db) as store:
        run = store.run("by-flat")
        assert run.parameters["criterion"]["positive"] == FLAT["positive"]
        assert "criteria" not in run.parameters
        gaps = {c.material_id: c for c in store.candidates("by-gap")}
        candidates = list(store.candidates("by-flat"))
        for candidate in candidates:
            (prediction,) = store.predictions(
                [(candidate.material_id, candidate.structure_hash, candidate.model_id)]
            )
            at_fermi = (prediction.spectrum[63] + prediction.spectrum[64]) / 2
            assert (candidate.criterion, candidate.gap) == ("flat", None)
            assert candidate.features == {"dos_at_fermi": pytest.approx(at_fermi)}
            assert candidate.score == pytest.approx(at_fermi - 2.0)
            assert candidate.is_positive == (candidate.score >= 0)
            assert candidate.is_positive_per_atom is None
            # by the VB gap nothing is as if there were other criteria
            other = gaps[candidate.material_id]
            assert (other.criterion, other.features) == (None, None)
            assert (other.gap, other.score) == (prediction.gap, prediction.score)
        assert run.selection == [
            c.material_id
            for c in sorted(candidates, key=lambda c: -(c.score or 0.0))
            if c.is_positive
        ]
    assert summary["counts"]["positive"] == len(run.selection)


def test_a_changed_file_is_another_criterion(make, file, monkeypatch):
    maker = make(file())

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workflows.scoring.Scorer.keep", stop)
        with pytest.raises(KeyboardInterrupt):
            run_flow(maker.make("stopped"))
    assert resumable_run(maker.db, make(file()).parameters()).run_id == "stopped"
    changed = make(file(parameters={"least": 1.0}))
    with pytest.raises(ScreeningError, match="stopped differs in criterion"):
        resumable_run(maker.db, changed.parameters())
    with pytest.raises(ScreeningError, match="the criterion is another than when it began"):
        run_flow(changed.make("stopped"))
    with pytest.raises(ScreeningError, match="the criterion is another than when it began"):
        run_flow(make("vb-gap").make("stopped"))
    assert run_flow(make(file()).make("stopped"))["counts"]["screened"] == 5


def test_a_division_by_zero_fails_the_material_and_no_other(make, file):
    maker = make(file())
    run_flow(maker.make("before"))
    with open_store(maker.db) as store:
        first = next(iter(store.candidates("before", material_ids=["m-0"])))
    zero = f"1 / where(abs(dos_at_fermi - {first.features['dos_at_fermi']!r}) < 1e-4, 0, 1)"
    summary = run_flow(make(file(score=zero)).make("divided"))
    assert summary["counts"]["screened"] == summary["counts"]["positive"] == 4
    assert (summary["counts"]["failed"], summary["counts"]["reused"]) == (1, 5)
    with open_store(maker.db) as store:
        (failed,) = store.candidates("divided", state="failed")
        assert failed.material_id == "m-0"
        assert (failed.is_positive, failed.score) == (None, None)
        assert failed.reason.startswith("no verdict by flat: its score or a comparison is not a")
        assert "(dos_at_fermi = " in failed.reason


@pytest.mark.parametrize("name", ["springs-phdos", "mat2spec-plus-phdos"])
def test_a_phonon_run_works_end_to_end_and_keeps_its_grid(make, name):
    maker = make("phonon-gap", checkpoint=str(ZOO / name))
    summary = run_flow(maker.make("phonons"))
    again = run_flow(make("phonon-gap", checkpoint=str(ZOO / name)).make("again"))
    assert (summary["counts"]["screened"], again["counts"]["reused"]) == (5, 5)
    with open_store(maker.db) as store:
        run = store.run("phonons")
        assert run.model_id == model_id(ZOO / name)
        candidates = list(store.candidates("phonons"))
        keys = [(c.material_id, c.structure_hash, run.model_id) for c in candidates]
        predictions = {p.material_id: p for p in store.predictions(keys)}
        criterion = criterion_of(run.parameters)
        for candidate in candidates:
            prediction = predictions[candidate.material_id]
            assert prediction.grid == PHDOS_GRID
            assert (prediction.gap, prediction.score) == (None, None)
            spectrum = np.array([prediction.spectrum])
            verdicts = criterion.judge(spectrum, prediction.grid, [prediction.nsites])
            assert candidate.score == pytest.approx(verdicts.score[0])
            assert candidate.features["ao_gap"]["ratio"] == verdicts.features["ao_gap.ratio"][0]
        with pytest.raises(
            ScreeningError, match="phonons: its criterion phonon-gap judges the phon"
        ):
            choose_validation(store, run, maker)


@pytest.mark.parametrize(
    ("criterion", "fields", "message"),
    [
        ("phonon-gap", {}, "judges the phonon DOS, checkpoint .* predicts the electronic DOS"),
        ("steep-edge", {"checkpoint": str(ZOO / "springs-phdos")}, "judges the electronic DOS"),
        (
            "phonon-gap",
            {"checkpoint": str(ZOO / "springs-phdos"), "rescore": 2},
            "judges the phonon DOS, checkpoint .*tight-binding-edos predicts the electronic",
        ),
        ("steep-edge", {"criteria": {"max_dos": 2.0}}, "--max-dos: of vb-gap"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, criterion, fields, message):
    with pytest.raises(ScreeningError, match=message):
        run_flow(make(criterion, **fields).make("refused"))


def test_a_run_without_a_criterion_keeps_the_parameters_that_it_had(make):
    parameters = make("vb-gap").parameters()
    assert parameters.keys() == {
        "source", "known_edos", "filters", "criteria", "checkpoint", "shard_size", "limit",
        "keep_cell",
    }  # fmt: skip
    assert (
        make("cb-gap").parameters() == make("vb-gap", criteria={"band": "conduction"}).parameters()
    )


def test_a_score_of_another_package_that_is_not_finite_is_no_verdict(make, monkeypatch):
    class Broken(Criterion):
        name, spectra = "broken", "edos"

        def judge(self, spectra, grid, n_atoms):
            score = np.full(len(spectra), np.nan)
            score[0] = 1.0
            return Verdicts(score > 0, score, {"n": np.asarray(n_atoms)})

    monkeypatch.setattr("workflows.scoring.criterion_of", lambda _: Broken())
    summary = run_flow(make("steep-edge").make("broken"))
    assert (summary["counts"]["screened"], summary["counts"]["failed"]) == (1, 4)


# --- DFT ------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "v.sqlite")) as opened:
        yield opened


def put_flat_run(store, positives):
    structures = {f"m-{i}": crystal(i) for i in range(4)}
    run = put_run(store, structures, positives, run_id="flat")
    flat = parameters_of(find_criterion("steep-edge"))
    run = run.model_copy(update={"parameters": {"checkpoint": "none"} | flat})
    store.put_run(run)
    return run


def test_metrics_are_by_the_criterion_of_the_run_whoever_asked_for_the_dft(store):
    run = put_flat_run(store, ["m-0", "m-1"])
    steep = 6.0 + np.clip(EDOS_GRID.centers, -0.125, 0.125) * 40.0
    candidates = {c.material_id: c for c in store.candidates("flat")}
    spectra = {"m-0": steep, "m-1": with_gap(True), "m-2": steep, "m-3": with_gap(False)}
    store.upsert_validations(
        validation(candidates[name], is_gap=name == "m-1", spectrum=spectrum, run_ids=["flat"])
        for name, spectrum in spectra.items()
    )
    (metrics,) = run_metrics(store, run)
    assert metrics.criterion == metrics.as_dict()["criterion"] == "steep-edge"
    assert metrics.assessment.counts == {"tp": 1, "fp": 1, "fn": 1, "tn": 1}


def test_dft_is_judged_by_the_run_that_shows_it(store):
    run = put_flat_run(store, ["m-0"])
    candidates: dict[str, CandidateDoc] = {c.material_id: c for c in store.candidates("flat")}
    by_gap = validation(candidates["m-0"], is_gap=True)
    fine = by_gap.gap.model_copy(update={"is_gap_fine": False})
    magnetic = by_gap.model_copy(update={"state": "magnetic", "is_positive": None})
    failed = validation(candidates["m-1"], is_gap=None)
    judged, *others = judged_for(run, [by_gap, magnetic, failed])
    assert others[1] == failed
    assert (others[0].criterion, others[0].is_positive, others[0].gap) == ("steep-edge", None, None)
    refused = judged.model_copy(update={"is_positive": None})  # divided by zero, say
    assert judged_for(run, [refused]) == [judged]
    assert (judged.criterion, judged.is_positive, judged.gap) == ("steep-edge", False, None)
    assert judged.features["dos_at_fermi"] == 5.0
    back = put_run(store, {"m-0": crystal(0)}, run_id="gap")
    (again,) = judged_for(back, [judged])
    assert (again.criterion, again.is_positive, again.features) == (None, True, None)
    assert again.gap.width == 1.5
    phonons = run.model_copy(update={"parameters": parameters_of(find_criterion("phonon-gap"))})
    (none,) = judged_for(phonons, [judged])
    assert (none.criterion, none.is_positive, none.gap) == ("phonon-gap", None, None)
    (kept,) = judged_for(back, [by_gap.model_copy(update={"gap": fine})])
    assert kept.gap.is_gap_fine is False
