"""Displacements of quantiles against SciPy's Wasserstein distance and moves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID, EnergyGrid
from models.spectra.transport import QUANTILES, displaced, displacements

CENTERS = EDOS_GRID.centers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def bumps(rng, n: int, floor: float = 0.0) -> np.ndarray:
    """Random spectra of a few bands each, shape (n, 128)."""
    places, widths = rng.uniform(-3, 3, (n, 4, 1)), rng.uniform(0.2, 0.8, (n, 4, 1))
    heights = rng.uniform(1, 8, (n, 4, 1))
    return (heights * np.exp(-(((CENTERS - places) / widths) ** 2))).sum(1) + floor


def test_their_length_is_the_wasserstein_distance(rng):
    spectra, others = bumps(rng, 50), bumps(rng, 50)
    length = np.abs(displacements(spectra, others, EDOS_GRID)).mean(1)
    scipys = [
        wasserstein_distance(CENTERS, CENTERS, a, b) for a, b in zip(spectra, others, strict=True)
    ]
    assert length == pytest.approx(np.array(scipys), abs=0.02)


def test_no_way_leaves_a_spectrum_as_it_is(rng):
    spectrum = bumps(rng, 1, floor=0.2)[0]
    same = displaced(spectrum, np.zeros((3, QUANTILES)), EDOS_GRID)
    assert same == pytest.approx(np.tile(spectrum, (3, 1)))


@pytest.mark.parametrize("bins", [-5, 3, 0.5])
def test_the_same_way_for_all_shifts_a_spectrum(bins):
    spectrum = np.exp(-((CENTERS / 0.5) ** 2))
    (moved,) = displaced(spectrum, np.full((1, QUANTILES), bins * EDOS_GRID.width), EDOS_GRID)
    edges = np.arange(129) - bins
    below = np.concatenate([[0], np.cumsum(spectrum)])
    assert moved == pytest.approx(np.diff(np.interp(edges, np.arange(129), below)), abs=1e-9)


def test_the_way_to_a_label_leads_to_it(rng):
    spectra, labels = bumps(rng, 50, floor=0.3), bumps(rng, 50, floor=0.3)
    ways = displacements(spectra, labels, EDOS_GRID)
    arrived = np.array(
        [displaced(s, w[None], EDOS_GRID)[0] for s, w in zip(spectra, ways, strict=True)]
    )
    before = wasserstein_distances(spectra, labels, EDOS_GRID.width).mean()
    after = wasserstein_distances(arrived, labels, EDOS_GRID.width).mean()
    assert after < 0.1 * before


def test_an_empty_range_stays_as_wide_and_moves_with_its_walls():
    spectrum = np.where((CENTERS > -2) & (CENTERS < -1), 0.0, 4.0)
    (moved,) = displaced(spectrum, np.full((1, QUANTILES), 0.25), EDOS_GRID)
    empty = CENTERS[moved < 1e-6]
    assert (empty[0], empty[-1]) == pytest.approx((-1.71875, -0.78125))
    assert moved[0] == pytest.approx(4.0)  # what comes in from below the grid is like its end


def test_ways_that_cross_do_not_turn_the_order_around(rng):
    spectrum = bumps(rng, 1)[0]
    moved = displaced(spectrum, rng.normal(0, 0.5, (20, QUANTILES)), EDOS_GRID)
    assert (moved >= -1e-12).all()
    assert moved.sum(1) == pytest.approx(np.full(20, spectrum.sum()), rel=0.2)


def test_any_grid():
    grid = EnergyGrid(start=-310.0, width=20.0, size=66, unit="cm^-1")
    spectra = np.eye(66)[[10, 20]]
    (way,) = displacements(spectra[:1], spectra[1:], grid)
    assert np.abs(way).mean() == pytest.approx(200.0, abs=0.1)
