"""Trainings of a benchmark: done once, measured, and kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.architectures.registry import model_config
from models.data.dataset import SpectrumDataset, refuse_settings
from models.errors import ModelError
from models.graphs.graph import edge_budget_batches
from models.predictor import EDGE_BUDGET
from models.processes import WorkerDiedError, WorkerPool
from models.spectra.metrics import absolute_errors, spectrum_metrics, wasserstein_distances
from models.spectra.phonons import phonon_figures
from models.spectra.settings import SETTINGS
from models.training.card import label_branch_collapsed, label_branch_in_words
from models.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig
from models.training.fit import train_setting
from models.writing import write_whole
from screening.benchmark import data
from screening.benchmark.subclasses import Subclass
from screening.benchmark.variants import MEAN_SPECTRUM, BenchmarkRun, Variant


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one training gave.

    Parameters
    ----------
    prediction : ndarray, shape (n_test, K')
        Spectra of the test materials as the setting decodes them.
    figures : dict
        By the keys of :data:`screening.benchmark.tables.FIGURES`; normalised settings are measured
        on normalised labels.
    remarks : tuple of str
        What happened in the training that one should know.
    material_ids : tuple of str
        The test materials.
    errors : dict of ndarray, shape (n_test,)
        Of each test material: the figures ``mae`` and ``wd`` are the means of these.
    """

    run: BenchmarkRun
    prediction: np.ndarray
    figures: dict[str, float]
    n_train: int
    seconds: float
    remarks: tuple[str, ...] = ()
    material_ids: tuple[str, ...] = ()
    errors: dict[str, np.ndarray] = field(default_factory=dict)


