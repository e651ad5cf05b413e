"""Crystals that are made for a teacher to label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.data import covalent_radii
from pymatgen.core import Composition, Element

from models.crystal import Crystal
from models.data.dataset import taught_dataset
from models.data.splits import fold, part_of, split_of
from models.predictor import SpectrumPredictor
from models.training.card import ModelCard
from screening.candidate import Candidate, Unreadable
from screening.sources import open_source
from screening.training_sets.distillation import distill
from screening.training_sets.substitution import Substitutions, exchanged
from tests.conftest import crystal_row

ELEMENTS = frozenset(
    [
        "Li",
        "Na",
        "K",
        "Rb",
        "Mg",
        "Ca",
        "Sr",
        "Y",
        "La",
        "Nd",
        "Ti",
        "Zr",
        "Hf",
        "Cu",
        "Ag",
        "Au",
        "O",
        "S",
        "Se",
        "F",
        "Cl",
        "Br",
        "H",
        "Ru",
        "Os",
    ]
)
CELL = np.array([[4.0, 0, 0], [1, 5, 0], [0, 0.5, 6]])


def crystal(*symbols: str) -> Crystal:
    places = np.random.default_rng(3).random((len(symbols), 3))
    return Crystal(CELL, places, [Element(s).Z for s in symbols])


def made_of(parent: Crystal, times: int = 200) -> list[Crystal]:
    rng = np.random.default_rng(0)
    found = [exchanged(parent, ELEMENTS, rng) for _ in range(times)]
    return [one for one in found if one is not None]


def group(z: int) -> int:
    return 3 if 57 <= z <= 71 else Element.from_Z(z).group


def test_elements_take_the_place_of_others_of_their_group() -> None:
    parent = crystal("Na", "Ti", "O", "O", "O")
    made = made_of(parent)
    assert len(made) == 200
    for one in made:
        pairs = dict(zip(parent.atomic_numbers.tolist(), one.atomic_numbers.tolist(), strict=True))
        assert all(group(a) == group(b) for a, b in pairs.items())
        assert len(set(pairs.values())) == 3  # none took the place of two
        assert 1 <= sum(a != b for a, b in pairs.items()) <= 2
        assert set(one.elements) <= ELEMENTS
        np.testing.assert_array_equal(one.frac_coords, parent.frac_coords)
    # Na by three others, Ti and O by two each: 3 + 2 + 2 alone, 3 * 2 + 3 * 2 + 2 * 2 in pairs.
    assert len({one.formula for one in made}) == 23


def test_the_cell_follows_the_radii() -> None:
    parent = crystal("K", "Cl")
    for one in made_of(parent, 20):
        radii = [sum(covalent_radii[z] for z in each.atomic_numbers) for each in (one, parent)]
        np.testing.assert_allclose(one.lattice, parent.lattice * radii[0] / radii[1])


def test_what_may_not_stay_is_exchanged_and_hydrogen_stays() -> None:
    for one in made_of(crystal("Fe", "S", "H")):
        assert {"Ru", "Os"} & set(one.elements)
        assert "Fe" not in one.elements
        assert "H" in one.elements
    assert {frozenset(one.elements) for one in made_of(crystal("Gd", "H"))} == {
        frozenset({"H", other}) for other in ("Y", "La", "Nd")
    }


@pytest.mark.parametrize("symbols", [("Xe",), ("H",), ("B", "S"), ("Li", "Na", "K", "Rb", "Cs")])
def test_without_an_element_to_take_the_place_there_is_none(symbols: tuple[str, ...]) -> None:
    assert made_of(crystal(*symbols)) == []


def test_each_comes_behind_its_parent_and_is_new() -> None:
    items = [
        Candidate("a", crystal("Na", "Cl")),
        Unreadable("b", "why"),
        Candidate("c", crystal("Cu", "S")),
    ]
    known = frozenset({"NaCl", "KCl", "CuS", "AgS"})
    make = Substitutions(3, ELEMENTS, known, lambda candidate: True)
    found = list(make.among(items))
    assert [item.material_id for item in found] == [
        "a",
        "a~1",
        "a~2",
        "a~3",
        "b",
        "c",
        "c~1",
        "c~2",
        "c~3",
    ]
    formulas = [item.structure.formula for item in found if "~" in item.material_id]
    assert len(set(formulas)) == 6
    assert not known & set(formulas)
    # The same of each, whatever else there is.
    again = list(make.among(items[2:]))
    assert [item.structure.formula for item in again[1:]] == formulas[3:]
    assert list(Substitutions(3, ELEMENTS, known, lambda c: c.material_id == "c").among(items))[
        :2
    ] == [*items[:2]]


def test_it_belongs_where_its_parent_does() -> None:
    assert fold("mp-149~2", 7) == fold("mp-149", 7)
    assert part_of("mp-149~2", 0) == part_of("mp-149", 0)


@pytest.mark.slow
def test_nothing_is_made_of_what_no_student_may_learn(tmp_path: Path, structure_table) -> None:
    pairs = [("Na", "Cl"), ("Mg", "O"), ("K", "Br"), ("Fe", "S")]
    rows = [crystal_row(f"m-{i}", 4.2 + 0.01 * i, pairs[i % 4]) for i in range(60)]
    teacher = SpectrumPredictor.load("mat2spec-edos", device="cpu")
    told: list[tuple[int, int | None]] = []
    source = open_source(structure_table(rows))
    path = tmp_path / "t.parquet"
    report = distill(source, path, teacher, substituted=2, progress=lambda *n: told.append(n))
    table = pq.read_table(path).to_pylist()
    made = [row for row in table if "~" in row["material_id"]]
    seed = ModelCard.read(teacher.folder).split_seed
    assert {part_of(row["material_id"], seed) for row in made} == {"training"}
    n_training = sum(part_of(row["material_id"], seed) == "training" for row in rows)
    assert n_training < len(made) <= 2 * n_training
    assert any(int(row["material_id"][2:].split("~")[0]) % 4 == 3 for row in made)  # of FeS
    known = {Composition(f).reduced_formula for f in ("NaCl", "MgO", "KBr", "FeS")}
    assert not known & {row["formula"] for row in made}
    assert report.written == len(table)
    assert report.left_out["the teacher was not trained on Fe"] == 15
    assert told[-1][0] == told[-1][1] == len(table) + sum(report.left_out.values())
    dataset = taught_dataset(path)
    split = split_of(dataset, seed)
    held_out = {dataset.material_ids[i] for part in (split.validation, split.test) for i in part}
    assert not any("~" in material_id for material_id in held_out)
