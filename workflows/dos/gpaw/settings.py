"""Settings of the GPAW recipe; light, since both the maker and its child process read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from models.elements import stand_ins_among
from workflows.dos.errors import DosError

Lanthanides = Literal["stand-ins", "own"]
LANTHANIDES: tuple[Lanthanides, ...] = get_args(Lanthanides)
PAW_ELEMENTS = frozenset(chemical_symbols[1:87]) - {"Tc", "Po", "At"}
"""The 83 elements with a PBE data set in gpaw-data: H to Rn without Tc, Po and At."""
RELAX_ECUT = 600.0  # eV; a stress converges later with the cutoff than a DOS


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
    k_spacing_metal : float
        The same for the DOS of a material whose gap is at most 0.5 eV, where it is smaller than
        `k_spacing_dos`: the DOS of a nearly-free-electron metal is never empty, and which of its
        steps stay below a limit hangs on the mesh.
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
    lanthanides : {'own', 'stand-ins'}
        What lanthanides other than La, Ce, Eu, Yb and Lu are computed with; see
        :meth:`stand_ins`.
    """

    ecut: float
    k_spacing_scf: float
    k_spacing_dos: float
    k_spacing_metal: float
    smearing: float = 0.05
    density_tolerance: float = 1e-4
    eigenstates_tolerance: float = 1e-5
    energy_step: float = 0.01
    reach: float = 4.2
    spin_polarized: bool = False
    relax_ecut: float | None = None
    relax_fmax: float = 0.03
    xc: str = "PBE"
    lanthanides: Lanthanides = "own"

    def stand_ins(self, elements: Iterable[str]) -> dict[str, str]:
        """Those of some elements in whose place another one is computed, and that one.

        The Materials Project freezes the 4f shell of these lanthanides in the core. GPAW's data
        sets have it in the valence, where PBE puts it at the Fermi level. An element of the same
        valence without 4f electrons, at the same positions, has the DOS without it
        (:data:`models.elements.STAND_INS`). Gd, which is in the Materials Project's valence, is
        itself in a spin-polarised calculation, since its moment is 4f.

        Parameters
        ----------
        elements : iterable of str

        Examples
        --------
        >>> GpawSettings(340, 0.35, 0.25, 0.25, lanthanides="stand-ins").stand_ins(["Pr", "N"])
        {'Pr': 'La'}
        >>> PRESETS["fast"].stand_ins(["Pr", "N"])
        {}
        """
        if self.lanthanides == "own":
            return {}
        as_themselves = {"Gd"} if self.spin_polarized else set()
        return stand_ins_among(set(elements) - as_themselves)

    def as_dict(self) -> dict[str, Any]:
        """JSON values of what is the same for all elements, also what is not a number."""
        settings = asdict(self)
        del settings["lanthanides"]
        return {
            **settings,
            "mode": "plane waves",
            "data_sets": "gpaw-data PBE",
            "dos": "linear tetrahedra, fixed density",
        }


PRESETS = {
    "fast": GpawSettings(340.0, k_spacing_scf=0.35, k_spacing_dos=0.25, k_spacing_metal=0.25),
    "standard": GpawSettings(400.0, k_spacing_scf=0.25, k_spacing_dos=0.18, k_spacing_metal=0.12),
    "accurate": GpawSettings(400.0, k_spacing_scf=0.25, k_spacing_dos=0.12, k_spacing_metal=0.08),
}
"""``fast`` for tests and a first look, ``standard`` for spectra and verdicts, ``accurate`` to see
what hangs on the mesh. For metals ``standard`` is about as fine as the Materials Project's DOS (500
k-points per reciprocal volume, 0.126/Å). With 0.18/Å the VB gaps of MgAl and SrMg had other
verdicts than with any finer mesh; with 0.12, 0.10 and 0.08/Å both have a gap
(``tests/benchmarks/results``)."""


def settings_of(
    preset: str,
    *,
    spin_polarized: bool = False,
    relax: bool = False,
    lanthanides: Lanthanides = "own",
    **changes: Any,
) -> GpawSettings:
    """Settings of a preset.

    Parameters
    ----------
    preset : {'fast', 'standard', 'accurate'}
    spin_polarized, relax : bool
    lanthanides : {'own', 'stand-ins'}
    **changes
        Other fields of :class:`~workflows.dos.gpaw.settings.GpawSettings`.

    Raises
    ------
    DosError
        If there is no such preset, field, or way to treat lanthanides.
    """
    if preset not in PRESETS:
        raise DosError(f"no GPAW preset {preset!r}; there are {', '.join(PRESETS)}")
    if lanthanides not in LANTHANIDES:
        raise DosError(f"lanthanides as {lanthanides!r}; use {' or '.join(LANTHANIDES)}")
    try:
        return replace(
            PRESETS[preset],
            spin_polarized=spin_polarized,
            relax_ecut=RELAX_ECUT if relax else None,
            lanthanides=lanthanides,
            **changes,
        )
    except TypeError:
        unknown = sorted(set(changes) - set(asdict(PRESETS[preset])))
        raise DosError(
            f"no GPAW setting {', '.join(unknown)}; there are {', '.join(asdict(PRESETS[preset]))}"
        ) from None


def k_mesh(
    cell: ArrayLike, spacing: float, rotations: ArrayLike | None = None
) -> tuple[int, int, int]:
    """Divisions of the reciprocal cell so that neighbouring k-points are at most `spacing` apart.

    Parameters
    ----------
    cell : array_like, shape (3, 3)
        Lattice vectors as rows, in Å.
    spacing : float
        In 1/Å, with the factor 2 pi.
    rotations : array_like of int, shape (n, 3, 3), optional
        Point group in fractional coordinates. Axes that it mixes get equal divisions; otherwise
        the mesh of a body-centred cell, say, has less symmetry than the crystal and up to four
        times as many irreducible points.

    Examples
    --------
    >>> k_mesh(np.diag([3.0, 3.0, 30.0]), 0.25)
    (9, 9, 1)
    >>> k_mesh(np.diag([3.0, 3.1, 30.0]), 0.25, [[[0, 1, 0], [1, 0, 0], [0, 0, 1]]])
    (9, 9, 1)
    """
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(cell, float)).T
    lengths = np.linalg.norm(reciprocal, axis=1)
    divisions = np.maximum(1, np.ceil(lengths / spacing - 1e-9)).astype(int)
    if rotations is not None:
        mixed = (np.asarray(rotations) != 0).any(axis=0)
        mixed = np.linalg.matrix_power((mixed | mixed.T | np.eye(3, dtype=bool)).astype(int), 2) > 0
        divisions = np.array([divisions[row].max() for row in mixed])
    n1, n2, n3 = divisions.tolist()
    return n1, n2, n3
