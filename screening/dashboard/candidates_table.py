"""The candidates of a run: filters, and a table of which the store reads a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import parse_qsl

import dash_ag_grid as dag
from dash import dcc, html
from dash.development.base_component import Component

from db.collections import Query
from db.documents import CandidateDoc, CandidateState
from db.questions import candidate_query
from db.store import ScreeningStore
from screening.dashboard.page import named, path_of
from screening.domain import doubts
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.report.words import flat_features

GRID = "candidates"
ASKED = "asked"  # id of the component that keeps the filters
CHOSEN = {"state": "State", "positive": "Predicted positive", "domain": "In the model's domain"}
TYPED = {
    "elements": ("With elements", "Mg, Si"),
    "without": ("Without elements", "U, Th"),
    "probability": ("Probability at least", "0.5"),
}
"""Names of the filters in the address, with labels and examples."""
WORDS = {
    "state": get_args(CandidateState),
    "positive": ("yes", "no"),
    "domain": ("yes", "yes,near", "near", "no"),
}
PAGE = 100  # rows

GAP_COLUMNS = {
    "gap.lower_edge": "gap from (eV)",
    "gap.upper_edge": "gap to (eV)",
    "gap.width": "width (eV)",
    "gap.kind": "kind",
    "gap.robust": "robust",
}
COLUMNS = {
    "material_id": "material",
    "formula": "formula",
    "is_positive": "positive",
    "probability": "probability",
    "score": "score",
    **GAP_COLUMNS,
    "in_domain": "in domain",
    "energy_above_hull": "above hull (eV/atom)",
    "nsites": "atoms",
    "state": "state",
    "remarks": "remarks",
}
"""Fields of a candidate, and what they are called."""
UNSORTED = ("remarks",)
NUMBERS: tuple[str, ...] = ("probability", "score", "gap.lower_edge", "gap.upper_edge", "gap.width")
NUMBERS += ("energy_above_hull", "nsites")
WIDTHS = {"material_id": 190, "remarks": 320, "energy_above_hull": 150}


def filters_of(search: str) -> dict[str, str]:
    """The filters in the query of an address; others are left out.

    Examples
    --------
    >>> filters_of("?positive=yes&elements=Mg%2CSi&page=3")
    {'positive': 'yes', 'elements': 'Mg,Si'}
    """
    known = {**CHOSEN, **TYPED}
    return {name: value for name, value in parse_qsl(search.removeprefix("?")) if name in known}


def asked_query(run_id: str, filters: Mapping[str, str], **order: Any) -> Query[CandidateDoc]:
    """Query for the candidates of a run that meet filters.

    Parameters
    ----------
    run_id : str
    filters : mapping of str to str
        As in the address.
    **order
        `sort_by`, `descending`, `limit` and `skip` of the query.

    Raises
    ------
    ScreeningError
        If a filter makes no sense; in one line.
    """
    composition = ScreeningFilters.from_options(
        elements=filters.get("elements", ""),
        exclude_elements=filters.get("without", ""),
        max_elements=None,
    )
    state, positive, domain = (_chosen(filters, name) for name in CHOSEN)
    return candidate_query(
        run_id,
        elements=sorted(composition.elements),
        exclude_elements=sorted(composition.exclude_elements),
        state=state,
        is_positive=None if positive is None else positive == "yes",
        in_domain=domain.split(",") if domain else (),
        probability=(_share(filters.get("probability")), None),
        **order,
    )


def _chosen(filters: Mapping[str, str], name: str) -> str | None:
    word = filters.get(name) or None
    if word is not None and word not in WORDS[name]:
        raise ScreeningError(f"{name} {word!r:.40}: use one of {'; '.join(WORDS[name])}")
    return word


def _share(text: str | None) -> float | None:
    if not text:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ScreeningError(f"probability {text!r:.40}: use a number from 0 to 1")
    return share


def rows_of(
    store: ScreeningStore, run_id: str, filters: Mapping[str, str], request: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """A page of the table, and how many rows it has in all.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    filters : mapping of str to str
    request : mapping
        What AG Grid asks for: `startRow`, `endRow` and `sortModel`.

    Raises
    ------
    ScreeningError
        If a filter makes no sense.
    """
    first, last = int(request.get("startRow") or 0), int(request.get("endRow") or PAGE)
    order = next(iter(request.get("sortModel") or ()), {"colId": "material_id"})
    query = asked_query(
        run_id,
        filters,
        sort_by=order["colId"] if order["colId"] in COLUMNS else "material_id",
        descending=order.get("sort") == "desc",
        limit=max(0, min(last - first, 10 * PAGE)),
        skip=max(first, 0),
    )
    return [row_of(candidate) for candidate in store.find(query)], store.count(query)


def row_of(candidate: CandidateDoc) -> dict[str, Any]:
    """A row of the table: text in all cells, and where the material's page is."""
    row = {field: _text(_value(candidate, field)) for field in COLUMNS}
    remarks = [*filter(None, (candidate.reason,)), *doubts(candidate)]
    remarks += [
        f"{name} {_text(value)}" for name, value in flat_features(candidate.features).items()
    ]
    row["remarks"] = "; ".join(remarks)
    if candidate.gap is not None and candidate.gap.width and candidate.gap.is_lower_bound:
        row["gap.width"] = f"≥ {row['gap.width']}"
    return row | {"href": path_of(candidate.run_id, candidate.material_id)}


