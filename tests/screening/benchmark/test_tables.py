from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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

SPREAD = np.array([0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6])  # of the errors of seven materials
SPREAD_ERROR = math.sqrt(sum((SPREAD - 1) ** 2) / 6 / 7)


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
    figures = {"r2": 0.5, "mae": mae, "wd": 3 * mae}
    errors = {"mae": mae * SPREAD, "wd": 3 * mae * SPREAD}
    return RunResult(run, np.zeros((7, 2)), figures, 10, 2.0, errors=errors)


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
    figures = "R2 | MAE | SE of MAE | WD (eV) | SE of WD (eV)"
    assert head == f"| model | setting | training set | test set | seeds | {figures} |"
    assert lines == [
        "| a | sumnorm-kl | 10 | 7 | 3 | 0.5 ± 0 | 2 ± 1 | 0.33 | 6 ± 3 | 0.98 |",
        "| b | sumnorm-kl | 10 | 7 | 1 | 0.5 | 5 | 0.82 | 15 | 2.4 |",
    ]
    to_csv(rows, tmp_path / "t.csv")
    assert [
        (r["model"], r["n_test"], r["mae_mean"], r["mae_std"]) for r in read(tmp_path / "t.csv")
    ] == [
        ("a", "7", "2.0", "1.0"),
        ("b", "7", "5.0", ""),
    ]
    errors = [float(r["wd_standard_error"]) for r in read(tmp_path / "t.csv")]
    assert errors == pytest.approx([6 * SPREAD_ERROR, 15 * SPREAD_ERROR])
    assert "r2_standard_error" not in read(tmp_path / "t.csv")[0]
    document = json.loads(json.dumps(to_document(rows), allow_nan=False))
    assert [d["std"]["mae"] for d in document] == [1.0, None]
    assert [d["n_test"] for d in document] == [7, 7]
    for row, error in zip(document, (2 * SPREAD_ERROR, 5 * SPREAD_ERROR), strict=True):
        assert row["standard_error"] == pytest.approx({"mae": error, "wd": 3 * error})


def test_the_standard_error_is_of_errors_averaged_over_seeds() -> None:
    """Where the seeds err on different materials it is smaller than that of each seed."""
    seeds = np.random.default_rng(0).random((3, 7))
    results = [
        replace(result("a", seed, 1.0), errors={"wd": errors}) for seed, errors in enumerate(seeds)
    ]
    (row,) = table(results)
    means = [sum(of_material) / 3 for of_material in seeds.T]
    center = sum(means) / 7
    expected = math.sqrt(sum((m - center) ** 2 for m in means) / 6 / 7)
    assert row.standard_error == {"wd": pytest.approx(expected)}
    assert all(table([r])[0].standard_error["wd"] > expected for r in results)


def test_a_single_material_has_no_standard_error() -> None:
    rows = table([replace(result("a", 0, 1.0), errors={"mae": np.array([1.0])})])
    assert math.isnan(rows[0].standard_error["mae"])
    assert to_document(rows)[0]["standard_error"] == {"mae": None}
    assert to_markdown(rows, "eV").endswith("| 0.5 | 1 | - | 3 |\n")


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
    assert "| oxides | fine-tuned | a | sumnorm-kl | 10 | 7 | 2 | 0.5 ± 0 | 3 ± 1.4 |" in text
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
