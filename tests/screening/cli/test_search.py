"""`screen learn`, `search` and `rounds` as a user calls them; a formula stands in for DFT."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from db.documents import RoundDoc
from db.open import open_store
from screening.cli.options import models_folder
from screening.cli.search import _in_words
from screening.criteria.registry import find_criterion, parameters_of
from tests.conftest import crystal_row
from tests.models.model_examples import edos_label, label_row, write_rows
from tests.workflows.analytic_dos import AnalyticDosMaker
from tests.workflows.launchpads import SECRET, make_site, new_database
from tests.workflows.learning_examples import TRAINED, screened, teach
from tests.workflows.screened_run import crystal, put_run
from workflows.launchpad import open_launchpad
from workflows.validated_labels import are_alike

DB = "screening.sqlite"
N = 8


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("taught"))


@pytest.fixture
def files(taught):
    return ("--labels", taught.labels, "--structures", taught.structures, "--epochs", 1)


@pytest.fixture
def run_id(screen, taught, structure_table):
    """A run of which all are positive, in the folder where `screen` is called."""
    return screened(DB, taught, structure_table, TRAINED[:N])


@pytest.fixture
def formula(monkeypatch):
    """Let `screen` calculate by a formula."""
    use = {"maker": AnalyticDosMaker()}
    monkeypatch.setattr("workflows.dos.engines.dos_maker", lambda engine, **_: use["maker"])
    return use


def one_line(outcome, *words):
    """The command failed and said why in one line."""
    assert outcome.code == 1
    lines = [line for line in outcome.err.splitlines() if line.startswith("screen: ")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def runs():
    with open_store(DB) as store:
        return store.runs()


@pytest.mark.slow
def test_what_was_validated_is_learned_and_the_rest_judged_again(screen, run_id, formula, files):
    assert screen("validate", "--limit", 3, "--random", 0, "--out-of-domain").code == 0
    learned = screen("learn", *files, "--force", "--out", "new-model")
    assert learned.code == 0
    assert "Learned 3 labels" in learned.err
    assert "test materials before: WD " in learned.err
    (row,) = json.loads(screen("rounds", "--json").out)
    assert (row["run_id"], row["number"], row["state"]) == (run_id, "1", "done")
    assert (row["n_calculated"], row["n_learned"], row["chosen_by"]) == (3, 3, "hand")
    child, parent = runs()
    assert (child.parent, child.counts["screened"]) == (parent.run_id, N - 3)
    assert row["checkpoint"].endswith("/new-model")
    assert child.model_id == row["new_model_id"]
    assert f"{child.run_id} " in screen("runs").out
    # The next round is one of the next run.
    one_line(screen("learn", *files), f"run {child.run_id} has no validations")
    assert screen("validate", "--limit", 1, "--random", 0, "--out-of-domain").code == 0
    taken = screen("learn", *files, "--force", "--out", "new-model")
    one_line(taken, "new-model is there already; --out names another")
    assert screen("learn", *files, "--force").code == 0
    assert [r["n_learned"] for r in json.loads(screen("rounds", "--json").out)] == [3, 4]
    assert models_folder(DB).joinpath(run_id, "tiny-round-2", "card.json").exists()


@pytest.mark.slow
def test_a_search_goes_on_until_it_has_its_rounds(screen, run_id, formula, files):
    options = ("--per-round", 2, "--out-of-domain", "--force", *files)
    assert screen("search", "--rounds", 1, *options).code == 0
    searched = screen("search", run_id, "--rounds", 2, *options)
    assert searched.code == 0
    assert "Round 2 in run" in searched.err
    assert "2 chosen, 2 to calculate with analytic-for-tests" in searched.err
    assert searched.out.count("tiny-round-") == 2
    one_line(screen("search", "--rounds", 2, *options), "has its 2 rounds")
    assert len(runs()) == 3
    assert screen("rounds", "--out", "rounds.parquet").code == 0
    table = pq.read_table("rounds.parquet").to_pydict()
    assert table["number"] == ["1", "2"]
    assert table["n_calculated"] == [2, 2]
    assert len({*table["chosen"][0], *table["chosen"][1]}) == 4
    other = json.loads(screen("rounds", run_id, "--json").out)
    assert [row["wd_after"] for row in other] == table["wd_after"]


@pytest.mark.slow
def test_a_round_without_a_single_result_ends_in_the_next_one(screen, run_id, formula, files):
    formula["maker"] = AnalyticDosMaker(failing="Al")
    with open_store(DB) as store:
        run = store.run(run_id)
        aluminium = [c.material_id for c in store.candidates(run_id) if c.formula == "Al"]
        store.put_run(run.model_copy(update={"selection": aluminium}))
    searched = screen("search", "--per-round", 2, "--out-of-domain", *files)
    assert searched.code == 0
    assert "Round 1: 0 of 0 calculated have a VB gap" in searched.err
    assert "Nothing learned: " in searched.err
    assert "all 2 calculations failed" in searched.out


@pytest.mark.slow
def test_bad_input_is_one_line(screen, run_id, formula, files, taught, tmp_path):
    one_line(screen("learn", "--db", "no.sqlite"), "no.sqlite: no such file")
    one_line(screen("learn", "nobody", *files), "no run 'nobody'")
    one_line(screen("learn", *files), "has no validations; `screen validate` first")
    one_line(screen("learn", "--labels", "no.parquet"), "no.parquet: no such file")
    one_line(screen("learn", *files, "--out", "first try"), "'first try': not the name of a model")
    bare = write_rows(tmp_path / "bare.parquet", [label_row("x", edos_label())])
    elsewhere = tmp_path / "structures.parquet"  # the source of the run
    elsewhere.rename(tmp_path / "moved.parquet")
    one_line(screen("learn", "--labels", bare), "bare.parquet: labels without structures")
    (tmp_path / "moved.parquet").rename(elsewhere)

    screen("validate", "--limit", 2, "--random", 0, "--out-of-domain")
    assert not are_alike("analytic-for-tests", "gpaw-pbe-labels")
    refused = screen("learn", "--labels", bare)
    one_line(refused, "analytic-for-tests are not mixed with those by gpaw-pbe-labels")
    (failed,) = json.loads(screen("rounds", "--json").out)
    assert (failed["state"], "not mixed" in failed["error"]) == ("failed", True)
    assert "not mixed" in screen("rounds").out
    shutil.move(taught.checkpoint, tmp_path / "away")
    gone = screen("learn", *files)
    shutil.move(tmp_path / "away", taught.checkpoint)
    one_line(gone, "is gone or has changed")
    assert screen("learn", *files, "--force").code == 0  # the same round, now done
    assert [r["state"] for r in json.loads(screen("rounds", "--json").out)] == ["done"]


def test_all_failed_or_nothing_left_is_one_line(screen, run_id, formula, files):
    formula["maker"] = AnalyticDosMaker(failing="Al")
    with open_store(DB) as store:
        run = store.run(run_id)
        aluminium = [c.material_id for c in store.candidates(run_id) if c.formula == "Al"]
        store.put_run(run.model_copy(update={"selection": aluminium}))
    screen("validate", "--random", 0, "--out-of-domain")
    one_line(
        screen("learn", *files), f"all {len(aluminium)} calculations failed", "did not converge"
    )
    with open_store(DB) as store:
        store.put_run(store.run(run_id).model_copy(update={"selection": []}))
        for document in store.rounds():
            store.put_round(document.model_copy(update={"state": "done", "next_run_id": run_id}))
    one_line(
        screen("search", "--rounds", 5, "--out-of-domain", *files),
        "no candidate is left to calculate",
    )


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ("vb-gap", "1 of 2 calculated have a VB gap"),
        ("cb-gap", "1 of 2 calculated have a CB gap"),
        ("steep-edge", "1 of 2 calculated are positive by steep-edge"),
    ],
)
def test_a_round_says_what_was_looked_for(screen, criterion, words):
    document = RoundDoc(
        run_id="run-1",
        number="1",
        chosen_in="run-1",
        engine="gpaw",
        recipe="r",
        outcomes={"done": 2},
        found=["m-0"],
        model_id="model-1",
        next_run_id="run-2",
    )
    with open_store(DB) as store:
        run = put_run(store, {"m-0": crystal(0)})
        by = parameters_of(find_criterion(criterion))
        run = run.model_copy(update={"parameters": by})
        store.put_run(run)
        store.put_round(document)
    assert words in _in_words(document, run)
    out = screen("rounds").out
    assert "positive" in out
    assert "VB gap" not in out


def test_models_are_beside_the_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models_folder("a/b.sqlite") == tmp_path / "a" / "b.models"
    assert models_folder("mongodb://ann:secret@host/db") == tmp_path / "screening.models"


@pytest.mark.slow
def test_the_source_of_the_run_has_the_structures(screen, taught, structure_table, formula):
    rows = pq.read_table(taught.structures).to_pylist()
    new = [crystal_row(name, 3.0 + i / 10, ["Al"]) for i, name in enumerate(TRAINED[:3])]

    def with_old(_):
        same = [
            {key: row.get(key) for key in ("material_id", "lattice", "species", "frac_coords")}
            for row in [*rows, *new]
        ]
        return structure_table(same)

    run_id = screened(DB, taught, with_old, [], source_options={}, filters={"max_sites": 1})
    screen("validate", "--run", run_id, "--random", 0, "--out-of-domain")
    assert screen("learn", "--labels", taught.labels, "--force", "--epochs", 1).code == 0


@pytest.mark.mongo
def test_a_search_is_sent_to_a_launchpad(
    screen, taught, structure_table, formula, files, tmp_path, monkeypatch
):
    with new_database() as uri:
        site = make_site(tmp_path, uri)
        monkeypatch.setenv("SCREEN_DB", site.db)
        run_id = screened(site.db, taught, structure_table, TRAINED[:2])
        options = ("--where", "launchpad", "--launchpad", site.launchpad, *files)
        one_line(screen("search", *options), f"run {run_id}: no candidate is left to calculate")
        assert screen("rounds", "--json").out.strip() == "[]"
        options += ("--out-of-domain",)
        sent = screen("search", "--json", *options)
        assert sent.code == 0
        assert f"search of run {run_id} submitted; `screen rounds`" in sent.err
        (begun,) = json.loads(sent.out)
        assert (begun["run_id"], begun["state"]) == (run_id, "calculating")
        one_line(screen("search", *options), f"search of run {run_id} is on the launchpad already")
        with open_launchpad(site.launchpad) as pad:
            (workflow,) = pad.workflows.find()
            (job,) = pad.fireworks.find()
    assert workflow["metadata"] == {"search": run_id}
    assert (job["name"], job["spec"]["_category"]) == ("select", "screening")
    assert SECRET not in json.dumps([workflow, job], default=str)
