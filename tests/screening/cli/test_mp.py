"""`screen run --source mp` and `screen fetch` against the local servers."""

import itertools
import json
import os
import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from db.open import open_store
from models.training.card import ModelCard
from screening.sources.materials_project.client import ATTRIBUTION
from screening.sources.materials_project.documents import usual_id
from screening.training_sets.edos import TOTAL_DOS
from screening.training_sets.phonons import PHONON_DOS
from tests.screening import mp_server
from tests.screening.training_sets.test_fetch import ENERGIES, edos_table, holding, structures

pytestmark = pytest.mark.mongo

EASY = ("--max-dos", 1000, "--min-width", 0.1, "--max-upper-edge", 5)


@pytest.fixture(scope="module")
def server():
    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    pytest.importorskip("emmet.api", reason="the server's own code needs emmet-api")
    with mp_server.materials_project(uri, mp_server.summary_documents(300)) as running:
        yield running


@pytest.fixture
def mp(server, screen, tmp_path, monkeypatch):
    """Call `screen` with a key, an empty cache and the address of the local server."""
    address, faults, _ = server
    faults.plan, faults.always = {}, None
    faults.requests.clear()
    monkeypatch.setenv("MP_API_ENDPOINT", address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MP_API_KEY", mp_server.KEY)
    return screen


def the_run(db="screening.sqlite"):
    with open_store(db) as store:
        (run,) = store.runs()
        return run, list(store.candidates(run.run_id))


def qualifying(collection):
    """Ids of the documents that the paper's filters ask for, counted by the database."""
    found = collection.find(
        {
            "deprecated": False,
            "builder_meta.license": "BY-C",
            "energy_above_hull": {"$lte": 0.5},
            "nelements": {"$lt": 5},
            "band_gap": 0,
            "ordering": "NM",
            "has_props.dos": False,
        },
        {"material_id": 1},
    )
    return {usual_id(document["material_id"]) for document in found}


def test_run_finds_exactly_the_documents_that_qualify(mp, server):
    outcome = mp("run", "--source", "mp", "--max-ehull", 0.5, *EASY)
    assert outcome.code == 0, outcome.err
    run, candidates = the_run()
    expected = qualifying(server[2])
    assert len(expected) > 10
    with_verdict = {c.material_id for c in candidates if c.state in ("screened", "failed")}
    assert with_verdict == expected
    rejected = [c for c in candidates if c.state == "rejected"]
    assert {c.reason for c in rejected} == {"has a DFT DOS already"}
    assert run.counts["screened"] + run.counts.get("failed", 0) == len(expected)


def test_funnel_goes_from_the_database_to_the_candidates(mp, server):
    summary = json.loads(mp("run", "--source", "mp", "--json", *EASY).out)
    funnel = summary["funnel"]
    collection = server[2]
    current = {"deprecated": False, "builder_meta.license": "BY-C"}
    assert funnel[0]["name"] == "mp: database"
    assert funnel[0]["entered"] == collection.count_documents(current)
    assert [stage["name"] for stage in funnel[1:7]] == [
        "mp: energy_above_hull",
        "mp: n_elements",
        "mp: band_gap",
        "mp: nonmagnetic",
        "readable",
        "energy_above_hull",
    ]
    for before, after in itertools.pairwise(funnel):
        assert after["entered"] == before["entered"] - before["dropped"]
    assert funnel[-1]["entered"] - funnel[-1]["dropped"] == len(qualifying(collection))


def test_limit_is_a_stage_of_the_funnel(mp, server):
    summary = json.loads(mp("run", "--source", "mp", "--limit", 3, "--json", *EASY).out)
    funnel = summary["funnel"]
    assert "mp: limit" in [stage["name"] for stage in funnel]
    for before, after in itertools.pairwise(funnel):
        assert after["entered"] == before["entered"] - before["dropped"]
    assert funnel[-1]["entered"] - funnel[-1]["dropped"] == 3


def test_refresh_asks_once_and_a_kept_answer_is_not_asked_for(mp, server):
    faults = server[1]
    mp("run", "--source", "mp", "--limit", 1)
    asked = len(faults.requests)
    assert asked > 0
    outcome = mp("run", "--source", "mp", "--limit", 1, "--refresh")
    assert len(faults.requests) == 2 * asked
    assert "retrieved just now (--refresh asks again)" in outcome.err
    mp("run", "--source", "mp", "--limit", 1)
    assert len(faults.requests) == 2 * asked


def test_results_name_the_database_and_how_to_cite_it(mp, tmp_path):
    outcome = mp("run", "--source", "mp", "--max-ehull", 0.5, *EASY)
    assert f"Materials Project {mp_server.VERSION}" in outcome.err
    assert "doi:10.1063/1.4812323" in outcome.err
    run, _ = the_run()
    assert run.source["database_version"] == mp_server.VERSION
    assert run.source["attribution"] == ATTRIBUTION
    assert run.source["retrieved"].endswith("+00:00")
    readers = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    for ending, read in readers.items():
        outcome = mp("candidates", "--out", f"all.{ending}")
        assert "doi:10.1063/1.4812323" in outcome.err
        table = read(tmp_path / f"all.{ending}")
        assert len(table) == run.counts["positive"] > 0
        assert set(table["attribution"]) == {ATTRIBUTION}
        assert set(table["database_version"]) == {mp_server.VERSION}


@pytest.mark.parametrize("from_file", [False, True])
def test_the_key_is_nowhere(mp, tmp_path, monkeypatch, caplog, from_file):
    from jobflow import JobStore
    from jobflow.managers.fireworks import flow_to_workflow
    from maggma.stores import MemoryStore
    from monty.json import MontyEncoder

    from workflows.screening import ScreeningFlowMaker

    flows = []
    make = ScreeningFlowMaker.make
    monkeypatch.setattr(
        ScreeningFlowMaker, "make", lambda *args: flows.append(make(*args)) or flows[-1]
    )
    key = ()
    if from_file:
        monkeypatch.delenv("MP_API_KEY")
        (tmp_path / "key").write_text(mp_server.KEY + "\n")
        key = ("--mp-api-key-file", "key")
    with caplog.at_level("DEBUG"):
        outcome = mp("run", "--source", "mp", *key, "--limit", 5)
    assert outcome.code == 0
    (flow,) = flows
    workflow = flow_to_workflow(flow, store=JobStore(MemoryStore()))
    said = [
        outcome.out,
        outcome.err,
        caplog.text,
        json.dumps(flow, cls=MontyEncoder),
        json.dumps(workflow.to_dict(), cls=MontyEncoder),
    ]
    assert not [text for text in said if mp_server.KEY in text]
    with sqlite3.connect("screening.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "key"]
    assert tmp_path / "screening.sqlite" in written
    assert not [p for p in written if mp_server.KEY.encode() in p.read_bytes()]


def test_errors_of_the_database_are_one_line_without_the_key(mp, monkeypatch):
    wrong = "w" * 32
    monkeypatch.setenv("MP_API_KEY", wrong)
    outcome = mp("run", "--source", "mp", "--refresh", "--quiet")
    assert outcome.code != 0
    assert outcome.err.count("\n") == 1
    assert "does not know this key" in outcome.err
    assert wrong not in outcome.err
    monkeypatch.setenv("MP_API_KEY", mp_server.KEY)
    outcome = mp("run", "--source", "mp", "--elements", "Xe,Og", "--quiet")
    assert outcome.code != 0
    assert "the filter elements drops the last of the" in outcome.err


# --- training sets --------------------------------------------------------------------------


@pytest.fixture
def public_store(monkeypatch):
    """A local S3 server in the place of the public object store; gives a client of it."""
    moto = pytest.importorskip("moto.server", reason="the object store needs moto[server]")
    import boto3

    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    secret = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", region_name="us-east-1", **secret)
    client.create_bucket(Bucket="materialsproject-parsed")
    yield client
    listing = client.list_objects_v2(Bucket="materialsproject-parsed")
    for entry in listing.get("Contents", []):
        client.delete_object(Bucket="materialsproject-parsed", Key=entry["Key"])
    client.delete_bucket(Bucket="materialsproject-parsed")
    running.stop()


def alpha(number):
    """Identifier of a calculation as the tables write it."""
    from emmet.core.mpid import AlphaID

    return str(AlphaID(number, padlen=8))


def put_table(client, uri, table):
    """Write a Delta table where the Materials Project has its own."""
    from deltalake import write_deltalake

    secret = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    options = {**secret, "AWS_REGION": "us-east-1", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    write_deltalake(uri, table, storage_options=options)
    for entry in client.list_objects_v2(Bucket="materialsproject-parsed")["Contents"]:
        client.put_object_acl(Bucket="materialsproject-parsed", Key=entry["Key"], ACL="public-read")


CENTRES = np.random.default_rng(2).uniform(-8, 8, 300)


def metallic(k):
    """A DOS of document `k` without a gap."""
    dos = 0.3 + 5 * np.exp(-((ENERGIES - CENTRES[k]) ** 2))
    odd = sum(structures()[k].atomic_numbers) % 2
    return {"spin_up_densities": holding(dos, 0.2, odd).tolist()}


@pytest.fixture
def spectra(server, public_store):
    """Spectra for every document of the server; says which identifiers have which documents."""
    collection = server[2]
    documents = list(collection.find({}, {"material_id": 1}))
    for k, document in enumerate(documents):
        collection.update_one(
            {"_id": document["_id"]},
            {
                "$set": {
                    "dos": {"task_id": f"mp-{100_000 + k}"},
                    "phonon_IDs": {"dfpt": [f"mp-{500_000 + k}"]},
                    "has_props.phonon": k % 3 == 0,
                    "band_gap": 0.0,
                }
            },
        )
    changes = {str(k): metallic(k) for k in range(300)}
    for k in range(0, 300, 10):
        changes[str(k)]["spin_down_densities"] = np.zeros(len(ENERGIES)).tolist()
    put_table(public_store, TOTAL_DOS, edos_table(range(300), **changes))
    return documents


def test_fetch_edos_and_train_on_it(mp, server, spectra, tmp_path):
    outcome = mp("fetch", "edos", "edos.parquet", "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    wanted = server[2].find(
        {
            "deprecated": False,
            "builder_meta.license": "BY-C",
            "ordering": "NM",
            "has_props.dos": True,
        }
    )
    numbers = [int(d["dos"]["task_id"][3:]) - 100_000 for d in wanted]
    polarised = sum(k % 10 == 0 for k in numbers)
    assert polarised > 0
    assert report["left_out"] == {"spin channels of a magnetic calculation": polarised}
    assert report["written"] == len(numbers) - polarised > 20
    assert report["database_version"] == mp_server.VERSION
    assert report["attribution"] == ATTRIBUTION

    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nlabels: [edos.parquet]\nepochs: 1\nbatch_size: 16\n"
        "model: {encoder: {width: 16, layers: 1}}\n"
    )
    outcome = mp("train", "tiny.yaml", "--quiet")
    assert outcome.code == 0, outcome.err
    card = ModelCard.read(tmp_path / "tiny")
    assert card.n_train + card.n_validation + card.n_test == report["written"]
    outcome = mp("run", "--source", "edos.parquet", "--any-edos", "--checkpoint", "tiny", "--json")
    summary = json.loads(outcome.out)
    assert summary["counts"]["screened"] == report["written"]
    assert summary["source"]["attribution"] == ATTRIBUTION


def test_fetch_says_what_became_of_the_materials(mp, spectra, tmp_path):
    outcome = mp("fetch", "edos", "edos.parquet")
    assert "left out: spin channels of a magnetic calculation" in outcome.out
    assert "written to edos.parquet" in outcome.out
    assert "doi:10.1063/1.4812323" in outcome.err
    before = (tmp_path / "edos.parquet").read_bytes()
    assert mp("fetch", "edos", "again.parquet", "--quiet").err == ""
    assert (tmp_path / "again.parquet").read_bytes() == before


def test_fetch_phdos_and_train_on_it(mp, server, spectra, public_store, tmp_path):
    thz = np.linspace(0, 30, 601)
    rows = [
        {
            "identifier": alpha(500_000 + k),
            "phonon_method": "dfpt",
            "dos": {
                "frequencies": thz.tolist(),
                "densities": np.exp(-((thz - 15 - CENTRES[k]) ** 2)).tolist(),
            },
        }
        for k in range(300)
    ]
    put_table(public_store, PHONON_DOS, pa.Table.from_pylist(rows))
    outcome = mp("fetch", "phdos", "phdos.parquet", "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    wanted = {"deprecated": False, "builder_meta.license": "BY-C", "has_props.phonon": True}
    written = json.loads(outcome.out)["written"]
    assert written == server[2].count_documents(wanted) > 20
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\ntarget: phdos-51\nlabels: [phdos.parquet]\nepochs: 1\nbatch_size: 16\n"
        "settings: [maxnorm-mse]\nmodel: {encoder: {width: 16, layers: 1}}\n"
    )
    outcome = mp("train", "tiny.yaml", "--quiet")
    assert outcome.code == 0, outcome.err
    card = ModelCard.read(tmp_path / "tiny")
    assert card.n_train + card.n_validation + card.n_test == written


def test_fetch_that_cannot_be_done_is_one_line(mp, public_store, monkeypatch):
    def refused(*arguments):
        outcome = mp("fetch", *arguments, "--quiet")
        assert outcome.code != 0
        assert len(outcome.err.splitlines()) == 1
        assert mp_server.KEY not in outcome.err
        return outcome.err

    assert "--method" in refused("phdos", "p.parquet", "--method", "guess")
    assert "table" in refused("edos", "e.parquet")  # the bucket is empty
    monkeypatch.delenv("MP_API_KEY")
    assert "cannot read the key file nothing" in refused(
        "edos", "e.parquet", "--refresh", "--mp-api-key-file", "nothing"
    )
