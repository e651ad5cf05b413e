"""Times of the dashboard's pages over many candidates, in both stores.

    python tests/benchmarks/bench_dashboard.py [--candidates 100000] [--mongo URI] [--json FILE]

Each figure is what one answer of the dashboard takes, from the question to the JSON that the
browser gets, the shortest of three: in the embedded store in a temporary folder or, with a URI, in
a MongoDB database of its own that is dropped afterwards. 3 % of the candidates are positive, and
61 are calculated.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from plotly.io.json import to_json_plotly

from db.documents import PredictionDoc, Run, ValidationDoc
from db.open import open_store
from db.questions import candidate_query
from db.store import ScreeningStore
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from screening.dashboard.candidates_table import PAGE, rows_of
from screening.dashboard.material_page import MaterialPage
from screening.dashboard.overview_page import OverviewPage
from screening.dashboard.page import Chart, Page, Parts
from screening.dashboard.run_page import RunPage
from screening.gap import GapCriteria
from tests.benchmarks.bench_store import (
    MODEL,
    RUN,
    candidates,
    gap,
    in_own_database,
    verdicts,
)

REPEATS = 3
MATERIAL = "mp-1"


@dataclass(frozen=True)
class Figure:
    """How long one answer takes, in s, also of this process alone, and how many kB it has."""

    store: str
    what: str
    seconds: float
    cpu_seconds: float
    kilobytes: float

    def __str__(self) -> str:
        times = f"{self.seconds:>8.3f}{self.cpu_seconds:>8.3f}"
        return f"{self.store:<10}{self.what:<52}{times}{self.kilobytes:>8.0f}"


def fill(store: ScreeningStore, count: int) -> None:
    """A finished run of so many candidates, some of them calculated."""
    generator = np.random.default_rng(3)
    crystal = Crystal(4.0 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17]).as_dict()
    store.upsert_candidates(
        document.model_copy(update={"structure": crystal, "in_domain": "yes", "probability": 0.5})
        if document.material_id == MATERIAL
        else document
        for document in candidates(count)
    )
    said = verdicts(count)
    store.apply_verdicts(said)
    positives = [verdict.material_id for verdict in said if verdict.is_positive]
    negatives = [verdict.material_id for verdict in said if not verdict.is_positive]
    calculated = [*positives[:30], *negatives[:30], MATERIAL]
    store.put_run(
        Run(
            run_id=RUN,
            state="done",
            model_id=MODEL,
            selection=positives,
            counts={"screened": count, "positive": len(positives)},
            parameters={"criteria": GapCriteria().model_dump(mode="json"), "checkpoint": "none"},
        )
    )
    hashes = dict(
        store.values(candidate_query(RUN, sort_by="material_id"), ("material_id", "structure_hash"))
    )
    store.upsert_predictions(
        PredictionDoc(
            material_id=name,
            structure_hash=hashes[name],
            model_id=MODEL,
            nsites=2,
            grid=EDOS_GRID,
            spectrum=generator.random(EDOS_GRID.size),
        )
        for name in calculated
    )
    store.upsert_validations(
        ValidationDoc(
            material_id=name,
            structure_hash=hashes[name],
            engine="gpaw",
            recipe="bench",
            state="done",
            run_ids=[RUN],
            grid=EDOS_GRID,
            spectrum=generator.random(EDOS_GRID.size),
            nsites=2,
            gap=gap(generator),
            is_positive=False,
        )
        for name in calculated
    )


def answers(store: ScreeningStore) -> dict[str, Callable[[], Any]]:
    """What the dashboard is asked, and how it answers."""
    run, material = RunPage(RUN), MaterialPage(RUN, MATERIAL)

    def built(page: Page) -> Callable[[], Any]:
        return lambda: (page.state(store), page.layout(store, {}), plain(page.parts(store)))

    def rows(first: int, sort: str, **filters: str) -> Callable[[], Any]:
        order = [{"colId": sort, "sort": "desc"}]
        asked = {"startRow": first, "endRow": first + PAGE, "sortModel": order}
        return lambda: rows_of(store, RUN, filters, asked)

    last = store.count(candidate_query(RUN)) - PAGE
    return {
        "runs: page": built(OverviewPage()),
        "runs: has anything changed?": lambda: OverviewPage().state(store),
        "run: page": built(run),
        "run: has anything changed?": lambda: run.state(store),
        "run: charts, precision and recall": lambda: plain(run.slow_parts(store)),
        "table: first page, by score": rows(0, "score"),
        "table: last page, by score": rows(last, "score"),
        "table: first page, by hull energy": rows(0, "energy_above_hull"),
        "table: first page, by formula": rows(0, "formula"),
        "table: first page, by width": rows(0, "gap.width"),
        "table: positives, by score": rows(0, "score", positive="yes"),
        "table: with Fe without O, by score": rows(0, "score", elements="Fe", without="O"),
        "table: probability at least 0.4, by score": rows(0, "score", probability="0.4"),
        "material: page": built(material),
        "material: has anything changed?": lambda: material.state(store),
    }


def plain(parts: Parts) -> list[Any]:
    """What is sent of them."""
    return [part.figure if isinstance(part, Chart) else part for part in parts.values()]


def measure(store: ScreeningStore, name: str) -> Iterator[Figure]:
    """All figures of a store."""
    for what, answer in answers(store).items():
        times, cpu_times, size = [], [], 0
        for _ in range(REPEATS):
            start, cpu_start = time.perf_counter(), time.process_time()
            size = len(to_json_plotly(answer()))
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
        yield Figure(name, what, min(times), min(cpu_times), size / 1000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--mongo", metavar="URI")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}")
    print(f"{options.candidates:,} candidates")
    print(f"{'store':<10}{'answer':<52}{'s':>8}{'CPU s':>8}{'kB':>8}")
    figures: list[Figure] = []

    def both(name: str, address: str) -> None:
        with open_store(address) as store:
            fill(store, options.candidates)
        with open_store(address, read_only=True) as reader:
            list(islice(reader.find(candidate_query(RUN, sort_by="score")), 1))
            for figure in measure(reader, name):
                print(figure, flush=True)
                figures.append(figure)

    if options.mongo is None:
        with tempfile.TemporaryDirectory() as folder:
            both("embedded", str(Path(folder) / "bench.sqlite"))
    else:
        in_own_database(options.mongo, lambda address: both("mongodb", address))
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
