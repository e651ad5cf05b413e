"""`screen predict`: spectra of one's own structures, without a database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from models.predictor import PredictedSpectra, SpectrumPredictor
    from screening.candidate import Candidate, Unreadable
    from screening.gap import GapCriteria, Gaps


def predict(
    files: Annotated[
        list[Path], typer.Argument(help="CIF, POSCAR, JSON or parquet files, or folders of them.")
    ],
    max_dos: options.MaxDos = 1.0,
    min_width: options.MinWidth = 1.0,
    min_upper_edge: options.MinUpperEdge = -1.0,
    max_upper_edge: options.MaxUpperEdge = -0.25,
    per_atom: options.PerAtom = False,
    single_gap: options.SingleGap = False,
    band: options.Band = "valence",
    keep_cell: options.KeepCell = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write the spectrum of the first structure to this file.")
    ] = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict the eDOS of structures and judge it; exits with 1 if one of them fails."""
    import numpy as np

    from models.spectrum import EDOS_GRID
    from screening.candidate import Candidate, Unreadable
    from screening.gap import GapCriteria, find_gaps
    from screening.sources import open_source

    criteria = GapCriteria.from_options(
        max_dos=max_dos,
        min_width=min_width,
        min_upper_edge=min_upper_edge,
        max_upper_edge=max_upper_edge,
        per_atom=per_atom,
        single_gap=single_gap,
        band=band,
    )
    items = [item for file in files for item in open_source(file)]
    readable = [item for item in items if isinstance(item, Candidate)]
    if not keep_cell:
        readable = [candidate.reduced() for candidate in readable]
    unreadable = [item for item in items if isinstance(item, Unreadable)]

    from models.predictor import SpectrumPredictor

    predictor = SpectrumPredictor.load(checkpoint, device, EDOS_GRID)
    structures = [candidate.structure for candidate in readable]
    spectra = predictor.predict(structures, workers=workers or options.default_workers())
    predictor.close()
    good = [i for i in range(len(readable)) if i not in spectra.failures]
    nsites = np.array([readable[i].nsites for i in good], int)
    gaps = find_gaps(EDOS_GRID, spectra.values[good], criteria, nsites)
    rows = [_row(predictor, readable[i], spectra, gaps, k) for k, i in enumerate(good)]
    if plot is not None and good:
        _plot(predictor, readable[good[0]], spectra.values[good[0]], gaps, criteria, plot)
    if as_json:
        _print_json(rows, spectra, good)
    else:
        _print(rows, readable, spectra, good, gaps, quiet)
    failures = [(readable[i].material_id, reason) for i, reason in spectra.failures.items()]
    _end(failures, unreadable)


def _row(
    predictor: SpectrumPredictor,
    candidate: Candidate,
    spectra: PredictedSpectra,
    gaps: Gaps,
    k: int,
) -> dict[str, Any]:
    return {
        "material_id": candidate.material_id,
        "formula": candidate.formula,
        "nsites": candidate.nsites,
        "cell_multiplicity": candidate.cell_multiplicity,
        "reduction_problem": candidate.reduction_problem,
        **gaps.row(k),
        "score": float(gaps.score[k]),
        "model_id": predictor.model_id,
        "elements_not_trained_on": predictor.unfamiliar(candidate.structure),
    }


def _print_json(rows: list[dict[str, Any]], spectra: PredictedSpectra, good: list[int]) -> None:
    from screening.cli.console import print_json

    values = [spectra.values[i].tolist() for i in good]
    print_json(
        {
            "grid": spectra.grid.model_dump(),
            "unit": "states/eV/cell",
            "predictions": [
                row | {"spectrum": spectrum} for row, spectrum in zip(rows, values, strict=True)
            ],
        }
    )


def _print(
    rows: list[dict[str, Any]],
    readable: list[Candidate],
    spectra: PredictedSpectra,
    good: list[int],
    gaps: Gaps,
    quiet: bool,
) -> None:
    from screening.cli.console import stdout, table
    from screening.cli.show import criteria_table
    from screening.report.plots import terminal_edos

    columns = (
        "structure",
        "formula",
        "atoms",
        "VB gap",
        "kind",
        "robust",
        "from eV",
        "to eV",
        "width eV",
        "remark",
    )
    cells = [
        (
            row["material_id"],
            row["formula"],
            row["nsites"],
            row["is_gap"],
            row["kind"],
            row["robust"],
            row["lower_edge"],
            row["upper_edge"],
            f"{'≥ ' if row['is_lower_bound'] else ''}{row['width']:.2f}",
            _remark(row),
        )
        for row in rows
    ]
    stdout().print(table(None, columns, cells))
    if len(rows) == 1 and not quiet:
        stdout().print(criteria_table(rows[0]["holds"], rows[0]["margins"], gaps.criteria.per_atom))
        stdout().print(f"Ranges of that width below the band edge: {rows[0]['n_ranges']}")
        print(
            terminal_edos(
                spectra.grid.centers,
                spectra.values[good[0]],
                f"{rows[0]['formula']}, predicted by {rows[0]['model_id']}",
                _range(gaps),
                color=sys.stdout.isatty(),
            )
        )


def _remark(row: dict[str, Any]) -> str:
    from screening.cli.rows import cell_in_words

    remarks = []
    if elements := row["elements_not_trained_on"]:
        remarks.append(f"not trained on {', '.join(elements)}")
    multiplicity, problem = row["cell_multiplicity"], row["reduction_problem"]
    if problem is not None or (multiplicity or 1) > 1:
        remarks.append(f"cell {cell_in_words(row['nsites'], multiplicity, problem)}")
    return "; ".join(remarks)


def _range(gaps: Gaps) -> tuple[float, float] | None:
    return (float(gaps.lower_edge[0]), float(gaps.upper_edge[0])) if gaps.is_gap[0] else None


def _plot(
    predictor: SpectrumPredictor,
    candidate: Candidate,
    spectrum: Any,
    gaps: Gaps,
    criteria: GapCriteria,
    path: Path,
) -> None:
    from models.card import model_name
    from models.spectrum import EDOS_GRID
    from screening.report.plots import plot_edos, save_figure

    threshold = None if criteria.per_atom else criteria.max_dos
    title = f"{candidate.formula} ({candidate.material_id})"
    figure = plot_edos(
        EDOS_GRID.centers,
        spectrum,
        title,
        _range(gaps),
        threshold,
        model=model_name(predictor.model_id),
    )
    save_figure(figure, path)


def _end(failures: list[tuple[str, str]], unreadable: list[Unreadable]) -> None:
    """Name what could not be predicted and exit with 1 if there is any."""
    failures = failures + [(item.material_id, item.reason) for item in unreadable]
    for name, reason in failures:
        print(f"screen: {name}: {reason}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)
