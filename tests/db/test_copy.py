"""Copies between stores, and migrations."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from db import documents, migrations
from db.collections import CANDIDATES, COLLECTIONS, PREDICTIONS, Query
from db.copy import checksum, copy_store
from db.errors import StoreError
from db.migrations import Migration, migrate_store, rewrite
from db.mongodb import MongoStore
from db.open import open_store
from db.store import BATCH, ScreeningStore
from tests.db.db_examples import candidate, gap, prediction, run, validation


def fill(store: ScreeningStore) -> None:
    store.put_run(run())
    store.upsert_candidates(
        candidate(i, gap=gap() if i % 2 else None, score=-0.0) for i in range(30)
    )
    store.upsert_predictions(prediction(i) for i in range(30))
    reference = store.put_raw_dos({"energies": [0.1, 0.2], "densities": {"1": [1.0, 2.0]}})
    store.upsert_validations(validation(i, raw_dos=reference) for i in range(3))


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
        "raw_dos": (1, 1),
    }
    mine = list(source.find(Query(PREDICTIONS)))
    assert report["predictions"].checksum == checksum(mine) == checksum(mine[::-1])
    assert report["predictions"].checksum != checksum(mine[1:])
    again = copy_store(source, target)
    assert [copied.written for copied in again] == [0] * 5
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


# migrations


class KilledError(Exception):
    """Stands for a kill in the middle of a migration."""


def to_version_2(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE predictions ADD COLUMN label TEXT")
    connection.execute("UPDATE predictions SET label = formula || '!', schema_version = 2")


def to_version_3(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE predictions SET label = label || '?', schema_version = 3")


def with_label(suffix: str, version: int) -> Any:
    def change(raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"label": raw.get("label", raw["formula"]) + suffix}

    def migrate(store: MongoStore) -> None:
        rewrite(store, "predictions", version, change)

    return migrate


@pytest.fixture
def newer(monkeypatch) -> None:
    """A program of schema version 3."""
    steps = (
        Migration(2, to_version_2, with_label("!", 2)),
        Migration(3, to_version_3, with_label("?", 3)),
    )
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 3)


def test_an_embedded_store_is_migrated(tmp_path: Path, request) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.upsert_predictions(prediction(i) for i in range(5))
    assert migrate_store(path) == []
    request.getfixturevalue("newer")
    with pytest.raises(StoreError, match="screen db migrate"):
        open_store(path)
    assert migrate_store(path) == [2, 3]
    assert migrate_store(path) == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT label, schema_version FROM predictions").fetchall()
        assert rows == [("NaCl!?", 3)] * 5
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 3
    open_store(path).close()


def test_an_interrupted_migration_of_a_file_leaves_it_as_it_was(
    tmp_path: Path, newer: None, monkeypatch
) -> None:
    path = tmp_path / "store.sqlite"
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 1)
    with open_store(path) as store:
        store.upsert_predictions(prediction(i) for i in range(5))
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 3)

    def interrupted(connection: sqlite3.Connection) -> None:
        to_version_3(connection)
        raise KilledError

    second = migrations.MIGRATIONS[0]
    broken = (second, Migration(3, interrupted, with_label("?", 3)))
    whole = migrations.MIGRATIONS
    monkeypatch.setattr(migrations, "MIGRATIONS", broken)
    with pytest.raises(KilledError):
        migrate_store(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", whole)
    assert migrate_store(path) == [3]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT label FROM predictions").fetchall()
    assert rows == [("NaCl!?",)] * 5


@pytest.mark.mongo
def test_a_database_is_migrated_and_may_be_interrupted(
    fresh_mongo: str, newer: None, monkeypatch
) -> None:
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 1)
    with open_store(fresh_mongo) as store:
        store.upsert_predictions(prediction(i) for i in range(5))
    assert migrate_store(fresh_mongo) == []
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 3)
    with pytest.raises(StoreError, match="screen db migrate"):
        open_store(fresh_mongo)

    def interrupted(store: MongoStore) -> None:
        """Changes two of the five documents."""
        with pymongo.MongoClient(fresh_mongo) as client:
            predictions = client.get_default_database()["predictions"]
            for raw in list(predictions.find().limit(2)):
                update = {"$set": {"label": raw["label"] + "?", "schema_version": 3}}
                predictions.update_one({"_id": raw["_id"]}, update, bypass_document_validation=True)
        raise KilledError

    second = migrations.MIGRATIONS[0]
    broken = (second, Migration(3, to_version_3, interrupted))
    whole = migrations.MIGRATIONS
    monkeypatch.setattr(migrations, "MIGRATIONS", broken)
    with pytest.raises(KilledError):
        migrate_store(fresh_mongo)
    monkeypatch.setattr(migrations, "MIGRATIONS", whole)
    assert migrate_store(fresh_mongo) == [3]
    assert migrate_store(fresh_mongo) == []
    with pymongo.MongoClient(fresh_mongo) as client:
        database = client.get_default_database()
        rows = [(r["label"], r["schema_version"]) for r in database["predictions"].find()]
        assert database["screening_meta"].find_one()["ready"] is True
    assert rows == [("NaCl!?", 3)] * 5


def test_stores_that_cannot_be_migrated(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        migrate_store(tmp_path / "nothing.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("material_id\n" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        migrate_store(text)
    foreign = tmp_path / "foreign.sqlite"
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE songs (title)")
    with pytest.raises(StoreError, match="another program"):
        migrate_store(foreign)
    path = tmp_path / "store.sqlite"
    open_store(path).close()
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 2)
    with pytest.raises(StoreError, match="has schema version 1, and there is no migration to 2"):
        migrate_store(path)
    monkeypatch.setattr(documents, "SCHEMA_VERSION", 0)
    with pytest.raises(StoreError, match="install a newer version"):
        migrate_store(path)


@pytest.mark.mongo
def test_a_database_that_is_no_store_is_not_migrated(fresh_mongo: str) -> None:
    with pytest.raises(StoreError, match="not a store"):
        migrate_store(fresh_mongo)


def test_candidates_of_another_version_are_named(store: ScreeningStore, spoil) -> None:
    store.upsert_candidates([candidate(1)])
    spoil("candidates", "mp-1", "schema_version", 2)
    assert list(store.find(Query(CANDIDATES))) == []
    assert "schema_version" in store.problems[0].reason
