"""How far to trust a predictor's verdicts: what the calibration of a model says of a criterion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import ModelError
from models.uncertainty.calibration import Calibration
from models.uncertainty.held_out import HeldOut, read_held_out, write_held_out
from models.uncertainty.reliability import (
    average_precision,
    brier_score,
    expected_calibration_error,
    reliability_bins,
)
from models.zoo import calibration_files, model_id
from screening.criteria.gap_criterion import GapCriterion
from screening.criteria.interface import Criterion

if TYPE_CHECKING:
    from models.data.dataset import SpectrumDataset
    from models.predictor import SpectrumPredictor

# Of this process, by what they are made of: a run asks for the same ones again and again.
_TRUST: dict[tuple[str, ...], Trust | None] = {}
_CALIBRATIONS: dict[tuple[str, ...], Calibration | None] = {}


class Trust:
    """What can be said of a predictor's verdicts by a criterion, besides yes and no.

    Parameters
    ----------
    calibration : Calibration
        Of the predictor.
    criterion : Criterion

    Attributes
    ----------
    probabilities : VerdictProbability
        Tells the probabilities that DFT finds the criterion met.
    """

    def __init__(self, calibration: Calibration, criterion: Criterion) -> None:
        self.calibration, self.criterion = calibration, criterion
        self.probabilities = calibration.probability_of(self.judge, self.is_positive)

    def judge(self, spectra: np.ndarray, n_atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Verdicts and scores by the criterion, see :data:`models.uncertainty.calibration.Judge`.

        Parameters
        ----------
        spectra : ndarray, shape (B, K')
            In states/eV/cell.
        n_atoms : ndarray, shape (B,)
            Atoms in each cell.
        """
        verdicts = self.criterion.judge(spectra, self.calibration.held_out.grid, n_atoms)
        return verdicts.is_positive, verdicts.score

    def is_positive(self, spectra: np.ndarray, n_atoms: np.ndarray) -> np.ndarray:
        """The verdicts of :meth:`judge` alone, which are faster to have.

        Parameters
        ----------
        spectra : ndarray, shape (B, K')
            In states/eV/cell.
        n_atoms : ndarray, shape (B,)
        """
        return self.criterion.is_positive(spectra, self.calibration.held_out.grid, n_atoms)


def trust_in(folder: Path, criterion: Criterion) -> Trust | None:
    """Trust in a predictor; None if it was never calibrated.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    criterion : Criterion

    Raises
    ------
    ModelError
        If its calibration is damaged, or that of other weights.
    """
    key = (*_stamp(folder), json.dumps(criterion.definition(), sort_keys=True, default=str))
    if key not in _TRUST:
        calibration = calibration_of(folder)
        _TRUST[key] = None if calibration is None else Trust(calibration, criterion)
    return _TRUST[key]


def calibration_of(folder: Path) -> Calibration | None:
    """Calibration of a predictor; None if it was never calibrated.

    Parameters
    ----------
    folder : Path
        Of the predictor.

    Raises
    ------
    ModelError
        If it is damaged, or that of other weights.
    """
    key = _stamp(folder)
    if key not in _CALIBRATIONS:
        held_out = read_held_out(folder)
        _CALIBRATIONS[key] = None if held_out is None else Calibration(held_out)
    return _CALIBRATIONS[key]


def _stamp(folder: Path) -> tuple[str, ...]:
    """What changes when a predictor, or what it is calibrated on, does."""
    files = calibration_files(folder)
    times = (str(path.stat().st_mtime_ns) if path.exists() else "" for path in files)
    return str(folder.resolve()), model_id(folder), *times


def calibrate(predictor: SpectrumPredictor, dataset: SpectrumDataset) -> dict[str, Any]:
    """Calibrate a predictor, and write what tells how wrong it may be beside its checkpoints.

    Parameters
    ----------
    predictor : SpectrumPredictor
    dataset : SpectrumDataset
        Labels of DFT, see :func:`models.uncertainty.measure.parts_for_calibration`.

    Returns
    -------
    dict
        Figures on the test materials, of which the calibration knows nothing: those of
        :func:`models.uncertainty.measure.band_figures`, and of the probability of a VB gap by the
        paper's criteria the number of gaps, expected and found, Brier scores of probability and
        verdict, expected calibration error, and average precision by probability and by score.

    Raises
    ------
    ModelError
        If too few labelled materials are left to calibrate on.
    """
    from pymatgen.core import Composition

    from models.uncertainty.measure import ask, band_figures, parts_for_calibration

    held_out_part, test_part = parts_for_calibration(predictor, dataset)
    held_out, test = ask(predictor, held_out_part), ask(predictor, test_part)
    trust = Trust(Calibration(held_out), GapCriterion())
    trained = predictor.trained_on.materials if predictor.trained_on is not None else ()
    known = {Composition(material.formula).chemical_system for material in trained}
    figures = {
        "n_held_out": len(held_out),
        **band_figures(trust.calibration, test, known),
        **probability_figures(trust, test),
    }
    write_held_out(predictor.folder, held_out, figures)
    return figures


def calibrate_trained(folder: Path, dataset: SpectrumDataset) -> str:
    """Calibrate what was just trained, and say in a line what came of it.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    dataset : SpectrumDataset
        All labels that it was trained, validated and tested on.
    """
    from models.predictor import SpectrumPredictor

    try:
        figures = calibrate(SpectrumPredictor.load(folder), dataset)
    except ModelError as error:
        return f"Not calibrated, so its verdicts have no probability: {error}"
    return f"Calibrated on {figures['n_held_out']} materials"


def probability_figures(trust: Trust, test: HeldOut) -> dict[str, float]:
    """How well probabilities of meeting the criterion fit other materials; see :func:`calibrate`.

    Parameters
    ----------
    trust : Trust
    test : HeldOut
    """
    is_positive, _ = trust.judge(test.labels, test.n_atoms)
    verdicts, scores = trust.judge(test.predicted, test.n_atoms)
    errors = trust.calibration.expected_errors(test.member_spread, test.training_distance)
    p = trust.probabilities(test.predicted, test.n_atoms, scores, errors)
    figures = {
        "n_positive": int(is_positive.sum()),
        "expected_positive": float(p.sum()),
        "brier_probability": brier_score(p, is_positive),
        "brier_verdict": brier_score(verdicts.astype(float), is_positive),
        "calibration_error": expected_calibration_error(reliability_bins(p, is_positive)),
        "average_precision_by_probability": average_precision(p, is_positive),
        "average_precision_by_score": average_precision(scores, is_positive),
    }
    return {name: value for name, value in figures.items() if np.isfinite(value)}
