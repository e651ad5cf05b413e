"""Worker processes that never outlive the process that started them, and end at once with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress


def end_with_parent() -> None:
    """Make this worker process end when its parent does, even when that is killed."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in the block leave Ctrl-C to their parent, from their start on.

    A terminal sends Ctrl-C to all of them; one that still imports would print a traceback. The
    parent gets a Ctrl-C of the meantime at the end of the block: before that a process could have
    been started that no one knows of.
    """
    in_time: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    # Threads of libraries do not block it, and Python would tell the main thread.
    handler = is_main and signal.signal(signal.SIGINT, lambda number, _: in_time.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if in_time:
            signal.raise_signal(signal.SIGINT)


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool whatever they are doing; results that are due are lost."""
    if hasattr(pool, "kill_workers"):  # Python 3.14
        pool.kill_workers()
        return
    for process in list((pool._processes or {}).values()):
        process.kill()
        process.join()
    # The pool's own threads hold the other ends of its pipes, so that neither the one that writes
    # to the dead (CPython issue 94777) nor the one that reads what a worker was in the middle of
    # would ever be told.
    with suppress(AttributeError, OSError):
        pool._call_queue._reader.close()  # type: ignore[attr-defined]
    with suppress(AttributeError, OSError):
        pool._result_queue._writer.close()  # type: ignore[attr-defined]
    pool.shutdown(cancel_futures=True)
