"""Base of the option sets: frozen, without unknown names, and with one-line errors."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.errors import ScreeningError


class Options(BaseModel):
    """A frozen set of options.

    Attributes
    ----------
    command_line : dict of str to str
        Names on the command line of the fields that are not called alike there.
    """

    command_line: ClassVar[dict[str, str]] = {}
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_options(cls, **values: Any) -> Self:
        """Make the options from what a user typed.

        Raises
        ------
        ScreeningError
            In one line, with the name, as on the command line, and the value of every option
            that is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ScreeningError("; ".join(cls._in_words(e) for e in error.errors())) from None

    @classmethod
    def _in_words(cls, error: Any) -> str:
        message = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            return message
        name = str(error["loc"][0])
        option = cls.command_line.get(name, f"--{name.replace('_', '-')}")
        return f"{option} {error['input']}: {message[0].lower()}{message[1:]}"
