"""`screen train`: a predictor from labels and structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options
from screening.cli.invocation import resumable

if TYPE_CHECKING:
    from models.training.train import TrainedPredictor


def train(
    config: Annotated[Path, typer.Argument(help="YAML file: what to train, on what, and how.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the checkpoints; by default the `name` in the config, beside it."
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="Parquet files of labels, instead of the config's.")
    ] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Parquet file of structures, instead of the config's.")
    ] = None,
    teacher_labels: Annotated[
        Path | None,
        typer.Option(help="Labels of a teacher from `screen distill`, instead of the config's."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the config's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the config's.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from where an interrupted training stopped.")
    ] = False,
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu"], typer.Option(help="Where to train.")
    ] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes, each with a device, that share every batch.")
    ] = 1,
    precision: Annotated[
        Literal["32-true", "bf16-mixed"],
        typer.Option(help="Single precision, or matrix products in bfloat16, for GPUs."),
    ] = "32-true",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--fast",
            help="Same weights for a seed to the last bit, or sums in any order on a GPU.",
        ),
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trainings at a time: both settings of a pair, or members of a tight-binding "
            "ensemble. One for each core by default; on a GPU and with --devices one follows the "
            "other.",
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a predictor, measure it on its test materials, and write it with its model card."""
    import numpy as np

    from models.predictor import usable_device
    from models.training.config import read_training_config
    from models.training.fit import Hardware, is_main_process
    from models.training.train import train_predictor
    from screening.cli.console import stderr, stdout
    from screening.trust import calibrate_trained
    from workflows.hardware import worker_processes

    training = read_training_config(
        config,
        labels=tuple(labels or ()),
        structures=structures,
        teacher_labels=teacher_labels,
        epochs=epochs,
        seed=seed,
    )
    if accelerator == "gpu":
        usable_device("cuda")
    folder = out or config.parent / training.name
    remarks = stderr(quiet or not is_main_process())
    with resumable("the same command with --resume goes on from the last state that was saved"):
        trained = train_predictor(
            training,
            announce=remarks.print,
            progress=not quiet,
            hardware=Hardware(accelerator, devices, precision, deterministic),
            folder=folder / ".progress",
            resume=resume,
            workers=workers or worker_processes(),
        )
    if not is_main_process():
        return
    card = trained.save(folder, gap=gap_figures(trained))
    console = stdout()
    console.print(_figures_table(card.figures, card.unit))
    for name, value in card.gap.items():
        console.print(f"{name}: {value}")
    remarks.print(f"Checkpoints and model card in {folder}")
    if np.isfinite(trained.predicted).all():  # in states/eV/cell
        remarks.print(calibrate_trained(folder, trained.dataset))


def gap_figures(trained: TrainedPredictor) -> dict[str, Any]:
    """How well the predictor recognises the VB gap of its test materials."""
    import numpy as np

    from screening.classification import ConfusionMatrix
    from screening.gap import GapCriteria, find_gaps

    if not np.isfinite(trained.predicted).all():
        return {}
    criteria = GapCriteria()
    predicted, true = (
        find_gaps(trained.test.grid, dos, criteria).is_gap
        for dos in (trained.predicted, trained.test.spectra.numpy())
    )
    matrix = ConfusionMatrix.of(zip(predicted, true, strict=True))
    return {
        "VB gaps found among the test materials (TP)": matrix.tp,
        "false alarms (FP)": matrix.fp,
        "missed (FN)": matrix.fn,
        "rightly not chosen (TN)": matrix.tn,
        "precision, 95 % interval": _interval(matrix.precision),
        "recall, 95 % interval": _interval(matrix.recall),
    }


def _interval(proportion: Any) -> str:
    if proportion.value is None:
        return "not defined"
    return f"{proportion.low:.2f} to {proportion.high:.2f} ({proportion.value:.2f})"


def _figures_table(figures: dict[str, dict[str, float]], unit: str) -> Any:
    from screening.cli.console import table

    names = ("r2", "mae", "mse", "wd")
    rows = [
        (what, *(f"{values[n]:.4g}" if n in values else None for n in names))
        for what, values in figures.items()
    ]
    return table("Test figures", ("predicted", "R2", "MAE", "MSE", f"WD ({unit})"), rows)
