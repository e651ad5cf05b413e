"""`screen candidates`: what a run found, filtered and sorted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import CandidateDoc, Run
    from db.store import ScreeningStore

SORTABLE = ("score", "energy_above_hull", "band_gap", "nsites", "formula", "material_id")
ATTRIBUTION = "Structures and properties of mp- ids: Materials Project (CC-BY 4.0)."


def candidates(
    run: options.RunId = None,
    positive: Annotated[
        bool, typer.Option("--positive/--all", help="Only the predicted positives.")
    ] = True,
    state: Annotated[
        str | None, typer.Option(help="screened, rejected, failed or pending; implies --all.")
    ] = None,
    elements: Annotated[str | None, typer.Option(help="All of these must be there: Mg,Si.")] = None,
    chemsys: Annotated[str | None, typer.Option(help="Exactly this system: Mg-Si.")] = None,
    max_ehull: Annotated[
        float | None, typer.Option(help="Largest energy above hull, eV/atom.")
    ] = None,
    min_width: Annotated[float | None, typer.Option(help="Smallest width of the gap, eV.")] = None,
    sort: Annotated[str, typer.Option(help="One of " + ", ".join(SORTABLE) + ".")] = "score",
    ascending: Annotated[bool, typer.Option("--ascending/--descending")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 50,
    csv: Annotated[
        Path | None, typer.Option(help="Write all columns of all rows to this file.")
    ] = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """List the candidates of a run."""
    from db.store import open_store
    from screening.cli.console import print_json, stderr, stdout
    from screening.errors import ScreeningError

    if sort not in SORTABLE:
        raise ScreeningError(f"--sort {sort}: not one of {', '.join(SORTABLE)}")
    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        found = store.candidates(
            chosen.run_id,
            state=_state(state),
            is_positive=True if positive and state is None else None,
            sort_by=sort,
            descending=not ascending,
        )
        wanted = [c for c in found if _matches(c, elements, chemsys, max_ehull, min_width)]
    if csv is not None:
        _write_csv(csv, wanted)
        stderr().print(f"{len(wanted)} rows in {csv}. {ATTRIBUTION}")
    elif as_json:
        print_json([row_of(candidate) for candidate in wanted[:limit]])
    else:
        shown = wanted[:limit]
        more = f", the first {limit}" if len(wanted) > limit else ""
        title = f"{len(wanted)} candidates of run {chosen.run_id}{more}"
        stdout().print(candidates_table(title, shown, chosen.model_id))


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
    """The run of that id, by default the newest one."""
    from screening.errors import ScreeningError

    if run_id is not None:
        return store.run(run_id)
    runs = store.runs()
    if not runs:
        raise ScreeningError(f"{store.location} holds no run yet; begin with `screen run`")
    return runs[0]


def _state(state: str | None) -> Any:
    from screening.errors import ScreeningError

    states = ("pending", "screened", "rejected", "failed")
    if state is not None and state not in states:
        raise ScreeningError(f"--state {state}: not one of {', '.join(states)}")
    return state


def _matches(
    candidate: CandidateDoc,
    elements: str | None,
    chemsys: str | None,
    max_ehull: float | None,
    min_width: float | None,
) -> bool:
    if elements and not set(elements.replace(",", " ").split()) <= set(candidate.elements):
        return False
    if chemsys and sorted(chemsys.split("-")) != sorted(candidate.elements):
        return False
    ehull = candidate.energy_above_hull
    if max_ehull is not None and (ehull is None or ehull > max_ehull):
        return False
    width = candidate.gap.width if candidate.gap else None
    return min_width is None or (width is not None and width >= min_width)


COLUMNS = (
    "material_id",
    "formula",
    "chemsys",
    "nsites",
    "energy_above_hull",
    "band_gap",
    "gap_lower_edge",
    "gap_upper_edge",
    "gap_width",
    "gap_width_is_lower_bound",
    "gap_max_dos",
    "score",
    "is_positive",
    "state",
    "reason",
    "model_id",
    "structure_hash",
    "source",
    "database_version",
)


def row_of(candidate: CandidateDoc) -> dict[str, Any]:
    """One flat row of plain values; energies in eV, `energy_above_hull` in eV/atom."""
    gap = candidate.gap
    values = {
        "gap_lower_edge": gap.lower_edge if gap else None,
        "gap_upper_edge": gap.upper_edge if gap else None,
        "gap_width": gap.width if gap else None,
        "gap_width_is_lower_bound": gap.is_lower_bound if gap else None,
        "gap_max_dos": gap.max_dos if gap else None,
        "source": candidate.origin.get("source"),
        "database_version": candidate.origin.get("database_version"),
    }
    return {c: values[c] if c in values else getattr(candidate, c) for c in COLUMNS}


def trained_elements(checkpoint: str | None) -> frozenset[str]:
    """Elements in the training set of a predictor; empty if its card cannot be read."""
    from models.card import DEFAULT_EDOS, ModelCard
    from models.errors import ModelError

    try:
        return frozenset(ModelCard.read(Path(checkpoint or DEFAULT_EDOS)).elements)
    except ModelError:
        return frozenset()


def candidates_table(title: str, rows: list[CandidateDoc], model_id: str | None) -> Any:
    """Table for the terminal; ≥ marks a width that is a lower bound."""
    from screening.cli.console import table

    columns: tuple[str, ...] = (
        "material",
        "formula",
        "atoms",
        "hull eV/atom",
        "gap from eV",
        "to eV",
        "width eV",
        "score eV",
    )
    if any(candidate.reason for candidate in rows):
        columns += ("reason",)
    return table(title, columns, [_cells(c, len(columns)) for c in rows])


def _cells(candidate: CandidateDoc, size: int) -> tuple[Any, ...]:
    gap = candidate.gap
    width = None
    if gap is not None and gap.width is not None:
        width = f"≥ {gap.width:.2f}" if gap.is_lower_bound else f"{gap.width:.2f}"
    cells = (
        candidate.material_id,
        candidate.formula,
        candidate.nsites,
        candidate.energy_above_hull,
        gap.lower_edge if gap else None,
        gap.upper_edge if gap else None,
        width,
        candidate.score,
        candidate.reason,
    )
    return cells[:size]


def _write_csv(path: Path, candidates: list[CandidateDoc]) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row_of(candidate) for candidate in candidates)
