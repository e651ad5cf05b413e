"""`screen benchmark` as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.label_files import LABEL_EDGES
from models.data.splits import split_of
from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID
from models.training.config import TrainingConfig
from screening.benchmark.data import forget_changed, held_out, shared_dataset
from screening.benchmark.report import _trained_otherwise
from screening.benchmark.runs import RunResult
from screening.benchmark.variants import ARCHITECTURE_VARIANTS, BenchmarkRun, Variant, plan
from screening.benchmark.vb_gaps import gap_rows, label_counts, largest_cell
from screening.cli.app import app
from screening.cli.benchmark import Study, _runs, _suited, _without_ablations
from screening.errors import ScreeningError
from tests.models.data.test_label_files import metal, shape_row
from tests.models.model_examples import (
    edos_label,
    label_row,
    labelled_crystals,
    structure_row,
    write_edos_files,
    write_rows,
)
from tests.screening.benchmark.test_runs import phonon_file


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.stdout


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_ablations_are_those_of_the_chosen_models_beside_the_same_part_of_the_data() -> None:
    (springs,) = (v for v in ARCHITECTURE_VARIANTS if v.name == "springs")
    runs = _runs([springs], ("sumnorm-wd",), 2, {Study.size, Study.ablations}, 0.25)
    assert {run.variant.architecture for run in runs} == {"springs"}
    assert [run.seed for run in runs] == [0] * (len(runs) // 2) + [1] * (len(runs) // 2)
    of_each = {run.variant.name: [] for run in runs}
    for run in runs[: len(runs) // 2]:
        of_each[run.variant.name].append(run.fraction)
    assert of_each.pop("springs") == [1.0, 0.5, 0.25, 0.125]
    assert _without_ablations(list(ARCHITECTURE_VARIANTS)) == ["gatgnn", "e3nn"]
    assert set(map(tuple, of_each.values())) == {(0.25,)}


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
    mean, nearest, *rows = document["rows"]
    assert (mean["model"], mean["seeds"]) == ("mean spectrum", 1)
    assert (nearest["model"], nearest["seeds"]) == ("nearest composition", 1)
    assert [(r["model"], r["fraction"], r["seeds"]) for r in rows] == [
        (model, fraction, 2) for fraction in (1.0, 0.5, 0.25, 0.125) for model in ("gatgnn", "e3nn")
    ]
    assert all(r["std"]["cv_mae"] is not None for r in rows)
    assert len(read(out / "benchmark.csv")) == 10
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
        "--architecture", "gatgnn", "--no-plots", "--json", "--workers", 1, "--quiet",
    )  # fmt: skip
    document = json.loads(text)
    rows = [(g["model"], g["setting"]) for g in document["vb_gaps"] if g["materials"] == "all"]
    trained = [("gatgnn", s) for s in ("standard-mae", "sumnorm-wd", "sumnorm-kl")]
    means = [("mean spectrum", s) for _, s in trained]
    assert rows[1:] == [*means, ("nearest composition", "standard-mae"), *trained]
    assert rows[0][0].startswith("cell of at most")
    assert len(read(out / "vb_gaps.csv")) == len(document["vb_gaps"])
    assert "## VB gaps" in (out / "benchmark.md").read_text()
    assert not list(out.glob("*.png"))


@pytest.mark.slow
def test_what_is_trained_otherwise_is_said(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    text = run(
        "edos", "--data", labels, "--structures", structures, "--out", tmp_path / "out", "--epochs",
        2, "--seeds", 1, "--setting", "sumnorm-kl", "--architecture", "gatgnn", "--architecture",
        "mat2spec+", "--no-plots", "--workers", 1, "--quiet",
    )  # fmt: skip
    assert "2 epochs, batches of 128" in text
    assert "- mat2spec+: epochs 1, batch size 32, weight decay 1\n" in text
    assert "- gatgnn:" not in text
    assert "| mat2spec+ | sumnorm-kl |" in text


def test_what_is_trained_otherwise_has_a_line_for_each_model() -> None:
    """Also where a changed field is a word."""
    config = TrainingConfig(name="benchmark", labels=(Path("labels.parquet"),), epochs=200)
    every = plan(ARCHITECTURE_VARIANTS, ["sumnorm-kl"], 1)
    lines = _trained_otherwise(config, every)
    assert [line.partition(":")[0] for line in lines] == [
        "- mat2spec+",
        "- springs",
        "- tight-binding",
    ]
    assert lines[-1].endswith("schedule one-cycle\n")


@pytest.mark.slow
def test_subclasses_beside_each_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["phdos", "--data", phonon_file(tmp_path), "--out", out, "--epochs", 2]
    arguments += ["--seeds", 2, "--architecture", "gatgnn", "--setting", "maxnorm-mse"]
    arguments += ["--study", "subclass", "--workers", 1, "--quiet"]
    text = run(*arguments, "--subclass", "O,Na,Mg", "--subclass", "Si,S,Cl,As")
    assert "## Subclasses of materials" in text
    rows = read(out / "subclasses.csv")
    ways = [(reference, "global", "1") for reference in ("mean spectrum", "nearest composition")]
    ways += [("gatgnn", regime, "2") for regime in ("global", "subclass only", "fine-tuned")]
    assert [(r["subclass"], r["model"], r["trained_on"], r["seeds"]) for r in rows] == [
        (subclass, *way) for subclass in ("O,Na,Mg", "Si,S,Cl,As") for way in ways
    ]
    assert {r["n_train"] for r in rows if r["trained_on"] == "global"} == {"21"}
    first = rows[:5]
    assert len({r["n_test"] for r in first}) == 1
    assert first[3]["n_train"] == first[4]["n_train"] < "21"
    assert all(float(r["mae_mean"]) > 0 for r in rows)
    assert len(json.loads((out / "benchmark.json").read_text())["rows"]) == 3
    assert (out / "subclasses-maxnorm-mse.png").exists()


@pytest.mark.slow
def test_default_subclasses_without_enough_materials_are_left_out(tmp_path: Path) -> None:
    arguments = ["phdos", "--data", phonon_file(tmp_path), "--out", tmp_path / "out"]
    arguments += ["--epochs", 1, "--seeds", 1, "--no-plots", "--workers", 1]
    arguments += ["--architecture", "gatgnn", "--setting", "maxnorm-mse", "--study", "subclass"]
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    assert "without oxides: 7 training, 0 validation and 2 test" in result.stderr
    assert "without chalcogenides" in result.stderr
    assert "| halides | fine-tuned | gatgnn |" in result.stdout
    with pytest.raises(ModelError, match="oxides: 7 training, 0 validation and 2 test"):
        run(*arguments, "--subclass", "oxides")


@pytest.mark.slow
def test_labels_of_another_file_are_a_table_of_their_own(tmp_path: Path) -> None:
    file, out = phonon_file(tmp_path), tmp_path / "out"
    arguments = ["phdos", "--data", file, "--out", out, "--epochs", 1, "--seeds", 2, "--no-plots"]
    arguments += ["--architecture", "gatgnn", "--setting", "maxnorm-mse", "--test", file]
    text = run(*arguments, "--workers", 1, "--quiet", "--json")
    document = json.loads(text)
    (external,) = document["external"]
    trained = document["rows"][2]
    assert (external["file"], external["n_test"], external["seeds"]) == (file.name, 6, 2)
    for key, value in trained["mean"].items():
        assert external["mean"][key] == pytest.approx(value, rel=1e-4)
    assert read(out / "external.csv")[0]["file"] == file.name
    assert "## Labels of other files" in (out / "benchmark.md").read_text()


def test_shapes_without_a_scale_choose_the_settings(tmp_path: Path) -> None:
    rows = [
        shape_row(f"s-{i}", metal(i / 10), crystal)
        for i, crystal in enumerate(labelled_crystals(30))
    ]
    file, out = write_rows(tmp_path / "shapes.parquet", rows), tmp_path / "out"
    arguments = ["edos", "--data", file, "--out", out, "--quick", "--epochs", 1, "--no-plots"]
    arguments += ["--architecture", "gatgnn", "--workers", 1, "--quiet"]
    with pytest.raises(ModelError, match="standard-mae: labels without a scale train sumnorm-wd"):
        run(*arguments, "--setting", "standard-mae")
    text = run(*arguments)
    assert "all are SumNorm shapes" in text
    rows = read(out / "benchmark.csv")
    assert [(r["model"], r["setting"]) for r in rows] == [
        (model, setting)
        for model in ("mean spectrum", "nearest composition", "gatgnn")
        for setting in ("sumnorm-wd", "sumnorm-kl")
    ]
    assert "VB gaps" not in text


def test_what_is_left_out_is_in_the_report(tmp_path: Path) -> None:
    crystals = labelled_crystals(40)
    rows = [label_row(f"x-{i}", edos_label(i), emax=3.0 if i < 7 else 9.0) for i in range(40)]
    labels = write_rows(tmp_path / "labels.parquet", rows)
    structures = [structure_row(f"x-{i}", c) for i, c in enumerate(crystals)]
    file = write_rows(tmp_path / "structures.parquet", structures)
    text = run(
        "edos", "--data", labels, "--structures", file, "--out", tmp_path / "out", "--quick",
        "--epochs", 1, "--architecture", "gatgnn", "--setting", "standard-mae", "--no-plots",
        "--quiet",
    )  # fmt: skip
    assert "- left out, DOS is complete only up to 3.05 eV: x-0, x-1, x-2, x-3, x-4 and 2" in text
    assert "standard-mae: states/eV/cell" in text


@pytest.mark.slow
def test_perfect_predictions_find_every_gap(tmp_path: Path) -> None:
    """And a shape is scaled with the sum of the model with the same seed."""
    labels, structures = write_edos_files(tmp_path, n=150)
    config = TrainingConfig(name="b", labels=(labels,), structures=structures)
    variant = Variant(name="v", architecture="gatgnn")
    true = held_out(
        config, BenchmarkRun(variant=variant, setting="sumnorm-kl", seed=0)
    ).spectra.numpy()

    def result(setting: str, prediction: np.ndarray, seed: int = 0) -> RunResult:
        run = BenchmarkRun(variant=variant, setting=setting, seed=seed)
        return RunResult(run, prediction, {}, 1, 1.0)

    shape = true / true.sum(-1, keepdims=True)

    def gaps(results: list[RunResult], materials: str = "all") -> list[dict]:
        rows = gap_rows(config, results)
        assert not rows or rows[0]["model"].startswith("cell of at most")
        return [r for r in rows if (r["model"], r["materials"]) == ("v", materials)]

    both = [result("sumnorm-kl", shape), result("standard-mae", true)]
    rows = gaps(both)
    assert [(r["setting"], r["fp"], r["fn"]) for r in rows] == [
        ("sumnorm-kl", 0, 0),
        ("standard-mae", 0, 0),
    ]
    assert rows[0]["tp"] == rows[1]["tp"] > 0
    assert rows[0]["tn"] > 0
    # Three seeds find the same gaps: the interval is as wide as that of one.
    seeds = [r for s in range(3) for r in (result("standard-mae", true, s),)]
    (thrice,) = gaps(seeds)
    assert (thrice["seeds"], thrice["tp"]) == (3, 3 * rows[1]["tp"])
    assert thrice["f1"]["low"] == pytest.approx(rows[1]["f1"]["low"])
    assert (thrice["f1"]["std"], rows[1]["f1"]["std"]) == (0, None)
    large = [result("sumnorm-kl", shape, seed=1), result("standard-mae", 1e4 * true, seed=1)]
    assert all(r["tp"] == 0 for r in gaps(large))
    # Elements and compounds are all there is.
    for count in ("tp", "fp", "fn", "tn"):
        parts = [gaps(both, m)[0][count] for m in ("compounds", "elements")]
        assert rows[0][count] == sum(parts)
    n_elements = [s.count("-") + 1 for s in held_out(config, both[0].run).chemical_systems]
    compounds = gaps(both, "compounds")[0]
    assert compounds["tp"] + compounds["tn"] == sum(n > 1 for n in n_elements) < len(true)
    assert gap_rows(config, [result("sumnorm-kl", shape)]) == []


def test_the_cell_size_that_finds_gaps_best() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n_atoms = rng.integers(1, 9, 30)
        true = rng.random(30) < 0.9 / n_atoms
        scores = {}
        for largest in range(1, 9):
            found = n_atoms <= largest
            tp = np.sum(found & true)
            scores[largest] = 2 * tp / (2 * tp + np.sum(found & ~true) + np.sum(~found & true))
        best = largest_cell(n_atoms, true)
        assert scores[best] == pytest.approx(max(scores.values()))
        assert all(scores[n] < scores[best] for n in range(1, best))
    assert largest_cell(n_atoms, np.zeros(30, bool)) == 0


def test_the_references_are_fitted_to_training_materials_only(tmp_path: Path) -> None:
    """The size that is best on the test materials is another one."""
    crystals = [c for c in labelled_crystals(160) if len(c) in (5, 7)]
    ids = [f"x-{i}" for i in range(len(crystals))]
    rows = [label_row(i, edos_label()) for i in ids]
    structures = [structure_row(i, c) for i, c in zip(ids, crystals, strict=True)]
    files = [write_rows(tmp_path / "labels.parquet", rows)]
    files.append(write_rows(tmp_path / "structures.parquet", structures))
    config = TrainingConfig(name="b", labels=files[:1], structures=files[1])
    dataset = shared_dataset(config)
    split = split_of(dataset, config.split_seed)
    sizes = dataset.graphs.n_atoms.numpy()
    in_test = np.isin(np.arange(len(sizes)), split.test)
    # In training cells of five atoms have the gap, in the test those of seven.
    gapped = (sizes == 5) != in_test
    index = dict(zip(dataset.material_ids, gapped, strict=True))
    low = np.where(np.abs((LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2 + 1.5) < 0.9, 0.0, 9.0)
    for row in rows:
        row["dos"] = (low if index[row["material_id"]] else np.full(1200, 9.0)).tolist()
    write_rows(files[0], rows)
    (run,) = plan([ARCHITECTURE_VARIANTS[1]], ["standard-mae"], 1)
    config = config.model_copy(update={"labels": (files[0],), "name": "again"})
    forget_changed()
    true = held_out(config, run).spectra.numpy()
    size, model = gap_rows(config, [RunResult(run, true, {}, 1, 1.0)])[:2]
    assert size["model"] == "cell of at most 5 atoms"
    assert size["tp"] == 0 < size["fn"]
    assert (model["fp"], model["fn"]) == (0, 0)
    counts = {(r["by"], r["value"]): r for r in label_counts(config)}
    assert counts["atoms in the cell", "5"]["materials"] == np.sum(sizes == 5)
    assert counts["atoms in the cell", "7"]["vb_gaps"] == np.sum(gapped & (sizes == 7))
    assert counts["atoms in the cell", "7"]["test_vb_gaps"] == size["fn"]
    with_oxygen = sum("O" in c.elements for c in crystals)
    assert counts["element", "O"]["materials"] == with_oxygen
    ternary = sum(len(c.elements) == 3 for c in crystals)
    assert counts["number of elements", "3"]["materials"] == ternary > 0
    for row in counts.values():
        assert row["train"] + row["validation"] + row["test"] == row["materials"]


@pytest.mark.slow
def test_both_splits_on_one_page_that_names_its_command(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, n=60)
    out = tmp_path / "out"
    text = run(
        "edos", "--data", labels, "--structures", structures, "--out", out, "--quick", "--epochs",
        1, "--architecture", "gatgnn", "--setting", "standard-mae", "--no-plots", "--split-by",
        "material", "--split-by", "chemsys", "--workers", 1, "--quiet",
    )  # fmt: skip
    command = (
        " benchmark edos --data labels.parquet --structures structures.parquet --architecture "
        "gatgnn --setting standard-mae --epochs 1 --split-by material --split-by chemsys --quick "
        "--no-plots\n```"
    )
    assert command in text
    document = json.loads((out / "benchmark.json").read_text())
    assert str(tmp_path) not in json.dumps(document)
    other = document["beside"]["chemsys"]
    assert (document["config"]["split_by"], other["config"]["split_by"]) == ("material", "chemsys")
    assert "## Split by chemsys" in text
    models = ["mean spectrum", "nearest composition", "gatgnn"]
    for page in (document, other):
        assert [r["model"] for r in page["rows"]] == models
        assert {r["materials"] for r in page["vb_gaps"]} >= {"all", "compounds"}
    assert document["rows"][-1]["mean"] != other["rows"][-1]["mean"]
    assert [r["model"] for r in read(out / "by-chemsys-benchmark.csv")] == models
    assert read(out / "labels.csv")[0].keys() >= {"by", "value", "materials", "vb_gaps"}
    assert "## Labels" in text
    # The second split alone gives the same table.
    alone = run(
        "edos", "--data", labels, "--structures", structures, "--out", out, "--quick", "--epochs",
        1, "--architecture", "gatgnn", "--setting", "standard-mae", "--no-plots", "--split-by",
        "chemsys", "--workers", 1, "--quiet", "--json",
    )  # fmt: skip
    assert json.loads(alone)["rows"] == other["rows"]


def test_springs_are_for_shapes_of_phonons(tmp_path: Path) -> None:
    """By default they are left out elsewhere; who asks for them is told so."""
    runs = plan(ARCHITECTURE_VARIANTS, ["maxnorm-mse", "sumnorm-wd"], 1)
    settings = {r.setting for r in _suited(runs, PHDOS_GRID, []) if r.variant.name == "springs"}
    assert settings == {"sumnorm-wd"}
    assert "springs" not in {r.variant.name for r in _suited(runs, EDOS_GRID, [])}
    assert _suited(runs, PHDOS_GRID, ["springs"]) == _suited(runs, PHDOS_GRID, [])
    arguments = ["phdos", "--data", phonon_file(tmp_path), "--architecture", "springs"]
    with pytest.raises(ScreeningError, match="springs predicts phonon spectra with the sum 1"):
        run(*arguments, "--setting", "maxnorm-mse")


def test_what_is_unknown_is_one_line(tmp_path: Path) -> None:
    file = phonon_file(tmp_path)
    for option, message in (("--architecture", "architecture"), ("--setting", "setting")):
        with pytest.raises(ScreeningError, match=f"unknown {message} 'x'"):
            run("phdos", "--data", file, option, "x")
    with pytest.raises(ModelError, match="structures is needed"):
        run("edos", "--data", write_edos_files(tmp_path)[0], "--out", tmp_path / "out")
