"""The command line; `script` is the console script ``screen``, and ``edos`` as well."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from screening.cli.invocation import InterruptionError, program

# On top of all packages: of `screening`, the command line alone may import `workflows`.

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_MEANWHILE = 0.05  # s, until a Ctrl-C that was lost comes again


def script() -> None:
    """Run a command as a program of its own."""
    status: list[int] = []

    def leave() -> None:
        if status:  # without the seconds in which the interpreter takes torch apart
            os._exit(status[0])

    atexit.register(leave)  # registered first, called last
    try:
        main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stdout.flush()
            status.append(INTERRUPTED)
        raise


def main() -> None:
    """Run a command; whatever goes wrong ends in one line on stderr and a non-zero exit."""
    # GPAW and the workers want one thread each; a user's own setting stays.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ≥ shows ? for it
    try:
        from screening.cli import logs

        with _no_interrupt_lost(), logs.session():
            _run()
    except KeyboardInterrupt:  # before the command began, or while it ended
        _end("interrupted", INTERRUPTED)


@contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """A Ctrl-C that falls into a callback of the interpreter, which ignores it, comes again."""
    ignore = sys.unraisablehook

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            # `_thread.interrupt_main` would not end a wait of the operating system.
            main = threading.main_thread().ident
            timer = threading.Timer(_MEANWHILE, signal.pthread_kill, (main, signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            ignore(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = ignore


def _run() -> None:
    """Run a command, and turn its errors into a line and an exit status."""
    from screening.cli.app import app
    from workflows.settings_files import settings_in_words

    try:
        with settings_in_words():
            status = app(prog_name=program(), standalone_mode=False)
    except InterruptionError as interruption:
        _end(f"interrupted; {interruption}", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if _is_abort(error):  # Ctrl-C or the end of the input at a question
            if isinstance(error.__cause__, EOFError):  # elsewhere: Typer takes it for an answer
                _log(error.__cause__)
                raise error.__cause__ from None
            _end("interrupted", INTERRUPTED)
        if _is_usage(error):
            _end_of_usage(error)
        _log(error)
        if not _is_for_the_user(error):
            raise
        _end(_in_one_line(error), 1)
    if status == INTERRUPTED:  # what Typer makes of Ctrl-C
        _end("interrupted", INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _is_abort(error: Exception) -> bool:
    import typer

    return isinstance(error, typer.Abort)


def _is_usage(error: Exception) -> bool:
    """Whether the command was typed wrongly; these exceptions are Click's, or Typer's copy."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _end_of_usage(error: Exception) -> NoReturn:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else program()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())  # type: ignore[attr-defined]
        sys.exit(2)
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    message = message.replace("Value error, ", "").rstrip(".")
    _end(f"{message[:1].lower()}{message[1:]} (`{command} --help` has the options)", 2)


def _is_for_the_user(error: Exception) -> bool:
    """Whether the error is one of ours, or of the machine: no space, no permission."""
    from db.errors import StoreError
    from models.errors import ModelError
    from screening.errors import ScreeningError

    return isinstance(error, (ScreeningError, ModelError, StoreError, OSError))


def _log(error: Exception) -> None:
    """Write an error into the log; with `--debug` its traceback is shown as well."""
    from screening.cli import logs

    logs.log.error("%s", _in_one_line(error), exc_info=error)
    if logs.debugging and _is_for_the_user(error):
        import traceback

        from screening.secrets import without_secrets

        print(without_secrets("".join(traceback.format_exception(error))), file=sys.stderr, end="")


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _end(message: str, code: int) -> NoReturn:
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing left to stop
    print(f"{program()}: {message}", file=sys.stderr)
    sys.exit(code)
