"""The DFT engines: a new one is a folder with a :class:`DosMaker` and a line here."""

from __future__ import annotations

from dataclasses import fields
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from screening.errors import ScreeningError
from workflows.dos.errors import DosError
from workflows.settings_files import settings_in_words

if TYPE_CHECKING:
    from workflows.dos.base import DosMaker

ENGINES = {
    "gpaw": "workflows.dos.gpaw.maker:GpawDosMaker",
    "vasp": "workflows.dos.vasp.maker:VaspDosMaker",
}
"""Where the maker of each engine is; it is imported when it is asked for."""


def engine_class(engine: str) -> type[DosMaker]:
    """Class of the makers of an engine.

    Raises
    ------
    ScreeningError
        If there is no such engine, or settings that it is imported with are wrong.
    """
    if engine not in ENGINES:
        raise ScreeningError(f"unknown engine {engine!r}; use {' or '.join(ENGINES)}")
    with settings_in_words():
        maker_class: type[DosMaker] = resolve_name(ENGINES[engine])
    return maker_class


def dos_maker(engine: str, **options: Any) -> DosMaker:
    """Maker of an engine by its name.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    **options
        Fields of its maker.

    Raises
    ------
    ScreeningError
        If there is no such engine, or it has no such option, or not with such a value.

    Examples
    --------
    >>> dos_maker("gpaw", preset="fast").recipe
    'gpaw-pbe-fast-c5de4d12'
    """
    maker_class = engine_class(engine)
    if unknown := options.keys() - {option.name for option in fields(maker_class)}:
        raise ScreeningError(f"{engine} has no option {', '.join(sorted(unknown))}")
    maker = maker_class(**options)
    try:
        _ = maker.recipe  # wrong values show here, before anything is submitted
    except DosError as error:
        raise ScreeningError(f"{engine}: {error}") from None
    return maker
