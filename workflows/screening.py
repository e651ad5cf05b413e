"""The screening graph: query -> filter -> score in shards -> select -> store -> summarise.

Jobs hand each other references and counts only; structures, spectra and verdicts go to the
store. Every job can be run again: it finds what is done and does the rest.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Flow, Job, Maker, Response, job

from db.collections import CANDIDATES, Query, conditions
from db.documents import (
    CandidateDoc,
    GapDoc,
    GridDoc,
    PredictionDoc,
    PredictionKey,
    Run,
    Verdict,
    utc_now,
)
from db.store import ScreeningStore, mask_uri
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from models.training.card import DEFAULT_EDOS, model_id, trained_elements
from screening.candidate import Candidate, SourceItem, Unreadable
from screening.domain import Domain
from screening.errors import ScreeningError
from screening.filters import FilterVerdict, ScreeningFilters
from screening.funnel import Funnel
from screening.gap import GapCriteria, Gaps, find_gaps
from screening.sources import Source, mark_known_edos, open_source
from screening.sources.ids import read_material_ids
from workflows.progress import advance, steps_of
from workflows.stores import open_reference, store_of_run, store_reference

if TYPE_CHECKING:
    from models.predictor import PredictedSpectra, SpectrumPredictor

log = logging.getLogger(__name__)

READ_BATCH = 1000  # candidates that are judged and stored at a time
KEEP_EVERY = 1.0  # s of predictions that are stored at a time
ANSWERS = 0.5  # s in which a store that works has written these


def new_run_id() -> str:
    """Identifier of a new run, such as ``20260131-093000-5f2a``."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def resumable_run(db: str, parameters: dict[str, Any]) -> str:
    """Newest run with these parameters that is not done.

    Raises
    ------
    ScreeningError
        If there is none.
    """
    with open_reference(store_reference(db)) as store:
        unfinished = [run for run in store.runs() if run.state != "done"]
    for run in unfinished:
        if run.parameters == parameters:
            return run.run_id
    if unfinished:
        newest = unfinished[0]
        differ = sorted(k for k, v in parameters.items() if newest.parameters.get(k) != v)
        raise ScreeningError(
            f"no unfinished run has these options; {newest.run_id} differs in {', '.join(differ)}"
        )
    raise ScreeningError(f"{mask_uri(db)} holds no unfinished run; leave out --resume")


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
        ``"mp"``, ``"prototypes"`` or a path.
    source_options : dict
        Passed to :func:`screening.sources.open_source`, and `known_edos`, the path of a list of
        materials whose DOS is known. A key never is among them, only the path of its file.
    filters : dict
        Fields of :class:`screening.filters.ScreeningFilters`.
    criteria : dict
        Fields of :class:`screening.gap.GapCriteria`.
    checkpoint : str
        Folder of the predictor.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    workers : int
        Processes of each scoring job.
    shard_size : int
        Candidates of each scoring job.
    limit : int, optional
        Stop reading the source when so many candidates have passed the filters.
    keep_cell : bool
        Judge structures in the cell that the source gives. Otherwise they are reduced to their
        primitive cells (:func:`models.primitive.reduce_cell`), so that a verdict, whose DOS is
        per cell, does not depend on the cell.

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
    device: str = "auto"
    workers: int = 1
    shard_size: int = 2000
    limit: int | None = None
    keep_cell: bool = False

    def make(self, run_id: str | None = None) -> Flow:
        """Flow of one run; the same `run_id` again resumes that run."""
        run_id = run_id or new_run_id()
        db = store_reference(self.db)
        parameters = self.parameters()
        filters, criteria = parameters["filters"], parameters["criteria"]
        queried = query(run_id, db, self.source, self.source_options, parameters)
        kept = {k: v for k, v in self.source_options.items() if k != "refresh"}
        filtered = filter_candidates(
            run_id, db, queried.output, kept, filters, self.shard_size, self.limit
        )
        scored = score(
            run_id, db, filtered.output["shards"], self.checkpoint, self.device, self.workers
        )
        selected = select(run_id, db, criteria, self.checkpoint, scored.output)
        stored = store_selection(run_id, db, selected.output)
        summarised = summarise(run_id, db, stored.output)
        jobs = [queried, filtered, scored, selected, stored, summarised]
        return Flow(jobs, output=summarised.output, name=f"{self.name} {run_id}")

    def parameters(self) -> dict[str, Any]:
        """What decides the result of the run; kept in its document, compared on resuming."""
        filters = ScreeningFilters.from_options(**self.filters).model_dump(mode="json")
        for name in ("elements", "exclude_elements"):  # sets have no order of their own
            filters[name] = sorted(filters[name])
        return {
            "source": self.source,
            "known_edos": self.source_options.get("known_edos"),
            # Not for other runs, so that older ones can be resumed.
            **{k: v for k, v in self.source_options.items() if k == "recursive"},
            "filters": filters,
            "criteria": GapCriteria.from_options(**self.criteria).model_dump(mode="json"),
            "checkpoint": self.checkpoint,
            "shard_size": self.shard_size,
            "limit": self.limit,
            "keep_cell": self.keep_cell,
        }


