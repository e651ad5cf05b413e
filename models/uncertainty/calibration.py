"""How wrong a predictor may be: expected error, band, and probability of a verdict.

All of it comes from *held-out* materials: labelled ones that the predictor has not learned from.
The optimal transport from their predicted to their calculated spectra
(:mod:`models.spectra.transport`) says in which ways this predictor errs. A new prediction, moved
in each of these ways, longer or shorter as its own expected error is, gives *plausible spectra*;
whatever is asked of a spectrum can be asked of them:

- the band is where they lie, widened until it holds as many labels as it says, by conformalised
  quantile regression (Romano, Patterson and Candès, NeurIPS 2019, eqs. 6 to 8);
- the probability that a material meets a criterion is the share of them that does, calibrated by a
  logistic curve through the verdicts on the held-out materials (Platt, in Advances in Large Margin
  Classifiers, MIT Press 2000).

Nobody's own errors count: of a held-out material's chemical system none takes part in what is
said of it. All this holds for materials like the held-out ones; of those outside the domain
(:mod:`screening.domain`) it is too optimistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.spectra.transport import displaced, displacements
from models.uncertainty.held_out import HeldOut

FEWEST = 20  # held-out materials
DRAWS = 32  # plausible spectra that the probability of a verdict is counted among
COVERAGE = 0.9  # of labels that the band holds
_SMALL = 0.02  # eV or units of distance; below, differences are noise
_SLACK = 0.2  # of the mean DOS, which counts as width of the band where there is none
_TOLERANCE = 1e-6  # states/eV/cell
_TOGETHER = 64  # materials whose plausible spectra are judged at a time
_ENOUGH = 5  # positive held-out materials that show how low the score of one can be,
_MANY = 20  # and others below it that show how rarely it is

FloatArray = NDArray[np.float64]
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Spectra (B, K') in states/eV/cell and atoms (B,) -> verdicts (B,) and scores (B,)."""
Verdicts = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The same -> verdicts (B,)."""


class Calibration:
    """How wrong a predictor may be, from what it said of held-out materials.

    Parameters
    ----------
    held_out : HeldOut

    Raises
    ------
    ModelError
        If they are fewer than `FEWEST`, or a spectrum is empty.

    Examples
    --------
    >>> from models.uncertainty.held_out import read_held_out
    >>> from models.zoo import ZOO
    >>> held_out = read_held_out(ZOO / "mat2spec-plus-edos")  # doctest: +SKIP
    >>> calibration = Calibration(held_out)  # doctest: +SKIP
    >>> error = calibration.expected_errors(np.array([0.1]), np.array([0.8]))  # doctest: +SKIP
    >>> calibration.band(spectrum, error[0]).shape  # doctest: +SKIP
    (2, 128)
    """

    def __init__(self, held_out: HeldOut) -> None:
        if len(held_out) < FEWEST:
            raise ModelError(
                f"{len(held_out)} held-out materials are too few to calibrate on; "
                f"at least {FEWEST} with labels that the model has not learned from are needed"
            )
        sums = held_out.predicted.sum(1), held_out.labels.sum(1)
        if not all(np.isfinite(s).all() and (s > 0).all() for s in sums):
            raise ModelError("a held-out material has an empty spectrum, or one with NaN")
        self.held_out = held_out
        self._ways = displacements(held_out.predicted, held_out.labels, held_out.grid)
        self._scales = np.log(sums[1] / sums[0])
        spread, distance = held_out.member_spread, held_out.training_distance
        self._uses = [bool(np.isfinite(hint).all()) for hint in (spread, distance)]
        self._weights, self._factor = self._fit_errors()

    def _hints(self, *hints: np.ndarray) -> FloatArray:
        """Logarithms of the hints at an error that there are, and 1, shape (B, hints + 1)."""
        used = [
            np.log(np.asarray(h, float) + _SMALL)
            for h, u in zip(hints, self._uses, strict=True)
            if u
        ]
        return np.stack([*used, np.ones(len(hints[0]))], axis=1)

    def _fit_errors(self) -> tuple[FloatArray, float]:
        """Least squares of the errors' logarithm, and the factor that makes the mean right."""
        from scipy.optimize import lsq_linear

        held_out = self.held_out
        hints = self._hints(held_out.member_spread, held_out.training_distance)
        log_errors = np.log(held_out.errors + _SMALL)
        free = [0.0] * (hints.shape[1] - 1) + [-np.inf]  # an error never falls with a hint at it
        weights: FloatArray = lsq_linear(hints, log_errors, bounds=(free, np.inf)).x
        mean = (np.exp(hints @ weights) - _SMALL).clip(_SMALL).mean()
        return weights, float(held_out.errors.mean() / mean)

    def expected_errors(
        self, member_spread: np.ndarray, training_distance: np.ndarray
    ) -> FloatArray:
        """Expected Wasserstein distance of predictions from DFT, in the grid's unit.

        A product of powers of the members' spread and of the distance from the training set, as
        far as the predictor has them, fitted to the held-out materials.

        Parameters
        ----------
        member_spread, training_distance : ndarray, shape (B,)

        Returns
        -------
        ndarray, shape (B,)
            NaN where a hint is not known that the others have.
        """
        hints = self._hints(member_spread, training_distance)
        logarithms = (hints * self._weights).sum(1)  # a product of matrices depends on their size
        errors: FloatArray = (np.exp(logarithms) - _SMALL).clip(_SMALL) * self._factor
        return errors

    @cached_property
    def own_errors(self) -> FloatArray:
        """Expected errors of the held-out materials, shape (n,)."""
        held_out = self.held_out
        return self.expected_errors(held_out.member_spread, held_out.training_distance)

    def plausible(
        self,
        spectrum: np.ndarray,
        expected_error: float,
        without: str | None = None,
        at_most: int | None = None,
    ) -> np.ndarray:
        """Spectra that a material may have of which this one is predicted.

        Parameters
        ----------
        spectrum : ndarray, shape (K',)
            In states/eV/cell.
        expected_error : float
            In the grid's unit.
        without : str, optional
            A chemical system whose held-out materials do not count.
        at_most : int, optional
            How many are wanted; by default one for each held-out material.

        Returns
        -------
        ndarray, shape (D, K')
            In states/eV/cell.
        """
        usable = np.arange(len(self.held_out))
        if without is not None:
            usable = usable[np.array(self.held_out.chemical_systems) != without]
        if at_most is not None and len(usable) > at_most:  # evenly: the same each time
            usable = usable[np.linspace(0, len(usable) - 1, at_most).astype(int)]
        lengths = expected_error / self.own_errors[usable]
        spectrum = np.clip(np.asarray(spectrum, float), 0.0, None)
        ways = lengths[:, None] * self._ways[usable]
        return displaced(spectrum, ways, self.held_out.grid) * np.exp(self._scales[usable])[:, None]

    def band(self, spectrum: np.ndarray, expected_error: float) -> np.ndarray:
        """Lower and upper end of the band that holds a share `COVERAGE` of what DFT finds.

        Of all bins of all materials together; of a single material it may be more or fewer.

        Parameters
        ----------
        spectrum : ndarray, shape (K',)
            In states/eV/cell.
        expected_error : float
            In the grid's unit.

        Returns
        -------
        ndarray, shape (2, K')
            In states/eV/cell.
        """
        ends, width = self._quantiles(spectrum, self.plausible(spectrum, expected_error))
        middle = ends.mean(0)
        low = np.minimum(ends[0] - self._widening * width, middle)
        high = np.maximum(ends[1] + self._widening * width, middle)
        return np.stack([np.clip(low, 0.0, None), high])

    def coverage(self, others: HeldOut) -> FloatArray:
        """Share of the bins of each label that lie in the band of its prediction, shape (n,).

        Parameters
        ----------
        others : HeldOut
            Materials that this is not a calibration on.
        """
        errors = self.expected_errors(others.member_spread, others.training_distance)
        pairs = zip(others.predicted, errors, strict=True)
        bands = np.array([self.band(spectrum, error) for spectrum, error in pairs])
        above = others.labels >= bands[:, 0] - _TOLERANCE
        below = others.labels <= bands[:, 1] + _TOLERANCE
        share: FloatArray = (above & below).mean(1)
        return share

    @staticmethod
    def _quantiles(spectrum: np.ndarray, plausible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of plausible spectra (2, K'), and what they are widened in units of, (K',)."""
        tail = (1 - COVERAGE) / 2
        ends = np.quantile(plausible, [tail, 1 - tail], axis=0)
        return ends, ends[1] - ends[0] + _SLACK * max(float(np.mean(spectrum)), _TOLERANCE)

    @cached_property
    def _widening(self) -> float:
        """By how many of its widths the band must grow at each end to cover enough labels."""
        missing = []
        for i, plausible in enumerate(self.own_plausible()):
            ends, width = self._quantiles(self.held_out.predicted[i], plausible)
            label = self.held_out.labels[i]
            missing.append(np.maximum(ends[0] - label, label - ends[1]) / width)
        return float(np.quantile(missing, COVERAGE))

    def own_plausible(self, at_most: int | None = None) -> list[np.ndarray]:
        """Plausible spectra of each held-out material, by those of other chemical systems."""
        held_out = self.held_out
        return [
            self.plausible(spectrum, error, system, at_most)
            for spectrum, error, system in zip(
                held_out.predicted, self.own_errors, held_out.chemical_systems, strict=True
            )
        ]

    def probability_of(self, judge: Judge, verdicts: Verdicts | None = None) -> VerdictProbability:
        """What tells the probability that DFT finds a criterion met.

        Parameters
        ----------
        judge : callable
            Of spectra (B, K') in states/eV/cell and atoms (B,); gives verdicts and scores, (B,).
        verdicts : callable, optional
            Gives the verdicts alone, faster.
        """
        return VerdictProbability(self, judge, verdicts or (lambda *given: judge(*given)[0]))


class VerdictProbability:
    """Probability that DFT finds a criterion met, of which a verdict alone says yes or no.

    Parameters
    ----------
    calibration : Calibration
    judge, verdicts : callable
        See :data:`Judge` and :data:`Verdicts`.
    """

    def __init__(self, calibration: Calibration, judge: Judge, verdicts: Verdicts) -> None:
        self._calibration, self._verdicts = calibration, verdicts
        held_out = calibration.held_out
        is_positive = np.asarray(verdicts(held_out.labels, held_out.n_atoms), bool)
        _, scores = judge(held_out.predicted, held_out.n_atoms)
        own = calibration.own_plausible(DRAWS)
        log_odds = self._log_odds(own, held_out.n_atoms)
        self._slope, self._offset = _logistic(log_odds, is_positive)
        self._hopeless, self._least = _hopeless(scores, is_positive)

    def __call__(
        self,
        spectra: np.ndarray,
        n_atoms: np.ndarray,
        scores: np.ndarray,
        expected_errors: np.ndarray,
    ) -> FloatArray:
        """Probabilities of predictions, between 0 and 1, shape (B,).

        Parameters
        ----------
        spectra : ndarray, shape (B, K')
            In states/eV/cell.
        n_atoms, scores : ndarray, shape (B,)
            Atoms in each cell; what the criterion's verdict says.
        expected_errors : ndarray, shape (B,)
            In the grid's unit. Where it, or the score, is NaN, so is the probability.
        """
        result = np.full(len(spectra), np.nan)
        known = np.isfinite(expected_errors) & np.isfinite(scores)
        result[known] = self._least
        drawn = np.flatnonzero(known & (scores >= self._hopeless))
        for rows in np.split(drawn, range(_TOGETHER, len(drawn), _TOGETHER)):
            plausible = [
                self._calibration.plausible(spectra[i], float(expected_errors[i]), at_most=DRAWS)
                for i in rows
            ]
            odds = self._slope * self._log_odds(plausible, n_atoms[rows]) + self._offset
            result[rows] = 1 / (1 + np.exp(-odds))
        return result

    def _log_odds(self, plausible: Sequence[np.ndarray], n_atoms: np.ndarray) -> FloatArray:
        """Logarithms of the odds of a verdict among the plausible spectra of each material."""
        if not plausible:
            return np.empty(0)
        sizes = np.array([len(spectra) for spectra in plausible])
        is_positive = self._verdicts(np.concatenate(plausible), np.repeat(n_atoms, sizes))
        k = np.add.reduceat(np.asarray(is_positive, float), np.cumsum(sizes) - sizes)
        log_odds: FloatArray = np.log((k + 0.5) / (sizes - k + 0.5))
        return log_odds


def _logistic(x: FloatArray, is_positive: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the most probable logistic curve through the verdicts at x (n,).

    Their priors are normal: 1 +- 1 and 0 +- 3. So few positive materials, or none, leave the odds
    nearly as they are.
    """
    from scipy.optimize import minimize

    sign = np.where(is_positive, 1.0, -1.0)

    def minus_log_posterior(line: np.ndarray) -> float:
        slope, offset = line
        prior = (slope - 1) ** 2 / 2 + (offset / 3) ** 2 / 2
        return float(np.logaddexp(0, -sign * (slope * x + offset)).sum() + prior)

    slope, offset = minimize(
        minus_log_posterior, np.array([1.0, 0.0]), bounds=[(0, None), (None, None)]
    ).x
    return float(slope), float(offset)


def _hopeless(scores: FloatArray, is_positive: np.ndarray) -> tuple[float, float]:
    """A score so far below all that positive materials have that no draw is worth its time.

    And the probability below it: that of the next one if none of so many was positive (Jeffreys).
    """
    positive = scores[is_positive & np.isfinite(scores)]
    if len(positive) >= _ENOUGH:
        score = float(2 * positive.min() - np.median(positive))
        n = int((scores < score).sum())
        if n >= _MANY:
            return score, 0.5 / (n + 1)
    return -np.inf, np.nan
