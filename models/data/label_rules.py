"""Labels that physics forbids: what a DOS was computed for is not the material.

A DOS without spin has no local moments, so one of a magnetic material is that of another state,
often a metal instead of an insulator. The rules say of each label why it is not used; they are
the same for every file of eDOS labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from models.crystal import ATOMIC_NUMBERS, ELEMENTS, Crystal
from models.distances import close_pairs, isolated_atoms

WIDE_GAP = 1.0  # eV; PBE and a coarse mesh of wave vectors do not close such a gap
# Å; O-O is 1.21 in O2, 1.26 to 1.37 in superoxides and ozonides, all with unpaired electrons,
# and 1.45 or more in peroxides, which have none.
MOLECULAR_OXYGEN = 1.40
OXYGEN = 8
HALOGENS = frozenset({9, 17, 35, 53})
MAGNETIC = frozenset(range(24, 29))  # Cr, Mn, Fe, Co, Ni
LANTHANIDES = frozenset(range(58, 71))  # without La and Lu
ACTINIDES = frozenset(range(89, 104))
TITANIUM, VANADIUM, COPPER = 22, 23, 29
_GROUP = {TITANIUM: 4, VANADIUM: 5, COPPER: 11}  # magnetic or not by their charge
_EVEN = 0.05  # electrons; a mean charge this near to that of a closed shell is one


@dataclass(frozen=True)
class Origin:
    """How the DOS of a label was computed, as far as its file says.

    Parameters
    ----------
    spin : bool
        Moments were allowed, and the source found none.
    gap : float, optional
        Band gap of the label in eV; 0 or less for a metal, None if not known.
    source_gap : float, optional
        Band gap that the source of the structure gives, in eV; None if not known.
    stand_ins : frozenset of int
        Atomic numbers of lanthanides whose place another element of the same valence took.
    """

    spin: bool = False
    gap: float | None = None
    source_gap: float | None = None
    stand_ins: frozenset[int] = frozenset()


def why_forbidden(crystal: Crystal, origin: Origin) -> str:
    """Why the label of a crystal is not used; empty if it is.

    Of every label: oxygen molecules, isolated atoms (:func:`models.distances.isolated_atoms`),
    and a metal where the source has a gap above `WIDE_GAP`. Of one without spin also Cr to Ni,
    lanthanides other than La and Lu without a stand-in, actinides, and open 3d shells of Ti, V
    and Cu (see :func:`open_shell`).

    Parameters
    ----------
    crystal : Crystal
    origin : Origin
        How the DOS of the label was computed.
    """
    if _oxygen_molecules(crystal):
        return "oxygen molecules are magnetic"
    if isolated_atoms(crystal).any():
        return "isolated atoms"
    if _known(origin.gap, np.inf) <= 0 and _known(origin.source_gap, 0.0) > WIDE_GAP:
        return f"a metal, but the source's band gap is above {WIDE_GAP:g} eV"
    return "" if origin.spin else _magnetic(crystal, origin)


def _known(gap: float | None, otherwise: float) -> float:
    return otherwise if gap is None else gap


def _oxygen_molecules(crystal: Crystal) -> bool:
    """Whether it is oxygen, or has O2, O2- or O3- in it."""
    oxygen = crystal.atomic_numbers == OXYGEN
    if not oxygen.any() or oxygen.all():
        return bool(oxygen.all())
    i, j, _ = close_pairs(crystal, MOLECULAR_OXYGEN)
    return bool((oxygen[i] & oxygen[j]).any())


# Without spin.


def _magnetic(crystal: Crystal, origin: Origin) -> str:
    numbers = set(crystal.atomic_numbers.tolist())
    kinds = {
        "magnetic": MAGNETIC,
        "a lanthanide": LANTHANIDES - origin.stand_ins,
        "an actinide": ACTINIDES,
    }
    for kind, elements in kinds.items():
        if numbers & elements:
            return f"{ELEMENTS[min(numbers & elements)]} is {kind}"
    ion = open_shell(crystal, origin.source_gap)
    return f"{ion} is magnetic" if ion else ""


def open_shell(crystal: Crystal, source_gap: float | None = None) -> str:
    """Ion with an open 3d shell where a gap is expected, such as ``"V2+"``; empty without one.

    Charges are counted (pymatgen's most likely oxidation states) in oxides and halides only: in
    intermetallics, carbides, nitrides, sulfides and hydrides of Ti, V and Cu the 3d electrons are
    in bands, and without moments; so is the one of Sc in ScO or ScCl. Open are 3d shells of Ti
    and V that are not empty, and that of Cu with nine electrons; Cu3+ with eight has low spin.
    Oxides of Ti may be metals without moments (TiO, LiTi2O4), so a source that has no gap for
    them is believed.

    Parameters
    ----------
    crystal : Crystal
    source_gap : float, optional
        Band gap that the source of the structure gives, in eV.
    """
    return open_shell_ion(crystal.composition, source_gap)


def open_shell_ion(composition: Mapping[str, float], source_gap: float | None = None) -> str:
    """As :func:`open_shell`, of a composition.

    Parameters
    ----------
    composition : mapping of str to float
        Atoms of each element, by symbol.
    source_gap : float, optional
        In eV.

    Examples
    --------
    >>> open_shell_ion({"K": 2, "Na": 1, "Ti": 1, "F": 6})
    'Ti3+'
    """
    numbers = {ATOMIC_NUMBERS[symbol] for symbol in composition}
    halide = bool(numbers & HALOGENS)
    ions = sorted(numbers & _GROUP.keys())
    if not ions or not (halide or OXYGEN in numbers):
        return ""
    charges = _charges(tuple(sorted(composition.items())))
    for z in ions:
        charge = charges.get(ELEMENTS[z])
        metallic = z == TITANIUM and not halide and source_gap == 0
        if charge is None or metallic:
            continue
        electrons = _GROUP[z] - charge
        low, high = (8, 10) if z == COPPER else (0, 10)
        if low + _EVEN < electrons < high - _EVEN:
            return f"{ELEMENTS[z]}{round(charge, 2):g}+"
    return ""


@cache
def _charges(composition: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Mean charge of each element by symbol; empty where no charges add up to zero."""
    from pymatgen.core import Composition

    guesses = Composition(dict(composition)).oxi_state_guesses()
    return dict(guesses[0]) if guesses else {}
