"""`screen candidates`: what a run found, filtered and sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import CandidateDoc, Run
    from db.questions import Range
    from db.store import ScreeningStore
    from screening.cli.rows import CandidateRow, DisagreementRow

T = TypeVar("T")

Sortable = Literal[
    "score",
    "width",
    "kind",
    "robust",
    "n_ranges",
    "margin_max_dos",
    "margin_min_width",
    "margin_min_upper_edge",
    "margin_max_upper_edge",
    "energy_above_hull",
    "band_gap",
    "nsites",
    "formula",
    "material_id",
]
SORTABLE: dict[Sortable, str] = {
    "score": "score",
    "width": "gap.width",
    "kind": "gap.kind",
    "robust": "gap.robust",
    "n_ranges": "gap.n_ranges",
    "margin_max_dos": "gap.margins.max_dos",
    "margin_min_width": "gap.margins.min_width",
    "margin_min_upper_edge": "gap.margins.min_upper_edge",
    "margin_max_upper_edge": "gap.margins.max_upper_edge",
    "energy_above_hull": "energy_above_hull",
    "band_gap": "band_gap",
    "nsites": "nsites",
    "formula": "formula",
    "material_id": "material_id",
}
ROWS = 50  # on the screen
NAMED = 10  # runs that an error names

_FILTERS = "Filters"


def candidates(
    run: options.RunId = None,
    positive: Annotated[
        bool, typer.Option("--positive/--all", help="Only the predicted positives.")
    ] = True,
    to_validate: Annotated[
        bool, typer.Option("--to-validate", help="Positives without a DFT calculation, best first.")
    ] = False,
    disagreements: Annotated[
        bool,
        typer.Option("--disagreements", help="Those that the model and DFT judge differently."),
    ] = False,
    state: Annotated[
        Literal["pending", "screened", "rejected", "failed"] | None,
        typer.Option(rich_help_panel=_FILTERS, help="Implies --all."),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(rich_help_panel=_FILTERS, help="All of these must be there: Mg,Si."),
    ] = None,
    exclude_elements: Annotated[
        str | None, typer.Option(rich_help_panel=_FILTERS, help="None of these may: U,Th.")
    ] = None,
    chemsys: Annotated[
        str | None, typer.Option(rich_help_panel=_FILTERS, help="Exactly this system: Mg-Si.")
    ] = None,
    max_ehull: Annotated[
        float | None,
        typer.Option(rich_help_panel=_FILTERS, help="Largest energy above hull, eV/atom."),
    ] = None,
    min_width: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Smallest width of the gap, eV.")
    ] = None,
    min_upper_edge: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Lowest upper edge, eV.")
    ] = None,
    max_upper_edge: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Highest upper edge, eV.")
    ] = None,
    kind: Annotated[
        Literal["gap", "near-gap"] | None,
        typer.Option(rich_help_panel=_FILTERS, help="A gap is nearly empty, a near-gap low."),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", rich_help_panel=_FILTERS, help="Only verdicts that small changes keep."
        ),
    ] = False,
    max_ranges: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=_FILTERS, help="Most ranges of that width below the band edge."
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Smallest score, eV.")
    ] = None,
    in_domain: Annotated[
        bool | None,
        typer.Option(
            "--in-domain/--out-of-domain",
            rich_help_panel=_FILTERS,
            help="Only those that the model can know, or only the others: elements that it was "
            "not trained on, isolated atoms.",
        ),
    ] = None,
    sort: Annotated[Sortable, typer.Option(help="What to sort by.")] = "score",
    ascending: Annotated[bool, typer.Option("--ascending/--descending")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Rows at most; {ROWS} on the screen, else all by default."),
    ] = None,
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the candidates of a run."""
    from db.open import open_store
    from screening.cli.rows import CandidateRow, DisagreementRow, deliver
    from screening.errors import ScreeningError

    if to_validate and disagreements:
        raise ScreeningError("--to-validate and --disagreements ask for different things")
    filters = _filters(
        state,
        elements,
        exclude_elements,
        chemsys,
        kind,
        robust,
        in_domain,
        energy_above_hull=(None, max_ehull),
        width=(min_width, None),
        upper_edge=(min_upper_edge, max_upper_edge),
        n_ranges=(None, max_ranges),
        score=(min_score, None),
    )
    if limit is None and out is None and not as_json:
        limit = ROWS
    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        if disagreements:
            pairs = _disagreements(store, chosen, filters)[:limit]
            differing = [DisagreementRow.of(pair, chosen) for pair in pairs]
            title = f"{len(pairs)} disagreements of model and DFT in run {chosen.run_id}"
            deliver(
                DisagreementRow,
                differing,
                lambda: _disagreement_table(title, differing),
                out,
                as_json,
                wide,
            )
            return
        if to_validate:
            found = _to_validate(store, chosen, filters)
        else:
            from db.questions import find_candidates

            found = list(
                find_candidates(
                    store,
                    chosen.run_id,
                    is_positive=True if positive and state is None else None,
                    sort_by=SORTABLE[sort],
                    descending=not ascending,
                    limit=None if limit is None else limit + 1,  # to know whether there are more
                    **filters,
                )
            )
    rows = [CandidateRow.of(candidate, chosen) for candidate in found[:limit]]
    title = f"{len(rows)} candidates of run {chosen.run_id}"
    if len(found) > len(rows):
        title += ", and there are more (--limit)"
    deliver(CandidateRow, rows, lambda: candidates_table(title, rows), out, as_json, wide)