@job
def query(
    run_id: str, db: str, source: str, options: dict[str, Any], parameters: dict[str, Any]
) -> dict[str, Any]:
    """Open the source and begin, or go on with, the run.

    Returns
    -------
    dict
        `source` and its provenance: a reference, not the candidates.
    """
    filters = ScreeningFilters(**parameters["filters"])
    opened = _open_source(source, filters, options)
    reference = {"source": source} | opened.provenance
    model = model_id(Path(parameters["checkpoint"]))
    log.info("run %s: %s; model %s", run_id, opened.description, model)
    log.debug("run %s: %s", run_id, parameters)
    with store_of_run(db, run_id) as store:
        run = _find_run(store, run_id)
        if run is None:
            store.put_run(
                Run(
                    run_id=run_id,
                    parameters=parameters,
                    versions={"edos-screening": version("edos-screening")},
                    model_id=model,
                    source=reference,
                )
            )
            return reference
        changed = [
            f"the {what} is another"
            for what, before, now in (
                ("content of the source", run.source.get("fingerprint"), opened.fingerprint),
                ("checkpoint", run.model_id, model),
            )
            if before != now
        ]
        if changed:
            raise ScreeningError(
                f"run {run_id} cannot be resumed: {' and '.join(changed)} than when it began; "
                "start a new run"
            )
        again = {"state": "running", "error": None, "updated_at": utc_now()}
        store.put_run(run.model_copy(update=again))
    return reference


@job
def filter_candidates(
    run_id: str,
    db: str,
    reference: dict[str, Any],
    options: dict[str, Any],
    filters: dict[str, Any],
    shard_size: int,
    limit: int | None,
) -> dict[str, Any]:
    """Stream the source through the filters into the store.

    Returns
    -------
    dict
        `funnel`: what each filter did; `shards`: numbers of the shards to score.
    """
    criteria = ScreeningFilters(**filters)
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        if not run.funnel:
            source = _open_source(reference["source"], criteria, options)
            funnel = Funnel.of(criteria)
            # Runs that were begun when cells were not reduced yet go on like that.
            keep_cell = run.parameters.get("keep_cell", True)
            trained = trained_elements(run.parameters.get("checkpoint"))
            documents = _filtered(
                run_id, source, criteria, funnel, shard_size, limit, keep_cell, trained
            )
            # Of an interrupted run the same candidates come again; their verdicts stay.
            store.upsert_candidates(documents, keep_existing=True)
            stages = funnel.stages
            if source.applied:
                stages = funnel.stages_behind(source.name, source.applied)
            noted = run.source | {"notes": list(source.notes)}
            changes = {"funnel": stages, "source": noted, "updated_at": utc_now()}
            run = Run.model_validate(run.model_dump() | changes)
            store.put_run(run)
            for stage in stages:
                counts = (stage.name, stage.entered, stage.dropped, stage.unknown)
                log.info("%s: %d in, %d dropped, %d unknown", *counts)
        shards = store.shards(run_id, state="pending")
        return {"funnel": [count.model_dump() for count in run.funnel], "shards": shards}


def _open_source(source: str, filters: ScreeningFilters, options: dict[str, Any]) -> Source:
    """Open the source; the Materials Project applies the filters itself as far as it can."""
    options = dict(options)
    known_edos = options.pop("known_edos", None)
    if source == "mp":
        key_file = options.pop("api_key_file", None)
        options |= {
            "filters": filters,
            "api_key_file": Path(key_file) if key_file else None,
            "progress": steps_of("fetched"),
        }
    opened = open_source(source, **options)
    if known_edos is None:
        return opened
    return mark_known_edos(opened, read_material_ids(Path(known_edos)))


