"""Plots of spectra, one function a figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.uncertainty.calibration import COVERAGE
from screening.errors import ScreeningError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.spectra.electronic_structure import ElectronicStructure
    from models.spectra.spectrum import EnergyGrid
    from screening.nearest import NearestMaterial

ENERGY_LABEL = "Energy relative to the band edges (eV)"
METAL_LABEL = r"$E - E_\mathrm{F}$ (eV)"
GAPPED_LABEL = r"$E - E_\mathrm{VBM}$ (below 0), $E - E_\mathrm{CBM}$ (above 0) (eV)"
DOS_LABEL = "DOS (states/eV/cell)"
PHONON_LABELS = ("Wavenumber (1/cm), imaginary below 0", "Phonon DOS (any scale)")
PANEL_COLUMNS = 2
DPI = 300
PALETTE = 256  # colours of a PNG: lines and areas on white need no more, and files shrink to half
HEADROOM = 1.08  # of the highest value, so that no curve touches the frame
FONTS = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}  # text stays text
# Of a file no time is kept and ids in it are not random: the same figure gives the same bytes.
FIXED = {"svg.hashsalt": "edos-screening"}
NO_TIMES: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
ELEMENT_COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black", "#F0E442",
)  # fmt: skip
"""Of M. Okabe and K. Ito, which colour-blind people can tell apart: one for each drawn part."""
STYLES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
MARKERS = "osD^vP"
SHELL_LINES = {"s": "dotted", "p": "solid", "d": "dashed", "f": "dashdot"}
DRAWN_PARTS, LEAST_PART = 8, 0.03  # elements' shells with a curve of their own, of all states
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class EdosPanel:
    """Spectra of one material for :func:`plot_edos_panels`.

    Parameters
    ----------
    title : str
    predicted : ndarray, shape (K,)
        In states/eV/cell.
    dft : ndarray, shape (K,), or None
        None where there is no calculation.
    gap, predicted_gap : (float, float), optional
        Edges of DFT's and of the predicted gap, in eV.
    band_gap : float, optional
        In eV, 0 for a metal; None if that is not known.
    """

    title: str
    predicted: np.ndarray
    dft: np.ndarray | None
    gap: Range | None = None
    predicted_gap: Range | None = None
    band_gap: float | None = None


def formula_text(formula: str) -> str:
    """Formula with its numbers as subscripts.

    Examples
    --------
    >>> formula_text("Mg2Si")
    'Mg₂Si'
    """
    from pymatgen.util.string import unicodeify

    try:
        return unicodeify(formula)
    except ValueError:  # there is no subscript point
        return formula


def plain_text(text: str) -> str:
    """Text from outside for a figure, where a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def energy_label(band_gap: float | None) -> str:
    """What the energies of an aligned spectrum are relative to.

    Parameters
    ----------
    band_gap : float or None
        In eV: 0 for a metal, None if it is not known.
    """
    if band_gap is None:
        return ENERGY_LABEL
    return GAPPED_LABEL if band_gap > 0 else METAL_LABEL


def axis_labels(grid: EnergyGrid) -> tuple[str, str] | None:
    """Names of the axes of a phonon DOS; None for an electronic one, whose depend on its gap."""
    return PHONON_LABELS if grid.unit == "cm^-1" else None


def range_text(edges: Range, bins: np.ndarray | None = None) -> str:
    """Edges and width of a range; the width is a lower bound where it runs off the grid.

    Parameters
    ----------
    edges : (float, float)
        In eV.
    bins : ndarray, optional
        Bin edges of the grid, in eV.

    Examples
    --------
    >>> range_text((-2.0, -0.5))
    '−2.00 to −0.50 eV, width 1.50 eV'
    """
    lower, upper = edges
    runs_off = bins is not None and (lower <= bins[0] + 1e-6 or upper >= bins[-1] - 1e-6)
    bound = "≥ " if runs_off else ""
    return f"{lower:.2f} to {upper:.2f} eV, width {bound}{upper - lower:.2f} eV".replace("-", "−")


