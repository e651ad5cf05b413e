"""Ids of materials: lists of them, such as of those with a known DOS, and ids for what has none."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from screening.candidate import MAX_ID_LENGTH, Candidate, SourceItem, Unreadable
from screening.errors import ScreeningError, one_line
from screening.sources.opening import text_of, unpacked_name

COLUMN = "material_id"
ROOM = 16  # characters of an id that a number behind it may take
_TABLES = (".csv", ".tsv")
_IDS = re.compile(r'"([^"]*)"|\'([^\']*)\'|([^\s,;]+)')


def read_material_ids(path: Path) -> frozenset[str]:
    """Ids in a parquet, CSV, JSON or text file, which may be compressed.

    Of a table it is the column `material_id`. JSON is a list of ids, or of documents with a
    `material_id`, or a dict by id; where its values are true or false, the true ones count, and
    lines of JSON are a list, too. In other text, ids stand in lines or between commas,
    semicolons, or spaces; quotes keep an id with spaces together.

    Raises
    ------
    ScreeningError
        If the file cannot be read, or has no such column, or no ids.
    """
    ending = Path(unpacked_name(path.name)).suffix.lower()
    ids = _in_parquet(path) if ending == ".parquet" else _in_text(path, ending)
    cleaned = frozenset(text for text in (i.strip() for i in ids) if text)
    if not cleaned:
        raise ScreeningError(f"{path}: there are no ids in it")
    return cleaned


def _in_parquet(path: Path) -> Iterable[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            n = file.schema_arrow.names.count(COLUMN)
            if n != 1:
                raise ScreeningError(f"{path}: there {_columns(n)} {COLUMN}")
            column = file.read(columns=[COLUMN])[COLUMN].combine_chunks()
            return [str(i) for i in column.to_pylist() if i is not None]
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror or one_line(error)}") from None
    except pa.ArrowException as error:
        raise ScreeningError(f"{path}: {one_line(error)}") from None


def _columns(n: int) -> str:
    return f"are {n} columns" if n else "is no column"


def _in_text(path: Path, ending: str) -> Iterable[str]:
    with text_of(path) as file:
        text = file.read()
    if "\0" in text:
        raise ScreeningError(f"{path}: it is no text; write the ids one a line")
    if ending in (".json", ".jsonl", ".ndjson") or text.lstrip()[:1] in ("[", "{"):
        return _in_json(path, text)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((d for d in "\t;" if d in first), ",")
    header = next(csv.reader([first], delimiter=delimiter), [])
    names = [name.strip() for name in header]
    if ending in _TABLES or COLUMN in names:
        if names.count(COLUMN) != 1:
            raise ScreeningError(f"{path}: there {_columns(names.count(COLUMN))} {COLUMN}")
        at = names.index(COLUMN)
        rows = csv.reader(text[text.index(first) :].splitlines(), delimiter=delimiter)
        return [row[at] for row in rows if len(row) > at][1:]
    return ["".join(groups) for groups in _IDS.findall(text)]


def _in_json(path: Path, text: str) -> Iterable[str]:
    try:
        data = json.loads(text)
    except ValueError as error:
        try:
            data = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise ScreeningError(f"{path}: it is no JSON: {one_line(error)}") from None
    return [_id_in(path, entry) for entry in _entries(data)]


def _entries(data: Any) -> list[Any]:
    """The ids, or documents with ids, in what JSON holds."""
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        return [data]
    inside = next((data[key] for key in (COLUMN, "material_ids", "data") if key in data), None)
    if isinstance(inside, list):
        return inside
    if isinstance(inside, dict):  # a column as pandas writes it
        return list(inside.values())
    if inside is not None:
        return [inside]
    if all(isinstance(value, bool) for value in data.values()):
        return [key for key, value in data.items() if value]
    return list(data)


def _id_in(path: Path, entry: Any) -> str:
    material_id = entry.get(COLUMN) if isinstance(entry, dict) else entry
    if isinstance(material_id, bool) or not isinstance(material_id, str | int):
        raise ScreeningError(
            f"{path}: {one_line(repr(entry), 60)} is no id, and no document with a {COLUMN}"
        )
    return str(material_id)


# --- ids of what has none of its own ---------------------------------------------------


def clean_id(text: str) -> str:
    """The text as a material id: printable and not too long."""
    return printable(text.strip())[: MAX_ID_LENGTH - ROOM] or "structure"


def printable(text: str) -> str:
    """The text with _ for what cannot be printed, such as bytes of a file's name in Latin-1."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "_" for c in text)


def nth(name: str, n: int) -> str:
    """Id of the `n`-th of what has one name; the first goes without a number.

    Parameters
    ----------
    name : str
    n : int
        From 1.

    Examples
    --------
    >>> nth("two", 1), nth("two", 2)
    ('two', 'two#2')
    """
    return name if n == 1 else f"{name}#{n}"


def duplicate(material_id: str) -> str:
    """Why a material is refused whose own id came before."""
    return f"duplicate material_id {material_id}: the first one is used"


def name_uniquely(
    items: Iterable[SourceItem], seen: set[str], stem: str | None = None
) -> Iterator[SourceItem]:
    """Number what has an id that is taken already.

    Parameters
    ----------
    items : iterable of Candidate or Unreadable
    seen : set of str
        Ids that are taken; those of the items are added.
    stem : str, optional
        Of the file that they are in. An id that is not made of it is the material's own, and a
        second material of this id is refused: numbered, no list of ids would know it.
    """
    numbers: dict[str, int] = {}
    for item in items:
        own = free = item.material_id
        while free in seen:
            numbers[own] = numbers.get(own, 1) + 1
            free = nth(own, numbers[own])
        seen.add(free)
        is_own = stem is not None and not f"{own}#".startswith(f"{stem}#")
        if free == own:
            yield item
        elif is_own and isinstance(item, Candidate):
            yield Unreadable(free, duplicate(own))
        else:
            yield replace(item, material_id=free)
