"""SQL of the questions to the embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson

from db.collections import Collection, Condition, Query, field_kind, field_type
from db.embedded_codecs import BOOL, JSON, to_milliseconds
from db.embedded_tables import TABLES, Column

PAGE = 500  # documents that are read at a time


def select(query: Query[Any], expressions: list[str]) -> tuple[str, list[Any]]:
    """SELECT of a query and the values of its placeholders.

    Parameters
    ----------
    query : Query
    expressions : list of str
        SQL of what it selects.
    """
    where, values = _where(query)
    order = "+id"
    if query.sort_by is not None:
        by = expression(query.collection, query.sort_by)
        order = f"{by}{' DESC' if query.descending else ''}, id"
    limit = -1 if query.limit is None else query.limit
    sql = (
        f"SELECT {', '.join(expressions)} FROM {query.collection.name}{where} "
        f"ORDER BY {order} LIMIT ? OFFSET ?"
    )
    return sql, [*values, limit, query.skip]


def select_count(query: Query[Any]) -> tuple[str, list[Any]]:
    """SELECT of the number of documents, and the values of its placeholders; without the limit.

    Parameters
    ----------
    query : Query
    """
    where, values = _where(query)
    return f"SELECT COUNT(*) FROM {query.collection.name}{where}", values


def select_counts(query: Query[Any], field: str) -> tuple[str, list[Any]]:
    """SELECT of the values of a field and the number of each, and the values of its placeholders.

    Parameters
    ----------
    query : Query
    field : str
        Of a list each item counts.
    """
    where, values = _where(query)
    column = TABLES[query.collection.name].column(field)
    kept = column.name if column is not None else expression(query.collection, field)
    counted = f"SELECT {kept} AS value FROM {query.collection.name}{where}"
    if field_kind(query.collection, field) == "list":
        each = f"json_each({_valid('listed.value')})"
        counted = f"SELECT item.value FROM ({counted}) AS listed, {each} AS item"
    sql = f"SELECT value, COUNT(*) FROM ({counted}) GROUP BY 1 ORDER BY 1"
    if column is not None and column.is_shared:
        body = "(SELECT body FROM shared WHERE shared.id = value)"
        sql = f"SELECT {body}, number FROM ({sql.replace('(*)', '(*) AS number')}) ORDER BY 1"
    return sql, values


def values_of(columns: Iterable[Column]) -> str:
    """SQL of the values of columns and their inner ones.

    Parameters
    ----------
    columns : iterable of Column
    """
    return ", ".join(column.value for outer in columns for column in outer.flat)


def expression(collection: Collection[Any], field: str) -> str:
    """SQL of the value of a field.

    Parameters
    ----------
    collection : Collection
    field : str
        Such as ``"gap.width"``, which :class:`~db.collections.Query` has checked.
    """
    table = TABLES[collection.name]
    if (column := table.column(field)) is not None:
        return column.value
    first, _, inner = field.partition(".")
    return f"json_extract({_valid(table.fields[first].value)}, '$.{inner}')"


def decoder(collection: Collection[Any], field: str) -> Callable[[Any], Any] | None:
    """What makes a value of a field of what :func:`expression` gives; None if that is the value.

    Parameters
    ----------
    collection : Collection
    field : str
    """
    if field_type(collection, field) is bool:
        return BOOL.decode
    column = TABLES[collection.name].column(field)
    return None if column is None or column.codec is JSON else column.codec.decode


def rows_of(
    connection: sqlite3.Connection, sql: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """All rows of a query, also where a hand has put in text that is not UTF-8.

    Parameters
    ----------
    connection : Connection
    sql : str
    values : sequence
        Of its placeholders.
    """
    try:
        return connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        return connection.execute(sql, values).fetchall()


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
    field, value = expression(collection, condition.field), condition.value
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


def _valid(column: str) -> str:
    """SQL of a JSON column that is NULL where a hand has spoilt the JSON."""
    return f"CASE WHEN json_valid({column}) THEN {column} END"


def _plain(value: Any) -> Any:
    return to_milliseconds(value) if isinstance(value, datetime) else value
