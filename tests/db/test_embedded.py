"""The embedded store: its file, and what it survives."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from db.collections import CANDIDATES, PREDICTIONS, RUNS, Query
from db.embedded import EmbeddedStore
from db.errors import StoreError
from db.open import open_store
from db.store import BATCH
from tests.db.db_examples import candidate, prediction, run, verdict

FULL = bool(os.environ.get("SCREEN_TEST_FULL"))
KILLS = 200 if FULL else 10


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_is_shared_by_a_batch_that_was_not_kept_is_no_trap(embedded) -> None:
    """Its texts are undone with it, so that nobody may remember their numbers."""
    connection = embedded._connected()
    connection.execute("PRAGMA max_page_count = 30")
    with pytest.raises(StoreError, match="full"):
        embedded.upsert_candidates(candidate(i, run_id="lost") for i in range(BATCH))
    connection.execute("PRAGMA max_page_count = 100000")
    embedded.upsert_candidates([candidate(1, run_id="run-2"), candidate(1, run_id="run-1")])
    assert [c.run_id for c in embedded.find(Query(CANDIDATES))] == ["run-2", "run-1"]
    assert embedded.count_by(Query(CANDIDATES), "run_id") == {"run-1": 1, "run-2": 1}


def test_folders_are_made(tmp_path: Path) -> None:
    with open_store(tmp_path / "a" / "b" / "store.sqlite") as store:
        store.put_run(run())
    assert (tmp_path / "a" / "b" / "store.sqlite").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.write_text("material_id,formula\n" * 100), "is not a database"),
        (lambda path: path.write_bytes(random.Random(0).randbytes(8192)), "is not a database"),
    ],
)
def test_what_is_no_store(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "store.sqlite"
    make(path)
    with pytest.raises(StoreError, match=message) as error:
        open_store(path)
    assert str(path) in one_line(error)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made") as error:
        open_store(tmp_path / "file" / "store.sqlite")
    one_line(error)


def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(StoreError, match=r"cannot be (made|opened)") as error:
        open_store("/proc/store.sqlite")
    one_line(error)


def test_names_that_are_no_store() -> None:
    with pytest.raises(StoreError, match="no name"):
        open_store(" ")
    with pytest.raises(StoreError, match="unknown scheme") as error:
        open_store("postgres://ann:secret@host/db")
    assert "secret" not in str(error.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.upsert_predictions(prediction(i) for i in range(200))
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(0).randbytes(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged") as error, open_store(path) as store:
        list(store.find(Query(PREDICTIONS)))
    one_line(error)


def test_a_listing_does_not_read_structures(tmp_path: Path) -> None:
    huge = {"sites": [[x] for x in np.random.default_rng(0).random(20_000).tolist()]}
    with EmbeddedStore(tmp_path / "store.sqlite") as store:
        store.upsert_candidates([candidate(structure=huge)])
        read: list[str] = []
        store._connected().set_trace_callback(read.append)
        assert len(list(store.candidates("run-1"))) == 1
        assert not any("structure," in sql or sql.endswith("structure") for sql in read)
        assert next(store.candidates("run-1", with_structure=True)).structure == huge


# a full disk


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with EmbeddedStore(path) as store:
        connection = store._connected()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 600}")
        with pytest.raises(StoreError, match=r"the disk is full.*--resume") as error:
            store.upsert_predictions(prediction(i) for i in range(10 * BATCH))
        one_line(error)
        kept = store.count(Query(PREDICTIONS))
        assert 0 < kept < 10 * BATCH
        assert kept % BATCH == 0
        connection.execute("PRAGMA max_page_count = 1000000")
        store.upsert_predictions(prediction(i) for i in range(3 * BATCH))
        assert store.count(Query(PREDICTIONS)) == 3 * BATCH


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_keeps_what_was_written(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 500_000)
    path = small_disk / "store.sqlite"
    with open_store(path) as store:
        with pytest.raises(StoreError, match="disk") as error:
            store.upsert_predictions(prediction(i) for i in range(10 * BATCH))
        one_line(error)
        kept = store.count(Query(PREDICTIONS))
        filler.unlink()
        store.upsert_predictions([prediction(100_000)])
        assert store.count(Query(PREDICTIONS)) == kept + 1


def fill(path: Path, limit: int, results) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with open_store(path) as store:
            store.upsert_predictions(prediction(i) for i in range(5 * BATCH))
        results.put("written")
    except StoreError as error:
        results.put(str(error))


def test_a_file_size_limit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    open_store(path).close()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    worker = context.Process(target=fill, args=(path, 300_000, results))
    worker.start()
    worker.join()
    assert "disk" in results.get()
    with open_store(path) as store:
        assert list(store.find(Query(PREDICTIONS))) == []
        store.upsert_predictions([prediction()])


# kill -9


def write_until_killed(path: Path, part: int, first: int, log: Path) -> None:
    """Write batches of predictions and verdicts and note each that the store acknowledged."""
    acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open_store(path) as store:
        for batch in range(first, 10**5):
            numbers = range(part * 10**6 + batch * 7, part * 10**6 + batch * 7 + 7)
            store.upsert_predictions(prediction(i) for i in numbers)
            store.apply_verdicts([verdict(batch % 20, run_id=f"run-{part}", score=float(batch))])
            os.write(acknowledged, f"{batch}\n".encode())


@pytest.mark.slow
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    context = multiprocessing.get_context("fork")
    generator = random.Random(0)
    with open_store(path) as store:
        for part in range(4):
            store.upsert_candidates(candidate(i, run_id=f"run-{part}") for i in range(20))
    batches = [0] * 4
    for _ in range(KILLS):
        logs = [tmp_path / f"log-{part}" for part in range(4)]
        workers = [
            context.Process(target=write_until_killed, args=(path, part, batches[part], logs[part]))
            for part in range(4)
        ]
        for worker in workers:
            worker.start()
        wait_for_one_of(logs)
        time.sleep(generator.random() * 0.1)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
        for part, log in enumerate(logs):
            if log.exists():
                batches[part] = max([batches[part], *(1 + int(x) for x in log.read_text().split())])
                log.unlink()
        check_after_a_kill(path, batches)
    assert sum(batches) >= KILLS


def wait_for_one_of(logs: list[Path]) -> None:
    """Until something is acknowledged; the other processes may be opening the store."""
    deadline = time.monotonic() + 60
    while not any(log.exists() and log.stat().st_size for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_after_a_kill(path: Path, batches: list[int]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    with open_store(path) as store:
        keys = [
            prediction_key(part * 10**6 + number)
            for part, count in enumerate(batches)
            for number in range(count * 7)
        ]
        assert store.has_predictions(keys) == set(keys)
        assert store.count(Query(PREDICTIONS)) % 7 == 0
        assert len(list(store.predictions(keys[-50:]))) == len(keys[-50:])
        assert not store.problems
        for part, count in enumerate(batches):
            if count:
                (last,) = store.candidates(f"run-{part}", material_ids=[f"mp-{(count - 1) % 20}"])
                assert last.score is not None
                assert last.score >= count - 1


def prediction_key(number: int) -> tuple[str, str, str]:
    return f"mp-{number}", f"{number:032x}", "mat2spec-1"


def test_processes_open_a_new_store_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=open_and_write, args=(path, i)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    with open_store(path) as store:
        assert store.count(Query(PREDICTIONS)) == 8


def open_and_write(path: Path, number: int) -> None:
    with open_store(path) as store:
        store.upsert_predictions([prediction(number)])


# readers


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.sqlite is not there"):
        open_store(tmp_path / "store.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store.sqlite").touch()
    with pytest.raises(StoreError, match="holds no screening yet"):
        open_store(tmp_path / "store.sqlite", read_only=True)
    assert (tmp_path / "store.sqlite").stat().st_size == 0


def test_sqlite_itself_refuses_what_a_reader_writes(embedded: EmbeddedStore) -> None:
    embedded.put_run(run())
    with open_store(embedded.path, read_only=True) as reader:
        for write in (
            lambda: reader._write(RUNS, [run("run-2")], "update"),
            lambda: reader._update_verdicts([verdict()]),
            lambda: reader._put_blob("name", b"data"),
        ):
            with pytest.raises(StoreError, match="is read-only"):
                write()
    assert embedded.runs() == [run()]


def test_a_reader_follows_the_name_of_its_file(tmp_path: Path) -> None:
    path, aside = tmp_path / "store.sqlite", tmp_path / "aside.sqlite"
    with open_store(path) as store:
        store.put_run(run())
    with open_store(path, read_only=True) as reader:
        assert reader.runs() == [run()]
        path.rename(aside)
        with pytest.raises(StoreError, match=r"store\.sqlite is not there"):
            reader.runs()
        with open_store(path) as store:
            store.put_run(run("run-2"))
        assert reader.runs() == [run("run-2")]
        aside.rename(path)
        assert reader.runs() == [run()]
