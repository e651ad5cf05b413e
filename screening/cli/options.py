"""Options that several commands have."""

from __future__ import annotations

import functools
import inspect
import math
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
import typer.main
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from screening.user_input import UserInput

DEFAULT_DB = "screening.sqlite"


def _known_to_jobs(db: str) -> str:
    """The same; jobs take a URI from the environment, since their specifications never hold it."""
    from screening.secrets import keep_uri_secret

    if "://" in db:
        keep_uri_secret(db)
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
Refresh = Annotated[bool, typer.Option("--refresh", help="Ask the database again.")]
ROWS = 50  # of a list on the screen
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help=f"Rows at most; {ROWS} on the screen, else all by default."
    ),
]
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
        help="Folder of the predictor, or the name of one that is shipped or was pulled "
        "(`screen models` lists them).",
    ),
]
Rescore = Annotated[
    int | None,
    typer.Option(
        "--rescore",
        help="So many candidates with the best scores are judged again by --rescore-with; 0: none. "
        "Default: 20000 with the default predictor, else 0.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Where predictions run; auto: on a GPU if there is one."),
]
WallTime = Annotated[
    float | None,
    typer.Option(
        "--wall-time",
        min=1,
        help="Limit of each job of GPAW, or run of VASP, s; by default 3600, or 86400.",
    ),
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


def check_folder_of(db: str) -> None:
    """Refuse a path in a folder that does not exist, rather than make what is a slip of the pen.

    Raises
    ------
    ScreeningError
        If the folder is missing, or the path is one.
    """
    from screening.errors import ScreeningError

    path = Path(db).expanduser()
    if "://" in db:
        return
    if not db.strip() or path.is_dir():
        raise ScreeningError(f"--db {db!r} names no file; give a path or a MongoDB URI")
    if not path.parent.is_dir():
        raise ScreeningError(f"--db {db}: there is no folder {path.parent}; make it first")


def check_writable(option: str, path: Path) -> None:
    """Refuse before the work a file that could not be written after it.

    Parameters
    ----------
    option : str
        That named it, such as ``"--out"``.
    path : Path

    Raises
    ------
    ScreeningError
        In one line.
    """
    from screening.errors import ScreeningError

    if path.is_dir():
        raise ScreeningError(f"{option} {path}: this is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ScreeningError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ScreeningError(
            f"{option} {path}: no permission to write in {path.parent}; use another one"
        )


def models_folder(db: str) -> Path:
    """Of what `screen learn` trains: beside an embedded database, here for one on a server."""
    path = Path("screening" if "://" in db else db).expanduser()
    return path.with_name(f"{path.stem}.models").absolute()


@dataclass(frozen=True)
class FieldOptions:
    """The options that set the fields of a model.

    Parameters
    ----------
    where : str
        Module and name of a :class:`screening.user_input.UserInput`. It is imported when its
        command is used: `screen --help` does without pydantic.
    panel : str
        Where the help shows them.
    unset : tuple of str
        Fields whose default the command decides.
    """

    where: str
    panel: str
    unset: tuple[str, ...] = ()

    @property
    def model(self) -> type[UserInput]:
        """Has the names, types, defaults and descriptions."""
        model: type[UserInput] = pkgutil.resolve_name(self.where)
        return model

    def parameters(self) -> list[inspect.Parameter]:
        """Parameters of a command, in the order of the fields."""
        model = self.model
        parameters = []
        for name, field in model.model_fields.items():
            kind, default = self._kind(name, field)
            words = typer.Option(
                model.option(name), help=field.description, rich_help_panel=self.panel
            )
            annotation: Any = Annotated[kind, words]
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
                )
            )
        return parameters

    def take(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of the fields that are set, taken out of those of a command.

        Infinity switches off what can be off.
        """
        taken = {name: values.pop(name) for name in self.model.model_fields}
        return {
            name: None if value == math.inf and self._can_be_off(name) else value
            for name, value in taken.items()
            if value is not None
        }

    def _kind(self, name: str, field: FieldInfo) -> tuple[Any, Any]:
        """Type and default on the command line, which has no sets: they are typed as text."""
        if isinstance(field.default, frozenset):
            return str | None, None
        if name in self.unset:
            return field.annotation | None, None  # type: ignore[operator]
        if field.default is None or not self._can_be_off(name):
            return field.annotation, field.default
        (kind,) = (part for part in get_args(field.annotation) if part is not NoneType)
        return kind, field.default

    def _can_be_off(self, name: str) -> bool:
        return NoneType in get_args(self.model.model_fields[name].annotation)


GAP_CRITERIA = FieldOptions("screening.gap_criteria:GapCriteria", "VB gap")


def typed(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Those options of a command that the user typed; the others have their defaults.

    Parameters
    ----------
    context : typer.Context
        Of the command.
    values : dict
        By the name of the option's parameter.
    """
    sources = {name: context.get_parameter_source(name) for name in values}
    return {
        name: values[name]
        for name, source in sources.items()
        if source and source.name == "COMMANDLINE"
    }


def from_fields(**groups: FieldOptions) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of some models.

    Parameters
    ----------
    **groups : FieldOptions
        By the parameter of the command that takes their values as a dict.

    Returns
    -------
    callable
        Decorator; the decorated function has the class of its command in `command_class`.
    """

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)

        class WithFields(TyperCommand):
            """A command that gets the options of the fields when it is used."""

            is_complete = False

            def get_params(self, ctx: Any) -> list[Any]:
                if not self.is_complete:
                    whole = _with_parameters(self.callback, list(signature.parameters), groups)
                    self.params, self.callback = whole.params, whole.callback
                    self.is_complete = True
                return super().get_params(ctx)

        @functools.wraps(command)
        def with_groups(**values: Any) -> None:
            command(**{name: group.take(values) for name, group in groups.items()}, **values)

        own = [p for name, p in signature.parameters.items() if name not in groups]
        with_groups.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        with_groups.command_class = WithFields  # type: ignore[attr-defined]
        return with_groups

    return with_options


def _with_parameters(callback: Any, names: list[str], groups: dict[str, FieldOptions]) -> Any:
    """Click's command of a callback with the parameters of groups at their places in `names`."""
    own = dict(inspect.signature(callback).parameters)
    parameters = []
    for name in names:
        parameters += groups[name].parameters() if name in groups else [own.pop(name)]

    def command(**values: Any) -> None:
        callback.__wrapped__(**values)

    parameters += own.values()
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    return typer.main.get_command(alone)
