"""What of a figure is cut off or lies over something else, once matplotlib has drawn it."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def text_boxes(figure: Figure) -> dict[Text, Bbox]:
    """Where the visible texts are, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    texts = [text for text in texts if text not in _undrawn_ticks(figure)]
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in texts}
    return {text: box for text, box in boxes.items() if text.get_text().strip() and box.width}


def _undrawn_ticks(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the limits: matplotlib keeps them, but does not draw them."""
    undrawn = set()
    for axes in figure.axes:
        for axis, i in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-6 * (high - low)
            labels = axis.get_ticklabels()
            undrawn |= {t for t in labels if not low - slack <= t.get_position()[i] <= high + slack}
    return undrawn


def cut_off(figure: Figure) -> list[str]:
    """Texts that stick out of the figure."""
    width, height = figure.bbox.width + 1, figure.bbox.height + 1
    return [
        text.get_text()
        for text, box in text_boxes(figure).items()
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width or box.y1 > height
    ]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie over each other."""
    pairs = combinations(text_boxes(figure).items(), 2)
    return [
        (one.get_text(), other.get_text())
        for (one, a), (other, b) in pairs
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
