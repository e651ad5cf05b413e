"""What a pydantic model refuses, in one line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from models.errors import describe, field_errors


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 1


class Outer(BaseModel):
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.inner.size > 9:
            raise ValueError("too\nlarge")
        return self


def refused(document: dict) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(document)
    return raised.value


@pytest.mark.parametrize(
    ("inner", "line"),
    [
        ({"colour": 1}, "inner.colour: Extra inputs are not permitted"),
        ({"size": 10}, "too large"),
        (
            {"size": "x", "colour": 1},
            "inner.size: Input should be a valid integer, unable to parse string as an integer "
            "(and 1 more)",
        ),
    ],
)
def test_the_first_thing_is_one_line(inner: dict, line: str) -> None:
    assert describe(refused({"inner": inner})) == line


def test_each_thing_has_its_field_and_its_value() -> None:
    errors = field_errors(refused({"inner": {"size": "secret", "colour": "red"}}))
    assert [(e.field, e.given) for e in errors] == [
        ("inner.size", "secret"),
        ("inner.colour", "red"),
    ]
