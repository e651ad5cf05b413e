"""VASP: the reference engine, with the Materials Project's PBE recipe through atomate2.

A static run (`MPStaticSet`) and a uniform non-self-consistent run (`MPNonSCFSet`: ENCUT 520 eV,
tetrahedra with Blöchl's corrections, NEDOS 2001); both from pymatgen's sets, not from atomate2's
own `NonSCFMaker` default, which differs. As in atomate's `wf_bandstructure`, which made the
Materials Project's DOS, both runs have five times as many k-points where the gap is at most
0.5 eV. Flows are built and submitted without VASP or POTCARs; the workers need both.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import warnings
from dataclasses import dataclass, field, replace
from os.path import expandvars
from pathlib import Path
from typing import Any

import numpy as np
from atomate2 import SETTINGS
from atomate2.utils.path import strip_hostname
from atomate2.vasp.flows.mp import MPGGADoubleRelaxMaker
from atomate2.vasp.jobs.core import NonSCFMaker
from atomate2.vasp.jobs.mp import MPGGARelaxMaker, MPGGAStaticMaker
from jobflow import Flow, Job, Maker, Response, job
from monty.io import zopen
from monty.os.path import zpath
from numpy.typing import NDArray
from pymatgen.core import SETTINGS as PYMATGEN_SETTINGS
from pymatgen.core import Structure
from pymatgen.electronic_structure.core import Spin
from pymatgen.io.vasp import Outcar, Vasprun
from pymatgen.io.vasp.sets import MPNonSCFSet, MPRelaxSet, MPStaticSet

from workflows.dos.bands import SMALL_GAP, band_edges
from workflows.dos.document import (
    UNKNOWN,
    WINDOW,
    DosDocument,
    DosError,
    SourceFacts,
    WindowError,
    recipe_id,
)
from workflows.dos.elements import engine_warnings

RECIPE = "vasp-pbe-mp"
SMALL_GAP_FACTOR = 5  # times the k-points up to SMALL_GAP; atomate's add_small_gap_multiply
PBE_RUN_TYPES = frozenset({"GGA", "GGA+U", "PBE", "PBE+U"})  # as the Materials Project names them
ELECTRON_TOLERANCE = 0.01  # of NELECT, that the integrated DOS may lack at the Fermi level
SPINOR_TAGS = ("LSORBIT", "LNONCOLLINEAR")
RELAXATIONS = {
    None: "2 x MPRelaxSet of structures of other functionals",
    True: "2 x MPRelaxSet",
    False: None,
}
FloatArray = NDArray[np.floating]


def missing() -> list[str]:
    """One line for each thing that this machine lacks to run VASP; empty if it can.

    Building and submitting flows needs none of it.
    """
    problems = []
    command = shlex.split(expandvars(SETTINGS.VASP_CMD))
    programs = [command[0], *(word for word in command[1:] if "vasp" in Path(word).name)]
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        problems.append(
            f"VASP command not found: {', '.join(lacking)} (VASP_CMD is {SETTINGS.VASP_CMD!r}): "
            "set VASP_CMD in ~/.atomate2.yaml or ATOMATE2_VASP_CMD in the environment"
        )
    potcars = PYMATGEN_SETTINGS.get("PMG_VASP_PSP_DIR")
    if not potcars:
        problems.append(
            "no POTCAR directory: run pmg config --add PMG_VASP_PSP_DIR /path/to/potcars"
        )
    elif not Path(potcars).is_dir():
        problems.append(f"POTCAR directory {potcars} (PMG_VASP_PSP_DIR) does not exist")
    return problems


@dataclass
class VaspDosMaker(Maker):
    """DOS of a structure with VASP and the Materials Project's settings.

    Parameters
    ----------
    name : str
    relax : bool or None
        Two relaxations first (`MPRelaxSet`): always, never, or (None) where the source says that
        the structure was relaxed with another functional than PBE. Most of the Materials
        Project's newer structures are r2SCAN's, and a PBE DOS in an r2SCAN cell, whose volume is
        smaller by some percent, is not what the Materials Project would have.
    reciprocal_density : int
        K-points per Å^-3 of the static and the DOS run of a material whose gap is above 0.5 eV;
        100 is pymatgen's, about 0.22/Å apart. Where the source's gap is at most 0.5 eV or not
        known there are five times as many, 0.13/Å apart.
    nbands_factor : float
        Bands of the DOS run over those of the static run; 1.2 is `MPNonSCFSet`'s. Where they do
        not reach 4 eV above the CBM, the DOS run is repeated once with twice as many. No part
        of the recipe, since it changes no state, only how many there are.
    wall_time_limit : float
        Of each VASP run, in s; custodian stops the run before it.
    user_incar_settings : dict
        Changes of the INCAR of every run; the recipe changes with them.
    potcar_functional : str
        POTCAR library as pymatgen names it; ``"PBE"`` is the Materials Project's.

    Examples
    --------
    >>> from pymatgen.core import Lattice
    >>> aluminium = Structure(Lattice.cubic(4.05), ["Al"], [[0, 0, 0]])
    >>> [job.name for job in VaspDosMaker().make(aluminium).jobs]
    ['MP GGA static', 'MP GGA uniform', 'VASP DOS']
    """

    name: str = "VASP DOS"
    relax: bool | None = None
    reciprocal_density: int = 100
    nbands_factor: float = 1.2
    wall_time_limit: float = 86400.0
    user_incar_settings: dict[str, Any] = field(default_factory=dict)
    potcar_functional: str = "PBE"

    @property
    def engine(self) -> str:
        """``'vasp'``."""
        return "vasp"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the recipe stands for."""
        return {
            "xc": "PBE",
            "relax": RELAXATIONS[self.relax],
            "static": "MPStaticSet",
            "dos": "MPNonSCFSet uniform, NEDOS 2001, differences of the integrated DOS",
            "encut": MPRelaxSet.CONFIG["INCAR"]["ENCUT"],
            "lreal": False,
            "reciprocal_density": self.reciprocal_density,
            "small_gap_multiply": [SMALL_GAP, SMALL_GAP_FACTOR],
            "potcar_functional": self.potcar_functional,
            "user_incar_settings": self.user_incar_settings,
        }

    @property
    def recipe(self) -> str:
        """Recipe of the documents; known before anything runs."""
        return recipe_id(RECIPE, self.settings)

    @property
    def relax_set(self) -> MPRelaxSet:
        """Input set of both relaxations."""
        return MPRelaxSet(auto_metal_kpoints=True, **self._set_options)

    def static_set(self, band_gap: float | None = None) -> MPStaticSet:
        """Input set of the static run; `band_gap` is the source's, in eV."""
        return MPStaticSet(reciprocal_density=self._density(band_gap), **self._set_options)

    def dos_set(self, band_gap: float | None = None) -> MPNonSCFSet:
        """Input set of the uniform run: the k-mesh and the projectors of the static run."""
        options = self._set_options
        options["user_incar_settings"] = {"LREAL": False, **options["user_incar_settings"]}
        return MPNonSCFSet(
            mode="uniform",
            nedos=2001,
            reciprocal_density=self._density(band_gap),
            nbands_factor=self.nbands_factor,
            **options,
        )

    def _density(self, band_gap: float | None) -> int:
        is_small = band_gap is None or band_gap <= SMALL_GAP
        return self.reciprocal_density * (SMALL_GAP_FACTOR if is_small else 1)

    def _relaxes(self, functional: str | None) -> bool:
        if self.relax is not None:
            return self.relax
        return functional is not None and functional not in PBE_RUN_TYPES

    @property
    def _set_options(self) -> dict[str, Any]:
        return {
            "force_gamma": True,
            "inherit_incar": False,
            "user_incar_settings": dict(self.user_incar_settings),
            "user_potcar_functional": self.potcar_functional,
        }

    @property
    def _run_options(self) -> dict[str, Any]:
        return {"run_vasp_kwargs": {"wall_time": int(self.wall_time_limit)}}

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
            Decides the k-mesh, and whether the structure is relaxed first.

        Raises
        ------
        DosError
            If a site is partially occupied or an element has no POTCAR in the MP recipe.
        """
        check_structure(structure)
        if spinor := [tag for tag in SPINOR_TAGS if self.user_incar_settings.get(tag)]:
            raise DosError(f"{spinor[0]} is not supported: spin-orbit DOS cannot be judged")
        jobs: list[Job | Flow] = []
        started_from, previous = structure, None
        if self._relaxes(source.functional):
            relaxation = self._relax_maker().make(structure)
            jobs.append(relaxation)
            started_from = relaxation.output.structure
            previous = relaxation.output.dir_name
        static = MPGGAStaticMaker(
            input_set_generator=self.static_set(source.band_gap), **self._run_options
        ).make(started_from, prev_dir=previous)
        dos = self.dos_maker(source.band_gap).make(
            static.output.structure, prev_dir=static.output.dir_name, mode="uniform"
        )
        document = vasp_dos(
            static.output.dir_name,
            dos.output.dir_name,
            self,
            material_id=material_id,
            band_gap=source.band_gap,
        )
        document.name = self.name
        return Flow([*jobs, static, dos, document], output=document.output, name=self.name)

    def _relax_maker(self) -> MPGGADoubleRelaxMaker:
        maker = MPGGARelaxMaker(input_set_generator=self.relax_set, **self._run_options)
        return MPGGADoubleRelaxMaker.from_relax_maker(maker)

    def dos_maker(self, band_gap: float | None = None) -> NonSCFMaker:
        """Maker of the uniform run alone; `band_gap` is the source's, in eV."""
        return NonSCFMaker(
            name="MP GGA uniform", input_set_generator=self.dos_set(band_gap), **self._run_options
        )


