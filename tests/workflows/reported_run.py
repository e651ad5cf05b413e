"""A run with something of everything that a page shows, put into a store without a calculation."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from db.documents import CandidateDoc, FilterCount, PredictionDoc, Run
from db.store import ScreeningStore
from models.spectra.spectrum import EDOS_GRID
from models.zoo import DEFAULT_EDOS, ZOO, model_id
from screening.gap import GapCriteria
from tests.workflows.screened_run import candidate, validation, with_gap
from workflows.verdicts import gap_document, judge, prediction_key

RUN = "20260301-120000-abcd"
FIRST, SECOND = DEFAULT_EDOS, ZOO / "tight-binding-edos"
NEAR: dict[str, Any] = {"in_domain": "near", "training_percentile": 80.0}
OUTSIDE: dict[str, Any] = {
    "in_domain": "no",
    "out_of_domain": True,
    "unseen_elements": ["Cl"],
}
EVIL = "<img src=x onerror=alert(1)></script><b>\"'&"
"""What a formula, an id or a remark from outside may hold."""


def perovskite(a: float, symbols: tuple[str, str, str]) -> Structure:
    """Cubic ABX3; `a` in Å."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    species = [symbols[0], symbols[1], *[symbols[2]] * 3]
    return Structure(Lattice.cubic(a), species, sites)


def rocksalt(a: float, symbols: tuple[str, str]) -> Structure:
    """Primitive cell of MX; `a` in Å."""
    vectors = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Structure(Lattice(vectors), symbols, [[0, 0, 0], [0.5, 0.5, 0.5]])


def judged(
    run_id: str, material_id: str, structure: Structure, is_gap: bool, **changes: Any
) -> CandidateDoc:
    """A candidate with the verdict on :func:`with_gap`."""
    number = len(structure)
    gaps = judge(with_gap(is_gap)[None], [number], GapCriteria())
    fields: dict[str, Any] = {
        "model_id": model_id(FIRST),
        "gap": gap_document(gaps, 0),
        "is_positive": is_gap,
        "is_positive_per_atom": is_gap,
        "score": float(gaps.score[0]),
        "probability": 0.75 if is_gap else 0.05,
        "expected_error": 0.25,
        "energy_above_hull": 0.01 * number,
        "band_gap": 0.0,
        "in_domain": "yes",
        "out_of_domain": False,
        "unseen_elements": [],
        "has_isolated_atoms": False,
        "training_percentile": 50.0,
        "origin": {"source": "files"},
    }
    return candidate(run_id, material_id, structure, **(fields | changes))


def put_reported_run(store: ScreeningStore) -> Run:
    """Six positives, of which three are perovskites, two negatives, and what DFT says of four."""
    second = {"model_id": model_id(SECOND), "score": 0.9}
    documents = [
        judged(RUN, "mp-1", perovskite(4.0, ("K", "Mg", "F")), True),
        judged(RUN, "mp-2", perovskite(4.1, ("Rb", "Ca", "F")), True, score=0.95),
        judged(RUN, "my-3", perovskite(4.2, ("K", "Nb", "O")), True, **NEAR, score=0.93),
        judged(RUN, "mp-4", rocksalt(4.2, ("Mg", "O")), True, **second),
        judged(
            RUN, EVIL, rocksalt(4.3, ("Ca", "O")), True, formula=EVIL, remarks=[EVIL], score=0.8
        ),
        judged(RUN, "mp-6", rocksalt(5.6, ("Na", "Cl")), True, **OUTSIDE, score=0.7),
        judged(RUN, "mp-7", rocksalt(5.7, ("K", "Cl")), False, score=-0.1),
        judged(RUN, "mp-8", rocksalt(5.8, ("Rb", "Cl")), False, score=-0.2),
    ]
    store.upsert_candidates(documents)
    put_spectra(store, documents)
    first, evil, of_rubidium, last = documents[0], documents[4], documents[1], documents[7]
    errors = {"prediction_model_id": first.model_id, "mae": 0.2, "wd": 0.1}
    store.upsert_validations(
        [
            validation(first, True, warnings=[EVIL], band_gap=0.0, **errors),
            validation(evil, False),
            validation(of_rubidium, None, error=EVIL),
            validation(last, False),
        ]
    )
    selection = [document.material_id for document in documents if document.is_positive]
    store.put_run(
        Run(
            run_id=RUN,
            state="done",
            model_id=model_id(FIRST),
            second_model_id=model_id(SECOND),
            selection=selection,
            counts={"screened": len(documents), "positive": len(selection)},
            funnel=[
                FilterCount(name="readable", entered=12, dropped=1),
                FilterCount(name="energy_above_hull", entered=11, dropped=3, unknown=2),
            ],
            parameters={
                "criteria": GapCriteria().model_dump(mode="json"),
                "checkpoint": str(FIRST),
                "rescore_with": str(SECOND),
                "source": EVIL,
                "source_options": {"api_key_file": "/home/ann/key"},
            },
            source={"name": "files", "description": EVIL, "notes": [EVIL]},
            versions={"edos-screening": "0.1.0"},
        )
    )
    return store.run(RUN)


def put_spectra(store: ScreeningStore, documents: list[CandidateDoc]) -> None:
    """What the model that judged them predicts, as they were judged."""
    store.upsert_predictions(
        PredictionDoc(
            material_id=key[0],
            structure_hash=key[1],
            model_id=key[2],
            nsites=document.nsites,
            grid=EDOS_GRID,
            spectrum=with_gap(bool(document.is_positive)),
            gap=document.gap,
            score=document.score,
        )
        for document in documents
        for key in [prediction_key(document, document.model_id or "")]
    )
