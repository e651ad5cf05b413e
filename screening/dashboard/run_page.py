"""One run: how it came to its positives, its candidates, and how right it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import html
from dash.development.base_component import Component

from db.collections import VALIDATIONS, Condition, Query
from db.documents import Run
from db.store import ScreeningStore
from screening.criteria.registry import criterion_of
from screening.dashboard.candidates_table import candidates_table
from screening.dashboard.overview_page import positives_by_domain, progress
from screening.dashboard.page import Chart, Page, Parts, facts, fingerprint, link, table
from screening.errors import ScreeningError
from screening.report.charts import element_chart, funnel_chart, hull_chart
from screening.report.words import count_rows, criterion_name, figure_rows, has_gaps
from workflows.metrics import run_metrics
from workflows.plan import check_calculable
from workflows.reporting import Screened, all_screened

DRAWN_POSITIVES = 5000  # in a chart
SLOW = {
    "course": "How the run came to its positives",
    "composition": "Positives by element",
    "stability": "Score and stability",
    "rightness": "How right it was",
}
"""Headings of the sections that come later, by the ids of what is under them."""


@dataclass(frozen=True)
class RunPage(Page):
    """A run of a store.

    Parameters
    ----------
    run_id : str
    """

    run_id: str

    @property
    def title(self) -> str:
        """For the window."""
        return f"Run {self.run_id}"

    @property
    def trail(self) -> list[tuple[str, str]]:
        """All runs."""
        return [("Runs", "/")]

    def state(self, store: ScreeningStore) -> str:
        """Changes when the run does, or a count of its candidates or calculations."""
        run = store.run(self.run_id)
        calculations = Query(VALIDATIONS, (Condition("run_ids", "has", self.run_id),))
        return fingerprint(
            (run.state, run.updated_at, run.error),
            store.candidate_counts(self.run_id),
            positives_by_domain(store, self.run_id),
            store.count_by(calculations, "updated_at"),
        )

    def layout(self, store: ScreeningStore, filters: Mapping[str, str]) -> list[Component]:
        """The table, and places for all else."""
        run = store.run(self.run_id)
        later = (
            html.Section([html.H2(heading), html.Div("Is being read …", id=place)])
            for place, heading in SLOW.items()
        )
        return [
            html.H1(self.title),
            html.Div(id="summary"),
            html.H2("Candidates"),
            *candidates_table(filters, _score_unit(run), has_gaps(run)),
            *later,
        ]

    def parts(self, store: ScreeningStore) -> Parts:
        """State and counts."""
        run = store.run(self.run_id)
        states = store.candidate_counts(self.run_id)
        return {"summary": _summary(run, states, positives_by_domain(store, self.run_id))}

    def slow_parts(self, store: ScreeningStore) -> Parts:
        """The charts, and precision and recall."""
        run = store.run(self.run_id)
        states = store.candidate_counts(self.run_id)
        n_positive = sum(positives_by_domain(store, self.run_id).values())
        counts = {"screened": states.get("screened", 0), "positive": n_positive}
        passed = funnel_chart(run.funnel, counts)
        screened = all_screened(store, run)
        elements = element_chart(screened.elements, "positives")
        return {
            "course": Chart("funnel", "Materials that passed each filter", passed, 340),
            "composition": Chart("elements", "Predicted positives with each element", elements),
            "stability": _stability(screened, run),
            "rightness": _rightness(store, run),
        }


def _score_unit(run: Run) -> str:
    """Unit of the score; empty also where the criterion is of a package that is gone."""
    try:
        return criterion_of(run.parameters).unit
    except ScreeningError:
        return ""


def _summary(run: Run, states: dict[str, int], domains: dict[Any, int]) -> list[Component]:
    rows: list[tuple[str, Any]] = [
        ("state", run.state),
        ("error", run.error),
        ("begun", run.created_at),
        ("finished", run.finished_at),
        ("progress", progress(run, states) or None),
        ("predicted positives", sum(domains.values())),
        *((f"of them in the model's domain: {word}", n) for word, n in domains.items() if word),
        *((state, n) for state, n in states.items()),
        ("looks for", criterion_name(run)),
        ("model", run.model_id),
        ("second model", run.second_model_id),
        ("goes on from run", link(run.parent, run.parent) if run.parent else None),
        ("source", run.source.get("name")),
        ("version of the source", run.source.get("database_version")),
        *(("note of the source", note) for note in run.source.get("notes") or ()),
    ]
    parameters = html.Details(
        [
            html.Summary("Parameters and versions"),
            facts((name, _plain(value)) for name, value in run.parameters.items()),
            facts((name, _plain(value)) for name, value in run.versions.items()),
        ]
    )
    attribution = run.source.get("attribution")
    return [facts(rows), parameters, *([html.P(attribution)] if attribution else [])]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _stability(screened: Screened, run: Run) -> Chart | list[Component]:
    is_positive = screened.is_positive
    drawn = ~is_positive | (np.cumsum(is_positive) <= DRAWN_POSITIVES)
    if not np.isfinite(screened.energies_above_hull).any():
        return [html.P("The energy above the hull is not known of any judged candidate.")]
    named = zip(screened.formulas, screened.material_ids, drawn, strict=True)
    figure = hull_chart(
        screened.energies_above_hull[drawn],
        screened.scores[drawn],
        is_positive[drawn],
        [f"{formula} ({name})" for formula, name, is_drawn in named if is_drawn],
        unit=_score_unit(run),
    )
    label = "Score of the judged candidates against their energy above the hull"
    if is_positive.sum() > DRAWN_POSITIVES:
        label += f"; of {is_positive.sum():,} positives the best {DRAWN_POSITIVES:,}"
    return Chart("hull", label, figure)


def _rightness(store: ScreeningStore, run: Run) -> list[Component]:
    shown: list[Component] = []
    try:
        check_calculable(run)
        known = run_metrics(store, run)
    except ScreeningError as error:  # the charts are there all the same
        return [html.P(f"{error}.")]
    for metrics in known:
        by = f"{metrics.engine}, {metrics.recipe}"
        columns = ("figure", "95 % interval", "estimate or its bounds")
        shown.append(table(f"By {by}", columns, figure_rows(metrics.assessment)))
        counts = count_rows(metrics.assessment, metrics.undecided)
        shown.append(table(f"Materials by {by}", ("verdicts", "materials"), counts))
        if metrics.in_domain:
            shown.append(html.P("Only of materials that the model can know."))
    return shown or [html.P("No candidate has been calculated yet; `screen validate` does so.")]
