from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from models import chunks
from models import predictor as predictor_module
from models.architectures.interface import Insights
from models.crystal import Crystal
from models.errors import ModelError
from models.graphs.graph import GraphBatch, build_graph, collate
from models.predictor import SpectrumPredictor, predict_spectra, usable_device
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID
from models.training.card import ModelCard
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.train import embedded
from models.zoo import (
    SCALE,
    SHAPE,
    ZOO,
    find_predictor,
    model_id,
    predictor_folder,
    shipped_predictors,
)
from tests.models.model_examples import (
    SMALL_GRID,
    random_crystals,
    rocksalt,
    small_dataset,
    supercell,
)
from tests.models.training.test_checkpoint import checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (SHAPE, SCALE):
        save_checkpoint(tmp_path / "pair" / name, checkpoint(name))
    trained_on = embedded(load_checkpoint(tmp_path / "pair" / SHAPE), small_dataset(12))
    assert trained_on is not None
    trained_on.save(tmp_path / "pair")
    return tmp_path / "pair"


def test_a_spectrum_is_the_shape_times_the_predicted_sum(folder: Path) -> None:
    predictor = SpectrumPredictor.load(folder, device="cpu")
    crystals = random_crystals(9)
    found = predictor.predict(crystals)
    assert found.values.shape == (9, SMALL_GRID.size)
    assert (found.values >= 0).all()
    assert found.failures == {}
    from tests.models.model_examples import batch_of

    for crystal, spectrum in zip(crystals, found.values, strict=True):
        batch = batch_of([crystal])
        shape = predictor.shape.setting.decode(predictor.shape.model(batch), batch.n_atoms)
        scale = predictor.scale.setting.decode(predictor.scale.model(batch), batch.n_atoms)
        expected = (shape * scale.sum()).detach().numpy()[0]
        np.testing.assert_allclose(spectrum, expected, rtol=1e-4, atol=1e-6)


def test_a_supercell_has_proportionally_more_states(folder: Path) -> None:
    predictor = SpectrumPredictor.load(folder, device="cpu")
    one, two = predictor.predict([rocksalt(), supercell(rocksalt(), (2, 1, 1))]).values
    np.testing.assert_allclose(two, 2 * one, rtol=1e-4)


def test_a_prediction_says_how_far_the_members_and_the_training_materials_are() -> None:
    predictor = SpectrumPredictor.load(device="cpu")
    assert predictor.trained_on is not None
    crystals = [rocksalt(), *random_crystals(5)]
    found = predictor.predict(crystals)
    batch = collate([build_graph(c, predictor.shape.card.graph) for c in crystals])
    model = predictor.shape.model
    with torch.inference_mode():
        shapes = model.member_logits(batch).softmax(-1).numpy()
        embeddings = model.embedding(batch).numpy()
    distances = [wasserstein_distances(s, shapes.mean(0), EDOS_GRID.width) for s in shapes]
    np.testing.assert_allclose(found.member_spread, np.mean(distances, 0), rtol=1e-3)
    to_nearest = [
        np.mean([n.distance for n in predictor.trained_on.nearest(e)]) for e in embeddings
    ]
    np.testing.assert_allclose(found.training_distance, to_nearest, rtol=1e-3)
    alone = SpectrumPredictor.load("mat2spec-edos", "cpu").predict(crystals[:1])
    assert np.isnan(alone.member_spread).all()
    assert np.isfinite(alone.training_distance).all()


def test_one_model_alone_gives_what_its_setting_decodes() -> None:
    alone = checkpoint(SHAPE)
    crystals = random_crystals(4)
    overlapping = Crystal(np.eye(3) * 4, np.zeros((2, 3)), np.array([11, 17]))
    found = predict_spectra(alone, [*crystals[:2], overlapping, *crystals[2:]])
    np.testing.assert_allclose(found.values[[0, 1, 3, 4]].sum(1), 1, rtol=1e-5)
    assert list(found.failures) == [2]
    assert np.isnan(found.values[2]).all()
    assert found.grid == SMALL_GRID


def test_pymatgen_structures_do_as_well(folder: Path) -> None:
    predictor = SpectrumPredictor.load(folder, device="cpu")
    crystals = random_crystals(3)
    np.testing.assert_allclose(
        predictor.predict([c.to_structure() for c in crystals]).values,
        predictor.predict(crystals).values,
        rtol=1e-4,
    )


