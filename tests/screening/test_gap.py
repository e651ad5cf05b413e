import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import models
from models.data.label_files import LABEL_EDGES
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID
from screening import gap
from screening.errors import ScreeningError
from screening.gap import CRITERIA, GapCriteria, find_gaps, has_gap
from screening.gap_criteria import Limit

EDGES = EDOS_GRID.edges
BINS = EDOS_GRID.centers
NUMBERS = (
    "lower_edge",
    "upper_edge",
    "width",
    "max_dos",
    "is_lower_bound",
    "is_gap",
    "n_ranges",
    "margins",
    "robust",
    "score",
)


def spectrum(*empty, dos=5.0, floor=0.0, energies=BINS):
    """A DOS that is `floor` at the points inside the (low, high) ranges and `dos` elsewhere."""
    values = np.full(len(energies), dos)
    for low, high in empty:
        values[(energies > low) & (energies < high)] = floor
    return values


# --- the slow, obviously right reference: one spectrum, plain loops -------------------------


def reference_ranges(edges, dos, threshold):
    """Every maximal run below the threshold as (lower, upper, largest DOS, score, runs off)."""
    ranges, k = [], 0
    while k < len(dos):
        if not dos[k] < threshold:
            k += 1
            continue
        first, area = k, 0.0
        while k < len(dos) and dos[k] < threshold:
            area += (1 - max(dos[k], 0) / threshold) * (edges[k + 1] - edges[k])
            k += 1
        ranges.append((edges[first], edges[k], max(dos[first:k]), area, first == 0))
    return ranges


def reference_count(ranges, width, highest):
    return sum(r[1] - r[0] >= width - 1e-9 and r[1] <= highest + 1e-9 for r in ranges)


def reference_verdict(edges, dos, c, factor=1.0, step=0.0):
    """Whether there is a gap when the threshold is scaled and the limits tightened."""
    ranges = reference_ranges(edges, dos, c.max_dos * factor)
    width, low, high = c.min_width + step, c.min_upper_edge + step, c.max_upper_edge - step
    found = [r[1] - r[0] >= width - 1e-9 and low - 1e-9 <= r[1] <= high + 1e-9 for r in ranges]
    return any(found) and (not c.single_gap or reference_count(ranges, width, high) == 1)


def reference(edges, dos, c, n_atoms=1):
    """The verdict as a dict."""
    edges, dos = [float(e) for e in edges], [float(d) for d in dos]
    empty = 0.05 * n_atoms
    if c.per_atom:
        dos, empty = [d / n_atoms for d in dos], 0.05
    if c.band == "conduction":
        edges, dos = [-e for e in edges[::-1]], dos[::-1]

    ranges = reference_ranges(edges, dos, c.max_dos)
    n_ranges = reference_count(ranges, c.min_width, c.max_upper_edge)
    is_gap = reference_verdict(edges, dos, c)
    verdicts = {
        reference_verdict(edges, dos, c, factor, step)
        for factor in (0.9, 1.0, 1.1)
        for step in (-0.0625, 0.0, 0.0625)
    }
    verdict = {
        "is_gap": is_gap,
        "n_ranges": n_ranges,
        "robust": verdicts == {is_gap},
        "lower_edge": None,
        "upper_edge": None,
        "width": 0.0,
        "max_dos": None,
        "is_lower_bound": False,
        "holds": dict.fromkeys(CRITERIA, False),
        "kind": None,
        "margins": dict.fromkeys(CRITERIA) | {"max_dos": c.max_dos - min(dos)},
    }
    farthest = max(c.min_upper_edge - edges[0], edges[-1] - c.max_upper_edge, 0)
    verdict["score"] = -(c.min_width + farthest)
    best = None
    for lower, upper, largest, area, runs_off in ranges:
        width = upper - lower
        margins = (width - c.min_width, upper - c.min_upper_edge, c.max_upper_edge - upper)
        missing = sum(-m for m in margins if m < -1e-9)
        rank = (round(missing, 9), -round(width, 9), -upper)
        if best is not None and rank >= best:
            continue
        best = rank
        starts = edges[:-1]
        clipped = [d if lower <= e < upper else 99.0 for e, d in zip(starts, dos, strict=True)]
        core = reference_ranges(edges, clipped, empty)
        verdict |= {
            "lower_edge": lower,
            "upper_edge": upper,
            "width": width,
            "max_dos": largest,
            "is_lower_bound": runs_off,
            "holds": dict(zip(CRITERIA, [True, *(m >= -1e-9 for m in margins)], strict=True)),
            "kind": "gap" if any(r[1] - r[0] >= c.min_width - 1e-9 for r in core) else "near-gap",
            "margins": dict(zip(CRITERIA, (c.max_dos - largest, *margins), strict=True)),
            "score": area if missing == 0 else -missing,
        }
        if c.single_gap:
            verdict["holds"]["single_gap"] = n_ranges == 1
            others = [r for r in ranges if r[0] != lower]
            too_wide = [
                max(r[1] - r[0] - c.min_width, 1e-9)
                for r in others
                if reference_count([r], c.min_width, c.max_upper_edge)
            ]
            if missing or too_wide:
                verdict["score"] = -missing - sum(too_wide)
    if c.single_gap:
        verdict["holds"]["single_gap"] = n_ranges == 1
    if c.band == "conduction" and best is not None:
        verdict["lower_edge"], verdict["upper_edge"] = (
            -verdict["upper_edge"],
            -verdict["lower_edge"],
        )
    return verdict


