"""A run to look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from db.documents import CandidateDoc, FilterCount, GapDoc, MarginsDoc, Run
from db.store import ScreeningStore
from models.spectra.spectrum import EDOS_GRID
from screening.dashboard.server import served
from tests.workflows.screened_run import MODEL, candidate, crystal, put_prediction, validation

RUN = "run-1"
BEST, HOSTILE = "mp-100", """<img src=x onerror="alert(1)">/'a"?b#c&d%20"""
REFRESH = 0.4  # s between two looks at the store
ELEMENTS = ("Al", "Cu", "Si", "Mg")


def document(number: int, **changes: object) -> CandidateDoc:
    """The higher the number, the better; every tenth is positive."""
    values = {
        "is_positive": number % 10 == 0,
        "score": number / 100,
        "probability": number / 400,
        "in_domain": ("yes", "near", "no")[number % 3],
        "energy_above_hull": 0.001 * (number % 50),
        "gap": GapDoc(
            is_gap=number % 10 == 0,
            lower_edge=-2.0,
            upper_edge=-0.5,
            width=1.5,
            max_dos=0.5,
            holds={"max_dos": True, "min_width": number % 10 == 0},
            margins=MarginsDoc(max_dos=0.5, min_width=0.5),
            criteria={"max_dos": 1.0},
            kind="gap",
        ),
    }
    structure = crystal(number, ELEMENTS[number % len(ELEMENTS)])
    return candidate(RUN, f"mp-{number}", structure, **(values | changes))


def fill(store: ScreeningStore, count: int = 300) -> None:
    """A run that goes on, with one material that is calculated, and one of unpleasant names."""
    best = document(100, score=9.0)
    hostile = document(
        7, score=8.0, reason="</script><b>bold</b>", formula="<i>Al</i>", remarks=["<u>it</u>"]
    ).model_copy(update={"material_id": HOSTILE})
    others = (document(i) for i in range(count) if i != 100)
    store.upsert_candidates([best, hostile, *others])
    put_prediction(store, best, 3.0 + np.cos(EDOS_GRID.centers))
    store.upsert_validations([validation(best, is_gap=True, band_gap=0.0, wall_time=12.0)])
    store.put_run(
        Run(
            run_id=RUN,
            state="running",
            model_id=MODEL,
            selection=[best.material_id],
            counts={"screened": count, "positive": count // 10},
            funnel=[FilterCount(name="energy_above_hull", entered=2 * count, dropped=count)],
            parameters={"source": "<script>alert(1)</script>", "checkpoint": "none"},
            source={"name": "files", "attribution": "Cite <b>us</b>."},
        )
    )


@contextmanager
def serving(store: ScreeningStore, port: int = 0) -> Iterator[str]:
    """The dashboard over a store in a thread; gives its address."""
    with served(store, port=port, refresh=REFRESH) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join()
