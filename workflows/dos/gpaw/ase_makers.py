"""GPAW as atomate2's makers of ASE's engines, for what hands back a task document."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Lattice, Structure

from workflows.dos.errors import DosError
from workflows.dos.gpaw import installation
from workflows.dos.gpaw.calculation import run_gpaw
from workflows.dos.gpaw.settings import GpawSettings, settings_of
from workflows.settings_files import settings_in_words

with settings_in_words():
    from atomate2.ase.jobs import AseMaker
    from atomate2.ase.schemas import AseResult

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@dataclass
class GpawStaticMaker(AseMaker):
    """Total energy and forces with GPAW.

    An :class:`~atomate2.ase.jobs.AseMaker` whose calculation runs in a child process.

    Parameters
    ----------
    name : str
    preset : {'fast', 'standard', 'accurate'}
    spin_polarized : bool
    wall_time_limit : float
        In s.
    user_settings : dict
        Other fields of :class:`~workflows.dos.gpaw.settings.GpawSettings`.

    Examples
    --------
    >>> aluminium = Structure(Lattice.cubic(4.05), ["Al"], [[0, 0, 0]])
    >>> GpawStaticMaker(preset="fast").make(aluminium).name
    'GPAW static'
    """

    name: str = "GPAW static"
    preset: str = "standard"
    spin_polarized: bool = False
    wall_time_limit: float = 3600.0
    user_settings: dict[str, Any] = field(default_factory=dict)

    def _get_calculator(self) -> Calculator:
        """Calculator that names the engine in task documents; it computes nothing here."""
        for problem in installation.missing():
            raise DosError(problem)
        from gpaw import GPAW

        return GPAW(mode={"name": "pw", "ecut": self.settings.ecut}, xc="PBE", txt=None)

    @property
    def settings(self) -> GpawSettings:
        """Settings of the run."""
        return settings_of(self.preset, spin_polarized=self.spin_polarized, **self.user_settings)

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> AseResult:
        """Run GPAW on a structure, in a child process.

        Parameters
        ----------
        mol_or_struct : Structure
        prev_dir : None
            Not used; here because other makers have it.
        """
        return self._run("static", mol_or_struct)[0]

    def _run(self, task: str, structure: Structure) -> tuple[AseResult, dict[str, Any]]:
        """The result for a structure that stays as it is, and what GPAW's process hands back."""
        started = time.perf_counter()
        found = run_gpaw(task, structure, self.settings, self.wall_time_limit)
        result = AseResult(
            final_mol_or_struct=structure,
            final_energy=found["energy"],
            converged=True,
            dir_name=str(Path.cwd()),
            elapsed_time=time.perf_counter() - started,
        )
        return result, found


@dataclass
class GpawRelaxMaker(GpawStaticMaker):
    """Relax cell and positions with GPAW, keeping the symmetry.

    Parameters
    ----------
    name : str
    preset : {'fast', 'standard', 'accurate'}
        Chooses the k-mesh; the cutoff is `RELAX_ECUT`, since stress needs more plane waves.
    spin_polarized : bool
    wall_time_limit : float
        In s.
    user_settings : dict
    """

    name: str = "GPAW relax"

    @property
    def settings(self) -> GpawSettings:
        """Settings of the run."""
        return settings_of(
            self.preset, spin_polarized=self.spin_polarized, relax=True, **self.user_settings
        )

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> AseResult:
        """Relax a structure, in a child process.

        Parameters
        ----------
        mol_or_struct : Structure
        prev_dir : None
            Not used; here because other makers have it.
        """
        result, found = self._run("relax", mol_or_struct)
        species = [site.specie for site in mol_or_struct]
        result.final_mol_or_struct = Structure(
            Lattice(found["cell"]), species, found["frac_coords"]
        )
        result.is_force_converged = True
        return result