def check_structure(structure: Structure) -> None:
    """Refuse what the recipe cannot compute, before anything is submitted.

    Raises
    ------
    DosError
        If a site is partially occupied or an element has no POTCAR in the MP recipe.
    """
    if not structure.is_ordered:
        raise DosError("structure has partial occupancies; order it first")
    potcars = MPRelaxSet.CONFIG["POTCAR"]
    unknown = sorted({e.symbol for e in structure.elements} - set(potcars))
    if unknown:
        raise DosError(f"the Materials Project recipe has no POTCAR for {', '.join(unknown)}")


# No output_schema: jobflow checks it against the bare reference that a replacing flow leaves.
@job
def vasp_dos(
    static_dir: str,
    dos_dir: str,
    maker: VaspDosMaker,
    material_id: str | None = None,
    band_gap: float | None = None,
    repeat: bool = True,
) -> DosDocument | Response:
    """Job that reads the two runs, or repeats the second one with twice the bands.

    Parameters
    ----------
    static_dir, dos_dir : str
        Folders of the static and of the uniform run, on a file system of this worker.
    maker : VaspDosMaker
    material_id : str, optional
    band_gap : float, optional
        The source's, in eV; a repeated run has the same k-mesh.
    repeat : bool
        Whether a DOS that does not reach 4 eV above the CBM may be repeated.
    """
    try:
        return read_dos(static_dir, dos_dir, maker, material_id)
    except WindowError:
        if not repeat:
            raise
    wider = replace(maker, nbands_factor=2 * maker.nbands_factor)
    structure = _vasprun(static_dir, parse_dos=False, parse_eigen=False).final_structure
    dos = wider.dos_maker(band_gap).make(structure, prev_dir=static_dir, mode="uniform")
    document = vasp_dos(
        static_dir,
        dos.output.dir_name,
        wider,
        material_id=material_id,
        band_gap=band_gap,
        repeat=False,
    )
    return Response(replace=Flow([dos, document], output=document.output, name=maker.name))


