"""Training of one model under one setting, through Lightning."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from models.threads import torch_threads
from models.training.batches import GraphLoader, home_of
from models.training.callbacks import KeepBest, ProgressBar, SaveState
from models.training.checkpoint import (
    Checkpoint,
    CheckpointCard,
    load_checkpoint,
    save_checkpoint,
)
from models.training.config import TrainingConfig
from models.training.members import Member, members_of
from models.training.module import SpectrumModule
from models.training.side_by_side import Announce, train_side_by_side
from models.writing import write_whole

Precision = Literal["32-true", "bf16-mixed"]
MEMBER_FACTS = ("seed", "best_epoch", "validation_mae")
"""What the card of a model keeps of the training of each member that was trained apart."""


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
        From 0; -1 if fine-tuning did not help. Of members that are trained apart, the latest.
    validation_mae : float
        Of that epoch, in the space of the scaled labels; of members that are trained apart, that
        of the whole model as it predicts.
    seconds : float
        0 of one that was trained before.
    """

    checkpoint: Checkpoint
    best_epoch: int
    validation_mae: float
    seconds: float

    @classmethod
    def kept(cls, stem: Path) -> Trained | None:
        """What :func:`save_checkpoint` wrote of a finished training; None if it did not."""
        if not stem.with_name(f"{stem.name}.json").exists():
            return None
        checkpoint = load_checkpoint(stem)
        training = checkpoint.card.training
        return cls(checkpoint, training["best_epoch"], training["validation_mae"], 0.0)

    @property
    def label_branch(self) -> dict[str, float]:
        """What :func:`label_branch_losses` gave for the validation materials."""
        return self.checkpoint.card.training.get("label_branch", {})

    @property
    def in_words(self) -> str:
        """Error, best epoch and time."""
        took = f"{self.seconds:.0f} s" if self.seconds else "trained before"
        members = self.checkpoint.card.training.get("members")
        of = f"of {len(members)} members" if members else f"at epoch {self.best_epoch + 1}"
        return f"validation MAE {self.validation_mae:.4g} {of}, {took}"


@dataclass(frozen=True, eq=False)
class _Task:
    """What the members of an ensemble, or the attempts to train with less memory, share.

    Parameters
    ----------
    setting_name : str
    train, validation : SpectrumDataset
        On the device where they stay.
    hardware : Hardware
    progress : bool
        Show bars.
    """

    setting_name: str
    train: SpectrumDataset
    validation: SpectrumDataset
    hardware: Hardware
    progress: bool

    @property
    def home(self) -> torch.device:
        """Where the data are."""
        return self.train.spectra.device


