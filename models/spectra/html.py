"""HTML of tables and small spectra, for notebooks; whatever is in them is text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, BELOW = 320, 100, 16  # px: the curve, and the numbers below it
CURVE, GAP = "#0072B2", "#E69F00"  # which colour-blind people can tell apart


def html_table(caption: str, rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Table whose cells are text; without a header the first cell of each row is its name.

    Parameters
    ----------
    caption : str
        What it shows, which a screen reader says first.
    rows : iterable of sequence
    header : sequence of str
        Names of the columns.

    Examples
    --------
    >>> html_table("Al", [("atoms", 1)])
    '<table><caption>Al</caption><tr><th scope="row">atoms</th><td>1</td></tr></table>'
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(_row(cells, is_named=not header) for cells in rows)
    top = f"<tr>{head}</tr>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{top}{body}</table>"


def known_rows(rows: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    """Rows whose value is known, with words for yes and no.

    Examples
    --------
    >>> known_rows([("magnetic", False), ("band gap (eV)", None), ("score (eV)", 1 / 3)])
    [('magnetic', 'no'), ('score (eV)', '0.333')]
    """
    words = {True: "yes", False: "no"}
    return [
        (
            name,
            words[value]
            if isinstance(value, bool)
            else f"{value:.3g}"
            if isinstance(value, float)
            else value,
        )
        for name, value in rows
        if value is not None
    ]


def _row(cells: Sequence[object], is_named: bool) -> str:
    texts = [escape(str(cell)) for cell in cells]
    first = f'<th scope="row">{texts[0]}</th>' if is_named else f"<td>{texts[0]}</td>"
    return f"<tr>{first}{''.join(f'<td>{text}</td>' for text in texts[1:])}</tr>"


def spectrum_html(
    values: np.ndarray, edges: np.ndarray, words: str, gap: tuple[float, float] | None = None
) -> str:
    """Small picture of a spectrum, which stands in the page itself, and what it shows below.

    Parameters
    ----------
    values : ndarray, shape (K,)
    edges : ndarray, shape (K + 1,)
        Of the bins.
    words : str
        What it shows, with the units.
    gap : (float, float), optional
        Edges of a range to shade.
    """
    low, high = float(edges[0]), float(edges[-1])
    x = (np.asarray(edges) - low) / (high - low) * WIDTH
    y = HEIGHT - np.asarray(values) / (float(np.max(values)) or 1.0) * HEIGHT
    steps = " ".join(
        f"{a:.1f},{v:.1f} {b:.1f},{v:.1f}" for a, b, v in zip(x[:-1], x[1:], y, strict=True)
    )
    shade = ""
    if gap is not None:
        left, right = ((edge - low) / (high - low) * WIDTH for edge in gap)
        shade = (
            f'<rect x="{left:.1f}" width="{right - left:.1f}" height="{HEIGHT}" fill="{GAP}" '
            'fill-opacity="0.35"/>'
        )
    zero = -low / (high - low) * WIDTH
    line = ""
    if low < 0 < high:
        line = f'<line x1="{zero:.1f}" x2="{zero:.1f}" y2="{HEIGHT}" stroke="currentColor"/>'
    ends = "".join(
        f'<text x="{place:.1f}" y="{HEIGHT + 12}" text-anchor="{anchor}">{number:g}</text>'
        for place, number, anchor in (
            (0, low, "start"), *([(zero, 0.0, "middle")] if line else []), (WIDTH, high, "end"),
        )
    )  # fmt: skip
    return (
        f'<svg role="img" aria-label="{escape(words)}" width="{WIDTH}" height="{HEIGHT + BELOW}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT + BELOW}" font-size="11" fill="currentColor">{shade}'
        f'<polyline fill="none" stroke="{CURVE}" stroke-width="1.5" points="{steps}"/>'
        f'{line}<line x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}" stroke="currentColor"/>{ends}</svg>'
        f"<p>{escape(words)}</p>"
    )
