"""From spectra to verdicts, and both as documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from db.documents import CandidateDoc, GapDoc, PredictionDoc, PredictionKey, Verdict
from models.spectra.spectrum import EDOS_GRID
from screening.gap import GapCriteria, Gaps, find_gaps

if TYPE_CHECKING:
    from models.predictor import PredictedSpectra
    from screening.trust import Trust


def judge(spectra: np.ndarray, n_atoms: Sequence[int], criteria: GapCriteria) -> Gaps:
    """Verdicts on spectra on the eDOS grid.

    Parameters
    ----------
    spectra : ndarray, shape (B, 128)
        In states/eV/cell.
    n_atoms : sequence of int
        Atoms in each cell.
    criteria : GapCriteria
    """
    return find_gaps(EDOS_GRID, spectra, criteria, n_atoms)


def gap_document(gaps: Gaps, i: int) -> GapDoc:
    """Verdict on one spectrum as a document, with the criteria.

    Parameters
    ----------
    gaps : Gaps
    i : int
        Position of the spectrum.
    """
    criteria = gaps.criteria
    return GapDoc(
        **gaps.row(i), per_atom=criteria.per_atom, criteria=criteria.model_dump(mode="json")
    )


def prediction_key(candidate: CandidateDoc, model: str) -> PredictionKey:
    """Key of the prediction for a candidate.

    Parameters
    ----------
    candidate : CandidateDoc
    model : str
        Id of the model.
    """
    return candidate.material_id, candidate.structure_hash or "", model


def prediction_documents(
    candidates: Sequence[CandidateDoc], predicted: PredictedSpectra, model: str
) -> Iterator[PredictionDoc]:
    """Predictions with the verdict by the paper's criteria, which is the same for every run.

    Parameters
    ----------
    candidates : sequence of CandidateDoc
    predicted : PredictedSpectra
        For the candidates, none of which failed.
    model : str
        Id of the model.
    """
    spectra = predicted.values
    gaps = judge(spectra, [candidate.nsites for candidate in candidates], GapCriteria())
    for i, candidate in enumerate(candidates):
        yield PredictionDoc(
            material_id=candidate.material_id,
            structure_hash=candidate.structure_hash or "",
            model_id=model,
            formula=candidate.formula,
            nsites=candidate.nsites,
            grid=EDOS_GRID,
            spectrum=spectra[i],  # the document makes a list of it
            gap=gap_document(gaps, i),
            score=float(gaps.score[i]),
            member_spread=_known(predicted.member_spread[i]),
            training_distance=_known(predicted.training_distance[i]),
        )


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def verdicts_on(
    predictions: Sequence[PredictionDoc],
    candidates: Mapping[PredictionKey, CandidateDoc],
    criteria: GapCriteria,
    trust: Trust | None = None,
) -> Iterator[Verdict]:
    """Verdicts of a run on predictions, by its own criteria.

    Parameters
    ----------
    predictions : sequence of PredictionDoc
    candidates : mapping of PredictionKey to CandidateDoc
        The run's candidates that the predictions are of.
    criteria : GapCriteria
    trust : Trust, optional
        In verdicts of this model by these criteria.
    """
    if not predictions:
        return
    spectra = np.array([prediction.spectrum for prediction in predictions], np.float32)
    n_atoms = [prediction.nsites for prediction in predictions]
    gaps = judge(spectra, n_atoms, criteria)
    is_gap_per_atom = _judged_per_atom(spectra, n_atoms, gaps)
    errors, probabilities = _trusted(trust, predictions, spectra, gaps)
    for i, prediction in enumerate(predictions):
        candidate = candidates[prediction.key]
        yield Verdict(
            run_id=candidate.run_id,
            material_id=candidate.material_id,
            state="screened",
            model_id=prediction.model_id,
            gap=gap_document(gaps, i),
            is_positive=bool(gaps.is_gap[i]),
            is_positive_per_atom=bool(is_gap_per_atom[i]),
            score=float(gaps.score[i]),
            probability=_known(probabilities[i]),
            expected_error=_known(errors[i]),
        )


def _trusted(
    trust: Trust | None, predictions: Sequence[PredictionDoc], spectra: np.ndarray, gaps: Gaps
) -> tuple[np.ndarray, np.ndarray]:
    """Expected errors in eV and probabilities, (B,) each; NaN where nothing is known of them."""
    if trust is None:
        unknown = np.full(len(predictions), np.nan)
        return unknown, unknown
    hints = np.array([(p.member_spread, p.training_distance) for p in predictions], float).T
    errors = trust.expected_errors(*hints)
    n_atoms = np.array([prediction.nsites for prediction in predictions])
    return errors, trust.probabilities(spectra, n_atoms, gaps.score, errors)


def _judged_per_atom(spectra: np.ndarray, n_atoms: Sequence[int], gaps: Gaps) -> np.ndarray:
    """Verdicts with the threshold for an atom, (B,): a cell's DOS grows with the cell."""
    if gaps.criteria.per_atom:
        return gaps.is_gap
    return judge(spectra, n_atoms, gaps.criteria.model_copy(update={"per_atom": True})).is_gap
