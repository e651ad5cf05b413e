"""DosDocument: what every DOS engine hands back, whichever code computed it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pymatgen.core import Structure

from models.errors import describe
from models.spectra.spectrum import EDOS_GRID, EnergyGrid, IntegratedDos, Spectrum, align_integral
from workflows.dos.engines import ENGINES
from workflows.dos.errors import DosError, WindowError

if TYPE_CHECKING:
    from pymatgen.electronic_structure.dos import Dos

CELL_MOMENT, SITE_MOMENT = 0.05, 0.1  # Bohr magnetons; what is smaller is noise
WINDOW = 4.0  # eV that a DOS must reach below the VBM and above the CBM
_NEGATIVE_NOISE = 0.02  # states/eV/atom below zero that Blöchl's corrections may leave


@dataclass(frozen=True)
class SourceFacts:
    """What the source of a structure knows that decides how it is calculated.

    Parameters
    ----------
    band_gap : float or None
        In eV.
    functional : str or None
        Functional that the structure was relaxed with, as the Materials Project writes run types:
        ``"GGA"`` (PBE), ``"GGA+U"``, ``"r2SCAN"``.
    """

    band_gap: float | None = None
    functional: str | None = None


UNKNOWN = SourceFacts()
"""Of a source that knows neither."""


def recipe_id(name: str, settings: Mapping[str, Any]) -> str:
    """Name of a recipe with a fingerprint of its settings.

    Two calculations are comparable, and one of them need not be repeated, when their recipes
    are equal.

    Parameters
    ----------
    name : str
        Such as ``"gpaw-pbe-standard"``.
    settings : mapping
        All settings that change the result; JSON values. Their order does not matter.

    Examples
    --------
    >>> recipe_id("gpaw-pbe-fast", {"ecut": 350.0})
    'gpaw-pbe-fast-3787d30a'
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def recipe_with_stand_ins(recipe: str, stand_ins: Mapping[str, str]) -> str:
    """Name of a recipe in which other elements were computed in the place of some.

    Parameters
    ----------
    recipe : str
        Of the same settings, without.
    stand_ins : mapping of str to str
        The element that was computed, by the one in whose place it was.

    Examples
    --------
    >>> recipe_with_stand_ins("gpaw-pbe-fast-3787d30a", {"Ho": "Y", "Pr": "La"})
    'gpaw-pbe-fast-3787d30a+Y-for-Ho+La-for-Pr'
    """
    return "+".join([recipe, *(f"{other}-for-{e}" for e, other in sorted(stand_ins.items()))])


def recipe_without_stand_ins(recipe: str) -> str:
    """Name of the recipe of the same settings for other elements: calculations of one kind.

    Examples
    --------
    >>> recipe_without_stand_ins("gpaw-pbe-fast-3787d30a+La-for-Pr")
    'gpaw-pbe-fast-3787d30a'
    """
    return recipe.partition("+")[0]


def _known_engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}")
    return name


def _plain_numbers(values: Any) -> Any:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _structure_of_dict(structure: Any) -> Any:
    return Structure.from_dict(structure) if isinstance(structure, Mapping) else structure


Engine = Annotated[str, AfterValidator(_known_engine)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_plain_numbers)]
PymatgenStructure = Annotated[
    Structure,
    BeforeValidator(_structure_of_dict),
    PlainSerializer(lambda structure: structure.as_dict(), return_type=dict, when_used="json"),
]