# --- properties -----------------------------------------------------------------------------

dos_values = st.one_of(
    st.floats(-0.5, 3.0, allow_subnormal=False),
    st.integers(-1, 8).map(lambda n: n / 4),  # hits the threshold exactly, and makes ties
    st.just(1.0),
)
limits = st.sampled_from([-2.0, -1.0, -0.5, -0.25, 0.0, 0.3])


@st.composite
def criteria(draw):
    edges = sorted([draw(limits), draw(limits)])
    return GapCriteria(
        max_dos=draw(st.sampled_from([0.5, 1.0, 1.3])),
        min_width=draw(st.sampled_from([0.0, 0.25, 0.4, 1.0])),
        min_upper_edge=edges[0],
        max_upper_edge=edges[1],
        per_atom=draw(st.booleans()),
        single_gap=draw(st.booleans()),
        band=draw(st.sampled_from(["valence", "conduction"])),
    )


@st.composite
def batches(draw):
    """Bin edges, spectra and atoms in each cell."""
    size = draw(st.integers(2, 24))
    if draw(st.booleans()):
        start = round(draw(st.floats(-3, 1)), 6)  # nothing within rounding of a tolerance
        steps = np.full(size, 1 / 8)
    else:
        start = draw(st.integers(-24, 4)) / 8
        steps = draw(st.lists(st.floats(0.01, 1), min_size=size, max_size=size))
        steps = np.round(steps, 6)
    edges = start + np.append(0.0, np.cumsum(steps))
    row = st.lists(dos_values, min_size=size, max_size=size)
    rows = draw(st.lists(row, min_size=1, max_size=6))
    n_atoms = draw(st.lists(st.integers(1, 30), min_size=len(rows), max_size=len(rows)))
    return edges, np.array(rows), np.array(n_atoms)


def assert_same(gaps, i, expected):
    row = {**gaps.row(i), "score": float(gaps.score[i])}
    assert row.keys() == expected.keys()
    for key in ("holds", "is_gap", "is_lower_bound", "kind", "n_ranges", "robust"):
        assert row[key] == expected[key], key
    assert row["margins"] == pytest.approx(expected["margins"], abs=1e-9)
    for key in ("lower_edge", "upper_edge", "width", "max_dos", "score"):
        assert row[key] == (
            None if expected[key] is None else pytest.approx(expected[key], abs=1e-8)
        ), key


