"""How good a screening is: precision, recall and F1 against DFT verdicts, with 95 % intervals.

Two ways of taking a sample need two ways of counting:

- :class:`ConfusionMatrix`: materials that were taken whatever is predicted of them, such as the
  test materials of a model. Precision, recall and the Jaccard index are plain proportions.
- :class:`Assessment`: materials that were chosen by what is predicted of them, such as all
  predicted positives and a few random negatives. Each group then stands for its own number of
  materials, and recall is made of two proportions.

Limits of one proportion are exact: they hold in at least 95 % of all samples whatever the rate.
Those of recall and F1 on chosen materials are combined of two exact ones; the tests sum their
coverage over all samples, for 10 to 49 negatives of up to 18,000: at least 95 %, on average over
hit rates at most 99 %. More where less than a fifth of a miss is expected among the validated
negatives: most samples then have none, and their intervals hold all miss rates down to zero.

scipy's `binomtest` gives the same limits (to 5e-13) in 6 ms, these functions take 3 us, and limits
of several seeds need fractions, which it refuses.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from scipy.special import betaincinv

from screening.errors import ScreeningError

TAIL = 0.025  # probability beyond each end of a 95 % interval
_ROUNDING = 1e-9  # of a probability: one that is the tail's, exactly, is inside


def _check_counts(source: object, names: Iterable[str]) -> None:
    for name in names:
        count = getattr(source, name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ScreeningError(f"{name} must be a count, not {count!r}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number or a share that was estimated.

    Parameters
    ----------
    least, most : float or None
        The estimate if all that is undecided falls against it, and in favour of it. None where
        nothing supports an estimate.
    low, high : float or None
        Its 95 % interval, whatever the undecided turn out to be. None where it is not defined.
    """

    least: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float | None:
        """The estimate; None where the undecided leave it open."""
        return self.least if self.least == self.most else None

    def mapped(self, increasing: Callable[[float], float]) -> Estimate:
        """The same for an increasing function of it."""
        ends = (self.least, self.most, self.low, self.high)
        return Estimate(*(None if end is None else increasing(end) for end in ends))

    def as_dict(self) -> dict[str, float | None]:
        """Interval, estimate and its bounds."""
        ends = {"low": self.low, "high": self.high}
        return ends | {"value": self.value, "least": self.least, "most": self.most}


def clopper_pearson(successes: float, trials: float) -> tuple[float, float]:
    """Exact 95 % limits of the probability that `successes` of `trials` come from.

    They are quantiles of beta distributions, which exist for fractions as well.

    Parameters
    ----------
    successes, trials : float

    References
    ----------
    C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934).
    """
    if not 0 <= successes <= trials:
        raise ScreeningError(f"{successes} of {trials} is not a proportion")
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, TAIL)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - TAIL)) if failures else 1.0
    return low, high


def population_limits(successes: int, drawn: int, population: int) -> tuple[int, int]:
    """Exact 95 % limits of the successes in a population from those in a random part of it.

    The hypergeometric distribution in the place of the binomial one of :func:`clopper_pearson`:
    a population that was drawn as a whole leaves nothing open, and of a large one a fraction
    between the binomial limits is left.

    Parameters
    ----------
    successes, drawn, population : int

    References
    ----------
    T. Wright, Exact Confidence Bounds when Sampling from Small Finite Universes (1991).
    """
    if not 0 <= successes <= drawn <= population:
        raise ScreeningError(f"{successes} of {drawn} of {population} is not a sample")
    possible = range(successes, population - drawn + successes + 1)
    if drawn in (0, population):
        return possible[0], possible[-1]
    from scipy.stats import hypergeom  # a second

    def as_many_or_more(total: int) -> float:
        return float(hypergeom.sf(successes - 1, population, total, drawn))

    def more(total: int) -> float:  # 1 minus the chance of as few; it grows with the total
        return float(hypergeom.sf(successes, population, total, drawn))

    low = possible[bisect_right(possible, TAIL - _ROUNDING, key=as_many_or_more)]
    high = possible[bisect_right(possible, 1 - TAIL + _ROUNDING, key=more) - 1]
    return low, high


