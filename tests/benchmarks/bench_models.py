"""Speed of the architectures in training and in inference, once graphs are built.

    python tests/benchmarks/bench_models.py [--structures mp_snapshot.parquet] [--device cuda]
        [--json FILE] [--compile] [--precision bf16]

Without a table of structures, random cells of 1 to 8 atoms are used. The graph attention is also
timed against a straightforward implementation with the same weights, which computes it on
concatenated atom and edge features; both must agree to 1e-5. On a CPU one thread is used and the
figures are processor time, the best of some repetitions; on a GPU they are wall time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import straightforward
from model_examples import random_crystals

from models.architectures import ARCHITECTURES, build_model, graphs_for
from models.crystal import Crystal
from models.dataset import SpectrumDataset
from models.errors import ModelError
from models.fitting import GraphLoader
from models.graph import (
    CrystalGraph,
    GraphBatch,
    GraphConfig,
    build_graphs,
    collate,
    edge_budget_batches,
)
from models.layers import GraphEncoder
from models.losses import SETTINGS
from models.predictor import EDGE_BUDGET
from models.spectrum import EDOS_GRID

BINS = 128


class Stopwatch:
    """Best time of some repetitions of a piece of work, in seconds."""

    def __init__(self, device: torch.device, repetitions: int) -> None:
        self.device, self.repetitions = device, repetitions

    def __call__(self, work: Callable[[], Any]) -> float:
        work()
        return min(self._once(work) for _ in range(self.repetitions))

    def _once(self, work: Callable[[], Any]) -> float:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        started = clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - started


def read_crystals(path: Path, n: int) -> list[Crystal]:
    """`n` crystals spread over a table."""
    table = pq.read_table(path, columns=["lattice", "frac_coords", "species"])
    rows = np.linspace(0, len(table) - 1, n).astype(int)
    return [Crystal(*map(np.array, row.values())) for row in table.take(rows).to_pylist()]


def graphs_of(crystals: list[Crystal]) -> list[CrystalGraph]:
    config = graphs_for("e3nn", GraphConfig())
    return [g for g in build_graphs(crystals, config) if isinstance(g, CrystalGraph)]


def training_step(model: nn.Module, batch: GraphBatch, context: Any) -> Callable[[], None]:
    """One optimiser step of SumNorm-KL."""
    setting = SETTINGS["sumnorm-kl"](BINS).to(batch.distance.device)
    spectra = torch.rand(len(batch), BINS, device=batch.distance.device)
    target = setting.target(spectra, batch.n_atoms)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with context:
            loss = model.losses(batch, target, setting)["total"]
        loss.backward()
        optimizer.step()

    return step


def inference(model: nn.Module, batches: list[GraphBatch], context: Any) -> Callable[[], None]:
    def work() -> None:
        with torch.inference_mode(), context:
            for batch in batches:
                model(batch)

    return work


def epoch_of_batches(graphs: list[CrystalGraph], batch_size: int) -> GraphLoader:
    """What a training iterates over: shuffled batches of a data set whose graphs are kept."""
    ids = tuple(map(str, range(len(graphs))))
    dataset = SpectrumDataset(ids, collate(graphs), torch.rand(len(graphs), BINS), EDOS_GRID, {})
    return GraphLoader(dataset, batch_size, seed=0)


def encoder_figures(
    graphs: list[CrystalGraph], batches: list[GraphBatch], watch: Stopwatch, batch_size: int
) -> dict[str, float]:
    """The graph encoder against the straightforward implementation with the same weights."""
    encoder = GraphEncoder()
    train = collate(graphs[:batch_size])
    encoder(train)
    encoder.eval()

    def forward(encode: Callable[[GraphBatch], torch.Tensor]) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for batch in batches:
                    encode(batch)

        return work

    def step(encode: Callable[[GraphBatch], torch.Tensor]) -> Callable[[], None]:
        def work() -> None:
            encoder.zero_grad()
            encode(train).square().mean().backward()

        return work

    def slow(batch: GraphBatch) -> torch.Tensor:
        return straightforward.encode(encoder, batch)

    with torch.inference_mode():
        difference = max(float((encoder(b) - slow(b)).abs().max()) for b in batches)
    if difference > 1e-5:
        raise SystemExit(f"the two implementations differ by {difference:.2g}")
    n = sum(map(len, batches))
    times = {
        "fast, inference": watch(forward(encoder)),
        "straightforward, inference": watch(forward(slow)),
        "fast, forward and backward": watch(step(encoder)),
        "straightforward, forward and backward": watch(step(slow)),
    }
    return {
        "structures_per_second": n / times["fast, inference"],
        "straightforward_structures_per_second": n / times["straightforward, inference"],
        "inference_speedup": times["straightforward, inference"] / times["fast, inference"],
        "training_speedup": times["straightforward, forward and backward"]
        / times["fast, forward and backward"],
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--structures", type=Path)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    watch = Stopwatch(device, options.repetitions)
    crystals = (
        read_crystals(options.structures, options.n)
        if options.structures
        else random_crystals(options.n)
    )
    graphs = graphs_of(crystals)
    members = edge_budget_batches([len(g.distance) for g in graphs], EDGE_BUDGET[device.type])
    batches = [collate([graphs[i] for i in m]).to(device) for m in members]
    train = collate(graphs[: options.batch_size]).to(device)
    context = (
        torch.autocast(device.type, torch.bfloat16)
        if options.precision == "bf16"
        else nullcontext()
    )

    loader = epoch_of_batches(graphs, options.batch_size)
    loading = watch(lambda: list(loader)) / len(loader)
    rows = {}
    for architecture in ARCHITECTURES:
        try:
            model = build_model(architecture, BINS).to(device)
        except ModelError as error:
            print(f"{architecture}: {error}", file=sys.stderr)
            continue
        if options.compile:
            model.compile(dynamic=True)
        step = watch(training_step(model, train, context))
        model.eval()
        predicting = watch(inference(model, batches, context))
        rows[architecture] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_steps_per_second": 1 / step,
            "training_structures_per_second": options.batch_size / step,
            "inference_structures_per_second": len(graphs) / predicting,
            "loading_share": loading / (loading + step),
        }
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "1 CPU thread",
        "torch": torch.__version__,
        "precision": options.precision,
        "compiled": options.compile,
        "structures": len(graphs),
        "mean_atoms": float(np.mean([len(g.atomic_numbers) for g in graphs])),
        "mean_edges": float(np.mean([len(g.distance) for g in graphs])),
        "batch_size": options.batch_size,
        "architectures": rows,
    }
    if device.type == "cpu":
        document["encoder"] = encoder_figures(graphs, batches, watch, options.batch_size)
    print(to_markdown(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def to_markdown(document: dict[str, Any]) -> str:
    lines = [
        f"{document['device']}, torch {document['torch']}, {document['precision']}, "
        f"{document['date']}; {document['structures']} structures of "
        f"{document['mean_atoms']:.1f} atoms and {document['mean_edges']:.0f} edges on average, "
        f"training batches of {document['batch_size']}",
        "",
        "| architecture | parameters | training steps/s | structures/s | inference structures/s "
        "| share of loading in an epoch |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['parameters']:,} | {row['training_steps_per_second']:.2f} "
        f"| {row['training_structures_per_second']:,.0f} "
        f"| {row['inference_structures_per_second']:,.0f} | {row['loading_share']:.2%} |"
        for name, row in document["architectures"].items()
    ]
    if "encoder" in document:
        figures = document["encoder"]
        lines += [
            "",
            f"Graph encoder alone: {figures['structures_per_second']:,.0f} structures/s, "
            f"{figures['inference_speedup']:.1f} times as fast as on concatenated features "
            f"({figures['training_speedup']:.1f} times forward and backward); largest "
            f"difference {figures['largest_difference']:.1g}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
