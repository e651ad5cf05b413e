"""A predictor that is trained in seconds, its labels, and runs that it has screened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.data.label_files import RECIPE
from models.data.splits import part_of
from models.training.config import TrainingConfig
from models.training.train import train_predictor
from tests.conftest import crystal_row
from tests.models.model_examples import write_edos_files
from tests.workflows.analytic_dos import RECIPE as ANALYTIC
from workflows.local import run_flow
from workflows.screening import ScreeningFlowMaker

ALL_POSITIVE = {"max_dos": 1e6, "min_width": 0.5, "max_upper_edge": 4.0}
SYMBOLS = ("Al", "Cu", "Ag", "Mg")
TRAINED = [f"m-{i:02}" for i in range(60) if part_of(f"m-{i:02}", 0) == "training"]
TESTED = next(f"m-{i:02}" for i in range(99) if part_of(f"m-{i:02}", 0) == "test")


@dataclass(frozen=True)
class Taught:
    """A predictor and the files that it was trained on."""

    checkpoint: Path
    labels: Path
    structures: Path


def teach(folder: Path, n: int = 40) -> Taught:
    """Train a predictor on made-up labels, by the recipe of the formula that stands for DFT."""
    labels, structures = write_edos_files(folder, n)
    table = pq.read_table(labels)
    table = table.append_column(RECIPE, pa.array([ANALYTIC] * len(table)))
    pq.write_table(table, labels)
    config = TrainingConfig(
        name="tiny",
        labels=(labels,),
        structures=structures,
        architecture="gatgnn",
        model={"encoder": {"layers": 1, "width": 8}, "hidden": [8]},
        epochs=2,
    )
    checkpoint = folder / "tiny"
    train_predictor(config).save(checkpoint)
    return Taught(checkpoint, labels, structures)


def structure_rows(names: list[str]) -> list[dict[str, Any]]:
    """Simple cubic crystals of these names, each another one."""
    return [
        crystal_row(name, 2.9 + 0.03 * i, [SYMBOLS[i % len(SYMBOLS)]])
        for i, name in enumerate(names)
    ]


def screened(
    db: str, taught: Taught, table: Callable[..., Path], names: list[str], **changes: Any
) -> str:
    """Screen crystals, of which all are positive unless `changes` say otherwise; the run's id."""
    options = {"criteria": ALL_POSITIVE, "shard_size": 5} | changes
    maker = ScreeningFlowMaker(
        db=db,
        source=str(table(structure_rows(names))),
        checkpoint=str(taught.checkpoint),
        **options,
    )
    run_id: str = run_flow(maker.make())["run_id"]
    return run_id