def proportion(successes: int, trials: int, repeats: int = 1) -> Estimate:
    """Share with its Clopper-Pearson interval; nothing where nothing was tried.

    Parameters
    ----------
    successes, trials : int
    repeats : int
        How many times each thing was tried, by several models for instance. That makes the
        proportion no surer: the interval is that of `trials` / `repeats` trials.
    """
    if not trials:
        return Estimate()
    share = successes / trials
    return Estimate(share, share, *clopper_pearson(successes / repeats, trials / repeats))


def _over_one_plus_ratio(scale: float, a: Estimate, b: Estimate) -> Estimate:
    """scale / (1 + a / b) of two independent estimates of numbers that are not negative.

    The limits of a / b follow from those of a and b by the method of variance estimates recovery,
    in which the distances of both limits from their estimates are added in quadrature. It needs
    no logarithm, so that a or b may be 0, and it leaves a factor that is known exactly alone.
    Taking both ends at their 95 % limits instead would be far too wide.

    References
    ----------
    A. Donner and G. Y. Zou, Stat. Methods Med. Res. 21, 347 (2012); R. G. Newcombe, ibid. 25,
    1774 (2016), MOVER-R.
    """
    least, most = _point(scale, a.most, b.least), _point(scale, a.least, b.most)
    is_open = a.value is None or b.value is None  # then it is no estimate if both ends are the same
    if least is None or most is None or (is_open and least == most):
        least = most = None
    low = scale / (1 + _upper_ratio(a.most, a.high, b.least, b.low))
    high = scale / (1 + _lower_ratio(a.least, a.low, b.most, b.high))
    return Estimate(least, most, low, high)


def _point(scale: float, a: Any, b: Any) -> float | None:
    return scale * b / (a + b) if a + b else None


def _upper_ratio(a: Any, a_high: Any, b: Any, b_low: Any) -> float:
    curvature = b_low * (2 * b - b_low)
    if not curvature:
        return math.inf
    root = (a * b) ** 2 + a_high * (a_high - 2 * a) * curvature
    return float((a * b + math.sqrt(max(root, 0.0))) / curvature)


def _lower_ratio(a: Any, a_low: Any, b: Any, b_high: Any) -> float:
    curvature = a_low * (2 * a - a_low)
    if not curvature:
        return 0.0
    root = (a * b) ** 2 + b_high * (b_high - 2 * b) * curvature
    below = a * b + math.sqrt(max(root, 0.0))
    return float(curvature / below) if below else math.inf


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Counts of predictions against the truth, of materials taken whatever is predicted of them.

    Parameters
    ----------
    tp, fp : int
        Predicted positives that DFT confirms and refutes.
    fn, tn : int
        Predicted negatives that DFT finds positive and negative.
    repeats : int
        How many times each material was counted; see :func:`proportion`.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    repeats: int = 1

    def __post_init__(self) -> None:
        _check_counts(self, ("tp", "fp", "fn", "tn"))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
            self.repeats,
        )

    @classmethod
    def of(cls, pairs: Iterable[tuple[Any, Any]]) -> ConfusionMatrix:
        """Count an iterable of (predicted, found by DFT) pairs of booleans."""
        counts = Counter((bool(predicted), bool(true)) for predicted, true in pairs)
        return cls(
            tp=counts[True, True],
            fp=counts[True, False],
            fn=counts[False, True],
            tn=counts[False, False],
        )

    @property
    def precision(self) -> Estimate:
        """TP / (TP + FP)."""
        return proportion(self.tp, self.tp + self.fp, self.repeats)

    @property
    def recall(self) -> Estimate:
        """TP / (TP + FN)."""
        return proportion(self.tp, self.tp + self.fn, self.repeats)

    @property
    def f1(self) -> Estimate:
        """F1 = 2 TP / (2 TP + FP + FN).

        F1 = 2 J / (1 + J) with the Jaccard index J = TP / (TP + FP + FN), which is a proportion:
        the interval is that of J, mapped by this increasing function.
        """
        jaccard = proportion(self.tp, self.tp + self.fp + self.fn, self.repeats)
        return jaccard.mapped(lambda j: 2 * j / (1 + j))

    def as_dict(self) -> dict[str, Any]:
        """Counts, precision, recall and F1 with their intervals, as plain values."""
        counts = {name: getattr(self, name) for name in ("tp", "fp", "fn", "tn")}
        figures = _figures(self, ("precision", "recall", "f1"))
        ends = ("low", "high", "value")  # nothing is undecided
        return counts | {name: {end: f[end] for end in ends} for name, f in figures.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """DFT verdicts on materials with the same prediction.

    Parameters
    ----------
    positive, negative : int
        Materials with a VB gap by DFT, and without.
    undecided : int
        Materials without a verdict: the calculation failed, or is not done yet, or says that the
        criteria do not apply. They may be of either kind, and not by chance.
    """

    positive: int = 0
    negative: int = 0
    undecided: int = 0

    def __post_init__(self) -> None:
        _check_counts(self, ("positive", "negative", "undecided"))

    def __len__(self) -> int:
        return self.positive + self.negative + self.undecided

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.positive + other.positive,
            self.negative + other.negative,
            self.undecided + other.undecided,
        )

    @property
    def most(self) -> int:
        """Positives if all that is undecided is positive."""
        return self.positive + self.undecided

    @property
    def positives(self) -> Estimate:
        """Positives to be expected among as many materials that are like these."""
        n = len(self)
        low, high = clopper_pearson(self.positive, n)[0], clopper_pearson(self.most, n)[1]
        return Estimate(self.positive, self.most, n * low, n * high)


