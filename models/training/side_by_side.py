"""Trainings in processes beside each other: members of an ensemble, or settings of a predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from models.processes import WorkerPool

Announce = Callable[[str], None]
Part = TypeVar("Part")


def train_side_by_side(
    train: Callable[[Part, Announce], object],
    parts: Sequence[Part],
    workers: int,
    announce: Announce,
) -> None:
    """Train parts that are kept on disk, so many at a time.

    Where the shared memory of the machine has no room for the data, of which a container may have
    little, nothing is trained, and a line says so.

    Parameters
    ----------
    train : callable
        Trains a part and saves it. Tensors that it holds are shared with the processes.
    parts : sequence
    workers : int
        Processes.
    announce : callable
        Gets the lines of a part when it ends.

    Raises
    ------
    WorkerDiedError
        If a process is killed.
    """
    workers = min(workers, len(parts))
    announce(f"{workers} at a time, without bars: {', '.join(map(str, parts))}")
    with WorkerPool(workers, _prepare, (train, parts)) as pool:
        try:
            for _, lines in pool.as_done(_train_in_worker, range(len(parts))):
                for line in lines:
                    announce(line)
        except RuntimeError as error:
            if "shared memory" not in str(error):  # torch has no type of its own for it
                raise
            announce(
                "the shared memory of this machine has no room for the data set: one training "
                "follows the other"
            )


_in_worker: tuple[Callable[[Any, Announce], object], Sequence[Any]] | None = None


def _prepare(*of_all: Any) -> None:
    global _in_worker
    _in_worker = of_all


def _train_in_worker(i: int) -> list[str]:
    assert _in_worker is not None
    lines: list[str] = []
    train, parts = _in_worker
    train(parts[i], lines.append)
    return lines
