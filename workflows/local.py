"""Running here: a flow in this process, calculations in worker processes, resuming a run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from db.documents import CandidateDoc, Run, utc_now
from db.errors import StoreError
from db.store import mask_uri
from models.errors import ModelError
from models.processes import WorkerDiedError, WorkerPool
from models.zoo import model_id
from screening.errors import ScreeningError
from workflows.screening import candidate_counts, find_run
from workflows.stores import open_reference, store_reference

if TYPE_CHECKING:
    from workflows.validation import ValidationFlowMaker

FOLDER = "screen-validate-"  # prefix of the folders in which engines run

_OF_MODELS = {"checkpoint": "model_id", "rescore_with": "second_model_id"}
"""Parameters of a run that are folders of models, and where it has the ids of these."""

Outcomes = Generator[tuple[CandidateDoc, dict[str, Any]], None, None]
"""Candidates with what :func:`workflows.validation.store_validation` returned, as they come."""


def run_flow(flow: Flow, folder: str = ".") -> Any:
    """Run a flow here and now; what fails raises its own error.

    Parameters
    ----------
    flow : Flow
    folder : str
        Where its jobs write their files.

    Returns
    -------
    Any
        Output of the flow.
    """
    store = JobStore(MemoryStore())
    responses = run_locally(flow, log=False, store=store, root_dir=folder, raise_immediately=True)
    return responses[flow.output.uuid][1].output


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
        run = run.model_copy(update=changes)
        store.put_run(run)  # first, since counting a million candidates takes its time
        store.put_run(run.model_copy(update={"counts": candidate_counts(store, run)}))


def validate_here(maker: ValidationFlowMaker, candidate: CandidateDoc) -> dict[str, Any]:
    """Calculate one candidate in this process.

    Whatever goes wrong with the calculation is recorded as its failure, so that the next
    candidate has its turn; only a store that fails is an error.

    Parameters
    ----------
    maker : ValidationFlowMaker
    candidate : CandidateDoc
        With its structure.

    Returns
    -------
    dict
        As of :func:`workflows.validation.store_validation`.

    Raises
    ------
    StoreError
        If the store cannot be used.
    """
    from workflows.dos.errors import DosError  # with half of SciPy, which screening does without
    from workflows.validation import key_of, store_failure

    try:
        with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
            outcome: dict[str, Any] = run_flow(maker.make(candidate), folder)
        return outcome
    except StoreError:
        raise
    except Exception as error:
        named = isinstance(error, (DosError, ModelError))
        reason = str(error) if named else f"{type(error).__name__}: {error}"
        with open_reference(store_reference(maker.db)) as store:
            return store_failure(
                store, candidate.run_id, key_of(candidate, maker.dos_maker), reason
            )


def validate_all(
    maker: ValidationFlowMaker, candidates: Sequence[CandidateDoc], workers: int = 1
) -> Outcomes:
    """Calculate candidates; when the caller stops early, so do the calculations.

    Parameters
    ----------
    maker : ValidationFlowMaker
    candidates : sequence of CandidateDoc
        With their structures, in the order in which they are begun.
    workers : int
        How many are calculated at a time, each in a process of its own; one in this process.

    Yields
    ------
    tuple of CandidateDoc and dict
        As they come; see :func:`validate_here`.

    Raises
    ------
    ScreeningError
        If a worker process was killed.
    """
    if workers == 1:
        warnings.simplefilter("ignore")
        for candidate in candidates:
            yield candidate, validate_here(maker, candidate)
        return
    with (
        tempfile.TemporaryDirectory(prefix=FOLDER) as folder,
        WorkerPool(workers, _prepare_worker, (folder,)) as pool,
    ):
        try:
            yield from pool.as_done(partial(validate_here, maker), candidates)
        except WorkerDiedError:
            raise ScreeningError(
                "a worker process was killed (no memory left?); what is done is kept, and the "
                "same command goes on with what is left"
            ) from None


def _prepare_worker(folder: str) -> None:
    """Put temporary files where the main process removes them, should this one be killed."""
    tempfile.tempdir = folder
    warnings.simplefilter("ignore")
