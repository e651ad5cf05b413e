"""Which candidates are worth a prediction: the filters of the paper, and the funnel they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.crystal import ATOMIC_NUMBERS
from screening.candidate import Candidate
from screening.errors import ScreeningError
from screening.options import Options

READABLE = "readable"
"""First stage of every funnel: has the material a structure that can be used?"""

FILTERS = (
    "energy_above_hull",
    "n_elements",
    "band_gap",
    "nonmagnetic",
    "without_edos",
    "elements",
    "exclude_elements",
    "n_sites",
)
"""Names of the filters, in the order in which they are applied; the cell's size comes last."""


class ScreeningFilters(Options):
    """What a candidate must be like; the defaults are the paper's.

    Parameters
    ----------
    max_energy_above_hull : float or None
        In eV/atom, inclusive. None, here and below, switches a filter off.
    max_elements : int or None
        Largest number of elements; 4 is the paper's 'fewer than 5'.
    max_sites : int or None
        Largest number of atoms in the cell, which a DFT calculation can afford; off by default.
        In a run it is the primitive cell, unless cells are kept as given.
    max_band_gap : float or None
        In eV, inclusive; 0 keeps metals only.
    nonmagnetic : bool
        Keep only what is not magnetic.
    without_edos : bool
        Keep only what has no DFT electronic DOS yet.
    elements : frozenset of str
        Keep only materials that contain *all* of these, other elements beside them allowed.
    exclude_elements : frozenset of str
        Drop materials that contain any of these.
    unknown : {'keep', 'drop'}
        What to do with a candidate whose property is not known. It is counted either way.
    """

    command_line: ClassVar = {"max_energy_above_hull": "--max-ehull", "max_band_gap": "--max-gap"}

    max_energy_above_hull: float | None = Field(default=0.5, ge=0)
    max_elements: int | None = Field(default=4, ge=1)
    max_sites: int | None = Field(default=None, ge=1)
    max_band_gap: float | None = Field(default=0.0, ge=0)
    nonmagnetic: bool = True
    without_edos: bool = True
    elements: frozenset[str] = frozenset()
    exclude_elements: frozenset[str] = frozenset()
    unknown: Literal["keep", "drop"] = "keep"

    @field_validator("elements", "exclude_elements", mode="before")
    @classmethod
    def _are_elements(cls, symbols: Any) -> Any:
        if isinstance(symbols, str):
            symbols = symbols.replace(",", " ").replace("-", " ").split()
        if not isinstance(symbols, Iterable):
            return symbols
        symbols = [str(s).strip() for s in symbols]
        wrong = [s for s in symbols if ATOMIC_NUMBERS.get(s, 0) < 1]
        if wrong:
            raise ValueError(f"there is no element {', '.join(wrong)}; write Mg, not mg")
        return frozenset(symbols)

    @model_validator(mode="after")
    def _can_pass(self) -> Self:
        both = sorted(self.elements & self.exclude_elements)
        if both:
            raise ValueError(f"--elements and --exclude-elements both name {', '.join(both)}")
        if self.max_elements is not None and len(self.elements) > self.max_elements:
            raise ValueError(
                f"--elements asks for {len(self.elements)} ({', '.join(sorted(self.elements))}), "
                f"--max-elements lets a material have {self.max_elements}"
            )
        return self

    def judge(self, candidate: Candidate) -> FilterVerdict:
        """Apply the filters in order, up to the first one that drops the candidate."""
        unknown: list[str] = []
        for name, check in self._checks():
            reason = check(candidate)
            if reason is None:
                continue
            if reason is UNKNOWN:
                unknown.append(name)
                if self.unknown == "keep":
                    continue
                reason = f"{WORDS[name]} is not known"
            return FilterVerdict(False, name, reason, tuple(unknown))
        return FilterVerdict(True, None, None, tuple(unknown)) if unknown else PASSED

    def active(self) -> tuple[str, ...]:
        """Names of the filters that are switched on, in order."""
        return tuple(name for name, _ in self._checks())

    def _checks(self) -> list[tuple[str, Check]]:
        on = {
            "energy_above_hull": self.max_energy_above_hull is not None,
            "n_elements": self.max_elements is not None,
            "band_gap": self.max_band_gap is not None,
            "nonmagnetic": self.nonmagnetic,
            "without_edos": self.without_edos,
            "elements": bool(self.elements),
            "exclude_elements": bool(self.exclude_elements),
            "n_sites": self.max_sites is not None,
        }
        return [(name, getattr(self, f"_check_{name}")) for name in FILTERS if on[name]]

    def _check_energy_above_hull(self, candidate: Candidate) -> str | None:
        return _above(candidate.energy_above_hull, self.max_energy_above_hull, "eV/atom above hull")

    def _check_band_gap(self, candidate: Candidate) -> str | None:
        return _above(candidate.band_gap, self.max_band_gap, "eV band gap")

    def _check_n_elements(self, candidate: Candidate) -> str | None:
        n = candidate.nelements
        most = self.max_elements
        return None if most is None or n <= most else f"{n} elements, more than {most}"

    def _check_nonmagnetic(self, candidate: Candidate) -> str | None:
        return _is_true(candidate.is_magnetic, "magnetic")

    def _check_without_edos(self, candidate: Candidate) -> str | None:
        return _is_true(candidate.has_edos, "has a DFT DOS already")

    def _check_elements(self, candidate: Candidate) -> str | None:
        missing = self.elements.difference(candidate.elements)
        return f"without {', '.join(sorted(missing))}" if missing else None

    def _check_exclude_elements(self, candidate: Candidate) -> str | None:
        excluded = self.exclude_elements.intersection(candidate.elements)
        return f"with {', '.join(sorted(excluded))}" if excluded else None

    def _check_n_sites(self, candidate: Candidate) -> str | None:
        n = candidate.nsites
        most = self.max_sites
        return None if most is None or n <= most else f"{n} atoms in the cell, more than {most}"


