"""Which candidates to calculate next.

Pure functions of a few numbers for each candidate. A strategy only orders candidates by what models
say of them, whatever is calculated already; so what was drawn at random before stays a random part
of those that a strategy leaves.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from screening.errors import ScreeningError
from screening.strategies import Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
NO_PROBABILITIES = (
    "{} needs probabilities, and the candidates have none: calibrate the model with `screen "
    "calibrate` and run again, or use {}"
)
_TRIED = 50  # candidates that `budget` tries to fit in before the others


@dataclass(frozen=True, eq=False)
class Pool:
    """What is known of candidates that may be calculated.

    Parameters
    ----------
    names : sequence of str, length n
    scores : ndarray, shape (n,)
        In eV, the larger the better.
    probabilities : ndarray, shape (n,)
        That DFT finds them positive; NaN where it is not known.
    seconds : ndarray, shape (n,)
        Estimated time of each calculation in s.
    families : sequence, length n
        What is alike has the same; see :func:`screening.families.family_of`.
    paid : ndarray of bool, shape (n,)
        Calculated already, so that it costs nothing.
    """

    names: Sequence[str]
    scores: np.ndarray
    probabilities: np.ndarray
    seconds: np.ndarray
    families: Sequence[Hashable]
    paid: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def shuffled(names: Iterable[str], seed: str) -> list[str]:
    """The same order each time for a seed, so that few are the first of more.

    Parameters
    ----------
    names : iterable of str
    seed : str
    """
    ordered = sorted(names)
    random.Random(seed).shuffle(ordered)
    return ordered


def choose(
    pool: Pool,
    strategy: Strategy,
    *,
    limit: int | None = None,
    budget: float | None = None,
    seed: str = "",
) -> list[str]:
    """Names of the candidates that a strategy takes, in its order.

    - ``best``: the largest score first.
    - ``probability``: the most probable first.
    - ``budget``: as many positives as can be expected for the budget: the largest probability
      for the time first (G. B. Dantzig, Oper. Res. 5, 266 (1957)). What this order leaves of the
      budget is used by trying each of the most probable candidates that it left out before all
      others (S. Sahni, J. ACM 22, 115 (1975)).
    - ``uncertainty``: the probability nearest to 1/2 first (D. D. Lewis and W. A. Gale, SIGIR
      1994), and not the largest expected error of the spectrum: in ``tests/benchmarks/results``
      that found half as many gaps, as many as random choice, and taught the model no more.
    - ``diverse``: the best of each family, then the second of each, ...: as the paper found its
      fluorides and niobates.
    - ``random``: drawn by the seed.

    With a budget candidates that do not fit any more are passed over, but for ``random``, which
    ends there: to go on with cheaper ones would draw them more often. What is calculated already
    costs nothing; of it only what comes before the last one that is not belongs to the choice.

    Parameters
    ----------
    pool : Pool
    strategy : str
    limit : int, optional
        Candidates at most, with those that are calculated already.
    budget : float, optional
        Time in s for what is not calculated yet; ``budget`` needs it.
    seed : str

    Raises
    ------
    ScreeningError
        If there is no such strategy, it needs what is not known, or the budget is less than the
        cheapest calculation.

    Examples
    --------
    >>> probabilities, hours = np.array([0.9, 0.5, 0.3]), np.array([10.0, 3.0, 1.0])
    >>> pool = Pool("abc", probabilities, probabilities, 3600 * hours, "xxy", np.zeros(3, bool))
    >>> choose(pool, "best", limit=2)
    ['a', 'b']
    >>> choose(pool, "budget", budget=3600 * 11)
    ['c', 'a']
    >>> choose(pool, "diverse")
    ['a', 'c', 'b']
    """
    if strategy == "budget" and budget is None:
        raise ScreeningError("--strategy budget needs a --budget, such as 40h")
    order = _order(pool, strategy, seed)
    taken: Sequence[int] = order.tolist()
    if budget is not None:
        _check_budget(pool, budget)
        if strategy == "budget":
            taken = _most_expected(pool, order, budget, limit)
        else:
            taken = _filled(pool, order, budget, limit, skips=strategy != "random")
    return [pool.names[i] for i in taken[:limit]]


def _order(pool: Pool, strategy: Strategy, seed: str) -> np.ndarray:
    """Positions in the order of a strategy; equals by their score, unknowns at the end."""
    if strategy == "random":
        position = {name: i for i, name in enumerate(pool.names)}
        return np.array([position[name] for name in shuffled(pool.names, seed)], int)
    if strategy not in _KEYS:
        raise ScreeningError(f"--strategy {strategy}: use {', '.join(STRATEGIES)}")
    needs_probabilities = strategy not in ("best", "diverse")
    if needs_probabilities and len(pool) and np.isnan(pool.probabilities).all():
        raise ScreeningError(NO_PROBABILITIES.format(f"--strategy {strategy}", "--strategy best"))
    return np.lexsort((-pool.scores, _KEYS[strategy](pool)))


def _places_in_family(pool: Pool) -> np.ndarray:
    """0 for the best of each family, 1 for the second, ..."""
    places = np.zeros(len(pool))
    before: Counter[Hashable] = Counter()
    for i in np.argsort(-pool.scores, kind="stable"):
        places[i] = before[pool.families[i]]
        before[pool.families[i]] += 1
    return places


_KEYS: dict[str, Callable[[Pool], np.ndarray]] = {
    "best": lambda pool: -pool.scores,
    "probability": lambda pool: -pool.probabilities,
    "budget": lambda pool: -pool.probabilities / pool.seconds,
    "uncertainty": lambda pool: np.abs(pool.probabilities - 0.5),
    "diverse": _places_in_family,
}


def _check_budget(pool: Pool, budget: float) -> None:
    if not budget > 0:
        raise ScreeningError(f"a budget of {budget:g} s: must be more than nothing")
    cheapest = pool.seconds[~pool.paid].min(initial=np.inf)
    if budget < cheapest < np.inf:
        raise ScreeningError(
            f"the budget has {budget / 60:.1f} minutes for these, less than the cheapest "
            f"calculation, about {cheapest / 60:.1f} minutes: raise --budget"
        )


def _filled(
    pool: Pool, order: Iterable[int], budget: float, limit: int | None, skips: bool = True
) -> list[int]:
    """Positions in their order as far as the budget goes."""
    taken: list[int] = []
    useful = 0  # up to the last that costs something
    for i in order:
        if len(taken) == limit:
            break
        price = 0.0 if pool.paid[i] else float(pool.seconds[i])
        if price > budget:
            if skips:
                continue
            break
        budget -= price
        taken.append(i)
        useful = useful if pool.paid[i] else len(taken)
    return taken if pool.paid.all() else taken[:useful]


def _most_expected(pool: Pool, order: np.ndarray, budget: float, limit: int | None) -> list[int]:
    """Of several ways to fill the budget, that with the most positives to be expected."""
    probabilities = np.nan_to_num(pool.probabilities)
    by_probability = np.argsort(-probabilities, kind="stable")
    fillings = [_filled(pool, tried, budget, limit) for tried in (order, by_probability)]
    left_out = by_probability[~np.isin(by_probability, fillings[0])]
    fillings += [_filled(pool, [i, *order[order != i]], budget, limit) for i in left_out[:_TRIED]]
    gain = np.where(pool.paid, 0.0, probabilities)
    chosen = max(fillings, key=lambda filling: gain[filling].sum())
    place = np.argsort(order)
    return sorted(chosen, key=lambda i: place[i])
