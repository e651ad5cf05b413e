"""The architectures by name, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from models.architectures.e3nn import E3NN, E3NNConfig
from models.architectures.gatgnn import GATGNN, GATGNNConfig
from models.architectures.mat2spec.model import Mat2Spec, Mat2SpecConfig
from models.architectures.mat2spec_plus import Mat2SpecPlus, Mat2SpecPlusConfig
from models.architectures.springs.model import SpringModel, SpringsConfig
from models.errors import ModelError, describe
from models.graphs.graph import GraphBatch, GraphConfig
from models.spectra.settings import Setting
from models.spectra.spectrum import EnergyGrid


class SpectrumModel(Protocol):
    """What training, checkpoints and prediction need of an architecture (an ``nn.Module``)."""

    config: BaseModel

    def __call__(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""
        ...

    def losses(self, batch: GraphBatch, target: Tensor, setting: Setting) -> dict[str, Tensor]:
        """Named scalars; ``"total"`` is minimised."""
        ...


@runtime_checkable
class FittedModel(Protocol):
    """An architecture of which a part is fitted to the training set as a whole."""

    def fit(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit to all training materials and their scaled labels (n, K'), before training."""
        ...


@runtime_checkable
class LabelBranchModel(Protocol):
    """An architecture that, in training, also makes spectra of the labels themselves."""

    @property
    def has_label_branch(self) -> bool:
        """False where its configuration leaves the branch out."""
        ...

    def losses(
        self, batch: GraphBatch, target: Tensor, setting: Setting, spectra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As :meth:`SpectrumModel.losses`; `spectra` (B, K') are the labels before scaling."""
        ...

    def label_logits(
        self, batch: GraphBatch, target: Tensor, spectra: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K') of the label branch for scaled labels and labels before scaling."""
        ...


@dataclass(frozen=True)
class _Architecture:
    model: type[nn.Module]
    config: type[BaseModel]
    needs_vectors: bool = False
    phonon_shapes: bool = False


_ARCHITECTURES = {
    "mat2spec": _Architecture(Mat2Spec, Mat2SpecConfig),
    "gatgnn": _Architecture(GATGNN, GATGNNConfig),
    "e3nn": _Architecture(E3NN, E3NNConfig, needs_vectors=True),
    "mat2spec+": _Architecture(Mat2SpecPlus, Mat2SpecPlusConfig),
    "springs": _Architecture(SpringModel, SpringsConfig, needs_vectors=True, phonon_shapes=True),
}
ARCHITECTURES = tuple(_ARCHITECTURES)


def build_model(architecture: str, size: int, config: dict[str, Any] | None = None) -> nn.Module:
    """Untrained model of `size` bins.

    Raises
    ------
    ModelError
        If the architecture is unknown, a field of its configuration is wrong, or a package
        that it needs is not installed.
    """
    return _known(architecture).model(size, model_config(architecture, config))


def model_config(architecture: str, config: dict[str, Any] | None = None) -> BaseModel:
    """Checked configuration of an architecture, with its defaults.

    Raises
    ------
    ModelError
        If the architecture is unknown or a field is wrong.
    """
    try:
        return _known(architecture).config.model_validate(config or {})
    except ValidationError as error:
        raise ModelError(f"{architecture} configuration, {describe(error)}") from None


def unsuited(architecture: str, setting: Setting | type[Setting], grid: EnergyGrid) -> str:
    """Why an architecture does not predict such spectra; empty if it does."""
    shapes_of_phonons = grid.unit == "cm^-1" and setting.output == "sum-normalized"
    if shapes_of_phonons or not _known(architecture).phonon_shapes:
        return ""
    return (
        f"{architecture} predicts phonon spectra with the sum 1 (sumnorm-wd, sumnorm-kl) only, "
        f"not {setting.name} on a grid in {grid.unit}"
    )


def config_for(
    architecture: str, config: dict[str, Any], setting: Setting, grid: EnergyGrid
) -> dict[str, Any]:
    """The configuration with the setting's `output` and the grid, where they matter.

    Raises
    ------
    ModelError
        If the architecture does not predict such spectra.
    """
    if reason := unsuited(architecture, setting, grid):
        raise ModelError(reason)
    fields = _known(architecture).config.model_fields
    facts = {"output": setting.output, "grid": grid.model_dump()}
    return config | {name: value for name, value in facts.items() if name in fields}


def graphs_for(architecture: str, graph: GraphConfig) -> GraphConfig:
    """The graphs that an architecture needs: with edge vectors, if it asks for them."""
    if not _known(architecture).needs_vectors or graph.vectors:
        return graph
    return graph.model_copy(update={"vectors": True})


def _known(architecture: str) -> _Architecture:
    if architecture not in _ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"unknown architecture {architecture!r}; there are {known}")
    return _ARCHITECTURES[architecture]
