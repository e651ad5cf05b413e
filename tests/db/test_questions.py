"""Queries on both stores, tables, and the examples of the documentation."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import db
from db.collections import CANDIDATES, Condition, Query, conditions
from db.documents import CandidateDoc, FirstVerdict, Run
from db.errors import StoreError
from db.questions import (
    agreements,
    comparisons,
    disagreements,
    find_candidates,
    funnel,
    nearest_spectra,
    positives_to_validate,
)
from db.store import ScreeningStore
from db.tables import encode_table, to_dataframe
from models.spectra.spectrum import EnergyGrid
from tests.db.db_examples import (
    GRID,
    START,
    candidate,
    gap,
    prediction,
    round_document,
    run,
    validation,
    verdict,
)

FIRST = FirstVerdict(model_id="mat2spec-0", is_positive=True, score=0.25)
PAGE = Path(db.__file__).with_name("QUERIES.md")


@pytest.fixture
def filled(store: ScreeningStore) -> ScreeningStore:
    """20 candidates, every third positive; 1 to 12 calculated, every fourth positive."""
    store.put_run(run())
    store.put_run(run("run-0", created_at=START - timedelta(days=1), state="done"))
    store.upsert_candidates(
        candidate(
            i,
            elements=["Na", "O"] if i % 2 else ["Cl", "Na"],
            chemsys="Na-O" if i % 2 else "Cl-Na",
            energy_above_hull=None if i == 7 else i / 100,
            first_verdict=FIRST if i == 4 else None,
        )
        for i in range(20)
    )
    store.upsert_candidates([candidate(1, run_id="run-0")])
    store.apply_verdicts(
        verdict(
            i,
            is_positive=i % 3 == 0,
            unseen_elements=[] if i == 3 else ["Na"],
            out_of_domain=i != 3,
            in_domain="near" if i == 3 else "no",
            gap=gap(
                width=i / 10,
                upper_edge=-i / 20,
                kind="gap" if i % 2 else "near-gap",
                margins={"min_width": i / 10 - 1},
            ),
        )
        for i in range(20)
    )
    store.upsert_predictions(prediction(i) for i in range(20))
    store.upsert_validations(validation(i, is_positive=i % 4 == 0) for i in range(1, 13))
    store.upsert_validations([validation(15, state="failed", error="x", is_positive=None)])
    return store


def numbers(documents: Any) -> list[int]:
    return [int(document.material_id[3:]) for document in documents]


def test_candidates_by_composition(filled: ScreeningStore) -> None:
    even = find_candidates(filled, "run-1", elements=["Na"], exclude_elements=["O"])
    assert sorted(numbers(even)) == list(range(0, 20, 2))
    assert len(list(find_candidates(filled, "run-1", chemsys="O-Na"))) == 10
    assert len(list(find_candidates(filled, formula="NaCl"))) == 21


def test_candidates_by_numbers(filled: ScreeningStore) -> None:
    stable = find_candidates(filled, "run-1", energy_above_hull=(0.05, 0.08))
    assert sorted(numbers(stable)) == [5, 6, 8]
    wide = find_candidates(filled, "run-1", upper_edge=(-0.8, -0.25), width=(1.0, None))
    assert sorted(numbers(wide)) == list(range(10, 17))
    best = find_candidates(
        filled, "run-1", is_positive=True, score=(3.0, 16.0), sort_by="score", descending=True
    )
    assert numbers(best) == [15, 12, 9, 6, 3]
    for words, known in {("near",): [3], ("yes", "near"): [3], ("yes",): []}.items():
        assert numbers(find_candidates(filled, "run-1", in_domain=words)) == known


def test_candidates_by_kind_robustness_and_margins(filled: ScreeningStore) -> None:
    filled.apply_verdicts(
        verdict(
            i,
            gap=gap(
                kind=(None, "gap", "near-gap")[i % 3],
                robust=(None, True, False, True)[i % 4],
                n_ranges=i % 5,
                margins={"min_width": i / 10 - 1},
            ),
        )
        for i in range(20)
    )
    assert sorted(numbers(find_candidates(filled, "run-1", kind="gap"))) == list(range(1, 20, 3))
    robust = find_candidates(filled, "run-1", robust=True)
    assert sorted(numbers(robust)) == list(range(1, 20, 2))
    fragile = find_candidates(filled, "run-1", robust=False)
    assert sorted(numbers(fragile)) == [2, 6, 10, 14, 18]
    one = find_candidates(filled, "run-1", n_ranges=(1, 1), kind="near-gap")
    assert sorted(numbers(one)) == [11]
    wide = (Condition("gap.margins.min_width", ">=", 0.65),)
    query = Query(CANDIDATES, wide, sort_by="gap.margins.min_width", descending=True)
    assert numbers(filled.find(query)) == [19, 18, 17]
    for field in ("gap.kind", "gap.robust", "gap.n_ranges", "gap.margins.max_dos"):
        assert len(list(find_candidates(filled, "run-1", sort_by=field))) == 20
    counts = filled.count_by(Query(CANDIDATES, conditions(run_id="run-1")), "gap.kind")
    assert counts == {None: 7, "gap": 7, "near-gap": 6}


def test_positives_to_validate(filled: ScreeningStore) -> None:
    assert numbers(positives_to_validate(filled, "run-1")) == [18, 15, 0]
    assert numbers(positives_to_validate(filled, "run-1", limit=2)) == [18, 15]
    assert len(positives_to_validate(filled, "run-1", engine="vasp")) == 7
    filled.upsert_validations([validation(18, structure_hash="another")])
    assert numbers(positives_to_validate(filled, "run-1")) == [18, 15, 0]


def test_errors_of_another_models_prediction_are_left_out(filled: ScreeningStore) -> None:
    filled.upsert_validations([validation(3, prediction_model_id="another")])
    found = {c.validation.material_id: c.validation for c in comparisons(filled, "run-1")}
    assert (found["mp-2"].mae, found["mp-2"].wd) == (0.3, 0.1)
    assert (found["mp-3"].mae, found["mp-3"].wd) == (None, None)


def test_disagreements_and_agreement(filled: ScreeningStore) -> None:
    """Of 1 to 12: predicted 3 6 9 12, calculated 4 8 12."""
    assert len(comparisons(filled, "run-1")) == 12
    assert numbers(c.candidate for c in disagreements(filled, "run-1")) == [9, 8, 6, 4, 3]
    (row,) = agreements(filled, run_id="run-1")
    assert (row.true_positives, row.false_positives) == (1, 3)
    assert (row.true_negatives, row.false_negatives) == (6, 2)
    assert row.precision == 1 / 4
    assert row.recall == 1 / 3
    assert row.f1 == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))
    assert agreements(filled, model_id="other") == []
    assert agreements(filled, engine="vasp") == []


def test_verdicts_by_other_limits_are_not_compared(filled: ScreeningStore) -> None:
    for first, limits in enumerate(({"max_dos": 1.0}, {"max_dos": 0.5}), 1):
        filled.upsert_validations(
            validation(i, is_positive=True, gap=gap(criteria=limits)) for i in range(first, 13, 2)
        )
    filled.apply_verdicts(
        verdict(i, is_positive=True, gap=gap(criteria={"max_dos": 0.5})) for i in range(20)
    )
    compared = comparisons(filled, "run-1")
    assert sorted(numbers(c.candidate for c in compared)) == [2, 4, 6, 8, 10, 12]
    (row,) = agreements(filled, run_id="run-1")
    assert row.true_positives == 6
    assert len(comparisons(filled, "run-1", judged=list)) == 12


def test_agreement_of_nothing_is_not_a_number(filled: ScreeningStore) -> None:
    filled.upsert_validations(validation(i, is_positive=False) for i in range(1, 13))
    filled.apply_verdicts(verdict(i, is_positive=False) for i in range(20))
    (row,) = agreements(filled, run_id="run-1")
    assert row.true_negatives == 12
    assert row.precision is row.recall is row.f1 is None


def test_nearest_spectra(filled: ScreeningStore) -> None:
    target = prediction(7)
    near = nearest_spectra(filled, target.spectrum, GRID, limit=3)
    assert near[0].prediction == target
    assert near[0].distance == 0.0
    others = [n.distance for n in near]
    assert others == sorted(others)
    doubled = nearest_spectra(filled, 2.0 * np.array(target.spectrum), GRID, limit=1)
    assert doubled[0].prediction == target
    assert doubled[0].distance == pytest.approx(0.0, abs=1e-6)
    (first,) = nearest_spectra(filled, np.zeros(128), GRID, metric="mae", limit=1)
    means = {i: np.mean(prediction(i).spectrum) for i in range(20)}
    assert numbers([first.prediction]) == [min(means, key=means.__getitem__)]
    assert first.distance == pytest.approx(min(means.values()))
    assert nearest_spectra(filled, target.spectrum, GRID, model_id="other") == []
    assert nearest_spectra(filled, [1.0, 1.0], EnergyGrid(start=0.0, width=1.0, size=2)) == []


def test_wasserstein_distance_is_in_the_units_of_the_grid(store: ScreeningStore) -> None:
    """All weight moved by 10 bins of 62.5 meV is 0.625 eV of work."""
    peak = np.zeros(128)
    peak[50] = 3.0
    store.upsert_predictions([prediction(spectrum=peak)])
    (found,) = nearest_spectra(store, np.roll(peak, 10), GRID)
    assert found.distance == pytest.approx(10 * 0.0625)


@pytest.mark.parametrize("spectrum", [[1.0] * 127, [float("nan")] * 128])
def test_wrong_spectra_have_no_neighbours(embedded: ScreeningStore, spectrum: Any) -> None:
    with pytest.raises(StoreError, match="not 128 finite numbers"):
        nearest_spectra(embedded, spectrum, GRID)
    with pytest.raises(StoreError, match="no metric 'cosine'"):
        nearest_spectra(embedded, [1.0] * 128, GRID, metric="cosine")  # type: ignore[arg-type]


def test_the_funnel(filled: ScreeningStore) -> None:
    counts = funnel(filled, "run-1")
    assert counts.filters == run().funnel
    assert counts.candidates == {"screened": 20}
    assert (counts.positives, counts.validated) == (7, 12)
    with pytest.raises(StoreError, match="no run"):
        funnel(filled, "run-9")


# tables


def test_documents_become_rows(filled: ScreeningStore) -> None:
    table = to_dataframe(find_candidates(filled, sort_by="score"))
    assert len(table) == 21
    assert "structure" not in table
    assert "gap" not in table
    assert table["gap_width"].isna().sum() == 1
    assert table["gap_width"].max() == 1.9
    assert table["gap_margins_min_width"].isna().sum() == 1
    assert "gap_margins" not in table
    spectra = to_dataframe(filled.predictions([prediction(1).key]), heavy=True)
    assert len(spectra["spectrum"][0]) == 128
    pairs = to_dataframe(disagreements(filled, "run-1"), columns=["candidate_material_id"])
    assert pairs["candidate_material_id"].tolist() == [f"mp-{i}" for i in (9, 8, 6, 4, 3)]
    rates = to_dataframe(agreements(filled))
    assert rates["precision"].tolist() == [0.25]
    assert list(to_dataframe([], columns=["score"]).columns) == ["score"]
    with pytest.raises(StoreError, match="no column 'scores'"):
        to_dataframe([candidate()], columns=["scores"])
    with pytest.raises(StoreError, match="int is not a document"):
        to_dataframe([1])


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_tables_become_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table.{ending}"
    rows = [candidate(1, gap=gap(), origin={}), candidate(2, origin={"source": "a"}), run()]
    table = to_dataframe(rows[:2])
    path.write_bytes(encode_table(table, path))
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[ending]
    again = read(path)
    assert again["material_id"].tolist() == ["mp-1", "mp-2"]
    assert again["gap_upper_edge"].tolist()[0] == pytest.approx(-1 / 3)
    assert list(again.columns) == list(table.columns)
    path.write_bytes(encode_table(to_dataframe(rows[2:]), path))
    assert read(path)["run_id"].tolist() == ["run-1"]


def test_a_table_of_an_unknown_ending() -> None:
    with pytest.raises(StoreError, match=r"table\.xls: unknown ending '\.xls'; use \.csv"):
        encode_table(to_dataframe([candidate()]), "table.xls")


@pytest.mark.parametrize("heavy", [False, True])
def test_a_table_of_nothing_has_the_columns_of_its_kind(
    filled: ScreeningStore, heavy: bool
) -> None:
    rows = [run(), candidate(gap=gap()), candidate(), prediction(), validation(), round_document()]
    rows += [disagreements(filled, "run-1")[0], agreements(filled)[0]]
    for row in rows:
        kind = type(row)
        columns = list(to_dataframe([row], heavy=heavy, kind=kind))
        assert list(to_dataframe([], heavy=heavy, kind=kind)) == columns, kind


def test_a_table_of_nothing_is_asked_as_any_other(filled: ScreeningStore) -> None:
    none = to_dataframe(find_candidates(filled, "run-9"), kind=CandidateDoc)
    assert {"material_id", "gap_width"} <= set(none[none.is_positive].columns)
    assert len(none[none.is_positive & (none.gap_width > 1)]) == 0
    assert len(to_dataframe([], kind=Run).created_at.dt.year) == 0
    for ending in ("csv", "json", "parquet"):
        encode_table(none, f"none.{ending}")
    assert list(pd.read_csv(io.BytesIO(encode_table(none, "none.csv")))) == list(none)
    with pytest.raises(StoreError, match=r"no column 'scores'; columns: .*run_id"):
        to_dataframe([], columns=["scores"], kind=CandidateDoc)
    with pytest.raises(StoreError, match="int is not a type of documents"):
        to_dataframe([], kind=int)


# the documentation


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_python_examples_run(filled: ScreeningStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("db.open.open_store", lambda uri: filled)
    names: dict[str, Any] = {}
    for example in examples("python"):
        exec(example, names)
    assert sorted(numbers(names["best"])) == [0, 3, 6, 9, 12, 15, 18]
    assert numbers(names["waiting"]) == [18, 15, 0]
    assert len(names["near"]) == 5
    assert len(names["gpaw"]) == 1
    assert names["counts"].positives == 7
    assert numbers(names["sure"]) == [15, 9, 3]
    assert numbers(names["lost"]) == [4]
    assert sorted(numbers(names["narrow"])) == [0, 3, 6, 9]
    assert names["runs"]["run_id"].tolist() == ["run-1", "run-0"]
    assert len(pd.read_parquet(tmp_path / "positives.parquet")) == 7


@pytest.fixture
def database(filled: ScreeningStore, request: pytest.FixtureRequest) -> Any:
    import pymongo

    with pymongo.MongoClient(request.getfixturevalue("mongo_database")) as client:
        yield client.get_default_database()


@pytest.mark.mongo
@pytest.mark.parametrize("uri", ["mongodb"], indirect=True)
def test_the_pymongo_examples_run(filled: ScreeningStore, database: Any) -> None:
    """Each gives what the Python example before it gives."""
    filled.upsert_validations([validation(9, state="magnetic", is_positive=None)])
    assert numbers(positives_to_validate(filled, "run-1", engine="gpaw")) == [18, 15, 0]
    expected = {
        "elements": sorted(numbers(find_candidates(filled, "run-1", exclude_elements=["O"]))),
        "hull": numbers(
            find_candidates(
                filled,
                "run-1",
                energy_above_hull=(None, 0.05),
                sort_by="energy_above_hull",
            )
        ),
    }
    blocks = examples("pymongo")
    assert len(blocks) == 7
    results = []
    for block in blocks:
        names: dict[str, Any] = {"database": database}
        exec(block, names)
        results.append(names)
    assert sorted(int(c["material_id"][3:]) for c in results[0]["found"]) == expected["elements"]
    assert [int(c["material_id"][3:]) for c in results[1]["found"]] == expected["hull"]
    assert [int(c["material_id"][3:]) for c in results[2]["sure"]] == [15, 9, 3]
    assert [int(c["material_id"][3:]) for c in results[3]["known"]] == [3]
    assert [int(c["material_id"][3:]) for c in results[4]["lost"]] == [4]
    assert [int(c["material_id"][3:]) for c in results[5]["waiting"]] == [18, 15, 0]
    assert {r["_id"]["is_positive"]: r["count"] for r in results[6]["table"]} == {True: 3, False: 8}


SHELL = re.compile(r"db\.(\w+)\.(\w+)\((.*?)\)((?:\.\w+\([^)]*\))*)\s*$", re.DOTALL)


def run_shell(database: Any, line: str) -> Any:
    """Result of the part of mongosh's language that the page uses: calls with JSON arguments."""
    match = SHELL.match(line.strip())
    assert match, line
    collection, method, arguments, rest = match.groups()
    values = json.loads(f"[{arguments}]")
    name = {"countDocuments": "count_documents"}.get(method, method)
    result = getattr(database[collection], name)(*values)
    for method, argument in re.findall(r"\.(\w+)\(([^)]*)\)", rest):
        value = json.loads(argument)
        result = getattr(result, method)(list(value.items()) if method == "sort" else value)
    return result if isinstance(result, int) else list(result)


