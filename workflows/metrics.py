"""How right a run was: precision and recall from its stored validations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from db.documents import Run, ValidationDoc
from db.store import ScreeningStore
from screening.classification import Assessment, Group, Sample
from screening.criteria.gap_criterion import VB_GAP
from screening.criteria.registry import criterion_of
from workflows.dos.document import recipe_without_stand_ins
from workflows.plan import Choice, outside_domain, predicted_negatives
from workflows.verdicts import judged_for


@dataclass(frozen=True)
class Metrics:
    """How right a run was, by one engine and recipe.

    Parameters
    ----------
    engine, recipe : str
        Of the calculations.
    assessment : Assessment
        Precision and recall, and how the materials were chosen.
    undecided : dict of str to int
        Calculations without a verdict by their state, or ``"not judged"`` where they are done; the
        intervals hold whatever they would say.
    in_domain : bool
        The figures are those of what the model can know; nothing else was chosen or counts.
    criterion : str
        Name of what the verdicts are by.
    """

    engine: str
    recipe: str
    assessment: Assessment
    undecided: dict[str, int]
    in_domain: bool = False
    criterion: str = VB_GAP

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        names = {"engine": self.engine, "recipe": self.recipe}
        rest = {
            "undecided": self.undecided,
            "in_domain": self.in_domain,
            "criterion": self.criterion,
        }
        return names | self.assessment.as_dict() | rest


def run_metrics(store: ScreeningStore, run: Run) -> list[Metrics]:
    """Precision and recall of a run for each engine and recipe that validated it.

    Calculations with stand-ins count with those of the same settings, and before one of the same
    material without. Only the calculations that the run asked for count: its positives and its
    random negatives. The DFT spectra are judged by the run's own criterion. Positives of which the
    run does not say how they were chosen count as chosen by rank, which claims least.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    validations: dict[tuple[str, str], dict[tuple[str, str], ValidationDoc]] = {}
    # A recipe with stand-ins comes after that without, whose name it begins with.
    for document in sorted(store.validations(run_id=run.run_id), key=lambda d: d.recipe):
        of_kind = (document.engine, recipe_without_stand_ins(document.recipe))
        material = (document.material_id, document.structure_hash)
        validations.setdefault(of_kind, {})[material] = document
    criterion = criterion_of(run.parameters).name
    results = []
    for (engine, recipe), asked_for in sorted(validations.items()):
        choice = Choice.of(run, engine, recipe)
        population = _population(store, run, choice)
        chosen = [d for d in asked_for.values() if population.has(d.material_id)]
        documents = judged_for(run, chosen)
        predicted = set(population.positives)
        negatives = [d for d in documents if d.material_id not in predicted]
        assessment = Assessment(
            _positives(population.positives, documents, choice),
            Group(population.n_negative, drawn=_sample(negatives)),
        )
        undecided = Counter(_why_open(d) for d in documents if not _is_decided(d))
        by_state = dict(sorted(undecided.items()))
        kind = choice.in_domain, criterion
        results.append(Metrics(engine, recipe, assessment, by_state, *kind))
    return results


@dataclass(frozen=True)
class _Population:
    """What the validated materials were chosen among.

    `negatives` are those that count as drawn; None for all.
    """

    positives: list[str]
    n_negative: int
    negatives: frozenset[str] | None = None

    def has(self, material_id: str) -> bool:
        if self.negatives is None:
            return True
        return material_id in self.negatives or material_id in self.positives


def _population(store: ScreeningStore, run: Run, choice: Choice) -> _Population:
    if choice.in_domain:
        outside = outside_domain(store, run)
        positives = [name for name in run.selection if name not in outside]
        negatives = predicted_negatives(store, run, in_domain=True)
        return _Population(positives, len(negatives), frozenset(negatives))
    n_negative = run.counts.get("screened", 0) - len(run.selection)
    if choice.n_random is None:
        return _Population(run.selection, n_negative)
    drawn = predicted_negatives(store, run, in_domain=False)[: choice.n_random]
    return _Population(run.selection, n_negative, frozenset(drawn))


def _positives(
    selection: Sequence[str],
    documents: Sequence[ValidationDoc],
    choice: Choice,
) -> Group:
    """The predicted positives, best first, from all of its validations by an engine and recipe."""
    calculated = {d.material_id: d for d in documents}.keys() & set(selection)
    by_rank = choice.by_rank(selection) | (calculated - choice.drawn)
    return Group(
        len(selection),
        ranked=_sample([d for d in documents if d.material_id in by_rank]),
        drawn=_sample([d for d in documents if d.material_id in calculated - by_rank]),
        missing=len(by_rank - calculated),
        strategies=choice.strategies,
    )


def _is_decided(document: ValidationDoc) -> bool:
    """Whether DFT gave a verdict; a finished calculation may refuse one."""
    done = document.state == "done" and document.spectrum is not None
    return done and document.is_positive is not None


def _why_open(document: ValidationDoc) -> str:
    return "not judged" if document.state == "done" else document.state


def _sample(documents: Sequence[ValidationDoc]) -> Sample:
    decided = [document.is_positive for document in documents if _is_decided(document)]
    n_positive = sum(map(bool, decided))
    return Sample(n_positive, len(decided) - n_positive, len(documents) - len(decided))
