"""Documents and query results as tables: pandas, CSV, JSON, parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel

from db.collections import nested_models
from db.errors import StoreError
from db.structures import StructureArrays

if TYPE_CHECKING:
    import pandas as pd

HEAVY = ("structure", "spectrum")
FORMATS = (".csv", ".json", ".parquet")


def to_dataframe(
    rows: Iterable[BaseModel | Any], *, heavy: bool = False, columns: list[str] | None = None
) -> pd.DataFrame:
    """One row for each document or result.

    Fields of a model in a document become columns of their own: ``gap_width``,
    ``candidate_material_id``. Lists and free dicts stay as they are.

    Parameters
    ----------
    rows : iterable
        Documents, or dataclasses such as those of :mod:`db.questions`.
    heavy : bool
        Keep structures and spectra too.
    columns : list of str, optional
        Only these, in this order.

    Examples
    --------
    >>> from db.documents import FilterCount
    >>> to_dataframe([FilterCount(name="band_gap", entered=9, dropped=5)]).to_dict("records")
    [{'name': 'band_gap', 'entered': 9, 'dropped': 5, 'unknown': 0}]
    """
    import pandas as pd

    table = pd.DataFrame([_flat(row, heavy) for row in rows])
    if columns is not None:
        unknown = [name for name in columns if name not in table.columns]
        if unknown and len(table):
            raise StoreError(f"no column {unknown[0]!r}; columns: {', '.join(table.columns)}")
        table = table.reindex(columns=columns)
    return table


def encode_table(table: pd.DataFrame, path: str | Path) -> bytes:
    """A table as the content of a .csv, .json (a list of objects) or .parquet file.

    Free dicts are JSON text in CSV and parquet, lists in CSV.

    Parameters
    ----------
    table : DataFrame
    path : str or Path
        Of the file, whose ending says what it is to be.

    Raises
    ------
    StoreError
        If the ending is another.
    """
    ending = Path(path).suffix.lower()
    match ending:
        case ".csv":
            return table.map(_without_lists).to_csv(index=False).encode()
        case ".json":
            return table.to_json(orient="records", date_format="iso", indent=1).encode()
        case ".parquet":
            return table.map(_without_dicts).to_parquet(index=False)
    raise StoreError(f"{path}: unknown ending {ending!r}; use {', '.join(FORMATS)}")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table to a file, see :func:`encode_table`.

    Parameters
    ----------
    table : DataFrame
    path : str or Path

    Raises
    ------
    StoreError
        If the ending is another, or the file cannot be written.
    """
    content = encode_table(table, path)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def _flat(row: Any, heavy: bool, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    inner = nested_models(type(row)) if isinstance(row, BaseModel) else {}
    for name, value in _fields(row).items():
        if value is None and name in inner:
            flat |= dict.fromkeys(_columns(inner[name], f"{prefix}{name}_"))
        elif isinstance(value, BaseModel) or _is_dataclass(value):
            flat |= _flat(value, heavy, f"{prefix}{name}_")
        elif heavy or name not in HEAVY:
            flat[prefix + name] = _plain(value)
    return flat


def _columns(model: type[BaseModel], prefix: str) -> list[str]:
    """Names of the columns of a model that is not there, so that all rows have the same."""
    inner = nested_models(model)
    return [
        column
        for name in model.model_fields
        for column in (
            _columns(inner[name], f"{prefix}{name}_") if name in inner else [prefix + name]
        )
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    return value.as_dict() if isinstance(value, StructureArrays) else value


def _fields(row: Any) -> dict[str, Any]:
    if isinstance(row, BaseModel):
        return {name: getattr(row, name) for name in type(row).model_fields}
    if not _is_dataclass(row):
        raise StoreError(f"{type(row).__name__} is not a document")
    names = [field.name for field in dataclasses.fields(row)]
    names += [name for name, item in vars(type(row)).items() if isinstance(item, property)]
    return {name: getattr(row, name) for name in names}


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, (type, StructureArrays))


def _without_dicts(value: Any) -> Any:
    """Parquet has one schema for a column, free dicts have none."""
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


def _without_lists(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, (list, dict)) else value
