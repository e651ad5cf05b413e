"""The application: one window over a store, in which a page is built and kept up to date."""

from __future__ import annotations

import logging
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate
from flask import Response

from db.errors import StoreError
from db.store import ScreeningStore
from models.errors import ModelError
from screening.dashboard.addresses import page_at
from screening.dashboard.candidates_table import ASKED, GRID, filters_of, rows_of
from screening.dashboard.page import Page, named
from screening.dashboard.run_page import RunPage
from screening.errors import ScreeningError

REFRESH = 5.0  # s between two looks at the store
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
        dcc.Store(id="title"),
        dcc.Store(id=ASKED),
        html.A("To the content", href="#main", className="skip"),
        html.Header([html.Nav(id="trail", **named("Pages above")), html.Span(location)]),
        html.Div(id="notice", role="alert"),
        html.Main(html.P("Is being read …"), id="main", tabIndex="-1"),
    ]


def _keep_up_to_date(app: Dash, store: ScreeningStore) -> None:
    @app.callback(
        Output("shown", "data"),
        Input("address", "pathname"),
        Input("pulse", "n_intervals"),
        State("address", "search"),
        State("shown", "data"),
    )
    def show(path: str, _: int, search: str, shown: list[Any] | None) -> Any:
        """Build the page of an address, or change what is not up to date."""
        path = path or "/"
        is_built = shown is not None and shown[0] == path and shown[2]
        page = page_at(path)
        if page is None:
            _lack(f"There is no page {path}.", is_built=False)
            return [path, None, False]
        try:
            state = page.state(store)
            if is_built and shown is not None and shown[1] == state:
                return no_update
            if is_built:
                _apply(page.parts(store))
            else:
                _build(page, store, search or "")
        except ERRORS as error:
            log.warning("%s: %s", path, error)
            _lack(f"{error}. This page looks again every few seconds.", is_built=bool(is_built))
            return no_update if shown == [path, None, is_built] else [path, None, is_built]
        set_props("notice", {"children": None})
        return [path, state, True]

    app.clientside_callback(
        "dash_clientside.screening.entitle",
        Input("title", "data"),
        prevent_initial_call=True,
    )

    @app.callback(Input("shown", "data"), prevent_initial_call=True)
    def show_rest(shown: list[Any]) -> None:
        """What takes a while."""
        path, state, _ = shown
        page = page_at(path)
        if page is None or state is None:
            return
        try:
            _apply(page.slow_parts(store))
        except ERRORS as error:
            _lack(f"{error}.", is_built=True)


def _build(page: Page, store: ScreeningStore, search: str) -> None:
    set_props("title", {"data": page.title})
    set_props(ASKED, {"data": filters_of(search)})
    set_props("main", {"children": page.layout(store, search)})
    links = [dcc.Link(name, href=path) for name, path in page.trail]
    set_props("trail", {"children": [*links, html.Span(page.title)]})


def _apply(parts: dict[str, dict[str, Any]]) -> None:
    for identifier, properties in parts.items():
        set_props(identifier, properties)


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
            _lack(f"{error}.", is_built=True)
            set_props("shown", {"data": [path, None, True]})
            raise PreventUpdate from None
        return {"rowData": shown, "rowCount": total}, f"{total:,} candidates"

    app.clientside_callback(
        "dash_clientside.screening.readAgain",
        Input(ASKED, "data"),
        Input("shown", "data"),
        prevent_initial_call=True,
    )
