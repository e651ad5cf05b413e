"""Time and memory of the whole path, as a user starts it.

    python tests/benchmarks/bench_screening.py mp_snapshot.parquet [--workers 2]

Runs `screen run --max-ehull 0.5 --rescore 0` on a table of structures into a new store, and again,
and with the default into another one; says when the first prediction was there; times
`screen --help`, `screen predict` of one file, and the two steps that the hot path is made of.
Processor time is that of all processes together. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import date
from pathlib import Path

ROCK_SALT = """NaCl
1.0
0 2.82 2.82
2.82 0 2.82
2.82 2.82 0
Na Cl
1 1
direct
0 0 0
0.5 0.5 0.5
"""


class PeakMemory(threading.Thread):
    """Largest memory of a process and its descendants together (proportional set size), bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self._ended = pid, 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, sum(map(_memory, _family(self.pid))))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.peak


class FirstPrediction(threading.Thread):
    """Seconds until a store's file holds a prediction; NaN if it never does."""

    def __init__(self, db: Path) -> None:
        super().__init__(daemon=True)
        self.db, self.seconds, self._ended = db, math.nan, threading.Event()
        self._began = time.perf_counter()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            if self.db.exists() and self._is_there():
                self.seconds = time.perf_counter() - self._began
                return

    def stop(self) -> float:
        self._ended.set()
        self.join()
        return self.seconds

    def _is_there(self) -> bool:
        try:
            with closing(sqlite3.connect(f"{self.db.as_uri()}?mode=ro", uri=True)) as connection:
                return (
                    connection.execute("SELECT 1 FROM predictions LIMIT 1").fetchone() is not None
                )
        except sqlite3.Error:  # it is being made
            return False


def _family(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [pid, *(p for child in text.split() for p in _family(int(child)))]


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def timed(*command: object) -> tuple[str, int, str]:
    """Wall and processor time in words, peak memory (bytes) and output of a command."""
    started, before = time.perf_counter(), _processor_time()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    memory.start()
    output, _ = process.communicate()
    elapsed = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    used = _processor_time() - before
    return f"{elapsed:.1f} s ({used:.1f} s of processors)", memory.stop(), output


def _processor_time() -> float:
    """Of all child processes that have ended, s."""
    times = os.times()
    return times.children_user + times.children_system


def graph_speed(table: Path) -> tuple[int, float]:
    """Atoms, and graphs of cells of 6 to 14 atoms built by one process in a second."""
    from models.graphs.graph import build_graphs
    from screening.candidate import Candidate
    from screening.sources import open_source

    crystals = [
        item.structure
        for item in open_source(table)
        if isinstance(item, Candidate) and 6 <= item.nsites <= 14
    ][:2000]
    started = time.perf_counter()
    build_graphs(crystals)
    seconds = time.perf_counter() - started
    return sum(map(len, crystals)), len(crystals) / seconds


def gap_speed() -> float:
    """Spectra of 128 bins judged in a second."""
    import numpy as np

    from models.spectra.spectrum import EDOS_GRID
    from screening.gap import find_gaps

    dos = np.random.default_rng(0).gamma(1.0, 2.0, (100_000, 128))
    started = time.perf_counter()
    find_gaps(EDOS_GRID, dos, n_atoms=np.full(len(dos), 4))
    return len(dos) / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    screen = Path(sys.executable).with_name("screen")
    rows = [("`screen --help`", timed(screen, "--help")[0], "")]
    with tempfile.TemporaryDirectory() as folder:
        command = [screen, "run", "--source", options.table, "--max-ehull", 0.5]
        command += ["--workers", options.workers, "--quiet", "--json", "--top", 1]
        alone, judged = Path(folder) / "alone.sqlite", Path(folder) / "judged.sqlite"
        for label, db, rescoring in (
            ("`screen run --rescore 0`, new store", alone, ("--rescore", 0)),
            ("the same again, predictions kept", alone, ("--rescore", 0)),
            ("`screen run`, new store, the best judged again", judged, ()),
        ):
            first = FirstPrediction(db)
            first.start()
            took, memory, output = timed(*command, "--db", db, *rescoring)
            if not rows[1:]:
                rows.append(("the first prediction is stored", f"{first.stop():.1f} s", ""))
            counts = json.loads(output)["counts"]
            done = f"{counts['screened']:,} candidates, {counts['positive']} positives"
            if again := counts.get("rescored"):
                done += f", {again:,} judged again"
            rows.append((f"{label}: {done}", took, f"{memory / 1e9:.2f} GB"))
        file = Path(folder) / "POSCAR"
        file.write_text(ROCK_SALT)
        took, memory, _ = timed(screen, "predict", file)
        rows.append(("`screen predict` of one file", took, f"{memory / 1e9:.2f} GB"))
    atoms, graphs = graph_speed(options.table)
    rows.append((f"graphs, one process, {atoms / 2000:.1f} atoms a cell", f"{graphs:,.0f}/s", ""))
    rows.append(("VB-gap criteria, 128 bins, one process", f"{gap_speed():,.0f}/s", ""))
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, load", end=" ")
    print(f"{os.getloadavg()[0]:.1f}, {options.workers} workers\n")
    print("| what | measured | peak memory |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
