"""`screen worker`: a process that does jobs of a launchpad."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from screening.cli import options
from workflows.dos.engines import ENGINES


def _known_categories(names: list[str] | None) -> list[str] | None:
    from workflows.launchpad import PREDICTION, READING, SCREENING

    known = (READING, PREDICTION, SCREENING, *ENGINES)
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}.")
    return names


def worker(
    category: Annotated[
        list[str] | None,
        typer.Option(
            callback=_known_categories,
            help="Jobs to take, may be repeated: reading (the source), prediction (a GPU does it "
            "fastest), screening (all else of a screening), gpaw, vasp. Default: the first three.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, cuda or cuda:1. Default: SCREEN_DEVICE, else a GPU if torch sees one; "
            "workers of a node take one after the other."
        ),
    ] = None,
    workers: options.Workers = None,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    lost_after: Annotated[
        float,
        typer.Option(
            min=60, help="Seconds without a sign of life of a worker until its job is done anew."
        ),
    ] = 300,
    db: options.Db = options.DEFAULT_DB,
    quiet: options.Quiet = False,
) -> None:
    """Do jobs of the launchpad until no screening has more of them, as `rlaunch rapidfire` does.

    A worker that cannot do a job, since it has no such checkpoint or no such device, leaves it to
    others, says why, and ends. Jobs of one that was killed are done by those that live.
    """
    from screening.cli.console import stderr
    from workflows import hardware
    from workflows.launchpad import open_launchpad
    from workflows.worker import CATEGORIES, work

    if device is not None:
        from models.predictor import usable_device

        os.environ[hardware.DEVICE] = usable_device(device)
    if workers is not None:
        os.environ[hardware.PROCESSES] = str(workers)
    hardware.worker_processes()  # refuses what the environment says wrong
    remarks = stderr(quiet)
    with open_launchpad(launchpad) as pad:
        done = work(pad, category or CATEGORIES, remarks.print, lost_after)
    remarks.print(f"Nothing is left to do; {done} jobs done")
