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
    limit: options.Limit = None,
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List what all runs, models and calculations say of a material, oldest first.

    Of more than --limit these are the newest.
    """
    from db.open import open_store
    from screening.cli.rows import HistoryRow, deliver, rows_at_most, whether_more
    from screening.cli.stored import existing
    from screening.errors import ScreeningError

    limit = rows_at_most(limit, out, as_json)
    most = None if limit is None else limit + 1  # to know whether there are more
    with open_store(existing(db)) as store:
        told = HistoryRow.all_of(store.history(material_id, most))
        if not told:
            raise ScreeningError(f"{store.location} holds nothing of {material_id}")
    rows = told if limit is None else told[-limit:]
    title = f"{material_id} (times in UTC){whether_more(told, rows, 'older ones')}"
    deliver(HistoryRow, rows, lambda: _history_table(title, rows), out, as_json, wide)


def _history_table(title: str, rows: Sequence[HistoryRow]) -> Any:
    from screening.cli.console import table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("when", 1): lambda row: f"{row.time:%Y-%m-%d %H:%M}" if row.time else None,
        Column("what"): "what",
        Column("by", 5): "by",
        Column("run"): "run_id",
        Column("state", 2): "state",
        Column("positive", 2): "is_positive",
        **_criterion_column(rows),
        Column("from eV", 3): "gap_lower_edge",
        Column("to eV", 3): "gap_upper_edge",
        Column("remark", 4, folds=True): "remark",
    }
    return table_of(title, columns, rows)


def _criterion_column(rows: Sequence[HistoryRow] | Sequence[RunRow]) -> dict[Any, Any]:
    """By what was judged, if not all by the VB gap."""
    from screening.cli.fitting_table import Column

    names = {row.criterion for row in rows} - {None, "vb-gap"}
    return {Column("criterion", 2): "criterion"} if names else {}


def runs(
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the runs with their states and counts, newest first."""
    from db.collections import CANDIDATES, Query, conditions
    from db.open import open_store
    from screening.cli.rows import RunRow, deliver
    from screening.cli.stored import existing

    with open_store(existing(db)) as store:
        rows = [
            RunRow.of(
                run,
                store.candidate_counts(run.run_id),
                store.count_by(
                    Query(CANDIDATES, conditions(run_id=run.run_id, is_positive=True)), "in_domain"
                ),
            )
            for run in store.runs()
        ]
    deliver(RunRow, rows, lambda: _runs_table(rows), out, as_json, wide)


def _runs_table(rows: Sequence[RunRow]) -> Any:
    from screening.cli.console import ago, table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("run"): "run_id",
        Column("begun", 2): lambda row: ago(row.created_at),
        Column("state"): "state",
        **_criterion_column(rows),
        Column("source", 3): lambda row: " ".join(filter(None, (row.source, row.database_version))),
        Column("rejected", 6): "rejected",
        Column("failed", 4): "failed",
        Column("pending", 5): "pending",
        Column("screened", 2): "screened",
        Column("positive", 1): "positive",
        Column("in domain", 4): "positive_in_domain",
    }
    if any(row.error for row in rows):
        columns[Column("error", 1, folds=True)] = "error"
    return table_of(f"{len(rows)} runs", columns, rows)
