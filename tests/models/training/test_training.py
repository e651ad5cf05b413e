from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from models.architectures.mat2spec.model import Mat2Spec, Mat2SpecConfig
from models.data.dataset import SpectrumDataset, taught_dataset
from models.data.splits import Split, split_dataset, split_of
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from models.predictor import SpectrumPredictor
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID
from models.training import settings
from models.training import train as training
from models.training.batches import GraphLoader
from models.training.callbacks import SaveState
from models.training.card import ModelCard
from models.training.checkpoint import Checkpoint, load_checkpoint
from models.training.config import TrainingConfig, read_training_config
from models.training.fit import Hardware, Trained, label_branch_losses, train_setting
from models.training.train import train_predictor
from models.uncertainty.held_out import read_held_out, write_held_out
from models.zoo import ZOO
from tests.models.model_examples import (
    labelled_crystals,
    random_crystals,
    small_dataset,
    structure_row,
    write_edos_files,
    write_rows,
)

SMALL = {"encoder": {"layers": 1, "width": 8}, "latent": 4, "components": 2, "embedding": 8}


def config(**changes: Any) -> TrainingConfig:
    fields = {
        "name": "small",
        "labels": ["labels.parquet"],
        "structures": "structures.parquet",
        "model": SMALL,
        "epochs": 2,
        "batch_size": 8,
    }
    return TrainingConfig.model_validate(fields | changes)


def part(dataset: SpectrumDataset) -> Split:
    return split_dataset(dataset.material_ids, seed=0)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


