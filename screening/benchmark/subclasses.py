"""Subclasses of materials, by their elements: oxides, intermetallics, or whatever is chosen."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.crystal import ELEMENTS
from models.data.dataset import SpectrumDataset
from models.errors import ModelError


class Subclass(BaseModel):
    """Materials that have elements in common.

    Parameters
    ----------
    name : str
    elements : tuple of str
        A material holds at least one of these; any material does if there are none.
    min_elements : int
        Fewest elements of a material; 2 for compounds.
    metals_only : bool
        All elements are metals; B, Si, Ge, As, Sb, Te and Po are not.

    Examples
    --------
    >>> SUBCLASSES["oxides"].holds(["Mg", "O"]), SUBCLASSES["oxides"].holds(["O"])
    (True, False)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    elements: tuple[str, ...] = ()
    min_elements: int = Field(1, gt=0)
    metals_only: bool = False

    def holds(self, elements: Iterable[str]) -> bool:
        """Whether a material of these elements belongs to the subclass."""
        own = set(elements)
        return (
            len(own) >= self.min_elements
            and (not self.elements or not own.isdisjoint(self.elements))
            and (not self.metals_only or all(map(_is_metal, own)))
        )

    def members(self, dataset: SpectrumDataset) -> np.ndarray:
        """Which materials of a data set belong to the subclass, shape (n,), bool."""
        return np.array([self.holds(s.split("-")) for s in dataset.chemical_systems], bool)


SUBCLASSES = {
    s.name: s
    for s in (
        Subclass(name="oxides", elements=("O",), min_elements=2),
        Subclass(name="chalcogenides", elements=("S", "Se", "Te"), min_elements=2),
        Subclass(name="halides", elements=("F", "Cl", "Br", "I"), min_elements=2),
        Subclass(name="intermetallics", metals_only=True, min_elements=2),
    )
}


def subclass_of(text: str) -> Subclass:
    """A subclass by its name, or the materials with any of some elements, such as ``"Si,Ge"``.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if text in SUBCLASSES:
        return SUBCLASSES[text]
    elements = tuple(part.strip() for part in text.split(","))
    unknown = [e for e in elements if e not in ELEMENTS[1:]]
    if unknown:
        raise ModelError(
            f"unknown subclass {text!r}: {unknown[0]!r} is no element; use elements such as "
            f"Si,Ge or one of {', '.join(SUBCLASSES)}"
        )
    return Subclass(name=",".join(elements), elements=elements)


def _is_metal(symbol: str) -> bool:
    from pymatgen.core import Element

    return bool(Element(symbol).is_metal)
