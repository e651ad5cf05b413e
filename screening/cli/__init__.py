"""The command line; `main` is the console script ``screen``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run a command; whatever goes wrong ends in one line on stderr and a non-zero exit."""
    # GPAW and the workers want one thread each; a user's own setting stays.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from screening.cli.app import app

    try:
        app(prog_name="screen", standalone_mode=True)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_for_the_user(error):
            raise
        _end(_in_one_line(error), 1)


def _is_for_the_user(error: Exception) -> bool:
    """Whether the error is one of ours, or of the machine: no space, no permission."""
    from db.errors import StoreError
    from models.errors import ModelError
    from screening.errors import ScreeningError

    return isinstance(error, (ScreeningError, ModelError, StoreError, OSError))


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _end(message: str, code: int) -> None:
    print(f"screen: {message}", file=sys.stderr)
    sys.exit(code)
