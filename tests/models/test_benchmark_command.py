"""`screen benchmark` as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from model_examples import write_edos_files
from test_benchmark import phonon_file
from typer.testing import CliRunner

from models.benchmark import Run, RunResult, Variant, held_out
from models.errors import ModelError
from models.training_config import TrainingConfig
from screening.cli.app import app
from screening.errors import ScreeningError
from screening.report.benchmark import gap_rows


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.stdout


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_phonon_tables_and_studies(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["phdos", "--data", phonon_file(tmp_path), "--out", out, "--epochs", 1]
    arguments += ["--seeds", 2, "--architecture", "gatgnn", "--architecture", "e3nn"]
    arguments += ["--setting", "maxnorm-mse", "--study", "size", "--study", "errors"]
    text = run(*arguments, "--study", "unrelaxed", "--quiet")
    assert "| gatgnn | maxnorm-mse |" in text
    assert text.strip() == (out / "benchmark.md").read_text().strip()
    document = json.loads((out / "benchmark.json").read_text())
    reference, *rows = document["rows"]
    assert (reference["model"], reference["seeds"]) == ("mean spectrum", 1)
    assert [(r["model"], r["fraction"], r["seeds"]) for r in rows] == [
        (model, fraction, 2) for fraction in (1.0, 0.5, 0.25, 0.125) for model in ("gatgnn", "e3nn")
    ]
    assert all(r["std"]["cv_mae"] is not None for r in rows)
    assert len(read(out / "benchmark.csv")) == 9
    assert len(document["errors"]) == 2
    distortions = {(d["distortion"], d["amount"]) for d in document["unrelaxed"]}
    assert len(distortions) == 9
    assert len(read(out / "unrelaxed.csv")) == 2 * 9
    plain = next(
        d for d in document["unrelaxed"] if (d["model"], d["distortion"]) == ("gatgnn", "none")
    )
    (kept,) = [
        json.loads(p.read_text())
        for p in (out / "runs").glob("*.json")
        if (d := json.loads(p.read_text()).get("run"))
        and d["seed"] == 0
        and d["fraction"] == 1
        and d["variant"]["name"] == "gatgnn"
    ]
    assert plain["mae"] == pytest.approx(kept["figures"]["mae"], rel=1e-4)
    pictures = {p.name for p in out.glob("*.png")}
    assert {
        "radar-maxnorm-mse.png",
        "data-size-maxnorm-mse.png",
        "boxes-maxnorm-mse.png",
        "quintiles-gatgnn-maxnorm-mse.png",
        "unrelaxed-rattle-maxnorm-mse.png",
        "unrelaxed-strain-maxnorm-mse.png",
    } <= pictures


@pytest.mark.slow
def test_edos_tables_have_gap_figures(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    out = tmp_path / "out"
    text = run(
        "edos", "--data", labels, "--structures", structures, "--out", out, "--quick",
        "--architecture", "gatgnn", "--no-plots", "--json", "--quiet",
    )  # fmt: skip
    document = json.loads(text)
    assert [(g["model"], g["setting"]) for g in document["vb_gaps"]] == [
        (model, s)
        for model in ("mean spectrum", "gatgnn")
        for s in ("standard-mae", "sumnorm-wd", "sumnorm-kl")
    ]
    assert len(read(out / "vb_gaps.csv")) == 6
    assert "## VB gaps" in (out / "benchmark.md").read_text()
    assert not list(out.glob("*.png"))


def test_perfect_predictions_find_every_gap(tmp_path: Path) -> None:
    """And a shape is scaled with the sum of the model with the same seed."""
    labels, structures = write_edos_files(tmp_path, n=150)
    config = TrainingConfig(name="b", labels=(labels,), structures=structures)
    variant = Variant(name="v", architecture="gatgnn")
    true = held_out(config, Run(variant=variant, setting="sumnorm-kl", seed=0)).spectra.numpy()

    def result(setting: str, prediction: np.ndarray, seed: int = 0) -> RunResult:
        run = Run(variant=variant, setting=setting, seed=seed)
        return RunResult(run, prediction, {}, 1, 1.0)

    shape = true / true.sum(-1, keepdims=True)
    rows = gap_rows(config, [result("sumnorm-kl", shape), result("standard-mae", true)])
    assert [(r["setting"], r["fp"], r["fn"]) for r in rows] == [
        ("sumnorm-kl", 0, 0),
        ("standard-mae", 0, 0),
    ]
    assert rows[0]["tp"] == rows[1]["tp"] > 0
    assert rows[0]["tn"] > 0
    large = [result("sumnorm-kl", shape, seed=1), result("standard-mae", 1e4 * true, seed=1)]
    assert all(r["tp"] == 0 for r in gap_rows(config, large))
    assert gap_rows(config, [result("sumnorm-kl", shape)]) == []


def test_what_is_unknown_is_one_line(tmp_path: Path) -> None:
    file = phonon_file(tmp_path)
    for option, message in (("--architecture", "architecture"), ("--setting", "setting")):
        with pytest.raises(ScreeningError, match=f"unknown {message} 'x'"):
            run("phdos", "--data", file, option, "x")
    with pytest.raises(ModelError, match="structures is needed"):
        run("edos", "--data", write_edos_files(tmp_path)[0], "--out", tmp_path / "out")
