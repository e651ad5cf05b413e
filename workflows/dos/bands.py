"""Band edges of eigenvalues on a k-mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALL_GAP = 0.5  # eV; up to here the DOS needs a metal's k-mesh (atomate's wf_bandstructure)
METAL_TOLERANCE = 0.01  # eV; a smaller gap between eigenvalues of a k-mesh is a metal's


def band_edges(
    eigenvalues: NDArray[np.floating], n_electrons: float, tolerance: float = METAL_TOLERANCE
) -> tuple[float, float] | None:
    """Valence and conduction band edges of the bands on a k-mesh.

    Parameters
    ----------
    eigenvalues : ndarray, shape (n_spins, n_kpoints, n_bands)
        In eV.
    n_electrons : float
        Valence electrons in the cell, both spins.
    tolerance : float
        Smallest gap that counts, in eV.

    Returns
    -------
    tuple of float or None
        VBM and CBM in eV; None for a metal, or if the highest band is filled.
    """
    n_spins, _, n_bands = eigenvalues.shape
    n_filled = round(n_electrons * n_spins / 2)
    if abs(n_electrons * n_spins / 2 - n_filled) > 1e-3 or not 0 < n_filled < n_spins * n_bands:
        return None
    tops = np.sort(eigenvalues.max(axis=1), axis=None)
    bottoms = np.sort(eigenvalues.min(axis=1), axis=None)
    vbm, cbm = float(tops[n_filled - 1]), float(bottoms[n_filled])
    return (vbm, cbm) if cbm - vbm >= tolerance else None
