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

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from jobflow import Flow, Job, job
from pymatgen.core import Structure

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
from workflows.dos.gpaw.calculation import check, compute_dos, symbols
from workflows.dos.gpaw.settings import GpawSettings, Lanthanides, settings_of
from workflows.settings_files import settings_in_words

FIRST_ATOM_TIMES = {"fast": 40.0, "standard": FIRST_ATOM, "accurate": 150.0}  # s


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
    >>> from pymatgen.core import Lattice
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

    def __post_init__(self) -> None:
        """Refuse settings of atomate2 that it cannot read, once and not for each structure."""
        if self.relax:
            with settings_in_words():
                import atomate2  # noqa: F401

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
        started_from, spent = structure, 0.0
        if self.relax:
            from workflows.dos.gpaw.ase_makers import GpawRelaxMaker  # atomate2 takes seconds

            relaxation = GpawRelaxMaker(
                preset=self.preset,
                spin_polarized=self.spin_polarized,
                wall_time_limit=self.wall_time_limit,
                user_settings=self.user_settings,
            ).make(structure)
            jobs.append(relaxation)
            started_from = relaxation.output.structure
            spent = relaxation.output.output.elapsed_time
        settings = asdict(self.settings)
        dos = gpaw_dos(
            started_from, settings, recipe, self.wall_time_limit, material_id, spent=spent
        )
        return [*jobs, dos]


@job(output_schema=DosDocument)
def gpaw_dos(
    structure: Structure,
    settings: dict[str, Any],
    recipe: str,
    wall_time_limit: float,
    material_id: str | None = None,
    spent: float = 0.0,
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
    spent : float
        Time of the relaxation, in s, which counts as well.
    """
    document = compute_dos(
        structure, GpawSettings(**settings), recipe, wall_time_limit, material_id
    )
    assert document.wall_time is not None
    return document.model_copy(update={"wall_time": document.wall_time + spent})
