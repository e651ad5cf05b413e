"""Stores for the tests of validation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.open import open_store
from db.store import ScreeningStore
from tests.workflows.launchpads import new_database


@pytest.fixture
def mongo_uri() -> Iterator[str]:
    """URI of an empty database of this test's own."""
    with new_database() as uri:
        yield uri


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
