"""Figures for a paper with the data of a run, in the manner of the paper's Figs. 2, 3, 5 and 6.

Their sizes, fonts and colours are those of a journal; each has a caption that says what every panel
shows, of which data, and of how many materials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spectra.metrics import quintile_examples, spectrum_metrics, wasserstein_distances
from models.spectra.spectrum import EnergyGrid
from models.writing import write_whole
from screening.errors import ScreeningError
from screening.report.plots import (
    DOS_LABEL,
    ELEMENT_COLORS,
    ENERGY_LABEL,
    HATCHED,
    PHONON_LABELS,
    SHADED,
    EdosPanel,
    axis_labels,
    draw_example,
    draw_panel,
    draw_radar,
    energy_label,
    new_figure,
    plain_text,
    save_figure,
)
from screening.report.words import PAPER, markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 88 / 25.4, 180 / 25.4  # widths of a journal in inches
SMALL, LARGE = 7, 8  # pt
JOURNAL: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib, so that it is there
    "font.size": SMALL,
    "axes.titlesize": SMALL,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
KINDS = ("pdf", "png")
CAPTIONS = "captions.md"
FIFTHS = 5
TITLE = 40  # characters of a name above a panel; the caption has all
MOST_POSITIVES = 8  # panels of the figure of what was found
METRICS = {"r2": "R²", "mae": "MAE", "mse": "MSE", "wd": "WD"}
HELD_BACK = "held back from training (some of them may have chosen its best epoch)"
UNITS = {"r2": "", "mae": "states/eV/cell", "mse": "(states/eV/cell)²", "wd": "eV"}


class NoDataError(ScreeningError):
    """A figure that a run has no data for; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predicted spectra of n materials and those of DFT.

    Parameters
    ----------
    names : tuple of str, length n
        Formula or chemical system, with the id.
    predicted, dft : ndarray, shape (n, K)
        In states/eV/cell.
    grid : EnergyGrid
    """

    names: tuple[str, ...]
    predicted: np.ndarray
    dft: np.ndarray
    grid: EnergyGrid

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def errors(self) -> np.ndarray:
        """Mean absolute error of each prediction in states/eV/cell, (n,)."""
        return np.asarray(np.abs(self.predicted - self.dft).mean(-1))

    @cached_property
    def distances(self) -> np.ndarray:
        """Wasserstein distance of each predicted shape in eV, (n,)."""
        return np.asarray(wasserstein_distances(self.predicted, self.dft, self.grid.width))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """R2, MAE, MSE and WD over all of them; R2 of a single one is NaN."""
        with np.errstate(invalid="ignore"):
            return spectrum_metrics(self.predicted, self.dft, self.grid.width)


@dataclass(frozen=True, eq=False)
class PaperData:
    """What of a run is drawn.

    Parameters
    ----------
    run_id : str
    model : str
        Name of the run's model.
    judges : str
        Names of the models whose predictions of the run are shown: a second one may have judged.
    criterion : str
        Name of what the verdicts are by.
    grid : EnergyGrid
        Of the predictions.
    held_out : mapping of str to Comparison
        Predictions of labelled materials that none of the models has learned from, by the model;
        the run's is the first. They are the same materials for all.
    validated : Comparison
        The materials of the run that DFT has calculated.
    engines : mapping of str to str
        What each of them was calculated with, in words, by its name.
    positives : sequence of (str, EdosPanel)
        The predicted positives with their names, those with DFT first; each group by falling score.
    max_dos : float or None
        Threshold of the criterion in states/eV/cell; None if it has none.
    confirmed : str
        What DFT says of the predicted positives, in words.
    attributions : tuple of str
        How the sources of what is shown want to be cited.
    missing : mapping of str to str
        Why there is no data of that sort: by ``"held_out"``, ``"validated"`` or ``"positives"``.
    """

    run_id: str
    model: str
    judges: str
    criterion: str
    grid: EnergyGrid
    held_out: Mapping[str, Comparison]
    validated: Comparison
    engines: Mapping[str, str]
    positives: Sequence[tuple[str, EdosPanel]]
    max_dos: float | None
    confirmed: str
    attributions: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What was written of a run.

    Attributes
    ----------
    files : list of Path
    left_out : dict of int to str
        Why a figure could not be drawn, by its number.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)


def write_figures(data: PaperData, folder: Path) -> Written:
    """Draw all figures that there is data for, as PDF and PNG, and write their captions.

    Parameters
    ----------
    data : PaperData
    folder : Path
        Made if it is missing.

    Raises
    ------
    ScreeningError
        If the folder cannot be written to.
    """
    written, captions = Written(), []
    for number, draw in FIGURES.items():
        with _journal():
            try:
                figure, caption = draw(data)
            except NoDataError as reason:
                written.left_out[number] = str(reason)
                continue
            _make_folder(folder)
            for kind in KINDS:
                path = folder / f"figure{number}.{kind}"
                save_figure(figure, path)
                written.files.append(path)
        captions.append(f"## Figure {number}\n\n{caption}\n")
    if captions:
        path = folder / CAPTIONS
        try:
            write_whole(path, "\n".join([_heading(data), *captions, _sources(data)]))
        except OSError as error:
            raise ScreeningError(f"{path}: {error.strerror or error}") from None
        written.files.append(path)
    return written


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScreeningError(f"{folder}: {error.strerror or error}") from None


@contextmanager
def _journal() -> Iterator[None]:
    from matplotlib import rc_context
    from matplotlib.rcsetup import cycler

    with rc_context(JOURNAL | {"axes.prop_cycle": cycler(color=ELEMENT_COLORS)}):
        yield


def _heading(data: PaperData) -> str:
    return (
        f"# Figures of run {data.run_id}\n\n"
        f"Model {data.model}, criterion {data.criterion}. In the manner of Figs. 2, 3, 5 and 6 of "
        f"{PAPER}. DOS in states/eV/cell, both spins; energies relative to the VBM below 0 and to "
        "the CBM above 0, or to the Fermi level of a metal.\n"
    )


def _sources(data: PaperData) -> str:
    listed = [f"- {markdown(text)}" for text in (*data.attributions, PAPER)]
    return "\n".join(["## Data", "", *listed, ""])


# One function a figure: the figure and its caption.


def draw_accuracy(data: PaperData) -> tuple[Figure, str]:
    """Figures of several models at a glance, and errors of single materials (Fig. 2).

    Parameters
    ----------
    data : PaperData

    Raises
    ------
    NoDataError
        If there is nothing to compare predictions with.
    """
    boxes = {f"{name}\n{len(c)} held out": c.distances for name, c in data.held_out.items()}
    if len(data.validated):
        boxes[f"{data.judges}\n{len(data.validated)} of this run"] = data.validated.distances
    if not boxes:
        raise NoDataError(f"{data.missing['held_out']}, and {data.missing['validated']}")
    has_radar = len(data.held_out) > 1
    figure = new_figure(PAGE if has_radar else COLUMN, 2.8)
    parts = []
    if has_radar:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.15))[0]
        parts.append(_draw_radar(left, data.held_out))
    else:
        right = figure
    parts.append(_draw_boxes(right, boxes, len(parts)))
    listed = zip(ascii_lowercase, parts, strict=False)
    text = " ".join(f"**{letter}**, {part}" for letter, part in listed)
    return figure, f"{text}\n\n{_metrics_table(data)}"


def _draw_radar(figure: Any, held_out: Mapping[str, Comparison]) -> str:
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    values = np.array([[c.metrics[key] for key in METRICS] for c in held_out.values()])
    signs = [1.0 if key == "r2" else -1.0 for key in METRICS]
    draw_radar(axes, values, signs, list(METRICS.values()), list(held_out))
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    _letter(axes, 0)
    n = len(next(iter(held_out.values())))
    return (
        f"R², mean absolute error (MAE), mean squared error (MSE) and Wasserstein distance (WD) of "
        f"{len(held_out)} models on the same {n} labelled materials, {HELD_BACK}; on each axis the "
        "outer ring is the best of these models and the inner ring the worst."
    )


def _draw_boxes(figure: Any, boxes: Mapping[str, np.ndarray], place: int) -> str:
    axes = figure.subplots()
    axes.boxplot(
        list(boxes.values()),
        orientation="horizontal",
        tick_labels=list(map(plain_text, boxes)),
        widths=0.5,
        showfliers=False,
        showmeans=True,
        medianprops={"color": ELEMENT_COLORS[1]},
        meanprops={"markerfacecolor": ELEMENT_COLORS[0], "markeredgecolor": ELEMENT_COLORS[0]},
    )
    axes.set(xlabel="Wasserstein distance of a material (eV)")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    _letter(axes, place)
    return (
        "Wasserstein distance of the predicted spectrum of each material from that of DFT: median, "
        "quartiles and, at the whiskers, the last value within 1.5 times the interquartile range; "
        "triangles are means."
    )


def _metrics_table(data: PaperData) -> str:
    rows = [(name, "held out", c) for name, c in data.held_out.items()]
    if len(data.validated):
        rows.append((data.judges, "of this run, by DFT", data.validated))
    names = [f"{name}{UNITS[key] and ', '}{UNITS[key]}" for key, name in METRICS.items()]
    lines = [("model", "materials", "n", *names), ("---",) * (3 + len(METRICS))]
    for name, kind, c in rows:
        lines.append((name, kind, str(len(c)), *(_number(c.metrics[key]) for key in METRICS)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"


def draw_held_out(data: PaperData) -> tuple[Figure, str]:
    """Examples from all fifths of the errors on materials that the model has not seen (Fig. 3).

    Parameters
    ----------
    data : PaperData

    Raises
    ------
    NoDataError
        If the model was never calibrated.
    """
    if not data.held_out:
        raise NoDataError(data.missing["held_out"])
    own = next(iter(data.held_out.values()))
    whose = f"{len(own)} labelled materials, {HELD_BACK}, by {data.model}"
    return _draw_examples(own, whose)


def draw_validated(data: PaperData) -> tuple[Figure, str]:
    """Examples from all fifths of the errors on the run's own calculations (Fig. 5).

    Parameters
    ----------
    data : PaperData

    Raises
    ------
    NoDataError
        If DFT has calculated nothing of the run.
    """
    if not len(data.validated):
        raise NoDataError(data.missing["validated"])
    n = len(data.validated)
    engines = _engines(data, data.validated.names)
    whose = f"{n} material{'s' * (n != 1)} of run {data.run_id} ({engines})"
    return _draw_examples(data.validated, whose)


def _draw_examples(spectra: Comparison, whose: str) -> tuple[Figure, str]:
    examples = quintile_examples(spectra.errors)
    figure = new_figure(COLUMN, 0.8 + 1.15 * len(examples))
    panels = figure.subplots(len(examples), 1, sharex=True, squeeze=False)[:, 0]
    names = []
    for i, (axes, row) in enumerate(zip(panels, examples, strict=True)):
        error = f"MAE {spectra.errors[row]:.3g}"
        names.append(f"**{ascii_lowercase[i]}** {markdown(spectra.names[row])}, {error}")
        predicted, dft = spectra.predicted[row], spectra.dft[row]
        draw_example(axes, spectra.grid.centers, dft, predicted, "DFT")
        axes.axvline(0.0, color="0.2", linewidth=0.6)
        _letter(axes, i, f"{clipped(spectra.names[row])}, {error}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    panels[-1].set_xlabel(ENERGY_LABEL)
    figure.supylabel(DOS_LABEL)
    which = (
        "The examples are in the middle of each fifth of the mean absolute errors, from the "
        "smallest (top) to the largest"
        if len(spectra) >= FIFTHS
        else "All are shown, from the smallest mean absolute error (top) to the largest"
    )
    caption = f"Predicted eDOS (blue) beside that of DFT (grey) of {whose}. {which}: "
    return figure, caption + "; ".join(names) + " states/eV/cell."


def draw_positives(data: PaperData) -> tuple[Figure, str]:
    """The predicted positives with their gaps, beside DFT's where it has calculated them (Fig. 6).

    Parameters
    ----------
    data : PaperData

    Raises
    ------
    NoDataError
        If the run has no positives.
    """
    if not data.positives:
        raise NoDataError(data.missing["positives"])
    panels = [panel for _, panel in data.positives[:MOST_POSITIVES]]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(PAGE if columns == 2 else COLUMN, 0.9 + 1.75 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for i, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        draw_panel(axes, data.grid.centers, panel, data.max_dos)
        _letter(axes, i, axes.get_title())
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid.flat[: len(panels)][-columns:]:
        axes.tick_params(labelbottom=True)  # also above a place that stays empty
    _legend(figure, grid.flat[0], panels, columns)
    labels = axis_labels(data.grid)
    kinds = {energy_label(panel.band_gap) for panel in panels}
    energies = kinds.pop() if len(kinds) == 1 else ENERGY_LABEL
    figure.supxlabel(labels[0] if labels else energies)
    figure.supylabel(labels[1] if labels else DOS_LABEL)
    return figure, _positives_caption(data, panels)


def _legend(figure: Figure, axes: Axes, panels: Sequence[EdosPanel], columns: int) -> None:
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    if any(panel.predicted_gap for panel in panels):
        handles, labels = [*handles, Patch(**SHADED)], [*labels, "predicted gap"]
    if any(panel.gap for panel in panels):
        handles, labels = [*handles, Patch(**HATCHED)], [*labels, "DFT gap"]
    figure.legend(
        handles, labels, loc="outside upper center", ncols=5 if columns == 2 else 2, frameon=False
    )


def _engines(data: PaperData, names: Iterable[str]) -> str:
    """What these materials were calculated with, and how many of them."""
    counted = Counter(data.engines[name] for name in names)
    return "; ".join(f"{engine}: {n}" for engine, n in sorted(counted.items()))


def _positives_caption(data: PaperData, panels: Sequence[EdosPanel]) -> str:
    shown = data.positives[: len(panels)]
    calculated = [name for name, panel in shown if panel.dft is not None]
    grey = f"{len(calculated)} of them with that of DFT (grey; {_engines(data, calculated)})"
    what = "phonon DOS" if axis_labels(data.grid) == PHONON_LABELS else "eDOS"
    which = "all" if len(panels) == len(data.positives) else f"{len(panels)}"
    words = [
        f"Predicted {what} (blue) of {which} of the {len(data.positives)} predicted positives of "
        f"run {data.run_id} by {data.judges}, {grey if calculated else 'without DFT'}.",
        "Those with DFT come first, whatever it says; each group by falling score.",
    ]
    if any(panel.predicted_gap for panel in panels):
        words.append("Shaded: predicted gap; a width with ≥ runs off the grid.")
    if any(panel.gap for panel in panels):
        words.append("Hatched: gap by DFT.")
    if data.max_dos is not None:
        words.append(f"Dashed: the threshold, {data.max_dos:g} states/eV/cell.")
    names = [markdown(name) for name, _ in shown]
    listed = zip(ascii_lowercase, names, strict=False)
    words.append("; ".join(f"**{letter}** {name}" for letter, name in listed) + ".")
    return " ".join([*words, data.confirmed]).strip()


def clipped(name: str) -> str:
    """Name that fits above a panel.

    Examples
    --------
    >>> clipped("MgAl (" + 100 * "x" + ")")
    'MgAl (xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'
    """
    return name if len(name) <= TITLE else f"{name[: TITLE - 1]}…"


def _letter(axes: Axes, i: int, title: str = "") -> None:
    """Letter of a panel in bold, and its title beside it."""
    axes.set_title("")
    axes.set_title(rf"$\mathbf{{{ascii_lowercase[i]}}}$  {plain_text(title)}", loc="left")


FIGURES: dict[int, Callable[[PaperData], tuple[Figure, str]]] = {
    2: draw_accuracy,
    3: draw_held_out,
    5: draw_validated,
    6: draw_positives,
}
