"""Training sets from the Materials Project: total DOS and phonon DOS in bulk.

The Materials Project keeps the spectra in Delta tables of its public object store. They are
read file by file and put on the grid as they stream, and what is read is kept until the set is
complete, so that a fetch that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import numpy as np

from models.errors import ModelError
from models.spectra.spectrum import (
    EDOS_GRID,
    PHDOS_PAPER_GRID,
    EnergyGrid,
    IntegratedDos,
    align_edos,
    band_edges,
)
from screening.errors import ScreeningError
from screening.sources.base import digest
from screening.sources.checks import number, one_line
from screening.sources.materials_project.cache import Facts, Layout, TableCache, default_cache
from screening.sources.materials_project.client import (
    ATTRIBUTION,
    MaterialsProjectClient,
    chosen_endpoint,
    find_api_key,
    usual_id,
)
from screening.sources.materials_project.source import Query, cached_table, structure_columns

if TYPE_CHECKING:
    import pyarrow as pa

TOTAL_DOS = "s3a://materialsproject-parsed/core/electronic-structure/total-dos/"
PHONON_DOS = "s3a://materialsproject-parsed/phonon/electronic-structure/dos/"
PUBLIC_STORE = {"AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1", "timeout": "300s"}

ATTEMPTS = 4  # to read one file of a table
FIRST_PAUSE = 2.0  # s
BATCH_ROWS = 256
TRACE, EMPTY = 1e-3, 0.05  # states/eV/cell; below the first are no states, below the second few
MOMENT = 0.05  # electrons that the spin channels of a nonmagnetic cell may differ by
ELECTRON_TOLERANCE = 0.01  # of the electrons below the Fermi level
THZ = 33.35640951981521  # cm^-1

Method = Literal["dfpt", "pheasy"]
METHODS = get_args(Method)
Progress = Callable[[int, int], object]
Row = dict[str, Any]


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
class _Kind:
    """What makes one kind of spectra: where it is and how it gets on its grid."""

    name: str
    uri: str
    columns: tuple[str, ...]
    grid: EnergyGrid
    layout: Layout
    query: Query
    spectrum: Callable[[Row, Row], Row]
    """Columns of the set for a row of the Delta table and the row of its material."""
    extra: Callable[[], list[tuple[str, pa.DataType]]]
    """Those columns but the spectrum."""
    is_wanted: Callable[[Row], bool] = field(default=lambda row: True)


class FetchOptions(TypedDict, total=False):
    """Options of :func:`fetch_edos` and :func:`fetch_phdos`.

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
    sleep: Callable[[float], object]


def fetch_edos(out: Path, **options: Unpack[FetchOptions]) -> FetchReport:
    """Write the eDOS of all nonmagnetic materials that have one, with their structures.

    A material is left out, and counted by the reason, unless its DOS can be trusted:

    - its functional is PBE (run type GGA), or PBE+U where the Materials Project uses U: one
      functional for each chemistry;
    - the structure is that of the DOS's own calculation, with as many sites as the material's;
    - its two spin channels, which are added, hold equal numbers of electrons to 0.05;
    - both its band edges agree with those of the material's band structure, or its gap with the
      material's where there are none, to one bin (62.5 meV), and that of a metal has states at
      the Fermi level;
    - it holds a whole number of electrons to 1 % (see below).

    The table holds neither the integrated DOS nor the number of electrons. So each bin is the
    integral of the piecewise-linear DOS, and what VASP's tetrahedra lose, which give the DOS *at*
    the energies and pass over bands narrower than their distance, is found by counting: between
    the last empty energy below the grid and the Fermi level is a whole number of electrons, odd
    where the crystal's is odd, since full bands hold two (with frozen 4f shells: any).

    The file has `material_id`, `formula`, `lattice`, `species` and `frac_coords` as a source
    file has them, and `spectrum`: averages over the 128 bins of the eDOS grid in
    states/eV/cell, bins below zero relative to the VBM and bins above to the CBM (Methods,
    'Data generation'). Also `band_gap`, `vbm`, `cbm` (eV; the edges on the calculation's own
    scale), `edges` and `run_type`. The grid and the version of the database are in the
    metadata.

    `edges` says where the band edges come from. ``'metal'``: the Fermi level.
    ``'eigenvalues'``: the material's band structure. ``'dos'``: where the DOS rises above 0.001 or
    0.05 states/eV/cell on either side of the Fermi level, whichever is nearer to the material's
    gap, for those whose band structure is missing or on another scale.

    Rows are in the order of their ids, and nothing in the file depends on when or in how many
    attempts it was fetched.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    **options
        See :class:`FetchOptions`.

    Raises
    ------
    ScreeningError
        In one line; what has been read is kept for the next attempt.
    """
    return _fetch(out, _edos(), options)


