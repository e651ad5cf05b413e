"""Figures of spectra: what is drawn, read back from matplotlib's objects."""

import numpy as np
import pytest

from models.spectrum import EDOS_GRID
from screening.report.plots import DOS_LABEL, ENERGY_LABEL, EdosPanel, plot_edos, plot_edos_panels

CENTERS = EDOS_GRID.centers
DFT, PREDICTED = np.linspace(0.0, 3.0, EDOS_GRID.size), np.linspace(2.0, 0.0, EDOS_GRID.size)


def drawn(axes):
    """Values of the step curves by label."""
    return {patch.get_label(): patch for patch in axes.patches if hasattr(patch, "get_data")}


def spans(axes):
    """Energy ranges that are shaded."""
    boxes = [p for p in axes.patches if not hasattr(p, "get_data")]
    return [(p.get_x(), p.get_x() + p.get_width()) for p in boxes]


def test_dft_prediction_gap_and_threshold_are_drawn():
    figure = plot_edos(
        CENTERS, PREDICTED, "MgAl", gap=(-2.0, -0.5), max_dos=1.0, dft=DFT, model="tiny-edos"
    )
    (axes,) = figure.axes
    curves = drawn(axes)
    np.testing.assert_array_equal(curves["DFT"].get_data().values, DFT)
    np.testing.assert_array_equal(curves["tiny-edos"].get_data().values, PREDICTED)
    np.testing.assert_allclose(curves["DFT"].get_data().edges, EDOS_GRID.edges)
    assert spans(axes) == [pytest.approx((-2.0, -0.5))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (ENERGY_LABEL, DOS_LABEL)
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert labels == {"predicted gap", "DFT", "tiny-edos", "threshold"}


def test_what_is_not_known_is_not_drawn():
    (axes,) = plot_edos(CENTERS, PREDICTED, "MgAl").axes
    assert set(drawn(axes)) == {"predicted"}
    assert spans(axes) == []


def test_panels_have_one_material_each_and_shade_the_gap_of_dft():
    panels = [
        EdosPanel("MgAl: gap", PREDICTED, DFT, (-2.0, -0.5)),
        EdosPanel("LiHPd: no gap", PREDICTED, 2 * DFT),
        EdosPanel("no prediction", np.full(EDOS_GRID.size, np.nan), DFT / 10),
    ]
    figure = plot_edos_panels(CENTERS, panels, max_dos=1.0, top=5.0, model="tiny-edos")
    assert [axes.get_title() for axes in figure.axes] == [panel.title for panel in panels]
    assert [spans(axes) for axes in figure.axes] == [[pytest.approx((-2.0, -0.5))], [], []]
    for axes, panel in zip(figure.axes, panels, strict=True):
        np.testing.assert_array_equal(drawn(axes)["DFT"].get_data().values, panel.dft)
    tops = [axes.get_ylim()[1] for axes in figure.axes]
    assert tops == pytest.approx([3.3, 5.0, 2.0])  # room above, peaks cut off, threshold below
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.get_texts()} == {
        "DFT",
        "tiny-edos",
        "threshold",
        "DFT gap",
    }
    assert (figure.get_supxlabel(), figure.get_supylabel()) == (ENERGY_LABEL, DOS_LABEL)
