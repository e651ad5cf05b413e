"""`screen figures`: a run's figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from screening.cli import options


def figures(
    run: options.RunId = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for them; made if it is missing.")
    ] = Path("figures"),
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Draw the figures of a paper with a run's data, as PDF and PNG, with their captions.

    In the manner of Figs. 2, 3, 5 and 6 of Kong et al. (2022): how good the model is on materials
    that it has not learned from, and examples of these; examples of what DFT calculated of the
    run; what the run found. What a figure has no data for is named; if none could be drawn the
    exit status is 1.
    """
    from db.open import open_store
    from screening.cli.console import print_json, stderr, stdout
    from screening.cli.stored import existing, find_run
    from screening.report.paper_figures import write_figures
    from workflows.paper import paper_data

    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        data = paper_data(store, stored)
    written = write_figures(data, out)
    if as_json:
        print_json(
            {
                "run_id": stored.run_id,
                "files": list(map(str, written.files)),
                "left_out": written.left_out,
            }
        )
    else:
        for path in written.files:
            stdout().print(str(path), highlight=False, soft_wrap=True)
        for number, reason in written.left_out.items():
            stderr().print(f"no figure {number}: {reason}", soft_wrap=True)
    if not written.files:
        raise typer.Exit(1)
