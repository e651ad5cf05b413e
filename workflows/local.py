"""Running here: a flow in this process, calculations in worker processes."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from db.documents import CandidateDoc
from db.errors import StoreError
from models.errors import ModelError
from models.processes import WorkerDiedError, WorkerPool
from screening.errors import ScreeningError
from workflows.stores import FROM_ENVIRONMENT, open_reference, store_reference

if TYPE_CHECKING:
    from workflows.validation import ValidationFlowMaker

FOLDER = "screen-validate-"  # prefix of the folders in which engines run
LOGS = "failed-calculations"  # folder beside the database, or here, for what engines wrote

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


def validate_here(maker: ValidationFlowMaker, candidate: CandidateDoc) -> dict[str, Any]:
    """Calculate one candidate in this process.

    Whatever goes wrong with the calculation is recorded as its failure, so that the next
    candidate has its turn; only a store that fails is an error. A log that the reason names is
    kept.

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
        return _run_in_a_folder_that_goes(maker, candidate)
    except StoreError:
        raise
    except Exception as error:
        named = isinstance(error, (DosError, ModelError))
        reason = str(error) if named else f"{type(error).__name__}: {error}"
        with open_reference(store_reference(maker.db)) as store:
            return store_failure(
                store, candidate.run_id, key_of(candidate, maker.dos_maker), reason
            )


def _run_in_a_folder_that_goes(
    maker: ValidationFlowMaker, candidate: CandidateDoc
) -> dict[str, Any]:
    from workflows.dos.errors import DosError

    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        try:
            outcome: dict[str, Any] = run_flow(maker.make(candidate), folder)
        except DosError as error:
            reason = _with_kept_log(str(error), Path(folder).resolve(), maker.db, candidate)
            raise DosError(reason) from error
    return outcome


def _with_kept_log(reason: str, folder: Path, db: str, candidate: CandidateDoc) -> str:
    """A reason of a failure whose log, if it names one, is where it says."""
    log = next((path for path in folder.glob("*.txt") if str(path) in reason), None)
    if log is None:
        return reason
    reference = store_reference(db)
    beside = Path.cwd() if reference == FROM_ENVIRONMENT else Path(reference).parent
    kept = beside / LOGS / f"{candidate.structure_hash}-{log.name}"
    try:
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(log, kept)
    except OSError:  # no space, or no permission: without it the reason still says what went wrong
        return reason.replace(f" (log: {log})", "")
    return reason.replace(str(log), str(kept))


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
