"""CIF syntax: data blocks as lists of values by tag."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import cast

from gemmi import cif


class CifError(ValueError):
    """What is wrong with a CIF, in one line."""


@dataclass(frozen=True, eq=False, slots=True)
class Tags:
    """The values of one data block by tag.

    Tags are lower-case and without dots, so that the names of both CIF dictionaries
    (``_space_group.name_H-M_alt``, ``_space_group_name_H-M_alt``) are the same. A value that is
    unknown (``?``) or does not apply (``.``) is None.

    Parameters
    ----------
    name : str
        Of the block.
    data : dict
        All values of each tag.
    """

    name: str
    data: dict[str, list[str | None]]

    def column(self, tag: str) -> list[str | None]:
        """Values of a looped tag; empty if there is none."""
        return self.data.get(tag, [])

    def values(self, *tags: str) -> list[str]:
        """All values that there are of some tags, each once."""
        values = (value for tag in tags for value in self.column(tag))
        return list(dict.fromkeys(value for value in values if value))

    def value(self, *tags: str) -> str | None:
        """The first value that there is of some tags."""
        return next(iter(self.values(*tags)), None)

    def number(self, *tags: str) -> float | None:
        """The first value that there is of some tags, as a number.

        Raises
        ------
        CifError
            If it is none.
        """
        for tag in tags:
            text = self.value(tag)
            if text is not None:
                return cif_number(text, tag)
        return None

    def has(self, prefix: str) -> bool:
        """Whether there is a value under a tag that begins like this."""
        return any(t.startswith(prefix) and any(self.data[t]) for t in self.data)


def cif_number(text: str, what: str) -> float:
    """Number in a CIF, its uncertainty left out.

    Parameters
    ----------
    text : str
    what : str
        Its name in an error.

    Raises
    ------
    CifError
        If it is none, or not finite.

    Examples
    --------
    >>> cif_number("5.431(2)", "_cell_length_a")
    5.431
    """
    value = cif.as_number(text)
    if not math.isfinite(value):
        raise CifError(f"{what} is no number but {text!r:.40}")
    return float(value)


def read_blocks(text: str) -> list[Tags]:
    """The data blocks of a CIF in its order; blocks of one name are all kept.

    Raises
    ------
    CifError
        If the text is no CIF.
    """
    text = re.sub(r"[^\t\n\r -~]", "*", text.removeprefix("\ufeff"))  # a name's accents, mostly
    try:
        document = cif.read_string(text, 0)  # 0: several blocks of one name are wanted
    except (ValueError, RuntimeError) as error:
        raise CifError(_syntax(str(error))) from None
    return [_tags(block) for block in document]


def _syntax(message: str) -> str:
    match = re.match(r"string:(\d+)\S*\s*(.*)", message, re.DOTALL)
    return f"line {match[1]}: {match[2]}" if match else message


def _tags(block: cif.Block) -> Tags:
    data: dict[str, list[str | None]] = {}
    for item in block:
        if item.pair is not None:
            tag, value = cast("tuple[str, str]", item.pair)
            _add(data, tag, [value])
        elif item.loop is not None:
            loop = item.loop
            for column, tag in enumerate(loop.tags):
                _add(data, tag, list(loop.values[column :: loop.width()]))
    return Tags(block.name, data)


def _add(data: dict[str, list[str | None]], tag: str, raw: list[str]) -> None:
    key = tag.lower().replace(".", "_")
    values = [None if cif.is_null(v) else cif.as_string(v).strip() or None for v in raw]
    if key in data and data[key] != values:
        data["_repeated"] = [*data.get("_repeated", []), tag]
    data[key] = values
