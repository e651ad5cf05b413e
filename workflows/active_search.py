"""A search that learns: rounds of select, DFT, learn, and judge all again.

Each round is a document. It begins with a choice among the candidates of a run; these are
calculated, the model of the run learns from them, and a next run, whose parent is the first, has
the candidates that are left, with the verdicts of the new model. So every run has one model, and
no model judges what it learned from. A round that was interrupted anywhere goes on from its
document: what is chosen stays chosen, what is calculated, learned or judged is not done again.

On a launchpad each job of a round adds the next ones; see :class:`ActiveSearchFlowMaker`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobflow import Flow, Job, Maker, OnMissing, Response, job

from db.collections import CANDIDATES, ROUNDS, Query, conditions
from db.documents import (
    VALIDATION_CHOICES,
    VERDICT_FIELDS,
    CandidateDoc,
    FilterCount,
    RoundDoc,
    Run,
    ValidationDoc,
    utc_now,
)
from db.store import ScreeningStore
from models.errors import named
from models.writing import write_whole
from models.zoo import as_name, check_name, model_id
from screening.errors import ScreeningError, one_line
from screening.second_predictor import NOT_JUDGED_AGAIN
from workflows.dos.base import DosMaker
from workflows.dos.document import recipe_without_stand_ins
from workflows.dos.engines import dos_maker
from workflows.dos.errors import DosError
from workflows.learning import (
    Learned,
    Learning,
    NothingToLearnError,
    check_free,
    checkpoint_of,
    is_not_worse,
    learn,
    lineage,
)
from workflows.plan import check_calculable, choose_validation, record_plan
from workflows.runs import find_run, n_passed, new_run_id
from workflows.screening import finish, in_shards, rescore
from workflows.stores import open_reference, store_reference
from workflows.validation import ValidationFlowMaker, key_of, store_failure
from workflows.verdicts import judged_for

log = logging.getLogger(__name__)

ROUND_FILE = "round.json"  # beside the weights of a model: the round in which it learned
CALCULATED = "calculated"  # stage of the funnel of a next run: candidates whose DFT is known
LONGEST = 256  # characters of a name in a document
DFT = "DFT "  # prefix of the names of jobs that the engine's workers take

Key = tuple[str, str]


@dataclass
class ActiveSearchFlowMaker(Maker):
    """Make the flow of a search.

    Parameters
    ----------
    name : str
    db : str
        Path of the embedded store or MongoDB URI; see
        :class:`workflows.screening.ScreeningFlowMaker`.
    dos_maker : DosMaker
        Of the engine; see :func:`workflows.dos.engines.dos_maker`.
    choice : dict
        How candidates are chosen: options of :func:`workflows.plan.choose_validation`.
    learning : Learning
        Its files are paths on the workers.
    rounds : int
        Until the search has so many.
    models : str
        Folder for the models that have learned, on the workers.
    device : str or None
    workers : int or None
        Of scoring; see :class:`workflows.screening.ScreeningFlowMaker`.

    Examples
    --------
    >>> maker = ActiveSearchFlowMaker(choice={"limit": 8, "n_random": 2}, rounds=2)
    >>> [job.name for job in maker.make("20260131-093000-5f2a").jobs]
    ['select']
    """

    name: str = "active search"
    db: str = "screening.sqlite"
    dos_maker: DosMaker = field(default_factory=lambda: dos_maker("gpaw"))
    choice: dict[str, Any] = field(default_factory=dict)
    learning: Learning = field(default_factory=Learning)
    rounds: int = 1
    models: str = "models"
    device: str | None = None
    workers: int | None = None

    def make(self, run_id: str) -> Flow:
        """Flow of a search among the candidates of a run; the same again goes on with it."""
        selected = select(run_id, self.on_workers)
        return Flow([selected], output=selected.output, name=f"{self.name} {run_id}")

    def make_learning(self, document: RoundDoc) -> Flow:
        """Flow of what follows the calculations in a round, and of no other round."""
        learned = learn_of_round(document.key, self.on_workers, goes_on=False)
        return Flow([learned], output=learned.output, name=f"{self.name}: learn")

    @property
    def on_workers(self) -> ActiveSearchFlowMaker:
        """The same without a URI, and with paths that hold in any folder."""
        return replace(self, db=store_reference(self.db), models=str(Path(self.models).absolute()))

    def validation_maker(self) -> ValidationFlowMaker:
        """Maker of the calculations of one candidate."""
        return ValidationFlowMaker(db=self.db, dos_maker=self.dos_maker)


# The steps of a round.


def begin_round(store: ScreeningStore, run_id: str, maker: ActiveSearchFlowMaker) -> RoundDoc:
    """The unfinished round of a search, or the next one: its choice is written down.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
        Any run of the search; the next round is one of its newest.
    maker : ActiveSearchFlowMaker

    Raises
    ------
    ScreeningError
        If the search has all its rounds, a run of it is not done, or no candidate is left.
    """
    first = lineage(store, store.run(run_id))[-1]
    if (unfinished := _unfinished(store, first)) is not None:
        _check_recipe(unfinished, maker.dos_maker)
        return unfinished
    rounds = store.rounds(first.run_id)
    if len(rounds) >= maker.rounds:
        raise ScreeningError(
            f"the search of run {first.run_id} has its {len(rounds)} rounds; --rounds asks for more"
        )
    run = _done(store.run(rounds[-1].next_run_id) if rounds else first)
    checkpoint_of(run)
    plan = choose_validation(store, run, maker.dos_maker, **maker.choice)
    names = [c.material_id for c in plan.todo] + [v.material_id for v in plan.shared]
    if not names:
        raise ScreeningError(f"run {run.run_id}: no candidate is left to calculate")
    record_plan(store, plan)
    chosen = [name for name in run.selection if name in names]
    document = _document(
        store,
        run,
        Path(maker.models),
        choice=maker.choice,
        chosen=chosen,
        controls=[name for name in names if name not in chosen],
        engine=maker.dos_maker.engine,
        recipe=maker.dos_maker.recipe,
    )
    store.put_round(document)
    return document


def round_of_validations(
    store: ScreeningStore, run: Run, models: Path, out: Path | None = None
) -> RoundDoc:
    """The round of what a user has calculated for a run, about to learn from it.

    Of a search that has an unfinished round it is this one, which learns from what is there.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    models : Path
        Folder for models that have learned.
    out : Path, optional
        That of the new model, instead of one in `models`.

    Raises
    ------
    ScreeningError
        If the run is not done, has no calculations, or can have none.
    ModelError
        If no model can have the name of the folder.
    """
    if out is not None:
        check_name(out.absolute().name)
    unfinished = _unfinished(store, run)
    if unfinished is not None and (unfinished.choice is not None or _has_learned(unfinished)):
        return unfinished
    _done(run)
    check_calculable(run)
    checkpoint_of(run)
    validations = list(store.validations(run_id=run.run_id))
    if not validations:
        raise ScreeningError(f"run {run.run_id} has no validations; `screen validate` first")
    names = {v.material_id for v in validations}
    chosen = [name for name in run.selection if name in names]
    document = _document(
        store,
        run,
        models,
        state="learning",
        chosen=chosen,
        controls=sorted(names.difference(chosen)),
        engine=_listed(v.engine for v in validations),
        recipe=_listed(recipe_without_stand_ins(v.recipe) for v in validations),
    )
    changes = {"checkpoint": str(out.absolute())} if out else {}
    if unfinished is not None:  # its model may be saved already
        changes["next_run_id"] = unfinished.next_run_id
    document = document.model_copy(update=changes)
    store.put_round(document)
    return document


def rounds_of(store: ScreeningStore, run: Run) -> list[RoundDoc]:
    """The rounds of the search that a run belongs to.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    return store.rounds(lineage(store, run)[-1].run_id)


