"""Time and memory of the whole path, as a user starts it.

    python tests/benchmarks/bench_screening.py mp_snapshot.parquet [--workers 2]

Runs `screen run --max-ehull 0.5` on a table of structures into a new store, and again; times
`screen --help` and the two steps that the hot path is made of. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path


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


def timed(*command: object) -> tuple[float, int, str]:
    """Wall time (s), peak memory (bytes) and output of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    memory.start()
    output, _ = process.communicate()
    elapsed = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return elapsed, memory.stop(), output


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
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    screen = Path(sys.executable).with_name("screen")
    helps = sorted(timed(screen, "--help")[0] for _ in range(5))
    rows = [("`screen --help` (median of 5)", f"{helps[2]:.2f} s", "")]
    with tempfile.TemporaryDirectory() as folder:
        command = [screen, "run", "--source", options.table, "--max-ehull", 0.5]
        command += ["--workers", options.workers, "--db", Path(folder) / "s.sqlite"]
        for label in ("`screen run`, new store", "the same again, predictions kept"):
            seconds, memory, output = timed(*command, "--quiet", "--json", "--top", 1)
            counts = json.loads(output)["counts"]
            done = f"{counts['screened']:,} candidates, {counts['positive']} positives"
            rows.append((f"{label}: {done}", f"{seconds:.0f} s", f"{memory / 1e9:.2f} GB"))
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
