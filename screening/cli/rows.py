"""What the commands list: flat rows for the screen, for machines and for files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from screening.cli import options
from screening.report.words import attribution_of, criterion_name, first_verdict_in_words

if TYPE_CHECKING:
    from db.documents import CandidateDoc, GapDoc, PredictionDoc, RoundDoc, Run, ValidationDoc
    from db.questions import Comparison, Neighbour
    from db.store import History

EDGES = ("lower_edge", "upper_edge", "width")


@dataclass(frozen=True)
class CandidateRow:
    """A candidate of a run; energies and errors in eV, `energy_above_hull` in eV/atom.

    `gap_max_dos` and its margin are in states/eV/cell, or for an atom if the threshold is.
    """

    material_id: str
    formula: str
    chemsys: str
    nsites: int
    cell_multiplicity: int | None
    reduction_problem: str | None
    energy_above_hull: float | None
    band_gap: float | None
    gap_lower_edge: float | None
    gap_upper_edge: float | None
    gap_width: float | None
    gap_width_is_lower_bound: bool | None
    gap_max_dos: float | None
    gap_kind: str | None
    gap_robust: bool | None
    gap_n_ranges: int | None
    gap_margin_max_dos: float | None
    gap_margin_min_width: float | None
    gap_margin_min_upper_edge: float | None
    gap_margin_max_upper_edge: float | None
    score: float | None
    probability: float | None
    expected_error: float | None
    criterion: str | None
    features: dict[str, Any] | None
    is_positive: bool | None
    is_positive_per_atom: bool | None
    out_of_domain: bool | None
    in_domain: str | None
    training_percentile: float | None
    unseen_elements: list[str] | None
    has_isolated_atoms: bool | None
    remarks: list[str] | None
    doubts: list[str]
    state: str
    reason: str | None
    model_id: str | None
    first_model_id: str | None
    first_is_positive: bool | None
    first_score: float | None
    structure_hash: str | None
    run_id: str
    source: str | None
    database_version: str | None
    last_updated: str | None
    attribution: str | None

    @classmethod
    def of(cls, candidate: CandidateDoc, run: Run) -> Self:
        """Row of a candidate.

        Parameters
        ----------
        candidate : CandidateDoc
        run : Run
            That it is in.
        """
        from screening.domain import doubts

        gap, first = candidate.gap, candidate.first_verdict
        names = ("source", "database_version", "last_updated")
        origin: dict[str, Any] = {name: candidate.origin.get(name) for name in names}
        return cls(
            **_same(cls, candidate),
            **_gap(gap, *EDGES, "max_dos", "kind", "robust", "n_ranges"),
            **_margins(gap),
            gap_width_is_lower_bound=gap.is_lower_bound if gap else None,
            first_model_id=first.model_id if first else None,
            first_is_positive=first.is_positive if first else None,
            first_score=first.score if first else None,
            doubts=doubts(candidate),
            **origin,
            attribution=attribution_of(candidate.material_id, run),
        )


@dataclass(frozen=True)
class DisagreementRow:
    """A material that the model and DFT judge differently; energies in eV.

    `mae` and `wd` are None where DFT was compared with the prediction of another model.
    """

    material_id: str
    formula: str
    nsites: int
    criterion: str | None
    predicted_positive: bool | None
    dft_positive: bool | None
    predicted_width: float | None
    dft_width: float | None
    score: float | None
    mae: float | None
    wd: float | None
    model_id: str | None
    engine: str
    recipe: str
    run_id: str
    attribution: str | None

    @classmethod
    def of(cls, pair: Comparison, run: Run) -> Self:
        """Row of a comparison.

        Parameters
        ----------
        pair : Comparison
        run : Run
            That the candidate is in.
        """
        candidate, validation = pair.candidate, pair.validation
        return cls(
            **_same(cls, validation) | _same(cls, candidate),
            predicted_positive=candidate.is_positive,
            dft_positive=validation.is_positive,
            predicted_width=candidate.gap.width if candidate.gap else None,
            dft_width=validation.gap.width if validation.gap else None,
            attribution=attribution_of(candidate.material_id, run),
        )


@dataclass(frozen=True)
class NeighbourRow:
    """A predicted spectrum near another one; `distance` as in `db.questions.Neighbour`."""

    distance: float
    material_id: str
    formula: str
    nsites: int
    gap_lower_edge: float | None
    gap_upper_edge: float | None
    gap_width: float | None
    is_gap: bool | None
    score: float | None
    model_id: str
    structure_hash: str
    attribution: str | None

    @classmethod
    def of(cls, neighbour: Neighbour) -> Self:
        """Row of a neighbour."""
        prediction = neighbour.prediction
        return cls(
            **_same(cls, prediction),
            **_gap(prediction.gap, *EDGES),
            distance=neighbour.distance,
            is_gap=prediction.gap.is_gap if prediction.gap else None,
            attribution=attribution_of(prediction.material_id),
        )


@dataclass(frozen=True)
class HistoryRow:
    """Something that happened to a material: it was in a run, predicted, or calculated.

    `by` is the run's source, the model, or the engine and its recipe. The `criterion` that judged
    it is None for the VB gap.
    """

    time: datetime | None
    what: str
    by: str | None
    run_id: str | None
    state: str | None
    criterion: str | None
    is_positive: bool | None
    gap_lower_edge: float | None
    gap_upper_edge: float | None
    gap_width: float | None
    structure_hash: str | None
    remark: str | None
    attribution: str | None

    @classmethod
    def all_of(cls, history: History) -> list[Self]:
        """Rows of a history, oldest first."""
        runs = {run.run_id: run for run in history.runs}
        rows = [cls._candidate(c, runs.get(c.run_id)) for c in history.candidates]
        rows += [cls._prediction(p) for p in history.predictions]
        rows += [cls._validation(v) for v in history.validations]
        return sorted(rows, key=lambda row: row.time.timestamp() if row.time else 0.0)

    @classmethod
    def _candidate(cls, candidate: CandidateDoc, run: Run | None) -> Self:
        return cls._of(
            candidate,
            run,
            time=run.created_at if run else None,
            what="candidate",
            by=candidate.origin.get("source"),
            run_id=candidate.run_id,
            state=candidate.state,
            is_positive=candidate.is_positive,
            remark=candidate.reason or first_verdict_in_words(candidate),
        )

    @classmethod
    def _prediction(cls, prediction: PredictionDoc) -> Self:
        return cls._of(
            prediction,
            time=prediction.created_at,
            what="prediction",
            by=prediction.model_id,
            is_positive=prediction.gap.is_gap if prediction.gap else None,
        )

    @classmethod
    def _validation(cls, validation: ValidationDoc) -> Self:
        return cls._of(
            validation,
            time=validation.created_at,
            what="validation",
            by=f"{validation.engine} {validation.recipe}",
            run_id=", ".join(validation.run_ids) or None,
            state=validation.state,
            is_positive=validation.is_positive,
            remark=validation.error,
        )

    @classmethod
    def _of(
        cls,
        document: CandidateDoc | PredictionDoc | ValidationDoc,
        run: Run | None = None,
        **happened: Any,
    ) -> Self:
        from db.documents import PredictionDoc

        unknown: dict[str, Any] = dict.fromkeys(("run_id", "state", "remark"))
        return cls(
            **unknown | happened,
            **_gap(document.gap, *EDGES),
            criterion=None if isinstance(document, PredictionDoc) else document.criterion,
            structure_hash=document.structure_hash,
            attribution=attribution_of(document.material_id, run),
        )


@dataclass(frozen=True)
class RunRow:
    """A run and what became of its candidates."""

    run_id: str
    state: str
    source: str | None
    database_version: str | None
    criterion: str
    model_id: str | None
    second_model_id: str | None
    parent: str | None
    rejected: int
    pending: int
    failed: int
    screened: int
    positive: int | None
    positive_in_domain: int | None
    created_at: datetime
    finished_at: datetime | None
    error: str | None
    attribution: str | None

    @classmethod
    def of(cls, run: Run, states: dict[str, int], domains: dict[str | None, int]) -> Self:
        """Row of a run whose candidates are in these states.

        Parameters
        ----------
        run : Run
        states : dict of str to int
            Candidates in each state.
        domains : dict of str or None to int
            Positives by their `in_domain`.
        """
        named = ("rejected", "pending", "failed", "screened")
        counts = {name: states.get(name, 0) for name in named}
        of_source = {
            "source": run.source.get("name"),
            "database_version": run.source.get("database_version"),
            "attribution": run.source.get("attribution"),
        }
        is_known = set(domains) - {None}
        return cls(
            **_same(cls, run) | counts | of_source,
            criterion=criterion_name(run),
            positive=run.counts.get("positive"),
            positive_in_domain=domains.get("yes", 0) if is_known else None,
        )


@dataclass(frozen=True)
class RoundRow:
    """A round of a search; `wd` in eV, `mae` in states/eV/cell, of the same test materials."""

    run_id: str
    number: str
    state: str
    chosen_in: str
    chosen_by: str
    chosen: list[str]
    controls: list[str]
    engine: str
    recipe: str
    n_calculated: int
    n_found: int
    found: list[str]
    n_learned: int
    n_kept_out: int
    left_out: list[str]
    wd_before: float | None
    wd_after: float | None
    wd_difference: float | None
    wd_difference_error: float | None
    mae_before: float | None
    mae_after: float | None
    mae_difference: float | None
    mae_difference_error: float | None
    is_kept: bool | None
    model_id: str
    new_model_id: str | None
    checkpoint: str | None
    next_run_id: str
    remark: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None
    attribution: str | None

    @classmethod
    def of(cls, document: RoundDoc, run: Run) -> Self:
        """Row of a round.

        Parameters
        ----------
        document : RoundDoc
        run : Run
            Among whose candidates it chose.
        """
        learned = document.learned
        figures: dict[str, Any] = {}
        for name in ("wd", "mae"):
            for when in ("before", "after", "difference"):
                figures[f"{name}_{when}"] = getattr(getattr(document, when), name, None)
            error = getattr(document.difference, f"{name}_error", None)
            figures[f"{name}_difference_error"] = error
        return cls(
            **_same(cls, document),
            **figures,
            chosen_by="hand" if document.choice is None else str(document.choice.get("strategy")),
            n_found=len(document.found),
            n_learned=learned.get("training", 0) + learned.get("validation", 0),
            n_kept_out=learned.get("test", 0),
            attribution=run.source.get("attribution"),
        )


Row = CandidateRow | DisagreementRow | NeighbourRow | HistoryRow | RunRow | RoundRow


def _same(row: type[Row], document: Any) -> dict[str, Any]:
    """Fields of a row that the document has under the same name."""
    names = (field.name for field in fields(row))
    return {name: getattr(document, name) for name in names if hasattr(document, name)}


def _gap(gap: GapDoc | None, *names: str) -> dict[str, Any]:
    return {f"gap_{name}": getattr(gap, name) if gap else None for name in names}


def _margins(gap: GapDoc | None) -> dict[str, Any]:
    from db.documents import MarginsDoc

    margins = (gap and gap.margins) or MarginsDoc()
    return {f"gap_margin_{name}": value for name, value in margins.model_dump().items()}


def rows_at_most(limit: int | None, out: Path | None, as_json: bool) -> int | None:
    """How many rows a list has at most: as `--limit` says, else as many as suit a screen.

    Parameters
    ----------
    limit : int or None
    out : Path or None
    as_json : bool
    """
    if limit is None and out is None and not as_json:
        return options.ROWS
    return limit


def whether_more(asked: Sequence[Any], shown: Sequence[Any], what: str = "more") -> str:
    """End of a list's title, which says that the limit has left something out.

    Parameters
    ----------
    asked, shown : sequence
    what : str
        Was left out.

    Examples
    --------
    >>> whether_more("abc", "ab")
    ', and there are more (--limit)'
    """
    return f", and there are {what} (--limit)" if len(asked) > len(shown) else ""


def deliver(
    kind: type[Row],
    rows: Sequence[Row],
    table: Callable[[], Any],
    out: Path | None,
    as_json: bool,
    wide: bool = False,
) -> None:
    """Write rows to a .csv, .json or .parquet file, or print them as JSON or as a table.

    Parameters
    ----------
    kind : type
        Of the rows, for the columns of an empty table.
    rows : sequence
    table : callable
        Makes the table for the screen.
    out : Path or None
    as_json : bool
    wide : bool
        Leave no column of the table out, however narrow the terminal is.
    """
    from screening.cli.console import print_json, stderr, stdout

    if out is not None:
        from db.tables import to_dataframe, write_table

        write_table(to_dataframe(rows, kind=kind), out)
        stderr().print(f"{len(rows)} rows in {out}")
    elif as_json:
        print_json([asdict(row) for row in rows])
    else:
        stdout(wide).print(table())
    for attribution in sorted({row.attribution for row in rows if row.attribution}):
        stderr().print(attribution)
