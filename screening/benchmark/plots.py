"""Plots of how good the models are, one function a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.report.plots import ENERGY_LABEL, HEADROOM, bin_edges, new_figure, plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from screening.benchmark.studies import Bin
    from screening.benchmark.tables import Row

AXIS = {"eV": ENERGY_LABEL, "cm^-1": "Frequency (cm$^{-1}$)"}
DENSITY = {"eV": "Electronic DOS", "cm^-1": "Phonon DOS"}
STYLES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
HATCHES = ("", "//", "..", "xx")
MARKERS = "osD^vP"  # with the styles, curves can be told apart without colour


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
    """
    values = np.array([[row.mean[key] for key in figures] for row in rows])
    signs = np.array([1.0 if key == "r2" else -1.0 for key in figures])
    worst, best = (values * signs).min(0), (values * signs).max(0)
    spread = np.where(best > worst, best - worst, 1.0)
    quality = 0.2 + 0.8 * (values * signs - worst) / spread
    angles = np.linspace(0, 2 * np.pi, len(figures), endpoint=False)
    figure = new_figure(6.4, 5.2)
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    for i, (row, radii) in enumerate(zip(rows, quality, strict=True)):
        closed = np.append(angles, angles[0]), np.append(radii, radii[0])
        axes.plot(*closed, label=plain_text(row.name), **_style(i))
        axes.fill(*closed, alpha=0.1)
    axes.set_xticks(angles, labels)
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
        x, y = np.round([np.cos(angle), np.sin(angle)], 6)
        label.set_horizontalalignment("center" if x == 0 else "left" if x > 0 else "right")
        label.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    axes.set(ylim=(0, 1.02), yticks=[0.2, 1.0], yticklabels=[])
    figure.suptitle(
        f"{title}\nouter ring: best of these models, inner ring: worst", fontsize="medium"
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _style(i: int) -> dict[str, Any]:
    return {"linestyle": STYLES[i % len(STYLES)], "marker": MARKERS[i % len(MARKERS)]}


def plot_error_boxes(errors: dict[str, np.ndarray], unit: str, title: str) -> Figure:
    """Errors of single materials by model, as boxes without outliers; triangles are means.

    Parameters
    ----------
    errors : dict of ndarray, shape (n,)
        By model.
    unit : str
        Of the errors.
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
    """A figure against the size of the training set, with error bars over seeds."""
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    for i, name in enumerate(dict.fromkeys(row.name for row in rows)):
        line = sorted((row for row in rows if row.name == name), key=lambda row: row.n_train)
        y, error = ([getattr(r, part)[figure_key] for r in line] for part in ("mean", "std"))
        sizes = [r.n_train for r in line]
        axes.errorbar(sizes, y, error, capsize=3, label=plain_text(name), **_style(i))
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
    edges = bin_edges(centers)
    for axes, label, prediction, name in zip(panels, labels, predictions, names, strict=True):
        axes.fill_between(centers, label, color="0.7", label="reference")
        axes.plot(centers, prediction, color="tab:blue", label="predicted")
        highest, lowest = np.max([label, prediction]), np.min([label, prediction])
        axes.set(ylim=(HEADROOM * min(lowest, 0.0), HEADROOM * highest))
        axes.set(xlim=(edges[0], edges[-1]))
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
    """
    figure = new_figure(5.0, 3.8)
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), label=plain_text(name), **_style(i))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize="medium")
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure
