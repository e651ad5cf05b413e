"""What DFT said of a run's positives and controls, beside what its two predictors had said.

    python -m tests.benchmarks.loop_results --db screening.sqlite --labels edos_gpaw.parquet \
        --labels models/data/edos_labels.parquet --out workflows/dos/results

Writes ``loop.md`` (each calculation) and ``loop_labels.parquet`` (their DOS as label files have it,
without structures).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from db.documents import CandidateDoc, Run
from db.open import open_store
from db.store import ScreeningStore
from models.zoo import model_name
from tests.benchmarks.search_rounds import (
    cell,
    distance,
    parsed_options,
    write_without_structures,
)
from workflows.validated_labels import labels_of

HEAD = (
    "| material | formula | atoms | in the domain | {first}: VB gap, score (eV) "
    "| {second}: VB gap, score (eV), probability | DFT | range (eV) | WD of the first, the second "
    "(eV) | s |"
)


def verdict(is_positive: bool | None, *numbers: float | None) -> str:
    """Yes or no, and the numbers that there are."""
    words = ["yes" if is_positive else "no", *(f"{n:.2f}" for n in numbers if n is not None)]
    return ", ".join(words)


def rows(store: ScreeningStore, run: Run, second: str) -> Iterator[tuple[bool, list[object]]]:
    """Whether it was predicted positive, and the cells of each calculation."""
    candidates: dict[str, CandidateDoc] = {c.material_id: c for c in store.candidates(run.run_id)}
    for validation in store.validations(run_id=run.run_id):
        candidate, gap = candidates[validation.material_id], validation.gap
        first = candidate.first_verdict
        found = {True: "VB gap", False: "none", None: validation.error or validation.state}
        errors = [distance(store, validation, model) for model in (run.model_id, second)]
        yield (
            bool(candidate.is_positive),
            [
                candidate.material_id,
                candidate.formula,
                candidate.nsites,
                candidate.in_domain,
                verdict(first.is_positive, first.score) if first else None,
                verdict(candidate.is_positive, candidate.score, candidate.probability),
                found[validation.is_positive],
                f"{gap.lower_edge:.2f} to {gap.upper_edge:.2f}" if gap and gap.width else None,
                ", ".join("" if e is None else f"{e:.3f}" for e in errors),
                validation.wall_time and round(validation.wall_time),
                *errors,
            ],
        )


def in_words(table: list[list[object]]) -> str:
    """How wrong both were."""
    errors = np.array([row[-2:] for row in table if None not in row[-2:]], float)
    (first, second), n = errors.mean(0), len(errors)
    difference = errors[:, 1] - errors[:, 0]
    return (
        f"Mean WD of {n}: {first:.3f} eV of the first, {second:.3f} eV of the second; difference "
        f"{difference.mean():+.3f} ± {difference.std(ddof=1) / n**0.5:.3f} eV."
    )


def main() -> None:
    """Command line."""
    options = parsed_options(__doc__)
    with open_store(options.db) as store:
        (run, *_) = store.runs()
        (second,) = {c.model_id for c in store.candidates(run.run_id) if c.first_verdict}
        of_each = list(rows(store, run, str(second)))
        labels = labels_of(store, [run], options.labels)
    names = {"first": model_name(str(run.model_id)), "second": model_name(str(second))}
    lines = ["# Calculations of the full loop"]
    for positive, title in ((True, "Predicted positives"), (False, "Random predicted negatives")):
        table = [row for was, row in of_each if was is positive]
        lines += ["", f"## {title}", "", HEAD.format(**names), "| --- " * 10 + "|"]
        lines += ["| " + " | ".join(map(cell, row[:-2])) + " |" for row in table]
        lines += ["", in_words(table)]
    (options.out / "loop.md").write_text("\n".join(lines) + "\n")
    write_without_structures(options.out / "loop_labels.parquet", labels)


if __name__ == "__main__":
    main()