@dataclass(frozen=True, slots=True)
class Group:
    """Materials with the same prediction, of which some were validated.

    Parameters
    ----------
    size : int
        Materials with this prediction.
    ranked : Sample
        Chosen by rank: they say nothing of the others.
    drawn : Sample
        Drawn at random from the others.
    missing : int
        Chosen by rank as well, but not calculated yet.
    strategies : tuple of str
        By which rank (:func:`screening.acquisition.choose`); the score's if it is not said.
    """

    size: int
    ranked: Sample = Sample()
    drawn: Sample = Sample()
    missing: int = 0
    strategies: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _check_counts(self, ("size", "missing"))
        n_chosen = len(self.validated) + self.missing
        if n_chosen > self.size:
            raise ScreeningError(f"{n_chosen} materials chosen, but only {self.size} predicted")

    @property
    def validated(self) -> Sample:
        """Both samples together."""
        return self.ranked + self.drawn

    @property
    def positives(self) -> Estimate:
        """Materials of the group that are positive.

        Those chosen by rank count as they are. Of the others' number the random ones give an
        estimate and hypergeometric limits; without random ones nothing is known of it.
        """
        ranked, drawn, n = self.ranked, self.drawn, len(self.drawn)
        most_ranked = ranked.most + self.missing
        others = self.size - len(ranked) - self.missing
        low = population_limits(drawn.positive, n, others)[0]
        high = population_limits(drawn.most, n, others)[1]
        least, most = (drawn.positive / n, drawn.most / n) if n else (0, 1)
        return Estimate(
            ranked.positive + others * least,
            most_ranked + others * most,
            ranked.positive + low,
            most_ranked + high,
        )

    @property
    def design(self) -> str:
        """How the validated ones were chosen, in words."""
        n_drawn, n_ranked = len(self.drawn), len(self.ranked) + self.missing
        if n_drawn + n_ranked == self.size:
            words = f"all {self.size}"
        elif not n_ranked:
            words = f"{n_drawn} of {self.size}, drawn at random" if n_drawn else "none"
        else:
            words = f"the {n_ranked} best of {self.size}"
            if set(self.strategies) - {"best"}:
                words = f"{n_ranked} of {self.size} by {' and '.join(self.strategies)}"
            others = f"the other {self.size - n_ranked}"
            words += f" and {n_drawn} of {others}, drawn at random" if n_drawn else ""
            words += "" if n_drawn else f" (so nothing is known of {others})"
        return words + (f"; {self.missing} not calculated yet" if self.missing else "")


