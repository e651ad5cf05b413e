"""What each choice in a model is worth: ablations beside their model, material by material."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from screening.benchmark.runs import RunResult
from screening.benchmark.tables import finite, standard_error
from screening.benchmark.variants import BenchmarkRun

_Pair = tuple[RunResult, RunResult]  # an ablation, and the model that it ablates


def ablation_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Differences of ablations to the models that they ablate, paired by material.

    The errors of material i (MAE, and WD) after trainings with the seed s are a_is of the
    ablation and m_is of the model, under the same setting and with the same part of the training
    materials. Its difference d_i is the mean of a_is - m_is over the seeds that both have. A row
    has the mean of d_i over the n test materials, and its standard error: the sample standard
    deviation of d_i over the square root of n. It says how far the difference would be from that
    on other test materials, and nothing about other seeds.

    An ablation has no row if its model was not trained like this, or tested on other materials.

    Parameters
    ----------
    results : sequence of RunResult
        On all materials, of ablations and of other models.

    Returns
    -------
    list of dict
        One for each kind of run: the ``model`` and what it is ``compared_with``, and for ``mae``
        and ``wd`` the ``difference``, which is positive where the ablation errs more, with its
        ``standard_error``; None where there is no number.
    """
    pairs: dict[tuple[str, str, float], list[_Pair]] = defaultdict(list)
    for ablation, model in _paired(results):
        run = ablation.run
        pairs[run.variant.name, run.setting, run.fraction].append((ablation, model))
    return [_row(of_seeds) for of_seeds in pairs.values()]


def _paired(results: Sequence[RunResult]) -> list[_Pair]:
    """Each ablation with the model it ablates, trained alike and tested on the same materials."""
    models = {_trained(r.run, r.run.variant.name): r for r in results}
    ablations = ((r, models.get(_trained(r.run, r.run.variant.ablates))) for r in results)
    return [(a, m) for a, m in ablations if m and a.material_ids == m.material_ids]


def _trained(run: BenchmarkRun, name: str | None) -> tuple[str | None, str, float, int]:
    """A training of the model with this name, otherwise like the run."""
    return name, run.setting, run.fraction, run.seed


def _row(pairs: list[_Pair]) -> dict[str, Any]:
    ablation, model = pairs[0]
    row: dict[str, Any] = {
        "model": ablation.run.variant.name,
        "compared_with": model.run.variant.name,
        "setting": ablation.run.setting,
        "fraction": ablation.run.fraction,
        "n_train": ablation.n_train,
        "n_test": len(ablation.material_ids),
        "seeds": len(pairs),
    }
    for key in ablation.errors:
        differences = np.mean([a.errors[key] - m.errors[key] for a, m in pairs], axis=0)
        error = finite(standard_error(differences))
        row[key] = {"difference": finite(float(differences.mean())), "standard_error": error}
    return row
