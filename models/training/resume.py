"""What an unfinished training leaves on disk, so that it can go on after an interruption."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from models.architectures.registry import n_members_apart
from models.data.dataset import SpectrumDataset
from models.errors import ModelError
from models.training.checkpoint import save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import Trained, is_main_process
from models.writing import write_whole

FINGERPRINT = "fingerprint"


class TrainingProgress:
    """A folder with the finished settings of a training and the state of the unfinished one.

    Of members that are trained apart it has those beside them, see
    :func:`models.training.members.members_of`.

    Nothing in it is unpickled.

    Parameters
    ----------
    folder : Path
    config : TrainingConfig
    *datasets : SpectrumDataset
        What is trained on what; progress of anything else is never mixed with it.
    resume : bool
        Go on from what is there; otherwise it is removed.

    Raises
    ------
    ModelError
        If the progress that is there belongs to another configuration or other data.
    """

    def __init__(
        self, folder: Path, config: TrainingConfig, *datasets: SpectrumDataset, resume: bool
    ) -> None:
        self.folder = folder
        if not is_main_process():
            return
        mark, expected = folder / FINGERPRINT, _fingerprint(config, datasets)
        if folder.exists() and resume:
            if not mark.exists() or mark.read_text() != expected:
                raise ModelError(
                    f"{folder} is of another configuration or other data; "
                    "train without --resume to begin anew"
                )
        else:
            self.clear()
            folder.mkdir(parents=True)
            write_whole(mark, expected)

    def state_file(self, setting_name: str) -> Path:
        """Where the state of an unfinished setting is."""
        return self.folder / f"{setting_name}.state"

    def finished(self, setting_name: str) -> Trained | None:
        """A setting that was trained to its end before."""
        return Trained.kept(self.folder / setting_name)

    def finish(self, setting_name: str, trained: Trained) -> None:
        """Keep a trained setting instead of its state.

        Parameters
        ----------
        setting_name : str
        trained : Trained
        """
        if is_main_process():
            save_checkpoint(self.folder / setting_name, trained.checkpoint)
            self.state_file(setting_name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all of it."""
        if is_main_process() and self.folder.exists():
            shutil.rmtree(self.folder)


def _fingerprint(config: TrainingConfig, datasets: Iterable[SpectrumDataset]) -> str:
    """Hash of the configuration, without where files are, and of the data."""
    left_out = dict.fromkeys(("labels", "structures", "description", "limits"), True)
    fields = config.model_dump_json(exclude={**left_out, "teacher": {"labels"}})
    digest = hashlib.sha256(fields.encode())
    if n_members_apart(config.architecture, config.model) > 1:
        digest.update(b"members apart")  # they were trained side by side before
    for dataset in datasets:
        digest.update("\n".join(dataset.material_ids).encode())
        for tensor in (dataset.spectra, dataset.graphs.distance, dataset.graphs.atomic_numbers):
            digest.update(tensor.to(torch.float32).numpy().tobytes())
    return digest.hexdigest()