def _value(candidate: CandidateDoc, field: str) -> Any:
    part, _, inner = field.partition(".")
    value = getattr(candidate, part)
    return getattr(value, inner, None) if inner else value


def _text(value: Any) -> str:
    if value is None or isinstance(value, list):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def candidates_table(
    filters: Mapping[str, str], score_unit: str, has_gaps: bool
) -> list[Component]:
    """The filters, how many candidates meet them, and the table.

    Parameters
    ----------
    filters : mapping of str to str
        In the address.
    score_unit : str
        Empty for a number.
    has_gaps : bool
        The run looks for gaps, so that there are edges and widths.
    """
    return [
        html.Form(
            [
                *(_choice(name, label, filters) for name, label in CHOSEN.items()),
                *(_input(name, *labels, filters) for name, labels in TYPED.items()),
            ],
            id="filters",
            **named("Filters of the candidates", role="search"),
        ),
        html.P(id="count", role="status"),
        dag.AgGrid(
            id=GRID,
            rowModelType="infinite",
            columnDefs=_columns(score_unit, has_gaps),
            defaultColDef={
                "resizable": True,
                "sortingOrder": ["desc", "asc"],
                "width": 115,
                "minWidth": 70,
                "wrapHeaderText": True,
                "autoHeaderHeight": True,
            },
            getRowId="params.data.material_id",
            dashGridOptions={
                "cacheBlockSize": PAGE,
                "maxBlocksInCache": 20,
                # The component keeps one request in mind: the answer to a second would be lost.
                "maxConcurrentDatasourceRequests": 1,
                "suppressFieldDotNotation": True,
                "suppressMultiSort": True,
                "ensureDomOrder": True,
                "enableCellTextSelection": True,
            },
            style={"height": "560px"},
        ),
    ]


def _columns(score_unit: str, has_gaps: bool) -> list[dict[str, Any]]:
    columns = []
    for field, name in COLUMNS.items():
        if field in GAP_COLUMNS and not has_gaps:
            continue
        unit = f" ({score_unit})" if field == "score" and score_unit else ""
        column: dict[str, Any] = {"colId": field, "field": field, "headerName": name + unit}
        column["sortable"] = field not in UNSORTED
        if field in WIDTHS:
            column["width"] = WIDTHS[field]
        if field in NUMBERS:
            column["type"] = "rightAligned"
        if field == "score":
            column["sort"] = "desc"
        if field == "material_id":
            column["cellRenderer"] = "MaterialLink"
        columns.append(column)
    return columns


def _choice(name: str, label: str, filters: Mapping[str, str]) -> Component:
    """The browser's own element: that of Dash hides what can be focused from screen readers."""
    options = [html.Option("any", value="")]
    for word in WORDS[name]:
        is_asked = filters.get(name) == word
        options.append(html.Option(word.replace(",", " or "), value=word, selected=is_asked))
    identifier = f"filter-{name}"
    return html.Div(
        [html.Label(label, htmlFor=identifier), html.Select(options, id=identifier, name=name)]
    )


def _input(name: str, label: str, example: str, filters: Mapping[str, str]) -> Component:
    identifier, value = f"filter-{name}", filters.get(name, "")
    field = dcc.Input(value, id=identifier, name=name, type="text", placeholder=example)
    return html.Div([html.Label(label, htmlFor=identifier), field])
