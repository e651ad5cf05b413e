"""What a user may ask for: checked values that know their names on the command line."""

from __future__ import annotations

from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import FieldError, field_errors
from screening.errors import ScreeningError

T = TypeVar("T")


class UserInput(BaseModel):
    """Values that a user sets together: frozen, without unknown names, errors in one line.

    The fields are options of the commands, with their defaults, and with their descriptions as
    help. What a field asks for may stand in its annotation as a small object of its own.

    Attributes
    ----------
    command_line : dict of str to str
        Names on the command line of the fields that are not called alike there; of a switch
        with the name that turns it off behind a slash.
    """

    command_line: ClassVar[dict[str, str]] = {}
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_options(cls, **values: Any) -> Self:
        """Make them from what a user typed.

        Raises
        ------
        ScreeningError
            In one line, with the name, as on the command line, and the value of every option
            that is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ScreeningError("; ".join(map(cls._in_words, field_errors(error)))) from None

    @classmethod
    def option(cls, field: str) -> str:
        """Name of a field on the command line."""
        return cls.command_line.get(field, f"--{field.replace('_', '-')}")

    @classmethod
    def in_annotations(cls, kind: type[T]) -> dict[str, T]:
        """The objects of a kind that stand in the annotations, by their field, in order."""
        return {
            name: extra
            for name, field in cls.model_fields.items()
            for extra in field.metadata
            if isinstance(extra, kind)
        }

    @classmethod
    def _in_words(cls, error: FieldError) -> str:
        if not error.field:
            return error.message
        option = cls.option(error.field.partition(".")[0]).partition("/")[0]
        return f"{option} {error.given}: {error.message[:1].lower()}{error.message[1:]}"
