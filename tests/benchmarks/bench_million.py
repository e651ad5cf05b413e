"""What a screening of a million structures costs: time, memory and bytes, all along.

    python tests/benchmarks/bench_million.py mp_snapshot.parquet [--rows 1000000] [--workers 2]
    python tests/benchmarks/bench_million.py mp_snapshot.parquet --network none --rows 1000000
    python tests/benchmarks/bench_million.py mp_snapshot.parquet --store --rows 1000000

A table of so many rows is made by repeating and straining those of another one (each copy by up to
2 %, with ids of its own), a part at a time. `screen run` screens it with the default model alone
into a new file; in the middle it is killed (`kill -9`), all its processes at once, and goes on with
`--resume`. Printed are the rows and candidates in a second of wall and of processor time between
some numbers of them, the largest memory of one process (proportional set size), the bytes of the
file, and how long after `--resume` a candidate was judged.

A second table divides the processor time of the main process: reading (waiting for another process
that reads, after `--resume`), verdicts with their documents, the store, the search for garbage in
cycles, and all else. Beside it is what a piece of work took that is always the same: it
tells a program that becomes slower from a machine that does.

`--network none`: instead of the model, spectra that cost nothing, without graphs: what reading,
criteria and store cost. `--store`: the store alone, which is given a million documents made from
the rows, and asked what `screen` asks it; the largest size in the least time.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import platform
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from db.collections import batched
from models.chunks import CHUNK
from models.deferred_predictor import DeferredPredictor
from models.predicted_spectra import PredictedSpectra
from models.spectra.spectrum import EDOS_GRID
from screening.sources import Source
from tests.benchmarks.bench_screening import _family, _memory

ROW_GROUPS = 8
STRAIN = 0.02
EVERY = 1.0  # s between two looks at a run
STEP = 50_000  # rows of a line of the tables
SAME = "same work"
SAME_EVERY = 5_000  # rows
PARTS = ("reading", "verdicts", "store", "garbage", "others")
TICKS = os.sysconf("SC_CLK_TCK")
RUN = "million"


# the table


def make_table(source: Path, target: Path, rows: int) -> None:
    """Repeat and strain the rows of a table until there are so many."""
    generator = np.random.default_rng(0)
    file = pq.ParquetFile(source)
    size, written = -(-rows // ROW_GROUPS), 0
    with pq.ParquetWriter(target, _schema(file)) as writer:
        waiting: list[pa.RecordBatch] = []
        for copy in count():
            for batch in file.iter_batches(4096):
                part = batch.slice(0, rows - written)
                waiting.append(_strained(part, copy, generator) if copy else part)
                written += len(part)
                if sum(map(len, waiting)) >= size or written == rows:
                    table = pa.Table.from_batches(waiting, _schema(file))
                    writer.write_table(table, row_group_size=len(table))
                    waiting = []
                if written == rows:
                    return


def _schema(file: pq.ParquetFile) -> pa.Schema:
    return file.schema_arrow.remove_metadata()


def _strained(batch: pa.RecordBatch, copy: int, generator: np.random.Generator) -> pa.RecordBatch:
    """Rows in cells that are deformed a little, under new ids."""
    names = batch.schema.names
    lattice = batch.column(names.index("lattice"))
    cells = lattice.flatten().to_numpy().reshape(-1, 3, 3)
    strain = generator.uniform(-STRAIN, STRAIN, cells.shape) / 2
    cells = cells @ (np.eye(3) + strain + strain.transpose(0, 2, 1))
    ids = [f"{name}-{copy}" for name in batch.column(names.index("material_id")).to_pylist()]
    new = {
        "lattice": pa.ListArray.from_arrays(
            np.arange(len(cells) + 1, dtype=np.int32) * 9, cells.reshape(-1)
        ),
        "material_id": ids,
    }
    columns = [
        pa.array(new[name], batch.schema.field(name).type) if name in new else batch.column(i)
        for i, name in enumerate(names)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema.remove_metadata())


# a run


@dataclass(frozen=True)
class Sample:
    """A look at a run: s of wall and processor time, rows read, candidates judged, bytes of it."""

    seconds: float
    cpu: float
    rows: int
    judged: int
    memory: int
    bytes: int


class Watched:
    """A command whose processes and database are looked at until it ends, or is killed."""

    def __init__(self, command: Sequence[object], db: Path) -> None:
        self.db, self.samples = db, [Sample(0, 0, *_progress(db), 0, _bytes(db))]
        self.began, self.cpu = time.perf_counter(), {}
        self.first: Sample | None = None  # with a candidate that was judged
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)

    def watch(self, until: Callable[[Sample], bool] = lambda sample: False) -> None:
        """Look until the command has ended, or until what was seen is enough; then kill it."""
        before = self.samples[0].judged
        while self.process.poll() is None:
            family = _family(self.process.pid)
            self.cpu |= {pid: _cpu_time(pid) for pid in family}
            memory = max(map(_memory, family), default=0)
            seconds = time.perf_counter() - self.began
            progress = _progress(self.db)
            sample = Sample(seconds, sum(self.cpu.values()), *progress, memory, _bytes(self.db))
            self.samples.append(sample)
            if self.first is None and sample.judged > before:
                self.first = sample
            if until(sample):
                for pid in family:
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
                return
            time.sleep(EVERY if self.first is not None else EVERY / 4)
        if self.process.returncode:
            raise SystemExit(f"{self.process.args} ended with {self.process.returncode}")


def _progress(db: Path) -> tuple[int, int]:
    """Candidates that are stored, and predictions."""
    if not db.exists():
        return 0, 0
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=60)) as connection:
        try:
            rows, judged = (
                connection.execute(f"SELECT MAX(id) FROM {name}").fetchone()[0] or 0
                for name in ("candidates", "predictions")
            )
        except sqlite3.OperationalError:  # not made yet
            return 0, 0
    return rows, judged


def _bytes(db: Path) -> int:
    files = [Path(f"{db}{end}") for end in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


def _cpu_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def points(
    samples: Sequence[Sample], what: str, until: int, step: int = STEP
) -> Iterator[tuple[str, ...]]:
    """Rows of a table: the cost of rows or candidates between some numbers of them."""
    marks = range(0, until, step)
    number = [getattr(sample, what) for sample in samples]
    for first, last in zip(marks, [*marks[1:], until], strict=True):
        a = samples[int(np.searchsorted(number, first, "right")) - 1]
        b = samples[min(int(np.searchsorted(number, last)), len(samples) - 1)]
        n = getattr(b, what) - getattr(a, what)
        if n > 0:
            wall, cpu = b.seconds - a.seconds, b.cpu - a.cpu
            yield f"{what} {first:,} to {last:,}", f"{n / wall:,.0f}/s", f"{1e3 * cpu / n:.2f} ms"


def one_after_the_other(parts: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Samples of a run and of what resumed it, as of one."""
    joined: list[Sample] = []
    for part in parts:
        seconds, cpu = (joined[-1].seconds, joined[-1].cpu) if joined else (0.0, 0.0)
        joined += [
            Sample(s.seconds + seconds, s.cpu + cpu, s.rows, s.judged, s.memory, s.bytes)
            for s in part
        ]
    return joined


