"""The embedded store: one SQLite file, for one machine.

Each field of a document is a column: scalars as they are, lists and dicts as JSON text, spectra as
little-endian float32 blobs, times as milliseconds since 1970, structures as the numbers in them
(zlib-compressed JSON where they are more than numbers), which only a reader who asks for them
reads. A gap is a column for each of its fields. Texts that many documents share, such as the run
and the criteria, are kept once, in the table ``shared``; the column has their number.

The file is in write-ahead-log mode: readers never wait, writers wait for each other. It needs a
local disk; a network file system cannot keep the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import orjson
from pydantic import AwareDatetime, BaseModel

from db.collections import (
    CANDIDATES,
    COLLECTIONS,
    Collection,
    Condition,
    D,
    Key,
    Query,
    field_kind,
    field_type,
    nested_models,
    without_none,
)
from db.documents import VERDICT_FIELDS, GapDoc, MarginsDoc, Verdict
from db.errors import StoreError
from db.store import MAX_DOCUMENT, ScreeningStore, WriteMode, check_version
from db.structures import DOUBLE, SINGLE, StructureArrays
from db.waiting import Watch

APPLICATION_ID = 0x65444F53  # "eDOS" in the file's header
BUSY_SECONDS = 60.0  # how long a writer waits for the others
PAGE = 500  # documents that a reader takes at a time
LOG_PAGES = 16384  # 64 MB, a third of what is written to disk with the default of 4 MB
STRUCTURE_LEVEL = 1  # zlib: 3 times faster than the default, 10 % larger
FILE_VERSION = 2  # of the tables; 1: gaps as JSON, nothing shared
MIGRATED = (1,)  # versions of which the tables can be brought to the present one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

INDEXES = (
    "CREATE INDEX runs_newest ON runs (created_at)",
    "CREATE INDEX candidates_best ON candidates (run_id, is_positive, score)",
    "CREATE INDEX candidates_chemsys ON candidates (run_id, chemsys)",
    "CREATE INDEX candidates_work ON candidates (run_id, state, shard)",
    "CREATE INDEX validations_state ON validations (state)",
)
"""Those that a query of this program needs beside the keys: each costs bytes and time by row.

Of several that lead to a run, SQLite takes the one that was made last. That of the work has the
rows nearly as they lie in the file: a sort by hull energy is 2 to 10 times as fast by it.
"""

CREATE_SHARED = "CREATE TABLE shared (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE)"
SHARED = {"candidates": ("run_id", "model_id", "origin"), "predictions": ("model_id", "grid")}
"""Fields whose few different values are kept once."""

HEAVY = ("structure", "spectrum")
"""The last columns, so that what is before them is read without them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Codec:
    """How values of one kind are kept in a column."""

    sql_type: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


def _to_json(value: Any) -> str:
    # Not orjson's default=: a Ctrl-C that comes while it runs turns into orjson's TypeError.
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump() for item in value]
    return _of_allowed_size(orjson.dumps(value)).decode()


def _from_json(text: Any) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # the document's own checks say what is wrong


def _to_blob(spectrum: list[float]) -> bytes:
    return np.array(spectrum, "<f4").tobytes()


def _from_blob(blob: Any) -> Any:
    if not isinstance(blob, bytes) or len(blob) % 4:
        return blob
    return np.frombuffer(blob, "<f4").tolist()


def _to_structure_blob(structure: Mapping[str, Any]) -> bytes:
    arrays = StructureArrays.from_dict(structure)
    if arrays is not None:
        return _of_allowed_size(arrays.to_bytes())
    return zlib.compress(_of_allowed_size(orjson.dumps(structure)), STRUCTURE_LEVEL)


def _from_structure_blob(blob: Any) -> Any:
    try:
        if blob[:1] in (DOUBLE, SINGLE):
            return StructureArrays.from_bytes(blob)
        return orjson.loads(zlib.decompress(blob))
    except (zlib.error, TypeError, ValueError):
        return blob


def _to_milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MILLISECOND


def _from_milliseconds(value: Any) -> Any:
    try:
        return EPOCH + value * MILLISECOND
    except (TypeError, OverflowError):
        return value


