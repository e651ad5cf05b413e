"""Structures of documents as arrays, and as bytes."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import orjson
import pytest
from pymatgen.core import Structure

from db.embedded_codecs import STRUCTURE
from db.open import open_store
from db.structures import StructureArrays
from db.tables import to_dataframe
from models.crystal import Crystal
from screening.candidate import crystal_of, structure_document
from tests.db.db_examples import STRUCTURE as EXAMPLE
from tests.db.db_examples import candidate

GENERATOR = np.random.default_rng(0)


def crystal(single: bool) -> Crystal:
    coordinates = GENERATOR.random((7, 3))
    if single:
        coordinates = coordinates.astype(np.float32)
    return Crystal(GENERATOR.random((3, 3)) * 9, coordinates, GENERATOR.integers(1, 119, 7))


@pytest.mark.parametrize("single", [False, True])
def test_all_digits_come_back(single: bool) -> None:
    original = crystal(single)
    document = structure_document(original)
    blob = document.to_bytes()
    assert len(blob) == 1 + 72 + 7 * (13 if single else 25)
    read = StructureArrays.from_bytes(blob)
    assert read == document == original.as_dict() == dict(read)
    for again in (
        crystal_of(read),
        crystal_of(dict(read)),
        crystal_of(StructureArrays.from_dict(original.as_dict())),
    ):
        for name in ("lattice", "frac_coords", "atomic_numbers"):
            np.testing.assert_array_equal(getattr(again, name), getattr(original, name))
    assert Structure.from_dict(read) == original.to_structure()


def changed(**changes: object) -> dict[str, object]:
    return EXAMPLE | changes


@pytest.mark.parametrize(
    "document",
    [
        changed(charge=1),
        changed(properties={}),
        changed(lattice={"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}),  # integers
        changed(sites=[]),
        changed(sites=[{"species": [{"element": "Na", "occu": 0.5}], "abc": [0.0, 0.0, 0.0]}]),
        changed(sites=[EXAMPLE["sites"][0] | {"label": "Na1"}]),
        changed(sites=[{"species": [{"element": "D", "occu": 1}], "abc": [0.0, 0.0, 0.0]}]),
        Crystal.from_dict(EXAMPLE).to_structure().as_dict(),
    ],
)
def test_what_says_more_stays_as_it_is(document: dict[str, object], embedded) -> None:
    assert StructureArrays.from_dict(document) is None
    embedded.upsert_candidates([candidate(structure=document)])
    (read,) = embedded.candidates("run-1", with_structure=True)
    assert orjson.dumps(read.structure) == orjson.dumps(document)


@pytest.mark.parametrize("blob", [b"", b"\x01", b"\x01" * 90, b"\x03" * 98, b"\x02" + bytes(85)])
def test_bytes_that_are_no_structure(blob: bytes) -> None:
    with pytest.raises(ValueError, match="not a structure"):
        StructureArrays.from_bytes(blob)
    assert STRUCTURE.decode(blob) == blob


def test_structures_of_an_older_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with open_store(path) as store:
        store.upsert_candidates([candidate()])
    old = zlib.compress(orjson.dumps(EXAMPLE))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE candidates SET structure = ?", (old,))
    with open_store(path) as store:
        assert list(store.candidates("run-1", with_structure=True)) == [candidate()]


def test_a_document_says_the_same_with_arrays_as_with_the_dict(store) -> None:
    arrays = StructureArrays.from_dict(EXAMPLE)
    plain, packed = candidate(), candidate(structure=arrays)
    assert packed == plain
    assert packed.model_dump() == plain.model_dump()
    assert packed.model_dump_json() == plain.model_dump_json()
    assert type(to_dataframe([packed], heavy=True).structure[0]) is dict
    store.upsert_candidates([packed])
    assert list(store.candidates("run-1", with_structure=True)) == [plain]


def test_a_document_of_checked_values_is_the_checked_one() -> None:
    checked = candidate()
    quick = type(checked).of_checked(**checked.__dict__)
    assert quick == checked
    assert list(quick.__dict__) == list(checked.__dict__)
    assert type(checked).of_checked(run_id="r", material_id="m") == type(checked)(
        run_id="r", material_id="m"
    )
    lists = [type(checked).of_checked(run_id="r", material_id="m").elements for _ in "ab"]
    assert lists[0] is not lists[1]
