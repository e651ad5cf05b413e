"""DOS of a list of structures, one file each, so that a stopped campaign goes on where it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Lattice, Structure

from models.writing import write_whole
from workflows.dos.document import DosDocument
from workflows.dos.errors import DosError
from workflows.dos.gpaw.calculation import compute_dos, symbols
from workflows.dos.gpaw.maker import GpawDosMaker


@dataclass(frozen=True)
class Material:
    """A structure and its name."""

    material_id: str
    structure: Structure


def materials(table: pd.DataFrame) -> list[Material]:
    """Materials of a table with `material_id`, `lattice` (Å), `species` and `frac_coords`."""
    return [
        Material(
            row["material_id"],
            Structure(
                Lattice(np.reshape(row["lattice"], (3, 3))),
                list(row["species"]),
                np.reshape(row["frac_coords"], (-1, 3)),
            ),
        )
        for row in table.to_dict("records")
    ]


def run(
    todo: Iterable[Material], maker: GpawDosMaker, folder: Path
) -> Iterator[DosDocument | DosError]:
    """Compute what `folder` does not hold yet, and yield everything in order.

    Documents and failures are files ``<material_id>.<recipe>.json`` and ``.failed``, written
    whole or not at all. To try a failed one again, remove its file.

    Parameters
    ----------
    todo : iterable of Material
    maker : GpawDosMaker
        Without relaxation.
    folder : Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    for material in todo:
        recipe = maker.recipe_for(symbols(material.structure))
        target = folder / f"{material.material_id}.{recipe}.json"
        failed = target.with_suffix(".failed")
        if target.exists():
            yield DosDocument.model_validate_json(target.read_text())
        elif failed.exists():
            yield DosError(failed.read_text())
        else:
            outcome = _compute(material, maker, recipe, folder)
            text = str(outcome) if isinstance(outcome, DosError) else outcome.model_dump_json()
            write_whole(failed if isinstance(outcome, DosError) else target, text)
            yield outcome


def _compute(
    material: Material, maker: GpawDosMaker, recipe: str, folder: Path
) -> DosDocument | DosError:
    with contextlib.chdir(folder):  # where the engine writes its log
        try:
            return compute_dos(
                material.structure,
                maker.settings,
                recipe,
                maker.wall_time_limit,
                material.material_id,
            )
        except DosError as error:
            return error
