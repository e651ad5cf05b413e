"""A second model judges the best candidates of a run again, on both stores."""

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from db.collections import PREDICTIONS, Query
from db.open import open_store
from db.questions import agreements
from models.errors import ModelError
from models.spectra.metrics import mae
from models.training.card import trained_elements
from models.training.materials import load_training_materials
from models.zoo import ZOO, model_id
from screening.domain import FAR, NEAR
from screening.errors import ScreeningError
from screening.second_predictor import RESCORE_WITH, RESCORED
from tests.conftest import crystal_row
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.screened_run import plan_validation
from workflows import rescoring
from workflows.local import run_flow, validate_here
from workflows.progress import reporting_to
from workflows.rescoring import RESCORING
from workflows.runs import candidate_counts, note_interruption, resumable_run
from workflows.screening import ScreeningFlowMaker
from workflows.validation import ValidationFlowMaker
from workflows.verdicts import prediction_key

N = 7  # the second model refuses the seventh and the eighth
PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Th", "N"), ("Li", "Mg"), ("Ti", "C"), ("Gd", "N")]
FIRST, SECOND = ScreeningFlowMaker.checkpoint, str(RESCORE_WITH)
EASY = {"max_dos": 3.0, "min_width": 0.5, "max_upper_edge": 0.5}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [crystal_row(f"m-{i:02}", 3.2 + 0.1 * i, PAIRS[i % 6]) for i in range(12)]
    path = tmp_path_factory.mktemp("table") / "structures.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(rescoring, "SHARD", 2)


@pytest.fixture
def maker(db, table):
    return ScreeningFlowMaker(db=db, source=table, shard_size=5, criteria=EASY, rescore=N)


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory):
    """The makers of runs in stores of their own: by one model alone, and by both."""
    made = {}

    def screened(checkpoint=FIRST, n=0):
        if (checkpoint, n) not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            made[checkpoint, n] = ScreeningFlowMaker(
                db=str(folder / "store.sqlite"),
                source=table,
                shard_size=5,
                criteria=EASY,
                checkpoint=checkpoint,
                rescore=n,
            )
            run(made[checkpoint, n], "whole")
        return made[checkpoint, n]

    return screened


def run(maker, run_id=None):
    return run_flow(maker.make(run_id))


def candidates(maker, run_id):
    with open_store(maker.db) as store:
        ranked = store.candidates(run_id, sort_by="score", descending=True, with_structure=True)
        return {c.material_id: c for c in ranked}


def predicted(store):
    return sorted(p.key for p in store.find(Query(PREDICTIONS)))


def documents(maker, run_id):
    return {
        name: candidate.model_dump(exclude={"run_id"})
        for name, candidate in candidates(maker, run_id).items()
    }


def assert_same_verdict(ours, other):
    exact = ("state", "model_id", "is_positive", "is_positive_per_atom", "unseen_elements")
    for name in (*exact, "out_of_domain", "structure", "structure_hash"):
        assert getattr(ours, name) == getattr(other, name), name
    assert ours.score == pytest.approx(other.score, abs=1e-4)
    assert ours.gap.holds == other.gap.holds
    assert ours.gap.criteria == other.gap.criteria
    assert ours.gap.upper_edge == pytest.approx(other.gap.upper_edge, abs=1e-4)


