"""What a phonon DOS says about a material: heat capacity and mean frequency."""

from __future__ import annotations

import numpy as np

from models.errors import ModelError
from models.spectrum import EnergyGrid

THZ_PER_WAVENUMBER = 0.0299792458  # THz per cm^-1
ROOM_TEMPERATURE = 300.0  # K


def heat_capacities(
    spectra: np.ndarray,
    grid: EnergyGrid,
    n_atoms: np.ndarray,
    temperature: float = ROOM_TEMPERATURE,
) -> np.ndarray:
    """Heat capacity C_V of each material, by pymatgen, in J/K per mole of cells.

    A spectrum of any scale is first scaled to the 3N modes of its cell; imaginary modes count
    among them but do not contribute.

    Parameters
    ----------
    spectra : ndarray, shape (n, K')
    n_atoms : ndarray, shape (n,)
        Atoms N in each cell.
    temperature : float
        In K.

    Returns
    -------
    ndarray, shape (n,)
        At most 3N R (Dulong and Petit); 0 of a spectrum that is empty.
    """
    from pymatgen.phonon.dos import PhononDos

    frequencies = _wavenumbers(grid) * THZ_PER_WAVENUMBER
    area = np.trapezoid(spectra, frequencies, axis=-1)[:, None]
    modes = spectra / np.where(area > 0, area, 1.0) * 3 * n_atoms[:, None]
    return np.array([PhononDos(frequencies, dos).cv(temperature) for dos in modes])


def mean_frequencies(spectra: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """First moment of each spectrum over its positive frequencies, in cm^-1, shape (n,).

    It is 0 where there is nothing at positive frequencies.
    """
    positive = _wavenumbers(grid) > 0
    weight = spectra[:, positive]
    total = weight.sum(-1)
    return (weight @ grid.centers[positive]) / np.where(total > 0, total, 1.0)


def phonon_figures(
    prediction: np.ndarray, label: np.ndarray, grid: EnergyGrid, n_atoms: np.ndarray
) -> dict[str, float]:
    """Mean absolute errors of C_V at 300 K per atom (J/(K mol)) and of the mean frequency (cm^-1).

    C_V is compared per mole of atoms, so that large cells do not weigh more.
    """
    c_v = (heat_capacities(spectra, grid, n_atoms) / n_atoms for spectra in (prediction, label))
    frequency = (mean_frequencies(spectra, grid) for spectra in (prediction, label))
    return {
        "cv_mae": float(np.abs(np.subtract(*c_v)).mean()),
        "mean_frequency_mae": float(np.abs(np.subtract(*frequency)).mean()),
    }


def _wavenumbers(grid: EnergyGrid) -> np.ndarray:
    if grid.unit != "cm^-1":
        raise ModelError(f"phonon figures need a grid in cm^-1, not {grid.unit}")
    return grid.centers
