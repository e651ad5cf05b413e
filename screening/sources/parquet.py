"""Candidates from a parquet table, streamed: a million rows are never in memory.

The columns, of which the last group is optional:

==================== ======================= ====================================================
`material_id`        string                  unique
`lattice`            list of 9 floats        row vectors in Å, flattened
`species`            list of n integers      atomic numbers
`frac_coords`        list of 3n floats       fractional coordinates, flattened
`energy_above_hull`  float                   eV/atom
`band_gap`           float                   eV
`is_magnetic`        bool
`has_edos`           bool
`formula`            string                  reduced
`last_updated`       string                  ISO 8601
`functional`         string                  that the structure was relaxed with; ``"GGA"`` is PBE
`problem`            string                  why there is no structure
==================== ======================= ====================================================

Other columns are not read. The version of the database and how it wants to be cited are taken
from the file's metadata (``database_version``, ``attribution``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.crystal import ELEMENTS, MIN_VOLUME, Crystal
from models.errors import ModelError
from screening.candidate import Candidate, Origin, SourceItem, Unreadable, id_problem
from screening.errors import ScreeningError, one_line
from screening.sources.base import Source
from screening.sources.ids import clean_id, duplicate
from screening.sources.opening import file_fingerprint
from screening.sources.properties import BAND_GAPS, HULLS, number

BATCH_ROWS = 4096


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    views = pa.types.is_string_view(kind)  # as polars writes them
    return views or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_list_of(element: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    def check(kind: pa.DataType) -> bool:
        is_list = (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        )
        return is_list and element(kind.value_type)

    return check


@dataclass(frozen=True)
class _Column:
    """What a column must be, in words, by a check, and the type that it is cast to."""

    words: str
    accepts: Callable[[pa.DataType], bool]
    cast_to: pa.DataType


_TEXT = _Column("text", _is_text, pa.large_string())
_NUMBER = _Column("a number", _is_number, pa.float64())
_FLAG = _Column("true or false", pa.types.is_boolean, pa.bool_())
_NUMBERS = _Column("a list of numbers", _is_list_of(_is_number), pa.large_list(pa.float64()))
_INTEGERS = _Column(
    "a list of integers", _is_list_of(pa.types.is_integer), pa.large_list(pa.int64())
)

REQUIRED = {
    "material_id": _TEXT,
    "lattice": _NUMBERS,
    "species": _INTEGERS,
    "frac_coords": _NUMBERS,
}
OPTIONAL = {
    "energy_above_hull": _NUMBER,
    "band_gap": _NUMBER,
    "is_magnetic": _FLAG,
    "has_edos": _FLAG,
    "formula": _TEXT,
    "last_updated": _TEXT,
    "functional": _TEXT,
    "problem": _TEXT,
}
_NAMES = {names[0]: names for names in (HULLS, BAND_GAPS)}


class ParquetSource(Source):
    """The rows of a parquet file.

    A row without a usable structure is streamed as unreadable with the reason; so is one whose
    `material_id` is empty or came before, under the id ``FILE#row-N``.

    Parameters
    ----------
    path : Path
    origin : str, optional
        Name of the database that the rows come from; the file's name by default.
    stem : str, optional
        What ids of rows without a usable one begin with; the file's name by default.

    Raises
    ------
    ScreeningError
        If the file is not parquet, or a column is missing or of a wrong type.
    """

    can_move = True

    def __init__(self, path: Path, origin: str | None = None, stem: str | None = None) -> None:
        self.name = path.name
        self._path = path
        self._stem = stem or clean_id(path.stem)
        self._origin = origin or path.name
        with self._open() as file:
            schema = file.schema_arrow
            self._columns = _checked_columns(path, schema)
            self._total = file.metadata.num_rows
        self.database_version = _text_in(schema, "database_version")
        self.attribution = _text_in(schema, "attribution")
        self.description = f"{path}: {self._total:,} rows"

    @property
    def fingerprint(self) -> str:
        """Of the file's name, size and time of change."""
        return file_fingerprint(self._path)

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._total

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the rows in the order of the file."""
        return self.items(set())

    def items_from(self, first: int) -> Iterator[SourceItem]:
        """Stream the rows behind the first ones, of which nothing but the ids is read."""
        with self._open() as file:
            batches = self._batches(file, ["material_id"])
            before = takewhile(lambda numbered: numbered[0] < first, batches)
            ids = [name for _, batch in before for name in batch.column(0).to_pylist()][:first]
        return self.items({name for name in ids if not id_problem(name)}, first)

    def items(self, seen: set[str], first: int = 0) -> Iterator[SourceItem]:
        """Stream the rows; ids in `seen` count as duplicates, and those of the rows are added.

        Parameters
        ----------
        seen : set of str
        first : int
            So many rows at the beginning are left out.
        """
        with self._open() as file:
            for start, batch in self._batches(
                file, [field.name for field in self._columns.values()], first
            ):
                with self._errors_in_words():
                    rows = _Rows(batch, self._columns, self._origin, self.database_version)
                for k in range(max(0, first - start), batch.num_rows):
                    yield self._item(rows, k, start + k + 1, seen)

    def _batches(
        self, file: pq.ParquetFile, columns: list[str], first: int = 0
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with rows behind the first ones, and how many rows are before each."""
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = [0, *accumulate(sizes)]
        group = bisect_right(starts, first) - 1  # the one with the first row that is wanted
        start = starts[group]
        groups = list(range(group, len(sizes)))
        batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns)
        while True:
            with self._errors_in_words():
                batch = next(batches, None)
            if batch is None:
                return
            if start + batch.num_rows > first:
                yield start, batch
            start += batch.num_rows

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise ScreeningError(f"{self._path}: cannot read: {one_line(error)}") from None

    def _item(self, rows: _Rows, k: int, row: int, seen: set[str]) -> SourceItem:
        material_id = rows.ids[k]
        problem = id_problem(material_id)
        if not problem and material_id in seen:
            problem = duplicate(material_id)
        if problem:  # under an id of its own, not to take the place of another material
            return Unreadable(f"{self._stem}#row-{row}", problem)
        seen.add(material_id)
        try:
            return rows.candidate(k)
        except ModelError as error:
            return Unreadable(material_id, str(error))

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise ScreeningError(f"{self._path}: not a parquet file: {one_line(error)}") from None
        except UnicodeEncodeError:
            raise ScreeningError(
                f"{self._path}: its name is not UTF-8, as Arrow wants it; rename it"
            ) from None


