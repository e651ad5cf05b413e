"""From spectra to verdicts, and both as documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from db.documents import (
    VERDICT_FIELDS,
    CandidateDoc,
    GapDoc,
    MarginsDoc,
    PredictionDoc,
    PredictionKey,
    Run,
    ValidationDoc,
    Verdict,
)
from models.spectra.metrics import mae, wasserstein
from models.spectra.spectrum import EDOS_GRID
from screening.criteria.gap_criterion import VB_GAP
from screening.criteria.interface import Criterion, Verdicts
from screening.criteria.registry import criterion_of
from screening.gap import GapCriteria, Gaps, find_gaps

if TYPE_CHECKING:
    from models.predicted_spectra import PredictedSpectra
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
    criteria, row = gaps.criteria, gaps.row(i)
    row["margins"] = MarginsDoc.of_checked(**row["margins"])
    return GapDoc.of_checked(**row, per_atom=criteria.per_atom, criteria=dict(_limits(criteria)))


@lru_cache(maxsize=8)
def _limits(criteria: GapCriteria) -> dict[str, Any]:
    return criteria.model_dump(mode="json")


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
    """Predictions; those of the eDOS with the paper's verdict, which is the same for every run.

    Parameters
    ----------
    candidates : sequence of CandidateDoc
    predicted : PredictedSpectra
        For the candidates, none of which failed.
    model : str
        Id of the model.
    """
    spectra, gaps = predicted.values, None
    # What has NaN is left to the document's checks, which refuse it.
    document = PredictionDoc.of_checked if np.isfinite(spectra).all() else PredictionDoc
    rounded = spectra.astype(np.float32, copy=False).tolist()
    if predicted.grid == EDOS_GRID:
        gaps = judge(spectra, [candidate.nsites for candidate in candidates], GapCriteria())
    for i, candidate in enumerate(candidates):
        yield document(
            material_id=candidate.material_id,
            structure_hash=candidate.structure_hash or "",
            model_id=model,
            formula=candidate.formula,
            nsites=candidate.nsites,
            grid=predicted.grid,
            spectrum=rounded[i],
            gap=None if gaps is None else gap_document(gaps, i),
            score=None if gaps is None else float(gaps.score[i]),
            member_spread=_known(predicted.member_spread[i]),
            training_distance=_known(predicted.training_distance[i]),
        )


def _known(number: float) -> float | None:
    """In single precision: no last digit depends on what else was judged with it."""
    return None if np.isnan(number) else float(np.float32(number))


def verdicts_on(
    predictions: Sequence[PredictionDoc],
    candidates: Mapping[PredictionKey, CandidateDoc],
    criterion: Criterion,
    trust: Trust | None = None,
) -> Iterator[Verdict]:
    """Verdicts of a run on predictions, by its own criterion.

    Parameters
    ----------
    predictions : sequence of PredictionDoc
        Of one model.
    candidates : mapping of PredictionKey to CandidateDoc
        The run's candidates that the predictions are of.
    criterion : Criterion
    trust : Trust, optional
        In verdicts of this model by this criterion.
    """
    if not predictions:
        return
    spectra = np.array([prediction.spectrum for prediction in predictions], np.float32)
    n_atoms = [prediction.nsites for prediction in predictions]
    verdicts = criterion.judge(spectra, predictions[0].grid, n_atoms)
    per_atom = _judged_per_atom(spectra, n_atoms, verdicts.gaps)
    errors, probabilities = _trusted(trust, predictions, spectra, verdicts.score)
    for i, prediction in enumerate(predictions):
        candidate = candidates[prediction.key]
        refusal = verdicts.refusal(i)
        yield Verdict.of_checked(
            run_id=candidate.run_id,
            material_id=candidate.material_id,
            state="failed" if refusal else "screened",
            reason=refusal,
            model_id=prediction.model_id,
            is_positive_per_atom=None if per_atom is None else bool(per_atom[i]),
            score=None if refusal else float(verdicts.score[i]),
            probability=_known(probabilities[i]),
            expected_error=_known(errors[i]),
            **verdict_fields(criterion, verdicts, i),
        )


def with_verdict(candidate: CandidateDoc, verdict: Verdict) -> CandidateDoc:
    """A candidate with a verdict on it instead of the one that it has.

    Parameters
    ----------
    candidate : CandidateDoc
    verdict : Verdict
    """
    return candidate.model_copy(update={name: getattr(verdict, name) for name in VERDICT_FIELDS})


def _trusted(
    trust: Trust | None,
    predictions: Sequence[PredictionDoc],
    spectra: np.ndarray,
    scores: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Expected errors in eV and probabilities, (B,) each; NaN where nothing is known of them."""
    if trust is None:
        unknown = np.full(len(predictions), np.nan)
        return unknown, unknown
    hints = np.array([(p.member_spread, p.training_distance) for p in predictions], float).T
    errors = trust.calibration.expected_errors(*hints)
    n_atoms = np.array([prediction.nsites for prediction in predictions])
    return errors, trust.probabilities(spectra, n_atoms, scores, errors)


