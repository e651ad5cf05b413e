"""Contributions: the format of MPContribs, checked by the rules of its client and its server."""

from __future__ import annotations

import gzip
import json
from string import punctuation

import numpy as np
import pytest
from monty.serialization import loadfn
from pandas import DataFrame
from pymatgen.core import Structure
from scipy.stats import wasserstein_distance

from db.documents import GapDoc
from db.open import open_store
from models.spectra.spectrum import EDOS_GRID
from screening.criteria.registry import CRITERION, find_criterion
from screening.errors import ScreeningError
from tests.workflows.screened_run import (
    MODEL,
    candidate,
    crystal,
    put_prediction,
    put_run,
    validation,
)
from tests.workflows.screened_run import with_gap as spectrum_of
from workflows.mpcontribs import COLUMNS, write_contributions

# Of the client's settings and the server's checks, November 2026.
MAX_NESTING, MAX_COLUMNS, MAX_ELEMENTS, MAX_PAYLOAD = 5, 160, 10, 15 * 2**20
KNOWN_UNITS = {"eV", "eV/atom", "1/eV"}  # to pint, and the atom to the client
FORBIDDEN = set(punctuation.replace("*", "")) | {" "}
GAP = {"lower_edge": -2.0, "upper_edge": -0.5, "width": 1.5, "max_dos": 0.25, "kind": "gap"}


@pytest.fixture
def run(tmp_path):
    """Three of the Materials Project, of which one has DFT, and one of another source."""
    structures = {name: crystal(i) for i, name in enumerate(("mp-1", "mp-2", "mp-3", "mine"))}
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, structures, ["mp-1", "mine"])
        for i, (name, structure) in enumerate(structures.items()):
            is_positive = name in run.selection
            changes = {"gap": GapDoc(is_gap=True, **GAP)} if is_positive else {}
            document = candidate(
                run.run_id, name, structure, is_positive=is_positive, score=0.1 * i,
                energy_above_hull=1 / 3, probability=0.75, in_domain="near",
                origin={"source": "mp", "database_version": "2025.09.25"}, **changes,
            )  # fmt: skip
            store.upsert_candidates([document])
            put_prediction(store, document, spectrum_of(is_positive) + i)
            if name == "mp-2":
                own = {"prediction_model_id": MODEL, "wd": 0.125}
                store.upsert_validations([validation(document, True, band_gap=0.0, **own)])
        yield store, run


def leaves(data, path=()):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_the_client_and_the_server_would_take_them(run, tmp_path):
    store, of_run = run
    path = tmp_path / "c.json.gz"
    contributed = write_contributions(store, of_run, "sandbox", path)
    assert (contributed.written, contributed.without_id) == (2, 1)
    given = loadfn(path)
    assert [item["identifier"] for item in given] == ["mp-1", "mp-2"]
    for item in given:
        assert item["project"] == "sandbox"
        assert item["data"]
        assert len(json.dumps(item, default=str)) < MAX_PAYLOAD
        for kind, elements in (("structures", Structure), ("tables", DataFrame)):
            assert 0 < len(item[kind]) <= MAX_ELEMENTS
            assert all(isinstance(element, elements) for element in item[kind])
        columns = dict(leaves(item["data"]))
        assert len(columns) <= MAX_COLUMNS
        for keys, value in columns.items():
            assert len(keys) <= MAX_NESTING
            assert not FORBIDDEN & set("".join(keys))
            unit = COLUMNS[".".join(keys)]
            assert isinstance(value, (str, int, float))
            if unit:  # the server makes a quantity of a number and a unit of pint
                number, word = value.split()
                assert np.isfinite(float(number))
                assert word == unit
                assert unit in KNOWN_UNITS
    assert len(COLUMNS) <= MAX_COLUMNS


def test_values_are_those_of_the_run(run, tmp_path):
    store, of_run = run
    write_contributions(store, of_run, "sandbox", tmp_path / "c.json.gz")
    first, second = loadfn(tmp_path / "c.json.gz")
    assert first["data"] == {
        "prediction": {
            "positive": "Yes",
            "score": "0 eV",
            "probability": 0.75,
            "inDomain": "near",
            "model": "model-1",
            "gap": {
                "lowerEdge": "-2 eV",
                "upperEdge": "-0.5 eV",
                "width": "1.5 eV",
                "maxDOS": "0.25 1/eV",
                "kind": "gap",
            },
        },
        "structure": {"sites": 1, "energyAboveHull": "0.333333 eV/atom"},
        "run": {"criterion": "vb-gap", "id": "run-1", "databaseVersion": "2025.09.25"},
    }
    assert second["data"]["DFT"] == {
        "positive": "Yes",
        "gap": {
            "lowerEdge": "-2 eV",
            "upperEdge": "-0.5 eV",
            "width": "1.5 eV",
            "maxDOS": "0 1/eV",
        },
        "bandGap": "0 eV",
        "code": "gpaw",
        "recipe": "recipe-1",
        "wassersteinDistance": "0.125 eV",
    }
    assert second["data"]["prediction"]["positive"] == "No"
    assert first["structures"][0] == crystal(0)
    (table,) = second["tables"]
    assert list(table) == [
        "energy [eV]", "predicted DOS [states/eV/cell]", "DFT DOS [states/eV/cell]",
    ]  # fmt: skip
    np.testing.assert_allclose(table["energy [eV]"], EDOS_GRID.centers)
    np.testing.assert_allclose(table["predicted DOS [states/eV/cell]"], spectrum_of(False) + 1)
    np.testing.assert_allclose(table["DFT DOS [states/eV/cell]"], spectrum_of(True))
    assert "DFT" not in first["data"]


