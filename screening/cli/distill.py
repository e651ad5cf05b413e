"""`screen distill`: what a slow predictor says of many structures, for a fast one to learn."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from screening.cli import options
from screening.cli.invocation import resumable


def distill(
    structures: Annotated[
        Path, typer.Argument(help="Structures without a DFT DOS: a table, a file, or a folder.")
    ],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    teacher: Annotated[
        str, typer.Option(help="Folder of the teacher, or the name of a shipped predictor.")
    ] = "tight-binding-edos",
    max_sites: Annotated[
        int | None, typer.Option(min=1, help="Most atoms in the primitive cell.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Structures to read; all by default.")
    ] = None,
    substituted: Annotated[
        int,
        typer.Option(
            min=0,
            help="Crystals to make of each structure, with elements in the place of others of "
            "their group, and to label, too.",
        ),
    ] = 0,
    recursive: options.Recursive = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Label structures with a slow, good predictor, for `screen train` to teach a fast one.

    Called again, it goes on where it was interrupted.
    """
    from models.predictor import SpectrumPredictor
    from models.spectra.spectrum import EDOS_GRID
    from models.zoo import check_predictor, predictor_folder
    from screening.cli.console import print_json, progress_bars, stderr, stdout
    from screening.cli.fetch import training_set_table
    from screening.sources import open_source
    from screening.training_sets.distillation import distill as distill_all
    from workflows.hardware import worker_processes
    from workflows.progress import reporting_to, steps_of

    check_predictor(predictor_folder(teacher), EDOS_GRID)
    _check_free(out, structures, recursive)
    source = open_source(structures, **({"recursive": True} if recursive else {}))
    again = resumable("the same command goes on from here")
    with (
        again,
        closing(SpectrumPredictor.load(teacher, device)) as predictor,
        progress_bars(quiet) as report,
        reporting_to(report),
    ):
        distilled = distill_all(
            source,
            out,
            predictor,
            max_sites=max_sites,
            limit=limit,
            substituted=substituted,
            workers=workers or worker_processes(),
            progress=steps_of("labelled"),
        )
    if as_json:
        document = asdict(distilled) | {"path": str(distilled.path)}
        print_json(document | {"attribution": source.attribution})
        return
    title = f"Labels of {distilled.teacher}"
    stdout().print(training_set_table(title, distilled, "structures"))
    if source.attribution:
        stderr(quiet).print(source.attribution)


def _check_free(out: Path, structures: Path, recursive: bool) -> None:
    """Refuse before the work what no labels may replace.

    Raises
    ------
    ScreeningError
        If `out` is a folder, or one of the files that are read.
    """
    from screening.errors import ScreeningError

    if out.is_dir():
        raise ScreeningError(f"{out}: this is a folder; name a file in it")
    place = out.resolve()
    folders = place.parents if recursive else (place.parent,)
    if out.exists() and structures.resolve() in (place, *folders):
        raise ScreeningError(f"{out} is among the structures that are read; name another file")
