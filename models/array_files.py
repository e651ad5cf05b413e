"""Arrays as safetensors, and beside them a card as JSON that has their hash; nothing is unpickled.

So checkpoints, training materials and calibrations are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from models.errors import ModelError, describe
from models.writing import write_whole

Card = TypeVar("Card", bound=BaseModel)
Array = TypeVar("Array")


@dataclass(frozen=True)
class ArrayFiles(Generic[Card]):
    """Two files of one name.

    Parameters
    ----------
    stem : Path
        Of both files, without their endings; a dot in its name is part of the name.
    card_type : type of BaseModel
        Of the card. Its ``format_version``, if it has one, is the default of that field.
    hash_field : str
        Field of the card that has the SHA-256 of the other file.
    what : str
        How errors call the two.
    remedy : str
        What errors end with.
    indent : int, optional
        Of the JSON, where it is for people.
    """

    stem: Path
    card_type: type[Card]
    hash_field: str
    what: str
    remedy: str
    indent: int | None = None

    @property
    def arrays_file(self) -> Path:
        """The safetensors."""
        return self.stem.with_name(f"{self.stem.name}.safetensors")

    @property
    def card_file(self) -> Path:
        """The JSON."""
        return self.stem.with_name(f"{self.stem.name}.json")

    def write(self, card: Card, arrays: bytes) -> Card:
        """Write both files, in the place of earlier ones.

        Parameters
        ----------
        card : BaseModel
        arrays : bytes
            As safetensors writes them.

        Returns
        -------
        BaseModel
            The card with the hash of the arrays.
        """
        card = card.model_copy(update={self.hash_field: hashlib.sha256(arrays).hexdigest()})
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.arrays_file, arrays)
        write_whole(self.card_file, card.model_dump_json(indent=self.indent) + "\n")
        return card

    def read(self, load: Callable[[bytes], dict[str, Array]]) -> tuple[Card, dict[str, Array]]:
        """The card, and the arrays by their names.

        Parameters
        ----------
        load : callable
            That of safetensors for numpy or for torch.

        Raises
        ------
        ModelError
            If a file is missing or damaged, the card has a wrong field or another format, or its
            hash is not that of the arrays.
        """
        card, data = self.read_bytes()
        try:
            return card, load(data)
        except SafetensorError:
            raise self.error(self.arrays_file, ": not safetensors") from None

    def read_bytes(self) -> tuple[Card, bytes]:
        """The card, and the file of arrays that it has the hash of; see :meth:`read`."""
        card = self.read_card()
        try:
            data = self.arrays_file.read_bytes()
        except OSError as error:
            raise self.error(self.arrays_file, f": {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != getattr(card, self.hash_field):
            reason = f": its hash is not the one in {self.card_file.name}"
            raise self.error(self.arrays_file, reason)
        return card, data

    def read_card(self) -> Card:
        """The card alone; see :meth:`read`."""
        try:
            card = self.card_type.model_validate_json(self.card_file.read_bytes())
        except OSError as error:
            raise self.error(self.card_file, f": {error.strerror}") from None
        except ValidationError as error:
            raise self.error(self.card_file, f", {describe(error)}") from None
        field: Any = self.card_type.model_fields.get("format_version")
        if field is not None and (given := getattr(card, "format_version", None)) != field.default:
            reason = f" has format {given}, this version reads {field.default}"
            raise self.error(self.card_file, reason)
        return card

    def error(self, file: str | Path, reason: str) -> ModelError:
        """Error in one line about one of the files.

        Parameters
        ----------
        file : str or Path
        reason : str
            What comes after the name of the file.
        """
        return ModelError(f"{self.what} {file}{reason}; {self.remedy}")
