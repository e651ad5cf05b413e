"""What DFT says of the training materials that a model finds nearest to a material."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.label_files import label_spectra
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import Spectrum
from models.zoo import ZOO
from screening.criteria.interface import Criterion

if TYPE_CHECKING:
    from models.training.materials import Neighbor

SHIPPED_LABELS = ZOO.parent / "data" / "edos_labels.parquet"


@dataclass(frozen=True, eq=False)
class NearestMaterial:
    """A training material near the one that was asked for, and its spectrum by DFT.

    Parameters
    ----------
    material_id, formula : str
    distance : float
        See :class:`models.training.materials.TrainingMaterials`.
    spectrum : Spectrum or None
        By DFT, in states/eV/cell; None unless it is among the labels that come with the program.
    is_positive : bool or None
        Whether that meets the criterion.
    wd : float or None
        Its Wasserstein distance from the predicted spectrum in eV.
    """

    material_id: str
    formula: str
    distance: float
    spectrum: Spectrum | None = None
    is_positive: bool | None = None
    wd: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the spectrum."""
        names = ("material_id", "formula", "distance", "is_positive", "wd")
        return {name: getattr(self, name) for name in names}


def with_labels(
    neighbors: Sequence[Neighbor], predicted: Spectrum, criterion: Criterion
) -> tuple[NearestMaterial, ...]:
    """The same training materials with what DFT says of them.

    Parameters
    ----------
    neighbors : sequence of Neighbor
    predicted : Spectrum
        Of the material whose neighbours they are.
    criterion : Criterion
        That their spectra are judged by.
    """
    labels: dict[str, np.ndarray] = {}
    if criterion.spectra == "edos" and SHIPPED_LABELS.exists():
        ids = {neighbor.material.material_id for neighbor in neighbors}
        labels = label_spectra(SHIPPED_LABELS, ids, predicted.grid)
    nearest = []
    for material, distance in neighbors:
        names = material.material_id, material.formula, distance
        values = labels.get(material.material_id)
        if values is None:
            nearest.append(NearestMaterial(*names))
            continue
        verdicts = criterion.judge(values[None], predicted.grid, [material.n_atoms])
        (wd,) = wasserstein_distances(predicted.values[None], values[None], predicted.grid.width)
        spectrum = Spectrum(values, predicted.grid, material.n_atoms)
        nearest.append(NearestMaterial(*names, spectrum, bool(verdicts.is_positive[0]), float(wd)))
    return tuple(nearest)
