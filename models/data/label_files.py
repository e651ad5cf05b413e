"""Files of labels and structures: read, checked, and joined by `material_id`."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from models.crystal import Crystal
from models.data.label_rules import Origin, why_forbidden
from models.errors import ModelError, describe, named
from models.spectra.band_labels import occupied_states
from models.spectra.spectrum import (
    EDOS_GRID,
    PHDOS_GRID,
    EnergyGrid,
    IntegratedDos,
    align_edos,
    align_integral,
    band_edges,
    max_normalized,
    sum_normalized,
)

# Bins of the label files: 1,200 averages of 0.02 eV relative to the VBM (or the Fermi level).
LABEL_EDGES = np.linspace(-14.0, 10.0, 1201)
# Bands above `emax` are missing; a label is kept when they only matter beyond the grid.
EMAX_MARGIN = 0.05  # eV
SPECTRUM = "spectrum"  # column of labels that are on a grid already
ENERGIES = "energies"  # column of labels that come as points of a DOS without a scale
TEACHER = b"teacher"  # in the metadata of labels that no DFT computed
BAND_GAP = "band_gap"  # eV; of a file of structures, the gap that its source gives
STAND_INS = "stand_ins"  # lanthanides whose place La or Y took in the calculation
SPIN = "spin"  # whether moments were allowed, and none was found
RECIPE = "recipe"  # of the calculation, where the labels are not all of one that their kind says
LABELS_RECIPE = "gpaw-pbe-labels"
"""What labels of 1,200 bins were computed by that say nothing else: PBE with GPAW's data sets and
340 eV plane waves, without spin; k-points at most 0.36/Å apart for the density and 0.21/Å for the
bands, between which these are linear."""
MP_RECIPE = "mp-pbe"
"""What `screen fetch` gets: the Materials Project's PBE DOS."""
STRUCTURE = ("material_id", "lattice", "species", "frac_coords")
# A DOS without a scale counts as zero below this part of its mean within 4 eV of the Fermi level.
EMPTY = 0.01


