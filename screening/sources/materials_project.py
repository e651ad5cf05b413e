"""The Materials Project."""

from __future__ import annotations

from screening.errors import ScreeningError
from screening.sources.base import Source


def open_materials_project() -> Source:
    """Refuse, in one line."""
    raise ScreeningError(
        "the Materials Project is not available yet: use --source prototypes or a file"
    )
