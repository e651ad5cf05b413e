from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.architectures.gatgnn import GATGNN
from models.errors import ModelError
from models.graphs.graph import GraphBatch, GraphConfig
from models.spectra.spectrum import PHDOS_PAPER_GRID
from models.training import fit as fitting
from models.training.config import TrainingConfig
from screening.benchmark import data
from screening.benchmark import runs as benchmark
from screening.benchmark.data import (
    config_of,
    held_out,
    labels_for,
    part_of,
    shared_dataset,
    split_for,
)
from screening.benchmark.runs import (
    RunResult,
    kept_model,
    measure,
    on_file,
    on_subclass,
    predict,
    reference,
    run_all,
)
from screening.benchmark.subclasses import Subclass
from screening.benchmark.variants import (
    ABLATION_VARIANTS,
    ARCHITECTURE_VARIANTS,
    MEAN_SPECTRUM,
    NEAREST_COMPOSITION,
    BenchmarkRun,
    Variant,
    plan,
    plan_subclasses,
)
from tests.models.model_examples import (
    random_crystals,
    small_dataset,
    structure_row,
    write_edos_files,
    write_rows,
)

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


LIGHT = Subclass(name="light", elements=("O", "Na", "Mg"))


def test_a_plan_is_every_combination_once() -> None:
    runs = plan([TINY, *ABLATION_VARIANTS], ["sumnorm-kl", "maxnorm-mse"], 3, (1.0, 0.5))
    assert (
        len(runs)
        == len({r.model_dump_json() for r in runs})
        == (1 + len(ABLATION_VARIANTS)) * 2 * 3 * 2
    )
    assert [r.seed for r in runs] == sorted(r.seed for r in runs)


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
    for result in first:
        assert result.material_ids == held_out(chosen, result.run).material_ids
        for key, errors in result.errors.items():
            assert errors.shape == (6,)
            assert errors.mean() == pytest.approx(result.figures[key], rel=1e-5)

    def forbidden(*_: Any) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(benchmark, "train_run", forbidden)
    again = run_all(chosen, runs, tmp_path / "runs")
    for a, b in zip(first, again, strict=True):
        assert (a.run, a.figures, a.material_ids) == (b.run, b.figures, b.material_ids)
        np.testing.assert_array_equal(a.prediction, b.prediction)
    monkeypatch.setattr(benchmark, "measure", lambda *_: {"mae": 7.0})
    assert [r.figures for r in run_all(chosen, runs, tmp_path / "runs")] == [{"mae": 7.0}] * 4


def test_results_of_other_hyperparameters_or_data_are_not_taken(tmp_path: Path) -> None:
    runs, folder = plan([TINY], ["maxnorm-mse"], 1), tmp_path / "runs"
    seen: list[bool] = []

    def go(chosen: TrainingConfig) -> None:
        run_all(chosen, runs, folder, announce=lambda _, new: seen.append(new))

    chosen = config(tmp_path)
    go(chosen)
    go(chosen.model_copy(update={"epochs": 1}))
    phonon_file(tmp_path, 31)
    go(chosen)
    assert seen == [True, True, True]


def test_a_copy_of_the_data_has_the_same_results(tmp_path: Path) -> None:
    runs, folder, seen = plan([TINY], ["maxnorm-mse"], 1), tmp_path / "runs", list[bool]()
    chosen = config(tmp_path)
    copied = chosen.model_copy(update={"labels": (tmp_path / "copy.parquet",)})
    copied.labels[0].write_bytes(chosen.labels[0].read_bytes())
    for each in (chosen, copied):
        run_all(each, runs, folder, announce=lambda _, new: seen.append(new))
    assert seen == [True, False]


def test_changed_defaults_of_an_architecture_are_other_hyperparameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, run = config(tmp_path), plan([TINY], ["maxnorm-mse"], 1)[0]
    before = benchmark._stem(tmp_path, chosen, run)
    assert before == benchmark._stem(tmp_path, chosen, run)

    def changed(architecture: str, fields: dict) -> Any:
        return model_config(architecture, fields | {"hidden": [16]})

    model_config = benchmark.model_config
    monkeypatch.setattr(benchmark, "model_config", changed)
    assert benchmark._stem(tmp_path, chosen, run) != before


