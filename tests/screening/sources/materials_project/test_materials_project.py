import itertools
import json
import os
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.crystal import ELEMENTS
from screening.candidate import Candidate, Unreadable
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.sources import open_source
from screening.sources.materials_project import source as materials_project
from screening.sources.materials_project.cache import TableCache
from screening.sources.materials_project.client import find_api_key
from screening.sources.materials_project.documents import usual_id
from screening.sources.materials_project.source import CANDIDATES, ServerQuery, row_of

KEY = "k" * 31 + "1"
FILTERS = ScreeningFilters(unknown="drop")


# --- the key --------------------------------------------------------------------------------


@pytest.fixture
def no_key(monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delitem(SETTINGS, "PMG_MAPI_KEY", raising=False)
    return SETTINGS


@pytest.fixture
def key(no_key, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)


def test_key_is_looked_for_in_the_environment_then_pymatgen_then_the_file(
    no_key, monkeypatch, tmp_path
):
    file = tmp_path / "key"
    file.write_text("c" * 32 + "\n")
    assert find_api_key(file) == "c" * 32
    monkeypatch.setitem(no_key, "PMG_MAPI_KEY", "b" * 32)
    assert find_api_key(file) == "b" * 32
    monkeypatch.setenv("MP_API_KEY", "a" * 32)
    assert find_api_key(file) == "a" * 32


def test_no_key_is_one_line_that_says_where_to_get_one(no_key, tmp_path):
    with pytest.raises(ScreeningError, match=r"next-gen\.materialsproject\.org.*prototypes") as e:
        open_source("mp", cache_dir=tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("x" * 16, "legacy API"), ("secret-secret", "no key"), ("x" * 33, "no key")],
)
def test_what_cannot_be_a_key_is_refused_without_showing_it(no_key, monkeypatch, text, message):
    monkeypatch.setenv("MP_API_KEY", text)
    with pytest.raises(ScreeningError, match=message) as e:
        find_api_key()
    assert text not in str(e.value)


def test_key_file_that_is_not_there(no_key, tmp_path):
    with pytest.raises(ScreeningError, match="cannot read the key file"):
        find_api_key(tmp_path / "absent")


def test_no_network(key, tmp_path):
    naps = []
    with socket.socket() as silent:  # holds its port, so that no other test's server gets it
        silent.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(ScreeningError, match="cannot reach the Materials Project") as e:
            open_source("mp", endpoint=endpoint, cache_dir=tmp_path, sleep=naps.append)
    assert naps == [2, 4]
    assert KEY not in str(e.value)


