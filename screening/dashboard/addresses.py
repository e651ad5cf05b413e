"""Addresses of the pages, which can be kept and shared."""

from __future__ import annotations

from urllib.parse import unquote

from screening.dashboard.material_page import MaterialPage
from screening.dashboard.overview_page import OverviewPage
from screening.dashboard.page import Page
from screening.dashboard.run_page import RunPage


def page_at(path: str) -> Page | None:
    """The page at the path of an address; None if there is none.

    Examples
    --------
    >>> page_at("/runs/20260131-1/my%2Ffile%232")
    MaterialPage(run_id='20260131-1', material_id='my/file#2')
    """
    match [unquote(part) for part in path.strip("/").split("/")]:
        case [""] | ["runs"]:
            return OverviewPage()
        case ["runs", run_id]:
            return RunPage(run_id)
        case ["runs", run_id, material_id]:
            return MaterialPage(run_id, material_id)
    return None
