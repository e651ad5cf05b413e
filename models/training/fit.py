"""Training of one model under one setting, through Lightning."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint as SavingCallback
from lightning.pytorch.callbacks import EarlyStopping

from models.architectures.interface import Architecture, StatesArchitecture
from models.architectures.registry import ARCHITECTURES, build_model, config_for, graphs_for
from models.data.dataset import SpectrumDataset, refuse_settings
from models.data.splits import Split
from models.errors import ModelError
from models.spectra.settings import SETTINGS, Setting
from models.training.batches import home_of
from models.training.callbacks import KeepBest, ProgressBar, SaveState
from models.training.checkpoint import Checkpoint, CheckpointCard
from models.training.config import TrainingConfig
from models.training.module import SpectrumModule

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class Hardware:
    """Where a training runs; the names are Lightning's.

    Parameters
    ----------
    accelerator : str
        ``"auto"``, ``"cpu"`` or ``"gpu"``.
    devices : int
        Processes, each with a device of its own, that share every batch (data parallel).
    precision : {'32-true', 'bf16-mixed'}
        Mixed precision computes matrix products in bfloat16, and keeps the weights in single
        precision.
    deterministic : bool
        The same weights to the last bit from the same seed. A GPU then sorts what it adds up; a
        CPU does so in either case.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: Precision = "32-true"
    deterministic: bool = True


def is_main_process() -> bool:
    """Whether this is the one process that prints and writes files."""
    return (
        int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    )


