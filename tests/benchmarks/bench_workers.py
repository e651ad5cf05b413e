"""Several workers on one launchpad: how many candidates they score, and what they wait for.

    python tests/benchmarks/bench_workers.py TABLE --mongo URI [--workers 1 2 4] [--device cuda]

Submits `screen run --where launchpad` of the first candidates of a table for each number of
workers, in databases of its own that are dropped afterwards, and works it off with processes of
one thread each. Then writes documents from as many processes, scores with spectra that cost
nothing, and launches jobs that do nothing. Prints Markdown tables. What a worker needs for its
first shard (loading the model) is left out.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import rapidfire
from jobflow import Flow
from jobflow.core.job import store_inputs

from db.collections import batched
from db.open import open_store
from models.chunks import CHUNK
from models.crystal import Crystal
from models.predicted_spectra import PredictedSpectra
from models.spectra.spectrum import EDOS_GRID
from models.zoo import predictor_folder
from tests.benchmarks.bench_store import candidates, predictions, verdicts
from tests.workflows.launchpads import Site, make_site, new_database
from workflows.launchpad import open_launchpad, submit_flow, submit_screening
from workflows.runs import candidate_counts
from workflows.screening import ScreeningFlowMaker, read_shard, score_shard
from workflows.stores import FROM_ENVIRONMENT

RUN = "bench"
WRITTEN = 4000  # documents of each writer
SLEEP = 0.1  # s between two looks at a process


@dataclass(frozen=True)
class Use:
    """What a process has done until a moment: all in seconds."""

    moment: float
    computed: float
    queued: float
    """Waited for a core."""

    @classmethod
    def of(cls, pid: int) -> Use:
        """Of all threads of a process so far (Linux)."""
        ran, queued = 0, 0
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                values = (thread / "schedstat").read_text().split()
                ran, queued = ran + int(values[0]), queued + int(values[1])
        return cls(time.time(), ran / 1e9, queued / 1e9)

    def since(self, before: Use) -> Use:
        """What came in between."""
        return Use(
            self.moment - before.moment,
            self.computed - before.computed,
            self.queued - before.queued,
        )


class Watcher(threading.Thread):
    """Looks at processes until it is stopped."""

    def __init__(self, processes: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.processes, self._ended = processes, threading.Event()
        self.uses: dict[str, list[Use]] = defaultdict(list)

    def run(self) -> None:
        while not self._ended.wait(SLEEP):
            for name, pid in self.processes.items():
                self.uses[name].append(Use.of(pid))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def between(self, name: str, begin: float, end: float) -> Use:
        """What a process did between two moments."""
        inside = [use for use in self.uses[name] if begin <= use.moment <= end]
        return inside[-1].since(inside[0])


def work_off(pad: LaunchPad, folder: str, category: str, **options: int) -> None:
    """Do the jobs of a category in this process."""
    with chdir(folder):  # FireWorks leaves it
        rapidfire(pad, FWorker(category=category), sleep_time=1, strm_lvl="ERROR", **options)


def write_fworker(site: Site, name: str, *categories: str) -> Path:
    """Worker file."""
    path = site.folder / f"{name}.yaml"
    path.write_text(f"name: {name}\ncategory: [{', '.join(categories)}]\nquery: '{{}}'\n")
    return path


@contextmanager
def workers(site: Site, n: int, device: str) -> Iterator[dict[str, int]]:
    """Ids of `n` scoring processes of one thread each, by name; they are killed at the end."""
    environment = {"SCREEN_WORKERS": "1", "SCREEN_DEVICE": device}
    started = {
        f"w{i}": site.start_worker(
            "-w", write_fworker(site, f"w{i}", "prediction"), ends=False, **environment
        )
        for i in range(n)
    }
    try:
        yield {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def launches_of(pad: LaunchPad, name: str) -> dict[str, list[tuple[float, float]]]:
    """Begin and end of the launches of finished jobs of a name, by worker, in order."""
    jobs = [job["fw_id"] for job in pad.fireworks.find({"name": name, "state": "COMPLETED"})]
    found = defaultdict(list)
    for launch in pad.launches.find({"fw_id": {"$in": jobs}}):
        times = (datetime.fromisoformat(launch[key]) for key in ("time_start", "time_end"))
        found[launch["fworker"]["name"]].append(tuple(t.timestamp() for t in times))
    return {name: sorted(times) for name, times in found.items()}


@dataclass(frozen=True)
class Scored:
    """What some workers did after their first shards, in candidates/s and s per candidate."""

    n: int
    rate: float
    computed: float
    queued: float
    waited: float
    between: float
    """From the end of one shard to the beginning of the next, s."""

    @property
    def quiet_rate(self) -> float:
        """Candidates/s if each process had a core whenever it wants one."""
        return self.n / (self.computed + self.waited)


def score(table: Path, n_workers: int, options: argparse.Namespace) -> Scored:
    """Work off a run with so many workers."""
    with tempfile.TemporaryDirectory() as folder, new_database() as uri:
        site = make_site(Path(folder), uri)
        os.environ["SCREEN_DB"] = site.db
        maker = ScreeningFlowMaker(
            db=site.db,
            source=str(table),
            shard_size=options.shard_size,
            limit=options.candidates,
            checkpoint=str(predictor_folder(options.checkpoint)),
            rescore=0,
        )
        with open_launchpad(site.launchpad) as pad, open_store(site.db) as store:
            submit_screening(pad, maker, RUN)
            work_off(pad, folder, "reading")
            with workers(site, n_workers, options.device) as processes:
                watcher = Watcher(processes)
                watcher.start()
                left = {"name": "score_shard", "state": {"$ne": "COMPLETED"}}
                while pad.fireworks.count_documents(left):
                    time.sleep(1)
                watcher.stop()
            counts = candidate_counts(store, store.run(RUN))
            assert counts["screened"] + counts.get("failed", 0) == options.candidates, counts
            return _scored(launches_of(pad, "score_shard"), watcher, options.shard_size)


def _scored(
    shards: dict[str, list[tuple[float, float]]], watcher: Watcher, shard_size: int
) -> Scored:
    rate = computed = queued = wall = scored = 0.0
    between: list[float] = []
    for name, times in shards.items():
        begin, end = times[0][1], times[-1][1]
        n = shard_size * (len(times) - 1)
        if not n:
            raise SystemExit(f"{name} scored one shard only: more --candidates are needed")
        use = watcher.between(name, begin, end)
        rate, scored, wall = rate + n / (end - begin), scored + n, wall + use.moment
        computed, queued = computed + use.computed, queued + use.queued
        between += [after[0] - before[1] for before, after in pairwise(times)]
    waited = max(wall - computed - queued, 0.0)
    per = [seconds / scored for seconds in (computed, queued, waited)]
    return Scored(len(shards), rate, *per, between=sorted(between)[len(between) // 2])


def write(arguments: tuple[str, str, int]) -> tuple[float, float, float, int]:
    """Begin, end, processor time (s) and number of the documents that a process wrote."""
    uri, kind, writer = arguments
    of_writer = {"run_id": f"{RUN}-{writer}"}
    with open_store(uri) as store:
        if kind == "candidates":
            made = [c.model_copy(update=of_writer) for c in candidates(WRITTEN)]
            work = partial(store.upsert_candidates, made, keep_existing=True)
        elif kind == "predictions":
            work = partial(store.upsert_predictions, predictions(10_000_000 * writer)[:WRITTEN])
        else:
            said = [v.model_copy(update=of_writer) for v in verdicts(WRITTEN)]
            work = partial(store.apply_verdicts, said)
        began, cpu = time.time(), time.process_time()
        work()
        return began, time.time(), time.process_time() - cpu, WRITTEN


def writes(n_writers: int) -> Iterator[tuple[str, float, float]]:
    """Documents of each kind that a database takes in a second, and ms of a processor for one."""
    with new_database() as uri:
        open_store(uri).close()
        with ProcessPoolExecutor(n_writers, get_context("spawn")) as pool:
            for kind in ("candidates", "predictions", "verdicts"):
                done = list(pool.map(write, [(uri, kind, i) for i in range(n_writers)]))
                total = sum(n for *_, n in done)
                seconds = max(end for _, end, *_ in done) - min(begin for begin, *_ in done)
                yield kind, total / seconds, 1e3 * sum(cpu for *_, cpu, _ in done) / total


@dataclass(frozen=True)
class Spent:
    """What something took for one candidate, in ms: by the clock, and of the processor."""

    what: str
    clock: float
    processor: float


@contextmanager
def spent(what: str, n: int) -> Iterator[list[Spent]]:
    """Measure a block that handles `n` candidates; the list has the result afterwards."""
    measured: list[Spent] = []
    began, cpu = time.perf_counter(), time.process_time()
    yield measured
    clock, processor = time.perf_counter() - began, time.process_time() - cpu
    measured.append(Spent(what, 1e3 * clock / n, 1e3 * processor / n))


def host_work(table: Path, n: int) -> list[Spent]:
    """What reading `n` candidates takes, and scoring them besides graphs and network."""
    grid, generator = EDOS_GRID, np.random.default_rng(0)

    def guess(crystals: list[Crystal], **_: object) -> Iterator[PredictedSpectra]:
        for part in batched(crystals, CHUNK):
            nothing = PredictedSpectra.unknown(len(part), grid)
            yield replace(nothing, values=generator.random(nothing.values.shape, np.float32))

    with new_database() as uri:
        os.environ["SCREEN_DB"] = uri
        maker = ScreeningFlowMaker(db=uri, source=str(table), limit=n, shard_size=n, rescore=0)
        parameters, hardware = maker.parameters(), {"device": "cpu", "workers": 1}
        with spent("reading, filtering and storing a candidate", n) as reading:
            read_shard.original(RUN, FROM_ENVIRONMENT, {}, parameters, hardware)
        predictor = SimpleNamespace(predict_parts=guess)
        unpredicted = patch("workflows.scoring.deferred_predictor", lambda *_: predictor)
        with unpredicted, spent("scoring one without graphs and network", n) as scoring:
            score_shard.original(RUN, FROM_ENVIRONMENT, 0, maker.checkpoint, "cpu", 1)
        return [*reading, *scoring]


def overhead(n_jobs: int) -> tuple[float, float]:
    """Seconds, and those of the processor, that FireWorks takes for one of `n_jobs` jobs."""
    with tempfile.TemporaryDirectory() as folder, new_database() as uri:
        site = make_site(Path(folder), uri)
        with open_launchpad(site.launchpad) as pad:
            jobs = [store_inputs(i) for i in range(n_jobs)]
            last = store_inputs([job.output for job in jobs])
            submit_flow(pad, Flow([*jobs, last]), category="screening")
            began, cpu = time.perf_counter(), time.process_time()
            work_off(pad, folder, "screening", nlaunches=n_jobs)
            seconds = time.perf_counter() - began, time.process_time() - cpu
    return seconds[0] / n_jobs, seconds[1] / n_jobs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--mongo", metavar="URI", default=os.environ.get("SCREEN_TEST_MONGO_URI"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--candidates", type=int, default=480)
    parser.add_argument("--shard-size", type=int, default=24)
    parser.add_argument("--checkpoint", default="tight-binding-edos")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, nargs="+", default=[50, 200])
    options = parser.parse_args()
    os.environ["SCREEN_TEST_MONGO_URI"] = options.mongo or sys.exit("--mongo URI is needed")
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable()
    warnings.simplefilter("ignore")
    load = os.getloadavg()[0]
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}\n")
    print(
        f"{options.candidates} candidates, shards of {options.shard_size}, {options.checkpoint} "
        f"on {options.device}; ms are per candidate and worker\n"
    )
    heads = "workers", "candidates/s", "scaling", "ms computing", "ms waiting for a core"
    heads += "ms waiting for the database", "ms between shards", "candidates/s on free cores"
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |")
    first = None
    for n in options.workers:
        scored = score(options.table, n, options)
        first = first or scored
        numbers = (scored.computed, scored.queued, scored.waited, scored.between)
        row = f"{n}", f"{scored.rate:.1f}", f"{scored.rate / first.rate:.2f}"
        row += (*(f"{1e3 * number:.1f}" for number in numbers), f"{scored.quiet_rate:.1f}")
        print(f"| {' | '.join(row)} |", flush=True)
    print("\n| documents | writers | stored/s | of each | ms of a writer's processor for one |")
    print("| --- | --- | --- | --- | --- |")
    for n in options.workers:
        for kind, rate, cpu in writes(n):
            print(f"| {kind} | {n} | {rate:,.0f} | {rate / n:,.0f} | {cpu:.3f} |", flush=True)
    print("\n| one job alone | ms | of its processor |\n| --- | --- | --- |")
    for row in host_work(options.table, WRITTEN):
        print(f"| {row.what} | {row.clock:.2f} | {row.processor:.2f} |", flush=True)
    print("\n| jobs of a workflow | ms for one | ms of the processor |\n| --- | --- | --- |")
    for n in options.jobs:
        seconds, cpu = overhead(n)
        print(f"| {n} | {1e3 * seconds:.0f} | {1e3 * cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