def _text_in(schema: pa.Schema, name: str) -> str | None:
    """Text of a file's metadata, None if there is none."""
    value = (schema.metadata or {}).get(name.encode())
    return value.decode(errors="replace") if value else None


def _checked_columns(path: Path, schema: pa.Schema) -> dict[str, pa.Field]:
    """The columns to read, with their names in the file and the types to cast them to."""
    missing = [name for name in REQUIRED if name not in schema.names]
    if missing:
        raise ScreeningError(f"{path}: there is no column {' and no '.join(missing)}")
    columns = {}
    for name, column in {**REQUIRED, **OPTIONAL}.items():
        own = _own_name(name, schema)
        if own is None:
            continue
        if schema.names.count(own) > 1:
            raise ScreeningError(f"{path}: column {own} is there twice; leave one of them")
        kind = schema.field(own).type
        if not column.accepts(kind):
            raise ScreeningError(f"{path}: column {own} must be {column.words}, it is {kind}")
        columns[name] = pa.field(own, column.cast_to)
    return columns


def _own_name(name: str, schema: pa.Schema) -> str | None:
    """What a column is called in the file; None of an optional one that is not there, or empty."""
    if name in REQUIRED:
        return name
    for own in _NAMES.get(name, (name,)):
        if own in schema.names and not pa.types.is_null(schema.types[schema.names.index(own)]):
            return own
    return None


