"""Architectures and settings compared on one data set, over several seeds."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.architectures import ARCHITECTURES
from models.checkpoint import Checkpoint
from models.dataset import SpectrumDataset
from models.errors import ModelError
from models.fitting import Trained, train_setting
from models.metrics import spectrum_metrics
from models.phonons import phonon_figures
from models.splits import Split, fold, split_of
from models.training_config import TrainingConfig, load_dataset

FIGURES = {
    "r2": "R2",
    "mae": "MAE",
    "mse": "MSE",
    "wd": "WD",
    "cv_mae": "C_V error (J/K/mol of atoms)",
    "mean_frequency_mae": "mean frequency error (cm^-1)",
}


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
        Fields of :class:`models.training_config.TrainingConfig` that differ for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}


ARCHITECTURE_VARIANTS = tuple(Variant(name=a, architecture=a) for a in ARCHITECTURES)
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
)


class Run(BaseModel):
    """One training of a benchmark.

    Parameters
    ----------
    fraction : float
        Part of the training materials that is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    setting: str
    seed: int
    fraction: float = Field(1.0, gt=0, le=1)

    @property
    def title(self) -> str:
        """For people."""
        part = "" if self.fraction == 1 else f", {self.fraction:g} of the data"
        return f"{self.variant.name}, {self.setting}, seed {self.seed}{part}"


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one training gave.

    Parameters
    ----------
    prediction : ndarray, shape (n_test, K')
        Spectra of the test materials as the setting decodes them.
    figures : dict
        By the keys of `FIGURES`; normalised settings are measured on normalised labels.
    """

    run: Run
    prediction: np.ndarray
    figures: dict[str, float]
    n_train: int
    seconds: float


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
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[int, RunResult] = {}
    missing = []
    for i, run in enumerate(runs):
        kept = _read(folder, config, run)
        if kept is None:
            missing.append(i)
        else:
            results[i] = kept
            announce(kept, False)
    for i, result in _results(config, [runs[i] for i in missing], workers):
        _write(folder, config, result)
        results[missing[i]] = result
        announce(result, True)
    return [results[i] for i in range(len(runs))]


def _results(
    config: TrainingConfig, runs: list[Run], workers: int
) -> Iterator[tuple[int, RunResult]]:
    if workers < 2 or len(runs) < 2:
        for i, run in enumerate(runs):
            yield i, train_run(config, run)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(_train_in_worker, config, run): i for i, run in enumerate(runs)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _train_in_worker(config: TrainingConfig, run: Run) -> RunResult:
    torch.set_num_threads(1)
    return train_run(config, run)


def train_run(config: TrainingConfig, run: Run) -> RunResult:
    """Train and measure one run."""
    dataset, split, trained = _trained(config, run)
    test = dataset.subset(split.test)
    prediction = predict(trained.checkpoint, test)
    figures = measure(trained.checkpoint, prediction, test)
    return RunResult(run, prediction, figures, len(split.train), trained.seconds)


def train_checkpoint(config: TrainingConfig, run: Run) -> Checkpoint:
    """Train one run for its model, the one that :func:`train_run` measures."""
    return _trained(config, run)[2].checkpoint


def _trained(config: TrainingConfig, run: Run) -> tuple[SpectrumDataset, Split, Trained]:
    chosen = config_of(config, run)
    dataset = load_dataset(chosen)
    split = split_of(dataset, chosen.split_seed, chosen.split_by)
    train = part_of(dataset, split.train, run.fraction)
    split = Split(train, split.validation, split.test)
    return dataset, split, train_setting(chosen, run.setting, dataset, split)


def config_of(config: TrainingConfig, run: Run) -> TrainingConfig:
    """The training configuration of a run."""
    changes: dict[str, Any] = {"architecture": run.variant.architecture, "model": run.variant.model}
    changes |= {"seed": run.seed, "settings": (run.setting,)} | run.variant.training
    return TrainingConfig.model_validate(config.model_dump() | changes)


def part_of(dataset: SpectrumDataset, indices: np.ndarray, fraction: float) -> np.ndarray:
    """A part of the materials; a smaller part is contained in a larger one."""
    order = sorted(indices, key=lambda i: fold(dataset.material_ids[i], seed=12_345))
    return np.sort(order[: max(2, round(fraction * len(indices)))])


@torch.inference_mode()
def predict(checkpoint: Checkpoint, test: SpectrumDataset) -> np.ndarray:
    """Decoded spectra, shape (n, K')."""
    logits = checkpoint.model(test.graphs)
    return checkpoint.setting.decode(logits, test.graphs.n_atoms).numpy()


def measure(
    checkpoint: Checkpoint, prediction: np.ndarray, test: SpectrumDataset
) -> dict[str, float]:
    """Figures of decoded spectra; what is normalised is compared with normalised labels."""
    label, n_atoms = test.spectra.numpy(), test.graphs.n_atoms.numpy()
    if checkpoint.setting.output != "absolute":
        label = checkpoint.setting.target(test.spectra, test.graphs.n_atoms).numpy()
    figures = spectrum_metrics(prediction, label, test.grid.width)
    if test.grid.unit == "cm^-1":
        figures |= phonon_figures(prediction, label, test.grid, n_atoms)
    return figures


# Results on disk: figures as JSON, predictions beside them as a plain array.


def _stem(folder: Path, config: TrainingConfig, run: Run) -> Path:
    chosen = config_of(config, run).model_dump(
        mode="json", exclude={"name", "description", "limits", "labels", "structures"}
    )
    files = [p.stat() for p in (*config.labels, config.structures) if p is not None]
    data = [(f.st_size, f.st_mtime_ns) for f in files]
    text = json.dumps([chosen, run.fraction, data], sort_keys=True)
    return folder / f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _write(folder: Path, config: TrainingConfig, result: RunResult) -> None:
    stem = _stem(folder, config, result.run)
    np.save(stem.with_suffix(".npy"), result.prediction)
    document = {
        "run": result.run.model_dump(),
        "figures": result.figures,
        "n_train": result.n_train,
        "seconds": round(result.seconds, 1),
    }
    unfinished = stem.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(unfinished, stem.with_suffix(".json"))


def _read(folder: Path, config: TrainingConfig, run: Run) -> RunResult | None:
    stem = _stem(folder, config, run)
    try:
        document = json.loads(stem.with_suffix(".json").read_bytes())
        prediction = np.load(stem.with_suffix(".npy"), allow_pickle=False)
        return RunResult(
            run, prediction, document["figures"], document["n_train"], document["seconds"]
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{stem}: not a kept result ({error}); remove it") from None


# Tables.


@dataclass(frozen=True)
class Row:
    """Mean and sample standard deviation over seeds of the figures of one kind of run.

    Parameters
    ----------
    std : dict
        NaN for a single seed.
    """

    name: str
    setting: str
    fraction: float
    n_train: int
    n_seeds: int
    mean: dict[str, float]
    std: dict[str, float]
    seconds: float


def table(results: Iterable[RunResult]) -> list[Row]:
    """One row for each variant, setting and fraction, in the order of their first result."""
    groups: dict[tuple[str, str, float], list[RunResult]] = {}
    for result in results:
        run = result.run
        groups.setdefault((run.variant.name, run.setting, run.fraction), []).append(result)
    return [_row(group) for group in groups.values()]


def _row(group: list[RunResult]) -> Row:
    run = group[0].run
    values = {key: [r.figures[key] for r in group] for key in group[0].figures}
    return Row(
        run.variant.name,
        run.setting,
        run.fraction,
        group[0].n_train,
        len(group),
        {key: float(np.mean(v)) for key, v in values.items()},
        {key: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan for key, v in values.items()},
        float(np.mean([r.seconds for r in group])),
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """Table with ``mean ± std`` in every cell."""
    keys = list(dict.fromkeys(key for row in rows for key in row.mean))
    head = ["model", "setting", "training set", "seeds", *(FIGURES.get(k, k) for k in keys)]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [_cell(row.mean.get(k), row.std.get(k)) for k in keys]
        lines.append(_line([row.name, row.setting, row.n_train, row.n_seeds, *cells]))
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row], path: Path) -> None:
    """Table with a column for the mean and one for the deviation of each figure."""
    keys = list(dict.fromkeys(key for row in rows for key in row.mean))
    columns = [f"{key}_{what}" for key in keys for what in ("mean", "std")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "setting", "fraction", "n_train", "seeds", *columns, "seconds"])
        for row in rows:
            cells = [_blank(part.get(k)) for k in keys for part in (row.mean, row.std)]
            first = [row.name, row.setting, row.fraction, row.n_train, row.n_seeds]
            writer.writerow([*first, *cells, round(row.seconds, 1)])


def to_document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Table for JSON; None where there is no number."""
    return [
        {
            "model": row.name,
            "setting": row.setting,
            "fraction": row.fraction,
            "n_train": row.n_train,
            "seeds": row.n_seeds,
            "mean": {k: _number(v) for k, v in row.mean.items()},
            "std": {k: _number(v) for k, v in row.std.items()},
            "seconds": round(row.seconds, 1),
        }
        for row in rows
    ]


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _cell(mean: float | None, std: float | None) -> str:
    if mean is None or math.isnan(mean):
        return "-"
    return f"{mean:.4g}" if std is None or math.isnan(std) else f"{mean:.4g} ± {std:.2g}"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _blank(value: float | None) -> float | str:
    return "" if _number(value) is None else value  # type: ignore[return-value]
