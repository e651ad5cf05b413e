"""Formats that ASE reads: trajectories, inputs of other codes, and ASE's databases.

Only formats that say what the atoms are and how the cell repeats are read, and only crystals:
periodic in three directions, with each atom written out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.crystal import Crystal
from models.errors import ModelError
from screening.candidate import Origin, SourceItem, Unreadable
from screening.errors import one_line
from screening.sources.ase_checks import CHECKS, DISORDERED
from screening.sources.ids import clean_id, nth
from screening.sources.json_documents import candidate_of
from screening.sources.opening import StructureFile

if TYPE_CHECKING:
    from ase import Atoms

ROWS = 100  # of a database that are in memory
EXTENDED_XYZ = (".xyz", ".extxyz")
FORMATS = {
    ".traj": "traj",
    ".xsf": "xsf",
    ".gen": "gen",
    ".res": "res",
    ".cell": "castep-cell",
    ".pwi": "espresso-in",
    "geometry.in": "aims",
}
"""ASE's name of a format by how the name of a file ends."""


def format_of(name: str) -> str | None:
    """ASE's format of a file by its name, None if it is none of these."""
    return next((kind for end, kind in FORMATS.items() if name.lower().endswith(end)), None)


def read_ase(file: StructureFile) -> Iterator[SourceItem]:
    """All structures of a file, frame by frame."""
    from ase.io import iread

    with file.unpacked() as path:
        kind = format_of(path.name)
        if kind in CHECKS:
            with path.open(errors="replace") as lines:
                CHECKS[kind](lines)
        frames = iread(path, index=":", format=kind, do_not_split_by_at_sign=True)
        try:
            for n, atoms in enumerate(frames, 1):
                yield _item(atoms, atoms.info, nth(file.stem, n), file.label)
        except RuntimeError as error:
            if not isinstance(error.__cause__, StopIteration):
                raise
            raise ValueError("the file ends too early") from None


def read_extended_xyz(file: StructureFile) -> Iterator[SourceItem]:
    """The frames of an extended XYZ file, one at a time; a bad one is named by its line."""
    from ase.io.extxyz import read_xyz

    for n, (line, frame) in enumerate(_frames(file.lines()), 1):
        name = nth(file.stem, n)
        try:
            (atoms,) = read_xyz(StringIO(frame), index=slice(None))
            yield _item(atoms, atoms.info, name, file.label)
        except Exception as error:  # whatever the parser raises on whatever is in the frame
            yield Unreadable(name, f"line {line}: does not parse: {one_line(error)}")


def _frames(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Number of the first line and text of each frame: the number of atoms, a comment, the atoms.

    Raises
    ------
    ValueError
        Where a frame should begin and does not, or if the file ends within one.
    """
    at = 1
    for first in lines:
        begin = at
        at += 1
        if not first.strip():
            continue
        if not first.strip().isdecimal():
            raise ValueError(
                f"line {begin} should be a number of atoms, it is {first.strip()!r:.40}"
            )
        n = int(first) + 1
        frame = [first, *islice(lines, n)]
        if len(frame) <= n:
            raise ValueError(f"line {begin}: there are {max(len(frame) - 2, 0)} of {n - 1} atoms")
        at += n
        yield begin, "".join(frame)


def read_ase_database(file: StructureFile) -> Iterator[SourceItem]:
    """The rows of an ASE database (SQLite), with their key-value pairs as properties."""
    from ase.db import connect

    with file.unpacked() as path:
        _check_database(path)
        for n, row in enumerate(_rows(connect(path, type="db", append=True)), 1):
            yield _item(row.toatoms(), row.key_value_pairs, nth(file.stem, n), file.label)


def _rows(database: Any) -> Iterator[Any]:
    """The rows in the order of their numbers; ASE itself gets all that are asked for at once."""
    last = 0
    while rows := list(database.select(f"id>{last}", sort="id", limit=ROWS)):
        yield from rows
        last = rows[-1].id


def _check_database(path: Path) -> None:
    """ASE would write its tables into any other database.

    Raises
    ------
    ValueError
        If it is none of ASE's.
    """
    query = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'"
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            is_of_ase = database.execute(query).fetchone()[0] == 1
    except sqlite3.Error as error:
        raise ValueError(f"it is no database of ASE: {error}") from None
    if not is_of_ase:
        raise ValueError("it is no database of ASE")


def _item(atoms: Atoms, properties: dict[str, Any], material_id: str, label: str) -> SourceItem:
    own = _plain(properties.get("material_id", properties.get("id")))
    if isinstance(own, str | int):
        material_id = clean_id(str(own))
    try:
        plain = {key: _plain(value) for key, value in properties.items()}
        return candidate_of(crystal_of(atoms), plain, material_id, Origin(label))
    except ModelError as error:
        return Unreadable(material_id, str(error))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def crystal_of(atoms: Atoms) -> Crystal:
    """Crystal of ASE's atoms.

    Raises
    ------
    ModelError
        If they are a molecule or a slab, or their sites are partially occupied.
    """
    if atoms.cell.rank < 3:
        raise ModelError("there is no cell: a molecule, or a file without its lattice")
    n = int(sum(atoms.pbc))
    if n < 3:
        raise ModelError(
            f"it is periodic in {n} of 3 directions: only crystals are judged; if it is one, "
            'write pbc="T T T"'
        )
    if _is_disordered(atoms):
        raise ModelError(DISORDERED)
    return Crystal(np.array(atoms.cell), atoms.get_scaled_positions(wrap=False), atoms.numbers)


def _is_disordered(atoms: Atoms) -> bool:
    """By what ASE's readers note of occupancies: one array, or a dict of elements by site."""
    occupancy = atoms.info.get("occupancy")
    sites = occupancy.values() if isinstance(occupancy, dict) else ()
    mixed = any(len(site) != 1 or min(site.values()) < 1 for site in sites)
    for name in ("occupancy", "occupancies"):
        values = atoms.arrays.get(name)
        mixed = mixed or (values is not None and bool(np.any(np.asarray(values, float) < 1)))
    return mixed
