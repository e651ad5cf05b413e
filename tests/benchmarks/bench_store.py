"""Speed of the stores: upserts, reads by key, the questions of a dashboard.

    python tests/benchmarks/bench_store.py [--candidates 100000] [--mongo URI] [--json FILE]

Times the embedded store in a temporary folder and, with a URI, MongoDB in a database of its own
that is dropped afterwards, there next to raw pymongo doing the same on a database with the same
indexes and validators, in turns. Each figure is the best of some repetitions where repeating is
harmless, else one measurement. Beside the time by the clock is that of the processor in this
process, without that of a server.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from db.collections import (
    CANDIDATES,
    PREDICTIONS,
    Collection,
    Condition,
    Key,
    Query,
    batched,
    conditions,
)
from db.documents import CandidateDoc, GapDoc, PredictionDoc, Verdict
from db.mongodb import MongoStore, _filter, _upsert, _verdict_update
from db.open import open_store
from db.store import BATCH, ScreeningStore
from models.spectra.spectrum import EnergyGrid

PREDICTED = 10_000
POINTS = 500
SITES = 16
RUN = "bench"
MODEL = "mat2spec-bench"
GRID = EnergyGrid(start=-4.0, width=0.0625, size=128)


@dataclass
class Figure:
    """One measurement; `raw` is the time of raw pymongo doing the same."""

    store: str
    what: str
    seconds: float
    cpu_seconds: float
    count: int
    raw: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.raw is None else f"{self.raw:>10.3f}{self.seconds / self.raw:>8.2f}"
        rate = self.count / self.seconds
        times = f"{self.seconds:>10.3f}{self.cpu_seconds:>10.3f}"
        return f"{self.store:<10}{self.what:<44}{times}{rate:>12,.0f}{ratio}"


Work = Callable[[], Any]


def timed(work: Work, raw: Work | None = None, repeat: int = 1) -> tuple[float, float, float]:
    """Shortest times in seconds of some work, also of the processor, and of the raw work.

    The work and the raw one are done in turns; without a raw one its time is NaN.
    """
    ours, theirs = [], []
    for _ in range(repeat):
        ours.append(_seconds(work))
        if raw is not None:
            theirs.append(_seconds(raw)[0])
    return *map(min, zip(*ours, strict=True)), min(theirs, default=math.nan)


def _seconds(work: Work) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


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


class RawMongo:
    """The same with pymongo alone; documents become dicts and go in as dicts."""

    def __init__(self, uri: str) -> None:
        self.store = MongoStore(uri)  # makes the collections, indexes and validators
        self.database = self.store._database()

    def upsert(self, collection: Collection[Any], documents: list[Any]) -> Work:
        """Upsert in the store's batches; the operations are made before."""
        return self.write(collection, [_upsert(collection, d, "update") for d in documents])

    def write(self, collection: Collection[Any], operations: list[Any]) -> Work:
        """Bulk writes in the store's batches."""

        def work() -> None:
            for batch in batched(operations, BATCH):
                self.database[collection.name].bulk_write(batch, ordered=False)

        return work

    def read(self, ids: list[str], projection: dict[str, int] | None) -> Work:
        """Predictions of some materials."""

        def work() -> None:
            for batch in batched(ids, BATCH):
                asked = {"material_id": {"$in": batch}, "model_id": MODEL}
                cursor = self.database["predictions"].find(asked, projection)
                list(cursor.batch_size(len(batch) + 1))

        return work

    def points(self, keys: list[Key]) -> Work:
        """One prediction after the other."""
        asked = [dict(zip(PREDICTIONS.key_fields, key, strict=True)) for key in keys]
        return lambda: [self.database["predictions"].find_one(key) for key in asked]

    def ask(self, query: Query[Any]) -> Work:
        """All documents of a query."""
        order = -1 if query.descending else 1
        sort = [(query.sort_by, order)] if query.sort_by else None
        projection = None if query.with_structure else {"structure": 0}
        find = self.database[query.collection.name].find
        return lambda: list(find(_filter(query), projection, sort=sort, limit=query.limit or 0))