def fetch_phdos(out: Path, method: Method = "dfpt", **options: Unpack[FetchOptions]) -> FetchReport:
    """Write the phonon DOS of all materials that have one, with their structures.

    The file is like that of :func:`fetch_edos`. `spectrum` has 51 points from 0 to 1000 cm^-1
    (Methods, 'Data generation') in states/cm^-1/cell, after a Savitzky-Golay filter of second
    order; the paper does not give its window, here it is the width of a bin. `imaginary` is the
    part of the modes below zero frequency.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    method : str
        How the phonons were calculated.
    **options
        See :class:`FetchOptions`.

    Raises
    ------
    ScreeningError
        In one line; what has been read is kept for the next attempt.
    """
    return _fetch(out, _phdos(method), options)


def _fetch(out: Path, kind: _Kind, options: FetchOptions) -> FetchReport:
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
    delta = _open_delta(uri, {**PUBLIC_STORE, **(options.get("storage_options") or {})})
    parts = _Parts(out, kind, [uri, str(delta.version()), facts.database_version, facts.query])
    found = 0
    for fragment in _fragments(delta):
        rows = parts.read(fragment.path)
        if rows is None:
            rows = parts.write(fragment.path, _read_file(fragment, kind, materials, sleep))
        found += rows
        if progress is not None:
            progress(found, len(materials))
    report = _join(out, kind, cache.table, parts, left_out, facts, delta.version())
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


# --- the Delta table ------------------------------------------------------------------------


def _open_delta(uri: str, storage_options: dict[str, str]) -> Any:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(uri, storage_options=storage_options)
    except TableNotFoundError:
        raise ScreeningError(f"{uri}: there is no such table") from None
    except (DeltaError, OSError) as error:
        raise ScreeningError(f"cannot open the table {uri}: {one_line(error)}") from None


def _fragments(delta: Any) -> list[Any]:
    """The files of a table in the order of their paths."""
    from deltalake.exceptions import DeltaError

    try:
        return sorted(delta.to_pyarrow_dataset().get_fragments(), key=lambda f: f.path)
    except (DeltaError, OSError) as error:
        raise ScreeningError(f"cannot read the table: {one_line(error)}") from None


def _read_file(
    fragment: Any, kind: _Kind, materials: dict[str, Row], sleep: Callable[[float], object]
) -> list[Row]:
    """Rows of the set from one file, with a reason in place of a spectrum that is left out."""
    import pyarrow as pa

    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return list(_rows(fragment, kind, materials))
        except (OSError, pa.ArrowException) as error:
            if attempt == ATTEMPTS:
                raise ScreeningError(
                    f"cannot read {fragment.path} of the {kind.name} table: {one_line(error)}; "
                    "run it again, what has been read is kept"
                ) from None
        sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")


def _rows(fragment: Any, kind: _Kind, materials: dict[str, Row]) -> Iterator[Row]:
    import pyarrow.dataset as ds

    partition = ds.get_partition_keys(fragment.partition_expression)
    stored = [name for name in kind.columns if name not in partition]
    missing = {"identifier", *stored} - set(fragment.physical_schema.names)
    if missing:
        raise ScreeningError(f"the {kind.name} table has no column {', '.join(sorted(missing))}")
    for group in fragment.split_by_row_group():
        ids = group.to_table(columns=["identifier"])["identifier"].to_pylist()
        if not any(i in materials for i in ids):
            continue
        columns = ["identifier", *stored]
        for batch in group.to_batches(columns=columns, batch_size=BATCH_ROWS):
            for k, identifier in enumerate(batch["identifier"].to_pylist()):
                material = materials.get(identifier)
                if material is None:
                    continue
                row = {name: _plain(batch[name][k]) for name in stored}
                row.update(partition)
                if kind.is_wanted(row):
                    yield _labelled(kind, row, material)