def _unfinished(store: ScreeningStore, run: Run) -> RoundDoc | None:
    rounds = rounds_of(store, run)
    return rounds[-1] if rounds and rounds[-1].state != "done" else None


def _check_recipe(document: RoundDoc, maker: DosMaker) -> None:
    if document.choice is not None and document.recipe != maker.recipe:
        raise ScreeningError(
            f"round {document.number} of run {document.run_id} was begun with {document.recipe}, "
            f"not {maker.recipe}; end it with the same options"
        )


def _has_learned(document: RoundDoc) -> bool:
    return document.is_kept is not None or document.remark is not None


def _document(store: ScreeningStore, run: Run, models: Path, **fields: Any) -> RoundDoc:
    """The next round of a search, or the unfinished one anew."""
    first = lineage(store, run)[-1]
    n_done = sum(document.state == "done" for document in store.rounds(first.run_id))
    name = as_name(f"{Path(first.parameters['checkpoint']).name}-round-{n_done + 1}")
    return RoundDoc(
        run_id=first.run_id,
        number=str(n_done + 1),
        chosen_in=run.run_id,
        model_id=run.model_id or "",
        next_run_id=new_run_id(),
        checkpoint=str(models.absolute() / first.run_id / name),
        **fields,
    )


def _done(run: Run) -> Run:
    if run.state != "done":
        raise ScreeningError(f"run {run.run_id} is not done; `screen run --resume` first")
    return run