UNKNOWN = "unknown"  # compared by identity
WORDS = {
    "energy_above_hull": "the energy above hull",
    "band_gap": "the band gap",
    "nonmagnetic": "whether it is magnetic",
    "without_edos": "whether it has a DFT DOS",
}
Check = Callable[[Candidate], str | None]


def _above(value: float | None, limit: float | None, what: str) -> str | None:
    if value is None:
        return UNKNOWN
    return None if limit is None or value <= limit else f"{value:g} {what}, more than {limit:g}"


def _is_true(value: bool | None, reason: str) -> str | None:
    if value is None:
        return UNKNOWN
    return reason if value else None


@dataclass(frozen=True, slots=True)
class FilterVerdict:
    """What the filters say of one candidate.

    Parameters
    ----------
    passed : bool
    dropped_by : str or None
        Name of the filter that dropped it; the filters behind that one did not see it.
    reason : str or None
        Why it was dropped, in words.
    unknown : tuple of str
        The filters that could not judge it, since the source does not know the property.
    """

    passed: bool
    dropped_by: str | None = None
    reason: str | None = None
    unknown: tuple[str, ...] = ()


PASSED = FilterVerdict(True)


@dataclass
class FilterCount:
    """How many candidates one filter saw, dropped, and could not judge."""

    name: str
    entered: int = 0
    dropped: int = 0
    unknown: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The counts as a plain dict."""
        return {
            "name": self.name,
            "entered": self.entered,
            "dropped": self.dropped,
            "unknown": self.unknown,
        }


@dataclass
class Funnel:
    """Counts of what every filter did, in the order of application.

    Parameters
    ----------
    stages : list of FilterCount
        What came in and could be read, then one for each filter that is switched on.

    Examples
    --------
    >>> funnel = Funnel.of(ScreeningFilters(without_edos=False))
    >>> [stage.name for stage in funnel.stages]
    ['readable', 'energy_above_hull', 'n_elements', 'band_gap', 'nonmagnetic']
    """

    stages: list[FilterCount]

    @classmethod
    def of(cls, filters: ScreeningFilters) -> Funnel:
        """Empty funnel of a set of filters."""
        return cls([FilterCount(name) for name in (READABLE, *filters.active())])

    @property
    def entered(self) -> int:
        """Materials that came in."""
        return self.stages[0].entered

    @property
    def passed(self) -> int:
        """Candidates that passed every filter."""
        return self.stages[-1].entered - self.stages[-1].dropped

    def add(self, verdict: FilterVerdict) -> None:
        """Count one candidate."""
        for stage in self.stages:
            stage.entered += 1
            if stage.name in verdict.unknown:
                stage.unknown += 1
            if stage.name == verdict.dropped_by:
                stage.dropped += 1
                return

    def add_unreadable(self) -> None:
        """Count one material whose structure could not be used."""
        self.add(FilterVerdict(False, READABLE))

    def merge(self, other: Funnel) -> None:
        """Add the counts of another part of the same run.

        Raises
        ------
        ScreeningError
            If the other funnel has other filters.
        """
        if [s.name for s in self.stages] != [s.name for s in other.stages]:
            raise ScreeningError("cannot add up the funnels of different filters")
        for mine, theirs in zip(self.stages, other.stages, strict=True):
            mine.entered += theirs.entered
            mine.dropped += theirs.dropped
            mine.unknown += theirs.unknown

    def emptied_by(self) -> str | None:
        """Name of the stage that dropped the last ones, None if any passed or none came."""
        if self.passed or not self.entered:
            return None
        return next(s.name for s in reversed(self.stages) if s.entered)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The stages as plain dicts with the keys name, entered, dropped, unknown."""
        return [stage.as_dict() for stage in self.stages]

    @classmethod
    def from_dicts(cls, stages: Iterable[dict[str, Any]]) -> Funnel:
        """Inverse of :meth:`as_dicts`."""
        return cls([FilterCount(**stage) for stage in stages])
