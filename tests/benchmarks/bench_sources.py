"""Structures a second of each reader, and what a folder costs before its first structure.

    python -m tests.benchmarks.bench_sources [N] [--folder 100000]

writes N structures (1,000) of pymatgen's prototypes in P1 in each format to a temporary folder and
reads them; times are of the processor, on one core. `--folder` lists a folder of so many CIFs.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
from ase.db import connect
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter

from models.distances import overlap
from screening.candidate import Candidate
from screening.sources import open_source


def structures(n: int) -> list[Structure]:
    """Prototypes of at most 40 atoms over and over, strained, so that no two are the same."""
    usable = [
        c.structure.to_structure()
        for c in open_source("prototypes")
        if isinstance(c, Candidate) and c.nsites <= 40 and overlap(c.structure) is None
    ]
    rng = np.random.default_rng(0)
    chosen = itertools.islice(itertools.cycle(usable), n)
    return [s.apply_strain(rng.uniform(-0.05, 0.1), inplace=False) for s in chosen]


def write_all(folder: Path, given: list[Structure]) -> dict[str, Path]:
    """The structures in each format; paths by its name."""
    cifs = [str(CifWriter(s)) for s in given]
    atoms = [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in given]
    paths = {
        "folder of CIFs": folder / "cifs",
        "CSV with CIFs": folder / "a.csv",
        "JSON lines with CIFs": folder / "b.jsonl",
        "JSON lines of pymatgen": folder / "c.jsonl",
        "JSON lines of pymatgen, .gz": folder / "d.jsonl.gz",
        "extended XYZ": folder / "e.extxyz",
        "ASE database": folder / "f.db",
    }
    paths["folder of CIFs"].mkdir()
    for k, cif in enumerate(cifs):
        (paths["folder of CIFs"] / f"gen-{k:06d}.cif").write_text(cif)
    pd.DataFrame({"cif": cifs}).to_csv(paths["CSV with CIFs"], index=False)
    paths["JSON lines with CIFs"].write_text("\n".join(json.dumps({"cif": c}) for c in cifs))
    lines = "\n".join(json.dumps(s.as_dict()) for s in given)
    paths["JSON lines of pymatgen"].write_text(lines)
    paths["JSON lines of pymatgen, .gz"].write_bytes(gzip.compress(lines.encode()))
    ase.io.write(paths["extended XYZ"], atoms, format="extxyz")
    with connect(paths["ASE database"]) as database:
        for each in atoms:
            database.write(each)
    return paths


def seconds(call: Callable[[], object]) -> float:
    """Of the processor."""
    start = time.process_time()
    call()
    return time.process_time() - start


def read(path: Path) -> int:
    """Number of the usable structures."""
    return sum(isinstance(item, Candidate) for item in open_source(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=1000)
    parser.add_argument("--folder", type=int, default=10_000, help="files of the listed folder")
    given = parser.parse_args()
    known = structures(given.n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_all(folder, known)
        print("| source | structures | per second |\n| --- | --- | --- |")
        for words, path in paths.items():
            next(iter(open_source(path)))  # what is imported and cached
            taken = seconds(lambda path=path: read(path))  # type: ignore[misc]
            print(f"| {words} | {given.n:,} | {given.n / taken:,.0f} |")
        many = folder / "many"
        many.mkdir()
        for k in range(given.folder):
            os.link(folder / "cifs" / f"gen-{k % given.n:06d}.cif", many / f"gen-{k:06d}.cif")
        listed = seconds(lambda: open_source(many).fingerprint)
        print(f"\nA folder of {given.folder:,} files is listed in {listed:.2f} s.")


if __name__ == "__main__":
    main()
