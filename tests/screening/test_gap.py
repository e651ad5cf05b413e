import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from screening import gap
from screening.errors import ScreeningError
from screening.gap import CRITERIA, GapCriteria, find_gaps

BINS = np.arange(-4, 4, 1 / 16) + 1 / 32  # the 128-bin grid of DESIGN section 2


def spectrum(*empty, dos=5.0, floor=0.0, energies=BINS):
    """A DOS that is `floor` at the points inside the (low, high) ranges and `dos` elsewhere."""
    values = np.full(len(energies), dos)
    for low, high in empty:
        values[(energies > low) & (energies < high)] = floor
    return values


# --- the slow, obviously right reference: one spectrum, plain loops -------------------------


def reference_ranges(energies, dos, threshold, bounds):
    """Every maximal run below the threshold as (lower, upper, largest DOS, score, runs off)."""
    ranges, k, last = [], 0, len(energies) - 1
    while k <= last:
        if not dos[k] < threshold:
            k += 1
            continue
        first = k
        while k < last and dos[k + 1] < threshold:
            k += 1
        # corners of the piecewise-linear DOS inside the range, as (energy, emptiness)
        corners = [(energies[i], 1 - max(dos[i], 0) / threshold) for i in range(first, k + 1)]
        if first == 0:
            corners.insert(0, (bounds[0], corners[0][1]))
        else:
            corners.insert(0, (crossing(energies, dos, first - 1, threshold), 0.0))
        if k == last:
            corners.append((bounds[1], corners[-1][1]))
        else:
            corners.append((crossing(energies, dos, k, threshold), 0.0))
        area = 0.0
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            area += (x1 - x0) * (y0 + y1) / 2
        ranges.append((corners[0][0], corners[-1][0], max(dos[first : k + 1]), area, first == 0))
        k += 1
    return ranges


def crossing(energies, dos, k, threshold):
    slope = (dos[k + 1] - dos[k]) / (energies[k + 1] - energies[k])
    return energies[k] + (threshold - dos[k]) / slope


def reference(energies, dos, c, n_atoms=1, bounds=None):
    """The verdict as a dict, for the valence band."""
    energies, dos = [float(e) for e in energies], [float(d) for d in dos]
    if c.per_atom:
        dos = [d / n_atoms for d in dos]
    low, high = bounds or (energies[0], energies[-1])
    if c.band == "conduction":
        mirrored = c.model_copy(update={"band": "valence", "per_atom": False})
        verdict = reference([-e for e in energies[::-1]], dos[::-1], mirrored, 1, (-high, -low))
        lower, upper = verdict["lower_edge"], verdict["upper_edge"]
        if lower is not None:
            verdict.update(lower_edge=-upper, upper_edge=-lower)
        return verdict

    best = None
    for lower, upper, largest, area, runs_off in reference_ranges(
        energies, dos, c.max_dos, (low, high)
    ):
        width = upper - lower
        missing = [
            max(0.0, c.min_width - width),
            max(0.0, c.min_upper_edge - upper),
            max(0.0, upper - c.max_upper_edge),
        ]
        missing = [0.0 if m <= 1e-9 else m for m in missing]
        rank = (round(sum(missing), 9), -round(width, 9), -upper)
        if best is None or rank < best[0]:
            verdict = {
                "lower_edge": lower,
                "upper_edge": upper,
                "width": width,
                "max_dos": largest,
                "is_lower_bound": runs_off,
                "holds": dict(zip(CRITERIA, [True, *(m == 0 for m in missing)], strict=True)),
                "is_gap": sum(missing) == 0,
                "score": area if sum(missing) == 0 else -sum(missing),
            }
            best = rank, verdict
    if best is not None:
        return best[1]
    farthest = max(c.min_upper_edge - low, high - c.max_upper_edge, 0)
    return {
        "lower_edge": None,
        "upper_edge": None,
        "width": 0.0,
        "max_dos": None,
        "is_lower_bound": False,
        "holds": dict.fromkeys(CRITERIA, False),
        "is_gap": False,
        "score": -(c.min_width + farthest),
    }


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
        band=draw(st.sampled_from(["valence", "conduction"])),
    )