@pytest.mark.slow
@settings(max_examples=300)
@given(batches(), criteria())
@example((EDGES, np.full((1, 128), 1.0), np.ones(1)), GapCriteria())  # at the threshold
@example((EDGES, np.full((1, 128), 0.99), np.ones(1)), GapCriteria())
@example((EDGES, np.full((1, 128), 7.0), np.ones(1)), GapCriteria())
def test_batch_agrees_with_the_slow_reference(batch, c):
    edges, dos, n_atoms = batch
    gaps = find_gaps(edges, dos, c, n_atoms)
    assert len(gaps) == len(dos)
    assert has_gap(edges, dos, c, n_atoms).tolist() == gaps.is_gap.tolist()
    for i in range(len(dos)):
        assert_same(gaps, i, reference(edges, dos[i], c, n_atoms[i]))


@pytest.mark.parametrize("c", [GapCriteria(), GapCriteria(single_gap=True)])
def test_realistic_spectra_agree_with_the_slow_reference(c):
    """Smooth random spectra with ranges near every limit; all verdicts must occur."""
    rng = np.random.default_rng(7)
    smooth = np.cumsum(rng.normal(0, 0.35, (600, 128)), axis=1)
    dos = np.maximum(smooth - smooth.mean(axis=1, keepdims=True) + 0.6, 0.0)
    n_atoms = rng.integers(1, 30, len(dos))
    gaps = find_gaps(EDGES, dos, c, n_atoms)
    assert has_gap(EDGES, dos, c, n_atoms).tolist() == gaps.is_gap.tolist()
    for i in range(len(dos)):
        assert_same(gaps, i, reference(EDGES, dos[i], c, n_atoms[i]))
    assert {(g, k, r) for g, k, r in zip(gaps.is_gap, gaps.kind, gaps.robust, strict=True)} >= {
        (g, k, r) for g in (True, False) for k in ("gap", "near-gap") for r in (True, False)
    }
    assert set(gaps.n_ranges) == {0, 1, 2}


@settings(max_examples=50)
@given(batches(), criteria(), st.integers(0, 1000), st.sampled_from([1, 7, 1 << 17]))
def test_verdicts_do_not_depend_on_the_order_or_the_chunks_of_a_batch(batch, c, seed, chunk):
    edges, dos, n_atoms = batch
    order = np.random.default_rng(seed).permutation(len(dos))
    gaps = find_gaps(edges, dos, c, n_atoms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gap, "_CHUNK", chunk)
        shuffled = find_gaps(edges, dos[order], c, n_atoms[order])
    for name in NUMBERS:
        np.testing.assert_allclose(
            getattr(shuffled, name), getattr(gaps, name)[order], rtol=1e-12, atol=1e-12
        )
    np.testing.assert_array_equal(shuffled.kind, gaps.kind[order])


@settings(max_examples=50)
@given(batches(), criteria())
def test_conduction_band_is_the_mirror_image(batch, c):
    edges, dos, n_atoms = batch
    valence = c.model_copy(update={"band": "valence"})
    conduction = c.model_copy(update={"band": "conduction"})
    here = find_gaps(edges, dos, valence, n_atoms)
    there = find_gaps(-edges[::-1], dos[:, ::-1], conduction, n_atoms)
    np.testing.assert_array_equal(there.lower_edge, -here.upper_edge)
    np.testing.assert_array_equal(there.upper_edge, -here.lower_edge)
    for name in ("holds", "kind", *NUMBERS[2:]):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def test_without_a_range_the_score_is_that_of_a_miss_even_if_no_width_is_asked_for():
    criteria = GapCriteria(min_width=0.0, min_upper_edge=-2.0, max_upper_edge=0.0)
    gaps = find_gaps([-0.2, -0.1, 0.0], np.full((1, 2), 9.0), criteria)
    assert not gaps.is_gap[0]
    assert gaps.score[0] < 0


