"""The architectures by name, behind one interface."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from models.errors import ModelError
from models.graph import GraphBatch
from models.losses import Setting
from models.mat2spec import Mat2Spec, Mat2SpecConfig


class SpectrumModel(Protocol):
    """What training, checkpoints and prediction need of an architecture (an ``nn.Module``)."""

    config: BaseModel

    def __call__(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""
        ...

    def losses(self, batch: GraphBatch, target: Tensor, setting: Setting) -> dict[str, Tensor]:
        """Named scalars; ``"total"`` is minimised."""
        ...


_ARCHITECTURES: dict[str, tuple[type[nn.Module], type[BaseModel]]] = {
    "mat2spec": (Mat2Spec, Mat2SpecConfig),
}
ARCHITECTURES = tuple(_ARCHITECTURES)


def build_model(architecture: str, size: int, config: dict[str, Any] | None = None) -> nn.Module:
    """Untrained model of `size` bins.

    Raises
    ------
    ModelError
        If the architecture is unknown or a field of its configuration is wrong.
    """
    if architecture not in _ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"unknown architecture {architecture!r}; there are {known}")
    model_type, config_type = _ARCHITECTURES[architecture]
    try:
        return model_type(size, config_type.model_validate(config or {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ModelError(f"{architecture} configuration, {field}: {first['msg']}") from None
