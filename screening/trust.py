"""How far to trust a predictor's verdicts: what the calibration of a model says of a criterion."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from models.uncertainty.calibration import Calibration, FloatArray
from models.uncertainty.held_out import read_held_out
from models.zoo import model_id
from screening.gap import GapCriteria, find_gaps


class Trust:
    """What can be said of a predictor's verdicts by some criteria, besides yes and no.

    Parameters
    ----------
    calibration : Calibration
        Of the predictor.
    criteria : GapCriteria
    """

    def __init__(self, calibration: Calibration, criteria: GapCriteria) -> None:
        self.calibration, self.criteria = calibration, criteria
        self._probability = calibration.probability_of(self._judge)

    def _judge(self, spectra: np.ndarray, n_atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gaps = find_gaps(self.calibration.held_out.grid, spectra, self.criteria, n_atoms)
        return gaps.is_gap, gaps.score

    def expected_errors(
        self, member_spread: np.ndarray, training_distance: np.ndarray
    ) -> FloatArray:
        """As :meth:`~models.uncertainty.calibration.Calibration.expected_errors`."""
        return self.calibration.expected_errors(member_spread, training_distance)

    def probabilities(
        self,
        spectra: np.ndarray,
        n_atoms: np.ndarray,
        scores: np.ndarray,
        expected_errors: np.ndarray,
    ) -> FloatArray:
        """Probabilities that DFT finds the criteria met, shape (B,).

        Parameters
        ----------
        spectra : ndarray, shape (B, K')
            Predicted, in states/eV/cell.
        n_atoms, scores, expected_errors : ndarray, shape (B,)
            Atoms in each cell, scores of the predicted spectra, and errors in eV.
        """
        return self._probability(spectra, n_atoms, scores, expected_errors)


def trust_in(folder: Path, criteria: GapCriteria) -> Trust | None:
    """Trust in a predictor; None if it was never calibrated.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    criteria : GapCriteria

    Raises
    ------
    ModelError
        If its calibration is damaged, or that of other weights.
    """
    return _trust_in(folder, model_id(folder), criteria.model_dump_json())


@lru_cache(maxsize=4)
def _trust_in(folder: Path, model: str, criteria: str) -> Trust | None:
    calibration = calibration_of(folder, model)
    if calibration is None:
        return None
    return Trust(calibration, GapCriteria.model_validate_json(criteria))


@lru_cache(maxsize=4)
def calibration_of(folder: Path, model: str) -> Calibration | None:
    """Calibration of a predictor; None if it was never calibrated.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    model : str
        Its :func:`models.zoo.model_id`, so that other weights in the folder are noticed.

    Raises
    ------
    ModelError
        If it is damaged, or that of other weights.
    """
    held_out = read_held_out(folder)
    return None if held_out is None else Calibration(held_out)
