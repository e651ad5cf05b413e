"""The file of the embedded store, by version: made, recognised, and brought to the present one."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from db.embedded_codecs import from_json, to_json
from db.embedded_queries import PAGE, rows_of
from db.embedded_tables import CREATE_SHARED, INDEXES, TABLES, Column, Table, share
from db.errors import StoreError
from db.store import check_version
from db.waiting import Watch

APPLICATION_ID = 0x65444F53  # "eDOS" in the file's header
FILE_VERSION = 2  # of the tables; 1: gaps as JSON, nothing shared
MIGRATED = (1,)  # versions of which the tables can be brought to the present one


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nobody has made anything in a file.

    Parameters
    ----------
    connection : Connection
    """
    objects = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    return not objects and not _pragma(connection, "application_id")


def create(connection: sqlite3.Connection) -> None:
    """Make the tables, unless another process was faster.

    Parameters
    ----------
    connection : Connection
    """
    connection.execute("BEGIN IMMEDIATE")
    if is_empty(connection):
        connection.execute(CREATE_SHARED)
        for table in TABLES.values():
            connection.execute(table.create())
        for index in INDEXES:
            connection.execute(index)
        connection.execute("CREATE TABLE blobs (name TEXT PRIMARY KEY, body BLOB NOT NULL)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
    connection.execute("COMMIT")


def check_origin(connection: sqlite3.Connection, location: str) -> None:
    """Refuse a file that no version of this program made that is known here.

    Parameters
    ----------
    connection : Connection
    location : str
        Of the file.

    Raises
    ------
    StoreError
        If another program made it, or a version whose tables cannot be brought to the present one.
    """
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(f"{location} is a database of another program; name another file")
    version = _pragma(connection, "user_version")
    check_version(location, FILE_VERSION if version in MIGRATED else version, FILE_VERSION)


def is_older(connection: sqlite3.Connection) -> bool:
    """Whether :func:`migrate` has something to do.

    Parameters
    ----------
    connection : Connection
        Of a file that :func:`check_origin` has let pass.
    """
    return _pragma(connection, "user_version") < FILE_VERSION


def missing_columns(connection: sqlite3.Connection) -> list[tuple[str, Column]]:
    """Tables and columns that a file does not have.

    Parameters
    ----------
    connection : Connection
    """
    missing = []
    for name, table in TABLES.items():
        there = _names_of_columns(connection, name)
        missing += [(name, column) for column in table.columns if column.name not in there]
    return missing


def add_columns(connection: sqlite3.Connection) -> None:
    """Add what the same version has got since: collections, fields that may be None.

    A program that does not know them yet goes on using the file.

    Parameters
    ----------
    connection : Connection
    """
    if not missing_columns(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    for name in _missing_tables(connection):  # another process may have been faster
        connection.execute(TABLES[name].create())
    for table, column in missing_columns(connection):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.sql_type}")
    connection.execute("COMMIT")


def migrate(connection: sqlite3.Connection, watch: Watch) -> None:
    """Bring the tables of an older version to the present one, all or nothing.

    Parameters
    ----------
    connection : Connection
    watch : Watch
        Of those who wait for another process, which may be doing it.
    """
    with watch:
        connection.execute("BEGIN IMMEDIATE")
    try:
        if is_older(connection):  # else another process was faster
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
    while old := rows_of(connection, page, [last]):
        values = [dict(zip(names, row, strict=True)) for row in old]
        rows = [
            [kept for column in table.fields.values() for kept in _kept(column, row)]
            for row in values
        ]
        share(connection, table.columns, rows)
        connection.executemany(table.write("insert"), rows)
        last = old[-1][0]


def _kept(column: Column, row: Mapping[str, Any]) -> list[Any]:
    """Values of a column and its inner ones from a row of version 1."""
    value = row.get(column.field)
    if not column.inner:
        return [value]
    model = from_json(value) if isinstance(value, (str, bytes)) else value
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
    return [to_json(value) if isinstance(value, (dict, list)) else value]


def _missing_tables(connection: sqlite3.Connection) -> list[str]:
    """Names of tables that the file does not have."""
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return [name for name in TABLES if name not in there]


def _names_of_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
