"""How much of what a run found its model can know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from db.documents import CandidateDoc, Verdict
from db.store import ScreeningStore
from screening.domain import Domain, Training


@dataclass(frozen=True)
class Domains:
    """How many of a run's positives the model can know, and of which not.

    Parameters
    ----------
    inside, near, outside, unknown : int
        Positives in the model's domain, near it, out of it, and of which that is not known.
    unseen_elements : dict of str to int
        Positives with each element that the model was not trained on.
    isolated_atoms, magnetic : int
        Positives with isolated atoms, and those that the source says are magnetic.
    distant : int
        Positives out of the domain for no other reason than their distance from it.
    """

    inside: int
    near: int
    outside: int
    unknown: int
    unseen_elements: dict[str, int]
    isolated_atoms: int
    magnetic: int = 0
    distant: int = 0

    def in_words(self) -> str:
        """One line for the end of a run."""
        words = (
            f"Positives in the model's domain: {self.inside:,}; near it: {self.near:,}; "
            f"out of it: {self.outside:,}"
        )
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.isolated_atoms:
            reasons.append(f"{self.isolated_atoms:,} with isolated atoms")
        if self.magnetic:
            reasons.append(f"{self.magnetic:,} magnetic")
        if self.distant:
            reasons.append(f"{self.distant:,} unlike the training materials")
        words += f" ({'; '.join(reasons)})" if reasons else ""
        return words + (f"; not known: {self.unknown:,}" if self.unknown else "")


def domains(store: ScreeningStore, run_id: str) -> Domains:
    """Count the positives of a run in the model's domain, near it and out of it.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    """
    sides: Counter[str | None] = Counter()
    unseen: Counter[str] = Counter()
    isolated = magnetic = distant = 0
    for candidate in store.candidates(run_id, is_positive=True):
        domain = Domain.of_document(candidate)
        sides[domain.in_domain] += 1
        unseen.update(domain.unseen_elements or ())
        isolated += bool(domain.has_isolated_atoms)
        magnetic += bool(domain.is_magnetic)
        distant += domain.is_only_distant
    return Domains(
        sides["yes"],
        sides["near"],
        sides["no"],
        sides[None],
        dict(sorted(unseen.items())),
        isolated,
        magnetic,
        distant,
    )


def with_domain(
    verdict: Verdict, candidate: CandidateDoc, training: Training, distance: float | None = None
) -> Verdict:
    """The verdict with whether its model can know the candidate.

    Parameters
    ----------
    verdict : Verdict
    candidate : CandidateDoc
    training : Training
        What the model was trained on.
    distance : float, optional
        From the training materials, of a prediction that has it.
    """
    domain = Domain.of_verdict(candidate, training, distance)
    return verdict.model_copy(update=domain.as_fields())