def verdict_fields(criterion: Criterion, verdicts: Verdicts, i: int) -> dict[str, Any]:
    """What a document of any sort says of the verdict on one spectrum.

    Parameters
    ----------
    criterion : Criterion
    verdicts : Verdicts
    i : int
        Position of the spectrum.

    Returns
    -------
    dict
        `is_positive` (None without a verdict), `gap`, `criterion` and `features`, as in the
        documents.
    """
    fields: dict[str, Any] = {
        "criterion": None if criterion.name == VB_GAP else criterion.name,
        "is_positive": None if verdicts.refusal(i) else bool(verdicts.is_positive[i]),
    }
    if verdicts.gaps is not None:
        return fields | {"gap": gap_document(verdicts.gaps, i), "features": None}
    features: dict[str, Any] = {}
    for name, values in verdicts.features.items():
        group, _, last = name.rpartition(".")
        where = features.setdefault(group, {}) if group else features
        where[last] = values[i].item() if np.isfinite(values[i]) else None
    return fields | {"gap": None, "features": features}


def judged_for(run: Run, validations: Sequence[ValidationDoc]) -> list[ValidationDoc]:
    """Calculations with the verdict by the criterion of a run, whichever run asked for them.

    What DFT gave no verdict on, such as magnetic materials, still has none, and neither has
    anything for a criterion on phonons.

    Parameters
    ----------
    run : Run
    validations : sequence of ValidationDoc
    """
    criterion = criterion_of(run.parameters)
    judged = list(validations)
    known = [i for i, d in enumerate(judged) if d.spectrum is not None and d.grid == EDOS_GRID]
    if criterion.spectra != "edos":
        none = {"criterion": criterion.name, "is_positive": None, "gap": None, "features": None}
        return [document.model_copy(update=none) for document in judged]
    if not known:
        return judged
    spectra = np.array([judged[i].spectrum for i in known])
    verdicts = criterion.judge(spectra, EDOS_GRID, [judged[i].nsites for i in known])
    for row, i in enumerate(known):
        before, fields = judged[i].gap, verdict_fields(criterion, verdicts, row)
        now = fields["gap"]
        if before is not None and now is not None and before.criteria == now.criteria:
            fields["gap"] = now.model_copy(update={"is_gap_fine": before.is_gap_fine})
        if not _has_verdict(judged[i]):
            fields["is_positive"] = None
        judged[i] = judged[i].model_copy(update=fields)
    return judged


def compared_with(validation: ValidationDoc, prediction: PredictionDoc | None) -> ValidationDoc:
    """A calculation with the errors of this prediction, whichever it was compared with first.

    Parameters
    ----------
    validation : ValidationDoc
    prediction : PredictionDoc or None
        Of the same structure. Without it there are no errors.
    """
    own = validation.without_other_errors(None if prediction is None else prediction.model_id)
    is_known = own.prediction_model_id is not None
    if is_known or prediction is None or own.spectrum is None or own.grid != prediction.grid:
        return own
    return own.model_copy(update=prediction_errors(prediction, np.array(own.spectrum)))


def prediction_errors(prediction: PredictionDoc, spectrum: np.ndarray) -> dict[str, Any]:
    """Errors of a prediction by DFT, as a :class:`db.documents.ValidationDoc` has them.

    Parameters
    ----------
    prediction : PredictionDoc
    spectrum : ndarray, shape (K',)
        By DFT, in states/eV/cell, on the grid of the prediction.
    """
    predicted = np.array(prediction.spectrum)
    comparable = predicted.any() and spectrum.any()  # an empty spectrum has no shape
    width = prediction.grid.width
    return {
        "prediction_model_id": prediction.model_id,
        "mae": mae(predicted, spectrum),
        "wd": wasserstein(predicted[None], spectrum[None], width) if comparable else None,
    }


def _has_verdict(document: ValidationDoc) -> bool:
    """Whether DFT gave one: where only another criterion than a gap had none, this one may."""
    refused = document.is_positive is None and document.gap is not None
    return document.state == "done" and not refused


def _judged_per_atom(
    spectra: np.ndarray, n_atoms: Sequence[int], gaps: Gaps | None
) -> np.ndarray | None:
    """Verdicts with the threshold for an atom, (B,): a cell's DOS grows with the cell."""
    if gaps is None or gaps.criteria.per_atom:
        return None if gaps is None else gaps.is_gap
    return judge(spectra, n_atoms, gaps.criteria.model_copy(update={"per_atom": True})).is_gap
