"""Nothing that a user types becomes an operator or SQL, and queries mean what they say."""

from __future__ import annotations

import contextlib
import math
import operator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from db.collections import CANDIDATES, OPERATORS, RUNS, Condition, Query
from db.documents import CandidateDoc, GapDoc, PredictionDoc, Run, check_free_dict, utc_now
from db.errors import StoreError
from db.store import ScreeningStore
from tests.db.db_examples import candidate, gap, prediction, run, verdict

INJECTIONS = [
    "$where",
    "$function",
    "$ne",
    '{"$gt": ""}',
    "'; DROP TABLE candidates; --",
    '" OR 1=1 --',
    "mp-1' OR 'a'='a",
    "a.b",
    "%",
    "_",
    "[]",
    "null",
    "__proto__",
    "ключ",
    "🙂",
]
identifiers = st.sampled_from(INJECTIONS) | st.text(min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(identifiers, inner, max_size=3),
    max_leaves=8,
)
relaxed = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def is_json(value: Any) -> bool:
    """The rule of `check_free_dict`, written the slow and obvious way."""
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return "\0" not in value and not any(0xD800 <= ord(c) < 0xE000 for c in value)
    if isinstance(value, list):
        return all(map(is_json, value))
    return all(
        key and is_json(key) and "$" not in key and "." not in key and is_json(item)
        for key, item in value.items()
    )


@pytest.mark.slow
@given(st.dictionaries(identifiers, json_values, max_size=4))
def test_free_dicts_hold_json_without_operators(document: dict[str, Any]) -> None:
    try:
        accepted = check_free_dict(document) == document
    except ValueError:
        accepted = False
    assert accepted == is_json(document)


@relaxed
@given(parameters=st.dictionaries(identifiers, json_values, max_size=4))
def test_what_a_document_accepts_comes_back(
    store: ScreeningStore, parameters: dict[str, Any]
) -> None:
    if not is_json(parameters):
        with pytest.raises(ValidationError):
            run(parameters=parameters)
        return
    document = run(parameters=parameters)
    store.put_run(document)
    assert store.run("run-1") == document


@relaxed
@given(run_id=identifiers, material_id=identifiers)
def test_identifiers_are_only_ever_identifiers(
    store: ScreeningStore, run_id: str, material_id: str
) -> None:
    store.upsert_candidates([candidate(1)])
    try:
        document = CandidateDoc(run_id=run_id, material_id=material_id, formula=material_id)
    except ValidationError:
        with contextlib.suppress(StoreError):
            assert list(store.candidates(run_id, material_ids=[material_id])) == []
        return
    store.upsert_candidates([document])
    assert list(store.candidates(run_id, material_ids=[material_id])) == [document]
    named = Query(CANDIDATES, (Condition("formula", "==", material_id),))
    assert [c for c in store.find(named) if c.run_id == run_id] == [document]
    assert store.has(CANDIDATES, [(run_id, material_id)]) == {(run_id, material_id)}
    found = store.apply_verdicts([verdict(1, run_id=run_id)])
    assert found == (run_id == "run-1" or material_id == "mp-1")
    assert len(list(store.candidates("run-1", material_ids=["mp-1"]))) == 1
    assert store.history(material_id).candidates


@relaxed
@given(
    field=identifiers.filter(lambda text: text.partition(".")[0] not in CandidateDoc.model_fields)
    | st.sampled_from(["gap", "gap.$where", "origin.source", "structure.sites"]),
    relation=identifiers.filter(lambda text: text not in OPERATORS),
    value=json_values,
)
def test_wrong_questions_are_refused(
    store: ScreeningStore, field: str, relation: str, value: Any
) -> None:
    for asked in (Condition(field, "==", "x"), Condition("formula", relation, "x")):  # type: ignore[arg-type]
        with pytest.raises(StoreError):
            Query(CANDIDATES, (asked,))
    with pytest.raises(StoreError):
        Query(CANDIDATES, sort_by=field)
    if isinstance(value, (dict, list)):
        with pytest.raises(StoreError):
            Query(CANDIDATES, (Condition("formula", "==", value),))


NUMBERS = st.none() | st.sampled_from([-1.5, 0.0, 0.25, 1.0, 3.0])
CHEMICAL_SYSTEMS = (["Na", "Cl"], ["Na"], ["Fe", "O"], [])
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@st.composite
def candidates(draw: st.DrawFn) -> list[CandidateDoc]:
    return [
        candidate(
            number,
            energy_above_hull=draw(NUMBERS),
            is_positive=draw(st.none() | st.booleans()),
            elements=draw(st.sampled_from(CHEMICAL_SYSTEMS)),
            formula=draw(st.sampled_from(["NaCl", "Na", "FeO", "'"])),
            gap=draw(st.none() | st.builds(gap, width=NUMBERS)),
            structure=None,
        )
        for number in range(draw(st.integers(0, 8)))
    ]


