"""What a predictor says of labelled materials that it has not learned from, and the file of it.

The file is beside the checkpoints: tensors as safetensors, everything else as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from models.array_files import ArrayFiles
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EnergyGrid
from models.zoo import HELD_OUT, SHAPE, weights_hash

FORMAT_VERSION = 1
_ARRAYS = ("predicted", "labels", "n_atoms", "member_spread", "training_distance")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a predictor says of n labelled materials that it has not learned from.

    Parameters
    ----------
    material_ids, chemical_systems : tuple of str, length n
    predicted, labels : ndarray, shape (n, K')
        In states/eV/cell.
    n_atoms : ndarray, shape (n,)
        Atoms of each cell.
    member_spread, training_distance : ndarray, shape (n,)
        See :class:`models.predicted_spectra.PredictedSpectra`; NaN where not known.
    grid : EnergyGrid
    """

    material_ids: tuple[str, ...]
    chemical_systems: tuple[str, ...]
    predicted: np.ndarray
    labels: np.ndarray
    n_atoms: np.ndarray
    member_spread: np.ndarray
    training_distance: np.ndarray
    grid: EnergyGrid

    def __len__(self) -> int:
        return len(self.material_ids)

    def take(self, which: np.ndarray) -> HeldOut:
        """Some of them, by index or by a mask of shape (n,)."""
        rows = np.arange(len(self))[which]
        return HeldOut(
            tuple(self.material_ids[i] for i in rows),
            tuple(self.chemical_systems[i] for i in rows),
            self.predicted[rows],
            self.labels[rows],
            self.n_atoms[rows],
            self.member_spread[rows],
            self.training_distance[rows],
            self.grid,
        )

    @cached_property
    def errors(self) -> FloatArray:
        """Wasserstein distance of each prediction from its label, in the grid's unit, (n,)."""
        return wasserstein_distances(self.predicted, self.labels, self.grid.width)


class HeldOutCard(BaseModel):
    """The JSON file beside the arrays.

    Parameters
    ----------
    weights_sha256 : str
        Of the predictor's shape.
    arrays_sha256 : str
    material_ids, chemical_systems : tuple of str, length n
    grid : EnergyGrid
    figures : dict
        How the calibration did on other materials, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    weights_sha256: str
    arrays_sha256: str = ""
    material_ids: tuple[str, ...]
    chemical_systems: tuple[str, ...]
    grid: EnergyGrid
    figures: dict[str, Any] = {}


def write_held_out(folder: Path, held_out: HeldOut, figures: Mapping[str, Any]) -> None:
    """Put it beside the predictor's checkpoints, in the place of an earlier one.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    held_out : HeldOut
    figures : mapping
        See :class:`HeldOutCard`.
    """
    arrays = {name: np.ascontiguousarray(getattr(held_out, name), np.float32) for name in _ARRAYS}
    card = HeldOutCard(
        weights_sha256=weights_hash(folder, SHAPE),
        material_ids=held_out.material_ids,
        chemical_systems=held_out.chemical_systems,
        grid=held_out.grid,
        figures=dict(figures),
    )
    _files(folder).write(card, save_arrays(arrays))


def read_held_out(folder: Path) -> HeldOut | None:
    """What :func:`write_held_out` wrote; None if the predictor was never calibrated.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or belongs to other weights.
    """
    files = _files(folder)
    if not files.card_file.exists():
        return None
    card, arrays = files.read(load_arrays)
    if card.weights_sha256 != weights_hash(folder, SHAPE):
        raise files.error(files.card_file, ": of other weights than those beside it")
    n, size = len(card.material_ids), card.grid.size
    shapes = {name: (n, size) if name in ("predicted", "labels") else (n,) for name in _ARRAYS}
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise files.error(files.arrays_file, f": does not fit {files.card_file.name}")
    numbers = [arrays[name].astype(float) for name in _ARRAYS]
    predicted, labels, n_atoms, spread, distance = numbers
    ids, systems = card.material_ids, card.chemical_systems
    return HeldOut(ids, systems, predicted, labels, n_atoms, spread, distance, card.grid)


def _files(folder: Path) -> ArrayFiles[HeldOutCard]:
    again = "`screen calibrate` makes it again"
    return ArrayFiles(folder / HELD_OUT, HeldOutCard, "arrays_sha256", "calibration", again)
