"""Whether the predictors of a run can be used, and are those that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from db.documents import Run
from models.training.materials import load_training_materials
from models.uncertainty.held_out import read_held_out
from models.zoo import check_predictor, model_id
from screening.criteria.registry import criterion_of, needed_grid
from screening.errors import ScreeningError
from workflows.hardware import worker_device

CHECKPOINTS = ("checkpoint", "rescore_with")  # parameters of a run that name predictors


def check_checkpoints(parameters: dict[str, Any]) -> None:
    """Refuse damaged predictors, and those of other spectra than the criterion judges.

    Parameters
    ----------
    parameters : dict
        Of a run.

    Raises
    ------
    ModelError
        That names the file.
    """
    criterion = criterion_of(parameters)
    for name in CHECKPOINTS:
        if name in parameters:
            folder = Path(parameters[name])
            check_predictor(folder, needed_grid(criterion, folder))
            load_training_materials(folder)
            read_held_out(folder)


def model_of(run: Run, checkpoint: str) -> str:
    """Id of a run's first or second model, of which this is the checkpoint.

    Parameters
    ----------
    run : Run
    checkpoint : str
        Folder of the model.

    Raises
    ------
    ScreeningError
        If the run did not begin with it.
    """
    model = model_id(Path(checkpoint))
    if model not in (run.model_id, run.second_model_id):
        raise ScreeningError(
            f"run {run.run_id}: the checkpoint {checkpoint} has changed since it began, or another "
            f"machine has it ({model}); copy {run.model_id} here, or start a new run"
        )
    return model


def check_all_here(run: Run | None, parameters: dict[str, Any]) -> None:
    """Refuse what would end a reading job on this machine, and perhaps on no other.

    Parameters
    ----------
    run : Run or None
        None if nobody has noted it yet.
    parameters : dict
        Of the run.

    Raises
    ------
    ModelError, ScreeningError
        If a predictor of the run is not here, is damaged or another.
    """
    check_checkpoints(parameters)
    if run is not None:
        for name in CHECKPOINTS:
            if name in parameters:
                model_of(run, parameters[name])


def check_here(run: Run, checkpoint: str) -> None:
    """Refuse what would end a scoring job on this machine, and perhaps on no other.

    Parameters
    ----------
    run : Run
    checkpoint : str
        Folder of its first or second model.

    Raises
    ------
    ModelError, ScreeningError
        If the predictor is not here, is damaged or another, or the device cannot be used.
    """
    model_of(run, checkpoint)
    folder = Path(checkpoint)
    check_predictor(folder, needed_grid(criterion_of(run.parameters), folder))
    if (device := worker_device()) not in ("auto", "cpu"):
        from models.predictor import usable_device  # torch, which the workers load anyway

        usable_device(device)