@settings(max_examples=50)
@given(batches(), criteria())
def test_scores_rank_gaps_before_misses_and_stay_finite(batch, c):
    edges, dos, n_atoms = batch
    gaps = find_gaps(edges, dos, c, n_atoms)
    assert np.isfinite(gaps.score).all()
    assert (gaps.score[gaps.is_gap] >= -1e-12).all()
    assert (gaps.score[~gaps.is_gap] < 0).all()
    assert (gaps.score[gaps.is_gap] <= gaps.width[gaps.is_gap] + 1e-12).all()
    if not c.single_gap:
        nothing = find_gaps(edges, np.full(len(edges) - 1, 99.0), c, [1])
        assert (gaps.score >= nothing.score - 1e-9).all()


@settings(max_examples=50)
@given(batches(), criteria())
def test_verdict_margins_and_criteria_tell_the_same(batch, c):
    edges, dos, n_atoms = batch
    gaps = find_gaps(edges, dos, c, n_atoms)
    single = gaps.n_ranges == 1 if c.single_gap else True
    np.testing.assert_array_equal(gaps.is_gap, gaps.holds.all(axis=1) & single)
    met = np.nan_to_num(gaps.margins, nan=-1.0) >= -1e-9
    np.testing.assert_array_equal(gaps.holds, met & ~np.isnan(gaps.upper_edge)[:, None])


@settings(max_examples=50)
@given(batches(), criteria())
def test_points_in_the_middle_of_equal_bins_are_judged_as_the_bins(batch, c):
    edges, dos, n_atoms = batch
    equal = np.linspace(edges[0], edges[-1], len(edges))
    bins = find_gaps(equal, dos, c, n_atoms)
    points = find_gaps((equal[:-1] + equal[1:]) / 2, dos, c, n_atoms)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(points, name), getattr(bins, name), atol=1e-9)


@settings(max_examples=50)
@given(st.floats(-0.7, 0.7), st.floats(0.05, 3))
def test_shifting_grid_and_criteria_together_changes_nothing_but_the_edges(shift, max_dos):
    dos = np.abs(np.sin(np.arange(128) / 7)) * 3
    here = find_gaps(BINS, dos, GapCriteria(max_dos=max_dos))
    moved = GapCriteria(max_dos=max_dos, min_upper_edge=-1.0 + shift, max_upper_edge=-0.25 + shift)
    there = find_gaps(BINS + shift, dos, moved)
    np.testing.assert_allclose(there.upper_edge, here.upper_edge + shift, atol=1e-9)
    np.testing.assert_allclose(there.score, here.score, atol=1e-9)
    np.testing.assert_array_equal(there.holds, here.holds)


# --- cases worked out by hand ---------------------------------------------------------------


@pytest.mark.parametrize("wall", [1.5, 5.0, 100.0])
def test_an_empty_range_that_ends_at_bin_edges_is_found_exactly(wall):
    """Interpolation between bin centres made 0.94 eV of 1 eV and -1.019 of an edge at -1."""
    row = find_gaps(EDOS_GRID, spectrum((-2, -1), dos=wall), n_atoms=[1]).row(0)
    assert (row["lower_edge"], row["upper_edge"], row["width"]) == (-2.0, -1.0, 1.0)
    assert row["is_gap"] is True
    assert row["kind"] == "gap"
    assert row["robust"] is False  # both at the limit
    assert row["margins"] == {
        "max_dos": 1.0,
        "min_width": 0.0,
        "min_upper_edge": 0.0,
        "max_upper_edge": 0.75,
    }


def errors_at_walls(rng, dos_at, n):
    """Errors in eV of the upper edges of n ranges that end in walls at random positions.

    `dos_at` gives the DOS, shape (n, m), at distances in eV from where it crosses the threshold.
    Bins are averages over 64 parts.
    """
    true = rng.uniform(-0.95, -0.3, (n, 1))
    parts = EDOS_GRID.start + EDOS_GRID.width * (np.arange(128 * 64) + 0.5) / 64
    fine = np.where(parts < -2.5, 5.0, dos_at(parts - true))
    gaps = find_gaps(EDOS_GRID, fine.reshape(n, 128, 64).mean(axis=2))
    return gaps.upper_edge - true[:, 0]


