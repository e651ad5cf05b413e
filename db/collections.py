"""What can be asked of a store: collections, conditions on their fields, order and limit.

A query names fields of the documents and compares them with plain values. Both are checked
here, before any store sees them, so that nothing that a user types becomes an operator or SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel

from db.documents import CandidateDoc, Document, PredictionDoc, RoundDoc, Run, ValidationDoc
from db.errors import StoreError

D = TypeVar("D", bound=Document)
T = TypeVar("T")
Scalar = str | int | float | bool | datetime | None
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "has", "lacks"]
Kind = Literal["scalar", "list", "object"]
Key = tuple[str, ...]

OPERATORS = get_args(Operator)
_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    bool: ((bool,), "True or False"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
    AwareDatetime: ((datetime,), "a time"),
}
"""Values that a field of a type is compared with, and what they are called."""


@dataclass(frozen=True)
class Collection(Generic[D]):
    """One sort of document and the fields that tell its documents apart."""

    name: str
    document: type[D]
    key_fields: tuple[str, ...]

    def key(self, document: D) -> Key:
        """Values of the key fields of a document."""
        return tuple(getattr(document, field) for field in self.key_fields)


RUNS = Collection("runs", Run, ("run_id",))
CANDIDATES = Collection("candidates", CandidateDoc, ("run_id", "material_id"))
PREDICTIONS = Collection(
    "predictions", PredictionDoc, ("material_id", "structure_hash", "model_id")
)
VALIDATIONS = Collection(
    "validations", ValidationDoc, ("material_id", "structure_hash", "engine", "recipe")
)
ROUNDS = Collection("rounds", RoundDoc, ("run_id", "number"))
COLLECTIONS: tuple[Collection[Any], ...] = (RUNS, CANDIDATES, PREDICTIONS, VALIDATIONS, ROUNDS)


@dataclass(frozen=True)
class Condition:
    """A comparison of a field with a value.

    Parameters
    ----------
    field : str
        A field of the document, or of a model in it: ``"score"``, ``"gap.width"``.
    operator : str
        ``"=="`` and ``"!="`` (also with None), ``"<"``, ``"<="``, ``">"``, ``">="`` (which a
        field that is None never fulfils), ``"in"`` (a sequence of values), ``"has"`` and
        ``"lacks"`` (a list holds the value or does not).
    value : str, int, float, bool, datetime, None or a sequence of them
        Of the type that the field holds.
    """

    field: str
    operator: Operator
    value: Scalar | Sequence[Scalar]


@dataclass(frozen=True)
class Query(Generic[D]):
    """Documents of a collection that fulfil all conditions.

    Parameters
    ----------
    collection : Collection
    conditions : tuple of Condition
    sort_by : str, optional
        A field; None sorts before every number. Without it the order is arbitrary.
    descending : bool
    limit : int, optional
    with_structure : bool
        Read the structures of candidates too.
    skip : int
        Documents at the beginning that are left out; needs an order.

    Raises
    ------
    StoreError
        If a field does not exist, or cannot be compared with the value.
    """

    collection: Collection[D]
    conditions: tuple[Condition, ...] = ()
    sort_by: str | None = None
    descending: bool = False
    limit: int | None = None
    with_structure: bool = False
    skip: int = 0

    def __post_init__(self) -> None:
        for condition in self.conditions:
            _check_condition(self.collection, condition)
        if self.sort_by is not None and field_kind(self.collection, self.sort_by) != "scalar":
            raise StoreError(f"{self.collection.name}: cannot sort by {self.sort_by!r}")
        for name, value in (("limit", self.limit), ("skip", self.skip)):
            if value is not None and (type(value) is not int or not 0 <= value < 2**63):
                raise StoreError(f"{name} must be a whole number >= 0, not {value!r:.60}")
        if self.skip and self.sort_by is None:
            raise StoreError(f"{self.collection.name}: skip needs an order; name sort_by")


def conditions(**equal: Any) -> tuple[Condition, ...]:
    """Conditions that fields equal values, or are in a sequence of them; None asks nothing.

    Examples
    --------
    >>> conditions(state="done", run_id=None)
    (Condition(field='state', operator='==', value='done'),)
    """
    return tuple(
        Condition(field, "in" if isinstance(value, (list, tuple, set, frozenset)) else "==", value)
        for field, value in equal.items()
        if value is not None
    )


def field_kind(collection: Collection[Any], field: str) -> Kind:
    """What a field holds.

    Parameters
    ----------
    collection : Collection
    field : str
        Of a document, or of a model in it: ``"gap.width"``.

    Raises
    ------
    StoreError
        If there is no such field.
    """
    document: type[BaseModel] = collection.document
    kinds = _field_kinds(document)
    if not isinstance(field, str) or field not in kinds:
        raise StoreError(
            f"{collection.name} have no field {field!r:.60}; fields: {', '.join(kinds)}"
        )
    return kinds[field]


def field_type(collection: Collection[Any], field: str) -> Any:
    """Type of the values of a field, without None.

    Parameters
    ----------
    collection : Collection
    field : str
        Of a document, or of a model in it: ``"gap.width"``.

    Examples
    --------
    >>> field_type(CANDIDATES, "gap.is_gap")
    <class 'bool'>
    """
    field_kind(collection, field)
    model: type[BaseModel] = collection.document
    *path, last = field.split(".")
    for name in path:
        model = nested_models(model)[name]
    return without_none(model.model_fields[last].annotation)


def item_type(collection: Collection[Any], field: str) -> Any:
    """Type of what a field that is a list holds.

    Parameters
    ----------
    collection : Collection
    field : str

    Examples
    --------
    >>> item_type(CANDIDATES, "elements")
    <class 'str'>
    """
    (item,) = get_args(field_type(collection, field))
    return without_none(item)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items, one after the other.

    Parameters
    ----------
    items : iterable
    size : int
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@cache
def nested_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Fields of a model that hold another model, or None."""
    bare = {name: without_none(info.annotation) for name, info in model.model_fields.items()}
    return {
        name: kind
        for name, kind in bare.items()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


@cache
def _field_kinds(model: type[BaseModel], prefix: str = "") -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    inner = nested_models(model)
    for name, info in model.model_fields.items():
        annotation = without_none(info.annotation)
        origin = get_origin(annotation) or annotation
        if name in inner:
            kinds[prefix + name] = "object"
            kinds |= _field_kinds(inner[name], f"{prefix}{name}.")
        elif origin is list:
            kinds[prefix + name] = "list"
        else:
            kinds[prefix + name] = "object" if origin is dict else "scalar"
    return kinds


def without_none(annotation: Any) -> Any:
    """Type of an optional field, without its metadata."""
    while True:
        if get_origin(annotation) in (Union, UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
        elif hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
        else:
            return annotation


def _check_condition(collection: Collection[Any], condition: Condition) -> None:
    field, operator, value = condition.field, condition.operator, condition.value
    kind = field_kind(collection, field)
    where = f"{collection.name}: condition on {field!r}"
    if operator not in OPERATORS:
        raise StoreError(f"{where}: no operator {operator!r:.60}; use {', '.join(OPERATORS)}")
    if (operator in ("has", "lacks")) != (kind == "list"):
        raise StoreError(f"{where}: {operator!r} does not work on a {kind}")
    if kind == "object" and not (operator in ("==", "!=") and value is None):
        raise StoreError(f"{where}: it can only be compared with None")
    if value is None:
        if operator not in ("==", "!="):
            raise StoreError(f"{where}: None cannot be compared this way")
        return
    if operator == "in" and not isinstance(value, (list, tuple, set, frozenset)):
        raise StoreError(f"{where}: 'in' needs a list of values")
    expected = (item_type if kind == "list" else field_type)(collection, field)
    items: Any = value if operator == "in" else (value,)
    for item in items:
        _check_value(where, item, expected)


def _check_value(where: str, value: Any, expected: Any) -> None:
    """Refuse a value of another type than the field: the stores do not find the same by it."""
    if not isinstance(value, (str, int, float, datetime)):
        raise StoreError(f"{where}: {type(value).__name__} is not a plain value")
    if get_origin(expected) is Literal:
        expected = type(get_args(expected)[0])
    types, name = _TYPES.get(expected, ((), "what it holds"))
    if not isinstance(value, types) or isinstance(value, bool) != (expected is bool):
        raise StoreError(f"{where}: {value!r:.60} is not {name}")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise StoreError(f"{where}: the time has no time zone")
    if isinstance(value, str) and not is_text(value):
        raise StoreError(f"{where}: {value!r:.60} is not text")
    if isinstance(value, (int, float)) and (not math.isfinite(value) or abs(value) >= 2**63):
        raise StoreError(f"{where}: {value!r:.60} is not a finite number")


def is_text(text: str) -> bool:
    """Whether both stores can keep it: valid Unicode without NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
