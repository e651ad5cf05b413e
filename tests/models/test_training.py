from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_examples import random_crystals, small_dataset, write_edos_files

from models.card import ModelCard
from models.dataset import SpectrumDataset, Split, split_dataset
from models.errors import ModelError
from models.losses import SETTINGS
from models.predictor import SpectrumPredictor
from models.training import (
    GraphLoader,
    TrainingConfig,
    read_training_config,
    train_predictor,
    train_setting,
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
    assert set(predictor.elements) == set(card.elements)
    by_id = dict(zip((f"x-{i}" for i in range(30)), random_crystals(30), strict=True))
    found = predictor.predict([by_id[i] for i in trained.test.material_ids]).values
    np.testing.assert_allclose(found, trained.predicted, rtol=1e-3, atol=1e-4)
    assert len(lines) == 3


@pytest.mark.parametrize("setting_name", SETTINGS)
def test_training_is_deterministic_for_a_seed(setting_name: str) -> None:
    dataset = small_dataset()
    one, again = (train_setting(config(), setting_name, dataset, part(dataset)) for _ in range(2))
    other = train_setting(config(seed=1), setting_name, dataset, part(dataset))
    assert torch.equal(weights(one.checkpoint.model), weights(again.checkpoint.model))
    assert one.validation_mae == again.validation_mae
    assert not torch.equal(weights(one.checkpoint.model), weights(other.checkpoint.model))


def test_the_best_epochs_weights_are_kept() -> None:
    """With a learning rate that ruins the model after the first epochs."""
    dataset = small_dataset()
    split = part(dataset)
    trained = train_setting(config(epochs=12, learning_rate=0.3), "sumnorm-kl", dataset, split)
    validation = dataset.subset(split.validation)
    model, setting = trained.checkpoint.model, trained.checkpoint.setting
    with torch.inference_mode():
        predicted = setting.activate(model(validation.graphs))
        target = setting.target(validation.spectra, validation.graphs.n_atoms)
    assert (predicted - target).abs().mean().item() == pytest.approx(
        trained.validation_mae, rel=1e-4
    )
    assert trained.best_epoch < 12


def test_training_learns() -> None:
    dataset = small_dataset(40)
    split = part(dataset)
    trained = train_setting(config(epochs=30), "sumnorm-kl", dataset, split)
    first = train_setting(config(epochs=1), "sumnorm-kl", dataset, split)
    assert trained.validation_mae < first.validation_mae


def test_training_stops_early_when_asked() -> None:
    dataset = small_dataset()
    lines: list[str] = []
    trained = train_setting(
        config(epochs=500, patience=2, learning_rate=0.3), "sumnorm-kl", dataset, part(dataset)
    )
    assert trained.checkpoint.card.training["epochs_run"] < 100
    assert trained.best_epoch + 2 <= trained.checkpoint.card.training["epochs_run"]
    assert not lines


def test_a_loader_gives_every_material_once_and_another_order_each_epoch() -> None:
    dataset = small_dataset(10)
    loader = GraphLoader(dataset, 4, seed=0)
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
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