def test_failures_are_recorded_in_their_rows(folder: Path) -> None:
    predictor = SpectrumPredictor.load(folder, device="cpu")
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    unknown = Crystal(4 * np.eye(3), [[0, 0, 0]], [104])
    structures = [rocksalt(), mixed, unknown, Crystal(20 * np.eye(3), [[0, 0, 0]], [3])]
    found = predictor.predict([*structures, rocksalt()])
    assert set(found.failures) == {1, 2, 3}
    assert "partial occupancies" in found.failures[1]
    assert "element Rf" in found.failures[2]
    assert np.isnan(found.values[1:4]).all()
    assert np.isfinite(found.values[[0, 4]]).all()
    np.testing.assert_array_equal(found.values[0], found.values[4])


def test_nothing_in_nothing_out(folder: Path) -> None:
    assert SpectrumPredictor.load(folder, device="cpu").predict([]).values.shape == (0, 16)


def test_only_failures(folder: Path) -> None:
    lonely = Crystal(20 * np.eye(3), [[0, 0, 0]], [3])
    found = SpectrumPredictor.load(folder, device="cpu").predict([lonely])
    assert set(found.failures) == {0}


@pytest.mark.slow
def test_two_workers_give_what_one_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "CHUNK", 7)
    monkeypatch.setattr(chunks, "IN_PROCESS", 10)
    lonely = Crystal(20 * np.eye(3), [[0, 0, 0]], [3])
    structures = [*random_crystals(12), lonely, *random_crystals(8, seed=1)]
    predictor = SpectrumPredictor.load(folder, device="cpu")
    done: list[int] = []
    one = predictor.predict(structures)
    two = predictor.predict(structures, workers=2, progress=done.append)
    predictor.close()
    np.testing.assert_allclose(two.values, one.values, rtol=1e-5)
    assert np.isfinite(one.training_distance[:12]).all()
    np.testing.assert_allclose(two.training_distance, one.training_distance, rtol=1e-4)
    np.testing.assert_array_equal(two.member_spread, one.member_spread)
    assert two.failures == one.failures
    assert set(one.failures) == {12}
    assert done == [7, 7, 7]


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_next_call_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "IN_PROCESS", 1)
    monkeypatch.setattr(chunks, "FIRST_CHUNK", 4)
    predictor = SpectrumPredictor.load(folder, device="cpu")
    structures = random_crystals(4)
    others = set(multiprocessing.active_children())  # which other tests have left
    expected = predictor.predict(structures, workers=2).values

    def killed_while_they_are_read() -> Iterator[Crystal]:
        yield from structures
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        yield from structures

    with pytest.raises(ModelError, match="a worker process died"):
        list(predictor.predict_parts(killed_while_they_are_read(), workers=2))
    np.testing.assert_allclose(predictor.predict(structures, workers=2).values, expected)
    predictor.close()


def test_the_id_names_the_folder_and_the_weights(folder: Path, tmp_path: Path) -> None:
    first = SpectrumPredictor.load(folder, device="cpu").model_id
    assert first == model_id(folder)
    assert first.startswith("pair-")
    save_checkpoint(folder / SCALE, checkpoint(SCALE))
    assert model_id(folder) != first


def test_elements_beyond_the_training_set(folder: Path) -> None:
    predictor = SpectrumPredictor.load(folder, device="cpu")
    assert predictor.unfamiliar(rocksalt()) == ()
    assert predictor.unfamiliar(rocksalt(cation=19)) == ("K",)


