"""How the program was called, and how a command that was interrupted can go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("screen", "edos")


class InterruptionError(Exception):
    """Ctrl-C in a command that can say how to go on."""


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Say how to go on after a Ctrl-C in the block."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptionError(how) from None


def program() -> str:
    """Name by which the user called the program."""
    name = Path(sys.argv[0]).name
    return name if name in NAMES else NAMES[0]
