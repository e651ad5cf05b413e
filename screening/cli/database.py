"""`screen db`: copy a database into another, and bring it to the present schema."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import typer

from screening.cli import options

app = typer.Typer(help="Copy a database into another, or bring it to the present schema.")


@app.command()
def copy(
    source: Annotated[
        str, typer.Argument(help="A file, an archive of `screen export`, or a mongodb:// URI.")
    ],
    target: Annotated[
        str | None, typer.Argument(help="Where to; by default the database of the settings.")
    ] = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy everything from SOURCE to TARGET and check it; again goes on where it stopped.

    Documents of the same key are replaced, but no result by what has none.

    Documents that cannot be read are named and left out, and the command exits with 1.
    """
    from dataclasses import asdict

    from db.copy import copy_store
    from db.open import open_source, open_store
    from screening.cli.console import print_json, progress_bars, stderr, stdout, table
    from screening.cli.stored import existing
    from screening.errors import ScreeningError
    from workflows.progress import reporting_to, steps_of

    steps = cache(steps_of)  # one for each collection
    options.check_folder_of(target or db)

    with open_source(existing(source)) as origin, open_store(target or db) as destination:
        if origin.location == destination.location:
            raise ScreeningError(f"{origin.location}: source and target are the same")
        with progress_bars(quiet) as report, reporting_to(report):
            copied = copy_store(
                origin, destination, lambda name, done: steps(f"Copying {name}")(done, None)
            )
        problems = list(origin.problems)
        where = destination.location
    if as_json:
        print_json([asdict(collection) for collection in copied])
    else:
        rows = [(c.name, c.documents, c.written, c.unreadable, c.checksum[:16]) for c in copied]
        columns = ("collection", "documents", "written", "unreadable", "checksum")
        stdout().print(table(f"In {where}, checked", columns, rows))
    for problem in problems:
        stderr().print(f"left out: {problem}")
    if any(collection.unreadable for collection in copied):
        raise typer.Exit(1)


@app.command()
def migrate(db: options.Db = options.DEFAULT_DB) -> None:
    """Bring the database to the present schema: add the fields and indexes that it lacks."""
    from db.documents import SCHEMA_VERSION
    from db.open import open_store
    from screening.cli.console import stdout
    from screening.cli.stored import existing

    with open_store(existing(db)) as store:  # which adds what an older one lacks
        stdout().print(f"{store.location} has the present schema version {SCHEMA_VERSION}")
