"""`screen show`: all about one material."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import ValidationDoc
    from models.spectra.electronic_structure import ElectronicStructure
    from screening.nearest import NearestMaterial
    from screening.report.words import Row
    from workflows.reporting import MaterialView

PLOT_WIDTH = 78  # columns of a plot in the terminal, where there are so many
_NEAR = 1.0  # eV from a band edge
_LEAST = 0.005  # states; parts with less are not listed


def show(
    material_id: Annotated[str, typer.Argument(help="Id of a material.")],
    run: options.RunId = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write the spectrum, and DFT's, to this file (.png, .pdf, .svg)."),
    ] = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Show a material's properties, verdict and spectra in the newest run that has it."""
    from db.open import open_store
    from screening.cli.console import print_json, stderr
    from screening.cli.stored import existing, in_runs
    from screening.criteria.registry import criterion_of
    from screening.report.words import attribution_of
    from workflows.reporting import view_material

    with open_store(existing(db)) as store:
        of_run, _ = in_runs(store, run, material_id)[0]
        view = view_material(store, of_run, material_id, band=plot is not None, nearest=True)
    for problem in view.lacking:
        stderr().print(problem)
    attribution = attribution_of(material_id, of_run)
    if plot is not None:
        _write_plot(view, plot)
    if as_json:
        print_json(_document(view) | {"attribution": attribution})
    else:
        _print(view, criterion_of(of_run.parameters).unit)
        if attribution:
            stderr().print(attribution)


def _document(view: MaterialView) -> dict[str, Any]:
    from screening.domain import Domain, remarks_on

    candidate, prediction, validation = view.candidate, view.prediction, view.validation
    document = candidate.model_dump(mode="json", exclude={"structure", "schema_version"})
    domain = Domain.of_document(candidate)
    document["out_of_domain_because"] = domain.reasons
    document["near_domain_because"] = domain.reservations
    document["remarks"] = [*remarks_on(candidate), *(candidate.remarks or ())]
    if prediction is not None:
        document["grid"] = prediction.grid.model_dump()
        document["spectrum"] = prediction.spectrum
        document["member_spread"] = prediction.member_spread
        document["training_distance"] = prediction.training_distance
    if view.electronic_structure is not None:
        document["electronic_structure"] = view.electronic_structure.as_dict()
    if validation is not None:
        left_out = {"schema_version", "material_id", "structure_hash", "raw_dos", "job_uuids"}
        document["dft"] = validation.model_dump(mode="json", exclude=left_out)
    if (unfinished := view.unfinished) is not None:
        fields = {"engine", "recipe", "state", "error"}
        document["unfinished_dft"] = unfinished.model_dump(mode="json", include=fields)
    document["nearest_training_materials"] = [material.as_dict() for material in view.nearest]
    return document


def _write_plot(view: MaterialView, path: Path) -> None:
    import numpy as np

    from models.zoo import model_name
    from screening.errors import ScreeningError
    from screening.report.plots import axis_labels, formula_text, plot_edos, save_figure
    from screening.report.words import gap_edges

    candidate, prediction, dft = view.candidate, view.prediction, view.dft
    if prediction is None:
        raise ScreeningError(f"{candidate.material_id} has no prediction to plot")
    threshold = None
    if candidate.gap and not candidate.gap.per_atom:
        threshold = candidate.gap.criteria.get("max_dos")
    comparable = view.validation if dft is not None else None
    figure = plot_edos(
        prediction.grid.centers,
        np.array(prediction.spectrum),
        f"{formula_text(candidate.formula)} ({candidate.material_id})",
        gap_edges(candidate.gap),
        threshold,
        dft,
        model_name(prediction.model_id),
        dft_gap=gap_edges(comparable.gap) if comparable else None,
        band_gap=comparable.band_gap if comparable else candidate.band_gap,
        band=view.band,
        projected=view.electronic_structure,
        labels=axis_labels(prediction.grid),
        nearest=view.nearest,
    )
    save_figure(figure, path)


