"""Total electronic DOS by DFT: one document and one interface, two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.dos.gpaw.maker import GpawDosMaker
    from workflows.dos.vasp.maker import VaspDosMaker

ENGINES = ("gpaw", "vasp")


def dos_maker(engine: str, **options: Any) -> GpawDosMaker | VaspDosMaker:
    """Maker of an engine by its name.

    Both makers have ``make(structure, material_id=None)``, which returns a flow whose output is
    a :class:`~workflows.dos.document.DosDocument`, and the attributes ``engine`` and ``recipe``,
    which are known before anything runs. Both modules have ``missing()``, one line for each
    thing that this machine lacks.

    Parameters
    ----------
    engine : {'gpaw', 'vasp'}
    **options
        Fields of the maker.

    Raises
    ------
    DosError
        If there is no such engine.
    """
    from workflows.dos.document import DosError

    if engine == "gpaw":
        from workflows.dos.gpaw.maker import GpawDosMaker

        return GpawDosMaker(**options)
    if engine == "vasp":
        from workflows.dos.vasp.maker import VaspDosMaker

        return VaspDosMaker(**options)
    raise DosError(f"no DOS engine {engine!r}; there are {' and '.join(ENGINES)}")
