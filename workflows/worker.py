"""A worker that does jobs of a launchpad, ends where it is unfit, and replaces those that died.

FireWorks' ``rlaunch`` does the same jobs. It gives a sign of life every hour, goes on with the next
job where a checkpoint is missing, and ends while the job that will add its first one still runs.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import sleep
from typing import TYPE_CHECKING, Any

from fireworks import FWorker
from fireworks.core.rocket_launcher import rapidfire
from pymongo.errors import PyMongoError

from screening.errors import ScreeningError
from workflows.hardware import UnfitError
from workflows.launchpad import OPEN, PREDICTION, READING, SCREENING, last_line_of, make_ready_again

if TYPE_CHECKING:
    from fireworks import LaunchPad

CATEGORIES = (READING, PREDICTION, SCREENING)
SIGN_OF_LIFE = 30.0  # s between two signs of life
LOST_AFTER = 300.0  # s without one, after which a job is done by another worker
SLEEP = 5.0  # s until an idle worker asks again
BEATEN = 1  # s until a worker does that found its job taken; 0 would be FireWorks' own minute
PREFIX = "screen worker "  # of the names of workers that give such signs

Told = Callable[[str], None]


def work(
    launchpad: LaunchPad,
    categories: Sequence[str] = CATEGORIES,
    tell: Told = lambda line: None,
    lost_after: float = LOST_AFTER,
) -> int:
    """Do jobs in the current folder until no screening has more of them.

    Parameters
    ----------
    launchpad : LaunchPad
    categories : sequence of str
        Of the jobs that this worker takes.
    tell : callable
        Called with a line about each job that was done.
    lost_after : float
        Jobs of other workers of this kind that gave no sign of life for so long (s) are done anew.

    Returns
    -------
    int
        Jobs that were done.

    Raises
    ------
    ScreeningError
        If this machine cannot do a job, which is ready for other workers again.
    """
    worker = FWorker(_new_name(), [*categories])
    done, last = 0, None
    with _signs_of_life(launchpad, worker.name):
        while True:
            if launchpad.run_exists(worker):
                if launch := _next_launch(launchpad, worker, last):
                    done, last = done + 1, launch["launch_id"]
                    tell(_outcome(launchpad, launch))
                else:
                    tell("another worker was faster")
                continue
            _replace_the_dead(launchpad, lost_after)
            if not _is_more_to_come(launchpad, worker):
                return done
            sleep(SLEEP)


def _new_name() -> str:
    """Name that no worker had before; a container that starts again has its old host and pid."""
    return f"{PREFIX}{platform.node()}-{os.getpid()}-{secrets.token_hex(2)}"


def _next_launch(launchpad: LaunchPad, worker: FWorker, last: int | None) -> dict[str, Any] | None:
    """Do a job; its launch, or None if other workers took all. `last` is the launch before."""
    rapidfire(launchpad, worker, nlaunches=1, max_loops=1, sleep_time=BEATEN, strm_lvl="ERROR")
    mine = {"fworker.name": worker.name}
    launch: dict[str, Any] | None = launchpad.launches.find_one(mine, sort=[("launch_id", -1)])
    return None if launch is None or launch["launch_id"] == last else launch


def _outcome(launchpad: LaunchPad, launch: dict[str, Any]) -> str:
    """What became of a job, in a line.

    Raises
    ------
    ScreeningError
        If the worker is unfit for it.
    """
    job = launchpad.fireworks.find_one({"fw_id": launch["fw_id"]}, {"name": 1})
    title = f"{job['name']} ({launch['fw_id']})"
    if launch["state"] != "FIZZLED":
        return f"{title} in {launch['runtime_secs']:.1f} s"
    kind, _, reason = last_line_of(launch).partition(": ")
    if not kind.endswith(UnfitError.__name__):
        return f"{title} failed: {reason or kind}"
    launchpad.rerun_fw(launch["fw_id"])
    raise ScreeningError(f"{reason}; the job waits for another worker")


def _replace_the_dead(launchpad: LaunchPad, seconds: float) -> None:
    """Make jobs of other workers of this kind ready again that gave no sign of life for long."""
    make_ready_again(launchpad, seconds, launches={"fworker.name": {"$regex": f"^{PREFIX}"}})


def _is_more_to_come(launchpad: LaunchPad, worker: FWorker) -> bool:
    """Whether a job that is not done may still add one for this worker, as those of screenings."""
    if launchpad.future_run_exists(worker):
        return True
    of_screening = {"metadata.screening": {"$exists": True}}
    is_for_screenings = not {*CATEGORIES}.isdisjoint(worker.category)
    return is_for_screenings and bool(launchpad.get_fw_ids_in_wfs(of_screening, OPEN))


@contextmanager
def _signs_of_life(launchpad: LaunchPad, name: str) -> Iterator[None]:
    """Let the launchpad know of the jobs of a worker that it lives."""
    ended = threading.Event()
    mine: dict[str, Any] = {"state": "RUNNING", "fworker.name": name}

    def ping() -> None:
        while not ended.wait(SIGN_OF_LIFE):
            try:
                for launch in launchpad.launches.find(mine, {"launch_id": 1}):
                    launchpad.ping_launch(launch["launch_id"])
            except PyMongoError:
                continue  # the next sign may reach it

    thread = threading.Thread(target=ping, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
