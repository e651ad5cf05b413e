"""How a job that runs in this process tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Report = Callable[[str, int, int | None], None]
"""Called with the stage, how many items were done since the last call, and the total if known."""

_report: ContextVar[Report] = ContextVar("report", default=lambda stage, done, total: None)


def advance(stage: str, done: int, total: int | None = None) -> None:
    """Say how far a stage is.

    Parameters
    ----------
    stage : str
        Such as ``"scored"``.
    done : int
        Items that were finished since the last call.
    total : int, optional
        If it is known.
    """
    _report.get()(stage, done, total)


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Send the progress of the jobs that run inside the context to `report`."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def steps_of(stage: str) -> Callable[[int, int | None], None]:
    """Callback for functions that tell how many items are done so far, and of how many."""
    before = 0

    def report(done: int, total: int | None) -> None:
        nonlocal before
        advance(stage, done - before, total)
        before = done

    return report
