"""What a prediction by tight binding takes, and what coarser meshes cost in accuracy.

    python tests/benchmarks/bench_tight_binding.py mp_snapshot.parquet --structures 120
        [--device cuda]

The table is one with structures, as the tests of the Materials Project's snapshot have; some of
them are drawn. Rows are meshes whose levels are all computed (``plain``), and meshes between whose
levels others are interpolated, as a prediction does. Columns are the time of a structure by the
number of its sites (processor time, one thread; on a GPU by the clock), and how far spectra are
from those of the finest plain mesh: mean Wasserstein distance, VB gaps that are new or lost, and
metals and insulators that change places.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.architectures.interface import Insights
from models.architectures.tight_binding.model import TightBinding
from models.data.label_files import read_crystals
from models.graphs.graph import GraphBatch, GraphConfig, build_graph, collate
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID
from models.training.checkpoint import load_checkpoint
from screening.gap import has_gap

SHIPPED = Path(__file__).parents[2] / "models/zoo/tight-binding-edos/sumnorm-kl"
SIZES = ((1, 4), (5, 10), (11, 20), (21, 60))
PLAIN = (30.0, 24.0, 20.0, 17.0, 14.0)
INTERPOLATED = ((20.0, 30.0), (20.0, 24.0), (17.0, 24.0), (14.0, 24.0))


def main() -> None:
    """Print a row for each mesh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--structures", dest="n", type=int, default=120)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="Checkpoint without suffix.")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.model, arguments.device)
    model = checkpoint.model.eval()
    assert isinstance(model, TightBinding)
    model.correction = None  # of the shape, the same for all meshes
    graphs = drawn(arguments.structures, arguments.n, model, checkpoint.card.graph)
    batches = [batch.to(arguments.device) for batch in graphs]
    sites = " | ".join(f"ms, {low} to {high} sites" for low, high in SIZES)
    print(f"| computed mesh, Å | interpolated to, Å | {sites} | WD, eV | new | lost | metals |")
    print("| ---" * (len(SIZES) + 6) + " |")
    shipped, finest = model.config, None
    for computed, fine in [*((m, None) for m in PLAIN), *INTERPOLATED]:
        changes = {"mesh": fine or computed, "computed_mesh": computed}
        model.config = shipped.model_copy(update=changes)
        predict = model.states_and_insights if fine else plain(model)
        times, spectra, gaps = measured(predict, batches)
        finest = finest or (spectra, gaps)
        print(row(computed, fine, times, spectra, gaps, *finest), flush=True)


def drawn(table: Path, n: int, model: TightBinding, graph: GraphConfig) -> list[GraphBatch]:
    """Structures at random that the model takes, in a batch for each range of sizes."""
    columns = pq.read_table(table, columns=["material_id", "nsites"]).to_pandas()
    some = columns[columns.nsites <= SIZES[-1][1]].sample(n, random_state=1)
    crystals = read_crystals(table, set(some.material_id)).values()
    graphs = [
        build_graph(crystal, graph)
        for crystal in crystals
        if not model.refusal(crystal.atomic_numbers)
    ]
    sizes = [len(built.atomic_numbers) for built in graphs]
    return [
        collate([g for g, size in zip(graphs, sizes, strict=True) if low <= size <= high])
        for low, high in SIZES
    ]


def plain(model: TightBinding) -> Callable[[GraphBatch], tuple[torch.Tensor, Insights]]:
    """Predictions from a mesh whose levels are all computed, as in training."""

    def predict(batch: GraphBatch) -> tuple[torch.Tensor, Insights]:
        members = []
        for member in model.networks:
            bands = list(model.bands(batch, member))
            spectra = model._spectra(bands, member)
            members.append((spectra, torch.stack([crystal.edges.gap for crystal in bands])))
        states, gaps = (torch.stack(parts).mean(0) for parts in zip(*members, strict=True))
        return states, Insights(band_gaps=gaps)

    return predict


@torch.inference_mode()
def measured(
    predict: Callable[[GraphBatch], tuple[torch.Tensor, Insights]], batches: list[GraphBatch]
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Milliseconds for a structure of each batch, all spectra and all band gaps."""
    times, spectra, gaps = [], [], []
    for batch in batches:
        clock = time.perf_counter if batch.distance.is_cuda else time.process_time
        began = clock()
        states, insights = predict(batch)
        assert insights.band_gaps is not None
        spectra.append(states.cpu().numpy())  # waits for the GPU
        gaps.append(insights.band_gaps.cpu().numpy())
        times.append(1000 * (clock() - began) / len(batch))
    return times, np.concatenate(spectra), np.concatenate(gaps)


def row(
    computed: float,
    fine: float | None,
    times: list[float],
    spectra: np.ndarray,
    gaps: np.ndarray,
    finest_spectra: np.ndarray,
    finest_gaps: np.ndarray,
) -> str:
    """Of the table."""
    distances = wasserstein_distances(spectra, finest_spectra, EDOS_GRID.width)
    found, expected = (has_gap(EDOS_GRID, s) for s in (spectra, finest_spectra))
    changed = int(((gaps == 0) != (finest_gaps == 0)).sum())
    cells = [
        f"{computed:g}",
        f"{fine:g}" if fine else "plain",
        *(f"{t:.1f}" for t in times),
        f"{distances.mean():.4f}",
        str(int((found & ~expected).sum())),
        str(int((expected & ~found).sum())),
        str(changed),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
