"""The error that a user can act on, and errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

_NAMED = 5


class ModelError(ValueError):
    """A structure, data set or checkpoint that cannot be used; the message is one line."""


def named(ids: Sequence[str]) -> str:
    """All ids of a handful; of more, the first ones and how many there are.

    Examples
    --------
    >>> named(["mp-1", "mp-2"])
    'mp-1, mp-2'
    >>> named([f"mp-{i}" for i in range(1, 9)])
    'mp-1, mp-2, mp-3, mp-4, mp-5 and 3 more'
    """
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


class FieldError(NamedTuple):
    """What is wrong with one field of a pydantic model.

    Parameters
    ----------
    field : str
        Its name, with those of the fields that it is in before it; empty if it is the whole.
    message : str
        In one line.
    given : Any
        What stood there, which may be a secret.
    """

    field: str
    message: str
    given: Any


def field_errors(error: ValidationError) -> list[FieldError]:
    """Each thing that a pydantic model refused."""
    return [
        FieldError(
            ".".join(map(str, each["loc"])),
            " ".join(each["msg"].removeprefix("Value error, ").split()),
            each["input"],
        )
        for each in error.errors(include_url=False, include_context=False)
    ]


def describe(error: ValidationError) -> str:
    """First thing that a pydantic model refused, in one line without its value.

    The one way from pydantic's errors to a message for users, for all packages; where fields have
    other names for them, such as options, :func:`field_errors` has the parts.

    Examples
    --------
    >>> from pydantic import TypeAdapter, ValidationError
    >>> try:
    ...     TypeAdapter(dict[str, int]).validate_python({"a": "one", "b": 2, "c": "three"})
    ... except ValidationError as error:
    ...     print(describe(error))
    a: Input should be a valid integer, unable to parse string as an integer (and 1 more)
    """
    first, *others = field_errors(error)
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.field}: {first.message}{more}".removeprefix(": ")
