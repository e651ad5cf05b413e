from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import sem, wasserstein_distance

from models.spectra.metrics import (
    mae,
    mse,
    r2,
    spectrum_metrics,
    standard_errors,
    wasserstein_distances,
)
from models.spectra.settings import SETTINGS, Setting
from tests.models.model_examples import random_spectra

SIZE = 16


def test_wasserstein_loss_and_metric_equal_scipys() -> None:
    label, logits = random_spectra(6, SIZE), torch.randn(6, SIZE)
    setting = fitted("sumnorm-wd", label, torch.ones(6))
    target = setting.target(label, torch.ones(6))
    bins = np.arange(SIZE)
    expected = [
        wasserstein_distance(bins, bins, p, t)
        for p, t in zip(logits.softmax(-1).numpy(), target.numpy(), strict=True)
    ]
    assert setting.loss(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-5)
    found = wasserstein_distances(logits.softmax(-1).numpy(), label.numpy(), bin_width=0.25)
    np.testing.assert_allclose(found, 0.25 * np.array(expected), rtol=1e-4)


def test_kl_loss_equals_its_definition() -> None:
    label, logits = random_spectra(4, SIZE), torch.randn(4, SIZE)
    setting = SETTINGS["sumnorm-kl"](SIZE)
    target = setting.target(label, torch.ones(4))
    expected = (target * (target / logits.softmax(-1)).log()).sum(-1).mean()
    torch.testing.assert_close(setting.loss(logits, target), expected)


def test_kl_loss_of_an_empty_bin_is_finite() -> None:
    label = torch.tensor([[0.0, 1.0, 3.0]])
    setting = SETTINGS["sumnorm-kl"](3)
    assert setting.loss(torch.zeros(1, 3), setting.target(label, torch.ones(1))).isfinite()


def fitted(name: str, spectra: torch.Tensor, n_atoms: torch.Tensor) -> Setting:
    setting = SETTINGS[name](spectra.shape[-1])
    setting.fit(spectra, n_atoms)
    return setting


def logits_of(name: str, target: torch.Tensor) -> torch.Tensor:
    """Logits that `activate` turns into the target."""
    return target.log() if name.startswith("sumnorm") else target


@pytest.mark.parametrize("name", SETTINGS)
def test_a_perfect_network_gives_the_label_back_without_loss(name: str) -> None:
    n_atoms = torch.tensor([1, 2, 3, 4, 5])
    spectra = random_spectra(5, SIZE) * n_atoms[:, None]
    setting = fitted(name, spectra, n_atoms)
    target = setting.target(spectra, n_atoms)
    logits = logits_of(name, target)
    torch.testing.assert_close(setting.activate(logits), target, atol=1e-5, rtol=1e-4)
    assert abs(setting.loss(logits, target).item()) < 1e-5
    expected = {
        "absolute": spectra,
        "sum-normalized": spectra / spectra.sum(-1, keepdim=True),
        "max-normalized": spectra / spectra.amax(-1, keepdim=True),
    }[setting.output]
    torch.testing.assert_close(setting.decode(logits, n_atoms), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_targets_and_predictions_do_not_depend_on_the_size_of_the_cell(name: str) -> None:
    n_atoms = torch.tensor([1, 2, 3, 4, 5])
    spectra = random_spectra(5, SIZE) * n_atoms[:, None]
    setting = fitted(name, spectra, n_atoms)
    torch.testing.assert_close(
        setting.target(spectra, n_atoms), setting.target(3 * spectra, 3 * n_atoms)
    )


def test_standard_targets_have_zero_mean_and_unit_variance_per_bin() -> None:
    n_atoms = torch.randint(1, 9, (200,))
    spectra = random_spectra(200, SIZE) * n_atoms[:, None]
    target = fitted("standard-mae", spectra, n_atoms).target(spectra, n_atoms)
    torch.testing.assert_close(target.mean(0), torch.zeros(SIZE), atol=1e-4, rtol=0)
    torch.testing.assert_close(target.std(0), torch.ones(SIZE), atol=1e-2, rtol=0)


def test_a_bin_that_is_empty_in_training_does_not_blow_up_later() -> None:
    """Imaginary modes: a first such label would otherwise weigh a million times the others."""
    train = random_spectra(50, SIZE)
    train[:, 0] = 0.0
    setting = fitted("standard-mae", train, torch.ones(50))
    later = random_spectra(1, SIZE, seed=9)
    later[0, 0] = 0.5
    assert setting.target(later, torch.ones(1)).abs().max() < 100


def test_max_normalised_predictions_can_be_empty_and_always_have_a_maximum() -> None:
    setting = SETTINGS["maxnorm-mse"](3)
    logits = torch.tensor([[-1.0, 2.0, 4.0], [-3.0, -1.0, -2.0]], requires_grad=True)
    spectra = setting.activate(logits)
    torch.testing.assert_close(spectra, torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.5]]))
    setting.loss(logits, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])).backward()
    assert (logits.grad != 0).any(-1).all()


