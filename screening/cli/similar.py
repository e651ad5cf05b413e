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
) -> None:
    """List the materials with the spectra nearest to that of a material, by the same model."""
    from db.queries import nearest_spectra
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.rows import NeighbourRow, deliver
    from screening.cli.show import find_candidate, find_prediction
    from screening.errors import ScreeningError

    with open_store(existing(db)) as store:
        candidate = find_candidate(store, find_run(store, run).run_id, material_id)
        prediction = find_prediction(store, candidate)
        if prediction is None:
            raise ScreeningError(f"{material_id} has no predicted spectrum ({candidate.state})")
        nearest = nearest_spectra(
            store,
            prediction.spectrum,
            prediction.grid,
            model_id=prediction.model_id,
            metric=metric,
            limit=limit + 1,
        )
    others = [NeighbourRow.of(n) for n in nearest if n.prediction.key != prediction.key][:limit]
    unit = "eV" if metric == "wasserstein" else "states/eV"
    title = f"Spectra like that of {candidate.formula} ({material_id}), by {prediction.model_id}"
    deliver(NeighbourRow, others, lambda: _table(title, unit, others), out, as_json)


def _table(title: str, unit: str, rows: Sequence[NeighbourRow]) -> Any:
    from screening.cli.console import table

    columns = (f"distance {unit}", "material", "formula", "atoms", "VB gap", "from eV", "to eV")
    cells = [
        (
            f"{row.distance:.4f}",
            row.material_id,
            row.formula,
            row.nsites,
            row.is_gap,
            row.gap_lower_edge,
            row.gap_upper_edge,
            row.score,
        )
        for row in rows
    ]
    return table(title, (*columns, "score eV"), cells)
