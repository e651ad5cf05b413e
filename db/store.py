"""The contract of a screening's store.

maggma's stores are not used: the embedded one, MontyStore, lost or doubled documents with two
writers or a kill, and mongomock, for 10,000 documents with a unique key, took 75 s where the
embedded store takes 0.2 s.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any, Literal, Self

import orjson
from pydantic import ValidationError

from db.collections import (
    CANDIDATES,
    PREDICTIONS,
    ROUNDS,
    RUNS,
    VALIDATIONS,
    Collection,
    Condition,
    D,
    Key,
    Query,
    batched,
    conditions,
    field_kind,
    is_text,
    item_type,
)
from db.documents import (
    SCHEMA_VERSION,
    STORED,
    CandidateDoc,
    CandidateState,
    PredictionDoc,
    PredictionKey,
    RoundDoc,
    Run,
    RunState,
    ValidationDoc,
    ValidationState,
    Verdict,
    check_free_dict,
)
from db.errors import StoreError
from models.errors import describe

BATCH = 1000  # documents in a transaction or bulk write
MAX_DOCUMENT = 15 * 2**20  # bytes; MongoDB takes 16 MiB, and both stores keep the same documents
MAX_PROBLEMS = 1000
CHANGES = 100  # tries of a change; of several at once one succeeds each time

MONGODB_SCHEMES = ("mongodb://", "mongodb+srv://")
WriteMode = Literal["update", "insert", "replace", "unfinished"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """A stored document that could not be read: edited by hand, or of another version."""

    collection: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.collection} {self.key}: {self.reason}"


@dataclass(frozen=True)
class History:
    """All that is stored of a material, oldest first."""

    material_id: str
    runs: list[Run]
    candidates: list[CandidateDoc]
    predictions: list[PredictionDoc]
    validations: list[ValidationDoc]


class ScreeningStore(ABC):
    """Runs, candidates, predictions, validations and rounds, written by several processes at once.

    Writes are idempotent upserts by the key of the document, in batches of `BATCH`; each batch
    is written whole before the next is taken from the iterable. What a method has returned from
    survives the end of the process.

    Readers stream: which documents are read is fixed when the first is, and each is as it was
    when its page was read. The store may be written to while it is read.
    A document that cannot be read is left out, logged, and added to `problems`; only
    :meth:`run`, which asks for one document, raises.

    A store may be used by several threads, and by a child process after a fork.

    Attributes
    ----------
    location : str
        The path or URI, without credentials.
    read_only : bool
        Whatever writes raises :class:`db.errors.StoreError`.
    problems : deque of Problem
        The latest documents that could not be read.
    """

    def __init__(self, location: str, read_only: bool = False) -> None:
        self.location = location
        self.read_only = read_only
        self.problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    # what a store implements

    @abstractmethod
    def close(self) -> None:
        """Let go of the file or the connections; may be called twice."""

    @abstractmethod
    def _find(self, query: Query[Any]) -> Iterator[dict[str, Any]]:
        """Stream what is stored of the documents that a query asks for."""

    @abstractmethod
    def _lookup(
        self, collection: Collection[Any], keys: list[Key], without: frozenset[str]
    ) -> Iterator[dict[str, Any]]:
        """What is stored under the given keys, without some fields."""

    @abstractmethod
    def _has(self, collection: Collection[Any], keys: list[Key]) -> set[Key]:
        """Those of the keys that have a document."""

    @abstractmethod
    def count_by(self, query: Query[D], field: str) -> dict[Any, int]:
        """Documents that fulfil the conditions of a query, for each value of a field.

        Parameters
        ----------
        query : Query
            Its limit is not looked at.
        field : str
            With a plain value, or a list of texts, of which each counts.

        Returns
        -------
        dict
            In rising order of the values, None first.
        """

    @abstractmethod
    def _values(self, query: Query[Any], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """What is stored in some plain fields of the documents that a query asks for."""

    @abstractmethod
    def count(self, query: Query[D]) -> int:
        """Documents that fulfil the conditions of a query; its limit is not looked at."""

    @abstractmethod
    def _write(self, collection: Collection[D], documents: list[D], mode: WriteMode) -> None:
        """Upsert documents with different keys in one transaction or bulk write."""

    @abstractmethod
    def _update_run(self, seen: Run, run: Run, fields: Sequence[str]) -> bool:
        """Write some fields of a run if all of them are stored as they were seen; whether so."""

    @abstractmethod
    def _update_verdicts(self, verdicts: list[Verdict]) -> int:
        """Update candidates in one transaction or bulk write; returns how many there were."""

    @abstractmethod
    def _put_blob(self, name: str, data: bytes) -> None:
        """Keep bytes under a name made from them."""

    @abstractmethod
    def _blob(self, name: str) -> bytes | None:
        """Bytes of that name, None if there are none."""

    @abstractmethod
    def blobs(self) -> Iterator[str]:
        """Names of the raw data that :meth:`put_raw_dos` stored, in alphabetical order."""

    # documents of any sort

    def find(self, query: Query[D]) -> Iterator[D]:
        """Stream the documents that a query asks for."""
        for raw in self._find(query):
            document = self._read(query.collection, raw)
            if document is not None:
                yield document

    def values(self, query: Query[D], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """Plain fields of the documents that a query asks for, ten times as fast as these.

        They are as they are stored, which nothing checks.

        Parameters
        ----------
        query : Query
        fields : sequence of str
            With plain values: ``"score"``, ``"gap.width"``.

        Returns
        -------
        list of tuple
            Of a document each, in the order of the query.
        """
        for field in fields:
            if field_kind(query.collection, field) != "scalar":
                raise StoreError(f"{query.collection.name}: {field!r} is not a plain value")
        return self._values(query, fields)

    def lookup(
        self,
        collection: Collection[D],
        keys: Iterable[Key],
        *,
        with_structure: bool = False,
        without: Sequence[str] = (),
    ) -> Iterator[D]:
        """Stream the documents with the given keys in any order; unknown keys give none.

        Parameters
        ----------
        collection : Collection
        keys : iterable of tuple of str
            Values of the collection's `key_fields`.
        with_structure : bool
            Read the structures of candidates too.
        without : sequence of str
            Fields that are not read and have their defaults, which is faster.
        """
        left_out = frozenset(without if with_structure else (*without, "structure"))
        for batch in _batches_of_keys(collection, keys):
            for raw in self._lookup(collection, batch, left_out):
                document = self._read(collection, raw)
                if document is not None:
                    yield document

    def has(self, collection: Collection[Any], keys: Iterable[Key]) -> set[Key]:
        """Those of the keys that have a document, readable or not.

        Parameters
        ----------
        collection : Collection
        keys : iterable of tuple of str
            Values of the collection's `key_fields`.
        """
        present: set[Key] = set()
        for batch in _batches_of_keys(collection, keys):
            present |= self._has(collection, batch)
        return present

    def upsert(
        self, collection: Collection[D], documents: Iterable[D], mode: WriteMode = "update"
    ) -> int:
        """Write documents by their keys.

        Parameters
        ----------
        collection : Collection
        documents : iterable
            Taken in batches; of two with the same key the later one stays.
        mode : {'update', 'insert', 'replace', 'unfinished'}
            ``"update"`` keeps the first `created_at`, and the stored structure where the new
            document has none; ``"insert"`` leaves a stored document as it is; ``"replace"``
            replaces all of it; ``"unfinished"`` updates, but leaves a finished calculation as it
            is.

        Returns
        -------
        int
            How many documents were taken.

        Raises
        ------
        StoreError
            If the store cannot be written. The batches before are kept.
        """
        self._check_writable()
        taken = 0
        for batch in batched(documents, BATCH):
            for document in batch:
                if not isinstance(document, collection.document):
                    raise StoreError(
                        f"{collection.name} take {collection.document.__name__}, "
                        f"not {type(document).__name__}"
                    )
            unique = {collection.key(document): document for document in batch}
            self._write(collection, list(unique.values()), mode)
            taken += len(batch)
        return taken

    def _read(self, collection: Collection[D], raw: dict[str, Any]) -> D | None:
        """Document of what is stored; None, with a problem noted, if it is not one."""
        try:
            return collection.document.model_validate(raw, context=STORED)
        except ValidationError as error:
            key = ", ".join(f"{raw.get(field)!s:.80}" for field in collection.key_fields)
            self.note(Problem(collection.name, key, describe(error)))
            return None

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreError(f"{self.location} is open for reading only")

    def _check_groupable(self, collection: Collection[Any], field: str) -> None:
        of_texts = field_kind(collection, field) == "list" and item_type(collection, field) is str
        if field_kind(collection, field) != "scalar" and not of_texts:
            raise StoreError(f"{collection.name}: cannot count by {field!r}")

    def note(self, problem: Problem) -> None:
        """Log a problem and remember it."""
        if problem not in self.problems:
            log.warning("%s: %s", self.location, problem)
            self.problems.append(problem)

    # runs

    def put_run(self, run: Run) -> None:
        """Write a run; its first `created_at` stays."""
        self.upsert(RUNS, [run])

    def change_run(self, run_id: str, change: Callable[[Run], Run]) -> Run:
        """Change a run; of changes by several processes at once each sees those before it.

        Parameters
        ----------
        run_id : str
        change : callable
            Gives the changed run of the stored one. It is called again if others have changed
            the same fields meanwhile, or if a server's answer was lost, and so twice for one
            change at times.

        Returns
        -------
        Run
            As it is stored now, but for what others changed in its other fields meanwhile.

        Raises
        ------
        StoreError
            If there is no such run, or others change it all the time.
        """
        self._check_writable()
        for _ in range(CHANGES):
            seen = self.run(run_id)
            run = change(seen)
            fields = [name for name, value in run if value != getattr(seen, name)]
            if not fields or self._update_run(seen, run, fields):
                return run
        raise StoreError(
            f"{self.location}: run {run_id!r:.80} is changed by others all the time; try again"
        )

    def run(self, run_id: str) -> Run:
        """The run of that id.

        Raises
        ------
        StoreError
            If there is none, or if it cannot be read.
        """
        for batch in _batches_of_keys(RUNS, [(run_id,)]):
            for raw in self._lookup(RUNS, batch, frozenset()):
                try:
                    return Run.model_validate(raw, context=STORED)
                except ValidationError as error:
                    raise StoreError(
                        f"{self.location}: run {run_id!r} is not readable: {describe(error)}"
                    ) from None
        raise StoreError(f"{self.location} has no run {run_id!r:.80}")

    def runs(self, state: RunState | None = None) -> list[Run]:
        """All runs, newest first."""
        query = Query(RUNS, conditions(state=state), sort_by="created_at", descending=True)
        return list(self.find(query))

    # candidates

    def upsert_candidates(
        self, documents: Iterable[CandidateDoc], *, keep_existing: bool = False
    ) -> int:
        """Write candidates by (run_id, material_id); returns how many were taken.

        A document without a structure leaves a stored structure as it is. With `keep_existing`
        a candidate that is there already stays untouched, verdict and all.

        Parameters
        ----------
        documents : iterable of CandidateDoc
        keep_existing : bool
        """
        return self.upsert(CANDIDATES, documents, "insert" if keep_existing else "update")

    def candidates(
        self,
        run_id: str,
        *,
        state: CandidateState | Sequence[CandidateState] | None = None,
        shard: int | None = None,
        is_positive: bool | None = None,
        material_ids: Iterable[str] | None = None,
        with_structure: bool = False,
        sort_by: str | None = None,
        descending: bool = False,
        limit: int | None = None,
        skip: int = 0,
    ) -> Iterator[CandidateDoc]:
        """Stream the candidates of a run; the structures only on request.

        Parameters
        ----------
        run_id : str
        state : str or sequence of str, optional
            Any of these.
        shard : int, optional
        is_positive : bool, optional
        material_ids : iterable of str, optional
        with_structure, sort_by, descending, limit, skip
            As in :class:`db.collections.Query`.
        """
        asked = conditions(
            run_id=run_id,
            state=state,
            shard=shard,
            is_positive=is_positive,
            material_id=None if material_ids is None else tuple(material_ids),
        )
        return self.find(Query(CANDIDATES, asked, sort_by, descending, limit, with_structure, skip))

    def candidate_counts(self, run_id: str) -> dict[str, int]:
        """Candidates of a run in each state; states without any are left out."""
        return self.count_by(Query(CANDIDATES, conditions(run_id=run_id)), "state")

    def shards(self, run_id: str, state: CandidateState | None = None) -> list[int]:
        """Shards of a run that have candidates (in that state), in rising order.

        Parameters
        ----------
        run_id : str
        state : str, optional
        """
        query = Query(CANDIDATES, conditions(run_id=run_id, state=state))
        return sorted(shard for shard in self.count_by(query, "shard") if shard is not None)

    def apply_verdicts(self, verdicts: Iterable[Verdict]) -> int:
        """Update state, reason, model, gap, both verdicts and score of stored candidates.

        Returns
        -------
        int
            How many candidates there were to update; a verdict on an unknown one does nothing.
        """
        self._check_writable()
        return sum(
            self._update_verdicts(list({v.key: v for v in batch}.values()))
            for batch in batched(verdicts, BATCH)
        )

    # predictions

    def upsert_predictions(self, documents: Iterable[PredictionDoc]) -> int:
        """Write predictions by (material_id, structure_hash, model_id); first created_at stays."""
        return self.upsert(PREDICTIONS, documents)

    def predictions(
        self, keys: Iterable[PredictionKey], *, without: Sequence[str] = ()
    ) -> Iterator[PredictionDoc]:
        """Stream the predictions with the given (material_id, structure_hash, model_id).

        Parameters
        ----------
        keys : iterable of tuple of str
        without : sequence of str
            As of :meth:`lookup`.
        """
        return self.lookup(PREDICTIONS, keys, without=without)

    def has_predictions(self, keys: Iterable[PredictionKey]) -> set[PredictionKey]:
        """Those of the keys for which there is a prediction."""
        return self.has(PREDICTIONS, keys)  # type: ignore[return-value]

    # validations

    def upsert_validations(
        self, documents: Iterable[ValidationDoc], *, keep_finished: bool = False
    ) -> int:
        """Write validations by (material_id, structure_hash, engine, recipe).

        With `keep_finished` one that is finished by now stays as it is, and each keeps the runs
        that asked for it beside those of the new document.

        Parameters
        ----------
        documents : iterable of ValidationDoc
        keep_finished : bool
        """
        if not keep_finished:
            return self.upsert(VALIDATIONS, documents)
        return sum(self._keep_finished(batch) for batch in batched(documents, BATCH))

    def _keep_finished(self, documents: list[ValidationDoc]) -> int:
        """Write a batch; what ends between the look and the write gets its runs afterwards."""
        wanted = {document.key: document for document in documents}
        for known in self.lookup(VALIDATIONS, wanted):
            wanted[known.key] = _asked_by_both(wanted[known.key], known)
        self.upsert(VALIDATIONS, wanted.values(), "unfinished")
        self.upsert(
            VALIDATIONS,
            [
                _asked_by_both(known, wanted[known.key])
                for known in self.lookup(VALIDATIONS, wanted)
                if known.is_finished and not {*wanted[known.key].run_ids} <= {*known.run_ids}
            ],
        )
        return len(documents)

    def validations(
        self,
        *,
        run_id: str | None = None,
        engine: str | None = None,
        recipe: str | None = None,
        state: ValidationState | Sequence[ValidationState] | None = None,
        material_ids: Iterable[str] | None = None,
    ) -> Iterator[ValidationDoc]:
        """Stream validations; `run_id`: those that the run asked for.

        Parameters
        ----------
        run_id, engine, recipe : str, optional
        state : str or sequence of str, optional
            Any of these.
        material_ids : iterable of str, optional
        """
        asked = conditions(
            engine=engine,
            recipe=recipe,
            state=state,
            material_id=None if material_ids is None else tuple(material_ids),
        )
        if run_id is not None:
            asked += (Condition("run_ids", "has", run_id),)
        return self.find(Query(VALIDATIONS, asked))

    def put_raw_dos(self, dos: dict[str, Any]) -> dict[str, Any]:
        """Keep a raw DOS (dict of a pymatgen Dos) and return the reference to it.

        The same DOS gives the same reference and is kept once.
        """
        self._check_writable()
        try:
            body = orjson.dumps(check_free_dict(dos), option=orjson.OPT_SORT_KEYS)
        except ValueError as error:
            raise StoreError(f"raw DOS cannot be stored: {error}") from None
        name = hashlib.sha256(body).hexdigest()
        self._put_blob(name, zlib.compress(body, 6))
        return {"kind": "store", "name": name, "bytes": len(body)}

    def raw_dos(self, reference: dict[str, Any]) -> dict[str, Any]:
        """Raw DOS of a reference that :meth:`put_raw_dos` gave.

        Raises
        ------
        StoreError
            If it is not there, or not what was stored.
        """
        name = reference.get("name")
        data = self._blob(name) if isinstance(name, str) else None
        if data is None:
            raise StoreError(f"{self.location} has no raw DOS {name!r:.80}")
        try:
            body = zlib.decompress(data)
        except zlib.error:
            body = b""
        if hashlib.sha256(body).hexdigest() != name:
            raise StoreError(f"{self.location}: raw DOS {name} is damaged; compute it again")
        dos: dict[str, Any] = orjson.loads(body)
        return dos

    # rounds

    def put_round(self, document: RoundDoc) -> None:
        """Write a round of a search; its first `created_at` stays."""
        self.upsert(ROUNDS, [document])

    def rounds(self, run_id: str | None = None) -> list[RoundDoc]:
        """The rounds of the search that began with a run, or of all; each search from its first."""
        rounds = self.find(Query(ROUNDS, conditions(run_id=run_id)))
        return sorted(rounds, key=lambda document: (document.run_id, int(document.number)))

    # everything about a material

    def history(self, material_id: str, limit: int | None = None) -> History:
        """All that is stored of a material, over runs, models and engines.

        Parameters
        ----------
        material_id : str
        limit : int, optional
            So many candidates, predictions and validations each at most, the newest.
        """
        of_material = conditions(material_id=material_id)
        candidates = list(self.find(Query(CANDIDATES, of_material)))
        runs = sorted(
            self.lookup(RUNS, {(c.run_id,) for c in candidates}), key=lambda run: run.created_at
        )
        rank = {run.run_id: i for i, run in enumerate(runs)}
        candidates.sort(key=lambda c: (rank.get(c.run_id, -1), c.run_id))
        return History(
            material_id,
            runs,
            list(deque(candidates, limit)),
            self._newest(PREDICTIONS, of_material, limit),
            self._newest(VALIDATIONS, of_material, limit),
        )

    def _newest(
        self, collection: Collection[D], asked: tuple[Condition, ...], limit: int | None
    ) -> list[D]:
        query = Query(collection, asked, "created_at", descending=True, limit=limit)
        return sorted(self.find(query), key=attrgetter("created_at"))


def check_version(location: str, version: object, known: int = SCHEMA_VERSION) -> None:
    """Refuse a store of another schema version.

    Within a version the documents may get fields that can be None; both stores make room for
    them when they are opened.

    Parameters
    ----------
    location : str
        Of the store, without credentials.
    version : object
        What the store says.
    known : int
        The present version.

    Raises
    ------
    StoreError
        If it is not the present version.
    """
    if version == known:
        return
    older = isinstance(version, int) and version < known
    advice = "restore it from a copy" if older else "install a newer version of it"
    raise StoreError(
        f"{location} has schema version {version!r:.20}, this program knows {known}; " + advice
    )


def mask_uri(uri_or_path: str) -> str:
    """The same without user, password and options, fit for messages and reports.

    Examples
    --------
    >>> mask_uri("mongodb://ann:secret@db.example.org:27017/screening?tls=true")
    'mongodb://db.example.org:27017/screening'
    """
    scheme, separator, rest = uri_or_path.partition("://")
    if not separator:
        return uri_or_path
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _asked_by_both(document: ValidationDoc, other: ValidationDoc) -> ValidationDoc:
    """The document, with the runs that asked for the other one, too."""
    return document.model_copy(update={"run_ids": sorted({*document.run_ids, *other.run_ids})})


def _batches_of_keys(collection: Collection[Any], keys: Iterable[Key]) -> Iterator[list[Key]]:
    for batch in batched(keys, BATCH):
        for key in batch:
            _check_key(collection, key)
        yield list(dict.fromkeys(tuple(key) for key in batch))


def _check_key(collection: Collection[Any], key: Key) -> None:
    fields = collection.key_fields
    if not isinstance(key, (tuple, list)) or len(key) != len(fields):
        raise StoreError(f"key {key!r:.80} of {collection.name} is not ({', '.join(fields)})")
    for part in key:
        if not isinstance(part, str) or not is_text(part):
            raise StoreError(f"key {key!r:.80} of {collection.name} is not made of text")
