"""Which candidates of a run are calculated: predicted positives, and random negatives."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from db.collections import VALIDATIONS, Condition, Query, batched, conditions
from db.documents import CandidateDoc, Run, ValidationDoc
from db.store import BATCH, ScreeningStore
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from workflows.dos.base import DosMaker
from workflows.dos.cost import CostEstimate, estimate_cost
from workflows.dos.document import recipe_without_stand_ins

RANDOM_NEGATIVES = 49  # as in the paper
DRAWS = ("best", "random")  # how positives are chosen if not all of them are calculated
CHOICES = "validation_choices"  # key among a run's parameters; see `Choice`


@dataclass(frozen=True)
class ValidationPlan:
    """What is to be calculated for a run.

    Parameters
    ----------
    run : Run
        With the note on how its positives are chosen; see :class:`Choice`.
    todo : tuple of CandidateDoc
        With structures; positives first, in the order that they were chosen in, then negatives.
    shared : tuple of ValidationDoc
        Of materials whose structure is calculated already, or is about to be.
    left_out : tuple of CandidateDoc
        Positives that the model cannot know, without structures; negatives are drawn among those
        that it can.
    """

    run: Run
    todo: tuple[CandidateDoc, ...]
    shared: tuple[ValidationDoc, ...]
    left_out: tuple[CandidateDoc, ...] = ()

    @property
    def reused(self) -> int:
        """Materials whose structure is calculated already, or is about to be."""
        return len(self.shared)


def record_plan(store: ScreeningStore, plan: ValidationPlan) -> None:
    """Write down what was chosen, before the first calculation begins.

    Parameters
    ----------
    store : ScreeningStore
    plan : ValidationPlan
    """
    if plan.run != store.run(plan.run.run_id):
        store.put_run(plan.run)
    store.upsert_validations(plan.shared)


def choose_validation(
    store: ScreeningStore,
    run: Run,
    maker: DosMaker,
    *,
    n_random: int = RANDOM_NEGATIVES,
    limit: int | None = None,
    draw: str = "best",
    in_domain: bool = False,
) -> ValidationPlan:
    """Choose predicted positives and random predicted negatives that need a calculation.

    A structure is calculated once by an engine and recipe, whichever run or material asks for
    it; what failed is repeated. Nothing is written.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    maker : DosMaker
        Of the calculations.
    n_random : int
        Predicted negatives, so that recall can be estimated. They depend on the run only, and
        fewer are the first of more: asking for 10 and later for 49 calculates 49.
    limit : int, optional
        Positives at most.
    draw : str
        Which positives: the ``"best"``, so that most gaps are found, but nothing is known of the
        others; or ``"random"`` ones, so that precision and recall of the whole can be estimated.
        These depend on the run only, as the negatives do.
    in_domain : bool
        Leave out what the model cannot know (:class:`screening.domain.Domain`); of what it is
        not known whether it can, stays.

    Raises
    ------
    ScreeningError
        If there is no such draw, or the run's criterion judges what no engine calculates.
    """
    criterion = criterion_of(run.parameters)
    if criterion.spectra != "edos":
        raise ScreeningError(
            f"run {run.run_id}: its criterion {criterion.name} judges the phonon DOS, which no DFT "
            "engine here calculates"
        )
    if draw not in DRAWS:
        raise ScreeningError(f"--draw {draw}: use {' or '.join(DRAWS)}")
    outside = outside_domain(store, run) if in_domain else {}
    positives = run.selection if draw == "best" else _shuffled(run, run.selection)
    positives = [material_id for material_id in positives if material_id not in outside][:limit]
    negatives = predicted_negatives(store, run, in_domain)[:n_random]
    of_kind = maker.engine, maker.recipe
    noted = _with_choice(store, run, *of_kind, positives, draw, in_domain, n_random)
    candidates = _with_structures(store, run, [*positives, *negatives])
    recipes = [maker.recipe_for(candidate.elements) for candidate in candidates]
    known = _calculations(store, map(_structure_hash, candidates), maker.engine, recipes)
    todo: dict[str, CandidateDoc] = {}
    shared: list[ValidationDoc] = []
    for candidate, recipe in zip(candidates, recipes, strict=True):
        structure = _structure_hash(candidate)
        same = known.get((structure, recipe), {})
        usable = [document for document in same.values() if _is_usable(document)]
        if not usable and structure not in todo:
            todo[structure] = candidate
            continue
        source = min(usable, key=lambda document: not document.is_finished, default=None)
        own = same.get(candidate.material_id)
        shared.append(_sharing(source, own, candidate, maker.engine, recipe))
    left_out = tuple(outside[name] for name in run.selection if name in outside)
    return ValidationPlan(noted, tuple(todo.values()), tuple(shared), left_out)


def plan_cost(store: ScreeningStore, plan: ValidationPlan, maker: DosMaker) -> CostEstimate:
    """How long the calculations of a plan take, from what the recipe took so far.

    Parameters
    ----------
    store : ScreeningStore
    plan : ValidationPlan
    maker : DosMaker
    """
    finished = store.validations(engine=maker.engine, state="done")
    same = (v for v in finished if recipe_without_stand_ins(v.recipe) == maker.recipe)
    known = [(v.nsites, v.wall_time) for v in same if v.wall_time]
    return estimate_cost([c.nsites for c in plan.todo], known, maker.first_atom_time)


def outside_domain(store: ScreeningStore, run: Run) -> dict[str, CandidateDoc]:
    """The predicted positives that the model cannot know, by name.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    positives = store.candidates(run.run_id, is_positive=True)
    return {c.material_id: c for c in positives if c.out_of_domain}


