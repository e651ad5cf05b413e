"""How fast candidates and training sets come from the Materials Project's server on loopback.

    python tests/benchmarks/bench_materials_project.py --mongo URI [--candidates N] [--dos N]

The server is the Materials Project's own code (emmet-api) on a database at URI that is dropped
afterwards; the DOS are in Delta tables on the local disk. The client works in a process of its
own, whose peak memory is measured. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from emmet.core.mpid import AlphaID

from db.collections import batched
from screening.filters import ScreeningFilters
from screening.sources.materials_project.source import open_materials_project
from screening.training_sets.edos import fetch_edos
from tests.screening import mp_server

ROWS = 1000  # of a file of the Delta table
POINTS = 2001
ENERGIES = np.linspace(-12.0, 14.0, POINTS)
FIRST_TASK = 1_000_000


def documents(candidates: int, dos: int) -> Iterator[dict[str, Any]]:
    """Documents that all qualify as candidates; the first ones have a DOS."""
    for k, document in enumerate(mp_server.summary_documents(candidates)):
        yield document | {
            "deprecated": False,
            "builder_meta": {"license": "BY-C"},
            "energy_above_hull": 0.1,
            "nelements": min(document["nelements"], 4),
            "band_gap": 0.0,
            "ordering": "NM",
            "has_props": {"dos": k < dos},
            "dos": {"task_id": f"mp-{FIRST_TASK + k}"},
        }


def write_tables(folder: Path, dos: int) -> None:
    """Delta table of total DOS in files of `ROWS` rows."""
    generator = np.random.default_rng(0)
    for numbers in batched(range(dos), ROWS):
        centres = generator.uniform(-9, 9, (len(numbers), 4, 1))
        values = 0.3 + 3 * np.exp(-((ENERGIES - centres) ** 2)).sum(1)
        flat = pa.array(values.ravel())
        offsets = pa.array(np.arange(len(numbers) + 1) * POINTS, pa.int32())
        energies = pa.array(np.tile(ENERGIES, len(numbers)))
        nothing = pa.nulls(len(numbers), pa.list_(pa.float64()))
        table = pa.table(
            {
                "identifier": [str(AlphaID(FIRST_TASK + k, padlen=8)) for k in numbers],
                "run_type": ["GGA"] * len(numbers),
                "spin_up_densities": pa.ListArray.from_arrays(offsets, flat),
                "spin_down_densities": nothing,
                "energies": pa.ListArray.from_arrays(offsets, energies),
                "efermi": np.zeros(len(numbers)),
            }
        )
        write_deltalake(str(folder), table, mode="append")


def read_candidates(address: str, cache: Path) -> dict[str, float]:
    """Fetch the answer to the paper's query and read all of it."""
    started = time.perf_counter()
    source = open_materials_project(
        ScreeningFilters(unknown="drop"), endpoint=address, cache_dir=cache
    )
    fetched = time.perf_counter()
    n = sum(1 for _ in source)
    return {"n": n, "fetch": fetched - started, "read": time.perf_counter() - fetched}


def read_dos(address: str, cache: Path) -> dict[str, float]:
    """Fetch a training set; the time until the first spectra is that of the materials."""
    times = [time.perf_counter()]
    report = fetch_edos(
        cache / "edos.parquet",
        endpoint=address,
        cache_dir=cache,
        table=str(cache / "total-dos"),
        materials_progress=lambda done, total: times.append(time.perf_counter()),
    )
    end = time.perf_counter()
    return {"n": report.written, "fetch": times[-1] - times[0], "read": end - times[-1]}


WORK = {"candidates": read_candidates, "dos": read_dos}


def child(what: str, address: str, cache: Path) -> None:
    """Do the work in this process and print its figures."""
    figures = WORK[what](address, cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(figures | {"peak": peak}))


def measure(what: str, address: str, cache: Path) -> dict[str, float]:
    """The figures of a new process."""
    command = [sys.executable, __file__, "--child", what, "--address", address]
    environment = os.environ | {"MP_API_KEY": mp_server.KEY}
    done = subprocess.run(
        [*command, "--cache", str(cache)], env=environment, stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mongo", default=os.environ.get("SCREEN_TEST_MONGO_URI"))
    parser.add_argument("--candidates", type=int, default=50_000)
    parser.add_argument("--dos", type=int, default=20_000)
    parser.add_argument("--child", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.address, options.cache)
        return
    if not options.mongo:
        parser.error("--mongo or SCREEN_TEST_MONGO_URI is needed")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f} at the beginning, ", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        write_tables(cache / "total-dos", options.dos)
        served = documents(options.candidates, options.dos)
        with mp_server.materials_project(options.mongo, served) as (address, _, _):
            found = {what: measure(what, address, cache) for what in WORK}
    print(f"{os.getloadavg()[0]:.1f} at the end\n")
    print("| What | Number | From the server (s) | From disk (s) | Peak memory (GB) |")
    print("|---|---:|---:|---:|---:|")
    names = {"candidates": "Candidates", "dos": "Training set of eDOS"}
    for what, f in found.items():
        cells = f"{f['n']:,} | {f['fetch']:.0f} | {f['read']:.0f} | {f['peak']:.2f}"
        print(f"| {names[what]} | {cells} |")


if __name__ == "__main__":
    main()
