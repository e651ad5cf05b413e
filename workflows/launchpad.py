"""FireWorks: the launchpad of a ``launchpad.yaml``, submission and states."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from pydantic import BaseModel, ConfigDict, ValidationError
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

from db.collections import VALIDATIONS
from db.documents import CandidateDoc, ValidationDoc, utc_now
from db.errors import StoreError
from db.store import ScreeningStore, mask_uri
from db.waiting import Watch
from models.errors import ModelError, describe
from screening.errors import ScreeningError
from screening.secrets import keep_secret
from workflows.active_search import DFT, ActiveSearchFlowMaker
from workflows.dos.errors import DosError
from workflows.hardware import UnfitError
from workflows.screening import ScreeningFlowMaker, read_shard, score_shard
from workflows.validation import ValidationFlowMaker, draft_of, key_of, store_failure

if TYPE_CHECKING:
    from fireworks import LaunchPad

TIMEOUT = 5_000  # ms to find the database
LOST_AFTER = 4 * 3600.0  # s without a sign of life; workers give one every hour
READING = "reading"  # category of a screening run's jobs that need its source, and no GPU
PREDICTION = "prediction"  # category of its scoring jobs, which a GPU does fastest
SCREENING = "screening"  # category of all others, which need neither
SHARD_SIZE = 20_000  # candidates of a scoring job: seconds of a GPU, minutes of a few cores
OPEN = {"state": {"$in": ["READY", "RESERVED", "RUNNING"]}}  # jobs that end without help
ENDED = ("COMPLETED", "ARCHIVED", "DEFUSED")  # workflows that do no more
PAUSED = "PAUSED"  # one that may go on; FireWorks' `lpad defuse_wflows` makes such, too
OURS = (
    DosError,
    ModelError,
    ScreeningError,
    StoreError,
    UnfitError,
)  # exceptions that say all in a line
_OUR_ERRORS = re.compile(rf"^[\w.]*({'|'.join(error.__name__ for error in OURS)}): ")
GONE = "the launchpad has no such job any more; `screen validate` submits it again"


class LaunchPadFile(BaseModel):
    """Fields of ``launchpad.yaml``; they are FireWorks' own."""

    model_config = ConfigDict(extra="forbid")

    host: str = "localhost"
    port: int | None = 27017
    name: str = "fireworks"
    username: str | None = None
    password: str | None = None
    authsource: str | None = None
    uri_mode: bool = False
    mongoclient_kwargs: dict[str, Any] = {}
    logdir: str | None = None
    strm_lvl: str | None = "INFO"
    user_indices: list[str] = []
    wf_user_indices: list[str] = []

    @classmethod
    def read(cls, path: Path) -> LaunchPadFile:
        """Fields of a file.

        Raises
        ------
        ScreeningError
            If the file is missing, is not YAML, or a field is wrong.
        """
        try:
            file = cls.model_validate(yaml.safe_load(path.read_bytes()) or {})
        except OSError as error:
            raise ScreeningError(f"{path}: {error.strerror}; --launchpad names another") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ScreeningError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
        except ValidationError as error:
            raise ScreeningError(f"{path}: {describe(error)}") from None
        keep_secret(file.password or "")
        return file

    @property
    def address(self) -> str:
        """Where the database is, without a password."""
        host = mask_uri(self.host)
        return host if self.uri_mode else f"{host}:{self.port}"


@contextmanager
def open_launchpad(path: Path) -> Iterator[LaunchPad]:
    """LaunchPad of a file, for a ``with`` block in which its database has to answer.

    Raises
    ------
    ScreeningError
        If the file is missing, a field is wrong, nobody ran ``lpad reset`` yet, or the database
        does not answer, now or later. In one line, and without the URI, which may hold a
        password; the database's own message may have it.
    """
    file = LaunchPadFile.read(path)
    where = f"{path}: {file.address}"
    try:
        with Watch(where):
            launchpad = _connect(file)
            is_set_up = launchpad.fw_id_assigner.find_one() is not None
        if not is_set_up:
            raise ScreeningError(f"{where} is no launchpad yet; run `lpad -l {path} reset` once")
        yield launchpad
    except ConfigurationError:
        raise ScreeningError(f"{where}: mongoclient_kwargs or the URI are wrong") from None
    except OperationFailure as error:
        raise ScreeningError(f"{where} refuses (code {error.code})") from None
    except PyMongoError as error:
        raise ScreeningError(f"{where} does not answer ({type(error).__name__})") from None


