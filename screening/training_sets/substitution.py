"""Made-up crystals: known ones with elements in the place of others of their group.

A teacher labels whatever it is given, so its student can have more lessons than there are known
materials. Most of what databases hold beyond the crystals that were measured was made in this
way, too (Hautier et al., Inorg. Chem. 50, 656 (2011)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from models.crystal import Crystal
from models.data.splits import MADE_OF, fold
from screening.candidate import Candidate, SourceItem

MOST_EXCHANGED = 2  # elements, besides those that cannot stay
TRIES = 4  # for each crystal that is asked for
HYDROGEN, LANTHANIDES = 1, range(57, 72)


@dataclass(frozen=True)
class Substitutions:
    """What is made of the structures of a source.

    Parameters
    ----------
    n : int
        Crystals of each structure, at most.
    elements : frozenset of str
        That the crystals may have.
    known : frozenset of str
        Formulas of which none is made.
    is_taught : callable
        Whether a student may learn of a structure, and so of what is made of it.
    """

    n: int
    elements: frozenset[str]
    known: frozenset[str]
    is_taught: Callable[[Candidate], bool]

    def among(self, items: Iterable[SourceItem]) -> Iterator[SourceItem]:
        """The items, each with what is made of it behind it.

        Parameters
        ----------
        items : iterable of SourceItem
        """
        for item in items:
            yield item
            if isinstance(item, Candidate) and self.is_taught(item):
                yield from self._of(item)

    def _of(self, parent: Candidate) -> Iterator[Candidate]:
        """The same of a material whenever it is asked for, whatever else there is."""
        rng = np.random.default_rng(int(fold(parent.material_id, seed=0) * 2**63))
        formulas: set[str] = set()
        for _ in range(TRIES * self.n):
            if len(formulas) == self.n:
                return
            crystal = exchanged(parent.structure, self.elements, rng)
            if crystal is None or crystal.formula in self.known or crystal.formula in formulas:
                continue
            formulas.add(crystal.formula)
            yield Candidate(f"{parent.material_id}{MADE_OF}{len(formulas)}", crystal)


def exchanged(
    crystal: Crystal, elements: frozenset[str], rng: np.random.Generator
) -> Crystal | None:
    """The crystal with one or two elements exchanged, and all those that it may not have.

    The cell grows or shrinks with the sum of the covalent radii (Cordero et al., Dalton Trans.
    2008, 2832), all distances alike. Lanthanides count as elements of the third group, and
    hydrogen stays.

    Parameters
    ----------
    crystal : Crystal
    elements : frozenset of str
        That it may have.
    rng : Generator

    Returns
    -------
    Crystal or None
        None where an element finds none to take its place.

    Examples
    --------
    >>> sodium_chloride = Crystal(np.eye(3) * 3.5, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    >>> exchanged(sodium_chloride, frozenset({"K", "Cl"}), np.random.default_rng(0)).formula
    'KCl'
    """
    old = crystal.atomic_numbers
    mates = {z: _group_mates(z, elements) for z in np.unique(old).tolist()}
    stay = _numbers(elements)
    needed = [z for z in mates if z not in stay]
    free = [z for z in mates if z in stay and mates[z]]
    n_free = int(rng.integers(0 if needed else 1, MOST_EXCHANGED + 1))
    new = old.copy()
    for z in [*needed, *rng.permutation(free)[:n_free].tolist()]:
        others = [other for other in mates[z] if other not in new]
        if not others:
            return None
        new[old == z] = rng.choice(others)
    if (new == old).all():
        return None
    factor = covalent_radii[new].sum() / covalent_radii[old].sum()
    return Crystal(crystal.lattice * factor, crystal.frac_coords, new)


@cache
def _numbers(elements: frozenset[str]) -> frozenset[int]:
    return frozenset(atomic_numbers[symbol] for symbol in elements)


@cache
def _group_mates(z: int, elements: frozenset[str]) -> tuple[int, ...]:
    """The other elements of the group that a crystal may have."""
    others = sorted(_numbers(elements) - {z, HYDROGEN})
    return tuple(other for other in others if z != HYDROGEN and _group(other) == _group(z))


@cache
def _group(z: int) -> int:
    from pymatgen.core import Element

    return 3 if z in LANTHANIDES else int(Element.from_Z(z).group)
