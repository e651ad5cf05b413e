"""Tables of a search that learned, from its database.

    python -m tests.benchmarks.search_rounds --db search.sqlite --labels edos_gpaw.parquet \
        --labels models/data/edos_labels.parquet --out workflows/dos/results

Writes ``search_rounds.json`` (what was chosen, found and learned, with figures before and after),
``search_rounds.md`` (each calculation beside what the models said of it) and
``search_labels.parquet`` (the DOS of the calculations as label files have it, without structures).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from db.collections import PREDICTIONS, Query, conditions
from db.documents import RoundDoc, Run, ValidationDoc
from db.open import open_store
from db.store import ScreeningStore
from models.spectra.metrics import wasserstein
from models.spectra.spectrum import EDOS_GRID
from models.zoo import model_name
from workflows.learning import lineage
from workflows.validated_labels import ValidatedLabels, labels_of, write_labels

OF_STRUCTURES = ("lattice", "species", "frac_coords")
NOT_KEPT = {"checkpoint", "created_at", "updated_at", "finished_at", "schema_version"}
HEAD = (
    "| round | material | formula | atoms | chosen as | model: VB gap, score (eV) | DFT "
    "| range (eV) | WD of the first model (eV) | of that which chose | s |"
)


def distance(store: ScreeningStore, validation: ValidationDoc, model: str | None) -> float | None:
    """Wasserstein distance in eV of a model's prediction from the calculated DOS."""
    asked = conditions(
        material_id=validation.material_id,
        structure_hash=validation.structure_hash,
        model_id=model,
    )
    prediction = next(store.find(Query(PREDICTIONS, asked)), None)
    if prediction is None or validation.spectrum is None:
        return None
    spectra = (np.array([d.spectrum]) for d in (prediction, validation))
    return wasserstein(*spectra, EDOS_GRID.width)


def rows(store: ScreeningStore, document: RoundDoc, first: Run) -> Iterator[list[object]]:
    """Cells of a round's calculations; the last but two are the distances."""
    names = [*document.chosen, *document.controls]
    candidates = {c.material_id: c for c in store.candidates(document.chosen_in)}
    validations = {v.material_id: v for v in store.validations(run_id=document.chosen_in)}
    for name in names:
        candidate, validation = candidates[name], validations[name]
        gap = validation.gap
        found = {True: "VB gap", False: "none", None: validation.error or validation.state}
        yield [
            document.number,
            name,
            candidate.formula,
            candidate.nsites,
            "positive" if name in document.chosen else "control",
            f"{'yes' if candidate.is_positive else 'no'}, {candidate.score:.2f}",
            found[validation.is_positive],
            f"{gap.lower_edge:.2f} to {gap.upper_edge:.2f}" if gap and gap.width else None,
            distance(store, validation, first.model_id),
            distance(store, validation, document.model_id),
            validation.wall_time and round(validation.wall_time),
        ]


def compared(table: list[list[object]], document: RoundDoc) -> str:
    """How wrong two models are on what a round calculated, in words."""
    pairs = np.array(
        [r[8:10] for r in table if r[0] == document.number and r[8] is not None], float
    )
    before, after = pairs.mean(0)
    difference = pairs[:, 1] - pairs[:, 0]
    error = difference.std(ddof=1) / len(pairs) ** 0.5
    return (
        f"Round {document.number}, {len(pairs)} calculations that neither model had learned: mean "
        f"WD {before:.3f} eV of the first model, {after:.3f} eV of "
        f"{model_name(document.model_id)}; difference {difference.mean():+.3f} ± {error:.3f} eV."
    )


def cell(value: object) -> str:
    """Of a table."""
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def parsed_options(description: str | None) -> argparse.Namespace:
    """Database, label files and folder of the results, as the command line gives them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--db", required=True)
    parser.add_argument("--labels", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def write_without_structures(file: Path, labels: ValidatedLabels) -> None:
    """Labels of one's own calculations, without the structures of others."""
    write_labels(file, labels.rows)
    pq.write_table(pq.read_table(file).drop_columns(list(OF_STRUCTURES)), file, compression="zstd")


def main() -> None:
    """Command line."""
    options = parsed_options(__doc__)
    with open_store(options.db) as store:
        rounds = store.rounds()
        first = store.run(rounds[0].run_id)
        last = store.run(rounds[-1].chosen_in)
        table = [row for document in rounds for row in rows(store, document, first)]
        labels = labels_of(store, lineage(store, last), options.labels)
    facts = [document.model_dump(mode="json", exclude=NOT_KEPT) for document in rounds]
    (options.out / "search_rounds.json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = ["# Calculations of the search", "", HEAD, "| --- " * len(table[0]) + "|"]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table]
    lines += ["", *(compared(table, document) for document in rounds[1:])]
    (options.out / "search_rounds.md").write_text("\n".join(lines) + "\n")
    write_without_structures(options.out / "search_labels.parquet", labels)


if __name__ == "__main__":
    main()
