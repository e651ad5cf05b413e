"""CSV tables with a structure a row, as data sets of generative models and of matbench come.

The structure stands as CIF or as pymatgen's JSON in a column `structure` or `cif`. These columns
are used if they are there, and all others are passed over:

================================= ============================================================
`material_id`, `id`               name
`energy_above_hull`,              eV/atom
`e_above_hull`
`band_gap`, `gap pbe`             eV
`is_magnetic`, `has_edos`         true or false
================================= ============================================================

An empty cell, ``nan`` and ``null`` are unknown. Columns are separated by commas or semicolons,
in a ``.tsv`` by tabs. Rows are read one at a time.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from screening.candidate import SourceItem, Unreadable
from screening.errors import ScreeningError, one_line
from screening.sources.ids import nth
from screening.sources.json_documents import item_of
from screening.sources.opening import StructureFile, text_of, unpacked_name
from screening.sources.properties import BAND_GAPS, HULLS

STRUCTURES = ("structure", "cif")
_NUMBERS = (*HULLS, *BAND_GAPS)
_FLAGS = ("is_magnetic", "has_edos")
_USED = frozenset({*STRUCTURES, "material_id", "id", *_NUMBERS, *_FLAGS})
_UNKNOWN = frozenset({"", "nan", "none", "null", "na", "n/a"})
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}

csv.field_size_limit(16 << 20)  # bytes of a structure; an open quote ends there, too


def read_csv_table(file: StructureFile) -> Iterator[SourceItem]:
    """The structures of a table; a bad row is named by its line and stops nothing."""
    lines = file.lines()
    first = next(lines, "")
    rows = csv.reader(chain([first], lines), delimiter=_delimiter(file.path, first), strict=True)
    names = [name.strip() for name in next(rows, [])]
    _check_header(names)
    for n in range(1, 1 << 62):
        line = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
        if cells is None:
            return
        if cells:
            yield _item(names, cells, nth(file.stem, n), file.label, line)


def has_structures(path: Path) -> bool:
    """Whether a table has a column of structures; else a folder is read without it."""
    try:
        with text_of(path) as text:
            first = text.readline(1 << 16)
        names = next(csv.reader([first], delimiter=_delimiter(path, first)), [])
        _check_header([name.strip() for name in names])
    except (ScreeningError, ValueError, csv.Error):
        return False
    return True


def _delimiter(path: Path, first: str) -> str:
    if unpacked_name(path.name).lower().endswith(".tsv"):
        return "\t"
    return ";" if first.count(";") > first.count(",") else ","


def _check_header(names: list[str]) -> None:
    """Refuse a table whose columns leave open what is meant.

    Raises
    ------
    ValueError
    """
    if not any(name in STRUCTURES for name in names):
        listed = ", ".join(names)
        raise ValueError(f"there is no column structure and no cif, only {listed!r:.100}")
    twice = next((name for name in names if name in _USED and names.count(name) > 1), None)
    if twice:
        raise ValueError(f"column {twice} is there twice; leave one of them")


def _item(
    names: list[str], cells: list[str], material_id: str, label: str, line: int
) -> SourceItem:
    if len(cells) != len(names):
        reason = f"line {line}: it has {len(cells)} cells, the header {len(names)}"
        return Unreadable(material_id, reason)
    texts = zip(names, cells, strict=True)
    document = {name: _value(name, text.strip()) for name, text in texts if name in _USED}
    item = item_of(document, material_id, label)
    if isinstance(item, Unreadable):
        return replace(item, reason=f"line {line}: {one_line(item.reason)}")
    return item


def _value(name: str, text: str) -> Any:
    """Value of a cell; what is none of its column's kind stays text, which is refused later."""
    if text.lower() in _UNKNOWN:
        return None
    if name in _FLAGS:
        return _TRUTHS.get(text.lower(), text)
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            return text
    return text
