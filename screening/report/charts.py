"""Charts to look into with a mouse, for pages: one function a chart, all of one look.

The same visual grammar as :mod:`screening.report.plots`, by Plotly. Text from outside is escaped:
Plotly reads some HTML in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from models.crystal import ELEMENTS
from models.distances import close_pairs
from models.uncertainty.calibration import COVERAGE
from screening.report.plots import (
    DRAWN_PARTS,
    ELEMENT_COLORS,
    HEADROOM,
    LEAST_PART,
    PHONON_LABELS,
    Range,
    range_text,
)

if TYPE_CHECKING:
    from db.documents import FilterCount
    from models.crystal import Crystal
    from models.spectra.electronic_structure import ElectronicStructure
    from models.spectra.spectrum import EnergyGrid

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#666666"
DOS_LABEL = "DOS (states/eV/cell)"
ENERGY_LABEL = "Energy relative to the band edges (eV)"
METAL_LABEL = "<i>E</i> − <i>E</i><sub>F</sub> (eV)"
GAPPED_LABEL = (
    "<i>E</i> − <i>E</i><sub>VBM</sub> (below 0), <i>E</i> − <i>E</i><sub>CBM</sub> (above 0) (eV)"
)
SHELL_DASHES = {"s": "dot", "p": "solid", "d": "dash", "f": "dashdot"}
FEW = 2_000  # points that a page draws one by one; of more, the density
BONDED = 1.2  # times the sum of the covalent radii, and the distance to the nearest neighbour
MOST_BONDED = 500  # atoms
Trace = dict[str, Any]
_SHADE, _BAND = "rgba(255,127,14,0.3)", "rgba(31,119,180,0.18)"

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13},
        "colorway": list(ELEMENT_COLORS),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(255,255,255,0.85)", "color": "#667", "activecolor": "#0b57a4"},
        "hoverlabel": {"bgcolor": "white", "font": {"color": "#222"}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": {
            "showline": True, "mirror": True, "ticks": "outside", "zeroline": False,
            "linecolor": "#444", "gridcolor": "#eeeeee", "automargin": True,
            "title": {"font": {"size": 14}},
        },
        "yaxis": {
            "showline": True, "mirror": True, "ticks": "outside", "zeroline": False,
            "linecolor": "#444", "gridcolor": "#eeeeee", "automargin": True,
            "title": {"font": {"size": 14}},
        },
    }
)  # fmt: skip
"""The look of all charts."""


def edos_chart(
    grid: EnergyGrid,
    predicted: np.ndarray,
    *,
    gap: Range | None = None,
    max_dos: float | None = None,
    dft: np.ndarray | None = None,
    dft_gap: Range | None = None,
    band: np.ndarray | None = None,
    band_gap: float | None = None,
    model: str = "predicted",
    engine: str = "DFT",
) -> go.Figure:
    """Predicted spectrum with its gap, beside DFT's with its own where there is one (Fig. 6).

    The predicted gap is shaded and DFT's is hatched.

    Parameters
    ----------
    grid : EnergyGrid
        In eV, or in cm^-1 of a phonon DOS.
    predicted, dft : ndarray, shape (K',)
        In states/eV/cell; a phonon DOS on any scale.
    gap, dft_gap : (float, float), optional
        Edges of the predicted and of DFT's gap, in eV.
    max_dos : float, optional
        Threshold to mark, in states/eV/cell.
    band : ndarray, shape (2, K'), optional
        Where most of what DFT finds lies, in states/eV/cell.
    band_gap : float, optional
        In eV, for the name of the energy axis: 0 for a metal, None if it is not known.
    model, engine : str
        Names for the legend.

    Examples
    --------
    >>> from models.spectra.spectrum import EDOS_GRID
    >>> figure = edos_chart(EDOS_GRID, np.ones(128), gap=(-2.0, -0.5), max_dos=1.0)
    >>> [trace.name for trace in figure.data]
    ['predicted', 'predicted gap: −2.00 to −0.50 eV, width 1.50 eV', 'threshold, 1 state/eV/cell']
    """
    traces: list[Trace] = []
    curves = np.concatenate([predicted, [] if dft is None else dft, [2 * (max_dos or 0.0), 0.0]])
    top, bottom = HEADROOM * float(curves.max()) or 1.0, HEADROOM * float(curves.min())
    if dft is not None:
        traces.append(_steps(grid, dft, escape(engine), "#888888", width=1, fill="tozeroy"))
    if band is not None:
        traces += _band(grid, band)
        # A wide band may double the axis, not more.
        top = max(top, min(HEADROOM * float(np.max(band)), 2 * top))
    traces.append(_steps(grid, predicted, escape(model), BLUE, width=2))
    if gap is not None:
        name = f"predicted gap: {range_text(gap, grid.edges)}"
        traces.append(_range(gap, top, name, fillcolor=_SHADE))
    if dft_gap is not None:
        hatch = {"shape": "/", "fgcolor": "#555555", "bgcolor": "rgba(0,0,0,0)", "size": 8}
        name = f"DFT gap: {range_text(dft_gap, grid.edges)}"
        traces.append(_range(dft_gap, top, name, fillpattern=hatch))
    if max_dos is not None:
        traces.append(_threshold(grid, max_dos))
    return _spectrum_figure(traces, grid, band_gap, [bottom, top])


def parts_chart(structure: ElectronicStructure, gap: Range | None = None) -> go.Figure:
    """What a predicted eDOS is made of: a colour for each element, a dash for each shell.

    Parameters
    ----------
    structure : ElectronicStructure
        Small parts of it are drawn together, as the rest.
    gap : (float, float), optional
        Edges of the predicted gap, in eV.
    """
    grid, total, parts = structure.grid, structure.dos, structure.by_element()
    largest = sorted(parts, key=lambda part: -parts[part].sum())[:DRAWN_PARTS]
    drawn = [p for p in parts if p in largest and parts[p].sum() > LEAST_PART * total.sum()]
    colors = dict(zip(dict.fromkeys(element for element, _ in drawn), ELEMENT_COLORS, strict=False))
    top = HEADROOM * float(total.max()) or 1.0
    traces = [_steps(grid, total, "all", "#bbbbbb", width=0, fill="tozeroy")]
    for element, shell in drawn:
        values, dash = parts[element, shell], SHELL_DASHES[shell]
        traces.append(
            _steps(grid, values, f"{element} {shell}", colors[element], width=2, dash=dash)
        )
    if rest := [values for part, values in parts.items() if part not in drawn]:
        traces.append(_steps(grid, np.sum(rest, axis=0), "rest", "#777777", width=1))
    if gap is not None:
        traces.append(_range(gap, top, "predicted gap", fillcolor=_SHADE))
    band_gap = 0.0 if structure.is_metal else structure.band_gap
    return _spectrum_figure(traces, grid, band_gap, [0.0, top])


def structure_chart(crystal: Crystal) -> go.Figure:
    """The cell in 3D, with the images of its atoms on faces, edges and corners, and bonds.

    Each atom has its element's symbol on it, so that colours need not be told apart.

    Parameters
    ----------
    crystal : Crystal

    Examples
    --------
    >>> from models.crystal import Crystal
    >>> salt = Crystal(4.0 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17])
    >>> [(trace.name, len(trace.x)) for trace in structure_chart(salt).data if trace.showlegend]
    [('Cs', 8), ('Cl', 1)]
    """
    owners, frac_coords = _with_images(crystal)
    numbers, positions = crystal.atomic_numbers[owners], frac_coords @ crystal.lattice
    traces = [_lines(_cell_edges(crystal.lattice), "cell", "#999999", width=2)]
    if bonds := _bonds(crystal, owners, positions):
        traces.append(_lines(bonds, "bond", "#777777", width=5))
    traces += [_atoms(z, positions[numbers == z]) for z in dict.fromkeys(numbers.tolist())]
    axis = {"visible": False, "showspikes": False}
    camera = {"eye": {"x": 1.4, "y": 1.1, "z": 0.7}, "projection": {"type": "orthographic"}}
    return _figure(
        traces,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        scene={
            "aspectmode": "data",
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
            "camera": camera,
        },
        legend={"y": 0.98, "yanchor": "top", "itemsizing": "constant"},
    )


def element_chart(counts: Mapping[str, int], what: str = "materials") -> go.Figure:
    """Periodic table with the number of materials that hold each element.

    Parameters
    ----------
    counts : mapping of str to int
        By the symbol of the element.
    what : str
        Things that are counted, for the labels.

    Examples
    --------
    >>> figure = element_chart({"Na": 2, "Cl": 2})
    >>> int(np.nansum(figure.data[0].z))
    4
    """
    from pymatgen.core import Element

    rows, columns = 9, 18
    values = np.full((rows, columns), np.nan)
    hover, with_some, without = ([[""] * columns for _ in range(rows)] for _ in range(3))
    for z in range(1, 104):
        element = Element.from_Z(z)
        row, column = _place(element)
        n = values[row, column] = counts.get(element.symbol, 0)
        hover[row][column] = f"{element.long_name}: {n} {what}"
        if n:
            with_some[row][column] = f"{element.symbol}<br>{n}"
        else:
            without[row][column] = element.symbol
    cells = {
        "type": "heatmap",
        "xgap": 2,
        "ygap": 2,
        "hoverinfo": "text",
        "hovertext": hover,
        "hoverongaps": False,
        "texttemplate": "%{text}",
    }
    coloured = cells | {
        "z": np.where(values > 0, values, np.nan),
        "text": with_some,
        "colorscale": "Blues",
        "zmin": 0,
        "zmax": max([1, *counts.values()]),
        "showscale": False,  # the numbers are in the cells
    }
    grey = cells | {
        "z": np.where(values == 0, 0.0, np.nan),
        "text": without,
        "colorscale": [[0, "#f3f3f3"], [1, "#f3f3f3"]],
        "showscale": False,
        "textfont": {"color": "#666666"},
    }
    hidden = {"visible": False, "fixedrange": True}
    return _figure(
        [coloured, grey],
        xaxis=hidden,
        yaxis=hidden | {"autorange": "reversed", "scaleanchor": "x"},
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
    )


def hull_chart(
    energies_above_hull: np.ndarray,
    scores: np.ndarray,
    is_positive: np.ndarray,
    names: Sequence[str],
    *,
    unit: str = "eV",
) -> go.Figure:
    """Score against the energy above the hull; of many negatives their density.

    Parameters
    ----------
    energies_above_hull : ndarray, shape (n,)
        In eV/atom; NaN where it is not known, which is left out.
    scores : ndarray, shape (n,)
        In `unit`.
    is_positive : ndarray of bool, shape (n,)
    names : sequence of str
        Of the materials; they are the `ids` of the points.
    unit : str
        Of the score; empty for a number.
    """
    known = np.isfinite(energies_above_hull) & np.isfinite(scores)
    negative, positive = known & ~is_positive, known & is_positive
    label = f"score ({unit})" if unit else "score"
    groups = [("positive", positive, {"color": ORANGE, "size": 8, "symbol": "circle"})]
    traces: list[Trace] = []
    if negative.sum() > FEW:
        traces.append(_density(energies_above_hull[negative], scores[negative]))
    else:
        small = {"color": BLUE, "size": 6, "symbol": "circle-open"}
        groups.insert(0, ("negative", negative, small))
    for name, chosen, marker in groups:
        ids = [names[i] for i in np.flatnonzero(chosen).tolist()]
        traces.append(
            {
                "type": "scatter",
                "x": _short(energies_above_hull[chosen]),
                "y": _short(scores[chosen]),
                "ids": ids,
                "customdata": [escape(each) for each in ids],
                "name": f"{name} ({len(ids):,})",
                "mode": "markers",
                "marker": marker,
                "hovertemplate": "%{customdata}<br>%{x} eV/atom, "
                f"{label} %{{y}}<extra></extra>",
            }
        )
    return _figure(
        traces,
        xaxis={"title": {"text": "Energy above the hull (eV/atom)"}},
        yaxis={"title": {"text": f"S{label[1:]}"}},
        showlegend=True,
    )


def funnel_chart(
    funnel: Sequence[FilterCount], counts: Mapping[str, int] | None = None
) -> go.Figure:
    """How many materials came to each filter, and how many were left.

    Parameters
    ----------
    funnel : sequence of FilterCount
        Of a run.
    counts : mapping of str to int, optional
        Of the run; what is ``"screened"`` and ``"positive"`` of what is left is shown, too.

    Examples
    --------
    >>> from db.documents import FilterCount
    >>> hull = FilterCount(name="energy_above_hull", entered=10, dropped=4)
    >>> figure = funnel_chart([hull], {"screened": 6, "positive": 1})
    >>> list(zip(figure.data[0].y, figure.data[0].x))
    [('came in', 10), ('energy above hull', 6), ('screened', 6), ('positive', 1)]
    """
    left = [("came in", funnel[0].entered)] if funnel else []
    left += [
        (escape(stage.name.replace("_", " ")), stage.entered - stage.dropped) for stage in funnel
    ]
    known = counts or {}
    left += [(name, known[name]) for name in ("screened", "positive") if name in known]
    trace = {
        "type": "funnel",
        "y": [name for name, _ in left],
        "x": [n for _, n in left],
        "texttemplate": "%{value:,}",
        "textposition": "auto",
        "marker": {"color": BLUE},
        "connector": {"fillcolor": "#e4eef6"},
        "hovertemplate": "%{y}: %{x:,}<extra></extra>",
    }
    return _figure([trace], xaxis={"visible": False}, yaxis={"showline": False, "ticks": ""})


def _figure(traces: list[Trace], **layout: Any) -> go.Figure:
    """Made in one go, which is five times as fast as trace by trace."""
    return go.Figure({"data": traces, "layout": {"template": TEMPLATE} | layout})


def _spectrum_figure(
    traces: list[Trace], grid: EnergyGrid, band_gap: float | None, heights: list[float]
) -> go.Figure:
    """Spectra over energies, with a line where these are 0."""
    xlabel, ylabel = PHONON_LABELS
    if grid.unit == "eV":
        of_gap = GAPPED_LABEL if band_gap else METAL_LABEL
        xlabel, ylabel = ENERGY_LABEL if band_gap is None else of_gap, DOS_LABEL
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper"}
    return _figure(
        traces,
        xaxis={"title": {"text": xlabel}, "range": _ends(grid)},
        yaxis={"title": {"text": ylabel}, "range": heights},
        shapes=[zero | {"line": {"width": 1, "color": "#333333"}}],
        showlegend=True,
        hovermode="x unified",
    )


def _ends(grid: EnergyGrid) -> list[float]:
    return [float(grid.edges[0]), float(grid.edges[-1])]


def _steps(
    grid: EnergyGrid,
    values: np.ndarray,
    name: str,
    color: str,
    *,
    width: float,
    dash: str = "solid",
    **more: Any,
) -> Trace:
    """Histogram of bin averages, whose energies are two numbers in the page."""
    return {
        "type": "scatter",
        "x0": float(grid.centers[0]),
        "dx": grid.width,
        "y": _short(values),
        "name": name,
        "mode": "lines",
        "line": {"shape": "hvh", "width": width, "color": color, "dash": dash},
        "hovertemplate": "%{y:.3g}",
        **more,
    }


def _band(grid: EnergyGrid, band: np.ndarray) -> list[Trace]:
    """Its two ends, filled between."""
    name = f"band that holds {COVERAGE:.0%} of what DFT finds".replace("%", " %")
    look: dict[str, Any] = {"width": 0, "legendgroup": "band", "hoverinfo": "skip"}
    low, high = band
    return [
        _steps(grid, low, name, BLUE, showlegend=False, **look),
        _steps(grid, high, name, BLUE, fill="tonexty", fillcolor=_BAND, **look),
    ]


def _threshold(grid: EnergyGrid, max_dos: float) -> Trace:
    return {
        "type": "scatter",
        "x": _ends(grid),
        "y": [max_dos, max_dos],
        "name": f"threshold, {max_dos:g} state{'' if max_dos == 1 else 's'}/eV/cell",
        "mode": "lines",
        "line": {"dash": "dash", "width": 1, "color": "#444444"},
        "hoverinfo": "skip",
    }


def _short(values: np.ndarray) -> list[float]:
    """To four significant digits, which a page of hundreds of spectra has room for."""
    return [float(f"{value:.4g}") for value in np.asarray(values).tolist()]


def _range(edges: Range, top: float, name: str, **look: Any) -> Trace:
    """A range of energies over all heights."""
    low, high = edges
    return {
        "type": "scatter",
        "x": [low, low, high, high],
        "y": [0, top, top, 0],
        "name": name,
        "mode": "lines",
        "fill": "toself",
        "line": {"width": 0, "color": GREY},
        "hoverinfo": "skip",
        **look,
    }


def _density(x: np.ndarray, y: np.ndarray) -> Trace:
    """Number of points in each of many cells."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=(60, 60))
    counts = counts.T
    return {
        "type": "heatmap",
        "x": _short((x_edges[:-1] + x_edges[1:]) / 2),
        "y": _short((y_edges[:-1] + y_edges[1:]) / 2),
        "z": np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).astype(np.float32),
        "customdata": counts.astype(np.int32),
        "colorscale": "Blues",
        "zmin": -0.7,
        "showscale": False,
        "name": f"negative ({len(x):,}, darker where there are more)",
        "showlegend": True,
        "hovertemplate": "%{customdata} negatives near %{x}, %{y}<extra></extra>",
    }


