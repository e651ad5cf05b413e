"""Which materials are interesting: sources, filters, VB-gap criteria, reports and the CLI.

In Python, :func:`screening.predict` is the way in: structures or files in, spectra and verdicts
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from screening.gap import GapCriteria, find_gaps
    from screening.prediction import Prediction, Predictions, predict

__all__ = ["GapCriteria", "Prediction", "Predictions", "find_gaps", "predict"]

_HOMES = {"GapCriteria": "gap", "find_gaps": "gap"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import screening` alone stays fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'prediction')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
