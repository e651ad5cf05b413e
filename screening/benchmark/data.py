"""The data of a benchmark: read once in a process, split, and cut to what a run is for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.architectures.registry import graphs_for
from models.crystal import Crystal
from models.data.dataset import SpectrumDataset
from models.data.label_files import edos_labels, read_crystals
from models.data.splits import Split, fold, split_of
from models.errors import ModelError
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS
from models.training.config import TrainingConfig, load_dataset
from screening.benchmark.variants import REFERENCES, BenchmarkRun

FINE_TUNING_RATE = 0.1  # of the learning rate: the weights are good already
FINE_TUNING_EPOCHS = 0.25  # of the epochs
LOADED = 4  # data sets that a process keeps; architectures differ in the graphs they need
MIN_TRAIN, MIN_VALIDATION, MIN_TEST = 4, 1, 2  # materials of a subclass; R2 needs two


def config_of(config: TrainingConfig, run: BenchmarkRun) -> TrainingConfig:
    """The training configuration of a run.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    run : BenchmarkRun
    """
    changes: dict[str, Any] = {"architecture": run.variant.architecture, "model": run.variant.model}
    changes |= {"seed": run.seed, "settings": (run.setting,)} | run.variant.training
    changes["epochs"] = max(1, round(run.variant.epochs * config.epochs))
    own = TrainingConfig.model_validate(config.model_dump() | changes)
    if run.regime != "fine-tuned":
        return own
    gentle = {
        "learning_rate": FINE_TUNING_RATE * own.learning_rate,
        "epochs": max(1, round(FINE_TUNING_EPOCHS * own.epochs)),
    }
    return own.model_copy(update=gentle)


_Files = tuple[Path, ...]
_State = tuple[str, ...]  # hash of each file: a copy has the same results
states_read: dict[_Files, _State] = {}
datasets_read: dict[tuple[str, _Files, GraphConfig], SpectrumDataset] = {}


def shared_dataset(config: TrainingConfig) -> SpectrumDataset:
    """The data set of a configuration; a process reads files and builds graphs once.

    Raises
    ------
    ModelError
        If the files are others than those that earlier runs have read.
    """
    files, state = _files(config), state_of(config)
    key = (config.target, files, graphs_for(config.architecture, config.graph))
    if key not in datasets_read:
        while len(datasets_read) >= LOADED:
            del datasets_read[next(iter(datasets_read))]
        dataset = load_dataset(config)
        if _read_state(files) != state:
            names = ", ".join(path.name for path in files)
            raise ModelError(f"{names}: changed during the benchmark; copy them and begin again")
        datasets_read[key] = dataset
    return datasets_read[key]


def _files(config: TrainingConfig) -> _Files:
    return tuple(path for path in (*config.labels, config.structures) if path is not None)


def state_of(config: TrainingConfig) -> _State:
    """State of the files of a data set when this process first asked for it.

    Labels may be added to a file while runs that began without them go on.
    """
    files = _files(config)
    if files not in states_read:
        states_read[files] = _read_state(files)
    return states_read[files]


def take_as_read(states: dict[Any, Any], loaded: dict[Any, Any]) -> None:
    """Use what another process has read: a file may grow in the meantime.

    Parameters
    ----------
    states, loaded : dict
        Those of this module there.
    """
    states_read.update(states)
    datasets_read.update(loaded)


def _read_state(files: _Files) -> _State:
    try:
        return tuple(_digest(path) for path in files)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def forget_changed() -> None:
    """Read files again that have changed since."""
    for files in [files for files, state in states_read.items() if _read_state(files) != state]:
        del states_read[files]
        for key in [key for key in datasets_read if key[1] == files]:
            del datasets_read[key]


def crystals_of(config: TrainingConfig, material_ids: Sequence[str]) -> dict[str, Crystal]:
    """Structures of some materials of a data set, by `material_id`.

    Parameters
    ----------
    config : TrainingConfig
    material_ids : sequence of str
    """
    if config.target == "edos":
        crystals = edos_labels(config.labels, config.structures).crystals
    else:
        crystals = read_crystals(config.labels[0], set(material_ids))
    return {i: crystals[i] for i in material_ids}


def split_for(dataset: SpectrumDataset, config: TrainingConfig, run: BenchmarkRun) -> Split:
    """What a run is trained, validated and tested on.

    Parameters
    ----------
    dataset : SpectrumDataset
    config : TrainingConfig
    run : BenchmarkRun

    Raises
    ------
    ModelError
        If its subclass has too few materials in one of the parts.
    """
    split = split_of(dataset, config.split_seed, config.split_by)
    if run.subclass is not None:
        split = _within(split, run.subclass.members(dataset), run)
    return replace(split, train=part_of(dataset, split.train, run.fraction))


def _within(split: Split, inside: np.ndarray, run: BenchmarkRun) -> Split:
    assert run.subclass is not None
    train, validation, test = (p[inside[p]] for p in (split.train, split.validation, split.test))
    counts = (len(train), len(validation), len(test))
    needed = (MIN_TRAIN, MIN_VALIDATION, MIN_TEST)
    if any(n < least for n, least in zip(counts, needed, strict=True)):
        raise ModelError(
            f"{run.subclass.name}: {counts[0]} training, {counts[1]} validation and {counts[2]} "
            f"test materials; at least {needed[0]}, {needed[1]} and {needed[2]} are needed"
        )
    return replace(split, test=test) if run.regime == "global" else Split(train, validation, test)


def held_out(config: TrainingConfig, run: BenchmarkRun) -> SpectrumDataset:
    """The materials that the prediction of a run is for, in its order.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    run : BenchmarkRun
    """
    own = config_of(config, run) if run.variant not in REFERENCES else config
    dataset = shared_dataset(own)
    return dataset.subset(split_for(dataset, own, run).test)


def part_of(dataset: SpectrumDataset, indices: np.ndarray, fraction: float) -> np.ndarray:
    """A part of the materials; a smaller part is contained in a larger one.

    Parameters
    ----------
    dataset : SpectrumDataset
    indices : ndarray of int
        Of the whole.
    fraction : float
        At least two materials are taken.
    """
    order = sorted(indices, key=lambda i: fold(dataset.material_ids[i], seed=12_345))
    return np.sort(order[: max(2, round(fraction * len(indices)))])


def labels_for(setting: str, dataset: SpectrumDataset) -> np.ndarray:
    """What predictions of a setting are compared with, shape (n, K').

    Parameters
    ----------
    setting : str
        Name of the scaling and loss.
    dataset : SpectrumDataset
    """
    kind = SETTINGS[setting](dataset.grid.size, dataset.extensive)
    if kind.output == "absolute":
        return dataset.spectra.numpy()
    return kind.target(dataset.spectra, dataset.graphs.n_atoms).numpy()


def n_elements(dataset: SpectrumDataset) -> np.ndarray:
    """Number of elements of each material, shape (n,)."""
    return np.array([system.count("-") + 1 for system in dataset.chemical_systems])


def similar_in_training(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    """Cosine similarity of each composition to the nearest training composition, shape (n,).

    Parameters
    ----------
    test, train : SpectrumDataset
        Of n and n_train materials.
    """
    return _similarity(test, train).max(1)


def nearest_in_training(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    """Weights of the training materials with the most similar composition, shape (n, n_train).

    Each row has the sum 1. Training materials as similar as the nearest one (to 1e-6), such as
    polymorphs, share it equally.

    Parameters
    ----------
    test, train : SpectrumDataset
        Of n and n_train materials.
    """
    similarity = _similarity(test, train)
    nearest = similarity >= similarity.max(1, keepdims=True) - 1e-6
    return nearest / nearest.sum(1, keepdims=True)


def _similarity(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    a, b = (_unit(d.graphs.composition().double()) for d in (test, train))
    return (a @ b.T).numpy()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
