"""Which candidates of a run are calculated: predicted positives, and random negatives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from db.collections import VALIDATIONS, Condition, Query, batched, conditions
from db.documents import VALIDATION_CHOICES, CandidateDoc, Run, ValidationDoc
from db.questions import candidate_query
from db.store import BATCH, ScreeningStore
from screening.acquisition import Pool, choose, shuffled
from screening.candidate import crystal_of
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from screening.families import family_of
from screening.strategies import Strategy
from workflows.dos.cost import Cell, CostEstimate, estimate_cost
from workflows.dos.document import recipe_without_stand_ins

if TYPE_CHECKING:
    from workflows.dos.base import DosMaker

RANDOM_NEGATIVES = 49  # as in the paper
DRAWN_IN_DOMAIN = "random draws in the domain"  # where positives were chosen among all as well


@dataclass(frozen=True)
class ValidationPlan:
    """What is to be calculated for a run.

    Parameters
    ----------
    run : Run
        With the note on how its positives are chosen; see :class:`Choice`.
    chosen : Chosen
        What the note says; it comes beside what others have noted since.
    todo : tuple of CandidateDoc
        With structures; positives first, in the order that they were chosen in, then negatives.
    shared : tuple of ValidationDoc
        Of materials whose structure is calculated already, or is about to be.
    left_out : tuple of CandidateDoc
        Positives that the model cannot know, without structures; negatives are drawn among those
        that it can.
    """

    run: Run
    chosen: Chosen
    todo: tuple[CandidateDoc, ...]
    shared: tuple[ValidationDoc, ...]
    left_out: tuple[CandidateDoc, ...] = ()

    @property
    def reused(self) -> int:
        """Materials whose structure is calculated already, or is about to be."""
        return len(self.shared)


def record_plan(store: ScreeningStore, plan: ValidationPlan) -> None:
    """Write down what was chosen, before the first calculation begins.

    What others have written since it was chosen, or write now, stays: results, and their notes.

    Parameters
    ----------
    store : ScreeningStore
    plan : ValidationPlan
    """
    store.change_run(plan.run.run_id, partial(plan.chosen.noted_in, store))
    store.upsert_validations(plan.shared, keep_finished=True)


def check_calculable(run: Run) -> None:
    """Refuse a run whose spectra DFT cannot check.

    Parameters
    ----------
    run : Run

    Raises
    ------
    ScreeningError
        If its criterion judges what no engine calculates.
    """
    criterion = criterion_of(run.parameters)
    if criterion.spectra != "edos":
        raise ScreeningError(
            f"run {run.run_id}: its criterion {criterion.name} judges the phonon DOS, which no DFT "
            "engine here calculates"
        )


def choose_validation(
    store: ScreeningStore,
    run: Run,
    maker: DosMaker,
    *,
    n_random: int = RANDOM_NEGATIVES,
    limit: int | None = None,
    strategy: Strategy = "best",
    budget: float | None = None,
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
    strategy : str
        Which positives; see :func:`screening.acquisition.choose`. Of those that it leaves nothing
        is known, but for ``"random"``: precision and recall of the whole can be estimated. These
        depend on the run only, as the negatives do.
    budget : float, optional
        Estimated time in s for all that is not calculated yet; the negatives have theirs first.
        What the same strategy chose before and was not begun, as after an interruption, comes
        before all else, and nothing new with it.
    in_domain : bool
        Leave out what the model cannot know (:class:`screening.domain.Domain`); of what it is
        not known whether it can, stays.

    Raises
    ------
    ScreeningError
        If the strategy is not known or needs what the run has not, or the budget is too small; or
        if the run's criterion judges what no engine calculates.
    """
    check_calculable(run)
    outside = outside_domain(store, run) if in_domain else {}
    names = [material_id for material_id in run.selection if material_id not in outside]
    negatives = predicted_negatives(store, run, in_domain)[:n_random]
    run = store.run(run.run_id)
    before = Choice.of(run, maker.engine, maker.recipe)
    if budget is not None:
        controls = _pool(store, maker, _candidates(store, run, negatives))
        budget = _left_of(budget, controls)
        names = _interrupted(store, run, maker, names, before.taken_by(strategy)) or names
    known = _candidates(store, run, names, with_structure=strategy == "diverse")
    pool = _pool(store, maker, known)
    positives = choose(pool, strategy, limit=limit, budget=budget, seed=run.run_id)
    chosen = Chosen(maker.engine, maker.recipe, strategy, tuple(positives), in_domain, n_random)
    candidates = _candidates(store, run, [*positives, *negatives], with_structure=True)
    todo: dict[str, CandidateDoc] = {}
    shared: list[ValidationDoc] = []
    for candidate, recipe, same in _calculations(store, maker, candidates):
        structure = _structure_hash(candidate)
        usable = [document for document in same.values() if _is_usable(document)]
        if not usable and structure not in todo:
            todo[structure] = candidate
            continue
        source = min(usable, key=lambda document: not document.is_finished, default=None)
        own = same.get(candidate.material_id)
        shared.append(_sharing(source, own, candidate, maker.engine, recipe))
    left_out = tuple(outside[name] for name in run.selection if name in outside)
    calculations = tuple(todo.values()), tuple(shared)
    return ValidationPlan(chosen.noted_in(store, run), chosen, *calculations, left_out)


