"""Speed of the stores: upserts, reads by key, the questions of a dashboard.

    python tests/benchmarks/bench_store.py [--candidates 100000] [--mongo URI] [--json FILE]

Times the embedded store in a temporary folder and, with a URI, MongoDB in a database of its own
that is dropped afterwards, there next to raw pymongo doing the same on collections with the same
indexes and validators. Each figure is the best of some repetitions where repeating is harmless,
else one measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from db.documents import CandidateDoc, GapDoc, GridDoc, PredictionDoc, Verdict
from db.mongodb import MongoStore, _filter, _upsert
from db.queries import find_candidates
from db.query import CANDIDATES, PREDICTIONS, Condition, Query, batched, conditions
from db.store import BATCH, ScreeningStore, open_store

PREDICTED = 10_000
POINTS = 500
SITES = 16
RUN = "bench"
MODEL = "mat2spec-bench"
GRID = GridDoc(start=-4.0, width=0.0625, size=128)


@dataclass
class Figure:
    """One measurement; `raw` is the time of raw pymongo doing the same."""

    store: str
    what: str
    seconds: float
    count: int
    raw: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.raw is None else f"{self.raw:>10.3f}{self.seconds / self.raw:>8.2f}"
        rate = self.count / self.seconds
        return f"{self.store:<10}{self.what:<44}{self.seconds:>10.3f}{rate:>12,.0f}{ratio}"


def timed(work: Callable[[], Any], repeat: int = 1) -> float:
    """Shortest time in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def gap(generator: np.random.Generator) -> GapDoc:
    """A verdict with the usual four criteria."""
    upper, width = float(-generator.random()), float(2 * generator.random())
    return GapDoc(
        lower_edge=upper - width,
        upper_edge=upper,
        width=width,
        max_dos=float(generator.random()),
        criteria={"max_dos": 1.0, "min_width": 1.0, "min_upper": -1.0, "max_upper": -0.25},
        holds={"max_dos": True, "width": width >= 1, "above": True, "below": upper <= -0.25},
        is_gap=width >= 1 and upper <= -0.25,
    )


def predictions(first: int = 0) -> list[PredictionDoc]:
    """As many as the design's figure speaks of."""
    generator = np.random.default_rng(0)
    return [
        PredictionDoc(
            material_id=f"mp-{i}",
            structure_hash=f"{i:032x}",
            model_id=MODEL,
            formula="NaCl",
            nsites=SITES,
            grid=GRID,
            spectrum=generator.random(GRID.size),
            gap=gap(generator),
            score=float(generator.random()),
        )
        for i in range(first, first + PREDICTED)
    ]


def candidates(count: int) -> Iterator[CandidateDoc]:
    """Candidates with structures of 16 sites."""
    generator = np.random.default_rng(1)
    symbols = np.array(["Na", "Cl", "Fe", "O", "Si", "Mg", "Al", "S"])
    for i in range(count):
        elements = sorted(generator.choice(symbols, size=2, replace=False).tolist())
        structure = {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0,
            "lattice": {"matrix": generator.random((3, 3)).tolist()},
            "sites": [
                {"species": [{"element": elements[j % 2], "occu": 1}], "abc": abc}
                for j, abc in enumerate(generator.random((SITES, 3)).tolist())
            ],
        }
        yield CandidateDoc(
            run_id=RUN,
            material_id=f"mp-{i}",
            structure_hash=f"{i:032x}",
            formula="".join(elements),
            chemsys="-".join(elements),
            elements=elements,
            nelements=2,
            nsites=SITES,
            energy_above_hull=float(generator.random()),
            band_gap=0.0,
            shard=i // 2000,
            structure=structure,
            origin={"source": "bench", "version": "1"},
        )


def verdicts(count: int) -> list[Verdict]:
    """A verdict on each candidate; about 3 % positive."""
    generator = np.random.default_rng(2)
    return [
        Verdict(
            run_id=RUN,
            material_id=f"mp-{i}",
            state="screened",
            model_id=MODEL,
            gap=gap(generator),
            is_positive=bool(generator.random() < 0.03),
            score=float(generator.random()),
        )
        for i in range(count)
    ]