def _filtered(
    run_id: str,
    source: Source,
    filters: ScreeningFilters,
    funnel: Funnel,
    shard_size: int,
    limit: int | None,
    keep_cell: bool,
    trained: frozenset[str] | None,
) -> Iterator[CandidateDoc]:
    """Documents of the candidates, passed and rejected, until `limit` have passed."""
    passed, total = 0, source.total
    items: Iterator[SourceItem] = iter(source)
    while batch := list(islice(items, READ_BATCH)):
        for item in batch:
            if limit is not None and passed >= limit:
                return
            if isinstance(item, Unreadable):
                funnel.add_unreadable()
                log.info("%s cannot be used: %s", item.material_id, item.reason)
                yield CandidateDoc(
                    run_id=run_id, material_id=item.material_id, state="failed", reason=item.reason
                )
                continue
            candidate, verdict = _judged(item, filters, keep_cell)
            funnel.add(verdict)
            shard = passed // shard_size if verdict.passed else None
            yield _candidate_document(run_id, candidate, shard, verdict.reason, trained)
            passed += verdict.passed
        advance("read", len(batch), total)


def _judged(
    candidate: Candidate, filters: ScreeningFilters, keep_cell: bool
) -> tuple[Candidate, FilterVerdict]:
    """Verdict of the filters on a candidate in its primitive cell.

    Reducing a cell is dearer than all filters, so it waits until only the size of the cell,
    which is the last of them, may still drop the candidate.
    """
    verdict = filters.judge(candidate)
    if keep_cell or verdict.dropped_by not in (None, "n_sites"):
        return candidate, verdict
    reduced = candidate.reduced()
    return reduced, verdict if verdict.passed else filters.judge(reduced)


def _candidate_document(
    run_id: str,
    candidate: Candidate,
    shard: int | None,
    reason: str | None,
    trained: frozenset[str] | None,
) -> CandidateDoc:
    pending = shard is not None
    domain = Domain.of_candidate(candidate, trained) if pending else Domain()
    return CandidateDoc(
        run_id=run_id,
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
        state="pending" if pending else "rejected",
        reason=reason,
        structure=candidate.structure.as_dict() if pending else None,
        remarks=list(candidate.remarks),
        unseen_elements=domain.unseen_elements,
        has_isolated_atoms=domain.has_isolated_atoms,
        out_of_domain=domain.is_outside,
    )


@job
def score(
    run_id: str, db: str, shards: list[int], checkpoint: str, device: str, workers: int
) -> Response:
    """Replace itself by one scoring job for each shard."""
    if not shards:
        return Response(output=[])
    jobs: list[Job] = [
        score_shard(run_id, db, shard, checkpoint, device, workers) for shard in shards
    ]
    return Response(replace=Flow(jobs, output=[j.output for j in jobs], name="score"))


@job
def score_shard(
    run_id: str, db: str, shard: int, checkpoint: str, device: str, workers: int
) -> dict[str, int]:
    """Predict the spectra of one shard's candidates that have none from this model yet.

    Returns
    -------
    dict
        How many were `predicted`, `reused` and `failed`.
    """
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        model = _model_of(run, checkpoint)
        total = sum(count.entered - count.dropped for count in run.funnel[-1:])
        pending = list(store.candidates(run_id, state="pending", shard=shard))
        known = store.has_predictions(_prediction_key(c, model) for c in pending)
        missing = [c.material_id for c in pending if _prediction_key(c, model) not in known]
        advance("scored", len(known), total)
        counts = {"predicted": 0, "reused": len(known), "failed": 0}
        log.info("shard %d: %d to predict, %d known", shard, len(missing), len(known))
        if not missing:
            return counts
        candidates = list(
            store.candidates(run_id, shard=shard, material_ids=missing, with_structure=True)
        )
        crystals = [Crystal.from_dict(c.structure or {}) for c in candidates]
        criteria = GapCriteria(**run.parameters["criteria"])
        remaining = iter(candidates)
        with closing(
            _predictor(checkpoint, device).predict_parts(crystals, workers=workers)
        ) as parts:
            for part in _timely(parts):
                batch = list(islice(remaining, len(part.values)))
                _keep(store, batch, part, model, criteria)
                counts["predicted"] += len(batch) - len(part.failures)
                counts["failed"] += len(part.failures)
                advance("scored", len(batch), total)
                log.debug("shard %d: %s", shard, counts)
        return counts


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
    candidates: list[CandidateDoc],
    predicted: PredictedSpectra,
    model: str,
    criteria: GapCriteria,
) -> None:
    """Store predictions and the run's verdicts on them; a Ctrl-C does not come in between."""
    good = [i for i in range(len(candidates)) if i not in predicted.failures]
    chosen, spectra = [candidates[i] for i in good], predicted.values[good]
    predictions = list(_prediction_documents(chosen, spectra, model))
    by_key = {_prediction_key(candidate, model): candidate for candidate in chosen}
    verdicts = list(_verdicts(predictions, by_key, criteria))
    verdicts += [
        Verdict(
            run_id=candidates[i].run_id,
            material_id=candidates[i].material_id,
            state="failed",
            reason=reason,
            model_id=model,
        )
        for i, reason in predicted.failures.items()
    ]
    for verdict in verdicts[len(good) :]:
        log.info("%s failed: %s", verdict.material_id, verdict.reason)

    def write() -> None:
        store.upsert_predictions(predictions)
        store.apply_verdicts(verdicts)

    began = time.monotonic()
    try:
        write()
    except KeyboardInterrupt:
        if time.monotonic() - began < ANSWERS:  # else nobody waits for a store that hangs
            write()
        raise


