"""Files of the embedded store that another version made, or another program."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from db.collections import CANDIDATES, COLLECTIONS, Query
from db.embedded import EmbeddedStore
from db.embedded_versions import FILE_VERSION
from db.errors import StoreError
from db.open import open_store
from tests.db.db_examples import (
    candidate,
    gap,
    of_version_1,
    prediction,
    round_document,
    run,
    validation,
    verdict,
)


def test_a_file_from_before_there_were_rounds_gets_their_table(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.put_run(run())
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE rounds")
    connection.commit()
    connection.close()
    for _ in range(2):
        with open_store(path) as store:
            store.put_round(round_document())
            assert store.rounds("run-1") == [round_document()]
            assert store.runs() == [run()]


def test_a_file_from_before_a_field_existed_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.put_run(run())
        store.upsert_candidates([candidate(1)])
    connection = sqlite3.connect(path)
    for column in ("cell_multiplicity", "reduction_problem"):
        connection.execute(f"ALTER TABLE candidates DROP COLUMN {column}")
    connection.commit()
    connection.close()
    reduced = candidate(2, cell_multiplicity=4)
    for _ in range(2):
        with open_store(path) as store:
            store.upsert_candidates([reduced])
            assert list(store.candidates("run-1", with_structure=True)) == [candidate(1), reduced]


def documents_of_version_1(path: Path) -> dict[str, list]:
    with open_store(path) as store:
        read = {c.name: list(store.find(Query(c, with_structure=True))) for c in COLLECTIONS}
        assert not store.problems
        return read


def test_a_file_of_version_1_is_converted(tmp_path: Path) -> None:
    path = of_version_1(tmp_path / "store.sqlite")
    judged = candidate(1).model_copy(update=verdict(1).model_dump(exclude={"gap"}))
    rejected = {"state": "rejected", "reason": "band gap", "structure": None, "shard": None}
    expected = {
        "runs": [run()],
        "candidates": [
            judged.model_copy(update={"gap": gap()}),
            candidate(2),
            candidate(3, gap=gap(margins=None)),
            candidate(4, **rejected),
        ],
        "predictions": [prediction(1), prediction(2, gap=None)],
        "validations": [validation(1)],
        "rounds": [round_document()],
    }
    assert documents_of_version_1(path) == expected
    assert documents_of_version_1(path) == expected  # opened again
    with contextlib.closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        assert connection.execute("PRAGMA user_version").fetchone()[0] == FILE_VERSION
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    open_store(tmp_path / "new.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "new.sqlite")) as connection:
        new = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    assert schema == new
    with open_store(path) as store:
        assert [c.material_id for c in store.find(Query(CANDIDATES, sort_by="gap.width"))] == [
            *("mp-2", "mp-4"),
            *("mp-1", "mp-3"),
        ]
        assert store.count_by(Query(CANDIDATES), "model_id") == {None: 3, "mat2spec-1": 1}


def test_a_reader_does_not_convert_a_file_of_version_1(tmp_path: Path) -> None:
    path = of_version_1(tmp_path / "store.sqlite")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="older version of this program; run `screen db migrate"):
        open_store(path, read_only=True)
    assert path.read_bytes() == before


def test_a_conversion_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch) -> None:
    path = of_version_1(tmp_path / "store.sqlite")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("db.embedded_versions._take_over", full)
        with pytest.raises(StoreError, match="the disk is full"):
            open_store(path)
    assert len(documents_of_version_1(path)["candidates"]) == 4


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (FILE_VERSION + 1, "install a newer version"),
        (0, "restore it from a copy"),
    ],
)
def test_another_schema_version(tmp_path: Path, version: int, message: str) -> None:
    path = tmp_path / "store.sqlite"
    open_store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_reader_asks_for_a_migration(embedded: EmbeddedStore) -> None:
    with sqlite3.connect(embedded.path) as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN parent")
    with pytest.raises(StoreError, match="older version of this program; run `screen db migrate"):
        open_store(embedded.path, read_only=True)
    open_store(embedded.path).close()
    open_store(embedded.path, read_only=True).close()