def _connect(file: LaunchPadFile) -> LaunchPad:
    from fireworks import LaunchPad

    client = {"serverSelectionTimeoutMS": TIMEOUT} | file.mongoclient_kwargs
    settings = file.model_dump() | {"mongoclient_kwargs": client, "strm_lvl": "WARNING"}
    try:
        return LaunchPad(**settings)
    except (TypeError, ValueError) as error:  # pymongo's, of an option
        raise ConfigurationError(str(error)) from None


def submit_flow(
    launchpad: LaunchPad,
    flow: Flow,
    *,
    category: str,
    priority: int = 0,
    metadata: dict[str, Any] | None = None,
    other_categories: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Send a flow to the launchpad.

    Parameters
    ----------
    launchpad : LaunchPad
    flow : Flow
    category : str
        Workers whose ``my_fworker.yaml`` names a category take only jobs of theirs.
    priority : int
        The highest is worked off first.
    metadata : dict, optional
        Of the workflow.
    other_categories : mapping of str to str
        Names of jobs with a category of their own.
    """
    for name, own in ((None, category), *other_categories.items()):
        # All others wait for what is read.
        manager = {"_category": own, "_priority": priority + (own == READING)}
        # Of jobs that the flow adds later as well; these do not take their parent's.
        changes = {"manager_config": manager, "pass_manager_config": False}
        flow.update_config(changes, name_filter=name)
    launchpad.add_wf(flow_to_workflow(flow, metadata=metadata))


def submit_screening(launchpad: LaunchPad, maker: ScreeningFlowMaker, run_id: str) -> None:
    """Send a screening run to the launchpad; its shards are jobs that several workers share.

    Each worker brings its own device and cores, whatever the maker says of this machine's; see
    :mod:`workflows.hardware`.

    Parameters
    ----------
    launchpad : LaunchPad
    maker : ScreeningFlowMaker
        Its source and checkpoint are paths on the workers.
    run_id : str
        Of a new run, or of one to resume.

    Raises
    ------
    ScreeningError
        If the launchpad has jobs of the run that are not done.
    """
    is_open = {"metadata.screening": run_id, "state": {"$nin": ["COMPLETED", "ARCHIVED"]}}
    if launchpad.workflows.find_one(is_open, {"_id": 1}):
        raise ScreeningError(
            f"run {run_id} is on the launchpad already; `screen status --run {run_id}` shows how "
            "far it is, --rerun-failed and --rerun-lost go on with it"
        )
    on_workers = replace(maker, device=None, workers=None, shard_by_shard=True)
    submit_flow(
        launchpad,
        on_workers.make(run_id),
        category=SCREENING,
        other_categories={read_shard.__name__: READING, score_shard.__name__: PREDICTION},
        metadata={"screening": run_id},
    )


def submit_search(launchpad: LaunchPad, maker: ActiveSearchFlowMaker, run_id: str) -> None:
    """Send a search to the launchpad: its calculations, and the jobs that learn and judge.

    Parameters
    ----------
    launchpad : LaunchPad
    maker : ActiveSearchFlowMaker
    run_id : str
        The first run of the search.

    Raises
    ------
    ScreeningError
        If the launchpad has jobs of the search that run or are about to.
    """
    if launchpad.get_fw_ids_in_wfs({"metadata.search": run_id}, OPEN):
        raise ScreeningError(
            f"the search of run {run_id} is on the launchpad already; `screen rounds {run_id}` "
            "shows how far it is, `lpad detect_lostruns --rerun` goes on where a worker was lost"
        )
    categories = {score_shard.__name__: PREDICTION, DFT: maker.dos_maker.engine}
    submit_flow(
        launchpad,
        replace(maker, device=None, workers=None).make(run_id),
        category=SCREENING,
        other_categories=categories,
        metadata={"search": run_id},
    )


def submit(
    launchpad: LaunchPad,
    store: ScreeningStore,
    maker: ValidationFlowMaker,
    candidates: Sequence[CandidateDoc],
) -> list[dict[str, Any]]:
    """Send one workflow for each candidate to the launchpad, the best with the highest priority.

    A candidate that the engine cannot calculate is recorded as failed instead.

    Parameters
    ----------
    launchpad : LaunchPad
    store : ScreeningStore
    maker : ValidationFlowMaker
    candidates : sequence of CandidateDoc
        With their structures, the best first.

    Returns
    -------
    list of dict
        Those that the engine cannot calculate: `material_id`, and `state` and `error` of
        :func:`workflows.validation.store_failure`.
    """
    refused = []
    for rank, candidate in enumerate(candidates):
        key = key_of(candidate, maker.dos_maker)
        try:
            flow = maker.make(candidate)
        except DosError as error:
            failed = store_failure(store, candidate.run_id, key, str(error))
            refused.append({"material_id": candidate.material_id} | failed)
            continue
        # In this order, dying in between repeats a calculation instead of losing it.
        submit_flow(
            launchpad,
            flow,
            category=maker.dos_maker.engine,
            priority=len(candidates) - rank,
            metadata=key | {"run_id": candidate.run_id},
        )
        _mark_queued(store, candidate, key, list(flow.job_uuids))
    return refused


def _mark_queued(
    store: ScreeningStore, candidate: CandidateDoc, key: dict[str, str], job_uuids: list[str]
) -> None:
    """Note that a launchpad has the calculation; a fast worker may have finished it by now."""
    draft = draft_of(store, candidate.run_id, key)
    changes = {
        "formula": candidate.formula,
        "nsites": candidate.nsites,
        "job_uuids": job_uuids,
        "updated_at": utc_now(),
    }
    if not draft.is_finished:
        changes |= {"state": "queued", "error": None}
    document = draft.model_copy(update=changes)
    store.upsert_validations([document], keep_finished=not draft.is_finished)


@dataclass(frozen=True)
class WorkflowState:
    """State of one candidate's workflow.

    Parameters
    ----------
    key : tuple of str
        Of the validation: material, structure hash, engine, recipe.
    state : str
        FireWorks' name of it. ``"FIZZLED"`` if any job is, also where FireWorks itself calls the
        workflow completed, because the last job did its work: it recorded the failure.
    reason : str or None
        Last line of the exception of a fizzled job.
    fizzled : tuple of int
        Fizzled jobs.
    """

    key: tuple[str, ...]
    state: str
    reason: str | None = None
    fizzled: tuple[int, ...] = ()

    @property
    def material_id(self) -> str:
        """Name of the material."""
        return self.key[0]


def workflow_states(launchpad: LaunchPad, run_id: str) -> list[WorkflowState]:
    """States of a run's workflows; of two for the same calculation the newer one's.

    Parameters
    ----------
    launchpad : LaunchPad
    run_id : str
    """
    of_run = {"metadata.run_id": run_id}
    return list({state.key: state for state in _states(launchpad, of_run)}.values())


def _states(launchpad: LaunchPad, asked: dict[str, Any]) -> Iterator[WorkflowState]:
    """States of the workflows that calculate something, oldest first."""
    reasons = _reasons(launchpad, asked)
    fields = {"state": 1, "metadata": 1, "nodes": 1}
    for workflow in launchpad.workflows.find(asked, fields).sort("nodes", 1):
        key = tuple(workflow["metadata"][name] for name in VALIDATIONS.key_fields)
        fizzled = tuple(node for node in workflow["nodes"] if node in reasons)
        state = "FIZZLED" if fizzled else workflow["state"]
        reason = next(filter(None, map(reasons.get, fizzled)), None)
        yield WorkflowState(key, state, reason, fizzled)


@dataclass(frozen=True)
class Waiting:
    """Materials of a run whose calculations wait for something that workers do not do.

    Parameters
    ----------
    paused : tuple of str
        Their workflows are paused, and may go on.
    gone : tuple of str
        The launchpad has no workflow for them that may go on.
    """

    paused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def waiting(launchpad: LaunchPad, store: ScreeningStore, run_id: str) -> Waiting:
    """What waits and will not be calculated by itself.

    Parameters
    ----------
    launchpad : LaunchPad
    store : ScreeningStore
    run_id : str
    """
    submitted = _submitted(store, run_id)
    states = _states_of(launchpad, submitted)
    paused = (d for d in submitted if d.key in states and states[d.key].state == PAUSED)
    gone = [d for d in submitted if _is_gone(states.get(d.key))]
    if gone:  # or done since the store was asked
        waits = {d.key for d in _submitted(store, run_id)}
        gone = [d for d in gone if d.key in waits]
    return Waiting(tuple(d.material_id for d in paused), tuple(d.material_id for d in gone))


def _submitted(store: ScreeningStore, run_id: str) -> list[ValidationDoc]:
    """Validations of a run that wait for a launchpad."""
    return [d for d in store.validations(run_id=run_id, state="queued") if d.job_uuids]


def _states_of(
    launchpad: LaunchPad, documents: Sequence[ValidationDoc]
) -> dict[tuple[str, ...], WorkflowState]:
    """States of the workflows that calculate some validations, for whichever run and material.

    Of several for a calculation the newest that may go on.
    """
    asked = {
        f"metadata.{name}": {"$in": sorted({getattr(d, name) for d in documents})}
        for name in ("structure_hash", "recipe")
    }
    states: dict[tuple[str, ...], WorkflowState] = {}
    for state in _states(launchpad, asked):
        calculation = _calculation(state.key)
        if _is_gone(states.get(calculation)) or not _is_gone(state):
            states[calculation] = state
    found = {document.key: states.get(_calculation(document.key)) for document in documents}
    return {key: state for key, state in found.items() if state is not None}


def _calculation(key: tuple[str, ...]) -> tuple[str, ...]:
    """What is calculated by a validation of that key; the material is only its name."""
    return key[1:]


def _is_gone(state: WorkflowState | None) -> bool:
    return state is None or state.state in ENDED


@dataclass(frozen=True)
class ScreeningJobs:
    """The jobs of a screening run.

    Parameters
    ----------
    states : dict
        By the name of the job, how many are in each of FireWorks' states.
    reasons : tuple of str
        Last lines of the exceptions of fizzled ones, each once.
    """

    states: dict[str, Counter[str]]
    reasons: tuple[str, ...] = ()


def screening_jobs(launchpad: LaunchPad, run_id: str) -> ScreeningJobs:
    """How far a screening run is.

    Parameters
    ----------
    launchpad : LaunchPad
    run_id : str
    """
    workflows = {"metadata.screening": run_id}
    fw_ids = launchpad.get_fw_ids_in_wfs(workflows)
    states: dict[str, Counter[str]] = {}
    for job in launchpad.fireworks.find({"fw_id": {"$in": fw_ids}}, {"name": 1, "state": 1}):
        states.setdefault(job["name"], Counter())[job["state"]] += 1
    reasons = dict.fromkeys(filter(None, _reasons(launchpad, workflows).values()))
    return ScreeningJobs(states, tuple(reasons))


def _reasons(launchpad: LaunchPad, workflows: dict[str, Any]) -> dict[int, str | None]:
    """Fizzled jobs of some workflows, and why."""
    fizzled = launchpad.get_fw_ids_in_wfs(workflows, {"state": "FIZZLED"})
    reasons: dict[int, str | None] = dict.fromkeys(fizzled)
    launches = launchpad.launches.find(
        {"fw_id": {"$in": fizzled}, "state": "FIZZLED"}, {"fw_id": 1, "action": 1}
    )
    for launch in launches.sort("launch_id", 1):
        reasons[launch["fw_id"]] = _OUR_ERRORS.sub("", last_line_of(launch)) or None
    return reasons


def last_line_of(launch: dict[str, Any]) -> str:
    """Last line of the exception of a fizzled launch; empty if nobody knows one."""
    stored = (launch.get("action") or {}).get("stored_data") or {}
    trace = (stored.get("_exception") or {}).get("_stacktrace") or ""
    lines = trace.strip().splitlines()
    return str(lines[-1]) if lines else ""


def record_failures(launchpad: LaunchPad, store: ScreeningStore, run_id: str) -> int:
    """Write the reasons of fizzled jobs into the run's validations.

    Those jobs, too, that another run submitted for the same calculation.

    Parameters
    ----------
    launchpad : LaunchPad
    store : ScreeningStore
    run_id : str

    Returns
    -------
    int
        Reasons that were new.
    """
    asked = store.validations(run_id=run_id, state=("queued", "running", "failed"))
    documents = [document for document in asked if document.job_uuids]  # others are not there
    states = _states_of(launchpad, documents)
    recorded = 0
    for document in documents:
        state = states.get(document.key)
        if state is None or state.state != "FIZZLED":
            continue
        reason = state.reason or "the worker was lost"
        if document.error != reason:
            store_failure(store, run_id, _key_fields(document), reason)
            recorded += 1
    return recorded


def _key_fields(document: ValidationDoc) -> dict[str, str]:
    return dict(zip(VALIDATIONS.key_fields, document.key, strict=True))


def rerun_failed(launchpad: LaunchPad, store: ScreeningStore, run_id: str) -> int:
    """Make the fizzled jobs of a run ready again, those of its screening too.

    Their validations are queued again. What was calculated elsewhere or submitted anew since is
    left alone.

    Parameters
    ----------
    launchpad : LaunchPad
    store : ScreeningStore
    run_id : str

    Returns
    -------
    int
        Jobs that are ready again.
    """
    fizzled = {state.key: state.fizzled for state in workflow_states(launchpad, run_id)}
    again = {"state": "queued", "error": None, "updated_at": utc_now()}
    queued = []
    for document in store.validations(run_id=run_id):
        if document.is_finished:
            fizzled.pop(document.key, None)
        elif document.state == "failed" and fizzled.get(document.key):
            queued.append(document.model_copy(update=again))
    store.upsert_validations(queued, keep_finished=True)
    of_screening = {"metadata.screening": run_id}
    fw_ids = launchpad.get_fw_ids_in_wfs(of_screening, {"state": "FIZZLED"})
    fw_ids += chain.from_iterable(fizzled.values())
    for fw_id in fw_ids:
        launchpad.rerun_fw(fw_id)
    run = store.run(run_id)
    if fw_ids and run.state == "failed":
        changes = {"state": "running", "error": None, "updated_at": utc_now()}
        store.change_run(run_id, lambda run: run.model_copy(update=changes))
    return len(fw_ids)


def _of_run(run_id: str) -> dict[str, Any]:
    """Filter of the workflows of a run: its screening, and its calculations."""
    return {"$or": [{"metadata.run_id": run_id}, {"metadata.screening": run_id}]}


def rerun_lost(
    launchpad: LaunchPad, store: ScreeningStore, run_id: str, seconds: float = LOST_AFTER
) -> int:
    """Make jobs of a run ready again whose worker has not been heard of for so long.

    Validations that are queued although their workflow was removed from the launchpad, archived
    or defused, or has ended, become failed, so that the next `screen validate` submits them again.

    Parameters
    ----------
    launchpad : LaunchPad
    store : ScreeningStore
    run_id : str
    seconds : float
        Without a sign of life.

    Returns
    -------
    int
        Jobs that are ready again.
    """
    nodes = launchpad.get_fw_ids_in_wfs(_of_run(run_id))
    lost = make_ready_again(launchpad, seconds, {"fw_id": {"$in": nodes}})
    submitted = _submitted(store, run_id)
    states = _states_of(launchpad, submitted)
    for document in submitted:
        if _is_gone(states.get(document.key)):
            store_failure(store, run_id, _key_fields(document), GONE)
    return lost


def make_ready_again(
    launchpad: LaunchPad,
    seconds: float,
    jobs: dict[str, Any] | None = None,
    launches: dict[str, Any] | None = None,
) -> int:
    """Make running jobs ready again whose worker has given no sign of life for so long.

    Parameters
    ----------
    launchpad : LaunchPad
    seconds : float
    jobs, launches : dict, optional
        Filters of the jobs, and of their launches.

    Returns
    -------
    int
        Jobs that are ready again.
    """
    launch_ids, lost, _ = launchpad.detect_lostruns(
        expiration_secs=seconds, refresh=True, query=jobs, launch_query=launches
    )
    # Not FireWorks' own rerun, which makes jobs fizzled first: a worker that waits may then take
    # the child of one, which notes that the calculation failed.
    for job_id in lost:
        launchpad.rerun_fw(job_id)
    for launch_id in launch_ids:
        launchpad.mark_fizzled(launch_id)
    return len(lost)
