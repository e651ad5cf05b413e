"""The dashboard as its users see it, in Chromium."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from db.documents import Verdict
from db.open import open_store
from screening.dashboard.page import path_of
from tests.browser import DESKTOP, PATIENCE, PHONE, WatchedPage
from tests.screening.dashboard.dashboard_examples import BEST, HOSTILE, RUN, document, fill, serving

pytestmark = pytest.mark.browser

HOST = "127.0.0.1"
PAGES = {"runs": "/", "run": path_of(RUN), "material": path_of(RUN, BEST)}
READY = {"runs": "#runs table", "run": "#elements .main-svg", "material": "#structure canvas"}
CELL = ".ag-center-cols-container [row-index='{}'] [col-id='{}']"

Open = Callable[..., WatchedPage]


def cell(watched: WatchedPage, row: int, column: str):
    return watched.page.locator(CELL.format(row, column))


def text_is(watched: WatchedPage, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(watched.page.locator(selector)).to_have_text(re.compile(text), timeout=PATIENCE)


def cell_is(watched: WatchedPage, row: int, column: str, text: str) -> None:
    text_is(watched, CELL.format(row, column), text)


@pytest.fixture
def run_page(filled: Path, served_at, open_page: Open) -> WatchedPage:
    watched = open_page(served_at(filled) + PAGES["run"])
    cell_is(watched, 0, "material_id", BEST)
    return watched


# each page


def content(store: Path) -> dict[str, str]:
    """Digests of the files of a store; an empty log is none."""
    files = {
        file.name: file.read_bytes()
        for file in store.parent.iterdir()
        if not file.name.endswith("-shm")  # SQLite's index of the log, in which readers are
    }
    if not files.get(f"{store.name}-wal"):
        files.pop(f"{store.name}-wal", None)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_accessible_fits_and_writes_nothing(
    name: str, filled: Path, served_at, open_page: Open
) -> None:
    before = content(filled)
    watched = open_page(served_at(filled) + PAGES[name], PHONE)
    watched.page.wait_for_selector(READY[name])
    if name == "run":
        text_is(watched, "#rightness", "precision")
    for size in (PHONE, DESKTOP):
        watched.resize(size)
        watched.check_accessible()
        watched.check_fits()
        watched.screenshot(f"dashboard-{name}-{size[0]}", full=True)
    text_is(watched, "#notice", "^$")
    watched.check_quiet(HOST)
    assert content(filled) == before


@pytest.mark.slow
def test_addresses_lead_from_page_to_page(filled: Path, served_at, open_page: Open) -> None:
    watched = open_page(served_at(filled) + "/")
    page = watched.page
    page.get_by_role("link", name=RUN).click()
    cell_is(watched, 0, "material_id", BEST)
    assert page.title() == "Run run-1 – screening"
    page.get_by_role("link", name=BEST).click()
    text_is(watched, "h1", r"\(mp-100\)")
    assert page.url.endswith("/runs/run-1/mp-100")
    assert page.title() == "mp-100 in run run-1 – screening"
    page.go_back()
    cell_is(watched, 0, "material_id", BEST)
    page.go_back()
    text_is(watched, "h1", "Runs")
    watched.check_quiet(HOST)


@pytest.mark.slow
def test_what_is_not_there_is_said(filled: Path, served_at, open_page: Open) -> None:
    address = served_at(filled)
    for path, words in {
        "/runs/nothing": "has no run 'nothing'",
        "/runs/run-1/nothing": "nothing is not in run run-1",
        "/a/b/c/d": "no page /a/b/c/d",
    }.items():
        watched = open_page(address + path)
        text_is(watched, "#notice", words)
        watched.check_quiet(HOST)
        watched.check_accessible()


# the table


def test_the_table_sorts(run_page: WatchedPage) -> None:
    cell_is(run_page, 1, "score", "8.000")
    run_page.page.locator(".ag-header-cell[col-id='score']").click()
    cell_is(run_page, 0, "score", "0.000")
    cell_is(run_page, 1, "score", "0.010")
    run_page.page.locator(".ag-header-cell[col-id='formula']").click()
    cell_is(run_page, 0, "formula", "Si")
    run_page.check_quiet(HOST)


def test_filters_are_in_the_address(run_page: WatchedPage, open_page: Open) -> None:
    page = run_page.page
    text_is(run_page, "#count", "^301 candidates$")
    page.get_by_label("Predicted positive", exact=True).select_option("yes")
    text_is(run_page, "#count", "^30 candidates$")
    page.get_by_label("In the model's domain").select_option("yes or near")
    text_is(run_page, "#count", "^20 candidates$")
    page.get_by_label("With elements").fill("Si")
    page.get_by_label("With elements").press("Enter")
    text_is(run_page, "#count", "^10 candidates$")
    page.get_by_label("Probability at least").fill("0.5")
    page.get_by_label("Probability at least").press("Tab")
    text_is(run_page, "#count", "^3 candidates$")
    cell_is(run_page, 0, "material_id", "mp-270")
    assert page.url.endswith("positive=yes&domain=yes%2Cnear&elements=Si&probability=0.5")
    run_page.screenshot("dashboard-filters")

    shared = open_page(page.url)
    text_is(shared, "#count", "^3 candidates$")
    assert shared.page.get_by_label("With elements").input_value() == "Si"
    assert shared.page.get_by_label("In the model's domain").input_value() == "yes,near"
    shared.page.get_by_label("With elements").fill("Xx")
    shared.page.get_by_label("With elements").press("Enter")
    text_is(shared, "#count", "Xx")
    shared.page.get_by_label("With elements").fill("")
    shared.page.get_by_label("With elements").press("Enter")
    text_is(shared, "#count", "^6 candidates$")
    shared.check_quiet(HOST)


@pytest.mark.slow
def test_the_end_of_a_long_table_is_read_when_it_is_seen(run_page: WatchedPage) -> None:
    run_page.page.locator(".ag-body-viewport").evaluate("grid => { grid.scrollTop = 1e6 }")
    cell_is(run_page, 300, "material_id", "mp-0")
    assert cell(run_page, 5, "material_id").count() == 0  # only what is seen is in the page


# charts


def test_a_structure_turns(filled: Path, served_at, open_page: Open) -> None:
    watched = open_page(served_at(filled) + PAGES["material"])
    page = watched.page
    page.wait_for_selector("#structure canvas")
    eye = """() => {
        const scene = document.querySelector('#structure .js-plotly-plot')._fullLayout.scene;
        return JSON.stringify(scene._scene.getCamera().eye);
    }"""
    page.wait_for_function(f"({eye})() !== undefined")
    before = page.evaluate(eye)
    canvas = page.locator("#structure canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 40, steps=6)
    page.mouse.up()
    page.wait_for_function(f"({eye})() !== {before!r}")
    turned = page.evaluate(eye)
    watched.screenshot("dashboard-turned")
    # and it stays turned when the page changes
    with open_store(filled) as store:
        store.upsert_candidates([document(100, score=5.5)])
    text_is(watched, "#properties", "5.500")
    assert page.evaluate(eye) == turned
    watched.check_quiet(HOST)


# live


def test_documents_that_arrive_are_shown_where_one_is(run_page: WatchedPage, filled: Path) -> None:
    page = run_page.page
    page.get_by_label("Predicted positive", exact=True).select_option("no")
    text_is(run_page, "#count", "^271 candidates$")
    grid = page.locator(".ag-body-viewport")
    grid.evaluate("grid => { grid.scrollTop = 6000 }")
    cell_is(run_page, 145, "is_positive", "no")
    page.get_by_label("With elements").focus()

    def screen() -> None:
        with open_store(filled) as store:
            for number in range(300, 400):
                store.upsert_candidates([document(number)])

    thread = threading.Thread(target=screen)
    thread.start()
    text_is(run_page, "#count", "^361 candidates$")
    thread.join()
    text_is(run_page, "#summary", r"screened401")
    assert grid.evaluate("grid => grid.scrollTop") == 6000
    assert page.evaluate("document.activeElement.name") == "elements"
    assert page.url.endswith("?positive=no")
    run_page.check_quiet(HOST)


@pytest.mark.slow
def test_a_run_is_followed_to_its_end(filled: Path, served_at, open_page: Open) -> None:
    with open_store(filled) as store:
        store.upsert_candidates(
            document(i, state="pending", is_positive=None, score=None) for i in range(100)
        )
        watched = open_page(served_at(filled) + "/")
        text_is(watched, "#runs", "202 of 301 judged|201 of 301 judged")
        store.apply_verdicts(
            Verdict(
                run_id=RUN, material_id=f"mp-{i}", state="screened", is_positive=False, score=0.0
            )
            for i in range(100)
        )
        text_is(watched, "#runs", "301 judged")
        store.put_run(store.run(RUN).model_copy(update={"state": "done"}))
        text_is(watched, "#runs", "done")
    watched.check_quiet(HOST)


@pytest.mark.slow
def test_an_idle_page_reads_nothing_again(run_page: WatchedPage) -> None:
    """Every look at the store is one small request while nothing changes."""
    run_page.page.wait_for_selector(READY["run"])
    sizes: list[int] = []
    run_page.page.on("response", lambda response: sizes.append(len(response.body())))
    for _ in range(20):  # its last parts may still be on their way
        sizes.clear()
        run_page.page.wait_for_timeout(5000)
        if len(sizes) >= 4 and max(sizes) < 200:  # bytes
            return
    raise AssertionError(f"it never was idle: {sizes}")


def test_a_store_that_is_gone_is_said_and_comes_back(run_page: WatchedPage, filled: Path) -> None:
    aside = filled.with_name("aside.sqlite")
    filled.rename(aside)
    text_is(run_page, "#notice", r"screening\.sqlite is not there\. This page looks again")
    run_page.page.locator(".ag-body-viewport").evaluate("grid => { grid.scrollTop = 1e6 }")
    run_page.screenshot("dashboard-gone")
    run_page.check_accessible()
    aside.rename(filled)
    text_is(run_page, "#notice", "^$")
    cell_is(run_page, 300, "material_id", "mp-0")
    run_page.check_quiet(HOST)


@pytest.mark.mongo
@pytest.mark.slow
def test_a_server_that_is_gone_is_said_and_comes_back(
    fresh_database: str, served_at, open_page: Open
) -> None:
    from tests.db.fake_mongo import Proxy

    with open_store(fresh_database) as store:
        fill(store, 30)
    host, _, rest = fresh_database.partition("://")[2].partition("/")
    proxy = Proxy(host.rpartition(":")[0], int(host.rpartition(":")[2]))
    watched = open_page(served_at(f"mongodb://127.0.0.1:{proxy.port}/{rest}") + PAGES["run"])
    cell_is(watched, 0, "material_id", BEST)
    proxy.cut()
    text_is(watched, "#notice", r"has not answered for \d s")
    proxy.mend()
    text_is(watched, "#notice", "^$")
    cell_is(watched, 0, "material_id", BEST)
    watched.check_quiet(HOST)


@pytest.mark.slow
def test_a_dashboard_that_ends_is_said_and_comes_back(filled: Path, open_page: Open) -> None:
    with open_store(filled, read_only=True) as store:
        with serving(store) as address:
            watched = open_page(address)
            text_is(watched, "#runs", RUN)
            watched.check_quiet(HOST)
        text_is(watched, "#notice", "The dashboard does not answer")
        with serving(store, int(address.rpartition(":")[2])):
            text_is(watched, "#notice", "^$")
            with open_store(filled) as writer:
                writer.put_run(writer.run(RUN).model_copy(update={"state": "done"}))
            text_is(watched, "#runs", "done")


# keyboard alone


def test_the_keyboard_is_enough(run_page: WatchedPage) -> None:
    page, keyboard = run_page.page, run_page.page.keyboard

    def tab_to(selector: str, most: int = 60) -> None:
        for _ in range(most):
            keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to(".skip", 1)
    run_page.screenshot("dashboard-skip")
    keyboard.press("Enter")
    tab_to("[name=positive]")
    keyboard.press("n")  # chooses by the first letter
    text_is(run_page, "#count", "^271 candidates$")
    tab_to(".ag-header-cell[col-id=material_id]")
    for _ in range(4):
        keyboard.press("ArrowRight")
    keyboard.press("Enter")
    cell_is(run_page, 0, "score", "0.010")
    for _ in range(4):
        keyboard.press("ArrowLeft")
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    text_is(run_page, "h1", r"\(mp-2\)")
    tab_to("nav a")
    keyboard.press("Enter")
    text_is(run_page, "h1", "Runs")
    run_page.check_quiet(HOST)


# text from outside, and nothing written


@pytest.mark.slow
def test_names_with_html_in_them_are_text(run_page: WatchedPage) -> None:
    cell_is(run_page, 1, "material_id", re.escape(HOSTILE))
    cell(run_page, 1, "material_id").locator("a").click()
    text_is(run_page, "h1", re.escape(f"<i>Al</i> ({HOSTILE})"))
    text_is(run_page, ".verdict", re.escape("</script><b>bold</b>"))
    assert run_page.page.locator("main img, main b, main u, main i, main script").count() == 0
    run_page.page.reload()
    text_is(run_page, "h1", re.escape(f"<i>Al</i> ({HOSTILE})"))
    run_page.screenshot("dashboard-hostile", full=True)
    run_page.check_quiet(HOST)
