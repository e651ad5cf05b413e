"""What a reader of a DOS must know about its elements, where PBE recipes differ: what all share.

What an engine does with them is in the ``remarks.py`` of its folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

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


def remarks_on_magnetism(symbols: Collection[str], spin_polarized: bool) -> list[str]:
    """Remarks on elements that may be magnetic.

    Parameters
    ----------
    symbols : collection of str
        Elements of the structure.
    spin_polarized : bool
        Whether the calculation is spin-polarised.
    """
    magnetic = among(symbols, [*MAGNETIC_3D, *_OPEN_4F, *ACTINIDES])
    if not magnetic:
        return []
    if spin_polarized:
        return [
            f"{magnetic}: one ferromagnetic start; other magnetic orders may be lower in energy"
        ]
    return [
        f"{magnetic}: computed without spin polarisation, a magnetic moment cannot form; "
        "the MP recipe is spin-polarised (ISPIN=2), which splits these states"
    ]


def frozen_4f(symbols: Collection[str]) -> tuple[str, str]:
    """Lanthanides of a structure in `FROZEN_4F`, and their POTCARs; empty without any.

    Examples
    --------
    >>> frozen_4f({"Nd", "Lu", "O"})
    ('Nd, Lu', 'Nd_3, Lu_3')
    """
    frozen = [symbol for symbol in FROZEN_4F if symbol in symbols]
    return ", ".join(frozen), ", ".join(FROZEN_4F[symbol] for symbol in frozen)


def among(symbols: Collection[str], elements: Iterable[str]) -> str:
    """Those of some elements that are in a structure, in words.

    Parameters
    ----------
    symbols : collection of str
        Elements of the structure.
    elements : iterable of str
        In the order in which they are named.
    """
    return ", ".join(element for element in elements if element in symbols)
