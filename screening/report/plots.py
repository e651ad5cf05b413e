"""Plots of spectra, one function a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screening.errors import ScreeningError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENERGY_LABEL = "Energy relative to the band edges (eV)"
DOS_LABEL = "DOS (states/eV/cell)"
PANEL_COLUMNS = 2


@dataclass(frozen=True, eq=False)
class EdosPanel:
    """Spectra of one material for :func:`plot_edos_panels`.

    Parameters
    ----------
    title : str
    predicted, dft : ndarray, shape (K,)
        In states/eV/cell.
    gap : (float, float), optional
        Edges of DFT's gap, in eV.
    """

    title: str
    predicted: np.ndarray
    dft: np.ndarray
    gap: tuple[float, float] | None = None


def plot_edos(
    energies: np.ndarray,
    predicted: np.ndarray,
    title: str,
    gap: tuple[float, float] | None = None,
    max_dos: float | None = None,
    dft: np.ndarray | None = None,
    model: str = "predicted",
) -> Figure:
    """Predicted eDOS with the gap shaded, beside DFT's where there is one (Fig. 6).

    Parameters
    ----------
    energies : ndarray, shape (K,)
        Bin centres in eV.
    predicted, dft : ndarray, shape (K,)
        In states/eV/cell.
    gap : (float, float), optional
        Edges of the predicted gap, in eV.
    max_dos : float, optional
        Threshold to mark, in states/eV/cell.
    model : str
        Name of the model, for the legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    if gap is not None:
        axes.axvspan(*gap, color="tab:orange", alpha=0.25, label="predicted gap")
    _draw_edos(axes, energies, predicted, dft, max_dos, model)
    axes.set(xlabel=ENERGY_LABEL, ylabel=DOS_LABEL, title=title, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def plot_edos_panels(
    energies: np.ndarray,
    panels: Sequence[EdosPanel],
    max_dos: float,
    top: float,
    model: str = "predicted",
) -> Figure:
    """DFT's and the predicted eDOS of several materials with DFT's gaps shaded, as Fig. 6.

    Parameters
    ----------
    energies : ndarray, shape (K,)
        Bin centres in eV.
    panels : sequence of EdosPanel
    max_dos : float
        Threshold to mark, in states/eV/cell.
    top : float
        Where axes end at the latest, in states/eV/cell; it cuts off peaks, so that the
        threshold stays far from zero.
    model : str
        Name of the model, for the legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = math.ceil(len(panels) / PANEL_COLUMNS)
    figure = Figure(figsize=(7.2, 0.8 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, PANEL_COLUMNS, sharex=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        if panel.gap is not None:
            axes.axvspan(*panel.gap, color="tab:orange", alpha=0.25)
        _draw_edos(axes, energies, panel.predicted, panel.dft, max_dos, model)
        axes.set_title(panel.title, fontsize="small")
        highest = np.nanmax([panel.dft, panel.predicted])
        axes.set_ylim(0, min(top, max(2 * max_dos, 1.1 * highest)))
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid.flat[: len(panels)][-PANEL_COLUMNS:]:
        axes.tick_params(labelbottom=True)  # also above a place that stays empty
    handles, labels = grid.flat[0].get_legend_handles_labels()
    handles.append(Patch(color="tab:orange", alpha=0.25))
    figure.legend(handles, [*labels, "DFT gap"], loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(ENERGY_LABEL, fontsize="medium")
    figure.supylabel(DOS_LABEL, fontsize="medium")
    return figure


def _draw_edos(
    axes: Axes,
    energies: np.ndarray,
    predicted: np.ndarray,
    dft: np.ndarray | None,
    max_dos: float | None,
    model: str,
) -> None:
    edges = _edges(energies)
    if dft is not None:
        axes.stairs(dft, edges, color="0.4", fill=True, alpha=0.5, label="DFT")
    axes.stairs(predicted, edges, color="tab:blue", linewidth=1.5, label=model)
    if max_dos is not None:
        axes.axhline(max_dos, color="0.3", linewidth=0.8, linestyle="--", label="threshold")
    axes.axvline(0.0, color="0.2", linewidth=0.8)
    axes.set_xlim(energies[0], energies[-1])


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the type that the ending names.

    Raises
    ------
    ScreeningError
        If matplotlib cannot write that type, or the file cannot be written.
    """
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ScreeningError(f"{path}: cannot write this type; use one of {', '.join(known)}")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror or error}") from None


def terminal_edos(
    energies: np.ndarray,
    predicted: np.ndarray,
    title: str,
    gap: tuple[float, float] | None = None,
    *,
    width: int = 78,
    color: bool = True,
    dft: np.ndarray | None = None,
) -> str:
    """The same as text; lines mark the band edge and the two ends of the gap."""
    import plotext

    plotext.clear_figure()
    plotext.plotsize(width, 20)
    plotext.theme("clear")
    plotext.plot(list(map(float, energies)), list(map(float, predicted)), marker="braille")
    if dft is not None:
        plotext.plot(list(map(float, energies)), list(map(float, dft)), marker="dot", color="red")
    plotext.vertical_line(0.0)
    for edge in gap or ():
        plotext.vertical_line(edge, color="orange")
    plotext.title(title)
    plotext.xlabel(ENERGY_LABEL)
    plotext.ylabel(DOS_LABEL)
    text = plotext.build()
    return text if color else plotext.uncolorize(text)


def _edges(centers: np.ndarray) -> np.ndarray:
    half = (centers[1] - centers[0]) / 2
    return np.append(centers - half, centers[-1] + half)
