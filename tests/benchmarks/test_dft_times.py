"""Fits of the times of calculations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.benchmarks.dft_times import comparison, fitted, terms_of, times


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Times that follow the bands to the power 0.9; every tenth of a busy machine."""
    folder = tmp_path_factory.mktemp("times")
    rng = np.random.default_rng(0)
    n_atoms, n_electrons = rng.integers(1, 6, 200), rng.integers(4, 60, 200)
    seconds = 3 * (n_electrons / 2 + 3 * n_atoms) ** 0.9 * np.exp(rng.normal(0, 0.1, 200))
    seconds[::10] *= 30
    ids = [f"mp-{i:03}" for i in (*range(100, 200), *range(100))]
    labels = pd.DataFrame(
        {
            "material_id": ids,
            "formula": "Mg",
            "nsites": n_atoms,
            "nelect": n_electrons.astype(float),
            "kmesh": [[4, 4, 4]] * 200,
            "seconds": seconds,
        }
    )
    structures = {"volume": rng.random(200) + 1, "spacegroup_number": rng.choice([1, 62, 225], 200)}
    pd.DataFrame({"material_id": ids} | structures).to_parquet(folder / "structures.parquet")
    labels.to_parquet(folder / "labels.parquet")
    return times(folder / "structures.parquet", [folder / "labels.parquet"])


@pytest.mark.slow
def test_batches_begin_where_names_begin_again(table: pd.DataFrame) -> None:
    assert table["batch"].value_counts().to_dict() == {"labels 1": 100, "labels 2": 100}


def test_a_busy_machine_does_not_move_the_fit(table: pd.DataFrame) -> None:
    line = fitted(terms_of(table, ["bands"]), np.log(table["seconds"].to_numpy()))
    np.testing.assert_allclose(line, [np.log(3), 0.9], atol=0.1)


@pytest.mark.slow
def test_what_times_follow_is_best(table: pd.DataFrame) -> None:
    factors = {row["of"]: float(str(row["factor, median"])) for row in comparison(table)}
    assert factors["bands"] == min(factors.values())
    assert factors["bands"] < 1.15 < factors["atoms"] < factors["volume"]


def test_point_groups_have_their_number_of_operations(table: pd.DataFrame) -> None:
    known = table.groupby("spacegroup_number")["operations"].unique()
    assert {number: list(n) for number, n in known.items()} == {1: [1], 62: [8], 225: [48]}
