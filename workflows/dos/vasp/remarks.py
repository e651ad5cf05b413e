"""What a reader must know about the elements in a DOS by VASP with MP's recipe."""

from __future__ import annotations

from collections.abc import Iterable

from workflows.dos.remarks import ACTINIDES, HUBBARD_U, among, frozen_4f, remarks_on_magnetism


def remarks(symbols: Iterable[str], spin_polarized: bool) -> list[str]:
    """What the recipe does with 4f, 5f and strongly correlated d electrons.

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
    >>> remarks(["Fe", "O"], spin_polarized=True)[0]
    "Fe: PBE+U with the Materials Project's values of U"
    """
    present = set(symbols)
    notes = []
    frozen, potcars = frozen_4f(present)
    if frozen:
        notes.append(
            f"{frozen}: 4f electrons are frozen in the core ({potcars}); the DOS has no 4f states"
        )
    if actinides := among(present, ACTINIDES):
        notes.append(
            f"{actinides}: 5f electrons in the valence with plain PBE, no U, no spin-orbit coupling"
        )
    if present & {"O", "F"} and (hubbard := among(present, HUBBARD_U)):
        notes.append(f"{hubbard}: PBE+U with the Materials Project's values of U")
    return notes + remarks_on_magnetism(present, spin_polarized)
