"""A store with a run to look at, and the dashboard over it in a thread."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from db.open import open_store
from tests.screening.dashboard.dashboard_examples import fill, serving


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Path of an embedded store with a run."""
    path = tmp_path / "screening.sqlite"
    with open_store(path) as store:
        fill(store)
    return path


@pytest.fixture
def served_at() -> Iterator[Callable[..., str]]:
    """Serve the store of a path or URI for the test; returns the address."""
    with ExitStack() as stack:

        def start(where: str | Path) -> str:
            store = stack.enter_context(open_store(where, read_only=True))
            return stack.enter_context(serving(store))

        yield start


@pytest.fixture
def fresh_database() -> Iterator[str]:
    """URI of a MongoDB database that does not exist yet."""
    import pymongo

    from tests.db.conftest import with_database

    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    name = f"screen_test_{uuid.uuid4().hex[:12]}"
    yield with_database(uri, name)
    with pymongo.MongoClient(uri) as client:
        client.drop_database(name)