def predicted_negatives(store: ScreeningStore, run: Run, in_domain: bool) -> list[str]:
    """Names of the predicted negatives in the order that they are drawn in.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    in_domain : bool
        Only those that the model can know.
    """
    screened = store.candidates(run.run_id, state="screened", is_positive=False)
    outside: dict[str, bool] = {c.material_id: bool(c.out_of_domain) for c in screened}
    return [name for name in _shuffled(run, outside) if not (in_domain and outside[name])]


def _shuffled(run: Run, material_ids: Iterable[str]) -> list[str]:
    """The same order each time for a run, so that few materials are the first of more."""
    shuffled = sorted(material_ids)
    random.Random(run.run_id).shuffle(shuffled)
    return shuffled


@dataclass(frozen=True)
class Choice:
    """How the positives of a run were chosen for an engine and recipe, with or without stand-ins.

    Parameters
    ----------
    n_best : int
        So many were chosen by their rank.
    drawn : frozenset of str
        Drawn at random; those of them that are among the best count as chosen by rank, the rest is
        then a random part of the others.
    in_domain : bool
        All were chosen, negatives as well, among what the model can know.
    n_random : int or None
        Where first only those, and later all were chosen among: the negatives that were drawn
        among all, so that the first ones do not count twice.
    """

    n_best: int = 0
    drawn: frozenset[str] = frozenset()
    in_domain: bool = False
    n_random: int | None = None

    @classmethod
    def of(cls, run: Run, engine: str, recipe: str) -> Choice:
        """What the run notes; nothing in runs of older programs, which took the best only.

        Parameters
        ----------
        run : Run
        engine, recipe : str
        """
        for note in run.parameters.get(CHOICES, []):
            if (note["engine"], note["recipe"]) == (engine, recipe):
                return cls(
                    note["n_best"],
                    frozenset(note["drawn"]),
                    note.get("in_domain", False),
                    note.get("n_random"),
                )
        return cls()

    def among(self, in_domain: bool, n_random: int, is_first: bool) -> Choice:
        """The same after another choice among the model's domain, or among all.

        Parameters
        ----------
        in_domain : bool
            The other choice was among what the model can know.
        n_random : int
            Negatives that it drew.
        is_first : bool
            Nothing was chosen before.
        """
        if is_first:
            return replace(self, in_domain=in_domain)
        if in_domain or not (self.in_domain or self.n_random is not None):
            return self
        return replace(self, in_domain=False, n_random=max(self.n_random or 0, n_random))

    def noted_in(self, run: Run, engine: str, recipe: str) -> Run:
        """The run with this choice among its parameters.

        Parameters
        ----------
        run : Run
        engine, recipe : str
        """
        others = [
            note
            for note in run.parameters.get(CHOICES, [])
            if (note["engine"], note["recipe"]) != (engine, recipe)
        ]
        own: dict[str, Any] = {
            "engine": engine,
            "recipe": recipe,
            "n_best": self.n_best,
            "drawn": sorted(self.drawn),
            "in_domain": self.in_domain,
            "n_random": self.n_random,
        }
        parameters = run.parameters | {CHOICES: [*others, own]}
        return run.model_copy(update={"parameters": parameters})


