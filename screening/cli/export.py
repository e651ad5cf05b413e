"""`screen export`: a run for another group, or for the Materials Project's contributions."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import Run
    from db.store import ScreeningStore

PROJECT = "edos-screening"


def export(
    run: options.RunId = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The archive, a .zip; RUN.zip by default."),
    ] = None,
    raw_dos: Annotated[
        bool, typer.Option("--raw-dos/--no-raw-dos", help="Also the DOS as DFT calculated them.")
    ] = True,
    mpcontribs: Annotated[
        Path | None,
        typer.Option(help="Write contributions for MPContribs to this .json.gz file instead."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Name of the project at MPContribs, for --mpcontribs.")
    ] = PROJECT,
    all_: Annotated[
        bool,
        typer.Option("--all", help="With --mpcontribs: what was judged negative, too."),
    ] = False,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a run into one file that another group opens with `screen db copy`.

    A zip of parquet tables (the run, its candidates with their structures, predictions, DFT) with
    their JSON schema, a README, a citation file and the cards of the models. Folders and passwords
    are left out of it. --mpcontribs writes what the client of MPContribs takes; nothing is sent.
    """
    from db.open import open_store
    from screening.cli.stored import existing, find_run
    from screening.errors import ScreeningError

    if mpcontribs is not None and out is not None:
        raise ScreeningError("--out is for the archive; --mpcontribs names a file of its own")
    if mpcontribs is not None and not raw_dos:
        raise ScreeningError("--no-raw-dos is for the archive; contributions have no raw DOS")
    if mpcontribs is None and (all_ or project != PROJECT):
        raise ScreeningError(f"{'--all' if all_ else '--project'} is for --mpcontribs")
    if out is not None and out.suffix.lower() != ".zip":
        raise ScreeningError(f"--out {out}: the archive is a zip file; let its name end in .zip")
    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        if mpcontribs is not None:
            _contribute(store, stored, project, mpcontribs, not all_, as_json, quiet)
            return
        _archive(store, stored, out or Path(f"{stored.run_id}.zip"), raw_dos, as_json, quiet)


def _archive(
    store: ScreeningStore, run: Run, path: Path, raw_dos: bool, as_json: bool, quiet: bool
) -> None:
    from screening.cli.console import print_json, progress_bars, stderr, stdout
    from workflows.export import export_run
    from workflows.progress import reporting_to, steps_of

    steps = cache(steps_of)  # one for each collection
    with progress_bars(quiet) as report, reporting_to(report):
        manifest = export_run(
            store,
            run,
            path,
            with_raw_dos=raw_dos,
            progress=lambda name, done: steps(f"Writing {name}")(done, None),
        )
    if as_json:
        print_json({"path": str(path)} | manifest.model_dump())
        return
    counts = {
        name.removesuffix(".parquet"): member.documents
        for name, member in manifest.members.items()
        if member.documents
    }
    words = ", ".join(f"{number} {name}" for name, number in counts.items())
    stdout().print(f"{path}: {words}; {path.stat().st_size / 1e6:.1f} MB", highlight=False)
    if manifest.without_folders:
        places = ", ".join(manifest.without_folders)
        stderr().print(f"left out of texts: folders and passwords, in {places}")
    for text in manifest.attributions:
        stderr().print(text)


def _contribute(
    store: ScreeningStore,
    run: Run,
    project: str,
    path: Path,
    positives_only: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from dataclasses import asdict

    from screening.cli.console import print_json, stderr, stdout
    from screening.sources.materials_project.client import ATTRIBUTION
    from workflows.mpcontribs import write_contributions

    contributed = write_contributions(store, run, project, path, positives_only=positives_only)
    if as_json:
        print_json({"path": str(path)} | asdict(contributed))
    else:
        stdout().print(f"{path}: {contributed.written} contributions", highlight=False)
    remarks = stderr(quiet)
    if contributed.without_id:
        remarks.print(
            f"{contributed.without_id} others have no id of the Materials Project (mp-...)"
        )
    if contributed.without_prediction:
        remarks.print(f"{contributed.without_prediction} others have no prediction")
    stderr().print(ATTRIBUTION)