def _plain(scalar: Any) -> Any:
    """Numpy array of a list of floats, a dict of a struct, else a Python value; None for null."""
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ListScalar) and pa.types.is_floating(scalar.type.value_type):
        return scalar.values.to_numpy(zero_copy_only=False)
    if hasattr(scalar, "keys"):
        return {key: _plain(scalar[key]) for key in scalar}
    return scalar.as_py()


def _labelled(kind: _Kind, row: Row, material: Row) -> Row:
    label: Row = {"material_id": material["material_id"]}
    try:
        label.update(kind.spectrum(row, material))
    except LeftOutError as reason:
        label["reason"] = str(reason)
    return label


class _Parts:
    """What has been read of each file of a Delta table, until the set is complete."""

    def __init__(self, out: Path, kind: _Kind, identity: list[str]) -> None:
        self._folder = out.with_name(out.name + ".parts")
        self._kind = kind
        state = json.dumps([kind.name, kind.layout.version, *identity])
        try:
            if self._state() != state:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True)
                (self._folder / "state.json").write_text(state)
        except OSError as error:
            raise ScreeningError(f"cannot write to {self._folder}: {error.strerror}") from None

    def read(self, path: str) -> int | None:
        """Rows of a part, None if it is not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(self._part(path)).num_rows)
        except (OSError, pa.ArrowException):
            return None

    def write(self, path: str, rows: list[Row]) -> int:
        """Write a part as a whole or not at all; gives its rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = self._part(path)
        unfinished = part.with_suffix(f".{os.getpid()}.unfinished")
        try:
            pq.write_table(pa.Table.from_pylist(rows, _part_schema(self._kind)), unfinished)
            os.replace(unfinished, part)
        except OSError as error:
            raise ScreeningError(f"cannot write {part}: {error.strerror}") from None
        return len(rows)

    def table(self) -> pa.Table:
        """All parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [pq.read_table(path) for path in sorted(self._folder.glob("*.parquet"))]
        return pa.concat_tables([_part_schema(self._kind).empty_table(), *parts])

    def remove(self) -> None:
        """Forget all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _state(self) -> str | None:
        try:
            return (self._folder / "state.json").read_text()
        except OSError:
            return None

    def _part(self, path: str) -> Path:
        return self._folder / f"{digest(path)}.parquet"


