"""How good a screening is: precision, recall and F1 against DFT verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from screening.errors import ScreeningError

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Proportion:
    """A measured proportion with its 95 % interval; all None where it is not defined.

    Parameters
    ----------
    value, low, high : float or None
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """The three numbers."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: int, trials: int, z: float = Z95, repeats: int = 1) -> Proportion:
    """Proportion with Wilson's score interval.

    With p = successes / trials = s / n, the interval is

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    and z = 1.96 for 95 %. It stays within 0 and 1, and means something at s = 0 and s = n.

    Parameters
    ----------
    repeats : int
        How many times each thing was tried, by several models for instance. That makes the
        proportion no surer: the interval is that of n / `repeats` trials.

    References
    ----------
    E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    if not 0 <= successes <= trials:
        raise ScreeningError(f"{successes} of {trials} is not a proportion")
    if not trials:
        return Proportion(None)
    p, n = successes / trials, trials / repeats
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == trials else (middle + half) / scale
    return Proportion(p, low, high)


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Counts of predictions against DFT verdicts.

    Parameters
    ----------
    tp, fp : int
        Predicted positives that DFT confirms and refutes.
    fn, tn : int
        Predicted negatives that DFT finds positive and negative.
    repeats : int
        How many times each material was counted; see :func:`wilson`.

    Examples
    --------
    The paper's Table 2, Mat2Spec: of 32 predicted positives 15 have a VB gap, of 49 random
    predicted negatives none.

    >>> matrix = ConfusionMatrix(tp=15, fp=17, fn=0, tn=49)
    >>> round(matrix.precision.value, 2), matrix.recall.value
    (0.47, 1.0)
    """

    tp: int
    fp: int
    fn: int
    tn: int
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "fp", "fn", "tn"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ScreeningError(f"{name} must be a count, not {count!r}")

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
            self.repeats,
        )

    @classmethod
    def of(cls, pairs: Any) -> ConfusionMatrix:
        """Count an iterable of (predicted, found by DFT) pairs of booleans."""
        counts = {(p, t): 0 for p in (True, False) for t in (True, False)}
        for predicted, true in pairs:
            counts[bool(predicted), bool(true)] += 1
        return cls(
            tp=counts[True, True],
            fp=counts[True, False],
            fn=counts[False, True],
            tn=counts[False, False],
        )

    @property
    def precision(self) -> Proportion:
        """TP / (TP + FP) on the validated set."""
        return wilson(self.tp, self.tp + self.fp, repeats=self.repeats)

    @property
    def recall(self) -> Proportion:
        """TP / (TP + FN) on the validated set, as in the paper's Table 2."""
        return wilson(self.tp, self.tp + self.fn, repeats=self.repeats)

    @property
    def f1(self) -> Proportion:
        """F1 = 2 TP / (2 TP + FP + FN) on the validated set.

        F1 = 2 J / (1 + J) with the Jaccard index J = TP / (TP + FP + FN), which is a proportion:
        the interval is that of J by Wilson, mapped by this increasing function.
        """
        jaccard = wilson(self.tp, self.tp + self.fp + self.fn, repeats=self.repeats)
        return Proportion(*(_f1(j) for j in (jaccard.value, jaccard.low, jaccard.high)))

    def screened_recall(self, n_positive: int, n_negative: int) -> Proportion:
        """Recall estimated for the whole screened set.

        Of the P predicted positives TP + FP are validated, all of them in the paper; of the M
        predicted negatives N = FN + TN, drawn at random. Each group is weighted up to its size:

            recall = TP' / (TP' + FN'),  TP' = P TP / (TP + FP),  FN' = M FN / (FN + TN)

        In the paper's numbers the few random negatives each stand for hundreds: one missed
        among them weighs more than all that were found. The interval takes the ends of the
        Wilson intervals of both rates, TP / (TP + FP) and FN / (FN + TN), against each other,
        so it is a little too wide; a group that was validated as a whole has an exact rate.

        Parameters
        ----------
        n_positive, n_negative : int
            Predicted positives (P) and predicted negatives (M) in the screened set.

        Returns
        -------
        Proportion
            None where one of the groups was not sampled, or nothing positive was found.

        Raises
        ------
        ScreeningError
            If more materials were validated than were screened.
        """
        validated = {"positives": self.tp + self.fp, "negatives": self.fn + self.tn}
        screened = {"positives": n_positive, "negatives": n_negative}
        for name, n in validated.items():
            if n > screened[name]:
                raise ScreeningError(f"{n} {name} validated, but only {screened[name]} predicted")
        hits = _rate(self.tp, validated["positives"], n_positive)
        misses = _rate(self.fn, validated["negatives"], n_negative)

        def recall(hit_rate: float | None, miss_rate: float | None) -> float | None:
            if hit_rate is None or miss_rate is None:
                return None
            found, missed = n_positive * hit_rate, n_negative * miss_rate
            return found / (found + missed) if found + missed else None

        return Proportion(
            recall(hits.value, misses.value),
            recall(hits.low, misses.high),
            recall(hits.high, misses.low),
        )

    def as_dict(self) -> dict[str, Any]:
        """Counts, precision, recall and F1 with their intervals, as plain values."""
        return {
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "tn": self.tn,
            "precision": self.precision.as_dict(),
            "recall": self.recall.as_dict(),
            "f1": self.f1.as_dict(),
        }


def _rate(successes: int, trials: int, population: int) -> Proportion:
    """Share of a population estimated from a random part of it; exact if it is the whole."""
    if population == 0:
        return Proportion(0.0, 0.0, 0.0)
    rate = wilson(successes, trials)
    return Proportion(rate.value, rate.value, rate.value) if trials == population else rate


def _f1(jaccard: float | None) -> float | None:
    return None if jaccard is None else 2 * jaccard / (1 + jaccard)