def run_all(
    config: TrainingConfig,
    runs: Sequence[BenchmarkRun],
    folder: Path,
    workers: int = 1,
    announce: Callable[[RunResult, bool], None] = lambda _result, _new: None,
) -> list[RunResult]:
    """Do every run that `folder` does not have yet; results come in the order of `runs`.

    Parameters
    ----------
    config : TrainingConfig
        Data, split and hyperparameters that the runs have in common.
    runs : sequence of BenchmarkRun
    folder : Path
        Of their results and models.
    workers : int
        Runs at a time, each in a process of its own with one thread.
    announce : callable
        Gets each result, and whether it is new, when it is there.

    Raises
    ------
    ModelError
        If the data cannot be used, or a worker process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data.forget_changed()
    results: dict[int, RunResult] = {}
    for i, run in enumerate(runs):
        if (done_before := _read(folder, config, run)) is not None:
            results[i] = done_before
            announce(done_before, False)
    missing = [i for i in range(len(runs)) if i not in results]
    # What is fine-tuned needs the model of another run.
    first = [i for i in missing if runs[i].regime != "fine-tuned"]
    for wave in (first, [i for i in missing if runs[i].regime == "fine-tuned"]):
        for i, result in _results(config, [runs[i] for i in wave], folder, workers):
            _write(folder, config, result)
            results[wave[i]] = result
            announce(result, True)
    return [results[i] for i in range(len(runs))]


def _results(
    config: TrainingConfig, runs: list[BenchmarkRun], folder: Path, workers: int
) -> Iterator[tuple[int, RunResult]]:
    if workers < 2 or len(runs) < 2:
        for i, run in enumerate(runs):
            yield i, train_run(config, run, folder)
        return
    for run in runs:
        data.shared_dataset(data.config_of(config, run))
    read = data.states_read, data.datasets_read  # what the workers need not read again
    train = partial(_train_numbered, config, folder)
    with WorkerPool(min(workers, len(runs)), _prepare_worker, read) as pool:
        try:
            for (i, _), result in pool.as_done(train, list(enumerate(runs))):
                yield i, result
        except WorkerDiedError:
            raise ModelError("a training process died; out of memory? use fewer workers") from None


def _train_numbered(
    config: TrainingConfig, folder: Path, numbered: tuple[int, BenchmarkRun]
) -> RunResult:
    return train_run(config, numbered[1], folder)


def _prepare_worker(*read: Any) -> None:
    """One thread, and what the parent has read."""
    data.take_as_read(*read)
    torch.set_num_threads(1)


def train_run(config: TrainingConfig, run: BenchmarkRun, folder: Path) -> RunResult:
    """Train and measure one run; the model of a run with all materials is kept in `folder`.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    run : BenchmarkRun
    folder : Path
    """
    own, remarks = data.config_of(config, run), list[str]()
    dataset = data.shared_dataset(own)
    split = data.split_for(dataset, own, run)
    start = kept_model(config, run.whole, folder) if run.regime == "fine-tuned" else None
    trained = train_setting(own, run.setting, dataset, split, start=start, announce=remarks.append)
    if trained.label_branch and label_branch_collapsed(trained.label_branch):
        remarks.append(label_branch_in_words(trained.label_branch))
    if run == run.whole:
        save_checkpoint(_model_stem(folder, config, run), trained.checkpoint)
    test = dataset.subset(split.test)
    prediction = predict(trained.checkpoint, test)
    return measured(run, prediction, test, len(split.train), trained.seconds, tuple(remarks))


def kept_model(config: TrainingConfig, run: BenchmarkRun, folder: Path) -> Checkpoint:
    """The model that a run with all materials left in `folder`; trained if it is not there.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    run : BenchmarkRun
        With all materials.
    folder : Path
    """
    stem = _model_stem(folder, config, run)
    if not stem.with_suffix(".json").exists():
        _write(folder, config, train_run(config, run, folder))
    return load_checkpoint(stem)


def reference(config: TrainingConfig, variant: Variant, setting: str) -> RunResult:
    """A prediction that knows no structure, from the training spectra alone.

    Parameters
    ----------
    config : TrainingConfig
    variant : Variant
        One of `REFERENCES`. The mean spectrum is the same for every material; the nearest
        composition's is that of the training material whose composition is the most similar.
        Where spectra grow with the cell both are taken per atom, and multiplied with the atoms
        of the material.
    setting : str
        Name of the scaling and loss.
    """
    run = BenchmarkRun(variant=variant, setting=setting, seed=0)
    dataset = data.shared_dataset(config)
    split = data.split_for(dataset, config, run)
    train, test = dataset.subset(split.train), dataset.subset(split.test)
    units = [d.graphs.n_atoms.numpy()[:, None] for d in (train, test)]
    if SETTINGS[setting].output != "absolute" or not dataset.extensive:
        units = [np.ones_like(u) for u in units]
    spectra = data.labels_for(setting, train) / units[0]
    if variant == MEAN_SPECTRUM:
        weights = np.full((len(test), len(train)), 1 / len(train))
    else:
        weights = data.nearest_in_training(test, train)
    prediction = weights @ spectra * units[1]
    return measured(run, prediction, test, len(train))


def on_subclass(config: TrainingConfig, result: RunResult, subclass: Subclass) -> RunResult:
    """The result of a run with all materials, measured on the test materials of a subclass.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    result : RunResult
    subclass : Subclass
    """
    test = data.held_out(config, result.run)
    rows = np.flatnonzero(subclass.members(test))
    run = result.run.model_copy(update={"subclass": subclass})
    facts = result.n_train, result.seconds, result.remarks
    return measured(run, result.prediction[rows], test.subset(rows), *facts)


def on_file(config: TrainingConfig, run: BenchmarkRun, folder: Path, file: Path) -> RunResult:
    """A run with all materials, measured on the labels of another file.

    Materials that the run was trained or validated on are left out.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    run : BenchmarkRun
    folder : Path
        Of the runs, with their models.
    file : Path
        Parquet file of labels.

    Raises
    ------
    ModelError
        If no other material is in the file, or its labels lack the scale that the setting needs.
    """
    own = data.config_of(config, run)
    known = data.shared_dataset(own)
    split = data.split_for(known, own, run)
    seen = {known.material_ids[i] for i in (*split.train, *split.validation)}
    other = data.shared_dataset(own.model_copy(update={"labels": (file,)}))
    refuse_settings(other, [run.setting])
    rows = [i for i, material_id in enumerate(other.material_ids) if material_id not in seen]
    if len(rows) < data.MIN_TEST:
        raise ModelError(f"{file}: {len(rows)} materials that were not trained on; too few")
    test = other.subset(rows)
    prediction = predict(kept_model(config, run, folder), test)
    return measured(run, prediction, test, len(split.train))


# Measuring.


@torch.inference_mode()
def predict(checkpoint: Checkpoint, test: SpectrumDataset) -> np.ndarray:
    """Decoded spectra, shape (n, K').

    Parameters
    ----------
    checkpoint : Checkpoint
    test : SpectrumDataset
        Of n materials.

    Raises
    ------
    ModelError
        If the checkpoint is for another grid than that of the labels.
    """
    grid = checkpoint.card.grid
    if grid != test.grid:
        raise ModelError(
            f"the checkpoint predicts {grid.size} bins from {grid.start:g} {grid.unit}, the labels "
            f"have {test.grid.size} from {test.grid.start:g} {test.grid.unit}"
        )
    spectra = np.empty((len(test), grid.size), np.float32)
    for members in edge_budget_batches(test.graphs.n_edges.tolist(), EDGE_BUDGET["cpu"]):
        batch = test.graphs.select(torch.from_numpy(members))
        spectra[members] = checkpoint.setting.decode(checkpoint.model(batch), batch.n_atoms)
    return spectra


def measured(
    run: BenchmarkRun,
    prediction: np.ndarray,
    test: SpectrumDataset,
    n_train: int,
    seconds: float = 0.0,
    remarks: tuple[str, ...] = (),
) -> RunResult:
    """The result of a run, with the figures and the errors of its prediction.

    Parameters
    ----------
    run : BenchmarkRun
    prediction : ndarray, shape (n, K')
    test : SpectrumDataset
        Of n materials.
    n_train : int
    seconds : float
        Of the training.
    remarks : tuple of str
    """
    label = data.labels_for(run.setting, test)
    errors = {
        "mae": absolute_errors(prediction, label),
        "wd": wasserstein_distances(prediction, label, test.grid.width),
    }
    figures = measure(run.setting, prediction, test)
    return RunResult(run, prediction, figures, n_train, seconds, remarks, test.material_ids, errors)


def measure(setting: str, prediction: np.ndarray, test: SpectrumDataset) -> dict[str, float]:
    """Figures of decoded spectra; what is normalised is compared with normalised labels.

    Parameters
    ----------
    setting : str
        Name of the scaling and loss.
    prediction : ndarray, shape (n, K')
    test : SpectrumDataset
        Of n materials.
    """
    label = data.labels_for(setting, test)
    figures = spectrum_metrics(prediction, label, test.grid.width)
    if test.grid.unit == "cm^-1":
        figures |= phonon_figures(prediction, label, test.grid, test.graphs.n_atoms.numpy())
    return figures


# Results on disk: facts as JSON, predictions beside them as a plain array. The figures in the JSON
# are for people: they are measured again when a result is read, since the way to measure may have
# changed.


def _stem(folder: Path, config: TrainingConfig, run: BenchmarkRun) -> Path:
    own = data.config_of(config, run)
    # Defaults of an architecture may change, so they are part of what was trained.
    model = model_config(own.architecture, own.model).model_dump(mode="json")
    elsewhere = {"name", "description", "attribution", "limits", "labels", "structures", "half"}
    document = own.model_dump(mode="json", exclude=elsewhere) | {"model": model}
    what = run.model_dump(mode="json", include={"fraction", "subclass", "regime"})
    text = json.dumps([document, what, data.state_of(config)], sort_keys=True)
    return folder / f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _model_stem(folder: Path, config: TrainingConfig, run: BenchmarkRun) -> Path:
    stem = _stem(folder, config, run)
    return stem.with_name(f"{stem.name}-model")


def _write(folder: Path, config: TrainingConfig, result: RunResult) -> None:
    stem = _stem(folder, config, result.run)
    np.save(stem.with_suffix(".npy"), result.prediction)
    document = {
        "run": result.run.model_dump(),
        "figures": result.figures,
        "n_train": result.n_train,
        "seconds": round(result.seconds, 1),
        "remarks": result.remarks,
    }
    write_whole(stem.with_suffix(".json"), json.dumps(document, indent=2) + "\n")


def _read(folder: Path, config: TrainingConfig, run: BenchmarkRun) -> RunResult | None:
    stem = _stem(folder, config, run)
    try:
        document = json.loads(stem.with_suffix(".json").read_bytes())
        prediction = np.load(stem.with_suffix(".npy"), allow_pickle=False)
        facts = document["n_train"], document["seconds"], tuple(document["remarks"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{stem}: not a kept result ({error}); remove it") from None
    test = data.held_out(config, run)
    if prediction.shape != (len(test), test.grid.size):
        raise ModelError(f"{stem}: a prediction of shape {prediction.shape}; remove it")
    return measured(run, prediction, test, *facts)
