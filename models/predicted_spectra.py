"""What a predictor says of structures, which needs no torch to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.spectra.spectrum import EnergyGrid


@dataclass(frozen=True, eq=False)
class PredictedSpectra:
    """Spectra of n structures.

    Parameters
    ----------
    values : ndarray, shape (n, K'), float32
        In states/eV/cell, or as the setting of a single model decodes them; a row is NaN where
        there is no prediction.
    grid : EnergyGrid
    band_gaps : ndarray, shape (n,)
        In eV, 0 in a metal; NaN where there is no prediction, and everywhere if the model does not
        know levels.
    member_spread : ndarray, shape (n,)
        Mean Wasserstein distance of the SumNorm spectra of the model's members from their mean, in
        the unit of the grid; NaN where there is no prediction, and everywhere if there is one
        member.
    training_distance : ndarray, shape (n,)
        Mean distance to the nearest training materials in the model's own embedding, see
        :meth:`models.training.materials.TrainingMaterials.distances`; NaN if it is not known.
    failures : dict
        Reason by row.
    """

    values: np.ndarray
    grid: EnergyGrid
    band_gaps: np.ndarray
    member_spread: np.ndarray
    training_distance: np.ndarray
    failures: dict[int, str] = field(default_factory=dict)

    @classmethod
    def unknown(cls, n: int, grid: EnergyGrid) -> PredictedSpectra:
        """Nothing but NaN.

        Parameters
        ----------
        n : int
            Structures.
        grid : EnergyGrid
        """
        gaps, spread, distance = np.full((3, n), np.nan, np.float32)
        values = np.full((n, grid.size), np.nan, np.float32)
        return cls(values, grid, gaps, spread, distance)

    @classmethod
    def joined(cls, parts: Sequence[PredictedSpectra]) -> PredictedSpectra:
        """Spectra of all parts, of which there is one at least, in order."""
        failures: dict[int, str] = {}
        start = 0
        for part in parts:
            failures |= {start + i: reason for i, reason in part.failures.items()}
            start += len(part.values)
        return cls(
            np.concatenate([part.values for part in parts]),
            parts[0].grid,
            np.concatenate([part.band_gaps for part in parts]),
            np.concatenate([part.member_spread for part in parts]),
            np.concatenate([part.training_distance for part in parts]),
            failures,
        )

    def rows(self, places: Sequence[int]) -> PredictedSpectra:
        """Those at some `places`, of which none is a failure."""
        of_structure = self.band_gaps, self.member_spread, self.training_distance
        gaps, spread, distance = (numbers[places] for numbers in of_structure)
        return PredictedSpectra(self.values[places], self.grid, gaps, spread, distance)