def test_password_of_a_mirror_is_shown_nowhere(key, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{silent.getsockname()[1]}/"
        endpoint = f"http://ann:hu'sh@{place}"
        with pytest.raises(ScreeningError, match=f"cannot reach .*http://{place}") as e:
            open_source("mp", endpoint=endpoint, cache_dir=tmp_path, sleep=lambda s: None)
    assert "sh@" not in str(e.value)
    query = json.loads(TableCache(tmp_path, {}, CANDIDATES, endpoint).query)
    assert query == {"endpoint": f"http://{place}"}


@pytest.mark.parametrize(
    ("identifier", "usual"),
    [("mp-149", "mp-149"), ("mp-aaaaaaft", "mp-149"), ("mp-ft", "mp-149"), ("x/2", "x/2")],
)
def test_ids_in_their_usual_form(identifier, usual):
    assert usual_id(identifier) == usual


def test_what_is_no_id_is_refused(key, tmp_path):
    with pytest.raises(ScreeningError, match="'mp_1/2' is not a Materials Project id"):
        open_source("mp", material_ids=["mp_1/2"], cache_dir=tmp_path)


# --- queries and documents ------------------------------------------------------------------


def test_server_filters_only_what_it_can():
    assert ServerQuery.of(FILTERS).criteria() == {
        "deprecated": False,
        "energy_above_hull_max": 0.5,
        "nelements_max": 4,
        "band_gap_max": 0.0,
        "ordering": "NM",
    }
    # the server drops what it does not know, so these filters stay with the candidates
    keep = ServerQuery.of(ScreeningFilters(unknown="keep", elements="Mg", exclude_elements="O H"))
    assert keep.criteria() == {
        "deprecated": False,
        "nelements_max": 4,
        "elements": "Mg",
        "exclude_elements": "H,O",
    }


def document(**changes):
    salt = {
        "lattice": {"matrix": [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]]},
        "sites": [
            {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]},
            {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5]},
        ],
    }
    whole = {
        "material_id": "mp-22862",
        "formula_pretty": "NaCl",
        "structure": salt,
        "energy_above_hull": 0.0,
        "band_gap": 5.0,
        "ordering": "NM",
        "is_magnetic": False,
        "has_props": {"dos": True},
        "last_updated": "2025-09-30T12:00:00",
    }
    whole.update(changes)
    return {k: v for k, v in whole.items() if v is not ...}


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        ({}, "is_magnetic", False),
        ({"ordering": "FiM"}, "is_magnetic", True),
        ({"ordering": "Unknown"}, "is_magnetic", None),
        ({"ordering": "Unknown", "is_magnetic": True}, "is_magnetic", True),
        ({"ordering": ..., "is_magnetic": ...}, "is_magnetic", None),
        ({}, "has_edos", True),
        ({"has_props": {"materials": True}}, "has_edos", False),
        ({"has_props": ["dos", "materials"]}, "has_edos", True),
        ({"has_props": ...}, "has_edos", None),
        ({"last_updated": {"$date": "2025-01-01"}}, "last_updated", "2025-01-01"),
        ({"energy_above_hull": ...}, "energy_above_hull", None),
        ({"a_field_of_tomorrow": {"x": 1}}, "band_gap", 5.0),
    ],
)
def test_documents_to_rows(changes, column, value):
    assert row_of(document(**changes))[column] == value


def partially_occupied():
    structure = document()["structure"]
    structure["sites"][0]["species"] = [
        {"element": "Na", "occu": 0.5},
        {"element": "K", "occu": 0.5},
    ]
    return structure


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"structure": ...}, "no structure"),
        ({"structure": {"sites": []}}, "not a structure"),
        ({"structure": partially_occupied()}, "partial occupancies"),
        ({"band_gap": "wide"}, "band_gap is not a number"),
    ],
)
def test_documents_that_cannot_be_used_keep_their_reason(changes, problem):
    row = row_of(document(**changes))
    assert problem in row["problem"]
    assert row["material_id"] == "mp-22862"
    assert "lattice" not in row


# --- the real client against the real server ------------------------------------------------


@pytest.fixture(scope="module")
def server():
    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    pytest.importorskip("emmet.api", reason="the server's own code needs emmet-api")
    from tests.screening import mp_server

    with mp_server.materials_project(uri, mp_server.summary_documents(300)) as running:
        yield running


@pytest.fixture
def mp(server, key, tmp_path):
    """Open the source on the local server; `faults` of the server start empty."""
    address, faults, _ = server
    faults.plan, faults.always = {}, None
    faults.requests.clear()

    def open_mp(filters=FILTERS, **options):
        defaults = {"endpoint": address, "cache_dir": tmp_path, "sleep": lambda s: None}
        return open_source("mp", filters=filters, **{**defaults, **options})

    return open_mp


def stored_id(material_id):
    from emmet.core.mpid import AlphaID

    return str(AlphaID(material_id.split("-")[1], prefix="mp", padlen=8))


def qualifying(collection, *conditions):
    """Independent count of the documents that meet the paper's filters."""
    return {
        usual_id(d["material_id"])
        for d in collection.find()
        if not d["deprecated"]
        and d["builder_meta"]["license"] == "BY-C"
        and d["energy_above_hull"] <= 0.5
        and d["nelements"] < 5
        and d["band_gap"] == 0
        and d["ordering"] == "NM"
        and all(condition(d) for condition in conditions)
    }


