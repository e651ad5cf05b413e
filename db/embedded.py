"""The embedded store: one SQLite file, for one machine.

Its tables are those of :mod:`db.embedded_tables`, in which a field is a column; structures are read
only by a reader who asks for them.

The file is in write-ahead-log mode: readers never wait, writers wait for each other. It needs a
local disk; a network file system cannot keep the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from db.collections import CANDIDATES, RUNS, Collection, D, Key, Query
from db.documents import VERDICT_FIELDS, Run, Verdict
from db.embedded_queries import (
    PAGE,
    decoder,
    expression,
    rows_of,
    select,
    select_count,
    select_counts,
    values_of,
)
from db.embedded_tables import TABLES, Column, Table, fields_of, share
from db.embedded_versions import (
    add_columns,
    check_origin,
    create,
    is_empty,
    is_older,
    migrate,
    missing_columns,
)
from db.errors import StoreError
from db.store import ScreeningStore, WriteMode
from db.waiting import Watch

BUSY_SECONDS = 60.0  # how long a writer waits for the others
LOG_PAGES = 16384  # 64 MB, a third of what is written to disk with the default of 4 MB

log = logging.getLogger(__name__)


class EmbeddedStore(ScreeningStore):
    """A store in one SQLite file, made where there is none.

    Parameters
    ----------
    path : Path
        Its folder is made too.
    read_only : bool
        Make and change nothing. A reader may stay for days: where the file has been replaced by
        another one it reads that, and where it is gone it says so.

    Raises
    ------
    StoreError
        If it cannot be read and written, is not a store, or is of another schema version.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        super().__init__(str(path), read_only)
        self.path = path
        self._inode: tuple[int, int] | None = None
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = os.getpid()
        self._closed = False
        self._inherited: list[sqlite3.Connection] = []
        self._watch = Watch(self.location)
        with _errors_in_words(self.location):
            self._connected()

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
                self._connection = None
            self._closed = True

    # reading

    def _find(self, query: Query[Any]) -> Iterator[dict[str, Any]]:
        table = TABLES[query.collection.name]
        sql, values = select(query, ["id"])
        with self._session() as connection:
            ids = array("q", (row[0] for row in connection.execute(sql, values)))
        columns = table.read(query.with_structure)
        for start in range(0, len(ids), PAGE):
            yield from self._page(table, columns, ids[start : start + PAGE])

    def _page(
        self, table: Table, columns: list[Column], ids: array[int]
    ) -> Iterator[dict[str, Any]]:
        sql = (
            f"SELECT id, {values_of(columns)} FROM {table.name} "
            "WHERE id IN (SELECT value FROM json_each(?))"
        )
        with self._session() as connection:
            rows = {row[0]: row for row in rows_of(connection, sql, [str(ids.tolist())])}
        for number in ids:
            if number in rows:
                yield fields_of(columns, rows[number], 1)

    def _lookup(
        self, collection: Collection[Any], keys: list[Key], without: frozenset[str]
    ) -> Iterator[dict[str, Any]]:
        table = TABLES[collection.name]
        columns = [column for name, column in table.fields.items() if name not in without]
        sql = f"SELECT {values_of(columns)} FROM {table.name} WHERE {table.by_key}"
        with self._session() as connection:
            rows = [row for key in keys for row in rows_of(connection, sql, key)]
        for row in rows:
            yield fields_of(columns, row)

    def _has(self, collection: Collection[Any], keys: list[Key]) -> set[Key]:
        table = TABLES[collection.name]
        sql = f"SELECT 1 FROM {table.name} WHERE {table.by_key}"
        with self._session() as connection:
            return {key for key in keys if connection.execute(sql, key).fetchone()}

    def _values(self, query: Query[Any], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        decoders = [decoder(query.collection, field) for field in fields]
        sql, values = select(query, [expression(query.collection, field) for field in fields])
        with self._session() as connection:
            rows = rows_of(connection, sql, values)
        if not any(decoders):
            return rows
        return [
            tuple(
                value if value is None or decode is None else decode(value)
                for value, decode in zip(row, decoders, strict=True)
            )
            for row in rows
        ]

    def count_by(self, query: Query[D], field: str) -> dict[Any, int]:
        """Documents that fulfil the conditions of a query, for each value of a field."""
        self._check_groupable(query.collection, field)
        sql, values = select_counts(query, field)
        decode = decoder(query.collection, field)
        with self._session() as connection:
            rows = rows_of(connection, sql, values)
        return {
            (value if value is None or decode is None else decode(value)): count
            for value, count in rows
        }

    def count(self, query: Query[D]) -> int:
        """Documents that fulfil the conditions of a query; its limit is not looked at."""
        sql, values = select_count(query)
        with self._session() as connection:
            row = connection.execute(sql, values).fetchone()
        return int(row[0])

    # writing

    def _write(self, collection: Collection[D], documents: list[D], mode: WriteMode) -> None:
        table = TABLES[collection.name]
        rows = table.rows(documents, table.fields)
        with self._transaction() as connection:
            _write_rows(connection, table, rows, mode)

    def _update_run(self, seen: Run, run: Run, fields: Sequence[str]) -> bool:
        with self._transaction() as connection:
            now = self.run(run.run_id)
            if any(getattr(now, name) != getattr(seen, name) for name in fields):
                return False
            changed = now.model_copy(update={name: getattr(run, name) for name in fields})
            table = TABLES[RUNS.name]
            _write_rows(connection, table, table.rows([changed], table.fields), "update")
        return True

    def _update_verdicts(self, verdicts: list[Verdict]) -> int:
        table = TABLES[CANDIDATES.name]
        rows = table.rows(verdicts, VERDICT_FIELDS)
        for row, verdict in zip(rows, verdicts, strict=True):
            row.extend(verdict.key)
        with self._transaction() as connection:
            share(connection, table.flat(VERDICT_FIELDS), rows)
            return connection.executemany(table.update(VERDICT_FIELDS), rows).rowcount

    # raw data

    def _put_blob(self, name: str, data: bytes) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (name, data))

    def _blob(self, name: str) -> bytes | None:
        with self._session() as connection:
            row = connection.execute("SELECT body FROM blobs WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def blobs(self) -> Iterator[str]:
        """Names of the raw data, in alphabetical order."""
        with self._session() as connection:
            names = connection.execute("SELECT name FROM blobs ORDER BY name").fetchall()
        for (name,) in names:
            yield name

    # the file

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone, with errors in the user's words."""
        if self._owner != os.getpid():  # another thread of the parent may hold the lock for ever
            self._lock = threading.RLock()
        with self._lock, _errors_in_words(self.location):
            yield self._connected()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what is written inside is kept when this returns."""
        with self._session() as connection:
            with self._watch:  # another process may be writing
                connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    connection.execute("ROLLBACK")
                raise

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"{self.location} is closed")
        if self.read_only:
            self._follow_file()
        if self._connection is not None and self._owner == os.getpid():
            return self._connection
        if self._connection is not None:  # after a fork; closing it would drop the parent's locks
            self._inherited.append(self._connection)
        self._connection = self._open()
        self._owner = os.getpid()
        return self._connection

    def _follow_file(self) -> None:
        """Let go of a file that is not the one of that name any more."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise StoreError(f"{self.location} is not there") from None
        inode = status.st_dev, status.st_ino
        if self._connection is not None and self._owner == os.getpid() and inode != self._inode:
            self._connection.close()
            self._connection = None
        self._inode = inode

    def _open(self) -> sqlite3.Connection:
        connection = self._file()
        try:
            if self.read_only:
                self._check_readable(connection)
            else:
                self._make_ready(connection)
            connection.execute("PRAGMA cache_size = -32768")  # KiB
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _file(self) -> sqlite3.Connection:
        if not self.read_only:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "ro" if self.read_only else "rwc"
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

    def _check_readable(self, connection: sqlite3.Connection) -> None:
        if is_empty(connection):
            raise StoreError(f"{self.location} holds no screening yet")
        check_origin(connection, self.location)
        if is_older(connection) or missing_columns(connection):
            raise StoreError(
                f"{self.location} was made by an older version of this program; "
                f"run `screen db migrate --db {self.location}` first"
            )

    def _make_ready(self, connection: sqlite3.Connection) -> None:
        if is_empty(connection):
            create(connection)
        check_origin(connection, self.location)
        self._set_up(connection)
        if is_older(connection):
            log.warning("%s: of an older version of this program; converting it", self.location)
            migrate(connection, self._watch)
        add_columns(connection)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        if _journal_mode(connection) != "wal":
            raise StoreError(
                f"{self.location}: this file system cannot keep a write-ahead log; "
                "use a local disk or MongoDB"
            )
        connection.execute("PRAGMA synchronous = FULL")


def _write_rows(
    connection: sqlite3.Connection, table: Table, rows: list[list[Any]], mode: WriteMode
) -> None:
    share(connection, table.columns, rows)
    connection.executemany(table.write(mode), rows)


@contextmanager
def _errors_in_words(location: str) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{location} {_reason(error)}") from error
    except OSError as error:
        raise StoreError(f"{location} cannot be made: {error.strerror}") from error


def _journal_mode(connection: sqlite3.Connection) -> str:
    """Switch to the write-ahead log, which SQLite does not wait for by itself.

    A loop of its own: to import tenacity takes 35 ms, and most commands open such a store.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            return mode
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _reason(error: sqlite3.Error) -> str:
    """What an SQLite error means for the user."""
    text = str(error)
    known = {
        "not a database": "is not a database; name another file",
        "malformed": "is damaged; restore it from a copy, or start a new one",
        "is full": "cannot grow: the disk is full; free space and run again with --resume",
        "unable to open": "cannot be opened; check that the folder exists and is writable",
        "readonly": "is read-only; check its permissions and those of its folder",
        "locked": f"has been locked by another process for {BUSY_SECONDS:.0f} s; "
        "end that process or run again with --resume",
        "disk I/O error": "cannot be read or written: disk I/O error; check the disk and its space",
    }
    for part, meaning in known.items():
        if part in text:
            return meaning
    return f"failed: {' '.join(text.split())}"
