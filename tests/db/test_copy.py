"""Copies between stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db.collections import CANDIDATES, COLLECTIONS, PREDICTIONS, Query
from db.copy import checksum, copy_store
from db.documents import Document, Run
from db.errors import StoreError
from db.open import open_store
from db.store import BATCH, ScreeningStore
from tests.db.db_examples import candidate, gap, prediction, round_document, run, validation


def fill(store: ScreeningStore) -> None:
    store.put_run(run())
    store.upsert_candidates(
        candidate(i, gap=gap() if i % 2 else None, score=-0.0) for i in range(30)
    )
    store.upsert_predictions(prediction(i) for i in range(30))
    reference = store.put_raw_dos({"energies": [0.1, 0.2], "densities": {"1": [1.0, 2.0]}})
    store.upsert_validations(validation(i, raw_dos=reference) for i in range(3))
    store.put_round(round_document())


def put(store: ScreeningStore, document: Document) -> None:
    (collection,) = (c for c in COLLECTIONS if c.document is type(document))
    store.upsert(collection, [document], "replace")


def everything(store: ScreeningStore) -> dict[str, dict[Any, Any]]:
    return {
        c.name: {c.key(d): d for d in store.find(Query(c, with_structure=True))}
        for c in COLLECTIONS
    }


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ScreeningStore]:
    with open_store(tmp_path / "other.sqlite") as store:
        yield store


@pytest.mark.parametrize("back", [False, True], ids=["to_file", "from_file"])
def test_a_copy_is_the_same(store: ScreeningStore, other: ScreeningStore, back: bool) -> None:
    source, target = (other, store) if back else (store, other)
    fill(source)
    report = {copied.name: copied for copied in copy_store(source, target)}
    assert everything(target) == everything(source)
    (name,) = source.blobs()
    assert target.raw_dos({"name": name}) == source.raw_dos({"name": name})
    written = {name: (copied.documents, copied.written) for name, copied in report.items()}
    assert written == {
        "runs": (1, 1),
        "candidates": (30, 30),
        "predictions": (30, 30),
        "validations": (3, 3),
        "rounds": (1, 1),
        "raw_dos": (1, 1),
    }
    mine = list(source.find(Query(PREDICTIONS)))
    assert report["predictions"].checksum == checksum(mine) == checksum(mine[::-1])
    assert report["predictions"].checksum != checksum(mine[1:])
    again = copy_store(source, target)
    assert [copied.written for copied in again] == [0] * len(again)
    assert [c.checksum for c in again] == [c.checksum for c in report.values()]


def test_a_copy_replaces_what_differs_and_keeps_the_rest(
    store: ScreeningStore, other: ScreeningStore
) -> None:
    store.upsert_predictions([prediction(1), prediction(2)])
    other.upsert_predictions([prediction(1, score=99.0), prediction(3)])
    report = {copied.name: copied for copied in copy_store(store, other)}
    assert report["predictions"].written == 2
    assert everything(other)["predictions"] == {
        d.key: d for d in (prediction(1), prediction(2), prediction(3))
    }


WITHOUT_RESULT = {
    "open": ("running", "pending", "queued", "scoring"),
    "failed": ("failed", "failed", "failed", "failed"),
}


@pytest.mark.parametrize("states", WITHOUT_RESULT.values(), ids=WITHOUT_RESULT)
@pytest.mark.parametrize("back", [False, True], ids=["to_file", "from_file"])
def test_a_copy_replaces_no_result_by_what_has_none(
    store: ScreeningStore, other: ScreeningStore, back: bool, states: tuple[str, ...]
) -> None:
    source, target = (other, store) if back else (store, other)
    of_run, of_candidate, of_validation, of_round = states
    put(source, run(state=of_run))
    put(source, candidate(1, state=of_candidate, reason=of_candidate, gap=None))
    put(source, validation(1, state=of_validation, spectrum=None, run_ids=["run-0"]))
    put(source, round_document(state=of_round))
    done = (
        run(state="done"),
        candidate(1, state="screened"),
        validation(1),
        round_document(state="done"),
    )
    for document in done:
        put(target, document)
    held = everything(target)
    copy_store(source, target)
    asked = validation(1, run_ids=["run-0", "run-1"])
    assert everything(target) == held | {"validations": {asked.key: asked}}
    assert {copied.written for copied in copy_store(source, target)} == {0}
    copy_store(target, source)  # what has a result replaces what has none
    assert everything(source) == everything(target)


def test_a_copy_keeps_what_its_source_does_not_know_of_a_run(
    store: ScreeningStore, other: ScreeningStore
) -> None:
    before = run(state="done", counts={"screened": 1})
    choices = {"validation_choices": [{"engine": "gpaw"}]}
    store.put_run(before)
    other.put_run(before.model_copy(update={"parameters": before.parameters | choices}))
    held = everything(other)
    copy_store(store, other)
    assert everything(other) == held
    copy_store(other, store)
    assert everything(store) == held
    assert {copied.written for copied in copy_store(store, other)} == {0}


def with_notes(*notes: Any, **changes: Any) -> Run:
    parameters = run().parameters | {"validation_choices": list(notes)}
    return run(**({"state": "done", "parameters": parameters} | changes))


def note(engine: str, *names: str) -> dict[str, Any]:
    return {"engine": engine, "recipe": "pbe", "ranked": {"best": list(names)}, "drawn": []}


@pytest.mark.parametrize("state", ["done", "running"])
def test_a_copy_brings_notes_on_choices_and_takes_none_away(
    store: ScreeningStore, other: ScreeningStore, state: str
) -> None:
    """Also where the target's run stays, since that of the source is not done."""
    store.put_run(with_notes(note("gpaw", "a", "b"), note("vasp", "c"), state=state))
    other.put_run(with_notes(note("vasp", "c", "d"), note("own", "e")))
    both = [note("vasp", "c", "d"), note("own", "e"), note("gpaw", "a", "b")]
    for written in (1, 0):
        assert copy_store(store, other)[0].written == written
        assert other.run("run-1") == with_notes(*both)
    more = note("gpaw", "a", "b", "f")  # chosen in the source since
    store.put_run(with_notes(more, note("vasp", "c"), state=state))
    for written in (1, 0):
        assert copy_store(store, other)[0].written == written
        assert other.run("run-1") == with_notes(*both[:2], more)


