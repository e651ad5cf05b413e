"""A model learns from the DFT of its run, and is compared with what it was."""

from __future__ import annotations

import dataclasses
import shutil
import statistics

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from db.documents import DifferenceDoc
from db.open import open_store
from models.data.label_files import RECIPE, edos_labels
from models.data.splits import part_of
from models.predictor import SpectrumPredictor
from models.spectra.spectrum import EDOS_GRID
from models.training.card import ModelCard
from models.zoo import ZOO, model_id
from screening.errors import ScreeningError
from screening.gap import GapCriteria, find_gaps
from tests.models.model_examples import labelled_crystals, write_rows
from tests.workflows.analytic_dos import AnalyticDosMaker
from tests.workflows.learning_examples import TESTED, TRAINED, screened, structure_rows, teach
from workflows.learning import (
    LABELS_FILE,
    Learning,
    NothingToLearnError,
    _checkpoints,
    _is_half,
    is_not_worse,
    learn,
)
from workflows.local import validate_here
from workflows.validation import ValidationFlowMaker

NEW = TRAINED[:4]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("taught"))


@pytest.fixture
def learning(taught):
    return Learning((str(taught.labels),), str(taught.structures), epochs=1)


@pytest.fixture
def db(tmp_path):
    return str(tmp_path / "store.sqlite")


def calculated(db, run_id, names=None, **options):
    """Calculate candidates of a run by a formula."""
    maker = ValidationFlowMaker(db=db, dos_maker=AnalyticDosMaker(**options))
    with open_store(db) as store:
        candidates = list(store.candidates(run_id, material_ids=names, with_structure=True))
    for candidate in candidates:
        validate_here(maker, candidate)


def from_scratch(learning, folder, **changes):
    """Learning anew, by a configuration of another width."""
    config = {
        "name": "other",
        "labels": ["none"],
        "architecture": "gatgnn",
        "model": {"encoder": {"layers": 1, "width": 4}, "hidden": [8]},
        "epochs": 1,
    }
    file = folder / "anew.yaml"
    file.write_text(yaml.safe_dump(config | changes))
    return dataclasses.replace(learning, from_scratch=str(file))


def learned(db, run_id, learning):
    with open_store(db) as store:
        return learn(store, store.run(run_id), learning, "tiny-round-1")


def twin_of_a_test_material(taught, name):
    """A test material of the old labels by another name, in another cell."""
    known = {f"x-{i}": c for i, c in enumerate(labelled_crystals(40))}
    tested = next(i for i in known if part_of(i, 0) == "test" and len(known[i]) < 5)
    crystal = known[tested]
    turned = crystal.lattice[[1, 2, 0]], crystal.frac_coords[:, [1, 2, 0]] + 0.1
    (row,) = structure_rows([name])
    return row | {
        "lattice": turned[0].ravel().tolist(),
        "species": crystal.atomic_numbers.tolist(),
        "frac_coords": turned[1].ravel().tolist(),
    }


@pytest.mark.slow
def test_no_test_material_is_learned_under_any_name(
    db, taught, learning, structure_table, tmp_path
):
    def with_twin(rows):
        return structure_table([*rows, twin_of_a_test_material(taught, TRAINED[9])])

    run_id = screened(db, taught, with_twin, [*NEW, TESTED])
    calculated(db, run_id)
    result = learned(db, run_id, learning)
    validation = [name for name in NEW if part_of(name, 0) == "validation"]
    assert result.counts == {"training": len(NEW) - len(validation), "test": 2}
    reason = "in the test part"
    assert result.labels.left_out == {TESTED: reason, TRAINED[9]: reason}
    with result.saved(tmp_path / "new"):
        pass
    saved = pq.read_table(tmp_path / "new" / LABELS_FILE).to_pydict()
    assert saved["material_id"] == NEW
    assert set(saved["engine"]) == {"gpaw"}
    assert set(saved[RECIPE]) == {AnalyticDosMaker().recipe}
    before = ModelCard.read(taught.checkpoint)
    card = ModelCard.read(tmp_path / "new")
    assert (card.n_train, card.n_test) == (before.n_train + len(NEW), before.n_test)
    assert set(card.elements) == {*before.elements, "Ag", "Al", "Cu", "Mg"}


