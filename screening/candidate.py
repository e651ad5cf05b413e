"""What flows through a screening: candidates, and materials that could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from db.structures import StructureArrays
from models.crystal import Crystal
from models.primitive import reduce_cell
from models.spectra.html import html_table, known_rows

MAX_ID_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a candidate comes from.

    Parameters
    ----------
    source : str
        Name of the file or of the database.
    database_version : str, optional
        Release of the database, such as ``"2025.09.25"``.
    last_updated : str, optional
        When the database last changed this material (ISO 8601).
    functional : str, optional
        Functional that the structure was relaxed with, as the Materials Project names run types:
        ``"GGA"`` is PBE.
    """

    source: str
    database_version: str | None = None
    last_updated: str | None = None
    functional: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The fields that are known."""
        fields = {
            "source": self.source,
            "database_version": self.database_version,
            "last_updated": self.last_updated,
            "functional": self.functional,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A material to be screened, with the properties that the filters ask for.

    A property is None where the source does not know it.

    Parameters
    ----------
    material_id : str
        Unique in its source.
    structure : Crystal
    energy_above_hull : float, optional
        In eV/atom.
    band_gap : float, optional
        In eV.
    is_magnetic : bool, optional
    has_edos : bool, optional
        Whether the source has a DFT electronic DOS of it.
    source_formula : str, optional
        Formula as the source writes it.
    origin : Origin, optional
    cell_multiplicity : int, optional
        Primitive cells in the cell as the source gave it; None before it was reduced, or if it
        could not be.
    reduction_problem : str, optional
        Why it could not be reduced.
    remarks : tuple of str
        What a person should know of how it was read, such as a repair of its file.
    """

    material_id: str
    structure: Crystal
    energy_above_hull: float | None = None
    band_gap: float | None = None
    is_magnetic: bool | None = None
    has_edos: bool | None = None
    source_formula: str | None = None
    origin: Origin | None = None
    cell_multiplicity: int | None = None
    reduction_problem: str | None = None
    remarks: tuple[str, ...] = ()

    def reduced(self) -> Candidate:
        """The candidate in its primitive cell, or as it is with the reason why not."""
        reduction = reduce_cell(self.structure)
        return replace(
            self,
            structure=reduction.crystal,
            cell_multiplicity=reduction.multiplicity,
            reduction_problem=reduction.problem,
        )

    @property
    def formula(self) -> str:
        """Reduced formula; the source's own where it gives one."""
        return self.source_formula or self.structure.formula

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements, in alphabetical order."""
        return self.structure.elements

    @property
    def chemsys(self) -> str:
        """Chemical system, such as ``"Al-Mg"``."""
        return self.structure.chemsys

    @property
    def nelements(self) -> int:
        """Number of elements."""
        return len(self.structure.composition)

    @property
    def nsites(self) -> int:
        """Number of atoms in the cell."""
        return len(self.structure)

    def _repr_html_(self) -> str:
        rows = [
            ("formula", self.formula),
            ("atoms in the cell", self.nsites),
            ("energy above hull (eV/atom)", self.energy_above_hull),
            ("band gap (eV)", self.band_gap),
            ("magnetic", self.is_magnetic),
            ("has a DFT DOS", self.has_edos),
            ("source", self.origin and self.origin.source),
            *(("remark", remark) for remark in self.remarks),
        ]
        return html_table(f"Candidate {self.material_id}", known_rows(rows))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A material without a usable structure: recorded with its reason, never fatal to a run.

    Parameters
    ----------
    material_id, reason : str
    """

    material_id: str
    reason: str


SourceItem: TypeAlias = Candidate | Unreadable


def id_problem(material_id: str | None) -> str | None:
    """Why a string cannot be a material id, None if it can."""
    if not material_id:
        return "material_id is empty"
    if len(material_id) > MAX_ID_LENGTH:
        return f"material_id is longer than {MAX_ID_LENGTH} characters"
    if not material_id.isprintable():
        return "material_id has characters that cannot be printed"
    return None


def structure_document(crystal: Crystal) -> StructureArrays:
    """A crystal as the structure of a document."""
    return StructureArrays(crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)


def crystal_of(structure: Mapping[str, Any] | None) -> Crystal:
    """Crystal of the structure of a document.

    Raises
    ------
    ModelError
        If there is none, or it is not an ordered structure.
    """
    if isinstance(structure, StructureArrays):
        return Crystal(structure.lattice, structure.frac_coords, structure.atomic_numbers)
    return Crystal.from_dict(dict(structure or {}))
