"""Commands that ask a store: candidates, similar, history, runs, db."""

import json
import os
import re
import resource
import sqlite3
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from db.collections import COLLECTIONS, Query
from db.documents import GapDoc, ValidationDoc, Verdict
from db.errors import StoreError
from db.open import open_store
from screening.cli.rows import deliver
from tests.conftest import crystal_row
from tests.workflows.screened_run import (
    candidate,
    crystal,
    put_prediction,
    put_run,
    validation,
    with_gap,
)

EASY = ("--max-dos", 1000, "--min-width", 0.1, "--max-upper-edge", 5)
PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Sn", "Te")]


@pytest.fixture
def filled(screen, structure_table):
    """`screen` in a folder with the store of a run over 12 materials, 11 of them positive."""
    rows = [crystal_row(f"m-{i}", 3.3 + 0.05 * i, PAIRS[i % 6]) for i in range(12)]
    for i, row in enumerate(rows):
        row["energy_above_hull"] = i / 20
    assert screen("run", "--source", structure_table(rows), *EASY).code == 0
    return screen


def listed(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def ids(outcome):
    return {row["material_id"] for row in listed(outcome)}


def validate(verdicts):
    """Store finished calculations with these verdicts, by material id."""
    with open_store("screening.sqlite") as store:
        (run,) = store.runs()
        store.upsert_validations(
            ValidationDoc(
                material_id=candidate.material_id,
                structure_hash=candidate.structure_hash,
                engine="gpaw",
                recipe="standard",
                state="done",
                run_ids=[run.run_id],
                gap=GapDoc(is_gap=verdicts[candidate.material_id], width=1.5),
                is_positive=verdicts[candidate.material_id],
            )
            for candidate in store.candidates(run.run_id, material_ids=verdicts)
        )


@pytest.mark.slow
def test_candidates_are_filtered_as_asked(filled):
    assert len(ids(filled("candidates", "--json"))) == 11
    assert ids(filled("candidates", "--elements", "Mg", "--json")) == {"m-1", "m-3", "m-7", "m-9"}
    assert ids(filled("candidates", "--elements", "Mg", "--exclude-elements", "O", "--json")) == {
        "m-3",
        "m-9",
    }
    assert ids(filled("candidates", "--chemsys", "O-Mg", "--json")) == {"m-1", "m-7"}
    assert ids(filled("candidates", "--max-ehull", 0.1, "--json")) == {"m-0", "m-1", "m-2"}
    assert ids(filled("candidates", "--state", "rejected", "--json")) == {"m-11"}
    assert len(ids(filled("candidates", "--all", "--json"))) == 12


@pytest.mark.slow
def test_candidates_by_the_width_of_their_gap(filled):
    filled("run", "--source", "structures.parquet")  # by the paper's criteria
    rows = listed(filled("candidates", "--state", "screened", "--sort", "width", "--json"))
    widths = [row["gap_width"] for row in rows]
    assert widths == sorted(widths, reverse=True)
    middle = widths[4]
    assert widths[0] > middle > widths[-1]
    wide = {row["material_id"] for row in rows if row["gap_width"] >= middle}
    assert ids(filled("candidates", "--all", "--min-width", middle, "--json")) == wide
    low, high = sorted(row["gap_upper_edge"] for row in rows)[3:8:4]
    within = {row["material_id"] for row in rows if low <= row["gap_upper_edge"] <= high}
    bounds = ("--min-upper-edge", low, "--max-upper-edge", high)
    assert ids(filled("candidates", "--all", *bounds, "--json")) == within
    scores = sorted(row["score"] for row in rows)
    assert scores[-4] > scores[0]
    best = {row["material_id"] for row in rows if row["score"] >= scores[-4]}
    assert ids(filled("candidates", "--all", "--min-score", scores[-4], "--json")) == best


@pytest.mark.slow
def test_candidates_by_kind_robustness_and_margins(filled):
    filled("run", "--source", "structures.parquet")  # by the paper's criteria
    with open_store("screening.sqlite") as store:
        store.apply_verdicts(
            Verdict(
                run_id=candidate.run_id,
                material_id=candidate.material_id,
                state="screened",
                is_positive=True,
                score=1.0,
                gap=candidate.gap.model_copy(
                    update={"kind": ("gap", "near-gap")[i % 2], "robust": i < 3, "n_ranges": i}
                ),
            )
            for i, candidate in enumerate(
                store.candidates(store.runs()[0].run_id, state="screened")
            )
        )
    rows = listed(filled("candidates", "--sort", "n_ranges", "--ascending", "--json"))
    assert [row["gap_n_ranges"] for row in rows] == list(range(11))
    names = [row["material_id"] for row in rows]
    assert ids(filled("candidates", "--kind", "gap", "--json")) == set(names[::2])
    assert ids(filled("candidates", "--robust", "--json")) == set(names[:3])
    assert ids(filled("candidates", "--max-ranges", 1, "--json")) == set(names[:2])
    margins = [
        row["gap_margin_min_width"]
        for row in listed(filled("candidates", "--sort", "margin_min_width", "--json"))
    ]
    assert margins == sorted(margins, reverse=True)
    table = filled("candidates", "--kind", "near-gap").out
    assert "near-gap" in table
    assert "robust" in table


def test_candidates_are_sorted_and_limited(filled):
    rows = listed(filled("candidates", "--sort", "energy_above_hull", "--ascending", "--json"))
    assert [row["material_id"] for row in rows] == [f"m-{i}" for i in range(11)]
    outcome = filled("candidates", "--limit", 4)
    assert "4 candidates of run" in outcome.out
    assert "there are more (--limit)" in outcome.out
    assert "there are more" not in filled("candidates", "--limit", 11).out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--elements", "Xx"), "there is no element Xx"),
        (("--chemsys", "Mg-Xx"), "--chemsys Mg-Xx: there is no element Xx"),
        (("--state", "lost"), "'--state': 'lost' is not one of"),
        (("--kind", "hole"), "'--kind': 'hole' is not one of"),
        (("--sort", "$where"), "'--sort': '$where' is not one of"),
        (("--max-ehull", "nan"), "not a finite number"),
        (("--run", "nothing"), "has no run 'nothing'"),
        (("--to-validate", "--disagreements"), "ask for different things"),
        (("--out", "table.xlsx"), "use .csv, .json, .parquet"),
        (("--out", "nowhere/table.csv"), "nowhere"),
    ],
)
def test_what_cannot_be_asked_is_one_line(filled, arguments, message):
    outcome = filled("candidates", *arguments)
    assert outcome.code != 0
    assert [line for line in outcome.err.splitlines() if message in line]
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_all_formats_hold_the_same_table(filled, tmp_path, ending):
    readers = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    outcome = filled("candidates", "--all", "--out", f"table.{ending}")
    assert f"12 rows in table.{ending}" in outcome.err
    table = readers[ending](tmp_path / f"table.{ending}").set_index("material_id")
    rows = {row["material_id"]: row for row in listed(filled("candidates", "--all", "--json"))}
    assert set(table.index) == set(rows)
    for material_id, row in rows.items():
        assert table.loc[material_id, "formula"] == row["formula"]
        for number in ("energy_above_hull", "gap_width", "score"):
            if row[number] is None:
                assert pd.isna(table.loc[material_id, number])
            else:
                assert table.loc[material_id, number] == pytest.approx(row[number])
    assert "attribution" in table.columns