@pytest.mark.parametrize(
    "later", [{"in_domain": False}, {"n_random": 10}, {"n_random": 49}, {"n_best": 5}]
)
def test_a_later_note_with_the_same_names_comes_along(
    store: ScreeningStore, other: ScreeningStore, later: dict[str, Any]
) -> None:
    known = note("gpaw", "a") | {"in_domain": True, "n_random": None, "n_best": 0}
    if later == {"n_random": 49}:
        known |= {"n_random": 10}
    for first, second in ((known, known | later), (known | later, known)):
        store.put_run(with_notes(second))
        other.put_run(with_notes(first))
        for _ in range(2):
            copy_store(store, other)
            assert other.run("run-1") == with_notes(known | later)


@pytest.mark.parametrize("notes", [5, None, ["gpaw"], [{"engine": [1], "ranked": 3}]])
def test_notes_that_are_none_stop_no_copy(
    store: ScreeningStore, other: ScreeningStore, notes: Any
) -> None:
    store.put_run(run(parameters={"validation_choices": notes}))
    other.put_run(with_notes(note("gpaw", "a"), state="running"))
    copy_store(store, other)
    assert note("gpaw", "a") in other.run("run-1").parameters["validation_choices"]
    assert copy_store(store, other)[0].written == 0


def test_a_calculation_on_the_targets_launchpad_stays_there(
    store: ScreeningStore, other: ScreeningStore
) -> None:
    """An archive knows nothing of jobs; what has failed here is no more on a launchpad."""
    open_here = {"state": "queued", "spectrum": None}
    put(other, validation(3, **(open_here | {"state": "failed"})))
    put(store, validation(3, **(open_here | {"state": "failed", "job_uuids": []})))
    put(other, validation(1, **open_here))
    put(other, validation(2, **(open_here | {"state": "failed"})))
    for i in (1, 2):
        put(store, validation(i, **open_here, job_uuids=[]))
    for written in (1, 0):
        assert {c.name: c for c in copy_store(store, other)}["validations"].written == written
        jobs = {v.material_id: (v.state, v.job_uuids) for v in other.validations()}
        queued = {"mp-1": ("queued", ["6f1c"]), "mp-2": ("queued", [])}
        assert jobs == queued | {"mp-3": ("failed", ["6f1c"])}


@pytest.mark.slow
def test_an_interrupted_copy_goes_on(store: ScreeningStore, other: ScreeningStore) -> None:
    store.upsert_predictions(prediction(i) for i in range(BATCH + 500))

    def interrupt(name: str, done: int) -> None:
        if name == "predictions":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(store, other, interrupt)
    assert other.count(Query(PREDICTIONS)) == BATCH
    done: list[tuple[str, int]] = []
    report = {c.name: c for c in copy_store(store, other, lambda *step: done.append(step))}
    assert report["predictions"].written == 500
    assert [step for step in done if step[0] == "predictions"] == [
        ("predictions", BATCH),
        ("predictions", BATCH + 500),
    ]


def test_a_copy_that_does_not_arrive_is_told(
    store: ScreeningStore, other: ScreeningStore, monkeypatch
) -> None:
    fill(store)
    monkeypatch.setattr(other, "upsert", lambda collection, documents, mode: 0)
    with pytest.raises(StoreError, match=r"runs: .* has 0 of the 1 documents"):
        copy_store(store, other)


def test_unreadable_documents_are_counted(
    store: ScreeningStore, other: ScreeningStore, spoil
) -> None:
    store.upsert_predictions([prediction(1), prediction(2)])
    spoil("predictions", "mp-1", "score", "high")
    report = {copied.name: copied for copied in copy_store(store, other)}
    assert (report["predictions"].documents, report["predictions"].unreadable) == (1, 1)
    assert store.problems[0].key.startswith("mp-1")


def test_candidates_of_another_version_are_named(store: ScreeningStore, spoil) -> None:
    store.upsert_candidates([candidate(1)])
    spoil("candidates", "mp-1", "schema_version", 2)
    assert list(store.find(Query(CANDIDATES))) == []
    assert "schema_version" in store.problems[0].reason