def plot_edos(
    energies: np.ndarray,
    predicted: np.ndarray,
    title: str,
    gap: Range | None = None,
    max_dos: float | None = None,
    dft: np.ndarray | None = None,
    model: str = "predicted",
    *,
    dft_gap: Range | None = None,
    band_gap: float | None = None,
    band: np.ndarray | None = None,
    projected: ElectronicStructure | None = None,
    labels: tuple[str, str] | None = None,
    nearest: Sequence[NearestMaterial] = (),
) -> Figure:
    """Predicted eDOS with its gap, beside DFT's with its own where there is one (Fig. 6).

    Parameters
    ----------
    energies, predicted, title, gap, max_dos, dft, model, dft_gap, band_gap, band, labels
        As for :func:`draw_edos`.
    projected : ElectronicStructure, optional
        What the prediction is made of, for a panel below.
    nearest : sequence of NearestMaterial
        Training materials whose DOS by DFT, where it is known, is drawn in a panel below.
    """
    figure, axes = edos_figure(projected, gap, nearest)
    draw_edos(
        axes,
        energies,
        predicted,
        title,
        gap,
        max_dos,
        dft,
        model,
        dft_gap=dft_gap,
        band_gap=band_gap,
        band=band,
        labels=labels,
    )
    axes.label_outer()
    return figure


def draw_edos(
    axes: Axes,
    energies: np.ndarray,
    predicted: np.ndarray,
    title: str,
    gap: Range | None = None,
    max_dos: float | None = None,
    dft: np.ndarray | None = None,
    model: str = "predicted",
    *,
    dft_gap: Range | None = None,
    band_gap: float | None = None,
    band: np.ndarray | None = None,
    labels: tuple[str, str] | None = None,
) -> Axes:
    """Draw a predicted eDOS into axes; the legend with the edges stands above them.

    The predicted gap is shaded and DFT's is hatched, so that both can be told apart in grey.

    Parameters
    ----------
    axes : Axes
    energies : ndarray, shape (K,)
        Bin centres in eV.
    predicted, dft : ndarray, shape (K,)
        In states/eV/cell.
    title : str
    gap, dft_gap : (float, float), optional
        Edges of the predicted and of DFT's gap, in eV.
    max_dos : float, optional
        Threshold to mark, in states/eV/cell.
    model : str
        Name of the model, for the legend.
    band_gap : float, optional
        In eV, for the name of the energy axis: 0 for a metal, None if it is not known.
    band : ndarray, shape (2, K), optional
        Where most of what DFT finds lies, see
        :meth:`models.uncertainty.calibration.Calibration.band`; in states/eV/cell.
    labels : (str, str), optional
        Names of both axes for other spectra; see :func:`axis_labels`.
    """
    bins = bin_edges(energies)
    if gap is not None:
        _shade(axes, gap, f"predicted gap: {range_text(gap, bins)}")
    if dft_gap is not None:
        _hatch(axes, dft_gap, f"DFT gap: {range_text(dft_gap, bins)}")
    cut = None if labels else band_gap
    _draw_curves(axes, energies, predicted, dft, max_dos, plain_text(model), cut)
    if band is not None:
        _draw_band(axes, energies, band)
    xlabel, ylabel = labels or (energy_label(band_gap), DOS_LABEL)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=1, frameon=False, fontsize="small"
    )
    rows = len(legend.get_texts())
    axes.set_title(plain_text(title), pad=10 + 13.5 * rows)
    return axes


def edos_figure(
    projected: ElectronicStructure | None,
    gap: Range | None = None,
    nearest: Sequence[NearestMaterial] = (),
) -> tuple[Figure, Axes]:
    """Figure with axes for an eDOS, above its parts and its neighbours where these are known.

    Parameters
    ----------
    projected : ElectronicStructure or None
        The parts, which are drawn.
    gap : (float, float), optional
        Edges of the predicted gap, in eV.
    nearest : sequence of NearestMaterial
        Drawn as far as their spectra are known.
    """
    nearest = [material for material in nearest if material.spectrum is not None]
    n_panels = 1 + (projected is not None) + bool(nearest)
    if n_panels == 1:
        figure = new_figure()
        return figure, figure.subplots()
    figure = new_figure(height=3.8 * n_panels)
    above, *below = figure.subplots(n_panels, sharex=True)
    if projected is not None:
        draw_projected(below[0], projected, gap=gap)
    if nearest:
        draw_nearest(below[-1], nearest)
    return figure, above


