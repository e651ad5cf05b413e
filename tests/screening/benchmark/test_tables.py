from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np

from screening.benchmark.runs import RunResult
from screening.benchmark.subclasses import SUBCLASSES
from screening.benchmark.tables import (
    Row,
    deviation,
    markdown,
    table,
    to_csv,
    to_document,
    to_markdown,
    write_csv,
)
from screening.benchmark.variants import BenchmarkRun, Regime, Variant


def result(
    name: str,
    seed: int,
    mae: float,
    fraction: float = 1.0,
    subclass: str = "",
    regime: Regime = "global",
) -> RunResult:
    run = BenchmarkRun(
        variant=Variant(name=name, architecture="gatgnn"),
        setting="sumnorm-kl",
        seed=seed,
        fraction=fraction,
        subclass=SUBCLASSES.get(subclass),
        regime=regime,
    )
    return RunResult(run, np.zeros((7, 2)), {"mae": mae, "wd": 3 * mae}, 10, 2.0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tables_have_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    rows = table(
        [result("a", 0, 1.0), result("b", 0, 5.0), result("a", 1, 2.0), result("a", 2, 3.0)]
    )
    assert [(r.name, r.n_seeds, r.mean["mae"]) for r in rows] == [("a", 3, 2.0), ("b", 1, 5.0)]
    assert rows[0].std["mae"] == 1.0
    assert math.isnan(rows[1].std["mae"])
    head, _, *lines = to_markdown(rows, "eV").splitlines()
    assert head == "| model | setting | training set | test set | seeds | MAE | WD (eV) |"
    assert lines == [
        "| a | sumnorm-kl | 10 | 7 | 3 | 2 ± 1 | 6 ± 3 |",
        "| b | sumnorm-kl | 10 | 7 | 1 | 5 | 15 |",
    ]
    to_csv(rows, tmp_path / "t.csv")
    assert [
        (r["model"], r["n_test"], r["mae_mean"], r["mae_std"]) for r in read(tmp_path / "t.csv")
    ] == [
        ("a", "7", "2.0", "1.0"),
        ("b", "7", "5.0", ""),
    ]
    document = json.loads(json.dumps(to_document(rows), allow_nan=False))
    assert [d["std"]["mae"] for d in document] == [1.0, None]
    assert [d["n_test"] for d in document] == [7, 7]


def test_fractions_are_rows_of_their_own() -> None:
    rows: list[Row] = table([result("a", 0, 1.0), result("a", 0, 3.0, fraction=0.5)])
    assert [(r.fraction, r.mean["mae"]) for r in rows] == [(1.0, 1.0), (0.5, 3.0)]


def test_subclasses_and_ways_of_training_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = table(
        [
            result("a", 0, 1.0, subclass="oxides"),
            result("a", 0, 2.0, subclass="oxides", regime="fine-tuned"),
            result("a", 1, 4.0, subclass="oxides", regime="fine-tuned"),
            result("a", 0, 5.0, subclass="halides", regime="fine-tuned"),
        ]
    )
    found = [(r.subclass, r.regime, r.mean["mae"]) for r in rows]
    assert found == [
        ("oxides", "global", 1.0),
        ("oxides", "fine-tuned", 3.0),
        ("halides", "fine-tuned", 5.0),
    ]
    text = to_markdown(rows, "eV")
    assert text.startswith("| materials | trained on | model |")
    assert "| oxides | fine-tuned | a | sumnorm-kl | 10 | 7 | 2 | 3 ± 1.4 |" in text
    to_csv(rows, tmp_path / "t.csv")
    assert [(r["subclass"], r["trained_on"]) for r in read(tmp_path / "t.csv")] == [
        (subclass, regime) for subclass, regime, _ in found
    ]


def test_plain_rows_as_markdown_and_csv(tmp_path: Path) -> None:
    rows = [{"a": 1.23456, "b": None}, {"a": 2, "b": "x"}]
    assert markdown(rows) == "| a | b |\n| --- | --- |\n| 1.235 | - |\n| 2 | x |\n"
    write_csv(rows, tmp_path / "t.csv")
    assert read(tmp_path / "t.csv") == [{"a": "1.23456", "b": ""}, {"a": "2", "b": "x"}]


def test_equal_values_do_not_deviate() -> None:
    assert deviation([0.6, 0.6, 0.6]) == 0  # where the rounded mean is another number
    assert deviation([1.0, 3.0]) == np.std([1.0, 3.0], ddof=1)
    assert math.isnan(deviation([0.6]))