def test_edges_at_random_walls_are_unbiased():
    """Walls as steep as those in labels: 1 to 16 times the threshold two bins further."""
    rng = np.random.default_rng(1)
    slopes = np.exp(rng.uniform(np.log(0.5), np.log(16), (1000, 1))) / (2 * EDOS_GRID.width)
    errors = errors_at_walls(rng, lambda x: np.clip(1 + slopes * x, 0.0, 40.0), 1000)
    assert abs(errors.mean()) < 0.004
    assert errors.std() < 1.15 * EDOS_GRID.width / math.sqrt(12)
    assert np.abs(errors).max() < EDOS_GRID.width


def test_vertical_walls_are_never_overrun_and_missed_by_less_than_a_bin():
    rng = np.random.default_rng(2)
    errors = errors_at_walls(rng, lambda x: np.where(x > 0, 100.0, 0.0), 300)
    assert errors.max() < 0.02 * EDOS_GRID.width  # a bin with 1 % of the wall is below 1
    assert errors.min() > -EDOS_GRID.width


@pytest.mark.filterwarnings("ignore")
def test_edges_at_the_walls_of_real_labels_are_unbiased():
    """Walls of the shipped labels (bins of 20 meV), put on 62.5 meV bins at random positions."""
    width, rng, errors = EDOS_GRID.width, np.random.default_rng(0), []
    labels = Path(models.__file__).parent / "data" / "edos_labels.parquet"
    for dos in pq.read_table(labels, columns=["dos"])["dos"].to_pylist():
        fine = np.array(dos)
        integral = np.append(0.0, np.cumsum(fine) * 0.02)
        ranges = gap._find_ranges(LABEL_EDGES, fine[None], 1.0)
        for lower, upper, last in zip(ranges.lower, ranges.upper, ranges.last, strict=True):
            is_wall = (fine[last + 1 : last + 4] >= 1).all()
            if not (-4 < upper < -0.1 and upper - lower > 0.4 and is_wall):
                continue
            edges = upper + width * (np.arange(-5, 6) + rng.uniform())
            coarse = np.diff(np.interp(edges, LABEL_EDGES, integral)) / width
            inside = np.flatnonzero(coarse >= 1)
            end = inside[inside >= 3][:1]
            errors.extend(edges[end] - upper)
    assert len(errors) > 100
    assert abs(np.mean(errors)) < 0.006
    assert np.std(errors) < 1.3 * width / math.sqrt(12)


def test_score_is_the_width_weighted_with_the_emptiness():
    edges = np.array([-4.0, -3.0, -2.0, -1.5, -0.5, 0.0])
    gaps = find_gaps(edges, np.array([2.0, 0.0, 0.5, 0.25, 2.0]))
    assert gaps.is_gap[0]
    assert gaps.score[0] == pytest.approx(1.0 + 0.5 * 0.5 + 0.75 * 1.0)


def test_low_but_not_empty_is_a_near_gap_and_soft_walls_do_not_make_one():
    low = spectrum((-2, -0.5), floor=0.3)
    soft = spectrum((-2, -0.5))
    soft[(BINS > -0.7) & (BINS < -0.5)] = [0.3, 0.6, 0.9]
    gaps = find_gaps(EDOS_GRID, [low, soft, low], n_atoms=[4, 4, 8])
    assert gaps.is_gap.all()
    assert gaps.kind.tolist() == ["near-gap", "gap", "gap"]  # 0.075, then 0.04 states/eV/atom
    assert gaps.max_dos.tolist() == [0.3, 0.9, 0.3]
    per_atom = find_gaps(EDOS_GRID, [low, low], GapCriteria(per_atom=True), n_atoms=[4, 8])
    assert per_atom.kind.tolist() == ["near-gap", "gap"]