@st.composite
def batches(draw):
    size = draw(st.integers(2, 24))
    if draw(st.booleans()):
        start = draw(st.floats(-3, 1))
        steps = np.full(size - 1, 1 / 8)
    else:
        start = draw(st.integers(-24, 4)) / 8
        steps = np.array(draw(st.lists(st.floats(0.01, 1), min_size=size - 1, max_size=size - 1)))
    energies = start + np.append(0.0, np.cumsum(steps))
    row = st.lists(dos_values, min_size=size, max_size=size)
    rows = draw(st.lists(row, min_size=1, max_size=6))
    margin = draw(st.sampled_from([None, 0.0, 0.03]))
    bounds = margin if margin is None else (energies[0] - margin, energies[-1] + margin)
    n_atoms = draw(st.lists(st.integers(1, 3), min_size=len(rows), max_size=len(rows)))
    return energies, np.array(rows), np.array(n_atoms), bounds


def assert_same(gaps, i, expected):
    row = {**gaps.row(i), "score": float(gaps.score[i])}
    assert row["holds"] == expected["holds"]
    assert row["is_gap"] == expected["is_gap"]
    assert row["is_lower_bound"] is expected["is_lower_bound"]
    for key in ("lower_edge", "upper_edge", "width", "max_dos", "score"):
        assert row[key] == (
            None if expected[key] is None else pytest.approx(expected[key], abs=1e-9)
        ), key


@settings(max_examples=300, deadline=None)
@given(batches(), criteria())
@example((BINS, np.full((1, 128), 1.0), np.ones(1), None), GapCriteria())  # at the threshold
@example((BINS, np.full((1, 128), 0.99), np.ones(1), None), GapCriteria())
@example((BINS, np.full((1, 128), 7.0), np.ones(1), (-4.0, 4.0)), GapCriteria())
def test_batch_agrees_with_the_slow_reference(batch, c):
    energies, dos, n_atoms, bounds = batch
    gaps = find_gaps(energies, dos, c, n_atoms, bounds)
    assert len(gaps) == len(dos)
    for i in range(len(dos)):
        assert_same(gaps, i, reference(energies, dos[i], c, n_atoms[i], bounds))


@settings(max_examples=50, deadline=None)
@given(batches(), criteria(), st.integers(0, 1000), st.sampled_from([1, 7, 1 << 17]))
def test_verdicts_do_not_depend_on_the_order_or_the_chunks_of_a_batch(batch, c, seed, chunk):
    energies, dos, n_atoms, bounds = batch
    order = np.random.default_rng(seed).permutation(len(dos))
    gaps = find_gaps(energies, dos, c, n_atoms, bounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gap, "_CHUNK", chunk)
        shuffled = find_gaps(energies, dos[order], c, n_atoms[order], bounds)
    for name in ("lower_edge", "upper_edge", "width", "max_dos", "holds", "score"):
        np.testing.assert_allclose(
            getattr(shuffled, name), getattr(gaps, name)[order], rtol=1e-12, atol=1e-12
        )


@settings(max_examples=50, deadline=None)
@given(batches(), criteria())
def test_conduction_band_is_the_mirror_image(batch, c):
    energies, dos, n_atoms, bounds = batch
    valence = c.model_copy(update={"band": "valence"})
    conduction = c.model_copy(update={"band": "conduction"})
    here = find_gaps(energies, dos, valence, n_atoms, bounds)
    mirrored_bounds = None if bounds is None else (-bounds[1], -bounds[0])
    there = find_gaps(-energies[::-1], dos[:, ::-1], conduction, n_atoms, mirrored_bounds)
    np.testing.assert_array_equal(there.lower_edge, -here.upper_edge)
    np.testing.assert_array_equal(there.upper_edge, -here.lower_edge)
    np.testing.assert_array_equal(there.holds, here.holds)
    np.testing.assert_array_equal(there.score, here.score)


def test_without_a_range_the_score_is_that_of_a_miss_even_if_no_width_is_asked_for():
    criteria = GapCriteria(min_width=0.0, min_upper_edge=-2.0, max_upper_edge=0.0)
    gaps = find_gaps(np.array([-0.125, 0.0]), np.full((1, 2), 9.0), criteria, [1], None)
    assert not gaps.is_gap[0]
    assert gaps.score[0] < 0


@settings(max_examples=50, deadline=None)
@given(batches(), criteria())
def test_scores_rank_gaps_before_misses_and_stay_finite(batch, c):
    energies, dos, n_atoms, bounds = batch
    gaps = find_gaps(energies, dos, c, n_atoms, bounds)
    assert np.isfinite(gaps.score).all()
    assert (gaps.score[gaps.is_gap] >= -1e-12).all()
    assert (gaps.score[~gaps.is_gap] < 0).all()
    assert (gaps.score[gaps.is_gap] <= gaps.width[gaps.is_gap] + 1e-12).all()
    nothing = find_gaps(energies, np.full(len(energies), 99.0), c, [1], bounds)
    assert (gaps.score >= nothing.score - 1e-9).all()


