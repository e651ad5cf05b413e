"""The table of the benchmark, and how it reads its samples."""

import gc

import numpy as np
import pyarrow.parquet as pq

from screening.sources import open_source
from tests.benchmarks.bench_million import (
    PARTS,
    STRAIN,
    Clock,
    Sample,
    by_parts,
    make_table,
    one_after_the_other,
    points,
)
from tests.conftest import crystal_row


def test_rows_are_repeated_and_strained_under_ids_of_their_own(structure_table, tmp_path):
    source = structure_table([crystal_row(f"m-{i}", 3.0 + i, ["Na", "Cl"]) for i in range(3)])
    target = tmp_path / "many.parquet"
    make_table(source, target, 50)
    candidates = list(open_source(target))
    assert len({candidate.material_id for candidate in candidates}) == 50
    assert 1 < pq.ParquetFile(target).num_row_groups <= 17
    originals = candidates[:3]
    hashes = {candidate.structure.structure_hash for candidate in candidates}
    assert len(hashes) == 50
    for i, candidate in enumerate(candidates):
        before, after = originals[i % 3].structure, candidate.structure
        strain = np.linalg.solve(before.lattice, after.lattice) - np.eye(3)
        assert np.abs(strain).max() <= STRAIN + 1e-12
        np.testing.assert_allclose(strain, strain.T, atol=1e-12)
        np.testing.assert_array_equal(after.frac_coords, before.frac_coords)


def test_a_killed_run_and_its_rest_are_one_run():
    first = [Sample(0, 0, 0, 0, 1, 1), Sample(10, 5, 10_000, 4, 1, 1)]
    rest = [Sample(0, 0, 10_000, 4, 1, 1), Sample(30, 20, 20_000, 8, 1, 1)]
    rows = list(points(one_after_the_other([first, rest]), "rows", 20_000, 10_000))
    assert rows == [
        ("rows 0 to 10,000", "1,000/s", "0.50 ms"),
        ("rows 10,000 to 20,000", "333/s", "2.00 ms"),
    ]


def test_each_moment_counts_as_that_of_the_innermost_part(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("tests.benchmarks.bench_million.time.process_time", lambda: now)
    monkeypatch.setattr("tests.benchmarks.bench_million._same_work", lambda: spend(0.5))

    def spend(seconds):
        nonlocal now
        now += seconds

    class Program:
        def store(self):
            spend(2.0)

        def verdicts(self):
            spend(3.0)
            self.store()

        def rows(self):
            spend(5.0)
            yield 1

    path = tmp_path / "parts.jsonl"
    clock = Clock(path)
    try:
        clock.times(Program, "store", "store")
        clock.times(Program, "verdicts", "verdicts")
        clock.times(Program, "rows", "reading")
        for rows in (0, 1000, 5000, 6000):
            clock.note(rows)
            for _ in Program().rows():
                spend(1.0)
                Program().verdicts()
        clock.note(7000)
    finally:
        gc.callbacks.remove(clock._collecting)
    seconds = {"reading": 5.0, "verdicts": 3.0, "store": 2.0, "garbage": 0.0, "others": 1.0}
    first = [f"{2 * seconds[part] / 5:.3f} ms" for part in PARTS]
    second = [f"{2 * seconds[part] / 2:.3f} ms" for part in PARTS]
    assert list(by_parts(path.read_text().splitlines(), 5000)) == [
        ("0 to 5,000", *first, "500.0 ms"),
        ("5,000 to 7,000", *second, "0.0 ms"),
    ]
