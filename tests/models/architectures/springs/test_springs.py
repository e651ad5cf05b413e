"""The model of springs: what holds for the other architectures too, and what is its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from models.architectures.registry import build_model, config_for, graphs_for, unsuited
from models.architectures.springs.lattice_dynamics import Springs
from models.architectures.springs.model import SpringModel, SpringsConfig
from models.crystal import Crystal
from models.data.dataset import SpectrumDataset
from models.data.splits import split_dataset
from models.errors import ModelError
from models.graphs.graph import GraphBatch, GraphConfig, build_graph, collate
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, PHDOS_PAPER_GRID, EnergyGrid
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from screening.benchmark.runs import predict
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystals,
    rocksalt,
    rotated,
    supercell,
)

GRID = EnergyGrid(start=-20.0, width=20.0, size=40, unit="cm^-1")
every_setting = pytest.mark.parametrize("setting_name", ["sumnorm-wd", "sumnorm-kl"])


def small(setting_name: str = "sumnorm-wd", **changes: object) -> SpringModel:
    torch.manual_seed(0)
    setting = SETTINGS[setting_name](GRID.size, False)
    fields = {"members": 2, "hidden": 32, "dropout": 0.0, "kernel": 0.0} | changes
    model = build_model("springs", GRID.size, config_for("springs", fields, setting, GRID))
    assert isinstance(model, SpringModel)
    return model


class Nature(SpringModel):
    """Crystals whose springs are known: k_L = 900 d^-3 N/m over r^6, k_T a fifth of it."""

    def springs(self, batch: GraphBatch) -> list[Springs]:
        bonds = self._bonds(batch)
        stiffness = bonds.within * 900 * batch.distance**-3 * bonds.ratio**-6
        return [Springs(stiffness, 0.2 * stiffness) for _ in self.members]


@cache
def examples(n: int = 8) -> tuple[GraphBatch, torch.Tensor]:
    """Crystals and their spectra as `Nature` has them."""
    batch = batch_of(random_crystals(n))
    config = SpringsConfig(members=1, kernel=0, grid=GRID)
    with torch.inference_mode():
        spectra = Nature(GRID.size, config).member_spectra(batch)[0]
    return batch, spectra.clone()


def fit(model: SpringModel, setting_name: str, steps: int, n: int = 8) -> SpringModel:
    batch, spectra = examples(n)
    setting = SETTINGS[setting_name](GRID.size, False)
    target = setting.target(spectra, batch.n_atoms)
    model.fit(batch, target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model.losses(batch, target, setting)["total"].backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@cache
def trained(kernel: float = 0.3) -> SpringModel:
    """A model that tells materials apart, so that an invariance it lacks would show."""
    return fit(small(kernel=kernel, members=1), "sumnorm-wd", 15)


def shapes(crystals: list[Crystal], model: SpringModel | None = None) -> torch.Tensor:
    model = model or trained()
    with torch.inference_mode():
        return model(batch_of(crystals)).softmax(-1)


@pytest.mark.parametrize("grid", [PHDOS_GRID, PHDOS_PAPER_GRID, GRID])
def test_any_grid(grid: EnergyGrid) -> None:
    model = SpringModel(grid.size, SpringsConfig(members=1, hidden=16, grid=grid)).eval()
    logits = model(batch_of(random_crystals(3)))
    assert logits.shape == (3, grid.size)
    assert logits.isfinite().all()


def test_the_order_of_the_atoms_does_not_matter() -> None:
    crystals, rng = random_crystals(6), np.random.default_rng(0)
    shuffled = [permuted(c, rng.permutation(len(c))) for c in crystals]
    torch.testing.assert_close(shapes(shuffled), shapes(crystals), atol=1e-4, rtol=1e-3)


def test_a_doubled_cell_has_the_same_spectrum() -> None:
    crystals = [rocksalt(), *random_crystals(4)]
    larger = [supercell(c, (2, 1, 1)) for c in crystals]
    model = fit(small(members=1, mesh=22.0), "sumnorm-wd", 2)
    torch.testing.assert_close(shapes(larger, model), shapes(crystals, model), atol=1e-4, rtol=1e-3)


def test_another_supercell_has_nearly_the_same_spectrum() -> None:
    """Its mesh has other points; the spectra are as near as the meshes are fine."""
    crystals = [rocksalt(), *random_crystals(3)]
    larger = [supercell(c, (1, 1, 3)) for c in crystals]
    distance = (shapes(larger) - shapes(crystals)).cumsum(-1).abs().sum(-1) * GRID.width
    assert distance.max() < 12.0  # cm^-1, where different materials differ by some 100


def test_a_rotation_does_not_matter() -> None:
    crystals = [rocksalt(), *random_crystals(5)]
    turned = [rotated(c, seed) for seed, c in enumerate(crystals)]
    torch.testing.assert_close(shapes(turned), shapes(crystals), atol=1e-4, rtol=1e-3)


def test_structure_and_elements_do_matter() -> None:
    one, strained, other = shapes([rocksalt(), rocksalt(a=5.0), rocksalt(cation=3)])
    assert (one - strained).abs().max() > 1e-3
    assert (one - other).abs().max() > 1e-3


def test_the_rest_of_the_batch_does_not_matter() -> None:
    crystals = random_crystals(7)
    alone = torch.cat([shapes([c]) for c in crystals])
    torch.testing.assert_close(shapes(crystals), alone, atol=1e-4, rtol=1e-3)


@every_setting
def test_gradients_reach_every_parameter(setting_name: str) -> None:
    batch, spectra = examples()
    setting = SETTINGS[setting_name](GRID.size, False)
    model = small(setting_name, mesh=5.0)
    model.losses(batch, setting.target(spectra, batch.n_atoms), setting)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@every_setting
def test_overfits_eight_materials(setting_name: str) -> None:
    """A third of the error of the mean spectrum."""
    batch, spectra = examples()
    setting = SETTINGS[setting_name](GRID.size, False)
    target = setting.target(spectra, batch.n_atoms)
    model = fit(small(setting_name, members=1), setting_name, 90)
    with torch.inference_mode():
        error = (setting.activate(model(batch)) - target).abs().mean()
    assert error < 0.33 * (target - target.mean(0)).abs().mean()


def test_it_finds_the_springs_of_materials_it_has_not_seen() -> None:
    """From spectra alone, to a third, where they differ by factors."""
    model = fit(small(members=1), "sumnorm-wd", 60, n=24)
    batch = batch_of(random_crystals(6, seed=9))
    nature = Nature(GRID.size, SpringsConfig(members=1, grid=GRID)).springs(batch)[0]
    with torch.inference_mode():
        found = model.springs(batch)[0]
    strong = nature.longitudinal > 10.0
    ratio = found.longitudinal[strong] / nature.longitudinal[strong]
    assert ratio.log().abs().median() < 0.3
    assert nature.longitudinal[strong].log().std() > 0.5


def test_both_directions_of_a_bond_have_the_same_spring() -> None:
    batch, springs = batch_of([rocksalt()]), trained().springs(batch_of([rocksalt()]))[0]
    nearest = batch.distance < 3
    for k in (springs.longitudinal, springs.transverse):
        assert k[nearest].std() < 1e-4 * k[nearest].mean()
    assert (springs.transverse < springs.longitudinal)[nearest].all()


def test_a_bond_beyond_the_reach_is_no_spring() -> None:
    batch = batch_of([rocksalt()])
    springs = small(reach=1.01).springs(batch)[0]
    assert (springs.longitudinal[batch.distance > 3] == 0).all()
    assert (springs.longitudinal[batch.distance < 3] > 0).all()


def test_the_kernel_regression_is_a_share_of_the_prediction() -> None:
    model, batch = trained(), batch_of(random_crystals(4, seed=3))
    with torch.inference_mode():
        alone = model.member_spectra(batch).mean(0)
        regression = model.kernel(model._standardized(batch)).clamp_min(0)
        expected = 0.7 * alone + 0.3 * regression / regression.sum(-1, keepdim=True)
        torch.testing.assert_close(model(batch).softmax(-1), expected, atol=1e-5, rtol=1e-3)


def test_a_crystal_without_modes_on_the_grid_has_a_flat_spectrum() -> None:
    """Such as one that is compressed a lot; never NaN."""
    model = small()
    for member in model.members:
        member.stiffness.data[0] = 30.0
    logits = model(batch_of([rocksalt()]))
    torch.testing.assert_close(logits.softmax(-1), torch.full_like(logits, 1 / GRID.size))


def test_training_keeps_what_was_fitted(tmp_path: Path) -> None:
    batch, spectra = examples(24)
    ids = tuple(f"x-{i:03d}" for i in range(24))
    dataset = SpectrumDataset(ids, batch, spectra, GRID, {}, extensive=False)
    config = TrainingConfig(
        name="x",
        labels=(Path("none.parquet"),),
        architecture="springs",
        model={"members": 1, "hidden": 16},
        settings=("sumnorm-wd",),
        epochs=2,
        batch_size=8,
    )
    split = split_dataset(ids, 0)
    trained = train_setting(config, "sumnorm-wd", dataset, split)
    assert trained.checkpoint.card.config["grid"] == GRID.model_dump()
    assert trained.checkpoint.card.graph.vectors
    save_checkpoint(tmp_path / "sumnorm-wd", trained.checkpoint)
    again = load_checkpoint(tmp_path / "sumnorm-wd")
    np.testing.assert_allclose(
        predict(again, dataset), predict(trained.checkpoint, dataset), atol=1e-6
    )


@pytest.mark.parametrize(
    ("setting_name", "grid"),
    [("standard-mae", PHDOS_GRID), ("maxnorm-mae", PHDOS_GRID), ("sumnorm-wd", EDOS_GRID)],
)
def test_it_predicts_shapes_of_phonon_spectra_only(setting_name: str, grid: EnergyGrid) -> None:
    setting = SETTINGS[setting_name](grid.size, False)
    assert not unsuited("mat2spec", setting, grid)
    with pytest.raises(ModelError, match=f"only, not {setting_name} on a grid in {grid.unit[:2]}"):
        config_for("springs", {}, setting, grid)


def test_it_asks_for_edge_vectors() -> None:
    with pytest.raises(ModelError, match="springs needs graphs with edge vectors"):
        small()(collate([build_graph(rocksalt())]))
    assert graphs_for("springs", GraphConfig()).vectors


def test_a_wrong_configuration_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"^springs configuration, colour"):
        build_model("springs", 66, {"colour": "red"})
    with pytest.raises(ModelError, match=r"^springs: 51 bins, but a grid of 66"):
        build_model("springs", 51)


def test_spectra_are_of_different_members() -> None:
    members = small().member_spectra(batch_of(random_crystals(3)))
    assert members.shape == (2, 3, GRID.size)
    torch.testing.assert_close(members.sum(-1), torch.ones(2, 3))
    assert (members[0] - members[1]).abs().max() > 1e-4
