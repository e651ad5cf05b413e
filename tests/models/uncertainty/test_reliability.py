"""Figures of probabilities against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from models.uncertainty.reliability import (
    average_precision,
    brier_score,
    expected_calibration_error,
    reliability_bins,
)


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(3)
    p = rng.random(500)
    return p, rng.random(500) < p**2


def test_against_plain_loops(outcomes):
    p, is_positive = outcomes
    assert brier_score(p, is_positive) == pytest.approx(
        sum((a - b) ** 2 for a, b in zip(p, is_positive, strict=True)) / 500
    )
    error = 0.0
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        among = [k for k in range(500) if low <= p[k] < low + 0.2]
        share = sum(is_positive[k] for k in among) / len(among)
        error += len(among) / 500 * abs(share - sum(p[k] for k in among) / len(among))
    assert expected_calibration_error(reliability_bins(p, is_positive)) == pytest.approx(error)
    order = sorted(range(500), key=lambda k: -p[k])
    precisions = [
        sum(is_positive[j] for j in order[: i + 1]) / (i + 1)
        for i, k in enumerate(order)
        if is_positive[k]
    ]
    assert average_precision(p, is_positive) == pytest.approx(sum(precisions) / len(precisions))


def test_a_probability_of_one_is_in_the_last_bin():
    (last,) = reliability_bins(np.array([1.0, 0.95]), np.array([True, False]))
    assert last == (2, 1, 0.975)
    assert expected_calibration_error([last]) == pytest.approx(0.475)


def test_ties_count_against_the_ranking():
    assert average_precision(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert np.isnan(average_precision(np.array([0.5]), np.array([False])))
