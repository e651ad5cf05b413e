"""Figures of how good the models are: what is on their axes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid
from screening.benchmark import figures
from screening.benchmark.studies import Bin
from screening.benchmark.tables import Row
from tests.screening.figures import cut_off, overlapping


def row(name: str, mean: dict[str, float], **changes: object) -> Row:
    fields: dict = {"setting": "sumnorm-kl", "fraction": 1.0, "subclass": "", "regime": "global"}
    fields |= {"n_train": 100, "n_test": 10, "n_seeds": 2, "seconds": 1.0}
    spread = dict.fromkeys(mean, 0.1)
    return Row(name=name, mean=mean, std=spread, standard_error=spread, **fields | changes)


def test_a_radar_has_the_best_on_the_outer_ring_of_every_axis() -> None:
    rows = [
        row("good", {"r2": 0.9, "mae": 1.0, "wd": 5.0}),
        row("middle", {"r2": 0.5, "mae": 2.0, "wd": 2.0}),
        row("bad", {"r2": 0.1, "mae": 3.0, "wd": 8.0}),
    ]
    figure = figures.plot_radar(rows, ["r2", "mae", "wd"], ["R2", "MAE", "WD"], "sumnorm-kl")
    radii = {line.get_label(): line.get_ydata()[:3] for line in figure.axes[0].lines}
    np.testing.assert_allclose(radii["good"], [1, 1, 0.6])
    np.testing.assert_allclose(radii["middle"], [0.6, 0.6, 1])
    np.testing.assert_allclose(radii["bad"], [0.2, 0.2, 0.2])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["R2", "MAE", "WD"]


LONG = ("mat2spec", "gatgnn", "e3nn", "mat2spec+", "springs", "a model with a long name")
SIX = ["r2", "mae", "mse", "wd", "cv_mae", "mean_frequency_mae"]
LABELS = ["R²", "MAE", "MSE", "WD", "C$_V$", "mean\nfrequency"]


@pytest.mark.parametrize("n", [3, 4, 6])
def test_nothing_of_a_radar_is_cut_or_covered(n: int) -> None:
    rows = [row(name, dict.fromkeys(SIX, float(i))) for i, name in enumerate(LONG)]
    figure = figures.plot_radar(rows, SIX[:n], LABELS[:n], "Phonon DOS, sum 1")
    assert not cut_off(figure)
    assert not overlapping(figure)
    axes = figure.axes[0]
    canvas = figure.canvas
    (inside,) = [axes.get_window_extent(canvas.get_renderer())]
    middle, radius = (inside.x0 + inside.x1) / 2, inside.width / 2
    for label in axes.get_xticklabels():  # outside the circle
        box = label.get_window_extent(canvas.get_renderer())
        x = min(abs(box.x0 - middle), abs(box.x1 - middle)) if not box.x0 < middle < box.x1 else 0
        center = (inside.y0 + inside.y1) / 2
        y = min(abs(box.y0 - center), abs(box.y1 - center)) if not box.y0 < center < box.y1 else 0
        assert np.hypot(x, y) > radius
    looks = {(line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(rows)  # told apart without colour


@pytest.mark.slow
def test_long_names_and_units_are_not_cut() -> None:
    unit = "share of the spectrum in a bin"
    errors = {name: np.arange(9.0) / 1000 for name in ("mean spectrum", "nearest composition")}
    drawn = [
        figures.plot_error_boxes(errors, unit, "Electronic DOS, sum 1, 82 test materials"),
        figures.plot_data_size(
            [row(n, {"mae": i + k}, n_train=k) for i, n in enumerate(LONG) for k in (50, 400)],
            "mae", f"MAE ({unit})", "Phonon DOS, maximum 1",
        ),
        figures.plot_unrelaxed(
            {n: [(0.0, 1.0), (0.1, 2.0)] for n in LONG}, "Strain", f"MAE ({unit})", "Phonon DOS"
        ),
    ]  # fmt: skip
    for figure in drawn:
        assert not cut_off(figure)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_bins_leave_no_panel_empty(n: int) -> None:
    bins = [Bin("1", 12, 0.5, 0.4, 0.3, 0.6), Bin("2 to 4", 34, 0.7, 0.6, 0.5, 0.9)]
    groups = {f"Share of fast Fourier components {i}": bins for i in range(n)}
    unit = "share of the spectrum in a bin"
    figure = figures.plot_bins(groups, unit, "mat2spec+: Electronic DOS, sum 1, seed 0")
    assert len(figure.axes) == n
    assert all(axes.axison and axes.has_data() for axes in figure.axes)
    assert not cut_off(figure)


def test_equal_models_are_all_the_best() -> None:
    rows = [row(name, {"r2": 0.5, "mae": 1.0, "wd": 1.0}) for name in "ab"]
    figure = figures.plot_radar(rows, ["r2", "mae", "wd"], ["R2", "MAE", "WD"], "s")
    heights = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_allclose(heights[0], heights[1])


def test_boxes_have_a_place_for_every_model_and_the_unit() -> None:
    errors = {"a": np.arange(9.0), "b": np.arange(9.0) + 5}
    axes = figures.plot_error_boxes(errors, "states/eV/cell", "title").axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
    assert "states/eV/cell" in axes.get_ylabel()
    assert axes.get_ylim()[0] == 0


def test_bins_say_how_many_materials_they_hold() -> None:
    bins = [Bin("1", 12, 0.5, 0.4, 0.3, 0.6), Bin("2 to 4", 34, 0.7, 0.6, 0.5, 0.9)]
    figure = figures.plot_bins({"Number of elements": bins}, "of the maximum", "gatgnn")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2 to 4"]
    assert [t.get_text() for t in axes.texts] == ["n = 12", "n = 34"]
    assert axes.get_xlabel() == "Number of elements"
    assert "of the maximum" in figure.get_supylabel()
    assert len(figure.axes) == 1  # no empty panel
    assert not cut_off(figure)


def test_an_ablation_on_a_part_of_the_data_is_no_curve() -> None:
    rows = [row("model", {"mae": 1.0}), row("model", {"mae": 2.0}, fraction=0.25)]
    ablation = row("model without a part", {"mae": 3.0}, fraction=0.25)
    assert figures.of_several_sizes([*rows, ablation]) == rows
    assert figures.of_several_sizes(rows[:1]) == []


def test_the_size_of_the_training_set_is_on_the_axis_in_numbers() -> None:
    rows = [row("a", {"mae": 1.0}, n_train=400), row("a", {"mae": 2.0}, n_train=50)]
    axes = figures.plot_data_size(rows, "mae", "MAE", "sumnorm-kl").axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["50", "400"]
    assert axes.get_xscale() == "log"
    (line,) = [
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"
    ]
    assert line.get_xdata().tolist() == [50, 400]
    assert line.get_ydata().tolist() == [2.0, 1.0]


def test_subclasses_have_a_bar_for_each_way_of_training() -> None:
    rows = [
        row(model, {"mae": 1.0 + i}, subclass=subclass, regime=regime)
        for model in ("a", "b")
        for subclass in ("oxides", "halides")
        for i, regime in enumerate(("global", "fine-tuned"))
    ]
    figure = figures.plot_subclasses(rows, "mae", "MAE", "sumnorm-kl")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    for axes in figure.axes:
        assert [t.get_text() for t in axes.get_xticklabels()] == ["oxides", "halides"]
        bars = [(round(p.get_x() + p.get_width() / 2, 6), p.get_height()) for p in axes.patches]
        assert bars == [(-0.2, 1.0), (0.8, 1.0), (0.2, 2.0), (1.2, 2.0)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["global", "fine-tuned"]


def test_a_single_seed_has_no_error_bar() -> None:
    rows = [replace(row("a", {"mae": 1.0}, subclass="oxides"), std={"mae": math.nan})]
    axes = figures.plot_subclasses(rows, "mae", "MAE", "s").axes[0]
    (bars,) = axes.collections
    assert not any(len(segment) for segment in bars.get_segments())


@pytest.mark.slow
def test_quintiles_show_label_and_prediction_in_their_unit() -> None:
    centers, spectra = np.linspace(-4, 4, 8), np.arange(40.0).reshape(5, 8)
    names = [f"mp-{i}" for i in range(5)]
    figure = figures.plot_quintiles(centers, spectra, spectra + 1, names, "eV", "states/eV/cell")
    assert len(figure.axes) == 5
    assert [axes.get_title(loc="left") for axes in figure.axes] == names
    for i, axes in enumerate(figure.axes):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), spectra[i] + 1)
        assert axes.get_ylim()[0] <= spectra[i].min()
        assert axes.get_ylim()[1] > spectra[i].max() + 1
    assert not cut_off(figure) + overlapping(figure)
    assert "(eV)" in figure.axes[-1].get_xlabel()
    assert figure.get_supylabel() == "Electronic DOS (states/eV/cell)"


def test_distortions_have_a_line_for_each_model() -> None:
    lines = {"a": [(-0.02, 2.0), (0.0, 1.0)], "b": [(-0.02, 3.0), (0.0, 2.5)]}
    axes = figures.plot_unrelaxed(lines, "Isotropic strain", "MAE", "s").axes[0]
    assert {line.get_label(): line.get_ydata().tolist() for line in axes.lines} == {
        "a": [2.0, 1.0],
        "b": [3.0, 2.5],
    }
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 3.0


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("grid", [EDOS_GRID, PHDOS_GRID])
def test_titles_say_what_is_predicted_and_not_which_loss(setting: str, grid: EnergyGrid) -> None:
    benchmark = SimpleNamespace(dataset=SimpleNamespace(grid=grid))
    title = figures._spectra(benchmark, setting)
    assert title.startswith("Electronic DOS, " if grid is EDOS_GRID else "Phonon DOS, ")
    assert not any(loss in title.lower() for loss in ("mae", "mse", "wd", "kl", "norm", "standard"))


@pytest.mark.parametrize("unit", ["eV", "cm^-1"])
def test_every_energy_axis_has_a_name(unit: str) -> None:
    assert unit in figures.AXIS
    assert unit in figures.DENSITY
