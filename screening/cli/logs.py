"""What a command writes down, and what of it reaches the screen.

Warnings of libraries never reach the screen: they go to the log file, if there is one.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

OURS = ("db", "models", "screening", "workflows")
_PANEL = "Messages"
_LIBRARIES = "py.warnings"

Verbose = Annotated[
    bool, typer.Option("--verbose", rich_help_panel=_PANEL, help="Say what is done, step by step.")
]
Debug = Annotated[
    bool,
    typer.Option("--debug", rich_help_panel=_PANEL, help="Say everything, and show tracebacks."),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log",
        rich_help_panel=_PANEL,
        help="Append what is done to this file. `run` does so by default, in a folder beside the "
        "database. Keys and passwords are never in it.",
    ),
]
OPTIONS = {"verbose": Verbose, "debug": Debug, "log": LogFile}
_DEFAULTS: dict[str, Any] = {"verbose": False, "debug": False, "log": None}

log = logging.getLogger(__name__)
debugging = False


@contextmanager
def session() -> Iterator[None]:
    """Log of one command: handlers, levels and warnings are afterwards as they were before."""
    global debugging
    debugging = False
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    loggers = [logging.getLogger(name) for name in (*OURS, _LIBRARIES)]
    levels = [logger.level for logger in loggers]
    variable = os.environ.get("PYTHONWARNINGS")
    with warnings.catch_warnings():
        if variable is None:  # worker processes read it
            os.environ["PYTHONWARNINGS"] = "ignore"
        if not sys.warnoptions:
            warnings.simplefilter("once")
        logging.captureWarnings(True)
        _show(logging.WARNING)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for handler in set(root.handlers) - set(handlers):
                root.removeHandler(handler)
                handler.close()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if variable is None:
                os.environ.pop("PYTHONWARNINGS", None)


def logged(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options `--verbose`, `--debug` and `--log`."""

    @functools.wraps(command)
    def with_log(**values: Any) -> None:
        global debugging
        _keep_secrets_of_arguments()
        given = {name: values.pop(name) for name in OPTIONS}
        debugging = given["debug"]
        level = logging.DEBUG if debugging else logging.INFO
        for name in OURS:
            logging.getLogger(name).setLevel(level)
        if debugging or given["verbose"]:
            _show(level)
        if given["log"] is not None:
            write_to(given["log"])
        command(**values)

    signature = inspect.signature(command, eval_str=True)
    own = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=OPTIONS[name]
        )
        for name, default in _DEFAULTS.items()
    ]
    parameters = [*signature.parameters.values(), *own]
    with_log.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_log


def _keep_secrets_of_arguments() -> None:
    """The command line is logged: what a URI in it hides must not be."""
    from screening.secrets import keep_uri_secret

    for argument in sys.argv:
        keep_uri_secret(argument)


def write_to(path: Path) -> None:
    """Append the log to a file; the first one that is named counts.

    Raises
    ------
    ScreeningError
        If the file cannot be written.
    """
    from importlib.metadata import version

    from screening.errors import ScreeningError

    root = logging.getLogger()
    if any(isinstance(handler, _LogFile) for handler in root.handlers):
        return
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ScreeningError(f"--log {path}: {error.strerror}") from None
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    command = " ".join(sys.argv).encode(errors="backslashreplace").decode()  # any bytes of a path
    log.info("edos-screening %s: %s", version("edos-screening"), command)


def log_file_of_run(db: str, run_id: str) -> Path:
    """Where the log of a run is: beside the embedded database, or here; its folder is made.

    Parameters
    ----------
    db : str
        Path or URI of the store.
    run_id : str
    """
    beside = Path("screening" if "://" in db else db).expanduser()
    folder = beside.with_suffix(".logs")
    folder.mkdir(exist_ok=True)
    return folder / f"{run_id}.log"


class _Formatter(logging.Formatter):
    """Leaves keys and passwords out, of messages and of tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        from screening.secrets import without_secrets

        return without_secrets(super().format(record))


class _LogFile(logging.FileHandler):
    """The log file of the command, not one of somebody else.

    On a full disk it goes without some lines: the command says in its own line what it lacks.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Print a traceback of what went wrong, but for a disk that takes no more."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, the last lines of which may not be kept."""
        with suppress(OSError):
            super().close()


class _ScreenHandler(logging.Handler):
    """Prints on what is stderr now: a progress bar may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        # A traceback is shown where the command ends, once.
        if record.name != _LIBRARIES and not record.exc_info:
            print(self.format(record), file=sys.stderr)


def _show(level: int) -> None:
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, _ScreenHandler):
            handler.setLevel(level)
            return
    handler = _ScreenHandler(level)
    handler.setFormatter(_Formatter("%(message)s"))
    root.addHandler(handler)
