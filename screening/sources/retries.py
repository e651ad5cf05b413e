"""Another try after a pause, for what a network or a server refuses now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

FIRST_PAUSE = 2.0  # s, doubled after every failed attempt

T = TypeVar("T")


def patiently(
    call: Callable[[], T],
    is_passing: Callable[[BaseException], bool],
    attempts: int,
    sleep: Callable[[float], None],
) -> T:
    """Call until it succeeds, fails for good, or has been tried enough; its last error is raised.

    Parameters
    ----------
    call : callable
    is_passing : callable
        Whether another attempt may end otherwise than with this error.
    attempts : int
        In all.
    sleep : callable
        Waits for a number of seconds.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(FIRST_PAUSE),
        sleep=sleep,
        reraise=True,
    )
    return retrying(call)
