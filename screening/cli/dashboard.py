"""`screen dashboard`: runs and materials live in a browser."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from screening.cli import options

HOST, PORT = "127.0.0.1", 8050
_LOOPBACK = (HOST, "localhost")


def dashboard(
    db: options.Db = options.DEFAULT_DB,
    host: Annotated[
        str, typer.Option(help="Where to listen; any other needs --allow-others.")
    ] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = PORT,
    allow_others: Annotated[
        bool,
        typer.Option(
            "--allow-others", help="With another --host: whoever reaches it may read, unasked."
        ),
    ] = False,
) -> None:
    """Show runs and materials in a browser, live, until Ctrl-C; nothing is written."""
    from db.open import open_store
    from screening.cli.stored import existing
    from screening.errors import ScreeningError

    is_local = host in _LOOPBACK
    if not is_local and not allow_others:
        raise ScreeningError(
            f"--host {host}: the dashboard has no login, and whoever reaches it can read all of "
            "the database; if they may, add --allow-others"
        )
    try:
        from screening.dashboard.server import served
    except ModuleNotFoundError as error:
        if error.name not in ("dash", "dash_ag_grid", "flask", "werkzeug"):
            raise
        raise ScreeningError(
            "screen dashboard needs Dash: pip install 'edos-screening[dashboard]'"
        ) from None
    with open_store(existing(db), read_only=True) as store, served(store, host, port) as server:
        if not is_local:
            print(
                f"Warning: whoever reaches {host}:{server.port} can read all of {store.location}: "
                "there is no login.",
                file=sys.stderr,
            )
        name = f"[{host}]" if ":" in host else host
        print(f"{store.location} at http://{name}:{server.port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