def _with_choice(
    store: ScreeningStore,
    run: Run,
    engine: str,
    recipe: str,
    positives: Sequence[str],
    draw: str,
    in_domain: bool,
    n_random: int,
) -> Run:
    """The run with a note on how its positives were chosen, so that metrics know."""
    run = store.run(run.run_id)
    before = Choice.of(run, engine, recipe)
    if draw == "best":
        now = replace(before, n_best=max(before.n_best, len(positives)))
    else:
        asked = (*conditions(engine=engine), Condition("run_ids", "has", run.run_id))
        known = {
            document.material_id
            for document in store.find(Query(VALIDATIONS, asked))
            if recipe_without_stand_ins(document.recipe) == recipe
        }
        by_rank = known - before.drawn  # also of programs that left no note
        now = replace(before, drawn=before.drawn | (set(positives) - by_rank))
    now = now.among(in_domain, n_random, is_first=before == Choice())
    return run if now == before else now.noted_in(run, engine, recipe)


def _with_structures(store: ScreeningStore, run: Run, names: Sequence[str]) -> list[CandidateDoc]:
    candidates = store.candidates(run.run_id, material_ids=names, with_structure=True)
    by_name = {candidate.material_id: candidate for candidate in candidates}
    return [by_name[name] for name in names]


def _calculations(
    store: ScreeningStore, hashes: Iterable[str], engine: str, recipes: Iterable[str]
) -> dict[tuple[str, str], dict[str, ValidationDoc]]:
    """Validations of these structures by structure hash and recipe, and by material."""
    calculations: dict[tuple[str, str], dict[str, ValidationDoc]] = {}
    any_of = sorted(set(recipes))
    for batch in batched(sorted(set(hashes)), BATCH):
        asked = conditions(structure_hash=batch, engine=engine, recipe=any_of)
        for document in store.find(Query(VALIDATIONS, asked)):
            of_structure = (document.structure_hash, document.recipe)
            calculations.setdefault(of_structure, {})[document.material_id] = document
    return calculations


def _structure_hash(candidate: CandidateDoc) -> str:
    return candidate.structure_hash or ""  # every screened candidate has one


def _is_usable(document: ValidationDoc) -> bool:
    """Whether the calculation is done, or on a launchpad."""
    return document.is_finished or (document.state != "failed" and bool(document.job_uuids))


def _sharing(
    source: ValidationDoc | None,
    own: ValidationDoc | None,
    candidate: CandidateDoc,
    engine: str,
    recipe: str,
) -> ValidationDoc:
    """Validation of a candidate from that of the same structure; queued if there is none yet."""
    asking = {*(own.run_ids if own else ()), candidate.run_id}
    changes = {"material_id": candidate.material_id, "run_ids": sorted(asking)}
    if source is None:
        source = ValidationDoc(
            material_id=candidate.material_id,
            structure_hash=_structure_hash(candidate),
            engine=engine,
            recipe=recipe,
            formula=candidate.formula,
            nsites=candidate.nsites,
        )
    return source.model_copy(update=changes)
