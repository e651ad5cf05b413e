"""What a summary document of the Materials Project says, in its several spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORDERINGS = {"NM": False, "FM": True, "AFM": True, "FiM": True}


def has_dos(props: Any) -> bool | None:
    """Of ``has_props``: a dict of flags, a list of names in older documents."""
    if isinstance(props, dict):
        return bool(props.get("dos", False))
    return "dos" in props if isinstance(props, list) else None


def magnetic_by_ordering(document: Mapping[str, Any]) -> bool | None:
    """By the magnetic ordering, None if that is not known."""
    ordering = document.get("ordering")
    return ORDERINGS.get(ordering) if isinstance(ordering, str) else None


def time_of(value: Any) -> str | None:
    """ISO time, which MongoDB and monty wrap in a dict."""
    if isinstance(value, dict):
        value = value.get("$date", value.get("string"))
    return value if isinstance(value, str) else None
