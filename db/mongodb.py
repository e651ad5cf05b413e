"""The store in a MongoDB database, for a group and many machines.

Every write waits for a majority of the servers and their journals, every operation has a
timeout, and one that fails because a server went away is tried again for a minute: all of them
are idempotent. The database holds the collections of :mod:`db.collections`, raw DOS in the
GridFS bucket ``raw_dos``, and ``screening_meta``, by which it is known to be ours.

The URI takes pymongo's options, such as ``tls=true``, ``tlsCAFile=...``,
``tlsCertificateKeyFile=...``, ``replicaSet=...`` and ``authSource=...``.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import Any, TypeVar

import bson
import gridfs
import pymongo
from bson.codec_options import CodecOptions
from gridfs.errors import FileExists, NoFile
from pydantic import BaseModel
from pymongo import ReplaceOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    CollectionInvalid,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidDocument,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential

from db.collections import (
    CANDIDATES,
    COLLECTIONS,
    RUNS,
    Collection,
    Condition,
    D,
    Key,
    Query,
    batched,
    field_kind,
)
from db.documents import FINISHED, SCHEMA_VERSION, VERDICT_FIELDS, Run, Verdict
from db.errors import StoreError
from db.schema import validator
from db.store import ScreeningStore, WriteMode, check_version, mask_uri
from db.structures import StructureArrays
from db.waiting import Watch

DEFAULT_DATABASE = "screening"
META = "screening_meta"
_META_KEY = {"_id": "schema"}
BUCKET = "raw_dos"
PATIENCE = 60.0  # s that a server may be away
READER_PATIENCE = 3.0  # s that a reader looks for a server; nothing is lost, and somebody waits
OPEN_PATIENCE = 10.0  # s that a server may take to answer at first; a wrong URI is told soon
TIMEOUT = 30.0  # s for one operation
MIN_TIMEOUT = 1.0  # s for the last attempt
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # s between two attempts
IDS_PAGE = 100_000  # identifiers in a message
PAGE = 5000  # documents that a reader takes at a time
PAGE_WITH_STRUCTURES = 2500

INDEXES: dict[str, tuple[tuple[str, ...], ...]] = {
    "runs": (("created_at",),),
    "candidates": (
        ("run_id", "state", "shard"),
        ("run_id", "is_positive", "score"),
        ("run_id", "chemsys"),
        ("run_id", "elements"),
        ("material_id",),
    ),
    "predictions": (("model_id",),),
    "validations": (("state",), ("run_ids",)),
    "rounds": (),
}
OPERATORS = {
    "==": "$eq",
    "!=": "$ne",
    "<": "$lt",
    "<=": "$lte",
    ">": "$gt",
    ">=": "$gte",
    "in": "$in",
    "has": "$eq",
    "lacks": "$ne",
}

# server codes: https://github.com/mongodb/specifications, retryable reads and writes
PASSING_CODES = frozenset(
    {6, 7, 50, 64, 89, 91, 134, 189, 202, 262, 9001, 10107, 11600, 11602, 13435, 13436}
)
PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError")
DUPLICATE = 11000
NAMESPACE_EXISTS = 48
VALIDATION_CODES = (2, 121)

VALIDATORS = hashlib.sha256(
    json.dumps([validator(collection.document) for collection in COLLECTIONS]).encode()
).hexdigest()
"""Changes when the validators do."""

T = TypeVar("T")
Raw = dict[str, Any]


class MongoStore(ScreeningStore):
    """A store in the database that a URI names, ``screening`` if it names none.

    Parameters
    ----------
    uri : str
        ``mongodb://...`` or ``mongodb+srv://...``.
    patience : float, optional
        Seconds that a server may be away before an operation gives up; a minute, and for readers
        3 s by default.
    read_only : bool
        Make and change nothing.

    Raises
    ------
    StoreError
        If no server answers, refuses the user, or holds another program's collections.
    """

    def __init__(self, uri: str, patience: float | None = None, read_only: bool = False) -> None:
        super().__init__(mask_uri(uri), read_only)
        usual = READER_PATIENCE if read_only else PATIENCE
        self.patience = usual if patience is None else patience
        self._uri = uri
        self._lock = threading.Lock()
        self._client: pymongo.MongoClient[Raw] | None = None
        self._owner = os.getpid()
        self._closed = False
        self._opened = False
        self._watch = Watch(self.location)
        self._open()

    def close(self) -> None:
        """Close the connections; may be called twice."""
        with self._lock:
            if self._client is not None and self._owner == os.getpid():
                self._client.close()
            self._client = None
            self._closed = True

    # reading

    def _find(self, query: Query[Any]) -> Iterator[Raw]:
        """The first page at once; only if there is more, all ids and then page by page."""
        if query.limit == 0:
            return
        projection = _projection(query.with_structure)
        size = PAGE_WITH_STRUCTURES if query.with_structure else PAGE
        limit = size if query.limit is None else min(size, query.limit)
        first = self._call(lambda: list(self._cursor(query, projection, limit)))
        seen = {raw.pop("_id") for raw in first}
        yield from first
        if len(first) < size or query.limit == size:
            return
        ids = [name for name in self._call(lambda: self._ids(query)) if name not in seen]
        for page in batched(ids, size):
            documents = self._call(partial(self._page, query.collection, page, projection))
            for identifier in page:
                if identifier in documents:
                    yield documents[identifier]

    def _ids(self, query: Query[Any]) -> list[Any]:
        return [raw["_id"] for raw in self._cursor(query, {"_id": 1}, query.limit or 0)]

    def _cursor(
        self, query: Query[Any], projection: Raw | None, limit: int
    ) -> pymongo.cursor.Cursor[Raw]:
        """Cursor that takes a limit in one message; 0 is none."""
        cursor = self._collection(query.collection).find(_filter(query), projection, limit=limit)
        cursor = cursor.batch_size(limit + 1 if limit else IDS_PAGE)
        if query.sort_by is not None:
            order = pymongo.DESCENDING if query.descending else pymongo.ASCENDING
            cursor = cursor.sort([(query.sort_by, order), ("_id", pymongo.ASCENDING)])
        return cursor.skip(query.skip)

    def _page(
        self, collection: Collection[Any], ids: list[Any], projection: Raw | None
    ) -> dict[Any, Raw]:
        cursor = self._collection(collection).find({"_id": {"$in": ids}}, projection)
        return {raw.pop("_id"): raw for raw in cursor.batch_size(len(ids) + 1)}

    def _lookup(
        self, collection: Collection[Any], keys: list[Key], without: frozenset[str]
    ) -> Iterator[Raw]:
        def read() -> list[Raw]:
            cursor = self._collection(collection).find(
                _key_filter(collection, keys), dict.fromkeys(without, 0) or None
            )
            return list(cursor.batch_size(len(keys) + 1))

        wanted = set(keys)
        for raw in self._call(read):
            raw.pop("_id")
            if tuple(raw.get(field) for field in collection.key_fields) in wanted:
                yield raw

    def _has(self, collection: Collection[Any], keys: list[Key]) -> set[Key]:
        fields = collection.key_fields

        def read() -> list[Raw]:
            projection = {"_id": 0} | dict.fromkeys(fields, 1)
            cursor = self._collection(collection).find(_key_filter(collection, keys), projection)
            return list(cursor.batch_size(len(keys) + 1))

        return set(keys) & {tuple(raw.get(f) for f in fields) for raw in self._call(read)}

    def _values(self, query: Query[Any], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        if query.limit == 0:
            return []
        projection = {"_id": 0} | dict.fromkeys(fields, 1)
        read = partial(self._cursor, query, projection, query.limit or 0)
        return [
            tuple(_inner(raw, field) for field in fields)
            for raw in self._call(lambda: list(read()))
        ]

    def count_by(self, query: Query[D], field: str) -> dict[Any, int]:
        """Documents that fulfil the conditions of a query, for each value of a field."""
        self._check_groupable(query.collection, field)
        is_list = field_kind(query.collection, field) == "list"
        pipeline = [
            {"$match": _filter(query)},
            *([{"$unwind": f"${field}"}] if is_list else ()),
            {"$group": {"_id": {"$ifNull": [f"${field}", None]}, "count": {"$sum": 1}}},
        ]
        rows = self._call(lambda: list(self._collection(query.collection).aggregate(pipeline)))
        rows.sort(key=lambda row: (row["_id"] is not None, row["_id"]))
        return {row["_id"]: row["count"] for row in rows}

    def count(self, query: Query[D]) -> int:
        """Documents that fulfil the conditions of a query; its limit is not looked at."""
        return self._call(
            lambda: self._collection(query.collection).count_documents(_filter(query))
        )

    # writing

    def _write(self, collection: Collection[D], documents: list[D], mode: WriteMode) -> None:
        if mode == "unfinished":  # whose updates make no document
            self._write(collection, documents, "insert")
        self._bulk(collection, [_upsert(collection, document, mode) for document in documents])

    def _update_run(self, seen: Run, run: Run, fields: Sequence[str]) -> bool:
        as_seen = {name: {"$eq": _plain(getattr(seen, name))} for name in fields}
        changes = {name: _plain(getattr(run, name)) for name in fields}
        update = UpdateOne({"run_id": run.run_id} | as_seen, {"$set": changes})
        return self._bulk(RUNS, [update]) == 1

    def _update_verdicts(self, verdicts: list[Verdict]) -> int:
        return self._bulk(CANDIDATES, [_verdict_update(verdict) for verdict in verdicts])

    def _bulk(self, collection: Collection[Any], operations: list[Any]) -> int:
        """Run a bulk write; returns how many stored documents it matched."""

        def write() -> int:
            result = self._collection(collection).bulk_write(operations, ordered=False)
            return result.matched_count

        try:
            return self._call(write)
        except DocumentTooLarge:
            key = _key_of_largest(operations)
            raise StoreError(f"{collection.name} {key}: is larger than 16 MB") from None
        except InvalidDocument as error:
            raise StoreError(f"{collection.name}: {_one_line(error)}") from None

    # raw data

    def _put_blob(self, name: str, data: bytes) -> None:
        def write() -> None:
            bucket = self._bucket()
            if next(iter(bucket.find({"_id": name}, limit=1)), None) is not None:
                return
            with suppress(NoFile):
                bucket.delete(name)  # what a writer that was killed left behind
            with suppress(FileExists):
                bucket.upload_from_stream_with_id(name, name, data)

        self._call(write)

    def _blob(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                data: bytes = self._bucket().open_download_stream(name).read()
            except NoFile:
                return None
            return data

        return self._call(read)

    def blobs(self) -> Iterator[str]:
        """Names of the raw data, in alphabetical order."""
        files = self._call(
            lambda: sorted(str(raw["_id"]) for raw in self._files().find({}, {"_id": 1}))
        )
        yield from files

    def _bucket(self) -> gridfs.GridFSBucket:
        return gridfs.GridFSBucket(self._database(), bucket_name=BUCKET)

    def _files(self) -> pymongo.collection.Collection[Raw]:
        return self._database()[f"{BUCKET}.files"]

    # the database

    def set_up(self) -> None:
        """Make what is missing: collections, validators, indexes. Harmless to repeat.

        Raises
        ------
        StoreError
            If documents with the same key keep a unique index from being built; it names them.
        """
        self._call(self._make_collections)
        for collection in COLLECTIONS:
            self._make_unique(collection)
            for fields in INDEXES[collection.name]:
                self._call(partial(self._make_index, collection, fields))

    def _mark(self, *, ready: bool) -> None:
        """Note the schema version, and whether the set-up for it is done."""
        known = {"schema_version": SCHEMA_VERSION, "ready": ready, "validators": VALIDATORS}
        self._call(
            lambda: self._database()[META].update_one(_META_KEY, {"$set": known}, upsert=True)
        )

    def _meta(self) -> Raw | None:
        return self._database()[META].find_one(_META_KEY)

    def _open(self) -> None:
        patience, self.patience = self.patience, min(self.patience, OPEN_PATIENCE)
        meta = self._call(self._meta)
        self.patience, self._opened = patience, True
        if meta is not None:
            check_version(self.location, meta.get("schema_version"))
        elif self.read_only:
            raise StoreError(f"{self.location} holds no screening yet")
        else:
            self._call(self._refuse_foreign)
        if self.read_only:
            return
        # An earlier version of this program may have set up validators that know less.
        if meta is None or not meta.get("ready") or meta.get("validators") != VALIDATORS:
            self._mark(ready=False)
            self.set_up()
            self._mark(ready=True)

    def _refuse_foreign(self) -> None:
        database = self._database()
        for name in database.list_collection_names():
            ours = any(name == collection.name for collection in COLLECTIONS)
            if ours and database[name].find_one({}, {"_id": 1}) is not None:
                raise StoreError(
                    f"{self.location}: collection {name!r} of database {database.name!r} was "
                    "made by another program; name another database in the URI"
                )

    def _make_collections(self) -> None:
        database = self._database()
        for collection in COLLECTIONS:
            try:
                database.create_collection(collection.name, check_exists=False)
            except CollectionInvalid:
                pass
            except OperationFailure as error:
                if error.code != NAMESPACE_EXISTS:
                    raise
            database.command(
                {
                    "collMod": collection.name,
                    "validator": validator(collection.document),
                    "validationLevel": "moderate",
                    "validationAction": "error",
                }
            )

    def _make_index(self, collection: Collection[Any], fields: tuple[str, ...]) -> None:
        index = [(field, pymongo.ASCENDING) for field in fields]
        self._collection(collection).create_index(index)

    def _make_unique(self, collection: Collection[Any]) -> None:
        index = [(field, pymongo.ASCENDING) for field in collection.key_fields]
        try:
            self._call(lambda: self._collection(collection).create_index(index, unique=True))
        except DuplicateKeyError:
            pipeline: list[Raw] = [
                {"$group": {"_id": {f: f"${f}" for f, _ in index}, "count": {"$sum": 1}}},
                {"$match": {"count": {"$gt": 1}}},
                {"$limit": 5},
            ]
            groups = self._call(lambda: list(self._collection(collection).aggregate(pipeline)))
            keys = "; ".join(
                ", ".join(str(group["_id"].get(field)) for field in collection.key_fields)
                for group in groups
            )
            raise StoreError(
                f"{self.location}: {collection.name} has several documents with the same key, "
                f"delete all but one of each: {keys}"
            ) from None

    def _collection(self, collection: Collection[Any]) -> pymongo.collection.Collection[Raw]:
        return self._database()[collection.name]

    def _database(self) -> Database[Raw]:
        if self._owner != os.getpid():  # another thread of the parent may hold the lock for ever
            self._lock = threading.Lock()
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.location} is closed")
            if self._client is None or self._owner != os.getpid():
                self._client = self._connect()
                self._owner = os.getpid()
            return self._client.get_default_database(
                DEFAULT_DATABASE, codec_options=CodecOptions(tz_aware=True, tzinfo=UTC)
            )

    def _connect(self) -> pymongo.MongoClient[Raw]:
        limits: dict[str, Any] = {"timeoutMS": int(TIMEOUT * 1000)}
        if self.read_only:  # timeoutMS would give the search for a server as long as an answer
            patience = max(MIN_TIMEOUT, self.patience)
            limits = {
                "serverSelectionTimeoutMS": int(patience * 1000),
                "socketTimeoutMS": int(TIMEOUT * 1000),
            }
        try:
            return pymongo.MongoClient(
                self._uri,
                appname="screening",
                w="majority",
                journal=True,
                retryReads=not self.read_only,  # `_call` does, and looks at the clock
                connectTimeoutMS=int(OPEN_PATIENCE * 1000),
                **limits,
            )
        except (ValueError, OSError) as error:  # what pymongo raises for some wrong URIs
            raise StoreError(
                f"{self.location} cannot be used: {_one_line(error, self._uri)}"
            ) from None

    def _call(self, operation: Callable[[], T]) -> T:
        """Result of an idempotent operation, tried again while a server is away.

        Errors that the caller can say more about are passed on, all others become StoreErrors.
        """
        start = time.monotonic()

        def attempt() -> T:
            left = max(MIN_TIMEOUT, start + self.patience - time.monotonic())
            if self.read_only:  # to find the server may not take long, to read may
                with pymongo.timeout(left):
                    self._database().command("ping")
                with self._watch:
                    return operation()
            with self._watch, pymongo.timeout(min(TIMEOUT, left)):
                return operation()

        again = Retrying(
            retry=retry_if_exception(is_passing),
            wait=wait_exponential(FIRST_PAUSE, max=LONGEST_PAUSE),
            stop=stop_before_delay(self.patience),
            reraise=True,
        )
        try:
            return again(attempt)
        except DuplicateKeyError:
            raise
        except PyMongoError as error:
            if not is_passing(error):
                raise StoreError(self._in_words(error)) from error
            raise StoreError(self._gave_up(error, time.monotonic() - start)) from error

    def _gave_up(self, error: PyMongoError, waited: float) -> str:
        if not self._opened:
            return f"{self.location} cannot be reached ({_one_line(error)}); check URI and server"
        if self.read_only:
            return f"{self.location} has not answered for {waited:.0f} s ({_one_line(error)})"
        return (
            f"{self.location} has not answered for {self.patience:.0f} s ({_one_line(error)}); "
            "what was written is kept: run again with --resume when it is back"
        )

    def _in_words(self, error: PyMongoError) -> str:
        code = getattr(error, "code", None)
        if isinstance(error, (InvalidURI, ConfigurationError)):
            return f"{self.location} cannot be used: {_one_line(error, self._uri)}"
        if code == 18:
            return f"{self.location} refuses the user or the password; check the URI"
        if code == 13:
            return f"{self.location} does not let this user do that; ask for the readWrite role"
        if isinstance(error, BulkWriteError):
            return f"{self.location} refuses a document: {_first_write_error(error)}"
        return f"{self.location} failed: {_one_line(error)}"


def is_passing(error: BaseException) -> bool:
    """Whether the operation that failed may succeed a little later."""
    if not isinstance(error, PyMongoError) or isinstance(error, DuplicateKeyError):
        return False
    if isinstance(error, BulkWriteError):
        return _is_passing_bulk(error.details or {})
    if isinstance(error, ConfigurationError):
        return False
    return (
        isinstance(error, ConnectionFailure)
        or error.timeout
        or any(error.has_error_label(label) for label in PASSING_LABELS)
        or getattr(error, "code", None) in PASSING_CODES
    )


def _is_passing_bulk(details: Mapping[str, Any]) -> bool:
    """Two writers met at a new key, or the majority was late; a wrong document stays wrong."""
    errors = details.get("writeErrors", [])
    concerns = details.get("writeConcernErrors", [])
    codes = {error.get("code") for error in [*errors, *concerns]}
    return bool(codes) and codes <= PASSING_CODES | {DUPLICATE}


def _first_write_error(error: BulkWriteError) -> str:
    details = error.details or {}
    for write_error in details.get("writeErrors", []):
        operation = write_error.get("op") or {}
        key = ", ".join(str(value) for value in operation.get("q", {}).values())
        return f"{key}: {write_error.get('errmsg', 'unknown')}"[:300]
    return _one_line(error)


def _one_line(error: Exception, secret: str = "") -> str:
    """First sentence of an error message, without what is in the secret URI."""
    text = " ".join(str(error).split()).split(" (configured timeouts")[0].split(", full error")[0]
    if isinstance(error, ServerSelectionTimeoutError):
        text = text.split(", Timeout:")[0]
    credentials = secret.partition("://")[2].rpartition("@")[0]
    for part in (credentials, *credentials.split(":")):
        if part:
            text = text.replace(part, "***")
    return text[:300]


def _inner(raw: Any, field: str) -> Any:
    """Value of a field, also of one in a model in the document; None where there is none."""
    for name in field.split("."):
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _plain(value: Any) -> Any:
    """BSON-able value of a field."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, StructureArrays):
        return value.as_dict()
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return [item.model_dump() for item in value]
    return value


