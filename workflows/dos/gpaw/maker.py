"""GPAW: an open engine for the DOS, in plane waves, on any machine with a C++ compiler.

PBE, no Hubbard U, no spin-orbit coupling, by default no spin. A static run gives the density, a
run at fixed density gives the bands on a denser k-mesh, linear tetrahedra give the DOS and the
Fermi level (see :mod:`workflows.dos.gpaw.tetrahedra`).

Both steps are one job: together they take seconds to minutes, and a second job would only move
the density through a file system that two workers need not share. Every job runs GPAW in a child
process with one OpenMP thread and a wall-time limit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomate2.ase.jobs import AseMaker
from atomate2.ase.schemas import AseResult
from jobflow import Flow, Job, Maker, job
from pymatgen.core import Lattice, Structure

from workflows.dos.document import UNKNOWN, DosDocument, DosError, SourceFacts, recipe_id
from workflows.dos.elements import engine_warnings
from workflows.dos.gpaw.settings import PAW_ELEMENTS, PRESETS, GpawSettings
from workflows.dos.limited import one_thread_environment, run_limited

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

INSTALL = "GPAW_CONFIG=$PWD/workflows/dos/gpaw/siteconfig.py pip install gpaw gpaw-data"
RELAX_ECUT = 600.0  # eV; a stress converges later with the cutoff than a DOS
DEFAULT_MOMENT = 0.6  # Bohr magnetons of an element without a moment in the MP recipe

_PROJECT = Path(__file__).resolve().parents[3]


def missing() -> list[str]:
    """One line for each thing that this machine lacks to run GPAW; empty if it can.

    Building and submitting flows needs none of it.
    """
    lacking = [name for name in ("gpaw", "gpaw_data") if importlib.util.find_spec(name) is None]
    if lacking:
        return [f"GPAW is not installed ({' and '.join(lacking)}): run {INSTALL}"]
    return []


def check_structure(structure: Structure) -> None:
    """Refuse what GPAW cannot compute, before anything is submitted.

    Raises
    ------
    DosError
        If a site is partially occupied or an element has no PAW set; it is named.
    """
    if not structure.is_ordered:
        raise DosError("structure has partial occupancies; order it first")
    unknown = sorted({element.symbol for element in structure.elements} - PAW_ELEMENTS)
    if unknown:
        raise DosError(
            f"GPAW has no PBE data set for {', '.join(unknown)}; "
            "use the VASP engine or leave the material out"
        )


@cache
def engine_version() -> str:
    """Versions of GPAW and of its data sets.

    Raises
    ------
    DosError
        If one of them is not installed.
    """
    try:
        return f"{version('gpaw')} (gpaw-data {version('gpaw-data')})"
    except PackageNotFoundError:
        raise DosError(f"GPAW is not installed: run {INSTALL}") from None


def settings_of(
    preset: str, *, spin_polarized: bool = False, relax: bool = False, **changes: Any
) -> GpawSettings:
    """Settings of a preset.

    Parameters
    ----------
    preset : {'fast', 'standard', 'accurate'}
    spin_polarized, relax : bool
    **changes
        Other fields of :class:`~workflows.dos.gpaw.settings.GpawSettings`.

    Raises
    ------
    DosError
        If there is no such preset or field.
    """
    if preset not in PRESETS:
        raise DosError(f"no GPAW preset {preset!r}; there are {', '.join(PRESETS)}")
    try:
        return replace(
            PRESETS[preset],
            spin_polarized=spin_polarized,
            relax_ecut=RELAX_ECUT if relax else None,
            **changes,
        )
    except TypeError:
        unknown = sorted(set(changes) - set(asdict(PRESETS[preset])))
        raise DosError(
            f"no GPAW setting {', '.join(unknown)}; there are {', '.join(asdict(PRESETS[preset]))}"
        ) from None


def run_gpaw(
    task: str, structure: Structure, settings: GpawSettings, wall_time_limit: float
) -> dict[str, Any]:
    """Run GPAW in a child process and read its result.

    GPAW's log is written to ``gpaw-<task>.txt`` in the working directory.

    Parameters
    ----------
    task : {'static', 'relax', 'dos'}
    structure : Structure
    settings : GpawSettings
    wall_time_limit : float
        In s.

    Returns
    -------
    dict
        See :mod:`workflows.dos.gpaw.worker`.

    Raises
    ------
    DosError
        If GPAW is missing or lacks an element, a step does not converge, or the limit is
        reached.
    """
    for problem in missing():
        raise DosError(problem)
    check_structure(structure)
    request = {
        "task": task,
        "settings": asdict(settings),
        "cell": structure.lattice.matrix.tolist(),
        "numbers": [site.specie.Z for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
        "magmoms": _initial_moments(structure) if settings.spin_polarized else None,
    }
    log = Path(f"gpaw-{task}.txt").resolve()
    with tempfile.TemporaryDirectory(prefix="gpaw-") as folder:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        request_file.write_text(json.dumps(request))
        command = [sys.executable, "-m", "workflows.dos.gpaw.worker"]
        status = run_limited(
            [*command, str(request_file), str(result_file)],
            limit=wall_time_limit,
            log=log,
            environment=one_thread_environment(_with_project_on_path(os.environ)),
        )
        if status != 0 or not result_file.exists():
            raise DosError(f"GPAW ended with status {status}: {_last_line(log)} (log: {log})")
        result: dict[str, Any] = json.loads(result_file.read_text())
    if "error" in result:
        raise DosError(f"{structure.composition.reduced_formula}: {result['error']} (log: {log})")
    return result


def _with_project_on_path(environment: Any) -> dict[str, str]:
    paths = [str(_PROJECT), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _initial_moments(structure: Structure) -> list[float]:
    """The Materials Project's initial moments, in Bohr magnetons, all parallel."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    moments = MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]
    return [float(moments.get(site.specie.symbol, DEFAULT_MOMENT)) for site in structure]


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
        for problem in missing():
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
        """Relax a structure in a child process; see :meth:`GpawStaticMaker.run_ase`."""
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
class GpawDosMaker(Maker):
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

    ``jobflow.run_locally(flow)`` runs it here, ``lpad.add_wf(flow_to_workflow(flow))`` sends it
    to a launchpad; ``flow.output`` is a :class:`~workflows.dos.document.DosDocument`.
    """

    name: str = "GPAW DOS"
    preset: str = "standard"
    relax: bool = False
    spin_polarized: bool = False
    wall_time_limit: float = 3600.0
    user_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """``'gpaw'``."""
        return "gpaw"

    @property
    def settings(self) -> GpawSettings:
        """Settings of the DOS and of the relaxation, if any."""
        return settings_of(
            self.preset, spin_polarized=self.spin_polarized, relax=self.relax, **self.user_settings
        )

    @property
    def recipe(self) -> str:
        """Recipe of the documents; known before anything runs."""
        return recipe_of(self.settings, self.preset)

    def make(
        self,
        structure: Structure,
        material_id: str | None = None,
        source: SourceFacts = UNKNOWN,
    ) -> Flow:
        """Flow from a structure to a :class:`~workflows.dos.document.DosDocument`.

        Parameters
        ----------
        structure : Structure
            Ordered.
        material_id : str, optional
            Goes into the document.
        source : SourceFacts, optional
            Not used: the bands themselves decide the k-mesh, and `relax` alone the relaxation.

        Raises
        ------
        DosError
            If GPAW cannot compute the structure, or an option is wrong.
        """
        check_structure(structure)
        recipe = self.recipe
        jobs: list[Job] = []
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
        dos = gpaw_dos(
            started_from, asdict(self.settings), recipe, self.wall_time_limit, material_id
        )
        dos.name = self.name
        return Flow([*jobs, dos], output=dos.output, name=self.name)


def recipe_of(settings: GpawSettings, preset: str) -> str:
    """Recipe that a document of these settings has."""
    return recipe_id(f"gpaw-pbe-{preset}", settings.as_dict())


@job(output_schema=DosDocument)
def gpaw_dos(
    structure: Structure,
    settings: dict[str, Any],
    recipe: str,
    wall_time_limit: float,
    material_id: str | None = None,
) -> DosDocument:
    """Job that computes a DOS with GPAW; see :func:`compute_dos`."""
    return compute_dos(structure, GpawSettings(**settings), recipe, wall_time_limit, material_id)


def compute_dos(
    structure: Structure,
    settings: GpawSettings,
    recipe: str,
    wall_time_limit: float = 3600.0,
    material_id: str | None = None,
) -> DosDocument:
    """DOS of a structure with GPAW, now.

    Parameters
    ----------
    structure : Structure
    settings : GpawSettings
    recipe : str
        See :func:`recipe_of`.
    wall_time_limit : float
        In s.
    material_id : str, optional

    Raises
    ------
    DosError
        See :func:`run_gpaw`; also if the DOS misses its window.
    """
    started = time.perf_counter()
    result = run_gpaw("dos", structure, settings, wall_time_limit)
    symbols = {site.specie.symbol for site in structure}
    notes = engine_warnings(symbols, "gpaw", settings.spin_polarized)
    if result.pop("safer_mixing"):
        notes.append(
            "the density converged only with safer mixing and "
            f"{2 * settings.smearing:g} eV smearing"
        )
    return DosDocument.checked(
        material_id=material_id,
        structure=structure,
        engine="gpaw",
        engine_version=engine_version(),
        recipe=recipe,
        settings=settings.as_dict(),
        band_gap=result["cbm"] - result["vbm"],
        wall_time=time.perf_counter() - started,
        is_spin_polarized=settings.spin_polarized,
        warnings=tuple(notes),
        **result,
    )
