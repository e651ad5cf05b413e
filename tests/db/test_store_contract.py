"""What both stores promise."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from db.collections import (
    CANDIDATES,
    PREDICTIONS,
    RUNS,
    VALIDATIONS,
    Condition,
    Query,
    conditions,
)
from db.documents import CandidateDoc, FirstVerdict, PredictionDoc, Run
from db.errors import StoreError
from db.open import open_store
from db.questions import find_candidates
from db.store import BATCH, ScreeningStore
from tests.db.db_examples import (
    START,
    candidate,
    gap,
    prediction,
    round_document,
    run,
    validation,
    verdict,
)


def ids(documents) -> list[str]:
    return [document.material_id for document in documents]


# round trips


def test_documents_come_back_as_they_went_in(store: ScreeningStore) -> None:
    store.put_run(run())
    store.upsert_candidates([candidate(gap=gap(), is_positive=True, score=0.1)])
    store.upsert_predictions([prediction()])
    store.upsert_validations([validation()])
    assert store.run("run-1") == run()
    (stored,) = store.candidates("run-1", with_structure=True)
    assert stored == candidate(gap=gap(), is_positive=True, score=0.1)
    assert list(store.predictions([prediction().key])) == [prediction()]
    assert list(store.validations()) == [validation()]


def test_documents_with_nothing_in_them_come_back(store: ScreeningStore) -> None:
    empty = CandidateDoc(run_id="r", material_id="m")
    queued = validation(
        state="queued", spectrum=None, grid=None, gap=None, raw_dos=None, run_ids=[], warnings=[]
    )
    store.upsert_candidates([empty])
    store.upsert_validations([queued])
    assert list(store.candidates("r", with_structure=True)) == [empty]
    assert list(store.validations()) == [queued]


def test_a_store_is_there_when_opened_again(uri: str) -> None:
    with open_store(uri) as store:
        store.put_run(run())
    with open_store(uri) as store:
        assert store.run("run-1") == run()


def test_structures_are_read_on_request_only(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate()])
    assert next(store.candidates("run-1")).structure is None
    assert next(store.candidates("run-1", with_structure=True)).structure is not None


# upserts


def test_writing_twice_changes_nothing(store: ScreeningStore) -> None:
    documents = [prediction(i) for i in range(BATCH + 50)]
    assert store.upsert_predictions(documents) == len(documents)
    assert store.upsert_predictions(documents) == len(documents)
    assert store.count(Query(PREDICTIONS)) == len(documents)
    assert sorted(ids(store.find(Query(PREDICTIONS)))) == sorted(ids(documents))


def test_of_two_documents_with_one_key_the_later_stays(store: ScreeningStore) -> None:
    store.upsert_predictions([prediction(score=1.0), prediction(score=2.0)])
    (stored,) = store.predictions([prediction().key])
    assert stored.score == 2.0


def test_a_prediction_keeps_its_first_time(store: ScreeningStore) -> None:
    store.upsert_predictions([prediction()])
    store.upsert_predictions([prediction(created_at=START + timedelta(days=1), score=7.0)])
    (stored,) = store.predictions([prediction().key])
    assert (stored.created_at, stored.score) == (START, 7.0)


def test_predictions_of_two_models_are_kept_apart(store: ScreeningStore) -> None:
    store.upsert_predictions([prediction(), prediction(model_id="gatgnn-1", score=9.0)])
    (stored,) = store.predictions([prediction(model_id="gatgnn-1").key])
    assert stored.score == 9.0
    assert store.count(Query(PREDICTIONS)) == 2


def test_a_candidate_without_structure_leaves_the_stored_one(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate()])
    store.upsert_candidates([candidate(structure=None, formula="ClNa")])
    (stored,) = store.candidates("run-1", with_structure=True)
    assert stored == candidate(formula="ClNa")


def test_what_a_first_model_said_is_kept_and_asked_for(store: ScreeningStore) -> None:
    said = [
        FirstVerdict(model_id="mat2spec-1", is_positive=bool(i % 2), score=float(i))
        for i in range(4)
    ]
    again = [candidate(i, first_verdict=first) for i, first in enumerate(said)]
    store.upsert_candidates([*again, candidate(9)])
    found = store.candidates("run-1", with_structure=True, sort_by="material_id")
    assert list(found) == [*again, candidate(9)]
    # a verdict leaves it as it is
    store.apply_verdicts([verdict(1, model_id="tight-binding-1")])
    for asked_for, names in (
        ([Condition("first_verdict", "==", None)], ["mp-9"]),
        ([Condition("first_verdict", "!=", None)], ["mp-0", "mp-1", "mp-2", "mp-3"]),
        ([Condition("first_verdict.is_positive", "==", True)], ["mp-1", "mp-3"]),
        ([Condition("first_verdict.score", ">", 1.0)], ["mp-2", "mp-3"]),
    ):
        asked = Query(CANDIDATES, tuple(asked_for), sort_by="material_id")
        assert [c.material_id for c in store.find(asked)] == names
        assert store.count(asked) == len(names)


def test_existing_candidates_can_be_left_alone(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1)])
    store.apply_verdicts([verdict(1)])
    store.upsert_candidates([candidate(1), candidate(2)], keep_existing=True)
    assert store.candidate_counts("run-1") == {"screened": 1, "pending": 1}


def test_batches_before_a_failing_source_are_kept(store: ScreeningStore) -> None:
    def source() -> Iterator[CandidateDoc]:
        yield from (candidate(i) for i in range(BATCH + 10))
        raise OSError("file ends here")

    with pytest.raises(OSError, match="file ends here"):
        store.upsert_candidates(source())
    assert store.candidate_counts("run-1") == {"pending": BATCH}


def test_a_document_of_another_sort_is_refused(store: ScreeningStore) -> None:
    with pytest.raises(StoreError, match="predictions take PredictionDoc, not CandidateDoc"):
        store.upsert(PREDICTIONS, [candidate()])  # type: ignore[list-item]


def test_nothing_to_write_is_nothing_written(store: ScreeningStore) -> None:
    assert store.upsert_predictions([]) == 0
    assert store.apply_verdicts([]) == 0
    assert store.has_predictions([]) == set()
    assert list(store.predictions([])) == []


# runs


def test_runs_are_listed_newest_first(store: ScreeningStore) -> None:
    for number in (2, 1, 3):
        store.put_run(run(f"run-{number}", created_at=START + timedelta(hours=number)))
    store.put_run(run("run-2", state="done"))
    assert [r.run_id for r in store.runs()] == ["run-3", "run-2", "run-1"]
    assert [r.run_id for r in store.runs("done")] == ["run-2"]


def test_an_unknown_run_is_named(store: ScreeningStore) -> None:
    for ask in (store.run, lambda run_id: store.change_run(run_id, lambda found: found)):
        with pytest.raises(StoreError, match="has no run 'run-7'"):
            ask("run-7")


def noting(name: str) -> Callable[[Run], Run]:
    """Change that adds a note to those of a run."""

    def change(found: Run) -> Run:
        notes = [*found.parameters.get("notes", []), name]
        return found.model_copy(update={"parameters": found.parameters | {"notes": notes}})

    return change


def test_changes_of_a_run_at_once_are_both_kept(store: ScreeningStore, uri: str) -> None:
    """Another process changes the run between the look at it and the write."""
    store.put_run(run())
    seen = []

    def slow(found: Run) -> Run:
        seen.append(found.parameters.get("notes"))
        if len(seen) == 1:
            with open_store(uri) as other:
                other.change_run("run-1", noting("other"))
                other.put_run(other.run("run-1").model_copy(update={"error": "theirs"}))
        return noting("own")(found)

    changed = store.change_run("run-1", slow)
    assert seen == [None, ["other"]]
    assert store.run("run-1") == changed == noting("own")(noting("other")(run(error="theirs")))


def test_a_change_leaves_other_fields_as_others_write_them(store: ScreeningStore) -> None:
    store.put_run(run(state="running", selection=["mp-1"]))

    def slow(found: Run) -> Run:
        store.put_run(found.model_copy(update={"state": "done", "counts": {"screened": 2}}))
        return noting("own")(found)

    store.change_run("run-1", slow)
    wanted = run(state="done", counts={"screened": 2}, selection=["mp-1"])
    assert store.run("run-1") == noting("own")(wanted)


def test_changes_of_a_run_by_threads_are_all_kept(uri: str) -> None:
    with open_store(uri) as store:
        store.put_run(run())
    at_once = threading.Barrier(3)

    def work(name: str) -> None:
        with open_store(uri) as own:
            at_once.wait()
            for i in range(10):
                own.change_run("run-1", noting(f"{name}-{i}"))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, "abc"))
    with open_store(uri) as store:
        notes = store.run("run-1").parameters["notes"]
    assert sorted(notes) == [f"{name}-{i}" for name in "abc" for i in range(10)]


def test_a_run_that_others_change_all_the_time(store: ScreeningStore, monkeypatch) -> None:
    monkeypatch.setattr("db.store.CHANGES", 3)
    store.put_run(run())

    def slow(found: Run) -> Run:
        store.put_run(noting("other")(found))
        return noting("own")(found)

    with pytest.raises(StoreError, match="run 'run-1' is changed by others all the time; try"):
        store.change_run("run-1", slow)
    assert store.run("run-1").parameters["notes"] == ["other"] * 3


def test_a_change_of_nothing_writes_nothing(store: ScreeningStore, monkeypatch) -> None:
    store.put_run(run())
    monkeypatch.setattr(store, "_update_run", None)
    assert store.change_run("run-1", lambda found: found) == run()


# candidates


def test_candidates_are_chosen_and_sorted(store: ScreeningStore) -> None:
    store.upsert_candidates(candidate(i) for i in range(40))
    store.upsert_candidates([candidate(1, run_id="run-2")])
    store.apply_verdicts(verdict(i, is_positive=i % 3 == 0) for i in range(0, 40, 2))
    store.apply_verdicts([verdict(39, state="failed", reason="no atoms", is_positive=None)])
    every = list(store.candidates("run-1"))
    assert len(every) == 40
    assert sorted(ids(store.candidates("run-1", state="failed"))) == ["mp-39"]
    assert len(list(store.candidates("run-1", state=("failed", "screened")))) == 21
    assert len(list(store.candidates("run-1", shard=3))) == 10
    positives = store.candidates("run-1", is_positive=True, sort_by="score", descending=True)
    assert ids(positives) == [f"mp-{i}" for i in range(36, -1, -6)]
    assert ids(store.candidates("run-1", sort_by="energy_above_hull", limit=2)) == ["mp-0", "mp-1"]
    assert ids(store.candidates("run-1", limit=0)) == []
    some = store.candidates("run-1", material_ids=["mp-3", "mp-5", "unknown"])
    assert sorted(ids(some)) == ["mp-3", "mp-5"]
    assert list(store.candidates("run-1", material_ids=[])) == []


def test_pages_of_an_order_are_the_whole_order(store: ScreeningStore) -> None:
    """Each candidate once, also where many have the same value."""
    store.upsert_candidates(candidate(i, structure=None, nsites=i // 40) for i in range(130))
    whole = ids(store.candidates("run-1", sort_by="nsites", descending=True))
    for size in (1, 7, 50, 130, 200):
        pages = [
            ids(
                store.candidates("run-1", sort_by="nsites", descending=True, limit=size, skip=first)
            )
            for first in range(0, 140, size)
        ]
        assert [len(page) for page in pages if page] == [
            min(size, 130 - first) for first in range(0, 130, size)
        ]
        assert [name for page in pages for name in page] == whole
    assert sorted(whole) == sorted(f"mp-{i}" for i in range(130))
    rest = store.candidates("run-1", sort_by="nsites", descending=True, skip=128)
    assert ids(rest) == whole[128:]


def test_none_sorts_first_and_is_never_less(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1), candidate(2, energy_above_hull=None)])
    assert ids(store.candidates("run-1", sort_by="energy_above_hull")) == ["mp-2", "mp-1"]
    low = Query(CANDIDATES, (Condition("energy_above_hull", "<", 1.0),))
    assert ids(store.find(low)) == ["mp-1"]
    unknown = Query(CANDIDATES, (Condition("energy_above_hull", "==", None),))
    assert ids(store.find(unknown)) == ["mp-2"]


def test_counts_and_shards(store: ScreeningStore) -> None:
    store.upsert_candidates(candidate(i) for i in range(25))
    store.upsert_candidates([candidate(99, shard=None, state="rejected", reason="magnetic")])
    store.apply_verdicts(verdict(i) for i in range(12))
    assert store.candidate_counts("run-1") == {"pending": 13, "screened": 12, "rejected": 1}
    assert store.candidate_counts("unknown") == {}
    assert store.shards("run-1") == [0, 1, 2]
    assert store.shards("run-1", "pending") == [1, 2]


def test_more_candidates_than_a_page_stream_in_order(store: ScreeningStore) -> None:
    store.upsert_candidates(candidate(i, structure=None) for i in range(1234))
    scores = [c.energy_above_hull for c in store.candidates("run-1", sort_by="energy_above_hull")]
    assert scores == sorted(scores)
    assert len(scores) == 1234


@pytest.mark.slow
def test_a_reader_may_write(store: ScreeningStore) -> None:
    store.upsert_candidates(candidate(i) for i in range(1100))
    seen = []
    for document in store.candidates("run-1", state="pending"):
        seen.append(document.material_id)
        if len(seen) % 100 == 3:
            store.apply_verdicts([verdict(int(document.material_id[3:]))])
            store.upsert_candidates([candidate(2000 + len(seen))])
    assert len(seen) == len(set(seen)) == 1100
    assert store.candidate_counts("run-1") == {"screened": 11, "pending": 1100}


# verdicts


def test_a_verdict_changes_only_its_fields(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1), candidate(2)])
    assert store.apply_verdicts([verdict(1)]) == 1
    first, second = store.candidates("run-1", with_structure=True, sort_by="material_id")
    said = {"state": "screened", "model_id": "mat2spec-1", "gap": gap(), "is_positive": True}
    said |= {"is_positive_per_atom": False, "score": 1.5}
    said |= {"probability": 0.75, "expected_error": 0.125}
    said |= {"unseen_elements": [], "out_of_domain": False, "in_domain": "yes"}
    said |= {"training_percentile": 12.5, "exceeds_training_cells": True}
    assert first == candidate(1).model_copy(update=said)
    assert second == candidate(2)


def test_a_verdict_on_an_unknown_candidate_does_nothing(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1)])
    assert store.apply_verdicts([verdict(1), verdict(2), verdict(1, run_id="run-2")]) == 1
    assert len(list(store.find(Query(CANDIDATES)))) == 1


def test_the_last_verdict_holds(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1)])
    store.apply_verdicts([verdict(1), verdict(1, state="failed", reason="NaN", is_positive=None)])
    (stored,) = store.candidates("run-1")
    assert (stored.state, stored.reason, stored.is_positive) == ("failed", "NaN", None)


# lookups


def test_keys_are_looked_up_in_batches(store: ScreeningStore) -> None:
    documents = [prediction(i) for i in range(2 * BATCH + 100)]
    store.upsert_predictions(documents)
    keys = [d.key for d in documents]
    absent = [("mp-1", "0" * 32, "mat2spec-1"), ("x", "y", "z"), ("mp-2", keys[2][1], "other")]
    assert store.has_predictions([*keys, *absent]) == set(keys)
    found = {d.key: d for d in store.predictions([*keys, *absent, keys[0]])}
    assert found == {d.key: d for d in documents}


def test_keys_of_the_wrong_shape_are_refused(store: ScreeningStore) -> None:
    with pytest.raises(StoreError, match=r"is not \(material_id, structure_hash, model_id\)"):
        store.has_predictions([("mp-1", "abc")])  # type: ignore[list-item]
    with pytest.raises(StoreError, match="not made of text"):
        list(store.predictions([("mp-1", {"$gt": ""}, "m")]))  # type: ignore[list-item]


# validations


def test_validations_are_chosen(store: ScreeningStore) -> None:
    store.upsert_validations(
        [
            validation(1),
            validation(2, state="failed", error="SCF did not converge", run_ids=["run-1", "run-2"]),
            validation(2, engine="vasp", run_ids=["run-2"]),
        ]
    )
    assert sorted(ids(store.validations(run_id="run-1"))) == ["mp-1", "mp-2"]
    assert sorted(ids(store.validations(run_id="run-2"))) == ["mp-2", "mp-2"]
    assert ids(store.validations(engine="vasp")) == ["mp-2"]
    assert ids(store.validations(state="failed")) == ["mp-2"]
    assert ids(store.validations(recipe="other")) == []
    assert ids(store.validations(material_ids=["mp-1"])) == ["mp-1"]


def test_a_finished_calculation_is_left_alone(store: ScreeningStore) -> None:
    done, magnetic = validation(1), validation(2, state="magnetic")
    failed = validation(3, state="failed", error="x", run_ids=["run-0", "run-1"])
    store.upsert_validations([done, magnetic, failed])
    nothing = {"spectrum": None, "grid": None, "gap": None, "raw_dos": None, "run_ids": ["run-2"]}
    queued = [validation(i, state="queued", **nothing) for i in range(1, 5)]
    later = validation(1, is_positive=True, run_ids=["run-3"])
    for documents in (queued, queued[:1], [later]):
        assert store.upsert_validations(documents, keep_finished=True) == len(documents)
    found = {v.material_id: v for v in store.validations()}
    assert found == {
        "mp-1": done.model_copy(update={"run_ids": ["run-1", "run-2", "run-3"]}),
        "mp-2": magnetic.model_copy(update={"run_ids": ["run-1", "run-2"]}),
        "mp-3": queued[2].model_copy(update={"run_ids": ["run-0", "run-1", "run-2"]}),
        "mp-4": queued[3],
    }
    store.upsert_validations([validation(4)], keep_finished=True)
    (finished,) = store.validations(material_ids=["mp-4"])
    assert finished == validation(4, run_ids=["run-1", "run-2"])


def test_what_is_finished_meanwhile_is_left_alone(store: ScreeningStore, monkeypatch) -> None:
    """A worker stores its result between the look at what is stored and the write."""
    queued = {"state": "queued", "spectrum": None, "grid": None, "gap": None}
    store.upsert_validations([validation(**queued)])
    lookup = store.lookup

    def and_then(collection, keys):
        found = list(lookup(collection, keys))
        store.upsert_validations([validation()])
        return iter(found)

    monkeypatch.setattr(store, "lookup", and_then)
    store.upsert_validations([validation(**queued, run_ids=["run-2"])], keep_finished=True)
    assert list(store.validations()) == [validation(run_ids=["run-1", "run-2"])]


def test_rounds_are_those_of_a_search_in_their_order(store: ScreeningStore) -> None:
    documents = [round_document(n, run_id) for run_id in ("run-1", "run-2") for n in (1, 2, 10)]
    for document in reversed(documents):
        store.put_round(document)
    assert store.rounds() == documents
    assert store.rounds("run-2") == documents[3:]
    store.put_round(documents[0].model_copy(update={"state": "done", "before": None}))
    again = store.rounds("run-1")[0]
    assert (again.state, again.before, again.after) == ("done", None, documents[0].after)


def test_a_material_has_a_history(store: ScreeningStore) -> None:
    store.put_run(run("new", created_at=START + timedelta(days=1)))
    store.put_run(run("old"))
    store.upsert_candidates([candidate(1, run_id=r) for r in ("new", "old", "lost")])
    store.upsert_candidates([candidate(2, run_id="new")])
    store.upsert_predictions(
        [prediction(created_at=START + timedelta(days=2)), prediction(model_id="gatgnn-1")]
    )
    store.upsert_validations([validation(1), validation(2)])
    history = store.history("mp-1")
    assert [r.run_id for r in history.runs] == ["old", "new"]
    assert [c.run_id for c in history.candidates] == ["lost", "old", "new"]
    assert [p.model_id for p in history.predictions] == ["gatgnn-1", "mat2spec-1"]
    assert ids(history.validations) == ["mp-1"]
    assert store.history("unknown").candidates == []


def test_a_history_may_be_of_the_newest_only(store: ScreeningStore) -> None:
    days = [START + timedelta(days=i) for i in range(4)]
    for i in (2, 0, 3, 1):
        store.put_run(run(f"run-{i}", created_at=days[i]))
        store.upsert_candidates([candidate(run_id=f"run-{i}")])
        store.upsert_predictions([prediction(model_id=f"model-{i}", created_at=days[i])])
        store.upsert_validations([validation(recipe=f"recipe-{i}", created_at=days[i])])
    store.upsert_candidates([candidate(run_id="lost")])
    for limit in (2, 9):
        history = store.history("mp-1", limit)
        last = [2, 3] if limit == 2 else [0, 1, 2, 3]
        runs = [c.run_id for c in history.candidates]
        assert runs == ["lost"] * (limit == 9) + [f"run-{i}" for i in last]
        assert [p.model_id for p in history.predictions] == [f"model-{i}" for i in last]
        assert [v.recipe for v in history.validations] == [f"recipe-{i}" for i in last]


# raw data


def test_a_raw_dos_comes_back(store: ScreeningStore) -> None:
    dos = {"efermi": 1.5, "energies": [0.1 * i for i in range(5000)], "densities": {"1": [0.5]}}
    reference = store.put_raw_dos(dos)
    assert store.put_raw_dos(dict(reversed(dos.items()))) == reference
    assert list(store.blobs()) == [reference["name"]]
    assert store.raw_dos(reference) == dos


def test_a_raw_dos_that_is_not_there_is_named(store: ScreeningStore) -> None:
    with pytest.raises(StoreError, match="has no raw DOS 'abc'"):
        store.raw_dos({"kind": "store", "name": "abc"})
    with pytest.raises(StoreError, match="has no raw DOS None"):
        store.raw_dos({})


def test_a_damaged_raw_dos_is_told(store: ScreeningStore) -> None:
    name = "f" * 64
    store._put_blob(name, b"not what it was")
    with pytest.raises(StoreError, match="damaged"):
        store.raw_dos({"name": name})


def test_a_raw_dos_with_nan_is_refused(store: ScreeningStore) -> None:
    with pytest.raises(StoreError, match="NaN"):
        store.put_raw_dos({"densities": [float("nan")]})


# documents that a hand has spoilt


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("score", "high", "score: Input should be a valid number"),
        ("schema_version", 99, "schema_version"),
        ("spectrum", [1.0, 2.0], "spectrum has 2 values|spectrum: Input should be a valid list"),
        ("gap", {"is_gap": "yes"}, "gap.is_gap"),
        ("grid", "none", "grid: "),
        ("created_at", "long ago", "created_at"),
    ],
)
def test_a_spoilt_document_is_left_out_and_named(
    store: ScreeningStore, spoil, field: str, value: object, reason: str
) -> None:
    store.upsert_predictions([prediction(1), prediction(2)])
    spoil("predictions", "mp-1", field, value)
    assert ids(store.find(Query(PREDICTIONS))) == ["mp-2"]
    assert ids(store.predictions([prediction(1).key, prediction(2).key])) == ["mp-2"]
    (problem,) = store.problems
    assert problem.key == ", ".join(prediction(1).key)

    assert re.search(reason, problem.reason)
    store.upsert(PREDICTIONS, [prediction(1)], "replace")
    assert sorted(ids(store.find(Query(PREDICTIONS)))) == ["mp-1", "mp-2"]


def test_a_spoilt_structure_is_named(store: ScreeningStore, spoil) -> None:
    store.upsert_candidates([candidate(1), candidate(2)])
    spoil("candidates", "mp-1", "structure", "gone")
    assert ids(store.candidates("run-1", with_structure=True)) == ["mp-2"]
    assert "structure" in store.problems[0].reason
    assert sorted(ids(store.candidates("run-1"))) == ["mp-1", "mp-2"]


def test_a_spoilt_run_cannot_be_opened(store: ScreeningStore, spoil) -> None:
    store.put_run(run())
    spoil("runs", "run-1", "state", "paused")
    with pytest.raises(StoreError, match=r"run 'run-1' is not readable: state: Input should be"):
        store.run("run-1")
    assert store.runs() == []


def test_spoilt_json_does_not_stop_a_query(store: ScreeningStore, spoil) -> None:
    store.upsert_candidates([candidate(1, gap=gap()), candidate(2, gap=gap())])
    spoil("candidates", "mp-1", "elements", "{")
    spoil("candidates", "mp-1", "gap", "{")
    asked = (Condition("elements", "has", "Na"), Condition("gap.width", ">", 1.0))
    assert ids(store.find(Query(CANDIDATES, asked))) == ["mp-2"]


def test_verdicts_from_before_kinds_and_margins_are_read(store: ScreeningStore, spoil) -> None:
    store.upsert_predictions([prediction()])
    store.upsert_candidates([candidate(gap=gap())])
    new = {"kind", "n_ranges", "margins", "robust", "is_gap_fine"}
    old = gap().model_dump(exclude=new)
    spoil("predictions", "mp-1", "gap", old)
    spoil("candidates", "mp-1", "gap", old)
    (read,) = store.predictions([prediction().key])
    assert read.gap == gap(**dict.fromkeys(new))
    assert ids(find_candidates(store, robust=True)) == []
    assert ids(find_candidates(store, sort_by="gap.margins.min_width")) == ["mp-1"]
    store.upsert_predictions([prediction()])
    assert list(store.predictions([prediction().key])) == [prediction()]


# several writers


def write_predictions(uri: str, numbers: range, barrier) -> None:
    with open_store(uri) as store:
        barrier.wait()
        store.upsert_predictions(prediction(i) for i in numbers)


FULL = bool(os.environ.get("SCREEN_TEST_FULL"))
WRITERS, WRITTEN = (8, 10_000) if FULL else (4, 2_000)


@pytest.mark.slow
def test_processes_write_the_same_documents(uri: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WRITERS)
    workers = [
        context.Process(target=write_predictions, args=(uri, range(WRITTEN), barrier))
        for _ in range(WRITERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WRITERS
    with open_store(uri) as store:
        stored: dict[tuple, PredictionDoc] = {d.key: d for d in store.find(Query(PREDICTIONS))}
        assert store.count(Query(PREDICTIONS)) == len(stored) == WRITTEN
    assert all(stored[prediction(i).key] == prediction(i) for i in range(0, WRITTEN, 97))


def test_threads_share_a_store(store: ScreeningStore) -> None:
    failures: list[Exception] = []

    def work(part: int) -> None:
        try:
            for i in range(part * 100, part * 100 + 100, 10):
                store.upsert_predictions(prediction(j) for j in range(i, i + 10))
                assert store.has_predictions([prediction(i).key])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count(Query(PREDICTIONS)) == 400


def use_inherited(store: ScreeningStore, numbers: range) -> None:
    store.upsert_predictions(prediction(i) for i in numbers)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_child_may_use_its_parents_store(store: ScreeningStore) -> None:
    store.upsert_predictions([prediction(0)])
    child = multiprocessing.get_context("fork").Process(
        target=use_inherited, args=(store, range(1, 50))
    )
    child.start()
    use_inherited(store, range(50, 100))
    child.join()
    assert child.exitcode == 0
    assert store.count(Query(PREDICTIONS)) == 100


# queries


def test_plain_fields_alone_are_those_of_the_documents(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(i, has_edos=[True, None][i % 2]) for i in range(7)])
    store.apply_verdicts([verdict(i) for i in range(3)])
    store.upsert_predictions([prediction(1)])
    of_run = conditions(run_id="run-1")
    fields = ("material_id", "has_edos", "energy_above_hull", "gap.width", "gap.is_gap")
    for query in (
        Query(CANDIDATES, of_run, "energy_above_hull", descending=True),
        Query(CANDIDATES, of_run, "energy_above_hull", limit=3, skip=2),
        Query(CANDIDATES, of_run, limit=0),
    ):
        assert store.values(query, fields) == [
            (
                c.material_id,
                c.has_edos,
                c.energy_above_hull,
                c.gap.width if c.gap else None,
                c.gap.is_gap if c.gap else None,
            )
            for c in store.find(query)
        ]
    assert store.values(Query(PREDICTIONS), ("created_at",)) == [(START,)]
    for field in ("elements", "structure", "gap"):
        with pytest.raises(StoreError, match=f"'{field}' is not a plain value"):
            store.values(Query(CANDIDATES), (field,))


def test_counting_by_a_field(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(i, has_edos=[True, False, None][i % 3]) for i in range(7)])
    query = Query(CANDIDATES, conditions(run_id="run-1"))
    assert store.count_by(query, "has_edos") == {True: 3, False: 2, None: 2}
    assert store.count_by(query, "chemsys") == {"Cl-Na": 7}
    store.upsert_candidates([candidate(7, elements=["Na"], remarks=None)])
    assert list(store.count_by(query, "elements").items()) == [("Cl", 7), ("Na", 8)]
    assert list(store.count_by(query, "has_edos")) == [None, False, True]
    assert list(store.count_by(query, "nsites")) == [2]
    assert store.count_by(query, "remarks") == {"a repair of its file": 7}
    store.apply_verdicts([verdict(1)])
    gaps = store.count_by(query, "gap.is_gap")
    assert gaps == {None: 7, True: 1}
    assert all(value is None or value is True for value in gaps)
    assert store.count(query) == 8


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((Condition("password", "==", "x"),), "have no field 'password'"),
        ((Condition("origin.source", "==", "x"),), "have no field 'origin.source'"),
        ((Condition("$where", "==", "1"),), "have no field"),
        ((Condition("score", "$gt", 1),), "no operator"),  # type: ignore[arg-type]
        ((Condition("score", "==", {"$gt": 0}),), "not a plain value"),  # type: ignore[arg-type]
        ((Condition("score", "<", float("nan")),), "not a finite number"),
        ((Condition("score", "<", None),), "None cannot be compared"),
        ((Condition("score", "in", [{"$ne": 1}]),), "not a plain value"),  # type: ignore[list-item]
        ((Condition("score", "in", 3.0),), "needs a list"),
        ((Condition("elements", "==", "Na"),), "does not work on a list"),
        ((Condition("gap", "==", "x"),), "only be compared with None"),
        ((Condition("formula", "==", "a\0"),), "is not text"),
        ((Condition("formula", "==", "\ud800"),), "is not text"),
        ((Condition("score", ">", "1"),), "'1' is not a number"),
        ((Condition("score", "==", True),), "True is not a number"),
        ((Condition("nsites", "in", [2, "2"]),), "'2' is not a number"),
        ((Condition("is_positive", "==", 1),), "1 is not True or False"),
        ((Condition("gap.is_gap", "!=", "yes"),), "'yes' is not True or False"),
        ((Condition("formula", "==", 5),), "5 is not text"),
        ((Condition("state", "in", ["pending", False]),), "False is not text"),
        ((Condition("elements", "has", 11),), "11 is not text"),
        ((Condition("elements", "lacks", None),), "None cannot be compared"),
    ],
)
def test_what_cannot_be_asked(asked: tuple[Condition, ...], message: str) -> None:
    with pytest.raises(StoreError, match=message.replace("$", r"\$")):
        Query(CANDIDATES, asked)


def test_values_have_the_type_of_their_field(store: ScreeningStore) -> None:
    store.upsert_candidates([candidate(1, gap=gap(), score=2.0, is_positive=True)])
    store.put_run(run())
    store.upsert_validations([validation()])
    for collection, condition in (
        (CANDIDATES, Condition("score", ">", 1)),
        (CANDIDATES, Condition("score", "in", [1, 2.0])),
        (CANDIDATES, Condition("nsites", "<", 2.5)),
        (CANDIDATES, Condition("gap.kind", "==", "near-gap")),
        (CANDIDATES, Condition("is_positive", "in", [True])),
        (CANDIDATES, Condition("schema_version", "==", 1)),
        (RUNS, Condition("created_at", "<=", START)),
        (VALIDATIONS, Condition("spectrum", "lacks", -1)),
    ):
        assert store.count(Query(collection, (condition,))) == 1
    for collection, condition, message in (
        (RUNS, Condition("created_at", "<", "2027-01-01"), "is not a time"),
        (RUNS, Condition("run_id", "==", START), "is not text"),
        (RUNS, Condition("funnel", "has", "hull"), "'hull' is not what it holds"),
        (VALIDATIONS, Condition("spectrum", "has", "1.0"), "is not a number"),
    ):
        with pytest.raises(StoreError, match=message):
            store.count(Query(collection, (condition,)))
    with pytest.raises(StoreError, match=r"'score': '0\.5' is not a number"):
        find_candidates(store, score=("0.5", None))


def test_orders_and_limits_that_cannot_be(store: ScreeningStore) -> None:
    with pytest.raises(StoreError, match="cannot sort by 'elements'"):
        Query(CANDIDATES, sort_by="elements")
    with pytest.raises(StoreError, match="limit must be"):
        Query(CANDIDATES, limit=-1)
    with pytest.raises(StoreError, match="skip must be"):
        Query(CANDIDATES, sort_by="score", skip=-1)
    with pytest.raises(StoreError, match="skip needs an order"):
        Query(CANDIDATES, skip=1)
    with pytest.raises(StoreError, match="cannot count by 'origin'"):
        store.count_by(Query(CANDIDATES), "origin")
    with pytest.raises(StoreError, match="cannot count by 'funnel'"):
        store.count_by(Query(RUNS), "funnel")


def test_a_closed_store_says_so(uri: str) -> None:
    store = open_store(uri)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.runs()


# readers


def test_a_reader_sees_what_others_write_and_writes_nothing(
    store: ScreeningStore, uri: str
) -> None:
    store.put_run(run())
    with open_store(uri, read_only=True) as reader:
        assert reader.runs() == [run()]
        store.upsert_candidates([candidate()])
        assert ids(reader.candidates("run-1")) == ["mp-1"]
        for write in (
            lambda: reader.put_run(run("run-2")),
            lambda: reader.change_run("run-1", noting("x")),
            lambda: reader.upsert_candidates([candidate(2)]),
            lambda: reader.apply_verdicts([verdict()]),
            lambda: reader.upsert_predictions([prediction()]),
            lambda: reader.upsert_validations([validation()]),
            lambda: reader.put_round(round_document()),
            lambda: reader.put_raw_dos({"a": 1.0}),
        ):
            with pytest.raises(StoreError, match="is open for reading only"):
                write()
    assert store.runs() == [run()]
    assert list(store.candidates("run-1", with_structure=True)) == [candidate()]