class DosDocument(BaseModel):
    """Total electronic DOS of one structure, with what is needed to judge and to repeat it.

    All energies (`energies`, `efermi`, `vbm`, `cbm`, `emax`) are on one axis, that of the engine,
    whose zero means nothing in a periodic crystal; only differences do. This is the convention
    of :class:`pymatgen.electronic_structure.dos.Dos`. `relative_energies` puts the Fermi level
    at zero.

    Parameters
    ----------
    material_id : str or None
        The caller's name of the material.
    formula : str
        Reduced formula; filled in from `structure`.
    structure : Structure
        As computed, that is after the relaxation if there was one; with its own elements where
        others were computed in their place, which `settings` then has as ``stand_ins``.
    engine : str
        A name in :data:`workflows.dos.engines.ENGINES`.
    engine_version : str
    recipe : str
        See :func:`recipe_id` and :func:`recipe_with_stand_ins`.
    settings : dict
        Everything that `recipe` stands for.
    energies : sequence of float
        Increasing and equidistant, in eV.
    dos : sequence of float
        States/eV/cell, the sum of both spins: averages over the steps around `energies`, so that
        no narrow band is lost between two points. Negative noise (tetrahedra with Blöchl's
        corrections) is set to zero with a warning.
    efermi : float
        Fermi level in eV; anywhere inside the gap of an insulator.
    vbm, cbm : float
        Band edges from eigenvalues in eV; both are `efermi` in a metal.
    band_gap : float
        ``cbm - vbm`` in eV, 0 for a metal.
    energy : float
        Total energy in eV/cell; comparable within one recipe only.
    n_electrons : float
        Valence electrons in the cell, as computed.
    kmesh_scf, kmesh_dos : tuple of int
        Divisions of the k-meshes of the density and of the DOS.
    emax : float
        In eV; bands are missing above it and the DOS there is a lower bound.
    wall_time : float or None
        In s, of all steps together; None if that is unknown.
    is_spin_polarized : bool
        Whether the engine could have found a magnetic moment.
    magnetization : float or None
        Total moment in Bohr magnetons/cell; None without spin polarisation.
    largest_moment : float or None
        Largest moment of a site in Bohr magnetons, which an antiferromagnet has too; None if that
        is unknown.
    warnings : sequence of str
        What the engine did that a reader must know.

    Raises
    ------
    WindowError
        If the DOS does not reach from `vbm` - 4 eV to `cbm` + 4 eV.
    pydantic.ValidationError
        If a number is not finite, energies do not increase, lengths differ, the DOS is negative,
        or the edges contradict each other.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )

    schema_version: Literal[1] = 1
    material_id: str | None = None
    formula: str = ""
    structure: PymatgenStructure
    engine: Engine
    engine_version: str
    recipe: str
    settings: dict[str, Any]
    energies: Numbers = Field(min_length=2)
    dos: Numbers
    efermi: float
    vbm: float
    cbm: float
    band_gap: float = Field(ge=0)
    energy: float
    n_electrons: float = Field(gt=0)
    kmesh_scf: tuple[int, int, int]
    kmesh_dos: tuple[int, int, int]
    emax: float
    wall_time: float | None = Field(default=None, ge=0)
    is_spin_polarized: bool = False
    magnetization: float | None = None
    largest_moment: float | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """Document of what an engine found.

        Raises
        ------
        DosError
            In one line, if a number is not finite or contradicts another.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            formula = fields["structure"].composition.reduced_formula
            what = f"output of {fields['engine']} for {formula}"
            raise DosError(f"{what} is wrong: {describe(error)}") from error

    @model_validator(mode="before")
    @classmethod
    def _clip_noise(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "dos" not in data:
            return data
        dos = np.asarray(data["dos"], float)
        if dos.ndim != 1 or not (dos < 0).any():
            return data
        lowest, sites = float(dos.min()), data.get("structure")
        n_atoms = len(sites["sites"] if isinstance(sites, Mapping) else sites) if sites else 1
        if not lowest >= -_NEGATIVE_NOISE * n_atoms:
            raise ValueError(f"DOS is negative: {lowest:.3g} states/eV/cell")
        warning = f"negative DOS down to {lowest:.1e} states/eV/cell set to zero"
        return {
            **data,
            "dos": np.maximum(dos, 0.0),
            "warnings": (*data.get("warnings", ()), warning),
        }

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(self.dos) != len(self.energies):
            raise ValueError(f"{len(self.dos)} DOS values for {len(self.energies)} energies")
        if (np.diff(self.energies) <= 0).any():
            raise ValueError("energies do not increase")
        if abs(self.cbm - self.vbm - self.band_gap) > 1e-6:
            raise ValueError("band_gap is not cbm - vbm")
        if not self.vbm - 1e-6 <= self.efermi <= self.cbm + 1e-6:
            raise ValueError("Fermi level lies outside the band edges")
        self._check_window()
        if not self.formula:
            object.__setattr__(self, "formula", self.structure.composition.reduced_formula)
        return self

    def _check_window(self) -> None:
        lowest, highest = self.energies[0] - self.vbm, min(self.energies[-1], self.emax) - self.cbm
        if lowest > -WINDOW or highest < WINDOW:
            raise WindowError(
                f"DOS of {self.structure.composition.reduced_formula} is complete from "
                f"VBM {lowest:+.2f} eV to CBM {highest:+.2f} eV only; -4 to +4 eV are needed: "
                "compute more bands"
            )

    @property
    def is_metal(self) -> bool:
        """Whether there is no band gap."""
        return self.band_gap == 0

    @property
    def is_magnetic(self) -> bool | None:
        """Whether the cell has a moment above 0.05 Bohr magnetons, or a site one above 0.1.

        None if that is unknown.
        """
        if self.magnetization is None:
            return None
        return abs(self.magnetization) > CELL_MOMENT or (self.largest_moment or 0.0) > SITE_MOMENT

    @property
    def integral(self) -> IntegratedDos:
        """Running integral of the DOS, from half a step below the first energy."""
        return IntegratedDos.of_averages(np.asarray(self.energies), np.asarray(self.dos))

    @property
    def own_grid(self) -> EnergyGrid:
        """Grid over the range of the eDOS grid, with bins as wide as the points lie apart.

        The nearest width of which 4 eV is a multiple, and never wider than the bins of the
        eDOS grid.
        """
        energies = np.asarray(self.energies)
        shown = (energies >= self.vbm + EDOS_GRID.edges[0]) & (
            energies <= self.cbm + EDOS_GRID.edges[-1]
        )
        spacing = float(np.median(np.diff(energies[shown])))
        half = max(round(WINDOW / spacing), EDOS_GRID.size // 2)
        return EnergyGrid(start=-WINDOW, width=WINDOW / half, size=2 * half)

    def spectrum(self, grid: EnergyGrid = EDOS_GRID) -> Spectrum:
        """The DOS on a grid whose zero is both band edges, as bin averages (`align_integral`).

        Raises
        ------
        ModelError
            If the DOS does not cover the grid.
        """
        spectrum = align_integral(self.integral, self.vbm, self.cbm, grid)
        return replace(spectrum, n_atoms=len(self.structure))

    @property
    def relative_energies(self) -> np.ndarray:
        """Energies relative to the Fermi level, in eV."""
        return np.asarray(self.energies) - self.efermi

    def to_pymatgen(self) -> Dos:
        """The DOS as pymatgen's object (one spin channel that holds both spins)."""
        from pymatgen.electronic_structure.core import Spin
        from pymatgen.electronic_structure.dos import Dos

        return Dos(self.efermi, np.asarray(self.energies), {Spin.up: np.asarray(self.dos)})
