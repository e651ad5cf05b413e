"""The figures of a benchmark: which results each of them shows, and how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spectra.settings import SETTINGS
from screening.benchmark.data import held_out, labels_for
from screening.benchmark.report import unit_of
from screening.benchmark.studies import GROUPS, Bin
from screening.benchmark.tables import FIGURES
from screening.report.plots import (
    ENERGY_LABEL,
    draw_example,
    draw_radar,
    formula_text,
    line_style,
    new_figure,
    plain_text,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from screening.benchmark.report import Benchmark
    from screening.benchmark.runs import RunResult
    from screening.benchmark.tables import Row

SHORT = {"r2": "R²", "cv_mae": "C$_V$", "mean_frequency_mae": "mean\nfrequency"}  # in a radar
AXIS = {"eV": ENERGY_LABEL, "cm^-1": "Frequency (cm$^{-1}$)"}
DENSITY = {"eV": "Electronic DOS", "cm^-1": "Phonon DOS"}
HATCHES = ("", "//", "..", "xx")


def draw(benchmark: Benchmark) -> None:
    """Draw all figures that there are results for."""
    for setting in dict.fromkeys(row.setting for row in benchmark.rows):
        for name, figure in _figures_of(benchmark, setting).items():
            save_figure(figure, benchmark.folder / f"{name}-{setting}.png")
    results = {(r.run.variant.name, r.run.setting): r for r in benchmark.first}
    for study in benchmark.document.get("errors", ()):
        _draw_errors(benchmark, study, results[study["model"], study["setting"]])
    _draw_unrelaxed(benchmark)


def _figures_of(benchmark: Benchmark, setting: str) -> dict[str, Figure]:
    """The figures of one setting, by the beginning of the file's name."""
    spectra, unit = _spectra(benchmark, setting), _unit(benchmark, setting)
    models = {r.run.variant.name for r in benchmark.whole}
    rows = [row for row in benchmark.rows if row.setting == setting]
    # Of the references only differences count.
    whole = [row for row in rows if row.fraction == 1 and row.name in models]
    keys = [key for key in FIGURES if all(key in row.mean for row in whole)]
    by_size = of_several_sizes(rows)
    by_subclass = [
        row for row in benchmark.subclass_rows if row.setting == setting and row.name in models
    ]
    figures = {}
    if len(whole) > 1:
        labels = [SHORT.get(key, FIGURES[key]) for key in keys]
        figures["radar"] = plot_radar(whole, keys, labels, spectra)
    if by_size:
        figures["data-size"] = plot_data_size(by_size, "mae", f"MAE ({unit})", spectra)
    if by_subclass:
        figures["subclasses"] = plot_subclasses(by_subclass, "mae", f"MAE ({unit})", spectra)
    results = [r for r in (*benchmark.references, *benchmark.first) if r.run.setting == setting]
    errors = {r.run.variant.name: r.errors["mae"] for r in results}
    title = f"{spectra}, {len(results[0].prediction)} test materials, seed 0"
    figures["boxes"] = plot_error_boxes(errors, unit, title)
    return figures


def of_several_sizes(rows: Sequence[Row]) -> list[Row]:
    """Rows of the models that were trained on different parts of the training materials.

    Parameters
    ----------
    rows : sequence of Row
        Of one setting.
    """
    fractions: dict[str, set[float]] = {}
    for row in rows:
        fractions.setdefault(row.name, set()).add(row.fraction)
    return [row for row in rows if len(fractions[row.name]) > 1]


def _draw_errors(benchmark: Benchmark, study: dict[str, Any], result: RunResult) -> None:
    run = result.run
    stem = f"{run.variant.name}-{run.setting}".replace(" ", "-")
    groups = {
        title[0].upper() + title[1:]: [Bin(**row) for row in study[key]]
        for key, title in GROUPS.items()
    }
    title = f"{run.variant.name}: {_spectra(benchmark, run.setting)}, seed {run.seed}"
    figure = plot_bins(groups, _unit(benchmark, run.setting), title)
    save_figure(figure, benchmark.folder / f"errors-{stem}.png")
    _draw_quintiles(benchmark, study["examples"], result, f"quintiles-{stem}.png")


