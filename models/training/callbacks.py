"""What is kept of a training while it runs: the best weights, and the state to go on from."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint as SavingCallback
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor
from typing_extensions import override

from models.training.module import SpectrumModule
from models.writing import replacing

READ_EVERY = 1.0  # seconds between two readings of the loss
SAVE_EVERY = 30.0  # seconds between two states of an unfinished training


class KeepBest(lightning.Callback):
    """Keeps the weights of the epoch with the smallest validation error, in memory.

    Weights that are validated before the first epoch are those of epoch -1.

    Lightning's ModelCheckpoint writes them to disk: 30 ms an epoch of Mat2Spec instead of 8.
    """

    def __init__(self) -> None:
        self.error, self.epoch, self.epochs_run = float("inf"), -1, 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, module: SpectrumModule) -> None:
        """Copy the weights if this epoch is the best so far."""
        epoch = trainer.current_epoch if trainer.state.fn == "fit" else -1
        self.epochs_run = epoch + 1
        error = float(trainer.callback_metrics["validation_mae"])
        if not trainer.sanity_checking and error < self.error:
            self.error, self.epoch = error, epoch
            self.weights = copy.deepcopy(module.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        names = ("error", "epoch", "epochs_run", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for name, value in state_dict.items():
            setattr(self, name, value)


class ProgressBar(RichProgressBar):
    """Bar that reads loss and error once a second: each time the host waits for the device."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=2)  # a second; drawing takes the interpreter from the steps
        self._read_at = -float("inf")
        self._metrics: dict[str, Any] = {}

    @override
    def get_metrics(self, trainer: lightning.Trainer, module: SpectrumModule) -> dict[str, Any]:
        """Loss of the last batch and error of the last epoch, by name."""
        if time.monotonic() - self._read_at >= READ_EVERY:
            errors = {k: v.item() for k, v in trainer.callback_metrics.items()}
            self._metrics = {"loss": module.last_loss.item(), **errors}
            self._read_at = time.monotonic()
        return self._metrics


class SaveState(SavingCallback):
    """Saves an unfinished training now and then, at the end of an epoch.

    Lightning's ModelCheckpoint saves by time in the middle of an epoch, where a shuffled order
    cannot go on, or at every epoch, which takes 0.18 s where an epoch of hundreds of materials
    takes 0.3; and it moves its file from the folder for temporary files, so not whole or not at
    all if that is on another disk.

    Parameters
    ----------
    path : Path
    every : float
        Seconds.
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
