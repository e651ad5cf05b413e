"""Run a program with a wall-time limit that holds wherever a jobflow job runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflows.dos.errors import DosError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def one_thread_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy of an environment in which numerical libraries start a single thread.

    These variables count only before a process loads the libraries.
    """
    return {**environment, **dict.fromkeys(THREADS, "1")}


def run_limited(
    command: Sequence[str], limit: float, log: Path, environment: Mapping[str, str]
) -> int:
    """Run a program to its end or to a wall-time limit.

    The program gets a process group of its own, which is killed as a whole at the limit, and a
    pipe as standard input that closes when this process ends, however it ends: a child that
    watches it outlives no worker. Unlike an alarm signal this works
    in any thread and while compiled code runs.

    Parameters
    ----------
    command : sequence of str
    limit : float
        In s.
    log : Path
        Where standard output and error go.
    environment : mapping

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    DosError
        At the limit.
    """
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        ) as process,
    ):
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise DosError(
                f"wall-time limit of {limit:g} s reached; raise it (--wall-time) or take a cheaper "
                "preset"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
