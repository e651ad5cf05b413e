"""The screening graph: prepare -> score in shards -> finish; or -> rescore in shards -> finish.

In one process `prepare` scores what it reads at once, so that no shard is left.

Jobs hand each other references and counts only; structures, spectra and verdicts go to the
store. Every job can be run again: it finds what is done and does the rest.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, Maker, Response, job

from db.collections import CANDIDATES, PREDICTIONS, Query, batched, conditions
from db.documents import (
    VERDICT_FIELDS,
    CandidateDoc,
    PredictionDoc,
    PredictionKey,
    Run,
    Verdict,
    utc_now,
)
from db.store import ScreeningStore
from models.deferred_predictor import deferred_predictor as _predictor
from models.predicted_spectra import PredictedSpectra
from models.processes import drop_prepared, rare_collections
from models.training.card import trained_elements
from models.training.materials import load_training_materials
from models.zoo import DEFAULT_EDOS
from screening.candidate import crystal_of
from screening.criteria.gap_criterion import VB_GAP
from screening.criteria.registry import (
    criterion_of,
    find_criterion,
    parameters_of,
)
from screening.domain import Training
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.second_predictor import RESCORE_WITH, n_unless_asked
from screening.sources import Source
from screening.trust import trust_in
from workflows.checkpoints import check_checkpoints, check_here, model_of
from workflows.domains import with_domain
from workflows.hardware import (
    what_only_this_machine_lacks,
    worker_device,
    worker_processes,
)
from workflows.progress import advance
from workflows.reading import READ_BATCH, open_source_of_run, reader_of_run
from workflows.rescoring import (
    SAME_MODEL,
    awaiting,
    choose,
    n_chosen,
    write_verdicts,
)
from workflows.runs import (
    READ,
    begin_run,
    candidate_counts,
    find_run,
    n_passed,
    new_run_id,
    note_funnel,
)
from workflows.shards import OPEN_READERS, ShardReader
from workflows.stores import store_of_run, store_reference
from workflows.verdicts import prediction_documents, prediction_key, verdicts_on

if TYPE_CHECKING:
    from models.crystal import Crystal

log = logging.getLogger(__name__)

SHARD_SIZE = 2000  # candidates of a scoring job in this process
PORTION = 4000  # candidates of a shard that are in memory at a time
MANY = 2000  # rows of a source, of which some will need the model
KEEP_EVERY = 1.0  # s of predictions that are stored at a time
ANSWERS = 0.5  # s in which a store that works has written these
DECISIVE = ("recursive", "optimade_filter")  # options of a source that decide what comes of it


@dataclass
class ScreeningFlowMaker(Maker):
    """Make the flow of a screening run.

    Parameters
    ----------
    name : str
        Of the flow.
    db : str
        Path of the embedded store or MongoDB URI. The URI itself never reaches the flow: workers
        take it from their environment variable ``SCREEN_DB``.
    source : str
        See :func:`screening.sources.open_source`.
    source_options : dict
        Passed to :func:`screening.sources.open_source`, and `known_edos`, the path of a list of
        materials whose DOS is known. A key never is among them, only the path of its file.
    filters : dict
        Fields of :class:`screening.filters.ScreeningFilters`.
    criteria : dict
        Fields of :class:`screening.gap_criteria.GapCriteria`, for the VB gap.
    checkpoint : str
        Folder of the predictor.
    device : str or None
        ``"auto"``, ``"cpu"`` or ``"cuda"``; None: as the worker says that runs the job.
    workers : int or None
        Processes of each scoring job; None: as many as the worker says that runs the job. See
        :mod:`workflows.hardware`.
    shard_size : int
        Candidates of each scoring job.
    shard_by_shard : bool
        Score the first shards while later ones are read, where there are several workers.
    limit : int, optional
        Stop reading the source when so many candidates have passed the filters.
    keep_cell : bool
        Judge structures in the cell that the source gives. Otherwise they are reduced to their
        primitive cells (:func:`models.primitive.reduce_cell`), so that a verdict, whose DOS is
        per cell, does not depend on the cell.
    rescore : int, optional
        So many of the candidates with the best scores are judged again by a second model; 0: none.
        By default as :func:`screening.second_predictor.n_unless_asked` says.
    rescore_with : str
        Folder of the second model.
    criterion : str
        Name or file; see :func:`screening.criteria.registry.find_criterion`.

    Examples
    --------
    >>> from jobflow import run_locally
    >>> maker = ScreeningFlowMaker(source="prototypes", db="screening.sqlite")
    >>> responses = run_locally(maker.make())  # doctest: +SKIP
    """

    name: str = "VB-gap screening"
    db: str = "screening.sqlite"
    source: str = "prototypes"
    source_options: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    criteria: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = str(DEFAULT_EDOS)
    device: str | None = None
    workers: int | None = 1
    shard_size: int = SHARD_SIZE
    shard_by_shard: bool = False
    limit: int | None = None
    keep_cell: bool = False
    rescore: int | None = None
    rescore_with: str = str(RESCORE_WITH)
    criterion: str = VB_GAP

    def make(self, run_id: str | None = None) -> Flow:
        """Flow of one run; the same `run_id` again resumes that run."""
        run_id = run_id or new_run_id()
        db = store_reference(self.db)
        hardware = {"device": self.device, "workers": self.workers}
        parameters = self.parameters()
        begin = read_shard if self.shard_by_shard else prepare
        scoring = [begin(run_id, db, self.source_options, parameters, hardware)]
        if "rescore" in parameters:
            scoring.append(rescore(run_id, db, scoring[0].output, parameters, hardware))
        finished = finish(run_id, db, scoring[-1].output)
        return Flow([*scoring, finished], output=finished.output, name=f"{self.name} {run_id}")

    def parameters(self) -> dict[str, Any]:
        """What decides the result of the run; kept in its document, compared on resuming."""
        filters = ScreeningFilters.from_options(**self.filters).model_dump(mode="json")
        for name in ("elements", "exclude_elements"):  # sets have no order of their own
            filters[name] = sorted(filters[name])
        return {
            "source": self.source,
            "known_edos": self.source_options.get("known_edos"),
            # Not for other runs, so that older ones can be resumed.
            **{k: self.source_options[k] for k in DECISIVE if k in self.source_options},
            "filters": filters,
            **parameters_of(find_criterion(self.criterion, self.criteria)),
            "checkpoint": self.checkpoint,
            "shard_size": self.shard_size,
            "limit": self.limit,
            "keep_cell": self.keep_cell,
            **self._rescoring(),
        }

    def _rescoring(self) -> dict[str, Any]:
        """Parameters of runs with a second model; others have none, so that older ones resume."""
        checkpoint, second = Path(self.checkpoint), Path(self.rescore_with)
        n = n_unless_asked(checkpoint, second) if self.rescore is None else self.rescore
        if n < 0:
            raise ScreeningError(f"--rescore {n}: must be 0 or more")
        if n and second.resolve() == checkpoint.resolve():
            raise ScreeningError(SAME_MODEL.format(second.name))
        return {"rescore": n, "rescore_with": self.rescore_with} if n else {}


@job
def prepare(
    run_id: str,
    db: str,
    source_options: dict[str, Any],
    parameters: dict[str, Any],
    hardware: dict[str, Any],
) -> Response:
    """Begin a run: score what passes the filters while the source is read.

    If it was interrupted, what has a verdict is left out; if after all was read, replace itself by
    one scoring job for each shard with candidates that have none.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    source_options, parameters : dict
        Of the :class:`ScreeningFlowMaker`.
    hardware : dict
        `device` and `workers` of the scoring jobs.

    Returns
    -------
    Response
        Whose output is what the scoring jobs return.
    """
    checkpoint = parameters["checkpoint"]
    source = _source_of(parameters, source_options)
    with store_of_run(db, run_id) as store:
        is_new = find_run(store, run_id) is None
        run = begin_run(store, run_id, parameters, source)
        if run.funnel:
            return in_shards(store, run, db, checkpoint, hardware)
        scored = _ReadAndScored(store, run, source, parameters, is_new).counts_by(**hardware)
        return Response(output=[scored])


class _ReadAndScored:
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
        self.model, self.training = model_of(run, self.checkpoint), _training_of(self.checkpoint)
        self.counts = Counter(predicted=0, reused=0, failed=0)
        self._waiting: deque[CandidateDoc] = deque()
        self._asked_again: set[str] = set()  # what an interruption left without a verdict

    @rare_collections()
    def counts_by(self, device: str | None, workers: int | None) -> dict[str, int]:
        """Do it all; as :func:`score_shard`."""
        device, workers = device or worker_device(), workers or worker_processes()
        predictor = _predictor(self.checkpoint, device)
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
            for part in _timely(parts):
                model_of(self.run, self.checkpoint)  # it may have been replaced under way
                batch = [self._waiting.popleft() for _ in part.values]
                failed = _keep(self.store, self.run, batch, part, self.model, self.training)
                self._count(len(batch), predicted=len(batch) - len(part.failures), failed=failed)
        return dict(self.counts)

    def _count(self, judged: int, **counts: int) -> None:
        self.counts.update(counts)
        total = n_passed(self.run) if self.run.funnel else None  # all are read
        advance("scored", judged, total)
        log.debug("%s", dict(self.counts))

    def _has_predictions(self) -> bool:
        asked = Query(PREDICTIONS, conditions(model_id=self.model), limit=1)
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
        pending = replace(awaiting(self.run, self.model), with_structure=True)
        for documents in batched(self.store.find(pending), READ_BATCH):
            yield documents
            self._asked_again.update(document.material_id for document in documents)
        advance("read", self.funnel.entered, self.source.total)
        yield from read(self.source, self.funnel, stored)

    def _stored(self, documents: list[CandidateDoc]) -> list[CandidateDoc]:
        """Store documents, those that have a prediction with their verdicts; return the others."""
        candidates = self._without_verdict([d for d in documents if d.state == "pending"])
        verdicts, missing = _known(self.store, self.run, candidates, self.model, self.training)
        by_id = {verdict.material_id: verdict for verdict in verdicts}
        judged = (_with_verdict(d, by_id.get(d.material_id)) for d in documents)
        self.store.upsert_candidates(judged, keep_existing=True)
        if not self.is_new:
            self.store.apply_verdicts(verdicts)
        self._count(len(verdicts), reused=len(verdicts), failed=_n_failed(verdicts))
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


def _with_verdict(candidate: CandidateDoc, verdict: Verdict | None) -> CandidateDoc:
    if verdict is None:
        return candidate
    return candidate.model_copy(update={name: getattr(verdict, name) for name in VERDICT_FIELDS})


@job
def read_shard(
    run_id: str,
    db: str,
    source_options: dict[str, Any],
    parameters: dict[str, Any],
    hardware: dict[str, Any],
    shard: int = 0,
) -> Response:
    """Read the candidates of one shard, and add the jobs that score it and read the next one.

    So that the first shards are scored while later ones are read. What follows this job waits for
    all of them.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    source_options, parameters : dict
        Of the :class:`ScreeningFlowMaker`.
    hardware : dict
        `device` and `workers` of the scoring jobs.
    shard : int
    """
    checkpoint = parameters["checkpoint"]
    reader = OPEN_READERS.pop(run_id, None)
    with store_of_run(db, run_id) as store:
        if reader is None or reader.shard >= shard:
            source = _source_of(parameters, source_options)
            run = begin_run(store, run_id, parameters, source)
            if run.funnel and shard == 0:  # a run that was interrupted after all was read
                return in_shards(store, run, db, checkpoint, hardware)
            candidates, funnel = reader_of_run(run, parameters)
            reader = ShardReader(source, funnel, candidates.documents(source, funnel))
        else:
            run = store.run(run_id)
        reader.skip_to(shard)  # those of other processes
        store.upsert_candidates(reader.up_to(shard), keep_existing=True)
        following: list[Job] = []
        if store.count(awaiting(run, run.model_id or "", shard)):
            following.append(score_shard(run_id, db, shard, checkpoint, **hardware))
        if reader.is_done:
            note_funnel(store, run, reader.source, reader.funnel)
        else:
            OPEN_READERS[run_id] = reader
            following.append(
                read_shard(run_id, db, source_options, parameters, hardware, shard + 1)
            )
    return Response(output=[], detour=Flow(following, name=f"shard {shard}") if following else None)


def _source_of(parameters: dict[str, Any], source_options: dict[str, Any]) -> Source:
    """The source of a run whose models can be used."""
    filters = ScreeningFilters(**parameters["filters"])
    source = open_source_of_run(parameters["source"], filters, source_options)
    check_checkpoints(parameters)
    return source


def in_shards(
    store: ScreeningStore,
    run: Run,
    db: str,
    checkpoint: str,
    hardware: dict[str, Any],
    before: Sequence[dict[str, int]] = (),
) -> Response:
    """One scoring job for each shard that awaits a model; the output goes on from that `before`.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    db : str
        See :func:`workflows.stores.store_reference`.
    checkpoint : str
        Folder of the model.
    hardware : dict
        `device` and `workers` of the scoring jobs.
    before : sequence of dict
        What other scoring jobs have returned.
    """
    open_shards = store.count_by(awaiting(run, model_of(run, checkpoint)), "shard")
    scoring = [
        score_shard(run.run_id, db, shard, checkpoint, **hardware) for shard in sorted(open_shards)
    ]
    if not scoring:
        return Response(output=list(before))
    output = [*before, *(shard.output for shard in scoring)]
    return Response(replace=Flow(scoring, output=output, name="score"))


@job
def score_shard(
    run_id: str,
    db: str,
    shard: int,
    checkpoint: str,
    device: str | None = None,
    workers: int | None = None,
) -> dict[str, int]:
    """Judge one shard's candidates that await this model; predict the spectra that are missing.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    shard : int
    checkpoint : str
        Folder of the predictor.
    device : str, optional
    workers : int, optional
        Processes. What is not given, the worker brings; see :mod:`workflows.hardware`.

    Returns
    -------
    dict
        How many were `predicted` and `reused`, and how many `failed`: there is no prediction, or no
        verdict on it.
    """
    counts = Counter(predicted=0, reused=0, failed=0)
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        if device is None:
            with what_only_this_machine_lacks():
                check_here(run, checkpoint)
                workers = workers or worker_processes()
        model = model_of(run, checkpoint)
        training = _training_of(checkpoint)
        predict = partial(_predict, checkpoint=checkpoint, device=device, workers=workers)
        for portion in batched(store.find(awaiting(run, model, shard)), PORTION):
            counts.update(_score(store, run, portion, model, training, predict))
            log.debug("shard %d: %s", shard, dict(counts))
    return dict(counts)


def _score(
    store: ScreeningStore,
    run: Run,
    portion: Sequence[CandidateDoc],
    model: str,
    training: Training,
    predict: Callable[[list[Crystal]], Generator[PredictedSpectra]],
) -> dict[str, int]:
    """Judge some candidates; predict the spectra that are missing."""
    verdicts, missing = _known(store, run, portion, model, training)
    write_verdicts(store, run, portion, verdicts)
    stage, total = _stage(store, run, model)
    advance(stage, len(verdicts), total)
    counts = {"predicted": 0, "reused": len(verdicts), "failed": _n_failed(verdicts)}
    log.info("%d to predict, %d known", len(missing), len(verdicts))
    if not missing:
        return counts
    names = [candidate.material_id for candidate in missing]
    shard = portion[0].shard
    candidates = list(
        store.candidates(run.run_id, shard=shard, material_ids=names, with_structure=True)
    )
    remaining = iter(candidates)
    with closing(predict([crystal_of(c.structure) for c in candidates])) as parts:
        for part in _timely(parts):
            batch = list(islice(remaining, len(part.values)))
            counts["failed"] += _keep(store, run, batch, part, model, training)
            counts["predicted"] += len(batch) - len(part.failures)
            advance(stage, len(batch), total)
    return counts


def _predict(
    crystals: list[Crystal], *, checkpoint: str, device: str | None, workers: int | None
) -> Generator[PredictedSpectra]:
    """Predict by the model of this process; what is not given, the worker brings."""
    predictor = _predictor(checkpoint, device or worker_device())
    return predictor.predict_parts(crystals, workers=workers or worker_processes())


def _training_of(checkpoint: str) -> Training:
    return Training(trained_elements(checkpoint), load_training_materials(Path(checkpoint)))


def _known(
    store: ScreeningStore,
    run: Run,
    candidates: Sequence[CandidateDoc],
    model: str,
    training: Training,
) -> tuple[list[Verdict], list[CandidateDoc]]:
    """Verdicts on those candidates that have a prediction, and the others."""
    by_key = {prediction_key(candidate, model): candidate for candidate in candidates}
    # The gap in it is by the paper's criteria, which the run's own may be or not.
    predictions = store.predictions(by_key, without=["gap"])
    known = [p for p in predictions if _says_all(p, training)]
    verdicts = list(_verdicts(run, known, by_key, training))
    for prediction in known:
        del by_key[prediction.key]
    return verdicts, list(by_key.values())


def _says_all(prediction: PredictionDoc, training: Training) -> bool:
    """Whether it has its distance from the training materials; an older program noted none."""
    return training.materials is None or prediction.training_distance is not None


def _stage(store: ScreeningStore, run: Run, model: str) -> tuple[str, int]:
    """What the progress of a model is called, and how many candidates it judges."""
    if model == run.second_model_id:
        return "rescored", n_chosen(store, run)
    return "scored", n_passed(run)


def _timely(parts: Iterable[PredictedSpectra]) -> Iterator[PredictedSpectra]:
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


def _keep(
    store: ScreeningStore,
    run: Run,
    candidates: list[CandidateDoc],
    predicted: PredictedSpectra,
    model: str,
    training: Training,
) -> int:
    """Store predictions and the run's verdicts on them; a Ctrl-C does not come in between.

    Returns how many have no verdict.
    """
    good = [i for i in range(len(candidates)) if i not in predicted.failures]
    judged = [candidates[i] for i in good]
    predictions = list(prediction_documents(judged, predicted.rows(good), model))
    by_key = {prediction_key(candidate, model): candidate for candidate in judged}
    failures = [
        _failure(candidates[i], reason, model, training) for i, reason in predicted.failures.items()
    ]
    verdicts = [*_verdicts(run, predictions, by_key, training), *failures]
    for verdict in verdicts:
        if verdict.state == "failed":
            log.info("%s failed: %s", verdict.material_id, verdict.reason)

    def write() -> None:
        store.upsert_predictions(predictions)
        write_verdicts(store, run, candidates, verdicts)

    began = time.monotonic()
    try:
        write()
    except KeyboardInterrupt:
        if time.monotonic() - began < ANSWERS:  # else nobody waits for a store that hangs
            write()
        raise
    return _n_failed(verdicts)


def _n_failed(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.state == "failed" for verdict in verdicts)


def _verdicts(
    run: Run,
    predictions: Sequence[PredictionDoc],
    candidates: Mapping[PredictionKey, CandidateDoc],
    training: Training,
) -> Iterator[Verdict]:
    """Verdicts on predictions of one of the run's models, by the run's own criterion."""
    if not predictions:
        return
    criterion = criterion_of(run.parameters)
    is_second = predictions[0].model_id == run.second_model_id
    folder = Path(run.parameters["rescore_with" if is_second else "checkpoint"])
    verdicts = verdicts_on(predictions, candidates, criterion, trust_in(folder, criterion))
    for prediction, verdict in zip(predictions, verdicts, strict=True):
        candidate = candidates[prediction.key]
        yield with_domain(verdict, candidate, training, prediction.training_distance)


def _failure(candidate: CandidateDoc, reason: str, model: str, training: Training) -> Verdict:
    verdict = Verdict(
        run_id=candidate.run_id,
        material_id=candidate.material_id,
        state="failed",
        reason=reason,
        model_id=model,
    )
    return with_domain(verdict, candidate, training)


@job
def rescore(
    run_id: str,
    db: str,
    scored: list[dict[str, int]],
    parameters: dict[str, Any],
    hardware: dict[str, Any],
) -> Response:
    """Choose the best candidates, and replace itself by jobs that judge them again.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    scored : list of dict
        What the scoring jobs of the first model did.
    parameters : dict
        Of the :class:`ScreeningFlowMaker`.
    hardware : dict
        `device` and `workers` of the scoring jobs.

    Returns
    -------
    Response
        Whose output is that of all scoring jobs.
    """
    checkpoint = parameters["rescore_with"]
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        model_of(run, checkpoint)
        _check_judged(store, run, run.model_id or "")
        if (n := parameters["rescore"] - n_chosen(store, run)) > 0:
            predictor = _predictor(checkpoint, hardware["device"] or worker_device())
            choose(store, run, predictor, n)
        return in_shards(store, run, db, checkpoint, hardware, scored)


def _check_judged(store: ScreeningStore, run: Run, model: str) -> None:
    """Refuse to go on without a part of the run that was lost."""
    if n := store.count(awaiting(run, model)):
        raise ScreeningError(f"run {run.run_id}: {n} candidates have no prediction; resume it")


@job
def finish(run_id: str, db: str, scored: list[dict[str, int]]) -> dict[str, Any]:
    """Count, list the positives, close the run.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    scored : list of dict
        What the scoring jobs did.

    Returns
    -------
    dict
        `run_id`, `model_id`, `funnel` and `counts`.

    Raises
    ------
    ScreeningError
        If candidates are still pending: a part of the run was lost.
    """
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        for model in filter(None, (run.model_id, run.second_model_id)):
            _check_judged(store, run, model)
        counts = candidate_counts(store, run)
        positives = conditions(run_id=run_id, is_positive=True)
        best = Query(CANDIDATES, positives, sort_by="score", descending=True)
        now = utc_now()
        changes = {
            "selection": [name for (name,) in store.values(best, ["material_id"])],
            "counts": counts,
            "state": "done",
            "error": None,
            "finished_at": now,
            "updated_at": now,
        }
        run = Run.model_validate(run.model_dump() | changes)
        store.put_run(run)
    # A resumed run adds to what was scored before it was interrupted.
    added = {key: sum(n[key] for n in scored) for key in ("predicted", "reused", "failed")}
    log.info("run %s is done: %s", run_id, counts | added)
    return {
        "run_id": run_id,
        "model_id": run.model_id,
        "funnel": [count.model_dump() for count in run.funnel],
        "counts": counts | added,
    }
