import dataclasses
from fractions import Fraction
from functools import cache
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, hypergeom

from screening import classification
from screening.classification import (
    Assessment,
    ConfusionMatrix,
    Estimate,
    Group,
    Sample,
    clopper_pearson,
    population_limits,
    proportion,
)
from screening.errors import ScreeningError

MAT2SPEC = ConfusionMatrix(tp=15, fp=17, fn=0, tn=49)
GATGNN = ConfusionMatrix(tp=3, fp=20, fn=12, tn=46)
N_SCREENED = 8106  # in the paper


def assessed(matrix, n_positive=None, n_negative=None, by_rank=True):
    """The counts as verdicts on predicted positives and on random predicted negatives."""
    predicted, others = Sample(matrix.tp, matrix.fp), Sample(matrix.fn, matrix.tn)
    positives = Group(n_positive or len(predicted), **{"ranked" if by_rank else "drawn": predicted})
    return Assessment(positives, Group(n_negative or len(others), drawn=others))


def ends(estimate):
    return estimate.low, estimate.high


# counting


@pytest.mark.parametrize(
    ("matrix", "precision", "recall"), [(MAT2SPEC, 0.47, 1.00), (GATGNN, 0.13, 0.20)]
)
def test_table_2_of_the_paper(matrix, precision, recall):
    for found in (matrix, assessed(matrix, None, N_SCREENED - 32)):
        assert round(found.precision.value, 2) == precision
        assert round(found.recall.value, 2) == recall
        assert found.f1.value == pytest.approx(
            2 * matrix.tp / (matrix.tp * 2 + matrix.fp + matrix.fn)
        )


def test_counting_and_adding():
    pairs = [(True, True), (True, False), (False, True), (False, False), (True, True)]
    matrix = ConfusionMatrix.of(pairs)
    assert matrix == ConfusionMatrix(tp=2, fp=1, fn=1, tn=1)
    assert matrix + matrix == ConfusionMatrix.of(pairs * 2)
    document = matrix.as_dict()
    assert document["tp"] == 2
    assert list(document["precision"]) == ["low", "high", "value"]
    assert document["precision"]["value"] == pytest.approx(2 / 3)
    assert set(document) == {"tp", "fp", "fn", "tn", "precision", "recall", "f1"}


def test_counting_the_same_materials_again_makes_nothing_surer():
    once, thrice = (ConfusionMatrix(tp=2 * n, fp=3 * n, fn=n, tn=30 * n) for n in (1, 3))
    repeated = dataclasses.replace(thrice, repeats=3)
    for name in ("precision", "recall", "f1"):
        expected = getattr(once, name)
        assert dataclasses.astuple(getattr(repeated, name)) == pytest.approx(
            dataclasses.astuple(expected)
        )
        assert getattr(thrice, name).low > expected.low
    assert (repeated + repeated).repeats == 3


def test_impossible_counts_are_refused():
    with pytest.raises(ScreeningError, match="fn must be a count"):
        ConfusionMatrix(tp=1, fp=1, fn=-1, tn=1)
    with pytest.raises(ScreeningError, match="tp must be a count"):
        ConfusionMatrix(tp=1.5, fp=1, fn=1, tn=1)
    with pytest.raises(ScreeningError, match="undecided must be a count"):
        Sample(1, 1, -1)
    with pytest.raises(ScreeningError, match="32 materials chosen, but only 10 predicted"):
        assessed(MAT2SPEC, 10, 1000)
    with pytest.raises(ScreeningError, match="3 of 2"):
        clopper_pearson(3, 2)
    with pytest.raises(ScreeningError, match="1 of 3 of 2"):
        population_limits(1, 3, 2)


# limits against independent references


