"""Documents as rows of a parquet file, which keeps them whole.

A field is a column of its own type, a model in a document a struct; what has no fixed form, such as
a structure, is JSON text. Spectra are in single precision, as the documents have them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import orjson
from pydantic import AwareDatetime, BaseModel

from db.collections import without_none
from db.documents import Document

if TYPE_CHECKING:
    import pyarrow as pa

SPECTRUM = "spectrum"


def arrow_schema(document: type[Document], spectrum_size: int | None = None) -> pa.Schema:
    """Columns of a sort of document.

    Parameters
    ----------
    document : type
    spectrum_size : int, optional
        Length of all spectra; without it they may have any, or be missing.
    """
    import pyarrow as pa

    values = pa.list_(pa.float32(), -1 if spectrum_size is None else spectrum_size)
    return pa.schema(
        (name, values if name == SPECTRUM else _arrow_type(info.annotation))
        for name, info in document.model_fields.items()
    )


def to_row(document: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Row of what :meth:`pydantic.BaseModel.model_dump` gives.

    Parameters
    ----------
    document : type
    values : dict
    """
    return _converted(document, values, lambda value: orjson.dumps(value).decode())


def from_row(document: type[BaseModel], row: dict[str, Any]) -> dict[str, Any]:
    """What :func:`to_row` made a row of.

    Parameters
    ----------
    document : type
    row : dict

    Raises
    ------
    ValueError
        If a text that should be JSON is not.
    """
    return _converted(document, row, orjson.loads)


def _converted(document: type[BaseModel], values: dict[str, Any], convert: Any) -> dict[str, Any]:
    free, models = _free_and_nested(document)
    converted = dict(values)
    for name in free & values.keys():
        if values[name] is not None:
            converted[name] = convert(values[name])
    for name in models.keys() & values.keys():
        if isinstance(values[name], dict):
            converted[name] = _converted(models[name], values[name], convert)
    return converted


@cache
def _free_and_nested(document: type[BaseModel]) -> tuple[set[str], dict[str, type[BaseModel]]]:
    """Fields that are free dicts, and those that are models with free dicts somewhere in them."""
    free, models = set(), {}
    for name, info in document.model_fields.items():
        annotation = without_none(info.annotation)
        if get_origin(annotation) is dict:
            free.add(name)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models[name] = annotation
    return free, models


def _arrow_type(annotation: Any) -> pa.DataType:
    import pyarrow as pa

    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    if get_origin(kind) is list:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    if get_origin(kind) is dict:
        return pa.string()
    if issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return pa.struct([(name, _arrow_type(info.annotation)) for name, info in fields])
    time = pa.timestamp("ms", tz="UTC")
    types = {
        AwareDatetime: time,
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
    }
    return types[kind]
