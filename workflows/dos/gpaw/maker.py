"""GPAW: an open engine for the DOS, in plane waves, on any machine with a C++ compiler.

PBE, no Hubbard U, no spin-orbit coupling, by default no spin; lanthanides whose 4f shell the
Materials Project freezes are computed with La or Y in their place. A static run gives the density,
a run at fixed density gives the bands on a denser k-mesh, linear tetrahedra give the DOS and the
Fermi level (see :mod:`workflows.dos.gpaw.tetrahedra`).

Both steps are one job: together they take seconds to minutes, and a second job would only move
the density through a file system that two workers need not share. Every job runs GPAW in a child
process with one OpenMP thread and a wall-time limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomate2.ase.jobs import AseMaker
from atomate2.ase.schemas import AseResult
from jobflow import Flow, Job, job
from pymatgen.core import Lattice, Structure

from workflows.dos.base import DosMaker
from workflows.dos.cost import FIRST_ATOM
from workflows.dos.document import (
    DosDocument,
    SourceFacts,
    recipe_id,
    recipe_with_stand_ins,
)
from workflows.dos.errors import DosError
from workflows.dos.gpaw import installation
from workflows.dos.gpaw.calculation import check, compute_dos, run_gpaw, symbols
from workflows.dos.gpaw.settings import LANTHANIDES, PRESETS, GpawSettings, Lanthanides

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

RELAX_ECUT = 600.0  # eV; a stress converges later with the cutoff than a DOS
FIRST_ATOM_TIMES = {"fast": 40.0, "standard": FIRST_ATOM, "accurate": 150.0}  # s


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


def recipe_of(settings: GpawSettings, preset: str, elements: Iterable[str] = ()) -> str:
    """Recipe that a document of these settings has.

    Parameters
    ----------
    settings : GpawSettings
    preset : str
        Goes into the name.
    elements : iterable of str
        Of the material; those with stand-ins are named, as in ``"...+La-for-Pr"``.
    """
    recipe = recipe_id(f"gpaw-pbe-{preset}", settings.as_dict())
    return recipe_with_stand_ins(recipe, settings.stand_ins(elements))


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
        started = time.perf_counter()
        result = run_gpaw("static", mol_or_struct, self.settings, self.wall_time_limit)
        return AseResult(
            final_mol_or_struct=mol_or_struct,
            final_energy=result["energy"],
            converged=True,
            dir_name=str(Path.cwd()),
            elapsed_time=time.perf_counter() - started,
        )


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
        started = time.perf_counter()
        result = run_gpaw("relax", mol_or_struct, self.settings, self.wall_time_limit)
        species = [site.specie for site in mol_or_struct]
        return AseResult(
            final_mol_or_struct=Structure(Lattice(result["cell"]), species, result["frac_coords"]),
            final_energy=result["energy"],
            converged=True,
            is_force_converged=True,
            dir_name=str(Path.cwd()),
            elapsed_time=time.perf_counter() - started,
        )


@dataclass
class GpawDosMaker(DosMaker):
    """DOS of a structure with GPAW.

    Parameters
    ----------
    name : str
    preset : {'fast', 'standard', 'accurate'}
        See :data:`~workflows.dos.gpaw.settings.PRESETS`.
    relax : bool
        Relax cell and positions first. Materials Project structures are relaxed already.
    spin_polarized : bool
        Two spin channels; the DOS is their sum.
    lanthanides : {'stand-ins', 'own'}
        Compute the DOS with La in the place of Pr to Sm and Y in that of Gd to Tm, at the same
        positions, or with their own 4f electrons; see
        :meth:`workflows.dos.gpaw.settings.GpawSettings.stand_ins`.
    wall_time_limit : float
        Of each job, in s.
    user_settings : dict
        Other fields of :class:`~workflows.dos.gpaw.settings.GpawSettings`; the recipe changes
        with them.

    Examples
    --------
    >>> aluminium = Structure(Lattice.cubic(4.05), ["Al"], [[0, 0, 0]])
    >>> flow = GpawDosMaker(preset="fast").make(aluminium, material_id="mp-998860")
    >>> [job.name for job in flow.jobs]
    ['GPAW DOS']
    >>> GpawDosMaker().recipe_for(["N", "Pr"])
    'gpaw-pbe-standard-8c0a6922+La-for-Pr'

    ``jobflow.run_locally(flow)`` runs it here, ``lpad.add_wf(flow_to_workflow(flow))`` sends it
    to a launchpad; ``flow.output`` is a :class:`~workflows.dos.document.DosDocument`.
    """

    engine = "gpaw"
    title = "GPAW"
    missing = staticmethod(installation.missing)
    installed = staticmethod(installation.installed)

    name: str = "GPAW DOS"
    preset: str = "standard"
    relax: bool = False
    spin_polarized: bool = False
    lanthanides: Lanthanides = "stand-ins"
    wall_time_limit: float = 3600.0
    user_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> GpawSettings:
        """Settings of the DOS and of the relaxation, if any."""
        return settings_of(
            self.preset,
            spin_polarized=self.spin_polarized,
            relax=self.relax,
            lanthanides=self.lanthanides,
            **self.user_settings,
        )

    @property
    def recipe(self) -> str:
        """Recipe of the documents; known before anything runs."""
        return recipe_of(self.settings, self.preset)

    def recipe_for(self, elements: Iterable[str]) -> str:
        """Recipe of a material, which names the stand-ins of its elements."""
        return recipe_of(self.settings, self.preset, elements)

    @property
    def first_atom_time(self) -> float:
        """Time in s that a cell of one atom takes; see ``tests/benchmarks/results``."""
        return FIRST_ATOM_TIMES[self.preset]

    def check(self, structure: Structure) -> None:
        """Refuse what GPAW cannot compute; see :func:`workflows.dos.gpaw.calculation.check`.

        Also a relaxation of what has stand-ins: it would find their bond lengths.
        """
        check(structure)
        if self.relax and (stand_ins := self.settings.stand_ins(symbols(structure))):
            raise DosError(
                f"{', '.join(stand_ins)}: not relaxed, since that would find the bond lengths of "
                f"{', '.join(sorted(set(stand_ins.values())))}, which has the place in the DOS; "
                "leave out the relaxation (--no-relax), or compute the 4f electrons "
                "(--lanthanides own)"
            )

    def jobs(
        self, structure: Structure, material_id: str | None, source: SourceFacts
    ) -> list[Job | Flow]:
        """Relaxation, if any, and DOS; see :meth:`DosMaker.jobs`.

        Parameters
        ----------
        structure : Structure
        material_id : str or None
        source : SourceFacts
            Not used: the bands themselves decide the k-mesh, and `relax` alone the relaxation.
        """
        recipe = self.recipe_for(symbols(structure))
        jobs: list[Job | Flow] = []
        started_from = structure
        if self.relax:
            relaxation = GpawRelaxMaker(
                preset=self.preset,
                spin_polarized=self.spin_polarized,
                wall_time_limit=self.wall_time_limit,
                user_settings=self.user_settings,
            ).make(structure)
            jobs.append(relaxation)
            started_from = relaxation.output.structure
        settings = asdict(self.settings)
        return [*jobs, gpaw_dos(started_from, settings, recipe, self.wall_time_limit, material_id)]


@job(output_schema=DosDocument)
def gpaw_dos(
    structure: Structure,
    settings: dict[str, Any],
    recipe: str,
    wall_time_limit: float,
    material_id: str | None = None,
) -> DosDocument:
    """Job that computes a DOS with GPAW.

    Parameters
    ----------
    structure : Structure
    settings : dict
        Fields of :class:`~workflows.dos.gpaw.settings.GpawSettings`.
    recipe : str
    wall_time_limit : float
        In s.
    material_id : str, optional
        See :func:`~workflows.dos.gpaw.calculation.compute_dos`.
    """
    return compute_dos(structure, GpawSettings(**settings), recipe, wall_time_limit, material_id)