def read_dos(
    static_dir: str | Path,
    dos_dir: str | Path,
    maker: VaspDosMaker,
    material_id: str | None = None,
) -> DosDocument:
    """DOS document of a static run and a uniform run.

    Parameters
    ----------
    static_dir, dos_dir : str or Path
        Folders with ``vasprun.xml`` and ``OUTCAR``, gzipped or not.
    maker : VaspDosMaker
        Whose recipe the runs follow.
    material_id : str, optional

    Raises
    ------
    DosError
        If a run is missing, cut off, not converged, or with spin-orbit coupling; if it has no
        Fermi level, no eigenvalues or no integrated DOS; if its DOS does not hold NELECT electrons
        to 1 %, or its EMIN and EMAX or its bands miss the window.
    """
    static = _vasprun(static_dir, parse_dos=False, parse_eigen=False)
    dos = _vasprun(dos_dir, parse_dos=True, parse_eigen=True)
    _check_converged(static, f"static VASP run in {static_dir} did not reach self-consistency")
    _check_converged(dos, f"bands of the DOS run in {dos_dir} did not converge")
    for run, folder in ((static, static_dir), (dos, dos_dir)):
        _check_collinear(run, folder)
    if not math.isfinite(static.final_energy):
        raise DosError(f"vasprun.xml in {static_dir} has no energy that can be read: run it again")
    n_electrons = _electrons(dos, dos_dir)
    bands = _bands(dos, dos_dir)
    efermi = float(dos.efermi)
    edges = band_edges(bands, n_electrons)
    vbm, cbm = edges or (efermi, efermi)
    points, integrated = _integrated_dos(dos)
    if not np.isfinite(integrated).all():
        raise DosError(f"DOS of {dos_dir} holds numbers that VASP could not print (****)")
    _check_range(points, bands, vbm, cbm, dos_dir)
    held = float(np.interp(min(max(efermi, vbm), cbm), points, integrated))
    if abs(held - n_electrons) > ELECTRON_TOLERANCE * n_electrons:
        raise DosError(
            f"DOS of {dos_dir} holds {held:.2f} electrons below the Fermi level, NELECT is "
            f"{n_electrons:g}: the run is broken, or its EMIN cuts bands off"
        )
    energies, total = _covering_below(*_averages(points, integrated), vbm)
    symbols = {site.specie.symbol for site in dos.final_structure}
    return DosDocument.checked(
        material_id=material_id,
        structure=dos.final_structure,
        engine="vasp",
        engine_version=str(dos.vasp_version),
        recipe=maker.recipe,
        settings=maker.settings,
        energies=energies,
        dos=total,
        efermi=min(max(efermi, vbm), cbm),
        vbm=vbm,
        cbm=cbm,
        band_gap=cbm - vbm,
        energy=float(static.final_energy),
        n_electrons=n_electrons,
        kmesh_scf=_k_mesh(static),
        kmesh_dos=_k_mesh(dos),
        emax=float(bands[..., -1].min()),
        wall_time=_elapsed(static_dir, dos_dir),
        is_spin_polarized=bool(dos.is_spin),
        magnetization=_magnetization(dos) if dos.is_spin else None,
        largest_moment=_largest_moment(static_dir) if dos.is_spin else None,
        warnings=tuple(engine_warnings(symbols, "vasp", bool(dos.is_spin))),
    )