def _model_of(run: Run, checkpoint: str) -> str:
    """Id of the run's model, if the checkpoint still is the one that the run began with."""
    model = model_id(Path(checkpoint))
    if model != run.model_id:
        raise ScreeningError(
            f"run {run.run_id}: the checkpoint {checkpoint} has changed since it began; "
            "start a new run"
        )
    return model


@lru_cache(maxsize=1)
def _predictor(checkpoint: str, device: str) -> SpectrumPredictor:
    """The predictor of this process; loading torch takes seconds, so only when it is needed."""
    from models.predictor import SpectrumPredictor

    return SpectrumPredictor.load(Path(checkpoint), device, EDOS_GRID)


def _prediction_key(candidate: CandidateDoc, model: str) -> PredictionKey:
    return candidate.material_id, candidate.structure_hash or "", model


def _prediction_documents(
    candidates: list[CandidateDoc], spectra: np.ndarray, model: str
) -> Iterator[PredictionDoc]:
    """Predictions with the verdict by the paper's criteria, which is the same for every run."""
    grid = GridDoc(**EDOS_GRID.model_dump())
    gaps = judge(spectra, [candidate.nsites for candidate in candidates], GapCriteria())
    for i, candidate in enumerate(candidates):
        yield PredictionDoc(
            material_id=candidate.material_id,
            structure_hash=candidate.structure_hash or "",
            model_id=model,
            formula=candidate.formula,
            nsites=candidate.nsites,
            grid=grid,
            spectrum=spectra[i],  # the document makes a list of it
            gap=gap_document(gaps, i),
            score=float(gaps.score[i]),
        )


def judge(spectra: np.ndarray, n_atoms: Sequence[int], criteria: GapCriteria) -> Gaps:
    """Verdicts on 128-bin spectra (B, 128) in states/eV/cell."""
    return find_gaps(EDOS_GRID, spectra, criteria, n_atoms)


def gap_document(gaps: Gaps, i: int) -> GapDoc:
    """Verdict `i` as a document."""
    criteria = gaps.criteria
    return GapDoc(
        **gaps.row(i), per_atom=criteria.per_atom, criteria=criteria.model_dump(mode="json")
    )


@job
def select(
    run_id: str, db: str, criteria: dict[str, Any], checkpoint: str, scored: list[dict[str, int]]
) -> dict[str, int]:
    """Apply the run's criteria to the predictions that were there before the run.

    Returns
    -------
    dict
        Sums of what the scoring jobs did.
    """
    gap_criteria = GapCriteria(**criteria)
    with store_of_run(db, run_id) as store:
        model = _model_of(store.run(run_id), checkpoint)
        for shard in store.shards(run_id, state="pending"):
            pending = {
                _prediction_key(candidate, model): candidate
                for candidate in store.candidates(run_id, state="pending", shard=shard)
            }
            predictions = list(store.predictions(pending))
            store.apply_verdicts(_verdicts(predictions, pending, gap_criteria))
    keys = ("predicted", "reused", "failed")
    return {key: sum(counts[key] for counts in scored) for key in keys}


def _verdicts(
    predictions: Sequence[PredictionDoc],
    candidates: Mapping[PredictionKey, CandidateDoc],
    criteria: GapCriteria,
) -> Iterator[Verdict]:
    if not predictions:
        return
    spectra = np.array([p.spectrum for p in predictions], np.float32)
    gaps = judge(spectra, [prediction.nsites for prediction in predictions], criteria)
    positive = gaps.is_gap
    per_atom = _judged_per_atom(spectra, [p.nsites for p in predictions], gaps)
    for i, prediction in enumerate(predictions):
        candidate = candidates[prediction.key]
        yield Verdict(
            run_id=candidate.run_id,
            material_id=candidate.material_id,
            state="screened",
            model_id=prediction.model_id,
            gap=gap_document(gaps, i),
            is_positive=bool(positive[i]),
            is_positive_per_atom=bool(per_atom[i]),
            score=float(gaps.score[i]),
        )


