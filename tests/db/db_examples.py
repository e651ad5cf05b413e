"""Documents for the tests of the stores."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from db.documents import (
    CandidateDoc,
    DifferenceDoc,
    FiguresDoc,
    FilterCount,
    GapDoc,
    PredictionDoc,
    RoundDoc,
    Run,
    ValidationDoc,
    Verdict,
)
from models.spectra.spectrum import EnergyGrid

GRID = EnergyGrid(start=-4.0, width=0.0625, size=128, unit="eV")
START = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)
STRUCTURE = {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "charge": 0,
    "lattice": {"matrix": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]},
    "sites": [
        {"species": [{"element": "Na", "occu": 1}], "abc": [0.0, 0.0, 0.0]},
        {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5]},
    ],
}


def gap(**changes: Any) -> GapDoc:
    values: dict[str, Any] = {
        "lower_edge": -2.5,
        "upper_edge": -1.0 / 3.0,
        "width": 2.5 - 1.0 / 3.0,
        "max_dos": 0.25,
        "is_lower_bound": True,
        "per_atom": False,
        "criteria": {"max_dos": 1.0, "min_width": 1.0, "mirror": False},
        "holds": {"width": True, "upper_edge": True},
        "is_gap": True,
        "kind": "near-gap",
        "n_ranges": 1,
        "margins": {"max_dos": 0.75, "min_width": 7.0 / 6.0, "min_upper_edge": 2.0 / 3.0},
        "robust": True,
    }
    return GapDoc(**(values | changes))


def run(run_id: str = "run-1", **changes: Any) -> Run:
    values: dict[str, Any] = {
        "parameters": {"max_ehull": 0.5, "elements": ["Na", "Cl"], "limit": None},
        "versions": {"screening": "0.1.0"},
        "funnel": [FilterCount(name="hull", entered=10, dropped=4, unknown=1)],
        "counts": {"positives": 2},
        "model_id": "mat2spec-1",
        "selection": ["mp-1", "mp-2"],
        "source": {"name": "prototypes"},
        "created_at": START,
        "updated_at": START + timedelta(seconds=5),
    }
    return Run(run_id=run_id, **(values | changes))


def candidate(number: int = 1, run_id: str = "run-1", **changes: Any) -> CandidateDoc:
    values: dict[str, Any] = {
        "structure_hash": f"{number:032x}",
        "formula": "NaCl",
        "chemsys": "Cl-Na",
        "elements": ["Cl", "Na"],
        "nelements": 2,
        "nsites": 2,
        "energy_above_hull": 0.01 * number,
        "band_gap": 0.0,
        "is_magnetic": False,
        "has_edos": None,
        "origin": {"source": "files", "version": "2024.1"},
        "shard": number // 10,
        "structure": STRUCTURE,
        "remarks": ["a repair of its file"],
        "unseen_elements": ["Na"] if number != 3 else [],
        "has_isolated_atoms": False,
        "out_of_domain": number != 3,
        "in_domain": "no" if number != 3 else "near",
        "training_percentile": 80.0 + number,
        "exceeds_training_cells": False,
    }
    return CandidateDoc(run_id=run_id, material_id=f"mp-{number}", **(values | changes))


def verdict(number: int = 1, run_id: str = "run-1", **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "state": "screened",
        "model_id": "mat2spec-1",
        "gap": gap(),
        "is_positive": True,
        "is_positive_per_atom": False,
        "score": 0.5 + number,
        "probability": 0.75,
        "expected_error": 0.125,
        "unseen_elements": [],
        "out_of_domain": False,
        "in_domain": "yes",
        "training_percentile": 12.5,
        "exceeds_training_cells": True,
    }
    return Verdict(run_id=run_id, material_id=f"mp-{number}", **(values | changes))


def prediction(number: int = 1, model_id: str = "mat2spec-1", **changes: Any) -> PredictionDoc:
    values: dict[str, Any] = {
        "structure_hash": f"{number:032x}",
        "formula": "NaCl",
        "nsites": 2,
        "grid": GRID,
        "spectrum": np.random.default_rng(number).random(GRID.size),
        "gap": gap(),
        "score": float(number),
        "member_spread": 0.01 * number,
        "training_distance": 0.1 * number,
        "created_at": START,
    }
    return PredictionDoc(material_id=f"mp-{number}", model_id=model_id, **(values | changes))


def validation(number: int = 1, engine: str = "gpaw", **changes: Any) -> ValidationDoc:
    values: dict[str, Any] = {
        "structure_hash": f"{number:032x}",
        "recipe": "pbe-340",
        "formula": "NaCl",
        "nsites": 2,
        "state": "done",
        "run_ids": ["run-1"],
        "spectrum": np.random.default_rng(number).random(GRID.size) * 3.0,
        "grid": GRID,
        "efermi": 3.1,
        "vbm": 3.0,
        "cbm": 3.2,
        "band_gap": 0.2,
        "gap": gap(width=None, is_gap=False),
        "is_positive": False,
        "prediction_model_id": "mat2spec-1",
        "mae": 0.3,
        "wd": 0.1,
        "raw_dos": {"kind": "store", "name": "0" * 64},
        "job_uuids": ["6f1c"],
        "wall_time": 12.5,
        "warnings": ["k-mesh is coarse"],
        "created_at": START,
        "updated_at": START,
    }
    return ValidationDoc(material_id=f"mp-{number}", engine=engine, **(values | changes))


def round_document(number: int = 1, run_id: str = "run-1", **changes: Any) -> RoundDoc:
    figures = {"n": 100, "wd": 0.25, "wd_error": 0.02, "mae": 0.625, "mae_error": 1.0 / 3.0}
    before = FiguresDoc(**figures, tp=3, fp=8, fn=2, tn=87)
    values: dict[str, Any] = {
        "chosen_in": run_id,
        "state": "scoring",
        "choice": {"limit": 8, "strategy": "best"},
        "chosen": ["mp-2", "mp-1"],
        "controls": ["mp-3"],
        "engine": "gpaw",
        "recipe": "pbe-340",
        "outcomes": {"done": 2, "failed": 1},
        "found": ["mp-1"],
        "learned": {"training": 1, "test": 1},
        "left_out": ["mp-1: DOS is complete only up to 3.08 eV"],
        "model_id": "mat2spec-1",
        "new_model_id": "mat2spec-round-1",
        "checkpoint": "models/mat2spec-round-1",
        "before": before,
        "after": before.model_copy(update={"wd": 0.24}),
        "difference": DifferenceDoc(wd=-0.01, wd_error=0.02, mae=0.0, mae_error=0.1),
        "is_kept": True,
        "next_run_id": f"run-{number + 1}",
        "created_at": START,
        "updated_at": START,
    }
    return RoundDoc(run_id=run_id, number=str(number), **(values | changes))


def of_version_1(path: Path) -> Path:
    """A file of the embedded store that version 1 wrote, with some of these documents."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
    return path
