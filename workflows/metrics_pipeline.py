"""Precision and recall of a run as a MongoDB aggregation, for mongosh and dashboards.

It gives what :func:`workflows.validation.run_metrics` gives, without reading a spectrum. The
difference: it takes the verdict that was stored with a calculation, so calculations that another
run stored by other criteria are only counted, as ``n_other_criteria``.
"""

from __future__ import annotations

from typing import Any

from screening.classification import Z95

Expression = Any
"""An aggregation expression: a number, a ``"$field"`` or a dict with an operator."""


def metrics_pipeline(run_id: str) -> list[dict[str, Any]]:
    """Aggregation of the collection ``runs``.

    Returns
    -------
    list of dict
        Stages. The result has a document for each engine and recipe: `engine`, `recipe`, `tp`,
        `fp`, `fn`, `tn`, `precision`, `recall`, `f1` and `screened_recall` (each with `value`,
        `low` and `high`, null where it is not defined), `n_positive`, `n_negative`, `n_failed`,
        `n_waiting`, `n_magnetic` and `n_other_criteria`.

    Examples
    --------
    >>> found = database.runs.aggregate(metrics_pipeline("run-1"))  # doctest: +SKIP
    """
    done = {"$eq": ["$validation.state", "done"]}
    same = {"$eq": ["$validation.gap.criteria", "$parameters.criteria"]}
    found = "$validation.is_positive"
    predicted = {"$in": ["$validation.material_id", "$selection"]}
    judged = [done, same]
    return [
        {"$match": {"run_id": run_id}},
        {
            "$lookup": {
                "from": "validations",
                "localField": "run_id",
                "foreignField": "run_ids",
                "as": "validation",
            }
        },
        {"$unwind": "$validation"},
        {
            "$group": {
                "_id": {"engine": "$validation.engine", "recipe": "$validation.recipe"},
                "n_positive": {"$first": {"$size": "$selection"}},
                "n_screened": {"$first": "$counts.screened"},
                "tp": _count(*judged, predicted, found),
                "fp": _count(*judged, predicted, _not(found)),
                "fn": _count(*judged, _not(predicted), found),
                "tn": _count(*judged, _not(predicted), _not(found)),
                "n_failed": _count({"$eq": ["$validation.state", "failed"]}),
                "n_waiting": _count({"$in": ["$validation.state", ["queued", "running"]]}),
                "n_magnetic": _count({"$eq": ["$validation.state", "magnetic"]}),
                "n_other_criteria": _count(done, _not(same)),
            }
        },
        {
            "$set": {
                "engine": "$_id.engine",
                "recipe": "$_id.recipe",
                "n_negative": {"$subtract": ["$n_screened", "$n_positive"]},
                "precision": _wilson("$tp", {"$add": ["$tp", "$fp"]}),
                "recall": _wilson("$tp", {"$add": ["$tp", "$fn"]}),
                "jaccard": _wilson("$tp", {"$add": ["$tp", "$fp", "$fn"]}),
            }
        },
        {
            "$set": {
                "f1": {end: _f1(f"$jaccard.{end}") for end in ENDS},
                "hits": _rate("$tp", {"$add": ["$tp", "$fp"]}, "$n_positive"),
                "misses": _rate("$fn", {"$add": ["$fn", "$tn"]}, "$n_negative"),
            }
        },
        {
            "$set": {
                "screened_recall": {
                    hit: _recall(f"$hits.{hit}", f"$misses.{miss}")
                    for hit, miss in zip(ENDS, ("value", "high", "low"), strict=True)
                }
            }
        },
        {"$project": {"_id": 0, "jaccard": 0, "hits": 0, "misses": 0, "n_screened": 0}},
        {"$sort": {"engine": 1, "recipe": 1}},
    ]


ENDS = ("value", "low", "high")


def _not(expression: Expression) -> Expression:
    return {"$not": [expression]}


def _count(*conditions: Expression) -> Expression:
    return {"$sum": {"$cond": [{"$and": list(conditions)}, 1, 0]}}


def _unless(condition: Expression, expression: Expression) -> Expression:
    return {"$cond": [condition, None, expression]}


def _wilson(successes: Expression, trials: Expression) -> Expression:
    """Proportion with Wilson's interval; see :func:`screening.classification.wilson`."""
    z, s, n = Z95, "$$s", "$$n"
    p: Expression = {"$divide": [s, n]}
    middle: Expression = {"$add": [p, {"$divide": [z * z / 2, n]}]}
    variance = {
        "$add": [
            {"$divide": [{"$multiply": [p, {"$subtract": [1, p]}]}, n]},
            {"$divide": [z * z / 4, {"$multiply": [n, n]}]},
        ]
    }
    half = {"$multiply": [z, {"$sqrt": variance}]}
    scale = {"$add": [1, {"$divide": [z * z, n]}]}
    low = {"$divide": [{"$subtract": [middle, half]}, scale]}
    high = {"$divide": [{"$add": [middle, half]}, scale]}
    ends = {
        "value": p,
        "low": {"$cond": [{"$eq": [s, 0]}, 0, low]},
        "high": {"$cond": [{"$eq": [s, n]}, 1, high]},
    }
    nothing = {"$eq": [n, 0]}
    return {
        "$let": {
            "vars": {"s": successes, "n": trials},
            "in": {end: _unless(nothing, expression) for end, expression in ends.items()},
        }
    }


def _rate(successes: Expression, trials: Expression, population: Expression) -> Expression:
    """Share of a population, estimated from a random part of it; exact if it is the whole."""
    exact = {"$divide": [successes, population]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$eq": [population, 0]}, "then": dict.fromkeys(ENDS, 0.0)},
                {"case": {"$eq": [trials, population]}, "then": dict.fromkeys(ENDS, exact)},
            ],
            "default": _wilson(successes, trials),
        }
    }


def _recall(hit_rate: str, miss_rate: str) -> Expression:
    """Recall on the screened set from the rates of both groups."""
    found = {"$multiply": ["$n_positive", hit_rate]}
    missed = {"$multiply": ["$n_negative", miss_rate]}
    total = {"$add": [found, missed]}  # null if a rate is
    undefined = {"$in": [total, [None, 0]]}
    return _unless(undefined, {"$divide": [found, total]})


def _f1(jaccard: str) -> Expression:
    f1 = {"$divide": [{"$multiply": [2, jaccard]}, {"$add": [1, jaccard]}]}
    return _unless({"$eq": [jaccard, None]}, f1)
