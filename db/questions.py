"""What users ask of a store: candidates, near misses, what to validate, how good it was.

All of them work on both stores, and take names and numbers as plain values.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from db.collections import (
    CANDIDATES,
    PREDICTIONS,
    VALIDATIONS,
    Condition,
    Operator,
    Query,
    batched,
    conditions,
)
from db.documents import (
    FINISHED,
    CandidateDoc,
    FilterCount,
    PredictionDoc,
    ValidationDoc,
)
from db.errors import StoreError
from db.store import BATCH, ScreeningStore
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EnergyGrid

Range = tuple[float | None, float | None]
Judge = Callable[[Sequence[ValidationDoc]], list[ValidationDoc]]
Metric = Literal["wasserstein", "mae"]
ANY: Range = (None, None)


def find_candidates(
    store: ScreeningStore, run_id: str | None = None, **asked: Any
) -> Iterator[CandidateDoc]:
    """Stream candidates by composition, stability and gap.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str, optional
        All runs without it.
    **asked
        What :func:`candidate_query` takes.
    """
    return store.find(candidate_query(run_id, **asked))


def candidate_query(
    run_id: str | None = None,
    *,
    elements: Iterable[str] = (),
    exclude_elements: Iterable[str] = (),
    chemsys: str | None = None,
    formula: str | None = None,
    state: str | None = None,
    is_positive: bool | None = None,
    kind: str | None = None,
    robust: bool | None = None,
    out_of_domain: bool | None = None,
    in_domain: Sequence[str] = (),
    energy_above_hull: Range = ANY,
    upper_edge: Range = ANY,
    width: Range = ANY,
    n_ranges: Range = ANY,
    score: Range = ANY,
    probability: Range = ANY,
    sort_by: str | None = None,
    descending: bool = False,
    limit: int | None = None,
    with_structure: bool = False,
    skip: int = 0,
) -> Query[CandidateDoc]:
    """Query for candidates by composition, stability and gap.

    Parameters
    ----------
    run_id : str, optional
        All runs without it.
    elements, exclude_elements : iterable of str
        Symbols of elements that must all be there, and that must not.
    chemsys : str, optional
        Elements in any order, such as ``"Na-Cl"``.
    formula, state, is_positive : optional
    kind, robust : optional
        Of the gap or nearest miss; those of which it is unknown are left out.
    out_of_domain : optional
        Whether the model cannot know the material; those of which it is unknown are left out.
    in_domain : sequence of str
        Any of ``"yes"``, ``"near"`` and ``"no"``; empty asks nothing.
    energy_above_hull : (low, high)
        In eV/atom, both included; None for no bound. A candidate whose value is unknown is
        left out if there is a bound.
    upper_edge, width : (low, high)
        Of the gap, in eV.
    n_ranges : (low, high)
        Ranges below the band edge that are wide enough.
    score : (low, high)
    probability : (low, high)
        That DFT finds the candidate positive, 0 to 1.
    sort_by, descending, limit, with_structure, skip
        As in :class:`db.collections.Query`.

    Raises
    ------
    StoreError
        If one text stands where there may be several.
    """
    lists = {"elements": elements, "exclude_elements": exclude_elements, "in_domain": in_domain}
    for name, values in lists.items():
        if isinstance(values, str):  # whose letters would be taken one by one
            raise StoreError(f"{name} {values!r}: give a list, such as {[values]}")
    equal = conditions(
        run_id=run_id,
        chemsys=None if chemsys is None else "-".join(sorted(chemsys.split("-"))),
        formula=formula,
        state=state,
        is_positive=is_positive,
        out_of_domain=out_of_domain,
        in_domain=tuple(in_domain) or None,
    )
    if kind is not None:
        equal += (Condition("gap.kind", "==", kind),)
    if robust is not None:
        equal += (Condition("gap.robust", "==", robust),)
    asked = (
        *equal,
        *(Condition("elements", "has", element) for element in elements),
        *(Condition("elements", "lacks", element) for element in exclude_elements),
        *_within("energy_above_hull", energy_above_hull),
        *_within("gap.upper_edge", upper_edge),
        *_within("gap.width", width),
        *_within("gap.n_ranges", n_ranges),
        *_within("score", score),
        *_within("probability", probability),
    )
    return Query(CANDIDATES, asked, sort_by, descending, limit, with_structure, skip)


def _within(field: str, bounds: Range) -> Iterator[Condition]:
    operators: tuple[Operator, Operator] = (">=", "<=")
    for operator, bound in zip(operators, bounds, strict=True):
        if bound is not None:
            yield Condition(field, operator, bound)


def positives_to_validate(
    store: ScreeningStore,
    run_id: str,
    *,
    engine: str | None = None,
    recipe: str | None = None,
    limit: int | None = None,
) -> list[CandidateDoc]:
    """Predicted positives of a run without a finished calculation, best first.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    engine, recipe : str, optional
        Count only calculations with these.
    limit : int, optional
    """
    positives = list(store.candidates(run_id, is_positive=True, sort_by="score", descending=True))
    done = {
        (v.material_id, v.structure_hash)
        for v in _finished(store, [p.material_id for p in positives], engine, recipe)
    }
    unfinished = [p for p in positives if (p.material_id, p.structure_hash) not in done]
    return unfinished[:limit]


def _finished(
    store: ScreeningStore,
    material_ids: Sequence[str] | None,
    engine: str | None,
    recipe: str | None,
) -> Iterator[ValidationDoc]:
    if material_ids is None:
        yield from store.validations(state=FINISHED, engine=engine, recipe=recipe)
        return
    for batch in batched(material_ids, BATCH):
        yield from store.validations(
            state=FINISHED, engine=engine, recipe=recipe, material_ids=batch
        )


@dataclass(frozen=True)
class Comparison:
    """What a run's model and a calculation say of the same structure."""

    candidate: CandidateDoc
    validation: ValidationDoc

    @property
    def agrees(self) -> bool:
        """Both say that it is a positive, or both that it is not."""
        return self.candidate.is_positive == self.validation.is_positive


