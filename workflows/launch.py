"""FireWorks: the launchpad of a ``launchpad.yaml``, submission and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from db.documents import CandidateDoc, ValidationDoc
from db.query import VALIDATIONS
from db.store import ScreeningStore
from screening.errors import ScreeningError
from workflows.dos.document import DosError
from workflows.validation import ValidationFlowMaker, key_of, store_failure

TIMEOUT = 5_000  # ms to find the database
LOST_AFTER = 4 * 3600  # s without a sign of life


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


def open_launchpad(path: Path) -> Any:
    """LaunchPad of a file, once its database has answered.

    Raises
    ------
    ScreeningError
        If the file is missing, a field is wrong, or the database does not answer.
    """
    from fireworks import LaunchPad
    from pymongo.errors import PyMongoError

    try:
        document = yaml.safe_load(path.read_text()) or {}
        fields = LaunchPadFile.model_validate(document)
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror}; --launchpad names another") from None
    except yaml.YAMLError as error:
        raise ScreeningError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "content"
        raise ScreeningError(f"{path}, {name}: {first['msg']}") from None
    settings = fields.model_dump(exclude={"mongoclient_kwargs"})
    client = {"serverSelectionTimeoutMS": TIMEOUT} | fields.mongoclient_kwargs
    where = "its URI" if fields.uri_mode else f"{fields.host}:{fields.port}"
    try:
        launchpad = LaunchPad(**settings, mongoclient_kwargs=client)
        launchpad.db.command("ping")
    except (PyMongoError, ValueError, TypeError) as error:
        kind = type(error).__name__  # the message may hold the URI
        raise ScreeningError(f"{path}: no launchpad answers at {where} ({kind})") from None
    return launchpad


def submit(
    launchpad: Any,
    store: ScreeningStore,
    maker: ValidationFlowMaker,
    candidates: Sequence[CandidateDoc],
) -> int:
    """Send one workflow for each candidate to the launchpad, the best with the highest priority.

    A candidate that the engine cannot calculate is recorded as failed instead.

    Returns
    -------
    int
        Workflows that were submitted.
    """
    from jobflow.managers.fireworks import flow_to_workflow

    submitted = 0
    for rank, candidate in enumerate(candidates):
        key = key_of(candidate, maker.dos_maker)
        try:
            flow = maker.make(candidate)
        except DosError as error:
            store_failure(store, candidate.run_id, key, str(error))
            continue
        manager = {"_category": maker.dos_maker.engine, "_priority": len(candidates) - rank}
        flow.update_config({"manager_config": manager}, dynamic=True)
        metadata = key | {"run_id": candidate.run_id}
        # In this order, dying in between repeats a calculation instead of losing it.
        launchpad.add_wf(flow_to_workflow(flow, metadata=metadata))
        queued = ValidationDoc(
            **key,
            formula=candidate.formula,
            nsites=candidate.nsites,
            run_ids=[candidate.run_id],
            job_uuids=list(flow.job_uuids),
        )
        store.upsert_validations([queued])
        submitted += 1
    return submitted


@dataclass(frozen=True)
class WorkflowState:
    """State of one candidate's workflow."""

    material_id: str
    engine: str
    state: str
    reason: str | None = None


def workflow_states(launchpad: Any, run_id: str) -> list[WorkflowState]:
    """States of a run's workflows; of a fizzled one the last line of its exception."""
    found = launchpad.workflows.find(
        {"metadata.run_id": run_id}, {"state": 1, "metadata": 1, "nodes": 1}
    )
    return [
        WorkflowState(
            workflow["metadata"]["material_id"],
            workflow["metadata"]["engine"],
            workflow["state"],
            _reason(launchpad, workflow["nodes"]) if workflow["state"] == "FIZZLED" else None,
        )
        for workflow in found
    ]


def _reason(launchpad: Any, fw_ids: Sequence[int]) -> str | None:
    launches = launchpad.launches.find({"fw_id": {"$in": list(fw_ids)}, "state": "FIZZLED"})
    for launch in launches.sort("launch_id", -1):
        stored = (launch.get("action") or {}).get("stored_data") or {}
        trace = (stored.get("_exception") or {}).get("_stacktrace") or ""
        if trace.strip():
            return trace.strip().splitlines()[-1]
    return None


def record_failures(launchpad: Any, store: ScreeningStore, run_id: str) -> int:
    """Write the reasons of fizzled workflows into the run's validations; returns how many."""
    reasons = {
        (state.material_id, state.engine): state.reason
        for state in workflow_states(launchpad, run_id)
        if state.reason
    }
    recorded = 0
    for document in list(store.validations(run_id=run_id)):
        reason = reasons.get((document.material_id, document.engine))
        if reason and document.state != "done" and document.error != reason:
            key = document.model_dump(include=set(VALIDATIONS.key_fields))
            store_failure(store, run_id, key, reason)
            recorded += 1
    return recorded


def rerun(launchpad: Any, run_id: str) -> int:
    """Make the fizzled jobs of a run ready again; returns how many."""
    nodes = [
        fw_id
        for workflow in launchpad.workflows.find({"metadata.run_id": run_id}, {"nodes": 1})
        for fw_id in workflow["nodes"]
    ]
    fizzled = launchpad.get_fw_ids({"fw_id": {"$in": nodes}, "state": "FIZZLED"})
    for fw_id in fizzled:
        launchpad.rerun_fw(fw_id)
    return len(fizzled)


def rerun_lost(launchpad: Any, seconds: float = LOST_AFTER) -> int:
    """Make jobs ready again whose worker has not been heard of for so long; returns how many."""
    _, lost, _ = launchpad.detect_lostruns(expiration_secs=seconds, rerun=True)
    return len(lost)