def test_an_empty_range_that_is_too_narrow_is_a_near_gap():
    row = find_gaps(EDOS_GRID, spectrum((-1.25, -0.5)), n_atoms=[4]).row(0)
    assert row["kind"] == "near-gap"
    assert row["margins"]["min_width"] == -0.25
    assert row["robust"] is True
    assert find_gaps(EDOS_GRID, spectrum((-1.25, -0.5))).kind[0] is None  # of how many atoms?


def test_a_second_range_counts_against_a_single_gap():
    two = spectrum((-3.5, -2), (-1.5, -0.4))
    gaps = find_gaps(EDOS_GRID, [two, spectrum((-1.5, -0.4))])
    assert gaps.n_ranges.tolist() == [2, 1]
    assert gaps.is_gap.all()
    single = find_gaps(EDOS_GRID, [two, spectrum((-1.5, -0.4))], GapCriteria(single_gap=True))
    assert single.is_gap.tolist() == [False, True]
    assert single.row(0)["holds"]["single_gap"] is False
    assert single.score[0] == pytest.approx(-0.5)  # the other is 1.5 eV wide


@pytest.mark.parametrize(
    ("low", "high", "floor", "is_gap", "robust"),
    [
        (-2, -0.5, 0.0, True, True),
        (-2, -0.5, 0.95, True, False),  # the threshold
        (-2, -0.5, 1.05, False, False),
        (-2, -0.5, 1.15, False, True),
        (-1.5, -0.5, 0.0, True, False),  # the width
        (-1.4375, -0.5, 0.0, False, False),
        (-1.375, -0.5, 0.0, False, True),
        (-3, -1, 0.0, True, False),  # the upper edge
        (-3, -1.0625, 0.0, False, False),
        (-3, -1.125, 0.0, False, True),
        (-3, -0.25, 0.0, True, False),
        (-3, -0.1875, 0.0, False, False),
        (-3, -0.125, 0.0, False, True),
    ],
)
def test_a_verdict_near_a_limit_is_not_robust(low, high, floor, is_gap, robust):
    row = find_gaps(EDOS_GRID, spectrum((low, high), floor=floor)).row(0)
    assert (row["is_gap"], row["robust"]) == (is_gap, robust)


def test_emptier_gap_of_the_same_width_scores_higher():
    gaps = find_gaps(BINS, [spectrum((-2, -0.5), floor=0.5), spectrum((-2, -0.5))])
    assert gaps.is_gap.all()
    assert gaps.score[0] < gaps.score[1]


def test_widest_of_several_gaps_is_reported():
    c = GapCriteria(min_upper_edge=-3)
    row = find_gaps(BINS, spectrum((-3.5, -2), (-1.5, -0.4)), c).row(0)
    assert row["upper_edge"] < -1.9
    assert row["width"] > 1.4


def test_passing_range_wins_over_a_wider_one_that_fails():
    row = find_gaps(BINS, spectrum((-4, -1.9), (-1.5, -0.4))).row(0)
    assert row["is_gap"] is True
    assert row["upper_edge"] == pytest.approx(-0.4, abs=0.07)


def test_nearest_miss_is_reported_with_the_criterion_it_fails():
    gaps = find_gaps(BINS, spectrum((-3.5, -1.5), (-0.9, -0.5)))
    row = gaps.row(0)
    # the first misses by about 0.5 eV (upper edge), the second by about 0.6 eV (width)
    assert row["upper_edge"] == pytest.approx(-1.5, abs=0.05)
    assert row["holds"] == {
        "max_dos": True,
        "min_width": True,
        "min_upper_edge": False,
        "max_upper_edge": True,
    }
    assert row["is_gap"] is False
    assert gaps.score[0] == pytest.approx(row["upper_edge"] + 1.0)


def test_range_that_runs_off_the_low_end_is_a_lower_bound():
    row = find_gaps(EDOS_GRID, spectrum((-9, -0.5))).row(0)
    assert row["is_lower_bound"] is True
    assert row["lower_edge"] == -4


