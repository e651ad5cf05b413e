from __future__ import annotations

import numpy as np
import pytest
import torch

from models.crystal import Crystal
from models.data.dataset import with_structures
from models.errors import ModelError
from models.graphs.graph import GraphConfig
from screening.benchmark import data, studies
from tests.models.model_examples import random_crystal, random_crystals, rocksalt, small_dataset


def test_errors_by_group() -> None:
    bins = studies.errors_by(np.array([1.0, 2.0, 3.0, 10.0]), [2, 2, 2, 3])
    assert [(b.label, b.n, b.mean, b.median) for b in bins] == [
        ("2", 3, 2.0, 2.0),
        ("3", 1, 10, 10),
    ]
    assert (bins[0].low, bins[0].high) == (1.5, 2.5)


def test_quantiles_hold_everything_once_in_order() -> None:
    values = np.random.default_rng(0).permutation(10).astype(float)
    bins = studies.errors_by_quantile(values, values, 4)
    assert [b.n for b in bins] == [3, 3, 2, 2]
    assert [b.mean for b in bins] == [1.0, 4.0, 6.5, 8.5]
    assert bins[0].label == "0 to 2"


def test_materials_of_the_same_value_are_in_the_same_bin() -> None:
    values = np.array([4, 1, 4, 4, 4, 5, 8, 4, 2, 4], float)
    bins = studies.errors_by_quantile(values, values, 4)
    assert [(b.label, b.n) for b in bins] == [("1 to 2", 2), ("4", 6), ("5 to 8", 2)]
    assert [b.label for b in studies.errors_by_quantile(np.ones(5), np.ones(5))] == ["1"]


def test_fewer_materials_than_bins() -> None:
    assert len(studies.errors_by_quantile(np.ones(2), np.arange(2.0), 4)) == 2


def test_number_of_elements() -> None:
    expected = [len(c.elements) for c in random_crystals(20)]
    assert data.n_elements(small_dataset(20)).tolist() == expected


def test_similarity_is_one_for_the_same_composition_and_zero_without_common_elements() -> None:
    dataset = small_dataset(30)
    similar = data.similar_in_training(dataset.subset([4, 9]), dataset)
    np.testing.assert_allclose(similar, 1.0, rtol=1e-6)
    fe = with_structures(
        dataset.subset([0]), {"x-000": Crystal(3 * np.eye(3), [[0, 0, 0]], [92])}, GraphConfig()
    )
    assert data.similar_in_training(fe, dataset).tolist() == [0.0]


def test_roughness_separates_slow_from_fast() -> None:
    x = np.arange(128) / 128
    slow, fast = np.sin(2 * np.pi * 3 * x), np.sin(2 * np.pi * 40 * x)
    found = studies.roughness(np.stack([slow, fast, slow + fast]))
    np.testing.assert_allclose(found, [0, 1, 0.5], atol=1e-10)


def test_quintile_examples_go_from_best_to_worst() -> None:
    errors = np.random.default_rng(1).permutation(25).astype(float)
    assert errors[studies.quintile_examples(errors)].tolist() == [2, 7, 12, 17, 22]


def test_rattling_moves_every_atom_by_the_asked_amount() -> None:
    crystal = random_crystal(np.random.default_rng(0), 8)
    moves = []
    for seed in range(200):
        moved = studies.rattled(crystal, 0.1, seed)
        moves.append((moved.frac_coords - crystal.frac_coords) @ crystal.lattice)
    assert np.std(moves) == pytest.approx(0.1, rel=0.03)
    again = studies.rattled(crystal, 0.1, 7)
    np.testing.assert_array_equal(again.frac_coords, studies.rattled(crystal, 0.1, 7).frac_coords)


def test_strain_scales_every_length() -> None:
    assert studies.strained(rocksalt(), 0.02).volume == pytest.approx(rocksalt().volume * 1.02**3)


def test_other_structures_keep_their_labels() -> None:
    dataset = small_dataset(6)
    crystals = dict(zip(dataset.material_ids, random_crystals(6), strict=True))
    same = with_structures(dataset, crystals, GraphConfig(vectors=True))
    assert torch.equal(same.graphs.distance, dataset.graphs.distance)
    crystals["x-002"] = Crystal(20 * np.eye(3), [[0, 0, 0]], [3])
    fewer = with_structures(dataset, crystals, GraphConfig())
    assert fewer.material_ids == tuple(i for i in dataset.material_ids if i != "x-002")
    assert torch.equal(fewer.spectra, dataset.spectra[[0, 1, 3, 4, 5]])
    assert fewer.left_out.keys() == {"x-002"}
    lonely = dict.fromkeys(dataset.material_ids, crystals["x-002"])
    with pytest.raises(ModelError, match="none of the structures"):
        with_structures(dataset, lonely, GraphConfig())
