"""Settings of the GPAW recipe; light, since both the maker and its child process read them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

PAW_ELEMENTS = frozenset(chemical_symbols[1:87]) - {"Tc", "Po", "At"}
"""The 83 elements with a PBE data set in gpaw-data: H to Rn without Tc, Po and At."""


@dataclass(frozen=True)
class GpawSettings:
    """Everything that decides the numbers of a GPAW DOS.

    Parameters
    ----------
    ecut : float
        Plane-wave cutoff of static and DOS runs, in eV.
    k_spacing_scf, k_spacing_dos : float
        Largest distance between k-points of the two gamma-centred meshes, in 1/Å
        (with the factor 2 pi, as VASP's KSPACING).
    smearing : float
        Fermi-Dirac width of the self-consistent run, in eV; the DOS itself is not smeared.
    density_tolerance : float
        Convergence of the density, in electrons/valence electron.
    eigenstates_tolerance : float
        Convergence of the bands of the DOS run, in eV^2/electron.
    energy_step : float
        Step of the DOS, in eV.
    reach : float
        Bands are complete up to at least this far above the CBM or Fermi level, in eV.
    spin_polarized : bool
        Two spin channels, started from the Materials Project's moments, ferromagnetic.
    relax_ecut : float or None
        Cutoff of a cell and position relaxation before the DOS, in eV; None: no relaxation.
    relax_fmax : float
        Largest force (and stress times volume) that a relaxation leaves, in eV/Å.
    xc : str
    """

    ecut: float
    k_spacing_scf: float
    k_spacing_dos: float
    smearing: float = 0.05
    density_tolerance: float = 1e-4
    eigenstates_tolerance: float = 1e-5
    energy_step: float = 0.01
    reach: float = 4.2
    spin_polarized: bool = False
    relax_ecut: float | None = None
    relax_fmax: float = 0.03
    xc: str = "PBE"

    def as_dict(self) -> dict[str, Any]:
        """JSON values, with the parts of the recipe that are not numbers."""
        return {
            **asdict(self),
            "mode": "plane waves",
            "data_sets": "gpaw-data PBE",
            "dos": "linear tetrahedra, fixed density",
        }


PRESETS = {
    "fast": GpawSettings(ecut=350.0, k_spacing_scf=0.35, k_spacing_dos=0.21),
    "standard": GpawSettings(ecut=450.0, k_spacing_scf=0.25, k_spacing_dos=0.15),
}


def k_mesh(cell: ArrayLike, spacing: float) -> tuple[int, int, int]:
    """Divisions of the reciprocal cell so that neighbouring k-points are at most `spacing` apart.

    Parameters
    ----------
    cell : array_like, shape (3, 3)
        Lattice vectors as rows, in Å.
    spacing : float
        In 1/Å, with the factor 2 pi.

    Examples
    --------
    >>> k_mesh(np.diag([3.0, 3.0, 30.0]), 0.25)
    (9, 9, 1)
    """
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(cell, float)).T
    lengths = np.linalg.norm(reciprocal, axis=1)
    n1, n2, n3 = (max(1, int(np.ceil(length / spacing - 1e-9))) for length in lengths)
    return n1, n2, n3
