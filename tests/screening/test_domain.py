"""Out of a model's domain: unseen elements and isolated atoms, with the reasons in words."""

import numpy as np
import pytest

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.data.label_rules import isolated_atoms
from models.distances import has_isolated_atoms
from models.elements import covalent_radii
from screening.candidate import Candidate
from screening.domain import Domain

TRAINED = frozenset({"Na", "Cl", "Mg", "O"})


def crystal(a, symbols, frac_coords=None):
    n = len(symbols)
    if frac_coords is None:
        frac_coords = np.repeat(np.arange(n) / n, 3).reshape(n, 3)
    return Crystal(np.eye(3) * a, frac_coords, np.array([ATOMIC_NUMBERS[s] for s in symbols]))


def domain(structure, trained=TRAINED):
    return Domain.of_candidate(Candidate("m", structure), trained)


def test_a_familiar_crystal_is_inside():
    found = domain(crystal(3.3, ["Na", "Cl"]))
    assert found == Domain([], has_isolated_atoms=False)
    assert found.is_outside is False
    assert found.reasons == []


def test_reasons_are_in_words():
    found = domain(crystal(15.0, ["Po", "Na", "Og"][:2]))
    assert found.reasons == ["not trained on Po", "isolated atoms"]
    assert found.is_outside is True
    assert Domain(["Ac", "Po"], has_isolated_atoms=None).reasons == ["not trained on Ac, Po"]


@pytest.mark.parametrize(
    ("unseen", "isolated", "outside"),
    [
        (None, None, None),
        (None, False, None),
        ([], None, None),
        (None, True, True),
        (["Po"], None, True),
    ],
)
def test_what_is_not_known_is_no_all_clear(unseen, isolated, outside):
    assert Domain(unseen, isolated).is_outside is outside


def test_an_element_without_a_radius_is_not_known_to_be_isolated():
    found = domain(crystal(4.0, ["Og", "Na"]))
    assert found.has_isolated_atoms is None
    assert found.is_outside is True
    assert domain(crystal(4.0, ["Og", "Na"]), None).is_outside is None


def brute_force(structure):
    """Nearest distance of each atom over 9^3 images, in sums of covalent radii."""
    radii = covalent_radii()[structure.atomic_numbers]
    shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 1, 1, 3)
    apart = structure.frac_coords[:, None] - structure.frac_coords + shifts
    distance = np.linalg.norm(apart @ structure.lattice, axis=-1)
    distance[distance < 1e-8] = np.inf
    return (distance / (radii[:, None] + radii)).min(axis=(0, 2))


def test_the_short_way_agrees_with_all_images_and_with_the_neighbour_list():
    """Random skewed cells, some with an atom far from all others; 1.5 radii surely touch."""
    rng = np.random.default_rng(5)
    outcomes = []
    for _ in range(200):
        n = int(rng.integers(1, 6))
        lattice = rng.normal(0, 1, (3, 3)) + np.eye(3) * rng.choice([3.0, 6.0, 12.0])
        numbers = rng.choice([6, 8, 11, 26, 55], n)
        structure = Crystal(lattice, rng.random((n, 3)), numbers)
        expected = bool(isolated_atoms(structure).any())
        assert has_isolated_atoms(structure) is expected
        if (brute_force(structure) <= 1.5).all():
            assert not expected
        outcomes.append(expected)
    assert 20 < sum(outcomes) < 180


def test_large_cells_are_settled_by_the_neighbour_list():
    grid = np.stack(np.meshgrid(*[np.arange(6) / 6] * 3), -1).reshape(-1, 3)
    assert has_isolated_atoms(crystal(24.0, ["Na"] * 216, grid)) is False
    assert has_isolated_atoms(crystal(60.0, ["Na"] * 216, grid)) is True
