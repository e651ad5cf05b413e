"""Figures for a paper: what is drawn and said of a run, against other ways of computing it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import wasserstein_distance

from db.open import open_store
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID
from models.uncertainty.held_out import read_held_out
from models.zoo import DEFAULT_EDOS, ZOO, model_id
from screening.criteria.registry import CRITERION, find_criterion
from screening.report.paper_figures import (
    FIGURES,
    NoDataError,
    PaperData,
    draw_accuracy,
    draw_held_out,
    draw_positives,
    draw_validated,
    write_figures,
)
from screening.report.plots import PHONON_LABELS
from screening.report.words import markdown
from screening.sources.materials_project.client import ATTRIBUTION
from tests.screening.figures import cut_off, overlapping
from tests.workflows.screened_run import (
    candidate,
    crystal,
    put_prediction,
    put_run,
    validation,
    with_gap,
)
from workflows.paper import _is_comparable, paper_data

HOSTILE = '<img src=x onerror="alert(1)">$E_F$ ' + "very long " * 20
SOURCE = "A source"


def put_paper_run(store, n=7, positives=3, validated=7, model=None):
    """A run over n materials, predicted with an error that grows with their number."""
    names = [f"m-{i}" for i in range(n - 1)] + [HOSTILE]
    structures = {name: crystal(i) for i, name in enumerate(names)}
    run = put_run(store, structures, names[:positives])
    for i, (name, structure) in enumerate(structures.items()):
        document = candidate(run.run_id, name, structure)
        put_prediction(store, document, with_gap(i < positives) + 0.1 * i)
        if i < validated:
            store.upsert_validations([validation(document, i % 2 == 0)])
    if model is not None:
        run = run.model_copy(update={"model_id": model})
        store.put_run(run)
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PaperData:
    """Of a run whose model is the default predictor, which is calibrated."""
    path = tmp_path_factory.mktemp("paper") / "s.sqlite"
    with open_store(path) as store:
        run = put_paper_run(store, model=model_id(DEFAULT_EDOS))
        run = run.model_copy(update={"source": {"attribution": SOURCE}})
        return paper_data(store, run)


SHIPPED = ("mat2spec-plus-edos", "mat2spec-edos", "tight-binding-edos")


def held_out(name):
    """Labels and predictions of a shipped predictor by id, read without `workflows.paper`."""
    stored = read_held_out(ZOO / name)
    rows = zip(stored.material_ids, stored.predicted, stored.labels, strict=True)
    return {material_id: (predicted, label) for material_id, predicted, label in rows}


def common_materials():
    """Those that no shipped predictor has learned from."""
    common = set.intersection(*(set(held_out(name)) for name in SHIPPED))
    assert len(common) > 100
    return common


def table_of(caption):
    """Rows of the table in a caption, by model and kind of materials."""
    lines = [line.strip("| ").split(" | ") for line in caption.splitlines() if line[:1] == "|"]
    return {tuple(row[:2]): [float(cell) for cell in row[2:]] for row in lines[2:]}


def reference_figures(pairs):
    """n, R2, MAE, MSE and WD of pairs of spectra, otherwise than `models.spectra.metrics`."""
    predicted, true = (np.array(part) for part in zip(*pairs, strict=True))
    squares = np.square(predicted - true)
    r2 = 1 - squares.mean() / true.var(axis=0).mean()
    centers = EDOS_GRID.centers
    wd = [
        wasserstein_distance(centers, centers, p, t) for p, t in zip(predicted, true, strict=True)
    ]
    return [len(pairs), r2, np.abs(predicted - true).mean(), squares.mean(), np.mean(wd)]


def test_the_table_of_figure_2_has_the_errors_of_three_models_on_the_same_materials(data):
    _, caption = draw_accuracy(data)
    table = table_of(caption)
    assert list(table) == [
        *((model, "held out") for model in SHIPPED),
        ("model", "of this run, by DFT"),
    ]
    for model in SHIPPED:
        pairs, common = held_out(model), common_materials()
        expected = reference_figures([pairs[name] for name in common])
        np.testing.assert_allclose(table[model, "held out"], expected, rtol=1e-3)
    own = [(with_gap(i < 3) + 0.1 * i, with_gap(i % 2 == 0)) for i in range(7)]
    expected = reference_figures(own)
    np.testing.assert_allclose(table["model", "of this run, by DFT"], expected, rtol=1e-3)


def test_models_are_compared_on_at_least_half_of_the_materials_and_the_same_labels():
    own = read_held_out(ZOO / "mat2spec-edos")
    half = len(own) // 2
    assert _is_comparable(own, own.take(np.arange(half + 1)))
    assert not _is_comparable(own, own.take(np.arange(half - 1)))
    assert not _is_comparable(own, replace(own, labels=own.labels + 0.1))


def test_the_best_model_is_on_the_outer_ring_and_the_boxes_have_the_medians(data):
    figure, _ = draw_accuracy(data)
    radar, boxes = figure.axes
    radii = {line.get_label(): line.get_ydata()[:-1] for line in radar.lines}
    np.testing.assert_allclose(radii["tight-binding-edos"], 1.0)  # best in all four
    np.testing.assert_allclose(radii["mat2spec-edos"], 0.2)
    medians = [line.get_xdata()[0] for line in boxes.lines if len(set(line.get_xdata())) == 1]
    expected = []
    for model in SHIPPED:
        pairs, centers = held_out(model), EDOS_GRID.centers
        wd = [wasserstein_distance(centers, centers, *pairs[name]) for name in common_materials()]
        expected.append(np.median(wd))
    for median in expected:
        assert np.isclose(medians, median, rtol=1e-6).any()


def test_examples_are_from_the_middle_of_each_fifth_of_the_errors(data):
    figure, caption = draw_validated(data)
    errors = [np.abs(with_gap(i < 3) + 0.1 * i - with_gap(i % 2 == 0)).mean() for i in range(7)]
    shown = [float(text) for text in re.findall(r"MAE ([\d.]+)", caption)]
    by_error = sorted(errors)  # fifths of seven: 2, 2, 1, 1, 1
    np.testing.assert_allclose(shown, [by_error[i] for i in (1, 3, 4, 5, 6)], rtol=2e-3)
    assert "7 materials of run run-1 (gpaw, recipe-1: 7)" in caption
    for axes, error in zip(figure.axes, shown, strict=True):
        (curve,) = [line for line in axes.lines if len(line.get_xdata()) == EDOS_GRID.size]
        area = axes.collections[0].get_paths()[0].vertices
        dft = area[1 : EDOS_GRID.size + 1, 1]
        assert np.abs(curve.get_ydata() - dft).mean() == pytest.approx(error, rel=2e-3)


def test_figure_3_is_of_the_held_out_materials(data):
    figure, caption = draw_held_out(data)
    pairs = held_out("mat2spec-plus-edos")
    assert len(figure.axes) == 5
    assert f"{len(common_materials())} labelled materials" in caption
    for name, error in re.findall(r"\((mp-\d+)\), MAE ([\d.]+)", caption):
        predicted, label = pairs[name]
        assert float(error) == pytest.approx(np.abs(predicted - label).mean(), rel=5e-3)


def test_figure_6_has_the_positives_with_dft_first_and_both_gaps(tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_paper_run(store, n=7, positives=3, validated=0)
        for i in (1, 2, 5):  # the last one is a predicted negative
            document = candidate(run.run_id, f"m-{i}", crystal(i))
            store.upsert_validations([validation(document, i == 2)])
        data = paper_data(store, run)
    figure, caption = draw_positives(data)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "m-1), by DFT negative" in titles[0]
    assert "m-2), by DFT positive" in titles[1]
    assert "m-0)" in titles[2]
    hatched = [any(patch.get_hatch() for patch in axes.patches) for axes in figure.axes]
    assert hatched == [False, True, False]
    assert "all of the 3 predicted positives" in caption
    assert "2 of them with that of DFT (grey; gpaw, recipe-1: 2)" in caption
    assert "3 materials of run run-1 (gpaw, recipe-1: 3)" in draw_validated(data)[1]
    assert "confirmed 1 of 2 predicted positives with a verdict" in caption
    # Clopper-Pearson's interval of 1 in 2
    assert "precision 0.01 to 0.99 (95 %)" in caption


@pytest.mark.slow
def test_sizes_are_those_of_a_journal_and_no_text_is_cut_off_or_small(data):
    for draw in FIGURES.values():
        from screening.report.paper_figures import _journal

        with _journal():
            figure, _ = draw(data)
            width, _ = figure.get_size_inches() * 25.4
            assert width == pytest.approx(88) or width == pytest.approx(180)
            assert figure.get_size_inches()[1] * 25.4 < 247  # a page
            assert not cut_off(figure)
            assert not overlapping(figure)
            texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
            sizes = {text.get_fontsize() for text in texts if text.get_text().strip()}
            assert sizes <= {7.0, 8.0}


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    return write_figures(data, tmp_path_factory.mktemp("written") / "a" / "b")


@pytest.mark.slow
def test_files_have_embedded_fonts_and_no_times(written):
    names = [f"figure{n}.{kind}" for n in (2, 3, 5, 6) for kind in ("pdf", "png")]
    assert [path.name for path in written.files] == [*names, "captions.md"]
    assert written.left_out == {}
    for path in written.files[:-1]:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert round(image.width / 300 * 25.4) in (88, 180)
        else:
            content = path.read_bytes()
            assert b"/Type3" not in content
            assert b"/FontFile2" in content
            assert content.count(b"/Type /FontDescriptor") == content.count(b"/FontFile2")
            assert b"CreationDate" not in content


@pytest.mark.slow
def test_captions_say_whose_the_data_is_and_what_comes_from_outside_is_text(written):
    text = written.files[-1].read_text(encoding="utf-8")
    assert f"## Data\n\n- A source\n- {markdown(ATTRIBUTION)}\n" in text
    assert "Nat. Commun. 13, 949 (2022)" in text
    assert "<img" not in text
    assert "&lt;img src=x" in text


def test_what_has_no_data_is_named_with_its_reason(tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_paper_run(store, n=1, positives=0, validated=0)
        nothing = paper_data(store, run)
    written = write_figures(nothing, tmp_path / "out")
    assert written.files == []
    assert not (tmp_path / "out").exists()
    assert set(written.left_out) == {2, 3, 5, 6}
    assert "model-1 is gone" in written.left_out[3]
    assert "no finished DFT" in written.left_out[5]
    assert "no predicted positives" in written.left_out[6]
    with pytest.raises(NoDataError, match="gone or has changed, and run run-1 has no finished DFT"):
        draw_accuracy(nothing)


@pytest.mark.slow
def test_phonons_have_axes_of_their_own_and_no_dft(tmp_path):
    names = ["m-0", "m-1"]
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, {name: crystal(i) for i, name in enumerate(names)}, names)
        definition = find_criterion("phonon-gap").definition()
        run = run.model_copy(update={"parameters": {CRITERION: definition}})
        store.put_run(run)
        for i, name in enumerate(names):
            document = candidate(run.run_id, name, crystal(i))
            spectrum = np.linspace(0.0, 1.0 + i, PHDOS_GRID.size)
            put_prediction(store, document, spectrum, grid=PHDOS_GRID, gap=None, score=None)
        data = paper_data(store, run)
    written = write_figures(data, tmp_path)
    assert {path.stem for path in written.files} == {"figure6", "captions"}
    assert "electronic DOS only" in written.left_out[3]
    figure, caption = draw_positives(data)
    assert figure.get_supxlabel() == PHONON_LABELS[0]
    assert figure.get_supylabel() == PHONON_LABELS[1]
    assert figure.axes[0].get_xlim() == (-310, 1010)
    assert caption.startswith("Predicted phonon DOS (blue) of all of the 2 predicted positives")
    assert "threshold" not in caption


@pytest.mark.slow
def test_one_material_with_dft_gives_three_figures(tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_paper_run(store, n=1, positives=1, validated=1)
        one = paper_data(store, run)
    written = write_figures(one, tmp_path)
    assert {path.stem for path in written.files} == {"figure2", "figure5", "figure6", "captions"}
    assert list(written.left_out) == [3]
    _, caption = draw_accuracy(one)
    assert "| model | of this run, by DFT | 1 | - |" in caption
