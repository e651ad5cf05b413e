"""The figures of a benchmark: which results each of them shows, and its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.spectra.settings import SETTINGS
from screening.benchmark import plots as model_plots
from screening.benchmark.report import GROUPS, unit_of
from screening.benchmark.runs import RunResult, held_out, labels_for
from screening.benchmark.studies import Bin, material_errors
from screening.benchmark.tables import FIGURES
from screening.report.plots import formula_text, save_figure

if TYPE_CHECKING:
    from screening.benchmark.report import Benchmark

SHORT = {"r2": "R²", "cv_mae": "C$_V$", "mean_frequency_mae": "mean\nfrequency"}  # in a radar


def draw(benchmark: Benchmark) -> None:
    """Draw all figures that there are results for."""
    for setting in dict.fromkeys(row.setting for row in benchmark.rows):
        _draw_radar(benchmark, setting)
        _draw_data_size(benchmark, setting)
        _draw_subclasses(benchmark, setting)
        _draw_boxes(benchmark, setting)
    results = {(r.run.variant.name, r.run.setting): r for r in benchmark.first}
    for study in benchmark.document.get("errors", ()):
        _draw_errors(benchmark, study, results[study["model"], study["setting"]])
    _draw_unrelaxed(benchmark)


def _draw_radar(benchmark: Benchmark, setting: str) -> None:
    models = {r.run.variant.name for r in benchmark.whole}
    rows = [r for r in benchmark.rows if r.setting == setting and r.fraction == 1]
    rows = [row for row in rows if row.name in models]  # of the reference only differences count
    keys = [key for key in FIGURES if all(key in row.mean for row in rows)]
    if len(rows) > 1:
        figure = model_plots.plot_radar(
            rows, keys, [SHORT.get(key, FIGURES[key]) for key in keys], _spectra(benchmark, setting)
        )
        save_figure(figure, benchmark.folder / f"radar-{setting}.png")


def _draw_data_size(benchmark: Benchmark, setting: str) -> None:
    parts = {r.name for r in benchmark.rows if r.setting == setting and r.fraction < 1}
    rows = [r for r in benchmark.rows if r.setting == setting and r.name in parts]
    if rows:
        ylabel = f"MAE ({_unit(benchmark, setting)})"
        figure = model_plots.plot_data_size(rows, "mae", ylabel, _spectra(benchmark, setting))
        save_figure(figure, benchmark.folder / f"data-size-{setting}.png")


def _draw_subclasses(benchmark: Benchmark, setting: str) -> None:
    models = {r.run.variant.name for r in benchmark.whole}
    rows = [r for r in benchmark.subclass_rows if r.setting == setting and r.name in models]
    if rows:
        ylabel = f"MAE ({_unit(benchmark, setting)})"
        figure = model_plots.plot_subclasses(rows, "mae", ylabel, _spectra(benchmark, setting))
        save_figure(figure, benchmark.folder / f"subclasses-{setting}.png")


def _draw_boxes(benchmark: Benchmark, setting: str) -> None:
    reference = [r for r in benchmark.references if r.run.setting == setting]
    models = [r for r in benchmark.first if r.run.setting == setting]
    errors = {r.run.variant.name: _errors(benchmark, r) for r in (*reference, *models)}
    n = len(models[0].prediction)
    figure = model_plots.plot_error_boxes(
        errors,
        _unit(benchmark, setting),
        f"{_spectra(benchmark, setting)}, {n} test materials, seed 0",
    )
    save_figure(figure, benchmark.folder / f"boxes-{setting}.png")


def _draw_errors(benchmark: Benchmark, study: dict[str, Any], result: RunResult) -> None:
    run = result.run
    stem = f"{run.variant.name}-{run.setting}".replace(" ", "-")
    groups = {
        title[0].upper() + title[1:]: [Bin(**row) for row in study[key]]
        for key, title in GROUPS.items()
    }
    title = f"{run.variant.name}: {_spectra(benchmark, run.setting)}, seed {run.seed}"
    figure = model_plots.plot_bins(groups, _unit(benchmark, run.setting), title)
    save_figure(figure, benchmark.folder / f"errors-{stem}.png")
    _draw_quintiles(benchmark, study["examples"], result, f"quintiles-{stem}.png")


def _draw_quintiles(
    benchmark: Benchmark, examples: list[str], result: RunResult, file: str
) -> None:
    test = held_out(benchmark.config, result.run)
    label, errors = labels_for(result.run.setting, test), _errors(benchmark, result)
    rows = np.array([test.material_ids.index(i) for i in examples])
    formulas = test.subset(rows).formulas
    names = [
        f"{formula_text(formula)} ({test.material_ids[i]}), MAE {errors[i]:.3g}"
        for i, formula in zip(rows, formulas, strict=True)
    ]
    figure = model_plots.plot_quintiles(
        test.grid.centers,
        label[rows],
        result.prediction[rows],
        names,
        test.grid.unit,
        _unit(benchmark, result.run.setting),
    )
    save_figure(figure, benchmark.folder / file)


def _draw_unrelaxed(benchmark: Benchmark) -> None:
    documents = benchmark.document.get("unrelaxed", [])
    for setting in dict.fromkeys(d["setting"] for d in documents):
        for kind, xlabel in (
            ("rattle (Å)", "Displacement per axis (Å)"),
            ("strain", "Isotropic strain"),
        ):
            lines: dict[str, list[tuple[float, float]]] = {}
            for d in documents:
                known = d["distortion"] in (kind, "none") and d["mae"] is not None
                if d["setting"] == setting and known:
                    lines.setdefault(d["model"], []).append((d["amount"], d["mae"]))
            figure = model_plots.plot_unrelaxed(
                {model: sorted(points) for model, points in lines.items()},
                xlabel,
                f"MAE ({_unit(benchmark, setting)})",
                _spectra(benchmark, setting),
            )
            file = f"unrelaxed-{kind.split()[0]}-{setting}.png"
            save_figure(figure, benchmark.folder / file)


def _errors(benchmark: Benchmark, result: RunResult) -> np.ndarray:
    """Mean absolute error of each test material, shape (n,)."""
    test = held_out(benchmark.config, result.run)
    return material_errors(result.prediction, labels_for(result.run.setting, test))


def _unit(benchmark: Benchmark, setting: str) -> str:
    return unit_of(setting, benchmark.dataset.grid.unit)


def _spectra(benchmark: Benchmark, setting: str) -> str:
    """What was predicted, without the name of the loss: "Electronic DOS, sum 1"."""
    kind = model_plots.DENSITY[benchmark.dataset.grid.unit]
    scaling = {
        "sum-normalized": "sum 1",
        "max-normalized": "maximum 1",
        "absolute": _unit(benchmark, setting),
    }
    return f"{kind}, {scaling[SETTINGS[setting].output]}"
