"""What a predictor was trained on: the materials, and where they are in its own embedding.

A prediction far from all of them is a guess. They are kept beside the checkpoints, embeddings as
safetensors and the rest as JSON, and read without torch, which only distances need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from models.array_files import ArrayFiles
from models.zoo import SHAPE, weights_hash

if TYPE_CHECKING:
    import torch

NEAREST = 3  # materials whose mean distance counts
_SMALLEST = 1e-2  # deviation of a number that hardly varies, as a part of the median of all


class TrainingMaterial(BaseModel):
    """A material with a label of DFT.

    Parameters
    ----------
    material_id, formula : str
    n_atoms : int
        Of the cell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    material_id: str
    formula: str
    n_atoms: int


class _Card(BaseModel):
    """The JSON file: which weights the embeddings are of, their hash, and the materials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_sha256: str
    embeddings_sha256: str = ""
    materials: tuple[TrainingMaterial, ...]


class Neighbor(NamedTuple):
    """A training material and its distance in the embedding."""

    material: TrainingMaterial
    distance: float


@dataclass(frozen=True, eq=False)
class TrainingMaterials:
    """Training materials in the embedding of a model.

    The distance of two materials is the root mean square, over the d dimensions, of the
    differences in standard deviations of the training materials.

    Parameters
    ----------
    materials : tuple of TrainingMaterial, length n
    embeddings : ndarray, shape (n, d), float32
        With mean 0 and deviation 1 over the materials.
    center, scale : ndarray, shape (d,), float32
        Which were subtracted, and divided by.
    own_distances : ndarray, shape (n,), float32
        What :meth:`distances` would be of each if it were not there itself, rising.

    Examples
    --------
    >>> metals = [TrainingMaterial(material_id=i, formula=i, n_atoms=1) for i in "KRC"]
    >>> trained_on = TrainingMaterials.of(metals, np.array([[0.0], [1.0], [5.0]], np.float32))
    >>> near = trained_on.nearest(np.array([0.9], np.float32), 2)
    >>> [neighbor.material.formula for neighbor in near]
    ['R', 'K']
    """

    materials: tuple[TrainingMaterial, ...]
    embeddings: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    own_distances: np.ndarray

    @classmethod
    def of(cls, materials: list[TrainingMaterial], embeddings: np.ndarray) -> TrainingMaterials:
        """Standardise embeddings.

        Parameters
        ----------
        materials : list of TrainingMaterial, length n
        embeddings : ndarray, shape (n, d), float32
            As the model gives them.
        """
        center = embeddings.mean(0).astype(np.float32)
        deviation = embeddings.std(0)
        scale = np.maximum(deviation, _SMALLEST * np.median(deviation) or 1.0).astype(np.float32)
        standardized = ((embeddings - center) / scale).astype(np.float16)  # as in the file
        points = standardized.astype(np.float32)
        to_each = _distances(points, points)
        np.fill_diagonal(to_each, np.inf)
        own = np.sort(_mean_of_smallest(to_each, len(points) - 1))
        return cls(tuple(materials), points, center, scale, own)

    @cached_property
    def largest_cell(self) -> int:
        """Atoms of the largest cell."""
        return max(material.n_atoms for material in self.materials)

    def distances(self, embeddings: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
        """Mean distance to the `NEAREST` training materials, shape (B,).

        Parameters
        ----------
        embeddings : ndarray, shape (B, d)
        device : torch.device or str
            Where to compute: that of the model, to keep up with it.
        """
        return _mean_of_smallest(self._to_each(embeddings, device), len(self.materials))

    def percentile(self, distance: float) -> float:
        """Percentage of the training materials that have a smaller one of the `own_distances`."""
        return 100 * float(np.searchsorted(self.own_distances, distance)) / len(self.materials)

    def nearest(self, embedding: np.ndarray, n: int = NEAREST) -> tuple[Neighbor, ...]:
        """The `n` nearest training materials, nearest first.

        Parameters
        ----------
        embedding : ndarray, shape (d,)
        n : int
        """
        (to_each,) = self._to_each(embedding[None])
        order = np.argsort(to_each, kind="stable")[:n]
        return tuple(Neighbor(self.materials[i], float(to_each[i])) for i in order)

    def save(self, folder: Path) -> None:
        """Write two files into the folder of a predictor whose checkpoints are there already."""
        arrays = {
            "embeddings": self.embeddings.astype(np.float16),
            "center": self.center,
            "scale": self.scale,
            "own_distances": self.own_distances,
        }
        card = _Card(weights_sha256=weights_hash(folder, SHAPE), materials=self.materials)
        _files(folder).write(card, save_arrays(arrays))

    def _to_each(self, embeddings: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
        return _distances((embeddings - self.center) / self.scale, self.embeddings, device)


def material_files(folder: Path) -> tuple[Path, Path]:
    """The two files that keep them in a predictor's folder: embeddings, and all else."""
    files = _files(folder)
    return files.arrays_file, files.card_file


def load_training_materials(folder: Path) -> TrainingMaterials | None:
    """Read what :meth:`TrainingMaterials.save` wrote; None if there is no such file.

    Raises
    ------
    ModelError
        If one of the two files is missing or damaged, or they are of other weights than those
        in the folder.
    """
    files = _files(folder)
    if not (files.arrays_file.exists() or files.card_file.exists()):
        return None
    card, arrays = files.read(load_arrays)
    if card.weights_sha256 != weights_hash(folder, SHAPE):
        raise files.error(files.card_file, ": of other weights than those beside it")
    try:
        embeddings = arrays["embeddings"].astype(np.float32)
        rest = (arrays[name] for name in ("center", "scale", "own_distances"))
        return TrainingMaterials(card.materials, embeddings, *rest)
    except KeyError:
        raise files.error(files.arrays_file, ": not a list of embeddings") from None


def _files(folder: Path) -> ArrayFiles[_Card]:
    stem = folder / "training_materials"
    again = "train the predictor again with `screen train`, or remove both files"
    return ArrayFiles(stem, _Card, "embeddings_sha256", "training materials", again)


def _distances(
    one: np.ndarray, other: np.ndarray, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Distance of each of (b, d) to each of (n, d), shape (b, n)."""
    from torch import cdist, from_numpy  # uses as many threads as the prediction

    # In double precision: no last digit depends on what else is in the batch.
    a, b = (from_numpy(points).to(device).double() for points in (one, other))
    to_each: np.ndarray = cdist(a, b).cpu().numpy()
    return (to_each / np.sqrt(other.shape[1])).astype(np.float32)


def _mean_of_smallest(to_each: np.ndarray, n: int) -> np.ndarray:
    """Mean of the `NEAREST` smallest in each row of (b, n), or of `n` where these are fewer."""
    n = max(min(NEAREST, n), 1)
    smallest: np.ndarray = np.partition(to_each, n - 1, axis=1)[:, :n].mean(1)
    return smallest
