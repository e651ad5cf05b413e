"""All settings of a predictor, each trained on its own, beside each other where there are cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from models.architectures.registry import n_members_apart
from models.data.dataset import SpectrumDataset
from models.data.splits import Split
from models.threads import torch_threads
from models.training.card import label_branch_in_words
from models.training.checkpoint import Checkpoint
from models.training.config import TrainingConfig
from models.training.fit import Hardware, Trained, train_setting, training_device
from models.training.resume import TrainingProgress
from models.training.side_by_side import Announce, train_side_by_side


@dataclass(frozen=True, eq=False)
class SettingsTraining:
    """The training of all settings of a configuration, with the same materials.

    Parameters
    ----------
    config : TrainingConfig
    dataset : SpectrumDataset
        All materials.
    split : Split
        Of the data set.
    kept : TrainingProgress
        Where settings are kept as soon as they are trained; those that are there are not trained
        again.
    suffix : str
        Behind the names of the settings there.
    start : dict of Checkpoint, optional
        By the names of their settings: fine-tune these instead of random weights.
    hardware : Hardware
    bars : bool
        Show bars with the loss and the validation error, of trainings in this process.
    """

    config: TrainingConfig
    dataset: SpectrumDataset
    split: Split
    kept: TrainingProgress
    suffix: str = ""
    start: dict[str, Checkpoint] | None = None
    hardware: Hardware = Hardware()
    bars: bool = False

    def run(self, workers: int, announce: Announce) -> dict[str, Checkpoint]:
        """Train what is not kept yet.

        Parameters
        ----------
        workers : int
            Processes for settings or, of members that are trained apart, for those.
        announce : callable
            Gets a line for each setting, and those of :func:`models.training.fit.train_setting`.
        """
        before = {name: self._finished(name) for name in self.config.settings}
        for name, trained in before.items():
            if trained is not None:
                announce(self._in_words(name, trained))
        missing = [name for name, trained in before.items() if trained is None]
        if min(self._processes(workers), len(missing)) > 1:
            threads = max(1, torch.get_num_threads() // min(workers, len(missing)))
            train = partial(_train_with_threads, replace(self, bars=False), threads)
            train_side_by_side(train, missing, workers, announce)
            before |= {name: self._finished(name) for name in missing}
        after = {name: t or self.train(name, announce, workers) for name, t in before.items()}
        return {name: trained.checkpoint for name, trained in after.items()}

    def train(self, name: str, announce: Announce, workers: int = 1) -> Trained:
        """Train and keep one setting.

        Parameters
        ----------
        name : str
        announce : callable
        workers : int
            For members that are trained apart.
        """
        trained = train_setting(
            self.config,
            name,
            self.dataset,
            self.split,
            self.bars,
            hardware=self.hardware,
            state=self.kept.state_file(name + self.suffix),
            start=self.start[name] if self.start else None,
            announce=announce,
            workers=workers,
        )
        self.kept.finish(name + self.suffix, trained)
        announce(self._in_words(name, trained))
        return trained

    def _finished(self, name: str) -> Trained | None:
        return self.kept.finished(name + self.suffix)

    def _processes(self, workers: int) -> int:
        """For settings: members that are trained apart have them, and a GPU is there once."""
        apart = n_members_apart(self.config.architecture, self.config.model) > 1
        alone = apart or self.hardware.devices > 1
        alone = alone or training_device(self.config, self.hardware).type != "cpu"
        return 1 if alone else workers

    def _in_words(self, name: str, trained: Trained) -> str:
        line = f"{name}{self.suffix}: {trained.in_words}"
        if not trained.label_branch:
            return line
        return f"{line}; {label_branch_in_words(trained.label_branch)}"


def _train_with_threads(
    training: SettingsTraining, threads: int, name: str, announce: Announce
) -> None:
    with torch_threads(threads):
        training.train(name, announce)
