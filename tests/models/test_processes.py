"""Worker processes that are killed whatever they are doing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from models.errors import ModelError
from models.processes import (
    AHEAD,
    WorkerDiedError,
    WorkerPool,
    deaf_to_interrupts,
    drop_prepared,
    kill_workers,
    prepare_streamed,
    streamed,
)

Living = Callable[[], list[BaseProcess]]


def use_flag(flag: Any) -> None:
    global half_sent
    half_sent = flag


def send_half_a_result() -> None:
    """Say that 1000 bytes follow, as a worker does, and send none of them."""
    queue = sys._getframe(1).f_locals["result_queue"]
    queue._writer._send(struct.pack("!i", 1000))
    half_sent.set()
    time.sleep(300)


def test_pool_ends_in_the_middle_of_a_result() -> None:
    context = multiprocessing.get_context("spawn")
    flag = context.Event()
    pool = ProcessPoolExecutor(1, context, initializer=use_flag, initargs=(flag,))
    pool.submit(send_half_a_result)
    assert flag.wait(300)
    killer = threading.Thread(target=kill_workers, args=(pool,), daemon=True)
    killer.start()
    killer.join(50)
    assert not killer.is_alive()


@pytest.fixture
def own_handler() -> Iterator[None]:
    """Python's own handler, whatever pytest's plugins have put in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("own_handler")
def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    """Also where a thread that does not block it is there to take it."""
    other = threading.Thread(target=time.sleep, args=(2,), daemon=True)
    other.start()
    steps = []

    def block() -> None:
        with deaf_to_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            steps.append("end of the block")
        steps.append("behind it")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["end of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def fail_at_three(n: int) -> int:
    if n == 3:
        raise ValueError("three")
    if n > 3:
        time.sleep(300)
    return n


@pytest.fixture
def living() -> Living:
    """Child processes of the test that run; predictors that other tests have left have theirs."""
    drop_prepared()
    others = set(multiprocessing.active_children())

    def find() -> list[BaseProcess]:
        own = [p for p in multiprocessing.active_children() if p not in others]
        return [p for p in own if Path(f"/proc/{p.pid}").exists()]  # whoever was told of its end

    return find


@pytest.mark.slow
def test_an_error_of_a_task_waits_for_no_other_and_the_pool_starts_anew(living: Living) -> None:
    began = time.monotonic()
    with WorkerPool(2) as pool:
        with pytest.raises(ValueError, match="three"):
            list(pool.in_order(fail_at_three, range(6)))
        assert not living()
        assert sorted(pool.as_done(fail_at_three, [2, 1, 0])) == [(0, 0), (1, 1), (2, 2)]
    assert not living()
    assert time.monotonic() - began < 150


def count_or_fail(n: int, how: str) -> Iterator[int]:
    yield from range(n)
    if how == "error":
        raise ModelError("not a number")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_processes_that_died_while_idle_are_replaced() -> None:
    with WorkerPool(1) as pool:
        (before,) = pool.in_order(process_id, [0])
        os.kill(before, signal.SIGKILL)
        while before in {child.pid for child in multiprocessing.active_children()}:
            time.sleep(0.01)
        (after,) = pool.in_order(process_id, [0])
        assert after != before
        assert [n for _, n in pool.as_done(process_id, [0])] == [after]


@pytest.mark.slow
def test_a_process_that_starts_while_the_pool_breaks_is_not_waited_for(
    living: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for a lock that the killed one holds, and CPython 3.11 for its end."""
    with WorkerPool(2) as pool:
        (first,) = pool.in_order(process_id, [0])
        spawn = ProcessPoolExecutor._spawn_process  # type: ignore[attr-defined]

        def spawn_late(executor: ProcessPoolExecutor) -> None:
            os.kill(first, signal.SIGKILL)
            deadline = time.monotonic() + 1
            while not executor._broken and time.monotonic() < deadline:
                time.sleep(0.001)
            spawn(executor)

        monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", spawn_late)
        with pytest.raises(WorkerDiedError):
            list(pool.in_order(process_id, range(8)))
        assert not living()
        monkeypatch.undo()
        assert first not in pool.in_order(process_id, [0])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in_order", "as_done"])
def test_a_task_that_a_breaking_pool_forgets_is_not_waited_for(how: str) -> None:
    with WorkerPool(1) as pool:
        (worker,) = pool.in_order(process_id, [0])

        def forget(*_: Any) -> Future[int]:
            os.kill(worker, signal.SIGKILL)
            return Future()

        pool._executor.submit = forget  # type: ignore[method-assign, union-attr]
        with pytest.raises(WorkerDiedError):
            list(getattr(pool, how)(process_id, [0]))


def process_id(_: int) -> int:
    return os.getpid()


@pytest.mark.slow
def test_a_stream_ends_as_its_generator_does() -> None:
    assert list(streamed(count_or_fail, 3, "well")) == [0, 1, 2]
    items = streamed(count_or_fail, 2, "error")
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ModelError, match="not a number"):
        next(items)
    with pytest.raises(WorkerDiedError):
        list(streamed(count_or_fail, 1, "killed"))


def test_a_stream_that_is_left_early_leaves_no_process(living: Living) -> None:
    items = streamed(count_or_fail, 1000, "well")
    assert next(items) == 0
    assert living()
    items.close()  # type: ignore[attr-defined]
    assert not living()


def test_a_prepared_process_makes_the_next_stream(living: Living) -> None:
    prepare_streamed("models.spectra.metrics")
    prepare_streamed()  # there is one
    (waiting,) = living()
    assert list(streamed(pid_and_modules)) == [waiting.pid, True]
    assert not living()
    assert list(streamed(pid_and_modules))[1] is False


def test_a_prepared_process_that_is_not_needed_ends(living: Living) -> None:
    prepare_streamed()
    drop_prepared()
    assert not living()


def test_a_prepared_process_that_died(living: Living) -> None:
    prepare_streamed()
    (waiting,) = living()
    waiting.kill()
    waiting.join()
    with pytest.raises(WorkerDiedError):
        list(streamed(range, 3))


def pid_and_modules() -> Iterator[Any]:
    yield os.getpid()
    yield "models.spectra.metrics" in sys.modules


def test_no_more_tasks_are_taken_than_wait() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for i in range(-50, 0):
            taken.append(i)
            yield i

    with WorkerPool(1) as pool:
        results = pool.in_order(abs, tasks())
        assert next(results) == 50
        assert len(taken) <= AHEAD
        assert list(results) == list(range(49, 0, -1))
