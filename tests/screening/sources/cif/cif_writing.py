"""Writes one crystal as a CIF in many spellings; the symmetry is spglib's, not the reader's.

Each setting of a space group is one of spglib's Hall numbers: its axes, origin, operations, names
and Hall symbol come from spglib's tables, and so do the sites in it.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import spglib
from ase.geometry.cell import cell_to_cellpar

from models.crystal import ELEMENTS, Crystal

SYMPREC = 1e-3


@dataclass(frozen=True, eq=False)
class Standard:
    """A crystal in one setting: cell, all atoms, one atom of each orbit, operations."""

    hall_number: int
    lattice: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    representatives: np.ndarray
    multiplicities: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray

    @property
    def type(self) -> spglib.SpaceGroupType:
        return spglib.get_spacegroup_type(self.hall_number)

    @property
    def crystal(self) -> Crystal:
        return Crystal(self.lattice, self.positions, self.numbers)

    @property
    def units(self) -> tuple[dict[str, int], int]:
        counts = Counter(ELEMENTS[z] for z in self.numbers.tolist())
        z = int(np.gcd.reduce(list(counts.values())))
        return {symbol: n // z for symbol, n in counts.items()}, z


@cache
def hall_numbers(space_group: int) -> list[int]:
    return [h for h in range(1, 531) if spglib.get_spacegroup_type(h).number == space_group]


def space_group(crystal: Crystal) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spglib.get_symmetry_dataset(_cell(crystal), SYMPREC).number


def _cell(crystal: Crystal) -> tuple:
    return crystal.lattice, crystal.frac_coords, crystal.atomic_numbers


def standard(crystal: Crystal, hall_number: int) -> Standard:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = spglib.get_symmetry_dataset(_cell(crystal), SYMPREC, hall_number=hall_number)
    operations = spglib.get_symmetry_from_database(hall_number)
    rotations, translations = operations["rotations"], operations["translations"]
    positions, numbers = data.std_positions, data.std_types
    first, counts = [], []
    taken = np.zeros(len(positions), bool)
    for k, x in enumerate(positions):
        if taken[k]:
            continue
        apart = (rotations @ x + translations)[:, None] - positions[None]
        apart -= np.round(apart)
        orbit = (np.linalg.norm(apart @ data.std_lattice, axis=2) < 10 * SYMPREC).any(0)
        first.append(k)
        counts.append(int(orbit.sum()))
        taken |= orbit
    return Standard(
        hall_number,
        data.std_lattice,
        positions,
        numbers,
        np.array(first),
        np.array(counts),
        rotations,
        translations,
    )


def xyz(rotation: np.ndarray, translation: np.ndarray) -> str:
    parts = []
    for row, shift in zip(rotation, translation, strict=True):
        text = "".join(
            f"{'+' if n > 0 else '-'}{axis}" for n, axis in zip(row, "xyz", strict=True) if n
        )
        twelfths = round(shift * 12) % 12
        parts.append(text + (f"+{twelfths}/12" if twelfths else ""))
    return ",".join(parts)


def symmetry_spellings(crystal: Standard) -> Iterator[tuple[str, list[str]]]:
    """Kind of each spelling, and its lines."""
    kind = crystal.type
    name = kind.international.split("=")[-1].strip().replace("_", "")
    choice = kind.choice
    origin = choice[0] if choice[:1] in ("1", "2", "H", "R") else ""
    operations = ["loop_", "_symmetry_equiv_pos_as_xyz"] + [
        f"'{xyz(r, t)}'" for r, t in zip(crystal.rotations, crystal.translations, strict=True)
    ]
    hall = ["_space_group_name_Hall", f";{kind.hall_symbol}", ";"]

    def quoted(text: str, tag: str = "_symmetry_space_group_name_H-M") -> str:
        return f"{tag} '{text}'"

    number = f"_symmetry_Int_Tables_number {kind.number}"
    yield "operations", operations
    yield (
        "operations, other tag",
        [
            "loop_",
            "_space_group_symop_id",
            "_space_group_symop_operation_xyz",
        ]
        + [f"{k} {line.upper()}" for k, line in enumerate(operations[2:], 1)],
    )
    yield "operations, name, number", [quoted(kind.international_short), number, *operations]
    yield "Hall", hall
    if kind.hall_symbol.startswith("-"):
        yield "Hall symbol as a name", [quoted(kind.hall_symbol)]
    yield "Hall, name, number", [*hall, quoted(name), number]
    yield "name", [quoted(name)]
    yield "name, number", [quoted(name, "_space_group_name_H-M_alt"), number]
    yield "reference name", [quoted(name, "_space_group.name_H-M_ref")]
    yield "lower-case name", [quoted(name.lower())]
    yield "name without spaces", [quoted(name.replace(" ", ""))]
    yield "full name", [quoted(kind.international_full)]
    yield "number", [number]
    if kind.number > 194:
        old = re.sub(r"^(\w \S+) -3", r"\1 3", name)
        yield "old name", [quoted(old + (f" :{origin}" if origin else ""))]
    if kind.number in range(3, 16):
        yield "short name", [quoted(re.sub(r" 1(?= |$)", "", name))]
    if origin:
        letter = {"1": "S", "2": "Z"}.get(origin, origin)
        yield "name, choice", [quoted(f"{name} :{origin}")]
        yield "name:choice", [quoted(f"{name}:{origin.lower()}", "_space_group_name_H-M_alt")]
        yield "name with letter", [quoted(f"{name} {letter}")]
        yield "short name with letter", [quoted(name.replace(" ", "") + letter)]
        yield (
            "name, code",
            [quoted(name), f"_space_group_IT_coordinate_system_code {choice.lower()}"],
        )


CONTENTS = ("formula and Z", "formula", "multiplicities", "density", "nothing")


def content_lines(crystal: Standard, content: str) -> list[str]:
    formula, z = crystal.units
    text = " ".join(f"{symbol}{n}" for symbol, n in formula.items())
    if content == "formula and Z":
        return [f"_chemical_formula_sum '{text}'", f"_cell_formula_units_Z {z}"]
    if content == "formula":
        return [f"_chemical_formula_sum '{text}'"]
    if content == "density":
        from pymatgen.core import Lattice, Structure

        symbols = [ELEMENTS[n] for n in crystal.numbers]
        density = Structure(Lattice(crystal.lattice), symbols, crystal.positions).density
        return [f"_exptl_crystal_density_diffrn {density:.3f}"]
    return []


def cif_text(
    crystal: Standard, symmetry: list[str], content: str, digits: int = 6, everything: bool = False
) -> str:
    tags = (
        *(f"_cell_length_{axis}" for axis in "abc"),
        *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
    )
    parameters = cell_to_cellpar(crystal.lattice)
    cell = [f"{tag} {value:.5f}" for tag, value in zip(tags, parameters, strict=True)]
    rows = range(len(crystal.numbers)) if everything else crystal.representatives
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"]
    extra = content == "multiplicities" and not everything
    columns += ["symmetry_multiplicity"] if extra else []
    sites = []
    for place, k in enumerate(rows):
        symbol = ELEMENTS[crystal.numbers[k]]
        x = " ".join(f"{value:.{digits}f}" for value in crystal.positions[k])
        more = f" {crystal.multiplicities[place]}" if extra else ""
        sites.append(f"{symbol}{place + 1} {symbol} {x}{more}")
    return "\n".join(
        [
            "data_test",
            *cell,
            *symmetry,
            *content_lines(crystal, content),
            "loop_",
            *(f"_atom_site_{column}" for column in columns),
            *sites,
            "",
        ]
    )
