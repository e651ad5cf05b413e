"""What a worker brings to a scoring job: its own device and its own cores.

Job specifications name neither, since the machine that submits a job is not the one that runs it.
"""

from __future__ import annotations

import os

from screening.errors import ScreeningError

DEVICE, PROCESSES = "SCREEN_DEVICE", "SCREEN_WORKERS"  # environment variables
MOST_PROCESSES = 8  # by default; each takes more than half a GB of memory


def worker_device() -> str:
    """``SCREEN_DEVICE`` of this worker, or ``"auto"``: a GPU if torch sees one here."""
    return os.environ.get(DEVICE) or "auto"


def worker_processes() -> int:
    """``SCREEN_WORKERS`` of this worker, or one process for each core that it may use.

    Raises
    ------
    ScreeningError
        If the variable is no number of processes.
    """
    given = os.environ.get(PROCESSES)
    if not given:
        return min(_usable_cores(), MOST_PROCESSES)
    if not given.isdecimal() or int(given) < 1:
        raise ScreeningError(f"{PROCESSES}: {given!r} is no number of processes; unset it, or 1")
    return int(given)


def _usable_cores() -> int:
    """Cores that a queueing system leaves to this process, not all of the node."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
