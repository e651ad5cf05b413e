"""`screen predict`: spectra of one's own structures, without a database."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options
from screening.cli.invocation import program

if TYPE_CHECKING:
    from screening.candidate import Unreadable
    from screening.prediction import Prediction, Predictions


@options.from_fields(criteria=options.GAP_CRITERIA)
def predict(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="Structure files, tables, or folders of them.")
    ],
    *,
    criteria: dict[str, Any],
    keep_cell: options.KeepCell = False,
    recursive: options.Recursive = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write the spectrum of the first structure to this file.")
    ] = None,
    checkpoint: options.Checkpoint = None,
    rescore: Annotated[
        int | None,
        typer.Option(
            help="So many structures with the best scores are judged again by tight-binding-edos; "
            "0: none. Default: 20000 with the default predictor, else 0."
        ),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    wide: options.Wide = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict the eDOS of structures and judge it; exits with 1 if one of them fails."""
    from models.zoo import predictor_folder
    from screening.cli.console import stderr
    from screening.gap_criteria import GapCriteria
    from screening.prediction import predict as predict_all
    from screening.report.plots import check_figure_type
    from screening.second_predictor import RESCORE_WITH, n_unless_asked
    from workflows.hardware import worker_processes

    if plot is not None:
        options.check_writable("--plot", plot)
        check_figure_type(plot)
    if rescore is not None and not options.typed(context, {"rescore": rescore}):
        rescore = n_unless_asked(predictor_folder(checkpoint), RESCORE_WITH, preferred=rescore)

    results = predict_all(
        files,
        checkpoint=checkpoint,
        device=device,
        criteria=GapCriteria.from_options(**criteria),
        keep_cell=keep_cell,
        recursive=recursive,
        workers=workers or worker_processes(),
        rescore=rescore,
    )
    if as_json:
        _print_json(results)
    elif results.predicted:
        _print(results.predicted, wide, quiet)
    for note in results.notes:
        stderr(quiet).print(note[:1].upper() + note[1:])
    if plot is not None and results.predicted:
        _plot(results.predicted[0], plot)
    _end(results.failures)


def _print_json(results: Predictions) -> None:
    from models.spectra.spectrum import EDOS_GRID
    from screening.cli.console import print_json

    print_json(
        {
            "grid": EDOS_GRID.model_dump(),
            "unit": "states/eV/cell",
            "predictions": [
                item.row() | {"spectrum": item.spectrum.values.tolist()}
                for item in results.predicted
            ],
            "failures": [asdict(failure) for failure in results.failures],
        }
    )


def _print(predicted: Sequence[Prediction], wide: bool, quiet: bool) -> None:
    from screening.cli.console import stdout, table
    from screening.cli.fitting_table import Column

    knows_gaps = any(item.predicted_band_gap is not None for item in predicted)
    knows_chances = any(item.probability is not None for item in predicted)
    columns = (
        Column("structure"),
        Column("formula", 1),
        Column("atoms", 2),
        *([Column("band gap eV", 4)] if knows_gaps else []),
        Column("VB gap"),
        *([Column("probability", 2)] if knows_chances else []),
        Column("kind", 7),
        Column("robust", 8),
        Column("from eV", 5),
        Column("to eV", 5),
        Column("width eV", 1),
        Column("remark", 3, folds=True),
    )
    stdout(wide).print(
        table(None, columns, [_cells(item, knows_gaps, knows_chances) for item in predicted])
    )
    if len(predicted) == 1 and not quiet:
        _print_details(predicted[0])


def _cells(item: Prediction, with_band_gap: bool, with_probability: bool) -> tuple[Any, ...]:
    verdict = item.gap()
    bound = "≥ " if verdict["is_lower_bound"] else ""
    return (
        item.material_id,
        item.formula,
        item.candidate.nsites,
        *([item.predicted_band_gap] if with_band_gap else []),
        verdict["is_gap"],
        *([item.probability] if with_probability else []),
        verdict["kind"],
        verdict["robust"],
        verdict["lower_edge"],
        verdict["upper_edge"],
        f"{bound}{verdict['width']:.2f}",
        "; ".join(item.remarks),
    )


def _print_details(item: Prediction) -> None:
    """Criteria and spectrum of a single structure."""
    from models.spectra.spectrum import EDOS_GRID
    from screening.cli.console import stdout
    from screening.cli.show import PLOT_WIDTH, criteria_table, states_table
    from screening.report.plots import terminal_edos

    verdict = item.gap()
    stdout().print(criteria_table(verdict["holds"], verdict["margins"], item.criteria.per_atom))
    if item.electronic_structure is not None:
        stdout().print(states_table(item.electronic_structure, item.gap_edges))
    stdout().print(f"Ranges of that width below the band edge: {verdict['n_ranges']}")
    title = f"{item.formula}, predicted by {item.model_id}"
    color = sys.stdout.isatty()
    width = min(PLOT_WIDTH, stdout().width)
    values = item.spectrum.values
    print(terminal_edos(EDOS_GRID.centers, values, title, item.gap_edges, width=width, color=color))


def _plot(item: Prediction, path: Path) -> None:
    from screening.report.plots import edos_figure, save_figure

    figure, axes = edos_figure(item.electronic_structure, item.gap_edges)
    item.plot(axes).label_outer()
    save_figure(figure, path)


def _end(failures: Sequence[Unreadable]) -> None:
    """Name what could not be predicted and exit with 1 if there is any."""
    for failure in failures:
        print(f"{program()}: {failure.material_id}: {failure.reason}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)
