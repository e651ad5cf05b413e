"""What each engine does with elements on which PBE recipes differ, in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ase.data import chemical_symbols

LANTHANIDES = tuple(chemical_symbols[57:72])
ACTINIDES = tuple(chemical_symbols[89:104])
MAGNETIC_3D = ("Cr", "Mn", "Fe", "Co", "Ni")
HUBBARD_U = ("Co", "Cr", "Fe", "Mn", "Mo", "Ni", "V", "W")  # in oxides and fluorides
FROZEN_4F = {
    "Pr": "Pr_3", "Nd": "Nd_3", "Pm": "Pm_3", "Sm": "Sm_3", "Tb": "Tb_3", "Dy": "Dy_3",
    "Ho": "Ho_3", "Er": "Er_3", "Tm": "Tm_3", "Yb": "Yb_2", "Lu": "Lu_3",
}  # fmt: skip
"""Lanthanides whose Materials Project POTCAR keeps the 4f electrons in the core."""

_OPEN_4F = [e for e in LANTHANIDES if e not in ("La", "Lu")]


def engine_warnings(
    symbols: Iterable[str], engine: Literal["gpaw", "vasp"], spin_polarized: bool
) -> list[str]:
    """What a reader of the DOS must know about the elements in it.

    Parameters
    ----------
    symbols : iterable of str
        Elements of the structure.
    engine : {'gpaw', 'vasp'}
        ``'vasp'`` stands for the Materials Project's recipe, which the others are compared to.
    spin_polarized : bool
        Whether the calculation is spin-polarised.

    Returns
    -------
    list of str
        One sentence or two each; empty if there is nothing to say.

    Examples
    --------
    >>> engine_warnings(["Mg", "Al"], "gpaw", spin_polarized=False)
    []
    """
    present = set(symbols)
    notes = _gpaw_notes(present) if engine == "gpaw" else _vasp_notes(present)
    magnetic = _in(present, [*MAGNETIC_3D, *_OPEN_4F, *ACTINIDES])
    if magnetic and not spin_polarized:
        notes.append(
            f"{magnetic}: computed without spin polarisation, a magnetic moment cannot form; "
            "the MP recipe is spin-polarised (ISPIN=2), which splits these states"
        )
    elif magnetic:
        notes.append(
            f"{magnetic}: one ferromagnetic start; other magnetic orders may be lower in energy"
        )
    return notes


def _gpaw_notes(present: set[str]) -> list[str]:
    notes = []
    frozen = [e for e in FROZEN_4F if e in present]
    if frozen:
        potcars = ", ".join(FROZEN_4F[e] for e in frozen)
        notes.append(
            f"{', '.join(frozen)}: GPAW treats the 4f electrons as valence, and PBE puts open 4f "
            f"shells at the Fermi level; the MP recipe freezes them in the core ({potcars}), so "
            "its DOS has no 4f states"
        )
    valence = _in(present, ["Ce", "Eu", "Gd"])
    if valence:
        notes.append(
            f"{valence}: 4f electrons are in the valence, as in the MP recipe; plain PBE puts "
            "them too close to the Fermi level"
        )
    if present & {"O", "F"} and _in(present, HUBBARD_U):
        notes.append(
            f"{_in(present, HUBBARD_U)}: plain PBE; the MP recipe adds a Hubbard U in oxides and "
            "fluorides (PBE+U), which opens gaps and shifts d states by eV"
        )
    return notes


def _vasp_notes(present: set[str]) -> list[str]:
    notes = []
    frozen = [e for e in FROZEN_4F if e in present]
    if frozen:
        potcars = ", ".join(FROZEN_4F[e] for e in frozen)
        notes.append(
            f"{', '.join(frozen)}: 4f electrons are frozen in the core ({potcars}); "
            "the DOS has no 4f states"
        )
    actinides = _in(present, ACTINIDES)
    if actinides:
        notes.append(
            f"{actinides}: 5f electrons in the valence with plain PBE, no U, no spin-orbit coupling"
        )
    if present & {"O", "F"} and _in(present, HUBBARD_U):
        notes.append(f"{_in(present, HUBBARD_U)}: PBE+U with the Materials Project's values of U")
    return notes


def _in(present: set[str], elements: Iterable[str]) -> str:
    return ", ".join(e for e in elements if e in present)
