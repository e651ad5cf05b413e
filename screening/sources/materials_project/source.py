"""Candidates from the Materials Project, asked for once and then kept on disk."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.candidate import SourceItem, Unreadable
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters, switched_on
from screening.funnel import Funnel
from screening.sources.base import Source, digest
from screening.sources.materials_project.cache import Facts, Layout, TableCache, default_cache
from screening.sources.materials_project.client import (
    ATTRIBUTION,
    MaterialsProjectClient,
    chosen_endpoint,
    find_api_key,
)
from screening.sources.materials_project.documents import (
    has_dos,
    is_magnetic,
    material_row,
    material_schema,
    usual_id,
)
from screening.sources.properties import number

if TYPE_CHECKING:
    import pyarrow as pa

    from screening.sources.parquet import ParquetSource

NAME = "Materials Project"
PAGE_SIZE = 1000  # the server's limit
FIELDS = (
    "material_id",
    "formula_pretty",
    "structure",
    "energy_above_hull",
    "band_gap",
    "is_magnetic",
    "ordering",
    "has_props",
    "last_updated",
)
ON_SERVER: dict[str, Callable[[Any], dict[str, Any]]] = {
    "energy_above_hull": lambda most: {"energy_above_hull_max": most},
    "n_elements": lambda most: {"nelements_max": most},
    "band_gap": lambda most: {"band_gap_max": most},
    "nonmagnetic": lambda _: {"ordering": "NM"},
    "elements": lambda elements: {"elements": ",".join(sorted(elements))},
    "exclude_elements": lambda elements: {"exclude_elements": ",".join(sorted(elements))},
}
"""Criteria in the API's names for the filters that the server can apply."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class ServerQuery:
    """What is asked of the server.

    Only what the API can filter by goes to the server, and what it cannot is left to the
    candidates' own filters: there is no asking for materials *without* a DOS. A filter that
    keeps unknown values stays behind as well, for the server drops them.

    Parameters
    ----------
    stages : tuple of (str, dict)
        Name of each filter and its criteria in the API's names, in the order of application.
    material_ids : tuple of str
        Ask for these materials only.
    """

    stages: tuple[tuple[str, dict[str, Any]], ...] = ()
    material_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, filters: ScreeningFilters, material_ids: Sequence[str] = ()) -> ServerQuery:
        """The part of the filters that the server can apply.

        Parameters
        ----------
        filters : ScreeningFilters
        material_ids : sequence of str
            Ask for these materials only.
        """
        stages = [
            (filter.name, ON_SERVER[filter.name](limit))
            for filter, limit in switched_on(filters)
            if filter.name in ON_SERVER and (filters.unknown == "drop" or not filter.asked)
        ]
        return cls(tuple(stages), tuple(sorted(set(material_ids))))

    def criteria(self, stages: int | None = None) -> dict[str, Any]:
        """Criteria of the first stages, of all by default, in the API's own names."""
        merged: dict[str, Any] = {"deprecated": False}
        if self.material_ids:
            merged["material_ids"] = ",".join(self.material_ids)
        for _, criteria in self.stages[:stages]:
            merged.update(criteria)
        return merged

    def arguments(self) -> dict[str, Any]:
        """The same in the names of the official client's search."""
        from pymatgen.analysis.magnetism import Ordering

        criteria = self.criteria()
        arguments: dict[str, Any] = {"deprecated": False}
        for ours, name in (
            ("energy_above_hull_max", "energy_above_hull"),
            ("band_gap_max", "band_gap"),
        ):
            if ours in criteria:
                arguments[name] = (None, criteria[ours])
        if "nelements_max" in criteria:
            arguments["num_elements"] = (None, criteria["nelements_max"])
        if "ordering" in criteria:
            arguments["magnetic_ordering"] = Ordering(criteria["ordering"])
        for name in ("elements", "exclude_elements", "material_ids", "has_props"):
            if name in criteria:
                arguments[name] = criteria[name].split(",")
        return arguments