@pytest.mark.parametrize(("s", "n"), [(0, 1), (0, 49), (1, 10), (3, 10), (15, 32), (7, 7)])
def test_clopper_pearson_as_scipy_has_it(s, n):
    expected = binomtest(s, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(s, n) == pytest.approx((expected.low, expected.high), abs=1e-10)
    found = proportion(s, n)
    assert found.value == s / n
    assert ends(found) == clopper_pearson(s, n)


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_interval_holds_the_estimate_and_mirrors(s, rest):
    found, mirrored = proportion(s, s + rest), proportion(rest, s + rest)
    if s + rest == 0:
        assert found == Estimate()
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@given(st.integers(0, 40), st.data())
def test_limits_in_a_population_by_counting_its_samples(population, data):
    drawn = data.draw(st.integers(0, population))
    s = data.draw(st.integers(0, drawn))

    def chance(total, successes):
        ways = comb(total, successes) * comb(population - total, drawn - successes)
        return Fraction(ways, comb(population, drawn))

    supported = [
        total
        for total in range(s, population - drawn + s + 1)
        if sum(chance(total, x) for x in range(s, drawn + 1)) >= Fraction(25, 1000)
        and sum(chance(total, x) for x in range(s + 1)) >= Fraction(25, 1000)
    ]
    assert population_limits(s, drawn, population) == (supported[0], supported[-1])


def test_limits_in_a_large_population_are_binomial():
    low, high = population_limits(1, 49, 1_000_000)
    expected = np.multiply(clopper_pearson(1, 49), 1_000_000)
    assert (low, high) == pytest.approx(tuple(expected), rel=2e-3)


# what is known of the screened set


def test_recall_weighted_to_the_screened_set():
    # 1 of 50 random negatives missed among 1000: 20 in all, beside 10 found
    weighted = assessed(ConfusionMatrix(tp=10, fp=10, fn=1, tn=49), 20, 1000).screened_recall
    assert weighted.value == pytest.approx(10 / 30)
    low, high = population_limits(1, 50, 1000)
    assert ends(weighted) == pytest.approx((10 / (10 + high), 10 / (10 + low)))


def test_random_positives_stand_for_the_others():
    matrix = ConfusionMatrix(tp=5, fp=5, fn=1, tn=49)
    found = assessed(matrix, 20, 1000, by_rank=False)
    assert found.screened_recall.value == pytest.approx(10 / 30)
    assert found.screened_precision.value == pytest.approx(0.5)
    low, high = population_limits(5, 10, 20)
    assert ends(found.screened_precision) == pytest.approx((low / 20, high / 20))
    missed_low, missed_high = population_limits(1, 50, 1000)
    # nearer to the estimate than both ends against each other
    assert low / (low + missed_high) < found.screened_recall.low < 10 / (10 + missed_high)
    assert 10 / (10 + missed_low) < found.screened_recall.high < high / (high + missed_low)


def test_the_best_positives_say_nothing_of_the_others():
    found = assessed(ConfusionMatrix(tp=8, fp=2, fn=0, tn=49), 110, 8000)
    assert found.precision.value == 0.8
    assert found.screened_precision.value is None
    assert ends(found.screened_precision) == pytest.approx((8 / 110, 108 / 110))
    assert found.screened_recall.value is None
    missed = population_limits(0, 49, 8000)[1]
    assert ends(found.screened_recall) == pytest.approx((8 / (8 + missed), 1))


def test_a_hit_rate_that_falls_with_the_rank():
    """What was claimed before: the precision of the best for all, with Wilson's interval."""
    random = np.random.default_rng(0)
    n, size = 10, 100
    has_gap = random.random((2000, size)) < np.linspace(0.9, 0.0, size)
    share = has_gap.mean(1)

    def covered(hits, how):
        found = [Group(size, **how(s)).positives for s in range(n + 1)]
        low, high = np.array([ends(f) for f in found])[hits].T / size
        return ((low <= share) & (share <= high)).mean(), found

    best = has_gap[:, :n].sum(1)
    assert (best / n).mean() - share.mean() > 0.35
    holds, found = covered(best, how=lambda s: {"ranked": Sample(s, n - s)})
    assert holds == 1
    assert all(f.value is None for f in found)

    drawn = random.permuted(has_gap, axis=1)[:, :n].sum(1)
    holds, found = covered(drawn, how=lambda s: {"drawn": Sample(s, n - s)})
    assert 0.94 <= holds <= 0.99
    estimates = np.array([f.value for f in found])[drawn] / size
    assert estimates.mean() == pytest.approx(share.mean(), abs=0.01)


def test_random_positives_beside_the_best():
    positives = Group(100, ranked=Sample(8, 2), drawn=Sample(2, 18))
    found = Assessment(positives, Group(100, drawn=Sample(0, 100)))
    assert found.screened_precision.value == pytest.approx((8 + 90 * 0.1) / 100)
    low, high = population_limits(2, 20, 90)
    assert ends(found.screened_precision) == pytest.approx(((8 + low) / 100, (8 + high) / 100))


def test_full_recall_of_a_sample_says_little_of_thousands():
    weighted = assessed(MAT2SPEC, None, N_SCREENED - 32).screened_recall
    assert (weighted.value, weighted.high) == (1.0, 1.0)
    assert weighted.low == pytest.approx(0.025, abs=5e-4)


def test_figures_of_the_screened_set_are_exact_when_everything_is_validated():
    found = assessed(GATGNN)
    assert dataclasses.astuple(found.screened_recall) == pytest.approx([0.2] * 4)
    assert dataclasses.astuple(found.screened_precision) == pytest.approx([3 / 23] * 4)
    assert found.precision.low < 3 / 23 < found.precision.high  # of others like these


@pytest.mark.parametrize(
    ("figure", "least", "most"),
    [
        ("precision", 6 / 10, 8 / 10),
        ("screened_precision", 6 / 10, 8 / 10),
        ("recall", 6 / (6 + 3), 8 / (8 + 1)),
        ("screened_recall", 6 / (6 + 300), 8 / (8 + 100)),
        ("f1", 2 * 6 / (10 + 6 + 3), 2 * 8 / (10 + 8 + 1)),
    ],
)
def test_the_undecided_are_bounds_and_not_dropped(figure, least, most):
    found, *others = (
        getattr(
            Assessment(Group(10, ranked=positives), Group(1000, drawn=negatives)),
            figure,
        )
        for positives, negatives in [
            (Sample(6, 2, undecided=2), Sample(1, 7, undecided=2)),
            (Sample(6, 4), Sample(3, 7)),
            (Sample(8, 2), Sample(1, 9)),
        ]
    )
    assert found.value is None
    assert (found.least, found.most) == pytest.approx((least, most))
    assert (found.low, found.high) == pytest.approx((others[0].low, others[1].high))


@pytest.mark.parametrize(
    "found",
    [
        Assessment(Group(4, Sample(3, 1)), Group(10)),  # no negative validated
        Assessment(Group(4), Group(10, drawn=Sample(1, 9))),  # no positive validated
    ],
)
def test_no_recall_without_both_groups(found):
    assert found.recall == found.f1 == found.screened_recall == Estimate()


def test_nothing_found_and_nothing_missed_is_no_estimate():
    found = assessed(ConfusionMatrix(tp=0, fp=4, fn=0, tn=10), None, 1000)
    assert found.recall == found.screened_recall == Estimate(None, None, 0.0, 1.0)
    assert found.screened_precision.value == 0


def test_nothing_validated():
    for found in (ConfusionMatrix.of([]), Assessment(Group(4), Group(10))):
        assert found.precision == found.recall == found.f1 == Estimate()


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(23, ranked=Sample(3, 20)), "all 23"),
        (Group(23), "none"),
        (Group(23, drawn=Sample(3, 7)), "10 of 23, drawn at random"),
        (
            Group(23, ranked=Sample(3, 6, 1)),
            "the 10 best of 23 (so nothing is known of the other 13)",
        ),
        (
            Group(23, ranked=Sample(3, 5), drawn=Sample(1, 1), missing=2),
            "the 10 best of 23 and 2 of the other 13, drawn at random; 2 not calculated yet",
        ),
    ],
)
def test_the_design_in_words(group, words):
    assert group.design == words


