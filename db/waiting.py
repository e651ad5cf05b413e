"""Tell the user that a database keeps an operation waiting."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

TELL_AFTER = 2.0  # s
TELL_AGAIN = 60.0  # s
_LOOK_EVERY = 0.25  # s
_IDLE = 5.0  # s without an operation after which the thread ends

log = logging.getLogger(__name__)


class Watch:
    """Context of an operation; a warning is logged when it takes long.

    One thread watches all operations of a store: to start one for each would take a tenth as
    long as reading a document.

    Parameters
    ----------
    name : str
        Of the database, without a password.

    Examples
    --------
    >>> watch = Watch("mongodb://db.example.org")
    >>> with watch:
    ...     pass  # ask the database
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: dict[int, float] = {}
        self._told = float("-inf")
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._since.setdefault(threading.get_ident(), time.monotonic())
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._since.pop(threading.get_ident(), None)

    def _look(self) -> None:
        busy = time.monotonic()
        while (now := time.monotonic()) - busy < _IDLE:
            oldest = min(list(self._since.values()), default=None)
            if oldest is not None:
                busy = now
                if now - oldest > TELL_AFTER and now - self._told > TELL_AGAIN:
                    self._told = now
                    log.warning("%s does not answer yet; waiting for it", self._name)
            time.sleep(_LOOK_EVERY)
