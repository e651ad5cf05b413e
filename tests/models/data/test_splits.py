from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.data.splits import Split, fold, split_dataset, split_of
from models.errors import ModelError
from tests.models.model_examples import small_dataset


def test_a_split_has_every_material_once_in_the_asked_shares() -> None:
    ids = [f"mp-{i}" for i in range(3000)]
    split = split_dataset(ids, seed=0, validation=0.2, test=0.1)
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together) == list(range(3000))
    assert len(split.validation) / 3000 == pytest.approx(0.2, abs=0.03)
    assert len(split.test) / 3000 == pytest.approx(0.1, abs=0.02)


def test_a_material_stays_in_its_part_when_the_set_grows() -> None:
    few, many = [f"mp-{i}" for i in range(50)], [f"mp-{i}" for i in range(20, 500)]
    parts = []
    for ids in (few, many):
        split = split_dataset(ids, seed=3)
        parts.append(
            {ids[i]: p for p in ("train", "validation", "test") for i in getattr(split, p)}
        )
    common = parts[0].keys() & parts[1].keys()
    assert len(common) == 30
    assert all(parts[0][i] == parts[1][i] for i in common)


def test_another_seed_gives_another_split() -> None:
    ids = [f"mp-{i}" for i in range(200)]
    assert set(split_dataset(ids, 0).test) != set(split_dataset(ids, 1).test)
    assert fold("mp-1", 0) == fold("mp-1", 0) != fold("mp-1", 1)


def test_too_few_to_split() -> None:
    with pytest.raises(ModelError, match="1 materials are too few to split"):
        split_dataset(["mp-1"], 0)


def parts_of(split: Split) -> tuple[set[int], set[int], set[int]]:
    return set(split.train), set(split.validation), set(split.test)


@pytest.mark.parametrize("seed", range(3))
def test_a_grouped_split_keeps_chemical_systems_together(seed: int) -> None:
    dataset = small_dataset(120)
    systems = dataset.chemical_systems
    assert len(set(systems)) < len(systems)
    parts = [{systems[i] for i in part} for part in parts_of(split_of(dataset, seed, "chemsys"))]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(set(systems))


def test_chemical_systems_are_those_of_the_crystals() -> None:
    from tests.models.model_examples import random_crystals

    expected = tuple(c.chemsys for c in random_crystals(20))
    assert small_dataset(20).chemical_systems == expected


@pytest.mark.parametrize("by", ["material", "chemsys"])
def test_the_sources_own_test_part_is_kept(by: str) -> None:
    dataset = small_dataset(120)
    own = tuple("val" if i % 6 == 0 else "train" for i in range(120))
    dataset = dataclasses.replace(dataset, parts=own)
    train, validation, test = parts_of(split_of(dataset, 0, by))
    assert test == set(range(0, 120, 6))
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    if by == "material":
        assert train | validation | test == set(range(120))
    else:
        systems = dataset.chemical_systems
        assert not {systems[i] for i in train | validation} & {systems[i] for i in test}


def test_a_split_that_leaks_is_refused_with_the_ids() -> None:
    ids = [f"mp-{i}" for i in range(20)]
    clean = Split(np.arange(10), np.arange(10, 15), np.arange(15, 20))
    clean.refuse_leaks(ids)
    for leaking in (
        dataclasses.replace(clean, test=np.array([3, 16])),
        dataclasses.replace(clean, validation=np.array([3, 12])),
        dataclasses.replace(clean, validation=np.array([3]), test=np.array([3])),
    ):
        with pytest.raises(ModelError, match="the split leaks: mp-3 in more than one part"):
            leaking.refuse_leaks(ids)
    with pytest.raises(ModelError, match="mp-0, mp-1, mp-2, mp-3, mp-4 and 1 more in more than"):
        dataclasses.replace(clean, test=np.arange(6)).refuse_leaks(ids)


def test_two_rows_of_the_same_material_leak() -> None:
    twice = ["mp-1", "mp-2", "mp-1", "mp-3"]
    split = Split(np.array([0]), np.array([1]), np.array([2, 3]))
    with pytest.raises(ModelError, match="mp-1 in more than one part"):
        split.refuse_leaks(twice)
