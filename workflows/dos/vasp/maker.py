"""VASP: the reference engine, with the Materials Project's PBE recipe through atomate2.

A static run (`MPStaticSet`) and a uniform non-self-consistent run (`MPNonSCFSet`: ENCUT 520 eV,
tetrahedra with Blöchl's corrections, NEDOS 2001); both from pymatgen's sets, not from atomate2's
own `NonSCFMaker` default, which differs. As in atomate's `wf_bandstructure`, which made the
Materials Project's DOS, both runs have five times as many k-points where the gap is at most
0.5 eV. Flows are built and submitted without VASP or POTCARs; the workers need both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atomate2.vasp.flows.mp import MPGGADoubleRelaxMaker
from atomate2.vasp.jobs.core import NonSCFMaker
from atomate2.vasp.jobs.mp import MPGGARelaxMaker, MPGGAStaticMaker
from jobflow import Flow, Job, Response, job
from pymatgen.core import Structure
from pymatgen.io.vasp.sets import MPNonSCFSet, MPRelaxSet, MPStaticSet

from workflows.dos.bands import SMALL_GAP
from workflows.dos.base import DosMaker, check_structure
from workflows.dos.document import DosDocument, SourceFacts, recipe_id
from workflows.dos.errors import DosError, WindowError
from workflows.dos.vasp import installation
from workflows.dos.vasp.output import SPINOR_TAGS, final_structure, read_dos

RECIPE = "vasp-pbe-mp"
SMALL_GAP_FACTOR = 5  # times the k-points up to SMALL_GAP; atomate's add_small_gap_multiply
PBE_RUN_TYPES = frozenset({"GGA", "GGA+U", "PBE", "PBE+U"})  # as the Materials Project names them
RELAXATIONS = {
    None: "2 x MPRelaxSet of structures of other functionals",
    True: "2 x MPRelaxSet",
    False: None,
}


@dataclass
class VaspDosMaker(DosMaker):
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

    engine = "vasp"
    title = "VASP"
    missing = staticmethod(installation.missing)
    installed = staticmethod(installation.installed)

    name: str = "VASP DOS"
    relax: bool | None = None
    reciprocal_density: int = 100
    nbands_factor: float = 1.2
    wall_time_limit: float = 86400.0
    user_incar_settings: dict[str, Any] = field(default_factory=dict)
    potcar_functional: str = "PBE"

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

    def check(self, structure: Structure) -> None:
        """Refuse what the recipe cannot compute.

        Raises
        ------
        DosError
            If a site is partially occupied, an element has no POTCAR in the MP recipe, or the
            INCAR asks for spinors.
        """
        potcars = MPRelaxSet.CONFIG["POTCAR"]
        check_structure(structure, potcars, "the Materials Project recipe has no POTCAR for {}")
        if spinor := [tag for tag in SPINOR_TAGS if self.user_incar_settings.get(tag)]:
            raise DosError(f"{spinor[0]} is not supported: spin-orbit DOS cannot be judged")

    def jobs(
        self, structure: Structure, material_id: str | None, source: SourceFacts
    ) -> list[Job | Flow]:
        """Relaxations, if any, static run, uniform run, and reading both.

        Parameters
        ----------
        structure : Structure
        material_id : str or None
        source : SourceFacts
            Its band gap decides the k-mesh, its functional whether the structure is relaxed.
        """
        jobs: list[Job | Flow] = []
        started_from, previous, earlier = structure, None, []
        if self._relaxes(source.functional):
            relaxation = self._relax_maker().make(structure)
            jobs.append(relaxation)
            started_from = relaxation.output.structure
            previous = relaxation.output.dir_name
            earlier = [relaxed.output.dir_name for relaxed in relaxation.jobs]
        static = MPGGAStaticMaker(
            input_set_generator=self.static_set(source.band_gap), **self._run_options
        ).make(started_from, prev_dir=previous)
        uniform = self.uniform_maker(source.band_gap).make(
            static.output.structure, prev_dir=static.output.dir_name, mode="uniform"
        )
        dos = vasp_dos(
            static.output.dir_name,
            uniform.output.dir_name,
            self,
            material_id=material_id,
            band_gap=source.band_gap,
            earlier=earlier,
        )
        return [*jobs, static, uniform, dos]

    def _relax_maker(self) -> MPGGADoubleRelaxMaker:
        maker = MPGGARelaxMaker(input_set_generator=self.relax_set, **self._run_options)
        return MPGGADoubleRelaxMaker.from_relax_maker(maker)

    def uniform_maker(self, band_gap: float | None = None) -> NonSCFMaker:
        """Maker of the uniform run alone; `band_gap` is the source's, in eV."""
        return NonSCFMaker(
            name="MP GGA uniform", input_set_generator=self.dos_set(band_gap), **self._run_options
        )


# No output_schema: jobflow checks it against the bare reference that a replacing flow leaves.
@job
def vasp_dos(
    static_dir: str,
    dos_dir: str,
    maker: VaspDosMaker,
    material_id: str | None = None,
    band_gap: float | None = None,
    earlier: Sequence[str] = (),
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
    earlier : sequence of str
        Folders of the runs before these, whose time counts as well.
    repeat : bool
        Whether a DOS that does not reach 4 eV above the CBM may be repeated.
    """
    try:
        return read_dos(static_dir, dos_dir, maker, material_id, earlier)
    except WindowError:
        if not repeat:
            raise
    wider = replace(maker, nbands_factor=2 * maker.nbands_factor)
    uniform = wider.uniform_maker(band_gap).make(
        final_structure(static_dir), prev_dir=static_dir, mode="uniform"
    )
    dos = vasp_dos(
        static_dir,
        uniform.output.dir_name,
        wider,
        material_id=material_id,
        band_gap=band_gap,
        earlier=[*earlier, dos_dir],
        repeat=False,
    )
    return Response(replace=Flow([uniform, dos], output=dos.output, name=maker.name))