@pytest.mark.slow
def test_a_trained_predictor_loads_and_predicts(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    lines: list[str] = []
    trained = train_predictor(config(labels=[labels], structures=structures), announce=lines.append)
    card = trained.save(tmp_path / "small")
    assert ModelCard.read(tmp_path / "small") == card
    assert card.n_train + card.n_validation + card.n_test == 30
    assert set(card.figures) > {"sumnorm-kl", "standard-mae"}
    assert all(np.isfinite(list(f.values())).all() for f in card.figures.values())
    assert (tmp_path / "small" / "README.md").read_text() == card.to_markdown()
    predictor = SpectrumPredictor.load(tmp_path / "small", device="cpu")
    assert set(predictor.known.trained) == set(card.elements)
    by_id = dict(zip((f"x-{i}" for i in range(30)), labelled_crystals(30), strict=True))
    found = predictor.predict([by_id[i] for i in trained.test.material_ids]).values
    np.testing.assert_allclose(found, trained.predicted, rtol=1e-3, atol=1e-4)
    assert len(lines) == 3
    assert predictor.trained_on is not None
    train = {material.material_id for material in predictor.trained_on.materials}
    assert len(train) == card.n_train
    assert not train & {*trained.test.material_ids}


def test_a_model_without_an_embedding_takes_the_list_of_the_last_one_away(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    trained = train_predictor(config(labels=[labels], structures=structures))
    trained.save(tmp_path / "small")
    replace(trained, trained_on=None).save(tmp_path / "small")
    assert SpectrumPredictor.load(tmp_path / "small", device="cpu").trained_on is None


def test_a_new_training_takes_the_calibration_of_the_last_one_away(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    train_predictor(config(labels=[labels], structures=structures)).save(tmp_path / "small")
    held_out = read_held_out(ZOO / "mat2spec-edos")
    assert held_out is not None
    write_held_out(tmp_path / "small", held_out, {})
    again = train_predictor(config(labels=[labels], structures=structures, seed=1))
    again.save(tmp_path / "small")
    assert read_held_out(tmp_path / "small") is None


@pytest.mark.slow
def test_half_precision_is_what_is_measured_and_written(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = config(labels=[labels], structures=structures)
    whole, half = (
        train_predictor(chosen.model_copy(update={"half": half})) for half in (False, True)
    )
    sizes = []
    for name, trained in (("whole", whole), ("half", half)):
        trained.save(tmp_path / name)
        sizes.append((tmp_path / name / "sumnorm-kl.safetensors").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    np.testing.assert_allclose(half.predicted, whole.predicted, rtol=2e-2, atol=1e-3)
    assert not np.array_equal(half.predicted, whole.predicted)
    loaded = load_checkpoint(tmp_path / "half" / "sumnorm-kl").model
    assert torch.equal(weights(loaded), weights(half.checkpoints["sumnorm-kl"].model))
    as_loaded = {name: load_checkpoint(tmp_path / "half" / name) for name in half.checkpoints}
    _, predicted = training.evaluate(as_loaded, half.test)
    np.testing.assert_array_equal(half.predicted, predicted)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("setting_name", SETTINGS)
def test_training_is_deterministic_for_a_seed(setting_name: str) -> None:
    dataset = small_dataset()
    one, again = (train_setting(config(), setting_name, dataset, part(dataset)) for _ in range(2))
    other = train_setting(config(seed=1), setting_name, dataset, part(dataset))
    assert torch.equal(weights(one.checkpoint.model), weights(again.checkpoint.model))
    assert one.validation_mae == again.validation_mae
    assert not torch.equal(weights(one.checkpoint.model), weights(other.checkpoint.model))


def test_the_label_branch_is_measured_with_true_and_with_shuffled_labels() -> None:
    """Against one material at a time, each with its own label and with that half a set away."""
    dataset = small_dataset(60)
    trained = train_setting(config(), "standard-mae", dataset, part(dataset))
    validation = dataset.subset(part(dataset).validation)
    model, setting = trained.checkpoint.model, trained.checkpoint.setting
    n, losses = len(validation), {"true": [], "shuffled": []}
    assert n > 1
    with torch.inference_mode():
        target = setting.target(validation.spectra, validation.graphs.n_atoms)
        for i in range(n):
            graph = validation.graphs.select(torch.tensor([i]))
            for name, j in (("true", i), ("shuffled", (i - n // 2) % n)):
                logits = model.label_logits(graph, target[[j]], validation.spectra[[j]])
                losses[name].append(setting.loss(logits, target[[i]]).item())
    expected = {name: np.mean(values) for name, values in losses.items()}
    assert trained.label_branch == pytest.approx(expected, rel=1e-4)
    assert trained.checkpoint.card.training["label_branch"] == trained.label_branch
    for batch_size in (1, 2, 100):
        again = label_branch_losses(model, setting, validation, batch_size)
        assert again == pytest.approx(expected, rel=1e-4)


def test_a_label_branch_that_knows_nothing_of_the_labels_is_visible() -> None:
    dataset = small_dataset()
    chosen = part(dataset)
    model = train_setting(config(), "sumnorm-kl", dataset, chosen).checkpoint.model
    torch.nn.init.zeros_(model.labels.weight[2].weight)
    losses = label_branch_losses(model, SETTINGS["sumnorm-kl"](16), dataset, 8)
    assert losses["true"] == losses["shuffled"]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "gatgnn", "model": {"encoder": SMALL["encoder"]}},
        {"model": SMALL | {"label_embedding": False}},
    ],
)
def test_without_a_label_branch_there_is_nothing_to_measure(changes: dict) -> None:
    dataset = small_dataset()
    trained = train_setting(config(**changes), "sumnorm-kl", dataset, part(dataset))
    assert trained.label_branch == {}
    assert "label_branch" not in trained.checkpoint.card.training


def test_a_field_that_came_later_leaves_earlier_trainings_known() -> None:
    """Their configuration is part of what unfinished trainings and kept runs are found by."""
    assert not {"schedule", "kept"} & config().model_dump().keys()
    later = config(schedule="one-cycle", kept=0.5)
    assert TrainingConfig.model_validate(later.model_dump()) == later


def test_the_card_and_the_log_tell_whether_the_label_branch_is_alive(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    lines: list[str] = []
    trained = train_predictor(config(labels=[labels], structures=structures), announce=lines.append)
    assert set(trained.card.label_branch) == {"sumnorm-kl", "standard-mae"}
    for name, losses in trained.card.label_branch.items():
        words = (
            f"label branch loss with true labels {losses['true']:.3g}, "
            f"with shuffled {losses['shuffled']:.3g}"
        )
        assert f"- {name}: {words}" in trained.card.to_markdown()
        assert any(line.startswith(name) and words in line for line in lines)
    told = trained.card.model_copy(
        update={
            "label_branch": {
                "alive": {"true": 0.2, "shuffled": 0.22},
                "dead": {"true": 0.2, "shuffled": 0.201},
            }
        }
    ).to_markdown()
    assert "- alive: label branch loss with true labels 0.2, with shuffled 0.22\n" in told
    assert (
        "- dead: label branch loss with true labels 0.2, with shuffled 0.201: collapsed\n" in told
    )
    silent = trained.card.model_copy(update={"label_branch": {}})
    assert "label branch" not in silent.to_markdown()


ZOO_SETTINGS = {"paper": (2, 128, "feature-to-label"), "authors": (3, 256, "symmetric")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO_SETTINGS)
def test_the_papers_and_the_authors_settings_train(tmp_path: Path, name: str) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = read_training_config(
        ZOO / f"{name}.yaml", labels=(labels,), structures=structures, epochs=1
    )
    layers, batch_size, alignment = ZOO_SETTINGS[name]
    trained = train_predictor(chosen)
    model = trained.checkpoints["sumnorm-kl"].model
    assert (len(model.encoder.layers), chosen.batch_size) == (layers, batch_size)
    assert model.config.alignment == alignment
    assert np.isfinite(trained.predicted).all()
    assert set(trained.card.label_branch) == {"sumnorm-kl", "standard-mae"}


@pytest.mark.parametrize("name", ZOO_SETTINGS)
def test_the_papers_and_the_authors_settings_are_complete(name: str) -> None:
    """No field is left to a default, which may be another one day."""
    document = yaml.safe_load((ZOO / f"{name}.yaml").read_text())
    whole = Mat2SpecConfig.model_validate(document["model"]).model_dump()
    for part_of, fields in ((document["model"], whole), (document["model"]["encoder"], None)):
        expected = fields or whole["encoder"]
        assert set(expected) - set(part_of) <= {"label_embedding", "projector"}
    assert {"epochs", "batch_size", "learning_rate", "weight_decay"} <= set(document)


@pytest.mark.slow
def test_the_best_epochs_weights_are_kept() -> None:
    """With a learning rate that ruins the model after the first epochs."""
    dataset = small_dataset()
    split = part(dataset)
    trained = train_setting(config(epochs=12, learning_rate=0.02), "sumnorm-kl", dataset, split)
    validation = dataset.subset(split.validation)
    model, setting = trained.checkpoint.model, trained.checkpoint.setting
    with torch.inference_mode():
        predicted = setting.activate(model(validation.graphs))
        target = setting.target(validation.spectra, validation.graphs.n_atoms)
    assert (predicted - target).abs().mean().item() == pytest.approx(
        trained.validation_mae, rel=1e-4
    )
    assert trained.best_epoch < 11


@pytest.mark.slow
def test_training_learns() -> None:
    dataset = small_dataset(40)
    split = part(dataset)
    trained = train_setting(config(epochs=30), "sumnorm-kl", dataset, split)
    first = train_setting(config(epochs=1), "sumnorm-kl", dataset, split)
    assert trained.validation_mae < first.validation_mae


def test_training_stops_early_when_asked() -> None:
    dataset = small_dataset()
    trained = train_setting(
        config(epochs=500, patience=2, learning_rate=0.02), "sumnorm-kl", dataset, part(dataset)
    )
    assert trained.checkpoint.card.training["epochs_run"] < 100
    assert trained.best_epoch + 2 <= trained.checkpoint.card.training["epochs_run"]


@pytest.mark.slow
def test_not_every_epoch_is_validated() -> None:
    dataset = small_dataset()
    chosen = config(epochs=9, validate_every=3, learning_rate=0.02)
    trained = train_setting(chosen, "sumnorm-kl", dataset, part(dataset))
    assert trained.best_epoch in (2, 5, 8)
    assert trained.checkpoint.card.training["epochs_run"] == 9
    often = train_setting(
        config(epochs=9, learning_rate=0.02), "sumnorm-kl", dataset, part(dataset)
    )
    assert often.validation_mae <= trained.validation_mae
    with pytest.raises(ValueError, match="10 epochs are no multiple of validate_every"):
        config(epochs=10, validate_every=3)


def test_a_loader_gives_every_material_once_and_another_order_each_epoch() -> None:
    dataset = small_dataset(10)
    orders = []
    for epoch in range(2):
        loader = GraphLoader(dataset, 4, seed=0, epoch=lambda epoch=epoch: epoch)
        batches = list(loader)
        assert [len(g) for g, _ in batches] == [4, 4, 2] == [len(s) for _, s in batches]
        orders.append(torch.cat([s.sum(1) for _, s in batches]))
    assert len(loader) == 3
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)


def write_config(tmp_path: Path, **changes: Any) -> Path:
    fields = {"name": "small", "labels": ["labels.parquet"], "structures": "s.parquet"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(fields | changes))
    return path


def test_paths_of_a_configuration_are_relative_to_it(tmp_path: Path) -> None:
    read = read_training_config(write_config(tmp_path, structures="../s.parquet"))
    assert read.labels == (tmp_path / "labels.parquet",)
    assert read.structures == tmp_path / "../s.parquet"


def test_options_replace_fields_and_none_does_not(tmp_path: Path) -> None:
    changed = read_training_config(
        write_config(tmp_path, epochs=7),
        epochs=None,
        labels=(),
        seed=5,
        structures=Path("t.parquet"),
    )
    assert (changed.epochs, changed.seed) == (7, 5)
    assert changed.labels == (tmp_path / "labels.parquet",)
    assert changed.structures == Path("t.parquet")


def test_labels_may_be_left_to_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: small\nstructures: s.parquet\n")
    with pytest.raises(ModelError, match=r"config.yaml, labels: none; .* with --labels$"):
        read_training_config(path)
    assert read_training_config(path, labels=(Path("l.parquet"),)).labels == (Path("l.parquet"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"epochs": "many"}, "epochs: "),
        ({"labels": []}, "labels: "),
        ({"name": "a/b"}, "name: "),
        ({"settings": ["minmax"]}, "unknown setting 'minmax'; use standard-mae"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"graph": {"cutoff": -1}}, "graph.cutoff: "),
        ({"learning_rate": -1e-3}, "learning_rate: "),
        ({"architecture": "cgcnn"}, "unknown architecture 'cgcnn'"),
        ({"model": {"latent": 0}}, "latent: "),
    ],
)
def test_bad_configurations_are_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        read_training_config(write_config(tmp_path, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["- a list\n", "name: [unclosed\n", "", "plain text"])
def test_what_is_not_a_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"config.yaml: (not YAML|a mapping)"):
        read_training_config(path)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.yaml: No such file"):
        read_training_config(tmp_path / "none.yaml")


def test_an_error_that_is_never_a_number_is_said() -> None:
    dataset = small_dataset()
    with pytest.raises(ModelError, match="the validation error was never a number"):
        train_setting(
            config(learning_rate=1e30, weight_decay=0.0), "sumnorm-kl", dataset, part(dataset)
        )


class InterruptionError(Exception):
    pass


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the state at the end of every epoch, and stop like a kill after some of them."""
    save = SaveState.on_train_epoch_end

    def save_and_stop(self: SaveState, trainer: Any, module: Any) -> None:
        self.every = 0.0
        save(self, trainer, module)
        if trainer.current_epoch + 1 == epochs:
            raise InterruptionError

    monkeypatch.setattr(SaveState, "on_train_epoch_end", save_and_stop)


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "epochs"), [(None, 3), (3, 3), (None, 8)])
def test_a_resumed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None, epochs: int
) -> None:
    dataset, chosen = small_dataset(), config(epochs=8, patience=patience, learning_rate=0.02)
    undisturbed = train_setting(chosen, "sumnorm-kl", dataset, part(dataset))
    state = tmp_path / "unfinished.state"
    with monkeypatch.context() as patch:
        interrupt_after(epochs, patch)
        with pytest.raises(InterruptionError):
            train_setting(chosen, "sumnorm-kl", dataset, part(dataset), state=state)
    resumed = train_setting(chosen, "sumnorm-kl", dataset, part(dataset), state=state)
    assert torch.equal(weights(undisturbed.checkpoint.model), weights(resumed.checkpoint.model))
    assert resumed.validation_mae == undisturbed.validation_mae
    assert resumed.checkpoint.card == undisturbed.checkpoint.card


@pytest.mark.slow
def test_a_predictor_goes_on_with_the_setting_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = config(labels=[labels], structures=structures, epochs=4)
    progress = tmp_path / "progress"
    undisturbed = train_predictor(chosen)
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", lambda *_: (_ for _ in ()).throw(InterruptionError))
        with pytest.raises(InterruptionError):
            train_predictor(chosen, folder=progress)
    (progress / "standard-mae.json").unlink()
    lines: list[str] = []
    resumed = train_predictor(chosen, announce=lines.append, folder=progress, resume=True)
    assert "trained before" in lines[1]
    assert "trained before" not in lines[2]
    np.testing.assert_array_equal(resumed.predicted, undisturbed.predicted)


@pytest.mark.slow
def test_progress_is_kept_until_the_predictor_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = config(labels=[labels], structures=structures)
    progress, folder = tmp_path / "progress", tmp_path / "predictor"
    trained = train_predictor(chosen, folder=progress)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", raise_no_space)
        with pytest.raises(OSError, match="No space left"):
            trained.save(folder)
    lines: list[str] = []
    resumed = train_predictor(chosen, announce=lines.append, folder=progress, resume=True)
    assert all("trained before" in line for line in lines[1:])
    resumed.save(folder)
    assert not progress.exists()


def raise_no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_checkpoints_of_a_training_before_do_not_stay(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = config(labels=[labels], structures=structures)
    train_predictor(chosen).save(tmp_path)
    train_predictor(chosen.model_copy(update={"settings": ("sumnorm-kl",)})).save(tmp_path)
    assert {file.stem for file in tmp_path.glob("*.safetensors")} >= {"sumnorm-kl"}
    assert not list(tmp_path.glob("standard-mae.*"))


@pytest.mark.slow
def test_progress_of_something_else_is_never_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, structures = write_edos_files(tmp_path)
    chosen = config(labels=[labels], structures=structures)
    progress = tmp_path / "progress"
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(InterruptionError):
            train_predictor(chosen, folder=progress)
    other = chosen.model_copy(update={"learning_rate": 0.002})
    with pytest.raises(ModelError, match="another configuration or other data"):
        train_predictor(other, folder=progress, resume=True)
    anew = train_predictor(other, folder=progress)
    alone = train_predictor(other)
    np.testing.assert_array_equal(anew.predicted, alone.predicted)


class Bomb:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_state_file_cannot_run_code(tmp_path: Path) -> None:
    state = tmp_path / "evil.state"
    torch.save({"state_dict": Bomb()}, state)
    dataset = small_dataset()
    with pytest.raises(ModelError, match=r"evil.state: not the state of a training"):
        train_setting(config(), "sumnorm-kl", dataset, part(dataset), state=state)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    losses = Mat2Spec.losses

    def greedy(self: Mat2Spec, batch: GraphBatch, *rest: Any) -> dict:
        if len(batch) > 4:
            raise error("DefaultCPUAllocator: can't allocate memory")
        return losses(self, batch, *rest)

    monkeypatch.setattr(Mat2Spec, "losses", greedy)
    dataset, lines = small_dataset(), []
    trained = train_setting(
        config(batch_size=16), "sumnorm-kl", dataset, part(dataset), announce=lines.append
    )
    assert trained.checkpoint.card.training["batch_size"] == 4
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["8", "4"]
    small = train_setting(config(batch_size=4), "sumnorm-kl", dataset, part(dataset))
    assert torch.equal(weights(trained.checkpoint.model), weights(small.checkpoint.model))


@pytest.mark.slow
def test_after_an_interruption_the_batch_stays_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Mat2Spec.losses

    def greedy(self: Mat2Spec, batch: GraphBatch, *rest: Any) -> dict:
        if len(batch) > 4:
            raise MemoryError
        return losses(self, batch, *rest)

    monkeypatch.setattr(Mat2Spec, "losses", greedy)
    dataset, state, lines = small_dataset(), tmp_path / "a.state", list[str]()

    def train(state: Path | None = None) -> torch.Tensor:
        chosen = config(batch_size=8, epochs=6)
        done = train_setting(
            chosen, "sumnorm-kl", dataset, part(dataset), state=state, announce=lines.append
        )
        return weights(done.checkpoint.model)

    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(InterruptionError):
            train(state)
    assert len(lines) == 1
    resumed = train(state)
    assert len(lines) == 1
    assert torch.equal(resumed, train())


def test_not_even_one_material_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> dict:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Mat2Spec, "losses", greedy)
    dataset = small_dataset()
    with pytest.raises(ModelError, match="out of memory with a batch of one"):
        train_setting(config(), "sumnorm-kl", dataset, part(dataset))


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> dict:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Mat2Spec, "losses", broken)
    dataset = small_dataset()
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_setting(config(), "sumnorm-kl", dataset, part(dataset))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_batch(world_size: int) -> None:
    dataset = small_dataset(10)
    shares = [
        list(GraphLoader(dataset, 6, seed=1, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(GraphLoader(dataset, 6, seed=1, world_size=world_size))
    seen = torch.cat([s.sum(1) for share in shares for _, s in share])
    assert set(seen.tolist()) == set(dataset.spectra.sum(1).tolist())
    assert len(seen) == -(-10 // world_size) * world_size


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    write_edos_files(tmp_path)
    path = write_config(tmp_path, structures="structures.parquet", model=SMALL, batch_size=8)
    command = [Path(sys.executable).with_name("screen"), "train", path, "--epochs", "3"]
    command += ["--accelerator", "cpu", "--devices", "2"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Test figures") == 1
    predictor = SpectrumPredictor.load(tmp_path / "small", device="cpu")
    assert predictor.shape.card.training["epochs_run"] == 3
    assert not (tmp_path / "small" / ".progress").exists()


def test_mixed_precision_trains_and_predicts_in_single_precision() -> None:
    dataset, mixed = small_dataset(), Hardware("cpu", precision="bf16-mixed")
    trained = {
        hardware.precision: train_setting(
            config(), "sumnorm-kl", dataset, part(dataset), hardware=hardware
        )
        for hardware in (Hardware("cpu"), mixed)
    }
    single, rounded = (weights(t.checkpoint.model) for t in trained.values())
    assert single.dtype == rounded.dtype == torch.float32
    assert (single - rounded).abs().max() > 0
    errors = [t.validation_mae for t in trained.values()]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("architecture", ["e3nn", "tight-binding"])
def test_what_needs_single_precision_is_not_trained_in_less(architecture: str) -> None:
    dataset, mixed = small_dataset(), Hardware("cpu", precision="bf16-mixed")
    line = f"^{architecture} is trained with --precision 32-true only: "
    chosen = config(architecture=architecture, model={})
    with pytest.raises(ModelError, match=line):
        train_setting(chosen, "sumnorm-kl", dataset, part(dataset), hardware=mixed)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gatgnn", "e3nn"])
@pytest.mark.parametrize("target", ["phdos", "phdos-51"])
def test_phonons_take_the_same_path(tmp_path: Path, architecture: str, target: str) -> None:
    x = np.linspace(0, 1, 66)
    rows = [
        structure_row(f"j-{i}", c)
        | {"split": "val" if i % 5 == 0 else "train"}
        | {"phdos": np.exp(-(((x - 0.3 - i / 90) / 0.1) ** 2)).tolist()}
        for i, c in enumerate(random_crystals(30))
    ]
    file = write_rows(tmp_path / "phonons.parquet", rows)
    chosen = config(
        target=target,
        labels=[file],
        structures=None,
        architecture=architecture,
        model={},
        settings=["maxnorm-mse", "standard-mae"],
        epochs=1,
    )
    trained = train_predictor(chosen)
    card = trained.save(tmp_path / "phonons")
    assert (card.n_test, card.unit) == (6, "cm^-1")
    assert set(card.figures) == {"maxnorm-mse", "standard-mae"}
    loaded = load_checkpoint(tmp_path / "phonons" / "standard-mae")
    assert not loaded.setting.extensive
    assert loaded.card.graph.vectors == (architecture == "e3nn")
    assert "WD in cm^-1" in card.to_markdown()


def test_missing_structures_are_asked_for(tmp_path: Path) -> None:
    labels, _ = write_edos_files(tmp_path)
    with pytest.raises(ModelError, match="the field structures is needed"):
        train_predictor(config(labels=(labels,), structures=None))


def taught_files(folder: Path, teacher: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Labels of DFT for 30 materials, and of a teacher for half of these and 75 others."""
    labels, structures = write_edos_files(folder)
    crystals = labelled_crystals(105)[15:]
    rows = [
        structure_row(f"x-{i}", crystal) | {"spectrum": [1.0 + (i * k) % 7 for k in range(128)]}
        for i, crystal in enumerate(crystals, start=15)
    ]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"grid": EDOS_GRID.model_dump_json(), "teacher": json.dumps(teacher)}
    )
    pq.write_table(table, folder / "taught.parquet")
    return {"labels": [labels], "structures": structures}, folder / "taught.parquet"


