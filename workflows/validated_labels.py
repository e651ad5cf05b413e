"""Labels from what DFT calculated for a search, in a file like those that models are trained on.

Each row has the DOS on the bins of the label files, the structure that was judged, and engine and
recipe. Only recipes that are alike are mixed (:func:`are_alike`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from db.collections import CANDIDATES
from db.documents import CandidateDoc, Run, ValidationDoc
from db.store import ScreeningStore
from models.crystal import ATOMIC_NUMBERS, Crystal
from models.data.label_files import (
    LABEL_EDGES,
    LABELS_RECIPE,
    RECIPE,
    SPIN,
    STAND_INS,
    recipes_of,
)
from screening.candidate import crystal_of
from screening.errors import ScreeningError
from workflows.dos.document import DosDocument, recipe_without_stand_ins
from workflows.dos.engines import dos_maker

ALIKE = ("fast", "standard")
"""Presets of GPAW whose DOS are alike to the shipped labels; measured in
``tests/benchmarks/results/like_recipes.md``."""
UNLIKE = "its recipe is unlike that of the labels"


class NothingToLearnError(ScreeningError):
    """No calculation of a search can be a label."""


@dataclass(frozen=True)
class ValidatedLabels:
    """Labels from finished calculations.

    Parameters
    ----------
    rows : list of dict
        Of the file of labels; see :func:`write_labels`.
    crystals : dict of Crystal
        Of the same materials.
    left_out : dict of str to str
        Why other calculations are no labels, by material.
    """

    rows: list[dict[str, Any]]
    crystals: dict[str, Crystal]
    left_out: dict[str, str]

    def without(self, reasons: Mapping[str, str]) -> ValidatedLabels:
        """The same without some materials.

        Parameters
        ----------
        reasons : mapping of str to str
            By material; those that are no labels anyway do not matter.
        """
        rows = [row for row in self.rows if row["material_id"] not in reasons]
        crystals = {name: c for name, c in self.crystals.items() if name not in reasons}
        more = {name: why for name, why in reasons.items() if name in self.crystals}
        return ValidatedLabels(rows, crystals, self.left_out | more)


def are_alike(recipe: str, other: str) -> bool:
    """Whether labels of two recipes may be mixed: they are the same, or were found to be alike.

    Parameters
    ----------
    recipe, other : str
        Without stand-ins.

    Examples
    --------
    >>> are_alike("gpaw-pbe-fast-c5de4d12", "gpaw-pbe-labels")
    True
    >>> are_alike("vasp-pbe-mp-0123abcd", "gpaw-pbe-labels")
    False
    """
    alike = {LABELS_RECIPE, *(dos_maker("gpaw", preset=preset).recipe for preset in ALIKE)}
    return recipe == other or {recipe, other} <= alike


def labels_of(store: ScreeningStore, runs: Sequence[Run], files: Sequence[Path]) -> ValidatedLabels:
    """Labels from the calculations that runs asked for, of recipes like those of some files.

    Of several such calculations of a material the newest counts.

    Parameters
    ----------
    store : ScreeningStore
    runs : sequence of Run
        Whose candidates have the structures.
    files : sequence of Path
        With which the labels will be mixed.

    Raises
    ------
    NothingToLearnError
        If no calculation has finished.
    ScreeningError
        If the files do not say their recipe, or no calculation is of one like it.
    """
    finished = _finished(store, runs)
    usable = {v.material_id: v for v in _alike(runs[0], finished, files)}
    rows, crystals = [], dict[str, Crystal]()
    left_out = {v.material_id: UNLIKE for v in finished if v.material_id not in usable}
    for name, validation in sorted(usable.items()):
        candidate = _candidate(store, runs, validation)
        if validation.state == "magnetic":
            left_out[name] = "magnetic"
        elif candidate is None or validation.raw_dos is None:
            left_out[name] = "its structure or its DOS is not in the database"
        else:
            crystals[name] = crystal_of(candidate.structure)
            document = document_of(store.raw_dos(validation.raw_dos))
            rows.append(_row(validation, crystals[name], document))
    return ValidatedLabels(rows, crystals, left_out)


def _finished(store: ScreeningStore, runs: Sequence[Run]) -> list[ValidationDoc]:
    """All finished calculations, the newest last."""
    validations = [v for run in runs for v in store.validations(run_id=run.run_id)]
    in_order = sorted(validations, key=lambda v: v.updated_at)
    if finished := [v for v in in_order if v.is_finished]:
        return finished
    failed = {v.material_id: v.error for v in in_order if v.state == "failed"}
    what = "no calculation has finished"
    if failed:
        name, error = next(iter(failed.items()))
        what = f"all {len(failed)} calculations failed ({name}: {error})"
    raise NothingToLearnError(f"run {runs[0].run_id}: {what}; `screen validate` calculates")


def _alike(
    run: Run, finished: Sequence[ValidationDoc], files: Sequence[Path]
) -> list[ValidationDoc]:
    """Those of the calculations whose recipe is like those of the files."""
    of_files: set[str] = set()
    for file in files:
        recipes = recipes_of(file)
        if not recipes:
            raise ScreeningError(f"{file} does not say by which recipe its labels were computed")
        of_files |= {recipe_without_stand_ins(recipe) for recipe in recipes}
    own = {v.recipe: recipe_without_stand_ins(v.recipe) for v in finished}
    usable = {
        recipe for recipe, bare in own.items() if all(are_alike(bare, other) for other in of_files)
    }
    if not usable:
        raise ScreeningError(
            f"run {run.run_id}: labels by {_listed(own.values())} are not mixed with those by "
            f"{_listed(of_files)} in {_listed(file.name for file in files)}; calculate with a "
            "recipe like theirs, or name other labels"
        )
    return [validation for validation in finished if validation.recipe in usable]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _candidate(
    store: ScreeningStore, runs: Sequence[Run], validation: ValidationDoc
) -> CandidateDoc | None:
    """The candidate that was calculated, with its structure."""
    keys = [(run.run_id, validation.material_id) for run in runs]
    for candidate in store.lookup(CANDIDATES, keys, with_structure=True):
        if candidate.structure and candidate.structure_hash == validation.structure_hash:
            return candidate
    return None


def document_of(raw_dos: Mapping[str, Any]) -> DosDocument:
    """The document of a stored DOS; see :func:`workflows.validation.validation_of`."""
    columns = {"energies": raw_dos["energies"], "dos": raw_dos["densities"]["1"]}
    return DosDocument.model_validate(raw_dos["document"] | columns)


def label_bins(document: DosDocument) -> np.ndarray:
    """A DOS as label files have it, shape (1200,): averages in states/eV/cell over their bins.

    Relative to the VBM, or the Fermi level of a metal; zero where the DOS does not reach.
    """
    integral = document.integral
    edges = (LABEL_EDGES + document.vbm).clip(*integral.reach)
    return np.diff(integral(edges)) / np.diff(LABEL_EDGES)


def _row(validation: ValidationDoc, crystal: Crystal, document: DosDocument) -> dict[str, Any]:
    stand_ins = document.settings.get("stand_ins", {})
    return {
        "material_id": validation.material_id,
        "formula": crystal.formula,
        "lattice": crystal.lattice.ravel(),
        "species": crystal.atomic_numbers,
        "frac_coords": crystal.frac_coords.ravel(),
        "band_gap": document.band_gap,
        "emax": document.emax - document.vbm,
        "dos": label_bins(document),
        STAND_INS: sorted(ATOMIC_NUMBERS[symbol] for symbol in stand_ins),
        SPIN: document.is_spin_polarized,
        "engine": validation.engine,
        RECIPE: validation.recipe,
    }


def write_labels(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write labels with their structures to a parquet file.

    Parameters
    ----------
    path : Path
    rows : sequence of dict
        Of :class:`ValidatedLabels`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, integers = pa.list_(pa.float64()), pa.list_(pa.int64())
    types = {
        "material_id": pa.string(),
        "formula": pa.string(),
        "lattice": numbers,
        "species": integers,
        "frac_coords": numbers,
        "band_gap": pa.float64(),
        "emax": pa.float64(),
        "dos": numbers,
        STAND_INS: integers,
        SPIN: pa.bool_(),
        "engine": pa.string(),
        RECIPE: pa.string(),
    }
    columns = {name: [row[name] for row in rows] for name in types}
    pq.write_table(pa.table(columns, pa.schema(list(types.items()))), path, compression="zstd")