@pytest.mark.mongo
def test_source_gives_exactly_the_documents_that_qualify(mp, server, monkeypatch):
    monkeypatch.setattr(materials_project, "PAGE_SIZE", 7)
    _, _, collection = server
    seen = []
    source = mp(progress=lambda done, total: seen.append((done, total)))
    expected, stored = qualifying(collection), list(collection.find())
    assert {c.material_id for c in source} == expected
    assert source.total == len(expected) == seen[-1][0] == seen[-1][1]
    assert source.default_unknown == "drop"

    funnel = Funnel.of(FILTERS)
    passed = set()
    for candidate in source:
        verdict = FILTERS.judge(candidate)
        funnel.add(verdict)
        if verdict.passed:
            passed.add(candidate.material_id)
    assert passed == qualifying(collection, lambda d: not d["has_props"]["dos"])
    assert [s.name for s in funnel.stages if s.dropped] == ["without_edos"]
    functionals = {usual_id(d["material_id"]): next(iter(d["run_types"].values())) for d in stored}
    assert {c.material_id: c.origin.functional for c in source} == {
        i: functionals[i] for i in expected
    }
    assert set(functionals.values()) == {"GGA", "GGA+U", "r2SCAN"}


@pytest.mark.mongo
def test_candidates_are_what_the_database_holds(mp, server):
    _, _, collection = server
    for candidate in mp():
        document = collection.find_one({"material_id": stored_id(candidate.material_id)})
        assert candidate.formula == document["formula_pretty"]
        assert candidate.energy_above_hull == document["energy_above_hull"]
        assert candidate.has_edos == document["has_props"]["dos"]
        assert candidate.is_magnetic is False
        sites = [s["species"][0]["element"] for s in document["structure"]["sites"]]
        assert [ELEMENTS[z] for z in candidate.structure.atomic_numbers] == sites
        np.testing.assert_allclose(
            candidate.structure.lattice, document["structure"]["lattice"]["matrix"]
        )
        assert candidate.origin.as_dict() == {
            "source": "Materials Project",
            "database_version": "2026.11.01",
            "last_updated": "2025-09-30T12:00:00",
            "functional": next(iter(document["run_types"].values())),
        }


@pytest.mark.mongo
def test_funnel_of_the_server_accounts_for_the_whole_database(mp, server):
    _, _, collection = server
    stages = mp().applied.stages
    current = {"deprecated": False, "builder_meta.license": "BY-C"}
    assert stages[0].entered == collection.count_documents(current)
    for stage, following in itertools.pairwise(stages):
        assert following.entered == stage.entered - stage.dropped
    last = stages[-1]
    assert last.entered - last.dropped == len(qualifying(collection))


@pytest.mark.mongo
def test_elements_are_filtered_by_the_server(mp, server):
    _, _, collection = server
    filters = ScreeningFilters(
        unknown="drop",
        elements="O",
        exclude_elements="Ca,Si",
        max_band_gap=None,
        max_energy_above_hull=None,
        nonmagnetic=False,
    )
    expected = {
        usual_id(d["material_id"])
        for d in collection.find({"deprecated": False, "builder_meta.license": "BY-C"})
        if "O" in d["elements"] and not {"Ca", "Si"} & set(d["elements"]) and d["nelements"] < 5
    }
    assert {c.material_id for c in mp(filters)} == expected
    assert len(expected) > 10


@pytest.mark.mongo
def test_answer_is_kept_and_asked_for_again_on_refresh(mp, server, no_key, monkeypatch):
    _, faults, _ = server
    monkeypatch.setenv("MP_API_KEY", KEY)
    first = mp()
    asked = len(faults.requests)
    monkeypatch.delenv("MP_API_KEY")
    again = mp()  # without a key
    assert len(faults.requests) == asked
    assert again.provenance == first.provenance
    assert again.applied == first.applied
    assert [c.material_id for c in again] == [c.material_id for c in first]
    monkeypatch.setenv("MP_API_KEY", KEY)
    mp(refresh=True)
    assert len(faults.requests) == 2 * asked
    assert mp(ScreeningFilters(max_elements=2, unknown="drop")).fingerprint != first.fingerprint