def test_range_that_runs_off_the_high_end_bounds_a_conduction_gap():
    row = find_gaps(EDOS_GRID, spectrum((0.5, 9)), GapCriteria(band="conduction")).row(0)
    assert row["is_gap"] is True
    assert row["is_lower_bound"] is True
    assert row["upper_edge"] == 4
    assert row["lower_edge"] == 0.5


def test_one_bin_at_the_threshold_splits_a_range():
    edges = np.linspace(-2.5, 0, 6)
    whole = find_gaps(edges, [0, 0, 0.999, 0, 5.0])
    split = find_gaps(edges, [0, 0, 1.0, 0, 5.0])
    assert (whole.lower_edge[0], whole.upper_edge[0]) == (-2.5, -0.5)
    assert split.upper_edge[0] == -1.5


def test_grid_edges_and_centres_are_the_same_thing():
    dos = spectrum((-9, -0.5))
    row = find_gaps(EDOS_GRID, dos).row(0)
    assert row == find_gaps(EDGES, dos).row(0) == find_gaps(BINS, dos).row(0)


def test_a_grid_of_wave_numbers_is_refused():
    with pytest.raises(ScreeningError, match="eV"):
        find_gaps(PHDOS_GRID, np.ones(PHDOS_GRID.size))


@pytest.mark.parametrize("shift", [0.0, 0.1, 1 / 3, 0.7])
def test_rounding_decides_neither_a_width_nor_an_edge(shift):
    # from -2.25 to -0.5: edges half-way between neighbours, met exactly or not in binary
    energies = np.array([-2.5, -2.0, -1.5, -0.75, -0.25]) - shift
    c = GapCriteria(min_width=1.75, min_upper_edge=-0.5 - shift, max_upper_edge=-0.5 - shift)
    gaps = find_gaps(energies, [2.0, 0.0, 0.0, 0.0, 2.0], c)
    assert gaps.width[0] == pytest.approx(1.75)
    assert gaps.is_gap[0]


def test_per_atom_threshold_divides_by_the_cell():
    dos = spectrum((-2, -0.5), floor=3.0, dos=50.0)
    assert not find_gaps(BINS, dos).is_gap[0]
    gaps = find_gaps(BINS, dos, GapCriteria(per_atom=True), n_atoms=[4])
    assert gaps.is_gap[0]
    assert gaps.max_dos[0] == 0.75
    assert gaps.criteria.unit == "states/eV/atom"


def test_fine_dos_and_its_bins_get_the_same_verdict():
    fine = np.linspace(-8, 8, 5001)
    empty = (fine > -1.9) & (fine < -0.45)
    dos = np.where(empty, 0.1, 6.0)
    row = find_gaps(fine, dos).row(0)
    assert row["is_gap"] is True
    assert row["width"] == pytest.approx(1.45, abs=0.01)
    assert row["is_lower_bound"] is False


def test_no_range_at_all():
    row = find_gaps(BINS, np.full(128, 2.0)).row(0)
    assert row == {
        "lower_edge": None,
        "upper_edge": None,
        "width": 0.0,
        "max_dos": None,
        "is_lower_bound": False,
        "holds": dict.fromkeys(CRITERIA, False),
        "is_gap": False,
        "kind": None,
        "n_ranges": 0,
        "margins": dict.fromkeys(CRITERIA) | {"max_dos": -1.0},
        "robust": True,
    }


def test_empty_batch():
    gaps = find_gaps(BINS, np.empty((0, 128)))
    assert len(gaps) == 0
    assert gaps.is_gap.shape == (0,)


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    dos = np.stack([spectrum((-2, -0.5)), spectrum((-3, -0.1))])
    tensor = torch.tensor(dos, dtype=torch.float32, requires_grad=True)
    here, there = find_gaps(BINS, dos), find_gaps(torch.tensor(BINS), tensor)
    np.testing.assert_allclose(there.width, here.width, atol=1e-6)
    np.testing.assert_array_equal(there.is_gap, [True, False])


