"""The application: one window over a store, in which a page is built and kept up to date."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from dash import Dash, Input, Output, State, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate
from flask import Response
from plotly.io.json import to_json_plotly

from db.errors import StoreError
from db.store import ScreeningStore
from models.errors import ModelError
from screening.dashboard.addresses import page_at
from screening.dashboard.candidates_table import ASKED, GRID, filters_of, rows_of
from screening.dashboard.page import Chart, Page, Parts, fingerprint, named
from screening.dashboard.run_page import RunPage
from screening.errors import ScreeningError

REFRESH = 5.0  # s between two looks at the store
LOOPBACK = ("127.0.0.1", "localhost")
ERRORS = (StoreError, ScreeningError, ModelError)
HEADERS = {
    # The browser itself refuses to ask anybody else. Dash has inline scripts.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
DOCUMENT = """<!doctype html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""

log = logging.getLogger(__name__)


def make_app(store: ScreeningStore, refresh: float = REFRESH, *, loopback: bool = True) -> Dash:
    """The application over a store; it only reads.

    Parameters
    ----------
    store : ScreeningStore
        Open for reading only.
    refresh : float
        Seconds between two looks at the store.
    loopback : bool
        Answer only to the names of this machine, so that no page from elsewhere can ask under a
        name of its own.
    """
    app = Dash(
        __name__,
        index_string=DOCUMENT,
        title="Screening",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
    )
    if loopback:
        app.server.config["TRUSTED_HOSTS"] = list(LOOPBACK)
    app.server.after_request(_with_headers)
    app.layout = _window(store.location, refresh)
    _keep_up_to_date(app, store)
    _fill_table(app, store)
    return app


def _with_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def _window(location: str, refresh: float) -> list[Any]:
    return [
        dcc.Location(id="address", refresh="callback-nav"),
        dcc.Interval(id="pulse", interval=1000 * refresh),
        dcc.Store(id="shown"),
        dcc.Store(id="rest"),
        dcc.Store(id="title"),
        dcc.Store(id=ASKED),
        html.A("To the content", href="#main", className="skip"),
        html.Header([html.Nav(id="trail", **named("Pages above")), html.Span(location)]),
        html.Div(id="notice", role="alert"),
        html.Main(html.P("Is being read …"), id="main", tabIndex="-1"),
    ]


def _keep_up_to_date(app: Dash, store: ScreeningStore) -> None:
    app.clientside_callback(
        "dash_clientside.screening.entitle", Input("title", "data"), prevent_initial_call=True
    )

    @app.callback(
        Output("shown", "data"),
        Input("address", "pathname"),
        Input("pulse", "n_intervals"),
        State("address", "search"),
        State("shown", "data"),
        # One look after the other: Dash forgets an answer that another question overtakes.
        running=[(Output("pulse", "disabled"), True, False)],
    )
    def show(path: str, _: int, search: str, before: dict[str, Any] | None) -> Any:
        """Build the page of an address, or change what is not up to date."""
        path = path or "/"
        shown = _Shown(**before) if before else _Shown(path)
        if shown.path != path:
            shown = _Shown(path)
        page = page_at(path)
        if page is None:
            _lack(f"There is no page {path}.", is_built=False)
            return asdict(replace(shown, state=None))
        try:
            state = page.state(store)
            if shown.state == state:
                return no_update
            parts = page.parts(store)
            if shown.marks is None:
                marks = _build(page, store, filters_of(search or ""), parts)
                shown = replace(shown, build=uuid4().hex)
            else:
                marks = _change(parts, shown.marks)
        except ERRORS as error:
            log.warning("%s: %s", path, error)
            words = f"{error}. This page looks again every few seconds."
            _lack(words, is_built=shown.marks is not None)
            lost = asdict(replace(shown, state=None))
            return no_update if lost == before else lost
        set_props("notice", {"children": None})
        return asdict(replace(shown, state=state, marks=marks))

    @app.callback(
        Output("rest", "data"),
        Input("shown", "data"),
        State("rest", "data"),
        prevent_initial_call=True,
    )
    def show_rest(built: dict[str, Any], before: dict[str, Any] | None) -> Any:
        """What takes a while."""
        shown = _Shown(**built)
        page = page_at(shown.path)
        if page is None or shown.state is None:
            return no_update
        marks = before["marks"] if before and before["build"] == shown.build else {}
        try:
            marks = _change(page.slow_parts(store), marks)
        except ERRORS as error:
            _lack(f"{error}.", is_built=True)
        return asdict(replace(shown, marks=marks))


