"""Time, memory and size of an archive of 100,000 candidates, and of its copy.

    python tests/benchmarks/bench_export.py mp_snapshot.parquet --folder /tmp/export

Structures are those of the table, taken again under other ids; spectra are noise, which compresses
worse than real ones. Each command is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from db.collections import batched
from db.documents import CandidateDoc, PredictionDoc, Run
from db.open import open_store
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from models.zoo import DEFAULT_EDOS, model_id
from screening.gap import GapCriteria, find_gaps
from workflows.verdicts import gap_document

MODEL = model_id(DEFAULT_EDOS)


def crystals(table: Path) -> Iterator[Crystal]:
    for _ in cycle([None]):
        for batch in pq.ParquetFile(table).iter_batches(1000):
            for row in batch.to_pylist():
                lattice, sites = (np.reshape(row[n], (-1, 3)) for n in ("lattice", "frac_coords"))
                yield Crystal(lattice, sites, row["species"])


def fill(path: Path, table: Path, n: int) -> None:
    """A store with a run of n candidates."""
    rng, criteria = np.random.default_rng(0), GapCriteria()
    with open_store(path) as store:
        for batch in batched(enumerate(islice(crystals(table), n)), 1000):
            spectra = rng.gamma(1.0, 1.5, (len(batch), EDOS_GRID.size)).astype(np.float32)
            n_atoms = [len(crystal) for _, crystal in batch]
            gaps = find_gaps(EDOS_GRID, spectra, criteria, n_atoms)
            candidates, predictions = [], []
            for row, (number, crystal) in enumerate(batch):
                both: dict[str, Any] = {
                    "material_id": f"mp-{number}",
                    "structure_hash": f"{number:032x}",
                    "model_id": MODEL,
                    "formula": crystal.formula,
                    "nsites": len(crystal),
                    "gap": gap_document(gaps, row),
                    "score": float(gaps.score[row]),
                }
                candidates.append(
                    CandidateDoc(
                        run_id="bench",
                        chemsys=crystal.chemsys,
                        elements=list(crystal.elements),
                        state="screened",
                        is_positive=bool(gaps.is_gap[row]),
                        structure=crystal.as_dict(),
                        **both,
                    )
                )
                predictions.append(PredictionDoc(grid=EDOS_GRID, spectrum=spectra[row], **both))
            store.upsert_candidates(candidates)
            store.upsert_predictions(predictions)
        parameters = {"criteria": criteria.model_dump(mode="json"), "checkpoint": str(DEFAULT_EDOS)}
        store.put_run(Run(run_id="bench", state="done", model_id=MODEL, parameters=parameters))


def measured(*command: object) -> str:
    """Times and memory of a command of `screen`."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "screening.cli", *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{command[0]} failed")
    processor = usage.ru_utime + usage.ru_stime
    return f"{wall:.0f} s, processor {processor:.0f} s, {usage.ru_maxrss / 1e6:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=100_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    names = ("bench.sqlite", "bench.zip", "copy.sqlite", "bench.json.gz")
    db, archive, copy, contributions = (options.folder / name for name in names)
    if not db.exists():
        fill(db, options.table, options.candidates)
    print("export:", measured("export", "--db", db, "-o", archive, "--quiet"))
    print(f"archive: {archive.stat().st_size / 1e6:.0f} MB")
    print("copy:", measured("db", "copy", archive, copy, "--quiet"))
    to = ("--mpcontribs", contributions, "--all")
    print("MPContribs:", measured("export", "--db", db, *to))
    print("figures:", measured("figures", "--db", db, "--out", options.folder / "figures"))


if __name__ == "__main__":
    main()