def measure(store: ScreeningStore, name: str, count: int) -> Iterator[Figure]:
    """All figures of one store."""
    documents = predictions()
    keys = [document.key for document in documents]
    write = timed(lambda: store.upsert_predictions(documents))
    yield Figure(name, f"upsert {PREDICTED:,} new predictions", write, PREDICTED)
    again = timed(lambda: store.upsert_predictions(documents), 3)
    yield Figure(name, f"upsert {PREDICTED:,} known predictions", again, PREDICTED)
    yield Figure(
        name,
        f"which of {PREDICTED:,} exist",
        timed(lambda: store.has_predictions(keys), 3),
        PREDICTED,
    )
    read = timed(lambda: sum(1 for _ in store.predictions(keys)), 3)
    yield Figure(name, f"read {PREDICTED:,} by key", read, PREDICTED)
    points = timed(lambda: [next(store.predictions([key])) for key in keys[:POINTS]], 3)
    yield Figure(name, f"{POINTS} reads of one prediction", points, POINTS)
    seconds = 0.0
    for batch in batched(candidates(count), 10 * BATCH):
        seconds += timed(lambda batch=batch: store.upsert_candidates(batch))  # type: ignore[misc]
    yield Figure(name, f"upsert {count:,} candidates with structures", seconds, count)
    said = verdicts(count)
    yield Figure(
        name, f"apply {count:,} verdicts", timed(lambda: store.apply_verdicts(said)), count
    )
    for what, work in dashboard(store):
        rows = work()
        yield Figure(name, f"{what} ({rows:,} rows)", timed(work, 3), max(rows, 1))


def dashboard(store: ScreeningStore) -> Iterator[tuple[str, Callable[[], int]]]:
    """The questions of a dashboard, on all candidates of a run."""
    find = find_candidates
    yield "count by state", lambda: len(store.candidate_counts(RUN))
    yield (
        "50 best positives",
        lambda: rows(
            find(store, RUN, is_positive=True, sort_by="score", descending=True, limit=50)
        ),
    )
    yield "all positives", lambda: rows(find(store, RUN, is_positive=True))
    yield "one shard", lambda: rows(store.candidates(RUN, state="screened", shard=1))
    yield (
        "one shard with structures",
        lambda: rows(store.candidates(RUN, state="screened", shard=1, with_structure=True)),
    )
    yield "one chemical system", lambda: rows(find(store, RUN, chemsys="Cl-Na"))
    yield (
        "50 most stable with an element",
        lambda: rows(find(store, RUN, elements=["Fe"], sort_by="energy_above_hull", limit=50)),
    )
    yield (
        "50 widest gaps in a window",
        lambda: rows(
            find(
                store,
                RUN,
                upper_edge=(-1.0, -0.25),
                width=(1.0, None),
                sort_by="gap.width",
                descending=True,
                limit=50,
            )
        ),
    )
    yield "history of a material", lambda: len(store.history("mp-1").candidates)


def rows(documents: Iterator[Any]) -> int:
    """How many there are."""
    return sum(1 for _ in documents)


