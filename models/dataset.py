"""Labelled spectra joined with their structures, as graphs ready for training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.crystal import ELEMENTS, Crystal
from models.errors import ModelError
from models.graph import CrystalGraph, GraphBatch, GraphConfig, build_graphs, collate
from models.spectrum import EDOS_GRID, EnergyGrid, align_edos

# Bins of the label files: 1,200 averages of 0.02 eV relative to the VBM (or the Fermi level).
LABEL_EDGES = np.linspace(-14.0, 10.0, 1201)
# Bands above `emax` are missing; a label is kept when they only matter beyond the grid.
EMAX_MARGIN = 0.05  # eV


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
    """

    material_ids: tuple[str, ...]
    graphs: GraphBatch
    spectra: torch.Tensor
    grid: EnergyGrid
    left_out: dict[str, str]

    def __len__(self) -> int:
        return len(self.material_ids)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols that occur in the set, in alphabetical order."""
        return tuple(sorted(ELEMENTS[z] for z in self.graphs.atomic_numbers.unique().tolist()))

    def subset(self, indices: Sequence[int] | np.ndarray) -> SpectrumDataset:
        """The materials with these indices."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.long)
        ids = tuple(self.material_ids[i] for i in index.tolist())
        return SpectrumDataset(ids, self.graphs.select(index), self.spectra[index], self.grid, {})


def edos_dataset(
    labels: Sequence[Path],
    structures: Path,
    grid: EnergyGrid = EDOS_GRID,
    graph: GraphConfig = GraphConfig(),
) -> SpectrumDataset:
    """Join eDOS labels with structures by `material_id`.

    Parameters
    ----------
    labels : sequence of Path
        Parquet files with `material_id`, `band_gap` (eV), `emax` (eV) and `dos` (1,200 averages
        in states/eV/cell, from -14 to 10 eV in steps of 0.02); the first label of an id counts.
    structures : Path
        Parquet file with `material_id`, `lattice`, `species` and `frac_coords`.

    Raises
    ------
    ModelError
        If a file or a column is missing, or a label is NaN, negative or all zero.
    """
    spectra: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for path in labels:
        for row in _rows(path, ["material_id", "band_gap", "emax", "dos"]):
            material_id = row["material_id"]
            if material_id in spectra or material_id in left_out:
                continue
            complete = min(row["emax"] + EMAX_MARGIN, LABEL_EDGES[-1])
            if complete < row["band_gap"] + grid.edges[-1]:
                left_out[material_id] = f"DOS is complete only up to {complete:.2f} eV"
                continue
            spectra[material_id] = _checked_label(material_id, row, grid)
    crystals = _crystals(structures, set(spectra))
    for material_id in spectra.keys() - crystals.keys():
        left_out[material_id] = f"no structure in {structures.name}"
    ids = sorted(spectra.keys() & crystals.keys())
    graphs: dict[str, CrystalGraph] = {}
    for material_id, result in zip(
        ids, build_graphs([crystals[i] for i in ids], graph), strict=True
    ):
        if isinstance(result, str):
            left_out[material_id] = result
        else:
            graphs[material_id] = result
    if not graphs:
        raise ModelError("no label has a structure; are the ids of the same source?")
    return SpectrumDataset(
        tuple(graphs),
        collate(list(graphs.values())),
        torch.from_numpy(np.stack([spectra[i] for i in graphs]).astype(np.float32)),
        grid,
        left_out,
    )


def _checked_label(material_id: str, row: dict, grid: EnergyGrid) -> np.ndarray:
    dos = np.asarray(row["dos"], float)
    if dos.shape != (len(LABEL_EDGES) - 1,):
        raise ModelError(f"label of {material_id} has {dos.size} bins, not {len(LABEL_EDGES) - 1}")
    if not np.isfinite(dos).all() or (dos < 0).any():
        raise ModelError(f"label of {material_id} holds NaN or a negative DOS")
    values = align_edos(LABEL_EDGES, dos, 0.0, max(row["band_gap"], 0.0), grid).values
    if not values.any():
        raise ModelError(f"label of {material_id} is zero everywhere")
    return values


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Record batches of a parquet file with these columns."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ModelError(f"{path}: cannot be read as parquet ({error})") from None
    missing = [c for c in columns if c not in file.schema_arrow.names]
    if missing:
        raise ModelError(f"{path}: column {missing[0]} is missing")
    yield from file.iter_batches(batch_size=4096, columns=columns)


def _rows(path: Path, columns: list[str]) -> Iterator[dict]:
    for batch in _batches(path, columns):
        yield from batch.to_pylist()


def _crystals(path: Path, material_ids: set[str]) -> dict[str, Crystal]:
    """Crystals of these materials; the arrays of the others are never unpacked."""
    found = {}
    for batch in _batches(path, ["material_id", "lattice", "species", "frac_coords"]):
        wanted = [i for i, m in enumerate(batch["material_id"].to_pylist()) if m in material_ids]
        for row in batch.take(pa.array(wanted, pa.int64())).to_pylist():
            arrays = (np.array(row[c]) for c in ("lattice", "frac_coords", "species"))
            found[row["material_id"]] = Crystal(*arrays)
    return found


def fold(material_id: str, seed: int) -> float:
    """Number in [0, 1) that belongs to an id and a seed, however the data set grows."""
    digest = hashlib.sha256(f"{seed}:{material_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Split:
    """Indices of the training, validation and test materials."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_dataset(
    material_ids: Sequence[str], seed: int, validation: float = 0.1, test: float = 0.1
) -> Split:
    """Split by a hash of the id, so that a material stays in its part when others are added."""
    folds = np.array([fold(m, seed) for m in material_ids])
    in_test = folds < test
    in_validation = ~in_test & (folds < test + validation)
    parts = (~in_test & ~in_validation, in_validation, in_test)
    split = Split(*(np.flatnonzero(part) for part in parts))
    if not all(map(len, (split.train, split.validation, split.test))):
        raise ModelError(f"{len(material_ids)} materials are too few to split")
    return split
