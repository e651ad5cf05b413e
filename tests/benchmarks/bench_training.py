"""Speed, memory and time to the end of `screen train` for every architecture.

    python tests/benchmarks/bench_training.py [--n 24000] [--batches 128,1024]
        [--precisions 32-true,bf16-mixed] [--architectures mat2spec,gatgnn] [--device cuda]

The labels are made up, in the format of `screen fetch`: distorted cells of 8 to 64 atoms,
without symmetry, so that no atoms are merged. The bare step is loss, gradient and optimiser on
batches that are ready; the loop is what `screen train` does, validation and all. The kernel's fit
is done once for each setting, before the first epoch, and is not part of the loop.

On a CPU one thread is used and all times are processor time; on a GPU they are wall time, and each
row is measured with sums in a fixed and in any order (`--fast` of `screen train`). A default run
takes about a minute of one core.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.architectures.registry import ARCHITECTURES, build_model, config_for, graphs_for
from models.crystal import Crystal
from models.data.dataset import SpectrumDataset, edos_dataset, phdos_dataset
from models.data.splits import Split, split_of
from models.errors import ModelError
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid
from models.training.batches import GraphLoader
from models.training.config import TrainingConfig
from models.training.fit import Hardware, Precision, train_setting

ELEMENTS = (3, 11, 12, 13, 14, 20, 30, 31, 32, 33, 34, 38, 39, 40, 41, 47, 49, 50, 51, 52)
SPACING = 3.1  # Å between neighbouring atoms, on average
EPOCHS = 200  # of the paper


def distorted_cell(rng: np.random.Generator) -> Crystal:
    """Some sites of a cubic lattice, displaced and strained: 8 to 64 atoms, 27 on average."""
    repeats = np.sort(rng.integers(2, 5, 3))
    corners = np.stack(np.meshgrid(*map(np.arange, repeats)), -1).reshape(-1, 3)
    sites = (corners + rng.uniform(-0.06, 0.06, corners.shape)) / repeats
    lattice = np.diag(repeats * SPACING) @ (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3)))
    species = rng.choice(ELEMENTS, rng.integers(2, 5), replace=False)
    return Crystal(lattice, sites, rng.choice(species, len(sites)))


def write_labels(path: Path, n: int, grid: EnergyGrid) -> float:
    """A file as `screen fetch` writes it; the mean number of atoms."""
    rng, rows, x = np.random.default_rng(0), [], np.linspace(0, 1, grid.size)
    for i in range(n):
        cell = distorted_cell(rng)
        peaks = rng.uniform(0.2, 0.8, (3, 1))
        spectrum = len(cell) * (0.02 + np.exp(-(((x - peaks) / 0.1) ** 2)).sum(0))
        rows.append(
            {
                "material_id": f"made-{i:05d}",
                "lattice": cell.lattice.ravel(),
                "species": cell.atomic_numbers,
                "frac_coords": cell.frac_coords.ravel(),
                "spectrum": spectrum,
            }
        )
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata({"grid": grid.model_dump_json()}), path)
    return float(np.mean([len(row["species"]) for row in rows]))


@dataclass(frozen=True)
class Case:
    """What one row measures."""

    architecture: str
    batch_size: int
    precision: Precision
    deterministic: bool


@dataclass(frozen=True)
class Figures:
    """Structures per second, seconds, and bytes."""

    bare: float
    loop: float
    fit: float
    memory: int

    def hours(self, n_train: int) -> float:
        """Of one setting with all epochs of the paper."""
        return (self.fit + EPOCHS * n_train / self.loop) / 3600


class Bench:
    """Measures cases on one device."""

    def __init__(self, folder: Path, n: int, device: torch.device, epochs: int) -> None:
        self.folder, self.n, self.device, self.epochs = folder, n, device, epochs

    def dataset(self, architecture: str) -> SpectrumDataset:
        """Phonon spectra for what predicts nothing else, else electronic ones."""
        phonons = ARCHITECTURES[architecture].unit == "cm^-1"
        grid = PHDOS_GRID if phonons else EDOS_GRID
        path = self.folder / f"{'phdos' if phonons else 'edos'}-{self.n}.parquet"
        if not path.exists():
            write_labels(path, self.n, grid)
        graph = graphs_for(architecture, GraphConfig())
        return phdos_dataset(path, grid, graph) if phonons else edos_dataset([path], graph=graph)

    def measure(self, case: Case, dataset: SpectrumDataset) -> Figures:
        """All figures of a case; the memory is the largest that the process or GPU has held."""
        split = split_of(dataset, 0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        config = TrainingConfig(
            name="bench",
            labels=(Path("made.parquet"),),
            architecture=case.architecture,
            batch_size=case.batch_size,
        )
        hardware = Hardware(
            "gpu" if self.device.type == "cuda" else "cpu", 1, case.precision, case.deterministic
        )

        def train(epochs: int) -> None:
            chosen = config.model_copy(update={"epochs": epochs})
            train_setting(chosen, setting_of(case.architecture), dataset, split, hardware=hardware)

        train(1)  # what is done once for each process
        once = self._seconds(lambda: train(1))
        loop = self._seconds(lambda: train(1 + self.epochs)) - once
        fit, bare = self._bare(case, dataset, split)
        return Figures(bare, self.epochs * len(split.train) / loop, fit, self._memory())

    def _bare(self, case: Case, dataset: SpectrumDataset, split: Split) -> tuple[float, float]:
        """Seconds of the fit before the first epoch, and structures/s of steps alone."""
        train = dataset.subset(split.train).to(self.device)
        name = setting_of(case.architecture)
        setting = SETTINGS[name](dataset.grid.size, dataset.extensive).to(self.device)
        setting.fit(train.spectra, train.graphs.n_atoms)
        target = setting.target(train.spectra, train.graphs.n_atoms)
        fields = config_for(case.architecture, {}, setting, dataset.grid)
        model = build_model(case.architecture, dataset.grid.size, fields).to(self.device)
        fit = self._seconds(lambda: model.fit(train.graphs, target))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        mixed = case.precision == "bf16-mixed"
        ready = list(GraphLoader(train, case.batch_size, seed=0))

        def epoch() -> None:
            for graphs, spectra, *bands in ready:
                optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext():
                    wanted = setting.target(spectra, graphs.n_atoms)
                    loss = model.losses(graphs, wanted, setting, spectra, *bands)["total"]
                loss.backward()
                optimizer.step()

        epoch()
        return fit, len(train) / self._seconds(epoch)

    def _seconds(self, work: Callable[[], Any]) -> float:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        began = clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def setting_of(architecture: str) -> str:
    """The setting that it is trained under here."""
    wasserstein = ARCHITECTURES[architecture].output == "sum-normalized"
    return "sumnorm-wd" if wasserstein else "sumnorm-kl"


def measured(bench: Bench, case: Case, dataset: SpectrumDataset) -> Figures:
    """In a process of its own on a CPU, so that its memory is that of the case alone."""
    if bench.device.type == "cuda":
        return bench.measure(case, dataset)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(bench.measure, (case, dataset))


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=48, help="Labels; the paper has 23,850.")
    parser.add_argument("--batches", default="32")
    parser.add_argument("--precisions", default="32-true")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--epochs", type=int, default=1, help="That the loop is measured over.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="Where the labels are kept for another run.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "1 CPU thread"
    print(f"{name}, torch {torch.__version__}, {options.n:,} labels\n")
    print(
        "| architecture | batch | precision | sums | bare step, structures/s | loop, structures/s "
        f"| share of the loop's own | fit, s | memory, GB | {EPOCHS} epochs of "
        f"{0.8 * 23850:,.0f}, h |"
    )
    print("| --- " * 10 + "|")
    orders = [True, False] if device.type == "cuda" else [True]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options.folder or Path(scratch), options.n, device, options.epochs)
        for architecture in options.architectures.split(","):
            try:
                dataset = bench.dataset(architecture)
            except ModelError as error:
                print(f"{architecture}: {error}", file=sys.stderr)
                continue
            for size, precision, order in product(
                map(int, options.batches.split(",")), options.precisions.split(","), orders
            ):
                try:
                    figures = measured(bench, Case(architecture, size, precision, order), dataset)
                except ModelError as error:
                    print(f"{architecture}: {error}", file=sys.stderr)
                    continue
                print(
                    f"| {architecture} | {size} | {precision} | {'fixed' if order else 'any'} "
                    f"| {figures.bare:,.0f} | {figures.loop:,.0f} "
                    f"| {1 - figures.loop / figures.bare:.0%} | {figures.fit:.2f} "
                    f"| {figures.memory / 1e9:.2f} | {figures.hours(round(0.8 * 23850)):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
