"""What a reader must know about the elements in a DOS by GPAW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workflows.dos.remarks import FROZEN_4F, HUBBARD_U, among, frozen_4f, remarks_on_magnetism


def remarks(symbols: Iterable[str], spin_polarized: bool) -> list[str]:
    """Where GPAW's PBE differs from the Materials Project's recipe.

    Parameters
    ----------
    symbols : iterable of str
        Elements of the structure.
    spin_polarized : bool
        Whether the calculation is spin-polarised.

    Returns
    -------
    list of str
        One sentence or two each; empty if there is nothing to say.

    Examples
    --------
    >>> remarks(["Mg", "Al"], spin_polarized=False)
    []
    """
    present = set(symbols)
    notes = []
    frozen, potcars = frozen_4f(present)
    if frozen:
        notes.append(
            f"{frozen}: GPAW treats the 4f electrons as valence, and PBE puts open 4f "
            f"shells at the Fermi level; the MP recipe freezes them in the core ({potcars}), so "
            "its DOS has no 4f states"
        )
    if valence := among(present, ["Ce", "Eu", "Gd"]):
        notes.append(
            f"{valence}: 4f electrons are in the valence, as in the MP recipe; plain PBE puts "
            "them too close to the Fermi level"
        )
    if present & {"O", "F"} and (hubbard := among(present, HUBBARD_U)):
        notes.append(
            f"{hubbard}: plain PBE; the MP recipe adds a Hubbard U in oxides and "
            "fluorides (PBE+U), which opens gaps and shifts d states by eV"
        )
    return notes + remarks_on_magnetism(present, spin_polarized)


def remarks_on_stand_ins(stand_ins: Mapping[str, str]) -> list[str]:
    """Which elements were computed in the place of others, and what that leaves out.

    Parameters
    ----------
    stand_ins : mapping of str to str
        The element that was computed, by the one in whose place it was.

    Examples
    --------
    >>> remarks_on_stand_ins({"Pr": "La"})
    ['La stands for Pr at the same positions: no 4f electrons, as in the MP recipe (Pr_3)']
    """
    return [
        f"{other} stands for {element} at the same positions: no 4f electrons, {_in_mp(element)}"
        for element, other in stand_ins.items()
    ]


def _in_mp(element: str) -> str:
    if element in FROZEN_4F:
        return f"as in the MP recipe ({FROZEN_4F[element]})"
    return "which the MP recipe has in the valence, with their moment"