def comparisons(
    store: ScreeningStore,
    run_id: str,
    *,
    engine: str | None = None,
    recipe: str | None = None,
    judged: Judge | None = None,
) -> list[Comparison]:
    """Candidates of a run that were predicted and calculated, with both verdicts.

    A calculation that was compared with another model's prediction has no errors here.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    engine, recipe : str, optional
        Only calculations with these.
    judged : callable, optional
        Gives calculations the verdict of the run's criterion. Without it only those are compared
        that a run with a criterion of that name, and a gap of the same limits, asked for first.
    """
    pairs = []
    for finished in batched(_finished(store, None, engine, recipe), BATCH):
        batch = judged(finished) if judged else finished
        keys = {(run_id, validation.material_id) for validation in batch}
        candidates = {c.material_id: c for c in store.lookup(CANDIDATES, keys)}
        for validation in batch:
            candidate = candidates.get(validation.material_id)
            if candidate is None or not _are_comparable(candidate, validation):
                continue
            if judged or _judged_alike(candidate, validation):
                own = validation.without_other_errors(candidate.model_id)
                pairs.append(Comparison(candidate, own))
    return pairs


def _are_comparable(candidate: CandidateDoc, validation: ValidationDoc) -> bool:
    return (
        candidate.structure_hash == validation.structure_hash
        and candidate.is_positive is not None
        and validation.is_positive is not None
    )


def _judged_alike(candidate: CandidateDoc, validation: ValidationDoc) -> bool:
    """Whether both verdicts are by the same criterion, and the same limits as far as known."""
    limits, others = (d.gap.criteria if d.gap else {} for d in (candidate, validation))
    is_same_gap = not limits or not others or limits == others
    return candidate.criterion == validation.criterion and is_same_gap


def disagreements(
    store: ScreeningStore,
    run_id: str,
    *,
    engine: str | None = None,
    recipe: str | None = None,
    judged: Judge | None = None,
) -> list[Comparison]:
    """Comparisons in which prediction and calculation differ, highest score first.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    engine, recipe : str, optional
        Only calculations with these.
    judged : callable, optional
        As for :func:`comparisons`.
    """
    compared = comparisons(store, run_id, engine=engine, recipe=recipe, judged=judged)
    differing = [c for c in compared if not c.agrees]
    return sorted(differing, key=lambda c: -(c.candidate.score or 0.0))


