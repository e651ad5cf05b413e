"""The SQL of the embedded store: what it finds, and by which index."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from db.collections import CANDIDATES, PREDICTIONS, Condition, Query
from db.embedded import EmbeddedStore
from db.open import open_store
from tests.db.db_examples import candidate, of_version_1, prediction, verdict


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("==", "mat2spec-1", ["mp-1"]),
        ("==", "unknown", []),
        ("==", None, ["mp-2"]),
        ("!=", "mat2spec-1", ["mp-2", "mp-3"]),
        ("!=", "unknown", ["mp-1", "mp-2", "mp-3"]),
        ("!=", None, ["mp-1", "mp-3"]),
        ("in", ["mat2spec-1", "unknown"], ["mp-1"]),
        (">", "mat2spec-1", ["mp-3"]),
    ],
)
def test_conditions_on_a_text_that_is_kept_once(store, operator, value, expected) -> None:
    store.upsert_candidates([candidate(i) for i in (1, 2, 3)])
    store.apply_verdicts([verdict(1), verdict(3, model_id="other")])
    asked = Query(CANDIDATES, (Condition("model_id", operator, value),), sort_by="material_id")
    assert [c.material_id for c in store.find(asked)] == expected


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.upsert_predictions([prediction(1), prediction(2)])
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE predictions SET formula = CAST(x'ff' AS TEXT) WHERE id = 1")
        assert [p.material_id for p in store.find(Query(PREDICTIONS))] == ["mp-2"]
        assert [p.material_id for p in store.predictions([prediction(2).key])] == ["mp-2"]
        assert "formula" in store.problems[0].reason
        assert store.count_by(Query(PREDICTIONS), "formula") == {"NaCl": 1, "\udcff": 1}


@pytest.mark.parametrize(
    "asked",
    [
        Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("state", "==", "pending"))),
        Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("is_positive", "==", True))),
        Query(CANDIDATES, (Condition("run_id", "==", "r"), Condition("chemsys", "==", "Cl-Na"))),
        Query(CANDIDATES, (Condition("material_id", "==", "mp-1"),)),
        Query(CANDIDATES, (Condition("run_id", "==", "r"),), sort_by="material_id"),
        Query(PREDICTIONS, (Condition("material_id", "==", "mp-1"),)),
    ],
)
def test_queries_use_an_index(embedded: EmbeddedStore, asked: Query) -> None:
    assert "USING" in plan_of(embedded, asked)
    assert "INDEX" in plan_of(embedded, asked)


def plan_of(embedded: EmbeddedStore, asked: Query) -> str:
    """What SQLite does first to answer a query."""
    traced: list[str] = []
    connection = embedded._connected()
    connection.set_trace_callback(traced.append)
    list(embedded.find(asked))
    connection.set_trace_callback(None)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {traced[0]}").fetchall()
    return plan[0][3]


@pytest.mark.parametrize("field", ["energy_above_hull", "gap.width", "formula"])
def test_a_run_is_sorted_in_the_order_of_the_file(tmp_path: Path, field: str) -> None:
    path = of_version_1(tmp_path / "store.sqlite")
    asked = Query(CANDIDATES, (Condition("run_id", "==", "run-1"),), sort_by=field, limit=10)
    for file in (path, tmp_path / "new.sqlite"):
        with EmbeddedStore(file) as store:
            assert "candidates_work" in plan_of(store, asked)
