"""The screening graph: prepare -> score in shards -> finish; or -> rescore in shards -> finish.

In one process `prepare` scores what it reads at once (:mod:`workflows.streaming`), so that no shard
is left. How candidates are scored is in :mod:`workflows.scoring`, how a run begins and goes on in
:mod:`workflows.runs`.

Jobs hand each other references and counts only; structures, spectra and verdicts go to the
store. Every job can be run again: it finds what is done and does the rest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Flow, Job, Maker, Response, job

from db.collections import CANDIDATES, Query, batched, conditions
from db.documents import Run, utc_now
from db.store import ScreeningStore
from models.deferred_predictor import deferred_predictor
from models.zoo import DEFAULT_EDOS
from screening.criteria.gap_criterion import VB_GAP
from screening.criteria.registry import find_criterion, parameters_of
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.second_predictor import RESCORE_WITH, n_unless_asked
from screening.sources import Source
from workflows.checkpoints import check_all_here, check_checkpoints, check_here, model_of
from workflows.hardware import what_only_this_machine_lacks, worker_device, worker_processes
from workflows.reading import open_source_of_run, reader_of_run
from workflows.rescoring import SAME_MODEL, awaiting, choose, n_chosen
from workflows.runs import begin_run, candidate_counts, find_run, new_run_id, note_funnel
from workflows.scoring import Scorer
from workflows.shards import OPEN_READERS, ShardReader
from workflows.stores import FROM_ENVIRONMENT, open_reference, store_of_run, store_reference
from workflows.streaming import ReadAndScored

log = logging.getLogger(__name__)

SHARD_SIZE = 2000  # candidates of a scoring job in this process
PORTION = 4000  # candidates of a shard that are in memory at a time
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
        materials whose DOS is known, or several paths. A key never is among them, only the path of
        its file.
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
    begun = _begun(db, run_id)
    source = _source_of(parameters, source_options, begun)
    check_checkpoints(parameters)
    with store_of_run(db, run_id) as store:
        run = begin_run(store, run_id, parameters, source)
        if run.funnel:
            return in_shards(store, run, db, checkpoint, hardware)
        is_new = begun is None
        scored = ReadAndScored(store, run, source, parameters, is_new).counts_by(**hardware)
        return Response(output=[scored])


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
            begun = find_run(store, run_id)
            with what_only_this_machine_lacks():
                check_all_here(begun, parameters)
            source = _source_of(parameters, source_options, begun)
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


def _begun(db: str, run_id: str) -> Run | None:
    """The run, if it has begun; a database that is not there is not made."""
    if db != FROM_ENVIRONMENT and not Path(db).exists():
        return None
    with open_reference(db) as store:
        return find_run(store, run_id)


def _source_of(
    parameters: dict[str, Any], source_options: dict[str, Any], begun: Run | None
) -> Source:
    """The source; a run that has begun is not to get another answer of a database."""
    filters = ScreeningFilters(**parameters["filters"])
    if begun is not None and begun.source:
        source_options = {k: v for k, v in source_options.items() if k != "refresh"}
    return open_source_of_run(parameters["source"], filters, source_options)


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
        Counts as of :meth:`workflows.scoring.Scorer.score`.
    """
    counts = Counter(predicted=0, reused=0, failed=0)
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        if device is None:
            with what_only_this_machine_lacks():
                check_here(run, checkpoint)
                workers = workers or worker_processes()
        scorer = Scorer.of(store, run, checkpoint)
        for portion in batched(store.find(awaiting(run, scorer.model, shard)), PORTION):
            counts.update(scorer.score(portion, device, workers))
            log.debug("shard %d: %s", shard, dict(counts))
    return dict(counts)


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
        if hardware["device"] is None:
            with what_only_this_machine_lacks():
                check_here(run, checkpoint)
        else:
            model_of(run, checkpoint)
        _check_judged(store, run, run.model_id or "")
        if (n := parameters["rescore"] - n_chosen(store, run)) > 0:
            predictor = deferred_predictor(checkpoint, hardware["device"] or worker_device())
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
