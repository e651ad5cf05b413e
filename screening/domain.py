"""Whether a model can know a material: the reasons why it cannot, in words.

A prediction outside the domain of the training data may be right, but the figures of the model's
card say nothing of it. What the reasons are is decided here alone. How large the error is in the
domain, near it and out of it is in ``models/zoo/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from models.distances import has_isolated_atoms
from models.elements import stand_ins_among

if TYPE_CHECKING:
    from db.documents import CandidateDoc, InDomain
    from models.elements import KnownElements
    from models.training.materials import TrainingMaterials
    from screening.candidate import Candidate

NEAR, FAR = 75, 95  # percentiles of the distance beyond which a material is near, and not in it


@dataclass(frozen=True)
class Training:
    """What a model was trained on; None where that is not known.

    Parameters
    ----------
    elements : KnownElements or None
    materials : TrainingMaterials or None
        Those with a label of DFT.
    """

    elements: KnownElements | None = None
    materials: TrainingMaterials | None = None


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
    training_percentile : float or None
        Percentage of the training materials that are nearer to their nearest others, in the model's
        own embedding, than the material is to its nearest ones; None if it is not known.
    exceeds_training_cells : bool or None
        Its cell has more atoms than that of any training material.

    Examples
    --------
    >>> Domain(["Po"], has_isolated_atoms=False).reasons
    ['not trained on Po']
    >>> Domain([], has_isolated_atoms=False, training_percentile=80.0).in_domain
    'near'
    """

    unseen_elements: list[str] | None = None
    has_isolated_atoms: bool | None = None
    is_magnetic: bool | None = None
    elements: Collection[str] = ()
    training_percentile: float | None = None
    exceeds_training_cells: bool | None = None

    @classmethod
    def of_candidate(
        cls,
        candidate: Candidate,
        training: Training,
        distance: float | None = None,
        isolated: bool | Literal["look"] | None = "look",
    ) -> Self:
        """Look at a candidate, with what the model was trained on.

        Parameters
        ----------
        candidate : Candidate
        training : Training
        distance : float, optional
            To the nearest training materials, which is known with a prediction.
        isolated : bool or None
            Whether it has isolated atoms, where somebody has looked at many together.
        """
        if isolated == "look":
            isolated = has_isolated_atoms(candidate.structure)
        seen = cls(None, isolated, candidate.is_magnetic, candidate.elements)
        return seen._of_model(training, candidate.nsites, distance)

    @classmethod
    def of_document(cls, document: CandidateDoc) -> Self:
        """What is stored with a candidate."""
        return cls(
            document.unseen_elements,
            document.has_isolated_atoms,
            document.is_magnetic,
            document.elements,
            document.training_percentile,
            document.exceeds_training_cells,
        )

    @classmethod
    def of_verdict(
        cls, document: CandidateDoc, training: Training, distance: float | None = None
    ) -> Self:
        """A stored candidate for the model that judges it.

        Parameters
        ----------
        document : CandidateDoc
        training : Training
            Of that model.
        distance : float, optional
            To the nearest training materials, if it is known.
        """
        return cls.of_document(document)._of_model(training, document.nsites, distance)

    def _of_model(self, training: Training, n_atoms: int, distance: float | None) -> Self:
        known, materials = training.elements, training.materials
        percentile = exceeds = None
        if materials is not None:
            exceeds = n_atoms > materials.largest_cell
            percentile = None if distance is None else materials.percentile(distance)
        return type(self)(
            None if known is None else known.unseen(self.elements),
            self.has_isolated_atoms,
            self.is_magnetic,
            self.elements,
            percentile,
            exceeds,
        )

    def as_fields(self) -> dict[str, Any]:
        """Fields of a candidate, or of a verdict on it, that keep what depends on the model."""
        return {
            "unseen_elements": self.unseen_elements,
            "training_percentile": self.training_percentile,
            "exceeds_training_cells": self.exceeds_training_cells,
            "out_of_domain": self.is_outside,
            "in_domain": self.in_domain,
        }

    @cached_property
    def reasons(self) -> list[str]:
        """Why the material is out of the domain, in words; empty if nothing says so.

        The distance from the training materials is named where there is no plainer reason.
        """
        return self._plain_reasons or ([self._unlikeness()] if self.is_only_distant else [])

    @cached_property
    def _plain_reasons(self) -> list[str]:
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.has_isolated_atoms:
            reasons.append("isolated atoms")
        if self.is_magnetic:
            reasons.append("magnetic")
        return reasons

    @property
    def reservations(self) -> list[str]:
        """Why a material that is not out of the domain is only near it, in words."""
        if self.reasons:
            return []
        reservations = []
        if self._is_beyond(NEAR):
            reservations.append(f"a little {self._unlikeness()}")
        if self.exceeds_training_cells:
            reservations.append("a larger cell than any it was trained on")
        return reservations

    @property
    def in_domain(self) -> InDomain | None:
        """One word for it; None unless all is known, or there are `reasons`."""
        if self.reasons:
            return "no"
        if self.is_outside is None or self.training_percentile is None:
            return None
        return "near" if self.reservations else "yes"

    @property
    def is_only_distant(self) -> bool:
        """Whether it is out of the domain for its distance from the training materials alone."""
        return not self._plain_reasons and self._is_beyond(FAR)

    def _is_beyond(self, percentile: float) -> bool:
        return self.training_percentile is not None and self.training_percentile > percentile

    def _unlikeness(self) -> str:
        percentile = math.floor(self.training_percentile or 0)
        return f"unlike the training materials (percentile {percentile})"

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
        doubt, nor is it that an older program did not note the distance.
        """
        if self.reasons:
            return True
        return None if None in (self.unseen_elements, self.has_isolated_atoms) else False


def unpaired_electrons(document: CandidateDoc) -> list[str]:
    """Remark on an ion that the labels' rules take for magnetic, where the source does not say.

    Models learned of no such ion (:func:`models.data.label_rules.open_shell`), and DFT without
    spin gives it no moment. To ask costs some 10 ms where there is one.

    Parameters
    ----------
    document : CandidateDoc
    """
    from pymatgen.core import Composition

    from models.data.label_rules import open_shell_ion

    if document.is_magnetic is not None or not document.formula:
        return []
    try:
        composition = Composition(document.formula).get_el_amt_dict()
        ion = open_shell_ion(composition, document.band_gap)
    except (ValueError, KeyError):  # a source writes formulas as it likes
        return []
    return [f"{ion} may be magnetic: no model learned of it"] if ion else []


def remarks_on(document: CandidateDoc) -> list[str]:
    """What to know of a material that its domain does not say, in words.

    Parameters
    ----------
    document : CandidateDoc
    """
    return [*Domain.of_document(document).remarks, *unpaired_electrons(document)]


def doubts(document: CandidateDoc) -> list[str]:
    """What a person needs to disbelieve a verdict, in words, the gravest first.

    Why the material is out of the model's domain or only near it, or that this is not known; a
    verdict that is another one with the threshold for an atom; stand-ins; and the remarks on how
    the structure was read.
    """
    domain = Domain.of_document(document)
    words = domain.reasons + domain.reservations
    if document.is_positive is not None and domain.is_outside is None:
        words.append("model's domain not known")
    if document.is_positive_per_atom not in (None, document.is_positive):
        words.append("no gap per atom" if document.is_positive else "a gap per atom")
    return [*words, *domain.remarks, *(document.remarks or ())]
