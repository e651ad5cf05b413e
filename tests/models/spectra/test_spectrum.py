from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import ModelError
from models.spectra.spectrum import (
    EDOS_GRID,
    PHDOS_GRID,
    PHDOS_PAPER_GRID,
    EnergyGrid,
    IntegratedDos,
    Spectrum,
    align_edos,
    band_edges,
    max_normalized,
    sum_normalized,
)
from tests.models.model_examples import bin_averages

values = st.floats(0, 50, allow_nan=False)
steps = st.floats(0.01, 1.0)


@st.composite
def piecewise_linear(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 25))
    energies = np.cumsum(draw(hnp.arrays(float, n, elements=steps))) - 3.0
    return energies, draw(hnp.arrays(float, n, elements=values))


def brute_force_averages(
    energies: np.ndarray, dos: np.ndarray, edges: np.ndarray, n: int = 20_001
) -> np.ndarray:
    """Midpoint rule with many points in each bin."""
    result = []
    for low, high in itertools.pairwise(edges):
        points = low + (high - low) * (np.arange(n) + 0.5) / n
        result.append(np.interp(points, energies, dos).mean())
    return np.array(result)


@settings(max_examples=60)
@given(piecewise_linear(), st.integers(1, 7))
def test_bin_averages_equal_numerical_integration(
    spectrum: tuple[np.ndarray, np.ndarray], n_bins: int
) -> None:
    energies, dos = spectrum
    edges = np.linspace(energies[0], energies[-1], n_bins + 1)
    edges[-1] = energies[-1]
    expected = brute_force_averages(energies, dos, edges)
    np.testing.assert_allclose(bin_averages(energies, dos, edges), expected, atol=2e-3)


@settings(max_examples=60)
@given(piecewise_linear(), st.integers(1, 50))
def test_binning_conserves_the_integral(
    spectrum: tuple[np.ndarray, np.ndarray], n_bins: int
) -> None:
    energies, dos = spectrum
    edges = np.linspace(energies[0], energies[-1], n_bins + 1)
    total = (bin_averages(energies, dos, edges) * np.diff(edges)).sum()
    assert total == pytest.approx(np.trapezoid(dos, energies), rel=1e-9, abs=1e-9)


def test_a_histogram_is_rebinned_exactly() -> None:
    edges = np.array([0.0, 0.5, 1.0, 2.0])
    averages = bin_averages(edges, np.array([4.0, 2.0, 1.0]), np.array([0.25, 0.75, 1.5]))
    np.testing.assert_allclose(averages, [3.0, (0.25 * 2 + 0.5 * 1) / 0.75])


def test_a_sampled_spike_between_bin_centers_is_not_lost() -> None:
    energies = np.array([-5.0, 0.030, 0.031, 0.032, 5.0])
    dos = np.array([0.0, 0.0, 100.0, 0.0, 0.0])
    averages = bin_averages(energies, dos, EDOS_GRID.edges)
    assert averages[64] * EDOS_GRID.width == pytest.approx(0.1)


def test_alignment_removes_the_gap_and_conserves_the_states() -> None:
    """Bands that end at -1.3 eV and begin at 2.2 eV meet at zero."""
    vbm, cbm = -1.3, 2.2
    energies = np.round(np.linspace(-8.0, 9.0, 1701), 2)
    dos = np.where(energies <= vbm, 3.0, 0.0) + np.where(energies >= cbm, 5.0, 0.0)
    spectrum = align_edos(energies, dos, vbm, cbm)
    np.testing.assert_allclose(spectrum.values[:63], 3.0)
    np.testing.assert_allclose(spectrum.values[65:], 5.0)
    inside = np.array([IntegratedDos(energies, dos)(np.array([e]))[0] for e in (-5.3, -1.3)])
    beyond = np.array([IntegratedDos(energies, dos)(np.array([e]))[0] for e in (2.2, 6.2)])
    assert spectrum.integral == pytest.approx(np.diff(inside)[0] + np.diff(beyond)[0])
    assert (spectrum.values > 2.9).all()


