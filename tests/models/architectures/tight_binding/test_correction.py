"""What labels add to the shapes of tight binding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.architectures.registry import build_model, config_for
from models.architectures.tight_binding.correction import MOST, Correction
from models.data.dataset import SpectrumDataset
from models.data.splits import split_dataset
from models.spectra.spectrum import EDOS_GRID
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from tests.models.architectures.tight_binding.test_tight_binding import (
    SETTING,
    SMALL,
    crystals,
    graphs,
    labels_of,
    small,
)
from tests.models.model_examples import rocksalt, supercell

CONFIG = TrainingConfig(
    name="small",
    labels=(Path("labels.parquet"),),
    architecture="tight-binding",
    model=SMALL | {"kernel": 0.6},
    settings=("sumnorm-kl",),
    epochs=1,
    batch_size=4,
    learning_rate=1e-3,
)


def test_labels_that_differ_in_the_same_way_are_learned() -> None:
    torch.manual_seed(0)
    batch, bins = graphs(crystals(8)), torch.arange(16.0)
    states = 1 + 3 * torch.exp(-((bins - torch.linspace(4, 11, 8)[:, None]) ** 2) / 8)
    shapes = states / states.sum(1, keepdim=True)
    target = 0.8 * shapes + 0.2 * shapes.roll(1, dims=1)
    correction = Correction(16, 1.0, 0)
    assert torch.equal(correction(batch, states), states)  # nothing is learned yet
    correction.fit(batch, states, target)
    found = correction(batch, states)
    torch.testing.assert_close(found.sum(1), states.sum(1))
    assert found.min() >= 0
    errors = [(x / x.sum(1, keepdim=True) - target).abs().sum() for x in (states, found)]
    assert errors[1] < 0.1 * errors[0]
    half = Correction(16, 0.5, 0)
    half.load_state_dict(correction.state_dict())
    torch.testing.assert_close(half(batch, states), (states + found) / 2)
    electrons = Correction(16, 1.0, 8)
    electrons.load_state_dict(correction.state_dict())
    kept = electrons(batch, states)
    torch.testing.assert_close(kept[:, :8].sum(1), states[:, :8].sum(1))
    torch.testing.assert_close(kept[:, 8:], found[:, 8:])
    parts = states[:1] * torch.rand(2, 4, 16).softmax(0) / 4
    parts[:, :, 7] = 0  # the Hamiltonian has no states here
    told = correction.of_parts(graphs(crystals(1)), parts)
    whole = correction(graphs(crystals(1)), parts.sum((0, 1))[None])[0]
    torch.testing.assert_close(told.sum((0, 1)), whole)
    shares = [x[..., 9] / x[..., 9].sum() for x in (parts, told)]
    torch.testing.assert_close(*shares, rtol=1e-4, atol=1e-6)
    odd = graphs([rocksalt(4.0, 3, 9)])  # like none of them: only what all have in common
    far = correction(odd, states[:1].flip(1)) - states[:1].flip(1)
    assert far.abs().sum() < (found - states)[:1].abs().sum()


def test_the_number_of_empty_states_is_learned() -> None:
    """From labels that have a quarter more of them, and the same electrons."""
    torch.manual_seed(1)
    batch, states = graphs(crystals(8)), 1 + torch.rand(8, 16)
    labels = torch.cat([states[:, :8], 1.25 * states[:, 8:]], dim=1)
    correction = Correction(16, 0.0, 8)
    correction.fit(batch, states, labels / labels.sum(1, keepdim=True))
    torch.testing.assert_close(correction(batch, states), labels, rtol=1e-3, atol=0)
    labels[:, 8:] *= 100  # more than any Hamiltonian is short of
    correction.fit(batch, states, labels / labels.sum(1, keepdim=True))
    most = states[:, 8:] * torch.tensor(MOST).exp()
    torch.testing.assert_close(correction(batch, states)[:, 8:], most, rtol=1e-3, atol=0)


def test_a_correction_of_shapes_alone_is_read_as_before() -> None:
    batch, states = graphs(crystals(6)), torch.rand(6, 16)
    fitted = Correction(16, 1.0, 8)
    fitted.fit(batch, states, torch.rand(6, 16).softmax(1))
    kernel = fitted.kernel
    kernel.coefficients[:, -1] = kernel.mean[-1] = 0
    before = {
        name: values[..., :-1] if name in ("kernel.coefficients", "kernel.mean") else values
        for name, values in fitted.state_dict().items()
    }
    read = Correction(16, 1.0, 8)
    read.load_state_dict(before)
    assert torch.equal(read(batch, states), fitted(batch, states))


def test_a_supercell_is_corrected_as_its_cell() -> None:
    batch = graphs(crystals(6))
    states = torch.rand(6, 16)
    correction = Correction(16, 0.6, 8)
    correction.fit(batch, states, torch.rand(6, 16).softmax(1))
    cell, twice = graphs([rocksalt()]), graphs([supercell(rocksalt(), (2, 1, 1))])
    torch.testing.assert_close(
        correction(twice, 2 * states[:1]), 2 * correction(cell, states[:1]), atol=1e-4, rtol=1e-4
    )


def test_what_was_trained_without_a_correction_is_read_as_before() -> None:
    config = config_for("tight-binding", SMALL, SETTING, EDOS_GRID)
    before = {k: v for k, v in config.items() if k != "kernel"}
    model = build_model("tight-binding", EDOS_GRID.size, before)
    model.load_state_dict(small().state_dict())
    assert not any("correction" in name for name in model.state_dict())


def test_trained_and_read_again(tmp_path: Path) -> None:
    structures = crystals(12)
    spectra, bands = labels_of(structures)
    ids = tuple(f"x-{i}" for i in range(12))
    dataset = SpectrumDataset(ids, graphs(structures), spectra, EDOS_GRID, {}, bands=bands)
    split = split_dataset(ids, 0, 0.3, 0.2)
    trained = train_setting(CONFIG, "sumnorm-kl", dataset, split).checkpoint
    assert len(trained.model.correction.kernel.points) == len(split.train)
    save_checkpoint(tmp_path / "sumnorm-kl", trained)
    read = load_checkpoint(tmp_path / "sumnorm-kl").model
    few = dataset.graphs.select(torch.arange(3))
    with torch.inference_mode():
        torch.testing.assert_close(read.states(few), trained.model.states(few))


@pytest.mark.parametrize("kernel", [0.0, 0.6])
def test_training_materials_are_nearer_to_their_labels(kernel: float) -> None:
    model, structures = small(kernel=kernel), crystals(6)
    spectra, _ = labels_of(structures)
    batch = graphs(structures)
    target = SETTING.target(spectra, batch.n_atoms)

    def error() -> float:
        with torch.inference_mode():
            return float((model(batch).softmax(1) - target).abs().sum())

    before = error()
    model.fit_trained(batch, target)
    assert error() == before if not kernel else error() < 0.6 * before
    again = error()
    model.fit_trained(batch, target)  # the residuals are those without a correction
    assert error() == pytest.approx(again, rel=1e-4)