class MaterialsProjectSource(Source):
    """A table of the Materials Project's answer to one query.

    Parameters
    ----------
    table : ParquetSource
    facts : Facts
        What was asked, when, and of which version of the database.
    missing : sequence of Unreadable
        Materials that were asked for and are not there.
    """

    name = "mp"
    default_unknown = "drop"
    attribution = ATTRIBUTION

    def __init__(self, table: ParquetSource, facts: Facts, missing: Sequence[Unreadable]) -> None:
        self._table = table
        self._missing = list(missing)
        self.facts = facts
        self.applied = facts.funnel
        self.database_version = facts.database_version
        self.description = f"{NAME} {facts.database_version}: {table.total:,} materials"

    @property
    def fingerprint(self) -> str:
        """Of the query and the version of the database."""
        return digest(NAME, self.facts.database_version, self.facts.query)

    @property
    def provenance(self) -> dict[str, str]:
        """Also when the answer was retrieved."""
        return super().provenance | {"retrieved": self.facts.retrieved}

    @property
    def total(self) -> int:
        """Materials in the answer, and those that were asked for in vain."""
        return self._table.total + len(self._missing)

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the answer."""
        yield from self._table
        yield from self._missing


def open_materials_project(
    filters: ScreeningFilters | None = None,
    *,
    material_ids: Sequence[str] = (),
    api_key_file: Path | None = None,
    refresh: bool = False,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> MaterialsProjectSource:
    """Ask the Materials Project for candidates, or take the answer that is kept from before.

    The answer is fetched page by page and kept as a parquet table with the query and the
    version of the database in its metadata. A fetch that was broken off goes on where it
    stopped, unless the database has changed since. A table that is kept needs no key.

    Parameters
    ----------
    filters : ScreeningFilters, optional
        Applied by the server as far as it can; the paper's with ``unknown='drop'`` by default.
    material_ids : sequence of str
        Ask for these materials only.
    api_key_file : Path, optional
        Where to look for the key when neither `MP_API_KEY` nor pymatgen's settings have it.
    refresh : bool
        Ask again even if an answer is kept.
    cache_dir : Path, optional
    endpoint : str, optional
        Of another server with the same interface; ``MP_API_ENDPOINT`` by default.
    progress : callable, optional
        Called with the materials that are there and those that will be.
    sleep : callable, optional
        For the pauses between attempts.

    Raises
    ------
    ScreeningError
        In one line: no key, a wrong one, no network, nothing that meets the filters.
    """
    from screening.sources.parquet import ParquetSource

    ids = _checked_ids(material_ids)
    endpoint = chosen_endpoint(endpoint)
    query = ServerQuery.of(filters or ScreeningFilters(unknown="drop"), ids)

    def connect() -> MaterialsProjectClient:
        return MaterialsProjectClient(find_api_key(api_key_file), endpoint, sleep)

    cache = TableCache(cache_dir or default_cache(), query.criteria(), CANDIDATES, endpoint)
    facts = cached_table(connect, query, cache, refresh=refresh, progress=progress)
    missing = [Unreadable(i, reason) for i, reason in cache.read_missing().items()]
    return MaterialsProjectSource(ParquetSource(cache.table, origin=NAME), facts, missing)


def cached_table(
    connect: Callable[[], MaterialsProjectClient],
    query: ServerQuery,
    cache: TableCache,
    *,
    refresh: bool = False,
    progress: Progress | None = None,
) -> Facts:
    """See to it that the answer to a query is in the cache.

    Parameters
    ----------
    connect : callable
        Makes the client; called if something has to be asked.
    query : ServerQuery
    cache : TableCache
    refresh : bool
        Ask again even if the answer is there.
    progress : callable, optional
        Called with the materials that are there and those that will be.
    """
    facts = None if refresh else Facts.of_table(cache.table)
    return facts or _fetch(connect(), query, cache, progress)


def _checked_ids(material_ids: Sequence[str]) -> list[str]:
    wrong = [i for i in material_ids if not re.fullmatch(r"(mp|mvc)-[0-9a-z]+", i)]
    if wrong:
        raise ScreeningError(f"{wrong[0]!r:.40} is not a Materials Project id such as mp-149")
    return [usual_id(i) for i in material_ids]


def _fetch(
    client: MaterialsProjectClient, query: ServerQuery, cache: TableCache, progress: Progress | None
) -> Facts:
    """Fill the cache with the answer to a query."""
    cache.begin(client.database_version)
    funnel = _server_funnel(client, query)
    total = funnel.passed
    if not total and not query.material_ids:
        raise ScreeningError(
            f"the Materials Project has no such material: the filter {funnel.emptied_by()} drops "
            f"the last of the {funnel.entered:,} materials that reach it"
            if funnel.entered
            else "the Materials Project's server has no materials"
        )
    arguments = query.arguments()
    fetched: set[str] = set()
    for page in range(1, -(-total // PAGE_SIZE) + 1):
        name = f"page-{page:06d}"
        ids = cache.pages.ids(name)
        if ids is None:
            documents = client.search(cache.layout.fields, page, PAGE_SIZE, **arguments)
            rows = [cache.layout.row_of(document) for document in documents]
            if cache.layout.has_functional:
                functionals = client.functionals([row["material_id"] for row in rows])
                rows = [row | {"functional": functionals.get(row["material_id"])} for row in rows]
            ids = cache.pages.write(name, rows)
        fetched.update(ids)
        if progress is not None:
            progress(len(fetched), total)
    if len(fetched) != total:
        cache.pages.remove()
        raise ScreeningError(
            f"the Materials Project's answer changed while it was read ({len(fetched):,} of "
            f"{total:,} materials): run it again"
        )
    cache.write_missing(_look_for(client, sorted(set(query.material_ids) - fetched)))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts = Facts(cache.query, client.database_version, now, funnel)
    cache.finish(facts)
    return facts


def _server_funnel(client: MaterialsProjectClient, query: ServerQuery) -> Funnel:
    """What each filter drops on the server; the first stage is the whole database."""
    names = [name for name, _ in query.stages]
    counts = [client.count(query.criteria(n)) for n in range(len(names) + 1)]
    dropped = {name: n - left for name, (n, left) in zip(names, pairwise(counts), strict=True)}
    return Funnel(("database", *names), counts[0], Counter(dropped))


def _look_for(client: MaterialsProjectClient, ids: list[str]) -> dict[str, str]:
    """Why materials that were asked for are not in the answer."""
    if not ids:
        return {}

    def among(**criteria: Any) -> set[str]:
        documents = client.search(("material_id",), 1, PAGE_SIZE, material_ids=ids, **criteria)
        return {usual_id(document["material_id"]) for document in documents}

    deprecated, current = among(deprecated=True), among(deprecated=False)
    return {
        i: "deprecated by the Materials Project"
        if i in deprecated
        else "dropped by the filters of the query"
        if i in current
        else "the Materials Project has no such material"
        for i in ids
    }


# --- documents to rows ----------------------------------------------------------------------


def row_of(document: dict[str, Any]) -> dict[str, Any]:
    """Row of the cached table for a summary document; without a structure, the reason why."""
    return material_row(document, _properties)


def _properties(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "energy_above_hull": number(document, "energy_above_hull"),
        "band_gap": number(document, "band_gap"),
        "is_magnetic": is_magnetic(document),
        "has_edos": has_dos(document.get("has_props")),
    }


def _candidate_schema() -> pa.Schema:
    import pyarrow as pa

    return material_schema(
        [
            ("energy_above_hull", pa.float64()),
            ("band_gap", pa.float64()),
            ("is_magnetic", pa.bool_()),
            ("has_edos", pa.bool_()),
            ("last_updated", pa.string()),
            ("functional", pa.string()),
        ]
    )


CANDIDATES = Layout(FIELDS, row_of, _candidate_schema, version=2, has_functional=True)
