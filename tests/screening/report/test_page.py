"""The report in a browser, as a person uses it: mouse, keyboard, phone, paper, no network."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape

import pytest

from db.open import open_store
from models.zoo import model_id
from screening.report.page import render_report
from screening.report.plots import formula_text
from tests.browser import PHONE
from tests.workflows.reported_run import EVIL, FIRST, put_reported_run
from workflows.reporting import view_run

MADE = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with open_store(str(folder / "s.sqlite")) as store:
        view = view_run(store, put_reported_run(store))
    path = folder / "report.html"
    path.write_text(render_report(view, MADE, "0.1.0"), encoding="utf-8")
    return path


@pytest.fixture
def report(file, open_page):
    """The page, with its charts drawn; in the end it has said nothing and asked for nothing."""
    watched = open_page(file.as_uri())
    watched.page.wait_for_selector("[data-chart=elements] .main-svg")
    yield watched
    watched.check_quiet()


def shown(page) -> list[str]:
    """Formulas of the rows that are visible, in their order."""
    return page.locator("#table tbody tr[data-id]:visible .open").all_text_contents()


def open_material(page, formula: str):
    row = page.locator("tr[data-id]", has=page.get_by_role("button", name=formula, exact=True))
    row.locator(".open").click()
    detail = row.locator("xpath=following-sibling::tr[1]")
    detail.locator("[data-chart=structure] canvas").first.wait_for()
    return detail


EYE = "plot => Object.values(plot._fullLayout.scene._scene.getCamera().eye)"
IS_TURNED = f"""(plot, before, turned) => {{
    const changes = ({EYE})(plot).map((x, i) => Math.abs(x - before[i]));
    return turned === (Math.max(...changes) > 1e-3);
}}"""


def legend_of(detail, chart: str) -> list[str]:
    texts = detail.locator(f"[data-chart={chart}] .legendtext")
    texts.first.wait_for()
    return texts.all_text_contents()


@pytest.mark.slow
def test_the_text_says_what_was_found(file):
    html = file.read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]*>", " ", html.partition('id="payload"')[0]))
    assert "6 predicted positives" in text
    for words in ("Positives in the model's domain: 4; near it: 1; out of it: 1", "true positives"):
        assert words in text
    assert "0.008 to 0.99" in text  # precision: of three one is positive, and one is open
    assert model_id(FIRST) in text
    assert "doi:10.1063/1.4812323" in text  # the Materials Project, whose ids these are
    assert "/home/ann/key" not in html
    assert len(html.encode()) < 10e6


@pytest.mark.browser
def test_it_opens_quietly_and_axe_finds_nothing(report):
    report.check_accessible()
    report.check_fits()
    report.screenshot("report-top", full=True)
    assert report.page.evaluate("document.documentElement.lang") == "en"
    assert report.page.title() == "VB gap screening, run 20260301-120000-abcd"


@pytest.mark.browser
def test_text_from_outside_stays_text(report):
    page = report.page
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    detail = open_material(page, formula_text(EVIL))
    assert EVIL in detail.inner_text()
    page.wait_for_timeout(200)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("main b").count() == 0


@pytest.mark.browser
def test_a_header_sorts_and_unknown_comes_last(report):
    page = report.page
    assert shown(page)[:2] == ["KMgF₃", "RbCaF₃"]
    header = page.get_by_role("button", name="score (eV)")
    header.click()
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("score")
    header.click()
    assert shown(page)[0] == "RbCl"
    page.get_by_role("button", name="by DFT").click()
    by_dft = page.locator("#table tbody tr[data-id]").evaluate_all(
        "rows => rows.map(row => row.dataset.dft)"
    )
    assert by_dft == ["failed", "negative", "negative", "positive", *["–"] * 4]


@pytest.mark.browser
def test_the_filter_says_how_many_are_left(report):
    page = report.page
    page.get_by_label("Formula, element, id or family").fill("mp- rb")
    assert shown(page) == ["RbCaF₃", "RbCl"]
    assert page.get_by_role("status").inner_text() == "2 of 8 materials"
    page.locator("#verdict").select_option("predicted negative")
    assert shown(page) == ["RbCl"]
    for words, formulas in (
        ("pm-3m", ["KMgF₃", "RbCaF₃", "KNbO₃"]),
        ("K O", ["KNbO₃"]),  # elements
        ("kcl", ["KCl"]),
    ):
        page.get_by_role("button", name="Show all").click()
        page.get_by_label("Formula, element, id or family").fill(words)
        assert shown(page) == formulas
    page.get_by_role("button", name="Show all").click()
    assert page.get_by_role("status").inner_text() == "8 materials"
    page.get_by_label("Domain of the model").select_option("out of it")
    assert shown(page) == ["NaCl"]
    page.get_by_text("The elements as a list").click()
    page.get_by_role("button", name="O 3", exact=True).click()
    assert shown(page) == ["KNbO₃", "MgO", formula_text(EVIL)]


@pytest.mark.browser
def test_a_click_on_an_element_shows_its_materials(report):
    page = report.page
    page.locator("[data-chart=elements] .main-svg").first.scroll_into_view_if_needed()
    plot = page.locator("[data-chart=elements]")
    x, y = plot.evaluate(
        """plot => {
          const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(4), box.top + yaxis._offset + yaxis.d2p(4)];
        }"""
    )
    page.mouse.move(x - 5, y - 5)
    page.mouse.move(x, y)
    plot.locator(".hoverlayer .hovertext").wait_for()
    page.mouse.click(x, y)
    page.get_by_text("1 of 8 materials with Nb").wait_for()
    assert shown(page) == ["KNbO₃"]


@pytest.mark.browser
def test_a_material_has_its_spectra_criteria_and_structure(report):
    page = report.page
    detail = open_material(page, "KMgF₃")
    legend = legend_of(detail, "spectrum")
    assert any(text.startswith("predicted gap: −2.00 to −0.50 eV") for text in legend)
    assert {"predicted by mat2spec-plus-edos", "DFT (gpaw)"}.issubset(legend)
    assert "band that holds 90 % of what DFT finds" in legend
    assert detail.locator(".met").count() == 8  # four criteria, by the model and by DFT
    link = detail.get_by_role("link", name="mp-1 at the Materials Project")
    assert link.get_attribute("href") == "https://next-gen.materialsproject.org/materials/mp-1"
    assert "a = 4.000, b = 4.000, c = 4.000 Å" in detail.inner_text()
    assert open_material(page, "KNbO₃").get_by_role("link").count() == 0  # an id of one's own
    with_parts = open_material(page, "MgO")
    assert "O p" in legend_of(with_parts, "parts")
    report.check_accessible()
    report.screenshot("report-material", full=True)


@pytest.mark.browser
def test_what_missed_and_what_failed_is_said(report):
    negative = open_material(report.page, "RbCl")
    assert negative.locator(".missed").count() > 0
    failed = open_material(report.page, "RbCaF₃")
    assert f"gpaw, recipe-1: failed: {EVIL}" in failed.inner_text()


@pytest.mark.browser
def test_the_structure_turns_by_mouse_and_by_keyboard(report):
    page = report.page
    detail = open_material(page, "MgO")
    plot = detail.locator("[data-chart=structure]")
    plot.scroll_into_view_if_needed()
    before = plot.evaluate(EYE)

    def wait_until(turned: bool) -> None:
        options = [plot.element_handle(), before, turned]
        page.wait_for_function(f"options => ({IS_TURNED})(...options)", arg=options)

    box = plot.bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 170, steps=5)
    page.mouse.up()
    wait_until(turned=True)
    detail.get_by_role("button", name="reset", exact=True).press("Enter")
    wait_until(turned=False)
    detail.get_by_role("button", name="turn left").press("Space")
    wait_until(turned=True)


@pytest.mark.browser
def test_everything_works_from_the_keyboard(report):
    page = report.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the materials"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.open')"):
            break
    button = page.locator(".open").first
    assert button.evaluate("button => button === document.activeElement")
    page.keyboard.press("Enter")
    page.locator("tr.detail [data-chart=structure] canvas").first.wait_for()
    assert button.get_attribute("aria-expanded") == "true"
    assert page.locator(f"#{button.get_attribute('aria-controls')}").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("tr.detail").count() == 0
    assert button.get_attribute("aria-expanded") == "false"


@pytest.mark.browser
def test_a_family_leads_to_its_members(report):
    page = report.page
    family = page.locator("#families tbody tr").first
    assert family.locator("th, td").all_text_contents()[:3] == ["ABC₃", "Pm3̅m (221)", "3"]
    page.get_by_label("Formula, element, id or family").fill("nothing like it")
    family.get_by_role("link", name="KNbO₃").click()
    page.locator("tr.detail [data-chart=structure] canvas").first.wait_for()
    assert page.evaluate("document.activeElement.textContent") == "KNbO₃"
    assert "KNbO₃" in shown(page)


@pytest.mark.browser
@pytest.mark.slow
def test_no_more_structures_are_drawn_than_a_browser_keeps(report):
    page = report.page
    for button in page.locator(".open").all():
        button.click()
    drawn = page.locator(".js-plotly-plot[data-chart=structure]")
    drawn.nth(7).wait_for()
    assert drawn.count() == 8


@pytest.mark.browser
def test_it_fits_a_phone(file, open_page):
    watched = open_page(file.as_uri(), PHONE)
    page = watched.page
    page.wait_for_selector("[data-chart=elements] .main-svg")
    watched.check_fits()
    watched.screenshot("report-phone", full=True)
    detail = open_material(page, "KMgF₃")
    watched.check_fits()
    assert detail.locator("figure").first.bounding_box()["width"] <= PHONE[0]
    detail.scroll_into_view_if_needed()
    watched.screenshot("report-phone-material")
    watched.check_accessible()
    watched.check_quiet()


@pytest.mark.browser
def test_it_prints(report):
    page = report.page
    open_material(page, "KMgF₃")
    pdf = page.pdf(format="A4")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    page.emulate_media(media="print")
    assert not page.locator(".controls").first.is_visible()
    assert page.locator("tr.detail figure").first.is_visible()
