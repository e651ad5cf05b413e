"""Fixtures for all tests; what a machine lacks skips with its reason."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from models.crystal import ATOMIC_NUMBERS
from tests.browser import chromium, open_page  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SCREEN_RESCORE"] = "0"  # one model is enough for most tests, and its processes

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # What a script runs in the background inherits a deaf ear, and so would the programs of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, however busy the machine is.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

Row = dict[str, Any]
LONG = ("slow", "dft", "browser")  # markers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have the most long tests, so that processes end together."""
    long = Counter(item.path for item in items if any(map(item.get_closest_marker, LONG)))
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder with the reference tables (mp_snapshot.parquet and others)."""
    folder = os.environ.get("SCREEN_TEST_DATA")
    if not folder:
        pytest.skip("SCREEN_TEST_DATA is not set: no reference data")
    return Path(folder)


def crystal_row(material_id: str, a: float, symbols: Sequence[str], **properties: Any) -> Row:
    """Row of a structure table: `symbols` along the diagonal of a cube with edge `a` Å."""
    n = len(symbols)
    frac_coords = np.repeat(np.arange(n) / n, 3)
    return {
        "material_id": material_id,
        "lattice": (np.eye(3) * a).ravel().tolist(),
        "species": [ATOMIC_NUMBERS[s] for s in symbols],
        "frac_coords": frac_coords.tolist(),
        "energy_above_hull": 0.0,
        "band_gap": 0.0,
    } | properties


@pytest.fixture
def structure_table(tmp_path: Path) -> Callable[[Sequence[Row]], Path]:
    """Write rows as a parquet table of structures."""

    def write(rows: Sequence[Row], name: str = "structures.parquet") -> Path:
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path

    return write
