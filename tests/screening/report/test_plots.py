"""Figures of spectra: what is drawn, read back from matplotlib's objects and from the files."""

import re

import numpy as np
import pytest
from PIL import Image

from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.spectrum import EDOS_GRID, Spectrum
from screening.errors import ScreeningError
from screening.nearest import NearestMaterial
from screening.report.charts import edos_chart, parts_chart
from screening.report.plots import (
    DOS_LABEL,
    ENERGY_LABEL,
    EdosPanel,
    energy_label,
    formula_text,
    plot_edos,
    plot_edos_panels,
    range_text,
    save_figure,
)
from tests.screening.figures import cut_off, overlapping

CENTERS = EDOS_GRID.centers
DFT, PREDICTED = np.linspace(0.0, 3.0, EDOS_GRID.size), np.linspace(2.0, 0.0, EDOS_GRID.size)
PEAK = np.where(np.abs(CENTERS + 3) < 0.2, 80.0, 0.1)


def drawn(axes):
    """Values of the step curves by label."""
    return {patch.get_label(): patch for patch in axes.patches if hasattr(patch, "get_data")}


def spans(axes):
    """Energy ranges that are shaded or hatched, by whether they are hatched."""
    boxes = [p for p in axes.patches if not hasattr(p, "get_data")]
    return {bool(p.get_hatch()): (p.get_x(), p.get_x() + p.get_width()) for p in boxes}


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_band_is_drawn_around_the_prediction_and_may_double_the_height():
    band = np.array([0.5 * PREDICTED, 100 * PREDICTED])
    (axes,) = plot_edos(CENTERS, PREDICTED, "MgAl", band=band).axes
    label = "band that holds 90 % of what DFT finds"
    low_and_high = drawn(axes)[label].get_data()
    np.testing.assert_array_equal(low_and_high.values, band[1])
    np.testing.assert_array_equal(low_and_high.baseline, band[0])
    assert label in legend_of(axes)
    (alone,) = plot_edos(CENTERS, PREDICTED, "MgAl").axes
    assert axes.get_ylim()[1] == pytest.approx(2 * alone.get_ylim()[1])


def test_dft_prediction_gaps_and_threshold_are_drawn():
    figure = plot_edos(
        CENTERS, PREDICTED, "MgAl", gap=(-2.0, -0.5), max_dos=1.0, dft=DFT, model="tiny-edos",
        dft_gap=(-1.75, -0.375),
    )  # fmt: skip
    (axes,) = figure.axes
    curves = drawn(axes)
    np.testing.assert_array_equal(curves["DFT"].get_data().values, DFT)
    np.testing.assert_array_equal(curves["tiny-edos"].get_data().values, PREDICTED)
    np.testing.assert_allclose(curves["DFT"].get_data().edges, EDOS_GRID.edges)
    assert spans(axes) == {
        False: pytest.approx((-2.0, -0.5)),
        True: pytest.approx((-1.75, -0.375)),  # hatched: told apart without colour
    }
    assert axes.get_ylabel() == DOS_LABEL
    assert legend_of(axes) == [
        "predicted gap: −2.00 to −0.50 eV, width 1.50 eV",
        "DFT gap: −1.75 to −0.38 eV, width 1.38 eV",
        "DFT",
        "tiny-edos",
        "threshold, 1 state/eV/cell",
    ]
    assert not cut_off(figure) + overlapping(figure)


def test_what_is_not_known_is_not_drawn():
    (axes,) = plot_edos(CENTERS, PREDICTED, "MgAl").axes
    assert set(drawn(axes)) == {"predicted"}
    assert spans(axes) == {}


def test_each_of_many_elements_has_a_colour_of_its_own():
    metals = ("Ti", "V", "Zr", "Nb", "Mo", "Hf", "Ta", "W")
    dos = np.zeros((len(metals), 4, EDOS_GRID.size))
    dos[:, 2] = 1.0
    structure = ElectronicStructure(EDOS_GRID, metals, dos, dos * EDOS_GRID.width, 0.0, 0.0, 0.0)
    chart = parts_chart(structure)
    assert len({trace.line.color for trace in chart.data[1:]}) == len(metals)
    _, axes = plot_edos(CENTERS, structure.dos, "alloy", projected=structure).axes
    assert {f"{metal} d" for metal in metals} <= drawn(axes).keys()


@pytest.mark.parametrize(
    ("gap", "text"),
    [
        ((-4.0, -0.5), "−4.00 to −0.50 eV, width ≥ 3.50 eV"),
        ((0.5, 4.0), "0.50 to 4.00 eV, width ≥ 3.50 eV"),  # a gap above the CBM
        ((0.5, 3.9375), "0.50 to 3.94 eV, width 3.44 eV"),
    ],
)
def test_a_width_that_runs_off_the_grid_is_a_lower_bound(gap, text):
    (axes,) = plot_edos(CENTERS, PREDICTED, "Na", gap=gap).axes
    assert legend_of(axes)[0] == f"predicted gap: {text}"
    assert edos_chart(EDOS_GRID, PREDICTED, gap=gap).data[1].name == f"predicted gap: {text}"
    assert range_text((-4.0, -0.5)) == "−4.00 to −0.50 eV, width 3.50 eV"