def draw_nearest(axes: Axes, nearest: Sequence[NearestMaterial]) -> Axes:
    """Draw what DFT says of the nearest training materials, per atom.

    Parameters
    ----------
    axes : Axes
    nearest : sequence of NearestMaterial
        Those without a spectrum are left out.
    """
    for material, color in zip(nearest, ELEMENT_COLORS, strict=False):
        if (spectrum := material.spectrum) is None:
            continue
        verdict = "positive" if material.is_positive else "negative"
        name = plain_text(f"{formula_text(material.formula)} ({material.material_id})")
        axes.stairs(
            spectrum.values / spectrum.n_atoms,
            spectrum.grid.edges,
            baseline=None,
            color=color,
            linewidth=1.3,
            label=f"{name}: distance {material.distance:.2f}, {verdict}",
        )
    axes.axvline(0.0, color="0.2", linewidth=0.8)
    axes.set(ylim=(0.0, None), xlabel=ENERGY_LABEL, ylabel="DOS (states/eV/atom)")
    axes.legend(
        title="Nearest training materials, by DFT",
        title_fontsize="small",
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        frameon=False,
        fontsize="small",
    )
    return axes


def draw_projected(
    axes: Axes, projected: ElectronicStructure, title: str = "", gap: Range | None = None
) -> Axes:
    """Draw the parts of a predicted eDOS: a colour for each element, a line style for each shell.

    Small parts are drawn together, as the rest.

    Parameters
    ----------
    axes : Axes
    projected : ElectronicStructure
    title : str
    gap : (float, float), optional
        Edges of the predicted gap, in eV.
    """
    edges, total, parts = projected.grid.edges, projected.dos, projected.by_element()
    largest = sorted(parts, key=lambda part: -parts[part].sum())[:DRAWN_PARTS]
    drawn = [p for p in parts if p in largest and parts[p].sum() > LEAST_PART * total.sum()]
    colors = dict(zip(dict.fromkeys(element for element, _ in drawn), ELEMENT_COLORS, strict=False))
    if gap is not None:
        _shade(axes, gap)
    axes.stairs(total, edges, color="0.85", fill=True, label="all")
    for element, shell in drawn:
        axes.stairs(
            parts[element, shell],
            edges,
            baseline=None,
            color=colors[element],
            linestyle=SHELL_LINES[shell],
            linewidth=1.3,
            label=f"{element} {shell}",
        )
    if rest := [values for part, values in parts.items() if part not in drawn]:
        axes.stairs(sum(rest), edges, baseline=None, color="0.45", linewidth=0.8, label="rest")
    axes.axvline(0.0, color="0.2", linewidth=0.8)
    band_gap = 0.0 if projected.is_metal else projected.band_gap
    axes.set(
        xlim=(edges[0], edges[-1]),
        ylim=(0.0, HEADROOM * float(total.max()) or 1.0),
        xlabel=energy_label(band_gap),
        ylabel=DOS_LABEL,
    )
    n = len(axes.get_legend_handles_labels()[1])
    rows = math.ceil(n / 6)
    axes.legend(
        title="Prediction by element and shell: "
        + (f"a band gap of {band_gap:.2f} eV, cut out at 0" if band_gap else "a metal"),
        title_fontsize="small",
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=math.ceil(n / rows),
        frameon=False,
        fontsize="small",
    )
    if title:
        axes.set_title(plain_text(title), pad=10 + 13.5 * (rows + 1))
    return axes


