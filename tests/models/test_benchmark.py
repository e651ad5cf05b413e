from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_examples import random_crystals, small_dataset, structure_row, write_rows

from models import benchmark
from models.benchmark import (
    ABLATION_VARIANTS,
    Row,
    Run,
    RunResult,
    Variant,
    part_of,
    plan,
    run_all,
    table,
    to_csv,
    to_document,
    to_markdown,
)
from models.errors import ModelError
from models.training_config import TrainingConfig

TINY = Variant(
    name="tiny", architecture="gatgnn", model={"encoder": {"layers": 1, "width": 8}, "hidden": [8]}
)


def phonon_file(folder: Path, n: int = 30) -> Path:
    x = np.linspace(0, 1, 66)
    rows = [
        structure_row(f"j-{i}", c)
        | {"split": "val" if i % 5 == 0 else "train"}
        | {"phdos": np.exp(-(((x - 0.3 - i / 90) / 0.1) ** 2)).tolist()}
        for i, c in enumerate(random_crystals(n))
    ]
    return write_rows(folder / "phonons.parquet", rows)


def config(folder: Path, **changes: Any) -> TrainingConfig:
    fields = {"name": "b", "target": "phdos", "labels": [phonon_file(folder)], "epochs": 2}
    return TrainingConfig.model_validate(fields | changes)


def result(name: str, seed: int, mae: float, fraction: float = 1.0) -> RunResult:
    run = Run(
        variant=Variant(name=name, architecture="gatgnn"),
        setting="sumnorm-kl",
        seed=seed,
        fraction=fraction,
    )
    return RunResult(run, np.zeros((1, 2)), {"mae": mae}, 10, 2.0)


def test_a_plan_is_every_combination_once() -> None:
    runs = plan([TINY, *ABLATION_VARIANTS], ["sumnorm-kl", "maxnorm-mse"], 3, (1.0, 0.5))
    assert len(runs) == len({r.model_dump_json() for r in runs}) == 5 * 2 * 3 * 2
    assert [r.seed for r in runs] == sorted(r.seed for r in runs)


def test_tables_have_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    rows = table(
        [result("a", 0, 1.0), result("b", 0, 5.0), result("a", 1, 2.0), result("a", 2, 3.0)]
    )
    assert [(r.name, r.n_seeds, r.mean["mae"]) for r in rows] == [("a", 3, 2.0), ("b", 1, 5.0)]
    assert rows[0].std["mae"] == 1.0
    assert math.isnan(rows[1].std["mae"])
    text = to_markdown(rows)
    assert "| a | sumnorm-kl | 10 | 3 | 2 ± 1 |" in text
    assert "| b | sumnorm-kl | 10 | 1 | 5 |" in text
    to_csv(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(r["model"], r["mae_mean"], r["mae_std"]) for r in read] == [
        ("a", "2.0", "1.0"),
        ("b", "5.0", ""),
    ]
    document = json.loads(json.dumps(to_document(rows), allow_nan=False))
    assert [d["std"]["mae"] for d in document] == [1.0, None]


def test_fractions_are_rows_of_their_own() -> None:
    rows: list[Row] = table([result("a", 0, 1.0), result("a", 0, 3.0, fraction=0.5)])
    assert [(r.fraction, r.mean["mae"]) for r in rows] == [(1.0, 1.0), (0.5, 3.0)]


def test_a_smaller_part_is_within_a_larger_one() -> None:
    dataset = small_dataset(40)
    indices = np.arange(3, 35)
    parts = [set(part_of(dataset, indices, f)) for f in (1.0, 0.5, 0.25, 0.125)]
    assert [len(p) for p in parts] == [32, 16, 8, 4]
    assert parts[3] < parts[2] < parts[1] < parts[0] == set(indices)


def test_runs_are_measured_kept_and_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, runs = config(tmp_path), plan([TINY], ["maxnorm-mse", "standard-mae"], 2)
    seen: list[bool] = []
    first = run_all(chosen, runs, tmp_path / "runs", announce=lambda _, new: seen.append(new))
    assert seen == [True] * 4
    assert set(first[0].figures) == {"r2", "mae", "mse", "wd", "cv_mae", "mean_frequency_mae"}
    assert all(np.isfinite(list(r.figures.values())).all() for r in first)
    assert first[0].prediction.shape == (6, 66)
    assert first[0].figures != first[2].figures

    def forbidden(*_: Any) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(benchmark, "train_run", forbidden)
    again = run_all(chosen, runs, tmp_path / "runs")
    for a, b in zip(first, again, strict=True):
        assert (a.run, a.figures) == (b.run, b.figures)
        np.testing.assert_array_equal(a.prediction, b.prediction)


def test_results_of_other_hyperparameters_or_data_are_not_taken(tmp_path: Path) -> None:
    runs, folder = plan([TINY], ["maxnorm-mse"], 1), tmp_path / "runs"
    seen: list[bool] = []

    def go(chosen: TrainingConfig) -> None:
        run_all(chosen, runs, folder, announce=lambda _, new: seen.append(new))

    chosen = config(tmp_path)
    go(chosen)
    go(chosen.model_copy(update={"epochs": 1}))
    os.utime(chosen.labels[0], (1, 1))
    go(chosen)
    assert seen == [True, True, True]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    chosen, runs = config(tmp_path), plan([TINY], ["maxnorm-mse"], 1)
    run_all(chosen, runs, tmp_path / "runs")
    (file,) = (tmp_path / "runs").glob("*.npy")
    file.write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(ModelError, match="not a kept result"):
        run_all(chosen, runs, tmp_path / "runs")


@pytest.mark.slow
def test_two_workers_give_the_same_results(tmp_path: Path) -> None:
    chosen, runs = config(tmp_path), plan([TINY], ["maxnorm-mse"], 2)
    one = run_all(chosen, runs, tmp_path / "one")
    two = run_all(chosen, runs, tmp_path / "two", workers=2)
    assert [r.figures for r in one] == [r.figures for r in two]


def test_a_variant_can_change_the_training(tmp_path: Path) -> None:
    faster = TINY.model_copy(update={"training": {"learning_rate": 0.5}})
    run = Run(variant=faster, setting="sumnorm-kl", seed=4)
    chosen = benchmark.config_of(config(tmp_path), run)
    assert (chosen.learning_rate, chosen.seed, chosen.settings) == (0.5, 4, ("sumnorm-kl",))
    assert chosen.architecture == "gatgnn"
