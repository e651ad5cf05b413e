"""How the embedded store keeps the values of a field: the codec of each type.

Scalars are kept as they are, lists and dicts as JSON text, spectra as little-endian float32 blobs,
times as milliseconds since 1970, structures as the numbers in them (zlib-compressed JSON where they
are more than numbers). What a hand has spoilt is read as it is: the document's own checks say what
is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args, get_origin

import numpy as np
import orjson
from pydantic import AwareDatetime, BaseModel

from db.collections import without_none
from db.store import MAX_DOCUMENT
from db.structures import DOUBLE, SINGLE, StructureArrays

STRUCTURE_LEVEL = 1  # zlib: 3 times faster than the default, 10 % larger
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Codec:
    """How values of one kind are kept in a column.

    Parameters
    ----------
    sql_type : str
        Of the column.
    encode, decode : callable, optional
        From a value, which is not None, to what SQLite keeps, and back; without, it is kept as it
        is. A value that is too large to be kept is a ValueError, which says so.
    """

    sql_type: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


def to_json(value: Any) -> str:
    """JSON of a list, which may be of models, of a dict, or of a model.

    Parameters
    ----------
    value : list, dict or BaseModel

    Raises
    ------
    ValueError
        If it is larger than a document may be.
    """
    # Not orjson's default=: a Ctrl-C that comes while it runs turns into orjson's TypeError.
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump() for item in value]
    return _of_allowed_size(orjson.dumps(value)).decode()


def from_json(text: Any) -> Any:
    """What :func:`to_json` made a text of; what is no JSON as it is.

    Parameters
    ----------
    text : str or bytes
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


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


def to_milliseconds(moment: datetime) -> int:
    """Since 1970, rounded down.

    Parameters
    ----------
    moment : datetime
        With a time zone.
    """
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
TIME = Codec("INTEGER", to_milliseconds, _from_milliseconds)
JSON = Codec("TEXT", to_json, from_json)
SPECTRUM = Codec("BLOB", _to_blob, _from_blob)
STRUCTURE = Codec("BLOB", _to_structure_blob, _from_structure_blob)

OF_TYPES = {str: TEXT, int: INTEGER, float: REAL, bool: BOOL, AwareDatetime: TIME}
OF_FIELDS = {"spectrum": SPECTRUM, "structure": STRUCTURE}


def codec_of(field: str, annotation: Any) -> Codec:
    """Codec of a field of a document, or of a model in it.

    Parameters
    ----------
    field : str
    annotation : type
        Of its values, which may also be None.

    Examples
    --------
    >>> codec_of("width", float | None).sql_type
    'REAL'
    >>> codec_of("spectrum", list[float]).sql_type
    'BLOB'
    """
    kind = without_none(annotation)
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    return OF_FIELDS.get(field) or OF_TYPES.get(kind, JSON)
