"""`screen similar`: materials whose predicted spectra are near that of a given one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options

if TYPE_CHECKING:
    from screening.cli.rows import NeighbourRow


def similar(
    material_id: Annotated[str, typer.Argument(help="Id of a material.")],
    run: options.RunId = None,
    metric: Annotated[
        Literal["wasserstein", "mae"],
        typer.Option(help="wasserstein compares the shapes, mae the values."),
    ] = "wasserstein",
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 10,
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the materials with the spectra nearest to that of a material, by the same model.

    The material is taken from the newest run that predicted its spectrum.
    """
    from db.open import open_store
    from db.questions import nearest_spectra
    from screening.cli.console import stderr
    from screening.cli.rows import NeighbourRow, deliver
    from screening.cli.stored import existing, in_runs
    from screening.errors import ScreeningError
    from workflows.reporting import find_predictions

    with open_store(existing(db)) as store:
        having = in_runs(store, run, material_id)
        predicted = (
            (run, c, p) for run, c in having for p in find_predictions(store, [c]).values()
        )
        if (newest := next(predicted, None)) is None:
            states = ", ".join(f"{candidate.state} in {run.run_id}" for run, candidate in having)
            raise ScreeningError(f"{material_id} has no predicted spectrum: {states}")
        of_run, candidate, prediction = newest
        nearest = nearest_spectra(
            store,
            prediction.spectrum,
            prediction.grid,
            model_id=prediction.model_id,
            metric=metric,
            limit=limit + 1,
        )
    others = [NeighbourRow.of(n) for n in nearest if n.prediction.key != prediction.key][:limit]
    unit = prediction.grid.unit
    if metric == "mae":
        unit = "states/eV/cell" if unit == "eV" else "on any scale"
    title = f"Spectra by {prediction.model_id} like that of {candidate.formula}, {material_id}"
    stderr().print(f"{material_id} as in run {of_run.run_id}")
    deliver(NeighbourRow, others, lambda: _table(title, unit, others), out, as_json, wide)


def _table(title: str, unit: str, rows: Sequence[NeighbourRow]) -> Any:
    from screening.cli.console import table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("material"): "material_id",
        Column("formula", 1): "formula",
        Column(f"distance {unit}"): lambda row: f"{row.distance:.4f}",
        Column("atoms", 5): "nsites",
    }
    of_gap: dict[Column, Any] = {
        Column("VB gap", 2): "is_gap",
        Column("from eV", 3): "gap_lower_edge",
        Column("to eV", 3): "gap_upper_edge",
        Column("score eV", 4): "score",
    }
    judged = any(row.is_gap is not None for row in rows)
    return table_of(title, columns | (of_gap if judged else {}), rows)
