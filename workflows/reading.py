"""From a source to the candidate documents of a run: opening, filters, primitive cells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from db.documents import CandidateDoc
from models.elements import KnownElements
from screening.candidate import Candidate, SourceItem, Unreadable
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
    return mark_known_edos(opened, read_material_ids(Path(known_edos)))


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
        passed = 0
        items: Iterator[SourceItem] = iter(source)
        while batch := list(islice(items, READ_BATCH)):
            for item in batch:
                if self.limit is not None and passed >= self.limit:
                    return
                if isinstance(item, Unreadable):
                    funnel.add_unreadable()
                    yield self._unreadable(item)
                    continue
                candidate, verdict = self._judged(item)
                funnel.add(verdict)
                shard = passed // self.shard_size if verdict.passed else None
                yield self._document(candidate, shard, verdict.reason)
                passed += verdict.passed
            advance("read", len(batch), source.total)

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
    def _of_cell(self) -> frozenset[str]:
        """Names of the filters that look at the cell."""
        return frozenset(f.name for f, _ in switched_on(self.filters) if f.of_cell)

    def _unreadable(self, item: Unreadable) -> CandidateDoc:
        log.info("%s cannot be used: %s", item.material_id, item.reason)
        return CandidateDoc(
            run_id=self.run_id, material_id=item.material_id, state="failed", reason=item.reason
        )

    def _document(
        self, candidate: Candidate, shard: int | None, reason: str | None
    ) -> CandidateDoc:
        is_pending = shard is not None
        training = Training(self.trained)
        domain = Domain.of_candidate(candidate, training) if is_pending else Domain()
        return CandidateDoc(
            run_id=self.run_id,
            material_id=candidate.material_id,
            structure_hash=candidate.structure.structure_hash,
            formula=candidate.formula,
            chemsys=candidate.chemsys,
            elements=list(candidate.elements),
            nelements=candidate.nelements,
            nsites=candidate.nsites,
            cell_multiplicity=candidate.cell_multiplicity,
            reduction_problem=candidate.reduction_problem,
            energy_above_hull=candidate.energy_above_hull,
            band_gap=candidate.band_gap,
            is_magnetic=candidate.is_magnetic,
            has_edos=candidate.has_edos,
            origin=candidate.origin.as_dict() if candidate.origin else {},
            shard=shard,
            state="pending" if is_pending else "rejected",
            reason=reason,
            structure=candidate.structure.as_dict() if is_pending else None,
            remarks=list(candidate.remarks),
            has_isolated_atoms=domain.has_isolated_atoms,
            **domain.as_fields(),
        )
