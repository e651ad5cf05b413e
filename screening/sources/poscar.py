"""POSCAR and CONTCAR files, read as VASP reads them [1]_, or refused in words.

Two things are stricter than in VASP, since they are nearly always a file that was cut or edited
by hand: the line before the coordinates must not be a number, and no further coordinates may
follow those that are counted.

.. [1] https://www.vasp.at/wiki/index.php/POSCAR
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.errors import ModelError
from screening.candidate import Candidate, Origin, SourceItem, Unreadable
from screening.sources.opening import StructureFile

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_SCALE, _LATTICE, _SYMBOLS, _COUNTS = 1, 2, 5, 6  # indices of lines
_BEYOND = 3  # numbers of a coordinate line, behind which flags and symbols may stand


def read_poscar(file: StructureFile) -> Iterator[SourceItem]:
    """The one structure of a file."""
    try:
        crystal, remarks = parse_poscar(file.text())
    except ModelError as error:
        yield Unreadable(file.stem, str(error))
        return
    yield Candidate(file.stem, crystal, origin=Origin(file.label), remarks=remarks)


def parse_poscar(text: str) -> tuple[Crystal, tuple[str, ...]]:
    """Crystal in the text of a POSCAR, and what is to be said of how it was read.

    The scale may be one factor, three factors of the Cartesian components, or minus the volume
    of the cell in Å^3. Numbers may be written as Fortran does (``0.5D+00``). A symbol may be
    that of a potential: ``Mo_pv``, or ``Mo/`` with its hash. Selective dynamics, velocities and
    what follows them are passed over.

    Raises
    ------
    ModelError
        In one line with the number of the line that is wrong.
    """
    lines = [_fields(line) for line in text.rstrip().split("\n")]
    scales = _scales(lines)
    rows = range(_LATTICE, _LATTICE + 3)
    lattice = np.array([_three(lines, i, "a lattice vector") for i in rows])
    scale = _factors(scales, lattice)
    symbols, counts, at = _species(lines)
    if _word(lines, at).startswith(("S", "s")):
        at += 1
    is_cartesian = _mode(lines, at)
    first, n = at + 1, sum(counts)
    coordinates = np.array([_coordinates(lines, first, i, n) for i in range(n)])
    _check_end(lines, first + n, n)
    behind = [_symbol_behind(line) for line in lines[first : first + n]]
    names, remarks = _names(symbols, counts, behind)
    numbers = np.array([ATOMIC_NUMBERS[name] for name in names])
    lattice = lattice * scale
    if is_cartesian:
        crystal = Crystal(lattice, np.zeros((n, 3)), numbers)  # refuses a cell without volume
        coordinates = np.linalg.solve(crystal.lattice.T, (coordinates * scale).T).T
    return Crystal(lattice, coordinates, numbers), remarks


def _fields(line: str) -> list[str]:
    return re.split(r"[\s,]+", line.strip(" \t\r\n\ufeff,")) if line.strip() else []


def _at(lines: list[list[str]], i: int, what: str) -> list[str]:
    if i >= len(lines):
        raise ModelError(f"the file ends before line {i + 1}, {what}")
    return lines[i]


def _numbers(fields: list[str]) -> list[float]:
    """The numbers at the beginning of a line; a comment may follow."""
    numbers = []
    for field in fields:
        if not _NUMBER.fullmatch(field):
            break
        numbers.append(float(re.sub("[dD]", "e", field)))
    return numbers


def _three(lines: list[list[str]], i: int, what: str) -> list[float]:
    numbers = _numbers(_at(lines, i, what))
    if len(numbers) < _BEYOND:
        raise ModelError(f"line {i + 1} must be {what}, three numbers, not {_quoted(lines[i])}")
    return numbers[:_BEYOND]


def _quoted(fields: list[str]) -> str:
    return f"{' '.join(fields)!r:.60}" if fields else "empty"


def _scales(lines: list[list[str]]) -> list[float]:
    fields = _at(lines, _SCALE, "the scale factor")
    scales = _numbers(fields)
    if len(scales) not in (1, 3):
        raise ModelError(f"line 2 must be one scale factor, or three, not {_quoted(fields)}")
    if 0 in scales or (len(scales) == 3 and min(scales) < 0):
        raise ModelError(
            f"line 2: {_quoted(fields)} is no scale; it is one number (minus the volume if it is "
            "negative) or three positive ones"
        )
    return scales


def _factors(scales: list[float], lattice: np.ndarray) -> np.ndarray:
    """Factors of the Cartesian components, shape (3,)."""
    if scales[0] > 0:
        return np.array(scales) * np.ones(3)
    volume = abs(np.linalg.det(lattice))
    if volume < 1e-12:
        raise ModelError("cell has no volume")
    factors: np.ndarray = np.full(3, (-scales[0] / volume) ** (1 / 3))
    return factors


def _species(lines: list[list[str]]) -> tuple[list[str], list[int], int]:
    """Symbols, which are none in a file of VASP 4, counts, and the index of the next line."""
    fields = _at(lines, _SYMBOLS, "the element symbols")
    if not fields:
        raise ModelError("line 6 must be the element symbols, it is empty")
    if _is_count(fields[0]):
        return [], _counts(fields, _SYMBOLS), _SYMBOLS + 1
    symbols = []
    for i, field in enumerate(fields):
        if field[0] in "!#":  # a comment
            fields = fields[:i]
            break
        symbols.append(_element(field))
    counts = _counts(_at(lines, _COUNTS, "the numbers of atoms"), _COUNTS)
    if len(counts) != len(symbols):
        raise ModelError(
            f"line 6 has {len(symbols)} element symbols ({' '.join(fields)}), line 7 has "
            f"{len(counts)} numbers of atoms"
        )
    return symbols, counts, _COUNTS + 1


def _is_count(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", field) is not None


def _element(field: str) -> str:
    """Element of a symbol, of a potential's name (``Mo_pv``), or of one with its hash."""
    symbol = re.split("[_/]", field)[0]
    if ATOMIC_NUMBERS.get(symbol, 0) < 1:
        raise ModelError(f"line 6: {field!r:.40} is no element symbol")
    return symbol


