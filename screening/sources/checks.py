"""Checks of what stands in a document, and errors in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from models.errors import ModelError


def one_line(error: BaseException | str, length: int = 200) -> str:
    """Message of an error in one line, its type if it has none."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    message = " ".join(text.split()) or type(error).__name__
    return message if len(message) <= length else message[: length - 3] + "..."


def number(document: Mapping[str, Any], key: str) -> float | None:
    """Finite number in a document, None if it is missing, null or NaN.

    Raises
    ------
    ModelError
        If it is of another type.
    """
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"{key} is not a number but {value!r:.40}")
    return float(value) if math.isfinite(value) else None


def flag(document: Mapping[str, Any], key: str) -> bool | None:
    """True or false in a document, None if it is missing or null.

    Raises
    ------
    ModelError
        If it is of another type.
    """
    value = document.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{key} is neither true nor false but {value!r:.40}")
    return value