@pytest.mark.slow
def test_figures_are_those_of_both_predictors_on_the_same_materials(
    db, taught, learning, structure_table, tmp_path
):
    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    result = learned(db, run_id, learning)
    folder = tmp_path / "new"
    with result.saved(folder):
        pass
    labels = edos_labels([taught.labels], taught.structures)
    tested = [name for name in labels.spectra if part_of(name, 0) == "test"]
    true = np.array([labels.spectra[name] for name in tested])
    crystals = [labels.crystals[name] for name in tested]
    errors = {}
    for when, checkpoint in (("before", taught.checkpoint), ("after", folder)):
        predicted = SpectrumPredictor.load(checkpoint, "cpu").predict(crystals).values
        cumulative = [
            np.abs(np.cumsum(p / p.sum()) - np.cumsum(t / t.sum())).sum() * 0.0625
            for p, t in zip(predicted.astype(float), true, strict=True)
        ]
        mae = [np.abs(p - t).mean() for p, t in zip(predicted, true, strict=True)]
        errors[when] = {"wd": cumulative, "mae": mae}
        figures = getattr(result, when)
        root = len(tested) ** 0.5
        assert figures.n == len(tested)
        for name, values in errors[when].items():
            assert getattr(figures, name) == pytest.approx(statistics.mean(values), rel=1e-3)
            error = statistics.stdev(values) / root
            assert getattr(figures, f"{name}_error") == pytest.approx(error, rel=1e-3)
        gaps = [find_gaps(EDOS_GRID, s, GapCriteria()).is_gap for s in (predicted, true)]
        pairs = list(zip(*gaps, strict=True))
        counts = [pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))]
        assert [figures.tp, figures.fp, figures.fn, figures.tn] == counts
    for name in ("wd", "mae"):
        pairs = zip(errors["after"][name], errors["before"][name], strict=True)
        differences = [after - before for after, before in pairs]
        mean, error = statistics.mean(differences), statistics.stdev(differences) / root
        assert any(differences)
        assert getattr(result.difference, name) == pytest.approx(mean, abs=1e-4)
        assert getattr(result.difference, f"{name}_error") == pytest.approx(error, abs=1e-4)


def test_weights_have_the_precision_that_they_had():
    halves = {
        name: [_is_half(c) for c in _checkpoints(ZOO / name).values()]
        for name in ("mat2spec-plus-edos", "tight-binding-edos")
    }
    assert halves == {"mat2spec-plus-edos": [True, True], "tight-binding-edos": [False]}


@pytest.mark.slow
def test_fine_tuning_begins_with_the_model_and_from_scratch_does_not(
    db, taught, learning, structure_table, tmp_path
):
    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    tuned = learned(db, run_id, learning)
    anew = learned(db, run_id, from_scratch(learning, tmp_path, graph={"neighbors": 4}))
    widths = [
        result.trained.checkpoints["standard-mae"].card.config["encoder"]["width"]
        for result in (tuned, anew)
    ]
    assert widths == [8, 4]
    assert anew.trained.checkpoints["standard-mae"].card.graph.neighbors == 4
    assert tuned.before == anew.before  # each model on graphs like those it learned from
    assert abs(tuned.difference.mae) < abs(anew.difference.mae)
    assert tuned.trained.card.name == anew.trained.card.name == "tiny-round-1"


@pytest.mark.slow
def test_models_are_compared_on_materials_that_have_graphs_for_both(
    db, taught, learning, structure_table, tmp_path
):
    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    sizes = [len(c) for i, c in enumerate(labelled_crystals(40)) if part_of(f"x-{i}", 0) == "test"]
    graph = {"max_atoms": max(sizes) - 1}
    anew = learned(db, run_id, from_scratch(learning, tmp_path, graph=graph))
    n = sum(size < max(sizes) for size in sizes)
    assert anew.before.n == anew.after.n == len(anew.trained.test) == n


