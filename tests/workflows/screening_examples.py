"""Materials that are screened in a second, and what of them cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from db.open import open_store
from tests.conftest import crystal_row
from workflows.local import run_flow
from workflows.screening import ScreeningFlowMaker


def good_rows(n: int = 7) -> list[dict[str, Any]]:
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Sn", "Te")]
    return [crystal_row(f"m-{i}", 3.3 + 0.1 * i, pairs[i % len(pairs)]) for i in range(n)]


BAD_ROWS = [
    crystal_row("overlap", 3.0, ["Na", "Cl"], frac_coords=[0, 0, 0, 0, 0, 0.01]),
    crystal_row("isolated", 30.0, ["Ar"]),
    crystal_row("superheavy", 4.0, ["Og", "Na"]),
]
REJECTED_ROWS = [
    crystal_row("above-hull", 4.0, ["Na", "Cl"], energy_above_hull=0.7),
    crystal_row("insulator", 4.0, ["Na", "Cl"], band_gap=5.0),
    crystal_row("five-elements", 6.0, ["Na", "Cl", "Mg", "O", "K"]),
]
UNREADABLE_ROWS = [crystal_row("nan", 4.0, ["Na"], frac_coords=[float("nan"), 0, 0])]


def run(maker: ScreeningFlowMaker, run_id: str | None = None) -> dict[str, Any]:
    """Run the maker's flow here; what `finish` says of it."""
    summary: dict[str, Any] = run_flow(maker.make(run_id))
    return summary


def documents(db: str, run_id: str) -> dict[str, dict[str, Any]]:
    """All that a store has of a run's candidates, by their ids."""
    with open_store(db) as store:
        found = store.candidates(run_id, with_structure=True)
        return {c.material_id: c.model_dump(exclude={"run_id"}) for c in found}


class StoppedError(Exception):
    """Something came in between."""


def screening_maker(folder: Path, structure_table: Callable[..., Path]) -> ScreeningFlowMaker:
    """Maker of runs over all of these materials, in shards of three, by one model."""
    table = structure_table(good_rows() + BAD_ROWS + REJECTED_ROWS + UNREADABLE_ROWS)
    db = str(folder / "s.sqlite")
    return ScreeningFlowMaker(db=db, source=str(table), shard_size=3, rescore=0)
