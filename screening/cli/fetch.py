"""`screen fetch`: training sets from the Materials Project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options
from screening.cli.invocation import resumable

if TYPE_CHECKING:
    from screening.training_sets.distillation import DistillReport
    from screening.training_sets.training_set import FetchReport

app = typer.Typer(help="Fetch structures and spectra of the Materials Project to train on.")
REASONS = 12  # lines of what was left out
OutFile = Annotated[Path, typer.Argument(help="Parquet file to write.")]


@app.command()
def edos(
    out: OutFile,
    mp_api_key_file: options.MpApiKeyFile = None,
    refresh: options.Refresh = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch the eDOS of all nonmagnetic materials; called again, it goes on where it stopped."""
    from screening.training_sets.edos import fetch_edos

    _fetch(fetch_edos, out, mp_api_key_file, refresh, as_json, quiet)


@app.command()
def phdos(
    out: OutFile,
    method: Annotated[
        Literal["dfpt", "pheasy"], typer.Option(help="How the phonons were calculated.")
    ] = "dfpt",
    mp_api_key_file: options.MpApiKeyFile = None,
    refresh: options.Refresh = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch the phonon DOS of all materials; called again, it goes on where it stopped."""
    from screening.training_sets.phonons import fetch_phdos

    _fetch(fetch_phdos, out, mp_api_key_file, refresh, as_json, quiet, method=method)


def _fetch(
    fetch: Callable[..., FetchReport],
    out: Path,
    key_file: Path | None,
    refresh: bool,
    as_json: bool,
    quiet: bool,
    **more: Any,
) -> None:
    from screening.cli.console import print_json, progress_bars, stderr, stdout
    from screening.sources.materials_project.client import ATTRIBUTION
    from workflows.progress import reporting_to, steps_of

    again = resumable("the same command goes on from here")
    with again, progress_bars(quiet) as report, reporting_to(report):
        fetched = fetch(
            out,
            api_key_file=key_file,
            refresh=refresh,
            materials_progress=steps_of("fetched"),
            progress=steps_of("spectra"),
            **more,
        )
    if as_json:
        print_json(_document(fetched, ATTRIBUTION))
        return
    title = f"Materials Project {fetched.database_version}"
    stdout().print(training_set_table(title, fetched, "materials"))
    stderr(quiet).print(ATTRIBUTION)


def _document(fetched: FetchReport, attribution: str) -> dict[str, Any]:
    return {
        "path": str(fetched.path),
        "written": fetched.written,
        "left_out": fetched.left_out,
        "database_version": fetched.database_version,
        "table_version": fetched.table_version,
        "attribution": attribution,
    }


def training_set_table(title: str, report: FetchReport | DistillReport, of: str) -> Any:
    """What became of the materials that a training set was made of.

    Parameters
    ----------
    title : str
    report : FetchReport or DistillReport
    of : str
        What is counted, such as ``"materials"``.
    """
    from screening.cli.console import table

    reasons = sorted(report.left_out.items(), key=lambda reason: -reason[1])
    rows = [(f"written to {report.path}", report.written)]
    rows += [(f"left out: {reason}", n) for reason, n in reasons[:REASONS]]
    if rest := reasons[REASONS:]:
        rows.append((f"left out: {len(rest)} rarer reasons, see --json", sum(n for _, n in rest)))
    return table(title, ("what became of them", of), rows)
