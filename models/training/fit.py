"""Training of one model under one setting, through Lightning."""

from __future__ import annotations

import copy
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint as SavingCallback
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from models.architectures.interface import Architecture
from models.architectures.registry import build_model, config_for, graphs_for
from models.data.dataset import SpectrumDataset, refuse_settings
from models.data.splits import Split
from models.errors import ModelError
from models.files import replacing
from models.graphs.graph import GraphBatch
from models.spectra.settings import SETTINGS, Setting
from models.training.checkpoint import Checkpoint, CheckpointCard
from models.training.config import TrainingConfig

SAVE_EVERY = 30.0  # seconds between two states of an unfinished training


@dataclass(frozen=True)
class Hardware:
    """Where a training runs; the names are Lightning's.

    Parameters
    ----------
    accelerator : str
        ``"auto"``, ``"cpu"`` or ``"gpu"``.
    devices : int
        Processes, each with a device of its own, that share every batch (data parallel).
    precision : str
        Such as ``"bf16-mixed"`` on a GPU.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"


def is_main_process() -> bool:
    """Whether this is the one process that prints and writes files."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


class GraphLoader:
    """Batches of a data set that is in memory.

    Parameters
    ----------
    batch_size : int
        Of all processes together.
    seed : int, optional
        Shuffle anew each epoch; the order follows from the seed and the epoch alone, so that a
        resumed training sees the same batches as an undisturbed one.
    epoch : callable
        Gives the number of the epoch.
    rank, world_size : int
        This process and the number of processes: each takes its share of every batch. The first
        materials of an epoch fill up the last batch, since all processes need as many batches.
    """

    def __init__(
        self,
        dataset: SpectrumDataset,
        batch_size: int,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch
        self.rank, self.world_size = rank, world_size
        self.share = max(1, batch_size // world_size)

    def __len__(self) -> int:
        per_process = -(-len(self.dataset) // self.world_size)
        return -(-per_process // self.share)

    def __iter__(self) -> Iterator[tuple[GraphBatch, Tensor]]:
        for index in self._order().split(self.share):
            yield self.dataset.graphs.select(index), self.dataset.spectra[index]

    def _order(self) -> Tensor:
        order = torch.arange(len(self.dataset))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
            order = torch.randperm(len(self.dataset), generator=generator)
        missing = -len(order) % self.world_size
        return torch.cat([order, order[:missing]])[self.rank :: self.world_size]


class SpectrumModule(lightning.LightningModule):
    """A model with its setting, optimiser and data."""

    def __init__(
        self,
        model: Architecture,
        setting: Setting,
        config: TrainingConfig,
        train: SpectrumDataset,
        validation: SpectrumDataset,
    ) -> None:
        super().__init__()
        self.model, self.setting, self.training_config = model, setting, config
        self.train_set, self.validation_set = train, validation

    def train_dataloader(self) -> GraphLoader:
        """The share of this process of the training materials, in another order each epoch."""
        config = self.training_config
        return GraphLoader(
            self.train_set,
            config.batch_size,
            seed=config.seed,
            epoch=lambda: self.current_epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def val_dataloader(self) -> GraphLoader:
        """All validation materials; every process measures them for itself."""
        return GraphLoader(self.validation_set, self.training_config.batch_size)

    def training_step(self, batch: tuple[GraphBatch, Tensor], _: int) -> Tensor:
        """Total loss of a batch."""
        graphs, spectra = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        losses = self.model.losses(graphs, target, self.setting, spectra)
        self.log("loss", losses["total"], prog_bar=True, batch_size=len(graphs))
        return losses["total"]

    def validation_step(self, batch: tuple[GraphBatch, Tensor], _: int) -> None:
        """Mean absolute error in the space of the targets."""
        graphs, spectra = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        error = (self.setting.activate(self.model(graphs)) - target).abs().mean()
        self.log("validation_mae", error, prog_bar=True, batch_size=len(graphs))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, its rate halved after each quarter of the epochs."""
        config = self.training_config
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        step = max(1, config.epochs // 4)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=step, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random numbers: dropout and sampling go on where they were."""
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the random numbers."""
        torch.set_rng_state(checkpoint["random_state"].cpu())


class KeepBest(lightning.Callback):
    """Keeps the weights of the epoch with the smallest validation error."""

    def __init__(self) -> None:
        self.error, self.epoch, self.epochs_run = float("inf"), -1, 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, module: SpectrumModule) -> None:
        """Copy the weights if this epoch is the best so far."""
        self.epochs_run = trainer.current_epoch + 1
        error = float(trainer.callback_metrics["validation_mae"])
        if not trainer.sanity_checking and error < self.error:
            self.error, self.epoch = error, trainer.current_epoch
            self.weights = copy.deepcopy(module.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"error": self.error, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.error, self.epoch = state_dict["error"], state_dict["epoch"]
        self.weights = state_dict["weights"]


class SaveState(SavingCallback):
    """Saves an unfinished training now and then, at the end of an epoch.

    Lightning's ModelCheckpoint saves by time in the middle of an epoch, where a shuffled order
    cannot go on, and moves its file from the folder for temporary files: not whole or not at all
    if that is on another disk.
    """

    def __init__(self, path: Path, every: float = SAVE_EVERY) -> None:
        self.path, self.every, self.saved = path, every, time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: SpectrumModule) -> None:
        """Replace the state on disk, as a whole or not at all."""
        due = trainer.strategy.broadcast(time.monotonic() - self.saved >= self.every)
        if not due:
            return
        writes = trainer.is_global_zero  # the others only take part
        with replacing(self.path) if writes else nullcontext(self.path) as target:
            trainer.save_checkpoint(target)
        self.saved = time.monotonic()


@torch.inference_mode()
def label_branch_losses(
    model: Architecture, setting: Setting, dataset: SpectrumDataset, batch_size: int
) -> dict[str, float]:
    """Prediction loss of the label branch with the true labels and with other materials'.

    A branch that gets the same loss with both knows nothing of the labels, only of the graph:
    it has collapsed, and what it is aligned with learns nothing from it.

    Returns
    -------
    dict
        ``"true"`` and ``"shuffled"``; empty for a model without label branch.
    """
    if not model.has_label_branch:
        return {}
    n = len(dataset)
    target = setting.target(dataset.spectra, dataset.graphs.n_atoms)
    own = torch.arange(n)
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
    """A trained checkpoint and how its training went."""

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
    state : Path, optional
        File of the unfinished training: it goes on from there if the file exists, and is saved
        there now and then.
    start : Checkpoint, optional
        Fine-tune its weights, with its statistics of the labels, instead of random ones.

    Raises
    ------
    ModelError
        If a material is in two parts of the split, the labels lack the scale that the setting
        needs, `start` is for another grid, the validation error is never a number, or not even a
        batch of one fits.
    """
    split.refuse_leaks(dataset.material_ids)
    refuse_settings(dataset, [setting_name])
    if start is not None and start.card.grid != dataset.grid:
        raise ModelError(f"{setting_name}: the model to fine-tune is for another grid")
    while True:
        try:
            return _train(config, setting_name, dataset, split, progress, hardware, state, start)
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
) -> Trained:
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    train, validation = dataset.subset(split.train), dataset.subset(split.validation)
    setting = SETTINGS[setting_name](dataset.grid.size, dataset.extensive)
    chosen = config_for(config.architecture, config.model, setting, dataset.grid)
    model = build_model(config.architecture, dataset.grid.size, chosen)
    if start is None:
        setting.fit(train.spectra, train.graphs.n_atoms)
        model.fit(train.graphs, setting.target(train.spectra, train.graphs.n_atoms))
    else:
        model.load_state_dict(start.model.state_dict())
        setting.load_state_dict(start.setting.state_dict())
    best = KeepBest()
    callbacks: list[lightning.Callback] = [best]
    if config.patience:
        callbacks.append(EarlyStopping("validation_mae", patience=config.patience))
    if state is not None:
        callbacks.append(SaveState(state))
    started = time.perf_counter()
    trainer = _quiet_trainer(
        max_epochs=config.epochs,
        callbacks=callbacks,
        deterministic="warn",
        enable_progress_bar=progress,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=hardware.precision,
        strategy="auto" if hardware.devices == 1 else "ddp",
    )
    module = SpectrumModule(model, setting, config, train, validation)
    resumed = state if state is not None and state.exists() else None
    try:
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
    if not best.weights:
        raise ModelError(f"{setting_name}: the validation error was never a number")
    model.load_state_dict(best.weights)
    model, setting = model.cpu().eval(), setting.cpu().eval()
    label_branch = label_branch_losses(model, setting, validation, config.batch_size)
    card = CheckpointCard(
        architecture=config.architecture,
        config=model.config.model_dump(),
        setting=setting_name,
        grid=dataset.grid,
        graph=graphs_for(config.architecture, config.graph),
        elements=train.elements,
        extensive=dataset.extensive,
        training={
            "epochs": config.epochs,
            "epochs_run": best.epochs_run,
            "best_epoch": best.epoch,
            "validation_mae": best.error,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "seed": config.seed,
        }
        | ({"label_branch": label_branch} if label_branch else {}),
    )
    checkpoint = Checkpoint(model, setting, card)
    return Trained(checkpoint, best.epoch, best.error, time.perf_counter() - started)


def _out_of_memory(error: Exception) -> bool:
    """Whether a GPU or (torch says it only in words) the machine has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


def _quiet_trainer(**options: Any) -> lightning.Trainer:
    """Trainer without log files, checkpoints and advice about them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=any(isinstance(c, SavingCallback) for c in options["callbacks"]),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
