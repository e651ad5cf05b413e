"""`screen calibrate`: how wrong a predictor may be, from labels that it has not learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from screening.cli import options


def calibrate(
    predictor: Annotated[
        str, typer.Argument(help="Folder of the predictor, or the name of a shipped one.")
    ],
    labels: Annotated[
        list[Path],
        typer.Option(help="Parquet files of labels: those that it was trained with, or more."),
    ],
    structures: Annotated[
        Path | None, typer.Option(help="Parquet file of structures, if the labels have none.")
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Tell expected errors and probabilities from materials that the predictor never learned from.

    What is found is written beside its checkpoints. The test materials take no part; they show how
    well it went.
    """
    from models.data.dataset import edos_dataset
    from models.predictor import SpectrumPredictor
    from models.spectra.spectrum import EDOS_GRID
    from models.zoo import check_predictor, predictor_folder
    from screening.cli.console import print_json, stderr, stdout
    from screening.trust import calibrate as calibrate_on

    check_predictor(predictor_folder(predictor), EDOS_GRID)
    model = SpectrumPredictor.load(predictor, device)
    dataset = edos_dataset(labels, structures, model.grid, model.shape.card.graph)
    figures = calibrate_on(model, dataset)
    if as_json:
        print_json(figures)
        return
    stdout().print(figures_table(figures))
    stderr().print(f"Written into {model.folder}")


def figures_table(figures: dict[str, Any]) -> Any:
    """Figures of a calibration, for the terminal.

    Parameters
    ----------
    figures : dict
        See :func:`screening.trust.calibrate`.
    """
    from screening.cli.console import table

    def covered(suffix: str) -> str | None:
        if f"coverage{suffix}" not in figures:
            return None
        share, error = figures[f"coverage{suffix}"], figures[f"coverage{suffix}_error"]
        return f"{share:.3f} ± {error:.3f} ({figures[f'n{suffix}']} materials)"

    def number(name: str) -> str | None:
        return f"{figures[name]:.3f}" if name in figures else None

    rows = [
        ("materials calibrated on", str(figures["n_held_out"])),
        (f"covered by the band of {100 * figures['nominal_coverage']:.0f} %", covered("")),
        ("the same, of new chemical systems", covered("_new_systems")),
        ("mean expected error (eV)", number("expected_error")),
        ("mean actual error (eV)", number("actual_error")),
        ("rank correlation of both", number("spearman")),
        ("VB gaps, by DFT", str(figures["n_positive"])),
        ("VB gaps, sum of probabilities", number("expected_positive")),
        ("Brier score of the probability", number("brier_probability")),
        ("Brier score of the verdict", number("brier_verdict")),
        ("expected calibration error", number("calibration_error")),
        ("average precision by probability", number("average_precision_by_probability")),
        ("average precision by score", number("average_precision_by_score")),
    ]
    return table("On the test materials", ("what", "value"), rows)
