"""When to trust a prediction: how errors depend on the material and on its structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.crystal import Crystal
from models.data.dataset import SpectrumDataset
from models.spectra.metrics import wasserstein_distances


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


def material_errors(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean absolute error of each material's spectrum, shape (n,)."""
    return np.abs(prediction - label).mean(-1)


def errors_by(errors: np.ndarray, groups: Sequence[object]) -> list[Bin]:
    """Statistics of the errors for each value of `groups` (length n), in sorted order."""
    labels = np.array(groups)
    return [_bin(str(value), errors[labels == value]) for value in np.unique(labels)]


def errors_by_quantile(errors: np.ndarray, values: np.ndarray, n_bins: int = 4) -> list[Bin]:
    """Statistics of the errors in bins of about equally many materials by `values` (n,).

    Materials of the same value are in the same bin.
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


def n_elements(dataset: SpectrumDataset) -> np.ndarray:
    """Number of elements of each material, shape (n,)."""
    return np.array([system.count("-") + 1 for system in dataset.chemical_systems])


def similar_in_training(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    """Cosine similarity of each composition to the nearest training composition, shape (n,)."""
    return _similarity(test, train).max(1)


def nearest_in_training(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    """Weights of the training materials with the most similar composition, shape (n, n_train).

    Each row has the sum 1. Training materials as similar as the nearest one (to 1e-6), such as
    polymorphs, share it equally.
    """
    similarity = _similarity(test, train)
    nearest = similarity >= similarity.max(1, keepdims=True) - 1e-6
    return nearest / nearest.sum(1, keepdims=True)


def _similarity(test: SpectrumDataset, train: SpectrumDataset) -> np.ndarray:
    a, b = (_unit(d.graphs.composition().double()) for d in (test, train))
    return (a @ b.T).numpy()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


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


def quintile_examples(errors: np.ndarray) -> list[int]:
    """Material in the middle of each fifth of the errors, from the best to the worst."""
    order = np.argsort(errors, kind="stable")
    return [int(part[len(part) // 2]) for part in np.array_split(order, 5) if len(part)]


def rattled(crystal: Crystal, amount: float, seed: int) -> Crystal:
    """The crystal with every atom moved by Gaussian noise of deviation `amount` Å per axis."""
    noise = np.random.default_rng(seed).normal(0.0, amount, (len(crystal), 3))
    moved = crystal.frac_coords + noise @ np.linalg.inv(crystal.lattice)
    return Crystal(crystal.lattice, moved, crystal.atomic_numbers)


def strained(crystal: Crystal, strain: float) -> Crystal:
    """The crystal with all lengths multiplied by 1 + `strain`."""
    return Crystal(crystal.lattice * (1 + strain), crystal.frac_coords, crystal.atomic_numbers)


def shape_change(prediction: np.ndarray, reference: np.ndarray, width: float) -> float:
    """Mean Wasserstein distance between two predictions of the same materials."""
    return float(wasserstein_distances(prediction, reference, width).mean())
