"""Scoring candidates while their source is read, as a run in one process does."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.collections import CANDIDATES, PREDICTIONS, Query, batched, conditions
from db.documents import CandidateDoc, Run
from db.store import ScreeningStore
from models.deferred_predictor import deferred_predictor
from models.processes import drop_prepared, rare_collections
from screening.candidate import crystal_of
from screening.criteria.registry import criterion_of
from screening.funnel import Funnel
from screening.sources import Source
from screening.trust import trust_in
from workflows.checkpoints import model_of
from workflows.hardware import worker_device, worker_processes
from workflows.progress import advance
from workflows.reading import READ_BATCH, reader_of_run
from workflows.rescoring import awaiting
from workflows.runs import READ, n_passed, note_funnel
from workflows.scoring import Scorer, n_failed, timely
from workflows.verdicts import with_verdict

if TYPE_CHECKING:
    from models.crystal import Crystal

log = logging.getLogger(__name__)

MANY = 2000  # rows of a source, of which some will need the model


class ReadAndScored:
    """Candidates that are scored while the source is read; those that wait are in memory.

    What is read is stored at once, with the verdict if the prediction is known. The rest awaits
    the model, and the store is not asked for it again.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    source : Source
    parameters : dict
        Of the run.
    is_new : bool
        It was not interrupted before, so that none of its candidates is stored.
    """

    def __init__(
        self,
        store: ScreeningStore,
        run: Run,
        source: Source,
        parameters: dict[str, Any],
        is_new: bool,
    ) -> None:
        self.store, self.run, self.source, self.is_new = store, run, source, is_new
        self.checkpoint = parameters["checkpoint"]
        self.reader, self.funnel = reader_of_run(run, parameters)
        noted = Funnel.from_dicts(run.source.get(READ, []))
        if noted.names == self.funnel.names:
            self.funnel = noted
        self.scorer = Scorer.of(store, run, self.checkpoint)
        self.counts = Counter(predicted=0, reused=0, failed=0)
        self._waiting: deque[CandidateDoc] = deque()
        self._asked_again: set[str] = set()  # what an interruption left without a verdict

    @rare_collections()
    def counts_by(self, device: str | None, workers: int | None) -> dict[str, int]:
        """Do it all, and count as :meth:`workflows.scoring.Scorer.score`.

        Parameters
        ----------
        device : str or None
        workers : int or None
            Processes. What is None, the worker brings; see :mod:`workflows.hardware`.
        """
        device, workers = device or worker_device(), workers or worker_processes()
        predictor = deferred_predictor(self.checkpoint, device)
        read = self.reader.blocks
        if workers > 1 and (self.source.total or 0) >= MANY:
            if not self._has_predictions():
                predictor.start(workers)  # while this is made ready, and the first rows are read
                trust_in(Path(self.checkpoint), criterion_of(self.run.parameters))
            elif self.source.can_move:  # the cores have less to predict, or nothing
                read = self.reader.blocks_from_process
        if read == self.reader.blocks:
            drop_prepared()  # a process that the command line started to read
        missing = self._missing(self._blocks(read))
        with closing(predictor.predict_parts(missing, workers=workers)) as parts:
            for part in timely(parts):
                model_of(self.run, self.checkpoint)  # it may have been replaced under way
                batch = [self._waiting.popleft() for _ in part.values]
                failed = self.scorer.keep(batch, part)
                self._count(len(batch), predicted=len(batch) - len(part.failures), failed=failed)
        return dict(self.counts)

    def _count(self, judged: int, **counts: int) -> None:
        self.counts.update(counts)
        total = n_passed(self.run) if self.run.funnel else None  # all are read
        advance("scored", judged, total)
        log.debug("%s", dict(self.counts))

    def _has_predictions(self) -> bool:
        asked = Query(PREDICTIONS, conditions(model_id=self.scorer.model), limit=1)
        return bool(self.store.values(asked, ["model_id"]))

    def _missing(self, blocks: Iterator[list[CandidateDoc]]) -> Iterator[Crystal]:
        """Crystals that pass the filters and have no prediction, as they are needed."""
        for documents in blocks:
            missing = self._stored(documents)
            if missing and not self._waiting:
                model_of(self.run, self.checkpoint)  # which is loaded now
            for candidate in missing:
                self._waiting.append(candidate)
                yield crystal_of(candidate.structure)
        self.run = note_funnel(self.store, self.run, self.source, self.funnel)

    def _blocks(
        self, read: Callable[[Source, Funnel, int], Iterator[list[CandidateDoc]]]
    ) -> Iterator[list[CandidateDoc]]:
        """What is left of an interrupted run, and then what had not been read of its source.

        Its candidates are stored in the order of the source.
        """
        if self.is_new:
            yield from read(self.source, self.funnel, 0)
            return
        self._count(0)  # it goes on, if only to the end
        stored = self.store.count(Query(CANDIDATES, conditions(run_id=self.run.run_id)))
        pending = replace(awaiting(self.run, self.scorer.model), with_structure=True)
        for documents in batched(self.store.find(pending), READ_BATCH):
            yield documents
            self._asked_again.update(document.material_id for document in documents)
        advance("read", self.funnel.entered, self.source.total)
        yield from read(self.source, self.funnel, stored)

    def _stored(self, documents: list[CandidateDoc]) -> list[CandidateDoc]:
        """Store documents, those that have a prediction with their verdicts; return the others."""
        candidates = self._without_verdict([d for d in documents if d.state == "pending"])
        verdicts, missing = self.scorer.known(candidates)
        by_id = {verdict.material_id: verdict for verdict in verdicts}
        judged = (
            with_verdict(document, by_id[document.material_id])
            if document.material_id in by_id
            else document
            for document in documents
        )
        self.store.upsert_candidates(judged, keep_existing=True)
        if not self.is_new:
            self.store.apply_verdicts(verdicts)
        self._count(len(verdicts), reused=len(verdicts), failed=n_failed(verdicts))
        self._note_read()
        return missing

    def _note_read(self) -> None:
        """Note what the filters did to what is stored, so that a resumed run does not ask them."""
        if not self.run.funnel:
            read = {READ: self.funnel.as_dicts()}
            self.run = self.run.model_copy(update={"source": self.run.source | read})
            self.store.put_run(self.run)

    def _without_verdict(self, candidates: list[CandidateDoc]) -> list[CandidateDoc]:
        """Those that an interruption left without a verdict."""
        if self.is_new:
            return candidates
        stored = self.store.lookup(CANDIDATES, [candidate.key for candidate in candidates])
        judged = {candidate.material_id for candidate in stored if candidate.state != "pending"}
        done = judged | self._asked_again
        return [c for c in candidates if c.material_id not in done]
