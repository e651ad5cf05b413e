"""Architectures and settings compared on one data set, over several seeds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.architectures.registry import ARCHITECTURES, graphs_for, model_config
from models.crystal import Crystal
from models.data.dataset import SpectrumDataset, refuse_settings
from models.data.label_files import edos_labels, read_crystals
from models.data.splits import Split, fold, split_of
from models.errors import ModelError
from models.graphs.graph import GraphConfig, edge_budget_batches
from models.predictor import EDGE_BUDGET
from models.processes import deaf_to_interrupts, end_with_parent, kill_workers
from models.spectra.metrics import spectrum_metrics
from models.spectra.phonons import phonon_figures
from models.spectra.settings import SETTINGS
from models.training.card import label_branch_collapsed, label_branch_in_words
from models.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig, load_dataset
from models.training.fit import train_setting
from screening.benchmark.studies import nearest_in_training
from screening.benchmark.subclasses import Subclass

Regime = Literal["global", "subclass only", "fine-tuned"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
FINE_TUNING_RATE = 0.1  # of the learning rate: the weights are good already
FINE_TUNING_EPOCHS = 0.25  # of the epochs
LOADED = 4  # data sets that a process keeps; architectures differ in the graphs they need
MIN_TRAIN, MIN_VALIDATION, MIN_TEST = 4, 1, 2  # materials of a subclass; R2 needs two


class Variant(BaseModel):
    """A row of a benchmark table: an architecture with its configuration.

    Parameters
    ----------
    name : str
        What the tables call it.
    architecture : str
    model : dict
        Configuration of the architecture.
    training : dict
        Fields of :class:`models.training.config.TrainingConfig` that differ for it.
    epochs : float
        Part of the benchmark's epochs that it is trained for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}
    epochs: float = Field(1.0, gt=0)


def _plus(what: str = "", **model: Any) -> Variant:
    """Mat2Spec+ with smaller batches, so more steps in an epoch, and stronger weight decay."""
    return Variant(
        name=f"mat2spec+ {what}".strip(),
        architecture="mat2spec+",
        model=model,
        training={"batch_size": 32, "weight_decay": 1.0},
        epochs=0.5,
    )


def _springs(what: str = "", **model: Any) -> Variant:
    """Springs in few epochs: there is little to learn, and each step takes eigenvalues."""
    return Variant(
        name=f"springs {what}".strip(),
        architecture="springs",
        model=model,
        training={"batch_size": 16, "weight_decay": 0.3, "learning_rate": 3e-3},
        epochs=0.06,
    )


_TRAINED_OTHERWISE = {"mat2spec+": _plus(), "springs": _springs()}
ARCHITECTURE_VARIANTS = tuple(
    _TRAINED_OTHERWISE.get(a, Variant(name=a, architecture=a)) for a in ARCHITECTURES
)
ABLATION_VARIANTS = (
    Variant(
        name="mat2spec without label embedding",
        architecture="mat2spec",
        model={"label_embedding": False},
    ),
    Variant(name="mat2spec without projector", architecture="mat2spec", model={"projector": False}),
    Variant(
        name="mat2spec without contrastive loss",
        architecture="mat2spec",
        model={"loss_weights": {"contrastive": 0.0}},
    ),
    Variant(
        name="mat2spec without alignment loss",
        architecture="mat2spec",
        model={"loss_weights": {"alignment": 0.0}},
    ),
    _plus("with one member", members=1),
    _plus("without element properties", properties=False),
    _plus("without statistics", statistics=False),
    _plus("without spectra of sites", site_resolved=False),
    _plus("without kernel regression", kernel=0),
    _plus("with strained structures", strain=0.02),
    Variant(name="mat2spec+ trained as the others", architecture="mat2spec+"),
    _springs("with one member", members=1),
    _springs("without kernel regression", kernel=0),
)
MEAN_SPECTRUM = Variant(name="mean spectrum", architecture="none")
NEAREST_COMPOSITION = Variant(name="nearest composition", architecture="none")
REFERENCES = (MEAN_SPECTRUM, NEAREST_COMPOSITION)  # nothing is trained for them


class Run(BaseModel):
    """One training of a benchmark, and what it is measured on.

    Parameters
    ----------
    fraction : float
        Part of the training materials that is used.
    subclass : Subclass, optional
        Only its test materials are measured.
    regime : {'global', 'subclass only', 'fine-tuned'}
        Trained on all materials, on those of the subclass, or on all and then on those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    setting: str
    seed: int
    fraction: float = Field(1.0, gt=0, le=1)
    subclass: Subclass | None = None
    regime: Regime = "global"

    @property
    def title(self) -> str:
        """For people."""
        part = "" if self.fraction == 1 else f", {self.fraction:g} of the data"
        of = "" if self.subclass is None else f", {self.subclass.name} {self.regime}"
        return f"{self.variant.name}, {self.setting}, seed {self.seed}{part}{of}"

    @property
    def whole(self) -> Run:
        """The run of the same kind with all materials for training and for the test."""
        return self.model_copy(update={"fraction": 1.0, "subclass": None, "regime": "global"})


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
    """

    run: Run
    prediction: np.ndarray
    figures: dict[str, float]
    n_train: int
    seconds: float
    remarks: tuple[str, ...] = ()