def _judged_per_atom(spectra: np.ndarray, n_atoms: Sequence[int], gaps: Gaps) -> np.ndarray:
    """Verdicts with the threshold for an atom, (B,): a cell's DOS grows with the cell."""
    if gaps.criteria.per_atom:
        return gaps.is_gap
    return judge(spectra, n_atoms, gaps.criteria.model_copy(update={"per_atom": True})).is_gap


@job
def store_selection(run_id: str, db: str, scored: dict[str, int]) -> dict[str, int]:
    """Check that every candidate has a verdict, and store the positives, best first.

    Raises
    ------
    ScreeningError
        If candidates are still pending: a part of the run was lost.
    """
    with store_of_run(db, run_id) as store:
        counts = _counts(store, run_id)
        if counts.get("pending"):
            raise ScreeningError(
                f"run {run_id}: {counts['pending']} candidates have no prediction; resume it"
            )
        best = store.candidates(run_id, is_positive=True, sort_by="score", descending=True)
        selection = [candidate.material_id for candidate in best]
        run = store.run(run_id)
        # A resumed run adds to what was scored before it was interrupted.
        changes = {"selection": selection, "counts": counts, "updated_at": utc_now()}
        store.put_run(Run.model_validate(run.model_dump() | changes))
        return counts | scored


def _counts(store: ScreeningStore, run_id: str) -> dict[str, int]:
    """Candidates in each state, and the positives among them."""
    positives = Query(CANDIDATES, conditions(run_id=run_id, is_positive=True))
    return store.candidate_counts(run_id) | {"positive": store.count(positives)}


def note_interruption(db: str, run_id: str) -> None:
    """Write down that a run was interrupted, and how far it has come, if it has begun."""
    with open_reference(store_reference(db)) as store:
        run = _find_run(store, run_id)
        if run is None or run.state == "done":
            return
        changes = {"state": "interrupted", "updated_at": utc_now()}
        run = run.model_copy(update=changes)
        store.put_run(run)  # first, since counting a million candidates takes its time
        store.put_run(run.model_copy(update={"counts": _counts(store, run_id)}))


@job
def summarise(run_id: str, db: str, counts: dict[str, int]) -> dict[str, Any]:
    """Close the run.

    Returns
    -------
    dict
        `run_id`, `model_id`, `funnel` and `counts`.
    """
    with store_of_run(db, run_id) as store:
        run = store.run(run_id)
        done = {"state": "done", "error": None, "finished_at": utc_now(), "updated_at": utc_now()}
        store.put_run(run.model_copy(update=done))
        log.info("run %s is done: %s", run_id, counts)
        return {
            "run_id": run_id,
            "model_id": run.model_id,
            "funnel": [count.model_dump() for count in run.funnel],
            "counts": counts,
        }


def _find_run(store: ScreeningStore, run_id: str) -> Run | None:
    return next((run for run in store.runs() if run.run_id == run_id), None)


@dataclass(frozen=True)
class Domains:
    """How many of a run's positives the model can know, and of which not.

    Parameters
    ----------
    inside, outside, unknown : int
        Positives in the model's domain, out of it, and of which that is not known.
    unseen_elements : dict of str to int
        Positives with each element that the model was not trained on.
    isolated_atoms : int
        Positives with isolated atoms.
    """

    inside: int
    outside: int
    unknown: int
    unseen_elements: dict[str, int]
    isolated_atoms: int

    def in_words(self) -> str:
        """One line for the end of a run."""
        words = f"Positives in the model's domain: {self.inside:,}; out of it: {self.outside:,}"
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.isolated_atoms:
            reasons.append(f"{self.isolated_atoms:,} with isolated atoms")
        words += f" ({'; '.join(reasons)})" if reasons else ""
        return words + (f"; not known: {self.unknown:,}" if self.unknown else "")


def domains(store: ScreeningStore, run_id: str) -> Domains:
    """Count the positives of a run in and out of the model's domain."""
    sides: Counter[bool | None] = Counter()
    unseen: Counter[str] = Counter()
    isolated = 0
    for candidate in store.candidates(run_id, is_positive=True):
        domain = Domain.of_document(candidate)
        sides[domain.is_outside] += 1
        unseen.update(domain.unseen_elements or ())
        isolated += bool(domain.has_isolated_atoms)
    by_element = dict(sorted(unseen.items()))
    return Domains(sides[False], sides[True], sides[None], by_element, isolated)
