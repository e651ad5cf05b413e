"""Plots of how good the models are, one function a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.benchmark import Row
    from models.studies import Bin

AXIS = {"eV": "Energy relative to the band edges (eV)", "cm^-1": "Frequency (cm$^{-1}$)"}
DENSITY = {"eV": "Electronic DOS", "cm^-1": "Phonon DOS"}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_radar(rows: Sequence[Row], figures: Sequence[str], labels: Sequence[str]) -> Figure:
    """Several figures of several models at a glance (Fig. 2); the outer ring is the best.

    Each axis goes from the worst (centre) to the best model (ring); of R2 the largest is best, of
    the errors the smallest.

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
    figure = _figure(5.6, 4.8)
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    for row, radii in zip(rows, quality, strict=True):
        closed = np.append(angles, angles[0]), np.append(radii, radii[0])
        axes.plot(*closed, label=row.name)
        axes.fill(*closed, alpha=0.1)
    axes.set_xticks(angles, labels)
    axes.set(ylim=(0, 1), yticks=[], title="1: the best of these models, centre: the worst")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.05, 1.0))
    return figure


def plot_error_boxes(errors: dict[str, np.ndarray], unit: str, title: str) -> Figure:
    """Errors of single materials by model, as boxes without outliers.

    Parameters
    ----------
    errors : dict of ndarray, shape (n,)
        By model.
    unit : str
        Of the errors.
    """
    figure = _figure(1.6 + 1.1 * len(errors), 4.0)
    axes = figure.subplots()
    axes.boxplot(list(errors.values()), tick_labels=list(errors), showfliers=False, showmeans=True)
    axes.set(ylabel=f"Mean absolute error of a material ({unit})", title=title)
    axes.tick_params(axis="x", rotation=20)
    return figure


def plot_bins(bins: Sequence[Bin], xlabel: str, unit: str) -> Figure:
    """Median error with quartiles in each bin of materials; the counts stand above."""
    figure = _figure(1.6 + 0.9 * len(bins), 3.8)
    axes = figure.subplots()
    median = np.array([b.median for b in bins])
    spread = [median - [b.low for b in bins], [b.high for b in bins] - median]
    axes.errorbar(range(len(bins)), median, spread, fmt="o", capsize=3)
    for x, group in enumerate(bins):
        axes.annotate(f"n = {group.n}", (x, group.high), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(bins)), [b.label for b in bins], rotation=20)
    axes.set(xlabel=xlabel, ylabel=f"Error of a material ({unit})")
    axes.margins(x=0.15, y=0.15)
    return figure


def plot_data_size(rows: Sequence[Row], figure_key: str, ylabel: str) -> Figure:
    """A figure against the size of the training set, with error bars over seeds."""
    figure = _figure(5.2, 3.8)
    axes = figure.subplots()
    for name, setting in dict.fromkeys((row.name, row.setting) for row in rows):
        line = sorted(
            (r for r in rows if (r.name, r.setting) == (name, setting)), key=lambda r: r.n_train
        )
        y, error = ([getattr(r, part)[figure_key] for r in line] for part in ("mean", "std"))
        error = np.nan_to_num(error)
        axes.errorbar(
            [r.n_train for r in line], y, error, marker="o", capsize=3, label=f"{name}, {setting}"
        )
    axes.set(xscale="log", xlabel="Materials in the training set", ylabel=ylabel)
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_quintiles(
    centers: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    names: Sequence[str],
    unit: str,
) -> Figure:
    """An example from the middle of each fifth of the errors, best above (Fig. 3).

    Parameters
    ----------
    centers : ndarray, shape (K',)
        In `unit`.
    labels, predictions : ndarray, shape (5, K')
    names : sequence of str
        One for each example.
    """
    figure = _figure(6.0, 1.5 * len(names) + 0.6)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, label, prediction, name in zip(panels, labels, predictions, names, strict=True):
        axes.fill_between(centers, label, color="0.7", label="reference")
        axes.plot(centers, prediction, color="tab:blue", label="predicted")
        axes.set(yticks=[], ylim=(0, None))
        axes.set_title(name, fontsize=8, loc="left")
    panels[0].legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel(AXIS.get(unit, unit))
    figure.supylabel(DENSITY.get(unit, "DOS"))
    return figure


def plot_unrelaxed(
    amounts: Sequence[float], errors: Sequence[float], xlabel: str, ylabel: str
) -> Figure:
    """How an error grows with the distortion of the structures."""
    figure = _figure(4.8, 3.6)
    axes = figure.subplots()
    axes.plot(amounts, errors, marker="o")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    return figure