def _part_schema(kind: _Kind) -> pa.Schema:
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
    kind: _Kind,
    materials: Path,
    parts: _Parts,
    left_out: Counter[str],
    facts: Facts,
    table_version: int,
) -> FetchReport:
    """Write structures and spectra in one file, in the order of the ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    spectra = parts.table()
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
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        pq.write_table(table.replace_schema_metadata(metadata), unfinished, compression="zstd")
        os.replace(unfinished, out)
    except OSError as error:
        raise ScreeningError(f"cannot write {out}: {error.strerror}") from None
    return FetchReport(out, len(table), counts, facts.database_version, table_version)


# --- electronic DOS -------------------------------------------------------------------------


def _edos() -> _Kind:
    fields = ("material_id", "formula_pretty", "structure", "last_updated", "dos.task_id")
    query = Query((("nonmagnetic", {"ordering": "NM"}), ("with DOS", {"has_props": "dos"})))
    return _Kind(
        name="electronic DOS",
        uri=TOTAL_DOS,
        columns=(
            "structure",
            "spin_up_densities",
            "spin_down_densities",
            "energies",
            "efermi",
            "run_type",
        ),
        grid=EDOS_GRID,
        layout=Layout(
            (*fields, "band_gap", "vbm", "cbm"),
            _edos_material,
            _edos_schema,
            name="mp-edos",
            version=2,
        ),
        query=query,
        spectrum=edos_columns,
        extra=_edos_extra,
    )


def _edos_material(document: Row) -> Row:
    row = _material(document)
    try:
        for name in ("band_gap", "vbm", "cbm"):
            row[name] = number(document, name)
        row["nsites"] = len(row.get("species", ()))
        row["identifier"] = _identifier((document.get("dos") or {}).get("task_id"))
    except ModelError as error:
        row.setdefault("problem", str(error))
    return row


def _edos_schema() -> pa.Schema:
    import pyarrow as pa

    edges = [(name, pa.float64()) for name in ("band_gap", "vbm", "cbm")]
    return _material_schema([*edges, ("nsites", pa.int32())])


def _edos_extra() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    edges = [(name, pa.float64()) for name in ("band_gap", "vbm", "cbm")]
    structure = [
        ("lattice", pa.list_(pa.float64())),
        ("species", pa.list_(pa.int16())),
        ("frac_coords", pa.list_(pa.float64())),
    ]
    return [*edges, ("edges", pa.string()), ("run_type", pa.string()), *structure]


def edos_columns(row: Row, material: Row) -> Row:
    """Spectrum of a row of the total-DOS table on the 128-bin grid, with edges and structure.

    Parameters
    ----------
    row : dict
        `structure` as a pymatgen dict, `energies` (M,) in eV, `spin_up_densities` (M,) in
        states/eV/cell, `spin_down_densities` (None without spin), `efermi` in eV, `run_type`.
    material : dict
        `band_gap`, `vbm`, `cbm` in eV, None where not known, and `nsites`.

    Raises
    ------
    LeftOutError
        With the reason; see :func:`fetch_edos`.
    """
    structure = _own_structure(row, material)
    _check_functional(row.get("run_type"), structure["species"])
    energies, dos = _total_dos(row)
    vbm, cbm, edges = _band_edges(energies, dos, row["efermi"], material)
    low, high = vbm + EDOS_GRID.edges[0], cbm + EDOS_GRID.edges[-1]
    if energies[0] > low or energies[-1] < high:
        raise LeftOutError("DOS does not cover 4 eV on either side of the band edges")
    _check_electrons(energies, dos, (vbm + cbm) / 2, low, structure["species"])
    values = align_edos(energies, dos, vbm, cbm).values
    return {
        "spectrum": values.astype(np.float32),
        "band_gap": cbm - vbm,
        "vbm": vbm,
        "cbm": cbm,
        "edges": edges,
        "run_type": row.get("run_type"),
        **structure,
    }


def _own_structure(row: Row, material: Row) -> Row:
    """Structure of the calculation that the DOS is of, as columns."""
    try:
        structure = structure_columns(row)
    except ModelError:
        raise LeftOutError("no usable structure with the DOS") from None
    if len(structure["species"]) != material["nsites"]:
        raise LeftOutError("DOS of another cell than the material's")
    return structure


def _check_functional(run_type: str | None, species: Iterable[int]) -> None:
    expected = "GGA+U" if _has_hubbard_u(frozenset(int(z) for z in species)) else "GGA"
    if run_type != expected:
        raise LeftOutError(f"functional {run_type or 'not known'} where {expected} is wanted")


@lru_cache(maxsize=4096)
def _has_hubbard_u(atomic_numbers: frozenset[int]) -> bool:
    """Whether the Materials Project uses U: by the most electronegative element (`MPRelaxSet`)."""
    from pymatgen.core import Element
    from pymatgen.io.vasp.sets import MPRelaxSet

    elements = sorted((Element.from_Z(z) for z in atomic_numbers), key=lambda element: element.X)
    values = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    return any(values.get(element.symbol) for element in elements)


def _total_dos(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Energies (M,) in eV and the DOS (M,) of both spins in states/eV/cell."""
    energies, up, down = (
        row[name] for name in ("energies", "spin_up_densities", "spin_down_densities")
    )
    if energies is None or up is None or len(energies) != len(up) or len(up) < 2:
        raise LeftOutError("incomplete DOS")
    has_spin = down is not None and len(down) > 0
    if has_spin and len(down) != len(up):
        raise LeftOutError("incomplete DOS")
    channels = np.array([up, down] if has_spin else [up], float)
    if not (np.isfinite(energies).all() and np.isfinite(channels).all()):
        raise LeftOutError("NaN in the DOS")
    if (np.diff(energies) <= 0).any():
        raise LeftOutError("energies that do not increase")
    if not channels.any():
        raise LeftOutError("DOS is zero everywhere")
    if has_spin and abs(_moment(energies, channels, row["efermi"])) > MOMENT:
        raise LeftOutError("spin channels of a magnetic calculation")
    return np.asarray(energies, float), channels.sum(axis=0)


