"""Ids of materials that have none of their own: one scheme for all files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from screening.candidate import MAX_ID_LENGTH, SourceItem

ROOM = 16  # characters of an id that a number behind it may take


def clean_id(text: str) -> str:
    """The text as a material id: printable and not too long."""
    printable = "".join(c if c.isprintable() else "_" for c in text.strip())
    return printable[: MAX_ID_LENGTH - ROOM] or "structure"


def nth(name: str, n: int) -> str:
    """Id of the `n`-th of what has one name; the first goes without a number.

    Examples
    --------
    >>> nth("two", 1), nth("two", 2)
    ('two', 'two#2')
    """
    return name if n == 1 else f"{name}#{n}"


def name_uniquely(items: Iterable[SourceItem], seen: set[str]) -> Iterator[SourceItem]:
    """Number what has an id that is taken already, and take note of all ids."""
    numbers: dict[str, int] = {}
    for item in items:
        own = free = item.material_id
        while free in seen:
            numbers[own] = numbers.get(own, 1) + 1
            free = nth(own, numbers[own])
        seen.add(free)
        yield item if free == own else replace(item, material_id=free)
