"""The replayed search, on materials whose gap follows one feature."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from models.spectra.spectrum import EDOS_GRID
from tests.benchmarks import active_search
from tests.benchmarks.active_search import (
    FIXED,
    Materials,
    curves,
    learned,
    logistic,
    predict,
    random_effort,
    search,
    summary,
)


@pytest.fixture
def materials(monkeypatch: pytest.MonkeyPatch) -> Materials:
    for name, value in {"N_FIRST": 20, "N_ROUND": 5, "ROUNDS": 3, "MEMBERS": 6}.items():
        monkeypatch.setattr(active_search, name, value)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 3))
    is_gap = features[:, 0] > 0.8
    spectra = np.full((120, EDOS_GRID.size), 5.0)
    inside = (EDOS_GRID.centers > -2.0) & (EDOS_GRID.centers < -0.5)
    spectra[:, inside] = 1.5 - 1.4 * features[:, :1].clip(-1, 1)
    spectra[np.ix_(is_gap, inside)] = 0.0
    return Materials(
        tuple(f"m-{i}" for i in range(120)),
        torch.from_numpy(features).float(),
        torch.from_numpy(spectra).float(),
        np.ones(120, int),
        is_gap,
        np.exp(rng.normal(0, 1, 120)) * 60,
        tuple(("AB", i % 7) for i in range(120)),
    )


def test_a_search_takes_each_material_once_and_goes_on_to_half(materials: Materials) -> None:
    for name in active_search.SEARCHES:
        found = search(materials, name, seed=1)
        first = np.random.default_rng(1).permutation(120)[:20]
        assert found["index"].is_unique
        assert not set(found["index"]) & set(first)
        np.testing.assert_array_equal(found["is_gap"], materials.is_gap[found["index"]])
        hidden = materials.is_gap.sum() - materials.is_gap[first].sum()
        assert found["is_gap"].sum() >= hidden / 2
        assert found["hours"].sum() * 3600 >= 15 * materials.seconds.mean()


def test_learning_finds_more_than_chance_and_probabilities_are_fair(materials: Materials) -> None:
    names = ("random", FIXED, "probability")
    searches = pd.concat([search(materials, name, s) for name in names for s in range(4)])
    figures = summary(materials, searches).groupby("search").mean()
    assert figures["found"]["probability"] > 2 * figures["found"]["random"]
    assert figures["factor, calculations"]["probability"] > 1.5
    assert figures["factor, calculations"]["random"] == pytest.approx(1, abs=0.3)
    assert figures["over fixed"][FIXED] == 1
    expected, found = (figures[k]["probability"] for k in ("expected", "found"))
    assert expected == pytest.approx(found, rel=0.4)


def test_what_members_were_not_trained_on_makes_the_probability(materials: Materials) -> None:
    """Shuffled spectra hold nothing to learn: no probability may be far from the share."""
    rng = np.random.default_rng(0)
    order = rng.permutation(120)
    noise = Materials(
        materials.names,
        materials.features,
        materials.spectra[order],
        materials.n_atoms,
        materials.is_gap[order],
        materials.seconds,
        materials.families,
    )
    prediction = predict(noise, np.arange(90), np.arange(90, 120), rng)
    assert prediction.probabilities.max() < 0.6
    assert abs(prediction.probabilities.mean() - noise.is_gap[:90].mean()) < 0.1


def test_the_logistic_function_finds_its_coefficients() -> None:
    rng = np.random.default_rng(0)
    scores, spreads = rng.normal(size=20000), rng.random(20000)
    chance = 1 / (1 + np.exp(-(-1 + 2 * scores - spreads)))
    fitted = logistic(scores, spreads, rng.random(20000) < chance)
    np.testing.assert_allclose(fitted, [-1, 2, -1], atol=0.15)


def test_random_choice_needs_as_long_as_shuffled_materials_do() -> None:
    rng = np.random.default_rng(0)
    is_gap = np.arange(60) < 9
    waits = [np.flatnonzero(rng.permutation(is_gap))[4] + 1 for _ in range(4000)]
    assert random_effort(60, 9, 5) == pytest.approx(np.mean(waits), rel=0.02)


def test_curves_count_what_was_found_by_then() -> None:
    rows = pd.DataFrame(
        {
            "search": "a",
            "seed": [0, 0, 0, 1, 1, 1],
            "is_gap": [True, False, True, False, False, True],
            "hours": [1.0, 2.0, 3.0, 1.0, 1.0, 1.0],
        }
    )
    by_number = curves(rows, "calculations", np.array([0.0, 1.0, 3.0]))
    assert by_number["found"].tolist() == [0.0, 0.5, 1.5]
    assert by_number["standard error"].tolist() == [0.0, 0.5, 0.5]
    assert curves(rows, "hours", np.array([1.0, 3.0, 6.0]))["found"].tolist() == [0.5, 1.0, 1.5]


def test_a_model_is_judged_on_what_no_search_saw(materials: Materials) -> None:
    trained, first = learned(materials, "random", 0), learned(materials, FIXED, 0)
    assert 0.5 < first["area"] <= 1
    assert trained["wd"] < first["wd"]