def _draw_quintiles(
    benchmark: Benchmark, examples: list[str], result: RunResult, file: str
) -> None:
    test = held_out(benchmark.config, result.run)
    label, errors = labels_for(result.run.setting, test), result.errors["mae"]
    rows = np.array([test.material_ids.index(i) for i in examples])
    formulas = test.subset(rows).formulas
    names = [
        f"{formula_text(formula)} ({test.material_ids[i]}), MAE {errors[i]:.3g}"
        for i, formula in zip(rows, formulas, strict=True)
    ]
    figure = plot_quintiles(
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
            figure = plot_unrelaxed(
                {model: sorted(points) for model, points in lines.items()},
                xlabel,
                f"MAE ({_unit(benchmark, setting)})",
                _spectra(benchmark, setting),
            )
            file = f"unrelaxed-{kind.split()[0]}-{setting}.png"
            save_figure(figure, benchmark.folder / file)


def _unit(benchmark: Benchmark, setting: str) -> str:
    return unit_of(setting, benchmark.dataset.grid.unit)


def _spectra(benchmark: Benchmark, setting: str) -> str:
    """What was predicted, without the name of the loss: "Electronic DOS, sum 1"."""
    kind = DENSITY[benchmark.dataset.grid.unit]
    scaling = {
        "sum-normalized": "sum 1",
        "max-normalized": "maximum 1",
        "absolute": _unit(benchmark, setting),
    }
    return f"{kind}, {scaling[SETTINGS[setting].output]}"


# One function a figure.


def plot_radar(
    rows: Sequence[Row], figures: Sequence[str], labels: Sequence[str], title: str
) -> Figure:
    """Several figures of several models at a glance (Fig. 2); the outer ring is the best.

    Each axis goes from the worst (inner ring) to the best model (outer ring); of R2 the largest is
    best, of the errors the smallest.

    Parameters
    ----------
    rows : sequence of Row
        One polygon each; of one setting.
    figures, labels : sequence of str
        Keys of the figures, at least three, and what the axes are called.
    title : str
    """
    values = np.array([[row.mean[key] for key in figures] for row in rows])
    signs = [1.0 if key == "r2" else -1.0 for key in figures]
    figure = new_figure(6.4, 5.2)
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    draw_radar(axes, values, signs, labels, [row.name for row in rows])
    figure.suptitle(
        f"{title}\nouter ring: best of these models, inner ring: worst", fontsize="medium"
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_error_boxes(errors: dict[str, np.ndarray], unit: str, title: str) -> Figure:
    """Errors of single materials by model, as boxes without outliers; triangles are means.

    Parameters
    ----------
    errors : dict of ndarray, shape (n,)
        By model.
    unit : str
        Of the errors.
    title : str
    """
    figure = new_figure(2.4 + 1.1 * len(errors), 4.0)
    axes = figure.subplots()
    names = list(map(plain_text, errors))
    axes.boxplot(list(errors.values()), tick_labels=names, showfliers=False, showmeans=True)
    axes.set(ylabel=f"MAE of a material\n({unit})")
    axes.set_title(title, fontsize="medium")
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=20)
    return figure


def plot_bins(groups: Mapping[str, Sequence[Bin]], unit: str, title: str) -> Figure:
    """Median error with quartiles in bins of materials, the counts above; one panel a grouping.

    Parameters
    ----------
    groups : mapping of sequence of Bin
        By what the materials are grouped by.
    unit : str
        Of the errors.
    title : str
    """
    columns = 2 if len(groups) % 2 == 0 else 1  # so that no place stays empty
    rows = len(groups) // columns
    figure = new_figure(4.6 * columns, 0.8 + 3.2 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, bins) in zip(panels, groups.items(), strict=True):
        x, median = np.arange(len(bins)), np.array([b.median for b in bins])
        spread = [median - [b.low for b in bins], [b.high for b in bins] - median]
        axes.errorbar(x, median, spread, fmt="o", capsize=3)
        for position, group in enumerate(bins):
            place = (position, group.high)
            axes.annotate(f"n = {group.n}", place, (0, 3), textcoords="offset points", ha="center")
        axes.set_xticks(x, [b.label for b in bins], rotation=15)
        axes.set_xlabel(name)
        axes.margins(x=0.15, y=0.15)
    panels[0].set_ylim(bottom=0)
    figure.supylabel(f"MAE of a material ({unit}):\nmedian and quartiles", fontsize="medium")
    figure.suptitle(plain_text(title), fontsize="medium")
    return figure


def plot_data_size(rows: Sequence[Row], figure_key: str, ylabel: str, title: str) -> Figure:
    """A figure against the size of the training set, with error bars over seeds.

    Parameters
    ----------
    rows : sequence of Row
        Of one setting.
    figure_key : str
        Of the figure.
    ylabel, title : str
    """
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    for i, name in enumerate(dict.fromkeys(row.name for row in rows)):
        line = sorted((row for row in rows if row.name == name), key=lambda row: row.n_train)
        y, error = ([getattr(r, part)[figure_key] for r in line] for part in ("mean", "std"))
        sizes = [r.n_train for r in line]
        axes.errorbar(sizes, y, error, capsize=3, label=plain_text(name), **line_style(i))
    axes.set(xscale="log", xlabel="Materials in the training set", ylabel=ylabel)
    axes.set_title(title, fontsize="medium")
    ticks = sorted({row.n_train for row in rows})
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_subclasses(rows: Sequence[Row], figure_key: str, ylabel: str, title: str) -> Figure:
    """A figure of each subclass of materials by how the model was trained; one panel a model.

    Parameters
    ----------
    rows : sequence of Row
        Of one setting.
    figure_key : str
        Of the figure.
    ylabel, title : str
    """
    models, subclasses, regimes = (
        list(dict.fromkeys(getattr(row, name) for row in rows))
        for name in ("name", "subclass", "regime")
    )
    figure = new_figure(1.4 + (0.5 + 0.9 * len(subclasses)) * len(models), 4.0)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    width = 0.8 / len(regimes)
    for axes, model in zip(panels, models, strict=True):
        for i, regime in enumerate(regimes):
            bars = [r for r in rows if (r.name, r.regime) == (model, regime)]
            x = [subclasses.index(r.subclass) + (i - (len(regimes) - 1) / 2) * width for r in bars]
            spread = [r.std[figure_key] for r in bars]
            heights = [r.mean[figure_key] for r in bars]
            hatch = HATCHES[i % len(HATCHES)]
            axes.bar(x, heights, width, yerr=spread, capsize=2, label=regime, hatch=hatch)
        axes.set_xticks(range(len(subclasses)), subclasses, rotation=30, ha="right")
        axes.set_title(plain_text(model), fontsize="medium")
    panels[0].set_ylabel(ylabel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title=title, loc="outside upper center", ncols=len(labels), frameon=False
    )
    return figure


def plot_quintiles(
    centers: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    names: Sequence[str],
    unit: str,
    dos_unit: str,
) -> Figure:
    """An example from the middle of each fifth of the errors, best above (Fig. 3).

    Parameters
    ----------
    centers : ndarray, shape (K',)
        In `unit`.
    labels, predictions : ndarray, shape (5, K')
    names : sequence of str
        One for each example.
    dos_unit : str
        Of the spectra.
    """
    figure = new_figure(6.4, 1.6 * len(names) + 0.6)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, label, prediction, name in zip(panels, labels, predictions, names, strict=True):
        draw_example(axes, centers, label, prediction, "reference")
        axes.set_title(plain_text(name), fontsize=8, loc="left")
        axes.tick_params(axis="y", labelsize=7)
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    panels[-1].set_xlabel(AXIS.get(unit, unit))
    figure.supylabel(f"{DENSITY.get(unit, 'DOS')} ({dos_unit})", fontsize=10)
    return figure


def plot_unrelaxed(
    lines: dict[str, list[tuple[float, float]]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """How the error of each model grows with the distortion of the structures.

    Parameters
    ----------
    lines : dict of list of (float, float)
        Amount and error, in increasing order, by model.
    xlabel, ylabel, title : str
    """
    figure = new_figure(5.0, 3.8)
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), label=plain_text(name), **line_style(i))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize="medium")
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure
