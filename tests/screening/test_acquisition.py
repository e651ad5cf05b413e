"""Strategies on small pools; the knapsack against all subsets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

from screening.acquisition import STRATEGIES, Pool, choose
from screening.errors import ScreeningError


def pool(scores, **changes):
    n = len(scores)
    known = {
        "names": [chr(97 + i) for i in range(n)] if n <= 26 else [f"m-{i}" for i in range(n)],
        "scores": np.asarray(scores, float),
        "probabilities": np.full(n, np.nan),
        "seconds": np.ones(n),
        "families": [None] * n,
        "paid": np.zeros(n, bool),
    }
    arrays = {k: np.asarray(v) if k != "families" else v for k, v in changes.items()}
    return Pool(**(known | arrays))


def text(*args, **options):
    return "".join(choose(*args, **options))


def test_the_best_score_comes_first_and_of_equals_the_first() -> None:
    assert text(pool([1.0, 3.0, 2.0, 3.0]), "best") == "bdca"
    assert text(pool([1.0, 3.0, 2.0, 3.0]), "best", limit=2) == "bd"
    assert text(pool([1.0, 3.0]), "best", limit=0) == ""


def test_the_most_probable_comes_first_and_what_is_unknown_last() -> None:
    some = pool([1.0, 2.0, 3.0, 4.0], probabilities=[0.9, np.nan, 0.2, 0.9])
    assert text(some, "probability") == "dacb"


def test_doubt_comes_first() -> None:
    some = pool([1.0, 2.0, 3.0], probabilities=[0.9, 0.45, 0.2])
    assert text(some, "uncertainty") == "bca"


def test_each_family_has_its_best_before_any_has_its_second() -> None:
    some = pool([5.0, 4.0, 3.0, 2.0, 1.0], families=["x", "x", "y", "x", "z"])
    assert text(some, "diverse") == "acebd"


def test_random_ones_depend_on_the_seed_only_and_few_are_the_first_of_more() -> None:
    names = list("abcdefgh")
    one = pool(np.arange(8.0), names=names)
    other = pool(np.arange(8.0)[::-1], names=names[::-1], probabilities=np.ones(8))
    assert text(one, "random", seed="s") == text(other, "random", seed="s")
    assert text(one, "random", seed="s", limit=3) == text(one, "random", seed="s")[:3]
    assert len({text(one, "random", seed=str(i)) for i in range(9)}) > 5


@pytest.mark.parametrize("strategy", ["probability", "budget", "uncertainty"])
def test_without_probabilities_one_line_says_what_to_do(strategy) -> None:
    with pytest.raises(ScreeningError, match=rf"{strategy} needs probabilities.*--strategy best"):
        choose(pool([1.0]), strategy, budget=10.0)


def test_bad_input_is_named() -> None:
    known = pool([1.0, 2.0], probabilities=[0.5, 0.5], seconds=[600.0, 300.0])
    with pytest.raises(ScreeningError, match="--strategy worst: use best, probability, budget"):
        choose(known, "worst")  # type: ignore[arg-type]
    with pytest.raises(ScreeningError, match="--strategy budget needs a --budget, such as 40h"):
        choose(known, "budget")
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(ScreeningError, match="must be more than nothing"):
            choose(known, "best", budget=budget)
    for strategy in STRATEGIES:
        with pytest.raises(
            ScreeningError, match=r"4.0 minutes for these, less than the cheapest .* 5.0 min"
        ):
            choose(known, strategy, budget=240.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_to_choose_from_and_everything_calculated(strategy) -> None:
    assert choose(pool([]), strategy, budget=10.0) == []
    done = pool([1.0, 2.0], probabilities=[0.5, 0.5], families="xy", paid=[True, True])
    assert sorted(choose(done, strategy, budget=0.1)) == ["a", "b"]


def test_a_budget_passes_over_what_does_not_fit_but_random_ones_end_there() -> None:
    some = pool([4.0, 3.0, 2.0, 1.0], seconds=[3.0, 9.0, 2.0, 1.0])
    assert text(some, "best", budget=5.0) == "ac"
    for seed in "0123456789":
        drawn = choose(some, "random", seed=seed)
        taken = choose(some, "random", seed=seed, budget=5.0)
        assert taken == drawn[: len(taken)]
        time = dict(zip("abcd", some.seconds, strict=True))
        assert sum(time[name] for name in drawn[: len(taken) + 1]) > 5.0


def test_what_is_calculated_costs_nothing_and_belongs_to_the_choice_only_before_its_end() -> None:
    some = pool([5.0, 4.0, 3.0, 2.0, 1.0], paid=[False, True, False, True, True])
    assert text(some, "best", budget=1.0) == "a"
    assert text(some, "best", budget=2.0) == "abc"
    assert text(some, "best", budget=2.0, limit=2) == "a"


def random_pool(rng, n):
    seconds = np.exp(rng.normal(0, 1, n))
    some = pool(rng.random(n), probabilities=rng.random(n) ** 2, seconds=seconds)
    return some, float(seconds.min() + rng.random() * (seconds.sum() - seconds.min()))


def gain(some, names):
    index = [some.names.index(name) for name in names]
    return some.probabilities[index].sum(), some.seconds[index].sum()


def test_expected_discoveries_are_nearly_those_of_the_best_subset() -> None:
    """Of 300 pools of up to ten candidates all subsets are tried."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        some, budget = random_pool(rng, int(rng.integers(1, 11)))
        limit = int(rng.integers(1, 11)) if rng.random() < 0.3 else None
        sizes = range((limit or len(some)) + 1)
        subsets = (s for k in sizes for s in itertools.combinations(some.names, k))
        best = max(g for g, time in (gain(some, s) for s in subsets) if time <= budget)
        chosen = choose(some, "budget", budget=budget, limit=limit)
        found, time = gain(some, chosen)
        assert time <= budget * (1 + 1e-12)
        assert len(chosen) <= (limit or len(some))
        shares.append(found / best)
    assert min(shares) > 0.85
    assert np.mean(shares) > 0.995
    assert np.mean(np.array(shares) > 1 - 1e-9) > 0.8


def test_of_many_candidates_hardly_a_discovery_is_lost() -> None:
    """Against the exact optimum by branch and bound."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        some, _ = random_pool(rng, 200)
        budget = some.seconds.sum() / 5
        exact = milp(
            -some.probabilities,
            integrality=np.ones(200),
            bounds=(0, 1),
            constraints=LinearConstraint(some.seconds[None], ub=budget),
        )
        found, _ = gain(some, choose(some, "budget", budget=budget))
        assert -exact.fun - found < 0.1


def test_unknown_probabilities_are_no_discoveries() -> None:
    some = pool([1.0, 2.0], probabilities=[np.nan, 0.1], seconds=[1.0, 2.0])
    assert text(some, "budget", budget=2.0) == "b"
