from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from models.architectures.mat2spec_plus import Mat2SpecPlus, Mat2SpecPlusConfig
from models.architectures.registry import config_for
from models.data.splits import split_dataset
from models.graphs.graph import GraphBatch
from models.spectra.settings import SETTINGS
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from screening.benchmark.runs import predict
from tests.models.architectures.battery import ArchitectureBattery
from tests.models.model_examples import (
    SMALL_GRID,
    batch_of,
    random_crystals,
    random_spectra,
    rocksalt,
    small_dataset,
)

SIZE = 16


class TestMat2SpecPlus(ArchitectureBattery):
    name = "mat2spec+"
    small: ClassVar = {"members": 2, "width": 32, "hidden": 64, "dropout": 0.0}


def small(**changes: object) -> Mat2SpecPlusConfig:
    fields = {"members": 2, "width": 16, "hidden": 32, "dropout": 0.0} | changes
    return Mat2SpecPlusConfig.model_validate(fields)


def with_distances(batch: GraphBatch, factor: float) -> GraphBatch:
    moved = batch_of([rocksalt()])
    moved.distance.mul_(factor)
    return moved


@pytest.mark.parametrize("name", SETTINGS)
def test_what_it_is_made_of_depends_on_the_setting(name: str) -> None:
    setting = SETTINGS[name](SIZE)
    config = small(**config_for("mat2spec+", {}, setting, SMALL_GRID))
    assert config.mixes_sites == name.startswith("sumnorm")
    assert (config.kernel_share > 0) == (not name.startswith("maxnorm"))
    assert config_for("mat2spec", {}, setting, SMALL_GRID) == {}


def test_a_spectrum_is_the_mixture_of_its_sites() -> None:
    """Of one site it is that site's; of more it lies between theirs, and its sum is 1."""
    torch.manual_seed(0)
    model = Mat2SpecPlus(SIZE, small(members=1, output="sum-normalized", statistics=False)).eval()
    member = model.members[0]
    batch = batch_of([rocksalt()])
    with torch.inference_mode():
        spectrum = model(batch).exp()
        atoms = member._atoms(batch, model._shared(batch))
        sites, share = member.head(atoms).softmax(-1), member.share(atoms).softmax(0)
    torch.testing.assert_close(spectrum[0], (share * sites).sum(0), atol=1e-6, rtol=1e-4)
    assert spectrum.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_prediction_is_the_mean_of_different_members() -> None:
    torch.manual_seed(0)
    model, batch = Mat2SpecPlus(SIZE, small()).eval(), batch_of(random_crystals(3))
    with torch.inference_mode():
        members = model.member_logits(batch)
        torch.testing.assert_close(model(batch), members.mean(0))
    assert members.shape == (2, 3, SIZE)
    assert (members[0] - members[1]).abs().max() > 1e-3


def test_members_are_trained_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    model, batch = Mat2SpecPlus(SIZE, small()), batch_of(random_crystals(5))
    setting = SETTINGS["sumnorm-kl"](SIZE)
    target = setting.target(random_spectra(5, SIZE), batch.n_atoms)
    losses = [setting.loss(logits, target) for logits in model.member_logits(batch)]
    total = model.losses(batch, target, setting)["total"]
    torch.testing.assert_close(total, torch.stack(losses).mean())


def test_a_neighbour_beyond_the_cutoff_counts_nothing() -> None:
    """The envelope falls to zero there, so that spectra change smoothly with the structure."""
    torch.manual_seed(0)
    model = Mat2SpecPlus(SIZE, small(statistics=False)).eval()
    batch = batch_of([rocksalt()])
    at_cutoff = with_distances(batch, 8.0 / float(batch.distance.min()))
    alone = with_distances(batch, 8.0 / float(batch.distance.min()))
    alone.edge_multiplicity.zero_()
    with torch.inference_mode():
        torch.testing.assert_close(model(at_cutoff), model(alone), atol=1e-5, rtol=1e-4)
        assert (model(batch) - model(alone)).abs().max() > 1e-3


def test_strained_structures_are_for_training_only() -> None:
    torch.manual_seed(0)
    model, batch = Mat2SpecPlus(SIZE, small(strain=0.05)), batch_of(random_crystals(4))
    setting = SETTINGS["sumnorm-kl"](SIZE)
    target = setting.target(random_spectra(4, SIZE), batch.n_atoms)
    before = batch.distance.clone()
    first, second = (model.losses(batch, target, setting)["total"] for _ in range(2))
    assert first != second
    torch.testing.assert_close(batch.distance, before)
    model.eval()
    torch.testing.assert_close(model(batch), model(batch))


@pytest.mark.parametrize("name", ["sumnorm-kl", "standard-mae"])
def test_the_kernel_regression_is_a_share_of_the_prediction(name: str) -> None:
    torch.manual_seed(0)
    batch, n = batch_of(random_crystals(6)), 6
    setting = SETTINGS[name](SIZE)
    spectra = random_spectra(n, SIZE) * batch.n_atoms[:, None]
    setting.fit(spectra, batch.n_atoms)
    target = setting.target(spectra, batch.n_atoms)
    model = Mat2SpecPlus(SIZE, small(kernel=0.25, output=setting.output)).eval()
    model.fit(batch, target)
    with torch.inference_mode():
        together = setting.activate(model(batch))
        alone = setting.activate(model.member_logits(batch).mean(0))
        regression = model.kernel((model.statistics(batch) - model.center) / model.scale)
    torch.testing.assert_close(together, 0.75 * alone + 0.25 * regression, atol=1e-4, rtol=1e-3)


def test_without_a_share_there_is_no_regression() -> None:
    model = Mat2SpecPlus(SIZE, small(output="max-normalized"))
    model.fit(batch_of([rocksalt()]), torch.ones(1, SIZE))
    assert not hasattr(model, "kernel")


def test_statistics_are_standardised_and_cut_off_far_from_the_training_set() -> None:
    """Of a material unlike all others the perceptron sees no more than that it is."""
    model, batch = Mat2SpecPlus(SIZE, small()), batch_of(random_crystals(8))
    model.fit(batch, torch.ones(8, SIZE))
    scaled = model.standardized(batch)
    torch.testing.assert_close(scaled.mean(0), torch.zeros_like(scaled[0]), atol=1e-3, rtol=0)
    varied = model.scale > 1e-3
    torch.testing.assert_close(
        scaled.std(0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-3, rtol=0
    )
    assert model.standardized(with_distances(batch, 3.0)).abs().max() <= 5


@pytest.mark.parametrize("name", ["sumnorm-kl", "standard-mae", "maxnorm-mae"])
def test_a_trained_model_is_kept_whole_and_can_be_fine_tuned(tmp_path: Path, name: str) -> None:
    dataset = small_dataset(24)
    config = TrainingConfig(
        name="plus",
        labels=(Path("labels.parquet"),),
        architecture="mat2spec+",
        model={"members": 2, "width": 16, "hidden": 16},
        epochs=2,
        batch_size=8,
    )
    split = split_dataset(dataset.material_ids, seed=0)
    trained = train_setting(config, name, dataset, split)
    save_checkpoint(tmp_path / name, trained.checkpoint)
    loaded = load_checkpoint(tmp_path / name)
    expected = predict(trained.checkpoint, dataset)
    np.testing.assert_allclose(predict(loaded, dataset), expected, rtol=1e-5, atol=1e-6)
    tuned = train_setting(config, name, dataset, split, start=loaded)
    assert np.isfinite(predict(tuned.checkpoint, dataset)).all()
