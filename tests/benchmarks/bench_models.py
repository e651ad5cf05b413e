"""Speed of the architectures in training and in inference, once graphs are built.

    python tests/benchmarks/bench_models.py [--structures mp_snapshot.parquet] [--atoms 25]
        [--device cuda] [--json FILE] [--compile] [--precision bf16] [--only-encoder]

Without a table of structures, random cells of 1 to 8 atoms are used. The graph attention is also
timed against a straightforward implementation with the same weights, which computes it on
concatenated atom and edge features for every atom and edge, in the batches of a prediction and in
batches of `--batch-size`; both must agree to 1e-5 of the largest value. On a CPU one thread is used
and the figures are processor time, the best of some repetitions; on a GPU they are wall time.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.architectures.parts.layers import GraphEncoder
from models.architectures.parts.neighbor_sums import predict_fast
from models.architectures.registry import ARCHITECTURES, build_model, config_for, graphs_for
from models.crystal import Crystal
from models.data.dataset import SpectrumDataset
from models.errors import ModelError
from models.graphs.graph import (
    CrystalGraph,
    GraphBatch,
    GraphConfig,
    build_graphs,
    collate,
    edge_budget_batches,
)
from models.predictor import EDGE_BUDGET
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EnergyGrid
from models.training.batches import GraphLoader
from tests.models import straightforward
from tests.models.model_examples import random_crystals

BINS = 128
GRID = EnergyGrid(start=0.0, width=8.0, size=BINS, unit="cm^-1")  # one that all can predict
Encode = Callable[[GraphBatch], torch.Tensor]


class Stopwatch:
    """Best time of some repetitions of a piece of work, in seconds."""

    def __init__(self, device: torch.device, repetitions: int) -> None:
        self.device, self.repetitions = device, repetitions

    def __call__(self, work: Callable[[], Any]) -> float:
        work()
        return min(self._once(work) for _ in range(self.repetitions))

    def interleaved(self, *works: Callable[[], Any]) -> list[float]:
        """The same of several pieces in turn, so that a busy machine slows down all of them."""
        for work in works:
            work()
        rounds = [list(map(self._once, works)) for _ in range(self.repetitions)]
        return [min(times) for times in zip(*rounds, strict=True)]

    def _once(self, work: Callable[[], Any]) -> float:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        started = clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - started


def read_crystals(path: Path, n: int, n_atoms: int | None) -> list[Crystal]:
    """`n` crystals spread over a table, of about so many atoms if that is given."""
    table = pq.read_table(path, columns=["lattice", "frac_coords", "species"])
    if n_atoms is not None:
        table = table.filter(abs(np.array(list(map(len, table["species"]))) - n_atoms) <= 1)
    rows = np.linspace(0, len(table) - 1, n).astype(int)
    return [Crystal(*map(np.array, row.values())) for row in table.take(rows).to_pylist()]


def graphs_of(crystals: list[Crystal], config: GraphConfig) -> list[CrystalGraph]:
    return [g for g in build_graphs(crystals, config) if isinstance(g, CrystalGraph)]


def batches_of(graphs: list[CrystalGraph], device: torch.device) -> list[GraphBatch]:
    """Batches as in a prediction."""
    members = edge_budget_batches([len(g.distance) for g in graphs], EDGE_BUDGET[device.type])
    return [collate([graphs[i] for i in m]).to(device) for m in members]


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
    dataset = SpectrumDataset(ids, collate(graphs), torch.rand(len(graphs), BINS), GRID, {})
    return GraphLoader(dataset, batch_size, seed=0)


def encoder_figures(crystals: list[Crystal], watch: Stopwatch, batch_size: int) -> dict[str, float]:
    """The graph encoder against the straightforward implementation with the same weights."""
    encoder = GraphEncoder()
    merged, whole = (graphs_of(crystals, GraphConfig(merge=merge)) for merge in (True, False))
    train, train_whole = collate(merged[:batch_size]), collate(whole[:batch_size])
    encoder(train)
    encoder.eval()
    fast = copy.deepcopy(encoder)
    predict_fast(fast)

    def slow(batch: GraphBatch) -> torch.Tensor:
        return straightforward.encode(encoder, batch)

    def forward(encode: Encode, batches: list[GraphBatch]) -> Callable[[], None]:

        def work() -> None:
            with torch.inference_mode():
                for batch in batches:
                    encode(batch)

        return work

    def step(encode: Encode, batch: GraphBatch) -> Callable[[], None]:
        def work() -> None:
            encoder.zero_grad()
            encode(batch).square().mean().backward()

        return work

    with torch.inference_mode():
        expected = slow(train_whole)
        ways = torch.stack([encoder(train), fast(train), fast(train_whole)])
        difference = float((ways - expected).abs().max() / expected.abs().max())
    if difference > 1e-5:
        raise SystemExit(f"the implementations differ by {difference:.2g}")
    small, small_whole = (batches_of(graphs, torch.device("cpu")) for graphs in (merged, whole))
    large_whole = [collate(whole[i : i + batch_size]) for i in range(0, len(whole), batch_size)]
    fast_time, training_way_time, unmerged_time, slow_time, slow_large_time = watch.interleaved(
        forward(fast, small),
        forward(encoder, small),
        forward(fast, small_whole),
        forward(slow, small_whole),
        forward(slow, large_whole),
    )
    return {
        "structures_per_second": len(merged) / fast_time,
        "straightforward_structures_per_second": len(whole) / slow_time,
        "inference_speedup": slow_time / fast_time,
        "inference_speedup_on_large_batches": slow_large_time / fast_time,
        "inference_speedup_over_training_way": training_way_time / fast_time,
        "inference_speedup_without_merging": slow_time / unmerged_time,
        "training_speedup": watch(step(slow, train_whole)) / watch(step(encoder, train)),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--structures", type=Path)
    parser.add_argument("--atoms", type=int)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only-encoder", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    watch = Stopwatch(device, options.repetitions)
    crystals = (
        read_crystals(options.structures, options.n, options.atoms)
        if options.structures
        else random_crystals(options.n)
    )
    context = (
        torch.autocast(device.type, torch.bfloat16)
        if options.precision == "bf16"
        else nullcontext()
    )

    rows = {}
    for architecture in () if options.only_encoder else ARCHITECTURES:
        try:
            chosen = config_for(architecture, {}, SETTINGS["sumnorm-kl"](BINS), GRID)
            model = build_model(architecture, BINS, chosen).to(device)
        except ModelError as error:
            print(f"{architecture}: {error}", file=sys.stderr)
            continue
        if options.compile:
            model.compile(dynamic=True)
        graphs = graphs_of(crystals, graphs_for(architecture, GraphConfig()))
        train = collate(graphs[: options.batch_size]).to(device)
        loader = epoch_of_batches(graphs, options.batch_size)
        loading = watch(partial(list, loader)) / len(loader)
        step = watch(training_step(model, train, context))
        model.eval()
        predict_fast(model)
        predicting = watch(inference(model, batches_of(graphs, device), context))
        rows[architecture] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_steps_per_second": 1 / step,
            "training_structures_per_second": options.batch_size / step,
            "inference_structures_per_second": len(graphs) / predicting,
            "loading_share": loading / (loading + step),
            "mean_nodes": float(np.mean([len(g.atomic_numbers) for g in graphs])),
            "mean_edges": float(np.mean([len(g.distance) for g in graphs])),
        }
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "1 CPU thread",
        "torch": torch.__version__,
        "precision": options.precision,
        "compiled": options.compile,
        "structures": len(crystals),
        "mean_atoms": float(np.mean([len(crystal) for crystal in crystals])),
        "batch_size": options.batch_size,
        "architectures": rows,
    }
    if device.type == "cpu":
        document["encoder"] = encoder_figures(crystals, watch, options.batch_size)
    print(to_markdown(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def to_markdown(document: dict[str, Any]) -> str:
    lines = [
        f"{document['device']}, torch {document['torch']}, {document['precision']}, "
        f"{document['date']}; {document['structures']} structures of "
        f"{document['mean_atoms']:.1f} atoms on average, training batches of "
        f"{document['batch_size']}",
        "",
        "| architecture | parameters | nodes | edges | training steps/s | structures/s "
        "| inference structures/s | share of loading in an epoch |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['parameters']:,} | {row['mean_nodes']:.1f} | {row['mean_edges']:.0f} "
        f"| {row['training_steps_per_second']:.2f} "
        f"| {row['training_structures_per_second']:,.0f} "
        f"| {row['inference_structures_per_second']:,.0f} | {row['loading_share']:.2%} |"
        for name, row in document["architectures"].items()
    ]
    if "encoder" in document:
        figures = document["encoder"]
        lines += [
            "",
            f"Graph encoder alone: {figures['structures_per_second']:,.0f} structures/s, "
            f"{figures['inference_speedup']:.1f} times as fast as on concatenated features in the "
            f"same batches ({figures['inference_speedup_without_merging']:.1f} times on the same "
            f"unmerged graphs), {figures['inference_speedup_on_large_batches']:.1f} times as fast "
            f"as in batches of {document['batch_size']}, and "
            f"{figures['inference_speedup_over_training_way']:.1f} times as fast as the way that "
            f"is differentiated; {figures['training_speedup']:.1f} times forward and backward; "
            f"largest difference {figures['largest_difference']:.1g} of the largest value.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
