"""The MongoDB store: its set-up, its errors, and servers that go away."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import bson
import pymongo
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    WriteError,
)

from db import mongodb
from db.collections import CANDIDATES, COLLECTIONS, PREDICTIONS, VALIDATIONS, Condition, Query
from db.documents import SCHEMA_VERSION
from db.errors import StoreError
from db.mongodb import INDEXES, MongoStore, is_passing
from db.open import open_store
from db.schema import validator
from db.store import mask_uri
from tests.db.db_examples import candidate, prediction, run, validation
from tests.db.fake_mongo import HELLO, FakeMongo, Proxy

SECRET = "hunter2"


# which errors pass


def labelled(error: Any, label: str) -> Any:
    error._add_error_label(label)
    return error


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        NetworkTimeout("timed out"),
        NotPrimaryError("not primary"),
        OperationFailure("not primary", 10107),
        OperationFailure("interrupted at shutdown", 11600),
        OperationFailure("primary stepped down", 189),
        labelled(OperationFailure("new", 99999), "RetryableWriteError"),
        labelled(OperationFailure("new", 99999), "TransientTransactionError"),
        BulkWriteError({"writeErrors": [{"code": 11000}], "writeConcernErrors": []}),
        BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}),
    ],
)
def test_errors_that_pass(error: Any) -> None:
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("authentication failed", 18),
        OperationFailure("not authorized", 13),
        WriteError("document failed validation", 121),
        ConfigurationError("no such option"),
        BulkWriteError({"writeErrors": [{"code": 121}, {"code": 11000}]}),
        BulkWriteError({"writeErrors": []}),
    ],
)
def test_errors_that_stay(error: Any) -> None:
    assert not is_passing(error)


# servers that refuse


def refused(answer: Any, user: str = "") -> str:
    server = FakeMongo(answer)
    with pytest.raises(StoreError) as error:
        open_store(f"mongodb://{user}{server.address}/x?directConnection=true")
    server.shutdown()
    message = str(error.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_a_server_that_is_too_old(monkeypatch) -> None:
    monkeypatch.setattr(mongodb, "OPEN_PATIENCE", 1.0)
    message = refused(lambda command: HELLO | {"maxWireVersion": 2})
    assert "requires at least" in message


def test_a_wrong_password() -> None:
    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if "saslStart" in command:
            return {"ok": 0.0, "code": 18, "errmsg": f"no user ann with {SECRET}"}
        return HELLO

    assert "refuses the user or the password" in refused(answer, f"ann:{SECRET}@")


def test_a_user_without_rights() -> None:
    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if "find" in command:
            return {"ok": 0.0, "code": 13, "errmsg": "not authorized"}
        return HELLO

    assert "readWrite role" in refused(answer)


def test_errors_that_stay_are_not_tried_again() -> None:
    asked = []

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if "find" in command:
            asked.append(command)
            return {"ok": 0.0, "code": 96, "errmsg": "broken"}
        return HELLO

    assert "broken" in refused(answer)
    assert len(asked) == 1


@pytest.mark.slow
def test_nobody_answers(monkeypatch) -> None:
    monkeypatch.setattr(mongodb, "OPEN_PATIENCE", 0.3)
    with pytest.raises(StoreError, match="cannot be reached") as error:
        open_store(f"mongodb://ann:{SECRET}@127.0.0.1:1/x")
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        f"mongodb://ann:{SECRET}@",
        f"mongodb://ann:{SECRET}@@host",
        f"mongodb://ann:{SECRET}@host:port",
        f"mongodb://ann:{SECRET}/x@host",
        f"mongodb://ann:{SECRET}@host/a b",
        f"mongodb://ann:{SECRET}@host/?tls=true&tlsCAFile=/nowhere/ca.pem",
    ],
)
def test_uris_that_are_wrong(uri: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(uri)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_uris_are_masked() -> None:
    masked = mask_uri(f"mongodb+srv://ann:{SECRET}@a.example,b.example/db?tls=true&password=x")
    assert masked == "mongodb+srv://a.example,b.example/db"
    assert mask_uri("store.sqlite") == "store.sqlite"


# a step-down


@pytest.mark.slow
def test_a_step_down_is_waited_for() -> None:
    """The first two writes meet a server that is no longer primary."""
    writes = []

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if "find" in command:
            meta = {"_id": "schema", "schema_version": SCHEMA_VERSION, "ready": True}
            meta["validators"] = mongodb.VALIDATORS
            return {"ok": 1.0, "cursor": {"id": 0, "ns": "x.y", "firstBatch": [meta]}}
        if "update" in command:
            writes.append(command)
            if len(writes) < 3:
                return {
                    "ok": 0.0,
                    "code": 10107,
                    "errmsg": "not primary",
                    "errorLabels": ["RetryableWriteError"],
                }
            return {"ok": 1.0, "n": 1, "nModified": 1}
        return HELLO

    server = FakeMongo(answer)
    with open_store(f"mongodb://{server.address}/x?directConnection=true") as store:
        store.put_run(run())
        assert repr(store) == f"MongoStore('mongodb://{server.address}/x')"
    server.shutdown()
    assert len(writes) == 3
    assert all(w["writeConcern"]["w"] == "majority" for w in writes)
    assert all(w["writeConcern"]["j"] is True for w in writes)
    assert all("maxTimeMS" in w for w in writes)


# validators


def test_every_field_has_a_type_in_its_validator() -> None:
    for collection in COLLECTIONS:
        schema = validator(collection.document)["$jsonSchema"]
        assert set(schema["properties"]) == set(collection.document.model_fields)
        assert {"schema_version", *collection.key_fields} <= set(schema["required"])
        assert all("bsonType" in f or "enum" in f for f in schema["properties"].values())


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("collection", "change"),
    [
        ("predictions", {"score": "high"}),
        ("predictions", {"spectrum": ["a"]}),
        ("predictions", {"gap.is_gap": 1}),
        ("predictions", {"gap.kind": "hole"}),
        ("predictions", {"gap.margins.min_width": "wide"}),
        ("predictions", {"schema_version": 2}),
        ("candidates", {"state": "lost"}),
        ("candidates", {"elements": "Na"}),
        ("candidates", {"material_id": ""}),
    ],
)
def test_the_server_refuses_a_wrong_document(
    mongo_database: str, collection: str, change: dict[str, Any]
) -> None:
    with open_store(mongo_database) as store:
        store.upsert_predictions([prediction()])
        store.upsert_candidates([candidate()])
    with pymongo.MongoClient(mongo_database) as client:
        documents = client.get_default_database()[collection]
        with pytest.raises(WriteError, match="failed validation"):
            documents.update_one({"material_id": "mp-1"}, {"$set": change})
        documents.update_one({"material_id": "mp-1"}, {"$set": {"formula": "ClNa"}})


@pytest.mark.mongo
@pytest.mark.parametrize(
    "value",
    [bson.ObjectId(), datetime(2026, 1, 1, tzinfo=UTC), b"bytes"],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_is_named(mongo_database: str, value: Any) -> None:
    """Only MongoDB keeps such values; a hand must have put them in."""
    with open_store(mongo_database) as store:
        store.upsert_candidates([candidate(1)])
        with pymongo.MongoClient(mongo_database) as client:
            client.get_default_database()["candidates"].update_one(
                {"material_id": "mp-1"}, {"$set": {"origin": {"by": value}}}
            )
        assert list(store.candidates("run-1", material_ids=["mp-1"])) == []
        assert "origin: not JSON" in store.problems[0].reason
        store.upsert_candidates([candidate(1)])
        assert len(list(store.candidates("run-1", material_ids=["mp-1"]))) == 1


# set-up


@pytest.mark.mongo
def test_indexes_and_version_are_there(fresh_mongo: str) -> None:
    open_store(fresh_mongo).close()
    with pymongo.MongoClient(fresh_mongo) as client:
        database = client.get_default_database()
        assert database["screening_meta"].find_one()["schema_version"] == SCHEMA_VERSION
        for collection in COLLECTIONS:
            indexes = database[collection.name].index_information().values()
            fields = {tuple(f for f, _ in index["key"]): index for index in indexes}
            assert set(INDEXES[collection.name]) <= set(fields)
            assert fields[collection.key_fields]["unique"]


@pytest.mark.mongo
def test_another_programs_collections_are_left_alone(fresh_mongo: str) -> None:
    with pymongo.MongoClient(fresh_mongo) as client:
        client.get_default_database()["candidates"].insert_one({"name": "Ann"})
    with pytest.raises(StoreError, match=r"'candidates' of database .* made by another program"):
        open_store(fresh_mongo)
    with pymongo.MongoClient(fresh_mongo) as client:
        assert client.get_default_database().list_collection_names() == ["candidates"]


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("version", "message"),
    [
        (SCHEMA_VERSION + 1, "install a newer version"),
        (SCHEMA_VERSION - 1, "restore it from a copy"),
        ("one", "install a newer"),
    ],
)
def test_another_schema_version(fresh_mongo: str, version: Any, message: str) -> None:
    open_store(fresh_mongo).close()
    with pymongo.MongoClient(fresh_mongo) as client:
        client.get_default_database()["screening_meta"].update_one(
            {}, {"$set": {"schema_version": version}}
        )
    with pytest.raises(StoreError, match=message):
        open_store(fresh_mongo)


@pytest.mark.mongo
def test_duplicates_that_keep_an_index_from_being_built_are_named(fresh_mongo: str) -> None:
    with MongoStore(fresh_mongo) as store:
        store.upsert_candidates([candidate(1), candidate(2)])
        with pymongo.MongoClient(fresh_mongo) as client:
            candidates = client.get_default_database()["candidates"]
            candidates.drop_index("run_id_1_material_id_1")
            copy = candidates.find_one({"material_id": "mp-2"}, {"_id": 0})
            candidates.insert_one(copy)
        with pytest.raises(StoreError, match=r"delete all but one of each: run-1, mp-2$"):
            store.set_up()


@pytest.mark.mongo
@pytest.mark.parametrize("kilobytes", [17_000, 60_000])
def test_a_document_over_16_mb_is_named(mongo_database: str, kilobytes: int) -> None:
    with open_store(mongo_database) as store:
        huge = {"sites": ["x" * 1000] * kilobytes}
        with pytest.raises(StoreError, match=r"run-1, mp-2: .*larger than"):
            store.upsert_candidates([candidate(1), candidate(2, structure=huge)])


@pytest.mark.mongo
def test_a_raw_dos_over_16_mb_is_kept(mongo_database: str) -> None:
    import numpy as np

    dos = {"densities": np.random.default_rng(0).random(1_500_000).tolist()}
    with open_store(mongo_database) as store:
        reference = store.put_raw_dos(dos)
        assert reference["bytes"] > 2**24
        assert store.raw_dos(reference) == dos


PLANNED = [
    Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("state", "==", "pending"))),
    Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("is_positive", "==", True))),
    Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("chemsys", "==", "Cl-Na"))),
    Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("elements", "has", "Na"))),
    Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("energy_above_hull", "<=", 0.1))),
    Query(CANDIDATES, (Condition("material_id", "==", "mp-1"),)),
    Query(PREDICTIONS, (Condition("model_id", "==", "m"),)),
    Query(PREDICTIONS, (Condition("material_id", "==", "mp-1"),)),
    Query(VALIDATIONS, (Condition("state", "==", "done"),)),
    Query(VALIDATIONS, (Condition("run_ids", "has", "r"),)),
]


@pytest.mark.mongo
def test_queries_use_an_index(fresh_mongo: str) -> None:
    """On enough documents that reading all of them is never the better plan."""
    with open_store(fresh_mongo) as store:
        store.upsert_candidates(
            candidate(
                i,
                run_id=f"r{i % 300 or ''}",
                chemsys="Cl-Na" if i % 2 else "K-Na",
                is_positive=bool(i % 3),
                structure=None,
            )
            for i in range(3000)
        )
        store.upsert_predictions(prediction(i, model_id=f"m{i % 300 or ''}") for i in range(1000))
        store.upsert_validations(
            validation(i, state="failed" if i % 300 else "done", run_ids=[f"r{i % 300 or ''}"])
            for i in range(1000)
        )
    with pymongo.MongoClient(fresh_mongo) as client:
        database = client.get_default_database()
        for asked in PLANNED:
            found = database[asked.collection.name].find(mongodb._filter(asked))
            plan = found.explain()["queryPlanner"]["winningPlan"]
            if "stage" not in plan:
                pytest.skip("the server gives no plan")
            assert "IXSCAN" in str(plan), asked


# a server that goes away


@pytest.fixture
def proxy(mongo_server: str) -> Iterator[Proxy]:
    address = urlsplit(mongo_server)
    proxy = Proxy(address.hostname or "127.0.0.1", address.port or 27017)
    yield proxy
    proxy.cut()


def through(proxy: Proxy, uri: str) -> str:
    parts = urlsplit(uri)
    return f"mongodb://127.0.0.1:{proxy.port}{parts.path}?directConnection=true"


@pytest.mark.mongo
def test_a_run_goes_on_when_the_server_is_back(fresh_mongo: str, proxy: Proxy) -> None:
    open_store(fresh_mongo).close()
    acknowledged = 0  # batches
    stop = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        with MongoStore(through(proxy, fresh_mongo)) as store:
            while not stop.is_set():
                first = 5 * acknowledged
                store.upsert_predictions(prediction(i) for i in range(first, first + 5))
                acknowledged += 1

    def wait_for(batches: int) -> None:
        deadline = time.monotonic() + 120
        while acknowledged < batches:
            assert writer.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for batches in (5, 15):
        wait_for(batches)
        proxy.cut()
        time.sleep(0.3)
        proxy.mend()
    wait_for(acknowledged + 5)
    stop.set()
    writer.join(60)
    assert not writer.is_alive()
    with open_store(fresh_mongo) as store:
        assert store.count(Query(PREDICTIONS)) == 5 * acknowledged


@pytest.mark.mongo
def test_a_stream_goes_on_when_the_server_is_back(
    fresh_mongo: str, proxy: Proxy, monkeypatch
) -> None:
    """It goes in its first page, and again in a later one."""
    monkeypatch.setattr(mongodb, "PAGE", 100)
    with open_store(fresh_mongo) as store:
        store.upsert_candidates(candidate(i, structure=None) for i in range(1200))
    with MongoStore(through(proxy, fresh_mongo)) as store:
        stream = store.candidates("run-1")
        seen = [next(stream).material_id for _ in range(10)]
        for left in (500, 690):
            proxy.cut()
            mending = threading.Timer(0.5, proxy.mend)
            mending.start()
            seen += [c.material_id for c in islice(stream, left)]
            mending.join()
        assert next(stream, None) is None
    assert len(seen) == len(set(seen)) == 1200


@pytest.mark.mongo
def test_a_server_that_stays_away_is_told(mongo_database: str, proxy: Proxy) -> None:
    with MongoStore(through(proxy, mongo_database)) as store:
        store.put_run(run())
        store.patience = 1.0
        proxy.cut()
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"has not answered for 1 s.*--resume") as error:
            store.upsert_predictions([prediction()])
        assert time.monotonic() - start < 25  # and not TIMEOUT
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_server_that_never_answers_times_out(monkeypatch) -> None:
    monkeypatch.setattr(mongodb, "OPEN_PATIENCE", 1.0)
    silence = threading.Event()

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if "find" in command:
            silence.wait(300)
        return HELLO

    server = FakeMongo(answer)
    start = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        open_store(f"mongodb://{server.address}/x?directConnection=true")
    assert time.monotonic() - start < 20  # and not TIMEOUT
    silence.set()
    server.shutdown()


@pytest.mark.mongo
def test_a_killed_server_loses_nothing_acknowledged(fresh_mongo: str) -> None:
    """Two shell commands say how the server is killed (-9) and started again."""
    kill = os.environ.get("SCREEN_TEST_MONGO_KILL")
    start = os.environ.get("SCREEN_TEST_MONGO_START")
    if not kill or not start:
        pytest.skip("SCREEN_TEST_MONGO_KILL and SCREEN_TEST_MONGO_START are not set")
    open_store(fresh_mongo).close()
    acknowledged: list[range] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def write(part: int) -> None:
        try:
            with MongoStore(fresh_mongo) as store:
                for batch in range(10**4):
                    if stop.is_set():
                        return
                    first = part * 10**6 + batch * 50
                    store.upsert_predictions(prediction(i) for i in range(first, first + 50))
                    acknowledged.append(range(first, first + 50))
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for writer in writers:
        writer.start()
    rounds = 5 if os.environ.get("SCREEN_TEST_FULL") else 1
    for _ in range(rounds):
        time.sleep(2.0)
        subprocess.run(kill, shell=True, check=True, stdout=subprocess.DEVNULL)
        before = len(acknowledged)
        subprocess.run(start, shell=True, check=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(acknowledged) < before + 8 and time.monotonic() < deadline:
            time.sleep(0.1)
    stop.set()
    for writer in writers:
        writer.join()
    assert failures == []
    keys = [prediction(i).key for numbers in acknowledged for i in numbers]
    with open_store(fresh_mongo) as store:
        assert store.has_predictions(keys) == set(keys)
        assert store.count(Query(PREDICTIONS)) == len(keys)


# readers


def test_a_reader_makes_nothing(fresh_mongo: str) -> None:
    with pytest.raises(StoreError, match="holds no screening yet"):
        open_store(fresh_mongo, read_only=True)
    with pymongo.MongoClient(fresh_mongo) as client:
        assert client.get_default_database().list_collection_names() == []


def test_a_reader_does_not_wait_long_and_recovers(mongo_database: str, proxy: Proxy) -> None:
    with open_store(mongo_database) as store:
        store.put_run(run())
    with open_store(through(proxy, mongo_database), read_only=True) as reader:
        assert reader.runs() == [run()]
        proxy.cut()
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"has not answered for \d s \([^()]*\)$"):
            reader.runs()
        assert time.monotonic() - start < 25
        proxy.mend()
        reader.patience = 60.0
        assert reader.runs() == [run()]


@pytest.mark.mongo
def test_a_reader_does_not_wait_long_for_a_server_that_goes_while_it_reads(
    mongo_database: str, proxy: Proxy
) -> None:
    with open_store(mongo_database) as store:
        store.put_run(run())
    with MongoStore(through(proxy, mongo_database), read_only=True) as reader:

        def read_from_a_dying_server() -> object:
            proxy.cut()
            return reader._database()["runs"].find_one()

        start = time.monotonic()
        with pytest.raises(StoreError, match=r"has not answered for \d s"):
            reader._call(read_from_a_dying_server)
        assert time.monotonic() - start < 25
        proxy.mend()
        reader.patience = 60.0
        assert reader.runs() == [run()]