def measure_raw(uri: str, count: int) -> dict[str, float]:
    """Raw pymongo's times, by the first words of the figures."""
    with MongoStore(uri) as store:  # makes the collections, with indexes and validators
        database = store._database()
        times: dict[str, float] = {}
        documents = predictions()
        raw = [_upsert(PREDICTIONS, document, "update") for document in documents]

        def write(collection: str, operations: list[Any]) -> None:
            for batch in batched(operations, BATCH):
                database[collection].bulk_write(batch, ordered=False)

        times["upsert 10,000 new"] = timed(lambda: write("predictions", raw))
        times["upsert 10,000 known"] = timed(lambda: write("predictions", raw), 3)
        ids = [document.material_id for document in documents]

        def read(projection: dict[str, int] | None) -> None:
            for batch in batched(ids, BATCH):
                asked = {"material_id": {"$in": batch}, "model_id": MODEL}
                list(database["predictions"].find(asked, projection).batch_size(BATCH))

        names = {"_id": 0, "material_id": 1, "structure_hash": 1, "model_id": 1}
        times["which of"] = timed(lambda: read(names), 3)
        times["read 10,000"] = timed(lambda: read(None), 3)
        keys = [dict(zip(PREDICTIONS.key_fields, d.key, strict=True)) for d in documents[:POINTS]]
        times["500 reads"] = timed(
            lambda: [database["predictions"].find_one(key) for key in keys], 3
        )
        seconds = 0.0
        for batch in batched(candidates(count), 10 * BATCH):
            operations = [_upsert(CANDIDATES, document, "update") for document in batch]
            seconds += timed(lambda ops=operations: write("candidates", ops))  # type: ignore[misc]
        times[f"upsert {count:,}"] = seconds
        store.apply_verdicts(verdicts(count))
        for what, filter_, sort, limit in raw_questions():
            projection = None if "structures" in what else {"structure": 0}

            def ask(
                filter_: Any = filter_, projection: Any = projection, s: Any = sort, n: int = limit
            ) -> None:
                cursor = database["candidates"].find(filter_, projection)
                list((cursor.sort(s) if s else cursor).limit(n))

            times[what + " ("] = timed(ask, 3)
        return times


def raw_questions() -> list[tuple[str, Any, Any, int]]:
    """Filters, orders and limits of the dashboard's questions."""

    def asked(*more: Condition, **equal: Any) -> Any:
        return _filter(Query(CANDIDATES, conditions(run_id=RUN, **equal) + more))

    window = (
        Condition("gap.upper_edge", ">=", -1.0),
        Condition("gap.upper_edge", "<=", -0.25),
        Condition("gap.width", ">=", 1.0),
    )
    iron = Condition("elements", "has", "Fe")
    return [
        ("50 best positives", asked(is_positive=True), [("score", -1)], 50),
        ("all positives", asked(is_positive=True), None, 0),
        ("one shard", asked(state="screened", shard=1), None, 0),
        ("one shard with structures", asked(state="screened", shard=1), None, 0),
        ("one chemical system", asked(chemsys="Cl-Na"), None, 0),
        ("50 most stable with an element", asked(iron), [("energy_above_hull", 1)], 50),
        ("50 widest gaps in a window", asked(*window), [("gap.width", -1)], 50),
    ]


def in_own_database(uri: str, work: Callable[[str], Any]) -> Any:
    """Result of work on a new database, which is dropped afterwards."""
    import pymongo

    name = f"bench_{uuid.uuid4().hex[:8]}"
    hosts, _, options = uri.partition("://")[2].partition("?")
    address = f"{uri.partition('://')[0]}://{hosts.partition('/')[0]}/{name}?{options}"
    try:
        return work(address)
    finally:
        with pymongo.MongoClient(uri) as client:
            client.drop_database(name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--mongo", metavar="URI")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}")
    print(f"{'store':<10}{'what':<44}{'s':>10}{'1/s':>12}{'pymongo s':>10}{'ratio':>8}")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.sqlite"
        with open_store(path) as store:
            for figure in measure(store, "embedded", options.candidates):
                print(figure, flush=True)
                figures.append(figure)
        print(f"{'embedded':<10}{path.stat().st_size / 1e6:.0f} MB")
    if options.mongo:
        raw = in_own_database(options.mongo, lambda uri: measure_raw(uri, options.candidates))

        def ours(uri: str) -> None:
            with open_store(uri) as store:
                for figure in measure(store, "mongodb", options.candidates):
                    figure.raw = next(
                        (s for words, s in raw.items() if figure.what.startswith(words)), None
                    )
                    print(figure, flush=True)
                    figures.append(figure)

        in_own_database(options.mongo, ours)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
