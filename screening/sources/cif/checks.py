"""What a CIF says of its own content, held against what was read."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from ase.data import atomic_masses

from models.crystal import ATOMIC_NUMBERS, Crystal
from screening.sources.cif.tags import CifError, Tags, cif_number

VOLUME = 0.01  # relative
DENSITY = 0.02  # relative, of a density that was computed from the cell; H2O for OH is 4 %
MEASURED = 0.2  # relative, of a density that was measured
WEIGHT = 0.005  # relative
_DALTON = 1.66053906660  # g/cm^3 of 1 u/Å^3 (CODATA 2018)
_DEUTERIUM = 1.006  # u more than hydrogen
_FORMULA = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?")

SUM = "_chemical_formula_sum"
# Read as a formula only where there is no sum; it may have brackets, and hydrates.
STRUCTURAL = ("_chemical_formula_structural", "_chemical_formula_moiety")


@dataclass(frozen=True, eq=False)
class Content:
    """What was read.

    Parameters
    ----------
    crystal : Crystal
    deuterium : int
        Atoms of it, which are hydrogen in the crystal.
    operations : int
        Symmetry operations.
    orbits : sequence of int
        Atoms in the cell of each listed site.
    multiplicities : sequence of float, optional
        The same as the file gives it.
    """

    crystal: Crystal
    deuterium: int
    operations: int
    orbits: Sequence[int]
    multiplicities: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Formula:
    """Atoms of each element.

    Parameters
    ----------
    amounts : dict of str to float
    rounding : float
        How far each number may be off.
    """

    amounts: dict[str, float]
    rounding: float

    @property
    def divisor(self) -> int:
        """Largest common divisor of the numbers, 1 if they are not all integers."""
        if self.rounding:
            return 1
        return reduce(math.gcd, (round(n) for n in self.amounts.values()))


def parse_formula(text: str) -> Formula | None:
    """Formula such as ``Cu2 O`` or ``Al0.6Cu1.4``, None if it is more than a list of elements.

    Examples
    --------
    >>> parse_formula("D2 O").amounts
    {'H': 2.0, 'O': 1.0}
    """
    compact = re.sub(r"\(\d+\)|[\s_~'\"]", "", text)
    amounts: dict[str, float] = defaultdict(float)
    decimals = 0
    position = 0
    for match in _FORMULA.finditer(compact):
        symbol = "H" if match[1] in ("D", "T") else match[1]
        if match.start() != position or ATOMIC_NUMBERS.get(symbol, 0) == 0:
            return None
        position = match.end()
        digits = match[2] or "1"
        decimals = max(decimals, len(digits.partition(".")[2].rstrip("0")))
        amounts[symbol] += float(digits)
    if not amounts or position != len(compact) or min(amounts.values()) < 0:
        return None
    present = {symbol: amount for symbol, amount in amounts.items() if amount > 0}
    return Formula(present, 0.6 * 10.0**-decimals if decimals else 0.0) if present else None


def elements_stated(tags: Tags) -> frozenset[str]:
    """Elements that the formula of a block names, else its atom types; empty if none are named."""
    formula = _formula(tags)
    if formula:
        return frozenset(formula.amounts)
    words = tags.values(*STRUCTURAL) or tags.values("_atom_type_symbol")
    return frozenset("H" if e in ("D", "T") else e for word in words for e in _elements(word))


def _elements(text: str) -> set[str]:
    symbols = set(re.findall(r"[A-Z][a-z]?", text))
    return symbols if all(e in ATOMIC_NUMBERS or e in "DT" for e in symbols) else set()


def contradiction(tags: Tags, content: Content) -> tuple[str, bool]:
    """Why the content is not what the file says, and whether the file confirms it.

    Compared are the cell's volume, the formula (with Z, or the whole cell in it as pymatgen
    writes it), the elements, the numbers of atoms in the cell, the multiplicities of the sites,
    the densities and the formula weight. What does not contradict confirms the content only if it
    tells how many atoms there are in the cell: a formula with Z, or of the whole cell, the atoms
    of the types, or the density of X-ray diffraction.

    Parameters
    ----------
    tags : Tags
    content : Content

    Returns
    -------
    reason : str
        Empty if nothing contradicts.
    confirmed : bool
    """
    try:
        _check_volume(tags, content)
        confirmed = [
            _check_formula(tags, content),
            _check_elements(tags, content),
            _check_numbers(tags, content),
            _check_density(tags, content),
        ]
        _check_weight(tags, content)
        _check_multiplicities(content)
    except CifError as error:
        return str(error), False
    return "", any(confirmed)


def _formula(tags: Tags) -> Formula | None:
    """The formula of a block.

    Raises
    ------
    CifError
        If its sum cannot be read: nothing tells then if all atoms are there.
    """
    text = tags.value(SUM)
    if text is None:
        text = tags.value(*STRUCTURAL[:1])
        return parse_formula(text) if text else None
    formula = parse_formula(text)
    if formula is None:
        raise CifError(f"its formula {text!r:.60} cannot be read")
    return formula


def _check_volume(tags: Tags, content: Content) -> None:
    stated, found = tags.number("_cell_volume"), content.crystal.volume
    if stated and abs(stated / found - 1) > VOLUME:
        raise CifError(f"its cell volume is {stated:g} Å^3, that of its axes {found:.1f} Å^3")


def _check_formula(tags: Tags, content: Content) -> bool:
    formula = _formula(tags)
    if formula is None:
        return False
    composition = content.crystal.composition
    content_formula = _written(composition)
    text = tags.value(SUM, *STRUCTURAL)
    units = len(content.crystal) / sum(formula.amounts.values())
    for symbol in composition.keys() | formula.amounts.keys():
        stated = units * formula.amounts.get(symbol, 0.0)
        allowed = min(0.4, units * formula.rounding + 1e-3)
        if abs(composition.get(symbol, 0) - stated) > allowed:
            raise CifError(f"its formula is {text}, its sites give {content_formula}")
    if formula.rounding == 0 and abs(units - round(units)) > 1e-3:
        raise CifError(
            f"its formula is {text}, its sites give no multiple of it: {content_formula}"
        )
    z = tags.number("_cell_formula_units_z")
    whole_cell = abs(units - 1) < 1e-3 and formula.divisor > 1
    if z is None:
        return whole_cell
    as_pymatgen = whole_cell and formula.divisor == z
    if not as_pymatgen and abs(units - z) > 0.02 * z:
        raise CifError(f"its formula is {text} with Z = {z:g}, its sites give {content_formula}")
    return True


def _check_elements(tags: Tags, content: Content) -> bool:
    stated, found = elements_stated(tags), set(content.crystal.composition)
    if stated and stated != found:
        less, more = sorted(stated - found), sorted(found - stated)
        what = f"no {', '.join(less)}" if less else f"{', '.join(more)} that it does not name"
        raise CifError(f"its sites have {what}")
    return False


def _check_numbers(tags: Tags, content: Content) -> bool:
    counts = tags.column("_atom_type_number_in_cell")
    if not counts or not all(counts):
        return False
    total: dict[str, float] = defaultdict(float)
    for kind, count in zip(tags.column("_atom_type_symbol"), counts, strict=False):
        match = re.match(r"[A-Z][a-z]?", kind or "")
        symbol = match[0] if match else "?"
        total["H" if symbol in ("D", "T") else symbol] += cif_number(
            count or "?", "atoms in the cell"
        )
    composition = content.crystal.composition
    if any(abs(total[e] - composition.get(e, 0)) > 0.01 for e in total.keys() | composition.keys()):
        raise CifError(f"its cell has {_written(total)}, its sites give {_written(composition)}")
    return True


def _mass(content: Content) -> float:
    """Mass of the cell in u."""
    return float(
        atomic_masses[content.crystal.atomic_numbers].sum() + content.deuterium * _DEUTERIUM
    )


def _check_density(tags: Tags, content: Content) -> bool:
    density = _mass(content) * _DALTON / content.crystal.volume
    computed = tags.number("_exptl_crystal_density_diffrn")
    measured = tags.number("_exptl_crystal_density_meas")
    for stated, tolerance in ((computed, DENSITY), (measured, MEASURED)):
        if stated and abs(stated / density - 1) > tolerance:
            raise CifError(f"its density is {stated:g} g/cm^3, that of its sites {density:.3f}")
    return bool(computed)


def _check_weight(tags: Tags, content: Content) -> None:
    weight, z = tags.number("_chemical_formula_weight"), tags.number("_cell_formula_units_z")
    if not weight or not z:
        return
    summed = _mass(content) / z
    whole_cell = abs(weight / (summed * z) - 1) < WEIGHT
    if not whole_cell and abs(weight / summed - 1) > WEIGHT:
        raise CifError(
            f"its formula weighs {weight:g} u, its sites give {summed:.2f} u (Z = {z:g})"
        )


def _check_multiplicities(content: Content) -> None:
    """Held against the orbits, or the orders of the site symmetry, which SHELX wrote there."""
    stated = content.multiplicities
    if stated is None or all(m == 1 for m in stated):
        return
    orbits = np.array(content.orbits)
    given = np.array(stated)
    if not (np.allclose(given, orbits) or np.allclose(given * orbits, content.operations)):
        k = int(np.argmax(given != orbits))
        raise CifError(
            f"its site {k + 1} has the multiplicity {given[k]:g}, its operations give {orbits[k]}"
        )


def _written(counts: Mapping[str, float]) -> str:
    return " ".join(f"{e}{n:g}" for e, n in sorted(counts.items()))