@dataclass(frozen=True)
class Agreement:
    """How often one model, in one run, was right on the structures calculated with one recipe.

    Precision and recall are those of the calculated set; they are None where nothing was
    predicted positive, or nothing is positive.
    """

    run_id: str
    model_id: str | None
    engine: str
    recipe: str
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """Share of the predicted positives that are positive."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the positives that were predicted."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        wrong = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + wrong)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def agreements(
    store: ScreeningStore,
    *,
    run_id: str | None = None,
    model_id: str | None = None,
    engine: str | None = None,
    recipe: str | None = None,
) -> list[Agreement]:
    """Precision and recall for each run, model, engine and recipe; newest run first.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str, optional
        All runs without it.
    model_id : str, optional
        Only candidates that this model judged.
    engine, recipe : str, optional
        Only calculations with these.
    """
    run_ids = [run.run_id for run in store.runs()] if run_id is None else [run_id]
    table: dict[tuple[str, str | None, str, str], Counter[tuple[bool, bool]]]
    table = defaultdict(Counter)
    for name in run_ids:
        for pair in comparisons(store, name, engine=engine, recipe=recipe):
            model = pair.candidate.model_id
            if model_id is None or model == model_id:
                key = (name, model, pair.validation.engine, pair.validation.recipe)
                verdict = (bool(pair.candidate.is_positive), bool(pair.validation.is_positive))
                table[key][verdict] += 1
    return [
        Agreement(
            *key,
            true_positives=counts[True, True],
            false_positives=counts[True, False],
            true_negatives=counts[False, False],
            false_negatives=counts[False, True],
        )
        for key, counts in table.items()
    ]


@dataclass(frozen=True)
class Neighbour:
    """A predicted spectrum near the one that was asked for.

    `distance` is in the unit of the grid for ``"wasserstein"``, in states/eV/cell for ``"mae"``.
    """

    distance: float
    prediction: PredictionDoc


def nearest_spectra(
    store: ScreeningStore,
    spectrum: Sequence[float] | np.ndarray,
    grid: EnergyGrid,
    *,
    model_id: str | None = None,
    metric: Metric = "wasserstein",
    limit: int = 10,
) -> list[Neighbour]:
    """Predictions with the spectra nearest to a given one, nearest first.

    Parameters
    ----------
    store : ScreeningStore
    spectrum : sequence of float, length ``grid.size``
        In states/eV/cell.
    grid : EnergyGrid
        Predictions on other grids are left out.
    model_id : str, optional
    metric : {'wasserstein', 'mae'}
        ``"wasserstein"`` compares the shapes: the area between the cumulative sums of both
        spectra, each scaled to sum 1. ``"mae"`` compares the values.
    limit : int
    """
    target = np.asarray(spectrum, float)
    if target.shape != (grid.size,) or not np.isfinite(target).all():
        raise StoreError(f"the spectrum is not {grid.size} finite numbers, as its grid asks")
    if metric not in ("wasserstein", "mae"):
        raise StoreError(f"no metric {metric!r}; use wasserstein or mae")
    query = Query(PREDICTIONS, conditions(model_id=model_id))
    on_grid = (p for p in store.find(query) if p.grid == grid)
    measured = (
        Neighbour(float(distance), prediction)
        for batch in batched(on_grid, BATCH)
        for distance, prediction in zip(
            _distances(target, np.array([p.spectrum for p in batch]), grid, metric),
            batch,
            strict=True,
        )
    )
    return heapq.nsmallest(limit, measured, key=lambda n: (n.distance, n.prediction.key))


def _distances(
    target: np.ndarray, spectra: np.ndarray, grid: EnergyGrid, metric: Metric
) -> np.ndarray:
    """Distances of spectra, shape (n, bins), from a target, shape (bins,)."""
    if metric == "wasserstein":
        return wasserstein_distances(spectra, target, grid.width)
    mean: np.ndarray = np.abs(spectra - target).mean(axis=1)
    return mean


@dataclass(frozen=True)
class Funnel:
    """How a run came from all materials to its positives."""

    run_id: str
    filters: list[FilterCount]
    candidates: dict[str, int]
    positives: int
    validated: int


def funnel(store: ScreeningStore, run_id: str) -> Funnel:
    """Counts of a run: what each filter dropped, candidates by state, positives, validated.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str

    Raises
    ------
    StoreError
        If there is no such run.
    """
    run = store.run(run_id)
    of_run = conditions(run_id=run_id)
    finished = (*conditions(state=FINISHED), Condition("run_ids", "has", run_id))
    return Funnel(
        run_id,
        run.funnel,
        store.candidate_counts(run_id),
        store.count(Query(CANDIDATES, of_run + conditions(is_positive=True))),
        store.count(Query(VALIDATIONS, finished)),
    )
