"""The best candidates of a run judged again by a second model, which is dearer and nearer to DFT.

All candidates have the verdict of the first model by then. Those with the best scores that the
second model does not refuse await its verdict (:func:`choose`), which becomes theirs
(:func:`write_verdicts`). What the first model said stays in their `first_verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from db.collections import CANDIDATES, Condition, Query, batched, conditions
from db.documents import CandidateDoc, FirstVerdict, Run, Verdict
from db.store import BATCH, ScreeningStore
from models.zoo import model_name
from screening.candidate import crystal_of
from screening.second_predictor import not_judged_again
from workflows.verdicts import with_verdict

if TYPE_CHECKING:
    from models.deferred_predictor import DeferredPredictor

RESCORING = ("rescore", "rescore_with")  # parameters of runs with a second model alone
SAME_MODEL = "--rescore-with {}: is the model of the run itself; name another, or use --rescore 0"
SHARD = 250  # candidates of a job; some 36 s of the shipped predictor on one core


def awaiting(run: Run, model: str, shard: int | None = None) -> Query[CandidateDoc]:
    """The candidates of a run that await the verdict of one of its models.

    Parameters
    ----------
    run : Run
    model : str
        Id of its first or second model.
    shard : int, optional
    """
    asked = conditions(run_id=run.run_id, state="pending", shard=shard)
    is_first = Condition("first_verdict", "!=" if model == run.second_model_id else "==", None)
    return Query(CANDIDATES, (*asked, is_first))


def n_chosen(store: ScreeningStore, run: Run) -> int:
    """How many candidates were judged again or await it.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
        With a second model.
    """
    second = run.second_model_id or ""
    judged = Query(CANDIDATES, conditions(run_id=run.run_id, model_id=second))
    return store.count(judged) + store.count(awaiting(run, second))


def choose(store: ScreeningStore, run: Run, predictor: DeferredPredictor, n: int) -> None:
    """Let the `n` best candidates await the second model that are not chosen yet.

    Those that it refuses do not count; they keep their verdict, with the reason as a remark. After
    an interruption the same are chosen: what was chosen before it are the first of them.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    predictor : DeferredPredictor
        The second model.
    n : int
        One at least.
    """
    asked = (
        *conditions(run_id=run.run_id, state="screened"),
        Condition("first_verdict", "==", None),
    )
    ranked = store.find(
        Query(CANDIDATES, asked, sort_by="score", descending=True, with_structure=True)
    )
    store.upsert_candidates(_chosen(run, _with_refusals(ranked, predictor, n), n))


def _chosen(
    run: Run, ranked: Iterable[tuple[CandidateDoc, str | None]], n: int
) -> Iterator[CandidateDoc]:
    """The candidates that await the second model, and those before them that it refuses."""
    before = run.parameters["rescore"] - n
    size = min(SHARD, run.parameters["shard_size"])
    for candidate, refusal in ranked:
        first = FirstVerdict(
            model_id=candidate.model_id, is_positive=candidate.is_positive, score=candidate.score
        )
        # The store keeps the structure that it has.
        noted = candidate.model_copy(update={"first_verdict": first, "structure": None})
        if refusal is not None:
            yield _refused(noted, run.second_model_id or "", refusal)
            continue
        yield noted.model_copy(update={"state": "pending", "shard": before // size})
        before += 1
        n -= 1
        if not n:
            return


def _with_refusals(
    candidates: Iterable[CandidateDoc], predictor: DeferredPredictor, n: int
) -> Iterator[tuple[CandidateDoc, str | None]]:
    """Candidates, and why a predictor refuses them; looked at about `n` at a time."""
    for batch in batched(candidates, min(n, BATCH)):
        refusals = predictor.refusals([crystal_of(c.structure) for c in batch])
        for i, candidate in enumerate(batch):
            yield candidate, refusals.get(i)


def write_verdicts(
    store: ScreeningStore, candidates: Iterable[CandidateDoc], verdicts: Iterable[Verdict]
) -> None:
    """Give candidates the verdicts of their run's first or second model.

    Parameters
    ----------
    store : ScreeningStore
    candidates : iterable of CandidateDoc
        Of one run, as they are stored; of those with a first verdict each is judged again.
    verdicts : iterable of Verdict
        On some of them.
    """
    again = {c.material_id: c for c in candidates if c.first_verdict is not None}
    verdicts = list(verdicts)
    store.apply_verdicts(v for v in verdicts if v.material_id not in again)
    store.upsert_candidates(
        judged_again(again[v.material_id], v) for v in verdicts if v.material_id in again
    )


def judged_again(candidate: CandidateDoc, verdict: Verdict) -> CandidateDoc:
    """A candidate with the verdict of the second model, whose domain is another one.

    Parameters
    ----------
    candidate : CandidateDoc
    verdict : Verdict
        If it is a failure, the first verdict stays, with the reason as a remark.
    """
    if verdict.state == "failed":
        return _refused(candidate, verdict.model_id or "", verdict.reason or "")
    return with_verdict(candidate, verdict)


def _refused(candidate: CandidateDoc, model: str, reason: str) -> CandidateDoc:
    """A candidate that keeps its first verdict, and says why."""
    remarks = [*(candidate.remarks or ()), not_judged_again(model_name(model), reason)]
    return candidate.model_copy(update={"state": "screened", "remarks": remarks})


def rescoring_counts(store: ScreeningStore, run: Run) -> dict[str, int]:
    """What the second model did to the verdicts of the first; nothing for a run without one.

    Parameters
    ----------
    store : ScreeningStore
    run : Run

    Returns
    -------
    dict
        Candidates that were `rescored`; of them those that no longer are positive (`lost`) and
        that are now (`won`), all others being confirmed; and those that were `refused`, which keep
        the first verdict.
    """
    if run.second_model_id is None:
        return {}

    def count(model: str | None, was: bool | None = None, **equal: bool | str) -> int:
        first = Condition("first_verdict", "!=", None)
        if was is not None:
            first = Condition("first_verdict.is_positive", "==", was)
        asked = conditions(run_id=run.run_id, model_id=model, **equal)
        return store.count(Query(CANDIDATES, (*asked, first)))

    return {
        "rescored": count(run.second_model_id),
        "lost": count(run.second_model_id, was=True, is_positive=False),
        "won": count(run.second_model_id, was=False, is_positive=True),
        "refused": count(run.model_id, state="screened"),
    }
