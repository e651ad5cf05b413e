"""Stores and launchpads for the tests of validation."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.store import ScreeningStore, open_store


@pytest.fixture(scope="session")
def mongo_address() -> str:
    """Host and port of the test server."""
    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    return uri


@pytest.fixture
def mongo_uri(mongo_address: str) -> Iterator[str]:
    """URI of an empty database of this test's own."""
    import pymongo

    name = f"screen_test_{uuid.uuid4().hex[:12]}"
    scheme, _, rest = mongo_address.partition("://")
    hosts, _, options = rest.partition("?")
    yield f"{scheme}://{hosts.partition('/')[0]}/{name}?{options}"
    with pymongo.MongoClient(mongo_address) as client:
        client.drop_database(name)


@pytest.fixture(params=["embedded", pytest.param("mongodb", marks=pytest.mark.mongo)])
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of each kind, by the name that a user gives."""
    if request.param == "embedded":
        return str(tmp_path / "store.sqlite")
    uri: str = request.getfixturevalue("mongo_uri")
    monkeypatch.setenv("SCREEN_DB", uri)
    return uri


@pytest.fixture
def store(db: str) -> Iterator[ScreeningStore]:
    with open_store(db) as opened:
        yield opened