def _listed(names: Iterable[str]) -> str:
    """Different names, as many as a field of a document holds."""
    return one_line(named(sorted(set(names))), LONGEST)


def calculations_left(
    store: ScreeningStore, document: RoundDoc, maker: DosMaker
) -> list[CandidateDoc]:
    """Candidates of a round, with structures, whose calculation has not ended since it began.

    None of a round whose calculations a user chose, or whose model has learned.

    Parameters
    ----------
    store : ScreeningStore
    document : RoundDoc
    maker : DosMaker
    """
    if document.choice is None or _has_learned(document):
        return []
    names = [*document.chosen, *document.controls]
    keys = [(document.chosen_in, name) for name in names]
    candidates = {c.material_id: c for c in store.lookup(CANDIDATES, keys, with_structure=True)}
    known = store.validations(engine=maker.engine, material_ids=names)
    ended = {
        (v.material_id, v.structure_hash, v.recipe)
        for v in known
        if v.is_finished or (v.state == "failed" and v.updated_at >= document.created_at)
    }
    in_order = [candidates[name] for name in names]
    return [
        c
        for c in in_order
        if (c.material_id, c.structure_hash, maker.recipe_for(c.elements)) not in ended
    ]


def learn_in_round(
    store: ScreeningStore,
    document: RoundDoc,
    learning: Learning,
    announce: Callable[[str], None] = log.info,
) -> RoundDoc:
    """Let the model learn, unless that was done before; the round says what came of it.

    Where a search has nothing to learn, the model stays as it is, and the round says why.

    Parameters
    ----------
    store : ScreeningStore
    document : RoundDoc
    learning : Learning
    announce : callable
        Gets one line when a step begins or ends.
    """
    if _has_learned(document):
        return document
    folder = Path(document.checkpoint or "")
    if (own := _saved_before(folder, document)) is not None:
        store.put_round(own)
        return own
    check_free(folder)
    outcomes = _outcomes(store, document)
    document = document.model_copy(
        update={
            "state": "learning",
            "error": None,
            "outcomes": dict(Counter(v.state for v in outcomes)),
            "found": [v.material_id for v in outcomes if v.is_positive],
            "updated_at": utc_now(),
        }
    )
    store.put_round(document)
    try:
        learned = learn(store, store.run(document.chosen_in), learning, folder.name, announce)
    except NothingToLearnError as error:
        if document.choice is None:  # nobody waits for another round
            raise
        changes: dict[str, Any] = {"remark": str(error), "checkpoint": None}
        document = document.model_copy(update=changes | {"state": "scoring"})
    else:
        document = _kept(document, folder, learned, force=learning.force)
    store.put_round(document)
    return document