def _place(element: Any) -> tuple[int, int]:
    """Row and column in the periodic table; lanthanides and actinides are below."""
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return (7 if first == 57 else 8), 2 + element.Z - first
    return element.row - 1, element.group - 1


# --- the structure ---------------------------------------------------------------------


def _with_images(crystal: Crystal) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the cell and their images on its upper faces: which (m,), and fractions (m, 3)."""
    wrapped = crystal.frac_coords % 1.0
    wrapped[np.isclose(wrapped, 1.0, atol=1e-4)] = 0.0
    owners, positions = [], []
    for i, at in enumerate(wrapped):
        on_face = [(0, 1) if x < 1e-4 else (0,) for x in at]
        for shift in np.array(np.meshgrid(*on_face)).T.reshape(-1, 3):
            owners.append(i)
            positions.append(at + shift)
    return np.array(owners), np.array(positions)


def _cell_edges(lattice: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    corners = np.array(np.meshgrid((0, 1), (0, 1), (0, 1))).T.reshape(-1, 3)
    return [
        (a @ lattice, b @ lattice)
        for i, a in enumerate(corners)
        for b in corners[i + 1 :]
        if np.abs(a - b).sum() == 1
    ]


def _bonds(
    crystal: Crystal, owners: np.ndarray, positions: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of atoms that touch, and have no neighbours that are much nearer.

    Radii alone would draw bonds between the cations of an oxide.
    """
    from ase.data import covalent_radii

    if len(owners) > MOST_BONDED:
        return []
    radii = covalent_radii[crystal.atomic_numbers]
    i, _, apart = close_pairs(crystal, 2 * BONDED * float(radii.max()))
    nearest = np.full(len(crystal), np.inf)
    np.minimum.at(nearest, i, apart)
    radii, nearest = radii[owners], nearest[owners]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    reach = np.minimum(radii[:, None] + radii, np.minimum(nearest[:, None], nearest))
    near = np.triu((distances < BONDED * reach) & (distances > 0.1))
    return [(positions[i], positions[j]) for i, j in np.argwhere(near)]


