"""Training that goes on from another model, and what every training refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from models.data.dataset import SpectrumDataset
from models.data.splits import Split, split_dataset
from models.errors import ModelError
from models.spectra.spectrum import EnergyGrid
from models.training import fit as fitting
from models.training.config import TrainingConfig
from models.training.fit import Trained, train_setting
from tests.models.model_examples import SMALL_GRID, small_dataset

TINY = {"encoder": {"layers": 1, "width": 8}, "hidden": [8]}
DATASET = small_dataset(40)
SPLIT = split_dataset(DATASET.material_ids, seed=0)


def train(
    setting: str = "standard-mae",
    dataset: SpectrumDataset = DATASET,
    split: Split = SPLIT,
    start: Trained | None = None,
    **changes: Any,
) -> Trained:
    fields = {"name": "t", "labels": ["none"], "architecture": "gatgnn", "model": TINY}
    config = TrainingConfig.model_validate(fields | {"epochs": 2} | changes)
    checkpoint = None if start is None else start.checkpoint
    return train_setting(config, setting, dataset, split, start=checkpoint)


def parameters(trained: Trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.checkpoint.model.parameters()])


def test_fine_tuning_begins_with_the_weights_and_the_statistics_of_the_model() -> None:
    first = train()
    part = dataclasses.replace(SPLIT, train=SPLIT.train[:6])
    still = train(split=part, start=first, learning_rate=1e-12, weight_decay=0, seed=5)
    torch.testing.assert_close(parameters(still), parameters(first), rtol=0, atol=1e-9)
    before, after = (t.checkpoint.setting for t in (first, still))
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.std, before.std)
    fresh = train(split=part, seed=5)
    assert not torch.allclose(fresh.checkpoint.setting.mean, before.mean)
    assert not torch.allclose(parameters(fresh), parameters(first), atol=1e-2)


def test_fine_tuning_changes_the_weights_but_not_the_model_that_it_began_with() -> None:
    first = train()
    kept = parameters(first).clone()
    tuned = train(start=first, learning_rate=0.01)
    assert torch.equal(parameters(first), kept)
    assert not torch.allclose(parameters(tuned), kept, atol=1e-3)


def test_a_model_for_another_grid_is_not_fine_tuned() -> None:
    other = EnergyGrid(start=SMALL_GRID.start, width=0.25, size=SMALL_GRID.size)
    moved = dataclasses.replace(DATASET, grid=other)
    with pytest.raises(ModelError, match="the model to fine-tune is for another grid"):
        train(dataset=moved, start=train())


def test_a_split_that_leaks_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fitting, "_train")
    leaking = dataclasses.replace(SPLIT, train=[*SPLIT.train, SPLIT.test[0]])
    leaked = DATASET.material_ids[SPLIT.test[0]]
    with pytest.raises(ModelError, match=f"the split leaks: {leaked} in more than one part"):
        train(split=leaking)


def test_labels_without_a_scale_are_not_trained_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fitting, "_train")
    shapes = dataclasses.replace(DATASET, shapes_only=True)
    with pytest.raises(ModelError, match="standard-mae: labels without a scale"):
        train(dataset=shapes)


def test_fine_tuning_that_does_not_help_leaves_the_model_as_it_was() -> None:
    first = train(epochs=4)
    ruined = train(start=first, learning_rate=10.0, epochs=3)
    assert ruined.best_epoch == -1
    assert torch.equal(parameters(ruined), parameters(first))
    assert ruined.validation_mae == pytest.approx(first.validation_mae)
    assert ruined.checkpoint.card.training["epochs_run"] == 3
    helped = train(start=train(epochs=1), learning_rate=0.01, epochs=3)
    assert helped.best_epoch >= 0