def _saved_before(folder: Path, document: RoundDoc) -> RoundDoc | None:
    """What the round became, if it was interrupted after its model was saved."""
    try:
        saved = RoundDoc.model_validate_json((folder / ROUND_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return saved if saved.next_run_id == document.next_run_id else None


def _outcomes(store: ScreeningStore, document: RoundDoc) -> list[ValidationDoc]:
    """The newest calculation of each material of a round, in the order of the choice.

    They are judged by the criterion of the run, whichever run asked for them first.
    """
    of_run = store.validations(run_id=document.chosen_in)
    newest = {v.material_id: v for v in sorted(of_run, key=lambda v: v.updated_at)}
    in_order = [newest[n] for n in (*document.chosen, *document.controls) if n in newest]
    return judged_for(store.run(document.chosen_in), in_order)


def _kept(document: RoundDoc, folder: Path, learned: Learned, force: bool) -> RoundDoc:
    """The round after its model has learned, which is saved if it is not worse."""
    is_kept = force or is_not_worse(learned.difference)
    changes: dict[str, Any] = {
        "state": "scoring",
        "learned": learned.counts,
        "left_out": [f"{name}: {why}" for name, why in sorted(learned.labels.left_out.items())],
        "before": learned.before,
        "after": learned.after,
        "difference": learned.difference,
        "is_kept": is_kept,
        "updated_at": utc_now(),
    }
    if not is_kept:
        return document.model_copy(update=changes | {"checkpoint": None})
    with learned.saved(folder) as unfinished:
        changes["new_model_id"] = model_id(unfinished)
        document = document.model_copy(update=changes)
        write_whole(unfinished / ROUND_FILE, document.model_dump_json(indent=2))
    return document


def begin_next_run(store: ScreeningStore, document: RoundDoc) -> Run:
    """The run in which the candidates that are left are judged by the model after the round.

    Parameters
    ----------
    store : ScreeningStore
    document : RoundDoc
        That has learned.
    """
    run = find_run(store, document.next_run_id)
    if run is not None and run.funnel:
        return run
    parent = store.run(document.chosen_in)
    folder = checkpoint_of(parent) if document.checkpoint is None else Path(document.checkpoint)
    parameters = {
        name: value for name, value in parent.parameters.items() if name != VALIDATION_CHOICES
    }
    run = Run(
        run_id=document.next_run_id,
        parent=parent.run_id,
        parameters=parameters | {"checkpoint": str(folder)},
        versions=parent.versions,
        model_id=model_id(folder),
        second_model_id=parent.second_model_id,
        source=parent.source,
    )
    store.put_run(run)
    calculated = _calculated(store, parent)
    asked = conditions(run_id=parent.run_id, state=("screened", "failed"))
    judged = store.find(Query(CANDIDATES, asked, with_structure=True))
    left = (c for c in judged if c.structure and c.structure_hash not in calculated)
    store.upsert_candidates((_afresh(c, run) for c in left), keep_existing=True)
    entered = n_passed(parent)
    n_left = sum(store.candidate_counts(run.run_id).values())
    stage = FilterCount(name=CALCULATED, entered=entered, dropped=entered - n_left)
    run = run.model_copy(update={"funnel": [*parent.funnel, stage], "updated_at": utc_now()})
    store.put_run(run)
    return run


def _calculated(store: ScreeningStore, run: Run) -> set[str]:
    """Structures of which a search has asked DFT, and that it has answered for or failed on."""
    asked = (v for r in lineage(store, run) for v in store.validations(run_id=r.run_id))
    return {v.structure_hash for v in asked if v.is_finished or v.state == "failed"}


def _afresh(candidate: CandidateDoc, run: Run) -> CandidateDoc:
    """A candidate that awaits the model of another run, with what was remarked when it was read."""
    changes: dict[str, Any] = dict.fromkeys((*VERDICT_FIELDS, "first_verdict"))
    remarks = [r for r in candidate.remarks or () if not r.startswith(NOT_JUDGED_AGAIN)]
    changes |= {"run_id": run.run_id, "state": "pending", "remarks": remarks}
    return candidate.model_copy(update=changes)


# The jobs.


@contextmanager
def _round(db: str, key: Sequence[str]) -> Iterator[tuple[ScreeningStore, RoundDoc]]:
    """The store and a round of it; if the block fails, the round says why."""
    with open_reference(db) as store:
        try:
            yield store, _stored(store, key)
        except Exception as error:
            failed = {"state": "failed", "error": one_line(error, 500), "updated_at": utc_now()}
            store.put_round(_stored(store, key).model_copy(update=failed))
            raise


def _stored(store: ScreeningStore, key: Sequence[str]) -> RoundDoc:
    (document,) = store.lookup(ROUNDS, [tuple(key)])
    return document


@job
def select(run_id: str, maker: ActiveSearchFlowMaker) -> Response:
    """Begin a round or go on with it: replaced by its calculations, and learning from them.

    Parameters
    ----------
    run_id : str
        Any of the search.
    maker : ActiveSearchFlowMaker
    """
    with open_reference(maker.db) as store:
        document = begin_round(store, run_id, maker)
        calculations = _calculations(store, document, maker)
    outputs = [calculation.output for calculation in calculations]
    learned = learn_of_round(document.key, maker, goes_on=True, calculated=outputs)
    # What failed is recorded, and learning goes on without it.
    learned.config.on_missing_references = OnMissing.NONE
    flow = Flow([*calculations, learned], output=learned.output, name=f"round {document.number}")
    return Response(replace=flow)


def _calculations(
    store: ScreeningStore, document: RoundDoc, maker: ActiveSearchFlowMaker
) -> list[Flow]:
    validation_maker = maker.validation_maker()
    flows = []
    for candidate in calculations_left(store, document, maker.dos_maker):
        try:
            flows.append(validation_maker.make(candidate))
        except DosError as error:
            key = key_of(candidate, maker.dos_maker)
            store_failure(store, candidate.run_id, key, str(error))
    for flow in flows:
        flow.append_name(DFT, prepend=True)
    return flows


@job
def learn_of_round(
    key: Key, maker: ActiveSearchFlowMaker, goes_on: bool, calculated: Sequence[Any] = ()
) -> Response:
    """Learn, and be replaced by jobs that judge all candidates again and end the round.

    Parameters
    ----------
    key : tuple of str
        Of the round.
    maker : ActiveSearchFlowMaker
    goes_on : bool
        With the next round, until there are as many as the maker says.
    calculated : sequence
        Outputs of the calculations, which come first.
    """
    with _round(maker.db, key) as (store, document):
        learned = learn_in_round(store, document, maker.learning)
        parameters = store.run(learned.chosen_in).parameters
    run_id, hardware = learned.next_run_id, {"device": maker.device, "workers": maker.workers}
    scoring: list[Job] = [judge_again(key, maker.db, hardware)]
    if "rescore" in parameters:
        scoring.append(rescore(run_id, maker.db, scoring[0].output, parameters, hardware))
    finished = finish(run_id, maker.db, scoring[-1].output)
    ended = end_round(key, maker, goes_on, finished.output)
    return Response(replace=Flow([*scoring, finished, ended], output=ended.output, name="judge"))


@job
def judge_again(key: Key, db: str, hardware: dict[str, Any]) -> Response:
    """Begin the next run, and be replaced by one scoring job for each of its shards.

    Parameters
    ----------
    key : tuple of str
        Of the round.
    db : str
        See :func:`workflows.stores.store_reference`.
    hardware : dict
        `device` and `workers` of the scoring jobs.
    """
    with _round(db, key) as (store, document):
        run = begin_next_run(store, document)
        return in_shards(store, run, db, run.parameters["checkpoint"], hardware)


@job
def end_round(
    key: Key, maker: ActiveSearchFlowMaker, goes_on: bool, finished: dict[str, Any]
) -> Response:
    """Close the round; replaced by the next one if there is to be one.

    Parameters
    ----------
    key : tuple of str
        Of the round.
    maker : ActiveSearchFlowMaker
    goes_on : bool
    finished : dict
        What :func:`workflows.screening.finish` returned of the next run.
    """
    with _round(maker.db, key) as (store, document):
        now = utc_now()
        changes = {"state": "done", "error": None, "finished_at": now, "updated_at": now}
        store.put_round(document.model_copy(update=changes))
    output = {"rounds": int(document.number), "run_id": document.next_run_id}
    if goes_on and int(document.number) < maker.rounds:
        following = select(document.next_run_id, maker)
        return Response(replace=Flow([following], output=following.output, name="next round"))
    return Response(output=output)
