"""`screen history` and `screen runs`: what has been done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from screening.cli.rows import HistoryRow, RunRow


def history(
    material_id: Annotated[str, typer.Argument(help="Id of a material.")],
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List what all runs, models and calculations say of a material, oldest first."""
    from db.open import open_store
    from screening.cli.candidates import existing
    from screening.cli.rows import HistoryRow, deliver
    from screening.errors import ScreeningError

    with open_store(existing(db)) as store:
        rows = HistoryRow.all_of(store.history(material_id))
        if not rows:
            raise ScreeningError(f"{store.location} holds nothing of {material_id}")
    deliver(HistoryRow, rows, lambda: _history_table(material_id, rows), out, as_json, wide)


def _history_table(material_id: str, rows: Sequence[HistoryRow]) -> Any:
    from screening.cli.console import table
    from screening.cli.fitting_table import Column

    columns = (
        Column("when", 1),
        Column("what"),
        Column("by", 5),
        Column("run"),
        Column("state", 2),
        Column("VB gap", 2),
        Column("from eV", 3),
        Column("to eV", 3),
        Column("remark", 4, folds=True),
    )
    cells = [
        (
            f"{row.time:%Y-%m-%d %H:%M}" if row.time else None,
            row.what,
            row.by,
            row.run_id,
            row.state,
            row.is_positive,
            row.gap_lower_edge,
            row.gap_upper_edge,
            row.remark,
        )
        for row in rows
    ]
    return table(f"{material_id} (times in UTC)", columns, cells)


def runs(
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the runs with their states and counts, newest first."""
    from db.open import open_store
    from screening.cli.candidates import existing
    from screening.cli.rows import RunRow, deliver

    with open_store(existing(db)) as store:
        rows = [RunRow.of(run, store.candidate_counts(run.run_id)) for run in store.runs()]
    deliver(RunRow, rows, lambda: _runs_table(rows), out, as_json, wide)


def _runs_table(rows: Sequence[RunRow]) -> Any:
    from screening.cli.console import ago, table
    from screening.cli.fitting_table import Column

    columns: tuple[Column, ...] = (
        Column("run"),
        Column("begun", 2),
        Column("state"),
        Column("source", 3),
        Column("rejected", 6),
        Column("failed", 4),
        Column("pending", 5),
        Column("screened", 2),
        Column("positive", 1),
    )
    if any(row.error for row in rows):
        columns += (Column("error", 1, folds=True),)
    cells = [
        (
            row.run_id,
            ago(row.created_at),
            row.state,
            " ".join(filter(None, (row.source, row.database_version))),
            row.rejected,
            row.failed,
            row.pending,
            row.screened,
            row.positive,
            row.error,
        )[: len(columns)]
        for row in rows
    ]
    return table(f"{len(rows)} runs", columns, cells)