def test_what_a_model_is_called_and_compared_with_is_not_what_was_trained(tmp_path: Path) -> None:
    """Finished trainings of a version that named its ablations otherwise are taken."""
    chosen, run = config(tmp_path), plan([TINY], ["maxnorm-mse"], 1)[0]
    renamed = TINY.model_copy(update={"name": "less", "ablates": "tiny"})
    other = run.model_copy(update={"variant": renamed})
    assert benchmark._stem(tmp_path, chosen, other) == benchmark._stem(tmp_path, chosen, run)


def test_every_ablation_is_of_a_model_of_the_same_architecture() -> None:
    models = {v.name: v for v in ARCHITECTURE_VARIANTS}
    assert all(v.ablates is None for v in models.values())
    for variant in ABLATION_VARIANTS:
        assert variant.ablates is not None
        model = models[variant.ablates]
        assert variant.architecture == model.architecture
        assert variant.name.startswith(f"{model.name} ")
        own, others = (v.model_dump(exclude={"name", "ablates"}) for v in (variant, model))
        assert own != others


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
    faster = TINY.model_copy(update={"training": {"learning_rate": 0.5}, "epochs": 0.25})
    run = BenchmarkRun(variant=faster, setting="sumnorm-kl", seed=4)
    chosen = config_of(config(tmp_path), run)
    assert (chosen.learning_rate, chosen.seed, chosen.settings) == (0.5, 4, ("sumnorm-kl",))
    assert chosen.architecture == "gatgnn"
    longer = config(tmp_path).model_copy(update={"epochs": 40})
    assert config_of(longer, run).epochs == 10
    assert config_of(longer.model_copy(update={"epochs": 1}), run).epochs == 1


# Data.


def test_files_are_read_once_for_runs_with_the_same_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[GraphConfig] = []

    def counted(chosen: TrainingConfig) -> Any:
        loaded.append(chosen.graph)
        return load(chosen)

    load = data.load_dataset
    monkeypatch.setattr(data, "load_dataset", counted)
    chosen = config(tmp_path)
    run_all(chosen, plan([TINY], ["maxnorm-mse", "sumnorm-kl"], 2), tmp_path / "runs")
    assert len(loaded) == 1
    fewer = chosen.model_copy(update={"graph": GraphConfig(neighbors=6)})
    assert shared_dataset(fewer) is shared_dataset(fewer)
    assert len(loaded) == 2


def test_runs_that_have_begun_keep_the_data_that_they_began_with(tmp_path: Path) -> None:
    """Labels may be added to a file all the time."""
    chosen, runs = config(tmp_path), plan([TINY], ["maxnorm-mse", "standard-mae"], 1)

    def grow(_: RunResult, new: bool) -> None:
        seen.append(new)
        phonon_file(tmp_path, 30 + len(seen))

    seen: list[bool] = []
    folder = tmp_path / "runs"
    run_all(chosen, runs, folder, announce=grow)
    assert len(list(folder.glob("run-????????????????.json"))) == 2
    dataset = shared_dataset(chosen)
    held_out(chosen, runs[0])
    assert shared_dataset(chosen) is dataset
    run_all(chosen, runs, folder)
    assert len(list(folder.glob("run-????????????????.json"))) == 4