def measure(
    store: ScreeningStore, name: str, count: int, raw: RawMongo | None = None
) -> Iterator[Figure]:
    """All figures of one store."""

    def figure(what: str, size: int, ours: Work, theirs: Work | None, repeat: int = 1) -> Figure:
        *seconds, other = timed(ours, theirs, repeat)
        return Figure(name, what, *seconds, size, other if theirs else None)

    documents = predictions()
    keys = [document.key for document in documents]
    ids = [document.material_id for document in documents]
    names = {"_id": 0, "material_id": 1, "structure_hash": 1, "model_id": 1}
    write = raw and raw.upsert(PREDICTIONS, documents)
    upsert = partial(store.upsert_predictions, documents)
    yield figure("upsert 10,000 new predictions", PREDICTED, upsert, write)
    yield figure("upsert 10,000 known predictions", PREDICTED, upsert, write, 3)
    yield figure(
        "which of 10,000 predictions exist",
        PREDICTED,
        lambda: store.has_predictions(keys),
        raw and raw.read(ids, names),
        3,
    )
    yield figure(
        "read 10,000 predictions by key",
        PREDICTED,
        lambda: rows(store.predictions(keys)),
        raw and raw.read(ids, None),
        3,
    )
    yield figure(
        f"{POINTS} reads of one prediction",
        POINTS,
        lambda: [next(store.predictions([key])) for key in keys[:POINTS]],
        raw and raw.points(keys[:POINTS]),
        3,
    )
    yield upsert_candidates(store, name, count, raw)
    said = verdicts(count)
    yield figure(
        f"apply {count:,} verdicts",
        count,
        lambda: store.apply_verdicts(said),
        raw and raw.write(CANDIDATES, [_verdict_update(verdict) for verdict in said]),
    )
    yield figure("count by state", 1, lambda: store.candidate_counts(RUN), None, 3)
    yield figure("history of a material", 1, lambda: store.history("mp-1"), None, 3)
    for what, query in QUESTIONS.items():
        found = rows(store.find(query))
        ours = partial(lambda query: rows(store.find(query)), query)
        yield figure(f"{what} ({found:,} rows)", max(found, 1), ours, raw and raw.ask(query), 5)


def upsert_candidates(store: ScreeningStore, name: str, count: int, raw: RawMongo | None) -> Figure:
    """Candidates are made, ten batches at a time, outside the measured time."""
    total = np.zeros(3)
    for batch in batched(candidates(count), 10 * BATCH):
        total += timed(
            partial(store.upsert_candidates, batch), raw and raw.upsert(CANDIDATES, batch)
        )
    wall, cpu, other = total.tolist()
    what = f"upsert {count:,} candidates with structures"
    return Figure(name, what, wall, cpu, count, other if raw else None)


def question(*more: Condition, **options: Any) -> Query[CandidateDoc]:
    """A question about the candidates of the run."""
    return Query(CANDIDATES, (*conditions(run_id=RUN), *more), **options)


SHARD = conditions(state="screened", shard=1)
QUESTIONS = {
    "50 best positives": question(
        *conditions(is_positive=True), sort_by="score", descending=True, limit=50
    ),
    "all positives": question(*conditions(is_positive=True)),
    "one shard": question(*SHARD),
    "one shard with structures": question(*SHARD, with_structure=True),
    "one chemical system": question(*conditions(chemsys="Cl-Na")),
    "50 most stable with an element": question(
        Condition("elements", "has", "Fe"), sort_by="energy_above_hull", limit=50
    ),
    "50 widest gaps in a window": question(
        Condition("gap.upper_edge", ">=", -1.0),
        Condition("gap.upper_edge", "<=", -0.25),
        Condition("gap.width", ">=", 1.0),
        sort_by="gap.width",
        descending=True,
        limit=50,
    ),
}


def rows(documents: Iterator[Any]) -> int:
    """How many there are."""
    return sum(1 for _ in documents)


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
    print(
        f"{'store':<10}{'what':<44}{'s':>10}{'CPU s':>10}{'1/s':>12}{'pymongo s':>10}{'ratio':>8}"
    )
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.sqlite"
        with open_store(path) as store:
            for figure in measure(store, "embedded", options.candidates):
                print(figure, flush=True)
                figures.append(figure)
        print(f"{'embedded':<10}{path.stat().st_size / 1e6:.0f} MB")
    if options.mongo:

        def both(ours: str, theirs: str) -> None:
            with open_store(ours) as store:
                for figure in measure(store, "mongodb", options.candidates, RawMongo(theirs)):
                    print(figure, flush=True)
                    figures.append(figure)

        in_own_database(
            options.mongo,
            lambda ours: in_own_database(options.mongo, lambda theirs: both(ours, theirs)),
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