def plot_edos_panels(
    energies: np.ndarray, panels: Sequence[EdosPanel], max_dos: float, model: str = "predicted"
) -> Figure:
    """DFT's and the predicted eDOS of several materials with their gaps, as Fig. 6.

    Parameters
    ----------
    energies : ndarray, shape (K,)
        Bin centres in eV.
    panels : sequence of EdosPanel
        At least one.
    max_dos : float
        Threshold to mark, in states/eV/cell.
    model : str
        Name of the model, for the legend.
    """
    from matplotlib.patches import Patch

    rows = math.ceil(len(panels) / PANEL_COLUMNS)
    figure = new_figure(7.2, 0.8 + 2.3 * rows)
    grid = figure.subplots(rows, PANEL_COLUMNS, sharex=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw_panel(axes, energies, panel, max_dos, model)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid.flat[: len(panels)][-PANEL_COLUMNS:]:
        axes.tick_params(labelbottom=True)  # also above a place that stays empty
    handles, labels = grid.flat[0].get_legend_handles_labels()
    handles += [Patch(**SHADED), Patch(**HATCHED)]
    figure.legend(
        handles,
        [*labels, "predicted gap", "DFT gap"],
        loc="outside upper center",
        ncols=5,
        frameon=False,
        fontsize="small",
    )
    kinds = {energy_label(panel.band_gap) for panel in panels}
    figure.supxlabel(kinds.pop() if len(kinds) == 1 else ENERGY_LABEL, fontsize="medium")
    figure.supylabel(DOS_LABEL, fontsize="medium")
    return figure


def draw_panel(
    axes: Axes,
    energies: np.ndarray,
    panel: EdosPanel,
    max_dos: float | None,
    model: str = "predicted",
) -> None:
    """Draw one material's eDOS with its gaps, whose edges stand above it.

    Parameters
    ----------
    axes : Axes
    energies : ndarray, shape (K,)
        Bin centres in eV.
    panel : EdosPanel
    max_dos : float or None
        Threshold to mark, in states/eV/cell.
    model : str
        Name of the model, for the legend.
    """
    bins = bin_edges(energies)
    lines = [plain_text(panel.title)]
    if panel.predicted_gap is not None:
        _shade(axes, panel.predicted_gap)
        lines.append(f"predicted gap {range_text(panel.predicted_gap, bins)}")
    if panel.gap is not None:
        _hatch(axes, panel.gap)
        lines.append(f"DFT gap {range_text(panel.gap, bins)}")
    _draw_curves(axes, energies, panel.predicted, panel.dft, max_dos, plain_text(model), None)
    axes.set_title("\n".join(lines), fontsize="small")


SHADED: dict[str, Any] = {"facecolor": "tab:orange", "edgecolor": "none", "alpha": 0.3}
HATCHED: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": "0.35",
    "hatch": "///",
    "linewidth": 0.8,
}


def _shade(axes: Axes, gap: Range, label: str | None = None) -> None:
    axes.axvspan(*gap, **SHADED, label=label)


def _hatch(axes: Axes, gap: Range, label: str | None = None) -> None:
    axes.axvspan(*gap, **HATCHED, label=label)


def _draw_curves(
    axes: Axes,
    energies: np.ndarray,
    predicted: np.ndarray,
    dft: np.ndarray | None,
    max_dos: float | None,
    model: str,
    band_gap: float | None,
) -> None:
    edges = bin_edges(energies)
    if dft is not None:
        axes.stairs(dft, edges, color="0.4", fill=True, alpha=0.5, label="DFT")
    axes.stairs(predicted, edges, baseline=None, color="tab:blue", linewidth=1.5, label=model)
    if max_dos is not None:
        label = f"threshold, {max_dos:g} state{'' if max_dos == 1 else 's'}/eV/cell"
        axes.axhline(max_dos, color="0.3", linewidth=0.8, linestyle="--", label=label)
    cut = f"band gap of {band_gap:.2f} eV, cut out at 0" if band_gap else None
    axes.axvline(0.0, color="0.2", linewidth=0.8, label=cut)
    curves = np.concatenate([predicted, [] if dft is None else dft])
    highest, lowest = np.nanmax([*curves, 2 * (max_dos or 0.0)]), np.nanmin([*curves, 0.0])
    axes.set(xlim=(edges[0], edges[-1]), ylim=(HEADROOM * lowest, HEADROOM * highest or 1.0))


def _draw_band(axes: Axes, energies: np.ndarray, band: np.ndarray) -> None:
    low, high = band
    label = f"band that holds {COVERAGE:.0%} of what DFT finds"
    axes.stairs(
        high,
        bin_edges(energies),
        baseline=low,
        fill=True,
        color="tab:blue",
        alpha=0.18,
        linewidth=0,
        label=label.replace("%", " %"),
    )
    bottom, top = axes.get_ylim()  # which a wide band may double, not more
    axes.set_ylim(bottom, max(top, min(HEADROOM * float(high.max()), 2 * top)))


def draw_radar(
    axes: Axes, values: np.ndarray, signs: Sequence[float], labels: Sequence[str], names: list[str]
) -> None:
    """Draw several figures of several models at a glance; the outer ring is the best.

    Each axis goes from the worst (inner ring) to the best model (outer ring).

    Parameters
    ----------
    axes : Axes
        Polar.
    values : ndarray, shape (models, figures)
        At least three figures.
    signs : sequence of float
        Of each figure: 1 where the largest value is the best, -1 where the smallest is.
    labels : sequence of str
        What the axes are called.
    names : list of str
        Of the models, for the legend.
    """
    signed = values * np.array(signs)
    worst, best = signed.min(0), signed.max(0)
    quality = 0.2 + 0.8 * (signed - worst) / np.where(best > worst, best - worst, 1.0)
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    for i, (name, radii) in enumerate(zip(names, quality, strict=True)):
        closed = np.append(angles, angles[0]), np.append(radii, radii[0])
        axes.plot(*closed, label=plain_text(name), **line_style(i))
        axes.fill(*closed, alpha=0.1)
    axes.set_xticks(angles, labels)
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
        x, y = np.round([np.cos(angle), np.sin(angle)], 6)
        label.set_horizontalalignment("center" if x == 0 else "left" if x > 0 else "right")
        label.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    axes.set(ylim=(0, 1.02), yticks=[0.2, 1.0], yticklabels=[])


