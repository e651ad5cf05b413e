"""The interface of a source."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from screening.candidate import Candidate, SourceItem, Unreadable

if TYPE_CHECKING:
    from screening.funnel import Funnel

UnknownPolicy = Literal["keep", "drop"]

NAMED = 3  # ids of a kind that a note names


class Source(ABC):
    """A stream of candidates that can be read more than once, in the same order each time."""

    name: str
    """Short, such as ``"mp"`` or the name of a file."""

    description: str
    """One line for the user."""

    default_unknown: UnknownPolicy = "keep"
    """What the filters do by default with a property that this source does not know."""

    attribution: str | None = None
    """How the source wants to be cited."""

    database_version: str | None = None
    """Release of the database that the candidates come from."""

    applied: Funnel | None = None
    """What filters that the source has applied itself did, before its candidates came out."""

    can_move: ClassVar[bool] = False
    """Whether a copy in another process gives the same, and nothing is to be known of this one."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content does."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is to be told; some of it is known only after the source was read."""
        return ()

    @property
    def total(self) -> int | None:
        """How many items are expected, None if that is not known beforehand."""
        return None

    @property
    def provenance(self) -> dict[str, str]:
        """What a run, its reports and its tables say of the source."""
        known = {
            "name": self.name,
            "description": self.description,
            "fingerprint": self.fingerprint,
            "database_version": self.database_version,
            "attribution": self.attribution,
        }
        return {name: value for name, value in known.items() if value is not None}

    @abstractmethod
    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the materials, one at a time."""

    def items_from(self, first: int) -> Iterator[SourceItem]:
        """Stream the materials behind the first ones, of which there are so many."""
        return islice(iter(self), first, None)


def mark_known_edos(source: Source, ids: Collection[str]) -> Source:
    """Source with `has_edos` set from a list of the materials whose DOS is known.

    A candidate in the list has a DOS. One that is not in it has none, unless the source itself
    knows better.

    Parameters
    ----------
    source : Source
    ids : collection of str
        Of the materials whose DOS is known.
    """
    return _KnownEdos(source, frozenset(ids))


class _KnownEdos(Source):
    def __init__(self, source: Source, ids: frozenset[str]) -> None:
        self.name = source.name
        self.description = f"{source.description}; {len(ids):,} materials with a known DOS"
        self.default_unknown = source.default_unknown
        self.attribution = source.attribution
        self.database_version = source.database_version
        self.applied = source.applied
        self._source = source
        self._ids = ids
        self._matched: set[str] | None = None

    @property
    def fingerprint(self) -> str:
        return digest(self._source.fingerprint, *sorted(self._ids))

    @property
    def total(self) -> int | None:
        return self._source.total

    @property
    def provenance(self) -> dict[str, str]:
        return self._source.provenance | super().provenance

    @property
    def notes(self) -> tuple[str, ...]:
        if self._matched is None:
            return self._source.notes
        n, total = len(self._matched), len(self._ids)
        note = f"known DOS: {n:,} of {total:,} ids name a material that was read"
        if missing := sorted(self._ids - self._matched):
            shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
            note += f", {total - n:,} match nothing ({shown})"
        return (*self._source.notes, note)

    def __iter__(self) -> Iterator[SourceItem]:
        self._matched = set()
        for item in self._source:
            if item.material_id in self._ids:
                self._matched.add(item.material_id)
            yield item if isinstance(item, Unreadable) else self._marked(item)

    def _marked(self, candidate: Candidate) -> Candidate:
        known = candidate.material_id in self._ids or bool(candidate.has_edos)
        return candidate if candidate.has_edos is known else replace(candidate, has_edos=known)


def digest(*parts: str) -> str:
    """32 hexadecimal digits that identify a sequence of strings."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode()
        sha.update(b"%d:" % len(data) + data)
    return sha.hexdigest()[:32]
