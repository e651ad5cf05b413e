"""What this machine has of GPAW; flows are made and submitted without any of it."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from workflows.dos.errors import DosError

INSTALL = "GPAW_CONFIG=$PWD/workflows/dos/gpaw/siteconfig.py pip install gpaw gpaw-data"


def missing() -> list[str]:
    """One line for each thing that this machine lacks to run GPAW; empty if it can."""
    lacking = [name for name in ("gpaw", "gpaw_data") if importlib.util.find_spec(name) is None]
    if lacking:
        return [f"GPAW is not installed ({' and '.join(lacking)}): run {INSTALL}"]
    return []


@cache
def installed() -> str:
    """Versions of GPAW and of its data sets.

    Raises
    ------
    DosError
        If one of them is not installed.
    """
    try:
        return f"{version('gpaw')} (gpaw-data {version('gpaw-data')})"
    except PackageNotFoundError:
        raise DosError(f"GPAW is not installed: run {INSTALL}") from None
