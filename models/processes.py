"""Worker processes that never outlive the process that started them, and end at once with it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar

from models.errors import ModelError

AHEAD = 4  # tasks that a process finds waiting while the caller does other things
LOOK = 1.0  # s between two looks whether all processes still live
Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDiedError(ModelError):
    """A worker process was killed, mostly by a system without memory."""


class WorkerPool:
    """Worker processes of one kind, which stay for the next tasks.

    They end with their parent, even when that is killed, and leave Ctrl-C to it. They are killed
    when an error or a Ctrl-C comes before all results, or the caller wants no more of them.

    Parameters
    ----------
    workers : int
        Processes.
    prepare : callable, optional
        Called in each process before its first task.
    arguments : tuple
        Of `prepare`.

    Examples
    --------
    >>> with WorkerPool(2) as pool:
    ...     list(pool.in_order(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def __init__(
        self,
        workers: int,
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        self.workers, self._prepare = workers, (prepare, arguments)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def in_order(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Results in the order of the tasks, of which `AHEAD` for each process are taken ahead.

        Unlike `Executor.map` it cancels nothing when it is left early: a pool that is killed then
        ends with a traceback (CPython 3.11).

        Parameters
        ----------
        function : callable
            Of one task; like the tasks, it must be picklable.
        tasks : iterable

        Raises
        ------
        WorkerDiedError
            If a process is killed.
        """
        self._renew()
        with self._ending_early():
            waiting: deque[Future[Result]] = deque()
            for task in tasks:
                waiting.append(self._submit(function, task))
                while waiting and (len(waiting) >= AHEAD * self.workers or waiting[0].done()):
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())

    def start(self) -> None:
        """Start a process, and let it prepare itself; the others start with the tasks."""
        self._submit(_nothing)

    def as_done(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Tasks with their results, as they come.

        Parameters
        ----------
        function : callable
            Of one task; like the tasks, it must be picklable.
        tasks : iterable

        Raises
        ------
        WorkerDiedError
            If a process is killed.
        """
        self._renew()
        with self._ending_early():
            futures = {self._submit(function, task): task for task in tasks}
            while futures:
                for future in self._done(futures):
                    yield futures.pop(future), future.result()

    def close(self) -> None:
        """End the processes when they have done what they do; what waits is cancelled."""
        if self._executor:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def kill(self) -> None:
        """End the processes whatever they are doing; results that are due are lost."""
        if self._executor:
            kill_workers(self._executor)
            self._executor = None

    def _renew(self) -> None:
        """Let go of processes that were killed while nobody waited for them."""
        if self._executor and _has_died(self._executor):
            self.kill()

    def _submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        if self._executor is None:
            # Forked processes would inherit torch's threads in an unknown state.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, _begin, self._prepare)
        try:
            with deaf_to_interrupts():
                return self._executor.submit(function, *arguments)
        except OSError:  # no pipe for a process that starts while the pool breaks
            if _has_died(self._executor):
                raise BrokenProcessPool from None
            raise

    def _result(self, future: Future[Result]) -> Result:
        self._done([future])
        return future.result()

    def _done(self, futures: Iterable[Future[Result]]) -> set[Future[Result]]:
        """Wait for the first of them, as long as all processes live.

        The pool itself may forget a task, or a process, that came while it broke (CPython 3.11).
        """
        while not (done := wait(futures, LOOK, FIRST_COMPLETED).done):
            if self._executor is None or _has_died(self._executor):
                raise BrokenProcessPool
        return done

    @contextmanager
    def _ending_early(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool:
            self.kill()  # one that was started while the pool broke would wait for ever
            raise WorkerDiedError(
                "a worker process died; out of memory? use fewer workers"
            ) from None
        except BaseException:  # nothing waits for what the workers have begun
            self.kill()
            raise


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for garbage in cycles less often: millions of documents that come and go are in none.

    Else a sixth of the time of what streams them goes into it.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def streamed(function: Callable[..., Iterable[Result]], *arguments: Any) -> Iterator[Result]:
    """What a generator gives, each item made in another process while the one before is used.

    The process ends with the iterator, and with this process.

    Parameters
    ----------
    function : callable
        Returns an iterable; like its arguments and what it gives, it must be picklable.
    *arguments

    Raises
    ------
    WorkerDiedError
        If the process is killed. What the generator raises is raised here.

    Examples
    --------
    >>> list(streamed(range, 3))
    [0, 1, 2]
    """
    process, connection = _PREPARED.pop() if _PREPARED else _started()
    try:
        with suppress(BrokenPipeError):  # of one that died, which is found out below
            connection.send((function, arguments))
        while (message := _received(connection)) is not None:
            yield message[0]
    finally:
        _end(process, connection)


def prepare_streamed(*modules: str) -> None:
    """Start the process of the next :func:`streamed`, which imports what it will need meanwhile.

    Parameters
    ----------
    *modules : str
        Their names.
    """
    if not _PREPARED:
        _PREPARED.append(_started(*modules))


def drop_prepared() -> None:
    """End the process of :func:`prepare_streamed` if it is not used."""
    while _PREPARED:
        _end(*_PREPARED.pop())


_PREPARED: list[tuple[BaseProcess, Connection]] = []


def _started(*modules: str) -> tuple[BaseProcess, Connection]:
    """A process that waits for what it is to do, and the connection to it."""
    context = multiprocessing.get_context("spawn")
    connection, other_end = context.Pipe()
    process = context.Process(target=_serve, args=(other_end, modules), daemon=True)
    with deaf_to_interrupts():
        process.start()
    other_end.close()
    return process, connection


def _end(process: BaseProcess, connection: Connection) -> None:
    process.kill()
    process.join()
    connection.close()


def _serve(connection: Connection, modules: tuple[str, ...]) -> None:
    _end_with_parent()
    for name in modules:
        import_module(name)
    try:
        function, arguments = connection.recv()
    except EOFError:  # nothing is wanted any more
        return
    try:
        for item in function(*arguments):
            connection.send((item,))
        connection.send(None)
    except Exception as error:
        connection.send(error)


def _received(receiver: Connection) -> tuple[Any] | None:
    """An item, or None after the last one."""
    try:
        message = receiver.recv()
    except (EOFError, ConnectionResetError):
        raise WorkerDiedError("a process that reads died; out of memory?") from None
    if isinstance(message, Exception):
        raise message
    return message


def _nothing() -> None:
    """A task for a process that is to start."""


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    _end_with_parent()
    if prepare:
        prepare(*arguments)


def _end_with_parent() -> None:
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


def _has_died(pool: ProcessPoolExecutor) -> bool:
    """Whether a process of the pool has ended, which none does by itself."""
    processes = list((pool._processes or {}).values())
    return bool(pool._broken) or not all(process.is_alive() for process in processes)


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool whatever they are doing; results that are due are lost."""
    if hasattr(pool, "kill_workers"):  # Python 3.14
        pool.kill_workers()
        return
    for process in list((pool._processes or {}).values()):
        process.kill()
        process.join()
    # The pool's own threads hold the other ends of its pipes, so that the one that reads what a
    # worker was in the middle of would never be told.
    with suppress(AttributeError, OSError):
        pool._result_queue._writer.close()  # type: ignore[attr-defined]
    if manager := pool._executor_manager_thread:
        manager.join(1)  # type: ignore[attr-defined]
    # Nor, before Python 3.11.5, the one that writes to the dead (CPython issue 94777).
    with suppress(AttributeError, OSError):
        pool._call_queue._reader.close()  # type: ignore[attr-defined]
    pool.shutdown(cancel_futures=True)