# Coverage: the chance that the interval of a sample holds the truth, summed over all samples
# instead of simulated. It jumps with the rates, since counts are whole numbers: everywhere it is
# 0.95 at least, and at most 0.99 in the mean over the hit rates. With less than FEW misses
# expected in the sample it is more: most samples have none, and their intervals hold all rates
# down to zero.

FEW = 0.2
HIT_RATES = np.arange(1, 10) / 10
MISS_RATES = (0.0, 0.001, 0.01, 0.1)


def coverage(low, high, truth, *chances):
    """Of the intervals of all outcomes, with their chances along each axis."""
    chance = chances[0] if len(chances) == 1 else np.multiply.outer(*chances)
    holds = (low <= truth + 1e-12) & (truth <= high + 1e-12)
    return chance[holds].sum()


def check_coverage(found, n_expected=FEW):
    """Of an interval at all hit rates, with so many misses expected in the sample."""
    assert len(found) == len(HIT_RATES)
    assert min(found) >= 0.95
    if n_expected >= FEW:
        assert np.mean(found) <= 0.99


def intervals(figure, n_positive, n_negative, size_positive, size_negative, how="drawn"):
    """Of a figure for all numbers of hits and misses, two arrays (hits, misses)."""
    found = [
        [
            ends(
                getattr(
                    Assessment(
                        Group(size_positive, **{how: Sample(hits, n_positive - hits)}),
                        Group(size_negative, drawn=Sample(misses, n_negative - misses)),
                    ),
                    figure,
                )
            )
            for misses in range(n_negative + 1)
        ]
        for hits in range(n_positive + 1)
    ]
    return np.moveaxis(np.array(found), -1, 0)


