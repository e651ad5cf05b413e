"""Out of a model's domain: unseen elements, isolated atoms and magnets, with reasons in words."""

from dataclasses import replace

import numpy as np
import pytest

from db.documents import CandidateDoc
from models.crystal import ATOMIC_NUMBERS, ELEMENTS, Crystal
from models.data.label_rules import ACTINIDES, MAGNETIC, isolated_atoms
from models.distances import has_isolated_atoms
from models.elements import (
    N_ELEMENTS,
    STAND_INS,
    KnownElements,
    covalent_radii,
)
from models.training.card import ModelCard, trained_elements
from models.training.materials import TrainingMaterial, TrainingMaterials
from models.zoo import ZOO
from screening.candidate import Candidate
from screening.domain import Domain, Training, doubts, unpaired_electrons

TRAINED = Training(KnownElements(frozenset({"Na", "Cl", "Mg", "O"})))


def crystal(a, symbols, frac_coords=None):
    n = len(symbols)
    if frac_coords is None:
        frac_coords = np.repeat(np.arange(n) / n, 3).reshape(n, 3)
    return Crystal(np.eye(3) * a, frac_coords, np.array([ATOMIC_NUMBERS[s] for s in symbols]))


def domain(structure, trained=TRAINED):
    return Domain.of_candidate(Candidate("m", structure), trained)


def test_a_familiar_crystal_is_inside():
    found = domain(crystal(3.3, ["Na", "Cl"]))
    assert found == Domain([], has_isolated_atoms=False, elements=("Cl", "Na"))
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
    assert domain(crystal(4.0, ["Og", "Na"]), Training()).is_outside is None


def test_what_the_source_calls_magnetic_is_outside_and_what_it_does_not_say_is_no_doubt():
    salt = crystal(3.3, ["Na", "Cl"])
    for is_magnetic, reasons in ((True, ["magnetic"]), (False, []), (None, [])):
        found = Domain.of_candidate(Candidate("m", salt, is_magnetic=is_magnetic), TRAINED)
        assert found.reasons == reasons
        assert found.is_outside is bool(reasons)
        stored = CandidateDoc(
            run_id="r",
            material_id="m",
            is_magnetic=is_magnetic,
            unseen_elements=[],
            has_isolated_atoms=False,
        )
        assert Domain.of_document(stored).reasons == reasons


def test_an_element_is_known_by_its_stand_in_only_to_a_model_that_uses_it():
    nitride = crystal(3.3, ["Pr", "N"])
    for trained, stand_ins, unseen in (
        ({"La", "N"}, STAND_INS, []),
        ({"Nd", "N"}, STAND_INS, []),  # whose levels are La's as well
        ({"Y", "N"}, STAND_INS, ["Pr"]),
        ({"La", "N"}, {}, ["Pr"]),
        ({"Pr", "N"}, {}, []),
    ):
        found = domain(nitride, Training(KnownElements(frozenset(trained), stand_ins)))
        assert found.unseen_elements == unseen
        remark = "La stands for Pr, without its 4f shell"
        assert found.remarks == ([] if unseen else [remark])
        document = CandidateDoc(
            run_id="r",
            material_id="m",
            elements=["N", "Pr"],
            unseen_elements=unseen,
            has_isolated_atoms=False,
        )
        assert (remark in doubts(document)) == (not unseen)
    assert Domain(None, elements=["Pr"]).remarks == []


@pytest.mark.parametrize(
    ("formula", "known", "ion"),
    [
        ("K2NaTiF6", {}, "Ti3+"),
        ("TiBr2", {}, "Ti2+"),
        ("Rb2NaVF6", {}, "V3+"),
        ("CuO", {}, "Cu2+"),
        ("K2TiF6", {}, ""),  # Ti4+
        ("Cu2O", {}, ""),
        ("TiC", {}, ""),  # no ions
        ("LiTi2O4", {"band_gap": 0.0}, ""),  # a metal to its source, and an oxide
        ("LiTi2O4", {"band_gap": 0.5}, "Ti3.5+"),
        ("TiBr2", {"is_magnetic": False}, ""),  # the source has looked
        ("TiBr2", {"is_magnetic": True}, ""),
        ("alloy 7 (x=0.5)", {}, ""),
        ("", {}, ""),
    ],
)
def test_ions_with_unpaired_electrons_are_named_where_the_source_does_not_say(formula, known, ion):
    document = CandidateDoc(run_id="r", material_id="m", formula=formula, **known)
    expected = [f"{ion} may be magnetic: no model learned of it"] if ion else []
    assert unpaired_electrons(document) == expected


