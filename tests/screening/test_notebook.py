"""What a notebook shows of spectra, predictions and candidates."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from models.crystal import Crystal
from models.spectra.html import html_table, spectrum_html
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, Spectrum
from screening import predict
from screening.candidate import Candidate, Origin
from tests.db.db_examples import candidate, gap
from tests.models.cells import conventional_rocksalt

HOSTILE = "<img src=x onerror='alert(1)'>\"&"


def page(shown):
    """The elements of what a notebook shows, which has to be well formed."""
    return ET.fromstring(f"<div>{shown._repr_html_()}</div>")


def rows(tree):
    """Second cells by the first ones, which are headings of their rows."""
    found = {}
    for row in tree.iter("tr"):
        heading, value = row
        assert heading.tag == "th"
        assert heading.get("scope") == "row"
        found[heading.text] = value.text
    return found


def curve(svg):
    """Heights of the bins in a picture, from 0 to 1."""
    points = svg.find("polyline").get("points").split()
    y = np.array([float(point.split(",")[1]) for point in points])
    assert len(points) % 2 == 0
    np.testing.assert_array_equal(y[::2], y[1::2])
    return 1 - y[::2] / 100


def test_a_spectrum_is_drawn_with_its_integral():
    values = np.linspace(0.0, 2.0, EDOS_GRID.size)
    spectrum = Spectrum(values, EDOS_GRID, 3)
    tree = page(spectrum)
    np.testing.assert_allclose(curve(tree.find("svg")), values / 2, atol=6e-4)
    words = "128 bins from -4 to 4 eV, maximum 2 states/eV/cell, integral 8 states/cell, 3 atoms"
    assert tree.find("p").text == words
    assert tree.find("svg").get("aria-label") == words
    assert repr(spectrum) == f"<Spectrum: {words}>"
    phonons = Spectrum(np.zeros(PHDOS_GRID.size), PHDOS_GRID)
    assert page(phonons).find("p").text == "66 bins from -310 to 1010 cm^-1, maximum 0, integral 0"


def test_a_gap_is_shaded_where_it_is():
    html = spectrum_html(np.ones(EDOS_GRID.size), EDOS_GRID.edges, HOSTILE, (-2.0, -0.5))
    svg = ET.fromstring(f"<div>{html}</div>").find("svg")
    box = svg.find("rect")
    left, width = float(box.get("x")), float(box.get("width"))
    assert (left / 320 * 8 - 4, width / 320 * 8) == pytest.approx((-2.0, 1.5))
    assert svg.get("aria-label") == HOSTILE
    assert [text.text for text in svg.iter("text")] == ["-4", "0", "4"]


def test_a_prediction_has_its_verdict_and_its_spectrum():
    result = predict(conventional_rocksalt(4.65, "Hf", "C"), device="cpu")
    tree = page(result)
    assert tree.find("table/caption").text == "Prediction of structure"
    assert rows(tree)["verdict"] == result.verdict_in_words()
    values = result.spectrum.values
    np.testing.assert_allclose(curve(tree.find("svg")), values / values.max(), atol=6e-4)


def test_a_candidate_has_what_its_source_says():
    crystal = Crystal(4 * np.eye(3), [[0, 0, 0]], [13])
    shown = Candidate(
        HOSTILE, crystal, energy_above_hull=1 / 3, is_magnetic=False, origin=Origin("my.cif"),
        remarks=(HOSTILE,),
    )  # fmt: skip
    tree = page(shown)
    assert tree.find("table/caption").text == f"Candidate {HOSTILE}"
    assert rows(tree) == {
        "formula": "Al",
        "atoms in the cell": "1",
        "energy above hull (eV/atom)": "0.333",
        "magnetic": "no",
        "source": "my.cif",
        "remark": HOSTILE,
    }
    assert "source" not in rows(page(Candidate("Al", crystal)))


def test_a_candidate_of_the_store_has_its_verdict():
    shown = candidate(
        1, state="screened", gap=gap(), is_positive=True, score=1.23456, probability=0.5,
        model_id="model-1", remarks=[HOSTILE],
    )  # fmt: skip
    tree = page(shown)
    assert tree.find("table/caption").text == "Candidate mp-1"
    expected = {
        "run": "run-1", "positive": "yes", "gap (eV)": "-2.50 to -0.33", "score (eV)": "1.23",
        "probability of a positive by DFT": "0.5", "in the domain of the model": "no",
        "remark": HOSTILE,
    }  # fmt: skip
    assert expected.items() <= rows(tree).items()
    negative = rows(page(candidate(1, gap=gap(is_gap=False), is_positive=False)))
    assert negative["positive"] == "no"
    assert "gap (eV)" not in negative


def test_columns_of_a_table_have_their_headings():
    tree = ET.fromstring(html_table("two", [("a", HOSTILE)], ("x", "y")))
    assert [(cell.text, cell.get("scope")) for cell in tree.iter("th")] == [
        ("x", "col"),
        ("y", "col"),
    ]
    assert [cell.text for cell in tree.iter("td")] == ["a", HOSTILE]
