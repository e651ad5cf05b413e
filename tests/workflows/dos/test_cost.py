"""Estimates of how long calculations take."""

import json
from pathlib import Path
from statistics import quantiles

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

from models.elements import STAND_INS
from workflows.dos.cost import (
    ELECTRONS,
    EXPONENT,
    SCATTER,
    Cell,
    estimate_cost,
)
from workflows.dos.engines import dos_maker

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_without_known_times_the_published_times_are_met_within_the_stated_factor():
    """They are wall times on a busy machine, so upper bounds: the shortest quarter says most."""
    rows = json.loads((RESULTS / "elements_standard.json").read_text())["rows"]
    rows += json.loads((RESULTS / "vb_gaps_standard.json").read_text())["rows"]
    estimate = estimate_cost(
        [Cell(row["formula"], row["n_sites"]) for row in rows],
        [],
        dos_maker("gpaw").first_atom_time,
    )
    ratios = [
        row["wall_time"] / seconds for row, seconds in zip(rows, estimate.seconds, strict=True)
    ]
    assert sum(ratio < 1 / 3 for ratio in ratios) < 0.1 * len(ratios)
    assert quantiles(ratios, n=4)[0] == pytest.approx(1, abs=0.5)


def test_bands_are_half_the_electrons_of_the_data_sets_and_three_for_each_atom():
    assert Cell("MgO", 2).bands == (10 + 6) / 2 + 6
    assert Cell("MgO", 8).bands == 4 * Cell("MgO", 2).bands
    assert Cell("PrN", 2).bands == Cell("LaN", 2).bands
    assert Cell("", 3).bands == Cell("Po3", 3).bands == 3 * (5 + 3)  # nothing is known
    assert set(STAND_INS.values()) < set(ELECTRONS)


@pytest.mark.dft
def test_electrons_are_those_of_gpaws_data_sets():
    setup_data = pytest.importorskip("gpaw.setup_data")
    for symbol, n in ELECTRONS.items():
        assert setup_data.SetupData(symbol, "PBE", "paw", readxml=True).Nv == n


def times_like(n, scale, exponent, seed=0):
    """Cells, and times about a line, one of them of a machine that was busy."""
    rng = np.random.default_rng(seed)
    cells = [Cell("Mg", int(k)) for k in rng.integers(1, 6, n)]
    bands = np.array([cell.bands for cell in cells])
    times = scale * (bands / 8) ** exponent * np.exp(rng.normal(0, 0.3, n))
    times[0] *= 50
    return list(zip(cells, times, strict=True))


def test_known_times_of_the_recipe_decide_the_more_the_more_of_them_there_are():
    known = times_like(200, 5.0, 0.6)
    one, many = (estimate_cost([Cell("Mg", 2)], some).seconds[0] for some in (known[1:2], known))
    true = 5.0 * 2**0.6
    assert many == pytest.approx(true * np.exp(SCATTER**2 / 2), rel=0.1)
    assert true < many < one < estimate_cost([Cell("Mg", 2)], []).seconds[0]
    estimate = estimate_cost([Cell("Mg", 1)] * 3, times_like(4, 5.0, 0.6))
    assert "4 calculations with this recipe" in estimate.basis
    assert estimate.hours(workers=2) == pytest.approx(sum(estimate.seconds) / 7200)


def test_the_line_is_the_largest_posterior_of_its_assumptions():
    known = times_like(6, 30.0, 1.0)
    bands = np.array([cell.bands for cell, _ in known])

    def surprise(line):
        height, slope = line
        off = (np.log([s for _, s in known]) - height - slope * np.log(bands / 8)) / SCATTER
        start = (height - np.log(80) + SCATTER**2 / 2) / np.log(3)
        return -student.logpdf(off, 4).sum() + start**2 / 2 + ((slope - EXPONENT) / 0.15) ** 2 / 2

    best = minimize(surprise, [3.0, 0.9], method="Nelder-Mead", options={"xatol": 1e-8}).x
    estimate = estimate_cost([Cell("Mg", 1), Cell("Mg", 4)], known)
    expected = np.exp(best[0] + SCATTER**2 / 2 + best[1] * np.log([1, 4]))
    assert estimate.seconds == pytest.approx(expected, rel=1e-3)


def test_large_cells_grow_with_the_square():
    small, large, larger = estimate_cost([Cell("Mg", n) for n in (5, 40, 80)], []).seconds
    assert larger == pytest.approx(4 * large)
    assert large > small * 8**EXPONENT


@pytest.mark.parametrize("known", [[], [(Cell("Mg", 0), 1.0)] * 5, [(Cell("Mg", 1), 0.0)] * 5])
def test_without_times_the_first_atom_decides(known):
    first_atom = dos_maker("gpaw", preset="fast").first_atom_time
    assert estimate_cost([Cell("Mg", 1)], known, first_atom).seconds == pytest.approx((40.0,))
    assert estimate_cost([Cell("Mg", 1)], known).seconds == pytest.approx((80.0,))


def test_nothing_takes_no_time():
    assert estimate_cost([], []).hours() == 0
