"""Checkpoints: weights as safetensors, everything else as JSON; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from models.architectures.interface import Architecture
from models.architectures.registry import build_model
from models.errors import ModelError, describe
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS, Setting
from models.spectra.spectrum import EnergyGrid
from models.writing import write_whole

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
    digest = hashlib.sha256(data).hexdigest()
    card = checkpoint.card.model_copy(update={"weights_sha256": digest})
    weights, card_file = _files(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights, data)
    write_whole(card_file, card.model_dump_json(indent=2) + "\n")
    return card


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
    weights, card_file = _files(stem)
    try:
        data = weights.read_bytes()
        card = CheckpointCard.model_validate_json(card_file.read_bytes())
    except OSError as error:
        raise ModelError(f"checkpoint {error.filename}: {error.strerror}") from None
    except ValidationError as error:
        raise ModelError(f"checkpoint {card_file}, {describe(error)}") from None
    if card.format_version != FORMAT_VERSION:
        raise ModelError(
            f"checkpoint {card_file} has format {card.format_version}, this version reads "
            f"{FORMAT_VERSION}; train it again with `screen train`"
        )
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise ModelError(f"checkpoint {weights}: its hash is not the one in {card_file.name}")
    if card.setting not in SETTINGS:
        raise ModelError(f"checkpoint {card_file}: unknown setting {card.setting!r}")
    model = build_model(card.architecture, card.grid.size, card.config)
    setting = SETTINGS[card.setting](card.grid.size, card.extensive)
    try:
        tensors = load_tensors(data)
        model.load_state_dict(_part(tensors, "model."))
        setting.load_state_dict(_part(tensors, "setting."))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"checkpoint {weights} does not fit its card, perhaps since it is of an earlier "
            f"version; train it again with `screen train` ({reason})"
        ) from None
    return Checkpoint(model.to(device).eval(), setting.to(device).eval(), card)


def _files(stem: Path) -> tuple[Path, Path]:
    """Weights and card; a dot in the name is part of the name."""
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
