"""Whether a model can know a material: the reasons why it cannot, in words.

A prediction outside the domain of the training data may be right, but the figures of the model's
card say nothing of it. What the reasons are is decided here alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from models.distances import has_isolated_atoms

if TYPE_CHECKING:
    from db.documents import CandidateDoc
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

    Examples
    --------
    >>> Domain(["Po"], has_isolated_atoms=False).reasons
    ['not trained on Po']
    """

    unseen_elements: list[str] | None = None
    has_isolated_atoms: bool | None = None

    @classmethod
    def of_candidate(cls, candidate: Candidate, trained: frozenset[str] | None) -> Self:
        """Look at a candidate, with the elements of the training set, if these are known.

        Parameters
        ----------
        candidate : Candidate
        trained : frozenset of str or None
        """
        return cls(_unseen(candidate.elements, trained), has_isolated_atoms(candidate.structure))

    @classmethod
    def of_document(cls, document: CandidateDoc) -> Self:
        """What is stored with a candidate."""
        return cls(document.unseen_elements, document.has_isolated_atoms)

    @classmethod
    def of_another_model(cls, document: CandidateDoc, trained: frozenset[str] | None) -> Self:
        """The same candidate for a model with another training set.

        Parameters
        ----------
        document : CandidateDoc
        trained : frozenset of str or None
            Elements of that training set, if they are known.
        """
        return cls(_unseen(document.elements, trained), document.has_isolated_atoms)

    @property
    def reasons(self) -> list[str]:
        """Why the material is out of the domain, in words; empty if nothing says so."""
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.has_isolated_atoms:
            reasons.append("isolated atoms")
        return reasons

    @property
    def is_outside(self) -> bool | None:
        """Whether it is out of the domain; None if nothing says so, but not all is known."""
        if self.reasons:
            return True
        return None if None in (self.unseen_elements, self.has_isolated_atoms) else False


def _unseen(elements: Iterable[str], trained: frozenset[str] | None) -> list[str] | None:
    return None if trained is None else sorted(set(elements) - trained)


def doubts(document: CandidateDoc) -> list[str]:
    """What a person needs to disbelieve a verdict, in words, the gravest first.

    Why the material is out of the model's domain, or that this is not known; a verdict that is
    another one with the threshold for an atom; and the remarks on how the structure was read.
    """
    domain = Domain.of_document(document)
    words = list(domain.reasons)
    if document.is_positive is not None and domain.is_outside is None:
        words.append("model's domain not known")
    if document.is_positive_per_atom not in (None, document.is_positive):
        words.append("no gap per atom" if document.is_positive else "a gap per atom")
    return words + list(document.remarks or ())
