"""Where candidates come from: databases, files, or pymatgen's prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from screening.errors import ScreeningError
from screening.sources.base import Source, mark_known_edos
from screening.sources.optimade import is_optimade

__all__ = ["Source", "is_database", "is_path", "mark_known_edos", "open_source"]


PROTOTYPES = "prototypes"


def is_database(spec: str) -> bool:
    """Whether a source is a database on a server, which filters by itself as far as it can."""
    return spec == "mp" or is_optimade(spec)


def is_path(spec: str) -> bool:
    """Whether a source is a file or a folder."""
    return not is_database(spec) and spec != PROTOTYPES


def open_source(spec: str | Path, **options: Any) -> Source:
    """Open a source of candidates.

    Parameters
    ----------
    spec : str or Path
        ``"mp"`` (the Materials Project), ``"optimade:PROVIDER"`` or ``"optimade:https://..."``
        (a database by OPTIMADE), ``"prototypes"`` (pymatgen's AFLOW prototype library),
        or the path of a file or folder (:func:`screening.sources.files.open_path`).
    **options
        For ``"mp"``: see :func:`screening.sources.materials_project.source.open_materials_project`.
        For OPTIMADE: see :func:`screening.sources.optimade.source.open_optimade`.
        For a path: `recursive`, whether the subfolders of a folder are read, too.

    Raises
    ------
    ScreeningError
        In one line, if there is no such source or it cannot be read.
    """
    if spec == "mp":
        from screening.sources.materials_project.source import open_materials_project

        return open_materials_project(**options)
    if isinstance(spec, str) and is_optimade(spec):
        from screening.sources.optimade.source import open_optimade

        return open_optimade(spec, **options)
    if spec == PROTOTYPES:
        if options:
            raise TypeError(f"source {str(spec)!r} takes no options, not {', '.join(options)}")
        from screening.sources.prototypes import PrototypeSource

        return PrototypeSource()
    from screening.sources.files import open_path
    from screening.sources.ids import printable

    try:
        str(spec).encode()
    except UnicodeEncodeError:
        raise ScreeningError(
            f"{printable(str(spec))}: its name is not UTF-8, and no run can store it; rename it"
        ) from None
    return open_path(Path(spec), **options)
