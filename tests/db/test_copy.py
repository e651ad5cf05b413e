"""Copies between stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db.collections import CANDIDATES, COLLECTIONS, PREDICTIONS, Query
from db.copy import checksum, copy_store
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
