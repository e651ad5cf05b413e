"""Base of the option sets: frozen, without unknown names, and with one-line errors."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.errors import ScreeningError


class Options(BaseModel):
    """A frozen set of options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_options(cls, **values: Any) -> Self:
        """Make the options from what a user typed.

        Raises
        ------
        ScreeningError
            In one line, with the name and the value of every option that is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ScreeningError("; ".join(_in_words(e) for e in error.errors())) from None


def _in_words(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = ".".join(str(part) for part in error["loc"])
    return f"{name} = {error['input']!r}: {message[0].lower()}{message[1:]}"
