"""Serve the dashboard."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.serving import BaseWSGIServer, make_server

from db.store import ScreeningStore
from screening.dashboard.app import LOOPBACK, REFRESH, make_app
from screening.errors import ScreeningError


@contextmanager
def served(
    store: ScreeningStore, host: str = LOOPBACK[0], port: int = 8050, refresh: float = REFRESH
) -> Iterator[BaseWSGIServer]:
    """A server that listens; its `serve_forever` answers, in threads.

    Parameters
    ----------
    store : ScreeningStore
        Open for reading only.
    host : str
        Name or address of this machine.
    port : int
        0 for any that is free; the server's `port` says which.
    refresh : float
        Seconds between two looks at the store.

    Raises
    ------
    ScreeningError
        If it cannot listen there.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
    app = make_app(store, refresh, loopback=host in LOOPBACK)
    with _listening(host, port) as listener:
        server = make_server(
            host, listener.getsockname()[1], app.server, threaded=True, fd=listener.fileno()
        )
        try:
            yield server
        finally:
            server.server_close()


def _listening(host: str, port: int) -> socket.socket:
    """Werkzeug itself would print and exit where this raises."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        advice = "name another --port" if number == errno.EADDRINUSE else "check --host and --port"
        reason = getattr(error, "strerror", None) or str(error)
        raise ScreeningError(f"cannot listen on {host}:{port}: {reason}; {advice}") from None