def _upsert(collection: Collection[D], document: D, mode: WriteMode) -> Any:
    values = {name: _plain(value) for name, value in document.__dict__.items()}
    key = {field: values.pop(field) for field in collection.key_fields}
    if mode == "replace":
        return ReplaceOne(key, key | values, upsert=True)
    if mode == "insert":
        return UpdateOne(key, {"$setOnInsert": values}, upsert=True)
    if values.get("structure", ...) is None:
        del values["structure"]
    update = {"$set": values}
    if "created_at" in values:
        update["$setOnInsert"] = {"created_at": values.pop("created_at")}
    if mode == "unfinished":
        return UpdateOne(key | {"state": {"$nin": list(FINISHED)}}, update)
    return UpdateOne(key, update, upsert=True)


def _verdict_update(verdict: Verdict) -> UpdateOne:
    return UpdateOne(
        dict(zip(CANDIDATES.key_fields, verdict.key, strict=True)),
        {"$set": {field: _plain(getattr(verdict, field)) for field in VERDICT_FIELDS}},
    )


def _key_of_largest(operations: list[Any]) -> str:
    """Key of the operation whose document is the largest."""
    largest = max(operations, key=lambda operation: len(bson.encode(operation._doc)))
    return ", ".join(str(value) for value in largest._filter.values())


def _projection(with_structure: bool) -> Raw | None:
    return None if with_structure else {"structure": 0}


def _key_filter(collection: Collection[Any], keys: list[Key]) -> Raw:
    """Filter that lets the keys through, and few others."""
    columns = dict(zip(collection.key_fields, zip(*keys, strict=True), strict=True))
    first = collection.key_fields[0]
    return {
        field: {"$in": sorted(set(values))}
        for field, values in columns.items()
        if field == first or len(set(values)) == 1 or first == "run_id"
    }


def _filter(query: Query[Any]) -> Raw:
    """MongoDB's filter of a query; values are always operands, never operators."""
    clauses = [_clause(condition) for condition in query.conditions]
    return {"$and": clauses} if clauses else {}


def _clause(condition: Condition) -> Raw:
    value = condition.value
    if isinstance(value, (list, tuple, set, frozenset)):
        value = list(value)
    return {condition.field: {OPERATORS[condition.operator]: value}}
