"""Small crystals, graphs and data sets for the tests of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.crystal import Crystal
from models.data.dataset import SpectrumDataset
from models.data.label_files import LABEL_EDGES
from models.data.label_rules import Origin, why_forbidden
from models.graphs.graph import GraphBatch, GraphConfig, build_graph, collate
from models.spectra.spectrum import EnergyGrid, IntegratedDos

SMALL_GRID = EnergyGrid(start=-1.0, width=0.125, size=16)
ELEMENTS_USED = (3, 8, 11, 12, 14, 17, 22, 26, 31, 33)


class OnGpu(torch.Tensor):
    """What says that it is on a GPU, and is on the CPU."""

    is_cuda = True


def random_crystal(rng: np.random.Generator, n_atoms: int = 4) -> Crystal:
    """A triclinic cell with 1 to 8 atoms that do not overlap."""
    lattice = 5.5 * (np.eye(3) + rng.uniform(-0.12, 0.12, (3, 3)))
    corners = np.array(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5])).reshape(3, -1).T
    sites = rng.permutation(corners)[:n_atoms] + rng.uniform(-0.06, 0.06, (n_atoms, 3))
    return Crystal(lattice, sites, rng.choice(ELEMENTS_USED, n_atoms))


def random_crystals(n: int, seed: int = 0) -> list[Crystal]:
    rng = np.random.default_rng(seed)
    return [random_crystal(rng, int(rng.integers(1, 9))) for _ in range(n)]


def rocksalt(a: float = 5.64, cation: int = 11, anion: int = 17) -> Crystal:
    """Primitive cell with two atoms."""
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([cation, anion]))


def labelled_crystals(n: int) -> list[Crystal]:
    """Random crystals that may be labelled by a calculation without spin."""
    crystals = random_crystals(4 * n)
    return [c for c in crystals if not why_forbidden(c, Origin())][:n]


def supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> Crystal:
    shifts = np.array(np.meshgrid(*map(np.arange, repeats))).reshape(3, -1).T
    sites = (crystal.frac_coords[None] + shifts[:, None]) / np.array(repeats)
    return Crystal(
        crystal.lattice * np.array(repeats)[:, None],
        sites.reshape(-1, 3),
        np.tile(crystal.atomic_numbers, len(shifts)),
    )


def permuted(crystal: Crystal, order: np.ndarray) -> Crystal:
    return Crystal(crystal.lattice, crystal.frac_coords[order], crystal.atomic_numbers[order])


def rotated(crystal: Crystal, seed: int = 3) -> Crystal:
    """The crystal turned by a random rotation."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    return Crystal(crystal.lattice @ q.T, crystal.frac_coords, crystal.atomic_numbers)


def batch_of(
    crystals: list[Crystal], config: GraphConfig = GraphConfig(vectors=True)
) -> GraphBatch:
    return collate([build_graph(c, config) for c in crystals])


def random_spectra(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Smooth positive spectra with one or two peaks, shape (n, size)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(0, 1, size)
    center = torch.rand(n, 2, 1, generator=generator)
    height = 0.2 + torch.rand(n, 2, 1, generator=generator)
    return 0.02 + (height * torch.exp(-(((x - center) / 0.12) ** 2))).sum(1)


def small_dataset(n: int = 24, seed: int = 0, grid: EnergyGrid = SMALL_GRID) -> SpectrumDataset:
    crystals = random_crystals(n, seed)
    spectra = random_spectra(n, grid.size, seed)
    batch = batch_of(crystals)
    ids = tuple(f"x-{i:03d}" for i in range(n))
    return SpectrumDataset(ids, batch, spectra * batch.n_atoms[:, None], grid, {})


def bin_averages(energies: np.ndarray, dos: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Average of a DOS over each bin, by integrating it."""
    return np.diff(IntegratedDos(energies, dos)(np.asarray(edges, float))) / np.diff(edges)


def edos_label(seed: int = 0) -> np.ndarray:
    """Bin averages on the label files' 1,200 bins, in states/eV/cell."""
    centers = (LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2
    peak = np.random.default_rng(seed).uniform(-3, 3)
    return 0.1 + 2.0 * np.exp(-(((centers - peak) / 0.8) ** 2))


def structure_row(material_id: str, crystal: Crystal) -> dict[str, Any]:
    return {
        "material_id": material_id,
        "lattice": crystal.lattice.ravel().tolist(),
        "species": crystal.atomic_numbers.tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        "nsites": len(crystal),
    }


def label_row(material_id: str, dos: np.ndarray, **changes: Any) -> dict[str, Any]:
    row = {"material_id": material_id, "band_gap": 0.0, "emax": 9.0, "dos": dos.tolist()}
    return row | changes


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_edos_files(folder: Path, n: int = 30) -> tuple[Path, Path]:
    """Files of labels and structures with `n` materials in common."""
    crystals = labelled_crystals(n)
    labels = [label_row(f"x-{i}", edos_label(i)) for i in range(n)]
    structures = [structure_row(f"x-{i}", c) for i, c in enumerate(crystals)]
    return (
        write_rows(folder / "labels.parquet", labels),
        write_rows(folder / "structures.parquet", structures),
    )