def measure_run(options: argparse.Namespace, folder: Path) -> None:
    """Make the table, screen it, kill that in the middle, go on, and print what it cost."""
    table, db = folder / "table.parquet", folder / "s.sqlite"
    began = time.perf_counter()
    make_table(options.table, table, options.rows)
    print(f"table of {options.rows:,} rows made in {time.perf_counter() - began:.0f} s", flush=True)
    parts = folder / "parts.jsonl"
    command = [sys.executable, __file__, "--screen", options.network, parts, "run", "--quiet"]
    command += ["--source", table, "--db", db, "--json", "--top", 1, "--workers", options.workers]
    command += ["--rescore", 0]
    killed = Watched(command, db)
    expected = _fraction(options.table) * options.rows
    killed.watch(lambda sample: sample.judged >= expected / 2)
    print(f"killed at {killed.samples[-1]}", flush=True)
    resumed = Watched([*command, "--resume"], db)
    resumed.watch()
    samples = one_after_the_other([killed.samples, resumed.samples])
    last = samples[-1]
    rows, judged = _progress(db)
    step = min(STEP, max(1000, rows // 4000 * 1000))  # blocks of rows are noted
    figures = [
        (f"{rows:,} rows, {judged:,} judged", f"{last.seconds:.0f} s", f"{last.cpu:.0f} s"),
        *points(samples, "rows", rows, step),
        *points(samples, "judged", judged, step),
        *resuming(resumed.first),
        ("largest memory of a process", f"{max(s.memory for s in samples) / 1e9:.2f} GB", ""),
        *sizes(db),
    ]
    print_table(figures)
    print_table(by_parts(parts.read_text().splitlines(), step), ("rows", *PARTS, SAME))


def resuming(first: Sample | None) -> Iterator[tuple[str, ...]]:
    """Row of a table: what it takes to go on, until something is judged."""
    if first is not None:
        what = "candidate judged after --resume"
        yield what, f"{first.seconds:.1f} s", f"{first.cpu:.1f} s of all processes"


def by_parts(lines: Iterable[str], step: int) -> Iterator[tuple[str, ...]]:
    """Rows of a table: ms of processor time a row in each part, and of each piece of same work."""
    rows: Counter[int] = Counter()
    seconds: dict[int, Counter[str]] = defaultdict(Counter)
    for line in map(json.loads, lines):
        at = max(0, line["rows"] - 1) // step
        rows[at] += line["new"]
        seconds[at].update(line["seconds"])
    for at in sorted(n for n in rows if rows[n]):
        of_row = [f"{1e3 * seconds[at][part] / rows[at]:.3f} ms" for part in PARTS]
        same = 1e3 * seconds[at][SAME] / max(1, seconds[at]["times"])
        yield f"{at * step:,} to {at * step + rows[at]:,}", *of_row, f"{same:.1f} ms"


def _fraction(table: Path) -> float:
    """Share of the rows that pass the default filters, roughly."""
    rows = pq.read_table(table, columns=["band_gap", "energy_above_hull", "nelements"])
    gap, hull, elements = (column.to_numpy() for column in rows.columns)
    return float(np.mean((gap == 0) & (hull <= 0.5) & (elements < 5)))


def sizes(db: Path) -> Iterator[tuple[str, ...]]:
    """Bytes of the file for a rejected candidate and for a screened one with its prediction.

    A part of the rejected is copied into a file of its own, which gives the former.
    """
    from db.collections import CANDIDATES, Query, conditions
    from db.open import open_store

    with tempfile.TemporaryDirectory() as folder, open_store(db) as store:
        of_state = store.count_by(Query(CANDIDATES), "state")
        few = Path(folder) / "few.sqlite"
        rejected = Query(CANDIDATES, conditions(state="rejected"), limit=20_000)
        with open_store(few) as copy:
            n = copy.upsert_candidates(store.find(rejected))
        of_rejected = _bytes(few) / n if n else 0.0
    others = sum(of_state.values()) - of_state.get("rejected", 0)
    rest = _bytes(db) - of_rejected * of_state.get("rejected", 0)
    yield "file", f"{_bytes(db) / 1e6:,.0f} MB", ""
    yield "file for a rejected candidate", f"{of_rejected:,.0f} bytes", ""
    yield "file for a screened candidate", f"{rest / max(1, others):,.0f} bytes", ""


def print_table(
    rows: Iterable[Sequence[str]], head: Sequence[str] = ("what", "wall", "processor")
) -> None:
    """A Markdown table of what was measured."""
    print()
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join([*row, ""][: len(head)]) + " |")


# a run that looks at itself


class Clock:
    """Divides the processor time of this process among the parts of its work.

    Parameters
    ----------
    path : Path
        Of a file that takes a line with each block of rows.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.since = path, -1, time.process_time()
        self.seconds: Counter[str] = Counter()
        self.within = ["others"]
        gc.callbacks.append(self._collecting)

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count what is done inside as that part's, unless it is that of one inside it."""
        self._count()
        self.within.append(part)
        try:
            yield
        finally:
            self._count()
            self.within.pop()

    def _count(self) -> None:
        now = time.process_time()
        self.seconds[self.within[-1]] += now - self.since
        self.since = now

    def _collecting(self, phase: str, _: object) -> None:
        self._count()
        if phase == "start":
            self.within.append("garbage")
        elif self.within[-1] == "garbage":
            self.within.pop()

    def times(self, owner: Any, name: str, part: str) -> None:
        """Count what a function does, or a generator from one item to the next."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.during(part):
                return function(*arguments, **named)

        def items(*arguments: Any, **named: Any) -> Iterator[Any]:
            iterator = function(*arguments, **named)
            while True:
                with self.during(part):
                    item = next(iterator, self)
                if item is self:
                    return
                yield item

        setattr(owner, name, items if inspect.isgeneratorfunction(function) else timed)

    def note(self, rows: int) -> None:
        """Write down what was done since the last time, and that so many rows are read."""
        before, self.rows = self.rows if self.rows >= 0 else rows, rows
        if before // SAME_EVERY != rows // SAME_EVERY:
            with self.during(SAME):
                _same_work()
            self.seconds["times"] += 1
        self._count()
        line = {"rows": rows, "new": rows - before, "seconds": self.seconds}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.seconds.clear()


def _same_work() -> None:
    """Some work as that of the program: many small objects, and a little arithmetic."""
    rows = [{"id": str(i), "values": [i, i + 1.0]} for i in range(10_000)]
    np.sort(np.array([row["values"] for row in rows]).ravel())


def screen(network: str, parts: Path, arguments: list[str]) -> None:
    """`screen` that says what its parts cost, and perhaps in which each predictor is no network."""
    from db.embedded import EmbeddedStore
    from screening.cli import script
    from workflows.reading import CandidateReader
    from workflows.scoring import Scorer
    from workflows.streaming import ReadAndScored

    clock, stored = Clock(parts), ReadAndScored._stored
    clock.times(CandidateReader, "blocks", "reading")
    clock.times(CandidateReader, "blocks_from_process", "reading")
    clock.times(Scorer, "keep", "verdicts")
    for name in ("_write", "_update_verdicts", "_lookup", "_find"):
        clock.times(EmbeddedStore, name, "store")

    def noted(self: Any, documents: list[Any]) -> Any:
        if clock.rows < 0:
            clock.note(self.funnel.entered - len(documents) * self.is_new)
        missing = stored(self, documents)
        clock.note(self.funnel.entered)
        return missing

    ReadAndScored._stored = noted  # type: ignore[method-assign]
    if network == "none":
        _without_network()
    sys.argv = ["screen", *arguments]
    script()


# without a network


class NoNetwork:
    """Stands in for a predictor: spectra that cost nothing."""

    def __init__(self) -> None:
        self.grid = EDOS_GRID
        self.generator = np.random.default_rng(0)

    def predict_parts(self, structures: Iterable[Any], **_: object) -> Iterator[PredictedSpectra]:
        """As that of a predictor."""
        for chunk in batched(structures, CHUNK):
            n = len(chunk)
            values = self.generator.gamma(1.0, 2.0, (n, self.grid.size)).astype(np.float32)
            values[: n // 20, 40:58] = 0.0  # some positives
            gaps = np.full(n, np.nan, np.float32)
            yield PredictedSpectra(values, self.grid, gaps, *self.generator.random((2, n)))


def _without_network() -> None:
    """From now on each predictor is that."""
    network = NoNetwork()
    DeferredPredictor.start = lambda self, workers: None  # type: ignore[method-assign]
    DeferredPredictor.predict_parts = (  # type: ignore[method-assign]
        lambda self, structures, *, workers=1: network.predict_parts(structures)
    )


# the store alone


def measure_store(options: argparse.Namespace, folder: Path) -> None:
    """Give a store so many candidates, predictions and verdicts, and ask it what `screen` asks."""
    from db.open import open_store

    db = folder / "s.sqlite"
    with open_store(db) as store:
        figures = list(_written(store, options))
    figures += _asked(db)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print_table([*figures, ("largest memory", f"{memory / 1e6:.2f} GB", ""), *sizes(db)])


def _written(store: Any, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    from db.documents import CandidateDoc, Run
    from screening.criteria.registry import find_criterion
    from screening.domain import Training
    from screening.filters import ScreeningFilters
    from screening.funnel import Funnel
    from screening.sources import open_source
    from workflows.domains import with_domain
    from workflows.reading import CandidateReader
    from workflows.verdicts import prediction_documents, prediction_key, verdicts_on

    reader = CandidateReader(
        run_id=RUN,
        filters=ScreeningFilters(),
        shard_size=2000,
        limit=None,
        keep_cell=True,
        trained=None,
    )
    source = open_source(options.table)
    few = list(islice(iter(source), 0, None, 12))
    documents = list(reader.documents(_Items(few), Funnel.of(reader.filters)))
    store.put_run(Run(run_id=RUN, model_id="model", parameters={"checkpoint": "none"}))
    passed = 0

    def candidates(first: int, last: int) -> Iterator[CandidateDoc]:
        nonlocal passed
        for i in range(first, last):
            like = documents[i % len(documents)]
            shard = None if like.shard is None else passed // reader.shard_size
            passed += shard is not None
            copy = {"material_id": f"{like.material_id}-{i}", "shard": shard}
            yield CandidateDoc.of_checked(**like.__dict__ | copy)

    yield from _in_steps(
        "candidate stored",
        options.rows,
        lambda *numbers: store.upsert_candidates(candidates(*numbers), keep_existing=True),
    )
    network, criterion, training = NoNetwork(), find_criterion("vb-gap", {}), Training(None)
    shards = store.shards(RUN, "pending")

    def judge(first: int, last: int) -> None:
        for shard in shards[first:last]:
            pending = list(store.candidates(RUN, state="pending", shard=shard, with_structure=True))
            predicted = PredictedSpectra.joined(list(network.predict_parts(pending)))
            predictions = list(prediction_documents(pending, predicted, "model"))
            by_key = {prediction_key(c, "model"): c for c in pending}
            verdicts = verdicts_on(predictions, by_key, criterion)
            keys = (prediction.key for prediction in predictions)
            store.upsert_predictions(predictions)
            store.apply_verdicts(
                with_domain(verdict, by_key[key], training)
                for key, verdict in zip(keys, verdicts, strict=True)
            )

    yield from _in_steps("candidate judged and stored", len(shards), judge, reader.shard_size)


class _Items(Source):
    name = description = fingerprint = "items"

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def _in_steps(
    what: str, n: int, work: Callable[[int, int], Any], of_each: int = 1
) -> Iterator[tuple[str, ...]]:
    """Time work in ten steps."""
    edges = np.linspace(0, n, min(10, n) + 1).astype(int).tolist()
    for first, last in pairwise(edges):
        wall, cpu = time.perf_counter(), time.process_time()
        work(first, last)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        number = max(1, last - first) * of_each
        row = (
            f"{what}, {first * of_each:,} to {last * of_each:,}",
            f"{number / wall:,.0f}/s",
            f"{1e3 * cpu / number:.3f} ms",
        )
        print(row, flush=True)
        yield row


def _asked(db: Path) -> Iterator[tuple[str, ...]]:
    """What the commands ask a store, and the times of its answers."""
    from db.collections import CANDIDATES, Query, conditions
    from db.open import open_store
    from db.questions import candidate_query, funnel

    of_run = conditions(run_id=RUN)
    pending = Query(CANDIDATES, (*of_run, *conditions(state="pending")))
    with open_store(db) as store:
        answers: dict[str, Callable[[], Any]] = {
            "open the file": lambda: open_store(db).close(),
            "the latest runs": store.runs,
            "shards that are left": lambda: store.count_by(pending, "shard"),
            "candidates in each state": lambda: store.candidate_counts(RUN),
            "counts of the funnel": lambda: funnel(store, RUN),
            "50 best positives": lambda: list(
                store.candidates(RUN, is_positive=True, sort_by="score", descending=True, limit=50)
            ),
            "ids of all positives, best first": lambda: store.values(
                candidate_query(RUN, is_positive=True, sort_by="score"), ["material_id"]
            ),
            "50 of a chemical system": lambda: list(
                store.find(candidate_query(RUN, chemsys="Al-Mg", limit=50))
            ),
            "a material": lambda: store.history("nothing"),
            "first 100 by score": lambda: list(
                store.find(candidate_query(RUN, sort_by="score", descending=True, limit=100))
            ),
            "first 100 by energy above hull": lambda: list(
                store.find(candidate_query(RUN, sort_by="energy_above_hull", limit=100))
            ),
            "which of 1,000 predictions are there": lambda: store.has_predictions(
                [(f"mp-{i}", "0" * 32, "model") for i in range(1000)]
            ),
        }
        for what, answer in answers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answer()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            row = (f"asked: {what}", f"{wall:.3f} s", f"{cpu:.3f} s")
            print(row, flush=True)
            yield row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--network", choices=["default", "none"], default="default")
    parser.add_argument("--store", action="store_true", help="The store alone.")
    options = parser.parse_args()
    load, what = (
        os.getloadavg()[0],
        "store alone" if options.store else f"{options.network} network",
    )
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores,", end=" ")
    print(f"load {load:.1f}, {options.workers} workers, {what}")
    with tempfile.TemporaryDirectory() as folder:
        (measure_store if options.store else measure_run)(options, Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--screen"]:
        screen(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