class Teacher(BaseModel):
    """Whose labels a file has that no DFT computed; in its metadata, as ``teacher``.

    Parameters
    ----------
    model_id : str
        Of the predictor that gave them.
    split_seed, split_by
        Which materials the teacher was tested on; see :func:`models.data.splits.split_of`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_id: str
    split_seed: int
    split_by: str


@dataclass(frozen=True)
class Labels:
    """Spectra on one grid and the structures that they belong to, by `material_id`.

    Parameters
    ----------
    spectra : dict of ndarray, shape (K',)
    crystals : dict of Crystal
        Of the same materials.
    left_out : dict
        Why a material of the files is not among them.
    parts : dict
        Part of the source's own split; empty without one.
    shapes_only : bool
        Some labels came without a scale, so that all are SumNorm shapes now.
    gaps : dict of float
        Band gaps in eV, as far as the labels say.
    occupied : dict of ndarray
        See :class:`models.spectra.band_labels.BandLabels`, as far as the labels say.
    """

    spectra: dict[str, np.ndarray] = field(default_factory=dict)
    crystals: dict[str, Crystal] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    shapes_only: bool = False
    gaps: dict[str, float] = field(default_factory=dict)
    occupied: dict[str, np.ndarray] = field(default_factory=dict)


class _Refused:
    """Materials that make a file unusable, by what is wrong with them.

    Raises
    ------
    ModelError
        On `check`, with all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._ids = path, dict[str, list[str]]()

    def add(self, problem: str, material_id: str) -> None:
        self._ids.setdefault(problem, []).append(material_id)

    def check(self) -> None:
        if self._ids:
            problems = (f"{what}: {named(ids)}" for what, ids in self._ids.items())
            raise ModelError(f"{self.path}: {'; '.join(problems)}")


@dataclass(frozen=True, eq=False)
class _Label:
    """A spectrum on the grid, and how it was computed."""

    values: np.ndarray
    origin: Origin
    occupied: np.ndarray | None = None


# A reader gives the label, or why there is none; `_Refused` gets what is wrong.
_Found = Iterator[tuple[str, _Label | str]]
_Reader = Callable[[Path, EnergyGrid, _Refused], _Found]


def edos_labels(
    paths: Sequence[Path], structures: Path | None = None, grid: EnergyGrid = EDOS_GRID
) -> Labels:
    """Labels of several files, the first usable one of an id counts; see `edos_dataset`.

    What :mod:`models.data.label_rules` forbids is left out, whatever file it is from.

    Parameters
    ----------
    paths : sequence of Path
        Parquet files of labels.
    structures : Path, optional
        Parquet file of structures, for labels without structures of their own.
    grid : EnergyGrid
        That the spectra will be on.

    Raises
    ------
    ModelError
        See :func:`models.data.dataset.edos_dataset`.
    """
    together = Labels(shapes_only=any(_has(path, ENERGIES) for path in paths))
    for path in paths:
        if teacher := teacher_of(path):
            raise ModelError(
                f"{path}: its labels are those of a teacher ({teacher.model_id}), not of DFT; "
                "name it as the labels of a teacher, or leave it out"
            )
        labels, left_out, file = _read(path, structures, grid, known=together.spectra)
        crystals, failures = _structures(file, set(labels))
        without = sorted(labels.keys() - crystals.keys() - failures.keys())
        if without:
            raise ModelError(f"{path}: no structure in {file.name}: {named(without)}")
        source = structures or _gaps_beside(path)
        gaps = _source_gaps(source, set(labels)) if source else {}
        for material_id, crystal in crystals.items():
            label = labels[material_id]
            origin = replace(label.origin, source_gap=gaps.get(material_id))
            if reason := why_forbidden(crystal, origin):
                failures[material_id] = reason
            else:
                together.crystals[material_id] = crystal
                together.spectra[material_id] = label.values
                if label.origin.gap is not None:
                    together.gaps[material_id] = max(label.origin.gap, 0.0)
                if label.occupied is not None:
                    together.occupied[material_id] = label.occupied
        together.left_out.update(left_out | failures)
    if together.shapes_only:
        together.spectra.update({i: sum_normalized(v) for i, v in together.spectra.items()})
    return replace(
        together,
        crystals=dict(sorted(together.crystals.items())),
        left_out={i: v for i, v in together.left_out.items() if i not in together.spectra},
    )


def _read(
    path: Path, structures: Path | None, grid: EnergyGrid, known: Container[str]
) -> tuple[dict[str, _Label], dict[str, str], Path]:
    """Labels that are not known yet, why others are left out, and where the structures are."""
    reader, structured = _kind(path)
    file = path if structured else structures
    if file is None:
        raise ModelError(f"{path} has no structures: the field structures is needed")
    refused = _Refused(path)
    read = {i: label for i, label in reader(path, grid, refused) if i not in known}
    refused.check()
    labels = {i: v for i, v in read.items() if not isinstance(v, str)}
    return labels, {i: v for i, v in read.items() if isinstance(v, str)}, file


def taught_labels(path: Path, grid: EnergyGrid = EDOS_GRID) -> Labels:
    """eDOS labels of a teacher, as `screen distill` writes them.

    Parameters
    ----------
    path : Path
    grid : EnergyGrid
        That of the file.

    Raises
    ------
    ModelError
        If a teacher is not named in the file, or its labels cannot be used.
    """
    if teacher_of(path) is None:
        raise ModelError(f"{path}: not labels of a teacher as `screen distill` writes them")
    labels, left_out, file = _read(path, None, grid, known=())
    crystals, failures = _structures(file, set(labels))
    return Labels(
        spectra={i: labels[i].values for i in crystals},
        crystals=dict(sorted(crystals.items())),
        left_out=left_out | failures,
    )


def teacher_of(path: Path) -> Teacher | None:
    """Whose labels a file has, None for those that were calculated.

    Raises
    ------
    ModelError
        If the file cannot be read, or says it in another way than `screen distill`.
    """
    metadata = _open(path).schema_arrow.metadata or {}
    if TEACHER not in metadata:
        return None
    try:
        return Teacher.model_validate_json(metadata[TEACHER])
    except ValidationError as error:
        raise ModelError(f"{path}, teacher: {describe(error)}") from None


def has_structures(path: Path) -> bool:
    """Whether a file of eDOS labels has the structures beside them.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    return _kind(path)[1]


def recipes_of(path: Path) -> set[str]:
    """Recipes by which the labels of a file were computed; empty if it does not say of all.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    if not _has(path, RECIPE):
        return _recipes_of_kind(path)
    recipes = {recipe for batch in _batches(path, [RECIPE]) for recipe in batch[0].to_pylist()}
    if None not in recipes:
        return recipes
    # Some say nothing, as where files of labels with and without a recipe were put together.
    of_kind = _recipes_of_kind(path)
    return (recipes - {None}) | of_kind if of_kind else set()


def _recipes_of_kind(path: Path) -> set[str]:
    """Recipe of labels that name none; empty if their kind does not say it."""
    if _kind(path)[0] is _fine_labels:
        return {LABELS_RECIPE}
    return (
        {MP_RECIPE} if b"database_version" in (_open(path).schema_arrow.metadata or {}) else set()
    )


def phdos_labels(path: Path, grid: EnergyGrid = PHDOS_GRID) -> Labels:
    """Max-normalised phonon labels of one file; see `phdos_dataset`.

    Parameters
    ----------
    path : Path
    grid : EnergyGrid
        The file's own, or a part of it.

    Raises
    ------
    ModelError
        See :func:`models.data.dataset.phdos_dataset`.
    """
    binned = _has(path, SPECTRUM)
    stored, column = (_stored_grid(path), SPECTRUM) if binned else (PHDOS_GRID, "phdos")
    points = _points_of(grid, stored)
    refused, labels = _Refused(path), Labels()
    for row in _rows(path, [*STRUCTURE, column], refused, optional=["split"]):
        material_id = row["material_id"]
        label = np.asarray(row[column], float)
        problem = _problem(label, stored.size)
        if problem:
            refused.add(problem, material_id)
        elif not label[points].any():
            above = grid.start + grid.width / 2
            labels.left_out[material_id] = f"no modes above {above:g} {grid.unit}"
        elif isinstance(crystal := _crystal(row), str):
            labels.left_out[material_id] = crystal
        else:
            labels.crystals[material_id] = crystal
            labels.spectra[material_id] = max_normalized(label[points])
            labels.parts[material_id] = row.get("split") or ""
    refused.check()
    return labels if any(labels.parts.values()) else replace(labels, parts={})


def label_spectra(
    path: Path, material_ids: set[str], grid: EnergyGrid = EDOS_GRID
) -> dict[str, np.ndarray]:
    """Spectra of some materials, as far as a file has them complete; structures are not needed.

    Parameters
    ----------
    path : Path
        Parquet file of eDOS labels.
    material_ids : set of str
    grid : EnergyGrid
        That the spectra will be on.
    """
    reader, _ = _kind(path)
    labels = reader(path, grid, _Refused(path))
    return {i: v.values for i, v in labels if i in material_ids and not isinstance(v, str)}


def read_crystals(path: Path, material_ids: set[str]) -> dict[str, Crystal]:
    """Crystals of some materials, as far as they are in a file and can be used.

    Parameters
    ----------
    path : Path
        Parquet file of structures.
    material_ids : set of str
    """
    return _structures(path, material_ids)[0]


def _structures(path: Path, material_ids: set[str]) -> tuple[dict[str, Crystal], dict[str, str]]:
    """Crystals, and why there is none; the arrays of other materials are never unpacked."""
    crystals: dict[str, Crystal] = {}
    failures: dict[str, str] = {}
    for batch in _batches(path, list(STRUCTURE)):
        wanted = [i for i, m in enumerate(batch["material_id"].to_pylist()) if m in material_ids]
        for row in batch.take(pa.array(wanted, pa.int64())).to_pylist():
            crystal = _crystal(row)
            if isinstance(crystal, str):
                failures[row["material_id"]] = crystal
            else:
                crystals[row["material_id"]] = crystal
    return crystals, failures


def _gaps_beside(path: Path) -> Path | None:
    """The file itself, if `band_gap` is that of a source there and not that of its labels."""
    return path if _kind(path)[0] is _shape_labels else None


def _source_gaps(path: Path, material_ids: set[str]) -> dict[str, float]:
    """Band gaps (eV) that a file of structures gives, as far as it does."""
    if not _has(path, BAND_GAP):
        return {}
    gaps: dict[str, float] = {}
    for batch in _batches(path, ["material_id", BAND_GAP]):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        known = ((i, gap) for i, gap in rows if gap is not None and np.isfinite(gap))
        gaps |= {i: gap for i, gap in known if i in material_ids}
    return gaps


def _crystal(row: dict[str, Any]) -> Crystal | str:
    try:
        return Crystal(*(np.array(row[c]) for c in ("lattice", "frac_coords", "species")))
    except ModelError as error:
        return str(error)


# Kinds of eDOS labels.


def _kind(path: Path) -> tuple[_Reader, bool]:
    """How the labels of a file are read, and whether the structures are beside them."""
    if _has(path, SPECTRUM):
        return _binned_labels, True
    return _shape_labels if _has(path, ENERGIES) else _fine_labels, _has(path, "lattice")


def _binned_labels(path: Path, grid: EnergyGrid, refused: _Refused) -> _Found:
    """Spectra of nonmagnetic materials, found so with spin, that are on the grid already."""
    stored = _stored_grid(path)
    if stored != grid:
        raise ModelError(
            f"{path}: its {stored.size} bins from {stored.start:g} {stored.unit} are "
            f"not the {grid.size} from {grid.start:g} {grid.unit}"
        )
    for row in _rows(path, ["material_id", SPECTRUM], refused, optional=[BAND_GAP]):
        material_id, label = row["material_id"], np.asarray(row[SPECTRUM], float)
        problem = _problem(label, grid.size)
        if problem:
            refused.add(problem, material_id)
        else:
            yield material_id, _Label(label, Origin(spin=True, gap=row.get(BAND_GAP)))


def _fine_labels(path: Path, grid: EnergyGrid, refused: _Refused) -> _Found:
    """Spectra on the grid from 1,200 bins; for an incomplete one, the reason."""
    columns = ["material_id", BAND_GAP, "emax", "dos"]
    for row in _rows(path, columns, refused, optional=(STAND_INS, SPIN)):
        material_id, dos = row["material_id"], np.asarray(row["dos"], float)
        gap, emax = (np.nan if row[c] is None else row[c] for c in (BAND_GAP, "emax"))
        problem = _problem(dos, len(LABEL_EDGES) - 1)
        if not np.isfinite([gap, emax]).all():
            problem = "no band_gap or emax"
        if problem:
            refused.add(problem, material_id)
            continue
        complete = min(emax + EMAX_MARGIN, LABEL_EDGES[-1])
        if complete < max(gap, 0.0) + grid.edges[-1]:
            yield material_id, _incomplete(complete)
            continue
        integral = IntegratedDos(LABEL_EDGES, dos)
        values = align_integral(integral, 0.0, max(gap, 0.0), grid).values
        if values.any():
            stand_ins = frozenset(row.get(STAND_INS) or ())
            origin = Origin(spin=bool(row.get(SPIN)), gap=gap, stand_ins=stand_ins)
            yield material_id, _Label(values, origin, occupied_states(LABEL_EDGES, dos))
        else:
            refused.add(ZERO, material_id)


def _shape_labels(path: Path, grid: EnergyGrid, refused: _Refused) -> _Found:
    """SumNorm shapes from points of a DOS without a scale, relative to the Fermi level."""
    for row in _rows(path, ["material_id", ENERGIES, "dos"], refused):
        material_id = row["material_id"]
        energies, dos = (np.asarray(row[c], float) for c in (ENERGIES, "dos"))
        problem = _problem(dos, energies.size)
        if not problem and not (np.diff(energies) > 0).all():
            problem = "energies that do not increase"
        if problem:
            refused.add(problem, material_id)
        else:
            yield material_id, _shape(energies, dos, grid)


def _shape(energies: np.ndarray, dos: np.ndarray, grid: EnergyGrid) -> _Label | str:
    """SumNorm shape with the gap cut out, or why there is none."""
    near = np.abs(energies) <= grid.edges[-1]
    try:
        vbm, cbm = band_edges(energies, dos, 0.0, EMPTY * float(dos[near].mean()))
    except ModelError as error:
        return str(error)
    if vbm + grid.edges[0] < energies[0]:
        return f"DOS begins only at {energies[0]:.2f} eV"
    if cbm + grid.edges[-1] > energies[-1]:
        return _incomplete(energies[-1])
    values = sum_normalized(align_edos(energies, dos, vbm, cbm, grid).values)
    return _Label(values, Origin(gap=cbm - vbm))


def _incomplete(energy: float) -> str:
    return f"DOS is complete only up to {energy:.2f} eV"


ZERO = "zero everywhere"


def _problem(dos: np.ndarray, size: int) -> str:
    """What is wrong with a label; empty if nothing is."""
    if dos.shape != (size,):
        return f"not {size} numbers"
    if not np.isfinite(dos).all():
        return "NaN or infinity"
    if (dos < 0).any():
        return "negative DOS"
    return "" if dos.any() else ZERO


# Grids.


def _stored_grid(path: Path) -> EnergyGrid:
    """Grid that the metadata of a file name."""
    metadata = _open(path).schema_arrow.metadata or {}
    try:
        return EnergyGrid.model_validate_json(metadata[b"grid"])
    except (KeyError, ValidationError):
        raise ModelError(f"{path}: its metadata name no grid") from None


def _points_of(grid: EnergyGrid, stored: EnergyGrid) -> slice:
    """Where the points of `grid` are among those of a file."""
    first = round((grid.start - stored.start) / stored.width)
    points = slice(first, first + grid.size)
    if first < 0 or not np.array_equal(stored.centers[points], grid.centers):
        raise ModelError(f"phonon labels have no grid of {grid.size} points from {grid.start:g}")
    return points


# Parquet.


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ModelError(f"{path}: cannot be read as parquet ({error})") from None


def _has(path: Path, column: str) -> bool:
    return column in _open(path).schema_arrow.names


def _batches(
    path: Path, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Record batches of a parquet file with these columns, and those optional ones it has."""
    file = _open(path)
    names = file.schema_arrow.names
    missing = [c for c in columns if c not in names]
    if missing:
        raise ModelError(f"{path}: column {missing[0]} is missing")
    wanted = [*columns, *(c for c in optional if c in names)]
    if "material_id" in wanted:
        _check_ids(path, file.schema_arrow.field(names.index("material_id")).type)
    yield from file.iter_batches(batch_size=4096, columns=wanted)


def _check_ids(path: Path, kind: pa.DataType) -> None:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    if not any(is_text(values) for is_text in types):
        raise ModelError(f"{path}: column material_id must be text, it is {kind}")


def _rows(
    path: Path, columns: list[str], refused: _Refused, optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a file that have an id; one that is there once more is refused."""
    seen: set[str] = set()
    batches = _batches(path, columns, optional)
    for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
        material_id = row["material_id"]
        if material_id is None:
            refused.add("no material_id", f"row {number}")
            continue
        if material_id in seen:
            refused.add("more than once", material_id)
        seen.add(material_id)
        yield row
