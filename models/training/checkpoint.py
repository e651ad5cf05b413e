"""Checkpoints: weights as safetensors, everything else as JSON; nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from models.architectures.interface import Architecture
from models.architectures.registry import build_model
from models.array_files import ArrayFiles
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS, Setting
from models.spectra.spectrum import EnergyGrid
from models.zoo import REMEDY

FORMAT_VERSION = 1


class CheckpointCard(BaseModel):
    """What the weights are: the JSON file beside the safetensors file.

    Parameters
    ----------
    architecture, config : str, dict
        See :func:`models.architectures.registry.build_model`.
    setting : str
    grid : EnergyGrid
    graph : GraphConfig
        Of the graphs that it was trained on.
    elements : tuple of str
        In the training set.
    extensive : bool
        Its spectra grow with the cell.
    states : bool
        The logits are logarithms of states/eV/cell: an eDOS predictor needs no other checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    architecture: str
    config: dict[str, Any]
    setting: str
    grid: EnergyGrid
    graph: GraphConfig
    elements: tuple[str, ...]
    extensive: bool = True
    states: bool = False
    weights_sha256: str = ""
    training: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with its setting, in evaluation mode.

    Parameters
    ----------
    model : Architecture
    setting : Setting
    card : CheckpointCard
    """

    model: Architecture
    setting: Setting
    card: CheckpointCard


def save_checkpoint(stem: Path, checkpoint: Checkpoint, half: bool = False) -> CheckpointCard:
    """Write `stem`.safetensors and `stem`.json; the card returned names the weights' hash.

    Parameters
    ----------
    stem : Path
        A dot in its name is part of the name.
    checkpoint : Checkpoint
    half : bool
        Round the model's weights to half precision in the file; they are computed with in single
        precision again when it is loaded.
    """
    state = {f"model.{k}": v for k, v in checkpoint.model.state_dict().items()}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    state |= {f"setting.{k}": v for k, v in checkpoint.setting.state_dict().items()}
    data = save_tensors({k: v.detach().cpu().contiguous() for k, v in state.items()})
    return _files(stem).write(checkpoint.card, data)


def load_checkpoint(stem: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote.

    Parameters
    ----------
    stem : Path
    device : str or torch.device

    Raises
    ------
    ModelError
        If a file is missing or damaged, the hash of the weights is not the card's, or the
        weights do not fit the architecture.
    """
    files = _files(stem)
    card, tensors = files.read(load_tensors)
    if card.setting not in SETTINGS:
        raise files.error(files.card_file, f": unknown setting {card.setting!r}")
    model = build_model(card.architecture, card.grid.size, card.config)
    setting = SETTINGS[card.setting](card.grid.size, card.extensive)
    try:
        model.load_state_dict(_part(tensors, "model."))
        setting.load_state_dict(_part(tensors, "setting."))
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[0].split())
        raise files.error(
            files.arrays_file,
            f" does not fit its card, perhaps since it is of an earlier version ({reason})",
        ) from None
    return Checkpoint(model.to(device).eval(), setting.to(device).eval(), card)


def _files(stem: Path) -> ArrayFiles[CheckpointCard]:
    return ArrayFiles(stem, CheckpointCard, "weights_sha256", "checkpoint", REMEDY, indent=2)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