def _moment(energies: np.ndarray, channels: np.ndarray, efermi: float | None) -> float:
    """Electrons of the first channel less those of the second, below the Fermi level."""
    if efermi is None or not energies[0] <= efermi <= energies[-1]:
        raise LeftOutError("no usable band edges")
    return float(IntegratedDos(energies, channels[0] - channels[1])(np.array([efermi]))[0])


def _band_edges(
    energies: np.ndarray, dos: np.ndarray, efermi: float | None, material: Row
) -> tuple[float, float, str]:
    """VBM and CBM in eV, and where they come from (see :func:`fetch_edos`)."""
    gap, vbm, cbm = material["band_gap"], material["vbm"], material["cbm"]
    if gap and vbm is not None and cbm is not None and cbm > vbm:
        found = _edges_of_dos(energies, dos, (vbm + cbm) / 2)
        if _agrees(vbm, [e[0] for e in found]) and _agrees(cbm, [e[1] for e in found]):
            return vbm, cbm, "eigenvalues"
    found = _edges_of_dos(energies, dos, efermi)
    if not found or efermi is None:
        raise LeftOutError("no usable band edges")
    if gap is None:
        return *found[-1], "dos"
    if gap == 0 and found[0][1] - found[0][0] > EDOS_GRID.width:
        raise LeftOutError("metal whose DOS is empty at the Fermi level")
    if gap == 0:
        return efermi, efermi, "metal"
    if not _agrees(gap, [high - low for low, high in found]):
        raise LeftOutError("band gap of the DOS differs from the material's")
    return *min(found, key=lambda e: abs(e[1] - e[0] - gap)), "dos"


def _edges_of_dos(
    energies: np.ndarray, dos: np.ndarray, inside: float | None
) -> list[tuple[float, float]]:
    """Ends of the range about an energy with no states, and of that with few; none without one.

    Of a light band, whose DOS rises slowly, the first is the edge; of a smeared band the second.
    """
    if inside is None or not np.isfinite(inside):
        return []
    try:
        return [band_edges(energies, dos, inside, most) for most in (TRACE, EMPTY)]
    except ModelError:
        return []


def _agrees(value: float, found: list[float]) -> bool:
    """Whether a value lies between the found ones, or within a bin of one of them."""
    width = EDOS_GRID.width
    return bool(found) and min(found) - width <= value <= max(found) + width


def _check_electrons(
    energies: np.ndarray, dos: np.ndarray, efermi: float, low: float, species: Iterable[int]
) -> None:
    """Count the electrons of the bands that reach above `low` (see :func:`fetch_edos`)."""
    empty = np.flatnonzero((dos <= TRACE) & (energies <= low))
    first = empty[-1] if len(empty) else 0
    held = float(IntegratedDos(energies[first:], dos[first:])(np.array([efermi]))[0])
    numbers = np.array([int(z) for z in species])
    frozen = ((numbers >= 57) & (numbers <= 71)).any()
    step = 1 if frozen else 2
    odd = 0 if frozen else int(numbers.sum()) % 2
    nearest = max(odd + step * round((held - odd) / step), 1)
    if abs(held - nearest) > ELECTRON_TOLERANCE * nearest:
        raise LeftOutError("DOS does not hold a whole number of electrons")


# --- phonon DOS -----------------------------------------------------------------------------


