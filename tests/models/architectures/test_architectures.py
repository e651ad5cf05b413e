"""The architectures without tests of their own, and what a new one needs."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor, nn

from models.architectures.interface import Architecture, ArchitectureConfig
from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.layers import mlp
from models.architectures.registry import ARCHITECTURES, build_model
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from tests.models.architectures.battery import ArchitectureBattery

FOLDER = Path(__file__).parent


class TestGATGNN(ArchitectureBattery):
    name = "gatgnn"
    small: ClassVar = {"encoder": {"layers": 2, "width": 32}, "hidden": [32, 32]}


class TestE3NN(ArchitectureBattery):
    name = "e3nn"
    small: ClassVar = {"scalars": 32, "vectors": 4, "tensors": 2, "layers": 1, "radial": 16}
    learning_rate = 2e-2


class ToyConfig(ArchitectureConfig):
    hidden: int = 64


class Toy(Architecture):
    """A perceptron on the crystal's statistics."""

    Config = ToyConfig

    def __init__(self, size: int, config: ToyConfig) -> None:
        super().__init__(size, config)
        self.statistics = CrystalStatistics()
        hidden = mlp([CrystalStatistics.size, config.hidden, config.hidden])
        self.head = nn.Sequential(hidden, nn.Linear(config.hidden, size))

    def forward(self, batch: GraphBatch) -> Tensor:
        return self.head(self.statistics(batch))


class TestToy(ArchitectureBattery):
    """A new architecture is a class, a line in the registry and these lines of tests."""

    name = "toy"

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(ARCHITECTURES, "toy", Toy)


def test_every_architecture_has_a_battery() -> None:
    for path in FOLDER.rglob("test_*.py"):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        import_module(".".join(["tests.models.architectures", *parts]))
    tested = {battery.name for battery in ArchitectureBattery.__subclasses__()}
    assert tested == {*ARCHITECTURES, "toy"}


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown architecture 'cgcnn'; there are mat2spec"):
        build_model("cgcnn", 16)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ModelError, match="needs the package e3nn; install the extra `e3nn`"):
        build_model("e3nn", 16)
