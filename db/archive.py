"""A run in one file, for another group: a zip of parquet tables, what they mean, and their hashes.

The members are not compressed by the zip, since parquet is; the same run gives the same bytes. All
is streamed, so that memory does not grow with the run. :mod:`db.opened_archive` reads it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from db.collections import (
    CANDIDATES,
    COLLECTIONS,
    PREDICTIONS,
    ROUNDS,
    RUNS,
    VALIDATIONS,
    Collection,
    Query,
    batched,
    conditions,
)
from db.columns import arrow_schema, to_row
from db.documents import SCHEMA_VERSION, Document, Run, ValidationDoc
from db.paths import strip_folders
from db.store import BATCH, ScreeningStore

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["edos-screening run"]
FORMAT: Format = "edos-screening run"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
RAW_DOS = "raw_dos.parquet"
RAW_DOS_BATCH = 20  # of 0.1 to 1 MB each
ROW_GROUP = 64 * 2**20  # bytes of a part of a table that is read at once, at most
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all members: a zip has no earlier one
# Ids, formulas and numbers, in which nothing is a path.
_NO_PATHS = frozenset(
    {"structure", "spectrum", "grid", "gap", "features", "elements", "selection", "chosen"}
    | {"controls", "found", "formula", "structure_hash", "model_id", "run_ids", "job_uuids"}
)

Progress = Callable[[str, int], None]


class Member(BaseModel):
    """A file of an archive.

    Parameters
    ----------
    sha256 : str
        Of its bytes, 64 hexadecimal digits.
    bytes : int
    documents : int or None
        Rows of a table.
    """

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]
    documents: Annotated[int, Field(ge=0)] | None = None


class Manifest(BaseModel):
    """What an archive holds.

    Parameters
    ----------
    format, format_version : str, int
        Of the archive.
    schema_version : int
        Of the documents.
    run_id : str
    versions : dict of str to str
        Of the programs that wrote it.
    raw_dos : str
        Whether the DOS as calculated are there, or were left out.
    without_folders : dict of str to int
        How many texts named a folder or a password, which were left out of them, by their place.
    attributions : list of str
        How the sources of the data want to be cited.
    members : dict of str to Member
        All files but the manifest.
    """

    model_config = ConfigDict(frozen=True)

    format: Format = FORMAT
    format_version: int = FORMAT_VERSION
    schema_version: int = SCHEMA_VERSION
    run_id: str
    versions: dict[str, str] = {}
    raw_dos: Literal["included", "left out"] = "included"
    without_folders: dict[str, int] = {}
    attributions: list[str] = []
    members: dict[str, Member]


def table_name(collection: Collection[Any]) -> str:
    """File of an archive with the documents of a collection."""
    return f"{collection.name}.parquet"


def write_archive(
    store: ScreeningStore,
    run: Run,
    path: Path,
    texts: Mapping[str, bytes],
    *,
    with_raw_dos: bool = True,
    versions: Mapping[str, str] | None = None,
    attributions: Iterable[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Write a run with its candidates, structures, predictions and calculations into one file.

    Texts lose the folders and passwords that they name; the manifest says how many and where.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    path : Path
        Of the new file.
    texts : mapping of str to bytes
        Further members: what a person reads first.
    with_raw_dos : bool
        Also the DOS as calculated, which are large.
    versions : mapping of str to str
        Of the programs, for the manifest.
    attributions : iterable of str
        How the sources of the data want to be cited.
    progress : callable, optional
        Called with the name of what is written and the number of documents done.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with zipfile.ZipFile(path, "w") as archive:
        writer = _Writer(archive, progress or (lambda name, done: None))
        for name, content in texts.items():
            writer.put(name, content)
        for collection in COLLECTIONS:
            schema = collection.document.model_json_schema()
            writer.put(f"schema/{collection.name}.json", _json(schema))
            writer.put_documents(collection, store, run)
        if with_raw_dos:
            writer.put_raw_dos(store, run)
        manifest = Manifest(
            run_id=run.run_id,
            versions=dict(versions or {}),
            raw_dos="included" if with_raw_dos else "left out",
            without_folders={k: n for k, n in sorted(writer.stripped.items()) if n},
            attributions=list(attributions),
            members=writer.members,
        )
        archive.writestr(_entry(MANIFEST), _json(manifest.model_dump()))
    return manifest


def documents_of(
    store: ScreeningStore, run: Run, collection: Collection[Any]
) -> Iterator[Document]:
    """All documents of a collection that belong to a run, in an order that stays the same.

    Of the predictions those by the models of the run, of the calculations those that it asked for,
    and of the rounds of a search those that chose among its candidates.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    collection : Collection
    """
    of_run = conditions(run_id=run.run_id)
    candidates = Query(CANDIDATES, of_run, sort_by="material_id", with_structure=True)
    if collection is RUNS:
        yield run
    elif collection is CANDIDATES:
        yield from store.find(candidates)
    elif collection is PREDICTIONS:
        without = Query(CANDIDATES, of_run, sort_by="material_id")
        for batch in batched(store.find(without), BATCH):
            named = ((c, (c.model_id, run.model_id, run.second_model_id)) for c in batch)
            keys = {(c.material_id, c.structure_hash, m) for c, models in named for m in models}
            whole = [key for key in keys if None not in key]
            yield from sorted(store.predictions(whole), key=PREDICTIONS.key)  # type: ignore[arg-type]
    elif collection is VALIDATIONS:
        yield from sorted(store.validations(run_id=run.run_id), key=VALIDATIONS.key)
    elif collection is ROUNDS:
        rounds = store.find(Query(ROUNDS, conditions(chosen_in=run.run_id)))
        yield from sorted(rounds, key=ROUNDS.key)


class _Writer:
    """Puts members into a zip, and remembers their hashes."""

    def __init__(self, archive: zipfile.ZipFile, progress: Progress) -> None:
        self.archive, self.progress = archive, progress
        self.members: dict[str, Member] = {}
        self.stripped: Counter[str] = Counter()

    def put(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.members[name] = Member(sha256=digest, bytes=len(content))
        self.archive.writestr(_entry(name), content)

    def put_documents(self, collection: Collection[Any], store: ScreeningStore, run: Run) -> None:
        """Table of documents; the predictions of a single model have one length."""
        batches = batched(documents_of(store, run, collection), BATCH)
        first, size, n = next(batches, []), None, 0
        # Not so of calculations: parquet has no lists of fixed length that may be missing.
        if collection is PREDICTIONS and first and run.second_model_id is None:
            size = first[0].grid.size  # type: ignore[attr-defined]
        schema = arrow_schema(collection.document, size)
        with self._table(table_name(collection), schema) as write:
            for batch in chain([first] if first else [], batches):
                write([self._row(collection, document) for document in batch])
                n += len(batch)
                self.progress(collection.name, n)

    def _row(self, collection: Collection[Any], document: Document) -> dict[str, Any]:
        if isinstance(document, ValidationDoc) and not document.is_finished:
            document = document.model_copy(update={"job_uuids": []})  # no reader has this launchpad
        unchanged = _NO_PATHS.union(collection.key_fields)
        values = strip_folders(document.model_dump(), unchanged, collection.name, self.stripped)
        return to_row(collection.document, values)

    def put_raw_dos(self, store: ScreeningStore, run: Run) -> None:
        import pyarrow as pa

        references = (v.raw_dos or {} for v in store.validations(run_id=run.run_id))
        asked = {reference.get("name") for reference in references}
        names, n = [name for name in store.blobs() if name in asked], 0
        schema = pa.schema([("name", pa.string()), ("dos", pa.string())])
        with self._table(RAW_DOS, schema) as write:
            for batch in batched(names, RAW_DOS_BATCH):
                bodies = (_canonical(store.raw_dos({"name": name})) for name in batch)
                write([{"name": a, "dos": b} for a, b in zip(batch, bodies, strict=True)])
                n += len(batch)
                self.progress("raw_dos", n)

    @contextmanager
    def _table(self, name: str, schema: pa.Schema) -> Iterator[Callable[[list[Any]], None]]:
        """Function that adds rows to a table, which is a member at the end."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        n = 0
        with self.archive.open(_entry(name), "w", force_zip64=True) as handle:
            sink = _Hashing(handle)
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:

                def write(rows: list[Any]) -> None:
                    nonlocal n
                    table = pa.Table.from_pylist(rows, schema=schema)
                    parts = -(-table.nbytes // ROW_GROUP) or 1
                    writer.write_table(table, row_group_size=max(1, len(rows) // parts))
                    n += len(rows)

                yield write
        digest = sink.digest.hexdigest()
        self.members[name] = Member(sha256=digest, bytes=sink.tell(), documents=n)


class _Hashing(io.RawIOBase):
    """A file to write to, which hashes what goes through; its own end is not that of the handle."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.digest, self.n = handle, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.handle.write(data)
        self.digest.update(data)
        self.n += len(data)
        return len(data)

    def tell(self) -> int:
        return self.n


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # the same on every system
    return entry


def _json(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def _canonical(dos: dict[str, Any]) -> str:
    """Text that has the hash by which the store calls it."""
    return orjson.dumps(dos, option=orjson.OPT_SORT_KEYS).decode()
