"""`screen report`: a page to look at, and to send to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from screening.cli import options

ENDINGS = (".html", ".htm")


def report(
    run: options.RunId = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page to write; another one there is replaced.")
    ] = Path("report.html"),
    positives: Annotated[
        int, typer.Option(min=1, help="Positives to show one by one, the best ones.")
    ] = 500,
    near_misses: Annotated[
        int, typer.Option(min=0, help="Negatives with the best scores to show, too.")
    ] = 50,
    workers: options.Workers = None,
    db: options.Db = options.DEFAULT_DB,
    quiet: options.Quiet = False,
) -> None:
    """Write one page of a run, with all charts and structures in it, for any browser."""
    from importlib.metadata import version

    from db.documents import utc_now
    from db.open import open_store
    from models.writing import write_whole
    from screening.cli.console import progress_bars, stdout
    from screening.cli.stored import existing, find_run
    from screening.report.page import render_report
    from workflows.hardware import worker_processes
    from workflows.progress import advance, reporting_to
    from workflows.reporting import view_run

    _check_writable(out)
    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        with progress_bars(quiet) as shown, reporting_to(shown):
            view = view_run(
                store,
                stored,
                n_positives=positives,
                n_near_misses=near_misses,
                workers=workers or worker_processes(),
            )
            n = len(view.materials)
            page = render_report(
                view, utc_now(), version("edos-screening"), lambda done: advance("drawn", done, n)
            )
    write_whole(out, page)
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    words = f"{_number(view.n_positive, 'positive')}, {_number(n, 'material')}, {size}"
    stdout().print(f"{out}: run {stored.run_id}, {words}; open it in a browser", highlight=False)


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _check_writable(path: Path) -> None:
    """Refuse before the work what could not be written after it.

    Raises
    ------
    ScreeningError
        In one line.
    """
    from screening.errors import ScreeningError

    if path.suffix.lower() not in ENDINGS:
        raise ScreeningError(f"-o {path}: the report is a page; let its name end in .html")
    options.check_writable("-o", path)