def training_device(config: TrainingConfig, hardware: Hardware) -> torch.device:
    """Where a training runs.

    Parameters
    ----------
    config : TrainingConfig
    hardware : Hardware
    """
    return _trainer(config, [], hardware, progress=False).strategy.root_device


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
    announce: Announce = lambda _: None,
    workers: int = 1,
) -> Trained:
    """Train one architecture under one setting; the best epoch's weights are kept.

    When the memory does not hold a batch, the training begins again with half of it. Members that
    are trained apart (:attr:`Architecture.members_apart`) have the weights that trainings with one
    member and the seeds from `config.seed` on would give them, whatever `workers` is.

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
        there now and then. Members that are trained apart have theirs beside it, and their
        checkpoints when they are finished; see :func:`models.training.members.members_of`.
    start : Checkpoint, optional
        Fine-tune its weights, with its statistics of the labels, instead of random ones.
    announce : callable
        Gets one line when the training begins again, a member is trained, or the data set stays
        off the GPU.
    workers : int
        Members that are trained at a time on a CPU, each in a process of its own.

    Raises
    ------
    ModelError
        If a material is in two parts of the split, the labels lack the scale that the setting
        needs, `start` is for another grid or has another number of members, the architecture is
        trained in single precision only, the validation error is never a number, a process of a
        member dies, or not even a batch of one fits.
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
    started = time.perf_counter()
    device = training_device(config, hardware)
    train, validation = dataset.subset(split.train), dataset.subset(split.validation)
    home = home_of(device, train, validation, announce=announce)
    task = _Task(setting_name, train.to(home), validation.to(home), hardware, progress)
    with members_of(config, state, start) as members:
        if members:
            processes = workers if device.type == "cpu" and hardware.devices == 1 else 1
            trained = _joined(config, task, _train_members(task, members, processes, announce))
        else:
            trained = _train_within_memory(task, config, state, start, announce)
            trained = _completed(task, trained)
    trained.checkpoint.model.cpu()
    trained.checkpoint.setting.cpu()
    return replace(trained, seconds=time.perf_counter() - started)


def _train_members(
    task: _Task, members: Sequence[Member], workers: int, announce: Announce
) -> list[Trained]:
    """All members; those that are kept are trained already."""
    kept = {member: Trained.kept(member.stem) for member in members}
    for member, trained in kept.items():
        if trained is not None:
            announce(f"{member}: {trained.in_words}")
    missing = [member for member, trained in kept.items() if trained is None]
    if min(workers, len(missing)) > 1:
        train = partial(_train_member, replace(task, progress=False))
        train_side_by_side(train, missing, workers, announce)
        kept |= {member: Trained.kept(member.stem) for member in missing}
    return [kept[member] or _train_member(task, member, announce) for member in members]


def _train_member(task: _Task, member: Member, announce: Announce) -> Trained:
    """Train and keep one member, with one thread: their number could change the last digits."""
    with torch_threads(1 if task.home.type == "cpu" else None):
        trained = _train_within_memory(task, member.config, member.state, member.start, announce)
    if is_main_process():
        save_checkpoint(member.stem, trained.checkpoint)
        member.state.unlink(missing_ok=True)
    announce(f"{member}: {trained.in_words}")
    return trained


def _joined(config: TrainingConfig, task: _Task, members: Sequence[Trained]) -> Trained:
    """One model of all members, completed and measured as a whole."""
    first, each = members[0].checkpoint, [m.checkpoint.card.training for m in members]
    fields = config_for(config.architecture, config.model, first.setting, first.card.grid)
    model = build_model(config.architecture, first.card.grid.size, fields).eval()
    model.join([member.checkpoint.model for member in members])
    training = each[0] | {
        "epochs_run": max(one["epochs_run"] for one in each),
        "best_epoch": max(one["best_epoch"] for one in each),
        "members": [{name: one[name] for name in MEMBER_FACTS} for one in each],
    }
    facts = {"config": model.config.model_dump(), "training": training, "weights_sha256": ""}
    checkpoint = Checkpoint(model, first.setting, first.card.model_copy(update=facts))
    whole = _completed(task, Trained(checkpoint, training["best_epoch"], math.nan, 0.0))
    error = _validation_error(task, whole.checkpoint)
    checkpoint = _with_facts(whole.checkpoint, validation_mae=error)
    return replace(whole, checkpoint=checkpoint, validation_mae=error)


def _completed(task: _Task, trained: Trained) -> Trained:
    """With what is fitted after the training, and measured of it; where the data are."""
    checkpoint, train = trained.checkpoint, task.train
    model, setting = checkpoint.model.to(task.home), checkpoint.setting.to(task.home)
    model.fit_trained(train.graphs, setting.target(train.spectra, train.graphs.n_atoms))
    batch_size = checkpoint.card.training["batch_size"]
    label_branch = label_branch_losses(model, setting, task.validation, batch_size)
    facts = {"label_branch": label_branch} if label_branch else {}
    return replace(trained, checkpoint=_with_facts(checkpoint, **facts))


def _with_facts(checkpoint: Checkpoint, **facts: Any) -> Checkpoint:
    """A checkpoint whose card says more of its training."""
    training = checkpoint.card.training | facts
    return replace(checkpoint, card=checkpoint.card.model_copy(update={"training": training}))


@torch.inference_mode()
def _validation_error(task: _Task, checkpoint: Checkpoint) -> float:
    """Mean absolute error in the space of the targets, as that of an epoch."""
    model, setting, total = checkpoint.model, checkpoint.setting, 0.0
    for graphs, spectra, *_ in GraphLoader(task.validation, checkpoint.card.training["batch_size"]):
        target = setting.target(spectra, graphs.n_atoms)
        total += len(graphs) * float((setting.activate(model(graphs)) - target).abs().mean())
    return total / len(task.validation)


def _train_within_memory(
    task: _Task,
    config: TrainingConfig,
    state: Path | None,
    start: Checkpoint | None,
    announce: Announce,
) -> Trained:
    """Train with batches that the memory holds."""
    smaller = None if state is None else state.with_suffix(".batch_size")
    if smaller is not None and smaller.exists():  # an interrupted training found it out
        config = config.model_copy(update={"batch_size": int(smaller.read_text())})
    while True:
        try:
            return _train(task, config, state, start)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or task.hardware.devices > 1:
                raise
            if config.batch_size == 1:
                raise ModelError("out of memory with a batch of one material") from None
            half = config.batch_size // 2
            announce(f"{task.setting_name}: out of memory; begins again with batches of {half}")
            config = config.model_copy(update={"batch_size": half})
            if state is not None and smaller is not None:
                state.unlink(missing_ok=True)
                write_whole(smaller, str(half))


def _train(
    task: _Task, config: TrainingConfig, state: Path | None, start: Checkpoint | None
) -> Trained:
    """The best epoch's weights, without what is fitted to them."""
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    train, home, size = task.train, task.home, task.train.grid.size
    setting = SETTINGS[task.setting_name](size, train.extensive)
    fields = config_for(config.architecture, config.model, setting, train.grid)
    model = build_model(config.architecture, size, fields)
    started, best = time.perf_counter(), KeepBest()
    callbacks: list[lightning.Callback] = [best]
    if config.patience:
        callbacks.append(EarlyStopping("validation_mae", patience=config.patience))
    if state is not None:
        callbacks.append(SaveState(state))
    trainer = _trainer(config, callbacks, task.hardware, task.progress)
    model, setting = model.to(home), setting.to(home)
    if start is None:
        _fit(model, setting, train)
    else:
        model.load_state_dict(start.model.state_dict())
        model.forget_trained()
        setting.load_state_dict(start.setting.state_dict())
    module = SpectrumModule(model, setting, config, train, task.validation)
    _run(trainer, module, state, fine_tunes=start is not None)
    if not best.weights:
        raise ModelError(f"{task.setting_name}: the validation error was never a number")
    model.load_state_dict(best.weights)
    card = CheckpointCard(
        architecture=config.architecture,
        config=model.config.model_dump(),
        setting=task.setting_name,
        grid=train.grid,
        graph=graphs_for(config.architecture, config.graph),
        elements=tuple(sorted({*train.elements, *(start.card.elements if start else ())})),
        extensive=train.extensive,
        states=isinstance(model, StatesArchitecture),
        training=_how(config, best),
    )
    checkpoint = Checkpoint(model.to(home).eval(), setting.to(home).eval(), card)
    trained = Trained(checkpoint, best.epoch, best.error, time.perf_counter() - started)
    if start is None or not config.kept:
        return trained
    return _between(task, trained, start, config.kept)


@torch.no_grad()
def _between(task: _Task, trained: Trained, start: Checkpoint, kept: float) -> Trained:
    """Weights between those of before and after a fine-tuning."""
    checkpoint = trained.checkpoint
    before = start.model.state_dict()
    for name, weight in checkpoint.model.state_dict().items():  # running means, too
        if weight.is_floating_point() and weight.shape == before[name].shape:
            weight.lerp_(before[name].to(weight), kept)
    error = _validation_error(task, checkpoint)
    checkpoint = _with_facts(checkpoint, validation_mae=error, kept=kept)
    return replace(trained, checkpoint=checkpoint, validation_mae=error)


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
