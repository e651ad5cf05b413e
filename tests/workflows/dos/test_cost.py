"""Estimates of how long calculations take."""

import json
from pathlib import Path
from statistics import quantiles

import pytest

from workflows.dos.cost import estimate_cost
from workflows.dos.engines import dos_maker

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_without_known_times_the_published_times_are_met_within_the_stated_factor():
    """They are wall times on a busy machine, so upper bounds: the shortest quarter says most."""
    rows = json.loads((RESULTS / "elements_standard.json").read_text())["rows"]
    rows += json.loads((RESULTS / "vb_gaps_standard.json").read_text())["rows"]
    estimate = estimate_cost(
        [row["n_sites"] for row in rows], [], dos_maker("gpaw").first_atom_time
    )
    ratios = [
        row["wall_time"] / seconds for row, seconds in zip(rows, estimate.seconds, strict=True)
    ]
    assert sum(ratio < 1 / 3 for ratio in ratios) < 0.1 * len(ratios)
    assert quantiles(ratios, n=4)[0] == pytest.approx(1, abs=0.5)


def test_known_times_of_the_recipe_decide():
    estimate = estimate_cost([1, 2, 20], [(1, 10.0), (1, 12.0), (1, 500.0)])
    assert estimate.seconds == pytest.approx([12.0, 12 * 2**0.8, 12 * 10**0.8 * 4])
    assert "3 calculations with this recipe" in estimate.basis
    assert estimate.hours(workers=2) == pytest.approx(sum(estimate.seconds) / 7200)


@pytest.mark.parametrize("known", [[], [(1, 10.0)], [(0, 1.0)] * 5, [(1, 0.0)] * 5])
def test_too_few_times_do_not(known):
    first_atom = dos_maker("gpaw", preset="fast").first_atom_time
    assert estimate_cost([1], known, first_atom).seconds == (40.0,)
    assert estimate_cost([1], known).seconds == (80.0,)


def test_nothing_takes_no_time():
    assert estimate_cost([], []).hours() == 0
