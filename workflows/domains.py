"""How much of what a run found its model can know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from db.store import ScreeningStore
from screening.domain import Domain


@dataclass(frozen=True)
class Domains:
    """How many of a run's positives the model can know, and of which not.

    Parameters
    ----------
    inside, outside, unknown : int
        Positives in the model's domain, out of it, and of which that is not known.
    unseen_elements : dict of str to int
        Positives with each element that the model was not trained on.
    isolated_atoms, magnetic : int
        Positives with isolated atoms, and those that the source says are magnetic.
    """

    inside: int
    outside: int
    unknown: int
    unseen_elements: dict[str, int]
    isolated_atoms: int
    magnetic: int = 0

    def in_words(self) -> str:
        """One line for the end of a run."""
        words = f"Positives in the model's domain: {self.inside:,}; out of it: {self.outside:,}"
        reasons = []
        if self.unseen_elements:
            reasons.append(f"not trained on {', '.join(self.unseen_elements)}")
        if self.isolated_atoms:
            reasons.append(f"{self.isolated_atoms:,} with isolated atoms")
        if self.magnetic:
            reasons.append(f"{self.magnetic:,} magnetic")
        words += f" ({'; '.join(reasons)})" if reasons else ""
        return words + (f"; not known: {self.unknown:,}" if self.unknown else "")


def domains(store: ScreeningStore, run_id: str) -> Domains:
    """Count the positives of a run in and out of the model's domain.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    """
    sides: Counter[bool | None] = Counter()
    unseen: Counter[str] = Counter()
    isolated = magnetic = 0
    for candidate in store.candidates(run_id, is_positive=True):
        domain = Domain.of_document(candidate)
        sides[domain.is_outside] += 1
        unseen.update(domain.unseen_elements or ())
        isolated += bool(domain.has_isolated_atoms)
        magnetic += bool(domain.is_magnetic)
    by_element = dict(sorted(unseen.items()))
    return Domains(sides[False], sides[True], sides[None], by_element, isolated, magnetic)
