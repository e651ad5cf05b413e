"""Whether probabilities are those of what happens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 5


class ReliabilityBin(NamedTuple):
    """Materials of similar probability: a point of a reliability diagram.

    Parameters
    ----------
    n, n_positive : int
        Materials, and those of them that are positive.
    mean_probability : float
    """

    n: int
    n_positive: int
    mean_probability: float


def brier_score(probabilities: np.ndarray, is_positive: np.ndarray) -> float:
    """Mean squared difference of probabilities and outcomes (Brier, Mon. Weather Rev. 78, 1, 1950).

    Parameters
    ----------
    probabilities : ndarray, shape (n,)
    is_positive : ndarray of bool, shape (n,)

    Examples
    --------
    >>> brier_score(np.array([1.0, 0.5]), np.array([True, False]))
    0.125
    """
    return float(np.mean((probabilities - is_positive) ** 2))


def reliability_bins(
    probabilities: np.ndarray, is_positive: np.ndarray, n_bins: int = BINS
) -> list[ReliabilityBin]:
    """Materials in bins of equal width in probability; empty ones are left out.

    Parameters
    ----------
    probabilities : ndarray, shape (n,)
    is_positive : ndarray of bool, shape (n,)
    n_bins : int
    """
    place = np.minimum((probabilities * n_bins).astype(int), n_bins - 1)
    members = [place == k for k in range(n_bins)]
    return [
        ReliabilityBin(int(m.sum()), int(is_positive[m].sum()), float(probabilities[m].mean()))
        for m in members
        if m.any()
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance of probability and share of positives, each bin by its materials.

    Naeini, Cooper and Hauskrecht, AAAI 2015, eq. 4.
    """
    total = sum(b.n for b in bins)
    return sum(abs(b.n_positive - b.n * b.mean_probability) for b in bins) / total


def average_precision(ranking: np.ndarray, is_positive: np.ndarray) -> float:
    """Mean, over the positive materials, of the precision down to each, best ranking first.

    Parameters
    ----------
    ranking : ndarray, shape (n,)
        Probabilities or scores; of equal ones the negative materials come first.
    is_positive : ndarray of bool, shape (n,)

    Returns
    -------
    float
        NaN without a positive material.
    """
    hits = is_positive[np.lexsort((is_positive, -ranking))]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean()) if hits.any() else float("nan")
