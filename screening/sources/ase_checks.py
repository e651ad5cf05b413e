"""What ASE would pass over in a file, looked for before it reads one."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby, takewhile

from models.crystal import ATOMIC_NUMBERS

DISORDERED = "structure has partial occupancies; order it first"
FULL = (1.0, 11.0)  # SHELX's occupancies of a site that is always taken: 1, refined or fixed
SHELX_ATOM = re.compile(r"\w+\s+\d+(?:\s+[\d.-]+){3}\s+([\d.-]+)")  # what ASE takes for one


def _check_shelx(text: Iterable[str]) -> None:
    """ASE takes the atoms of a SHELX file for all of them, and each for one.

    Raises
    ------
    ValueError
        If the file has a symmetry, or ASE would not read an atom as SHELX does.
    """
    lines = [line.strip() for line in text if line.strip()]
    cards = [line for line in lines if line[:4].upper() in ("LATT", "SYMM")]
    other = [line for line in cards if line.upper().split()[:2] != ["LATT", "-1"]]
    if other or not cards:
        symmetry = other[0] if other else "no LATT, which is LATT 1"
        raise ValueError(
            f"it has a symmetry ({symmetry:.60}), and only files in P1 (LATT -1, no SYMM) are "
            "read; write it as CIF"
        )
    for line in lines:
        _check_shelx_atom(line)


def _check_shelx_atom(line: str) -> None:
    label = line.split(maxsplit=1)[0]
    symbol = re.split("[^A-Za-z]", label, maxsplit=1)[0].capitalize()
    if ATOMIC_NUMBERS.get(symbol, 0) < 1:
        return  # an instruction
    if label not in ATOMIC_NUMBERS:
        raise ValueError(
            f"its atoms must be called by their elements, not {label!r:.40}; write it as CIF"
        )
    atom = SHELX_ATOM.match(line)
    if not atom:
        raise ValueError(f"{line!r:.60} must be an atom such as '{label} 1 0.0 0.5 0.5 1.0'")
    if float(atom[1]) not in FULL:
        raise ValueError(DISORDERED)


def _check_xsf(lines: Iterable[str]) -> None:
    """ASE takes as many atoms as are counted, whatever follows.

    Raises
    ------
    ValueError
        If there are more or fewer.
    """
    counted = None
    content = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    for are_atoms, group in groupby(content, _is_atom):
        if not are_atoms:
            *before, last = deque(group, 2)
            is_count = bool(before) and before[0].split()[0] == "PRIMCOORD"
            counted = int(last.split()[0]) if is_count else None
        elif counted is not None:
            _check_count(counted, sum(1 for _ in group), "below PRIMCOORD")


def _is_atom(line: str) -> bool:
    """Whether an element and three numbers stand in it."""
    numbers = line.split()[1:4]
    try:
        return len([float(number) for number in numbers]) == 3
    except ValueError:
        return False


def _check_espresso(lines: Iterable[str]) -> None:
    """ASE takes as many atoms as are counted, whatever follows.

    Raises
    ------
    ValueError
        If there are more or fewer.
    """
    from ase.io.espresso import read_fortran_namelist

    data, cards = read_fortran_namelist(lines)
    begin = [n for n, card in enumerate(cards, 1) if card.startswith("ATOMIC_POSITIONS")]
    behind = cards[begin[0] :] if begin else []
    atoms = takewhile(lambda line: not re.match("[A-Za-z_]{7}", line), behind)  # to the next card
    _check_count(data.get("system", {}).get("nat"), len(list(atoms)), "by nat")


def _check_count(counted: int | None, found: int, where: str) -> None:
    if counted != found:
        raise ValueError(f"{counted} atoms are counted {where}, there are {found}")


def _check_castep(lines: Iterable[str]) -> None:
    """ASE takes each atom of a mixture for a whole one.

    Raises
    ------
    ValueError
        If there is one.
    """
    if any("MIXTURE" in re.split("[#!;]", line, maxsplit=1)[0].upper() for line in lines):
        raise ValueError(DISORDERED)


CHECKS: dict[str, Callable[[Iterable[str]], None]] = {
    "res": _check_shelx,
    "xsf": _check_xsf,
    "espresso-in": _check_espresso,
    "castep-cell": _check_castep,
}
"""By the format's name in ASE; each raises a ValueError in one line."""
