from __future__ import annotations

import pytest

from models.errors import ModelError
from screening.benchmark.subclasses import SUBCLASSES, Subclass, subclass_of
from tests.models.model_examples import random_crystals, small_dataset


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("Mg O", {"oxides"}),
        ("O", set()),
        ("Zn S O", {"oxides", "chalcogenides"}),
        ("Na Cl", {"halides"}),
        ("Cl", set()),
        ("Ni Al", {"intermetallics"}),
        ("Al", set()),
        ("Ga As", set()),
        ("Mg2 Si", set()),
        ("Pb Te", {"chalcogenides"}),
    ],
)
def test_what_belongs_to_which_subclass(formula: str, names: set[str]) -> None:
    elements = [part.rstrip("0123456789") for part in formula.split()]
    assert {name for name, subclass in SUBCLASSES.items() if subclass.holds(elements)} == names


def test_any_of_some_elements() -> None:
    chosen = subclass_of("Si, Ge")
    assert chosen == Subclass(name="Si,Ge", elements=("Si", "Ge"))
    assert chosen.holds(["Si"])
    assert chosen.holds(["Mg", "Ge"])
    assert not chosen.holds(["Mg", "Sn"])
    assert subclass_of("halides") is SUBCLASSES["halides"]


@pytest.mark.parametrize("text", ["oxide", "Si,Xx", "", "Si,"])
def test_an_unknown_subclass_is_one_line(text: str) -> None:
    with pytest.raises(ModelError, match=r"unknown subclass .* is no element; use elements such"):
        subclass_of(text)


def test_members_of_a_data_set() -> None:
    expected = ["O" in c.elements for c in random_crystals(30)]
    found = Subclass(name="with O", elements=("O",)).members(small_dataset(30))
    assert found.tolist() == expected
    assert 0 < found.sum() < 30