@settings(max_examples=50, deadline=None)
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


def test_edges_lie_where_the_interpolated_dos_crosses_the_threshold():
    # 5 -> 0 between the centres -2.03125 and -1.96875: 4/5 of the way; mirrored at the top
    (row,) = [find_gaps(BINS, spectrum((-2, -0.5))).row(0)]
    assert row["lower_edge"] == pytest.approx(-2.03125 + 0.8 / 16)
    assert row["upper_edge"] == pytest.approx(-0.53125 + 0.2 / 16)
    assert row["width"] == pytest.approx(row["upper_edge"] - row["lower_edge"])
    assert row["is_gap"] is True
    assert row["max_dos"] == 0.0


def test_score_is_the_width_weighted_with_the_emptiness():
    energies = np.array([-3.0, -2.0, -1.5, -0.5, 0.0])
    dos = np.array([2.0, 0.0, 0.5, 0.0, 2.0])
    # 1 - DOS: triangle of height 1 over 0.5, then 0.375 + 0.75 and a triangle over 0.25
    gaps = find_gaps(energies, dos, GapCriteria(max_upper_edge=-0.2))
    assert gaps.is_gap[0]
    assert gaps.score[0] == pytest.approx(0.25 + 0.375 + 0.75 + 0.125)


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
    row = find_gaps(BINS, spectrum((-9, -0.5))).row(0)
    assert row["is_lower_bound"] is True
    assert row["lower_edge"] == BINS[0]
    assert find_gaps(BINS, spectrum((-9, -0.5)), bounds=(-4, 4)).row(0)["lower_edge"] == -4


def test_range_that_runs_off_the_high_end_bounds_a_conduction_gap():
    c = GapCriteria(band="conduction")
    row = find_gaps(BINS, spectrum((0.5, 9)), c, bounds=(-4, 4)).row(0)
    assert row["is_gap"] is True
    assert row["is_lower_bound"] is True
    assert row["upper_edge"] == 4
    assert row["lower_edge"] == pytest.approx(0.5, abs=0.05)


def test_one_point_at_the_threshold_splits_a_range():
    energies = np.linspace(-2, 0, 5)
    whole = find_gaps(energies, [0, 0, 0.999, 0, 5.0])
    split = find_gaps(energies, [0, 0, 1.0, 0, 5.0])
    assert whole.lower_edge[0] == -2
    assert whole.upper_edge[0] == pytest.approx(-0.4)
    assert split.upper_edge[0] == -1.0


@pytest.mark.parametrize("shift", [0.0, 0.1, 1 / 3, 0.7])
def test_rounding_decides_neither_a_width_nor_an_edge(shift):
    # from -2.25 to -0.5: crossings half-way between neighbours, met exactly or not in binary
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
    whole = find_gaps(BINS, dos)
    part = find_gaps(BINS, dos[2000:2010])
    np.testing.assert_array_equal(whole.width[2000:2010], part.width)
    assert_same(whole, 2999, reference(BINS, dos[2999], GapCriteria()))


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
        ([0.0, 1.0], np.ones((2, 3)), {}, "shape"),
        ([1.0, 0.0], np.ones(2), {}, "increasing"),
        ([0.0, math.nan], np.ones(2), {}, "increasing"),
        ([0.0], np.ones(1), {}, "increasing"),
        ([0.0, 1.0], ["a", "b"], {}, "real numbers"),
        ([0.0, 1.0], np.ones(2), {"bounds": (0.5, 1.0)}, "bounds"),
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
        ({"max_dos": 0}, "max_dos = 0: input should be greater than 0"),
        ({"min_width": -1}, "min_width = -1"),
        ({"max_upper_edge": math.nan}, "max_upper_edge"),
        ({"min_upper_edge": 0.5}, "nothing can pass"),
        ({"band": "middle"}, "band = 'middle'"),
        ({"min_with": 1}, "min_with"),
    ],
)
def test_wrong_criteria_are_one_clear_line(options, message):
    with pytest.raises(ScreeningError, match=message) as caught:
        GapCriteria.from_options(**options)
    assert "\n" not in str(caught.value)