def test_the_distance_is_that_of_the_prediction_beside_it(run, tmp_path):
    store, of_run = run
    (stored,) = store.validations(material_ids=["mp-2"])
    of_another = stored.model_copy(update={"prediction_model_id": "another", "wd": 9.0})
    store.upsert_validations([of_another])
    write_contributions(store, of_run, "sandbox", tmp_path / "c.json.gz")
    found = loadfn(tmp_path / "c.json.gz")[1]["data"]["DFT"]["wassersteinDistance"]
    centers = EDOS_GRID.centers
    expected = wasserstein_distance(centers, centers, spectrum_of(False) + 1, spectrum_of(True))
    assert float(found.split()[0]) == pytest.approx(expected, rel=1e-5)


def test_the_largest_dos_is_of_the_cell_where_the_limit_is_for_an_atom(run, tmp_path):
    store, of_run = run
    of_run.parameters["criteria"] |= {"per_atom": True, "max_dos": 0.3}
    spectrum = np.maximum(spectrum_of(True), 0.5)
    for document in store.candidates(of_run.run_id, material_ids=["mp-1"], with_structure=True):
        changes = {"nsites": 2, "gap": GapDoc(is_gap=True, **GAP, per_atom=True)}
        store.upsert_candidates([document.model_copy(update=changes)])
        store.upsert_validations([validation(document, True, spectrum=spectrum, nsites=2)])
    write_contributions(store, of_run, "sandbox", tmp_path / "c.json.gz")
    data = loadfn(tmp_path / "c.json.gz")[0]["data"]
    assert data["prediction"]["gap"]["maxDOS"] == "0.5 1/eV"
    assert data["DFT"]["gap"]["maxDOS"] == "0.5 1/eV"


def test_a_score_that_is_no_energy_has_no_unit(run, tmp_path):
    store, of_run = run
    of_run.parameters[CRITERION] = find_criterion("steep-edge").definition()
    write_contributions(store, of_run, "sandbox", tmp_path / "c.json.gz")
    prediction = loadfn(tmp_path / "c.json.gz")[1]["data"]["prediction"]
    assert prediction["scoreNumber"] == 0.1
    assert "score" not in prediction


@pytest.mark.parametrize(
    ("name", "written"),
    [("mp-149", 1), ("mp-hllpq", 1), ("mp-149#2", 0), ("mp-149-strained", 0), ("mp-", 0)],
)
def test_only_ids_that_the_materials_project_gives_are_identifiers(tmp_path, name, written):
    with open_store(tmp_path / "s.sqlite") as store:
        structures = {"mp-1": crystal(0), name: crystal(1)}
        of_run = put_run(store, structures, list(structures))
        for material_id, structure in structures.items():
            document = candidate(of_run.run_id, material_id, structure)
            put_prediction(store, document, spectrum_of(True))
        contributed = write_contributions(store, of_run, "x", tmp_path / "c.json.gz")
    assert (contributed.written, contributed.without_id) == (1 + written, 1 - written)


def test_all_that_was_screened_on_request_and_the_same_bytes_again(run, tmp_path):
    store, of_run = run
    for name in ("a", "b"):
        path = tmp_path / f"{name}.json.gz"
        contributed = write_contributions(store, of_run, "x", path, positives_only=False)
        assert contributed.written == 3
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    whole = gzip.decompress((tmp_path / "a.json.gz").read_bytes())
    assert len(json.loads(whole)) == 3


def test_nothing_to_contribute_is_one_line_and_no_file(run, tmp_path):
    store, of_run = run
    with pytest.raises(ScreeningError, match=r"\.json\.gz"):
        write_contributions(store, of_run, "x", tmp_path / "c.json")
    with open_store(tmp_path / "other.sqlite") as other:
        lonely = put_run(other, {"mine": crystal(1)}, ["mine"])
        negative = put_run(other, {"a": crystal(2), "b": crystal(3)}, ["a"], run_id="run-2")
        other.upsert_validations([validation(candidate("run-2", "b", crystal(3)), False)])
        for run_without, n in ((lonely, 1), (negative, 2)):
            with pytest.raises(ScreeningError, match=f"of {n} candidates {n} have no id"):
                write_contributions(other, run_without, "x", tmp_path / "c.json.gz")
    assert list(tmp_path.glob("*.gz*")) == []