def line_style(i: int) -> dict[str, Any]:
    """Line and marker of the i-th curve, which can be told apart without colour."""
    return {"linestyle": STYLES[i % len(STYLES)], "marker": MARKERS[i % len(MARKERS)]}


def draw_example(
    axes: Axes, centers: np.ndarray, label: np.ndarray, prediction: np.ndarray, reference: str
) -> None:
    """Draw a predicted spectrum over the true one.

    Parameters
    ----------
    axes : Axes
    centers : ndarray, shape (K,)
        Bin centres.
    label, prediction : ndarray, shape (K,)
    reference : str
        What the true one is called.
    """
    axes.fill_between(centers, label, color="0.7", label=reference)
    axes.plot(centers, prediction, color="tab:blue", label="predicted")
    highest, lowest = np.max([label, prediction]), np.min([label, prediction])
    axes.set(ylim=(HEADROOM * min(lowest, 0.0), HEADROOM * highest or 1.0))
    edges = bin_edges(centers)
    axes.set(xlim=(edges[0], edges[-1]))


def new_figure(width: float = 6.4, height: float = 4.6) -> Figure:
    """Figure whose parts make room for each other; sizes in inches.

    Parameters
    ----------
    width, height : float
        In inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_panels(n: int) -> list[Axes]:
    """Axes of a new pyplot figure, which a notebook shows, below each other."""
    from matplotlib import pyplot as plt

    _, grid = plt.subplots(n, 1, figsize=(6.4, 4.6 * n), layout="constrained", squeeze=False)
    return list(grid[:, 0])


def check_figure_type(path: Path) -> None:
    """Refuse an ending that is of no figure.

    Raises
    ------
    ScreeningError
        If matplotlib cannot write that type.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ScreeningError(f"{path}: cannot write this type; use one of {', '.join(known)}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the type that the ending names.

    PNG has 300 dpi; PDF and SVG keep their text as text, with embedded fonts in PDF. The same
    figure gives the same file.

    Parameters
    ----------
    figure : Figure
    path : Path
        Its ending is that of the format.

    Raises
    ------
    ScreeningError
        If matplotlib cannot write that type, or the file cannot be written.
    """
    from matplotlib import rc_context

    check_figure_type(path)
    kind = path.suffix.removeprefix(".").lower()
    try:
        with rc_context(FONTS | FIXED):
            if kind == "png":
                _save_png(figure, path)
            else:
                figure.savefig(path, dpi=DPI, metadata=NO_TIMES.get(kind))
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror or error}") from None


def _save_png(figure: Figure, path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    image = Image.open(buffer).convert("RGB").quantize(PALETTE)
    image.save(path, format="PNG", optimize=True, dpi=(DPI, DPI))


def terminal_edos(
    energies: np.ndarray,
    predicted: np.ndarray,
    title: str,
    gap: tuple[float, float] | None = None,
    *,
    width: int = 78,
    color: bool = True,
    dft: np.ndarray | None = None,
    labels: tuple[str, str] | None = None,
) -> str:
    """The same as text; lines mark the band edge and the two ends of the gap.

    Parameters
    ----------
    energies : ndarray, shape (K,)
        Bin centres in eV.
    predicted, dft : ndarray, shape (K,)
        In states/eV/cell.
    title : str
    gap : (float, float), optional
        Edges in eV.
    width : int
        Characters of a line.
    color : bool
    labels : (str, str), optional
        As for :func:`draw_edos`.
    """
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
    xlabel, ylabel = labels or (ENERGY_LABEL, DOS_LABEL)
    plotext.xlabel(xlabel)
    plotext.ylabel(ylabel)
    text = plotext.build()
    return text if color else plotext.uncolorize(text)


def bin_edges(centers: np.ndarray) -> np.ndarray:
    """Edges of equal bins, shape (K + 1,)."""
    half = (centers[1] - centers[0]) / 2
    return np.append(centers - half, centers[-1] + half)
