from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.crystal import Crystal, structure_hashes
from models.errors import ModelError
from tests.models.model_examples import permuted, random_crystal, random_crystals, rocksalt

EYE = 4 * np.eye(3)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_hash_does_not_depend_on_the_order_of_atoms(seed: int, n_atoms: int) -> None:
    rng = np.random.default_rng(seed)
    crystal = random_crystal(rng, n_atoms)
    shuffled = permuted(crystal, rng.permutation(n_atoms))
    assert shuffled.structure_hash == crystal.structure_hash


def test_the_hash_ignores_lattice_translations_and_rounding() -> None:
    crystal = rocksalt()
    moved = Crystal(
        crystal.lattice, crystal.frac_coords + np.array([3, -2, 1]), crystal.atomic_numbers
    )
    noisy = Crystal(crystal.lattice + 1e-7, crystal.frac_coords - 1e-7, crystal.atomic_numbers)
    assert moved.structure_hash == noisy.structure_hash == crystal.structure_hash


@pytest.mark.parametrize("change", ["species", "lattice", "position"])
def test_the_hash_sees_every_change(change: str) -> None:
    crystal = rocksalt()
    changed = {
        "species": rocksalt(cation=19),
        "lattice": rocksalt(a=5.65),
        "position": Crystal(
            crystal.lattice, crystal.frac_coords + np.array([[0, 0, 0], [1e-3, 0, 0]]), [11, 17]
        ),
    }[change]
    assert changed.structure_hash != crystal.structure_hash


def test_the_hash_is_the_same_in_every_process() -> None:
    assert rocksalt().structure_hash == "a31c63d422627f841bba416eedc09c8f"


def test_many_hashes_are_those_of_each() -> None:
    crystals = [rocksalt(), *random_crystals(20), rocksalt()]
    crystals += [permuted(crystal, np.arange(len(crystal))[::-1]) for crystal in crystals]
    assert structure_hashes(crystals) == [crystal.structure_hash for crystal in crystals]
    assert structure_hashes([]) == []
    assert rocksalt().structure_hash == "a31c63d422627f841bba416eedc09c8f"


def test_round_trip_with_pymatgen() -> None:
    crystal = random_crystal(np.random.default_rng(1), 5)
    back = Crystal.from_structure(crystal.to_structure())
    np.testing.assert_allclose(back.lattice, crystal.lattice)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords)
    assert back.atomic_numbers.tolist() == crystal.atomic_numbers.tolist()
    assert back.structure_hash == crystal.structure_hash


def test_documents_are_pymatgens() -> None:
    crystal = random_crystal(np.random.default_rng(2), 5)
    document = json.loads(json.dumps(crystal.as_dict()))
    structure = Structure.from_dict(document)
    assert Crystal.from_structure(structure).structure_hash == crystal.structure_hash
    assert Crystal.from_dict(structure.as_dict()).structure_hash == crystal.structure_hash
    assert Crystal.from_dict(document).structure_hash == crystal.structure_hash


def test_oxidation_states_are_dropped() -> None:
    structure = rocksalt().to_structure()
    structure.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert Crystal.from_structure(structure).formula == "NaCl"
    assert Crystal.from_dict(structure.as_dict()).formula == "NaCl"


def test_names() -> None:
    crystal = Crystal(EYE, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]], [14, 12, 12])
    assert (crystal.formula, crystal.chemsys, crystal.elements) == ("Mg2Si", "Mg-Si", ("Mg", "Si"))
    assert crystal.composition == {"Mg": 2, "Si": 1}
    assert (len(crystal), crystal.volume) == (3, pytest.approx(64.0))


@pytest.mark.parametrize(
    ("lattice", "coordinates", "numbers", "message"),
    [
        (np.eye(2), [[0, 0, 0]], [3], "lattice has 4 numbers"),
        (EYE, np.zeros((0, 3)), [], "no atoms"),
        (EYE, [[0, 0]], [3], "2 coordinates for 1 atoms"),
        (EYE, [[0, 0, np.nan]], [3], "not finite"),
        (np.full((3, 3), np.inf), [[0, 0, 0]], [3], "not finite"),
        (np.ones((3, 3)), [[0, 0, 0]], [3], "no volume"),
        (EYE, [[0, 0, 0]], [0], "from 1 to 118"),
        (EYE, [[0, 0, 0]], [119], "from 1 to 118"),
        (EYE, [[0, 0, 0]], [3.5], "must be integers"),
        (EYE, [[0, 0, 0]], 3, "no atoms"),
    ],
)
def test_bad_input_is_refused(lattice, coordinates, numbers, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Crystal(lattice, np.array(coordinates, float), np.array(numbers))


def test_what_is_not_an_ordered_crystal_is_refused() -> None:
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    dummy = Structure(Lattice.cubic(3), ["X"], [[0, 0, 0]])
    with pytest.raises(ModelError, match="partial occupancies"):
        Crystal.from_structure(mixed)
    with pytest.raises(ModelError, match="partial occupancies"):
        Crystal.from_dict(mixed.as_dict())
    with pytest.raises(ModelError, match="atomic numbers"):
        Crystal.from_structure(dummy)


@pytest.mark.parametrize(
    "document", [{}, {"sites": 3}, {"sites": [], "lattice": {}}, {"sites": [{}]}, {"sites": None}]
)
def test_what_is_not_a_document_is_refused(document: dict) -> None:
    with pytest.raises(ModelError):
        Crystal.from_dict(document)


def test_a_dummy_element_in_a_document_is_refused() -> None:
    document = Structure(Lattice.cubic(3), ["X"], [[0, 0, 0]]).as_dict()
    with pytest.raises(ModelError):
        Crystal.from_dict(document)


def test_deuterium_is_hydrogen() -> None:
    structure = Structure(Lattice.cubic(3), ["D"], [[0, 0, 0]])
    assert Crystal.from_structure(structure).formula == "H2"
    assert Crystal.from_dict(structure.as_dict()).formula == "H2"