def test_batch_of_a_hundred_thousand_is_judged_as_its_parts_are():
    rng = np.random.default_rng(3)
    dos = rng.gamma(1.0, 1.0, (3000, 128)).astype(np.float32)
    whole = find_gaps(EDGES, dos, n_atoms=np.full(3000, 4))
    part = find_gaps(EDGES, dos[2000:2010])
    np.testing.assert_array_equal(whole.width[2000:2010], part.width)
    assert_same(whole, 2999, reference(EDGES, dos[2999], GapCriteria(), 4))


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_named(bad, monkeypatch):
    monkeypatch.setattr(gap, "_CHUNK", 128 * 4)
    dos = np.ones((12, 128))
    dos[9, 5] = bad
    with pytest.raises(ScreeningError, match=r"row 9$"):
        find_gaps(BINS, dos)
    with pytest.raises(ValueError, match="not finite"):
        find_gaps(BINS, dos)


@pytest.mark.parametrize(
    ("energies", "dos", "options", "message"),
    [
        ([0.0, 1.0], np.ones((2, 3)), {}, "4 bin edges or 3 points, not 2"),
        (np.arange(5.0), np.ones((2, 3)), {}, "4 bin edges or 3 points, not 5"),
        ([0.0, 1.0], np.ones((2, 2, 2)), {}, "shape"),
        ([0.0, math.inf], np.ones(2), {}, "finite"),
        ([1.0, 0.0], np.ones(2), {}, "increasing"),
        ([0.0, math.nan], np.ones(2), {}, "increasing"),
        ([0.0], np.ones(1), {}, "increasing"),
        ([0.0, 1.0], ["a", "b"], {}, "real numbers"),
        ([0.0, 1.0], np.ones(2), {"criteria": GapCriteria(per_atom=True)}, "number of atoms"),
        (
            [0.0, 1.0],
            np.ones(2),
            {"criteria": GapCriteria(per_atom=True), "n_atoms": [0]},
            "positive",
        ),
    ],
)
def test_input_that_does_not_fit_is_refused(energies, dos, options, message):
    with pytest.raises(ScreeningError, match=message):
        find_gaps(energies, dos, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dos": 0}, "--max-dos 0: input should be greater than 0"),
        ({"min_width": -1}, "--min-width -1: "),
        ({"max_upper_edge": math.nan}, "--max-upper-edge nan"),
        ({"min_upper_edge": 0.5}, "nothing can pass"),
        ({"band": "middle"}, "--band middle: "),
        ({"min_with": 1}, "--min-with 1: extra"),
    ],
)
def test_wrong_criteria_are_one_clear_line(options, message):
    with pytest.raises(ScreeningError, match=message) as caught:
        GapCriteria.from_options(**options)
    assert "\n" not in str(caught.value)


# --- one more criterion ---------------------------------------------------------------------


class Shallow(GapCriteria):
    """A gap that does not begin too far below the band edge."""

    min_lower_edge: Annotated[float, Limit(lambda ranges: ranges.lower, 1)] = -2.0


def test_a_new_limit_is_an_object_and_a_field():
    rng = np.random.default_rng(3)
    dos = rng.choice([0.0, 5.0], (400, 32)).repeat(4, axis=1)
    plain, shallow = find_gaps(EDOS_GRID, dos), find_gaps(EDOS_GRID, dos, Shallow())
    row = shallow.row(0)
    assert list(row["holds"]) == list(row["margins"]) == [*CRITERIA, "min_lower_edge"]
    np.testing.assert_allclose(shallow.margins[:, 4], shallow.lower_edge + 2.0)
    assert shallow.is_gap.any()
    # By hand: the widest range that meets the paper's criteria reaches too deep, or does not.
    everything = find_gaps(EDOS_GRID, dos, Shallow(min_lower_edge=-100.0))
    assert (everything.is_gap == plain.is_gap).all()
    deep = plain.lower_edge < -2.0 - 1e-9
    assert (shallow.is_gap == plain.is_gap & ~deep).all()
    assert (plain.is_gap & deep).any()
    assert (shallow.score[plain.is_gap & deep] < 0).all()