@pytest.mark.mongo
def test_answers_of_another_server_are_kept_apart(mp, server, monkeypatch, tmp_path):
    address, faults, _ = server
    first = mp()
    monkeypatch.setenv("MP_API_ENDPOINT", address)
    asked = len(faults.requests)
    assert [c.material_id for c in mp(endpoint=None)] == [c.material_id for c in first]
    assert len(faults.requests) == asked  # the same server
    monkeypatch.setenv("MP_API_ENDPOINT", address.replace("127.0.0.1", "localhost"))
    mp(endpoint=None)
    assert len(faults.requests) > asked


@pytest.mark.mongo
def test_table_says_where_it_comes_from_and_holds_no_key(mp, tmp_path):
    source = mp()
    (path,) = tmp_path.glob("*.parquet")
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items()}
    assert metadata["database_version"] == "2026.11.01"
    assert json.loads(metadata["query"])["band_gap_max"] == 0.0
    assert "CC BY 4.0" in metadata["attribution"] == source.attribution
    for file in Path(tmp_path).rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()
    assert KEY not in repr(source.facts) + source.description


RETRY_LATER = (429, b'{"message":"API rate limit exceeded"}', [(b"retry-after", b"1")])
SERVER_ERROR = (500, b'{"detail":"Server error"}')


@pytest.mark.mongo
@pytest.mark.parametrize(
    "fault", [RETRY_LATER, SERVER_ERROR, (502, b"Bad Gateway"), (503, b"<html>busy</html>"), "cut"]
)
def test_faults_that_pass_are_waited_out(mp, server, monkeypatch, fault):
    monkeypatch.setattr(materials_project, "PAGE_SIZE", 5)
    _, faults, collection = server
    faults.plan = {2: fault, 8: fault}  # a count, then the third page
    ids = [c.material_id for c in mp()]
    assert len(ids) == len(set(ids))
    assert set(ids) == qualifying(collection)


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((401, b'{"message":"Invalid authentication credentials"}'), "does not know this key"),
        ((403, b'{"message":"Invalid authentication credentials"}'), "does not know this key"),
        ((401, b'{"message":"The API key has expired"}'), "key has expired"),
        ((403, b"<html>error code: 1020</html>"), "refuses this machine's requests"),
        ((400, b'{"detail":"parameters which cannot be used"}'), "too old or too new"),
        ((404, b'{"message":"no Route matched with those values"}'), "too old or too new"),
        ("cut", "answer is broken"),
        ((200, b"<html>maintenance</html>"), "answer is broken"),
        (SERVER_ERROR, "has a problem .500.: try again later"),
        ((429, b"{}", [(b"retry-after", b"0")]), "fewer requests"),
    ],
)
def test_faults_that_stay_are_told_apart(mp, server, fault, message):
    _, faults, _ = server
    faults.always = fault
    with pytest.raises(ScreeningError, match=message) as e:
        mp()
    assert "\n" not in str(e.value)
    assert KEY not in str(e.value)


@pytest.mark.mongo
def test_wrong_key_is_not_tried_twice(mp, server, monkeypatch):
    _, faults, _ = server
    monkeypatch.setenv("MP_API_KEY", "w" * 32)
    with pytest.raises(ScreeningError, match="does not know this key"):
        mp()
    assert len(faults.requests) == 1


@pytest.mark.mongo
def test_fetch_goes_on_where_it_stopped(mp, server, monkeypatch, tmp_path):
    monkeypatch.setattr(materials_project, "PAGE_SIZE", 5)
    _, faults, _ = server
    undisturbed = [c.material_id for c in mp(cache_dir=tmp_path / "other")]
    faults.requests.clear()

    class Killed(BaseException):
        pass

    def die(done, total):
        if done >= 10:
            raise Killed

    with pytest.raises(Killed):
        mp(progress=die)
    before = [r for r in faults.requests if "_page" in r]
    (page,) = tmp_path.glob("*/page-000002.parquet")
    page.write_bytes(page.read_bytes()[:100])  # what the crash left half-written
    faults.requests.clear()
    assert [c.material_id for c in mp()] == undisturbed
    pages = [r for r in faults.requests if "_page" in r]
    assert len(before) == 2
    assert not [r for r in pages if "_page=1&" in r]
    assert [r for r in pages if "_page=2&" in r]
    assert not list(tmp_path.glob("*.pages"))