def _lines(
    segments: Sequence[tuple[np.ndarray, np.ndarray]], name: str, color: str, *, width: float
) -> Trace:
    gap = np.full(3, np.nan)
    points = np.array([point for ends in segments for point in (*ends, gap)])
    x, y, z = (
        [None if np.isnan(value) else round(float(value), 3) for value in column]
        for column in points.T
    )
    return {
        "type": "scatter3d",
        "x": x,
        "y": y,
        "z": z,
        "name": name,
        "mode": "lines",
        "line": {"color": color, "width": width},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _atoms(number: int, positions: np.ndarray) -> Trace:
    """Atoms of one element, with its symbol on them."""
    x, y, z = np.round(positions, 3).T.tolist()
    symbol = ELEMENTS[number]
    return {
        "type": "scatter3d",
        "x": x,
        "y": y,
        "z": z,
        "name": symbol,
        "mode": "markers+text",
        "text": symbol,
        "textfont": {"size": 11, "color": _text_color(number)},
        "textposition": "middle center",
        "hovertemplate": f"{symbol} (%{{x:.2f}}, %{{y:.2f}}, %{{z:.2f}}) Å<extra></extra>",
        "marker": {
            "size": _marker_size(number),
            "color": _color(number),
            "line": {"width": 1, "color": "#444444"},
            "opacity": 1.0,
        },
        "showlegend": True,
    }


def _color(z: int) -> str:
    """Of an element, as jmol has it."""
    from ase.data.colors import jmol_colors

    red, green, blue = (round(255 * part) for part in jmol_colors[z])
    return f"rgb({red},{green},{blue})"


def _text_color(z: int) -> str:
    from ase.data.colors import jmol_colors

    return "black" if jmol_colors[z] @ (0.299, 0.587, 0.114) > 0.45 else "white"


def _marker_size(z: int) -> float:
    """In pixels: the radii of the elements differ, and the smallest one can hold its symbol."""
    from ase.data import covalent_radii

    return round(12.0 + 10.0 * float(covalent_radii[z]), 1)