@pytest.mark.parametrize(
    ("band_gap", "labels"),
    [
        (0.0, ["$E - E_\\mathrm{F}$ (eV)"]),
        (1.1, ["E_\\mathrm{VBM}$ (below 0)", "E_\\mathrm{CBM}$ (above 0)"]),
        (None, [ENERGY_LABEL]),
    ],
)
def test_the_energy_axis_says_what_its_zero_is(band_gap, labels):
    (axes,) = plot_edos(CENTERS, PREDICTED, "Si", band_gap=band_gap).axes
    assert axes.get_xlabel() == energy_label(band_gap)
    assert all(label in axes.get_xlabel() for label in labels)
    assert axes.get_xlim() == (-4.0, 4.0)
    assert ("band gap of 1.10 eV, cut out at 0" in legend_of(axes)) is (band_gap == 1.1)


def test_no_curve_leaves_the_axes():
    panel = EdosPanel("peak", PEAK / 100, PEAK)
    (alone,) = plot_edos(CENTERS, PEAK, "peak", max_dos=1.0, dft=PEAK / 2).axes
    (small,) = plot_edos(CENTERS, PREDICTED / 100, "small", max_dos=1.0).axes
    for axes in (alone, plot_edos_panels(CENTERS, [panel], max_dos=1.0).axes[0]):
        assert 80.0 < axes.get_ylim()[1] < 90.0
        assert axes.get_ylim()[0] <= 0
    assert small.get_ylim()[1] > 1.0  # the threshold is in it


@pytest.mark.slow
def test_panels_have_one_material_each_with_both_gaps():
    panels = [
        EdosPanel("MgAl: gap", PREDICTED, DFT, (-2.0, -0.5), (-1.5, -0.5), 0.0),
        EdosPanel("LiHPd: no gap", PREDICTED, 2 * DFT, band_gap=0.0),
        EdosPanel("no prediction", np.full(EDOS_GRID.size, np.nan), DFT / 10, band_gap=0.0),
    ]
    figure = plot_edos_panels(CENTERS, panels, max_dos=1.0, model="tiny-edos")
    assert len(figure.axes) == 3  # none is empty
    assert [axes.get_title().splitlines()[0] for axes in figure.axes] == [p.title for p in panels]
    assert figure.axes[0].get_title().splitlines()[1:] == [
        "predicted gap −1.50 to −0.50 eV, width 1.00 eV",
        "DFT gap −2.00 to −0.50 eV, width 1.50 eV",
    ]
    assert spans(figure.axes[0]) == {
        False: pytest.approx((-1.5, -0.5)),
        True: pytest.approx((-2.0, -0.5)),
    }
    assert [spans(axes) for axes in figure.axes[1:]] == [{}, {}]
    for axes, panel in zip(figure.axes, panels, strict=True):
        np.testing.assert_array_equal(drawn(axes)["DFT"].get_data().values, panel.dft)
        assert axes.get_ylim()[1] > max(1.0, panel.dft.max())
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "DFT", "tiny-edos", "threshold, 1 state/eV/cell", "predicted gap", "DFT gap",
    ]  # fmt: skip
    assert (figure.get_supxlabel(), figure.get_supylabel()) == (energy_label(0.0), DOS_LABEL)
    assert not cut_off(figure) + overlapping(figure)


def structure(parts, gap=0.0):
    """One atom of each element; what each has in s, p, d or f."""
    symbols = tuple(dict.fromkeys(element for element, _ in parts))
    dos = np.zeros((len(symbols), 4, EDOS_GRID.size))
    for (element, shell), values in parts.items():
        dos[symbols.index(element), "spdf".index(shell)] = values
    return ElectronicStructure(EDOS_GRID, symbols, dos, dos * EDOS_GRID.width, 0.0, -gap, 0.0)


@pytest.mark.slow
def test_the_nearest_training_materials_have_a_panel_of_their_own_per_atom():
    spectrum = Spectrum(DFT, EDOS_GRID, n_atoms=4)
    known = NearestMaterial("mp-$1", "MgO", 0.456, spectrum, is_positive=True, wd=0.1)
    nearest = [NearestMaterial("mp-2", "CaO", 0.4), known]
    figure = plot_edos(CENTERS, PREDICTED, "SrO", nearest=nearest)
    above, below = figure.axes
    curves = drawn(below)
    assert list(curves) == [r"MgO (mp-\$1): distance 0.46, positive"]
    np.testing.assert_allclose(next(iter(curves.values())).get_data().values, DFT / 4)
    assert below.get_ylabel() == "DOS (states/eV/atom)"
    assert above.get_xlabel() == ""
    assert len(plot_edos(CENTERS, PREDICTED, "SrO", nearest=nearest[:1]).axes) == 1
    parts = structure({("Ti", "d"): DFT})
    assert len(plot_edos(CENTERS, DFT, "TiO", projected=parts, nearest=nearest).axes) == 3
    assert not cut_off(figure) + overlapping(figure)


