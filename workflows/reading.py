"""From a source to the candidate documents of a run: opening, filters, primitive cells."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any

from db.documents import CandidateDoc, Run
from models.crystal import structure_hashes
from models.distances import have_isolated_atoms
from models.elements import KnownElements
from models.processes import rare_collections, streamed
from screening.candidate import (
    Candidate,
    Origin,
    SourceItem,
    Unreadable,
    id_problem,
    structure_document,
)
from screening.domain import Domain, Training
from screening.filters import FilterVerdict, ScreeningFilters, switched_on
from screening.funnel import Funnel
from screening.sources import Source, is_database, mark_known_edos, open_source
from screening.sources.ids import read_material_ids
from workflows.progress import advance, steps_of

log = logging.getLogger(__name__)

READ_BATCH = 1000  # candidates that are judged and stored at a time


def open_source_of_run(source: str, filters: ScreeningFilters, options: dict[str, Any]) -> Source:
    """Open the source; a database on a server applies the filters itself as far as it can.

    Parameters
    ----------
    source : str
        See :func:`screening.sources.open_source`.
    filters : ScreeningFilters
    options : dict
        See :class:`workflows.screening.ScreeningFlowMaker`.
    """
    options = dict(options)
    known_edos = options.pop("known_edos", None)
    if is_database(source):
        options["filters"] = filters
    if source == "mp":
        key_file = options.pop("api_key_file", None)
        options |= {
            "api_key_file": Path(key_file) if key_file else None,
            "progress": steps_of("fetched"),
        }
    opened = open_source(source, **options)
    if known_edos is None:
        return opened
    return mark_known_edos(opened, known_ids(known_edos))


def known_ids(known_edos: str | Sequence[str] | None) -> frozenset[str]:
    """Ids of all materials whose DOS is known.

    Parameters
    ----------
    known_edos : str or sequence of str or None
        Path of a file that :func:`screening.sources.ids.read_material_ids` reads, or of several.
    """
    files = [known_edos] if isinstance(known_edos, str) else known_edos or ()
    return frozenset[str]().union(*(read_material_ids(Path(file)) for file in files))


@dataclass(frozen=True)
class CandidateReader:
    """Candidates of a source as documents of a run, passed and rejected.

    Parameters
    ----------
    run_id : str
    filters : ScreeningFilters
    shard_size : int
        Candidates of each shard.
    limit : int or None
        Stop when so many have passed.
    keep_cell : bool
        Do not reduce structures to their primitive cells.
    trained : KnownElements or None
        What the model knows of the elements, if that is known.
    """

    run_id: str
    filters: ScreeningFilters
    shard_size: int
    limit: int | None
    keep_cell: bool
    trained: KnownElements | None

    def documents(self, source: Source, funnel: Funnel) -> Iterator[CandidateDoc]:
        """Documents of a source's candidates.

        Parameters
        ----------
        source : Source
        funnel : Funnel
            Counts what the filters do to them.
        """
        return chain.from_iterable(self.blocks(source, funnel))

    def blocks(
        self, source: Source, funnel: Funnel, stored: int = 0
    ) -> Iterator[list[CandidateDoc]]:
        """The same, those that were read at a time together.

        Parameters
        ----------
        source : Source
        funnel : Funnel
            Counts what the filters do to them; what it has counted already is not read again.
        stored : int
            Items at the beginning that have their documents: these are only counted.
        """
        n_read, passed = funnel.entered, funnel.passed
        items = source.items_from(n_read)
        while passed != self.limit and (batch := list(islice(items, READ_BATCH))):
            n_read += len(batch)
            is_stored = n_read <= stored
            reader = self._counting if is_stored else self
            left = None if self.limit is None else self.limit - passed
            judged = list(reader._judged_items(batch, funnel, left))
            advance("read", len(judged), source.total)
            if not is_stored:
                yield self._block(judged, passed)
            passed += sum(item.passed for item in judged)

    def blocks_from_process(
        self, source: Source, funnel: Funnel, stored: int = 0
    ) -> Iterator[list[CandidateDoc]]:
        """The same as :meth:`blocks`, made in a process of its own.

        Parameters
        ----------
        source : Source
            That `can_move`.
        funnel : Funnel
            Counts what the filters do to them.
        stored : int
            As of :meth:`blocks`.
        """
        for documents, counted in streamed(_counted_blocks, self, source, funnel, stored):
            funnel.entered, funnel.dropped, funnel.unknown = counted
            for document in documents:
                if document.state == "failed":
                    _log_unreadable(document.material_id, document.reason)
            advance("read", len(documents), source.total)
            yield documents

    def _judged_items(
        self, batch: list[SourceItem], funnel: Funnel, left: int | None
    ) -> Iterator[_Judged]:
        """Items with their verdicts, up to the last one of those that are left to pass."""
        for item in batch:
            if isinstance(item, Unreadable):
                funnel.add_unreadable()
                yield _Judged(item, FilterVerdict(False))
                continue
            candidate, verdict = self._judged(item)
            funnel.add(verdict)
            yield _Judged(candidate, verdict)
            if left is not None and verdict.passed:
                left -= 1
                if not left:
                    return

    def _block(self, judged: list[_Judged], passed: int) -> list[CandidateDoc]:
        """Documents of some items, before which so many have passed."""
        crystals = [item.candidate.structure for item in judged if item.passed]
        facts = zip(structure_hashes(crystals), have_isolated_atoms(crystals), strict=True)
        documents = []
        for item in judged:
            if isinstance(item.item, Unreadable):
                documents.append(self._unreadable(item.item))
            elif item.passed:
                documents.append(self._pending(item.candidate, passed, *next(facts)))
                passed += 1
            else:
                fields = self._fields(item.candidate, state="rejected", reason=item.verdict.reason)
                documents.append(_document(item.candidate, fields))
        return documents

    def _judged(self, candidate: Candidate) -> tuple[Candidate, FilterVerdict]:
        """Verdict of the filters on a candidate in its primitive cell.

        Reducing a cell is dearer than all filters, so it waits until only those that look at the
        cell, which are the last ones, may still drop the candidate.
        """
        verdict = self.filters.judge(candidate)
        if self.keep_cell or not (verdict.passed or verdict.dropped_by in self._of_cell):
            return candidate, verdict
        reduced = candidate.reduced()
        return reduced, self.filters.judge(reduced) if self._of_cell else verdict

    @cached_property
    def _counting(self) -> CandidateReader:
        """One that counts the same; no cell is reduced for it unless a filter looks at cells."""
        return self if self._of_cell else replace(self, keep_cell=True)

    @cached_property
    def _of_cell(self) -> frozenset[str]:
        """Names of the filters that look at the cell."""
        return frozenset(f.name for f, _ in switched_on(self.filters) if f.of_cell)

    def _unreadable(self, item: Unreadable) -> CandidateDoc:
        _log_unreadable(item.material_id, item.reason)
        return CandidateDoc(
            run_id=self.run_id, material_id=item.material_id, state="failed", reason=item.reason
        )

    def _pending(
        self,
        candidate: Candidate,
        passed_before: int,
        structure_hash: str,
        has_isolated_atoms: bool | None,
    ) -> CandidateDoc:
        domain = Domain.of_candidate(candidate, Training(self.trained), None, has_isolated_atoms)
        fields = self._fields(
            candidate,
            state="pending",
            shard=passed_before // self.shard_size,
            structure_hash=structure_hash,
            structure=structure_document(candidate.structure),
            has_isolated_atoms=has_isolated_atoms,
            **domain.as_fields(),
        )
        return _document(candidate, fields)

    def _fields(self, candidate: Candidate, **others: Any) -> dict[str, Any]:
        elements = list(candidate.elements)
        return {
            "run_id": self.run_id,
            "material_id": candidate.material_id,
            "formula": candidate.formula,
            "chemsys": "-".join(elements),
            "elements": elements,
            "nelements": len(elements),
            "nsites": candidate.nsites,
            "cell_multiplicity": candidate.cell_multiplicity,
            "reduction_problem": candidate.reduction_problem,
            "energy_above_hull": candidate.energy_above_hull,
            "band_gap": candidate.band_gap,
            "is_magnetic": candidate.is_magnetic,
            "has_edos": candidate.has_edos,
            "origin": candidate.origin.as_dict() if candidate.origin else {},
            "remarks": list(candidate.remarks),
            **others,
        }


def reader_of_run(run: Run, parameters: dict[str, Any]) -> tuple[CandidateReader, Funnel]:
    """What makes the documents of a run, and the funnel that counts for it.

    Parameters
    ----------
    run : Run
    parameters : dict
        Of the :class:`workflows.screening.ScreeningFlowMaker`.
    """
    from models.training.card import trained_elements  # no need of the process that reads

    filters = ScreeningFilters(**parameters["filters"])
    reader = CandidateReader(
        run_id=run.run_id,
        filters=filters,
        shard_size=parameters["shard_size"],
        limit=parameters["limit"],
        # Runs that were begun when cells were not reduced yet go on like that.
        keep_cell=run.parameters.get("keep_cell", True),
        trained=trained_elements(parameters["checkpoint"]),
    )
    return reader, Funnel.of(filters)


def _counted_blocks(
    reader: CandidateReader, source: Source, funnel: Funnel, stored: int
) -> Iterator[tuple[list[CandidateDoc], tuple[int, Counter[str], Counter[str]]]]:
    """Blocks, and the counts of the funnel after each."""
    with rare_collections():
        for documents in reader.blocks(source, funnel, stored):
            yield documents, (funnel.entered, funnel.dropped, funnel.unknown)


def _log_unreadable(material_id: str, reason: str | None) -> None:
    log.info("%s cannot be used: %s", material_id, reason)


@dataclass(frozen=True, slots=True)
class _Judged:
    """An item of a source, in its primitive cell, and what the filters say of it if it has one."""

    item: SourceItem
    verdict: FilterVerdict

    @property
    def candidate(self) -> Candidate:
        assert isinstance(self.item, Candidate)
        return self.item

    @property
    def passed(self) -> bool:
        return self.verdict.passed


def _document(candidate: Candidate, fields: dict[str, Any]) -> CandidateDoc:
    """Document whose fields are checked only if its source may have written something odd."""
    return (CandidateDoc.of_checked if _is_plain(candidate) else CandidateDoc)(**fields)


def _is_plain(candidate: Candidate) -> bool:
    """Whether all that comes from its source is sure to pass the checks of documents."""
    numbers = candidate.energy_above_hull, candidate.band_gap
    flags = candidate.is_magnetic, candidate.has_edos
    return (
        id_problem(candidate.material_id) is None
        and candidate.formula.isprintable()
        and not candidate.remarks
        and (candidate.origin is None or _is_printable(candidate.origin))
        and all(n is None or (type(n) is float and isfinite(n)) for n in numbers)
        and all(flag is None or type(flag) is bool for flag in flags)
    )


@lru_cache(maxsize=64)
def _is_printable(origin: Origin) -> bool:
    return all(text.isprintable() for text in origin.as_dict().values())