number_conditions = st.builds(
    Condition,
    st.sampled_from(["energy_above_hull", "gap.width"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    NUMBERS.filter(lambda number: number is not None),
) | st.builds(
    Condition,
    st.sampled_from(["energy_above_hull", "gap.width"]),
    st.sampled_from(["==", "!="]),
    NUMBERS,
)
other_conditions = (
    st.builds(
        Condition,
        st.just("elements"),
        st.sampled_from(["has", "lacks"]),
        st.sampled_from(["Na", "O", "'"]),
    )
    | st.builds(
        Condition,
        st.just("formula"),
        st.just("in"),
        st.lists(st.sampled_from(["NaCl", "FeO", "'", "x"]), max_size=3).map(tuple),
    )
    | st.builds(
        Condition,
        st.just("is_positive"),
        st.sampled_from(["==", "!="]),
        st.none() | st.booleans(),
    )
)


def holds(condition: Condition, document: CandidateDoc) -> bool:
    value: Any = document
    for part in condition.field.split("."):
        value = None if value is None else getattr(value, part)
    if condition.operator in ("has", "lacks"):
        return (condition.value in value) == (condition.operator == "has")
    if condition.operator == "in":
        return value in condition.value  # type: ignore[operator]
    if condition.operator in ("==", "!="):
        return (value == condition.value) == (condition.operator == "==")
    return value is not None and COMPARE[condition.operator](value, condition.value)


@pytest.mark.slow
@relaxed
@given(
    documents=candidates(),
    asked=st.lists(number_conditions | other_conditions, max_size=3).map(tuple),
    descending=st.booleans(),
    limit=st.none() | st.integers(0, 5),
    skip=st.integers(0, 5),
)
def test_queries_mean_what_they_say(
    store: ScreeningStore,
    documents: list[CandidateDoc],
    asked: tuple[Condition, ...],
    descending: bool,
    limit: int | None,
    skip: int,
) -> None:
    run_id = f"run-{id(documents)}-{utc_now().timestamp()}".replace(".", "-")
    mine = [d.model_copy(update={"run_id": run_id}) for d in documents]
    store.upsert_candidates(mine)
    asked = (Condition("run_id", "==", run_id), *asked)
    query = Query(CANDIDATES, asked, "energy_above_hull", descending, limit, skip=skip)
    expected = [d for d in mine if all(holds(condition, d) for condition in asked)]
    rank = {
        d.material_id: (d.energy_above_hull is not None, d.energy_above_hull or 0.0)
        for d in expected
    }
    found = list(store.find(query))
    ranks = sorted(rank.values(), reverse=descending)[skip:][:limit]
    assert [rank[d.material_id] for d in found] == ranks
    assert all(d in expected for d in found)
    assert store.count(query) == len(expected)


# documents


@pytest.mark.parametrize(
    "values",
    [
        {"run_id": ""},
        {"run_id": None},
        {"run_id": "a\nb"},
        {"run_id": "a\0"},
        {"run_id": "x" * 257},
        {"run_id": 5},
        {"band_gap": float("nan")},
        {"band_gap": float("inf")},
        {"band_gap": "0.1"},
        {"band_gap": True},
        {"nsites": -1},
        {"nsites": 1.5},
        {"nsites": 2**63},
        {"is_magnetic": 1},
        {"is_magnetic": "yes"},
        {"state": "lost"},
        {"state": "rejected"},
        {"state": "failed", "reason": ""},
        {"origin": {"$where": "1"}},
        {"origin": {"a.b": 1}},
        {"origin": {"": 1}},
        {"origin": {1: 1}},
        {"origin": {"a": {"b": [{"$c": 1}]}}},
        {"origin": {"a": float("inf")}},
        {"origin": {"a": 2**63}},
        {"origin": {"a": object()}},
        {"structure": {"sites": [float("nan")]}},
        {"gap": {"is_gap": True, "width": float("nan")}},
        {"gap": {"is_gap": True, "criteria": {"$x": 1}}},
        {"elements": [""]},
        {"formula": "a\0"},
        {"schema_version": 2},
        {"unknown": 1},
    ],
)
def test_wrong_documents_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CandidateDoc(**({"run_id": "run-1", "material_id": "mp-1"} | values))


def test_deep_documents_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="levels deep"):
        run(parameters=deep)


@pytest.mark.parametrize("spectrum", [[1.0] * 127, [float("nan")] * 128, ["1"] * 128, "x", None])
def test_wrong_spectra_are_refused(spectrum: Any) -> None:
    with pytest.raises(ValidationError):
        prediction(spectrum=spectrum)


def test_documents_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        run().state = "done"  # type: ignore[misc]


def test_times_are_utc_milliseconds() -> None:
    document = run(created_at=datetime.fromisoformat("2026-03-01T12:00:00.123456+02:00"))
    assert document.created_at == datetime(2026, 3, 1, 10, 0, 0, 123000, tzinfo=UTC)
    assert utc_now().microsecond % 1000 == 0
    with pytest.raises(ValidationError, match="timezone"):
        run(created_at=datetime(2026, 3, 1))  # noqa: DTZ001


def test_spectra_are_single_precision() -> None:
    assert prediction(spectrum=[0.1] * 128).spectrum[0] == pytest.approx(0.1, abs=1e-8)
    assert prediction(spectrum=[0.1] * 128).spectrum[0] != 0.1


def test_numpy_and_tuples_become_plain() -> None:
    import numpy as np

    document = run(parameters={"a": (1, np.float32(0.5)), "b": np.bool_(True), "c": np.int64(3)})
    assert document.parameters == {"a": [1, 0.5], "b": True, "c": 3}
    assert type(document.parameters["c"]) is int


def test_documents_survive_json() -> None:
    for document in (run(), candidate(gap=gap()), prediction()):
        assert type(document).model_validate_json(document.model_dump_json()) == document


def test_gap_is_all_that_a_gap_needs() -> None:
    assert GapDoc(is_gap=False).lower_edge is None
    assert PredictionDoc.model_fields["gap"].default is None  # of a phonon DOS
    assert Run(run_id="r").state == "running"
    assert RUNS.key(Run(run_id="r")) == ("r",)