@dataclass
class Row:
    name: str
    attribution: str = ""


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_a_table_on_a_full_disk_leaves_the_file_before_it(tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    path.write_text("of before")
    rows = [Row(uuid.uuid4().hex) for _ in range(1_000)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=rf"table\.{ending} cannot be written: File too"):
            deliver(Row, rows, list, path, as_json=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_table_has_its_columns(filled, tmp_path):
    filled("candidates", "--chemsys", "Fe-O", "--out", "none.csv")
    table = pd.read_csv(tmp_path / "none.csv")
    assert len(table) == 0
    assert {"material_id", "score", "attribution"} <= set(table.columns)


def test_what_is_left_to_validate(filled):
    validate({"m-0": True, "m-1": False, "m-2": True})
    left = listed(filled("candidates", "--to-validate", "--json"))
    assert {row["material_id"] for row in left} == {f"m-{i}" for i in range(3, 11)}
    scores = [row["score"] for row in left]
    assert scores == sorted(scores, reverse=True)
    assert ids(filled("candidates", "--to-validate", "--elements", "Mg", "--json")) == {
        "m-3",
        "m-7",
        "m-9",
    }
    assert len(listed(filled("candidates", "--to-validate", "--limit", 2, "--json"))) == 2


def test_disagreements_of_model_and_dft(filled, tmp_path):
    validate({"m-0": True, "m-1": False, "m-4": False})
    rows = listed(filled("candidates", "--disagreements", "--json"))
    assert {row["material_id"] for row in rows} == {"m-1", "m-4"}
    assert all(row["predicted_positive"] and not row["dft_positive"] for row in rows)
    assert {row["dft_width"] for row in rows} == {1.5}
    assert "TiC" in filled("candidates", "--disagreements").out
    assert ids(filled("candidates", "--disagreements", "--elements", "O", "--json")) == {"m-1"}
    filled("candidates", "--disagreements", "--out", "table.csv")
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2


def test_what_is_left_and_what_differs_is_sorted_and_limited_as_asked(filled):
    validate({"m-4": False, "m-0": True, "m-1": False, "m-3": False})
    order = ("--sort", "energy_above_hull", "--ascending")
    left = listed(filled("candidates", "--to-validate", *order, "--json"))
    assert [row["material_id"] for row in left] == ["m-2", *(f"m-{i}" for i in range(5, 11))]
    differ = listed(filled("candidates", "--disagreements", *order, "--json"))
    assert [row["material_id"] for row in differ] == ["m-1", "m-3", "m-4"]
    out = filled("candidates", "--disagreements", "--limit", 2).out
    assert "2 disagreements of model" in out
    assert "there are more (--limit)" in out
    assert "there are more" not in filled("candidates", "--disagreements", "--limit", 3).out
    with open_store("screening.sqlite") as store:
        known = list(store.candidates(store.runs()[0].run_id))
        store.upsert_candidates(c.model_copy(update={"probability": None}) for c in known)
    for kind in ("--to-validate", "--disagreements"):
        outcome = filled("candidates", kind, "--sort", "probability")
        assert outcome.err.startswith("screen: --sort probability needs")


def test_positives_of_a_state(screen):
    with open_store("screening.sqlite") as store:
        put_run(store, {f"m-{i}": crystal(i) for i in range(3)}, ["m-1"])
    assert ids(screen("candidates", "--state", "screened", "--json")) == {"m-0", "m-1", "m-2"}
    assert ids(screen("candidates", "--state", "screened", "--positive", "--json")) == {"m-1"}
    assert ids(screen("candidates", "--json")) == {"m-1"}
    with open_store("screening.sqlite") as store:
        found = {c.material_id: c for c in store.candidates("run-1", with_structure=True)}
        store.upsert_validations([validation(found["m-0"], True), validation(found["m-1"], False)])
    assert ids(screen("candidates", "--disagreements", "--json")) == {"m-0", "m-1"}
    assert ids(screen("candidates", "--disagreements", "--positive", "--json")) == {"m-1"}


@pytest.mark.parametrize("metric", ["wasserstein", "mae"])
def test_similar_spectra_are_the_nearest_ones(filled, metric):
    rows = listed(filled("similar", "m-1", "--metric", metric, "--limit", 3, "--json"))
    with open_store("screening.sqlite") as store:
        (run,) = store.runs()
        candidates = list(store.candidates(run.run_id, state="screened"))
        keys = [(c.material_id, c.structure_hash, run.model_id) for c in candidates]
        spectra = {p.material_id: np.array(p.spectrum) for p in store.predictions(keys)}
    target = spectra.pop("m-1")

    def distance(spectrum):
        if metric == "mae":
            return np.abs(spectrum - target).mean()
        ours, theirs = spectrum / spectrum.sum(), target / target.sum()
        return sum(abs(ours[: k + 1].sum() - theirs[: k + 1].sum()) for k in range(128)) * 0.0625

    expected = sorted(spectra, key=lambda i: distance(spectra[i]))[:3]
    assert [row["material_id"] for row in rows] == expected
    for row in rows:
        assert row["distance"] == pytest.approx(distance(spectra[row["material_id"]]), rel=1e-5)


def test_distances_of_values_are_of_the_cell(filled):
    assert "distance states/eV/cell" in filled("similar", "m-1", "--metric", "mae").out
    assert "VB gap" in filled("similar", "m-1").out


def test_similar_to_what_is_not_there(filled):
    for arguments, message in [
        (("m-99",), "m-99 is in no run of"),
        (("m-11",), "m-11 has no predicted spectrum: rejected in"),
        (("m-1", "--metric", "beauty"), "'beauty' is not one of 'wasserstein', 'mae'"),
    ]:
        outcome = filled("similar", *arguments)
        assert outcome.code != 0
        assert message in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert "MgO" in filled("similar", "m-7").out


@pytest.mark.slow
def test_history_is_told_in_order(filled, structure_table):
    validate({"m-1": False})
    rows = [crystal_row("m-1", 3.35, PAIRS[1], energy_above_hull=0.7)]
    filled("run", "--source", structure_table(rows, "again.parquet"))
    found = listed(filled("history", "m-1", "--json"))
    assert [row["what"] for row in found] == ["candidate", "prediction", "validation", "candidate"]
    assert [row["is_positive"] for row in found] == [True, False, False, None]
    assert found[2]["by"] == "gpaw standard"
    assert found[3]["remark"] == "0.7 eV/atom above hull, more than 0.5"
    assert "gpaw standard" in filled("history", "m-1").out
    last = filled("history", "m-1", "--limit", 2, "--json")
    assert listed(last) == found[2:]
    assert "there are older ones (--limit)" in filled("history", "m-1", "--limit", 3).out
    assert "there are older" not in filled("history", "m-1", "--limit", 4).out
    outcome = filled("history", "m-99")
    assert outcome.code != 0
    assert "holds nothing of m-99" in outcome.err


def test_of_a_long_history_the_screen_has_the_newest(screen):
    begun = datetime.now(UTC) - timedelta(days=100)
    models = [f"model-{i:02d}" for i in range(60)]
    with open_store("screening.sqlite") as store:
        put_run(store, {"m-1": crystal(1)})
        document = candidate("run-1", "m-1", crystal(1))
        for i, model in enumerate(models):
            when = begun + timedelta(days=i)
            put_prediction(store, document, with_gap(True), model_id=model, created_at=when)
    shown = screen("history", "m-1").out
    assert "older ones (--limit)" in shown
    assert re.findall(r"model-\d\d", shown) == models[11:]  # the candidate is of today
    assert len(listed(screen("history", "m-1", "--json"))) == 61
    assert len(listed(screen("history", "m-1", "--json", "--limit", 60))) == 60
    screen("history", "m-1", "--out", "all.csv")
    assert len(pd.read_csv("all.csv")) == 61


@pytest.mark.slow
def test_runs_are_listed_newest_first(filled, structure_table):
    table = structure_table([crystal_row("m-1", 3.35, PAIRS[1])], "again.parquet")
    filled("run", "--source", table, "--max-dos", 1e-6)
    newest, first = listed(filled("runs", "--json"))
    assert newest["created_at"] > first["created_at"]
    assert (newest["screened"], newest["positive"]) == (1, 0)
    assert (first["screened"], first["positive"], first["rejected"]) == (11, 11, 1)
    assert first["source"] == "structures.parquet"
    out = filled("runs").out
    assert "2 runs" in out
    assert "just now" in out


def everything(db):
    with open_store(db) as store:
        return {
            c.name: sorted(d.model_dump_json() for d in store.find(Query(c, with_structure=True)))
            for c in COLLECTIONS
        }


def test_copy_takes_everything(filled):
    validate({"m-1": False})
    copied = listed(filled("db", "copy", "screening.sqlite", "copy.sqlite", "--json", "--quiet"))
    counts = {collection["name"]: collection["written"] for collection in copied}
    assert counts == {
        "runs": 1,
        "candidates": 12,
        "predictions": 11,
        "validations": 1,
        "rounds": 0,
        "raw_dos": 0,
    }
    assert everything("copy.sqlite") == everything("screening.sqlite")
    again = listed(filled("db", "copy", "screening.sqlite", "copy.sqlite", "--json", "--quiet"))
    assert {collection["written"] for collection in again} == {0}
    assert [c["checksum"] for c in again] == [c["checksum"] for c in copied]
    assert "candidates" in filled("db", "copy", "screening.sqlite", "copy.sqlite").out


@pytest.mark.mongo
def test_copy_to_mongodb_and_back(filled, monkeypatch):
    from pymongo import MongoClient

    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    name = f"copy_{uuid.uuid4().hex[:12]}"
    server, _, options = uri.partition("/?")
    database = f"{server.rstrip('/')}/{name}?{options}"
    monkeypatch.setenv("SCREEN_DB", database)
    try:
        outcome = filled("db", "copy", "screening.sqlite")  # to the database of the settings
        assert outcome.code == 0, outcome.err
        assert filled("db", "copy", database, "back.sqlite").code == 0
        assert everything("back.sqlite") == everything("screening.sqlite")
        assert len(ids(filled("candidates", "--json"))) == 11
        assert "has the present schema version" in filled("db", "migrate").out
    finally:
        with MongoClient(uri) as client:
            client.drop_database(name)


def test_copy_names_what_it_leaves_out(filled):
    with sqlite3.connect("screening.sqlite") as connection:
        connection.execute("UPDATE candidates SET nsites = 'many' WHERE material_id = 'm-1'")
    connection.close()
    outcome = filled("db", "copy", "screening.sqlite", "copy.sqlite")
    assert outcome.code == 1
    assert "m-1" in outcome.err
    assert len(everything("copy.sqlite")["candidates"]) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("copy", "nowhere.sqlite", "copy.sqlite"), "nowhere.sqlite: no such file"),
        (("copy", "screening.sqlite"), "source and target are the same"),
        (("copy", "screening.sqlite", "ftp://x"), "unknown scheme"),
        (("migrate", "--db", "nowhere.sqlite"), "nowhere.sqlite: no such file"),
    ],
)
def test_what_cannot_be_copied_is_one_line(filled, tmp_path, arguments, message):
    outcome = filled("db", *arguments)
    assert outcome.code != 0
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "nowhere.sqlite").exists()


def test_migrate(filled):
    outcome = filled("db", "migrate")
    assert outcome.code == 0
    assert "screening.sqlite has the present schema version 1" in outcome.out
    with sqlite3.connect("screening.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    outcome = filled("db", "migrate")
    assert outcome.code != 0
    assert "install a newer version" in outcome.err