@pytest.mark.slow
def test_the_best_have_the_verdict_of_the_second_model_alone_and_the_rest_that_of_the_first(
    maker, undisturbed
):
    first, second = (candidates(undisturbed(model), "whole") for model in (FIRST, SECOND))
    summary = run(maker)
    ours = candidates(maker, summary["run_id"])
    refused = {name for name, candidate in second.items() if candidate.state == "failed"}
    assert refused == {"m-02", "m-08"}
    best = [name for name in first if name not in refused][:N]
    ahead = refused & set(list(first)[: list(first).index(best[-1])])
    assert ahead  # else nothing is tested of refusals
    assert set(ours) == set(first)
    for name, candidate in ours.items():
        before = first[name]
        said = {"model_id": before.model_id, "is_positive": before.is_positive}
        if name in best:
            assert_same_verdict(candidate, second[name])
            assert candidate.remarks == []
        else:
            assert_same_verdict(candidate, before)
        if name in [*best, *ahead]:
            told = candidate.first_verdict.model_dump()
            assert told.pop("score") == pytest.approx(before.score, abs=1e-4)
            assert told == said
        else:
            assert candidate.first_verdict is None
        if name in ahead:
            reason = "tight binding has no atomic levels for Th"
            assert candidate.remarks == [f"not judged again by tight-binding-edos: {reason}"]
    flips = Counter((first[name].is_positive, second[name].is_positive) for name in best)
    with open_store(maker.db) as store:
        stored = store.run(summary["run_id"])
        positive = store.candidates(stored.run_id, is_positive=True)
        expected = sorted(positive, key=lambda c: -c.score)
    assert stored.counts == {
        "screened": 12,
        "positive": len(expected),
        "rescored": N,
        "lost": flips[True, False],
        "won": flips[False, True],
        "refused": len(ahead),
    }
    assert flips[True, False] + flips[False, True] > 0
    assert stored.selection == [c.material_id for c in expected]
    assert (stored.model_id, stored.second_model_id) == tuple(
        model_id(Path(f)) for f in (FIRST, SECOND)
    )
    assert summary["counts"]["predicted"] == 12 + N


@pytest.mark.slow
def test_both_predictions_are_kept_and_not_made_again(maker):
    first = run(maker)["run_id"]
    again = run(maker)
    assert (again["counts"]["predicted"], again["counts"]["reused"]) == (0, 12 + N)
    assert documents(maker, again["run_id"]) == documents(maker, first)
    maker.rescore = 100
    more = run(maker)["run_id"]
    ours = candidates(maker, more)
    assert Counter(c.model_id for c in ours.values()) == {
        model_id(Path(FIRST)): 2,
        model_id(Path(SECOND)): 10,
    }
    with open_store(maker.db) as store:
        history = store.history("m-00")
    assert [p.model_id for p in history.predictions] == [model_id(Path(f)) for f in (FIRST, SECOND)]


def test_a_run_without_a_second_model_is_what_it_was(maker):
    maker.rescore = 0
    assert [job.name for job in maker.make().jobs] == ["prepare", "finish"]
    assert not {"rescore", "rescore_with"} & maker.parameters().keys()
    run_id = run(maker)["run_id"]
    with open_store(maker.db) as store:
        assert store.run(run_id).counts.keys() == {"screened", "positive"}
        assert store.run(run_id).second_model_id is None
    maker.rescore = 1
    assert [job.name for job in maker.make().jobs] == ["prepare", "rescore", "finish"]


# what is judged again if nobody says so


@pytest.mark.parametrize(
    ("checkpoint", "criterion", "n"),
    [
        (FIRST, "vb-gap", RESCORED),
        (FIRST, "steep-edge", RESCORED),
        (SECOND, "vb-gap", 0),
        (str(ZOO / "mat2spec-edos"), "vb-gap", 0),
        (str(ZOO / "springs-phdos"), "phonon-gap", 0),
    ],
)
def test_by_default_it_is_the_default_predictor_whose_best_are_judged_again(
    checkpoint, criterion, n
):
    maker = ScreeningFlowMaker(checkpoint=checkpoint, criterion=criterion)
    assert maker.parameters().get("rescore", 0) == n
    assert ("rescore" in [job.name for job in maker.make().jobs]) == (n > 0)


def test_all_are_judged_again_where_there_are_fewer(maker):
    maker.rescore = None
    seen = []
    with reporting_to(lambda stage, done, total: seen.append((stage, done, total))):
        counts = run(maker)["counts"]
    assert (counts["rescored"], counts["refused"], counts["screened"]) == (10, 2, 12)
    again = [(done, total) for stage, done, total in seen if stage == "rescored"]
    assert sum(done for done, _ in again) == 10
    assert {total for _, total in again} == {10}  # the bar ends, whatever was refused


# interruptions


class StoppedError(Exception):
    pass


def stopped(maker, run_id, at):
    """Run until a stage has been heard of so many times."""
    seen = Counter()

    def interrupt(stage, done, total):
        if (stage, seen[stage]) == at:
            raise StoppedError
        seen[stage] += 1

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, run_id)


