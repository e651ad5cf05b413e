import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.classification import ConfusionMatrix, Proportion, wilson
from screening.errors import ScreeningError

MAT2SPEC = ConfusionMatrix(tp=15, fp=17, fn=0, tn=49)
GATGNN = ConfusionMatrix(tp=3, fp=20, fn=12, tn=46)


@pytest.mark.parametrize(
    ("matrix", "precision", "recall"), [(MAT2SPEC, 0.47, 1.00), (GATGNN, 0.13, 0.20)]
)
def test_table_2_of_the_paper(matrix, precision, recall):
    assert round(matrix.precision.value, 2) == precision
    assert round(matrix.recall.value, 2) == recall


@pytest.mark.parametrize(
    ("s", "n", "low", "high"),
    [
        # Newcombe, Stat. Med. 17, 857 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_against_published_values(s, n, low, high):
    interval = wilson(s, n)
    assert interval.value == s / n
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_interval_holds_the_estimate_and_mirrors(s, rest):
    n = s + rest
    interval, mirrored = wilson(s, n), wilson(rest, n)
    if n == 0:
        assert interval == Proportion(None, None, None)
        return
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_f1_of_both_models():
    assert MAT2SPEC.f1.value == pytest.approx(2 * 15 / (2 * 15 + 17))
    p, r = GATGNN.precision.value, GATGNN.recall.value
    assert GATGNN.f1.value == pytest.approx(2 * p * r / (p + r))
    assert GATGNN.f1.low < GATGNN.f1.value < GATGNN.f1.high


def test_recall_weighted_to_the_screened_set():
    # 1 of 50 random negatives missed among 1000: 20 in all, beside 10 found
    matrix = ConfusionMatrix(tp=10, fp=10, fn=1, tn=49)
    weighted = matrix.screened_recall(n_positive=20, n_negative=1000)
    assert weighted.value == pytest.approx(10 / 30)
    miss_rate = wilson(1, 50)
    assert weighted.low == pytest.approx(10 / (10 + 1000 * miss_rate.high))
    assert weighted.high == pytest.approx(10 / (10 + 1000 * miss_rate.low))


def test_positives_that_were_not_validated_are_weighted_too():
    matrix = ConfusionMatrix(tp=5, fp=5, fn=1, tn=49)
    weighted = matrix.screened_recall(n_positive=20, n_negative=1000)
    assert weighted.value == pytest.approx(10 / 30)
    hit_rate, miss_rate = wilson(5, 10), wilson(1, 50)
    low = 20 * hit_rate.low / (20 * hit_rate.low + 1000 * miss_rate.high)
    assert weighted.low == pytest.approx(low)


def test_full_recall_of_a_sample_says_little_of_thousands():
    weighted = MAT2SPEC.screened_recall(n_positive=32, n_negative=8000)
    assert weighted.value == 1.0
    assert weighted.high == 1.0
    assert weighted.low < 0.03


def test_weighted_recall_is_the_plain_one_when_everything_is_validated():
    weighted = GATGNN.screened_recall(n_positive=23, n_negative=58)
    assert weighted == Proportion(*[pytest.approx(0.2)] * 3)


@pytest.mark.parametrize(
    ("matrix", "sizes"),
    [
        (ConfusionMatrix(tp=3, fp=1, fn=0, tn=0), (4, 10)),  # no negative validated
        (ConfusionMatrix(tp=0, fp=0, fn=1, tn=9), (4, 10)),  # no positive validated
        (ConfusionMatrix(tp=0, fp=4, fn=0, tn=10), (4, 10)),  # nothing to be found
    ],
)
def test_weighted_recall_that_is_not_defined(matrix, sizes):
    assert matrix.screened_recall(*sizes).value is None


def test_nothing_validated():
    matrix = ConfusionMatrix.of([])
    assert matrix.precision.value is None
    assert matrix.recall.value is None
    assert matrix.f1.value is None


def test_counting_and_adding():
    pairs = [(True, True), (True, False), (False, True), (False, False), (True, True)]
    matrix = ConfusionMatrix.of(pairs)
    assert matrix == ConfusionMatrix(tp=2, fp=1, fn=1, tn=1)
    assert matrix + matrix == ConfusionMatrix.of(pairs * 2)
    document = matrix.as_dict()
    assert document["tp"] == 2
    assert document["precision"]["value"] == pytest.approx(2 / 3)
    assert set(document) == {"tp", "fp", "fn", "tn", "precision", "recall", "f1"}


def test_impossible_counts_are_refused():
    with pytest.raises(ScreeningError, match="fn must be a count"):
        ConfusionMatrix(tp=1, fp=1, fn=-1, tn=1)
    with pytest.raises(ScreeningError, match="tp must be a count"):
        ConfusionMatrix(tp=1.5, fp=1, fn=1, tn=1)
    with pytest.raises(ScreeningError, match="32 positives validated, but only 10"):
        MAT2SPEC.screened_recall(10, 1000)
    with pytest.raises(ScreeningError, match="3 of 2"):
        wilson(3, 2)


def test_counting_the_same_materials_again_makes_nothing_surer():
    once, thrice = (ConfusionMatrix(tp=2 * n, fp=3 * n, fn=n, tn=30 * n) for n in (1, 3))
    repeated = dataclasses.replace(thrice, repeats=3)
    for name in ("precision", "recall", "f1"):
        expected = getattr(once, name)
        assert getattr(repeated, name) == Proportion(
            *(pytest.approx(v) for v in (expected.value, expected.low, expected.high))
        )
        assert getattr(thrice, name).low > expected.low
    assert (repeated + repeated).repeats == 3
