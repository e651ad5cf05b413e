"""A run in its store: begun, found, gone on with, counted.

What a run looks for is in its parameters, what it has found in the documents of its candidates.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from db.collections import CANDIDATES, RUNS, Query, conditions
from db.documents import Run, utc_now
from db.store import ScreeningStore, mask_uri
from models.zoo import model_id
from screening.criteria.registry import CRITERION
from screening.errors import ScreeningError
from screening.funnel import Funnel
from screening.sources import Source
from workflows.rescoring import SAME_MODEL, rescoring_counts
from workflows.stores import open_reference, store_reference

log = logging.getLogger(__name__)

READ = "read"  # what a run that is not read to the end notes of its source: the funnel so far

_OF_MODELS = {"checkpoint": "model_id", "rescore_with": "second_model_id"}
"""Parameters of a run that are folders of models, and where it has the ids of these."""


def new_run_id() -> str:
    """Identifier of a new run, such as ``20260131-093000-5f2a``."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def new_run(run_id: str, parameters: dict[str, Any]) -> Run:
    """A run whose source was not opened yet.

    Parameters
    ----------
    run_id : str
    parameters : dict
        Of the :class:`workflows.screening.ScreeningFlowMaker`.
    """
    folders = (parameters.get(name) for name in _OF_MODELS)
    model, second = (None if folder is None else model_id(Path(folder)) for folder in folders)
    return Run(
        run_id=run_id,
        parameters=parameters,
        versions={"edos-screening": version("edos-screening")},
        model_id=model,
        second_model_id=second,
    )


def note_submission(db: str, run_id: str, parameters: dict[str, Any]) -> None:
    """Write down a run that a launchpad gets, so that its state is known before a worker begins it.

    Parameters
    ----------
    db : str
        Path of the embedded store or MongoDB URI.
    run_id : str
        Of a new run, or of one to resume.
    parameters : dict
        Of the :class:`workflows.screening.ScreeningFlowMaker`.
    """
    with open_reference(store_reference(db)) as store:
        store.upsert(RUNS, [new_run(run_id, parameters)], "insert")


def begin_run(
    store: ScreeningStore, run_id: str, parameters: dict[str, Any], source: Source
) -> Run:
    """A run that begins, or goes on where it was interrupted.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    parameters : dict
        Of the :class:`workflows.screening.ScreeningFlowMaker`.
    source : Source
        Not read yet.

    Raises
    ------
    ScreeningError
        If source or models are not those that it began with, or if both models are the same.
    """
    new = new_run(run_id, parameters)
    models = ", then ".join(filter(None, (new.model_id, new.second_model_id)))
    log.info("run %s: %s; model %s", run_id, source.description, models)
    log.debug("run %s: %s", run_id, parameters)
    if new.model_id == new.second_model_id:
        raise ScreeningError(SAME_MODEL.format(Path(parameters["rescore_with"]).name))
    run = find_run(store, run_id) or new
    noted = run.source or {"source": parameters["source"]} | source.provenance
    changed = [
        f"the {what} is another"
        for what, before, now in (
            ("criterion", run.parameters.get(CRITERION), parameters.get(CRITERION)),
            (
                "source (by name, size and time of change)",
                noted.get("fingerprint"),
                source.fingerprint,
            ),
            ("checkpoint", run.model_id, new.model_id),
            ("checkpoint of --rescore-with", run.second_model_id, new.second_model_id),
        )
        if before != now
    ]
    if changed:
        raise ScreeningError(
            f"run {run_id} cannot be resumed: {' and '.join(changed)} than when it began; "
            "start a new run, which makes no prediction twice"
        )
    begun = {"state": "running", "error": None, "source": noted, "updated_at": utc_now()}
    run = Run.model_validate(run.model_dump() | begun)
    store.put_run(run)
    return run


def find_run(store: ScreeningStore, run_id: str) -> Run | None:
    """The run of this id, if it has begun.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    """
    return next(iter(store.lookup(RUNS, [(run_id,)])), None)


def resumable_run(db: str, parameters: dict[str, Any], may_lack: Collection[str] = ()) -> Run:
    """Newest run that is not done, with these parameters and models, wherever they lie.

    Parameters
    ----------
    db : str
        Path of the embedded store or MongoDB URI.
    parameters : dict
        See :meth:`workflows.screening.ScreeningFlowMaker.parameters`.
    may_lack : collection of str
        Parameters that nobody asked for: if no run has them, it may be one without.

    Raises
    ------
    ScreeningError
        If there is none.
    """
    with open_reference(store_reference(db)) as store:
        unfinished = [run for run in store.runs() if run.state != "done"]
    folders = {name: parameters[name] for name in _OF_MODELS if name in parameters}
    asked = parameters | {name: model_id(Path(folder)) for name, folder in folders.items()}
    without = {name: value for name, value in asked.items() if name not in may_lack}
    for wanted in (asked, without):
        for run in unfinished:
            if _asked_of(run) == wanted:
                return run
    if unfinished:
        of_newest = _asked_of(unfinished[0])
        names = sorted(asked.keys() | of_newest.keys())
        differ = [name for name in names if of_newest.get(name) != asked.get(name)]
        raise ScreeningError(
            f"no unfinished run has these options; {unfinished[0].run_id} differs in "
            f"{', '.join(differ)}"
        )
    raise ScreeningError(f"{mask_uri(db)} holds no unfinished run; leave out --resume")


def _asked_of(run: Run) -> dict[str, Any]:
    """Parameters of a run with the ids of its models in place of their folders."""
    ids = {name: getattr(run, field) for name, field in _OF_MODELS.items()}
    return run.parameters | {name: ids[name] for name in ids if name in run.parameters}


def note_interruption(db: str, run_id: str) -> None:
    """Write down that a run was interrupted, and how far it has come, if it has begun.

    Parameters
    ----------
    db : str
        Path of the embedded store or MongoDB URI.
    run_id : str
    """
    with open_reference(store_reference(db)) as store:
        run = find_run(store, run_id)
        if run is None or run.state == "done":
            return
        changes = {"state": "interrupted", "updated_at": utc_now()}
        # First, since counting a million candidates takes its time.
        run = store.change_run(run_id, lambda run: run.model_copy(update=changes))
        counts = candidate_counts(store, run)
        store.change_run(run_id, lambda run: run.model_copy(update={"counts": counts}))


def note_funnel(store: ScreeningStore, run: Run, source: Source, funnel: Funnel) -> Run:
    """Note what each filter did to a source that was read to its end.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    source : Source
    funnel : Funnel
        That counted what came from the source, and not what a server filtered.

    Returns
    -------
    Run
        With the note, as it is stored.
    """
    stages = funnel.stages
    if source.applied:
        stages = funnel.stages_behind(source.name, source.applied)
    noted = {k: v for k, v in run.source.items() if k != READ} | {"notes": list(source.notes)}
    changes = {"funnel": stages, "source": noted, "updated_at": utc_now()}
    run = Run.model_validate(run.model_dump() | changes)
    store.put_run(run)
    for stage in stages:
        counts = (stage.name, stage.entered, stage.dropped, stage.unknown)
        log.info("%s: %d in, %d dropped, %d unknown", *counts)
    return run


def n_passed(run: Run) -> int:
    """How many candidates of a run that is read have passed its filters."""
    return sum(count.entered - count.dropped for count in run.funnel[-1:])


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
