"""How results and progress look."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console

from screening.cli.fitting_table import Column, FittingTable
from screening.cli.invocation import program

if TYPE_CHECKING:
    from workflows.progress import Report

NAMED = 3  # failures in one line
UNLIMITED = 100_000  # columns, where lines may be as long as they must: a file or a pipe, --wide

# Ids, paths and formulas come from outside: H2[relaxed] is a name, and so is a:x:.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False}


def stdout(wide: bool = False) -> Console:
    """Console for results.

    Lines fit the terminal; in a file or a pipe, or if `wide`, each is as long as it must be, so
    that one row is one line and nothing is left out.
    """
    is_limited = sys.stdout.isatty() and not wide
    return Console(soft_wrap=False, width=None if is_limited else UNLIMITED, **_PLAIN)


def stderr(quiet: bool = False) -> Console:
    """Console for progress and remarks."""
    return Console(stderr=True, quiet=quiet, highlight=False, **_PLAIN)


def print_json(document: Any) -> None:
    """Print a document as JSON on stdout."""
    print(json.dumps(document, indent=2, default=str, allow_nan=False))


def name_failures(what: str, failures: Mapping[str, str | None], rest: str) -> None:
    """Say on stderr what failed, also to those who want no remarks.

    Parameters
    ----------
    what : str
        How many and of what, in words.
    failures : mapping of str to str or None
        Reasons by id.
    rest : str
        Arguments with which the program lists those that are not named.
    """
    named = [f"{name} ({reason})" for name, reason in list(failures.items())[:NAMED]]
    if more := len(failures) - len(named):
        named.append(f"and {more} more (`{program()} {rest}`)")
    print(f"{program()}: {what}: {', '.join(named)}", file=sys.stderr)


def table(
    title: str | None, columns: Sequence[str | Column], rows: Iterable[Sequence[Any]]
) -> FittingTable:
    """Table whose columns of numbers are aligned to the right; "-" for what is not known.

    A plain name stands for a column that stays at every width and may fold; what else a column
    can do is in :class:`screening.cli.fitting_table.Column`.

    Parameters
    ----------
    title : str or None
    columns : sequence of str or Column
    rows : iterable of sequence
        As many values each as there are columns.
    """
    rows = [["-" if cell is None else cell for cell in row] for row in rows]
    described = [
        column if isinstance(column, Column) else Column(column, folds=True) for column in columns
    ]
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    return FittingTable(
        title, described, [[_cell(value) for value in row] for row in rows], numeric
    )


def table_of(
    title: str | None, columns: Mapping[Column, str | Callable[[Any], Any]], rows: Sequence[Any]
) -> FittingTable:
    """Table of objects.

    Parameters
    ----------
    title : str or None
    columns : mapping
        Of each column the attribute that it shows, or a function of the object.
    rows : sequence
        The objects.
    """
    values = [attrgetter(cell) if isinstance(cell, str) else cell for cell in columns.values()]
    return table(title, list(columns), [[value(row) for value in values] for row in rows])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def ago(time: datetime) -> str:
    """How long ago a time was, in words."""
    seconds = (datetime.now(UTC) - time).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            n = int(seconds // length)
            return f"{n} {unit}{'s' if n > 1 else ''} ago"
    return "just now"


STAGES = {
    "fetched": "Asking the Materials Project",
    "spectra": "Reading spectra",
    "read": "Reading and filtering",
    "scored": "Predicting spectra",
    "rescored": "Judging the best again",
    "validated": "Calculating with DFT",
    "screened": "Reading verdicts",
    "viewed": "Gathering spectra",
    "grouped": "Finding families",
    "drawn": "Drawing",
}


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Report]:
    """Bars with rates and time left on stderr, one for each stage of a run."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.completed / task.elapsed if task.elapsed else None
            return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr(quiet),
        disable=quiet,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(STAGES.get(stage, stage), total=total)
            progress.update(tasks[stage], advance=done, total=total)

        yield report
