"""Charts say what they were given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.crystal import Crystal
from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID
from screening.report.charts import (
    FEW,
    TEMPLATE,
    edos_chart,
    element_chart,
    hull_chart,
    parts_chart,
    structure_chart,
)
from tests.workflows.reported_run import rocksalt


def named(figure) -> dict:
    return {trace.name: trace for trace in figure.data}


def test_a_spectrum_is_drawn_as_the_histogram_that_it_is():
    values = np.linspace(0, 9, EDOS_GRID.size)
    trace = edos_chart(EDOS_GRID, values, model="m").data[0]
    assert trace.line.shape == "hvh"  # steps half-way between the centres, which are the edges
    energies = trace.x0 + trace.dx * np.arange(EDOS_GRID.size)
    np.testing.assert_allclose(energies, EDOS_GRID.centers)
    np.testing.assert_allclose(trace.y, values, rtol=5e-4)  # four digits


def test_dft_is_grey_its_gap_hatched_and_the_predicted_one_shaded():
    values, dft = np.ones(EDOS_GRID.size), 2 * np.ones(EDOS_GRID.size)
    figure = edos_chart(
        EDOS_GRID,
        values,
        gap=(-4.0, -0.5),
        dft=dft,
        dft_gap=(-2.0, -0.5),
        band=np.stack([0 * values, 3 * values]),
        max_dos=1.0,
        band_gap=0.0,
        model="predicted by m",
        engine="DFT (gpaw)",
    )
    traces = named(figure)
    assert list(traces["DFT (gpaw)"].y) == list(dft)
    assert traces["DFT (gpaw)"].fill == "tozeroy"
    shaded = traces["predicted gap: −4.00 to −0.50 eV, width ≥ 3.50 eV"]  # off the grid
    assert list(shaded.x) == [-4.0, -4.0, -0.5, -0.5]
    hatched = traces["DFT gap: −2.00 to −0.50 eV, width 1.50 eV"]
    assert (hatched.fillpattern.shape, hatched.fillcolor) == ("/", None)
    assert list(traces["threshold, 1 state/eV/cell"].y) == [1.0, 1.0]
    assert traces["band that holds 90 % of what DFT finds"].y[0] == 3.0
    assert "<sub>F</sub> (eV)" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "DOS (states/eV/cell)"
    assert figure.layout.xaxis.range == (-4.0, 4.0)


@pytest.mark.parametrize(
    ("band_gap", "words"),
    [(0.0, "sub>F<"), (1.2, "sub>VBM<"), (None, "relative to the band edges")],
)
def test_energies_are_relative_to_what_the_axis_says(band_gap, words):
    figure = edos_chart(EDOS_GRID, np.ones(EDOS_GRID.size), band_gap=band_gap)
    assert words in figure.layout.xaxis.title.text


def test_phonons_have_wavenumbers():
    figure = edos_chart(PHDOS_GRID, np.ones(PHDOS_GRID.size))
    assert "1/cm" in figure.layout.xaxis.title.text
    assert "Phonon DOS" in figure.layout.yaxis.title.text
    assert figure.layout.xaxis.range == (-310.0, 1010.0)


def test_text_from_outside_is_no_markup():
    figure = edos_chart(EDOS_GRID, np.ones(EDOS_GRID.size), model="<b>x</b>")
    assert figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"


def test_parts_have_an_elements_color_and_a_shells_dash():
    dos = np.zeros((2, 4, EDOS_GRID.size))
    dos[0, 0], dos[1, 1], dos[1, 0] = 1.0, 6.0, 0.01
    parts = ElectronicStructure(EDOS_GRID, ("Na", "Cl"), dos, dos, -1.0, -3.0, 1.0)
    traces = named(parts_chart(parts, gap=(-2.0, -0.5)))
    assert list(traces) == ["all", "Na s", "Cl p", "rest", "predicted gap"]
    assert traces["Na s"].line.color != traces["Cl p"].line.color
    assert traces["Na s"].line.dash != traces["Cl p"].line.dash
    drawn = sum(np.array(traces[name].y) for name in ("Na s", "Cl p", "rest"))
    np.testing.assert_allclose(drawn, traces["all"].y, rtol=1e-3)


def test_a_structure_has_the_atoms_of_its_cell_where_they_are():
    crystal = Crystal.from_structure(rocksalt(4.2, ("Mg", "O")))
    traces = named(structure_chart(crystal))
    assert (len(traces["Mg"].x), len(traces["O"].x)) == (8, 1)  # corners, and the middle
    (oxygen,) = np.array([traces["O"].x, traces["O"].y, traces["O"].z]).T
    np.testing.assert_allclose(oxygen, [2.1, 2.1, 2.1])  # the middle
    assert traces["O"].text == "O"
    lengths = np.linalg.norm(np.diff(_segments(traces["bond"]), axis=1)[:, 0], axis=-1)
    np.testing.assert_allclose(lengths, 2.1, atol=2e-3)  # Å, half of the cubic cell
    assert len(lengths) == 6  # the octahedron of oxygen
    assert len(_segments(traces["cell"])) == 12


def _segments(trace) -> np.ndarray:
    points = np.array([trace.x, trace.y, trace.z], float).T
    return points[~np.isnan(points[:, 0])].reshape(-1, 2, 3)


def test_every_element_has_a_place_of_its_own():
    figure = element_chart({"Ti": 3, "Lu": 1}, "positives")
    with_some, without = (np.array(trace.text) for trace in figure.data)
    assert (with_some[3, 3], with_some[7, 16]) == ("Ti<br>3", "Lu<br>1")
    assert without[0, 0] == "H"
    assert without[6, 1] == "Ra"
    places = (with_some != "").astype(int) + (without != "")
    assert places.max() == 1
    assert places.sum() == 103
    assert figure.data[0].hovertext[3][3] == "Titanium: 3 positives"


def test_many_negatives_are_a_density():
    rng = np.random.default_rng(0)
    n = FEW + 100
    energies, scores = rng.random(n), rng.normal(size=n)
    energies[0] = np.nan
    is_positive = np.zeros(n, bool)
    is_positive[:50] = True
    names = [f"m-{i}" for i in range(n)]
    density, points = hull_chart(energies, scores, is_positive, names).data
    assert np.nansum(density.customdata) == n - 50
    assert list(points.ids) == names[1:50]  # of the first one the energy is not known
    few = hull_chart(energies[:99], scores[:99], is_positive[:99], names[:99], unit="")
    assert [trace.name for trace in few.data] == ["negative (49)", "positive (49)"]
    assert few.layout.yaxis.title.text == "Score"


def test_all_have_one_look():
    figure = element_chart({})
    assert figure.layout.template == TEMPLATE
    json.loads(figure.to_json())
