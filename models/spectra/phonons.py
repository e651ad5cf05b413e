"""What a phonon DOS says about a material: heat capacity and mean frequency.

The bins of a spectrum hold modes of their centres' frequencies. A bin at 0 cm^-1 holds real modes,
which are as soft as its width allows: they count in every sum, above and below the fraction
line. Bins at negative frequencies hold imaginary modes, which are no oscillators: they are among
the 3N modes of a cell, but have no heat and no mean frequency. So C_V falls short of 3N R at high
temperature by the share of the imaginary modes.

Modes above the end of the grid, such as those of O-H and C-H bonds, are in no bin, and a spectrum
does not say that there are any: what it has is scaled to 3N modes all the same. C_V is too large
then: 22.3 instead of 15.2 J/(K mol) of atoms if 3 of 9 modes are at 1500 cm^-1, which hardly have
heat at 300 K, and the others at 10 to 390 cm^-1. The mean frequency is too low.
"""

from __future__ import annotations

import numpy as np
from scipy.constants import Boltzmann, Planck, R, speed_of_light

from models.errors import ModelError
from models.spectra.spectrum import EnergyGrid

KELVIN_PER_WAVENUMBER = 100 * Planck * speed_of_light / Boltzmann  # h c / k_B for 1 cm^-1
ROOM_TEMPERATURE = 300.0  # K


def heat_capacities(
    spectra: np.ndarray,
    grid: EnergyGrid,
    n_atoms: np.ndarray,
    temperature: float = ROOM_TEMPERATURE,
) -> np.ndarray:
    """Heat capacity C_V of each material, in J/K per mole of cells.

    C_V = R sum_k g_k (x_k / sinh x_k)^2 with x = h nu / 2 k_B T, the heat of harmonic oscillators,
    where the g_k are the 3N modes of the cell in the bins at 0 and above. All are taken to be on
    the grid.

    Parameters
    ----------
    spectra : ndarray, shape (n, K')
        On any scale; they are scaled to the 3N modes.
    grid : EnergyGrid
        In cm^-1.
    n_atoms : ndarray, shape (n,)
        Atoms N in each cell.
    temperature : float
        In K.

    Returns
    -------
    ndarray, shape (n,)
        At most 3N R (Dulong and Petit); 0 of a spectrum that is empty.

    Raises
    ------
    ModelError
        If the temperature is not positive, or the grid not in cm^-1.

    References
    ----------
    M. T. Dove, Introduction to Lattice Dynamics (1993), ch. 5.
    """
    if not temperature > 0:
        raise ModelError(f"a heat capacity needs a positive temperature, not {temperature} K")
    real = _are_real(grid)
    x = grid.centers[real].clip(0) * KELVIN_PER_WAVENUMBER / (2 * temperature)
    x_over_sinh = np.ones_like(x)  # its limit at x = 0
    np.divide(2 * x * np.exp(-x), -np.expm1(-2 * x), out=x_over_sinh, where=x > 0)
    area = spectra.sum(-1)
    share = spectra[:, real] / np.where(area > 0, area, 1.0)[:, None]
    return R * 3 * n_atoms * (share @ x_over_sinh**2)


def mean_frequencies(spectra: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """First moment of each spectrum over its real modes, in cm^-1, shape (n,).

    It is 0 where there are none.

    Parameters
    ----------
    spectra : ndarray, shape (n, K')
        On any scale.
    grid : EnergyGrid
        In cm^-1.
    """
    real = _are_real(grid)
    weight = spectra[:, real]
    total = weight.sum(-1)
    return (weight @ grid.centers[real]) / np.where(total > 0, total, 1.0)


def phonon_figures(
    prediction: np.ndarray, label: np.ndarray, grid: EnergyGrid, n_atoms: np.ndarray
) -> dict[str, float]:
    """Mean absolute errors of C_V at 300 K per atom (J/(K mol)) and of the mean frequency (cm^-1).

    C_V is compared per mole of atoms, so that large cells do not weigh more.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
        On any scale.
    grid : EnergyGrid
        In cm^-1.
    n_atoms : ndarray, shape (n,)
        Atoms in each cell.
    """
    c_v = (heat_capacities(spectra, grid, n_atoms) / n_atoms for spectra in (prediction, label))
    frequency = (mean_frequencies(spectra, grid) for spectra in (prediction, label))
    return {
        "cv_mae": float(np.abs(np.subtract(*c_v)).mean()),
        "mean_frequency_mae": float(np.abs(np.subtract(*frequency)).mean()),
    }


def _are_real(grid: EnergyGrid) -> np.ndarray:
    """Which bins are of real modes, that is at 0 or above."""
    if grid.unit != "cm^-1":
        raise ModelError(f"phonon figures need a grid in cm^-1, not {grid.unit}")
    return grid.centers > -1e-6 * grid.width
