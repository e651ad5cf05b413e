"""Structures as a caller gives them in Python: in memory, as paths, or as lists of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from models.crystal import Crystal
from models.errors import ModelError
from screening.candidate import Candidate, SourceItem, Unreadable
from screening.errors import ScreeningError
from screening.sources.periodic import periodic_in

ALONE = "structure"  # id of the only structure, if it comes from no file


@dataclass(frozen=True)
class Given:
    """The structures to predict.

    Parameters
    ----------
    items : list of Candidate or Unreadable
    notes : tuple of str
        What their sources say.
    is_one : bool
        It is one, given as such.
    """

    items: list[SourceItem]
    notes: tuple[str, ...] = ()
    is_one: bool = False


def read_given(what: Any, recursive: bool = False) -> Given:
    """Structures in memory, in files, or a list of both.

    Parameters
    ----------
    what : Structure, Atoms, Crystal, path, or an iterable of these
    recursive : bool
        Whether the subfolders of a folder are read, too.

    Raises
    ------
    ScreeningError
        If it is something else.
    """
    if _is_structure(what):
        return Given([_of_memory(what, ALONE)], is_one=True)
    if isinstance(what, str) and "\n" in what:
        raise ScreeningError("a text is no path; `Structure.from_str` makes a structure of it")
    if _is_path(what):
        path = Path(what)
        given = _read_paths([path], recursive)
        return replace(given, is_one=len(given.items) == 1 and not path.is_dir())
    if isinstance(what, Mapping) or not hasattr(what, "__iter__"):
        raise ScreeningError(
            f"a {type(what).__name__} is neither a structure (pymatgen, ASE) nor a path"
        )
    members = list(what)
    if members and all(map(_is_path, members)):
        return _read_paths([Path(member) for member in members], recursive)
    return _read_mixed(members, recursive)


def _read_mixed(members: Sequence[Any], recursive: bool) -> Given:
    from screening.sources.ids import name_uniquely

    items: list[SourceItem] = []
    notes: tuple[str, ...] = ()
    for number, member in enumerate(members, 1):
        if _is_path(member):
            given = _read_paths([Path(member)], recursive)
            items += given.items
            notes += given.notes
        else:
            items.append(_of_memory(member, f"structure-{number}"))
    return Given(list(name_uniquely(items, set())), notes)


def _read_paths(paths: Sequence[Path], recursive: bool) -> Given:
    """What is in files and folders; one that cannot be read is an item with the reason."""
    from screening.sources.files import open_paths
    from screening.sources.ids import clean_id

    name = clean_id(str(paths[0]))
    try:
        source = open_paths(paths, recursive)
        items = list(source)
    except (ScreeningError, ModelError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{paths[0]}: ")
        return Given([Unreadable(name, reason)])
    return Given(items, source.notes)


def _is_path(what: Any) -> bool:
    return isinstance(what, str | PathLike)


def _is_structure(what: Any) -> bool:
    """Whether it is one structure; looked at without importing ASE and pymatgen."""
    return isinstance(what, Crystal) or hasattr(what, "is_ordered") or hasattr(what, "get_pbc")


def _of_memory(what: Any, name: str) -> SourceItem:
    try:
        return Candidate(name, _crystal(what))
    except ModelError as error:
        return Unreadable(name, str(error))


def _crystal(what: Any) -> Crystal:
    if isinstance(what, Crystal):
        return what
    if hasattr(what, "get_pbc"):
        from screening.sources.ase_formats import crystal_of

        return crystal_of(what)
    if hasattr(what, "is_ordered") and hasattr(what, "lattice"):
        if not all(what.lattice.pbc):
            raise ModelError(periodic_in(what.lattice.pbc))
        return Crystal.from_structure(what)
    raise ModelError(f"a {type(what).__name__} is not a periodic structure (pymatgen, ASE)")