@pytest.mark.mongo
@pytest.mark.parametrize("uri", ["mongodb"], indirect=True)
def test_the_mongosh_examples_run(filled: ScreeningStore, database: Any) -> None:
    results = [run_shell(database, block) for block in examples("mongosh")]
    found = [
        [int(r["material_id"][3:]) for r in result]
        for result in results
        if isinstance(result, list) and result and "material_id" in result[0]
    ]
    assert [sorted(f) for f in found[:3]] == [
        list(range(0, 20, 2)),
        list(range(0, 20, 2)),
        list(range(10, 20)),
    ]
    assert found[3] == [18, 15, 12, 9, 6, 3, 0]
    assert found[4] == list(range(19, 0, -2))
    assert sorted(found[5]) == [0, 6, 9, 12, 15, 18]
    assert found[6] == [4]
    assert found[7] == [1]
    assert [r["run_id"] for r in results[8]] == ["run-1", "run-0"]
    assert results[9] == [{"_id": "screened", "count": 20}]
    assert results[10] == 7


@pytest.mark.parametrize("name", ["elements", "exclude_elements", "in_domain"])
def test_one_text_is_no_list(embedded: ScreeningStore, name: str) -> None:
    with pytest.raises(StoreError, match=f"{name} 'Na': give a list, such as \\['Na'\\]"):
        find_candidates(embedded, "run-1", **{name: "Na"})
