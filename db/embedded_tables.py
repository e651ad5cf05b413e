"""Columns, tables and indexes of the embedded store, made from the documents.

Each field of a document is a column, and so is each field of a gap in it. Texts that many documents
share, such as the run and the criteria, are kept once, in the table ``shared``; the column has
their number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_origin

from pydantic import BaseModel

from db.collections import COLLECTIONS, Collection, nested_models, without_none
from db.documents import FINISHED, GapDoc, MarginsDoc
from db.embedded_codecs import Codec, codec_of
from db.errors import StoreError
from db.store import WriteMode

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


def fields_of(columns: Iterable[Column], row: Sequence[Any], start: int = 0) -> dict[str, Any]:
    """Fields of a document or of a model in it from a row; spoilt values as they are.

    Parameters
    ----------
    columns : iterable of Column
        Whose inner ones follow them in the row.
    row : sequence
        What SQLite keeps.
    start : int
        Where the values of these columns begin.
    """
    raw: dict[str, Any] = {}
    for column in columns:
        value, decode = row[start], column.codec.decode
        if value is None:
            raw[column.field] = None
        elif column.inner and value == 1:
            raw[column.field] = fields_of(column.inner, row, start + 1)
        else:
            raw[column.field] = value if decode is None else decode(value)
        start += len(column.nothing)
    return raw


def _columns(collection: Collection[Any]) -> tuple[Column, ...]:
    """Columns of a collection, those of a model in it only on their own."""
    document: type[BaseModel] = collection.document
    shared, models = SHARED.get(collection.name, ()), nested_models(document)
    columns = [
        Column(
            name,
            name,
            codec_of(name, info.annotation),
            name in shared,
            _of_gap(name, models.get(name)),
        )
        for name, info in document.model_fields.items()
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
            codec_of(field, info.annotation),
            get_origin(without_none(info.annotation)) is dict,
            _of_gap(f"{name}_{field}", models.get(field)),
        )
        for field, info in model.model_fields.items()
    )


@dataclass(frozen=True)
class Table:
    """Columns of one collection, its SQL, and its rows.

    Parameters
    ----------
    collection : Collection
    """

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
        untouched = keys if mode == "replace" else (*keys, "created_at")
        update = ", ".join(
            f"{name} = COALESCE(excluded.{name}, {name})"
            if name == "structure" and mode != "replace"
            else f"{name} = excluded.{name}"
            for name in (column.name for column in self.columns)
            if name not in untouched
        )
        finished = ", ".join(f"'{state}'" for state in FINISHED)
        only = f" WHERE state NOT IN ({finished})" if mode == "unfinished" else ""
        return insert + f"DO UPDATE SET {update}{only}"

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

        Raises
        ------
        StoreError
            If a value is too large; it names the document.
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


def share(connection: sqlite3.Connection, columns: list[Column], rows: list[list[Any]]) -> None:
    """Keep the texts that rows share, and put their numbers into the rows.

    Parameters
    ----------
    connection : Connection
        In a transaction, so that a text is kept with what has its number.
    columns : list of Column
        Those of the rows, inner ones too.
    rows : list of list
        Changed in place.
    """
    shared = [i for i, column in enumerate(columns) if column.is_shared]
    bodies = sorted({row[i] for row in rows for i in shared} - {None})
    connection.executemany("INSERT OR IGNORE INTO shared (body) VALUES (?)", zip(bodies))
    number = "SELECT id FROM shared WHERE body = ?"
    numbers = {body: connection.execute(number, (body,)).fetchone()[0] for body in bodies}
    for row in rows:
        for i in shared:
            row[i] = numbers.get(row[i])
