"""Reads what :mod:`db.archive` wrote, and trusts none of it before it was checked."""

from __future__ import annotations

import hashlib
import logging
import lzma
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson
from pydantic import ValidationError

from db.archive import FORMAT, FORMAT_VERSION, MANIFEST, RAW_DOS, Manifest, Member, table_name
from db.collections import COLLECTIONS, Collection, D, Query
from db.columns import from_row
from db.documents import SCHEMA_VERSION, STORED
from db.errors import StoreError
from db.store import BATCH, MAX_PROBLEMS, Problem
from models.errors import describe

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_MANIFEST = 2**20  # bytes
MAX_MEMBERS = 1000
MAX_ROW_GROUP = 2**29  # bytes: more than is ever written, and little enough to be read
CHUNK = 2**20
# What zipfile raises while it reads a member; a RuntimeError is that of one that is encrypted.
SPOILT = (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, lzma.LZMAError)

log = logging.getLogger(__name__)


class OpenedArchive:
    """A run in an archive, which can be copied into a store.

    All hashes are checked when it is opened. Members are read from copies in a folder of our own,
    under names of our own, which is gone when the archive is closed. A document that cannot be
    read is left out and added to `problems`.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    location : str
    manifest : Manifest
    problems : deque of Problem

    Raises
    ------
    StoreError
        If it is no such archive, or damaged, or of a newer program.
    """

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self.problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)
        self._checked: set[str] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="edos-archive-")
        try:
            with zipfile.ZipFile(path) as archive:
                self.manifest = self._read_manifest(archive)
                self._copies = self._unpack(archive)
            self._tables = {c.name: self._table(table_name(c), c) for c in COLLECTIONS}
        except (zipfile.BadZipFile, NotImplementedError, EOFError):
            self.close()
            raise StoreError(f"{path}: no zip file, or the end of it is missing") from None
        except OSError as error:
            self.close()
            raise StoreError(f"{path}: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the copies; may be called twice."""
        self._folder.cleanup()

    def find(self, query: Query[D]) -> Iterator[D]:
        """Stream all documents of a collection; the archive knows no conditions."""
        collection = query.collection
        # A table without a problem need not be checked again: it cannot have changed.
        context, is_whole = STORED if collection.name in self._checked else None, True
        for row in _rows(self._tables[collection.name], self.location):
            try:
                yield collection.document.model_validate(
                    from_row(collection.document, row), context=context
                )
            except ValueError as error:  # also of JSON, and pydantic's
                reason = describe(error) if isinstance(error, ValidationError) else "not JSON"
                key = ", ".join(f"{row.get(field)!s:.80}" for field in collection.key_fields)
                self._note(Problem(collection.name, key, reason))
                is_whole = False
        if is_whole:
            self._checked.add(collection.name)

    def count(self, query: Query[Any]) -> int:
        """Documents of a collection, readable or not."""
        return self._tables[query.collection.name].metadata.num_rows

    def blobs(self) -> Iterator[str]:
        """Names of the raw DOS."""
        yield from self._places

    def raw_dos(self, reference: dict[str, Any]) -> dict[str, Any]:
        """Raw DOS of that name.

        Raises
        ------
        StoreError
            If it is not what its name says.
        """
        name = reference["name"]
        group, i = self._places[name]
        if self._group[0] != group:
            assert self._raw is not None
            self._group = group, self._raw.read_row_group(group, ["dos"]).column("dos").to_pylist()
        body = (self._group[1][i] or "").encode()
        if hashlib.sha256(body).hexdigest() != name:
            raise StoreError(f"{self.location}: raw DOS {name:.80} is damaged")
        dos: dict[str, Any] = orjson.loads(body)
        return dos

    _group: tuple[int, list[str | None]] = (-1, [])

    @cached_property
    def _raw(self) -> pq.ParquetFile | None:
        return self._table(RAW_DOS) if RAW_DOS in self.manifest.members else None

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Row group and row of each raw DOS."""
        places: dict[str, tuple[int, int]] = {}
        if self._raw is not None:
            for group in range(self._raw.num_row_groups):
                names = self._raw.read_row_group(group, ["name"]).column("name").to_pylist()
                places |= {str(name): (group, i) for i, name in enumerate(names)}
        return dict(sorted(places.items()))

    def _note(self, problem: Problem) -> None:
        if problem not in self.problems:
            log.warning("%s: %s", self.location, problem)
            self.problems.append(problem)

    # what is checked before anything is read

    def _read_manifest(self, archive: zipfile.ZipFile) -> Manifest:
        foreign = StoreError(f"{self.location} is no archive of `screen export`")
        names = archive.namelist()
        if MANIFEST not in names:
            raise foreign
        if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST or len(names) > MAX_MEMBERS:
            raise foreign
        try:
            content = archive.read(MANIFEST)
        except SPOILT:
            raise self._damaged(MANIFEST) from None
        try:
            document = orjson.loads(content)
            kind, version = document["format"], document["format_version"]
        except (ValueError, TypeError, KeyError):
            raise foreign from None
        if kind != FORMAT:
            raise foreign
        schema = document.get("schema_version")
        if version != FORMAT_VERSION or schema != SCHEMA_VERSION:
            raise StoreError(
                f"{self.location} has format {version!r:.20} and schema version {schema!r:.20}, "
                f"this program knows {FORMAT_VERSION} and {SCHEMA_VERSION}; install the version "
                "of it that wrote the archive"
            )
        try:
            manifest = Manifest.model_validate(document)
        except ValidationError as error:
            raise StoreError(f"{self.location}: {MANIFEST}: {describe(error)}") from None
        tables = {table_name(collection) for collection in COLLECTIONS}
        listed = {*manifest.members, MANIFEST}
        if sorted(names) != sorted(listed) or not tables <= listed:
            odd = sorted({*names} ^ (listed | tables)) or sorted(names)
            raise StoreError(f"{self.location}: {odd[0]!r:.80} is not where {MANIFEST} says")
        return manifest

    def _unpack(self, archive: zipfile.ZipFile) -> dict[str, Path]:
        """Copies of the tables, by their names in the archive; all members are hashed."""
        copies = {}
        for number, (name, member) in enumerate(self.manifest.members.items()):
            copy = Path(self._folder.name) / str(number)
            self._copy(archive, name, member, copy)
            if name.endswith(".parquet"):
                copies[name] = copy
            else:
                copy.unlink()
        return copies

    def _copy(self, archive: zipfile.ZipFile, name: str, member: Member, to: Path) -> None:
        info, damaged = archive.getinfo(name), self._damaged(name)
        # Nothing is compressed but the tables in themselves: no small file becomes a large one.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != member.bytes:
            raise damaged
        digest = hashlib.sha256()
        try:
            with archive.open(info) as source, to.open("wb") as target:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
        except SPOILT:
            raise damaged from None
        if digest.hexdigest() != member.sha256:
            raise damaged

    def _damaged(self, name: str) -> StoreError:
        reason = "is damaged or encrypted; ask for it again"
        return StoreError(f"{self.location}: {name!r:.80} {reason}")

    def _table(self, name: str, collection: Collection[Any] | None = None) -> pq.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(self._copies[name])
        except (pa.ArrowException, OSError):
            raise StoreError(f"{self.location}: {name} is no parquet file") from None
        groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
        too_large = any(g.num_rows > BATCH or g.total_byte_size > MAX_ROW_GROUP for g in groups)
        if too_large or table.metadata.num_rows != self.manifest.members[name].documents:
            raise StoreError(f"{self.location}: {name} is not as `screen export` writes it")
        if collection is not None:
            unknown = set(table.schema_arrow.names) - set(collection.document.model_fields)
            if unknown:
                raise StoreError(
                    f"{self.location}: {name} has a column {min(unknown)!r:.60} that this program "
                    "does not know; install a newer version of it"
                )
        return table


def _rows(table: pq.ParquetFile, location: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    for group in range(table.num_row_groups):
        try:
            rows = table.read_row_group(group).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(f"{location}: a table cannot be read: {error!s:.100}") from None
        yield from rows
