"""Ablations beside the model that they ablate, against differences that are counted by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.data.dataset import SpectrumDataset
from models.training.config import TrainingConfig
from screening.benchmark.ablations import ablation_rows
from screening.benchmark.data import held_out
from screening.benchmark.report import Benchmark
from screening.benchmark.runs import RunResult, measured
from screening.benchmark.variants import ABLATION_VARIANTS, BenchmarkRun, Variant
from tests.screening.benchmark.test_runs import config

WHOLE = Variant(name="mat2spec", architecture="mat2spec")
ABLATION = ABLATION_VARIANTS[0]
SETTING = "sumnorm-kl"


def a_run(variant: Variant, seed: int = 0, fraction: float = 0.5) -> BenchmarkRun:
    return BenchmarkRun(variant=variant, setting=SETTING, seed=seed, fraction=fraction)


@pytest.fixture
def chosen(tmp_path: Path) -> TrainingConfig:
    return config(tmp_path)


@pytest.fixture
def tested(chosen: TrainingConfig) -> SpectrumDataset:
    return held_out(chosen, a_run(WHOLE))


def random_result(run: BenchmarkRun, test: SpectrumDataset) -> RunResult:
    """A prediction that differs between variants and seeds."""
    rng = np.random.default_rng([len(run.variant.name), run.seed])
    prediction = rng.random((len(test), test.grid.size)) ** 3
    return measured(run, prediction / prediction.sum(-1, keepdims=True), test, 9)


def errors_by_hand(result: RunResult, test: SpectrumDataset) -> list[dict[str, float]]:
    """MAE and WD of each material, bin by bin."""
    errors = []
    for predicted, spectrum in zip(result.prediction, test.spectra.tolist(), strict=True):
        label = [y / sum(spectrum) for y in spectrum]
        lead, moved, absolute = 0.0, 0.0, 0.0
        for p, y in zip(predicted, label, strict=True):
            lead += p - y
            moved += abs(lead)
            absolute += abs(p - y)
        errors.append({"mae": absolute / len(label), "wd": moved * test.grid.width})
    return errors


@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_are_paired_by_material_and_averaged_over_seeds(
    tested: SpectrumDataset, seeds: int
) -> None:
    runs = [a_run(variant, seed) for seed in range(seeds) for variant in (ABLATION, WHOLE)]
    results = [random_result(run, tested) for run in runs]
    (row,) = ablation_rows(results)
    assert (row["model"], row["compared_with"]) == (ABLATION.name, "mat2spec")
    assert (row["setting"], row["fraction"], row["n_train"]) == (SETTING, 0.5, 9)
    n = len(tested)
    assert (row["n_test"], row["seeds"]) == (n, seeds)
    by_hand = [errors_by_hand(result, tested) for result in results]
    for key in ("mae", "wd"):
        differences = [
            sum(by_hand[2 * s][i][key] - by_hand[2 * s + 1][i][key] for s in range(seeds)) / seeds
            for i in range(n)
        ]
        mean = sum(differences) / n
        variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
        expected = {"difference": mean, "standard_error": math.sqrt(variance / n)}
        assert row[key] == pytest.approx(expected, rel=1e-4)


def test_only_what_was_trained_and_tested_alike_is_compared(tested: SpectrumDataset) -> None:
    def kept(*models: RunResult) -> list[int]:
        return [row["seeds"] for row in ablation_rows([*ablations, *models])]

    ablations = [random_result(a_run(ABLATION, seed), tested) for seed in (0, 1)]
    model = random_result(a_run(WHOLE), tested)
    assert kept(model) == [1]  # the seed that both have
    assert kept(random_result(a_run(WHOLE, fraction=1.0), tested)) == []
    assert kept(random_result(a_run(WHOLE, seed=2), tested)) == []
    other_setting = a_run(WHOLE).model_copy(update={"setting": "sumnorm-wd"})
    assert kept(random_result(other_setting, tested)) == []
    assert kept(random_result(a_run(WHOLE), tested.subset([1, 0, 2, 3, 4, 5]))) == []
    assert kept(random_result(a_run(WHOLE), tested.subset([0, 1, 2]))) == []
    assert kept() == []


def test_an_equal_model_differs_by_nothing_and_one_material_has_no_error(
    tested: SpectrumDataset,
) -> None:
    model = random_result(a_run(WHOLE), tested)
    same = replace(model, run=a_run(ABLATION))
    assert ablation_rows([model, same])[0]["wd"] == {"difference": 0, "standard_error": 0}
    alone = {"material_ids": tested.material_ids[:1], "errors": {"wd": np.array([0.2])}}
    rows = ablation_rows([replace(model, **alone), replace(same, **alone)])
    assert rows[0]["wd"] == {"difference": 0, "standard_error": None}


def test_they_are_a_table_of_the_page_the_json_and_the_csv(
    chosen: TrainingConfig, tested: SpectrumDataset, tmp_path: Path
) -> None:
    variants = (WHOLE, *ABLATION_VARIANTS[:2])
    results = [random_result(a_run(variant), tested) for variant in variants]
    Benchmark(chosen, results, (), tmp_path).write()
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert document["ablations"] == ablation_rows(results)
    assert [row["model"] for row in document["ablations"]] == [v.name for v in variants[1:]]
    page = (tmp_path / "benchmark.md").read_text()
    _, _, section = page.partition("## Ablations\n")
    wd = document["ablations"][0]["wd"]
    cell = f"{wd['difference']:+.3g} ± {wd['standard_error']:.2g}"
    (line,) = (line for line in section.splitlines() if line.startswith(f"| {ABLATION.name} |"))
    assert line.startswith(f"| {ABLATION.name} | mat2spec | {SETTING} | 9 | 6 | 1 |")
    assert line.endswith(f"| {cell} |")
    assert "not over seeds" in section
    with (tmp_path / "ablations.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["wd_difference"]) == wd["difference"]
    assert float(first["wd_standard_error"]) == wd["standard_error"]
    assert first["compared_with"] == "mat2spec"


def test_without_ablations_there_is_no_table(
    chosen: TrainingConfig, tested: SpectrumDataset, tmp_path: Path
) -> None:
    alone = Benchmark(chosen, [random_result(a_run(WHOLE), tested)], (), tmp_path)
    alone.write()
    assert "ablations" not in alone.document
    assert "Ablations" not in alone.report
    assert not (tmp_path / "ablations.csv").exists()


def test_they_are_beside_each_other_under_two_splits(
    chosen: TrainingConfig, tested: SpectrumDataset, tmp_path: Path
) -> None:
    other = chosen.model_copy(update={"split_by": "chemsys"})
    pages = []
    for each in (other, chosen):
        test = held_out(each, a_run(WHOLE))
        results = [random_result(a_run(v, fraction=1.0), test) for v in (WHOLE, ABLATION)]
        pages.append(Benchmark(each, results, (), tmp_path, beside=tuple(pages)))
    pages[-1].write()
    assert pages[-1].report.count(f"| {ABLATION.name} | mat2spec |") == 2
    assert (tmp_path / "by-chemsys-ablations.csv").exists()
