"""Files that jobflow, FireWorks and atomate2 read when they are imported, and may then refuse."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from screening.errors import ScreeningError


def _of_atomate2() -> str:
    file = os.environ.get("ATOMATE2_CONFIG_FILE", "~/.atomate2.yaml")
    return f"atomate2 refuses {file} or an ATOMATE2_ variable of the environment"


def _of_jobflow() -> str:
    file = os.environ.get("JOBFLOW_CONFIG_FILE", "~/.jobflow.yaml")
    return f"jobflow refuses {file} or a JOBFLOW_ variable of the environment"


def _of_fireworks() -> str:
    places = [Path(), Path.home() / ".fireworks"]
    files = [str(place / "FW_config.yaml") for place in places]
    file = next(filter(os.path.exists, files), os.environ.get("FW_CONFIG_FILE", files[-1]))
    return f"FireWorks refuses {file}"


# By the module that reads the file.
_REFUSALS: dict[str, Callable[[], str]] = {
    "atomate2": _of_atomate2,
    "jobflow": _of_jobflow,
    "fireworks.fw_config": _of_fireworks,
}


@contextmanager
def settings_in_words() -> Iterator[None]:
    """Tell in one line which settings file an import in the block failed at.

    Raises
    ------
    ScreeningError
        In the place of what the import raised.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if refusal := _refusal(error):
            raise ScreeningError(
                f"{refusal} ({_reason(error)}): correct the line or take it out"
            ) from None  # the error itself may hold a password of the file
        raise


def _refusal(error: Exception) -> str | None:
    """Who refuses which file; None if the error is another one."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    imports = [f.f_globals["__name__"] for f in frames if f.f_code.co_name == "<module>"]
    refusal = _REFUSALS.get(imports[-1]) if imports else None
    return refusal() if refusal else None


def _reason(error: Exception) -> str:
    """What is wrong, without anything of the file but names: it may hold passwords."""
    from pydantic import ValidationError

    from models.errors import describe

    mark = getattr(error, "problem_mark", None)  # of YAML
    if mark is not None:
        return f"line {mark.line + 1} is no YAML: {type(error).__name__}"
    if isinstance(error, ValidationError):
        return describe(error)
    if isinstance(error, LookupError):  # its message is nothing but what was looked up
        return f"{type(error).__name__} {error}"
    unknown = re.search(r"unknown parameter: (\w+)", str(error))  # FireWorks' words
    return unknown.group() if unknown else type(error).__name__
