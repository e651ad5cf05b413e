"""When to trust a prediction: errors by material, by distortion, on subclasses and other labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.crystal import Crystal
from models.data.dataset import usable_settings, with_structures
from models.spectra.metrics import quintile_examples
from models.training.config import TrainingConfig
from screening.benchmark import data
from screening.benchmark.runs import RunResult, kept_model, measure, on_file, on_subclass, predict
from screening.benchmark.subclasses import Subclass
from screening.benchmark.tables import finite, table, to_document
from screening.benchmark.variants import REFERENCES, REGIMES, BenchmarkRun

RATTLES = (0.02, 0.05, 0.1, 0.2)  # Å
STRAINS = (-0.04, -0.02, 0.02, 0.04)
GROUPS = {  # of the study of errors: key in the documents, and what the tables call it
    "n_elements": "number of elements",
    "n_sites": "number of sites",
    "similarity": "similarity of the nearest training composition",
    "roughness": "share of fast Fourier components",
}


@dataclass(frozen=True)
class Bin:
    """Errors of the test materials that have something in common.

    Parameters
    ----------
    median, low, high : float
        Median and quartiles of the errors.
    """

    label: str
    n: int
    mean: float
    median: float
    low: float
    high: float


def errors_by(errors: np.ndarray, groups: Sequence[object]) -> list[Bin]:
    """Statistics of the errors for each value of `groups` (length n), in sorted order.

    Parameters
    ----------
    errors : ndarray, shape (n,)
    groups : sequence
        Value of each material.
    """
    labels = np.array(groups)
    return [_bin(str(value), errors[labels == value]) for value in np.unique(labels)]


def errors_by_quantile(errors: np.ndarray, values: np.ndarray, n_bins: int = 4) -> list[Bin]:
    """Statistics of the errors in bins of about equally many materials by `values` (n,).

    Materials of the same value are in the same bin.

    Parameters
    ----------
    errors, values : ndarray, shape (n,)
    n_bins : int
        There are fewer where many materials have the same value.
    """
    order = np.argsort(values, kind="stable")
    ends = np.cumsum([len(part) for part in np.array_split(order, n_bins)])[:-1]
    # Cut where the next value begins that is nearest to an equal share.
    begins = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    cuts = {int(begins[np.abs(begins - end).argmin()]) for end in ends} - {0}
    parts = np.split(order, sorted(cuts))
    return [_bin(_range(values[p[0]], values[p[-1]]), errors[p]) for p in parts]


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _bin(label: str, errors: np.ndarray) -> Bin:
    low, median, high = np.quantile(errors, [0.25, 0.5, 0.75])
    return Bin(label, len(errors), float(errors.mean()), float(median), float(low), float(high))


def roughness(label: np.ndarray, above: float = 0.25) -> np.ndarray:
    """Share of a spectrum's variation in its fast Fourier components, shape (n,).

    Parameters
    ----------
    label : ndarray, shape (n, K')
    above : float
        Components above this part of the highest frequency are fast.
    """
    power = np.abs(np.fft.rfft(label - label.mean(-1, keepdims=True), axis=-1)) ** 2
    first = int(above * (power.shape[1] - 1)) + 1
    return power[:, first:].sum(-1) / np.maximum(power.sum(-1), 1e-300)


def rattled(crystal: Crystal, amount: float, seed: int) -> Crystal:
    """The crystal with every atom moved by Gaussian noise of deviation `amount` Å per axis.

    Parameters
    ----------
    crystal : Crystal
    amount : float
        In Å.
    seed : int
    """
    noise = np.random.default_rng(seed).normal(0.0, amount, (len(crystal), 3))
    moved = crystal.frac_coords + noise @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, moved, crystal.atomic_numbers)


def strained(crystal: Crystal, strain: float) -> Crystal:
    """The crystal with all lengths multiplied by 1 + `strain`.

    Parameters
    ----------
    crystal : Crystal
    strain : float
    """
    return Crystal(crystal.lattice * (1 + strain), crystal.frac_coords, crystal.atomic_numbers)


def error_study(config: TrainingConfig, results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """Errors of the first seed by elements, sites, similar training data and roughness.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    results : iterable of RunResult
        Of the first seed.

    Returns
    -------
    list of dict
        One for each result: ``model``, ``setting``, a list of bins for each key of `GROUPS`, and
        the ``examples`` of the quintiles (ids, best to worst).
    """
    documents = []
    for result in results:
        run = result.run
        dataset = data.shared_dataset(config)
        split = data.split_for(dataset, config, run)
        train, test = dataset.subset(split.train), data.held_out(config, run)
        errors = result.errors["mae"]
        by_quantile = partial(errors_by_quantile, errors)
        bins = {
            "n_elements": errors_by(errors, data.n_elements(test).tolist()),
            "n_sites": by_quantile(test.graphs.n_atoms.numpy()),
            "similarity": by_quantile(data.similar_in_training(test, train)),
            "roughness": by_quantile(roughness(data.labels_for(run.setting, test))),
        }
        examples = [test.material_ids[i] for i in quintile_examples(errors)]
        documents.append(
            {"model": run.variant.name, "setting": run.setting}
            | {key: [asdict(b) for b in of_group] for key, of_group in bins.items()}
            | {"examples": examples}
        )
    return documents


def unrelaxed_study(
    config: TrainingConfig, runs: Iterable[BenchmarkRun], folder: Path
) -> list[dict[str, Any]]:
    """How errors grow when the test structures are rattled or strained.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    runs : iterable of BenchmarkRun
    folder : Path
        Of the runs, with their models.
    """
    documents: list[dict[str, Any]] = []
    for run in runs:
        checkpoint = kept_model(config, run, folder)
        test = data.held_out(config, run)
        crystals = data.crystals_of(config, test.material_ids)
        for kind, amount, change in _distortions():
            changed = {i: change(crystal) for i, crystal in crystals.items()}
            distorted = with_structures(test, changed, checkpoint.card.graph)
            figures = measure(run.setting, predict(checkpoint, distorted), distorted)
            what: dict[str, Any] = {"model": run.variant.name, "setting": run.setting}
            what |= {"distortion": kind, "amount": amount, "n": len(distorted)}
            documents.append(what | {key: finite(value) for key, value in figures.items()})
    return documents


def _distortions() -> list[tuple[str, float, Any]]:
    def unchanged(crystal: Crystal) -> Crystal:
        return crystal

    rattles = [("rattle (Å)", a, partial(rattled, amount=a, seed=0)) for a in RATTLES]
    strains = [("strain", s, partial(strained, strain=s)) for s in STRAINS]
    return [("none", 0.0, unchanged), *rattles, *strains]


def subclass_results(
    config: TrainingConfig, results: Sequence[RunResult], subclasses: Sequence[Subclass]
) -> list[RunResult]:
    """Results on each subclass, the three ways of training of a model beside each other.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    results : sequence of RunResult
        On all materials and on subclasses.
    subclasses : sequence of Subclass
        In this order.
    """
    # Global models are those of the runs that were repeated on the subclasses, and the reference.
    repeated = [r.run.whole for r in results if r.run.subclass]
    measured = []
    for subclass in subclasses:
        for result in results:
            run = result.run
            if run.subclass is None and (run in repeated or run.variant in REFERENCES):
                measured.append(on_subclass(config, result, subclass))
            elif run.subclass == subclass:
                measured.append(result)
    order = {name: i for i, name in enumerate(dict.fromkeys(r.run.variant.name for r in measured))}
    return sorted(
        measured,
        key=lambda r: (
            subclasses.index(r.run.subclass),
            r.run.setting,
            order[r.run.variant.name],
            REGIMES.index(r.run.regime),
        ),
    )


def external_rows(
    config: TrainingConfig, runs: Iterable[BenchmarkRun], folder: Path, files: Iterable[Path]
) -> list[dict[str, Any]]:
    """Figures on the labels of other files, one row for each file and kind of run.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    runs : iterable of BenchmarkRun
    folder : Path
        Of the runs, with their models.
    files : iterable of Path
        Parquet files of labels.
    """
    documents = []
    for file in files:
        usable = usable_settings(data.shared_dataset(config.model_copy(update={"labels": (file,)})))
        results = [on_file(config, r, folder, file) for r in runs if r.setting in usable]
        documents += [{"file": file.name} | row for row in to_document(table(results))]
    return documents