@pytest.mark.parametrize(
    ("percentile", "exceeds", "word", "reasons"),
    [
        (0.0, False, "yes", []),
        (75.0, False, "yes", []),
        (75.1, False, "near", ["a little unlike the training materials (percentile 75)"]),
        (95.0, None, "near", ["a little unlike the training materials (percentile 95)"]),
        (99.9, True, "no", ["unlike the training materials (percentile 99)"]),
        (10.0, True, "near", ["a larger cell than any it was trained on"]),
        (None, True, None, ["a larger cell than any it was trained on"]),
        (None, None, None, []),
    ],
)
def test_the_distance_from_the_training_materials_has_a_word(percentile, exceeds, word, reasons):
    found = Domain([], False, None, ["Na"], percentile, exceeds)
    assert found.in_domain == word
    assert found.is_outside is (word == "no")
    assert found.reasons + found.reservations == reasons
    assert found.is_only_distant is (word == "no")
    assert found.in_domain != "near" or found.reservations
    unseen = replace(found, unseen_elements=["Po"])
    assert unseen.in_domain == "no"
    assert unseen.reservations == []
    assert not unseen.is_only_distant
    not_looked_at = replace(found, has_isolated_atoms=None)
    assert not_looked_at.in_domain == ("no" if word == "no" else None)


def test_the_word_follows_from_the_distance_and_is_stored():
    """Distances among 101 materials: 100 on a line with steps of 1, and one far away."""
    points = np.append(np.arange(100.0), 1000.0)[:, None].astype(np.float32)
    known = [TrainingMaterial(material_id=f"m{i}", formula="Na", n_atoms=2) for i in range(101)]
    materials = TrainingMaterials.of(known, points)
    training = Training(TRAINED.elements, materials)
    step = 1 / points.std()  # of the nearest others 98 have 1, 1 and 2, two 1, 2 and 3
    expected = {0.5: "yes", 1.3: "yes", 1.5: "no", 50.0: "no"}
    document = CandidateDoc(
        run_id="r", material_id="m", elements=["Cl", "Na"], nsites=2, has_isolated_atoms=False
    )
    for steps, word in expected.items():
        found = Domain.of_verdict(document, training, steps * step)
        assert found.in_domain == word, steps
        slow = 100 * np.mean([own < steps * step for own in materials.own_distances])
        assert found.training_percentile == pytest.approx(slow)
        stored = document.model_copy(update=found.as_fields())
        assert (stored.in_domain, stored.out_of_domain) == (word, word == "no")
        assert Domain.of_document(stored) == found
        assert CandidateDoc.model_validate(stored.model_dump()) == stored
    larger = document.model_copy(update={"nsites": 3})
    found = Domain.of_verdict(larger, training, 0.0)
    assert found.reservations == ["a larger cell than any it was trained on"]
    assert Domain.of_verdict(document, Training(TRAINED.elements), 0.0).in_domain is None


@pytest.mark.parametrize("name", [None, "tight-binding-edos", "mat2spec-edos"])
def test_every_element_is_known_marked_or_known_by_a_stand_in(name):
    """Magnets, actinides and open 4f shells are marked, by all shipped predictors of the eDOS."""
    known = Training(trained_elements(name))
    card = ModelCard.read(ZOO / (name or "mat2spec-plus-edos"))
    never = {"Ce", "Eu", "Yb"} | {ELEMENTS[z] for z in MAGNETIC | ACTINIDES}
    by_stand_in = set()
    for z in range(1, N_ELEMENTS + 1):
        element = ELEMENTS[z]
        found = domain(crystal(2.0, [element]), known)
        if element in never:
            assert found.reasons == [f"not trained on {element}"], element
            assert found.is_outside
        elif element in card.elements:
            assert found.reasons == [], element
        elif not found.unseen_elements:
            by_stand_in.add(element)
        else:
            assert found.reasons[0] == f"not trained on {element}", element
        has_stand_in = element in STAND_INS and not found.unseen_elements
        assert [r.split(",")[0] for r in found.remarks] == (
            [f"{STAND_INS[element]} stands for {element}"] if has_stand_in else []
        )
    uses_stand_ins = name == "tight-binding-edos"
    assert by_stand_in == (set(STAND_INS) - set(card.elements) if uses_stand_ins else set())


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
