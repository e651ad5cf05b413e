"""Makes ``free_atoms.csv``: PBE levels of the free atoms, computed with GPAW's atom.

``python -m models.architectures.tight_binding.make_free_atoms`` writes the table again, in some
minutes; it needs the extra ``gpaw``. The atoms are spherical and spin-paired, in the
configurations that GPAW makes its PAW sets for, scalar-relativistic. What is written is, for the
valence shells s, p, d and f of each element, the level and the electrons in it.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from models.crystal import ELEMENTS

TABLE = Path(__file__).with_name("free_atoms.csv")
SEMICORE = -15.0  # eV; a filled d shell below this is left to the core
LANTHANUM, LUTETIUM = 57, 71
NUMBERS = (*range(1, LANTHANUM + 1), *range(LUTETIUM, 87))  # H to Rn without Ce to Yb
_PERIODS = (2, 10, 18, 36, 54, 86)  # the last element of each


def valence_shells(z: int) -> dict[str, int]:
    """Principal quantum number of the s, p, d and (La and Lu) 4f shell that hold the valence.

    Examples
    --------
    >>> valence_shells(30)
    {'s': 4, 'p': 4, 'd': 3}
    """
    period = next(n for n, last in enumerate(_PERIODS, 1) if z <= last)
    shells = {"s": period, "p": max(period, 2), "d": max(period - 1, 3)}
    return shells | ({"f": 4} if z in (LANTHANUM, LUTETIUM) else {})


def free_atom(z: int) -> dict[str, float | None]:
    """Levels in eV and electrons of the valence shells; None for a shell that is not bound."""
    found: dict[str, float | None] = {}
    for shell, n in valence_shells(z).items():
        level, electrons = _shell(z, n, "spdf".index(shell))
        if shell == "d" and electrons == 10 and level is not None and level < SEMICORE:
            level, electrons = None, 0.0
        found |= {shell: level, f"n_{shell}": electrons}
    return found


def _shell(z: int, n: int, l: int) -> tuple[float | None, float]:  # noqa: E741
    """Level and electrons of a shell; an empty one is put into the potential of the atom."""
    from ase.units import Hartree
    from gpaw.atom.aeatom import AllElectronAtom

    with Path(os.devnull).open("w") as nowhere:
        atom = AllElectronAtom(ELEMENTS[z], xc="PBE", log=nowhere)
        atom.add(n, l, 0)
        atom.f_lsn = {k: atom.f_lsn.get(k, [[]]) for k in range(max(atom.f_lsn) + 1)}
        atom.initialize()
        atom.run()
        channel = atom.get_channel(l)
        index, electrons = n - l - 1, float(channel.f_n[n - l - 1])
        if channel.e_n[index] >= 0:
            return None, electrons
        try:
            atom.refine()
        except AssertionError:  # bound in the basis of Gaussians only
            return None, electrons
    return round(float(channel.e_n[index]) * Hartree, 3), electrons


def main() -> None:
    """Write the table."""
    fields = ["element", *(f"{kind}{shell}" for kind in ("", "n_") for shell in "spdf")]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for z in NUMBERS:
            writer.writerow({"element": ELEMENTS[z], **free_atom(z)})


if __name__ == "__main__":
    main()