def test_a_predictor_is_found_by_its_id_where_it_was_or_among_the_shipped_ones(tmp_path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(ZOO / "tight-binding-edos", mine)
    ids = model_id(mine), model_id(ZOO / "tight-binding-edos")
    folders = [tmp_path / "nowhere", str(mine)]
    assert find_predictor(ids[0], folders) == mine
    assert find_predictor(ids[1], folders) == ZOO / "tight-binding-edos"
    assert find_predictor(ids[0], folders[:1]) is None


def test_shipped_predictors_are_found_by_name_and_folders_before_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predictor_folder() == ZOO / "mat2spec-plus-edos"
    others = ("mat2spec-edos", "tight-binding-edos")
    assert shipped_predictors() == ("mat2spec-plus-edos", *others)
    for name in shipped_predictors():
        assert predictor_folder(name) == ZOO / name
        assert ModelCard.read(ZOO / name).name == name
    monkeypatch.chdir(tmp_path)
    assert predictor_folder("pair") == folder.resolve()
    shutil.copytree(folder, tmp_path / "mat2spec-edos")
    assert predictor_folder("mat2spec-edos") == (tmp_path / "mat2spec-edos").resolve()


@pytest.mark.parametrize("name", ["mat2spec-edos", "mat2spec-phdos"])
def test_what_is_called_mat2spec_is_mat2spec(name: str) -> None:
    assert ModelCard.read(ZOO / name).architecture == "mat2spec"
    for card in (ZOO / name).glob("*-*.json"):
        assert json.loads(card.read_text())["architecture"] == "mat2spec"


def test_wrong_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        SpectrumPredictor.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="predicts 16 bins from -1 eV; needed are 128 bins"):
        SpectrumPredictor.load(folder, device="cpu", grid=EDOS_GRID)
    (folder / f"{SCALE}.json").unlink()
    with pytest.raises(ModelError, match=f"{SCALE}.json: No such file"):
        SpectrumPredictor.load(folder, device="cpu")


def test_two_grids_in_one_pair_are_refused(folder: Path) -> None:
    other = checkpoint(SCALE)
    grid = SMALL_GRID.model_copy(update={"start": 0.0})
    card = other.card.model_copy(update={"grid": grid})
    save_checkpoint(folder / SCALE, type(other)(other.model, other.setting, card))
    with pytest.raises(ModelError, match="different grids or graphs"):
        SpectrumPredictor.load(folder, device="cpu")


@pytest.mark.slow
def test_a_slow_predictor_gives_its_spectra_in_small_parts() -> None:
    predictor = SpectrumPredictor.load("tight-binding-edos", device="cpu")
    structures = [Crystal((3.0 + 0.001 * i) * np.eye(3), [[0, 0, 0]], [13]) for i in range(40)]
    parts = list(predictor.predict_parts(structures))
    assert [len(part.values) for part in parts] == [32, 8]


def test_what_a_predictor_refuses_is_known_without_predicting() -> None:
    predictor = SpectrumPredictor.load("tight-binding-edos", device="cpu")
    lonely = Crystal(20 * np.eye(3), [[0, 0, 0]], [3])
    known, unknown = (Crystal(3.5 * np.eye(3), [[0, 0, 0]], [z]) for z in (13, 90))
    structures = [lonely, known, unknown]
    refusals = predictor.refusals(structures)
    assert refusals == predictor.predict(structures).failures
    assert refusals.keys() == {0, 2}


def test_a_batch_that_the_gpu_has_no_memory_for_is_halved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crystals = [*random_crystals(9), supercell(rocksalt(), (3, 3, 3))]
    predictor = SpectrumPredictor.load(folder, device="cpu")
    expected = predictor.predict(crystals)
    states, sizes = predictor.states_and_insights, []

    def small(batch: GraphBatch) -> tuple[torch.Tensor, Insights]:
        sizes.append(len(batch))
        if batch.n_atoms.sum() > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(batch)

    monkeypatch.setattr(predictor, "states_and_insights", small)
    found = predictor.predict(crystals)
    assert max(sizes) > 4
    assert found.failures == {9: "the GPU has too little memory for it"}
    np.testing.assert_allclose(found.values[:9], expected.values[:9], rtol=1e-4, atol=1e-5)
    assert np.isnan(found.values[9]).all()


def test_a_gpu_that_torch_cannot_use_is_refused_or_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ones(size: int, device: str) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.ones", ones)
    cannot = (
        r"^device cuda:1: torch cannot use it \(CUDA error: no kernel image is available\); use"
    )
    with pytest.raises(ModelError, match=cannot):
        usable_device("cuda:1")
    assert usable_device("auto") == "cpu"
    with pytest.raises(ModelError, match="device meta: predictions run on cpu or cuda only"):
        usable_device("meta")
    assert "no kernel image is available); use cpu; going on with the CPU" in caplog.text