@pytest.mark.slow
def test_a_model_that_cannot_be_measured_is_not_trained_first(
    db, taught, learning, structure_table, monkeypatch
):
    def fails(checkpoints, test):
        raise ScreeningError("not measured")

    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    monkeypatch.setattr("models.training.train.evaluate", fails)
    monkeypatch.setattr("models.training.train.train_predictor", None)
    with pytest.raises(ScreeningError, match="not measured"):
        learned(db, run_id, learning)


@pytest.mark.parametrize(
    ("wd", "mae", "expected"),
    [
        (0.0, 0.0, True),
        (-0.01, -0.1, True),
        (0.002, 0.0, True),
        (0.0021, -0.1, False),
        (-0.01, 0.011, False),
    ],
)
def test_not_worse_is_within_a_standard_error(wd, mae, expected):
    difference = DifferenceDoc(wd=wd, wd_error=0.002, mae=mae, mae_error=0.01)
    assert is_not_worse(difference) is expected


@pytest.mark.slow
def test_a_folder_that_is_there_is_not_written_over(
    db, taught, learning, structure_table, tmp_path
):
    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    result = learned(db, run_id, learning)
    with pytest.raises(RuntimeError), result.saved(tmp_path / "models" / "new"):
        raise RuntimeError("killed")
    assert list((tmp_path / "models").iterdir()) == []
    again = pytest.raises(ScreeningError, match=r"tiny is there already; --out names another")
    with again, result.saved(taught.checkpoint):
        raise AssertionError


@pytest.mark.slow
def test_what_cannot_be_learned_is_told(db, taught, learning, structure_table, tmp_path):
    run_id = screened(db, taught, structure_table, [TESTED])
    with pytest.raises(NothingToLearnError, match="no calculation has finished"):
        learned(db, run_id, learning)
    calculated(db, run_id)
    kept_out = r"none of its calculations is a new label \(1 in the test part\)"
    with pytest.raises(NothingToLearnError, match=kept_out):
        learned(db, run_id, learning)

    known = next(f"x-{i}" for i in range(40) if part_of(f"x-{i}", 0) == "training")
    run_id = screened(db, taught, structure_table, [known])
    calculated(db, run_id)
    with pytest.raises(NothingToLearnError, match=r"\(1 has a label already\)"):
        learned(db, run_id, learning)

    run_id = screened(db, taught, structure_table, NEW)
    calculated(db, run_id)
    rows = pq.read_table(taught.labels).to_pylist()
    untested = [row for row in rows if part_of(row["material_id"], 0) != "test"]
    write_rows(tmp_path / "untested.parquet", untested)
    with pytest.raises(ScreeningError, match=r"none of \d+ labels is in the test part"):
        learned(
            db, run_id, dataclasses.replace(learning, labels=(str(tmp_path / "untested.parquet"),))
        )


def test_a_metal_where_the_source_has_a_gap_is_not_learned(
    db, taught, learning, structure_table, tmp_path
):
    run_id = screened(db, taught, structure_table, NEW[:1])
    calculated(db, run_id)
    rows = [row | {"band_gap": 1.5} for row in structure_rows(NEW[:1])]
    file = write_rows(
        tmp_path / "with-gaps.parquet", [*rows, *pq.read_table(taught.structures).to_pylist()]
    )
    kept_out = r"\(1 a metal, but the source's band gap is above 1 eV\)"
    with pytest.raises(NothingToLearnError, match=kept_out):
        learned(db, run_id, dataclasses.replace(learning, structures=str(file)))


def test_a_checkpoint_that_is_gone_or_another_one(db, taught, learning, structure_table, tmp_path):
    moved = dataclasses.replace(taught, checkpoint=tmp_path / "tiny")
    shutil.copytree(taught.checkpoint, moved.checkpoint)
    run_id = screened(db, moved, structure_table, NEW)
    calculated(db, run_id)
    model = model_id(moved.checkpoint)
    shutil.rmtree(moved.checkpoint)
    with pytest.raises(ScreeningError, match=f"its model {model} is gone or has changed"):
        learned(db, run_id, learning)
