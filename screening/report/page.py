"""The report: one page of HTML that needs no network.

What a material's row shows when it is opened, and all charts, are in one compressed block; the
browser draws a chart when it is looked at. The policy of the page forbids whatever is not in it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from models.zoo import model_name
from screening.criteria.gap_criterion import gap_title
from screening.report import charts
from screening.report.plots import formula_text
from screening.report.words import (
    PAPER_DOI,
    attribution_of,
    candidate_rows,
    count_rows,
    criterion_rows,
    dft_rows,
    feature_title,
    figure_rows,
    flat_features,
    gap_edges,
    has_gaps,
    level_rows,
    materials_project_page,
    structure_in_words,
)
from screening.secrets import without_secrets

if TYPE_CHECKING:
    from db.documents import CandidateDoc, Run, ValidationDoc
    from models.crystal import Crystal
    from screening.criteria.interface import Criterion
    from workflows.reporting import Family, MaterialView, RunView

TEMPLATES = Path(__file__).parent / "templates"
CITATION = (
    "S. Kong, F. Ricci, D. Guevarra, J. B. Neaton, C. P. Gomes and J. M. Gregoire, Density of "
    "states prediction for materials discovery via contrastive learning from probabilistic "
    "embeddings, "
    f"Nature Communications 13, 949 (2022), doi:{PAPER_DOI}"
)
FAILURES = 20  # that are named
SITES = 200  # of a structure that are listed
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
# Parameters that are shown elsewhere, and where a key is kept.
_HIDDEN = {"api_key_file", "criteria", "criterion", "validation_choices"}


class Cell(NamedTuple):
    """What a cell of the table shows, and what it is sorted by; None where that is not known."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the table of materials.

    Parameters
    ----------
    title : str
        With the unit.
    cell : callable
        Gives the cell of a :class:`workflows.reporting.MaterialView`.
    is_number : bool
        It is aligned to the right and begins with its largest values when it is sorted.
    is_minor : bool
        A narrow window does without.
    """

    title: str
    cell: Callable[[Any], Cell]
    is_number: bool = True
    is_minor: bool = True


def render_report(
    view: RunView,
    made_at: datetime,
    version: str,
    drawn: Callable[[int], None] = lambda done: None,
) -> str:
    """The page of a run.

    Parameters
    ----------
    view : RunView
    made_at : datetime
    version : str
        Of this program.
    drawn : callable
        Called with how many materials were drawn since the last call.
    """
    families = {
        material_id: family for family in view.families for material_id in family.material_ids
    }
    columns = table_columns(view, families)
    positions = {m.candidate.material_id: i for i, m in enumerate(view.materials)}
    of_run = run_charts(view)
    text = (
        _templates()
        .get_template("page.html")
        .render(
            view=view,
            run=view.run,
            title=_title(view),
            facts=_facts(view),
            made_at=made_at,
            version=version,
            columns=columns,
            rows=[_row(material, columns, families) for material in view.materials],
            positions=positions,
            symbol_text=_symbol_text,
            families=[family for family in view.families if len(family.material_ids) > 1],
            alone=[family for family in view.families if len(family.material_ids) == 1],
            formulas={
                name: formula_text(view.materials[i].candidate.formula)
                for name, i in positions.items()
            },
            elements=sorted(view.screened.elements.items(), key=lambda item: (-item[1], item[0])),
            charts=tuple(of_run),
            n_on_hull=int(np.isfinite(view.screened.energies_above_hull).sum()),
            parameters=parameter_rows(view.run),
            definition=_flat(view.criterion.definition()),
            versions=_flat(view.run.versions),
            metrics=[
                (
                    result,
                    figure_rows(result.assessment),
                    count_rows(result.assessment, result.undecided),
                )
                for result in view.metrics
            ],
            validated=_validated(view),
            failures=list(view.failures.items())[:FAILURES],
            attributions=_attributions(view),
            paper=CITATION,
            problems=sorted(
                {problem for material in view.materials for problem in material.lacking}
            ),
            css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            scripts=_scripts(),
            policy=_policy(),
            payload=Markup(_payload(view, families, of_run, drawn)),
            model_name=model_name,
            formula_text=formula_text,
        )
    )
    return without_secrets(text)


# --- the table -------------------------------------------------------------------------


def table_columns(view: RunView, families: dict[str, Family]) -> list[Column]:
    """Columns of the table of materials, without those that nothing is known of.

    Parameters
    ----------
    view : RunView
    families : dict of str to Family
        By the ids of their members.
    """
    of_gaps = _gap_columns() if has_gaps(view.run) else _feature_columns(view.materials)
    unit = f" ({view.criterion.unit})" if view.criterion.unit else ""
    columns = [
        Column("predicted", lambda m: _verdict(m.candidate.is_positive), False, False),
        Column("by DFT", _verdict_by_dft, False, False),
        Column("probability", lambda m: _number(m.candidate.probability, 2), True, False),
        Column(f"score{unit}", lambda m: _number(m.candidate.score, 2), True, False),
        *of_gaps,
        Column("in domain", lambda m: _text(m.candidate.in_domain), False),
        Column("expected error (eV)", lambda m: _number(m.candidate.expected_error, 2)),
        Column("above hull (eV/atom)", lambda m: _number(m.candidate.energy_above_hull, 3)),
        Column("atoms", lambda m: _number(m.candidate.nsites, 0)),
        Column("family", lambda m: _text(_family(m, families)), False),
    ]
    known = [c for c in columns if any(c.cell(m).key is not None for m in view.materials)]
    return known if view.materials else columns


def _gap_columns() -> list[Column]:
    def of_gap(name: str) -> Callable[[Any], Cell]:
        return lambda m: _number(getattr(m.candidate.gap, name, None), 2)

    return [
        Column("gap from (eV)", of_gap("lower_edge")),
        Column("to (eV)", of_gap("upper_edge")),
        Column("width (eV)", _width),
        Column("kind", lambda m: _text(getattr(m.candidate.gap, "kind", None)), False),
        Column("robust", lambda m: _flag(getattr(m.candidate.gap, "robust", None)), False),
    ]


def _width(material: MaterialView) -> Cell:
    gap = material.candidate.gap
    text, key = _number(None if gap is None else gap.width, 2)
    return Cell(f"≥ {text}" if gap is not None and gap.is_lower_bound else text, key)


def _feature_columns(materials: Sequence[MaterialView]) -> list[Column]:
    def value_of(name: str) -> Callable[[Any], Cell]:
        def cell(material: MaterialView) -> Cell:
            value = flat_features(material.candidate.features).get(name)
            return _flag(value) if isinstance(value, bool) else _number(value, 3)

        return cell

    names = dict.fromkeys(n for m in materials for n in flat_features(m.candidate.features))
    return [Column(feature_title(name), value_of(name)) for name in names]


def _verdict(is_positive: bool | None) -> Cell:
    return _text(None if is_positive is None else "positive" if is_positive else "negative")


def _verdict_by_dft(material: MaterialView) -> Cell:
    if (validation := material.validation) is not None:
        if validation.state == "magnetic":
            return _text("magnetic")
        return (
            _text("no verdict")
            if validation.is_positive is None
            else _verdict(validation.is_positive)
        )
    return _text(None if material.unfinished is None else material.unfinished.state)


def _number(value: float | None, digits: int) -> Cell:
    if value is None:
        return Cell("–", None)
    return Cell(_MINUS.sub("−", f"{value:.{digits}f}"), round(float(value), 6))


def _text(value: str | None) -> Cell:
    return Cell(value or "–", value or None)


def _flag(value: bool | None) -> Cell:
    return _text(None if value is None else "yes" if value else "no")


def _row(
    material: MaterialView, columns: Sequence[Column], families: dict[str, Family]
) -> dict[str, Any]:
    candidate = material.candidate
    family = families.get(candidate.material_id)
    words = [candidate.formula, candidate.material_id]
    if family is not None:
        words += [family.anonymous_formula, family.symbol, str(family.space_group)]
    return {
        "formula": formula_text(candidate.formula),
        "material_id": candidate.material_id,
        "cells": [column.cell(material) for column in columns],
        "search": " ".join(words).lower(),
        "elements": " ".join(candidate.elements),
        "verdict": _verdict(candidate.is_positive).text,
        "dft": _verdict_by_dft(material).text,
        "domain": candidate.in_domain or "",
    }


# --- a material ------------------------------------------------------------------------


def spectrum_chart(material: MaterialView) -> go.Figure | None:
    """Predicted spectrum of a material beside DFT's; None without a prediction.

    Parameters
    ----------
    material : MaterialView
    """
    candidate, prediction, spectrum = material.candidate, material.prediction, material.spectrum
    if prediction is None or spectrum is None:
        return None
    threshold = None
    if candidate.gap and not candidate.gap.per_atom:
        threshold = candidate.gap.criteria.get("max_dos")
    comparable = material.validation if material.dft is not None else None
    return charts.edos_chart(
        spectrum.grid,
        spectrum.values,
        gap=gap_edges(candidate.gap),
        max_dos=threshold,
        dft=material.dft,
        dft_gap=gap_edges(comparable.gap) if comparable else None,
        band=material.band,
        band_gap=comparable.band_gap if comparable else candidate.band_gap,
        model=f"predicted by {model_name(prediction.model_id)}",
        engine=f"DFT ({comparable.engine})" if comparable else "DFT",
    )


def material_charts(material: MaterialView) -> dict[str, go.Figure]:
    """All charts of a material, by name; those that there are.

    Parameters
    ----------
    material : MaterialView
    """
    parts, crystal = material.electronic_structure, material.crystal
    gap = gap_edges(material.candidate.gap)
    every = {
        "spectrum": spectrum_chart(material),
        "parts": None if parts is None else charts.parts_chart(parts, gap),
        "structure": None if crystal is None else charts.structure_chart(crystal),
    }
    return {name: figure for name, figure in every.items() if figure is not None}


def _details(material: MaterialView, view: RunView, families: dict[str, Family], names: Any) -> str:
    """What stands beneath the row of a material."""
    candidate = material.candidate
    rows = [row for row in candidate_rows(candidate, view.criterion.unit) if row[0] != "run"]
    template = _templates().get_template("material.html")
    return template.render(
        material=material,
        candidate=candidate,
        formula=formula_text(candidate.formula),
        link=materials_project_page(candidate.material_id),
        charts=names,
        criteria=met_criteria(candidate, view.criterion),
        criteria_by_dft=met_criteria(material.validation, view.criterion),
        rows=_shown(rows + level_rows(material.electronic_structure)),
        rows_by_dft=_shown(dft_rows(material.validation)),
        family=_family(material, families),
        structure=structure_in_words(material.crystal),
        sites=_sites(material.crystal),
        attribution=attribution_of(candidate.material_id, view.run),
    )


def met_criteria(
    document: CandidateDoc | ValidationDoc | None, criterion: Criterion
) -> list[tuple[str, str | None, bool, str | None]]:
    """What each criterion asks for, its limit, whether it is met, and the margin.

    Parameters
    ----------
    document : CandidateDoc, ValidationDoc or None
    criterion : Criterion
        That it was judged by.
    """
    if document is None:
        return []
    from screening.gap_criteria import GapCriteria

    gap = document.gap
    if gap is None:
        condition = criterion.definition().get("positive")
        if document.is_positive is None or condition is None:
            return []
        return [(str(condition), None, document.is_positive, None)]
    margins = gap.margins.model_dump() if gap.margins else {}
    fields = GapCriteria.model_fields
    return [
        (
            (fields[name].description or name).rstrip(".") if name in fields else name,
            _MINUS.sub("−", _value(gap.criteria.get(name))),
            is_met,
            margin and _MINUS.sub("−", margin),
        )
        for name, is_met, margin in criterion_rows(gap.holds, margins, gap.per_atom)
    ]


def _sites(crystal: Crystal | None) -> list[tuple[str, str]]:
    from models.crystal import ELEMENTS

    if crystal is None:
        return []
    places = zip(crystal.atomic_numbers, crystal.frac_coords, strict=True)
    sites = [(ELEMENTS[z], ", ".join(f"{x:.4f}" for x in at)) for z, at in places]
    return sites[:SITES]


def _shown(rows: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(name, _MINUS.sub("−", _value(value))) for name, value in rows if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the run ---------------------------------------------------------------------------


def _title(view: RunView) -> str:
    return gap_title(view.criterion.name) or view.criterion.title


def _facts(view: RunView) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    expected = [
        m.candidate.probability
        for m in view.materials
        if m.candidate.is_positive and m.candidate.probability is not None
    ]
    calculated = [m.validation for m in view.materials if m.validation is not None]
    confirmed = sum(bool(v.is_positive) for v in calculated)
    entered = view.run.funnel[0].entered if view.run.funnel else None
    facts = [
        ("structures came in", None if entered is None else f"{entered:,}"),
        ("were screened", f"{len(view.screened.material_ids):,}"),
        ("are predicted positive", f"{view.n_positive:,}"),
        ("of these in the model's domain", f"{view.domains.inside:,}" if view.n_positive else None),
        (
            f"expected of the {len(expected)} shown to be confirmed",
            f"{sum(expected):.1f}" if expected else None,
        ),
        ("calculated by DFT", f"{len(calculated):,}" if calculated else "none yet"),
        ("of these positive by DFT", f"{confirmed:,}" if calculated else None),
    ]
    return [
        (what, n) for what, n in facts if n is not None and (expected or "expected" not in what)
    ]


def parameter_rows(run: Run) -> list[tuple[str, str]]:
    """Parameters of a run by their whole names; of files and folders the names alone.

    Where a key is kept is left out, and so is what has a place of its own on the page.
    """
    return _flat(run.parameters, _HIDDEN)


def _flat(
    values: dict[str, Any], hidden: Collection[str] = (), before: str = ""
) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if name in hidden or value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            rows += _flat(value, hidden, f"{before}{name}: ")
            continue
        text = ", ".join(map(_value, value)) if isinstance(value, list) else _value(value)
        if text.startswith("/"):
            text = Path(text).name
        rows.append((f"{before}{name}".replace("_", " "), _MINUS.sub("−", text)))
    return rows


def _family(material: MaterialView, families: dict[str, Family]) -> str | None:
    family = families.get(material.candidate.material_id)
    if family is None:
        return None
    return f"{formula_text(family.anonymous_formula)}, {_symbol_text(family.symbol)}"


def _symbol_text(symbol: str) -> str:
    """Space group with its screw axes as subscripts and bars above its rotoinversions."""
    from pymatgen.util.string import unicodeify_spacegroup

    return unicodeify_spacegroup(symbol)


def _validated(view: RunView) -> list[dict[str, Any]]:
    """What was calculated, and how it ended."""
    rows = []
    for position, material in enumerate(view.materials):
        document = material.validation or material.unfinished
        if document is None:
            continue
        remark = document.error or "; ".join(document.warnings)
        if material.validation is None and document.state == "done":
            remark = "its spectrum is missing"
        rows.append(
            {
                "position": position,
                "formula": formula_text(material.candidate.formula),
                "material_id": material.candidate.material_id,
                "predicted": _verdict(material.candidate.is_positive).text,
                "by_dft": f"{_verdict_by_dft(material).text} ({document.engine})",
                "mae": _number(document.mae, 2).text,
                "wd": _number(document.wd, 2).text,
                "remark": remark,
            }
        )
    return rows


def _attributions(view: RunView) -> list[str]:
    of_materials = (attribution_of(m.candidate.material_id, view.run) for m in view.materials)
    of_cards = (getattr(card, "attribution", "") for card in view.cards.values())
    return sorted({text for text in (*of_materials, *of_cards) if text})


def run_charts(view: RunView) -> dict[str, go.Figure]:
    """Charts of the whole run, by name.

    Parameters
    ----------
    view : RunView
    """
    screened = view.screened
    figures = {"funnel": charts.funnel_chart(view.run.funnel, view.run.counts)}
    if screened.elements:
        figures["elements"] = charts.element_chart(screened.elements, "positives")
    if np.isfinite(screened.energies_above_hull).any():
        figures["hull"] = charts.hull_chart(
            screened.energies_above_hull,
            screened.scores,
            screened.is_positive,
            screened.material_ids,
            unit=view.criterion.unit,
        )
    return figures


# --- what the page is made of ----------------------------------------------------------


def _payload(
    view: RunView,
    families: dict[str, Family],
    of_run: dict[str, go.Figure],
    drawn: Callable[[int], None],
) -> str:
    """Charts and details, compressed, as text that no parser of HTML finds anything in."""
    materials = []
    for material in view.materials:
        figures = material_charts(material)
        details = _details(material, view, families, tuple(figures))
        materials.append({"html": details, "charts": _plain(figures)})
        drawn(1)
    document = {
        "look": charts.TEMPLATE.to_plotly_json(),
        "run": _plain(of_run),
        "materials": materials,
    }
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return base64.b64encode(gzip.compress(body, 6, mtime=0)).decode()


def _plain(figures: dict[str, go.Figure]) -> dict[str, Any]:
    """Traces and layouts, without the look, which they all share."""
    plain = {}
    for name, figure in figures.items():
        document = figure.to_plotly_json()
        document["layout"].pop("template", None)
        plain[name] = document
    return plain


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _scripts() -> list[Markup]:
    """Plotly, and what makes the page work; they hold no end tag of a script."""
    from plotly.offline import get_plotlyjs

    before, after = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("before.js", "page.js")
    )
    return [Markup(text.strip()) for text in (before, get_plotlyjs(), after)]


@cache
def _policy() -> str:
    """What the page may do: run its own scripts, and nothing that needs a network."""
    hashes = (hashlib.sha256(script.encode()).digest() for script in _scripts())
    known = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {known}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
