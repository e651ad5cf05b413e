"""Crystal: the arrays of an ordered periodic structure, cheap to make by the million."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import chemical_symbols as ELEMENTS

from models.errors import ModelError

if TYPE_CHECKING:
    from pymatgen.core import Structure

MIN_VOLUME = 1e-3  # Å^3; a cell with less has none
HASH_DECIMALS = 4  # Å for the lattice, fractions for the coordinates


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic structure as three arrays.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3), float64
        Lattice vectors as rows, in Å.
    frac_coords : ndarray, shape (n, 3), float64
        Fractional coordinates.
    atomic_numbers : ndarray, shape (n,), int64

    Raises
    ------
    ModelError
        If a shape is wrong, a number is not finite, the cell has no volume or no atom,
        or an atomic number is outside 1 to 118.

    Examples
    --------
    >>> Crystal(np.eye(3) * 3.0, [[0, 0, 0]], [84]).formula
    'Po'
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray

    def __post_init__(self) -> None:
        lattice = np.asarray(self.lattice, float)
        frac_coords = np.asarray(self.frac_coords, float)
        numbers = np.asarray(self.atomic_numbers)
        if lattice.size != 9:
            raise ModelError(f"lattice has {lattice.size} numbers, 9 are needed")
        if numbers.ndim != 1 or not len(numbers):
            raise ModelError("structure has no atoms")
        if frac_coords.size != 3 * len(numbers):
            raise ModelError(f"{frac_coords.size} coordinates for {len(numbers)} atoms")
        if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
            raise ModelError("lattice or coordinates are not finite (NaN or infinity)")
        lattice = lattice.reshape(3, 3)
        if abs(np.linalg.det(lattice)) < MIN_VOLUME:
            raise ModelError("cell has no volume")
        if numbers.dtype.kind not in "iu" or numbers.min() < 1 or numbers.max() > 118:
            raise ModelError("atomic numbers must be integers from 1 to 118")
        object.__setattr__(self, "lattice", lattice)
        object.__setattr__(self, "frac_coords", frac_coords.reshape(-1, 3))
        object.__setattr__(self, "atomic_numbers", numbers.astype(np.int64))

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Cell volume in Å^3."""
        return float(abs(np.linalg.det(self.lattice)))

    @cached_property
    def composition(self) -> dict[str, int]:
        """Atoms of each element in the cell, in alphabetical order of the symbols."""
        numbers = self.atomic_numbers.tolist()  # of few elements, so counted faster than sorted
        return dict(sorted((ELEMENTS[z], numbers.count(z)) for z in set(numbers)))

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements, in alphabetical order."""
        return tuple(self.composition)

    @property
    def chemsys(self) -> str:
        """Chemical system as the Materials Project writes it, such as ``"Al-Mg"``."""
        return "-".join(self.elements)

    @cached_property
    def formula(self) -> str:
        """Reduced formula as pymatgen writes it, such as ``"Mg2Si"``."""
        import warnings

        from pymatgen.core import Composition

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # noble gases have no electronegativity to sort by
            return Composition(self.composition).reduced_formula

    @cached_property
    def structure_hash(self) -> str:
        """32 hexadecimal digits that do not depend on the order of the atoms.

        Equal for the same cell with the same atoms to 1e-4 (Å, fractions); another choice of
        cell for the same crystal gives another hash, also of a primitive cell.
        """
        return structure_hashes([self])[0]

    @classmethod
    def of_checked(
        cls, lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
    ) -> Crystal:
        """Crystal of arrays that have passed all checks together with others', ten times as fast.

        Parameters
        ----------
        lattice : ndarray, shape (3, 3), float64
        frac_coords : ndarray, shape (n, 3), float64
        atomic_numbers : ndarray, shape (n,), int64
        """
        crystal = cls.__new__(cls)
        arrays = {"lattice": lattice, "frac_coords": frac_coords, "atomic_numbers": atomic_numbers}
        crystal.__dict__.update(arrays)
        return crystal

    @classmethod
    def from_structure(cls, structure: Structure) -> Crystal:
        """Crystal of an ordered pymatgen structure.

        Raises
        ------
        ModelError
            If a site is partially occupied or is not an element.
        """
        if not structure.is_ordered:
            raise ModelError("structure has partial occupancies; order it first")
        try:
            numbers = np.array([site.specie.Z for site in structure])
        except AttributeError:
            raise ModelError("structure has a site that is not an element") from None
        return cls(structure.lattice.matrix, structure.frac_coords, numbers)

    def to_structure(self) -> Structure:
        """Pymatgen structure with the same cell and sites."""
        from pymatgen.core import Lattice, Structure

        symbols = [ELEMENTS[z] for z in self.atomic_numbers]
        return Structure(Lattice(self.lattice), symbols, self.frac_coords)

    def as_dict(self) -> dict[str, Any]:
        """The structure as the dict that ``pymatgen.core.Structure.from_dict`` reads."""
        sites = [
            {"species": [{"element": ELEMENTS[z], "occu": 1}], "abc": abc}
            for z, abc in zip(self.atomic_numbers.tolist(), self.frac_coords.tolist(), strict=True)
        ]
        return {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0,
            "lattice": {"matrix": self.lattice.tolist()},
            "sites": sites,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Crystal:
        """Crystal of a pymatgen structure dict (of :meth:`as_dict` or of pymatgen itself).

        Raises
        ------
        ModelError
            If the document is not an ordered structure.
        """
        try:
            sites = document["sites"]
            if any(len(s["species"]) != 1 or s["species"][0]["occu"] != 1 for s in sites):
                raise ModelError("structure has partial occupancies; order it first")
            numbers = [ATOMIC_NUMBERS[s["species"][0]["element"]] for s in sites]
            coordinates = np.array([s["abc"] for s in sites], float)
            return cls(np.array(document["lattice"]["matrix"]), coordinates, np.array(numbers))
        except (KeyError, TypeError, IndexError) as error:
            raise ModelError(f"not a structure document: {error!r} is missing or wrong") from None


def structure_hashes(crystals: Sequence[Crystal]) -> list[str]:
    """:attr:`Crystal.structure_hash` of each, of many together ten times as fast."""
    if not crystals:
        return []
    sizes = [len(crystal) for crystal in crystals]
    numbers = np.concatenate([crystal.atomic_numbers for crystal in crystals])
    coordinates = np.concatenate([crystal.frac_coords for crystal in crystals])
    wrapped = np.round(coordinates % 1.0, HASH_DECIMALS) % 1.0
    sites = np.column_stack([numbers, wrapped])
    order = np.lexsort((*sites.T[::-1], np.repeat(np.arange(len(sizes)), sizes)))
    sites = sites[order] + 0.0
    lattices = np.round([crystal.lattice for crystal in crystals], HASH_DECIMALS) + 0.0
    ends = np.cumsum(sizes).tolist()
    return [
        hashlib.sha256(lattice.tobytes() + sites[end - n : end].tobytes()).hexdigest()[:32]
        for lattice, n, end in zip(lattices, sizes, ends, strict=True)
    ]
