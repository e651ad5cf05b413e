"""Labelled spectra joined with their structures, as graphs ready for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError

from models.crystal import ELEMENTS, Crystal
from models.errors import ModelError
from models.graph import CrystalGraph, GraphBatch, GraphConfig, build_graphs, collate
from models.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid, align_edos, max_normalized

# Bins of the label files: 1,200 averages of 0.02 eV relative to the VBM (or the Fermi level).
LABEL_EDGES = np.linspace(-14.0, 10.0, 1201)
# Bands above `emax` are missing; a label is kept when they only matter beyond the grid.
EMAX_MARGIN = 0.05  # eV
SPECTRUM = "spectrum"  # column of labels that are on a grid already


@dataclass(frozen=True, eq=False)
class SpectrumDataset:
    """Spectra and crystal graphs of the same materials.

    Parameters
    ----------
    material_ids : tuple of str, length n
    graphs : GraphBatch
        The n graphs.
    spectra : Tensor, shape (n, K'), float32
        Labels, in states/eV/cell for an eDOS.
    grid : EnergyGrid
    left_out : dict
        Reason by `material_id` of those that cannot be used.
    extensive : bool
        The spectra grow with the cell; False for spectra that come normalised.
    parts : tuple of str, length n or 0
        Part of the source's own split that each material belongs to, if there is one.
    """

    material_ids: tuple[str, ...]
    graphs: GraphBatch
    spectra: torch.Tensor
    grid: EnergyGrid
    left_out: dict[str, str]
    extensive: bool = True
    parts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.material_ids)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols that occur in the set, in alphabetical order."""
        return tuple(sorted(ELEMENTS[z] for z in self.graphs.atomic_numbers.unique().tolist()))

    @property
    def chemical_systems(self) -> tuple[str, ...]:
        """Chemical system of each material, such as ``"Al-Mg"``, length n."""
        atoms = self.graphs.atomic_numbers.split(self.graphs.n_atoms.tolist())
        return tuple("-".join(sorted({ELEMENTS[z] for z in a.tolist()})) for a in atoms)

    def subset(self, indices: Sequence[int] | np.ndarray) -> SpectrumDataset:
        """The materials with these indices."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.long)
        rows = index.tolist()
        return SpectrumDataset(
            tuple(self.material_ids[i] for i in rows),
            self.graphs.select(index),
            self.spectra[index],
            self.grid,
            {},
            self.extensive,
            tuple(self.parts[i] for i in rows) if self.parts else (),
        )


def edos_dataset(
    labels: Sequence[Path],
    structures: Path | None = None,
    grid: EnergyGrid = EDOS_GRID,
    graph: GraphConfig = GraphConfig(),
) -> SpectrumDataset:
    """Join eDOS labels with structures by `material_id`.

    Parameters
    ----------
    labels : sequence of Path
        Parquet files with `material_id`, `band_gap` (eV), `emax` (eV) and `dos` (1,200 averages
        in states/eV/cell, from -14 to 10 eV in steps of 0.02), or files as `screen fetch`
        writes them, with `material_id`, `spectrum` (states/eV/cell on the grid that the file's
        metadata name) and the structures; the first label of an id counts.
    structures : Path, optional
        Parquet file with `material_id`, `lattice`, `species` and `frac_coords`, for labels
        without structures of their own.

    Raises
    ------
    ModelError
        If a file or a column is missing, a label is NaN, negative or all zero, or a file has
        another grid.
    """
    spectra: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    crystals: dict[str, Crystal] = {}
    for path in labels:
        known = spectra.keys() | left_out.keys()
        binned = _is_binned(path)
        added: set[str] = set()
        for material_id, label in (_binned_labels if binned else _fine_labels)(path, grid):
            if material_id in known:
                continue
            if isinstance(label, str):
                left_out[material_id] = label
                continue
            spectra[material_id] = label
            added.add(material_id)
        file = path if binned else structures
        if file is None:
            raise ModelError(f"{path} has no structures: the field structures is needed")
        crystals |= read_crystals(file, added)
        left_out |= dict.fromkeys(added - crystals.keys(), f"no structure in {file.name}")
    graphs = _graphs({i: crystals[i] for i in sorted(spectra.keys() & crystals.keys())}, graph)
    left_out |= graphs.failures
    if not graphs.built:
        raise ModelError("no label has a structure; are the ids of the same source?")
    return SpectrumDataset(
        tuple(graphs.built),
        collate(list(graphs.built.values())),
        _stacked(spectra[i] for i in graphs.built),
        grid,
        left_out,
    )


def phdos_dataset(
    path: Path, grid: EnergyGrid = PHDOS_GRID, graph: GraphConfig = GraphConfig()
) -> SpectrumDataset:
    """Phonon DOS with the structures in the same file.

    Parameters
    ----------
    path : Path
        Parquet file with `material_id`, `lattice`, `species`, `frac_coords`, `phdos` (66 points,
        -300 to 1000 cm^-1) and, optionally, `split`; of a source's own split, ``"train"`` is for
        training and the other parts are for the test. Or a file as `screen fetch` writes it,
        with `spectrum` on the grid that its metadata name.
    grid : EnergyGrid
        The file's own, or of its 66 points the paper's 51
        (:data:`models.spectrum.PHDOS_PAPER_GRID`), those without imaginary modes.

    Raises
    ------
    ModelError
        If a column is missing, a label is NaN, negative or all zero, or the grid is another one.
    """
    binned = _is_binned(path)
    stored, column = (_stored_grid(path), SPECTRUM) if binned else (PHDOS_GRID, "phdos")
    points = _points_of(grid, stored)
    spectra: dict[str, np.ndarray] = {}
    crystals: dict[str, Crystal] = {}
    parts: dict[str, str] = {}
    left_out: dict[str, str] = {}
    columns = ["material_id", "lattice", "species", "frac_coords", column]
    for row in _rows(path, columns, optional="split"):
        material_id = row["material_id"]
        label = np.asarray(row[column], float)
        if label.shape != (stored.size,):
            raise ModelError(f"label of {material_id} has {label.size} points, not {stored.size}")
        _refuse_unphysical(material_id, label)
        if not label[points].any():
            left_out[material_id] = f"no modes above {grid.start + grid.width / 2:g} cm^-1"
            continue
        spectra[material_id] = max_normalized(label[points])
        parts[material_id] = row.get("split") or ""
        try:
            crystals[material_id] = _crystal(row)
        except ModelError as error:
            left_out[material_id] = str(error)
    graphs = _graphs(crystals, graph)
    if not graphs.built:
        raise ModelError(f"{path}: no material can be used")
    own_split = any(parts.values())
    return SpectrumDataset(
        tuple(graphs.built),
        collate(list(graphs.built.values())),
        _stacked(spectra[i] for i in graphs.built),
        grid,
        left_out | graphs.failures,
        extensive=False,
        parts=tuple(parts[i] for i in graphs.built) if own_split else (),
    )


def with_structures(
    dataset: SpectrumDataset, crystals: dict[str, Crystal], graph: GraphConfig
) -> SpectrumDataset:
    """The same labels for other structures of the same materials.

    Parameters
    ----------
    crystals : dict
        By `material_id`; those that have no graph are left out.
    """
    graphs = _graphs({i: crystals[i] for i in dataset.material_ids}, graph)
    if not graphs.built:
        raise ModelError("none of the structures has a graph")
    rows = [i for i, m in enumerate(dataset.material_ids) if m in graphs.built]
    kept = dataset.subset(rows)
    batch = collate(list(graphs.built.values()))
    return replace(kept, graphs=batch, left_out=graphs.failures)


def _points_of(grid: EnergyGrid, stored: EnergyGrid) -> slice:
    """Where the points of `grid` are among those of a file."""
    first = round((grid.start - stored.start) / stored.width)
    points = slice(first, first + grid.size)
    if first < 0 or not np.array_equal(stored.centers[points], grid.centers):
        raise ModelError(f"phonon labels have no grid of {grid.size} points from {grid.start:g}")
    return points


@dataclass(frozen=True)
class _Graphs:
    built: dict[str, CrystalGraph]
    failures: dict[str, str]


def _graphs(crystals: dict[str, Crystal], config: GraphConfig) -> _Graphs:
    results = zip(crystals, build_graphs(crystals.values(), config), strict=True)
    graphs = _Graphs({}, {})
    for material_id, result in results:
        if isinstance(result, str):
            graphs.failures[material_id] = result
        else:
            graphs.built[material_id] = result
    return graphs


def _stacked(spectra: Iterable[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(spectra)).astype(np.float32))


def _refuse_unphysical(material_id: str, dos: np.ndarray) -> None:
    if not np.isfinite(dos).all() or (dos < 0).any():
        raise ModelError(f"label of {material_id} holds NaN or a negative DOS")
    if not dos.any():
        raise ModelError(f"label of {material_id} is zero everywhere")


def _is_binned(path: Path) -> bool:
    """Whether the labels of a file are on a grid already, with the structures beside them."""
    return SPECTRUM in _open(path).schema_arrow.names


def _stored_grid(path: Path) -> EnergyGrid:
    """Grid that the metadata of a file name."""
    metadata = _open(path).schema_arrow.metadata or {}
    try:
        return EnergyGrid.model_validate_json(metadata[b"grid"])
    except (KeyError, ValidationError):
        raise ModelError(f"{path}: its metadata name no grid") from None


def _binned_labels(path: Path, grid: EnergyGrid) -> Iterator[tuple[str, np.ndarray]]:
    """Spectra of a file that are on the grid already."""
    stored = _stored_grid(path)
    if stored != grid:
        raise ModelError(
            f"{path}: its {stored.size} bins from {stored.start:g} {stored.unit} are "
            f"not the {grid.size} from {grid.start:g} {grid.unit}"
        )
    for row in _rows(path, ["material_id", SPECTRUM]):
        material_id, label = row["material_id"], np.asarray(row[SPECTRUM], float)
        if label.shape != (grid.size,):
            raise ModelError(f"label of {material_id} has {label.size} bins, not {grid.size}")
        _refuse_unphysical(material_id, label)
        yield material_id, label


def _fine_labels(path: Path, grid: EnergyGrid) -> Iterator[tuple[str, np.ndarray | str]]:
    """Spectra on the grid from fine labels; for an incomplete one, the reason."""
    for row in _rows(path, ["material_id", "band_gap", "emax", "dos"]):
        material_id = row["material_id"]
        complete = min(row["emax"] + EMAX_MARGIN, LABEL_EDGES[-1])
        if complete < row["band_gap"] + grid.edges[-1]:
            yield material_id, f"DOS is complete only up to {complete:.2f} eV"
        else:
            yield material_id, _checked_label(material_id, row, grid)


def _checked_label(material_id: str, row: dict, grid: EnergyGrid) -> np.ndarray:
    dos = np.asarray(row["dos"], float)
    if dos.shape != (len(LABEL_EDGES) - 1,):
        raise ModelError(f"label of {material_id} has {dos.size} bins, not {len(LABEL_EDGES) - 1}")
    _refuse_unphysical(material_id, dos)
    values = align_edos(LABEL_EDGES, dos, 0.0, max(row["band_gap"], 0.0), grid).values
    if not values.any():
        raise ModelError(f"label of {material_id} is zero everywhere")
    return values


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ModelError(f"{path}: cannot be read as parquet ({error})") from None


def _batches(path: Path, columns: list[str], optional: str = "") -> Iterator[pa.RecordBatch]:
    """Record batches of a parquet file with these columns, and an optional one if it is there."""
    file = _open(path)
    names = file.schema_arrow.names
    missing = [c for c in columns if c not in names]
    if missing:
        raise ModelError(f"{path}: column {missing[0]} is missing")
    wanted = [*columns, *({optional} & set(names))]
    yield from file.iter_batches(batch_size=4096, columns=wanted)


def _rows(path: Path, columns: list[str], optional: str = "") -> Iterator[dict]:
    """Rows of a file in which an id may be there only once."""
    seen: set[str] = set()
    for batch in _batches(path, columns, optional):
        for row in batch.to_pylist():
            if row["material_id"] in seen:
                raise ModelError(f"{path}: {row['material_id']} is there more than once")
            seen.add(row["material_id"])
            yield row


def read_crystals(path: Path, material_ids: set[str]) -> dict[str, Crystal]:
    """Crystals of these materials; the arrays of the others are never unpacked."""
    found = {}
    for batch in _batches(path, ["material_id", "lattice", "species", "frac_coords"]):
        wanted = [i for i, m in enumerate(batch["material_id"].to_pylist()) if m in material_ids]
        for row in batch.take(pa.array(wanted, pa.int64())).to_pylist():
            found[row["material_id"]] = _crystal(row)
    return found


def _crystal(row: dict) -> Crystal:
    return Crystal(*(np.array(row[c]) for c in ("lattice", "frac_coords", "species")))
