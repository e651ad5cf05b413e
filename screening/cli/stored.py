"""What several commands look up in a store: a run, a material."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.documents import CandidateDoc, Run
    from db.store import ScreeningStore

_NAMED = 10  # runs that an error names


def existing(db: str) -> str:
    """The same name, if there is such a store: a command that reads makes no new file.

    Raises
    ------
    ScreeningError
        If the file does not exist.
    """
    from screening.errors import ScreeningError

    if "://" not in db and not Path(db).expanduser().exists():
        raise ScreeningError(f"{db}: no such file; `screen run` makes it, --db names another")
    return db


def find_run(store: ScreeningStore, run_id: str | None) -> Run:
    """The run whose id is this or begins with it, by default the newest one.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str or None
        Or the beginning of one.

    Raises
    ------
    ScreeningError
        If there is none, or if several begin like that; they are named.
    """
    from screening.errors import ScreeningError

    runs = store.runs()
    if run_id is None:
        if not runs:
            raise ScreeningError(f"{store.location} holds no run yet; begin with `screen run`")
        return runs[0]
    for run in runs:
        if run.run_id == run_id:
            return run
    alike = [run for run in runs if run_id and run.run_id.startswith(run_id)]
    if len(alike) > 1:
        names = ", ".join(run.run_id for run in alike[:_NAMED])
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        raise ScreeningError(f"--run {run_id}: {len(alike)} runs begin so: {names}{more}")
    return alike[0] if alike else store.run(run_id)


def in_runs(
    store: ScreeningStore, run_id: str | None, material_id: str
) -> list[tuple[Run, CandidateDoc]]:
    """A material in each run that has it, newest first; only in the one that is asked for.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str or None
        Or the beginning of one.
    material_id : str

    Raises
    ------
    ScreeningError
        If no run, or not the one that is asked for, has it.
    """
    from db.collections import CANDIDATES, Query, conditions
    from screening.errors import ScreeningError

    asked = None if run_id is None else find_run(store, run_id)
    query = Query(CANDIDATES, conditions(material_id=material_id))
    by_run = {candidate.run_id: candidate for candidate in store.find(query)}
    having = [(run, by_run[run.run_id]) for run in store.runs() if run.run_id in by_run]
    if not having:
        raise ScreeningError(f"{material_id} is in no run of {store.location}")
    if asked is None:
        return having
    if asked.run_id not in by_run:
        raise ScreeningError(
            f"{material_id} is not in run {asked.run_id}; the newest that has it is "
            f"{having[0][0].run_id}"
        )
    return [(asked, by_run[asked.run_id])]
