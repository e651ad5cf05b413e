"""A finished run with predictions, put into a store without a model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from pymatgen.core import Lattice, Structure

from db.documents import CandidateDoc, GapDoc, PredictionDoc, Run, ValidationDoc
from db.store import ScreeningStore
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from screening.gap import GapCriteria
from workflows.plan import ValidationPlan, choose_validation, record_plan

GRID = EDOS_GRID
MODEL = "model-1"


def crystal(number: int, symbol: str = "Al") -> Structure:
    """A simple cubic crystal; each number is another structure."""
    return Structure(Lattice.cubic(3.0 + 0.01 * number), [symbol], [[0, 0, 0]])


def candidate(run_id: str, material_id: str, structure: Structure, **changes) -> CandidateDoc:
    own = Crystal.from_structure(structure)
    fields = {
        "structure_hash": own.structure_hash,
        "formula": own.formula,
        "chemsys": own.chemsys,
        "elements": list(own.elements),
        "nelements": len(own.elements),
        "nsites": len(own),
        "shard": 0,
        "state": "screened",
        "structure": own.as_dict(),
        "model_id": MODEL,
        "is_positive": False,
        "score": 0.0,
    }
    return CandidateDoc(run_id=run_id, material_id=material_id, **(fields | changes))


def put_run(
    store: ScreeningStore,
    structures: dict[str, Structure],
    positives: Sequence[str] = (),
    run_id: str = "run-1",
    criteria: dict | None = None,
) -> Run:
    """Store a run over these materials; `positives` are the predicted ones, best first."""
    scores = {material_id: 1.0 - i / 1000 for i, material_id in enumerate(positives)}
    store.upsert_candidates(
        candidate(run_id, m, s, is_positive=m in scores, score=scores.get(m, -1.0))
        for m, s in structures.items()
    )
    run = Run(
        run_id=run_id,
        state="done",
        model_id=MODEL,
        selection=list(positives),
        counts={"screened": len(structures), "positive": len(positives)},
        parameters={
            "criteria": GapCriteria.from_options(**(criteria or {})).model_dump(mode="json"),
            "checkpoint": "none",
        },
    )
    store.put_run(run)
    return store.run(run_id)


def put_prediction(
    store: ScreeningStore, document: CandidateDoc, spectrum: np.ndarray, **changes
) -> None:
    fields = {
        "material_id": document.material_id,
        "structure_hash": document.structure_hash,
        "model_id": MODEL,
        "nsites": document.nsites,
        "grid": GRID,
        "spectrum": spectrum,
        "gap": GapDoc(is_gap=False),
        "score": 0.0,
    }
    store.upsert_predictions([PredictionDoc(**(fields | changes))])


def with_gap(is_gap: bool) -> np.ndarray:
    """A spectrum (states/eV/cell) that meets the paper's criteria, or nowhere falls below 5."""
    values = np.full(EDOS_GRID.size, 5.0)
    if is_gap:
        values[(EDOS_GRID.centers > -2.0) & (EDOS_GRID.centers < -0.5)] = 0.0
    return values


def validation(document: CandidateDoc, is_gap: bool | None, **changes) -> ValidationDoc:
    """Finished validation of a candidate; failed with `is_gap` None."""
    fields = {
        "material_id": document.material_id,
        "structure_hash": document.structure_hash,
        "engine": "gpaw",
        "recipe": "recipe-1",
        "nsites": document.nsites,
        "run_ids": [document.run_id],
    }
    if is_gap is None:
        fields |= {"state": "failed", "error": "no convergence"}
    else:
        gap = GapDoc(is_gap=is_gap, criteria=GapCriteria().model_dump(mode="json"))
        fields |= {
            "state": "done",
            "grid": GRID,
            "spectrum": with_gap(is_gap),
            "gap": gap,
            "is_positive": is_gap,
        }
    return ValidationDoc(**(fields | changes))


def plan_validation(
    store: ScreeningStore, run: Run, engine: str, recipe: str, **options
) -> ValidationPlan:
    """Choose what to calculate and write the choice down, as `screen validate` does."""
    maker = SimpleNamespace(
        engine=engine, recipe=recipe, recipe_for=lambda _: recipe, first_atom_time=80.0
    )
    plan = choose_validation(store, run, maker, **options)
    record_plan(store, plan)
    return plan
