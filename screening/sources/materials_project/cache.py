"""Answers of the Materials Project, kept on disk as parquet tables with their provenance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.store import mask_uri
from models.writing import replacing, write_whole
from screening.errors import ScreeningError
from screening.funnel import Funnel
from screening.sources.base import digest
from screening.sources.materials_project.client import ATTRIBUTION
from screening.table_parts import TableParts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """What a cached table holds.

    Parameters
    ----------
    fields : tuple of str
        Fields of the summary documents to ask for.
    row_of : callable
        Row of the table for a document.
    schema : callable
        Arrow schema of the table.
    name : str
        Part of the table's file name.
    version : int
        Changes with the meaning of the table.
    has_functional : bool
        The table has a column `functional`, for which another route of the server is asked.
    """

    fields: tuple[str, ...]
    row_of: Callable[[dict[str, Any]], dict[str, Any]]
    schema: Callable[[], pa.Schema]
    name: str = "mp"
    version: int = 1
    has_functional: bool = False


@dataclass(frozen=True)
class Facts:
    """Provenance of a table.

    Parameters
    ----------
    query : str
        JSON of the criteria and of the server.
    database_version : str
    retrieved : str
        ISO 8601, UTC.
    funnel : Funnel
        What each filter dropped on the server.
    """

    query: str
    database_version: str
    retrieved: str
    funnel: Funnel

    def metadata(self) -> dict[str, str]:
        """For the metadata of the table."""
        return {
            "database_version": self.database_version,
            "query": self.query,
            "retrieved": self.retrieved,
            "funnel": json.dumps(self.funnel.as_dicts()),
            "attribution": ATTRIBUTION,
        }

    @classmethod
    def of_table(cls, path: Path) -> Facts | None:
        """Provenance of a cached table, None if it is not there or cannot be used."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_schema(path).metadata or {}
            text = {key.decode(): value.decode() for key, value in metadata.items()}
            return cls(
                text["query"],
                text["database_version"],
                text["retrieved"],
                Funnel.from_dicts(json.loads(text["funnel"])),
            )
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None


def default_cache() -> Path:
    """Folder of the cached tables, in ``XDG_CACHE_HOME`` or where the system keeps caches."""
    from platformdirs import user_cache_path

    return user_cache_path("edos-screening")


class TableCache:
    """The table of one query, and its pages as long as they come in.

    Parameters
    ----------
    folder : Path
        Of all cached tables.
    criteria : dict
        Of the query, in the API's names.
    layout : Layout
    endpoint : str, optional
        Of another server than the Materials Project's.

    Attributes
    ----------
    table : Path
    pages : TableParts
    """

    def __init__(
        self, folder: Path, criteria: dict[str, Any], layout: Layout, endpoint: str | None = None
    ) -> None:
        asked = {"endpoint": endpoint and mask_uri(endpoint), **criteria}
        self.query = json.dumps(asked, sort_keys=True)
        self.layout = layout
        stem = f"{layout.name}-{digest(self.query, str(layout.version))}"
        self.table = folder / f"{stem}.parquet"
        self.pages = TableParts(folder / f"{stem}.pages", layout.schema)
        self._missing = folder / f"{stem}.missing.json"

    def begin(self, database_version: str) -> None:
        """Keep the pages of a fetch that was broken off if they are of this database."""
        state = {"query": self.query, "database_version": database_version}
        self.pages.begin(json.dumps(state))

    def finish(self, facts: Facts) -> None:
        """Join the pages to the table, in their order."""
        import pyarrow.parquet as pq

        schema = self.layout.schema().with_metadata(facts.metadata())
        try:
            with (
                replacing(self.table) as unfinished,
                pq.ParquetWriter(unfinished, schema, compression="zstd") as writer,
            ):
                for page in self.pages.tables():
                    writer.write_table(page.replace_schema_metadata(schema.metadata))
        except OSError as error:
            raise ScreeningError(f"cannot write {self.table}: {error.strerror}") from None
        self.pages.remove()

    def write_missing(self, missing: dict[str, str]) -> None:
        """Keep the reasons why materials that were asked for are not in the table."""
        write_whole(self._missing, json.dumps(missing))

    def read_missing(self) -> dict[str, str]:
        """Inverse of :meth:`write_missing`."""
        try:
            missing: dict[str, str] = json.loads(self._missing.read_text())
        except (OSError, ValueError):
            return {}
        return missing
