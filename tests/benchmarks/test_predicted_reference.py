"""The figures of predictors on published materials, with predictors whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.predicted_spectra import PredictedSpectra
from models.spectra.spectrum import EDOS_GRID, align_edos
from tests.benchmarks.predicted_reference import element_distances, paper_verdicts

ENERGIES = np.linspace(-8.0, 8.0, 1601)


class Oracle:
    """Says what it was told."""

    def __init__(self, values: Any, failures: dict[int, str] | None = None) -> None:
        self.values, self.failures = np.asarray(values, np.float32), failures or {}

    def predict(self, structures: Any) -> PredictedSpectra:
        assert len(structures) == len(self.values)
        unknown = np.full(len(self.values), np.nan, np.float32)
        return PredictedSpectra(self.values, EDOS_GRID, unknown, unknown, unknown, self.failures)


def table(n: int, **columns: Any) -> pd.DataFrame:
    cell = {"lattice": (np.eye(3) * 3).ravel(), "frac_coords": np.zeros(3), "species": [13]}
    return pd.DataFrame({name: [value] * n for name, value in cell.items()} | columns)


def test_verdicts_are_counted_against_the_papers_dft() -> None:
    with_gap, without = np.full(128, 5.0), np.full(128, 5.0)
    with_gap[30:56] = 0.0
    truth = [True, True, False, False, None]
    materials = table(5, formula=["A", "B", "C", "D", "E"], dft_vb_gap=truth)
    found = paper_verdicts(
        Oracle([with_gap, without, with_gap, without], {3: "too odd"}), materials
    )
    assert (found.called, found.false, found.refused) == (("A",), ("C",), {"D": "too odd"})
    matrix = found.matrix
    assert (matrix.tp, matrix.fp, matrix.fn, matrix.tn) == (1, 1, 1, 0)
    assert found.probabilities == {}
    assert (found.in_words(found.called), found.in_words(())) == ("A", "-")
    likely = replace(found, probabilities={"A": 0.25, "C": 0.5})
    assert likely.in_words(("A", "C")) == "C (0.50), A (0.25)"


def test_sides_of_the_band_edges_are_normalised_apart() -> None:
    dos = 2.0 + np.sin(ENERGIES)
    elements = table(2, energies=[ENERGIES] * 2, dos=[dos] * 2)
    reference = align_edos(ENERGIES, dos, 0.0, 0.0).values
    scaled, moved = reference.copy(), reference.copy()
    scaled[64:] *= 3.0
    moved[:64] = np.roll(moved[:64], 4)
    distances = element_distances(Oracle([scaled, moved]), elements)
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    half = reference[:64] / reference[:64].sum()
    of_half = np.abs(np.cumsum(np.roll(half, 4) - half)).sum() * EDOS_GRID.width
    assert distances[1] == pytest.approx(of_half / 2, rel=1e-4)
