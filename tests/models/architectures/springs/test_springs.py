"""The model of springs: what holds for the other architectures too, and what is its own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from models.architectures.registry import build_model, config_for, unsuited
from models.architectures.springs.lattice_dynamics import Springs
from models.architectures.springs.model import SpringModel, SpringsConfig
from models.data.dataset import SpectrumDataset
from models.data.splits import split_dataset
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from screening.benchmark.runs import predict
from tests.models.architectures.battery import ArchitectureBattery
from tests.models.model_examples import (
    batch_of,
    random_crystals,
    rocksalt,
    supercell,
)

GRID = EnergyGrid(start=-20.0, width=20.0, size=40, unit="cm^-1")


class Nature(SpringModel):
    """Crystals whose springs are known: k_L = 900 d^-3 N/m over r^6, k_T a fifth of it."""

    def springs(self, batch: GraphBatch) -> list[Springs]:
        bonds = self._bonds(batch)
        stiffness = bonds.within * 900 * batch.distance**-3 * bonds.ratio**-6
        return [Springs(stiffness, 0.2 * stiffness) for _ in self.members]


class TestSprings(ArchitectureBattery):
    name = "springs"
    small: ClassVar = {"members": 1, "hidden": 32, "dropout": 0.0, "kernel": 0.0}
    settings = ("sumnorm-wd", "sumnorm-kl")
    grid = GRID
    extensive = False
    steps, by_heart = 90, 0.33
    tolerance: ClassVar = {"atol": 1e-4, "rtol": 1e-3}

    @classmethod
    def labels(cls, batch: GraphBatch) -> torch.Tensor:
        """As `Nature` has them."""
        config = SpringsConfig(members=1, kernel=0, grid=GRID)
        with torch.inference_mode():
            spectra = Nature(GRID.size, config).member_spectra(batch)[0]
        return spectra.clone()

    @pytest.mark.parametrize("repeats", [(2, 1, 1)])
    def test_a_supercell_has_the_same_spectrum(self, repeats: tuple[int, int, int]) -> None:
        """A doubled one."""
        crystals = [rocksalt(), *random_crystals(4)]
        model, larger = self.trained(steps=2, mesh=22.0), [supercell(c, repeats) for c in crystals]
        with torch.inference_mode():
            one, other = (model(batch_of(cells)).softmax(-1) for cells in (crystals, larger))
        torch.testing.assert_close(other, one, **self.tolerance)

    def test_another_supercell_has_nearly_the_same_spectrum(self) -> None:
        """Its mesh has other points; the spectra are as near as the meshes are fine."""
        crystals = [rocksalt(), *random_crystals(3)]
        larger = [supercell(c, (1, 1, 3)) for c in crystals]
        difference = self.shapes(larger) - self.shapes(crystals)
        distance = difference.cumsum(-1).abs().sum(-1) * GRID.width
        assert distance.max() < 12.0  # cm^-1, where different materials differ by some 100


def small(**changes: object) -> SpringModel:
    model = TestSprings.model(**changes)
    assert isinstance(model, SpringModel)
    return model


def trained(kernel: float = 0.3) -> SpringModel:
    """For a few steps."""
    model = TestSprings.trained(steps=15, kernel=kernel)
    assert isinstance(model, SpringModel)
    return model


@pytest.mark.slow
def test_it_finds_the_springs_of_materials_it_has_not_seen() -> None:
    """From spectra alone, to a third, where they differ by factors."""
    model = TestSprings.trained(n=24, steps=60)
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
        regression = model.kernel(model.standardized(batch)).clamp_min(0)
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
    batch = batch_of(random_crystals(24))
    spectra = TestSprings.labels(batch)
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


def test_a_grid_of_another_length_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^springs: 51 bins, but a grid of 66"):
        build_model("springs", 51)


def test_spectra_are_of_different_members() -> None:
    members = small(members=2).member_spectra(batch_of(random_crystals(3)))
    assert members.shape == (2, 3, GRID.size)
    torch.testing.assert_close(members.sum(-1), torch.ones(2, 3))
    assert (members[0] - members[1]).abs().max() > 1e-4
