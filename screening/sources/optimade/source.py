"""Candidates from an OPTIMADE database, streamed page by page and kept on disk as they come."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import ModelError
from screening.candidate import SourceItem, Unreadable
from screening.errors import ScreeningError, one_line
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.sources.base import Source, digest
from screening.sources.ids import clean_id, name_uniquely
from screening.sources.materials_project.cache import default_cache
from screening.sources.materials_project.client import ATTRIBUTION as MP_ATTRIBUTION
from screening.sources.optimade.entries import candidate_of_entry
from screening.sources.optimade.kept_pages import Facts, KeptPages
from screening.sources.optimade.provider_fields import PROVIDER_FIELDS
from screening.sources.optimade.providers import base_url_of
from screening.sources.optimade.query import OptimadeQuery, check_filter
from screening.sources.optimade.server import OptimadeServer, Page, Params, RefusalError, Sleep

FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "species",
    "dimension_types",
    "structure_features",
    "assemblies",
    "elements",
    "nsites",
    "last_modified",
)
PAGE_SIZES = (1000, 500, 100, None)  # to try; None leaves it to the server
ATTEMPTS_TO_CONNECT = 3  # someone may be waiting
EMPTY_PAGES = 3  # without anything new, in a row


class OptimadeSource(Source):
    """The answer of an OPTIMADE server to one query.

    Pages are asked for while the candidates are read, so that a run with a limit asks for no
    more than it needs, and are kept: read again, they come from the disk. An entry that cannot
    be used is streamed as unreadable with the reason.

    Parameters
    ----------
    name : str
        As the user calls it, such as ``"optimade:oqmd"``.
    facts : Facts
        What was asked, and what the server says of itself.
    pages : KeptPages
    server : OptimadeServer
    """

    def __init__(self, name: str, facts: Facts, pages: KeptPages, server: OptimadeServer) -> None:
        self.name = name
        self._facts = facts
        self._pages = pages
        self._server = server
        self._has_more = False
        self.attribution = facts.attribution
        self.applied = _applied(facts)
        number = f"{facts.returned:,}" if facts.returned is not None else "an unknown number of"
        asked = f" ({facts.filter})" if facts.filter else ""
        self.description = f"{facts.database} by OPTIMADE, {number} structures{asked}"

    @property
    def fingerprint(self) -> str:
        """Of the query and of when the database was asked."""
        facts = self._facts
        return digest("OPTIMADE", facts.base_url, facts.filter, facts.retrieved)

    @property
    def provenance(self) -> dict[str, str]:
        """Also when the answer was retrieved, and from where."""
        facts = self._facts
        known = {"retrieved": facts.retrieved, "url": facts.base_url, "filter": facts.filter}
        return super().provenance | known

    @property
    def total(self) -> int | None:
        """Structures in the answer, if the server says so."""
        return self._facts.returned

    @property
    def notes(self) -> tuple[str, ...]:
        """What the server cannot filter by, does not know, or holds back."""
        more = ("the server says that there is more, and gives no link to it",)
        return (*self._facts.notes, *(more if self._has_more else ()))

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the structures in the order of the server."""
        return name_uniquely(self._items(), set())

    def _items(self) -> Iterator[SourceItem]:
        seen: set[str] = set()
        repeats = 0
        for page in self._answer():
            before = len(seen)
            for n, entry in enumerate(page.entries, 1):
                yield self._item(entry, n, seen)
            repeats = 0 if len(seen) > before else repeats + 1
            if page.next and repeats == EMPTY_PAGES:
                raise ScreeningError(
                    f"{self._server.host}: its pages go round in circles: {repeats} in a row "
                    f"have nothing new, after {len(seen):,} structures"
                )
            self._has_more = page.next is None and page.meta.get("more_data_available") is True

    def _answer(self) -> Iterator[Page]:
        """All pages, from the disk or from the server."""
        page = self._pages.read(1)
        links: set[str] = set()
        number = 1
        while page is not None:
            yield page
            if page.next is None:
                return
            if page.next in links:
                raise ScreeningError(
                    f"{self._server.host}: its pages go round in circles: page {number} links to "
                    "one that was there"
                )
            links.add(page.next)
            number += 1
            link, page = page.next, self._pages.read(number)
            if page is None:
                page = self._server.page(link)
                self._pages.write(number, page)

    def _item(self, entry: Any, n: int, seen: set[str]) -> SourceItem:
        identifier = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            return Unreadable("entry", f"entry {n} of its page has no id: {entry!r:.60}")
        material_id = clean_id(str(identifier))
        if material_id in seen:
            return Unreadable(material_id, "the server has sent this id before; the first is used")
        seen.add(material_id)
        try:
            return candidate_of_entry(self._usable(entry), material_id, self._facts.database)
        except ModelError as error:
            return Unreadable(material_id, str(error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return Unreadable(material_id, f"not a structure of OPTIMADE: {one_line(repr(error))}")

    def _usable(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry without the fields that are ignored.

        Raises
        ------
        ModelError
            If it is that of no structure.
        """
        kind, attributes = entry.get("type", "structures"), entry.get("attributes")
        if kind != "structures":
            raise ModelError(f"it is no structure but of type {kind!r:.40}")
        if not isinstance(attributes, dict):
            raise ModelError("the entry has no attributes")
        ignored = self._facts.ignored
        return {"attributes": {k: v for k, v in attributes.items() if k not in ignored}}


def open_optimade(
    source: str,
    filters: ScreeningFilters | None = None,
    *,
    optimade_filter: str | None = None,
    refresh: bool = False,
    cache_dir: Path | None = None,
    sleep: Sleep = time.sleep,
) -> OptimadeSource:
    """Ask an OPTIMADE database for candidates, or take the answer that is kept from before.

    What is asked is told at once: whether the server can be reached, understands the filter, and
    has any such structure. The pages behind the first are asked for when they are read; an
    answer that was broken off goes on behind the last page that came.

    Parameters
    ----------
    source : str
        ``optimade:PROVIDER``, ``optimade:PROVIDER/DATABASE`` or ``optimade:https://...``.
    filters : ScreeningFilters, optional
        Applied by the server as far as it can.
    optimade_filter : str, optional
        In the language of OPTIMADE, in addition.
    refresh : bool
        Ask again even if an answer is kept.
    cache_dir : Path, optional
    sleep : callable, optional
        For the pauses between attempts.

    Raises
    ------
    ScreeningError
        In one line: no such provider, no network, a filter that is none, nothing that meets it.
    """
    filters = filters or ScreeningFilters()
    if optimade_filter:
        check_filter(optimade_filter)
    asked = digest(source, repr(OptimadeQuery.of(filters, optimade_filter or "", _ALL_FIELDS)))
    pages = KeptPages((cache_dir or default_cache()) / f"optimade-{asked}")
    facts = None if refresh else pages.facts()
    if facts is None:
        server = OptimadeServer(base_url_of(source, sleep), sleep)
        facts = _ask(server, filters, optimade_filter or "", pages)
    else:
        server = OptimadeServer(facts.base_url, sleep)
    return OptimadeSource(source, facts, pages, server)


_ALL_FIELDS = frozenset(field for fields in PROVIDER_FIELDS.values() for field in fields)


def _ask(server: OptimadeServer, filters: ScreeningFilters, own: str, pages: KeptPages) -> Facts:
    """Ask for the first page, and keep it with what the server says of itself."""
    info = server.get("info", attempts=ATTEMPTS_TO_CONNECT)
    needs_them = filters.max_energy_above_hull is not None or filters.max_band_gap is not None
    described = _provider_fields(server, needs_them)
    fields = [field for field, about in described.items() if _is_in_ev(about)]
    ignored = sorted(_ALL_FIELDS.difference(fields))
    query = OptimadeQuery.of(filters, own, [f for f in fields if _is_number(described[f])])
    page, asked = _first_page(server, query, [*FIELDS, *fields])
    if not page.entries and page.next is None:
        by = f" that meets {asked}" if asked else ""
        raise ScreeningError(f"{server.host} has no structure{by}")
    left = [part for part in (*query.standard, *query.provider) if part not in asked]
    notes = [f"{part} is left to us: the server does not filter by it" for part in left]
    notes += [f"{field} is not in eV and not used" for field in ignored if field in described]
    for name, candidates in PROVIDER_FIELDS.items():
        if not any(field in fields for field in candidates):
            notes.append(f"the server gives no {name.replace('_', ' ')}")
    facts = Facts(
        base_url=server.base_url,
        filter=asked,
        retrieved=datetime.now(UTC).isoformat(timespec="seconds"),
        database=_database(info, server.host),
        attribution=_attribution(info, server.host),
        returned=_count(page, "data_returned"),
        available=_count(page, "data_available"),
        ignored=tuple(ignored),
        notes=tuple(notes),
    )
    pages.begin(facts, page)
    return facts


def _first_page(
    server: OptimadeServer, query: OptimadeQuery, fields: list[str]
) -> tuple[Page, str]:
    """The first page, and the filter that the server took."""
    refusal: RefusalError | None = None
    for size in PAGE_SIZES:
        for text in query.attempts():
            try:
                params: Params = {
                    "filter": text or None,
                    "page_limit": size,
                    "response_fields": ",".join(fields),
                    "response_format": "json",
                }
                page = server.first_page(params)
                return page, text
            except RefusalError as error:
                refusal = refusal or error
                if error.status == 403:  # by the specification: the page is too large
                    break
                if error.status in (401, 404, 410):
                    raise
    assert refusal is not None
    raise refusal


def _provider_fields(server: OptimadeServer, needs_them: bool) -> dict[str, dict[str, Any]]:
    """What the server says of those of its fields that we know.

    Raises
    ------
    ScreeningError
        If it cannot say so now and filters need them: what it has would count as unknown, and be
        kept like that.
    """
    try:
        properties = server.get("info/structures", attempts=ATTEMPTS_TO_CONNECT)["data"][
            "properties"
        ]
        described = {name: properties[name] for name in _ALL_FIELDS if name in properties}
        return {name: dict(about or {}) for name, about in sorted(described.items())}
    except RefusalError:
        return {}
    except ScreeningError:  # which is a ValueError
        if needs_them:
            raise
        return {}
    except (KeyError, TypeError, ValueError):
        return {}


def _is_number(about: dict[str, Any]) -> bool:
    kind = str(about.get("x-optimade-type") or about.get("type"))
    return any(word in kind for word in ("float", "integer", "number"))


def _is_in_ev(about: dict[str, Any]) -> bool:
    """Whether a field is in eV, which it is if the server is silent."""
    unit = about.get("x-optimade-unit") or about.get("unit")
    is_silent = unit in (None, "", "inapplicable", "dimensionless")
    return is_silent or re.match(r"ev\b", str(unit), re.IGNORECASE) is not None


def _provider(info: dict[str, Any]) -> dict[str, Any]:
    meta = info.get("meta")
    provider = meta.get("provider") if isinstance(meta, dict) else None
    return provider if isinstance(provider, dict) else {}


def _database(info: dict[str, Any], host: str) -> str:
    name = _provider(info).get("name")
    return clean_id(name) if isinstance(name, str) and name.strip() else host


def _attribution(info: dict[str, Any], host: str) -> str:
    """What the server says of its provider and of its licence."""
    provider = _provider(info)
    if provider.get("prefix") == "mp":
        return MP_ATTRIBUTION
    data = info.get("data")
    attributes = data.get("attributes") if isinstance(data, dict) else None
    attributes = attributes if isinstance(attributes, dict) else {}
    homepage = _address(provider.get("homepage")) or host
    licences = attributes.get("available_licenses")
    names = [str(name) for name in licences] if isinstance(licences, list) else []
    licence = ", ".join(names) or _address(attributes.get("license"))
    words = f"Data from {_database(info, host)} ({homepage}) by OPTIMADE"
    return one_line(f"{words}, licence {licence}" if licence else f"{words}, licence not stated")


def _address(link: Any) -> str:
    link = link.get("href") if isinstance(link, dict) else link
    return link if isinstance(link, str) else ""


def _count(page: Page, name: str) -> int | None:
    value = page.meta.get(name)
    return value if type(value) is int and value >= len(page.entries) else None


def _applied(facts: Facts) -> Funnel | None:
    """What the server's filter dropped, if it tells."""
    if facts.available is None or facts.returned is None or facts.available < facts.returned:
        return None
    dropped = Counter({"filter": facts.available - facts.returned})
    names = ("database", "filter") if facts.filter else ("database",)
    return Funnel(names, facts.available, dropped if facts.filter else Counter())