TEACHER = {"model_id": "teacher-1", "split_seed": 0, "split_by": "material"}


@pytest.mark.slow
def test_a_student_learns_from_its_teacher_first(tmp_path: Path) -> None:
    files, taught = taught_files(tmp_path, TEACHER)
    stage = {"labels": taught, "epochs": 3, "learning_rate": 0.003, "batch_size": 16}
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    student = train_predictor(config(**files, teacher=stage, **still))
    alone = train_setting(
        config(epochs=3, learning_rate=0.003, batch_size=16, schedule="one-cycle", weight_decay=0),
        "sumnorm-kl",
        taught_dataset(taught),
        split_of(taught_dataset(taught), 0),
    )
    models = (student.checkpoints["sumnorm-kl"].model, alone.checkpoint.model)
    found, expected = (torch.nn.utils.parameters_to_vector(m.parameters()) for m in models)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_fine_tuned_weights_keep_their_share_of_those_before() -> None:
    dataset = small_dataset(40)
    learn = {"learning_rate": 0.01, "epochs": 10, "schedule": "one-cycle"}

    def train(start: Checkpoint | None, **changes: Any) -> Trained:
        return train_setting(config(**changes), "sumnorm-kl", dataset, part(dataset), start=start)

    then = train(None, epochs=1).checkpoint
    tuned = train(then, **learn)
    student = train(then, **learn, kept=0.75)
    before, after, between = (
        one.model.state_dict() for one in (then, tuned.checkpoint, student.checkpoint)
    )
    for name, weight in between.items():
        if weight.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * after[name]
            torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert moved.abs().max() > 0.01

    validation = dataset.subset(part(dataset).validation)
    with torch.no_grad():
        shapes = student.checkpoint.model(validation.graphs).softmax(-1)
    labels = validation.spectra / validation.spectra.sum(1, keepdim=True)
    assert student.validation_mae == pytest.approx((shapes - labels).abs().mean().item(), rel=1e-4)
    assert student.validation_mae == student.checkpoint.card.training["validation_mae"]
    assert student.validation_mae != tuned.validation_mae


