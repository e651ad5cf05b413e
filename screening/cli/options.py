"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_DB = "screening.sqlite"


def _known_to_jobs(db: str) -> str:
    """The same; jobs take a URI from the environment, since their specifications never hold it."""
    if "://" in db:
        os.environ["SCREEN_DB"] = db
    return db


Db = Annotated[
    str,
    typer.Option(
        "--db",
        callback=_known_to_jobs,
        show_default=DEFAULT_DB,  # and never a URI of the environment
        help="Where candidates and predictions are kept: a file, or a mongodb:// URI. "
        "Else from SCREEN_DB or screen.yaml.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "--csv", help="Write all columns to this file: .csv, .json or .parquet."),
]
MpApiKeyFile = Annotated[
    Path | None, typer.Option("--mp-api-key-file", help="File with the Materials Project key.")
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Ask the Materials Project again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide", help="All columns, however long the lines, as a file or a pipe has them anyway."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]
RunId = Annotated[
    str | None, typer.Option("--run", help="Id of a run, or how it begins; the newest by default.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Folder of the predictor, or the name of a shipped one (`screen doctor` lists them).",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Where predictions run; auto: on a GPU if there is one."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes; one for each core by default, at most 8."),
]

Where = Annotated[
    Literal["local", "launchpad"],
    typer.Option("--where", help="On this machine, or on FireWorks' launchpad."),
]
LaunchPadFile = Annotated[Path, typer.Option("--launchpad", help="FireWorks' launchpad file.")]
DEFAULT_LAUNCHPAD = Path("launchpad.yaml")

_GAP = "VB gap"
MaxDos = Annotated[
    float,
    typer.Option("--max-dos", rich_help_panel=_GAP, help="Largest DOS in the gap, states/eV/cell."),
]
MinWidth = Annotated[
    float, typer.Option("--min-width", rich_help_panel=_GAP, help="Smallest width of the gap, eV.")
]
MinUpperEdge = Annotated[
    float,
    typer.Option(
        "--min-upper-edge", rich_help_panel=_GAP, help="Lowest upper edge, eV from the VBM."
    ),
]
MaxUpperEdge = Annotated[
    float,
    typer.Option(
        "--max-upper-edge", rich_help_panel=_GAP, help="Highest upper edge, eV from the VBM."
    ),
]
PerAtom = Annotated[
    bool,
    typer.Option(
        "--per-atom/--per-cell", rich_help_panel=_GAP, help="What the DOS threshold is for."
    ),
]
SingleGap = Annotated[
    bool,
    typer.Option(
        "--single-gap/--no-single-gap",
        rich_help_panel=_GAP,
        help="No second range of that width, however deep below the VBM.",
    ),
]
Band = Annotated[
    Literal["valence", "conduction"],
    typer.Option("--band", rich_help_panel=_GAP, help="Below the VBM, or above the CBM."),
]

Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Read the subfolders of a folder, too.")
]

KeepCell = Annotated[
    bool,
    typer.Option(
        "--keep-cell",
        help="Judge each structure in the cell as given, not in its primitive cell: "
        "a DOS per cell grows with it.",
    ),
]


def default_workers() -> int:
    """One process for each core, but each takes more than half a GB of memory."""
    return min(os.cpu_count() or 1, 8)


def check_folder_of(db: str) -> None:
    """Refuse a path in a folder that does not exist, rather than make what is a slip of the pen.

    Raises
    ------
    ScreeningError
        If the folder is missing.
    """
    from screening.errors import ScreeningError

    folder = Path(db).expanduser().parent
    if "://" not in db and not folder.is_dir():
        raise ScreeningError(f"--db {db}: there is no folder {folder}; make it first")
