"""One material in a run: spectrum, verdict, DFT, structure, and what other runs said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dash import html
from dash.development.base_component import Component

from db.documents import Run
from db.store import History, ScreeningStore
from models.zoo import model_name
from screening.criteria.interface import Criterion
from screening.criteria.registry import criterion_of
from screening.dashboard.page import (
    Chart,
    Page,
    Parts,
    facts,
    fingerprint,
    link,
    path_of,
    table,
)
from screening.errors import ScreeningError
from screening.report.charts import parts_chart, structure_chart
from screening.report.page import met_criteria, spectrum_chart
from screening.report.words import (
    attribution_of,
    candidate_rows,
    dft_rows,
    gap_edges,
    level_rows,
    materials_project_page,
    structure_in_words,
)
from workflows.reporting import MaterialView, view_material


@dataclass(frozen=True)
class MaterialPage(Page):
    """A material in a run of a store.

    Parameters
    ----------
    run_id, material_id : str
    """

    run_id: str
    material_id: str

    @property
    def title(self) -> str:
        """For the window."""
        return f"{self.material_id} in run {self.run_id}"

    @property
    def trail(self) -> list[tuple[str, str]]:
        """All runs, and that of the material."""
        return [("Runs", "/"), (f"Run {self.run_id}", path_of(self.run_id))]

    def state(self, store: ScreeningStore) -> str:
        """Changes when anything that is stored of the material does."""
        run, history = store.run(self.run_id), store.history(self.material_id)
        if not any(candidate.run_id == self.run_id for candidate in history.candidates):
            raise ScreeningError(f"{self.material_id} is not in run {self.run_id}")
        return fingerprint(
            run.parameters, history.candidates, history.predictions, history.validations
        )

    def layout(self, store: ScreeningStore, filters: Mapping[str, str]) -> list[Component]:
        """Headings, and places for what is under them."""
        return [
            html.Div(id="verdict"),
            html.H2("Density of states"),
            html.Div(id="dos"),
            html.Div(id="levels"),
            html.Div(id="parts"),
            html.Div(id="criteria"),
            html.H2("Crystal structure"),
            html.Div(id="crystal"),
            html.H2("Properties"),
            html.Div(id="properties"),
            html.H2("DFT"),
            html.Div(id="dft"),
            html.H2("History"),
            html.Div(id="history"),
        ]

    def parts(self, store: ScreeningStore) -> Parts:
        """All but what :meth:`slow_parts` has."""
        run = store.run(self.run_id)
        view = view_material(store, run, self.material_id, parts=False)
        criterion = criterion_of(run.parameters)
        return {
            "verdict": _verdict(view),
            "dos": _spectrum(view),
            "criteria": _criteria(view, criterion),
            "crystal": _structure(view),
            "properties": [facts(candidate_rows(view.candidate, criterion.unit))],
            "dft": _dft(view),
            "history": _history(store.history(self.material_id), run),
        }

    def slow_parts(self, store: ScreeningStore) -> Parts:
        """What a model that knows levels says more."""
        run = store.run(self.run_id)
        view = view_material(store, run, self.material_id, band=False)
        levels = view.electronic_structure
        if levels is None:
            return {"levels": [], "parts": []}
        figure = parts_chart(levels, gap_edges(view.candidate.gap))
        drawn = Chart("orbitals", "Predicted density of states by element and shell", figure)
        return {"levels": [facts(level_rows(levels))], "parts": drawn}


def _verdict(view: MaterialView) -> list[Component]:
    candidate = view.candidate
    said = {True: "predicted positive", False: "predicted negative", None: candidate.state}
    words = said[candidate.is_positive]
    if candidate.reason:
        words += f": {candidate.reason}"
    if candidate.probability is not None:
        words += f", probability {candidate.probability:.2f}"
    if view.validation is not None and view.validation.is_positive is not None:
        words += f"; {'positive' if view.validation.is_positive else 'negative'} by "
        words += view.validation.engine
    return [
        html.H1([candidate.formula or "Unknown formula", f" ({candidate.material_id})"]),
        html.P(f"{words[:1].upper()}{words[1:]}.", className="verdict"),
        *(html.P(remark) for remark in view.lacking),
    ]


def _spectrum(view: MaterialView) -> Chart | list[Component]:
    figure = spectrum_chart(view)
    if figure is None:
        return [html.P("There is no predicted spectrum.")]
    label = "Predicted density of states" + (" and that of DFT" if view.dft is not None else "")
    return Chart("spectrum", label, figure)


def _criteria(view: MaterialView, criterion: Criterion) -> list[Component]:
    columns = ("criterion", "limit", "met", "margin")
    by_engine = view.validation.engine if view.validation else ""
    shown = [
        table(f"{by}: criteria", columns, rows)
        for by, document in (("Prediction", view.candidate), (by_engine, view.validation))
        if (rows := met_criteria(document, criterion))
    ]
    return [html.H2("Criteria"), *shown] if shown else []


def _structure(view: MaterialView) -> Chart | list[Component]:
    if view.crystal is None:
        return [html.P("Its structure could not be read.")]
    label = f"{structure_in_words(view.crystal)}. Drag to turn it."
    return Chart("structure", label, structure_chart(view.crystal), 460)


def _dft(view: MaterialView) -> list[Component]:
    if view.validation is not None:
        return [facts(dft_rows(view.validation))]
    if (unfinished := view.unfinished) is None:
        return [html.P("No calculation of this structure yet.")]
    rows = [("engine", unfinished.engine), ("state", unfinished.state), ("error", unfinished.error)]
    return [facts(rows)]


def _history(history: History, run: Run) -> list[Component]:
    begun = {run.run_id: run for run in history.runs}
    runs = [
        (
            link(c.run_id, c.run_id, c.material_id),
            begun[c.run_id].created_at if c.run_id in begun else None,
            c.state,
            c.is_positive,
            c.score,
            c.probability,
            model_name(c.model_id or ""),
        )
        for c in reversed(history.candidates)
    ]
    calculations = [
        (v.engine, v.recipe, v.state, v.is_positive, v.band_gap, v.updated_at, v.error)
        for v in history.validations
    ]
    run_columns = ("run", "begun", "state", "positive", "score", "probability", "model")
    columns = ("engine", "recipe", "state", "positive", "band gap (eV)", "updated", "error")
    attribution = attribution_of(history.material_id, run)
    return [
        table("In runs, newest first", run_columns, runs),
        table("Calculations", columns, calculations, "none."),
        *_elsewhere(history.material_id),
        *([html.P(attribution)] if attribution else []),
    ]


def _elsewhere(material_id: str) -> list[Component]:
    if (address := materials_project_page(material_id)) is None:
        return []
    name = f"{material_id} at the Materials Project"
    return [html.P(html.A(name, href=address, rel="noreferrer"))]
