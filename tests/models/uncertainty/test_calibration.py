"""Calibration in a world whose errors are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID
from models.uncertainty.calibration import DRAWS, FEWEST, Calibration
from models.uncertainty.held_out import HeldOut

CENTERS = EDOS_GRID.centers
STEP = 0.3  # eV, deviation of the shift of a spectrum whose hint at the error is 1


def world(rng, n: int, hint: str = "training_distance", lowest: float = -2.0) -> HeldOut:
    """Materials with a band that begins somewhere; DFT finds it shifted, more where it says so."""
    hints = rng.uniform(0.2, 2.0, n)
    places = rng.uniform(lowest, 0.5, n)
    shifts = STEP * hints * rng.standard_normal(n)
    unknown = np.full(n, np.nan)
    return HeldOut(
        tuple(f"m-{i}" for i in range(n)),
        tuple(f"A{i % (n // 2)}-B" for i in range(n)),
        band_from(places),
        band_from(places + shifts),
        np.full(n, 2),
        hints if hint == "member_spread" else unknown,
        hints if hint == "training_distance" else unknown,
        EDOS_GRID,
    )


def band_from(places: np.ndarray) -> np.ndarray:
    """Spectra of 5 states/eV that rise from 0 within 0.3 eV at each place, shape (n, 128)."""
    return 5.0 / (1 + np.exp(-(CENTERS - np.asarray(places)[:, None]) / 0.08)) + 0.05


def begins_above(limit: float):
    """A criterion: the band begins above a limit; its score is by how much."""

    def judge(spectra, n_atoms):
        begin = CENTERS[np.argmax(np.asarray(spectra) > 2.5, axis=1)]
        return begin > limit, begin - limit

    return judge


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def held_out():
    return world(np.random.default_rng(1), 200)


@pytest.fixture(scope="module")
def unseen():
    return world(np.random.default_rng(2), 400)


@pytest.fixture(scope="module")
def calibration(held_out):
    return Calibration(held_out)


@pytest.mark.parametrize("hint", ["member_spread", "training_distance"])
def test_expected_errors_are_right_in_each_fifth(rng, hint):
    calibration, others = Calibration(world(rng, 400, hint)), world(rng, 2000, hint)
    expected = calibration.expected_errors(others.member_spread, others.training_distance)
    order = np.array_split(np.argsort(expected), 5)
    for fifth in order:
        assert expected[fifth].mean() == pytest.approx(others.errors[fifth].mean(), rel=0.25)
    assert expected[order[-1]].mean() > 3 * expected[order[0]].mean()


def test_without_hints_the_expected_error_is_the_mean(held_out):
    unknown = np.full(len(held_out), np.nan)
    blind = HeldOut(**{**vars_of(held_out), "training_distance": unknown})
    expected = Calibration(blind).expected_errors(unknown, unknown)
    assert expected == pytest.approx(np.full(len(held_out), held_out.errors.mean()))


@pytest.mark.slow
def test_the_band_covers_what_it_says(calibration, unseen):
    errors = calibration.expected_errors(unseen.member_spread, unseen.training_distance)
    ends = np.array([calibration.band(s, e) for s, e in zip(unseen.predicted, errors, strict=True)])
    covered = (ends[:, 0] - 1e-6 <= unseen.labels) & (unseen.labels <= ends[:, 1] + 1e-6)
    assert covered.mean() == pytest.approx(0.9, abs=0.03)
    assert (ends[:, 0] <= ends[:, 1]).all()
    assert (ends >= 0).all()


@pytest.mark.parametrize("hint", [0.3, 1.0, 1.8])
@pytest.mark.parametrize("above", [-0.4, 0.0, 0.4])
def test_probability_is_that_of_the_normal_distribution(calibration, hint, above):
    limit = -0.5
    probability = calibration.probability_of(begins_above(limit))
    spectra = band_from([limit + above])
    errors = calibration.expected_errors(np.array([np.nan]), np.array([hint]))
    (p,) = probability(spectra, np.array([2]), np.array([above]), errors)
    truth = 0.5 * (1 + math.erf(above / (STEP * hint * math.sqrt(2))))
    assert p == pytest.approx(truth, abs=0.15)


def test_probabilities_are_reliable(calibration, unseen):
    judge = begins_above(-0.5)
    is_positive, _ = judge(unseen.labels, unseen.n_atoms)
    verdicts, scores = judge(unseen.predicted, unseen.n_atoms)
    errors = calibration.expected_errors(unseen.member_spread, unseen.training_distance)
    p = calibration.probability_of(judge)(unseen.predicted, unseen.n_atoms, scores, errors)
    assert np.mean((p - is_positive) ** 2) < 0.8 * np.mean(verdicts ^ is_positive)
    for low, high in ((0, 0.2), (0.2, 0.8), (0.8, 1.01)):
        among = (p >= low) & (p < high)
        assert among.sum() > 30
        assert p[among].mean() == pytest.approx(is_positive[among].mean(), abs=0.12)


@pytest.mark.parametrize("lowest", [-2.0, -3.9])  # with and without hopeless ones
def test_what_is_unknown_has_no_probability_and_what_is_hopeless_little(rng, lowest):
    calibration = Calibration(world(rng, 200, lowest=lowest))
    probability = calibration.probability_of(begins_above(-0.5))
    scores, errors = np.array([-3.4, np.nan, -3.4]), np.array([np.nan, 0.3, 0.3])
    p = probability(band_from([-3.9] * 3), np.full(3, 2), scores, errors)
    assert np.isnan(p[:2]).all()
    assert 0 < p[2] < 0.05


def test_no_positive_held_out_material_leaves_the_odds(calibration, unseen):
    never = calibration.probability_of(
        lambda spectra, n: (np.zeros(len(spectra), bool), -spectra[:, 0])
    )
    p = never(unseen.predicted[:5], unseen.n_atoms[:5], np.full(5, 0.0), np.full(5, 0.3))
    assert (p < 0.02).all()


def test_a_chemical_system_says_nothing_of_itself(held_out):
    calibration = Calibration(held_out)
    system = held_out.chemical_systems[0]
    others = held_out.take(np.array(held_out.chemical_systems) != system)
    without = calibration.plausible(held_out.predicted[0], 0.2, without=system)
    assert len(without) == len(others)
    few = calibration.plausible(held_out.predicted[0], 0.2, without=system, at_most=DRAWS)
    assert len(few) == DRAWS
    assert len(calibration.plausible(held_out.predicted[0], 0.2)) == len(held_out)


def test_too_few_materials_and_empty_spectra_are_refused(held_out):
    with pytest.raises(ModelError, match=f"19 held-out materials are too few.*at least {FEWEST}"):
        Calibration(held_out.take(np.arange(19)))
    empty = HeldOut(**{**vars_of(held_out), "labels": np.zeros_like(held_out.labels)})
    with pytest.raises(ModelError, match="empty spectrum"):
        Calibration(empty)


def vars_of(held_out: HeldOut) -> dict:
    return {name: getattr(held_out, name) for name in HeldOut.__dataclass_fields__}
