"""What holds for every architecture: a class of tests to inherit from, once for each.

A new architecture needs its name and a small configuration, and gets all tests::

    class TestGATGNN(ArchitectureBattery):
        name = "gatgnn"
        small: ClassVar = {"hidden": [32, 32]}
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.architectures.interface import Architecture
from models.architectures.parts.ensemble import Ensemble
from models.architectures.registry import (
    ARCHITECTURES,
    build_model,
    config_for,
    graphs_for,
    unsuited,
)
from models.crystal import Crystal
from models.errors import ModelError
from models.graphs.graph import GraphBatch, GraphConfig, build_graph, collate
from models.spectra.settings import SETTINGS, Setting
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid
from models.training.checkpoint import (
    Checkpoint,
    CheckpointCard,
    load_checkpoint,
    save_checkpoint,
)
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystals,
    random_spectra,
    rocksalt,
    rotated,
    supercell,
)

GRID = EnergyGrid(start=-0.5, width=0.0625, size=16)


class AsOnGpu(TorchDispatchMode):
    """Refuses what a CPU can do and a GPU cannot: matrix products of integers."""

    products: ClassVar = {"mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        if func.overloadpacket.__name__ in self.products:
            assert all(x.is_floating_point() or x.is_complex() for x in tensors), func
        return func(*args, **kwargs or {})


class ArchitectureBattery:
    """Tests of one architecture, on random crystals with up to eight atoms.

    Attributes
    ----------
    name : str
        In the registry.
    small : dict
        Fields of a small configuration that is trained in seconds, without dropout.
    settings : tuple of str
        All that it can be trained under, the one of `trained` first.
    grid : EnergyGrid
    extensive : bool
        Labels are in states/eV/cell.
    seed, learning_rate, steps : int, float, int
        With which it learns eight materials by heart.
    by_heart : float
        Error it then has, over that of the mean spectrum.
    tolerance : dict
        Of shapes that must be the same.
    """

    name: ClassVar[str]
    small: ClassVar[dict[str, Any]] = {}
    settings: ClassVar[tuple[str, ...]] = ("sumnorm-kl", *(SETTINGS.keys() - {"sumnorm-kl"}))
    grid: ClassVar[EnergyGrid] = GRID
    extensive: ClassVar[bool] = True
    seed: ClassVar[int] = 0
    learning_rate: ClassVar[float] = 1e-2
    steps: ClassVar[int] = 180
    by_heart: ClassVar[float] = 0.15
    tolerance: ClassVar[dict[str, float]] = {"atol": 1e-5, "rtol": 1e-4}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "setting_name" in metafunc.fixturenames:
            metafunc.parametrize("setting_name", sorted(self.settings))

    @classmethod
    def labels(cls, batch: GraphBatch) -> Tensor:
        """Spectra (B, K') that it can learn."""
        spectra = random_spectra(len(batch), cls.grid.size)
        return spectra * batch.n_atoms[:, None] if cls.extensive else spectra

    @classmethod
    def setting(cls, name: str, size: int | None = None) -> Setting:
        return SETTINGS[name](size or cls.grid.size, cls.extensive)

    @classmethod
    def model(cls, setting_name: str = "", size: int | None = None, **changes: Any) -> Architecture:
        """A small model with random weights."""
        torch.manual_seed(cls.seed)
        setting = cls.setting(setting_name or cls.settings[0], size)
        grid = cls.grid.model_copy(update={"size": setting.size})
        config = config_for(cls.name, cls.small | changes, setting, grid)
        return build_model(cls.name, setting.size, config)

    @classmethod
    def prepared(
        cls, setting_name: str, n: int = 8, **changes: Any
    ) -> tuple[Architecture, Setting, GraphBatch, Tensor]:
        """A small model that is fitted but not trained, its setting, a batch and its targets."""
        batch, setting = batch_of(random_crystals(n)), cls.setting(setting_name)
        spectra = cls.labels(batch)
        setting.fit(spectra, batch.n_atoms)
        target = setting.target(spectra, batch.n_atoms)
        model = cls.model(setting_name, **changes)
        model.fit(batch, target)
        return model, setting, batch, target

    @classmethod
    @cache
    def trained(
        cls, setting_name: str = "", n: int = 8, steps: int = 0, **changes: Any
    ) -> Architecture:
        """A model that tells materials apart, so that an invariance it lacks would show."""
        model, setting, batch, target = cls.prepared(setting_name or cls.settings[0], n, **changes)
        steps = steps or cls.steps
        optimizer = torch.optim.AdamW(model.parameters(), lr=cls.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            model.losses(batch, target, setting)["total"].backward()
            optimizer.step()
            schedule.step()
        return model.eval()

    def shapes(
        self, crystals: list[Crystal], config: GraphConfig = GraphConfig(vectors=True)
    ) -> Tensor:
        """SumNorm spectra of the trained model."""
        model = self.trained()
        with torch.inference_mode():
            return model(batch_of(crystals, config)).softmax(-1)

    def assert_same(self, changed: list[Crystal], crystals: list[Crystal]) -> None:
        torch.testing.assert_close(self.shapes(changed), self.shapes(crystals), **self.tolerance)

    @pytest.mark.parametrize("size", [16, 51, 128])
    def test_any_grid_length(self, size: int) -> None:
        logits = self.model(size=size).eval()(batch_of(random_crystals(3)))
        assert logits.shape == (3, size)
        assert logits.isfinite().all()

    @pytest.mark.slow
    def test_the_order_of_the_atoms_does_not_matter(self) -> None:
        crystals, rng = random_crystals(6), np.random.default_rng(0)
        self.assert_same([permuted(c, rng.permutation(len(c))) for c in crystals], crystals)

    @pytest.mark.slow
    @pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
    def test_a_supercell_has_the_same_spectrum(self, repeats: tuple[int, int, int]) -> None:
        crystals = [rocksalt(), *random_crystals(5)]
        self.assert_same([supercell(c, repeats) for c in crystals], crystals)

    @pytest.mark.slow
    def test_a_rotation_does_not_matter(self) -> None:
        crystals = [rocksalt(), *random_crystals(5)]
        self.assert_same([rotated(c, seed) for seed, c in enumerate(crystals)], crystals)

    @pytest.mark.parametrize("change", ["order", "supercell", "rotation"])
    def test_the_embedding_is_the_crystals(self, change: str) -> None:
        crystals, rng = [rocksalt(), *random_crystals(5)], np.random.default_rng(0)
        changed = {
            "order": [permuted(c, rng.permutation(len(c))) for c in crystals],
            "supercell": [supercell(c, (1, 3, 2)) for c in crystals],
            "rotation": [rotated(c, seed) for seed, c in enumerate(crystals)],
        }[change]
        model = self.trained()
        with torch.inference_mode():
            before, after = model.embedding(batch_of(crystals)), model.embedding(batch_of(changed))
        assert (before is None) == (self.name == "toy")
        if before is not None and after is not None:
            deviation = before.std(0).clamp_min(1e-3)
            assert (before[1:] - before[0]).abs().mean() > 0.1 * deviation.mean()
            torch.testing.assert_close(after / deviation, before / deviation, atol=5e-3, rtol=1e-3)

    def test_one_pass_says_what_separate_ones_say(self) -> None:
        model, batch = self.trained(), batch_of(random_crystals(5))
        with torch.inference_mode():
            logits, insights = model.logits_and_insights(batch)
            separate = model(batch), model.embedding(batch)
        torch.testing.assert_close(logits, separate[0], atol=0, rtol=0)
        torch.testing.assert_close(insights.embedding, separate[1], atol=0, rtol=0)

    def test_the_spread_is_the_mean_distance_of_the_members_from_their_mean(self) -> None:
        batch = batch_of(random_crystals(3))
        has_members = "members" in ARCHITECTURES[self.name].Config.model_fields
        model = self.model(members=2) if has_members else self.model()
        with torch.inference_mode():
            spread = model.eval().logits_and_insights(batch)[1].member_spread
            assert (spread is not None) == has_members
            if spread is None:
                return
            of_members = self.member_shapes(model, batch).double().numpy()
        bins = np.arange(of_members.shape[-1])
        for crystal, found in enumerate(spread.tolist()):
            shapes = of_members[:, crystal]
            slow = [wasserstein_distance(bins, bins, shape, shapes.mean(0)) for shape in shapes]
            assert found == pytest.approx(np.mean(slow), rel=1e-3, abs=1e-6)
            assert found > 0

    def member_shapes(self, model: Architecture, batch: GraphBatch) -> Tensor:
        """SumNorm spectra of each member, shape (members, B, K')."""
        assert isinstance(model, Ensemble)
        return model.member_logits(batch).softmax(-1)

    def test_one_member_has_no_spread(self) -> None:
        if "members" in ARCHITECTURES[self.name].Config.model_fields:
            model = self.model(members=1).eval()
            assert model.logits_and_insights(batch_of([rocksalt()]))[1].member_spread is None

    def test_structure_and_elements_do_matter(self) -> None:
        one, strained, other = self.shapes([rocksalt(), rocksalt(a=5.0), rocksalt(cation=3)])
        assert (one - strained).abs().max() > 1e-3
        assert (one - other).abs().max() > 1e-3

    def test_the_rest_of_the_batch_does_not_matter_in_evaluation(self) -> None:
        crystals = random_crystals(7)
        alone = torch.cat([self.shapes([crystal]) for crystal in crystals])
        atol, rtol = self.tolerance["atol"] / 10, self.tolerance["rtol"]
        torch.testing.assert_close(self.shapes(crystals), alone, atol=atol, rtol=rtol)

    def test_it_gets_the_graphs_that_it_needs(self) -> None:
        crystals, asked = [rocksalt(), supercell(rocksalt(), (1, 1, 2))], GraphConfig(cutoff=6)
        needed = graphs_for(self.name, asked)
        assert needed.cutoff == asked.cutoff
        assert graphs_for(self.name, needed) == needed
        if needed.vectors:
            with pytest.raises(ModelError, match=f"{self.name} needs graphs with edge vectors"):
                self.model()(collate([build_graph(rocksalt())]))
        else:  # the same of graphs with a node for all atoms that look the same
            torch.testing.assert_close(
                self.shapes(crystals, needed),
                self.shapes(crystals, needed.model_copy(update={"merge": False})),
                **self.tolerance,
            )

    def test_gradients_reach_every_parameter(self, setting_name: str) -> None:
        model, setting, batch, target = self.prepared(setting_name)
        model.train()
        model.losses(batch, target, setting)["total"].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    @pytest.mark.slow
    def test_overfits_eight_materials(self, setting_name: str) -> None:
        """In evaluation mode."""
        _, setting, batch, target = self.prepared(setting_name)
        first = setting_name == self.settings[0]
        model = self.trained() if first else self.trained(setting_name)
        with torch.inference_mode():
            error = (setting.activate(model(batch)) - target).abs().mean()
        assert error < self.by_heart * (target - target.mean(0)).abs().mean()

    @pytest.mark.slow
    def test_mixed_precision_learns_and_says_nearly_the_same(self, setting_name: str) -> None:
        if self.model(setting_name).single_precision:
            pytest.skip(self.model(setting_name).single_precision)
        first = setting_name == self.settings[0]
        model = self.trained() if first else self.trained(setting_name)
        untrained, setting, batch, target = self.prepared(setting_name)
        with torch.inference_mode():
            single = setting.activate(model(batch))
            with torch.autocast("cpu", torch.bfloat16):
                mixed = setting.activate(model(batch)).float()
        assert 0 < (mixed - single).abs().mean() < 1e-2 * single.abs().mean()
        with torch.autocast("cpu", torch.bfloat16):
            loss = untrained.train().losses(batch, target, setting)["total"]
        loss.backward()
        gradients = [parameter.grad for parameter in untrained.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)

    def test_losses_are_named_scalars(self) -> None:
        model, setting, batch, target = self.prepared(self.settings[0])
        losses = model.losses(batch, target, setting, self.labels(batch))
        assert {"total", "prediction"} <= losses.keys()
        assert all(value.dim() == 0 and value.isfinite() for value in losses.values())

    def test_what_it_computes_a_gpu_can_compute(self) -> None:
        model, setting, batch, target = self.prepared(self.settings[0])
        with AsOnGpu():
            model.losses(batch, target, setting, self.labels(batch))["total"].backward()
            with torch.no_grad():
                model.eval()(batch)
            with pytest.raises(AssertionError, match="mm"):
                torch.ones(2, 2, dtype=torch.int64) @ torch.ones(2, 2, dtype=torch.int64)

    def test_it_is_kept_whole(self, tmp_path: Path) -> None:
        model, setting_name = self.trained(), self.settings[0]
        card = CheckpointCard(
            architecture=self.name,
            config=model.config.model_dump(),
            setting=setting_name,
            grid=self.grid,
            graph=graphs_for(self.name, GraphConfig()),
            elements=("Na",),
            extensive=self.extensive,
        )
        save_checkpoint(tmp_path / "x", Checkpoint(model, self.setting(setting_name), card))
        loaded, batch = load_checkpoint(tmp_path / "x").model, batch_of(random_crystals(4))
        assert loaded.config.model_dump() == model.config.model_dump()
        with torch.inference_mode():
            torch.testing.assert_close(loaded(batch), model(batch), atol=0, rtol=0)

    def test_a_wrong_configuration_is_one_line(self) -> None:
        line = rf"^{re.escape(self.name)} configuration, colour: "
        with pytest.raises(ModelError, match=line):
            build_model(self.name, self.grid.size, {"colour": "red"})

    @pytest.mark.parametrize("grid", [EDOS_GRID, PHDOS_GRID])
    def test_it_refuses_what_it_does_not_predict(self, grid: EnergyGrid) -> None:
        for setting_name in SETTINGS:
            setting = SETTINGS[setting_name](grid.size, self.extensive)
            if setting_name in self.settings and grid.unit == self.grid.unit:
                assert not unsuited(self.name, setting, grid)
            if unsuited(self.name, setting, grid):
                line = rf"^{self.name} predicts .* only, not {setting_name} on a grid in "
                with pytest.raises(ModelError, match=line):
                    config_for(self.name, {}, setting, grid)

    def test_it_is_registered(self) -> None:
        assert issubclass(ARCHITECTURES[self.name], Architecture)
