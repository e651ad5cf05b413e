"""Everything from one store to another, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from db.collections import COLLECTIONS, Collection, D, Query, batched
from db.documents import FINISHED, VALIDATION_CHOICES, Document, Run, ValidationDoc
from db.errors import StoreError
from db.store import BATCH, ScreeningStore

Progress = Callable[[str, int], None]
WITH_RESULT = (*FINISHED, "screened")  # states of runs, candidates, calculations and rounds


class Source(Protocol):
    """What can be copied: a store, or an archive of a run."""

    location: str

    def find(self, query: Query[D]) -> Iterator[D]:
        """Stream the documents that a query asks for."""

    def count(self, query: Query[Any]) -> int:
        """How many there are."""

    def blobs(self) -> Iterator[str]:
        """Names of the raw data."""

    def raw_dos(self, reference: dict[str, Any]) -> dict[str, Any]:
        """Raw DOS of a name."""


@dataclass
class Copied:
    """What became of one collection.

    Attributes
    ----------
    name : str
    documents : int
        Documents that the source holds and that are now in the target too.
    written : int
        Those of them that were not there before, or were different.
    unreadable : int
        Documents of the source that could not be read and were left out; the source's
        `problems` name them.
    checksum : str
        64 hexadecimal digits, the same for the same documents in any order.
    """

    name: str
    documents: int = 0
    written: int = 0
    unreadable: int = 0
    checksum: str = field(default="")


def copy_store(
    source: Source, target: ScreeningStore, progress: Progress | None = None
) -> list[Copied]:
    """Copy all documents and raw data; the target's other documents stay.

    A document of the same key is replaced, but what has a result (a calculation, a candidate, a
    run or a round) is not replaced by what has none; of a calculation the target's runs that asked
    for it are kept, and of a run what the source does not know of it. Of how its positives were
    chosen for DFT the target has the notes of both, for each engine and recipe its own unless the
    source's says all of that and more.

    What is in the target already and equal is not written again, so that a copy that was
    interrupted goes on where it stopped.

    Parameters
    ----------
    source : Source
        A store, or a :class:`db.opened_archive.OpenedArchive`.
    target : ScreeningStore
    progress : callable, optional
        Called with the collection's name and the number of documents done after each batch.

    Returns
    -------
    list of Copied
        One for each collection, and one for the raw data.

    Raises
    ------
    StoreError
        If the target, read again, does not hold what it should.
    """
    report = [_copy_collection(source, target, c, progress) for c in COLLECTIONS]
    return [*report, _copy_blobs(source, target, progress)]


def checksum(documents: list[Document]) -> str:
    """64 hexadecimal digits for a set of documents, the same in any order."""
    return _as_text(sum(map(_digest, documents)))


def _copy_collection(
    source: Source,
    target: ScreeningStore,
    collection: Collection[Any],
    progress: Progress | None,
) -> Copied:
    copied = Copied(collection.name)
    for batch, present in _merged(source, target, collection):
        digests = {key: _digest(document) for key, document in present.items()}
        missing = [d for d in batch if digests.get(collection.key(d)) != _digest(d)]
        target.upsert(collection, missing, "replace")
        copied.documents += len(batch)
        copied.written += len(missing)
        if progress is not None:
            progress(collection.name, copied.documents)
    copied.unreadable = source.count(Query(collection)) - copied.documents
    copied.checksum = _verify(source, target, collection, copied.documents)
    return copied


def _verify(
    source: Source, target: ScreeningStore, collection: Collection[Any], copied: int
) -> str:
    """Checksum of what the target is to hold, after that of what it holds was the same."""
    source_sum = target_sum = in_source = in_target = 0
    for batch, present in _merged(source, target, collection):
        source_sum += sum(map(_digest, batch))
        target_sum += sum(map(_digest, present.values()))
        in_source += len(batch)
        in_target += len(present)
    if source_sum != target_sum or in_source != in_target or in_source != copied:
        raise StoreError(
            f"{collection.name}: {target.location} has {in_target} of the {in_source} documents of "
            f"{source.location}, checksums {_as_text(target_sum):.8} and "
            f"{_as_text(source_sum):.8}; one of them was written to meanwhile: copy again"
        )
    return _as_text(source_sum)


def _merged(
    source: Source, target: ScreeningStore, collection: Collection[Any]
) -> Iterator[tuple[list[Any], dict[Any, Any]]]:
    """What the target is to hold of the source, and what it holds of that, batch by batch."""
    key = collection.key
    for documents in batched(source.find(Query(collection, with_structure=True)), BATCH):
        found = target.lookup(collection, map(key, documents), with_structure=True)
        present = {key(document): document for document in found}
        yield [_merge(document, present.get(key(document))) for document in documents], present


def _merge(document: Any, known: Any | None) -> Any:
    """What the target is to hold where it knows a document of the same key."""
    if known is None:
        return document
    kept = known if _has_result(known) and not _has_result(document) else document
    if isinstance(kept, Run):
        parameters = known.parameters | kept.parameters | _choices(document, known)
        return kept.model_copy(update={"parameters": parameters})
    if not isinstance(kept, ValidationDoc):
        return kept
    changes: dict[str, Any] = {"run_ids": list(dict.fromkeys([*document.run_ids, *known.run_ids]))}
    if kept.state == known.state and not (kept.is_finished or kept.job_uuids):
        changes["job_uuids"] = known.job_uuids  # the target's launchpad has it
    return kept.model_copy(update=changes)


def _choices(document: Run, known: Run) -> dict[str, Any]:
    """The target's notes on how positives were chosen, and the source's that say more."""
    notes = _notes(known)
    for kind, note in _notes(document).items():
        if kind not in notes or _says_all_of(note, notes[kind]):
            notes[kind] = note
    return {VALIDATION_CHOICES: list(notes.values())} if notes else {}


def _notes(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """Notes by engine and recipe; an archive may have anything in their place."""
    notes = run.parameters.get(VALIDATION_CHOICES)
    listed = [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []
    return {(str(note.get("engine")), str(note.get("recipe"))): note for note in listed}


def _says_all_of(note: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a note has every name of another one and no fewer draws, as a later one has."""
    counts = zip(_counts(other), _counts(note), strict=True)
    return _texts(other) <= _texts(note) and all(before <= after for before, after in counts)


