"""`screen run --source optimade:...` against OPTIMADE's own server package."""

import json
from pathlib import Path

import pytest

from db.open import open_store
from tests.screening import optimade_server
from tests.screening.optimade_server import entry

pytest.importorskip("optimade", reason="the server's own code needs optimade")
pytest.importorskip("mongomock", reason="the server's own code needs mongomock")
pytestmark = [  # of the server's own code
    pytest.mark.filterwarnings("ignore:Structure with attributes"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields'"),
]

PAGE = 20  # structures, the server's own choice when it refuses ours
CITED = "Data from Example & <b>sons</b> (https://example.org/) by OPTIMADE, licence CC-BY-4.0"


@pytest.fixture(scope="module")
def server():
    atoms = [("Mg",), ("Al",), ("Mg", "O"), ("Si", "O")]
    known = [
        entry(k, symbols, 2.6 * len(symbols), stability=hull, band_gap=0.0)
        for k, (symbols, hull) in enumerate(zip(atoms, (0.0, 0.1, 0.2, 0.9), strict=True))
    ]
    known[2]["nsites"] = 5
    fields = [("stability", "eV/atom"), ("band_gap", "eV")]
    with optimade_server.optimade(known, "oqmd", fields) as running:
        yield running


@pytest.fixture
def optimade(server, screen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server[1].clear()
    return lambda *args: screen("run", "--source", f"optimade:{server[0]}", *args)


@pytest.mark.slow
def test_run_screens_what_the_server_has(optimade, server, screen):
    outcome = optimade("--json")
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    summary = json.loads(outcome.out)
    assert [stage["name"].split(": ")[-1] for stage in summary["funnel"]][:3] == [
        "database",
        "filter",
        "readable",
    ]
    assert (summary["funnel"][0]["entered"], summary["funnel"][1]["dropped"]) == (4, 1)
    assert summary["counts"]["screened"] == 2
    assert "5 sites by its own account" in summary["failures"]["s-2"]
    assert summary["source"]["attribution"] == CITED
    with open_store("screening.sqlite") as store:
        hulls = {c.material_id: c.energy_above_hull for c in store.candidates(summary["run_id"])}
    assert hulls["s-0"] == 0.0
    assert hulls["s-1"] == 0.1
    assert screen("report").code == 0
    (report,) = Path().rglob("*.html")
    page = report.read_text()
    assert "<b>sons</b>" not in page
    assert "Example &amp; &lt;b&gt;sons&lt;/b&gt;" in page


@pytest.mark.slow
def test_filter_of_ones_own_decides_the_run(optimade, server):
    outcome = optimade("--optimade-filter", 'elements HAS "Al"', "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert summary["counts"]["screened"] == 1
    assert summary["parameters"]["optimade_filter"] == 'elements HAS "Al"'


@pytest.mark.slow
def test_a_refreshed_run_goes_on_with_the_answer_it_began_with(screen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = [entry(k, ("Al",), 2.6 + k / 100, stability=0.0, band_gap=0.0) for k in range(3 * PAGE)]
    fields = [("stability", "eV/atom"), ("band_gap", "eV")]
    with optimade_server.optimade(known, "oqmd", fields) as (address, faults):
        command = ("run", "--source", f"optimade:{address}", "--refresh", "--json", "--rescore", 0)
        faults.plan = {6: 404}  # three page sizes are refused, then two pages come
        assert "does not answer this (404)" in screen(*command).err
        assert len(faults.requests) == 6
        faults.clear()
        outcome = screen(*command, "--resume")
        assert outcome.code == 0, outcome.err
        assert [int(request["page_offset"]) for request in faults.requests] == [2 * PAGE]
    assert json.loads(outcome.out)["counts"]["screened"] == len(known)


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("optimade:https://ann:hush@example.org", [], "has a user name or password in it"),
        ("prototypes", ["--optimade-filter", "nsites=1"], "--optimade-filter is for --source opt"),
        ("optimade:http://127.0.0.1:9", ["--optimade-filter", "nsites=="], "--optimade-filter 'ns"),
    ],
)
def test_refusals_are_one_line(screen, source, more, words):
    outcome = screen("run", "--source", source, *more)
    assert outcome.code != 0
    assert words in outcome.err
    assert "hush" not in outcome.err
    assert "Traceback" not in outcome.err