@pytest.mark.slow
def test_no_material_of_the_test_is_taught(tmp_path: Path) -> None:
    files, taught = taught_files(tmp_path, TEACHER)
    seen: list[set[str]] = []

    def train(config, name, dataset, split, *_, **more):
        seen.append({dataset.material_ids[i] for i in split.train})
        return train_setting(config, name, dataset, split, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "train_setting", train)
        student = train_predictor(config(**files, teacher={"labels": taught, "epochs": 1}))
    held_out = set(student.test.material_ids)
    assert len(seen) == 4
    assert held_out
    assert not any(held_out & ids for ids in seen)
    assert held_out & set(taught_dataset(taught).material_ids)  # it could have been


@pytest.mark.slow
def test_the_card_says_what_a_teacher_taught(tmp_path: Path) -> None:
    files, taught = taught_files(tmp_path, TEACHER)
    student = train_predictor(config(**files, teacher={"labels": taught, "epochs": 1}))
    lessons = student.card.lessons
    assert lessons is not None
    assert lessons.teacher == "teacher-1"
    assert lessons.n_train + lessons.n_validation + lessons.n_test == 90
    assert lessons.figures.keys() == student.card.figures.keys()
    assert "what teacher-1 predicts" in student.card.to_markdown()
    assert "times those of then" not in student.card.to_markdown()
    card = train_predictor(config(**files, teacher={"labels": taught, "epochs": 1}, kept=0.25)).card
    assert "0.25 times those of then and 0.75 times" in card.to_markdown()
    student.save(tmp_path / "student")
    assert ModelCard.read(tmp_path / "student") == student.card
    plain = train_predictor(config(**files))
    assert plain.card.lessons is None
    assert "teacher" not in plain.card.to_markdown()