def _phdos(method: str) -> _Kind:
    fields = ("material_id", "formula_pretty", "structure", "last_updated", "phonon_IDs")

    def material(document: Row) -> Row:
        row = _material(document)
        try:
            ids = (document.get("phonon_IDs") or {}).get(method) or [None]
            row["identifier"] = _identifier(ids[0])
        except ModelError as error:
            row.setdefault("problem", str(error))
        return row

    return _Kind(
        name="phonon DOS",
        uri=PHONON_DOS,
        columns=("phonon_method", "dos"),
        grid=PHDOS_PAPER_GRID,
        layout=Layout(fields, material, lambda: _material_schema([]), name=f"mp-phdos-{method}"),
        query=Query((("with phonons", {"has_props": "phonon"}),)),
        spectrum=phdos_columns,
        extra=_phdos_extra,
        is_wanted=lambda row: row["phonon_method"] == method,
    )


def _phdos_extra() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [("imaginary", pa.float64())]


def phdos_columns(row: Row, material: Row) -> Row:
    """Spectrum of a row of the phonon-DOS table on the 51-point grid.

    Parameters
    ----------
    row : dict
        `dos` with `frequencies` (M,) in THz and `densities` (M,) in states/THz/cell.
    material : dict
        Not used.

    Raises
    ------
    LeftOutError
        With the reason.
    """
    from scipy.signal import savgol_filter

    dos = row["dos"] or {}
    frequencies, densities = dos.get("frequencies"), dos.get("densities")
    if frequencies is None or densities is None or len(frequencies) != len(densities):
        raise LeftOutError("incomplete DOS")
    frequencies, densities = np.asarray(frequencies) * THZ, np.asarray(densities) / THZ
    if len(frequencies) < 2 or not (np.isfinite(frequencies) & np.isfinite(densities)).all():
        raise LeftOutError("NaN in the DOS" if len(frequencies) > 1 else "incomplete DOS")
    steps = np.diff(frequencies)
    if (steps <= 0).any():
        raise LeftOutError("energies that do not increase")
    total = np.trapezoid(densities, frequencies)
    if total <= 0:
        raise LeftOutError("DOS is zero everywhere")
    negative = np.where(frequencies < 0, densities, 0.0)
    window = int(PHDOS_PAPER_GRID.width / np.median(steps)) // 2 * 2 + 1
    if 3 <= window <= len(densities):
        densities = savgol_filter(densities, window, polyorder=2)
    values = np.interp(PHDOS_PAPER_GRID.centers, frequencies, densities, left=0, right=0)
    return {
        "spectrum": np.maximum(values, 0).astype(np.float32),
        "imaginary": float(np.trapezoid(negative, frequencies) / total),
    }


# --- materials ------------------------------------------------------------------------------


def _material(document: Row) -> Row:
    """Columns that both kinds need."""
    identifier = document.get("material_id")
    row: Row = {
        "material_id": usual_id(identifier) if identifier else None,
        "formula": document.get("formula_pretty"),
        "last_updated": str(document["last_updated"]) if document.get("last_updated") else None,
    }
    try:
        row.update(structure_columns(document))
    except ModelError as error:
        row.setdefault("problem", str(error))
    return row


def _material_schema(more: list[tuple[str, pa.DataType]]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("material_id", pa.string()),
            ("formula", pa.string()),
            ("lattice", pa.list_(pa.float64())),
            ("species", pa.list_(pa.int16())),
            ("frac_coords", pa.list_(pa.float64())),
            ("last_updated", pa.string()),
            ("identifier", pa.string()),
            *more,
            ("problem", pa.string()),
        ]
    )


def _identifier(calculation: str | None) -> str:
    """Identifier of a calculation as the Delta tables write it: ``"aaaaaaft"`` for 149."""
    if not calculation:
        raise ModelError("no DOS calculation named in the document")
    from emmet.core.mpid import AlphaID

    try:
        return str(AlphaID(str(calculation).split("-")[-1], padlen=8))
    except ValueError:
        raise ModelError("no DOS calculation named in the document") from None