def plan_cost(store: ScreeningStore, plan: ValidationPlan, maker: DosMaker) -> CostEstimate:
    """How long the calculations of a plan take, from what the recipe took so far.

    Parameters
    ----------
    store : ScreeningStore
    plan : ValidationPlan
    maker : DosMaker
    """
    return _estimate(store, maker, plan.todo)


def _estimate(
    store: ScreeningStore, maker: DosMaker, candidates: Iterable[CandidateDoc]
) -> CostEstimate:
    finished = store.validations(engine=maker.engine, state="done")
    same = (v for v in finished if recipe_without_stand_ins(v.recipe) == maker.recipe)
    known = [(Cell(v.formula, v.nsites), v.wall_time) for v in same if v.wall_time]
    cells = [Cell(c.formula, c.nsites) for c in candidates]
    return estimate_cost(cells, known, maker.first_atom_time)


def _pool(store: ScreeningStore, maker: DosMaker, candidates: Sequence[CandidateDoc]) -> Pool:
    """What is known of candidates; of those with a structure also their family."""
    calculated = [
        any(map(_is_usable, same.values())) for *_, same in _calculations(store, maker, candidates)
    ]
    return Pool(
        names=[c.material_id for c in candidates],
        scores=np.array([c.score for c in candidates], float),
        probabilities=np.array([c.probability for c in candidates], float),
        seconds=np.array(_estimate(store, maker, candidates).seconds),
        families=[family_of(crystal_of(c.structure)) if c.structure else None for c in candidates],
        paid=np.array(calculated, bool),
    )


def _left_of(budget: float, controls: Pool) -> float:
    """What the random negatives leave of a budget, in s.

    Raises
    ------
    ScreeningError
        If that is nothing.
    """
    seconds = float(controls.seconds[~controls.paid].sum())
    if 0 < budget <= seconds:
        raise ScreeningError(
            f"{(~controls.paid).sum()} random negatives take about {seconds / 3600:.1f} hours, "
            "all of the budget: raise --budget, or take fewer with --random"
        )
    return budget - seconds


def _interrupted(
    store: ScreeningStore, run: Run, maker: DosMaker, names: Sequence[str], taken: Collection[str]
) -> list[str]:
    """Those of some positives that were chosen before and not even begun."""
    waiting = _candidates(store, run, [name for name in names if name in taken])
    calculations = _calculations(store, maker, waiting)
    return [candidate.material_id for candidate, _, same in calculations if not same]


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
    screened = candidate_query(run.run_id, state="screened", is_positive=False)
    outside: dict[str, bool] = dict(store.values(screened, ("material_id", "out_of_domain")))
    order = shuffled(outside, seed=run.run_id)
    return [name for name in order if not (in_domain and outside[name])]


