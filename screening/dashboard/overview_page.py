"""All runs of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dash import html
from dash.development.base_component import Component

from db.documents import Run
from db.questions import candidate_query
from db.store import ScreeningStore
from screening.dashboard.page import Page, Parts, fingerprint, link, named, table
from screening.report.words import criterion_name

SHOWN = 100  # runs; each is counted
COLUMNS: tuple[str, ...] = ("run", "begun", "state", "progress", "positive", "in domain")
COLUMNS += ("screened", "rejected", "failed", "criterion", "source", "error")


@dataclass(frozen=True)
class OverviewPage(Page):
    """The runs with their states and counts, newest first."""

    @property
    def title(self) -> str:
        """For the window."""
        return "Runs"

    def state(self, store: ScreeningStore) -> str:
        """Changes when a run or a count does."""
        runs = store.runs()
        counts = [store.candidate_counts(run.run_id) for run in runs[:SHOWN]]
        return fingerprint([(run.run_id, run.state, run.updated_at) for run in runs], counts)

    def layout(self, store: ScreeningStore, filters: Mapping[str, str]) -> list[Component]:
        """A place for the table of runs."""
        return [html.H1("Runs"), html.Div(id="runs")]

    def parts(self, store: ScreeningStore) -> Parts:
        """The table of runs."""
        runs = store.runs()
        rows = [_row(store, run) for run in runs[:SHOWN]]
        shown = table("Runs, newest first", COLUMNS, rows, "none yet; `screen run` makes one.")
        if len(runs) > SHOWN:
            older = f"{len(runs) - SHOWN} older ones are not shown; `screen runs` lists them."
            return {"runs": [shown, html.P(older)]}
        return {"runs": [shown]}


def _row(store: ScreeningStore, run: Run) -> tuple[Any, ...]:
    states = store.candidate_counts(run.run_id)
    domains = positives_by_domain(store, run.run_id)
    is_known = set(domains) - {None}
    source = " ".join(str(run.source.get(key) or "") for key in ("name", "database_version"))
    return (
        link(run.run_id, run.run_id),
        run.created_at,
        run.state,
        progress(run, states),
        sum(domains.values()),
        domains.get("yes", 0) if is_known else None,
        states.get("screened", 0),
        states.get("rejected", 0),
        states.get("failed", 0),
        criterion_name(run),
        source.strip(),
        run.error,
    )


def positives_by_domain(store: ScreeningStore, run_id: str) -> dict[Any, int]:
    """Predicted positives of a run by their `in_domain`.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    """
    return store.count_by(candidate_query(run_id, is_positive=True), "in_domain")


def progress(run: Run, states: dict[str, int]) -> Component | str:
    """How far a run is; a bar with words, and words alone where it is done.

    Parameters
    ----------
    run : Run
    states : dict of str to int
        Candidates in each state.
    """
    pending = states.get("pending", 0)
    total = pending + states.get("screened", 0) + states.get("failed", 0)
    if not pending:
        return f"{total:,} judged" if total else ""
    words = f"{total - pending:,} of {total:,} judged"
    bar = named("judged candidates", value=str(total - pending), max=str(total))
    return html.Span([html.Progress(**bar), " ", words])
