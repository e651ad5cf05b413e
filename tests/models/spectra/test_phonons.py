from __future__ import annotations

import numpy as np
import pytest
from pymatgen.phonon.dos import PhononDos
from scipy.constants import Boltzmann, Planck, R
from scipy.integrate import quad

from models.errors import ModelError
from models.spectra.phonons import heat_capacities, mean_frequencies, phonon_figures
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, PHDOS_PAPER_GRID, EnergyGrid

FINE = EnergyGrid(start=-0.25, width=0.5, size=2001, unit="cm^-1")


def peak(center: float, width: float, grid: EnergyGrid = FINE) -> np.ndarray:
    return np.exp(-(((grid.centers - center) / width) ** 2))[None]


def einstein(wavenumber: float, temperature: float) -> float:
    """Heat capacity of one mode in units of k_B."""
    x = Planck * wavenumber * 2.99792458e10 / (Boltzmann * temperature)
    return x**2 * np.exp(x) / (np.exp(x) - 1) ** 2


@pytest.mark.parametrize("wavenumber", [50, 200, 500, 900])
@pytest.mark.parametrize("temperature", [100.0, 300.0])
def test_a_narrow_peak_is_einsteins_solid(wavenumber: int, temperature: float) -> None:
    found = heat_capacities(peak(wavenumber, 3.0), FINE, np.array([5]), temperature)
    assert found[0] == pytest.approx(15 * R * einstein(wavenumber, temperature), rel=1e-3)


def test_slow_modes_reach_dulong_and_petit() -> None:
    found = heat_capacities(np.repeat(peak(30, 3.0), 2, 0), FINE, np.array([1, 4]), 3000.0)
    np.testing.assert_allclose(found, [3 * R, 12 * R], rtol=1e-3)


@pytest.mark.parametrize("grid", [PHDOS_GRID, PHDOS_PAPER_GRID])
def test_modes_at_zero_reach_dulong_and_petit(grid: EnergyGrid) -> None:
    """They are in the 3N modes, so they have heat too."""
    flat = np.where(grid.centers >= 0, 1.0, 0.0)
    at_zero = np.where(grid.centers == 0, 1.0, 0.0)
    assert at_zero.sum() == 1
    found = heat_capacities(np.array([flat, at_zero]), grid, np.array([1, 2]), 1e5)
    np.testing.assert_allclose(found, [3 * R, 6 * R], rtol=1e-3)
    np.testing.assert_allclose(mean_frequencies(np.array([flat, at_zero]), grid), [500, 0])


def test_modes_at_zero_count_in_the_mean_frequency() -> None:
    half = np.where(PHDOS_GRID.centers == 0, 1.0, 0.0) + (PHDOS_GRID.centers == 300)
    np.testing.assert_allclose(mean_frequencies(half[None], PHDOS_GRID), 150)


@pytest.mark.parametrize("temperature", [20.0, 100.0, 300.0, 3000.0])
def test_debyes_solid(temperature: float) -> None:
    cutoff = 400.25  # an edge of the bins, cm^-1
    spectrum = np.where((FINE.centers > 0) & (FINE.centers < cutoff), FINE.centers**2, 0.0)[None]
    theta = Planck * cutoff * 2.99792458e10 / Boltzmann / temperature
    integral, _ = quad(lambda x: x**4 * np.exp(x) / np.expm1(x) ** 2, 1e-9, theta)
    expected = 9 * R * integral / theta**3
    found = heat_capacities(spectrum, FINE, np.array([1]), temperature)
    assert found[0] == pytest.approx(expected, rel=1e-3)
    assert mean_frequencies(spectrum, FINE)[0] == pytest.approx(0.75 * cutoff, rel=1e-3)


def test_heat_capacities_as_pymatgen_has_them() -> None:
    """It counts half of a bin at 0: here there is nothing in it."""
    thz = FINE.centers * 0.0299792458
    spectrum = peak(300, 60) + 0.5 * peak(120, 25)
    scaled = spectrum[0] / np.trapezoid(spectrum[0], thz) * 6
    expected = PhononDos(thz, scaled).cv(150.0)
    found = heat_capacities(spectrum, FINE, np.array([2]), 150.0)
    assert found[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("error")
def test_nothing_moves_near_absolute_zero() -> None:
    found = heat_capacities(peak(300, 20), FINE, np.array([2]), 0.1)
    assert found[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ModelError, match="needs a positive temperature, not 0 K"):
        heat_capacities(peak(300, 20), FINE, np.array([2]), 0)


def test_the_scale_of_a_spectrum_does_not_matter() -> None:
    spectrum, n_atoms = peak(300, 80, PHDOS_PAPER_GRID), np.array([3])
    one, other = (
        heat_capacities(factor * spectrum, PHDOS_PAPER_GRID, n_atoms) for factor in (1.0, 7.0)
    )
    np.testing.assert_allclose(one, other)


def test_imaginary_modes_do_not_contribute() -> None:
    grid, n_atoms = PHDOS_GRID, np.array([2])
    real, imaginary = peak(300, 40, grid), peak(-150, 40, grid)
    half = heat_capacities(real + imaginary, grid, n_atoms)
    np.testing.assert_allclose(half, heat_capacities(real, grid, n_atoms) / 2, rtol=1e-3)
    np.testing.assert_allclose(
        mean_frequencies(real + imaginary, grid), mean_frequencies(real, grid), rtol=1e-3
    )


def test_the_mean_frequency_of_a_peak_is_its_centre() -> None:
    assert mean_frequencies(peak(412.0, 30), FINE)[0] == pytest.approx(412.0, abs=0.1)


def test_figures_are_mean_absolute_errors() -> None:
    label = np.concatenate([peak(200, 10), peak(300, 10)])
    prediction = np.concatenate([peak(200, 10), peak(340, 10)])
    figures = phonon_figures(prediction, label, FINE, np.array([2, 7]))
    assert figures["mean_frequency_mae"] == pytest.approx(20, abs=0.1)
    expected = 3 * R * abs(einstein(340, 300) - einstein(300, 300)) / 2
    assert figures["cv_mae"] == pytest.approx(expected, rel=0.02)


def test_a_spectrum_without_real_modes_is_counted_as_zero() -> None:
    """A dynamically unstable label, or an empty prediction: an error like others, not NaN."""
    n_atoms = np.array([2, 2])
    spectra = np.concatenate([peak(-150, 20, PHDOS_GRID), np.zeros((1, PHDOS_GRID.size))])
    spectra[:, PHDOS_GRID.centers > 0] = 0
    np.testing.assert_allclose(mean_frequencies(spectra, PHDOS_GRID), 0)
    assert heat_capacities(spectra, PHDOS_GRID, n_atoms)[1] == 0
    assert all(np.isfinite(list(phonon_figures(spectra, spectra, PHDOS_GRID, n_atoms).values())))


def test_an_electronic_grid_is_refused() -> None:
    with pytest.raises(ModelError, match=r"need a grid in cm\^-1, not eV"):
        mean_frequencies(np.ones((1, 128)), EDOS_GRID)
