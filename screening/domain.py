"""Whether a model can know a material: the reasons why it cannot, in words.

A prediction outside the domain of the training data may be right, but the figures of the model's
card say nothing of it. What the reasons are is decided here alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from models.distances import has_isolated_atoms
from models.elements import stand_ins_among

if TYPE_CHECKING:
    from db.documents import CandidateDoc
    from models.elements import KnownElements
    from screening.candidate import Candidate


@dataclass(frozen=True)
class Domain:
    """What puts a material outside the domain of a model.

    Parameters
    ----------
    unseen_elements : list of str or None
        Elements that the training set lacks, in alphabetical order; None if it is not known.
    has_isolated_atoms : bool or None
        Atoms that touch no other, as after misread symmetry or lost sites: a free atom's levels
        nearly always leave a gap. None if they were not looked for.
    is_magnetic : bool or None
        The source says that it has magnetic moments; every model is one of nonmagnetic crystals.
    elements : collection of str
        All elements of the material.

    Examples
    --------
    >>> Domain(["Po"], has_isolated_atoms=False).reasons
    ['not trained on Po']
    """

    unseen_elements: list[str] | None = None
    has_isolated_atoms: bool | None = None
    is_magnetic: bool | None = None
    elements: Collection[str] = ()

    @classmethod
    def of_candidate(cls, candidate: Candidate, trained: KnownElements | None) -> Self:
        """Look at a candidate, with what the model knows of the elements, if that is known.

        Parameters
        ----------
        candidate : Candidate
        trained : KnownElements or None
        """
        unseen = None if trained is None else trained.unseen(candidate.elements)
        isolated = has_isolated_atoms(candidate.structure)
        return cls(unseen, isolated, candidate.is_magnetic, candidate.elements)

    @classmethod
    def of_document(cls, document: CandidateDoc) -> Self:
        """What is stored with a candidate."""
        isolated, elements = document.has_isolated_atoms, document.elements
        return cls(document.unseen_elements, isolated, document.is_magnetic, elements)

    @classmethod
    def of_another_model(cls, document: CandidateDoc, trained: KnownElements | None) -> Self:
        """The same candidate for a model that knows other elements.

        Parameters
        ----------
        document : CandidateDoc
        trained : KnownElements or None
        """
        unseen = None if trained is None else trained.unseen(document.elements)
        return replace(cls.of_document(document), unseen_elements=unseen)

    @property
    def reasons(self) -> list[str]:
        """Why the material is out of the domain, in words; empty if nothing says so."""
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.has_isolated_atoms:
            reasons.append("isolated atoms")
        if self.is_magnetic:
            reasons.append("magnetic")
        return reasons

    @property
    def remarks(self) -> list[str]:
        """What to know of a material that is in the domain, in words: elements without 4f shells.

        Neither DFT with a frozen 4f shell nor a model that learned from it sees these electrons.
        """
        if self.unseen_elements is None:
            return []
        stand_ins = stand_ins_among(set(self.elements).difference(self.unseen_elements))
        return [f"{other} stands for {e}, without its 4f shell" for e, other in stand_ins.items()]

    @property
    def is_outside(self) -> bool | None:
        """Whether it is out of the domain; None if nothing says so, but not all is known.

        That a source does not say whether a material is magnetic, as files mostly do not, is no
        doubt.
        """
        if self.reasons:
            return True
        return None if None in (self.unseen_elements, self.has_isolated_atoms) else False


def doubts(document: CandidateDoc) -> list[str]:
    """What a person needs to disbelieve a verdict, in words, the gravest first.

    Why the material is out of the model's domain, or that this is not known; a verdict that is
    another one with the threshold for an atom; stand-ins; and the remarks on how the structure was
    read.
    """
    domain = Domain.of_document(document)
    words = list(domain.reasons)
    if document.is_positive is not None and domain.is_outside is None:
        words.append("model's domain not known")
    if document.is_positive_per_atom not in (None, document.is_positive):
        words.append("no gap per atom" if document.is_positive else "a gap per atom")
    return [*words, *domain.remarks, *(document.remarks or ())]
