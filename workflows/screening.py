"""The screening graph: prepare -> score in shards -> finish; or -> rescore in shards -> finish.

Jobs hand each other references and counts only; structures, spectra and verdicts go to the
store. Every job can be run again: it finds what is done and does the rest.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Maker, Response, job

from db.collections import CANDIDATES, RUNS, Query, conditions
from db.documents import CandidateDoc, PredictionDoc, PredictionKey, Run, Verdict, utc_now
from db.store import ScreeningStore
from models.crystal import Crystal
from models.training.card import trained_elements
from models.training.materials import load_training_materials
from models.uncertainty.held_out import read_held_out
from models.zoo import DEFAULT_EDOS, check_predictor, model_id
from screening.criteria.gap_criterion import VB_GAP
from screening.criteria.registry import (
    CRITERION,
    criterion_of,
    find_criterion,
    needed_grid,
    parameters_of,
)
from screening.domain import Training
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.sources import Source
from screening.trust import trust_in
from workflows.domains import with_domain
from workflows.hardware import worker_device, worker_processes
from workflows.progress import advance
from workflows.reading import CandidateReader, open_source_of_run
from workflows.rescoring import (
    RESCORE_WITH,
    RESCORED,
    awaiting,
    choose,
    n_to_choose,
    rescoring_counts,
    write_verdicts,
)
from workflows.stores import store_of_run, store_reference
from workflows.verdicts import prediction_documents, prediction_key, verdicts_on

if TYPE_CHECKING:
    from models.predictor import PredictedSpectra, SpectrumPredictor

log = logging.getLogger(__name__)

KEEP_EVERY = 1.0  # s of predictions that are stored at a time
ANSWERS = 0.5  # s in which a store that works has written these
DECISIVE = ("recursive", "optimade_filter")  # options of a source that decide what comes of it
SAME_MODEL = "--rescore-with {}: is the model of the run itself; name another, or use --rescore 0"


def new_run_id() -> str:
    """Identifier of a new run, such as ``20260131-093000-5f2a``."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


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
    limit : int, optional
        Stop reading the source when so many candidates have passed the filters.
    keep_cell : bool
        Judge structures in the cell that the source gives. Otherwise they are reduced to their
        primitive cells (:func:`models.primitive.reduce_cell`), so that a verdict, whose DOS is
        per cell, does not depend on the cell.
    rescore : int, optional
        So many of the candidates with the best scores are judged again by a second model; 0: none.
        By default :data:`workflows.rescoring.RESCORED`, or none if `checkpoint` is that model.
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
    shard_size: int = 2000
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
        scoring = [prepare(run_id, db, self.source_options, parameters, hardware)]
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
        is_same = Path(self.rescore_with).resolve() == Path(self.checkpoint).resolve()
        n = self.rescore
        if n is None:
            n = 0 if is_same else RESCORED
        if n < 0:
            raise ScreeningError(f"--rescore {n}: must be 0 or more")
        if n and is_same:
            raise ScreeningError(SAME_MODEL.format(Path(self.rescore_with).name))
        return {"rescore": n, "rescore_with": self.rescore_with} if n else {}