def test_a_file_that_changes_between_its_runs_is_named(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    shared_dataset(chosen)
    phonon_file(tmp_path, 31)
    other = chosen.model_copy(update={"graph": GraphConfig(neighbors=6)})
    with pytest.raises(ModelError, match=r"phonons.parquet: changed during the benchmark; copy"):
        shared_dataset(other)


def test_few_data_sets_are_kept(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    for neighbors in range(1, 9):
        shared_dataset(chosen.model_copy(update={"graph": GraphConfig(neighbors=neighbors)}))
    assert len(data.datasets_read) == data.LOADED


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    chosen = config(tmp_path).model_copy(update={"labels": (tmp_path / "none.parquet",)})
    with pytest.raises(ModelError, match=r"none.parquet: No such file"):
        shared_dataset(chosen)


# Subclasses.


def test_a_subclass_is_trained_alone_or_after_everything(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    (whole,) = plan([TINY], ["maxnorm-mse"], 1)
    runs = plan_subclasses([whole], [LIGHT])
    assert [r.regime for r in runs] == ["subclass only", "fine-tuned"]
    dataset = shared_dataset(chosen)
    everything, alone = (split_for(dataset, chosen, r) for r in (whole, runs[0]))
    inside = set(np.flatnonzero(LIGHT.members(dataset)))
    for part in ("train", "validation", "test"):
        assert set(getattr(alone, part)) == set(getattr(everything, part)) & inside
    tested = split_for(dataset, chosen, whole.model_copy(update={"subclass": LIGHT}))
    assert set(tested.train) == set(everything.train)
    assert set(tested.test) == set(alone.test)


def test_fine_tuning_begins_with_the_global_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of almost nothing only batch statistics move the predictions."""
    monkeypatch.setattr(data, "FINE_TUNING_RATE", 1e-9)
    chosen = config(tmp_path, weight_decay=0)
    (whole,) = plan([TINY], ["standard-mae"], 1)
    alone, tuned = plan_subclasses([whole], [LIGHT])
    results = run_all(chosen, [tuned, whole, alone], tmp_path / "runs")
    expected = on_subclass(chosen, results[1], LIGHT)
    assert results[0].prediction.shape == expected.prediction.shape == results[2].prediction.shape
    moved = np.abs(results[0].prediction - expected.prediction).mean()
    other = np.abs(results[2].prediction - expected.prediction).mean()
    assert moved < 0.1 * other
    assert results[0].n_train == results[2].n_train < results[1].n_train


def test_fine_tuning_is_gentle_and_short(tmp_path: Path) -> None:
    chosen = config(tmp_path, epochs=200)
    (whole,) = plan([TINY], ["maxnorm-mse"], 1)
    tuned = config_of(chosen, plan_subclasses([whole], [LIGHT])[1])
    assert (tuned.epochs, tuned.learning_rate) == (50, pytest.approx(1e-4))


def test_a_subclass_of_too_few_materials_is_refused(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    run = BenchmarkRun(
        variant=TINY, setting="maxnorm-mse", seed=0, subclass=Subclass(name="x", elements=["Pt"])
    )
    with pytest.raises(ModelError, match="x: 0 training, 0 validation and 0 test materials"):
        split_for(shared_dataset(chosen), chosen, run)


def test_the_model_of_a_run_is_kept_and_made_again_if_it_is_gone(tmp_path: Path) -> None:
    chosen, folder = config(tmp_path), tmp_path / "runs"
    (run,) = plan([TINY], ["maxnorm-mse"], 1)
    (found,) = run_all(chosen, [run], folder)
    for _ in range(2):
        checkpoint = kept_model(chosen, run, folder)
        again = predict(checkpoint, held_out(chosen, run))
        np.testing.assert_allclose(again, found.prediction, atol=1e-6)
        for file in folder.glob("*-model.*"):
            file.unlink()


# Measuring.


def test_the_mean_spectrum_is_that_of_the_training_materials(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    mean = reference(chosen, MEAN_SPECTRUM, "sumnorm-kl")
    dataset = shared_dataset(chosen)
    split = split_for(dataset, chosen, mean.run)
    train, test = (dataset.subset(p) for p in (split.train, split.test))
    expected = labels_for("sumnorm-kl", train).mean(0)
    np.testing.assert_allclose(mean.prediction, np.tile(expected, (len(test), 1)), rtol=1e-6)
    assert mean.figures == measure("sumnorm-kl", mean.prediction, test)
    assert mean.n_train == len(train)


def test_the_mean_of_spectra_with_a_scale_grows_with_the_cell(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, n=60)
    chosen = TrainingConfig(name="b", labels=[labels], structures=structures)
    mean = reference(chosen, MEAN_SPECTRUM, "standard-mae")
    test = held_out(chosen, mean.run)
    per_atom = mean.prediction / test.graphs.n_atoms.numpy()[:, None]
    np.testing.assert_allclose(per_atom, np.tile(per_atom[0], (len(test), 1)), rtol=1e-5)
    assert len(set(test.graphs.n_atoms.tolist())) > 1


@pytest.mark.parametrize("setting", ["standard-mae", "sumnorm-kl"])
def test_the_nearest_composition_lends_its_spectrum(tmp_path: Path, setting: str) -> None:
    """Per atom where spectra grow with the cell; polymorphs share."""
    labels, structures = write_edos_files(tmp_path, n=60)
    chosen = TrainingConfig(name="b", labels=[labels], structures=structures)
    found = reference(chosen, NEAREST_COMPOSITION, setting)
    dataset = shared_dataset(chosen)
    split = split_for(dataset, chosen, found.run)
    fractions = dataset.graphs.composition().double().numpy()
    spectra, n_atoms = labels_for(setting, dataset), dataset.graphs.n_atoms.numpy()
    for row, i in enumerate(split.test):
        cosine = [
            fractions[i]
            @ fractions[j]
            / np.linalg.norm(fractions[i])
            / np.linalg.norm(fractions[j])
            for j in split.train
        ]
        nearest = split.train[np.array(cosine) > max(cosine) - 1e-6]
        if setting == "standard-mae":
            expected = n_atoms[i] * (spectra[nearest] / n_atoms[nearest, None]).mean(0)
        else:
            expected = spectra[nearest].mean(0)
        np.testing.assert_allclose(found.prediction[row], expected, rtol=1e-5)
    mean = reference(chosen, MEAN_SPECTRUM, setting)
    assert found.run.variant.name == "nearest composition"
    assert not np.allclose(found.prediction, mean.prediction)


def test_a_checkpoint_for_another_grid_is_refused(tmp_path: Path) -> None:
    chosen, folder = config(tmp_path), tmp_path / "runs"
    (run,) = plan([TINY], ["maxnorm-mse"], 1)
    other = shared_dataset(chosen.model_copy(update={"target": "phdos-51"}))
    assert other.grid == PHDOS_PAPER_GRID
    with pytest.raises(ModelError, match=r"66 bins from -310 .* the labels have 51 from -10"):
        predict(kept_model(chosen, run, folder), other)


def test_batches_of_a_prediction_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, folder = config(tmp_path), tmp_path / "runs"
    (run,) = plan([TINY], ["maxnorm-mse"], 1)
    checkpoint, test = kept_model(chosen, run, folder), held_out(chosen, run)
    whole = predict(checkpoint, test)
    monkeypatch.setitem(benchmark.EDGE_BUDGET, "cpu", 1)
    np.testing.assert_allclose(predict(checkpoint, test), whole, atol=1e-6)


def test_labels_of_another_file_are_measured_without_what_was_trained_on(tmp_path: Path) -> None:
    chosen, folder = config(tmp_path), tmp_path / "runs"
    (run,) = plan([TINY], ["maxnorm-mse"], 1)
    (found,) = run_all(chosen, [run], folder)
    same = on_file(chosen, run, folder, chosen.labels[0])
    np.testing.assert_allclose(same.prediction, found.prediction, atol=1e-6)
    assert same.figures == pytest.approx(found.figures, rel=1e-4)
    split = split_for(shared_dataset(chosen), chosen, run)
    seen = shared_dataset(chosen).subset(split.train)
    rows = [
        r
        for r in pq.read_table(chosen.labels[0]).to_pylist()
        if r["material_id"] in seen.material_ids
    ]
    only_seen = write_rows(tmp_path / "seen.parquet", rows)
    with pytest.raises(ModelError, match=r"seen.parquet: 0 materials that were not trained on"):
        on_file(chosen, run, folder, only_seen)


def test_a_lack_of_memory_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(self: GATGNN, batch: GraphBatch, *rest: Any) -> dict:
        if len(batch) > 4:
            raise torch.OutOfMemoryError("no memory")
        return losses(self, batch, *rest)

    losses = GATGNN.losses
    monkeypatch.setattr(GATGNN, "losses", greedy)
    chosen, runs = config(tmp_path, batch_size=8), plan([TINY], ["maxnorm-mse"], 1)
    for _ in range(2):
        (found,) = run_all(chosen, runs, tmp_path / "runs")
        assert found.remarks == ("maxnorm-mse: out of memory; begins again with batches of 4",)


def test_a_collapsed_label_branch_is_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(tmp_path)
    small = {"encoder": TINY.model["encoder"], "latent": 4}
    mat2spec = Variant(name="small", architecture="mat2spec", model=small)
    for shuffled, remarks in ((0.22, 0), (0.2, 1)):
        found = {"true": 0.2, "shuffled": shuffled}
        monkeypatch.setattr(fitting, "label_branch_losses", lambda *_, found=found: found)
        runs = plan([mat2spec], ["maxnorm-mse"], 1)
        (result,) = run_all(chosen, runs, tmp_path / f"{shuffled}")
        assert len(result.remarks) == remarks
    words = "label branch loss with true labels 0.2, with shuffled 0.2: collapsed"
    assert result.remarks == (words,)


def abort(*_: Any) -> None:
    os.abort()


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_prepare_worker", abort)
    runs = plan([TINY], ["maxnorm-mse"], 2)
    with pytest.raises(ModelError, match="a training process died"):
        run_all(config(tmp_path), runs, tmp_path / "runs", workers=2)
