"""Which store a job writes to, without a password in the job's specification.

It is ours, beside jobflow's JobStore and not a maggma store in it: maggma's embedded store
(`MontyStore`) lost or doubled documents with two workers or after a kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.documents import utc_now
from db.errors import StoreError
from db.open import open_store
from db.store import MONGODB_SCHEMES, ScreeningStore
from workflows.hardware import UnfitError

ENVIRONMENT = "SCREEN_DB"
FROM_ENVIRONMENT = f"${ENVIRONMENT}"


def store_reference(db: str) -> str:
    """What a job specification says of a store.

    A path becomes absolute. A MongoDB URI may hold a password, so the specification only says
    that the worker takes the URI from its own environment variable ``SCREEN_DB``.
    """
    if db.startswith(MONGODB_SCHEMES) or db == FROM_ENVIRONMENT:
        return FROM_ENVIRONMENT
    return str(Path(db).expanduser().resolve())


def open_reference(reference: str) -> ScreeningStore:
    """Open the store that :func:`store_reference` named.

    Raises
    ------
    StoreError
        If it cannot be opened, or ``SCREEN_DB`` is not set on this machine.
    """
    if reference != FROM_ENVIRONMENT:
        return open_store(reference)
    uri = os.environ.get(ENVIRONMENT)
    if not uri:
        raise StoreError(f"{ENVIRONMENT} is not set; this job writes to the database it names")
    return open_store(uri)


@contextmanager
def store_of_run(reference: str, run_id: str) -> Iterator[ScreeningStore]:
    """Open the store for a job of a run; if the job fails, the run says why.

    Parameters
    ----------
    reference : str
        See :func:`store_reference`.
    run_id : str
    """
    with open_reference(reference) as store:
        try:
            yield store
        except UnfitError:
            raise  # another worker may do it
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            try:
                failed = {"state": "failed", "error": reason[:500], "updated_at": utc_now()}
                store.change_run(run_id, lambda run: run.model_copy(update=failed))
            except StoreError:
                pass  # the store itself is what failed
            raise
