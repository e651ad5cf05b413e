from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from db.collections import COLLECTIONS
from db.embedded_codecs import JSON
from db.embedded_tables import TABLES
from db.open import open_store
from db.store import ScreeningStore

STORES = ("embedded", pytest.param("mongodb", marks=pytest.mark.mongo))


def with_database(uri: str, database: str) -> str:
    """The URI with the name of a database in it."""
    scheme, _, rest = uri.partition("://")
    hosts, _, options = rest.partition("?")
    return f"{scheme}://{hosts.partition('/')[0]}/{database}?{options}"


@pytest.fixture(scope="session")
def mongo_server() -> str:
    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    return uri


@pytest.fixture(scope="session")
def shared_database(mongo_server: str) -> Iterator[str]:
    """URI of a database that the tests use one after the other, since a new one takes time."""
    import pymongo

    name = f"screen_test_{uuid.uuid4().hex[:12]}"
    yield with_database(mongo_server, name)
    with pymongo.MongoClient(mongo_server) as client:
        client.drop_database(name)


@pytest.fixture
def fresh_mongo(mongo_server: str) -> Iterator[str]:
    """URI of a database that does not exist yet."""
    import pymongo

    name = f"screen_test_{uuid.uuid4().hex[:12]}"
    yield with_database(mongo_server, name)
    with pymongo.MongoClient(mongo_server) as client:
        client.drop_database(name)


def empty(uri: str) -> None:
    import pymongo

    with pymongo.MongoClient(uri) as client:
        database = client.get_default_database()
        names = [collection.name for collection in COLLECTIONS]
        for name in [*names, "raw_dos.files", "raw_dos.chunks"]:
            database[name].delete_many({})


@pytest.fixture
def mongo_database(shared_database: str) -> str:
    """URI of a database without documents."""
    empty(shared_database)
    return shared_database


@pytest.fixture(params=STORES)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "embedded":
        return str(tmp_path / "store.sqlite")
    address: str = request.getfixturevalue("mongo_database")
    return address


@pytest.fixture
def store(uri: str) -> Iterator[ScreeningStore]:
    with open_store(uri) as opened:
        yield opened


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[ScreeningStore]:
    with open_store(tmp_path / "store.sqlite") as opened:
        yield opened


Spoil = Callable[[str, str, str, Any], None]


@pytest.fixture
def spoil(uri: str) -> Spoil:
    """Set a field of the documents of a material or run to anything, past the store."""

    def in_sqlite(collection: str, identifier: str, field: str, value: Any) -> None:
        column = TABLES[collection].fields[field]
        if isinstance(value, (dict, list)) or column.codec is JSON:
            value = orjson.dumps(value)
        key = "run_id" if collection == "runs" else "material_id"
        connection = sqlite3.connect(uri)
        with connection:
            others = column.flat[1:]  # which a hand would have to spoil, too
            nothing = "".join(f", {other.name} = NULL" for other in others)
            changed = connection.execute(
                f"UPDATE {collection} SET {field} = ?{nothing} WHERE {key} = ?", (value, identifier)
            ).rowcount
        connection.close()
        assert changed

    def in_mongodb(collection: str, identifier: str, field: str, value: Any) -> None:
        import pymongo

        key = "run_id" if collection == "runs" else "material_id"
        with pymongo.MongoClient(uri) as client:
            result = client.get_default_database()[collection].update_many(
                {key: identifier}, {"$set": {field: value}}, bypass_document_validation=True
            )
        assert result.matched_count

    return in_mongodb if uri.startswith("mongodb") else in_sqlite
