"""What a page is, and the parts that all are made of."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from db.store import ScreeningStore


@dataclass(frozen=True)
class Chart:
    """A chart; what a user has zoomed and turned stays when it is drawn again.

    Parameters
    ----------
    identifier : str
        Of the `dcc.Graph`.
    label : str
        Says what it shows, also to those who do not see it.
    figure : Figure
    height : int
        In pixels.
    """

    identifier: str
    label: str
    figure: go.Figure
    height: int = 420

    def __post_init__(self) -> None:
        self.figure.update_layout(uirevision="kept", autosize=True)

    def component(self) -> Component:
        """The chart with its label."""
        graph = dcc.Graph(
            id=self.identifier,
            figure=self.figure,
            config={"displaylogo": False, "responsive": True},
            style={"height": f"{self.height}px"},
        )
        group = html.Div(graph, **named(self.label, role="group", tabIndex="0"))
        return html.Figure([group, html.Figcaption(self.label)])


Parts = dict[str, Chart | list[Component]]
"""What is in the places of a page, by their ids."""


class Page(ABC):
    """A page over a store. It is built once; then only those parts change whose content does."""

    @property
    @abstractmethod
    def title(self) -> str:
        """For the window, and for bookmarks."""

    @property
    def trail(self) -> list[tuple[str, str]]:
        """Names and paths of the pages above."""
        return []

    @abstractmethod
    def state(self, store: ScreeningStore) -> str:
        """Changes when what there is to show does; cheap, since it is asked for every few seconds.

        Raises
        ------
        StoreError, ScreeningError
            If there is nothing to show: no such run.
        """

    @abstractmethod
    def layout(self, store: ScreeningStore, filters: Mapping[str, str]) -> list[Component]:
        """What stays, with places for the parts.

        Parameters
        ----------
        store : ScreeningStore
        filters : mapping of str to str
            In the address.
        """

    @abstractmethod
    def parts(self, store: ScreeningStore) -> Parts:
        """What may change, and is cheap to read."""

    def slow_parts(self, store: ScreeningStore) -> Parts:
        """What may change and takes a while; it comes when the page is there already."""
        return {}


def path_of(run_id: str, material_id: str | None = None) -> str:
    """Path of the page of a run, or of a material in it.

    Parameters
    ----------
    run_id : str
    material_id : str, optional

    Examples
    --------
    >>> path_of("20260131-1", "my/file#2")
    '/runs/20260131-1/my%2Ffile%232'
    """
    names = [run_id] if material_id is None else [run_id, material_id]
    return "/".join(["/runs", *(quote(name, safe="") for name in names)])


def fingerprint(*what: Any) -> str:
    """A short text that differs where the values do.

    Examples
    --------
    >>> fingerprint(1, "a") == fingerprint(1, "a"), fingerprint(1) == fingerprint(2)
    (True, False)
    """
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def link(text: str, run_id: str, material_id: str | None = None) -> Component:
    """Link to the page of a run, or of a material in it.

    Parameters
    ----------
    text : str
    run_id : str
    material_id : str, optional
    """
    return dcc.Link(text, href=path_of(run_id, material_id))


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "None."
) -> Component:
    """A table whose first column names its rows.

    Parameters
    ----------
    caption : str
    columns : sequence of str
    rows : iterable of sequence
        Of components or values.
    empty : str
        Stands in the place of a table without rows.
    """
    body = [
        html.Tr(
            [
                html.Th(in_words(first), scope="row"),
                *(html.Td(in_words(value), className=_alignment(value)) for value in others),
            ]
        )
        for first, *others in rows
    ]
    if not body:
        return html.P(f"{caption}: {empty}")
    head = html.Tr([html.Th(column, scope="col") for column in columns])
    whole = html.Table([html.Caption(caption), html.Thead(head), html.Tbody(body)])
    # A wide table scrolls by itself, also from the keyboard.
    region = named(caption, role="region", tabIndex="0")
    return html.Div(whole, className="scrolls", **region)


def facts(rows: Iterable[tuple[str, Any]]) -> Component:
    """Names and values; what is not known is left out."""
    known = [(name, value) for name, value in rows if value is not None]
    return html.Dl(
        [html.Div([html.Dt(name), html.Dd(in_words(value))]) for name, value in known],
        className="facts",
    )


def named(label: str, **more: str) -> dict[str, Any]:
    """Attributes of a component that screen readers call by a name.

    Parameters
    ----------
    label : str
    **more : str
        Other attributes.
    """
    return {"aria-label": label, **more}


def in_words(value: Any) -> Any:
    """A value for a page; components stay as they are.

    Examples
    --------
    >>> in_words(True), in_words(0.12345), in_words(1234567), in_words(None)
    ('yes', '0.123', '1,234,567', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC".replace(" ", "\N{NO-BREAK SPACE}")
    return value


def _alignment(value: Any) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if is_number else None