def _vasprun(folder: str | Path, **options: bool) -> Vasprun:
    path = Path(zpath(str(Path(strip_hostname(folder)) / "vasprun.xml")))
    if not path.exists():
        raise DosError(f"no vasprun.xml in {folder}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of stars; they are refused where they matter
            vasprun = Vasprun(str(path), parse_potcar_file=False, **options)
    except IndexError as error:  # pymatgen takes a step, and the DOS's third column, for granted
        lacking = "integrated DOS" if options.get("parse_dos") else "finished step"
        raise DosError(f"{path} has no {lacking}: run VASP again") from error
    except Exception as error:  # pymatgen raises whatever the XML parser does
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DosError(f"{path} cannot be read, or is cut off ({reason})") from error
    if options.get("parse_dos"):
        _check_has_dos(vasprun, path)
    return vasprun


def _check_has_dos(vasprun: Vasprun, path: Path) -> None:
    """Refuse a run without DOS; pymatgen passes over a whole DOS whose Fermi level is stars."""
    is_there = getattr(vasprun, "idos", None) is not None
    if is_there and vasprun.efermi is not None and math.isfinite(vasprun.efermi):
        return
    with zopen(path, "rt", encoding="utf-8", errors="replace") as file:
        dos = str(file.read()).partition("<dos>")[2]
    printed = re.search(r'<i name="efermi">([^<]*)</i>', dos)
    if dos and printed is None:
        raise DosError(f"{path} has no Fermi level in its DOS: run VASP again")
    if printed is not None and not _is_number(printed[1]):
        raise DosError(f"{path}: the Fermi level is {printed[1].strip()!r}: run VASP again")
    raise DosError(f"{path} has no integrated DOS: run VASP again")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_converged(vasprun: Vasprun, problem: str) -> None:
    """Refuse a run that took all the electronic steps that it was allowed."""
    if not vasprun.converged_electronic:
        raise DosError(f"{problem} in NELM = {vasprun.parameters['NELM']} steps")


def _check_collinear(vasprun: Vasprun, folder: str | Path) -> None:
    """Refuse spinors: each of their bands holds one electron, and they are not of the recipe."""
    for tag in SPINOR_TAGS:
        if vasprun.parameters.get(tag) or vasprun.incar.get(tag):
            raise DosError(
                f"VASP run in {folder} has {tag}: its bands hold one electron each and its "
                "moments no single sign; run it without spin-orbit coupling"
            )


def _check_range(
    points: FloatArray, bands: FloatArray, vbm: float, cbm: float, folder: str | Path
) -> None:
    """Refuse a DOS that EMIN or EMAX cuts within the window.

    By itself VASP begins below the lowest band and ends above the highest one. States that a DOS
    leaves out although the bands are there are a mistake of the input, not a lack of bands.
    """
    first, last = points[0], points[-1]
    if bands.min() < first and first > vbm - WINDOW:
        raise DosError(
            f"DOS of {folder} begins at {first:.2f} eV, {first - vbm:+.2f} eV from the VBM and "
            f"above its lowest band: its EMIN cuts bands off; {-WINDOW:g} eV are needed"
        )
    if bands[..., -1].min() > last and last < cbm + WINDOW:
        raise DosError(
            f"DOS of {folder} ends at {last:.2f} eV, {last - cbm:+.2f} eV from the CBM and "
            f"below its highest band: its EMAX cuts bands off; {WINDOW:+g} eV are needed"
        )


def _electrons(vasprun: Vasprun, folder: str | Path) -> float:
    n_electrons = vasprun.parameters.get("NELECT")
    if n_electrons is None or not n_electrons > 0:
        raise DosError(f"vasprun.xml in {folder} does not say NELECT: run it again")
    return float(n_electrons)


def _bands(vasprun: Vasprun, folder: str | Path) -> FloatArray:
    """Eigenvalues in eV, shape (n_spins, n_kpoints, n_bands)."""
    if not vasprun.eigenvalues:
        raise DosError(f"vasprun.xml in {folder} has no eigenvalues: run it again")
    spins = (Spin.up, Spin.down)[: 1 + vasprun.is_spin]
    bands = np.array([vasprun.eigenvalues[spin][..., 0] for spin in spins])
    if not np.isfinite(bands).all():
        raise DosError(f"eigenvalues in {folder} hold numbers that VASP could not print (****)")
    return bands


def _integrated_dos(vasprun: Vasprun) -> tuple[FloatArray, FloatArray]:
    """Energies in eV, equidistant as VASP has them before it rounds, and electrons below them."""
    printed = vasprun.idos.energies
    energies = np.linspace(printed[0], printed[-1], len(printed))
    return energies, np.sum(list(vasprun.idos.densities.values()), axis=0)


def _averages(energies: FloatArray, integrated: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Middles of VASP's steps and the average DOS over each.

    VASP's own DOS is, with tetrahedra, the derivative of the integrated DOS *at* its energies; it
    passes over what is narrower than a step (VASP Wiki, 'DOSCAR').
    """
    return (energies[:-1] + energies[1:]) / 2, np.diff(integrated) / np.diff(energies)


def _covering_below(
    energies: FloatArray, dos: FloatArray, vbm: float
) -> tuple[FloatArray, FloatArray]:
    """Add zeros below VASP's first energy, which lies below all states, down to the window."""
    step = energies[1] - energies[0]
    count = int(np.ceil((energies[0] - (vbm - WINDOW)) / step)) + 1
    if count <= 1:
        return energies, dos
    below = energies[0] - step * np.arange(count, 0, -1)
    return np.concatenate([below, energies]), np.concatenate([np.zeros(count), dos])


def _k_mesh(vasprun: Vasprun) -> tuple[int, int, int]:
    n1, n2, n3 = (int(n) for n in vasprun.kpoints.kpts[0])
    return n1, n2, n3


def _magnetization(vasprun: Vasprun) -> float:
    """Moment of the cell in Bohr magnetons, from the occupations."""
    weights = np.array(vasprun.actual_kpoints_weights)
    up, down = (weights @ vasprun.eigenvalues[s][..., 1].sum(axis=1) for s in (Spin.up, Spin.down))
    return float(up - down)


def _largest_moment(folder: str | Path) -> float | None:
    """Largest moment of a site in Bohr magnetons, from an OUTCAR; None if it does not tell."""
    path = Path(zpath(str(Path(strip_hostname(folder)) / "OUTCAR")))
    if not path.exists():
        return None
    moments = [abs(site["tot"]) for site in Outcar(str(path)).magnetization]
    return max(moments, default=None)


def _elapsed(*folders: str | Path) -> float | None:
    """Wall time in s from the OUTCARs; None if one of them does not tell."""
    total = 0.0
    for folder in folders:
        path = Path(zpath(str(Path(strip_hostname(folder)) / "OUTCAR")))
        if not path.exists():
            return None
        with zopen(path, "rt") as outcar:
            found = re.search(r"Elapsed time \(sec\):\s*([\d.]+)", str(outcar.read()))
        if found is None:
            return None
        total += float(found[1])
    return total
