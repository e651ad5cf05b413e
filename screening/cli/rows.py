"""What the commands list: flat rows for the screen, for machines and for files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from db.documents import CandidateDoc, GapDoc, PredictionDoc, Run, ValidationDoc
    from db.questions import Comparison, Neighbour
    from db.store import History

MP_IDS = ("mp-", "mvc-")


@dataclass(frozen=True)
class CandidateRow:
    """A candidate of a run; energies in eV, `energy_above_hull` in eV/atom."""

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
    is_positive: bool | None
    is_positive_per_atom: bool | None
    out_of_domain: bool | None
    unseen_elements: list[str] | None
    has_isolated_atoms: bool | None
    remarks: list[str] | None
    doubts: list[str]
    state: str
    reason: str | None
    model_id: str | None
    structure_hash: str | None
    run_id: str
    source: str | None
    database_version: str | None
    last_updated: str | None
    attribution: str | None

    @classmethod
    def of(cls, candidate: CandidateDoc, run: Run) -> Self:
        """Row of a candidate."""
        from screening.domain import doubts

        gap = candidate.gap
        return cls(
            material_id=candidate.material_id,
            formula=candidate.formula,
            chemsys=candidate.chemsys,
            nsites=candidate.nsites,
            cell_multiplicity=candidate.cell_multiplicity,
            reduction_problem=candidate.reduction_problem,
            energy_above_hull=candidate.energy_above_hull,
            band_gap=candidate.band_gap,
            **_gap(gap),
            gap_width_is_lower_bound=gap.is_lower_bound if gap else None,
            gap_max_dos=gap.max_dos if gap else None,
            gap_kind=gap.kind if gap else None,
            gap_robust=gap.robust if gap else None,
            gap_n_ranges=gap.n_ranges if gap else None,
            **_margins(gap),
            score=candidate.score,
            is_positive=candidate.is_positive,
            is_positive_per_atom=candidate.is_positive_per_atom,
            out_of_domain=candidate.out_of_domain,
            unseen_elements=candidate.unseen_elements,
            has_isolated_atoms=candidate.has_isolated_atoms,
            remarks=candidate.remarks,
            doubts=doubts(candidate),
            state=candidate.state,
            reason=candidate.reason,
            model_id=candidate.model_id,
            structure_hash=candidate.structure_hash,
            run_id=run.run_id,
            source=candidate.origin.get("source"),
            database_version=candidate.origin.get("database_version"),
            last_updated=candidate.origin.get("last_updated"),
            attribution=attribution_of(candidate.material_id, run),
        )


@dataclass(frozen=True)
class DisagreementRow:
    """A material that the model and DFT judge differently; energies in eV."""

    material_id: str
    formula: str
    nsites: int
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
        """Row of a comparison."""
        candidate, validation = pair.candidate, pair.validation
        return cls(
            material_id=candidate.material_id,
            formula=candidate.formula,
            nsites=candidate.nsites,
            predicted_positive=candidate.is_positive,
            dft_positive=validation.is_positive,
            predicted_width=_gap(candidate.gap)["gap_width"],
            dft_width=_gap(validation.gap)["gap_width"],
            score=candidate.score,
            mae=validation.mae,
            wd=validation.wd,
            model_id=candidate.model_id,
            engine=validation.engine,
            recipe=validation.recipe,
            run_id=run.run_id,
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
    is_gap: bool
    score: float
    model_id: str
    structure_hash: str
    attribution: str | None

    @classmethod
    def of(cls, neighbour: Neighbour) -> Self:
        """Row of a neighbour."""
        prediction = neighbour.prediction
        return cls(
            distance=neighbour.distance,
            material_id=prediction.material_id,
            formula=prediction.formula,
            nsites=prediction.nsites,
            **_gap(prediction.gap),
            is_gap=prediction.gap.is_gap,
            score=prediction.score,
            model_id=prediction.model_id,
            structure_hash=prediction.structure_hash,
            attribution=attribution_of(prediction.material_id),
        )


@dataclass(frozen=True)
class HistoryRow:
    """Something that happened to a material: it was in a run, predicted, or calculated.

    `by` is the run's source, the model, or the engine and its recipe.
    """

    time: datetime | None
    what: str
    by: str | None
    run_id: str | None
    state: str | None
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
        return cls(
            time=run.created_at if run else None,
            what="candidate",
            by=candidate.origin.get("source"),
            run_id=candidate.run_id,
            state=candidate.state,
            is_positive=candidate.is_positive,
            **_gap(candidate.gap),
            structure_hash=candidate.structure_hash,
            remark=candidate.reason,
            attribution=attribution_of(candidate.material_id, run),
        )

    @classmethod
    def _prediction(cls, prediction: PredictionDoc) -> Self:
        return cls(
            time=prediction.created_at,
            what="prediction",
            by=prediction.model_id,
            run_id=None,
            state=None,
            is_positive=prediction.gap.is_gap,
            **_gap(prediction.gap),
            structure_hash=prediction.structure_hash,
            remark=None,
            attribution=attribution_of(prediction.material_id),
        )

    @classmethod
    def _validation(cls, validation: ValidationDoc) -> Self:
        return cls(
            time=validation.created_at,
            what="validation",
            by=f"{validation.engine} {validation.recipe}",
            run_id=", ".join(validation.run_ids) or None,
            state=validation.state,
            is_positive=validation.is_positive,
            **_gap(validation.gap),
            structure_hash=validation.structure_hash,
            remark=validation.error,
            attribution=attribution_of(validation.material_id),
        )


@dataclass(frozen=True)
class RunRow:
    """A run and what became of its candidates."""

    run_id: str
    state: str
    source: str | None
    database_version: str | None
    model_id: str | None
    rejected: int
    pending: int
    failed: int
    screened: int
    positive: int | None
    created_at: datetime
    finished_at: datetime | None
    error: str | None
    attribution: str | None

    @classmethod
    def of(cls, run: Run, states: dict[str, int]) -> Self:
        """Row of a run whose candidates are in these states."""
        return cls(
            run_id=run.run_id,
            state=run.state,
            source=run.source.get("name"),
            database_version=run.source.get("database_version"),
            model_id=run.model_id,
            rejected=states.get("rejected", 0),
            pending=states.get("pending", 0),
            failed=states.get("failed", 0),
            screened=states.get("screened", 0),
            positive=run.counts.get("positive"),
            created_at=run.created_at,
            finished_at=run.finished_at,
            error=run.error,
            attribution=run.source.get("attribution"),
        )


Row = CandidateRow | DisagreementRow | NeighbourRow | HistoryRow | RunRow


def _gap(gap: GapDoc | None) -> dict[str, float | None]:
    names = ("lower_edge", "upper_edge", "width")
    return {f"gap_{name}": getattr(gap, name) if gap else None for name in names}


def _margins(gap: GapDoc | None) -> dict[str, float | None]:
    from db.documents import MarginsDoc

    margins = (gap and gap.margins) or MarginsDoc()
    return {f"gap_margin_{name}": value for name, value in margins.model_dump().items()}


def attribution_of(material_id: str, run: Run | None = None) -> str | None:
    """How the source of a material wants to be cited.

    What the source itself said when the run was made; an id of the Materials Project says it
    where the source did not.
    """
    from screening.sources.materials_project.client import ATTRIBUTION

    stated = run.source.get("attribution") if run else None
    return stated or (ATTRIBUTION if material_id.startswith(MP_IDS) else None)


def cell_in_words(nsites: int, multiplicity: int | None, problem: str | None) -> str:
    """What became of the cell that the source gave; `nsites` of the one that was judged."""
    if problem is not None:
        return f"kept as given: {problem}"
    if multiplicity is None:
        return "not reduced"
    if multiplicity == 1:
        return "primitive"
    return f"given with {nsites * multiplicity} atoms, reduced to 1/{multiplicity}"


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

        write_table(to_dataframe(rows, columns=[field.name for field in fields(kind)]), out)
        stderr().print(f"{len(rows)} rows in {out}")
    elif as_json:
        print_json([asdict(row) for row in rows])
    else:
        stdout(wide).print(table())
    for attribution in sorted({row.attribution for row in rows if row.attribution}):
        stderr().print(attribution)