@pytest.mark.slow
@pytest.mark.parametrize("at", [("scored", 0), ("rescored", 0), ("rescored", 1), ("rescored", 2)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(maker, undisturbed, at):
    whole = undisturbed(n=N)
    stopped(maker, "broken", at)
    note_interruption(maker.db, "broken")
    assert resumable_run(maker.db, maker.parameters()).run_id == "broken"
    with open_store(maker.db) as store:
        n_pending = store.run("broken").counts["pending"]
        assert n_pending > 0
        if at[0] == "rescored":
            assert n_pending == store.candidate_counts("broken")["pending"] <= N
            waiting = store.candidates("broken", state="pending")
            assert all(c.first_verdict and c.gap for c in waiting)
    run(maker, "broken")
    assert documents(maker, "broken") == documents(whole, "whole")
    with open_store(maker.db) as store, open_store(whole.db) as other:
        ours, theirs = store.run("broken"), other.run("whole")
        assert (ours.selection, ours.counts) == (theirs.selection, theirs.counts)
        assert ours.state == "done"
        assert predicted(store) == predicted(other)


@pytest.mark.slow
def test_a_choice_that_was_interrupted_goes_on_with_the_next(maker, undisturbed, monkeypatch):
    some = rescoring._chosen

    def breaks_off(*arguments):
        for candidate, _ in zip(some(*arguments), range(2), strict=False):
            yield candidate

    monkeypatch.setattr(rescoring, "_chosen", breaks_off)
    stopped(maker, "broken", ("rescored", 0))
    monkeypatch.setattr(rescoring, "_chosen", some)
    run(maker, "broken")
    assert documents(maker, "broken") == documents(undisturbed(n=N), "whole")


@pytest.mark.parametrize("db", ["embedded"], indirect=True)
def test_a_run_from_before_there_was_a_second_model_goes_on(maker, undisturbed):
    maker.rescore = 0
    stopped(maker, "old", ("scored", 1))
    with closing(sqlite3.connect(maker.db)) as connection:
        connection.execute("ALTER TABLE candidates DROP COLUMN first_verdict")
        connection.execute("ALTER TABLE runs DROP COLUMN second_model_id")
        connection.commit()
    maker.rescore = N
    with pytest.raises(ScreeningError, match="old differs in rescore, rescore_with"):
        resumable_run(maker.db, maker.parameters())
    maker.rescore = 0
    assert resumable_run(maker.db, maker.parameters()).run_id == "old"
    maker.rescore = None
    assert resumable_run(maker.db, maker.parameters(), RESCORING).run_id == "old"
    maker.rescore = 0
    run(maker, "old")
    assert documents(maker, "old") == documents(undisturbed(), "whole")


def test_resuming_with_other_options_names_the_difference(maker):
    stopped(maker, "broken", ("rescored", 1))
    maker.rescore = N + 1
    with pytest.raises(ScreeningError, match=r"broken differs in rescore$"):
        resumable_run(maker.db, maker.parameters())
    maker.rescore = 0
    with pytest.raises(ScreeningError, match="broken differs in rescore, rescore_with"):
        resumable_run(maker.db, maker.parameters())


def with_card(folder, **changes):
    card = folder / "sumnorm-kl.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


@pytest.mark.slow
def test_the_second_model_may_lie_elsewhere_but_not_change(maker, tmp_path):
    stopped(maker, "broken", ("rescored", 0))
    copy = tmp_path / "elsewhere" / Path(SECOND).name
    shutil.copytree(SECOND, copy)
    maker.rescore_with = str(copy)
    assert resumable_run(maker.db, maker.parameters()).run_id == "broken"
    assert run(maker, "broken")["counts"]["rescored"] == N
    stopped(maker, "again", ("scored", 0))

    def change(stage, done, total):
        if stage == "read":
            with_card(copy, weights_sha256="0" * 64)

    with pytest.raises(ScreeningError, match="has changed since it began"), reporting_to(change):
        run(maker, "again")
    with pytest.raises(ScreeningError, match="again differs in rescore_with"):
        resumable_run(maker.db, maker.parameters())


# what is refused


def test_wrong_second_models_are_told_before_anything_is_predicted(maker, tmp_path):
    maker.rescore = -1
    with pytest.raises(ScreeningError, match="--rescore -1: must be 0 or more"):
        maker.make()
    maker.rescore = N
    maker.rescore_with = FIRST
    with pytest.raises(ScreeningError, match=r"mat2spec-plus-edos: is the model of the run itself"):
        maker.make()
    maker.rescore = None  # by default there is none then
    assert "rescore" not in maker.parameters()
    maker.rescore = N
    copy = tmp_path / "copy" / Path(FIRST).name
    shutil.copytree(FIRST, copy)
    maker.rescore_with = str(copy)
    with pytest.raises(ScreeningError, match="is the model of the run itself"):
        run(maker)
    other = tmp_path / "other"
    shutil.copytree(SECOND, other)
    grid = json.loads((other / "sumnorm-kl.json").read_text())["grid"]
    with_card(other, grid=grid | {"start": -5.0})
    maker.rescore_with = str(other)
    with pytest.raises(ModelError, match="from -5 eV"):
        run(maker)
    with open_store(maker.db) as store:
        assert store.runs() == []


def test_a_lost_part_of_the_first_model_is_not_passed_over(maker, monkeypatch):
    monkeypatch.setattr("workflows.scoring.Scorer.keep", lambda *_: 0)
    with pytest.raises(ScreeningError, match="lost: 12 candidates have no prediction; resume it"):
        run(maker, "lost")


def test_a_failure_of_the_second_model_leaves_the_first_verdict(maker, undisturbed, monkeypatch):
    monkeypatch.setattr("models.predictor.SpectrumPredictor.refusals", lambda *_: {})
    maker.rescore = 12
    run_id = run(maker)["run_id"]
    found, first = candidates(maker, run_id), candidates(undisturbed(), "whole")
    for name in ("m-02", "m-08"):
        assert found[name].remarks[0].startswith("not judged again by tight-binding-edos: tight")
        assert_same_verdict(found[name], first[name])
        assert found[name].first_verdict.model_id == found[name].model_id
    with open_store(maker.db) as store:
        counts = candidate_counts(store, store.run(run_id))
    assert (counts["rescored"], counts["refused"], counts["screened"]) == (10, 2, 12)


# what else depends on the model


@pytest.mark.slow
def test_a_candidate_is_in_or_out_of_the_domain_of_the_model_that_judged_it(maker):
    maker.rescore = 12
    maker.checkpoint, maker.rescore_with = str(ZOO / "mat2spec-edos"), SECOND
    found = candidates(maker, run(maker)["run_id"])
    for candidate in found.values():
        model = candidate.model_id.rpartition("-")[0]
        unseen = trained_elements(model).unseen(candidate.elements)
        assert candidate.unseen_elements == unseen
        materials = load_training_materials(ZOO / model)
        percentile = candidate.training_percentile
        with open_store(maker.db) as store:
            (prediction,) = store.predictions([prediction_key(candidate, candidate.model_id)])
        assert percentile == materials.percentile(prediction.training_distance)
        outside = bool(unseen) or candidate.has_isolated_atoms or percentile > FAR
        assert candidate.out_of_domain == outside
        assert candidate.in_domain == ("no" if outside else "near" if percentile > NEAR else "yes")


@pytest.mark.slow
def test_dft_is_compared_with_the_prediction_whose_verdict_the_candidate_has(maker):
    run_id = run(maker)["run_id"]
    validating = ValidationFlowMaker(db=maker.db, dos_maker=AnalyticDosMaker())
    found = candidates(maker, run_id)
    with open_store(maker.db) as store:
        plan = plan_validation(store, store.run(run_id), "gpaw", RECIPE, n_random=12)
    for candidate in plan.todo:
        assert validate_here(validating, candidate)["state"] == "done"
    with open_store(maker.db) as store:
        calculated = {v.material_id: v for v in store.validations(run_id=run_id)}
        compared = agreements(store, run_id=run_id)
        for name, validation in calculated.items():
            candidate = found[name]
            assert validation.prediction_model_id == candidate.model_id
            key = (name, candidate.structure_hash, candidate.model_id)
            (prediction,) = store.predictions([key])
            expected = mae(np.array(prediction.spectrum), np.array(validation.spectrum))
            assert validation.mae == pytest.approx(expected, rel=1e-5)
    models = Counter(found[name].model_id for name in calculated)
    assert len(models) == 2
    counted = {
        a.model_id: a.true_positives + a.false_positives + a.true_negatives + a.false_negatives
        for a in compared
    }
    assert counted == models