def test_max_normalised_losses_are_sums_over_the_bins() -> None:
    logits, target = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.25, 1.0, 0.5]])
    expected = {"maxnorm-mse": 0.25**2 + 2 * 0.5**2, "maxnorm-mae": 1.25}
    for name, value in expected.items():
        assert SETTINGS[name](3).loss(logits, target).item() == pytest.approx(value)


def test_an_uncertain_peak_may_stay_low_under_the_absolute_error() -> None:
    """The same peak is in the third bin as often as in the fourth: the median is smaller."""
    target = torch.eye(4)[[0, 1, 2, 3]]
    hedged = SETTINGS["maxnorm-mae"](4).activate(torch.full((4, 4), 0.1))
    torch.testing.assert_close(hedged, torch.full((4, 4), 0.1))
    setting = SETTINGS["maxnorm-mae"](4)
    low, one = torch.zeros(4, 4), torch.eye(4)[[1, 1, 1, 1]]
    assert setting.loss(low, target) < setting.loss(one, target)


def test_an_empty_prediction_can_fill_again() -> None:
    logits = torch.full((2, 3), -1.0, requires_grad=True)
    SETTINGS["maxnorm-mae"](3).loss(logits, torch.eye(3)[:2]).backward()
    assert (logits.grad != 0).any(-1).all()


def test_statistics_of_a_single_spectrum_are_finite() -> None:
    setting = fitted("standard-mae", random_spectra(1, SIZE), torch.ones(1))
    assert setting.target(random_spectra(2, SIZE), torch.ones(2)).isfinite().all()


def test_settings_carry_their_statistics_in_the_state() -> None:
    spectra, n_atoms = random_spectra(9, SIZE), torch.ones(9)
    setting = fitted("standard-mae", spectra, n_atoms)
    other = SETTINGS["standard-mae"](SIZE)
    other.load_state_dict(setting.state_dict())
    torch.testing.assert_close(other.target(spectra, n_atoms), setting.target(spectra, n_atoms))


def test_metrics_by_hand() -> None:
    label = np.array([[1.0, 3.0], [3.0, 1.0]])
    prediction = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert mae(prediction, label) == 0.5
    assert mse(prediction, label) == 0.5
    assert r2(prediction, label) == 1 - 2 / 4
    assert r2(label, label) == 1.0
    assert r2(np.broadcast_to(label.mean(0), label.shape), label) == 0.0
    np.testing.assert_allclose(wasserstein_distances(prediction, label, 0.5), [0, 0.125])
    assert set(spectrum_metrics(prediction, label, 0.5)) == {"r2", "mae", "mse", "wd"}


def test_standard_errors_are_those_of_means_over_materials() -> None:
    rng = np.random.default_rng(0)
    prediction, label = rng.random((2, 9, 5))
    found = standard_errors(prediction, label, 0.5)
    per_material = {
        "mae": [mae(p, t) for p, t in zip(prediction, label, strict=True)],
        "mse": [mse(p, t) for p, t in zip(prediction, label, strict=True)],
        "wd": wasserstein_distances(prediction, label, 0.5),
    }
    assert found.keys() == per_material.keys()
    for name, values in per_material.items():
        assert found[name] == pytest.approx(sem(values))
        assert spectrum_metrics(prediction, label, 0.5)[name] == pytest.approx(np.mean(values))
    assert standard_errors(prediction[:1], label[:1], 0.5) == {}