@dataclass(frozen=True)
class Choice:
    """How the positives of a run were chosen for an engine and recipe, with or without stand-ins.

    Parameters
    ----------
    ranked : mapping of str to frozenset of str
        What each strategy but ``"random"`` chose.
    drawn : frozenset of str
        Drawn at random among all, or with `in_domain` among what the model can know; those of them
        that were chosen otherwise as well count as chosen by rank, the rest is then a random part
        of the others.
    n_best : int
        So many of the best were chosen by older programs, which noted no names.
    in_domain : bool
        All were chosen, negatives as well, among what the model can know.
    n_random : int or None
        Negatives that were drawn among all, of which those that were drawn among what the model
        can know are no random part. None if only those were, and in notes of older programs: all.
    """

    ranked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    drawn: frozenset[str] = frozenset()
    n_best: int = 0
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
        for note in run.parameters.get(VALIDATION_CHOICES, []):
            if (note["engine"], note["recipe"]) == (engine, recipe):
                return cls(
                    {k: frozenset(names) for k, names in note.get("ranked", {}).items()},
                    frozenset(note["drawn"]),
                    note.get("n_best", 0),
                    note.get("in_domain", False),
                    note.get("n_random"),
                )
        return cls()

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that chose by rank."""
        return tuple(sorted({*self.ranked, *(["best"] if self.n_best else [])}))

    def taken_by(self, strategy: str) -> frozenset[str]:
        """What a strategy chose, as far as names are noted."""
        if strategy == "random":
            return self.drawn | self.ranked.get(DRAWN_IN_DOMAIN, frozenset())
        return self.ranked.get(strategy, frozenset())

    def by_rank(self, selection: Sequence[str]) -> set[str]:
        """Those of the positives, best first, that any strategy chose by rank."""
        return {*selection[: self.n_best], *frozenset().union(*self.ranked.values())} & {*selection}

    def among(self, in_domain: bool, n_random: int, n_before: Callable[[], int]) -> Choice:
        """The same before another choice among the model's domain, or among all.

        What was drawn in the domain is no random part of all, and counts as chosen by rank.

        Parameters
        ----------
        in_domain : bool
            The other choice is among what the model can know.
        n_random : int
            Negatives that it draws.
        n_before : callable
            Gives the negatives that were drawn before, if it was among all.
        """
        if self == Choice():
            n_all = None if in_domain else max(n_random, n_before())
            return replace(self, in_domain=in_domain, n_random=n_all)
        if in_domain:
            is_mixed_now = not self.in_domain and self.n_random is None
            return replace(self, n_random=n_before()) if is_mixed_now else self
        if self.in_domain:
            own = replace(self, in_domain=False, n_random=n_random, drawn=frozenset())
            return own.with_ranked(DRAWN_IN_DOMAIN, self.drawn)
        if self.n_random is None:
            return self
        return replace(self, n_random=max(self.n_random, n_random))

    def with_ranked(self, strategy: str, names: Collection[str]) -> Choice:
        """The same with what a strategy chose besides.

        Parameters
        ----------
        strategy : str
        names : collection of str
            Materials.
        """
        if not names:
            return self
        both = self.ranked.get(strategy, frozenset()) | frozenset(names)
        return replace(self, ranked={**self.ranked, strategy: both})

    def noted_in(self, run: Run, engine: str, recipe: str) -> Run:
        """The run with this choice among its parameters.

        Parameters
        ----------
        run : Run
        engine, recipe : str
        """
        others = [
            note
            for note in run.parameters.get(VALIDATION_CHOICES, [])
            if (note["engine"], note["recipe"]) != (engine, recipe)
        ]
        own: dict[str, Any] = {
            "engine": engine,
            "recipe": recipe,
            "ranked": {strategy: sorted(names) for strategy, names in self.ranked.items()},
            "drawn": sorted(self.drawn),
            "n_best": self.n_best,
            "in_domain": self.in_domain,
            "n_random": self.n_random,
        }
        parameters = run.parameters | {VALIDATION_CHOICES: [*others, own]}
        return run.model_copy(update={"parameters": parameters})


@dataclass(frozen=True)
class Chosen:
    """What was chosen at one time, for an engine and recipe; a :class:`Choice` adds these up.

    Parameters
    ----------
    engine, recipe : str
        The recipe is that without stand-ins.
    strategy : str
    positives : tuple of str
        Materials.
    in_domain : bool
        Among what the model can know.
    n_random : int
        Negatives that were drawn.
    """

    engine: str
    recipe: str
    strategy: str
    positives: tuple[str, ...]
    in_domain: bool
    n_random: int

    def noted_in(self, store: ScreeningStore, run: Run) -> Run:
        """The run with a note on this, beside what was chosen before, so that metrics know.

        Parameters
        ----------
        store : ScreeningStore
        run : Run
            As it is stored.
        """
        before = Choice.of(run, self.engine, self.recipe)
        now = before.among(self.in_domain, self.n_random, lambda: self._n_before(store, run))
        if self.strategy != "random":
            now = now.with_ranked(self.strategy, self.positives)
        elif self.in_domain and not now.in_domain:
            now = now.with_ranked(DRAWN_IN_DOMAIN, self.positives)
        else:
            # Also of programs that left no note.
            by_rank = self._known(store, run) - now.drawn
            now = replace(now, drawn=now.drawn | ({*self.positives} - by_rank))
        return run if now == before else now.noted_in(run, self.engine, self.recipe)

    def _n_before(self, store: ScreeningStore, run: Run) -> int:
        """Negatives that were drawn among all before."""
        in_order = predicted_negatives(store, run, in_domain=False)
        known = self._known(store, run)
        return sum(1 for _ in takewhile(known.__contains__, in_order))

    def _known(self, store: ScreeningStore, run: Run) -> set[str]:
        """Materials that the run has asked for."""
        asked = (*conditions(engine=self.engine), Condition("run_ids", "has", run.run_id))
        return {
            document.material_id
            for document in store.find(Query(VALIDATIONS, asked))
            if recipe_without_stand_ins(document.recipe) == self.recipe
        }


def _candidates(
    store: ScreeningStore, run: Run, names: Sequence[str], with_structure: bool = False
) -> list[CandidateDoc]:
    """Candidates in the order of their names."""
    candidates = store.candidates(run.run_id, material_ids=names, with_structure=with_structure)
    by_name = {candidate.material_id: candidate for candidate in candidates}
    return [by_name[name] for name in names]


def _calculations(
    store: ScreeningStore, maker: DosMaker, candidates: Sequence[CandidateDoc]
) -> Iterator[tuple[CandidateDoc, str, dict[str, ValidationDoc]]]:
    """Each candidate with its recipe, and the validations of its structure by material."""
    recipes = [maker.recipe_for(candidate.elements) for candidate in candidates]
    calculations: dict[tuple[str, str], dict[str, ValidationDoc]] = {}
    any_of = sorted(set(recipes))
    for batch in batched(sorted(set(map(_structure_hash, candidates))), BATCH):
        asked = conditions(structure_hash=batch, engine=maker.engine, recipe=any_of)
        for document in store.find(Query(VALIDATIONS, asked)):
            of_structure = (document.structure_hash, document.recipe)
            calculations.setdefault(of_structure, {})[document.material_id] = document
    for candidate, recipe in zip(candidates, recipes, strict=True):
        yield candidate, recipe, calculations.get((_structure_hash(candidate), recipe), {})


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