@pytest.fixture
def quick(monkeypatch):
    """Compute the limits of a sample once."""
    for name in ("population_limits", "clopper_pearson"):
        monkeypatch.setattr(classification, name, cache(getattr(classification, name)))


@pytest.mark.parametrize("n", [10, 20, 32, 49])
def test_coverage_of_a_proportion(n):
    low, high = np.array([clopper_pearson(s, n) for s in range(n + 1)]).T
    found = [coverage(low, high, p, binom.pmf(np.arange(n + 1), n, p)) for p in HIT_RATES]
    check_coverage(found)


@pytest.mark.parametrize(("n", "size"), [(10, 23), (20, 100), (32, 1000)])
def test_coverage_of_the_precision_of_random_positives(n, size):
    low, high = np.array([population_limits(s, n, size) for s in range(n + 1)]).T
    found = []
    for total in np.round(HIT_RATES * size).astype(int):
        chance = hypergeom.pmf(np.arange(n + 1), size, total, n)
        found.append(coverage(low, high, total, chance))
    check_coverage(found)


@pytest.mark.parametrize(("n", "m"), [(10, 10), (23, 20), (32, 49)])
@pytest.mark.parametrize("figure", ["recall", "f1"])
def test_coverage_on_the_validated_set(quick, figure, n, m):
    low, high = intervals(figure, n, m, n, 8000)
    for miss_rate in MISS_RATES:
        found = []
        for hit_rate in HIT_RATES:
            tp, fn = n * hit_rate, m * miss_rate
            truth = tp / (tp + fn) if figure == "recall" else 2 * tp / (n + tp + fn)
            chances = (
                binom.pmf(np.arange(size + 1), size, p)
                for size, p in ((n, hit_rate), (m, miss_rate))
            )
            found.append(coverage(low, high, truth, *chances))
        check_coverage(found, m * miss_rate)


@pytest.mark.parametrize(
    ("n", "size", "m", "others"),
    [
        (32, 32, 49, 8074),
        (23, 23, 10, 400),
        (10, 23, 10, 400),
        (20, 100, 20, 2000),
        (32, 1000, 49, 18000),
    ],
)
def test_coverage_on_the_screened_set(quick, n, size, m, others):
    low, high = intervals("screened_recall", n, m, size, others)
    for miss_rate in MISS_RATES:
        found = []
        for hit_rate in HIT_RATES:
            tp, fn = round(size * hit_rate), round(others * miss_rate)
            chances = (
                hypergeom.pmf(np.arange(drawn + 1), of, total, drawn)
                for drawn, of, total in ((n, size, tp), (m, others, fn))
            )
            found.append(coverage(low, high, tp / (tp + fn), *chances))
        check_coverage(found, m * miss_rate)
