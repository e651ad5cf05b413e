"""Documents and query results as tables: pandas, CSV, JSON, parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import orjson
from pydantic import AwareDatetime, BaseModel

from db.collections import nested_models, without_none
from db.errors import StoreError
from db.structures import StructureArrays
from models.writing import write_whole

if TYPE_CHECKING:
    import pandas as pd

HEAVY = ("structure", "spectrum")
FORMATS = (".csv", ".json", ".parquet")
_TIME = "datetime64[us, UTC]"
# Of columns without rows; pandas takes an empty mask of another type for names of columns.
_DTYPES = {bool: "bool", int: "int64", float: "float64", AwareDatetime: _TIME, datetime: _TIME}


def to_dataframe(
    rows: Iterable[BaseModel | Any],
    *,
    heavy: bool = False,
    columns: list[str] | None = None,
    kind: type | None = None,
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
    kind : type, optional
        Of the rows, whose columns a table without any rows has then.

    Examples
    --------
    >>> from db.documents import FilterCount
    >>> to_dataframe([FilterCount(name="band_gap", entered=9, dropped=5)]).to_dict("records")
    [{'name': 'band_gap', 'entered': 9, 'dropped': 5, 'unknown': 0}]
    >>> list(to_dataframe([], kind=FilterCount))
    ['name', 'entered', 'dropped', 'unknown']
    """
    import pandas as pd

    table = pd.DataFrame([_flat(row, heavy) for row in rows])
    if kind is not None and not len(table):
        table = _empty_table(kind, heavy)
    if columns is not None:
        unknown = [name for name in columns if name not in table.columns]
        if unknown and len(table.columns):
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
    """Write a table to a file, see :func:`encode_table`, as a whole or not at all.

    Parameters
    ----------
    table : DataFrame
    path : str or Path

    Raises
    ------
    StoreError
        If the ending is another, or the file cannot be written; one that was there before is left
        as it was.
    """
    content = encode_table(table, path)
    try:
        write_whole(Path(path), content)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None


def _flat(row: Any, heavy: bool, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    inner = nested_models(type(row)) if isinstance(row, BaseModel) else {}
    for name, value in _fields(row).items():
        if value is None and name in inner:
            flat |= dict.fromkeys(_column_types(inner[name], heavy, f"{prefix}{name}_"))
        elif isinstance(value, BaseModel) or _is_dataclass(value):
            flat |= _flat(value, heavy, f"{prefix}{name}_")
        elif heavy or name not in HEAVY:
            flat[prefix + name] = _plain(value)
    return flat


def _empty_table(kind: type, heavy: bool) -> pd.DataFrame:
    import pandas as pd

    types = _column_types(kind, heavy)
    return pd.DataFrame(
        {name: pd.Series(dtype=_DTYPES.get(of, "object")) for name, of in types.items()}
    )


@cache
def _column_types(kind: type, heavy: bool, prefix: str = "") -> dict[str, Any]:
    """Types of the columns of documents or results of a kind, as :func:`_flat` names them."""
    types: dict[str, Any] = {}
    for name, of in _field_types(kind).items():
        if _is_kind(of):
            types |= _column_types(of, heavy, f"{prefix}{name}_")
        elif heavy or name not in HEAVY:
            types[prefix + name] = of
    return types


def _field_types(kind: type) -> dict[str, Any]:
    """Types of fields, without None, in the order of :func:`_fields`."""
    if not _is_kind(kind):
        raise StoreError(f"{kind.__name__} is not a type of documents")
    types: dict[str, Any]
    if issubclass(kind, BaseModel):
        types = {name: field.annotation for name, field in kind.model_fields.items()}
    else:
        hints = get_type_hints(kind)
        types = {name: hints[name] for name in _field_names(kind)}
        types |= {name: get_type_hints(of.fget)["return"] for name, of in _properties(kind).items()}
    return {name: without_none(annotation) for name, annotation in types.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    return value.as_dict() if isinstance(value, StructureArrays) else value


def _fields(row: Any) -> dict[str, Any]:
    if isinstance(row, BaseModel):
        return {name: getattr(row, name) for name in type(row).model_fields}
    if not _is_dataclass(row):
        raise StoreError(f"{type(row).__name__} is not a document")
    return {name: getattr(row, name) for name in (*_field_names(row), *_properties(type(row)))}


def _field_names(row: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(row)]


def _properties(kind: type) -> dict[str, Any]:
    return {name: item for name, item in vars(kind).items() if isinstance(item, property)}


def _is_dataclass(value: Any) -> bool:
    return _is_kind(type(value)) and not isinstance(value, BaseModel)


def _is_kind(of: Any) -> bool:
    """Whether it is a type whose fields have columns of their own."""
    if not isinstance(of, type) or issubclass(of, StructureArrays):
        return False
    return issubclass(of, BaseModel) or dataclasses.is_dataclass(of)


def _without_dicts(value: Any) -> Any:
    """Parquet has one schema for a column, free dicts have none."""
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


def _without_lists(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, (list, dict)) else value