@dataclass(frozen=True, slots=True)
class Assessment:
    """What DFT says of a screening from some of its predicted positives and negatives.

    Figures on the validated set are for as many materials chosen in the same way; those on the
    screened set weigh each group up to its size.

    Parameters
    ----------
    positives, negatives : Group
        The predicted ones.

    Examples
    --------
    The paper's Table 2, Mat2Spec: all 32 predicted positives of 8,106 candidates were validated,
    15 have a VB gap; of 49 random predicted negatives none has. Full recall on the validated set
    leaves room for 583 missed materials in the screened set:

    >>> paper = Assessment(
    ...     positives=Group(32, ranked=Sample(15, 17)),
    ...     negatives=Group(8106 - 32, drawn=Sample(0, 49)),
    ... )
    >>> [round(end, 2) for end in (paper.precision.low, paper.precision.high)]
    [0.29, 0.65]
    >>> paper.negatives.positives.high
    583
    >>> [round(end, 3) for end in (paper.screened_recall.low, paper.screened_recall.high)]
    [0.025, 1.0]
    """

    positives: Group
    negatives: Group

    @property
    def counts(self) -> dict[str, int]:
        """TP, FP, FN and TN among the materials with a verdict."""
        predicted, others = self.positives.validated, self.negatives.validated
        return {
            "tp": predicted.positive,
            "fp": predicted.negative,
            "fn": others.positive,
            "tn": others.negative,
        }

    @property
    def precision(self) -> Estimate:
        """Share of the validated positives that have a VB gap."""
        return _share(self.positives.validated.positives, len(self.positives.validated))

    @property
    def recall(self) -> Estimate:
        """TP / (TP + FN) on the validated set, as in the paper's Table 2.

        It depends on how many of each group were validated, so it is comparable only between
        models that were validated in the same numbers.
        """
        if not self._has_both:
            return Estimate()
        missed = self.negatives.validated.positives
        return _over_one_plus_ratio(1, missed, self.positives.validated.positives)

    @property
    def f1(self) -> Estimate:
        """F1 = 2 TP / (2 TP + FP + FN) on the validated set.

        It is 2 / (1 + (n + FN) / TP) with the n = TP + FP validated positives, a ratio of two
        independent numbers as in the recall.
        """
        if not self._has_both:
            return Estimate()
        n = len(self.positives.validated)
        others = self.negatives.validated.positives.mapped(lambda missed: n + missed)
        return _over_one_plus_ratio(2, others, self.positives.validated.positives)

    @property
    def screened_precision(self) -> Estimate:
        """Share of all predicted positives that have a VB gap; exact if all were validated."""
        return _share(self.positives.positives, self.positives.size)

    @property
    def screened_recall(self) -> Estimate:
        """Recall on the whole screened set, K / (K + L).

        K and L are the numbers with a VB gap among all predicted positives and negatives. The
        few random negatives each stand for hundreds: one missed among them weighs more than all
        that were found.
        """
        if not self._has_both:
            return Estimate()
        return _over_one_plus_ratio(1, self.negatives.positives, self.positives.positives)

    @property
    def _has_both(self) -> bool:
        """Whether something is known of each group: a recall needs both."""
        groups = (self.positives, self.negatives)
        return all(len(group.validated) or not group.size for group in groups)

    @property
    def design(self) -> str:
        """How the validated materials were chosen, in words."""
        return (
            f"predicted positives: {self.positives.design}; "
            f"predicted negatives: {self.negatives.design}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Counts, design and figures as plain values."""
        names = ("precision", "recall", "f1", "screened_precision", "screened_recall")
        return {
            **self.counts,
            "design": self.design,
            **_figures(self, names),
            "n_positive": self.positives.size,
            "n_negative": self.negatives.size,
        }


def _figures(source: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(source, name).as_dict() for name in names}


def _share(number: Estimate, of: int) -> Estimate:
    return number.mapped(lambda n: n / of) if of else Estimate()