def test_a_metal_is_only_shifted() -> None:
    energies = np.linspace(-6.0, 8.0, 1401)
    dos = 2.0 + np.sin(energies)
    shifted = align_edos(energies, dos, 0.7, 0.7)
    np.testing.assert_allclose(
        shifted.values, bin_averages(energies, dos, EDOS_GRID.edges + 0.7), rtol=1e-9
    )


def test_band_edges_of_a_dos() -> None:
    energies = np.linspace(-5, 5, 1001)
    dos = np.where((energies <= -0.5) | (energies >= 1.5), 2.0, 0.0)
    assert band_edges(energies, dos, efermi=0.3) == pytest.approx((-0.5, 1.5))
    assert band_edges(energies, np.full_like(dos, 2.0), efermi=0.3) == (0.3, 0.3)
    with pytest.raises(ModelError, match="no states on one side"):
        band_edges(energies, np.where(energies < 0, 2.0, 0.0), efermi=0.3)


@pytest.mark.parametrize(
    ("energies", "dos", "message"),
    [
        ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], "do not increase"),
        ([0.0, 1.0, 2.0], [1.0, np.nan, 1.0], "NaN"),
        ([0.0, np.inf, 2.0], [1.0, 1.0, 1.0], "NaN or infinity"),
        ([0.0, 1.0, 2.0], [1.0], "1 DOS values for 3 energies"),
        ([0.0], [1.0], "do not increase"),
    ],
)
def test_a_wrong_dos_is_refused(energies: list[float], dos: list[float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        IntegratedDos(np.array(energies), np.array(dos))


def test_a_dos_that_ends_before_the_grid_is_refused() -> None:
    with pytest.raises(ModelError, match=r"covers -3.00 to 5.00 eV, needed are -4.00"):
        align_edos(np.linspace(-3, 5, 100), np.ones(100), 0.0, 0.0)


def test_wrong_alignments_are_refused() -> None:
    energies, dos = np.linspace(-9, 9, 100), np.ones(100)
    with pytest.raises(ModelError, match="lies below VBM"):
        align_edos(energies, dos, 1.0, 0.5)
    with pytest.raises(ModelError, match="not a bin edge"):
        align_edos(energies, dos, 0.0, 0.0, EnergyGrid(start=-1.03, width=0.1, size=20))


def test_a_spectrum_fits_its_grid() -> None:
    with pytest.raises(ModelError, match="grid of 128 bins"):
        Spectrum(np.zeros(127), EDOS_GRID)
    assert Spectrum(np.full(128, 2.0), EDOS_GRID).integral == pytest.approx(16.0)


def test_the_papers_grids() -> None:
    assert EDOS_GRID.edges[[0, 64, -1]].tolist() == [-4.0, 0.0, 4.0]
    np.testing.assert_allclose(PHDOS_GRID.centers, np.arange(-300, 1001, 20))
    np.testing.assert_allclose(PHDOS_PAPER_GRID.centers, np.arange(0, 1001, 20))


def test_normalisations() -> None:
    spectra = np.random.default_rng(0).uniform(size=(5, 9))
    np.testing.assert_allclose(sum_normalized(spectra).sum(-1), 1.0)
    np.testing.assert_allclose(max_normalized(spectra).max(-1), 1.0)
    np.testing.assert_allclose(sum_normalized(7 * spectra), sum_normalized(spectra))


def test_grids_are_compared_by_their_fields_also_after_their_arrays_were_asked_for():
    grid, same = EDOS_GRID.model_copy(), EnergyGrid(**EDOS_GRID.model_dump())
    assert grid.edges is not None
    assert same.edges is not None
    assert same.centers is not None
    assert grid == same
    assert hash(grid) == hash(same)
    assert grid != PHDOS_GRID
    assert grid != "grid"