def test_a_teacher_with_another_split_knows_test_materials(tmp_path: Path) -> None:
    files, taught = taught_files(tmp_path, TEACHER | {"split_by": "chemsys"})
    with pytest.raises(ModelError, match="its teacher was tested on the split by chemsys"):
        train_predictor(config(**files, teacher={"labels": taught}))


@pytest.mark.slow
def test_a_teaching_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    files, taught = taught_files(tmp_path, TEACHER)
    chosen = config(**files, teacher={"labels": taught, "epochs": 1})
    undisturbed = train_predictor(chosen)
    progress, lines, calls = tmp_path / "progress", list[str](), []

    def interrupted(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 3:  # both settings were taught
            raise KeyboardInterrupt
        return train_setting(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "train_setting", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_predictor(chosen, folder=progress)
    resumed = train_predictor(chosen, announce=lines.append, folder=progress, resume=True)
    assert sum("trained before" in line for line in lines) == 2
    np.testing.assert_array_equal(resumed.predicted, undisturbed.predicted)


def test_labels_of_a_teacher_are_named_on_the_command_line(tmp_path: Path) -> None:
    path = write_config(tmp_path, teacher={"epochs": 5})
    with pytest.raises(ModelError, match=r"teacher\.labels: Field required"):
        read_training_config(path)
    read = read_training_config(path, teacher_labels=Path("/t.parquet"))
    assert read.teacher is not None
    assert (read.teacher.labels, read.teacher.epochs) == (Path("/t.parquet"), 5)
    beside = read_training_config(write_config(tmp_path, teacher={"labels": "t.parquet"}))
    assert beside.teacher is not None
    assert beside.teacher.labels == tmp_path / "t.parquet"


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_copy_of_a_shipped_configuration_needs_no_file_that_is_not_given(path: Path) -> None:
    """Labels that `screen fetch` wrote come with their structures."""
    taught = Path("taught.parquet").absolute()
    read = read_training_config(path, labels=(Path("edos.parquet"),), teacher_labels=taught)
    assert read.structures is None
    assert read.teacher is None or read.teacher.labels == taught


def test_many_test_materials_are_predicted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, structures = write_edos_files(tmp_path)
    trained = train_predictor(config(labels=[labels], structures=structures))
    assert len(trained.test) > 2
    monkeypatch.setattr(training, "PART", 2)
    figures, predicted = training.evaluate(trained.checkpoints, trained.test)
    np.testing.assert_allclose(predicted, trained.predicted, rtol=1e-5)
    assert figures.keys() == trained.card.figures.keys()
    assert {*trained.test.material_ids} < {*trained.dataset.material_ids}
