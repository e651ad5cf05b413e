"""Which calculations run, and for how long, while the user waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from db.documents import CandidateDoc


class CalculationsShown:
    """Running calculations with their times on stderr: live, or a line each where nobody looks.

    Parameters
    ----------
    todo : sequence of CandidateDoc
        In the order that they are begun in.
    workers : int
        How many run at a time.
    quiet : bool
        Show nothing.
    """

    def __init__(self, todo: Sequence[CandidateDoc], workers: int, quiet: bool) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from screening.cli.console import stderr

        self._console = stderr(quiet)
        self._left = {candidate.material_id: candidate for candidate in todo}
        self._n, self._workers = len(todo), workers
        self._began: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._bars = {"": self._progress.add_task(f"0 of {self._n} calculated")}

    def __enter__(self) -> Self:
        self._progress.start()
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def _begin(self) -> None:
        """Show what has begun: workers take one after the other in their order."""
        for material_id, candidate in list(self._left.items())[: self._workers]:
            if material_id in self._began:
                continue
            self._began[material_id] = time.monotonic()
            n = candidate.nsites
            name = f"{material_id} {candidate.formula}, {n} atom{'s' if n > 1 else ''}"
            self._bars[material_id] = self._progress.add_task(name)
            if not self._console.is_terminal:
                position = f"{len(self._began)} of {self._n}"
                self._console.print(f"{name}: begun, {position}")

    def ended(self, candidate: CandidateDoc, verdict: str) -> None:
        """Say what came out of one, and how long it took.

        Parameters
        ----------
        candidate : CandidateDoc
        verdict : str
            In words.
        """
        name = candidate.material_id
        seconds = time.monotonic() - self._began.get(name, time.monotonic())
        self._left.pop(name, None)
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        done = f"{self._n - len(self._left)} of {self._n} calculated"
        self._progress.update(self._bars[""], description=done)
        words = f"{name} {candidate.formula}: {verdict} ({seconds:.0f} s)"
        self._console.print(words)
        self._begin()