@dataclass(frozen=True)
class _Shown:
    """What a window shows.

    Parameters
    ----------
    path : str
    state : str or None
        Of the page; None of one that is not up to date, or does not exist.
    marks : dict of str to str or None
        Fingerprints of its parts; None of a page that is not built yet.
    build : str or None
        Tells the page from another one of the same path, built before.
    """

    path: str
    state: str | None = None
    marks: dict[str, str] | None = None
    build: str | None = None


def _build(
    page: Page, store: ScreeningStore, filters: dict[str, str], parts: Parts
) -> dict[str, str]:
    whole = html.Div(page.layout(store, filters))
    for place, part in parts.items():
        whole[place].children = part.component() if isinstance(part, Chart) else part
    links = [dcc.Link(name, href=path) for name, path in page.trail]
    set_props(ASKED, {"data": filters})
    set_props("main", {"children": whole})
    set_props("trail", {"children": [*links, html.Span(page.title)]})
    set_props("title", {"data": page.title})
    return {place: _mark(part) for place, part in parts.items()}


def _change(parts: Parts, before: dict[str, str]) -> dict[str, str]:
    """Send those parts that differ; of a chart that is there already its figure alone."""
    marks = {place: _mark(part) for place, part in parts.items()}
    for place, part in parts.items():
        if marks[place] == before.get(place):
            continue
        if not isinstance(part, Chart):
            set_props(place, {"children": part})
        elif marks[place].partition(" ")[0] == before.get(place, "").partition(" ")[0]:
            set_props(part.identifier, {"figure": part.figure})
        else:
            set_props(place, {"children": part.component()})
    return before | marks


def _mark(part: Chart | list[Any]) -> str:
    """What it is and a fingerprint of what is in it."""
    if isinstance(part, Chart):
        return f"{part.identifier} {fingerprint(part.label, to_json_plotly(part.figure))}"
    return f"- {fingerprint(to_json_plotly(part))}"


def _lack(words: str, *, is_built: bool) -> None:
    """Say what is wrong, beside what is there already."""
    set_props("notice", {"children": words})
    if not is_built:
        set_props("main", {"children": None})
        set_props("trail", {"children": dcc.Link("Runs", href="/")})


def _fill_table(app: Dash, store: ScreeningStore) -> None:
    @app.callback(
        Output(GRID, "getRowsResponse"),
        Output("count", "children"),
        Input(GRID, "getRowsRequest"),
        State("address", "pathname"),
        State(ASKED, "data"),
        prevent_initial_call=True,
    )
    def rows(request: dict[str, Any], path: str, asked: dict[str, str]) -> Any:
        """A page of the table."""
        page = page_at(path)
        if not isinstance(page, RunPage) or request is None:
            raise PreventUpdate
        try:
            shown, total = rows_of(store, page.run_id, asked or {}, request)
        except ScreeningError as error:
            return {"rowData": [], "rowCount": 0}, f"{error}."
        except StoreError as error:
            log.warning("%s: %s", path, error)
            return {"rowData": [], "rowCount": None}, f"{error}."
        return {"rowData": shown, "rowCount": total}, f"{total:,} candidates"

    app.clientside_callback(
        "dash_clientside.screening.readAgain",
        Input(ASKED, "data"),
        Input("shown", "data"),
        prevent_initial_call=True,
    )
