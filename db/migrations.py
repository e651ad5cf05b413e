"""From older schema versions to the present one.

A migration may be interrupted anywhere and run again. In the embedded store each one is a
transaction; in MongoDB it changes one document after the other, and those that it has changed
already are not changed again. Nobody else may write meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import ReplaceOne
from pymongo.database import Database

from db import documents
from db.collections import batched
from db.embedded import APPLICATION_ID, BUSY_SECONDS, errors_in_words
from db.errors import StoreError
from db.mongodb import MongoStore
from db.store import BATCH, MONGODB_SCHEMES

Raw = dict[str, Any]


@dataclass(frozen=True)
class Migration:
    """The step from the version before to `version`, for both stores.

    Parameters
    ----------
    version : int
    embedded : callable
        Changes the tables; called inside a transaction.
    mongodb : callable
        Changes the documents; may be called again after it was interrupted.
    """

    version: int
    embedded: Callable[[sqlite3.Connection], None]
    mongodb: Callable[[MongoStore], None]


MIGRATIONS: tuple[Migration, ...] = ()  # version 1 is the first


def migrate_store(uri_or_path: str | Path) -> list[int]:
    """Bring a store to the present schema version.

    Returns
    -------
    list of int
        The versions that it went through; empty if it is up to date.

    Raises
    ------
    StoreError
        If there is no way from its version, or if it cannot be written.
    """
    text = str(uri_or_path)
    if text.startswith(MONGODB_SCHEMES):
        return _migrate_mongodb(text)
    path = Path(text).expanduser()
    if not path.is_file():
        raise StoreError(f"{path} does not exist; there is nothing to migrate")
    return _migrate_file(path)


def steps_from(version: int, location: str) -> list[Migration]:
    """The migrations from a version to the present one, in order.

    Raises
    ------
    StoreError
        If one of them does not exist.
    """
    steps = {migration.version: migration for migration in MIGRATIONS}
    present = documents.SCHEMA_VERSION
    if version > present:
        raise StoreError(
            f"{location} has schema version {version}, this program knows {present}; "
            "install a newer version of it"
        )
    wanted = range(version + 1, present + 1)
    missing = [number for number in wanted if number not in steps]
    if missing:
        raise StoreError(
            f"{location} has schema version {version}, and there is no migration to {missing[0]}"
        )
    return [steps[number] for number in wanted]


def rewrite(store: MongoStore, collection: str, version: int, change: Callable[[Raw], Raw]) -> None:
    """Change the documents of a MongoDB collection that are older than `version`.

    Parameters
    ----------
    store : MongoStore
    collection : str
    version : int
        Version that the changed documents are of.
    change : callable
        Fields of the new document from those of the old one, both without ``_id``.
    """
    old = {"schema_version": {"$lt": version}}

    def names(database: Database[Raw]) -> list[Any]:
        return [raw["_id"] for raw in database[collection].find(old, {"_id": 1})]

    for batch in batched(store.attempt(names), BATCH):

        def replace(database: Database[Raw], batch: list[Any] = batch) -> None:
            operations = []
            for raw in database[collection].find(old | {"_id": {"$in": batch}}):
                same = {"_id": raw.pop("_id"), "schema_version": raw["schema_version"]}
                operations.append(ReplaceOne(same, change(raw) | {"schema_version": version}))
            if operations:
                database[collection].bulk_write(
                    operations, ordered=False, bypass_document_validation=True
                )

        store.attempt(replace)


def _migrate_mongodb(uri: str) -> list[int]:
    with MongoStore(uri, any_version=True) as store:
        done = []
        for step in steps_from(store.version(), store.location):
            step.mongodb(store)
            store.mark(step.version, ready=False)
            done.append(step.version)
        if done:
            store.set_up()
            store.mark(done[-1], ready=True)
        return done


def _migrate_file(path: Path) -> list[int]:
    with errors_in_words(str(path)):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        with closing(connection):
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreError(f"{path} is a database of another program; name another file")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            done = []
            for step in steps_from(version, str(path)):
                connection.execute("BEGIN IMMEDIATE")
                step.embedded(connection)
                connection.execute(f"PRAGMA user_version = {step.version}")
                connection.execute("COMMIT")
                done.append(step.version)
            return done
