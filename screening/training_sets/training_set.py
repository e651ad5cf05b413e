"""What training sets of the Materials Project share: materials, spectra, and the file of both.

Spectra are put on the grid as they stream, and what is read is kept until the set is complete, so
that a fetch that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from models.errors import ModelError
from models.spectra.spectrum import EnergyGrid
from models.writing import replacing
from screening.errors import ScreeningError
from screening.sources.base import digest
from screening.sources.materials_project.cache import Facts, Layout, TableCache, default_cache
from screening.sources.materials_project.client import (
    ATTRIBUTION,
    MaterialsProjectClient,
    chosen_endpoint,
    find_api_key,
)
from screening.sources.materials_project.source import ServerQuery, cached_table
from screening.table_parts import TableParts
from screening.training_sets.delta_tables import Row, SpectraTable

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], object]


class LeftOutError(Exception):
    """Why a material is not in the set; counted by reason."""


@dataclass(frozen=True)
class FetchReport:
    """What became of the materials.

    Parameters
    ----------
    path : Path
    written : int
        Materials in the file.
    left_out : dict of str to int
        Materials that are not, by reason.
    database_version : str
    table_version : int
        Of the Delta table.
    """

    path: Path
    written: int
    left_out: dict[str, int]
    database_version: str
    table_version: int


@dataclass(frozen=True)
class Kind:
    """What makes one kind of spectra: where it is and how it gets on its grid.

    Parameters
    ----------
    name : str
    uri : str
        Of the Delta table.
    columns : tuple of str
        Of that.
    grid : EnergyGrid
    layout : Layout
        Of the table of the materials.
    query : ServerQuery
        Which materials have such a spectrum.
    spectrum : callable
        Columns of the set for a row of the Delta table and the row of its material.
    extra : callable
        Names and types of those columns but the spectrum.
    is_wanted : callable
        Whether a row of the Delta table is of this kind.
    """

    name: str
    uri: str
    columns: tuple[str, ...]
    grid: EnergyGrid
    layout: Layout
    query: ServerQuery
    spectrum: Callable[[Row, Row], Row]
    extra: Callable[[], list[tuple[str, pa.DataType]]]
    is_wanted: Callable[[Row], bool] = lambda row: True


class FetchOptions(TypedDict, total=False):
    """Options of `fetch_edos` and `fetch_phdos`.

    Parameters
    ----------
    api_key_file, refresh, cache_dir, endpoint
        As for :func:`screening.sources.materials_project.source.open_materials_project`.
    table : str
        URI of the Delta table, if it is not that of the Materials Project.
    storage_options : dict
        Of the object store, in the names of `deltalake`.
    progress : callable
        Called with the materials whose spectrum has come and those that are asked for.
    materials_progress : callable
        The same for the materials themselves, before their spectra.
    sleep : callable
        For the pauses between attempts.
    """

    api_key_file: Path | None
    refresh: bool
    cache_dir: Path | None
    endpoint: str | None
    table: str | None
    storage_options: dict[str, str] | None
    progress: Progress | None
    materials_progress: Progress | None
    sleep: Callable[[float], None]


def fetch(out: Path, kind: Kind, options: FetchOptions) -> FetchReport:
    """Write the training set of one kind of spectra.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    kind : Kind
    options : FetchOptions

    Raises
    ------
    ScreeningError
        In one line; what has been read is kept for the next attempt.
    """
    endpoint = chosen_endpoint(options.get("endpoint"))
    sleep = options.get("sleep", time.sleep)
    progress = options.get("progress")

    def connect() -> MaterialsProjectClient:
        return MaterialsProjectClient(find_api_key(options.get("api_key_file")), endpoint, sleep)

    folder = options.get("cache_dir") or default_cache()
    cache = TableCache(folder, kind.query.criteria(), kind.layout, endpoint)
    facts = cached_table(
        connect,
        kind.query,
        cache,
        refresh=options.get("refresh", False),
        progress=options.get("materials_progress"),
    )
    materials, left_out = _materials(cache.table)

    uri = options.get("table") or kind.uri
    table = SpectraTable(kind.name, kind.columns, uri, options.get("storage_options") or {})
    parts = TableParts(out.with_name(f"{out.name}.parts"), lambda: _part_schema(kind))
    identity = [uri, str(table.version), facts.database_version, facts.query]
    parts.begin(json.dumps([kind.name, kind.layout.version, *identity]))

    def label(identifier: str, row: Row) -> Row | None:
        return _labelled(kind, row, materials[identifier]) if kind.is_wanted(row) else None

    done = 0
    for file in table.files():
        name = digest(file.path)
        ids = parts.ids(name)
        if ids is None:
            ids = parts.write(name, table.read(file, materials, label, sleep))
        done += len(ids)
        if progress is not None:
            progress(done, len(materials))
    report = _join(out, kind, cache.table, parts, left_out, facts, table.version)
    parts.remove()
    return report


def _materials(table: Path) -> tuple[dict[str, Row], Counter[str]]:
    """Materials by the identifier of their calculation, and those that have none, by reason."""
    import pyarrow.parquet as pq

    structure = {"lattice", "species", "frac_coords"}
    columns = [c for c in pq.read_schema(table).names if c not in structure]
    materials: dict[str, Row] = {}
    left_out: Counter[str] = Counter()
    for row in pq.read_table(table, columns=columns).to_pylist():
        if row["problem"]:
            left_out[row["problem"]] += 1
        else:
            materials[row["identifier"]] = row
    return materials, left_out


def _labelled(kind: Kind, row: Row, material: Row) -> Row:
    label: Row = {"material_id": material["material_id"]}
    try:
        label.update(kind.spectrum(row, material))
    except LeftOutError as reason:
        label["reason"] = str(reason)
    return label


def _part_schema(kind: Kind) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("material_id", pa.string()),
            ("spectrum", pa.list_(pa.float32())),
            *kind.extra(),
            ("reason", pa.string()),
        ]
    )


def _join(
    out: Path,
    kind: Kind,
    materials: Path,
    parts: TableParts,
    left_out: Counter[str],
    facts: Facts,
    table_version: int,
) -> FetchReport:
    """Write structures and spectra in one file, in the order of the ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    spectra = pa.concat_tables([_part_schema(kind).empty_table(), *parts.tables()])
    why = spectra["reason"].to_pylist()
    first: dict[str, int] = {}  # usable spectrum of each material, or else the first one
    for k, material_id in enumerate(spectra["material_id"].to_pylist()):
        known = first.get(material_id)
        if known is None or (why[known] is not None and why[k] is None):
            first[material_id] = k
    spectra = spectra.take(pa.array(first.values(), pa.int64()))
    reasons = Counter(r for r in spectra["reason"].to_pylist() if r is not None)
    spectra = spectra.filter(pc.is_null(spectra["reason"])).drop_columns(["reason"])

    columns = ["material_id", "formula", "lattice", "species", "frac_coords", "last_updated"]
    own = [c for c in columns if c == "material_id" or c not in spectra.column_names]
    table = pq.read_table(materials, columns=[*own, "problem"])
    table = table.filter(pc.is_null(table["problem"])).select(own)
    reasons["no DOS in the table"] += len(table) - len(first)
    where = {i: k for k, i in enumerate(spectra["material_id"].to_pylist())}
    ids = table["material_id"].to_pylist()
    rows = sorted((i, k) for k, i in enumerate(ids) if i in where)
    if not rows:
        raise ScreeningError(f"none of {len(table):,} materials has a usable {kind.name}")
    table = table.take(pa.array([k for _, k in rows], pa.int64()))
    spectra = spectra.take(pa.array([where[i] for i, _ in rows], pa.int64()))
    for name in spectra.column_names[1:]:
        table = table.append_column(name, spectra[name].combine_chunks())
    table = table.select([*columns, *(c for c in table.column_names if c not in columns)])

    counts = dict(sorted((left_out + reasons).items()))  # without those that are 0
    metadata = {
        "grid": kind.grid.model_dump_json(),
        "database_version": facts.database_version,
        "table_version": str(table_version),
        "left_out": json.dumps(counts),
        "attribution": ATTRIBUTION,
    }
    try:
        with replacing(out) as unfinished:
            labelled = table.replace_schema_metadata(metadata)
            pq.write_table(labelled, unfinished, compression="zstd")
    except OSError as error:
        raise ScreeningError(f"cannot write {out}: {error.strerror}") from None
    return FetchReport(out, len(table), counts, facts.database_version, table_version)


def identifier_of(calculation: str | None) -> str:
    """Identifier of a calculation as the Delta tables write it: ``"aaaaaaft"`` for 149.

    Raises
    ------
    ModelError
        If there is none.
    """
    if not calculation:
        raise ModelError("no DOS calculation named in the document")
    from emmet.core.mpid import AlphaID

    try:
        return str(AlphaID(str(calculation).split("-")[-1], padlen=8))
    except ValueError:
        raise ModelError("no DOS calculation named in the document") from None