class _Ragged:
    """A list column as flat values and offsets; null lists are empty."""

    def __init__(self, column: pa.Array, fill: float) -> None:
        values = column.values
        if values.null_count:
            values = values.fill_null(fill)
        self.values = np.array(values)  # a copy, since Arrow's own memory is read-only
        self.lengths = np.diff(column.offsets.to_numpy())
        self.offsets = column.offsets.to_numpy().tolist()
        if column.null_count:
            self.is_null = column.is_null().to_numpy(zero_copy_only=False).tolist()
        else:
            self.is_null = [False] * len(column)

    def __getitem__(self, k: int) -> np.ndarray:
        return self.values[self.offsets[k] : self.offsets[k + 1]]

    def has_only(self, good: np.ndarray) -> np.ndarray:
        """Rows all of whose values are good, as an array of the same length says of each."""
        n_bad = np.concatenate([[0], np.cumsum(~good)])[self.offsets]
        return n_bad[1:] == n_bad[:-1]


class _Rows:
    """Random access to the rows of a record batch."""

    def __init__(
        self,
        batch: pa.RecordBatch,
        columns: dict[str, pa.Field],
        origin: str,
        version: str | None,
    ) -> None:
        cast = {n: batch.column(field.name).cast(field.type) for n, field in columns.items()}
        self.ids: list[Any] = cast["material_id"].to_pylist()
        self._lattice = _Ragged(cast["lattice"], np.nan)
        self._species = _Ragged(cast["species"], 0)
        self._coords = _Ragged(cast["frac_coords"], np.nan)
        nothing = [None] * batch.num_rows
        numbers = ("energy_above_hull", "band_gap")
        self._numbers = {name: _python(cast.get(name), nothing) for name in numbers}
        self._magnetic = _python(cast.get("is_magnetic"), nothing)
        self._edos = _python(cast.get("has_edos"), nothing)
        self._formula = _python(cast.get("formula"), nothing)
        self._updated = _python(cast.get("last_updated"), nothing)
        self._functional = _python(cast.get("functional"), nothing)
        self._problem = _python(cast.get("problem"), nothing)
        self._origin, self._version = origin, version
        self._plain_origin = Origin(origin, version)
        self._is_sound = self._sound().tolist()

    def _sound(self) -> np.ndarray:
        """Rows that pass all checks of :class:`Crystal`, which alone says what is wrong."""
        lattice, species, coords = self._lattice, self._species, self._coords
        good_numbers = (species.values >= 1) & (species.values <= len(ELEMENTS) - 1)
        sound = (
            (lattice.lengths == 9)
            & (species.lengths > 0)
            & (coords.lengths == 3 * species.lengths)
            & lattice.has_only(np.isfinite(lattice.values))
            & coords.has_only(np.isfinite(coords.values))
            & species.has_only(good_numbers)
        )
        rows = np.flatnonzero(sound)
        first = np.array(lattice.offsets)[rows]
        cells = lattice.values[first[:, None] + np.arange(9)].reshape(-1, 3, 3)
        sound[rows] = np.abs(np.linalg.det(cells)) >= MIN_VOLUME
        return sound

    def candidate(self, k: int) -> Candidate:
        """Candidate of row `k`.

        Raises
        ------
        ModelError
            If there is no usable structure in it, or a number of it is infinite.
        """
        known = {name: values[k] for name, values in self._numbers.items()}
        more = (self._updated[k], self._functional[k])
        return Candidate(
            material_id=self.ids[k],
            structure=self._crystal(k),
            energy_above_hull=number(known, "energy_above_hull"),
            band_gap=number(known, "band_gap"),
            is_magnetic=self._magnetic[k],
            has_edos=self._edos[k],
            source_formula=self._formula[k],
            origin=Origin(self._origin, self._version, *more) if any(more) else self._plain_origin,
        )

    def _crystal(self, k: int) -> Crystal:
        lattice, coords, species = self._lattice[k], self._coords[k], self._species[k]
        if self._is_sound[k]:
            return Crystal.of_checked(lattice.reshape(3, 3), coords.reshape(-1, 3), species)
        null = [self._lattice.is_null[k], self._species.is_null[k], self._coords.is_null[k]]
        if all(null) or not len(species):
            raise ModelError(self._problem[k] or "no structure")
        return Crystal(lattice, coords, species)


def _python(column: pa.Array | None, nothing: list[None]) -> list[Any]:
    return nothing if column is None else column.to_pylist()
