"""Judging candidates of a run by one of its models, and keeping what comes of it.

A prediction that the store has is not made again. Those that are made are stored with the verdicts
on them every second, so that a kill costs no more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path

from db.documents import CandidateDoc, PredictionDoc, PredictionKey, Run, Verdict
from db.store import ScreeningStore
from models.deferred_predictor import deferred_predictor
from models.predicted_spectra import PredictedSpectra
from models.training.card import trained_elements
from models.training.materials import load_training_materials
from screening.candidate import crystal_of
from screening.criteria.registry import criterion_of
from screening.domain import Training
from screening.trust import trust_in
from workflows.checkpoints import model_of
from workflows.domains import with_domain
from workflows.hardware import worker_device, worker_processes
from workflows.progress import advance
from workflows.rescoring import n_chosen, write_verdicts
from workflows.runs import n_passed
from workflows.verdicts import prediction_documents, prediction_key, verdicts_on

log = logging.getLogger(__name__)

KEEP_EVERY = 1.0  # s of predictions that are stored at a time
ANSWERS = 0.5  # s in which a store that works has written these


@dataclass(frozen=True)
class Scorer:
    """What judges candidates of a run by one of its models, and keeps predictions and verdicts.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    checkpoint : str
        Folder of its first or second model.
    model : str
        Id of the model.
    training : Training
        What the model was trained on.
    """

    store: ScreeningStore
    run: Run
    checkpoint: str
    model: str
    training: Training

    @classmethod
    def of(cls, store: ScreeningStore, run: Run, checkpoint: str) -> Scorer:
        """The scorer by the model of a checkpoint.

        Parameters
        ----------
        store : ScreeningStore
        run : Run
        checkpoint : str

        Raises
        ------
        ScreeningError
            If the run did not begin with this checkpoint.
        """
        model = model_of(run, checkpoint)
        training = Training(trained_elements(checkpoint), load_training_materials(Path(checkpoint)))
        return cls(store, run, checkpoint, model, training)

    def score(
        self, candidates: Sequence[CandidateDoc], device: str | None, workers: int | None
    ) -> dict[str, int]:
        """Judge candidates; predict the spectra that are missing.

        Parameters
        ----------
        candidates : sequence of CandidateDoc
            Of one shard, as they are stored.
        device : str or None
        workers : int or None
            Processes. What is None, the worker brings; see :mod:`workflows.hardware`.

        Returns
        -------
        dict
            How many were `predicted` and `reused`, and how many `failed`: there is no prediction,
            or no verdict on it.
        """
        verdicts, missing = self.known(candidates)
        write_verdicts(self.store, candidates, verdicts)
        stage, total = self._stage()
        advance(stage, len(verdicts), total)
        counts = {"predicted": 0, "reused": len(verdicts), "failed": n_failed(verdicts)}
        log.info("%d to predict, %d known", len(missing), len(verdicts))
        if not missing:
            return counts
        whole = self._with_structures(missing)
        remaining = iter(whole)
        predictor = deferred_predictor(self.checkpoint, device or worker_device())
        crystals = [crystal_of(candidate.structure) for candidate in whole]
        predicted = predictor.predict_parts(crystals, workers=workers or worker_processes())
        with closing(predicted) as parts:
            for part in timely(parts):
                batch = list(islice(remaining, len(part.values)))
                counts["failed"] += self.keep(batch, part)
                counts["predicted"] += len(batch) - len(part.failures)
                advance(stage, len(batch), total)
        return counts

    def known(self, candidates: Sequence[CandidateDoc]) -> tuple[list[Verdict], list[CandidateDoc]]:
        """Verdicts on those candidates that have a prediction, and the others.

        Parameters
        ----------
        candidates : sequence of CandidateDoc
        """
        by_key = {prediction_key(candidate, self.model): candidate for candidate in candidates}
        # The gap in it is by the paper's criteria, which the run's own may be or not.
        predictions = self.store.predictions(by_key, without=["gap"])
        known = [prediction for prediction in predictions if self._says_all(prediction)]
        verdicts = list(self._verdicts(known, by_key))
        for prediction in known:
            del by_key[prediction.key]
        return verdicts, list(by_key.values())

    def keep(self, candidates: Sequence[CandidateDoc], predicted: PredictedSpectra) -> int:
        """Store predictions and the verdicts on them; a Ctrl-C does not come in between.

        Parameters
        ----------
        candidates : sequence of CandidateDoc
        predicted : PredictedSpectra
            For them, in the same order.

        Returns
        -------
        int
            How many have no verdict.
        """
        good = [i for i in range(len(candidates)) if i not in predicted.failures]
        judged = [candidates[i] for i in good]
        predictions = list(prediction_documents(judged, predicted.rows(good), self.model))
        by_key = {prediction_key(candidate, self.model): candidate for candidate in judged}
        failures = [self._failure(candidates[i], why) for i, why in predicted.failures.items()]
        verdicts = [*self._verdicts(predictions, by_key), *failures]
        for verdict in verdicts:
            if verdict.state == "failed":
                log.info("%s failed: %s", verdict.material_id, verdict.reason)

        def write() -> None:
            self.store.upsert_predictions(predictions)
            write_verdicts(self.store, candidates, verdicts)

        began = time.monotonic()
        try:
            write()
        except KeyboardInterrupt:
            if time.monotonic() - began < ANSWERS:  # else nobody waits for a store that hangs
                write()
            raise
        return n_failed(verdicts)

    @property
    def _is_second(self) -> bool:
        return self.model == self.run.second_model_id

    def _stage(self) -> tuple[str, int]:
        """What the progress of the model is called, and how many candidates it judges."""
        if self._is_second:
            return "rescored", n_chosen(self.store, self.run)
        return "scored", n_passed(self.run)

    def _with_structures(self, candidates: Sequence[CandidateDoc]) -> list[CandidateDoc]:
        """Candidates of one shard as they are stored, with their structures.

        In an order of their own: the last digits of a spectrum depend on what else is in its batch.
        """
        names, shard = [c.material_id for c in candidates], candidates[0].shard
        found = self.store.candidates(
            self.run.run_id, shard=shard, material_ids=names, with_structure=True
        )
        return sorted(found, key=lambda candidate: candidate.material_id)

    def _says_all(self, prediction: PredictionDoc) -> bool:
        """Whether it has its distance from the training materials; older programs noted none."""
        return self.training.materials is None or prediction.training_distance is not None

    def _verdicts(
        self,
        predictions: Sequence[PredictionDoc],
        candidates: Mapping[PredictionKey, CandidateDoc],
    ) -> Iterator[Verdict]:
        """Verdicts on predictions of the model, by the run's own criterion."""
        if not predictions:
            return
        criterion = criterion_of(self.run.parameters)
        trust = trust_in(Path(self.checkpoint), criterion)
        verdicts = verdicts_on(predictions, candidates, criterion, trust)
        for prediction, verdict in zip(predictions, verdicts, strict=True):
            candidate = candidates[prediction.key]
            yield with_domain(verdict, candidate, self.training, prediction.training_distance)

    def _failure(self, candidate: CandidateDoc, reason: str) -> Verdict:
        verdict = Verdict(
            run_id=candidate.run_id,
            material_id=candidate.material_id,
            state="failed",
            reason=reason,
            model_id=self.model,
        )
        return with_domain(verdict, candidate, self.training)


def n_failed(verdicts: Iterable[Verdict]) -> int:
    """How many candidates could not be judged."""
    return sum(verdict.state == "failed" for verdict in verdicts)


def timely(parts: Iterable[PredictedSpectra]) -> Iterator[PredictedSpectra]:
    """Parts joined until `KEEP_EVERY` has passed: what is not stored yet is lost with a kill.

    The first part is not waited with: there is soon something to see.
    """
    waiting: list[PredictedSpectra] = []
    since = -inf
    for part in parts:
        waiting.append(part)
        if time.monotonic() - since >= KEEP_EVERY:
            yield PredictedSpectra.joined(waiting)
            waiting, since = [], time.monotonic()
    if waiting:
        yield PredictedSpectra.joined(waiting)