def _counts(fields: list[str], i: int) -> list[int]:
    counts = []
    for field in fields:
        if not _is_count(field):
            if field[0] in "!#":
                break
            raise ModelError(f"line {i + 1}: {field!r:.40} is no number of atoms")
        counts.append(int(field))
    if not counts or min(counts) < 0 or not sum(counts):
        raise ModelError(f"line {i + 1} must be the numbers of atoms, not {_quoted(fields)}")
    return counts


def _word(lines: list[list[str]], i: int) -> str:
    return next(iter(_at(lines, i, "Direct or Cartesian")), "")


def _mode(lines: list[list[str]], i: int) -> bool:
    """Whether the coordinates are Cartesian."""
    word = _word(lines, i)
    if not word[:1].isalpha():
        raise ModelError(f"line {i + 1} must say Direct or Cartesian, it is {_quoted(lines[i])}")
    return word[0] in "CcKk"


def _coordinates(lines: list[list[str]], first: int, i: int, n: int) -> list[float]:
    at = first + i
    if at >= len(lines) or not lines[at]:
        raise ModelError(f"there are coordinates of only {i} of the {n} atoms that are counted")
    return _three(lines, at, f"the coordinates of atom {i + 1} of {n}")


def _check_end(lines: list[list[str]], i: int, n: int) -> None:
    if i < len(lines) and len(_numbers(lines[i])) >= _BEYOND:
        raise ModelError(
            f"line {i + 1} has coordinates of a further atom than the {n} that are counted"
        )


def _symbol_behind(fields: list[str]) -> str | None:
    """Element that stands behind the coordinates, and behind flags of selective dynamics."""
    rest = fields[_BEYOND:]
    if len(rest) >= 3 and all(re.fullmatch(r"\.?[TFtf]\w*\.?", flag) for flag in rest[:3]):
        rest = rest[3:]
    name = re.split("[_/]", rest[0])[0] if rest else ""
    return name if ATOMIC_NUMBERS.get(name, 0) > 0 else None


def _names(
    symbols: list[str], counts: list[int], behind: list[str | None]
) -> tuple[list[str], tuple[str, ...]]:
    """Element of each atom, and remarks.

    Line 6 counts, as in VASP; without it, the symbols behind the coordinates do if there is one
    behind each, as pymatgen writes them.
    """
    written = [name for name in behind if name is not None]
    if symbols:
        names = [s for s, count in zip(symbols, counts, strict=True) for _ in range(count)]
        pairs = zip(names, behind, strict=True)
        differing = next(((a, b) for a, b in pairs if b is not None and a != b), None)
        if differing is None:
            return names, ()
        said = f"{differing[0]} by line 6, as VASP takes it, {differing[1]} behind its coordinates"
        return names, (f"an atom is {said}",)
    if len(written) < len(behind):
        raise ModelError(
            "there are no element symbols in it (a file of VASP 4); write them in a line of their "
            f"own before the numbers of atoms, such as 'Na Cl' before {' '.join(map(str, counts))}"
        )
    starts = np.cumsum([0, *counts])
    if any(len(set(written[a:b])) > 1 for a, b in pairwise(starts)):
        raise ModelError(
            "the element symbols behind the coordinates do not fit the numbers of atoms"
        )
    return written, ("its element symbols are those behind the coordinates",)