def plan(
    variants: Sequence[Variant],
    settings: Sequence[str],
    seeds: int,
    fractions: Sequence[float] = (1.0,),
) -> list[Run]:
    """All combinations, the first seed of everything first."""
    return [
        Run(variant=v, setting=s, seed=seed, fraction=f)
        for seed in range(seeds)
        for f in fractions
        for v in variants
        for s in settings
    ]


def plan_subclasses(whole: Sequence[Run], subclasses: Sequence[Subclass]) -> list[Run]:
    """For each run with all materials one on each subclass alone, and one fine-tuned to it."""
    return [
        run.model_copy(update={"subclass": subclass, "regime": regime})
        for run in whole
        for subclass in subclasses
        for regime in REGIMES
        if regime != "global"
    ]


def run_all(
    config: TrainingConfig,
    runs: Sequence[Run],
    folder: Path,
    workers: int = 1,
    announce: Callable[[RunResult, bool], None] = lambda _result, _new: None,
) -> list[RunResult]:
    """Do every run that `folder` does not have yet; results come in the order of `runs`.

    Parameters
    ----------
    config : TrainingConfig
        Data, split and hyperparameters that the runs have in common.
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
    _forget_changed()
    results: dict[int, RunResult] = {}
    missing = []
    for i, run in enumerate(runs):
        kept = _read(folder, config, run)
        if kept is None:
            missing.append(i)
        else:
            results[i] = kept
            announce(kept, False)
    # What is fine-tuned needs the model of another run.
    first = [i for i in missing if runs[i].regime != "fine-tuned"]
    for wave in (first, [i for i in missing if runs[i].regime == "fine-tuned"]):
        for i, result in _results(config, [runs[i] for i in wave], folder, workers):
            _write(folder, config, result)
            results[wave[i]] = result
            announce(result, True)
    return [results[i] for i in range(len(runs))]


def _results(
    config: TrainingConfig, runs: list[Run], folder: Path, workers: int
) -> Iterator[tuple[int, RunResult]]:
    if workers < 2 or len(runs) < 2:
        for i, run in enumerate(runs):
            yield i, train_run(config, run, folder)
        return
    for run in runs:
        shared_dataset(config_of(config, run))
    # The workers get what was read here: a file may grow in the meantime.
    read = (_states, _loaded)
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(runs)), context, _start_worker, read) as pool:
        try:
            with deaf_to_interrupts():
                futures = {pool.submit(train_run, config, r, folder): i for i, r in enumerate(runs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ModelError("a training process died; out of memory? use fewer workers") from None
        except BaseException:  # Ctrl-C, or an error of a run, waits for no other run
            kill_workers(pool)
            raise


def _start_worker(states: dict, loaded: dict) -> None:
    """One thread, and an end with the parent instead of another epoch."""
    _states.update(states)
    _loaded.update(loaded)
    end_with_parent()
    torch.set_num_threads(1)


def train_run(config: TrainingConfig, run: Run, folder: Path) -> RunResult:
    """Train and measure one run; the model of a run with all materials is kept in `folder`."""
    chosen, remarks = config_of(config, run), list[str]()
    dataset = shared_dataset(chosen)
    split = split_for(dataset, chosen, run)
    start = kept_model(config, run.whole, folder) if run.regime == "fine-tuned" else None
    trained = train_setting(
        chosen, run.setting, dataset, split, start=start, announce=remarks.append
    )
    if trained.label_branch and label_branch_collapsed(trained.label_branch):
        remarks.append(label_branch_in_words(trained.label_branch))
    if run == run.whole:
        save_checkpoint(_model_stem(folder, config, run), trained.checkpoint)
    test = dataset.subset(split.test)
    prediction = predict(trained.checkpoint, test)
    figures = measure(run.setting, prediction, test)
    return RunResult(run, prediction, figures, len(split.train), trained.seconds, tuple(remarks))


def kept_model(config: TrainingConfig, run: Run, folder: Path) -> Checkpoint:
    """The model that a run with all materials left in `folder`; trained if it is not there."""
    stem = _model_stem(folder, config, run)
    if not stem.with_suffix(".json").exists():
        _write(folder, config, train_run(config, run, folder))
    return load_checkpoint(stem)


def reference(config: TrainingConfig, variant: Variant, setting: str) -> RunResult:
    """A prediction that knows no structure, from the training spectra alone.

    Parameters
    ----------
    variant : Variant
        Of :data:`REFERENCES`. The mean spectrum is the same for every material; the nearest
        composition's is that of the training material whose composition is the most similar
        (:func:`screening.benchmark.studies.nearest_in_training`). Where spectra grow with the cell
        both are taken per atom, and multiplied with the atoms of the material.
    """
    run = Run(variant=variant, setting=setting, seed=0)
    dataset = shared_dataset(config)
    split = split_for(dataset, config, run)
    train, test = dataset.subset(split.train), dataset.subset(split.test)
    units = [d.graphs.n_atoms.numpy()[:, None] for d in (train, test)]
    if SETTINGS[setting].output != "absolute" or not dataset.extensive:
        units = [np.ones_like(u) for u in units]
    spectra = labels_for(setting, train) / units[0]
    if variant == MEAN_SPECTRUM:
        weights = np.full((len(test), len(train)), 1 / len(train))
    else:
        weights = nearest_in_training(test, train)
    prediction = weights @ spectra * units[1]
    figures = measure(setting, prediction, test)
    return RunResult(run, prediction, figures, len(train), 0.0)


def on_subclass(config: TrainingConfig, result: RunResult, subclass: Subclass) -> RunResult:
    """The result of a run with all materials, measured on the test materials of a subclass."""
    test = held_out(config, result.run)
    rows = np.flatnonzero(subclass.members(test))
    run = result.run.model_copy(update={"subclass": subclass})
    prediction = result.prediction[rows]
    figures = measure(run.setting, prediction, test.subset(rows))
    return replace(result, run=run, prediction=prediction, figures=figures)


def on_file(config: TrainingConfig, run: Run, folder: Path, file: Path) -> RunResult:
    """A run with all materials, measured on the labels of another file.

    Materials that the run was trained or validated on are left out.

    Raises
    ------
    ModelError
        If no other material is in the file, or its labels lack the scale that the setting needs.
    """
    chosen = config_of(config, run)
    known = shared_dataset(chosen)
    split = split_for(known, chosen, run)
    seen = {known.material_ids[i] for i in (*split.train, *split.validation)}
    other = shared_dataset(chosen.model_copy(update={"labels": (file,)}))
    refuse_settings(other, [run.setting])
    rows = [i for i, material_id in enumerate(other.material_ids) if material_id not in seen]
    if len(rows) < MIN_TEST:
        raise ModelError(f"{file}: {len(rows)} materials that were not trained on; too few")
    test = other.subset(rows)
    prediction = predict(kept_model(config, run, folder), test)
    figures = measure(run.setting, prediction, test)
    return RunResult(run, prediction, figures, len(split.train), 0.0)


def config_of(config: TrainingConfig, run: Run) -> TrainingConfig:
    """The training configuration of a run."""
    changes: dict[str, Any] = {"architecture": run.variant.architecture, "model": run.variant.model}
    changes |= {"seed": run.seed, "settings": (run.setting,)} | run.variant.training
    changes["epochs"] = max(1, round(run.variant.epochs * config.epochs))
    chosen = TrainingConfig.model_validate(config.model_dump() | changes)
    if run.regime != "fine-tuned":
        return chosen
    gentle = {
        "learning_rate": FINE_TUNING_RATE * chosen.learning_rate,
        "epochs": max(1, round(FINE_TUNING_EPOCHS * chosen.epochs)),
    }
    return chosen.model_copy(update=gentle)


# Data.

_Files = tuple[Path, ...]
_State = tuple[str, ...]  # hash of each file: a copy has the same results
_states: dict[_Files, _State] = {}
_loaded: dict[tuple[str, _Files, GraphConfig], SpectrumDataset] = {}


def shared_dataset(config: TrainingConfig) -> SpectrumDataset:
    """The data set of a configuration; a process reads files and builds graphs once.

    Raises
    ------
    ModelError
        If the files are others than those that earlier runs have read.
    """
    files, state = _files(config), _state(config)
    key = (config.target, files, graphs_for(config.architecture, config.graph))
    if key not in _loaded:
        while len(_loaded) >= LOADED:
            del _loaded[next(iter(_loaded))]
        dataset = load_dataset(config)
        if _read_state(files) != state:
            names = ", ".join(path.name for path in files)
            raise ModelError(f"{names}: changed during the benchmark; copy them and begin again")
        _loaded[key] = dataset
    return _loaded[key]


def _files(config: TrainingConfig) -> _Files:
    return tuple(path for path in (*config.labels, config.structures) if path is not None)


def _state(config: TrainingConfig) -> _State:
    """State of the files of a data set when this process first asked for it.

    Labels may be added to a file while runs that began without them go on.
    """
    files = _files(config)
    if files not in _states:
        _states[files] = _read_state(files)
    return _states[files]


def _read_state(files: _Files) -> _State:
    try:
        return tuple(_digest(path) for path in files)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forget_changed() -> None:
    """Read files again that have changed since."""
    for files in [files for files, state in _states.items() if _read_state(files) != state]:
        del _states[files]
        for key in [key for key in _loaded if key[1] == files]:
            del _loaded[key]


def crystals_of(config: TrainingConfig, material_ids: Sequence[str]) -> dict[str, Crystal]:
    """Structures of some materials of a data set, by `material_id`."""
    if config.target == "edos":
        found = edos_labels(config.labels, config.structures).crystals
    else:
        found = read_crystals(config.labels[0], set(material_ids))
    return {i: found[i] for i in material_ids}


def split_for(dataset: SpectrumDataset, config: TrainingConfig, run: Run) -> Split:
    """What a run is trained, validated and tested on.

    Raises
    ------
    ModelError
        If its subclass has too few materials in one of the parts.
    """
    split = split_of(dataset, config.split_seed, config.split_by)
    if run.subclass is not None:
        split = _within(split, run.subclass.members(dataset), run)
    return replace(split, train=part_of(dataset, split.train, run.fraction))


def _within(split: Split, inside: np.ndarray, run: Run) -> Split:
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


def held_out(config: TrainingConfig, run: Run) -> SpectrumDataset:
    """The materials that the prediction of a run is for, in its order."""
    chosen = config_of(config, run) if run.variant not in REFERENCES else config
    dataset = shared_dataset(chosen)
    return dataset.subset(split_for(dataset, chosen, run).test)


def part_of(dataset: SpectrumDataset, indices: np.ndarray, fraction: float) -> np.ndarray:
    """A part of the materials; a smaller part is contained in a larger one."""
    order = sorted(indices, key=lambda i: fold(dataset.material_ids[i], seed=12_345))
    return np.sort(order[: max(2, round(fraction * len(indices)))])


# Measuring.


@torch.inference_mode()
def predict(checkpoint: Checkpoint, test: SpectrumDataset) -> np.ndarray:
    """Decoded spectra, shape (n, K').

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


def labels_for(setting: str, dataset: SpectrumDataset) -> np.ndarray:
    """What predictions of a setting are compared with, shape (n, K')."""
    kind = SETTINGS[setting](dataset.grid.size, dataset.extensive)
    if kind.output == "absolute":
        return dataset.spectra.numpy()
    return kind.target(dataset.spectra, dataset.graphs.n_atoms).numpy()


def measure(setting: str, prediction: np.ndarray, test: SpectrumDataset) -> dict[str, float]:
    """Figures of decoded spectra; what is normalised is compared with normalised labels."""
    label = labels_for(setting, test)
    figures = spectrum_metrics(prediction, label, test.grid.width)
    if test.grid.unit == "cm^-1":
        figures |= phonon_figures(prediction, label, test.grid, test.graphs.n_atoms.numpy())
    return figures


# Results on disk: facts as JSON, predictions beside them as a plain array. The figures in the JSON
# are for people: they are measured again when a result is read, since the way to measure may have
# changed.


def _stem(folder: Path, config: TrainingConfig, run: Run) -> Path:
    chosen = config_of(config, run)
    # Defaults of an architecture may change, so they are part of what was trained.
    model = model_config(chosen.architecture, chosen.model).model_dump(mode="json")
    elsewhere = {"name", "description", "attribution", "limits", "labels", "structures", "half"}
    document = chosen.model_dump(mode="json", exclude=elsewhere) | {"model": model}
    what = run.model_dump(mode="json", include={"fraction", "subclass", "regime"})
    text = json.dumps([document, what, _state(config)], sort_keys=True)
    return folder / f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _model_stem(folder: Path, config: TrainingConfig, run: Run) -> Path:
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
    unfinished = stem.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(unfinished, stem.with_suffix(".json"))


def _read(folder: Path, config: TrainingConfig, run: Run) -> RunResult | None:
    stem = _stem(folder, config, run)
    try:
        document = json.loads(stem.with_suffix(".json").read_bytes())
        prediction = np.load(stem.with_suffix(".npy"), allow_pickle=False)
        facts = document["n_train"], document["seconds"], tuple(document["remarks"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{stem}: not a kept result ({error}); remove it") from None
    test = held_out(config, run)
    if prediction.shape != (len(test), test.grid.size):
        raise ModelError(f"{stem}: a prediction of shape {prediction.shape}; remove it")
    return RunResult(run, prediction, measure(run.setting, prediction, test), *facts)
