"""`screen show`: all about one material."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import CandidateDoc, GapDoc, ValidationDoc
    from models.spectra.electronic_structure import ElectronicStructure
    from screening.nearest import NearestMaterial
    from workflows.reporting import MaterialView

PLOT_WIDTH = 78  # columns of a plot in the terminal, where there are so many
_UNKNOWN_ATOMS = "the run's program did not look, or has no radius of an element"
_UNKNOWN_DISTANCE = "how far it is from the training materials is not known"
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
    from screening.cli.rows import attribution_of
    from screening.cli.stored import existing, in_runs
    from screening.criteria.registry import criterion_of
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
    from screening.domain import Domain

    candidate, prediction, validation = view.candidate, view.prediction, view.validation
    document = candidate.model_dump(mode="json", exclude={"structure", "schema_version"})
    domain = Domain.of_document(candidate)
    document["out_of_domain_because"] = domain.reasons
    document["near_domain_because"] = domain.reservations
    document["remarks"] = [*domain.remarks, *(candidate.remarks or ())]
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
    document["nearest_training_materials"] = [material.as_dict() for material in view.nearest]
    return document


def _edges(gap: GapDoc | None) -> tuple[float, float] | None:
    """Edges of the range if it is a gap, in eV."""
    if gap is None or not gap.is_gap or gap.lower_edge is None or gap.upper_edge is None:
        return None
    return gap.lower_edge, gap.upper_edge


def _write_plot(view: MaterialView, path: Path) -> None:
    import numpy as np

    from models.zoo import model_name
    from screening.errors import ScreeningError
    from screening.report.plots import axis_labels, formula_text, plot_edos, save_figure

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
        _edges(candidate.gap),
        threshold,
        dft,
        model_name(prediction.model_id),
        dft_gap=_edges(comparable.gap) if comparable else None,
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

    candidate, prediction, validation = view.candidate, view.prediction, view.validation
    structure, dft = view.electronic_structure, view.dft
    console = stdout()
    rows = [*_properties(candidate, unit), *_predicted(structure), *_dft_properties(validation)]
    console.print(table(candidate.material_id, ("property", "value"), rows))
    if (gap := candidate.gap) is not None:
        margins = gap.margins.model_dump() if gap.margins else {}
        console.print(criteria_table(gap.holds, margins, gap.per_atom))
    if structure is not None:
        console.print(states_table(structure, _edges(candidate.gap)))
    if view.nearest:
        console.print(nearest_table(view.nearest))
    if prediction is not None:
        title = f"{candidate.formula}, predicted by {prediction.model_id}"
        if validation is not None and dft is not None:
            title += f" (blue) and by {validation.engine} (red dots)"
        spectrum = np.array(prediction.spectrum)
        edges = _edges(candidate.gap)
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


def _properties(candidate: CandidateDoc, unit: str = "") -> list[tuple[str, Any]]:
    """What is known of a candidate; `unit` is of the score."""
    from screening.cli.rows import first_verdict_in_words, verdict_title

    gap, title = candidate.gap, verdict_title(candidate)
    rows: list[tuple[str, Any]] = [
        ("run", candidate.run_id),
        ("formula", candidate.formula),
        ("atoms in the cell", str(candidate.nsites)),
        ("cell", _cell(candidate)),
        ("energy above hull (eV/atom)", _number(candidate.energy_above_hull)),
        ("band gap (eV)", _number(candidate.band_gap)),
        ("magnetic", candidate.is_magnetic),
        ("has a DFT DOS", candidate.has_edos),
        ("state", candidate.state),
        ("reason", candidate.reason),
        ("source", " ".join(str(part) for part in candidate.origin.values()) or None),
        (title, candidate.is_positive),
    ]
    if first := first_verdict_in_words(candidate):
        rows += [("judged by", candidate.model_id), ("first verdict", first)]
    if gap is not None and gap.width:
        rows.append(("gap or nearest miss (eV)", _span(gap)))
        rows.append((f"largest DOS in it ({_unit(gap.per_atom)})", _number(gap.max_dos)))
        rows.append(("score (eV)", _number(candidate.score)))
    if candidate.probability is not None:
        rows.append(("probability of a positive by DFT", f"{candidate.probability:.2f}"))
    if candidate.expected_error is not None:
        rows.append(("expected error of the spectrum, WD (eV)", _number(candidate.expected_error)))
    if gap is not None:
        rows.append(("kind", gap.kind))
        rows.append(("ranges of that width below the band edge", _whole(gap.n_ranges)))
        rows.append(("verdict is robust", gap.robust))
        rows.append((f"{title} with the threshold per atom", candidate.is_positive_per_atom))
    if candidate.features is not None:
        rows.append((_with_unit("score", unit), _number(candidate.score)))
        rows += _features(candidate.features)
    rows += _domain(candidate)
    rows += [("remark", remark) for remark in candidate.remarks or ()]
    return rows


def _features(features: dict[str, Any], engine: str | None = None) -> list[tuple[str, Any]]:
    """The quantities that decided, with their units."""
    from screening.cli.rows import flat_features
    from screening.criteria.features import FEATURES

    units = {name: feature.unit for known in FEATURES.values() for name, feature in known.items()}
    by = f" by {engine}" if engine else ""
    return [
        (
            _with_unit(name, units.get(name, "")) + by,
            value if isinstance(value, bool) else _number(value),
        )
        for name, value in flat_features(features).items()
    ]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _domain(candidate: CandidateDoc) -> list[tuple[str, Any]]:
    """Whether the model can know the material, why not or how; empty before a verdict."""
    from screening.domain import Domain

    if candidate.is_positive is None:
        return []
    domain = Domain.of_document(candidate)
    words: str = domain.in_domain or "not known"
    if because := domain.reasons or domain.reservations:
        words += f": {', '.join(because)}"
    elif domain.in_domain is None:
        words += f": {_UNKNOWN_DISTANCE if domain.is_outside is False else _UNKNOWN_ATOMS}"
    remarks = [("remark", remark) for remark in domain.remarks]
    return [("in the domain of the model", words), *remarks]


def _predicted(structure: ElectronicStructure | None) -> list[tuple[str, Any]]:
    """Band gap of a model that knows it.

    There is no Fermi level: it is the middle of the gap, and the zero of the model's energies
    differs between crystals.
    """
    if structure is None:
        return []
    return [
        ("predicted band gap (eV)", _number(structure.band_gap)),
        ("predicted to be", "a metal" if structure.is_metal else "an insulator"),
    ]


def _dft_properties(validation: ValidationDoc | None) -> list[tuple[str, Any]]:
    """What DFT says, in bins and at its own resolution where the two differ."""
    if validation is None:
        return []
    from screening.cli.rows import verdict_title

    engine, title = validation.engine, verdict_title(validation)
    verdict: Any = validation.is_positive
    if validation.state == "magnetic":
        verdict = "magnetic, so no verdict (the screening is for nonmagnetic materials)"
    rows: list[tuple[str, Any]] = [
        (f"recipe of {engine}", validation.recipe),
        (f"{title} by {engine}", verdict),
    ]
    if (gap := validation.gap) is not None:
        if gap.width:
            unit = _unit(gap.per_atom)
            rows.append((f"gap or nearest miss by {engine} (eV)", _span(gap)))
            rows.append((f"largest DOS in it ({unit}), {engine}", _number(gap.max_dos)))
        rows.append((f"kind by {engine}", gap.kind))
        rows.append((f"verdict by {engine} is robust", gap.robust))
        if gap.is_gap_fine is not None and gap.is_gap_fine != gap.is_gap:
            rows.append((f"{title} by {engine} at full resolution", gap.is_gap_fine))
    rows += _features(validation.features or {}, engine)
    rows.append((f"band gap by {engine} (eV)", _number(validation.band_gap)))
    rows += [(f"remark by {engine}", remark) for remark in validation.warnings or ()]
    if validation.mae is not None:
        rows.append(("error of the prediction, MAE (states/eV/cell)", _number(validation.mae)))
    if validation.wd is not None:
        rows.append(("error of the prediction, WD (eV)", _number(validation.wd)))
    return rows


def _span(gap: GapDoc) -> str:
    bound = "at least " if gap.is_lower_bound else ""
    return f"{gap.lower_edge:.2f} to {gap.upper_edge:.2f}, width {bound}{gap.width:.2f}"


def _unit(per_atom: bool) -> str:
    return "states/eV/atom" if per_atom else "states/eV/cell"


def criteria_table(
    holds: Mapping[str, bool], margins: Mapping[str, float | None], per_atom: bool
) -> Any:
    """Which criteria hold, and by how much, for the terminal.

    Parameters
    ----------
    holds : mapping of str to bool
        By the name of the criterion.
    margins : mapping of str to float or None
        By which it holds (positive) or fails: states/eV for ``"max_dos"``, else eV.
    per_atom : bool
        The DOS was judged per atom, not per cell.
    """
    from screening.cli.console import table

    rows = []
    for name, is_met in holds.items():
        margin = margins.get(name)
        unit = _unit(per_atom) if name == "max_dos" else "eV"
        rows.append((name, is_met, None if margin is None else f"{margin:+.3f} {unit}"))
    return table("Verdict", ("criterion", "holds", "margin"), rows)


def nearest_table(nearest: Sequence[NearestMaterial]) -> Any:
    """The nearest training materials and what DFT says of them, for the terminal."""
    from screening.cli.console import table

    columns = ("material", "formula", "distance", "positive by DFT", "WD to the prediction (eV)")
    rows = [
        (n.material_id, n.formula, _number(n.distance), n.is_positive, _number(n.wd))
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


def _cell(candidate: CandidateDoc) -> str:
    from screening.cli.rows import cell_in_words

    fields = candidate.nsites, candidate.cell_multiplicity, candidate.reduction_problem
    return cell_in_words(*fields)


def _whole(value: int | None) -> str | None:
    return None if value is None else str(value)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