def _counts(note: dict[str, Any]) -> tuple[int, ...]:
    """What only grows in a note of :class:`workflows.plan.Choice` as more is chosen."""
    numbers = (note.get(name) for name in ("n_best", "n_random"))
    among_all = note.get("in_domain") is not True
    return among_all, *(n if type(n) is int else -1 for n in numbers)


def _texts(value: Any) -> set[str]:
    """All texts in a note: strategies, and the materials that they chose."""
    if isinstance(value, str):
        return {value}
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return set().union(*map(_texts, inner)) if isinstance(inner, list) else set()


def _has_result(document: Any) -> bool:
    return getattr(document, "state", None) in WITH_RESULT


def _digest(document: Document) -> int:
    values = {
        name: value + 0.0 if type(value) is float else value  # no negative zeros
        for name, value in document.model_dump().items()
    }
    body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.sha256(body).digest(), "big")


def _as_text(total: int) -> str:
    return f"{total % 2**256:064x}"


def _copy_blobs(source: Source, target: ScreeningStore, progress: Progress | None) -> Copied:
    copied = Copied("raw_dos")
    present = set(target.blobs())
    total = 0
    for name in source.blobs():
        if name not in present:
            target.put_raw_dos(source.raw_dos({"name": name}))
            copied.written += 1
        copied.documents += 1
        total += int(name, 16)
        if progress is not None:
            progress(copied.name, copied.documents)
    missing = set(source.blobs()) - set(target.blobs())
    if missing:
        raise StoreError(f"{target.location} lacks {len(missing)} raw DOS; copy again")
    copied.checksum = _as_text(total)
    return copied
