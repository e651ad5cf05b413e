"""Our filters in the language of OPTIMADE."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from screening.errors import ScreeningError, one_line
from screening.filters import ScreeningFilters, switched_on
from screening.sources.optimade.provider_fields import PROVIDER_FIELDS

INSTALL = "the Python package optimade is missing: pip install 'edos-screening[optimade]'"

STANDARD: dict[str, Callable[[Any], str]] = {
    "n_elements": lambda most: f"nelements<={most}",
    "elements": lambda symbols: f"elements HAS ALL {_listed(symbols)}",
    "exclude_elements": lambda symbols: f"NOT elements HAS ANY {_listed(symbols)}",
}
"""Filters that every server understands. `nsites` is not among them: it counts the atoms of the
cell that the database has, `--max-sites` those of the primitive cell."""


def _listed(symbols: Collection[str]) -> str:
    return ",".join(f'"{symbol}"' for symbol in sorted(symbols))


@dataclass(frozen=True)
class OptimadeQuery:
    """What a server is asked to filter by.

    Parameters
    ----------
    standard : tuple of str
        Of our filters those that every server understands.
    provider : tuple of str
        Those of hull energy and band gap, in the server's own fields. A material for which such
        a field is not set passes if unknown values are kept.
    own : str
        The user's filter; empty if there is none.
    """

    standard: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    own: str = ""

    @classmethod
    def of(cls, filters: ScreeningFilters, own: str, fields: Collection[str]) -> OptimadeQuery:
        """The part of the filters that a server can apply.

        Parameters
        ----------
        filters : ScreeningFilters
        own : str
            The user's filter.
        fields : collection of str
            That the server has and can compare with a number.
        """
        standard, provider = [], []
        for filter, limit in switched_on(filters):
            if filter.name in STANDARD:
                standard.append(STANDARD[filter.name](limit))
            for field in PROVIDER_FIELDS.get(filter.name, ()):
                if field in fields:
                    is_below = f"{field}<={limit:g}"
                    keeps = filters.unknown == "keep"
                    provider.append(f"({is_below} OR {field} IS UNKNOWN)" if keeps else is_below)
        return cls(tuple(standard), tuple(provider), own)

    def attempts(self) -> list[str]:
        """Filters to try, since servers may refuse those of their own fields, or all but one's own.

        What the server does not filter by is filtered here.

        Examples
        --------
        >>> OptimadeQuery(("nelements<=4",), ("_oqmd_stability<=0.5",)).attempts()
        ['nelements<=4 AND _oqmd_stability<=0.5', 'nelements<=4', '']
        """
        own = (f"({self.own})",) if self.own else ()
        choices = [self.standard + self.provider + own, self.standard + own, own]
        return list(dict.fromkeys(" AND ".join(parts) for parts in choices))


def check_filter(text: str) -> None:
    """Refuse a filter that is none, before any server is asked.

    Raises
    ------
    ScreeningError
        In one line, with the place where it stops to be a filter.
    """
    try:
        from optimade.exceptions import BadRequest
        from optimade.filterparser import LarkParser, ParserError
    except ImportError:
        raise ScreeningError(INSTALL) from None
    try:
        LarkParser().parse(text)
    except (BadRequest, ParserError) as error:
        why = one_line(getattr(error, "detail", None) or error)
        raise ScreeningError(
            f'--optimade-filter {text!r:.80}: {why}; write it as \'elements HAS ANY "Nb","O"\''
        ) from None