def _filters(
    state: str | None,
    elements: str | None,
    exclude_elements: str | None,
    chemsys: str | None,
    kind: str | None,
    robust: bool,
    in_domain: bool | None,
    **ranges: Range,
) -> dict[str, Any]:
    """Arguments of :func:`db.questions.find_candidates`; without those that ask nothing."""
    from screening.filters import ScreeningFilters

    checked = ScreeningFilters.from_options(
        elements=elements or "", exclude_elements=exclude_elements or "", max_elements=None
    )
    asked: dict[str, Any] = {
        "state": state,
        "elements": sorted(checked.elements),
        "exclude_elements": sorted(checked.exclude_elements),
        "chemsys": chemsys,
        "kind": kind,
        "robust": robust,
    }
    bounded: dict[str, Any] = {
        name: bounds for name, bounds in ranges.items() if bounds != (None, None)
    }
    if in_domain is not None:
        bounded["out_of_domain"] = not in_domain
    return {name: value for name, value in asked.items() if value} | bounded


def _to_validate(store: ScreeningStore, run: Run, filters: dict[str, Any]) -> list[CandidateDoc]:
    from db.questions import positives_to_validate

    found = positives_to_validate(store, run.run_id)
    return _among(store, run, filters, found, lambda candidate: candidate.material_id)


def _disagreements(store: ScreeningStore, run: Run, filters: dict[str, Any]) -> list[Any]:
    from db.questions import disagreements

    found = disagreements(store, run.run_id)
    return _among(store, run, filters, found, lambda pair: pair.candidate.material_id)


def _among(
    store: ScreeningStore,
    run: Run,
    filters: dict[str, Any],
    found: list[T],
    id_of: Callable[[T], str],
) -> list[T]:
    """Those whose candidate meets the filters, if there are any."""
    from db.questions import find_candidates

    if not filters:
        return found
    ids = {candidate.material_id for candidate in find_candidates(store, run.run_id, **filters)}
    return [item for item in found if id_of(item) in ids]


def existing(db: str) -> str:
    """The same name, if there is such a store: a command that reads makes no new file.

    Raises
    ------
    ScreeningError
        If the file does not exist.
    """
    from screening.errors import ScreeningError

    if "://" not in db and not Path(db).expanduser().exists():
        raise ScreeningError(f"{db}: no such file; `screen run` makes it, --db names another")
    return db


def find_run(store: ScreeningStore, run_id: str | None) -> Run:
    """The run whose id is this or begins with it, by default the newest one.

    Raises
    ------
    ScreeningError
        If there is none, or if several begin like that; they are named.
    """
    from screening.errors import ScreeningError

    runs = store.runs()
    if run_id is None:
        if not runs:
            raise ScreeningError(f"{store.location} holds no run yet; begin with `screen run`")
        return runs[0]
    for run in runs:
        if run.run_id == run_id:
            return run
    alike = [run for run in runs if run_id and run.run_id.startswith(run_id)]
    if len(alike) > 1:
        names = ", ".join(run.run_id for run in alike[:NAMED])
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        raise ScreeningError(f"--run {run_id}: {len(alike)} runs begin so: {names}{more}")
    return alike[0] if alike else store.run(run_id)


def candidates_table(title: str, rows: Sequence[CandidateRow]) -> Any:
    """Table for the terminal; ≥ marks a width that is a lower bound."""
    from screening.cli.console import table
    from screening.cli.fitting_table import Column

    columns: tuple[Column, ...] = (
        Column("material"),
        Column("formula", 1),
        Column("atoms", 2),
        Column("hull eV/atom", 5),
        Column("gap from eV", 6),
        Column("gap to eV", 3),
        Column("width eV", 1),
        Column("score eV", 4),
        Column("kind", 7),
        Column("robust", 8),
    )
    if any(row.doubts for row in rows):
        columns += (Column("doubts", 2, folds=True),)
    if any(row.reason for row in rows):
        columns += (Column("reason", 1, folds=True),)
    cells = (_cells(row) for row in rows)
    return table(title, columns, [[cell[column.name] for column in columns] for cell in cells])


def _cells(row: CandidateRow) -> dict[str, Any]:
    width = None
    if row.gap_width is not None:
        width = f"{'≥ ' if row.gap_width_is_lower_bound else ''}{row.gap_width:.2f}"
    return {
        "material": row.material_id,
        "formula": row.formula,
        "atoms": row.nsites,
        "hull eV/atom": row.energy_above_hull,
        "gap from eV": row.gap_lower_edge,
        "gap to eV": row.gap_upper_edge,
        "width eV": width,
        "score eV": row.score,
        "kind": row.gap_kind,
        "robust": row.gap_robust,
        "doubts": "; ".join(row.doubts) or None,
        "reason": row.reason,
    }


def _disagreement_table(title: str, rows: Sequence[DisagreementRow]) -> Any:
    from screening.cli.console import table
    from screening.cli.fitting_table import Column

    columns = (
        Column("material"),
        Column("formula", 1),
        Column("model", 1),
        Column("DFT", 1),
        Column("model's width eV", 3),
        Column("DFT's eV", 2),
        Column("score eV", 4),
        Column("calculated with", 5, folds=True),
    )
    cells = [
        (
            row.material_id,
            row.formula,
            row.predicted_positive,
            row.dft_positive,
            row.predicted_width,
            row.dft_width,
            row.score,
            f"{row.engine}, {row.recipe}",
        )
        for row in rows
    ]
    return table(title, columns, cells)
