"""The rounds that are kept in ``workflows/dos/results`` say what their labels say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import workflows.dos
from db.documents import RoundDoc
from models.data.label_files import LABEL_EDGES
from models.spectra.spectrum import EDOS_GRID, IntegratedDos, align_integral
from screening.gap import GapCriteria, find_gaps
from workflows.learning import is_not_worse

RESULTS = Path(workflows.dos.__file__).parent / "results"
ROUNDS = [
    RoundDoc.model_validate(fields)
    for fields in json.loads((RESULTS / "search_rounds.json").read_text())
]
LABELS = {
    row["material_id"]: row for row in pq.read_table(RESULTS / "search_labels.parquet").to_pylist()
}


def test_what_was_found_is_what_the_labels_have() -> None:
    found = {name for document in ROUNDS for name in document.found}
    spectra = [
        align_integral(IntegratedDos(LABEL_EDGES, row["dos"]), 0.0, row["band_gap"]).values
        for row in LABELS.values()
    ]
    gaps = find_gaps(EDOS_GRID, np.array(spectra), GapCriteria(), [1] * len(spectra)).is_gap
    assert {name for name, is_gap in zip(LABELS, gaps, strict=True) if is_gap} == found
    for document in ROUNDS:
        calculated = [*document.chosen, *document.controls]
        assert document.outcomes == {"done": 9, "failed": 1}
        assert sum(name in LABELS for name in calculated) == 9


def test_a_model_was_kept_as_the_rule_says() -> None:
    assert [is_not_worse(document.difference) for document in ROUNDS] == [
        document.is_kept for document in ROUNDS
    ]
    for document in ROUNDS:
        for name in ("wd", "mae"):
            change = getattr(document.after, name) - getattr(document.before, name)
            np.testing.assert_allclose(getattr(document.difference, name), change, atol=1e-6)


def test_the_page_has_the_figures_of_the_rounds() -> None:
    page = (RESULTS / "README.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if " | " in line}
    difference = rows["after less before, paired"]
    for document in ROUNDS:
        figures = document.difference
        before, after = document.before, document.after
        assert (
            f"{before.wd:.4f} ± {before.wd_error:.4f}"
            in rows["WD on 105 test materials before (eV)"]
        )
        assert f"{after.wd:.4f} ± {after.wd_error:.4f}" in rows["after"]
        assert f"{figures.wd:+.4f} ± {figures.wd_error:.4f}" in page
        assert f"{figures.mae:+.4f} ± {figures.mae_error:.4f}" in difference
