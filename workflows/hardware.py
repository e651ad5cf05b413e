"""What a worker brings to a scoring job: its own device and its own cores.

Job specifications name neither, since the machine that submits a job is not the one that runs it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from screening.errors import ScreeningError

DEVICE, PROCESSES = "SCREEN_DEVICE", "SCREEN_WORKERS"  # environment variables
MOST_PROCESSES = 8  # by default; each takes more than half a GB of memory


def worker_device() -> str:
    """``SCREEN_DEVICE`` of this worker, or ``"auto"``: a GPU if torch sees one here.

    Workers of a node that see several GPUs take one after the other.
    """
    if given := os.environ.get(DEVICE):
        return given
    place = _place_on_node()
    if place is None:
        return "auto"
    import torch  # seconds, and no need where there is one worker

    gpus = torch.cuda.device_count()
    return f"cuda:{place % gpus}" if gpus > 1 else "auto"


def worker_processes() -> int:
    """``SCREEN_WORKERS`` of this worker, or one process for each core that it may use.

    Workers that ``rlaunch multi`` started beside each other have one each, or as many as its
    ``--ppn`` says.

    Raises
    ------
    ScreeningError
        If the variable is no number of processes.
    """
    given = os.environ.get(PROCESSES)
    if not given:
        packed = _packed()
        return packed.SUB_NPROCS if packed else min(_usable_cores(), MOST_PROCESSES)
    if not given.isdecimal() or int(given) < 1:
        raise ScreeningError(f"{PROCESSES}: {given!r} is no number of processes; unset it, or 1")
    return int(given)


def _place_on_node() -> int | None:
    """Different numbers for workers that were started together on this node, if they were."""
    if _packed():
        return int(multiprocessing.current_process().name.rpartition("-")[2])
    local = os.environ.get("SLURM_LOCALID")
    return None if local is None else int(local)


def _packed() -> Any:
    """What ``rlaunch multi`` says of itself to the workers that it started; None to others."""
    fireworks = sys.modules.get("fireworks.fw_config")  # whoever has not imported it is no worker
    data = fireworks.FWData() if fireworks else None
    return data if data and data.MULTIPROCESSING else None


def _usable_cores() -> int:
    """Cores that a queueing system leaves to this process, not all of the node."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