@torch.inference_mode()
def label_branch_losses(
    model: Architecture, setting: Setting, dataset: SpectrumDataset, batch_size: int
) -> dict[str, float]:
    """Prediction loss of the label branch with the true labels and with other materials'.

    A branch that gets the same loss with both knows nothing of the labels, only of the graph:
    it has collapsed, and what it is aligned with learns nothing from it.

    Parameters
    ----------
    model : Architecture
    setting : Setting
    dataset : SpectrumDataset
        Such as the validation materials.
    batch_size : int

    Returns
    -------
    dict
        ``"true"`` and ``"shuffled"``; empty for a model without label branch.
    """
    if not model.has_label_branch:
        return {}
    n = len(dataset)
    target = setting.target(dataset.spectra, dataset.graphs.n_atoms)
    own = torch.arange(n, device=target.device)
    losses = {}
    for name, order in {"true": own, "shuffled": own.roll(n // 2)}.items():
        total = 0.0
        for index in own.split(batch_size):
            graphs, given = dataset.graphs.select(index), order[index]
            logits = model.label_logits(graphs, target[given], dataset.spectra[given])
            total += len(index) * float(setting.loss(logits, target[index]))
        losses[name] = total / n
    return losses


@dataclass(frozen=True)
class Trained:
    """A trained checkpoint and how its training went.

    Parameters
    ----------
    checkpoint : Checkpoint
    best_epoch : int
        From 0; -1 if fine-tuning did not help.
    validation_mae : float
        Of that epoch, in the space of the scaled labels.
    seconds : float
    """

    checkpoint: Checkpoint
    best_epoch: int
    validation_mae: float
    seconds: float

    @property
    def label_branch(self) -> dict[str, float]:
        """What :func:`label_branch_losses` gave for the validation materials."""
        return self.checkpoint.card.training.get("label_branch", {})


def train_setting(
    config: TrainingConfig,
    setting_name: str,
    dataset: SpectrumDataset,
    split: Split,
    progress: bool = False,
    *,
    hardware: Hardware = Hardware(),
    state: Path | None = None,
    start: Checkpoint | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train one architecture under one setting; the best epoch's weights are kept.

    When the memory does not hold a batch, the training begins again with half of it.

    Parameters
    ----------
    config : TrainingConfig
    setting_name : str
        One of :data:`models.spectra.settings.SETTINGS`.
    dataset : SpectrumDataset
        All materials.
    split : Split
        Of the data set.
    progress : bool
        Show bars with the loss and the validation error.
    hardware : Hardware
    state : Path, optional
        File of the unfinished training: it goes on from there if the file exists, and is saved
        there now and then.
    start : Checkpoint, optional
        Fine-tune its weights, with its statistics of the labels, instead of random ones.
    announce : callable
        Gets one line when the training begins again, or the data set stays off the GPU.

    Raises
    ------
    ModelError
        If a material is in two parts of the split, the labels lack the scale that the setting
        needs, `start` is for another grid, the architecture is trained in single precision only,
        the validation error is never a number, or not even a batch of one fits.
    """
    because = ARCHITECTURES[config.architecture].single_precision
    if because and hardware.precision != "32-true":
        raise ModelError(
            f"{config.architecture} is trained with --precision 32-true only: {because}"
        )
    split.refuse_leaks(dataset.material_ids)
    refuse_settings(dataset, [setting_name])
    if start is not None and start.card.grid != dataset.grid:
        raise ModelError(f"{setting_name}: the model to fine-tune is for another grid")
    while True:
        try:
            return _train(
                config, setting_name, dataset, split, progress, hardware, state, start, announce
            )
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or hardware.devices > 1:
                raise
            if config.batch_size == 1:
                raise ModelError("out of memory with a batch of one material") from None
            half = config.batch_size // 2
            announce(f"{setting_name}: out of memory; begins again with batches of {half}")
            config = config.model_copy(update={"batch_size": half})
            if state is not None:
                state.unlink(missing_ok=True)


def _train(
    config: TrainingConfig,
    setting_name: str,
    dataset: SpectrumDataset,
    split: Split,
    progress: bool,
    hardware: Hardware,
    state: Path | None,
    start: Checkpoint | None,
    announce: Callable[[str], None],
) -> Trained:
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    setting = SETTINGS[setting_name](dataset.grid.size, dataset.extensive)
    fields = config_for(config.architecture, config.model, setting, dataset.grid)
    model = build_model(config.architecture, dataset.grid.size, fields)
    started, best = time.perf_counter(), KeepBest()
    callbacks: list[lightning.Callback] = [best]
    if config.patience:
        callbacks.append(EarlyStopping("validation_mae", patience=config.patience))
    if state is not None:
        callbacks.append(SaveState(state))
    trainer = _trainer(config, callbacks, hardware, progress)
    train, validation = dataset.subset(split.train), dataset.subset(split.validation)
    home = home_of(trainer.strategy.root_device, train, validation, announce=announce)
    train, validation = train.to(home), validation.to(home)
    model, setting = model.to(home), setting.to(home)
    if start is None:
        _fit(model, setting, train)
    else:
        model.load_state_dict(start.model.state_dict())
        setting.load_state_dict(start.setting.state_dict())
    module = SpectrumModule(model, setting, config, train, validation)
    _run(trainer, module, state, fine_tunes=start is not None)
    if not best.weights:
        raise ModelError(f"{setting_name}: the validation error was never a number")
    model.load_state_dict(best.weights)
    model, setting = model.to(home).eval(), setting.to(home).eval()
    model.fit_trained(train.graphs, setting.target(train.spectra, train.graphs.n_atoms))
    label_branch = label_branch_losses(model, setting, validation, config.batch_size)
    model, setting = model.cpu(), setting.cpu()
    card = CheckpointCard(
        architecture=config.architecture,
        config=model.config.model_dump(),
        setting=setting_name,
        grid=dataset.grid,
        graph=graphs_for(config.architecture, config.graph),
        elements=tuple(sorted({*train.elements, *(start.card.elements if start else ())})),
        extensive=dataset.extensive,
        states=isinstance(model, StatesArchitecture),
        training=_how(config, best) | ({"label_branch": label_branch} if label_branch else {}),
    )
    checkpoint = Checkpoint(model, setting, card)
    return Trained(checkpoint, best.epoch, best.error, time.perf_counter() - started)


def _fit(model: Architecture, setting: Setting, train: SpectrumDataset) -> None:
    """Fit what is not trained where the data are, or on the host if a GPU has no room for it."""
    setting.fit(train.spectra, train.graphs.n_atoms)
    target = setting.target(train.spectra, train.graphs.n_atoms)
    try:
        model.fit(train.graphs, target)
    except torch.OutOfMemoryError:
        if not target.is_cuda:
            raise
        model.cpu().fit(train.graphs.to("cpu"), target.cpu())


def _run(
    trainer: lightning.Trainer, module: SpectrumModule, state: Path | None, fine_tunes: bool
) -> None:
    """Train, from the state if it is there."""
    resumed = state if state is not None and state.exists() else None
    try:
        if fine_tunes and resumed is None:  # what it begins with may stay the best
            trainer.validate(module, verbose=False)
        # Only tensors and plain values are read back: a state file cannot run code.
        trainer.fit(module, ckpt_path=resumed, weights_only=True)
    except (UnpicklingError, EOFError, KeyError) as error:
        if resumed is None:
            raise
        raise ModelError(f"{resumed}: not the state of a training") from error
    except SystemExit:
        if trainer.interrupted:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise


def _how(config: TrainingConfig, best: KeepBest) -> dict[str, Any]:
    """How a checkpoint was trained, for its card."""
    return {
        "epochs": config.epochs,
        "epochs_run": best.epochs_run,
        "best_epoch": best.epoch,
        "validation_mae": best.error,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "seed": config.seed,
    }


def _out_of_memory(error: Exception) -> bool:
    """Whether a GPU or (torch says it only in words) the machine has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


def _trainer(
    config: TrainingConfig,
    callbacks: list[lightning.Callback],
    hardware: Hardware,
    progress: bool,
) -> lightning.Trainer:
    """Trainer without log files, checkpoints and advice about them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # Memory that nothing was written to is never read; to fill it takes a kernel each time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return lightning.Trainer(
        max_epochs=config.epochs,
        check_val_every_n_epoch=config.validate_every,
        callbacks=[*callbacks, *([ProgressBar()] if progress else [])],
        deterministic="warn" if hardware.deterministic else False,
        enable_progress_bar=progress,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=hardware.precision,
        strategy="auto" if hardware.devices == 1 else "ddp",
        logger=False,
        enable_checkpointing=any(isinstance(c, SavingCallback) for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
