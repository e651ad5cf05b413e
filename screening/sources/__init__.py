"""Where candidates come from: the Materials Project, files, or pymatgen's prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from screening.sources.base import Source, mark_known_edos

__all__ = ["Source", "mark_known_edos", "open_source"]


def open_source(spec: str | Path, **options: Any) -> Source:
    """Open a source of candidates.

    Parameters
    ----------
    spec : str or Path
        ``"mp"`` (the Materials Project), ``"prototypes"`` (pymatgen's AFLOW prototype library),
        or the path of a file or folder (:func:`screening.sources.files.open_path`).
    **options
        For ``"mp"``: see :func:`screening.sources.materials_project.source.open_materials_project`.
        For a path: `recursive`, whether the subfolders of a folder are read, too.

    Raises
    ------
    ScreeningError
        In one line, if there is no such source or it cannot be read.
    """
    if spec == "mp":
        from screening.sources.materials_project.source import open_materials_project

        return open_materials_project(**options)
    if spec == "prototypes":
        if options:
            raise TypeError(f"source {str(spec)!r} takes no options, not {', '.join(options)}")
        from screening.sources.prototypes import PrototypeSource

        return PrototypeSource()
    from screening.sources.files import open_path

    return open_path(Path(spec), **options)
