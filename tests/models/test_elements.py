from __future__ import annotations

import numpy as np
from pymatgen.core import Element

from models.architectures.registry import ARCHITECTURES
from models.crystal import ELEMENTS
from models.elements import (
    PROPERTIES,
    STAND_INS,
    KnownElements,
    element_descriptors,
    element_properties,
    stand_ins_of,
)

# First and last column of each property.
GROUP, PERIOD, VALENCE, BLOCK = (0, 18), (18, 25), (45, 57), (77, 81)


def value(z: int, columns: tuple[int, int]) -> int:
    row = element_descriptors()[z, slice(*columns)]
    assert row.sum() == 1
    return int(row.argmax()) + 1


def test_the_table_is_binary_with_92_columns() -> None:
    table = element_descriptors()
    assert table.shape == (104, 92)
    assert set(np.unique(table)) == {0.0, 1.0}
    assert not table[0].any()


def test_every_element_is_described_and_distinct() -> None:
    rows = element_descriptors()[1:]
    alike = [
        (ELEMENTS[i + 1], ELEMENTS[j + 1])
        for i in range(len(rows))
        for j in range(i)
        if (rows[i] == rows[j]).all()
    ]
    assert alike == []


def test_well_known_elements() -> None:
    assert [value(z, GROUP) for z in (1, 2, 8, 11, 26, 35)] == [1, 18, 16, 1, 8, 17]
    assert [value(z, PERIOD) for z in (1, 2, 8, 11, 26, 57, 103)] == [1, 1, 2, 3, 4, 6, 7]
    assert [value(z, VALENCE) for z in (2, 6, 8, 11, 26, 30, 31, 82)] == [2, 4, 6, 1, 8, 12, 3, 4]
    assert [value(z, BLOCK) for z in (11, 8, 26, 58)] == [1, 2, 3, 4]


def test_at_most_one_bin_of_each_property() -> None:
    table = element_descriptors()
    start = 0
    for size in (18, 7, 10, 10, 12, 10, 10, 4, 11):
        assert table[:, start : start + size].sum(1).max() == 1
        start += size
    assert start == 92


def test_the_table_cannot_be_changed_by_accident() -> None:
    assert not element_descriptors().flags.writeable


def test_properties_are_on_one_scale_and_known_where_it_matters() -> None:
    table = element_properties()
    assert table.shape == (104, len(PROPERTIES))
    assert not table.flags.writeable
    assert not table[0].any()
    assert np.isfinite(table).all()
    assert np.abs(table).max() <= 4
    np.testing.assert_allclose(table[1:].mean(0), 0, atol=0.05)
    np.testing.assert_allclose(table[1:].std(0), 1, atol=0.35)
    # What is zero everywhere would be a property that pymatgen does not have.
    assert (table[1:95] != 0).mean() > 0.95


def test_well_known_orders_of_properties() -> None:
    column = {name: element_properties()[:, i] for i, name in enumerate(PROPERTIES)}
    assert column["electronegativity"][9] > column["electronegativity"][8]
    assert column["electronegativity"][8] > column["electronegativity"][55]
    assert column["log_atomic_mass"][92] > column["log_atomic_mass"][1]
    assert column["melting_point"][74] > column["melting_point"][80]
    assert column["covalent_radius"][55] > column["covalent_radius"][6]


def test_stand_ins_have_the_valence_and_about_the_size_of_what_they_stand_for() -> None:
    assert set(STAND_INS) == {e for e in ELEMENTS[58:71] if e not in ("Ce", "Eu", "Yb")}
    for symbol, other in STAND_INS.items():
        element, stand_in = Element(symbol), Element(other)
        assert element.common_oxidation_states == stand_in.common_oxidation_states == (3,)
        assert abs(element.ionic_radii[3] - stand_in.ionic_radii[3]) < 0.08  # Å


def test_elements_are_known_by_any_element_with_the_same_parameters() -> None:
    known = KnownElements(frozenset({"Ho", "N"}), STAND_INS)
    assert known.unseen(["Dy", "Ho", "La", "N", "Nd", "Y"]) == ["La", "Nd"]
    assert KnownElements(frozenset({"Ho", "N"})).unseen(["Dy", "Ho", "N"]) == ["Dy"]


def test_stand_ins_are_those_of_the_architecture():
    own = {name: architecture.stand_ins for name, architecture in ARCHITECTURES.items()}
    assert {name: stand_ins_of(name) for name in ARCHITECTURES} == own
    assert any(own.values())