def _to_bool(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _of_allowed_size(body: bytes) -> bytes:
    if len(body) > MAX_DOCUMENT:
        raise ValueError(f"has {len(body)} bytes, {MAX_DOCUMENT} are allowed")
    return body


TEXT = Codec("TEXT")
INTEGER = Codec("INTEGER")
REAL = Codec("REAL")
BOOL = Codec("INTEGER", None, _to_bool)
TIME = Codec("INTEGER", _to_milliseconds, _from_milliseconds)
JSON = Codec("TEXT", _to_json, _from_json)
SPECTRUM = Codec("BLOB", _to_blob, _from_blob)
STRUCTURE = Codec("BLOB", _to_structure_blob, _from_structure_blob)

OF_TYPES = {str: TEXT, int: INTEGER, float: REAL, bool: BOOL, AwareDatetime: TIME}
OF_FIELDS = {"spectrum": SPECTRUM, "structure": STRUCTURE}


def _codec(field: str, annotation: Any) -> Codec:
    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    return OF_FIELDS.get(field) or OF_TYPES.get(kind, JSON)


COLUMNS: dict[str, dict[str, Codec]] = {
    collection.name: {
        field: _codec(field, info.annotation)
        for field, info in collection.document.model_fields.items()
    }
    for collection in COLLECTIONS
}
"""The codec of each field of each collection."""


@dataclass(frozen=True)
class Column:
    """A field of a document, or of a model in it, and how it is kept.

    Parameters
    ----------
    name : str
        Such as ``"gap_width"``.
    field : str
        Of the document or model: ``"width"``.
    codec : Codec
    is_shared : bool
        It holds the number of a text.
    inner : tuple of Column
        Those of the fields of a model, which follow it; itself then only says that there is one.
    """

    name: str
    field: str
    codec: Codec
    is_shared: bool = False
    inner: tuple[Column, ...] = ()

    @property
    def flat(self) -> list[Column]:
        """It and its inner ones, in the order of the table."""
        return [self, *(column for inner in self.inner for column in inner.flat)]

    @property
    def sql_type(self) -> str:
        """Type of the column."""
        return "INTEGER" if self.is_shared or self.inner else self.codec.sql_type

    @property
    def value(self) -> str:
        """SQL of its value."""
        if self.is_shared:
            return f"(SELECT body FROM shared WHERE shared.id = {self.name})"
        return self.name

    @property
    def placeholder(self) -> str:
        """SQL of what is stored for a value."""
        return "(SELECT id FROM shared WHERE body = ?)" if self.is_shared else "?"

    @cached_property
    def nothing(self) -> tuple[None, ...]:
        """What it and its inner ones hold if there is no value."""
        return (None,) * len(self.flat)


def _encode(columns: Iterable[Column], values: Mapping[str, Any], row: list[Any]) -> None:
    """Add to a row what columns and their inner ones hold for the fields of a model.

    Raises
    ------
    ValueError
        If a value is too large.
    """
    for column in columns:
        value, encode = values[column.field], column.codec.encode
        if value is None:
            row.extend(column.nothing)
        elif column.inner:
            row.append(1)
            _encode(column.inner, value.__dict__, row)
        elif encode is None:
            row.append(value)
        else:
            try:
                row.append(encode(value))
            except ValueError as error:
                raise ValueError(f"{column.field} {error}") from None


def _decode(columns: Iterable[Column], row: Sequence[Any], start: int = 0) -> dict[str, Any]:
    """Fields of a model from a row, whose values begin at `start`; spoilt ones as they are."""
    raw: dict[str, Any] = {}
    for column in columns:
        value, decode = row[start], column.codec.decode
        if value is None:
            raw[column.field] = None
        elif column.inner and value == 1:
            raw[column.field] = _decode(column.inner, row, start + 1)
        else:
            raw[column.field] = value if decode is None else decode(value)
        start += len(column.nothing)
    return raw


def _columns(collection: Collection[Any]) -> tuple[Column, ...]:
    """Columns of a collection, those of a model in it only on their own."""
    codecs, shared = COLUMNS[collection.name].items(), SHARED.get(collection.name, ())
    document: type[BaseModel] = collection.document
    models = nested_models(document)
    columns = [
        Column(name, name, codec, name in shared, _of_gap(name, models.get(name)))
        for name, codec in codecs
    ]
    return tuple(sorted(columns, key=lambda column: column.name in HEAVY))


def _of_gap(name: str, model: type[BaseModel] | None) -> tuple[Column, ...]:
    """Columns of the fields of a gap or of its margins; none of another model."""
    if model is None or not issubclass(model, (GapDoc, MarginsDoc)):
        return ()
    models = nested_models(model)
    return tuple(
        Column(
            f"{name}_{field}",
            field,
            _codec(field, info.annotation),
            get_origin(without_none(info.annotation)) is dict,
            _of_gap(f"{name}_{field}", models.get(field)),
        )
        for field, info in model.model_fields.items()
    )


@dataclass(frozen=True)
class Table:
    """SQL for one collection."""

    collection: Collection[Any]

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.collection.name

    @cached_property
    def fields(self) -> dict[str, Column]:
        """The column of each field of the document."""
        return {column.field: column for column in _columns(self.collection)}

    @cached_property
    def columns(self) -> list[Column]:
        """All columns, in the order of the table."""
        return self.flat(self.fields)

    def flat(self, fields: Iterable[str]) -> list[Column]:
        """Columns of some fields, with their inner ones."""
        return [column for field in fields for column in self.fields[field].flat]

    def column(self, field: str) -> Column | None:
        """Column of a field, also of one in a gap; None of one that is inside a JSON text."""
        first, *path = field.split(".")
        column: Column | None = self.fields[first]
        for name in path:
            inner = {c.field: c for c in column.inner} if column is not None else {}
            column = inner.get(name)
        return column

    def create(self) -> str:
        """Statement that makes the table; what many keys share is last in their index."""
        keys = self.collection.key_fields
        columns = ", ".join(
            f"{column.name} {column.sql_type}{' NOT NULL' if column.name in keys else ''}"
            for column in self.columns
        )
        return f"CREATE TABLE {self.name} (id INTEGER PRIMARY KEY, {columns}, UNIQUE ({self._key}))"

    @cached_property
    def _key(self) -> str:
        keys = self.collection.key_fields
        return ", ".join(sorted(keys, key=lambda field: self.fields[field].is_shared))

    def write(self, mode: WriteMode) -> str:
        """Upsert of one row."""
        names = ", ".join(column.name for column in self.columns)
        values = ", ".join("?" * len(self.columns))
        insert = f"INSERT INTO {self.name} ({names}) VALUES ({values}) ON CONFLICT ({self._key}) "
        if mode == "insert":
            return insert + "DO NOTHING"
        keys = self.collection.key_fields
        untouched = (*keys, "created_at") if mode == "update" else keys
        update = ", ".join(
            f"{name} = COALESCE(excluded.{name}, {name})"
            if name == "structure" and mode == "update"
            else f"{name} = excluded.{name}"
            for name in (column.name for column in self.columns)
            if name not in untouched
        )
        return insert + f"DO UPDATE SET {update}"

    def update(self, fields: Iterable[str]) -> str:
        """Update of some fields of one row; the values of its key come last."""
        assignments = ", ".join(f"{column.name} = ?" for column in self.flat(fields))
        return f"UPDATE {self.name} SET {assignments} WHERE {self.by_key}"

    @cached_property
    def by_key(self) -> str:
        """WHERE clause for one document."""
        keys = (self.fields[field] for field in self.collection.key_fields)
        return " AND ".join(f"{column.name} = {column.placeholder}" for column in keys)

    def read(self, with_structure: bool) -> list[Column]:
        """Columns of the fields that a reader gets."""
        return [c for name, c in self.fields.items() if with_structure or name != "structure"]

    def rows(self, documents: Iterable[BaseModel], fields: Iterable[str]) -> list[list[Any]]:
        """Values of the columns of some fields for documents.

        Parameters
        ----------
        documents : iterable of BaseModel
            Of the collection, or parts of such that have its key.
        fields : iterable of str
        """
        columns, rows = [self.fields[field] for field in fields], []
        for document in documents:
            row: list[Any] = []
            try:
                _encode(columns, document.__dict__, row)
            except ValueError as error:
                key = ", ".join(self.collection.key(document))
                raise StoreError(f"{self.name} {key}: {error}") from None
            rows.append(row)
        return rows


TABLES = {collection.name: Table(collection) for collection in COLLECTIONS}


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
        sql, values = _select(query, ["id"])
        with self._session() as connection:
            ids = array("q", (row[0] for row in connection.execute(sql, values)))
        columns = table.read(query.with_structure)
        for start in range(0, len(ids), PAGE):
            yield from self._page(table, columns, ids[start : start + PAGE])

    def _page(
        self, table: Table, columns: list[Column], ids: array[int]
    ) -> Iterator[dict[str, Any]]:
        sql = (
            f"SELECT id, {_values_of(columns)} FROM {table.name} "
            "WHERE id IN (SELECT value FROM json_each(?))"
        )
        with self._session() as connection:
            rows = {row[0]: row for row in _rows(connection, sql, [str(ids.tolist())])}
        for number in ids:
            if number in rows:
                yield _decode(columns, rows[number], 1)

    def _lookup(
        self, collection: Collection[Any], keys: list[Key], without: frozenset[str]
    ) -> Iterator[dict[str, Any]]:
        table = TABLES[collection.name]
        columns = [column for name, column in table.fields.items() if name not in without]
        sql = f"SELECT {_values_of(columns)} FROM {table.name} WHERE {table.by_key}"
        with self._session() as connection:
            rows = [row for key in keys for row in _rows(connection, sql, key)]
        for row in rows:
            yield _decode(columns, row)

    def _has(self, collection: Collection[Any], keys: list[Key]) -> set[Key]:
        table = TABLES[collection.name]
        sql = f"SELECT 1 FROM {table.name} WHERE {table.by_key}"
        with self._session() as connection:
            return {key for key in keys if connection.execute(sql, key).fetchone()}

    def _values(self, query: Query[Any], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        decoders = [self._decoder(query.collection, field) for field in fields]
        sql, values = _select(query, [_expression(query.collection, field) for field in fields])
        with self._session() as connection:
            rows = _rows(connection, sql, values)
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
        where, values = _where(query)
        column = TABLES[query.collection.name].column(field)
        kept = column.name if column is not None else _expression(query.collection, field)
        counted = f"SELECT {kept} AS value FROM {query.collection.name}{where}"
        if field_kind(query.collection, field) == "list":
            each = f"json_each({_valid('listed.value')})"
            counted = f"SELECT item.value FROM ({counted}) AS listed, {each} AS item"
        sql = f"SELECT value, COUNT(*) FROM ({counted}) GROUP BY 1 ORDER BY 1"
        if column is not None and column.is_shared:
            body = "(SELECT body FROM shared WHERE shared.id = value)"
            sql = f"SELECT {body}, number FROM ({sql.replace('(*)', '(*) AS number')}) ORDER BY 1"
        decode = self._decoder(query.collection, field)
        with self._session() as connection:
            rows = _rows(connection, sql, values)
        return {
            (value if value is None or decode is None else decode(value)): count
            for value, count in rows
        }

    def _decoder(self, collection: Collection[Any], field: str) -> Callable[[Any], Any] | None:
        if field_type(collection, field) is bool:
            return _to_bool
        column = TABLES[collection.name].column(field)
        return None if column is None or column.codec is JSON else column.codec.decode

    def count(self, query: Query[D]) -> int:
        """Documents that fulfil the conditions of a query; its limit is not looked at."""
        where, values = _where(query)
        with self._session() as connection:
            row = connection.execute(
                f"SELECT COUNT(*) FROM {query.collection.name}{where}", values
            ).fetchone()
        return int(row[0])

    # writing

    def _write(self, collection: Collection[D], documents: list[D], mode: WriteMode) -> None:
        table = TABLES[collection.name]
        rows = table.rows(documents, table.fields)
        with self._transaction() as connection:
            _share(connection, table.columns, rows)
            connection.executemany(table.write(mode), rows)

    def _update_verdicts(self, verdicts: list[Verdict]) -> int:
        table = TABLES[CANDIDATES.name]
        rows = table.rows(verdicts, VERDICT_FIELDS)
        for row, verdict in zip(rows, verdicts, strict=True):
            row.extend(verdict.key)
        with self._transaction() as connection:
            _share(connection, table.flat(VERDICT_FIELDS), rows)
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
        if self._is_empty(connection):
            raise StoreError(f"{self.location} holds no screening yet")
        self._check_origin(connection)
        if _pragma(connection, "user_version") < FILE_VERSION or _missing_columns(connection):
            raise StoreError(
                f"{self.location} was made by an older version of this program; "
                f"run `screen db migrate --db {self.location}` first"
            )

    def _make_ready(self, connection: sqlite3.Connection) -> None:
        if self._is_empty(connection):
            self._create(connection)
        self._check_origin(connection)
        self._set_up(connection)
        if _pragma(connection, "user_version") < FILE_VERSION:
            log.warning("%s: of an older version of this program; converting it", self.location)
            with self._watch:  # another process may be doing it
                connection.execute("BEGIN IMMEDIATE")
            _migrate(connection)
        self._add_columns(connection)

    def _is_empty(self, connection: sqlite3.Connection) -> bool:
        objects = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        return not objects and not _pragma(connection, "application_id")

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables, unless another process was faster."""
        connection.execute("BEGIN IMMEDIATE")
        if self._is_empty(connection):
            connection.execute(CREATE_SHARED)
            for table in TABLES.values():
                connection.execute(table.create())
            for index in INDEXES:
                connection.execute(index)
            connection.execute("CREATE TABLE blobs (name TEXT PRIMARY KEY, body BLOB NOT NULL)")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
        connection.execute("COMMIT")

    def _add_columns(self, connection: sqlite3.Connection) -> None:
        """Add what the same schema version has got since: collections, fields that may be None.

        A program that does not know them yet goes on using the file.
        """
        if not _missing_columns(connection):
            return
        connection.execute("BEGIN IMMEDIATE")
        for name in _missing_tables(connection):  # another process may have been faster
            connection.execute(TABLES[name].create())
        for table, column in _missing_columns(connection):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.sql_type}")
        connection.execute("COMMIT")

    def _check_origin(self, connection: sqlite3.Connection) -> None:
        if _pragma(connection, "application_id") != APPLICATION_ID:
            raise StoreError(f"{self.location} is a database of another program; name another file")
        version = _pragma(connection, "user_version")
        check_version(self.location, FILE_VERSION if version in MIGRATED else version, FILE_VERSION)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        if _journal_mode(connection) != "wal":
            raise StoreError(
                f"{self.location}: this file system cannot keep a write-ahead log; "
                "use a local disk or MongoDB"
            )
        connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def _errors_in_words(location: str) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into StoreErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{location} {_reason(error)}") from error
    except OSError as error:
        raise StoreError(f"{location} cannot be made: {error.strerror}") from error


def _rows(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows of a query, also where a hand has put in text that is not UTF-8."""
    try:
        return connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        return connection.execute(sql, values).fetchall()


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


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _missing_tables(connection: sqlite3.Connection) -> list[str]:
    """Names of tables that the file does not have."""
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return [name for name in TABLES if name not in there]


def _missing_columns(connection: sqlite3.Connection) -> list[tuple[str, Column]]:
    """Tables and columns that the file does not have."""
    missing = []
    for name, table in TABLES.items():
        there = _names_of_columns(connection, name)
        missing += [(name, column) for column in table.columns if column.name not in there]
    return missing


def _names_of_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _share(connection: sqlite3.Connection, columns: list[Column], rows: list[list[Any]]) -> None:
    """Keep the texts that rows share, and put their numbers into the rows."""
    shared = [i for i, column in enumerate(columns) if column.is_shared]
    bodies = sorted({row[i] for row in rows for i in shared} - {None})
    connection.executemany("INSERT OR IGNORE INTO shared (body) VALUES (?)", zip(bodies))
    number = "SELECT id FROM shared WHERE body = ?"
    numbers = {body: connection.execute(number, (body,)).fetchone()[0] for body in bodies}
    for row in rows:
        for i in shared:
            row[i] = numbers.get(row[i])


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older version to the present one, all or nothing."""
    try:
        if _pragma(connection, "user_version") < FILE_VERSION:  # else another process was faster
            _rebuild(connection)
            connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _rebuild(connection: sqlite3.Connection) -> None:
    there = connection.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL")
    names = [(kind, name) for kind, name in there if kind == "index" or name in TABLES]
    for kind, name in names:
        if kind == "index":
            connection.execute(f"DROP INDEX {name}")
        else:
            connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    connection.execute(CREATE_SHARED)
    for table in TABLES.values():
        connection.execute(table.create())
        if ("table", table.name) in names:
            _take_over(connection, table)
            connection.execute(f"DROP TABLE old_{table.name}")
    for index in INDEXES:
        connection.execute(index)


def _take_over(connection: sqlite3.Connection, table: Table) -> None:
    """Write the rows of the table of version 1, in which a model is a JSON text."""
    names = _names_of_columns(connection, f"old_{table.name}")
    last, page = -1, f"SELECT * FROM old_{table.name} WHERE id > ? ORDER BY id LIMIT {PAGE}"
    while old := _rows(connection, page, [last]):
        values = [dict(zip(names, row, strict=True)) for row in old]
        rows = [
            [kept for column in table.fields.values() for kept in _kept(column, row)]
            for row in values
        ]
        _share(connection, table.columns, rows)
        connection.executemany(table.write("insert"), rows)
        last = old[-1][0]


def _kept(column: Column, row: Mapping[str, Any]) -> list[Any]:
    """Values of a column and its inner ones from a row of version 1."""
    value = row.get(column.field)
    if not column.inner:
        return [value]
    model = _from_json(value) if isinstance(value, (str, bytes)) else value
    if isinstance(model, dict):
        return [1, *(kept for inner in column.inner for kept in _of_json(inner, model))]
    return [value, *column.nothing[1:]]  # also what a hand has put there


def _of_json(column: Column, model: Mapping[str, Any]) -> list[Any]:
    """Values of a column and its inner ones from a model in JSON."""
    value = model.get(column.field)
    if column.inner:
        fields = value if isinstance(value, dict) else {}
        there = 1 if isinstance(value, dict) else None
        return [there, *(kept for inner in column.inner for kept in _of_json(inner, fields))]
    return [_to_json(value) if isinstance(value, (dict, list)) else value]


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


def _expression(collection: Collection[Any], field: str) -> str:
    """SQL of a field that :class:`Query` has checked."""
    table = TABLES[collection.name]
    if (column := table.column(field)) is not None:
        return column.value
    first, _, inner = field.partition(".")
    return f"json_extract({_valid(table.fields[first].value)}, '$.{inner}')"


def _valid(column: str) -> str:
    """SQL of a JSON column that is NULL where a hand has spoilt the JSON."""
    return f"CASE WHEN json_valid({column}) THEN {column} END"


def _values_of(columns: Iterable[Column]) -> str:
    """SQL of the values of columns and their inner ones."""
    return ", ".join(column.value for outer in columns for column in outer.flat)


def _select(query: Query[Any], expressions: list[str]) -> tuple[str, list[Any]]:
    """SELECT of a query and the values of its placeholders."""
    where, values = _where(query)
    order = "+id"
    if query.sort_by is not None:
        by = _expression(query.collection, query.sort_by)
        order = f"{by}{' DESC' if query.descending else ''}, id"
    limit = -1 if query.limit is None else query.limit
    sql = (
        f"SELECT {', '.join(expressions)} FROM {query.collection.name}{where} "
        f"ORDER BY {order} LIMIT ? OFFSET ?"
    )
    return sql, [*values, limit, query.skip]


def _where(query: Query[Any]) -> tuple[str, list[Any]]:
    """WHERE clause of a query and the values of its placeholders."""
    clauses, values = [], []
    for condition in query.conditions:
        clause, value = _clause(query.collection, condition)
        clauses.append(clause)
        values += [] if value is None else [value]
    return (" WHERE " + " AND ".join(clauses) if clauses else ""), values


def _clause(collection: Collection[Any], condition: Condition) -> tuple[str, Any]:
    """SQL of a condition, and the value of its placeholder; None if it has none."""
    field, value = _expression(collection, condition.field), condition.value
    column = TABLES[collection.name].column(condition.field)
    shared = column if column is not None and column.is_shared else None
    if value is None:
        kept = column.name if column is not None else field
        return f"{kept} IS {'NOT ' if condition.operator == '!=' else ''}NULL", None
    if condition.operator == "in":
        assert isinstance(value, (list, tuple, set, frozenset))
        listed = orjson.dumps([_plain(item) for item in value]).decode()
        among = "(SELECT value FROM json_each(?))"
        if shared is not None:
            field, among = shared.name, f"(SELECT id FROM shared WHERE body IN {among})"
        return f"{field} IN {among}", listed
    if condition.operator in ("has", "lacks"):
        exists = "EXISTS" if condition.operator == "has" else "NOT EXISTS"
        return f"{exists} (SELECT 1 FROM json_each({_valid(field)}) WHERE value = ?)", _plain(value)
    if condition.operator == "==" and shared is not None:
        return f"{shared.name} = {shared.placeholder}", _plain(value)
    operator = {"==": "=", "!=": "IS NOT"}.get(condition.operator, condition.operator)
    return f"{field} {operator} ?", _plain(value)


def _plain(value: Any) -> Any:
    return _to_milliseconds(value) if isinstance(value, datetime) else value