@pytest.mark.mongo
def test_pages_of_an_older_database_are_not_used(mp, server, monkeypatch, tmp_path):
    monkeypatch.setattr(materials_project, "PAGE_SIZE", 5)
    _, faults, _ = server

    class Killed(BaseException):
        pass

    def die(done, total):
        raise Killed

    with pytest.raises(Killed):
        mp(progress=die)
    (state,) = tmp_path.glob("*/state.json")
    state.write_text(state.read_text().replace("2026.11.01", "2025.02.12"))
    faults.requests.clear()
    mp()
    assert [r for r in faults.requests if "_page=1&" in r]


@pytest.mark.mongo
def test_answer_that_changes_under_way_is_refused(mp, server, monkeypatch):
    monkeypatch.setattr(materials_project, "PAGE_SIZE", 5)
    _, _, collection = server
    victim = stored_id(min(qualifying(collection)))

    def hide(done, total):
        collection.update_many({"material_id": victim}, {"$set": {"deprecated": True}})

    try:
        with pytest.raises(ScreeningError, match="changed while it was read"):
            mp(progress=hide)
    finally:
        collection.update_many({"material_id": victim}, {"$set": {"deprecated": False}})
    assert len(list(mp())) == len(qualifying(collection))


@pytest.mark.mongo
def test_empty_answer_names_the_filter_that_emptied_it(mp):
    with pytest.raises(ScreeningError, match="the filter elements drops the last of the"):
        mp(ScreeningFilters(unknown="drop", elements="Xe, Og"))


@pytest.mark.mongo
def test_materials_that_were_asked_for_and_are_not_there(mp, server):
    _, _, collection = server
    wide = ScreeningFilters(
        unknown="keep", max_energy_above_hull=None, max_band_gap=None, nonmagnetic=False
    )
    old = collection.find_one({"deprecated": True, "builder_meta.license": "BY-C"})
    old = usual_id(old["material_id"])
    good = min(qualifying(collection))
    source = mp(wide, material_ids=[good, old, "mp-999999"])
    found = {item.material_id: item for item in source}
    assert isinstance(found[good], Candidate)
    assert found[old] == Unreadable(old, "deprecated by the Materials Project")
    assert "no such material" in found["mp-999999"].reason
    assert source.total == 3


@pytest.mark.mongo
def test_documents_with_missing_fields_are_recorded(mp, server):
    _, _, collection = server
    victim = min(qualifying(collection))
    document = collection.find_one({"material_id": stored_id(victim)})
    collection.update_many(
        {"_id": document["_id"]}, {"$unset": {"structure": 1}, "$set": {"tomorrow": [1]}}
    )
    try:
        found = {item.material_id: item for item in mp()}
    finally:
        collection.replace_one({"_id": document["_id"]}, document)
    assert found[victim] == Unreadable(victim, "the document has no structure")
    assert len(found) == len(qualifying(collection))


@pytest.mark.mongo
def test_server_that_is_too_old(key, tmp_path):
    from fastapi import FastAPI

    from tests.screening.mp_server import serve

    app = FastAPI()
    app.get("/heartbeat")(
        lambda: {"version": "0.50.0", "db_version": "2021", "access_controlled_batch_ids": []}
    )
    with serve(app) as address, pytest.raises(ScreeningError, match="API is older"):
        open_source("mp", endpoint=address, cache_dir=tmp_path, sleep=lambda s: None)


@pytest.mark.live
def test_live_server_knows_magnesium(tmp_path):
    if os.environ.get("SCREEN_TEST_LIVE") != "1":
        pytest.skip("SCREEN_TEST_LIVE is not 1")
    filters = ScreeningFilters(
        unknown="drop", elements="Mg", max_elements=1, max_energy_above_hull=0.05
    )
    source = open_source("mp", filters=filters, cache_dir=tmp_path)
    assert "mp-153" in {item.material_id for item in source}