@job
def prepare(
    run_id: str,
    db: str,
    source_options: dict[str, Any],
    parameters: dict[str, Any],
    hardware: dict[str, Any],
) -> Response:
    """Begin a run, or go on with it, and replace itself by one scoring job for each open shard.

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
    checkpoint, second = parameters["checkpoint"], None
    filters = ScreeningFilters(**parameters["filters"])
    source = open_source_of_run(parameters["source"], filters, source_options)
    check_checkpoints(parameters)
    model = model_id(Path(checkpoint))
    if "rescore" in parameters:
        second = model_id(Path(parameters["rescore_with"]))
    models = ", then ".join(filter(None, (model, second)))
    log.info("run %s: %s; model %s", run_id, source.description, models)
    log.debug("run %s: %s", run_id, parameters)
    with store_of_run(db, run_id) as store:
        run = _begin(store, run_id, parameters, source, model, second)
        if not run.funnel:
            _store_candidates(store, run, source, filters, parameters)
        return in_shards(store, run, db, checkpoint, hardware)


def check_checkpoints(parameters: dict[str, Any]) -> None:
    """Refuse damaged predictors, and those of other spectra than the criterion judges.

    Parameters
    ----------
    parameters : dict
        Of a run.
    """
    criterion = criterion_of(parameters)
    for name in ("checkpoint", "rescore_with"):
        if name in parameters:
            folder = Path(parameters[name])
            check_predictor(folder, needed_grid(criterion, folder))
            load_training_materials(folder)
            read_held_out(folder)


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
    open_shards = store.count_by(awaiting(run, _model_of(run, checkpoint)), "shard")
    scoring = [
        score_shard(run.run_id, db, shard, checkpoint, **hardware) for shard in sorted(open_shards)
    ]
    if not scoring:
        return Response(output=list(before))
    output = [*before, *(shard.output for shard in scoring)]
    return Response(replace=Flow(scoring, output=output, name="score"))


def _begin(
    store: ScreeningStore,
    run_id: str,
    parameters: dict[str, Any],
    source: Source,
    model: str,
    second: str | None,
) -> Run:
    """The run, new or again.

    Raises
    ------
    ScreeningError
        If source or models are not those that it began with, or if both models are the same.
    """
    if model == second:
        raise ScreeningError(SAME_MODEL.format(Path(parameters["rescore_with"]).name))
    run = find_run(store, run_id)
    if run is None:
        run = Run(
            run_id=run_id,
            parameters=parameters,
            versions={"edos-screening": version("edos-screening")},
            model_id=model,
            second_model_id=second,
            source={"source": parameters["source"]} | source.provenance,
        )
        store.put_run(run)
        return run
    changed = [
        f"the {what} is another"
        for what, before, now in (
            ("criterion", run.parameters.get(CRITERION), parameters.get(CRITERION)),
            ("content of the source", run.source.get("fingerprint"), source.fingerprint),
            ("checkpoint", run.model_id, model),
            ("checkpoint of --rescore-with", run.second_model_id, second),
        )
        if before != now
    ]
    if changed:
        raise ScreeningError(
            f"run {run_id} cannot be resumed: {' and '.join(changed)} than when it began; "
            "start a new run"
        )
    run = run.model_copy(update={"state": "running", "error": None, "updated_at": utc_now()})
    store.put_run(run)
    return run


def _store_candidates(
    store: ScreeningStore,
    run: Run,
    source: Source,
    filters: ScreeningFilters,
    parameters: dict[str, Any],
) -> None:
    """Stream the source through the filters into the store, and note what each filter did."""
    funnel = Funnel.of(filters)
    reader = CandidateReader(
        run_id=run.run_id,
        filters=filters,
        shard_size=parameters["shard_size"],
        limit=parameters["limit"],
        # Runs that were begun when cells were not reduced yet go on like that.
        keep_cell=run.parameters.get("keep_cell", True),
        trained=trained_elements(parameters["checkpoint"]),
    )
    # Of an interrupted run the same candidates come again; their verdicts stay.
    store.upsert_candidates(reader.documents(source, funnel), keep_existing=True)
    stages = funnel.stages
    if source.applied:
        stages = funnel.stages_behind(source.name, source.applied)
    noted = run.source | {"notes": list(source.notes)}
    changes = {"funnel": stages, "source": noted, "updated_at": utc_now()}
    store.put_run(Run.model_validate(run.model_dump() | changes))
    for stage in stages:
        counts = (stage.name, stage.entered, stage.dropped, stage.unknown)
        log.info("%s: %d in, %d dropped, %d unknown", *counts)


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
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        model = _model_of(run, checkpoint)
        materials = load_training_materials(Path(checkpoint))
        training = Training(trained_elements(checkpoint), materials)
        pending = {prediction_key(c, model): c for c in store.find(awaiting(run, model, shard))}
        known = [p for p in store.predictions(pending) if _says_all(p, training)]
        verdicts = list(_verdicts(run, known, pending, training))
        write_verdicts(store, run, pending.values(), verdicts)
        predicted_before = {prediction.key for prediction in known}
        missing = [c.material_id for key, c in pending.items() if key not in predicted_before]
        stage, total = _stage(run, model)
        advance(stage, len(known), total)
        counts = {"predicted": 0, "reused": len(known), "failed": _n_failed(verdicts)}
        log.info("shard %d: %d to predict, %d known", shard, len(missing), len(known))
        if not missing:
            return counts
        candidates = list(
            store.candidates(run_id, shard=shard, material_ids=missing, with_structure=True)
        )
        crystals = [Crystal.from_dict(c.structure or {}) for c in candidates]
        predictor = _predictor(checkpoint, device or worker_device())
        remaining = iter(candidates)
        predicted = predictor.predict_parts(crystals, workers=workers or worker_processes())
        with closing(predicted) as parts:
            for part in _timely(parts):
                batch = list(islice(remaining, len(part.values)))
                counts["failed"] += _keep(store, run, batch, part, model, training)
                counts["predicted"] += len(batch) - len(part.failures)
                advance(stage, len(batch), total)
                log.debug("shard %d: %s", shard, counts)
        return counts


def _says_all(prediction: PredictionDoc, training: Training) -> bool:
    """Whether it has its distance from the training materials; an older program noted none."""
    return training.materials is None or prediction.training_distance is not None


def _stage(run: Run, model: str) -> tuple[str, int]:
    """What the progress of a model is called, and how many candidates it judges at most."""
    total = sum(count.entered - count.dropped for count in run.funnel[-1:])
    if model == run.second_model_id:
        return "rescored", min(total, run.parameters["rescore"])
    return "scored", total


def _timely(parts: Iterable[PredictedSpectra]) -> Iterator[PredictedSpectra]:
    """Parts joined until `KEEP_EVERY` has passed: what is not stored yet is lost with a kill."""
    from models.predictor import PredictedSpectra

    waiting: list[PredictedSpectra] = []
    since = time.monotonic()
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


def _model_of(run: Run, checkpoint: str) -> str:
    """Id of the run's first or second model, if the checkpoint is one that the run began with."""
    model = model_id(Path(checkpoint))
    if model not in (run.model_id, run.second_model_id):
        raise ScreeningError(
            f"run {run.run_id}: the checkpoint {checkpoint} has changed since it began; "
            "start a new run"
        )
    return model


@lru_cache(maxsize=1)
def _predictor(checkpoint: str, device: str) -> SpectrumPredictor:
    """The predictor of this process; loading torch takes seconds, so only when it is needed."""
    from models.predictor import SpectrumPredictor

    return SpectrumPredictor.load(Path(checkpoint), device)


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
        _model_of(run, checkpoint)
        _check_judged(store, run, run.model_id or "")
        if (n := n_to_choose(store, run)) > 0:
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
        best = store.candidates(run_id, is_positive=True, sort_by="score", descending=True)
        now = utc_now()
        changes = {
            "selection": [candidate.material_id for candidate in best],
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


def candidate_counts(store: ScreeningStore, run: Run) -> dict[str, int]:
    """Candidates of a run in each state, the positives, and what a second model did to them.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    positives = Query(CANDIDATES, conditions(run_id=run.run_id, is_positive=True))
    counts = store.candidate_counts(run.run_id) | {"positive": store.count(positives)}
    return counts | rescoring_counts(store, run)


def find_run(store: ScreeningStore, run_id: str) -> Run | None:
    """The run of this id, if it has begun.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    """
    return next(iter(store.lookup(RUNS, [(run_id,)])), None)
