"""Tables that fit the terminal: columns leave before anything is cut.

Rich's own tables shrink every column: at 80 columns `screen candidates` would fold an id of 26
characters into six lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

LEAST_FOLDED = 20  # columns that text which folds gets at least
BETWEEN = 3  # columns that two cells have between them: a line and two spaces


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
        Its header, which folds between words.
    leaves : int
        0 stays at every width; of the others the one with the highest number leaves first.
    folds : bool
        Text that may go on in the next line, such as a remark; else every cell is whole.
    """

    name: str
    leaves: int = 0
    folds: bool = False


@dataclass(frozen=True)
class FittingTable:
    """A table with as many of its columns as fit; a dim line names those that have left.

    Where not even the columns that stay fit beside each other, each row is a paragraph that
    begins with its first cell.

    Parameters
    ----------
    title : str or None
    columns : sequence of Column
    cells : sequence of sequence of str
    numeric : sequence of bool
        Which columns are aligned to the right.
    """

    title: str | None
    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]
    numeric: Sequence[bool]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title is not None:
            yield Text(self.title, style="table.title")
        shown = self.shown(options.max_width)
        if self._least_width(shown) <= options.max_width:
            yield self._table(shown, options.max_width)
        else:
            yield from self._paragraphs(shown)
        hidden = [column.name for i, column in enumerate(self.columns) if i not in shown]
        if hidden:
            yield Text(f"Not shown at this width: {', '.join(hidden)} (--wide)", style="dim")

    def shown(self, width: int) -> list[int]:
        """Which columns there are in a terminal of that width."""
        shown = list(range(len(self.columns)))
        by_leaving = sorted(shown, key=lambda i: (self.columns[i].leaves, i))
        while self._least_width(shown) > width and self.columns[by_leaving[-1]].leaves:
            shown.remove(by_leaving.pop())
        return shown

    @cached_property
    def _widths(self) -> list[int]:
        """Width of each column's widest cell, and of its header folded between words."""
        return [
            max(
                *(cell_len(word) for word in column.name.split()),
                *(cell_len(row[i]) for row in self.cells),
                1,
            )
            for i, column in enumerate(self.columns)
        ]

    def _least_width(self, shown: Sequence[int]) -> int:
        return sum(self._least(i) for i in shown) + BETWEEN * (len(shown) - 1) + 2

    def _least(self, i: int) -> int:
        return min(self._widths[i], LEAST_FOLDED) if self.columns[i].folds else self._widths[i]

    def _table(self, shown: Sequence[int], width: int) -> Table:
        table = Table(header_style="bold", pad_edge=False)
        for i, columns in self._given_widths(shown, width).items():
            table.add_column(
                Text(self.columns[i].name),
                justify="right" if self.numeric[i] else "left",
                overflow="fold",
                width=columns,
            )
        for row in self.cells:
            table.add_row(*(Text(row[i]) for i in shown))
        return table

    def _given_widths(self, shown: Sequence[int], width: int) -> dict[int, int]:
        """Least widths, and the rest of the terminal for text that folds, then for headers."""
        given = {i: self._least(i) for i in shown}
        spare = width - self._least_width(shown)
        wanted = [(i, self._widths[i]) for i in shown]
        wanted += [(i, cell_len(self.columns[i].name)) for i in shown]
        for i, columns in wanted:
            more = min(spare, max(0, columns - given[i]))
            given[i] += more
            spare -= more
        return given

    def _paragraphs(self, shown: Sequence[int]) -> Iterator[Text | Padding]:
        first, *others = shown
        for row in self.cells:
            yield Text(row[first], overflow="fold")
            named = (f"{self.columns[i].name} {row[i]}" for i in others if row[i] != "-")
            if text := ", ".join(named):
                yield Padding(Text(text, overflow="fold"), (0, 0, 0, 2), expand=False)