def _print(view: MaterialView, unit: str) -> None:
    """Print tables and curves; `unit` is of the score."""
    import numpy as np

    from screening.cli.console import stdout, table
    from screening.report.plots import axis_labels, terminal_edos
    from screening.report.words import candidate_rows, dft_rows, gap_edges, level_rows

    candidate, prediction, validation = view.candidate, view.prediction, view.validation
    structure, dft = view.electronic_structure, view.dft
    console = stdout()
    rows = [*candidate_rows(candidate, unit), *level_rows(structure), *dft_rows(validation)]
    rows += _unfinished_rows(view.unfinished)
    console.print(table(candidate.material_id, ("property", "value"), rows))
    if (gap := candidate.gap) is not None:
        margins = gap.margins.model_dump() if gap.margins else {}
        console.print(criteria_table(gap.holds, margins, gap.per_atom))
    if structure is not None:
        console.print(states_table(structure, gap_edges(candidate.gap)))
    if view.nearest:
        console.print(nearest_table(view.nearest))
    if prediction is not None:
        title = f"{candidate.formula}, predicted by {prediction.model_id}"
        if validation is not None and dft is not None:
            title += f" (blue) and by {validation.engine} (red dots)"
        spectrum = np.array(prediction.spectrum)
        edges = gap_edges(candidate.gap)
        width = min(PLOT_WIDTH, console.width)
        color = sys.stdout.isatty()
        print(
            terminal_edos(
                prediction.grid.centers,
                spectrum,
                title,
                edges,
                width=width,
                color=color,
                dft=dft,
                labels=axis_labels(prediction.grid),
            )
        )


def _unfinished_rows(validation: ValidationDoc | None) -> list[Row]:
    """Why there is nothing by DFT though it was asked for."""
    if validation is None:
        return []
    why = "its spectrum is missing" if validation.state == "done" else validation.error
    return [
        (f"recipe of {validation.engine}", validation.recipe),
        (f"calculation by {validation.engine}", ": ".join(filter(None, (validation.state, why)))),
    ]


def criteria_table(
    holds: Mapping[str, bool], margins: Mapping[str, float | None], per_atom: bool
) -> Any:
    """Which criteria hold, and by how much, for the terminal.

    Parameters are those of :func:`screening.report.words.criterion_rows`.
    """
    from screening.cli.console import table
    from screening.report.words import criterion_rows

    return table(
        "Verdict", ("criterion", "holds", "margin"), criterion_rows(holds, margins, per_atom)
    )


def nearest_table(nearest: Sequence[NearestMaterial]) -> Any:
    """The nearest training materials and what DFT says of them, for the terminal."""
    from screening.cli.console import table

    columns = ("material", "formula", "distance", "positive by DFT", "WD to the prediction (eV)")
    rows = [
        (
            n.material_id,
            n.formula,
            f"{n.distance:.3f}",
            n.is_positive,
            None if n.wd is None else f"{n.wd:.3f}",
        )
        for n in nearest
    ]
    return table("Nearest training materials of the model", columns, rows)


def states_table(structure: ElectronicStructure, gap: tuple[float, float] | None) -> Any:
    """States by element and shell, all of the grid and what is nearest to the band edges.

    Parameters
    ----------
    structure : ElectronicStructure
    gap : (float, float) or None
        Edges of a VB gap or its mirror image in eV; states between it and 0 are the nearest ones.
    """
    from screening.cli.console import table

    lowest, highest = structure.grid.edges[[0, -1]]
    nearest = [-_NEAR, _NEAR]
    if gap is not None:
        nearest = [gap[1] if gap[1] < 0 else -_NEAR, gap[0] if gap[0] > 0 else _NEAR]
    wide, narrow = ((lowest, 0.0), (0.0, highest)), ((nearest[0], 0.0), (0.0, nearest[1]))
    columns = ["element", "shell", *(f"{low:g} to {high:g} eV" for low, high in wide)]
    columns += [f"% of {low:g} to {high:g} eV" for low, high in narrow]
    states = [structure.states(*ends) for ends in wide]
    shares = [_percent(structure.states(*ends)) for ends in narrow]
    rows: list[tuple[Any, ...]] = [
        (*part, *(of_range[part] for of_range in (*states, *shares)))
        for part in states[0]
        if max(of_range[part] for of_range in states) >= _LEAST
    ]
    rows.append(("all", "", *(sum(of_range.values()) for of_range in states), None, None))
    zero = "Fermi level" if structure.is_metal else "band edges"
    return table(f"States per cell, and whose they are next to the {zero}", columns, rows)


def _percent(states: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    total = sum(states.values()) or 1.0
    return {part: round(100 * n / total) for part, n in states.items()}
