"""Where training materials are in the embedding, and the files that keep it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import ModelError
from models.predictor import SpectrumPredictor
from models.training.card import ModelCard
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.materials import (
    TrainingMaterial,
    TrainingMaterials,
    load_training_materials,
)
from models.training.train import add_training_materials, embedded
from models.zoo import DEFAULT_EDOS, SCALE, SHAPE, ZOO, shipped_predictors
from tests.models.model_examples import random_crystals, small_dataset
from tests.models.training.test_checkpoint import checkpoint

NAMES = ("training_materials.safetensors", "training_materials.json")


def materials(n: int) -> list[TrainingMaterial]:
    return [TrainingMaterial(material_id=f"m{i}", formula="Cu", n_atoms=1 + i) for i in range(n)]


def points(n: int, seed: int = 0) -> np.ndarray:
    scale = np.geomspace(0.1, 10, 7)
    return (scale * np.random.default_rng(seed).normal(1, 1, (n, 7))).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A predictor with its training materials."""
    for name in (SHAPE, SCALE):
        save_checkpoint(tmp_path / "pair" / name, checkpoint(name))
    trained_on = embedded(load_checkpoint(tmp_path / "pair" / SHAPE), small_dataset(12))
    assert trained_on is not None
    trained_on.save(tmp_path / "pair")
    return tmp_path / "pair"


def slow_distance(one: np.ndarray, other: np.ndarray, all_points: np.ndarray) -> float:
    deviations = np.std(all_points.astype(float), axis=0)
    squares = [((a - b) / s) ** 2 for a, b, s in zip(one, other, deviations, strict=True)]
    return float(np.sqrt(sum(squares) / len(squares)))


def test_distances_are_those_of_a_slow_reference() -> None:
    known, asked = points(9), points(4, seed=1)
    trained_on = TrainingMaterials.of(materials(9), known)
    for point, found in zip(asked, trained_on.distances(asked), strict=True):
        to_each = sorted((slow_distance(point, p, known), i) for i, p in enumerate(known))
        assert found == pytest.approx(np.mean([d for d, _ in to_each[:3]]), rel=2e-3)
        nearest = trained_on.nearest(point)
        assert [n.material.material_id for n in nearest] == [f"m{i}" for _, i in to_each[:3]]
        assert [n.distance for n in nearest] == pytest.approx([d for d, _ in to_each[:3]], rel=2e-3)


def test_a_training_material_is_at_no_distance_and_its_own_distance_leaves_it_out() -> None:
    known = points(9)
    trained_on = TrainingMaterials.of(materials(9), known)
    for i, point in enumerate(known):
        first = trained_on.nearest(point)[0]
        assert first.material.material_id == f"m{i}"
        assert first.distance == pytest.approx(0, abs=3e-3)
    slow = []
    for i, point in enumerate(known):
        others = np.delete(known, i, axis=0)
        slow.append(np.mean(sorted(slow_distance(point, p, known) for p in others)[:3]))
    np.testing.assert_allclose(trained_on.own_distances, sorted(slow), rtol=3e-3)
    assert trained_on.percentile(0) == 0
    assert trained_on.percentile(float(np.median(slow)) + 1e-3) == pytest.approx(500 / 9)
    assert trained_on.percentile(1e9) == 100


def test_a_number_that_did_not_vary_in_training_does_not_decide() -> None:
    known = points(9)
    known[:, 3] = 5.0
    trained_on = TrainingMaterials.of(materials(9), known)
    moved = known[:1].copy()
    moved[0, 3] += 1e-3
    assert trained_on.distances(moved) < 1.5 * trained_on.distances(known[:1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_training_materials_are_enough(n: int) -> None:
    trained_on = TrainingMaterials.of(materials(n), points(n))
    assert np.isfinite(trained_on.distances(points(2, seed=1))).all()
    assert len(trained_on.nearest(points(1)[0])) == n


def test_what_is_kept_comes_back(folder: Path) -> None:
    kept = load_training_materials(folder)
    again = embedded(load_checkpoint(folder / SHAPE), small_dataset(12))
    assert kept is not None
    assert again is not None
    assert kept.materials == again.materials
    for name in ("embeddings", "center", "scale", "own_distances"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(again, name))


def test_without_the_files_nothing_is_known_of_distances(folder: Path) -> None:
    crystals = random_crystals(4)
    before = SpectrumPredictor.load(folder, "cpu").predict(crystals)
    assert np.isfinite(before.training_distance).all()
    for name in NAMES:
        (folder / name).unlink()
    assert load_training_materials(folder) is None
    after = SpectrumPredictor.load(folder, "cpu").predict(crystals)
    assert np.isnan(after.training_distance).all()
    np.testing.assert_array_equal(after.values, before.values)


@pytest.mark.parametrize("name", NAMES)
def test_one_file_without_the_other_is_one_line(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"^training materials .*{name}: No such file"):
        SpectrumPredictor.load(folder, "cpu")


def test_damaged_files_are_one_line(folder: Path) -> None:
    arrays, card = (folder / name for name in NAMES)
    whole, text = arrays.read_bytes(), card.read_text()
    arrays.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ModelError, match=r"safetensors: its hash is not the one in training_"):
        load_training_materials(folder)
    arrays.write_bytes(whole)
    card.write_text(text[:-9])
    with pytest.raises(ModelError, match=r"^training materials .*json, "):
        load_training_materials(folder)
    card.write_text(json.dumps(json.loads(text) | {"materials": [{"formula": 3}]}))
    with pytest.raises(ModelError, match=r"materials\.0\.material_id: Field required"):
        load_training_materials(folder)


def test_other_weights_are_one_line(folder: Path) -> None:
    torch.manual_seed(5)
    save_checkpoint(folder / SHAPE, checkpoint(SHAPE))
    with pytest.raises(ModelError, match="of other weights than those beside it; train"):
        load_training_materials(folder)


def test_labels_that_a_predictor_was_not_trained_on_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.training import train

    monkeypatch.setattr(train, "edos_dataset", lambda *_: small_dataset(20))
    n = ModelCard.read(DEFAULT_EDOS).n_train
    with pytest.raises(ModelError, match=f"trained on {n} materials, but these labels have 1"):
        add_training_materials(DEFAULT_EDOS, [tmp_path / "labels.parquet"])


@pytest.mark.parametrize("name", shipped_predictors())
def test_a_shipped_predictor_knows_what_it_was_trained_on(name: str) -> None:
    trained_on = load_training_materials(ZOO / name)
    card = json.loads((ZOO / name / "card.json").read_text())
    assert trained_on is not None
    assert len(trained_on.materials) == card["n_train"]
    assert (np.diff(trained_on.own_distances) >= 0).all()
    assert max(material.n_atoms for material in trained_on.materials) < 20
