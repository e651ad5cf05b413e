"""Which candidates are worth a prediction: the filters of the paper.

A filter is a small object, and a field of :class:`ScreeningFilters` that has it in its
annotation. Funnels, reasons and the options of `screen run` follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from screening.user_input import UserInput

if TYPE_CHECKING:
    from screening.candidate import Candidate

UNKNOWN = "unknown"  # compared by identity


@dataclass(frozen=True)
class Filter:
    """What one option asks of a candidate.

    Parameters
    ----------
    name : str
        In funnels and documents.
    reason : callable
        Of a candidate and the value of the option: why the candidate is dropped, in words; None
        if it passes, `UNKNOWN` if its source does not know what is asked.
    asked : str
        What a source may not know of a candidate, in words; empty if every source knows it.
    of_cell : bool
        The verdict depends on the cell. Such filters come last: the cell is reduced to the
        primitive one before, which is dearer than all filters.
    """

    name: str
    reason: Callable[[Candidate, Any], str | None]
    asked: str = ""
    of_cell: bool = False


def _above(value: float | None, limit: float, what: str) -> str | None:
    if value is None:
        return UNKNOWN
    return None if value <= limit else f"{value:g} {what}, more than {limit:g}"


def _is_true(value: bool | None, reason: str) -> str | None:
    if value is None:
        return UNKNOWN
    return reason if value else None


def _many_elements(candidate: Candidate, most: int) -> str | None:
    n = candidate.nelements
    return None if n <= most else f"{n} elements, more than {most}"


def _lacks_elements(candidate: Candidate, elements: frozenset[str]) -> str | None:
    missing = elements.difference(candidate.elements)
    return f"without {', '.join(sorted(missing))}" if missing else None


def _has_elements(candidate: Candidate, elements: frozenset[str]) -> str | None:
    excluded = elements.intersection(candidate.elements)
    return f"with {', '.join(sorted(excluded))}" if excluded else None


def _large_cell(candidate: Candidate, most: int) -> str | None:
    n = candidate.nsites
    return None if n <= most else f"{n} atoms in the cell, more than {most}"


ENERGY_ABOVE_HULL = Filter(
    "energy_above_hull",
    lambda candidate, most: _above(candidate.energy_above_hull, most, "eV/atom above hull"),
    asked="the energy above hull",
)
N_ELEMENTS = Filter("n_elements", _many_elements)
BAND_GAP = Filter(
    "band_gap",
    lambda candidate, most: _above(candidate.band_gap, most, "eV band gap"),
    asked="the band gap",
)
NONMAGNETIC = Filter(
    "nonmagnetic",
    lambda candidate, _: _is_true(candidate.is_magnetic, "magnetic"),
    asked="whether it is magnetic",
)
WITHOUT_EDOS = Filter(
    "without_edos",
    lambda candidate, _: _is_true(candidate.has_edos, "has a DFT DOS already"),
    asked="whether it has a DFT DOS",
)
ELEMENTS = Filter("elements", _lacks_elements)
EXCLUDE_ELEMENTS = Filter("exclude_elements", _has_elements)
N_SITES = Filter("n_sites", _large_cell, of_cell=True)


def known_elements(symbols: str | Iterable[Any]) -> frozenset[str]:
    """Elements as a user names them: Mg,Si or Mg-Si, or one by one.

    Parameters
    ----------
    symbols : str or iterable

    Raises
    ------
    ValueError
        If there is no such element.
    """
    from models.crystal import ATOMIC_NUMBERS  # with NumPy, which `screen --help` does without

    if isinstance(symbols, str):
        symbols = symbols.replace(",", " ").replace("-", " ").split()
    found = [str(s).strip() for s in symbols]
    wrong = [s for s in found if ATOMIC_NUMBERS.get(s, 0) < 1]
    if wrong:
        raise ValueError(f"there is no element {', '.join(wrong)}; write Mg, not mg")
    return frozenset(found)


class ScreeningFilters(UserInput):
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
    unknown : {'keep', 'drop'}
        What to do with a candidate whose property is not known. It is counted either way.
    elements : frozenset of str
        Keep only materials that contain *all* of these, other elements beside them allowed.
    exclude_elements : frozenset of str
        Drop materials that contain any of these.
    """

    command_line: ClassVar = {
        "max_energy_above_hull": "--max-ehull",
        "max_band_gap": "--max-gap",
        "nonmagnetic": "--nonmagnetic/--any-magnetism",
        "without_edos": "--without-edos/--any-edos",
    }

    max_energy_above_hull: Annotated[float | None, ENERGY_ABOVE_HULL] = Field(
        default=0.5, ge=0, description="Largest energy above hull, eV/atom (or inf)."
    )
    max_elements: Annotated[int | None, N_ELEMENTS] = Field(
        default=4, ge=1, description="Largest number of elements."
    )
    max_sites: Annotated[int | None, N_SITES] = Field(
        default=None,
        ge=1,
        description="Largest primitive cell, atoms: what DFT can afford. Default: any.",
    )
    max_band_gap: Annotated[float | None, BAND_GAP] = Field(
        default=0.0, ge=0, description="Largest band gap, eV (or inf)."
    )
    nonmagnetic: Annotated[bool, NONMAGNETIC] = Field(default=True, description="Magnetism.")
    without_edos: Annotated[bool, WITHOUT_EDOS] = Field(default=True, description="Known DFT DOS.")
    unknown: Literal["keep", "drop"] = Field(
        default="keep",
        description="Candidates with a property that the source does not know. "
        "Default: drop for mp, keep for files.",
    )
    elements: Annotated[frozenset[str], ELEMENTS] = Field(
        default=frozenset(), description="All of these must be there: Mg,Si."
    )
    exclude_elements: Annotated[frozenset[str], EXCLUDE_ELEMENTS] = Field(
        default=frozenset(), description="None of these may: U,Th."
    )

    @field_validator("elements", "exclude_elements", mode="before")
    @classmethod
    def _are_elements(cls, symbols: Any) -> Any:
        return known_elements(symbols) if isinstance(symbols, Iterable) else symbols

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
        for filter, limit in switched_on(self):
            reason = filter.reason(candidate, limit)
            if reason is None:
                continue
            if reason is UNKNOWN:
                unknown.append(filter.name)
                if self.unknown == "keep":
                    continue
                reason = f"{filter.asked} is not known"
            return FilterVerdict(False, filter.name, reason, tuple(unknown))
        return FilterVerdict(True, None, None, tuple(unknown)) if unknown else PASSED

    def active(self) -> tuple[str, ...]:
        """Names of the filters that are switched on, in the order of application."""
        return tuple(filter.name for filter, _ in switched_on(self))


@lru_cache(maxsize=8)
def switched_on(filters: ScreeningFilters) -> tuple[tuple[Filter, Any], ...]:
    """Filters that are switched on and their limits, in the order of application."""
    limits = ((f, getattr(filters, name)) for name, f in filters.in_annotations(Filter).items())
    on = [(f, limit) for f, limit in limits if not _is_off(limit)]
    return tuple(sorted(on, key=lambda pair: pair[0].of_cell))


def _is_off(limit: Any) -> bool:
    return limit is None or limit is False or limit == frozenset()


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