@pytest.mark.slow
def test_parts_have_the_colour_of_the_element_and_the_line_of_the_shell():
    parts = {("Ti", "d"): DFT, ("Ti", "s"): DFT / 2, ("O", "p"): PREDICTED, ("O", "s"): DFT / 99}
    figure = plot_edos(
        CENTERS, DFT, "TiO", gap=(-2.0, -0.5), max_dos=1.0, projected=structure(parts, gap=1.2)
    )
    above, below = figure.axes
    curves = drawn(below)
    assert list(curves) == ["all", "Ti s", "Ti d", "O p", "rest"]
    for (element, shell), values in list(parts.items())[:3]:
        np.testing.assert_allclose(curves[f"{element} {shell}"].get_data().values, values)
    np.testing.assert_allclose(curves["all"].get_data().values, sum(parts.values()))
    np.testing.assert_allclose(curves["rest"].get_data().values, DFT / 99)
    look = {name: (c.get_edgecolor(), c.get_linestyle()) for name, c in curves.items()}
    assert look["Ti s"][0] == look["Ti d"][0] != look["O p"][0]
    assert len({line for _, line in map(look.get, ("Ti s", "Ti d", "O p"))}) == 3
    assert spans(below) == {False: pytest.approx((-2.0, -0.5))}
    assert legend_of(below) == list(curves)
    title = below.get_legend().get_title().get_text()
    assert title == "Prediction by element and shell: a band gap of 1.20 eV, cut out at 0"
    assert above.get_xlabel() == ""
    assert below.get_xlabel() == energy_label(1.2)
    assert below.get_xlim() == (-4.0, 4.0)
    assert not cut_off(figure) + overlapping(figure)


@pytest.mark.slow
def test_many_parts_fit_and_those_of_a_metal_say_so():
    elements = ("La", "Sr", "Ti", "Nb", "O", "F", "Cl")
    parts = {(e, s): (i + 1) * DFT for i, e in enumerate(elements) for s in "spd"}
    figure = plot_edos(CENTERS, DFT, "many", projected=structure(parts))
    below = figure.axes[1]
    assert len(legend_of(below)) == 10  # all, eight of 21, and the rest
    assert below.get_legend().get_title().get_text().endswith("shell: a metal")
    assert below.get_xlabel() == energy_label(0.0)
    assert not cut_off(figure) + overlapping(figure)
    nothing = plot_edos(CENTERS, 0 * DFT, "none", projected=structure({("La", "s"): 0 * DFT}))
    assert legend_of(nothing.axes[1]) == ["all"]
    assert not cut_off(nothing)


@pytest.mark.parametrize(
    ("formula", "text"),
    [("Mg2Si", "Mg₂Si"), ("Ca(OH)12", "Ca(OH)₁₂"), ("Fe0.5O", "Fe0.5O"), ("Na", "Na")],
)
def test_numbers_of_formulas_are_subscripts(formula, text):
    assert formula_text(formula) == text


@pytest.mark.slow
def test_a_title_from_outside_is_no_formula(tmp_path):
    figure = plot_edos(CENTERS, PREDICTED, "a$b_{c$ (x$\\frac{)", model="m$_{")
    save_figure(figure, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 1000


@pytest.mark.slow
def test_png_has_300_dpi_and_pdf_and_svg_keep_their_text(tmp_path):
    figure = plot_edos(CENTERS, PREDICTED, "Mg₂Si", gap=(-2.0, -0.5), max_dos=1.0)
    for ending in ("png", "pdf", "svg", "PNG"):
        save_figure(figure, tmp_path / f"figure.{ending}")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.size == (1920, 1380)
    assert "Mg₂Si" in (tmp_path / "figure.svg").read_text(encoding="utf-8")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert re.search(rb"/FontFile2", pdf)  # embedded TrueType (type 42), not outlines (type 3)
    assert b"/Type3" not in pdf
    with pytest.raises(ScreeningError, match=r"figure\.docx: cannot write this type"):
        save_figure(figure, tmp_path / "figure.docx")
    with pytest.raises(ScreeningError, match="nowhere"):
        save_figure(figure, tmp_path / "nowhere" / "figure.png")


@pytest.mark.slow
def test_a_palette_changes_no_colour_of_a_figure_by_more_than_eyes_can_see(tmp_path):
    figure = plot_edos(CENTERS, PREDICTED, "Si", gap=(-2, -0.5), dft=DFT, dft_gap=(-1.5, -0.5))
    save_figure(figure, tmp_path / "palette.png")
    figure.savefig(tmp_path / "full.png", dpi=300)
    pictures = [Image.open(tmp_path / name).convert("RGB") for name in ("palette.png", "full.png")]
    ours, full = (np.asarray(picture, float) for picture in pictures)
    assert np.abs(ours - full).mean() < 1.0  # of 255
    assert (tmp_path / "palette.png").stat().st_size < (tmp_path / "full.png").stat().st_size
