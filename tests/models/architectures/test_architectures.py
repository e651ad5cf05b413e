"""What holds for every architecture under every setting.

The springs and tight binding, which predict one kind of spectrum only, have their own tests of
the same.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.architectures.registry import (
    ARCHITECTURES,
    FittedModel,
    build_model,
    config_for,
    graphs_for,
)
from models.errors import ModelError
from models.graphs.graph import GraphBatch, GraphConfig, build_graph, collate
from models.spectra.settings import SETTINGS, Setting
from models.spectra.spectrum import EnergyGrid
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystals,
    random_spectra,
    rocksalt,
    rotated,
    supercell,
)

SIZE = 16
GRID = EnergyGrid(start=-0.5, width=0.0625, size=SIZE)
ENCODER = {"layers": 2, "width": 32}
SMALL: dict[str, dict[str, Any]] = {
    "mat2spec": {
        "encoder": ENCODER,
        "latent": 16,
        "components": 10,
        "embedding": 128,
        "projection": 48,
    },
    "gatgnn": {"encoder": ENCODER, "hidden": [32, 32]},
    "e3nn": {"scalars": 32, "vectors": 4, "tensors": 2, "layers": 1, "radial": 16},
    "mat2spec+": {"members": 2, "width": 32, "hidden": 64},
}


def small_model(architecture: str, **changes: Any) -> nn.Module:
    return build_model(architecture, SIZE, SMALL[architecture] | changes)


@cache
def trained_model(architecture: str) -> nn.Module:
    """A model that tells materials apart, so that an invariance it lacks would show."""
    return fit(architecture, *prepared(architecture, "sumnorm-kl", dropout=0.0))


def fit(
    architecture: str,
    model: nn.Module,
    setting: Setting,
    batch: GraphBatch,
    target: torch.Tensor,
    steps: int = 180,
) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE[architecture])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model.losses(batch, target, setting)["total"].backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def prepared(
    architecture: str, setting_name: str, n: int = 8, **changes: Any
) -> tuple[nn.Module, Setting, GraphBatch, torch.Tensor]:
    """A small model, its setting, a batch and the scaled labels of it."""
    torch.manual_seed(0)
    batch = batch_of(random_crystals(n))
    spectra = random_spectra(n, SIZE) * batch.n_atoms[:, None]
    setting = SETTINGS[setting_name](SIZE)
    setting.fit(spectra, batch.n_atoms)
    fields = type(small_model(architecture).config).model_fields
    changes = {k: v for k, v in changes.items() if k in fields}
    model = small_model(architecture, **config_for(architecture, changes, setting, GRID))
    target = setting.target(spectra, batch.n_atoms)
    if isinstance(model, FittedModel):
        model.fit(batch, target)
    return model, setting, batch, target


def shapes(model: nn.Module, batch: GraphBatch) -> torch.Tensor:
    """SumNorm spectra."""
    with torch.inference_mode():
        return model(batch).softmax(-1)


def test_the_small_configurations_are_of_all_architectures() -> None:
    assert {*SMALL, "springs", "tight-binding"} == set(ARCHITECTURES)


LEARNING_RATE = {"mat2spec": 5e-3, "gatgnn": 1e-2, "e3nn": 2e-2, "mat2spec+": 1e-2}
STEPS = {"mat2spec": 300}  # both branches learn, from noisy latents
every_architecture = pytest.mark.parametrize("architecture", SMALL)
every_setting = pytest.mark.parametrize("setting_name", SETTINGS)


@every_architecture
@pytest.mark.parametrize("size", [16, 51, 128])
def test_any_grid_length(architecture: str, size: int) -> None:
    model = build_model(architecture, size, SMALL[architecture]).eval()
    logits = model(batch_of(random_crystals(3)))
    assert logits.shape == (3, size)
    assert logits.isfinite().all()


@every_architecture
def test_the_order_of_the_atoms_does_not_matter(architecture: str) -> None:
    model, crystals = trained_model(architecture), random_crystals(6)
    rng = np.random.default_rng(0)
    shuffled = [permuted(c, rng.permutation(len(c))) for c in crystals]
    torch.testing.assert_close(
        shapes(model, batch_of(shuffled)), shapes(model, batch_of(crystals)), atol=1e-5, rtol=1e-4
    )


@every_architecture
@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
def test_a_supercell_has_the_same_spectrum(
    architecture: str, repeats: tuple[int, int, int]
) -> None:
    model, crystals = trained_model(architecture), [rocksalt(), *random_crystals(5)]
    larger = [supercell(c, repeats) for c in crystals]
    torch.testing.assert_close(
        shapes(model, batch_of(larger)), shapes(model, batch_of(crystals)), atol=1e-5, rtol=1e-4
    )


@every_architecture
def test_a_rotation_does_not_matter(architecture: str) -> None:
    model, crystals = trained_model(architecture), [rocksalt(), *random_crystals(5)]
    turned = [rotated(c, seed) for seed, c in enumerate(crystals)]
    torch.testing.assert_close(
        shapes(model, batch_of(turned)), shapes(model, batch_of(crystals)), atol=1e-5, rtol=1e-4
    )


@every_architecture
def test_structure_and_elements_do_matter(architecture: str) -> None:
    model = trained_model(architecture)
    one, strained, other = shapes(
        model, batch_of([rocksalt(), rocksalt(a=5.0), rocksalt(cation=3)])
    )
    assert (one - strained).abs().max() > 1e-3
    assert (one - other).abs().max() > 1e-3


@every_architecture
def test_the_rest_of_the_batch_does_not_matter_in_evaluation(architecture: str) -> None:
    model, crystals = trained_model(architecture), random_crystals(7)
    together = shapes(model, batch_of(crystals))
    alone = torch.cat([shapes(model, batch_of([c])) for c in crystals])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-4)


@every_architecture
@every_setting
def test_gradients_reach_every_parameter(architecture: str, setting_name: str) -> None:
    model, setting, batch, target = prepared(architecture, setting_name, dropout=0.0)
    model.train()
    model.losses(batch, target, setting)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@every_architecture
@every_setting
def test_overfits_eight_materials(architecture: str, setting_name: str) -> None:
    """A seventh of the error of the mean spectrum, in evaluation mode."""
    model, setting, batch, target = prepared(architecture, setting_name, dropout=0.0)
    if setting_name == "sumnorm-kl":
        model = trained_model(architecture)
    else:
        fit(architecture, model, setting, batch, target, STEPS.get(architecture, 180))
    with torch.inference_mode():
        error = (setting.activate(model(batch)) - target).abs().mean()
    baseline = (target - target.mean(0)).abs().mean()
    assert error < 0.15 * baseline


def test_mat2specs_label_branch_learns_from_the_labels() -> None:
    """With the alignment of eq. 10 and the graph beside the latent, both losses are the same."""
    model = trained_model("mat2spec")
    _, setting, batch, target = prepared("mat2spec", "sumnorm-kl")
    with torch.inference_mode():
        true, shuffled = (
            setting.loss(model.label_logits(batch, target.roll(n, 0)), target).item()
            for n in (0, 4)
        )
    assert shuffled > 5 * true


@every_architecture
def test_losses_are_named_scalars(architecture: str) -> None:
    model, setting, batch, target = prepared(architecture, "sumnorm-kl")
    losses = model.losses(batch, target, setting)
    assert {"total", "prediction"} <= losses.keys()
    assert all(value.dim() == 0 and value.isfinite() for value in losses.values())


@every_architecture
def test_a_wrong_configuration_is_one_line(architecture: str) -> None:
    with pytest.raises(ModelError, match=rf"^{re.escape(architecture)} configuration, colour"):
        build_model(architecture, SIZE, {"colour": "red"})


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown architecture 'cgcnn'; there are mat2spec"):
        build_model("cgcnn", SIZE)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ModelError, match="needs the package e3nn; install the extra `e3nn`"):
        build_model("e3nn", SIZE)


def test_an_equivariant_model_asks_for_edge_vectors() -> None:
    batch = collate([build_graph(rocksalt())])
    with pytest.raises(ModelError, match="needs graphs with edge vectors"):
        small_model("e3nn")(batch)
    assert graphs_for("e3nn", GraphConfig(cutoff=6)) == GraphConfig(cutoff=6, vectors=True)
    assert graphs_for("gatgnn", GraphConfig(cutoff=6)) == GraphConfig(cutoff=6)
