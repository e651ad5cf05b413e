"""The funnel of a screening: how many materials each filter saw, dropped, and could not judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.documents import FilterCount

if TYPE_CHECKING:
    from screening.filters import FilterVerdict, ScreeningFilters

READABLE = "readable"
"""First stage of every funnel: has the material a structure that can be used?"""


@dataclass
class Funnel:
    """Counts of what every filter did, in the order of application.

    Parameters
    ----------
    names : tuple of str
        Of the stages.
    entered : int
        Materials that came in.
    dropped, unknown : Counter
        By stage, materials that it dropped and that it could not judge.

    Examples
    --------
    >>> from screening.filters import ScreeningFilters
    >>> funnel = Funnel.of(ScreeningFilters(without_edos=False))
    >>> funnel.names
    ('readable', 'energy_above_hull', 'n_elements', 'band_gap', 'nonmagnetic')
    >>> funnel.add_unreadable()
    >>> funnel.entered, funnel.passed, funnel.emptied_by()
    (1, 0, 'readable')
    """

    names: tuple[str, ...]
    entered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, filters: ScreeningFilters) -> Funnel:
        """Empty funnel of a set of filters."""
        return cls((READABLE, *filters.active()))

    @property
    def passed(self) -> int:
        """Candidates that passed every stage."""
        return self.entered - self.dropped.total()

    @property
    def stages(self) -> list[FilterCount]:
        """What each stage did, as a run's document has it."""
        stages, left = [], self.entered
        for name in self.names:
            dropped, unknown = self.dropped[name], self.unknown[name]
            stages.append(FilterCount(name=name, entered=left, dropped=dropped, unknown=unknown))
            left -= dropped
        return stages

    def add(self, verdict: FilterVerdict) -> None:
        """Count one candidate."""
        self.entered += 1
        if verdict.unknown:
            self.unknown.update(verdict.unknown)
        if verdict.dropped_by is not None:
            self.dropped[verdict.dropped_by] += 1

    def add_unreadable(self) -> None:
        """Count one material whose structure could not be used."""
        self.entered += 1
        self.dropped[READABLE] += 1

    def emptied_by(self) -> str | None:
        """Name of the stage that dropped the last ones, None if any passed or none came."""
        if self.passed or not self.entered:
            return None
        return next(stage.name for stage in reversed(self.stages) if stage.entered)

    def stages_behind(self, source: str, applied: Funnel) -> list[FilterCount]:
        """The stages behind those of a source that applies filters itself.

        Parameters
        ----------
        source : str
            Its name, which is put before those of its stages.
        applied : Funnel
            What it did. Candidates of it that were not read, since there was a limit, are
            dropped by a stage of their own.
        """
        left = applied.passed
        unread = FilterCount(name="limit", entered=left, dropped=max(left - self.entered, 0))
        before = [*applied.stages, *([unread] if unread.dropped else [])]
        named = [s.model_copy(update={"name": f"{source}: {s.name}"}) for s in before]
        return [*named, *self.stages]

    def as_dicts(self) -> list[dict[str, Any]]:
        """The stages as plain dicts with the keys name, entered, dropped, unknown."""
        return [stage.model_dump() for stage in self.stages]

    @classmethod
    def from_dicts(cls, stages: Iterable[Mapping[str, Any]]) -> Funnel:
        """Inverse of :meth:`as_dicts`."""
        counts = [FilterCount(**stage) for stage in stages]
        return cls(
            tuple(count.name for count in counts),
            counts[0].entered if counts else 0,
            Counter({count.name: count.dropped for count in counts}),
            Counter({count.name: count.unknown for count in counts}),
        )
