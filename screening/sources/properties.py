"""Properties of a material in a document, checked."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from models.errors import ModelError

HULLS = ("energy_above_hull", "e_above_hull")
BAND_GAPS = ("band_gap", "gap pbe")
"""Names of a property in files, the first one first."""


def number(document: Mapping[str, Any], key: str) -> float | None:
    """Number in a document, None if it is missing, null or NaN.

    Parameters
    ----------
    document : mapping
    key : str

    Raises
    ------
    ModelError
        If it is of another type, or infinite: unknown, it would pass the filters.
    """
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"{key} is not a number but {value!r:.40}")
    if abs(value) > sys.float_info.max:
        raise ModelError(f"{key} is not finite but {value!r:.40}")
    return None if math.isnan(value) else float(value)


def flag(document: Mapping[str, Any], key: str) -> bool | None:
    """True or false in a document, None if it is missing or null.

    Parameters
    ----------
    document : mapping
    key : str

    Raises
    ------
    ModelError
        If it is of another type.
    """
    value = document.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{key} is neither true nor false but {value!r:.40}")
    return value
