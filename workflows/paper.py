"""What of a run is drawn for a paper: predictions beside labels and beside its own DFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from db.documents import CandidateDoc, PredictionDoc, Run, ValidationDoc
from db.store import ScreeningStore
from models.spectra.spectrum import EDOS_GRID
from models.uncertainty.held_out import HeldOut, read_held_out
from models.zoo import ZOO, model_name, shipped_predictors
from screening.criteria.gap_criterion import GapCriterion
from screening.criteria.interface import Criterion
from screening.criteria.registry import criterion_of
from screening.report.paper_figures import Comparison, PaperData, clipped
from screening.report.plots import EdosPanel, formula_text
from screening.report.words import attribution_of, gap_edges
from workflows.metrics import run_metrics
from workflows.reporting import find_model, find_predictions, run_validations

PHONONS = "there are held-out materials of models of the electronic DOS only"
IN_COMMON = 0.5  # of the held-out materials of a run's model, so many at least for a comparison
LABELS = "Labels of the held-out materials: DFT, see the card of the model"


def paper_data(store: ScreeningStore, run: Run) -> PaperData:
    """Gather what :mod:`screening.report.paper_figures` draws of a run.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    criterion = criterion_of(run.parameters)
    is_electronic = criterion.spectra == "edos"
    validations = run_validations(store, run)
    candidates = _candidates(store, run, validations)
    predictions = find_predictions(store, candidates)
    held_out, problem = _held_out(run) if is_electronic else ({}, PHONONS)
    compared = [
        c for c in candidates if c.material_id in validations and c.material_id in predictions
    ]
    positives = [c for c in candidates if c.is_positive and c.material_id in predictions]
    positives.sort(key=lambda candidate: candidate.material_id not in validations)  # stable
    judged = [predictions[c.material_id].key for c in (*compared, *positives)]
    shown = {attribution_of(c.material_id, run) for c in (*compared, *positives)}
    shown |= {attribution_of(name) for h in held_out.values() for name in h.material_ids}
    sources = sorted(text for text in shown if text)
    return PaperData(
        run_id=run.run_id,
        model=model_name(run.model_id or "no model"),
        judges=" and ".join(sorted({model_name(key[2]) for key in judged})),
        criterion=criterion.name,
        grid=next(iter(predictions.values())).grid if predictions else EDOS_GRID,
        held_out={name: _of_held_out(spectra) for name, spectra in held_out.items()},
        validated=_of_run(compared, predictions, validations),
        engines={_name(c): _engine(validations[c.material_id]) for c in compared},
        positives=[
            (_name(c), _panel(c, predictions[c.material_id], validations.get(c.material_id)))
            for c in positives
        ],
        max_dos=_threshold(criterion),
        confirmed=_confirmed(store, run) if is_electronic else "",
        attributions=(*sources, *([LABELS] if held_out else [])),
        missing={
            "held_out": problem,
            "validated": f"run {run.run_id} has no finished DFT calculation"
            f"{' (`screen validate`)' if is_electronic else ''}",
            "positives": f"run {run.run_id} has no predicted positives",
        },
    )


def _candidates(
    store: ScreeningStore, run: Run, validations: Mapping[str, ValidationDoc]
) -> list[CandidateDoc]:
    """The predicted positives and what DFT calculated, by falling score."""
    positives = store.candidates(run.run_id, state="screened", is_positive=True)
    calculated = store.candidates(run.run_id, state="screened", material_ids=sorted(validations))
    both = {c.material_id: c for group in (positives, calculated) for c in group}
    same = [
        candidate
        for name, candidate in both.items()
        if name not in validations or candidate.structure_hash == validations[name].structure_hash
    ]
    return sorted(same, key=lambda c: (-(c.score or 0.0), c.material_id))


def _held_out(run: Run) -> tuple[dict[str, HeldOut], str]:
    """What the run's model, and shipped ones, say of the same materials; else why nothing is there.

    A model whose labels of these materials are others, or of another grid, is left out.
    """
    folder = find_model(run, run.model_id) if run.model_id else None
    if folder is None:
        return {}, f"the checkpoint of {run.model_id} is gone or has changed"
    own = read_held_out(folder)
    if own is None:
        return {}, f"{model_name(run.model_id or '')} was never calibrated (`screen calibrate`)"
    models = {model_name(run.model_id or ""): own}
    for name in shipped_predictors():
        other = read_held_out(ZOO / name) if Path(folder).resolve() != ZOO / name else None
        if other is not None and name not in models and _is_comparable(own, other):
            models[name] = other
    common = sorted(set.intersection(*(set(m.material_ids) for m in models.values())))
    return {name: _only(spectra, common) for name, spectra in models.items()}, ""


def _is_comparable(own: HeldOut, other: HeldOut) -> bool:
    """Whether another model has the same labels, of enough materials of the run's own model."""
    both = sorted(set(own.material_ids) & set(other.material_ids))
    if other.grid != own.grid or len(both) < IN_COMMON * len(own):
        return False
    return np.allclose(_only(own, both).labels, _only(other, both).labels)


def _only(spectra: HeldOut, names: Sequence[str]) -> HeldOut:
    places = {name: i for i, name in enumerate(spectra.material_ids)}
    return spectra.take(np.array([places[name] for name in names], int))


def _of_held_out(spectra: HeldOut) -> Comparison:
    named = zip(spectra.chemical_systems, spectra.material_ids, strict=True)
    names = tuple(f"{system} ({name})" for system, name in named)
    return Comparison(names, spectra.predicted, spectra.labels, spectra.grid)


def _of_run(
    candidates: Sequence[CandidateDoc],
    predictions: Mapping[str, PredictionDoc],
    validations: Mapping[str, ValidationDoc],
) -> Comparison:
    in_order = sorted(candidates, key=lambda candidate: candidate.material_id)
    predicted = [predictions[c.material_id].spectrum for c in in_order]
    dft = [validations[c.material_id].spectrum for c in in_order]
    size = (-1, EDOS_GRID.size)
    return Comparison(
        tuple(map(_name, in_order)),
        np.array(predicted, float).reshape(size),
        np.array(dft, float).reshape(size),
        EDOS_GRID,
    )


def _name(candidate: CandidateDoc) -> str:
    return f"{formula_text(candidate.formula)} ({candidate.material_id})"


def _panel(
    candidate: CandidateDoc, prediction: PredictionDoc, validation: ValidationDoc | None
) -> EdosPanel:
    verdicts = {True: "positive", False: "negative", None: "no verdict"}
    verdict = f", by DFT {verdicts[validation.is_positive]}" if validation else ""
    band_gap = validation.band_gap if validation else candidate.band_gap
    return EdosPanel(
        clipped(_name(candidate)) + verdict,
        np.array(prediction.spectrum),
        np.array(validation.spectrum) if validation else None,
        gap_edges(validation.gap) if validation else None,
        gap_edges(candidate.gap),
        band_gap,
    )


def _threshold(criterion: Criterion) -> float | None:
    """In states/eV/cell; None where it is for an atom, or there is none."""
    if not isinstance(criterion, GapCriterion) or criterion.criteria.per_atom:
        return None
    return float(criterion.criteria.max_dos)


def _engine(validation: ValidationDoc) -> str:
    return f"{validation.engine}, {validation.recipe}"


def _confirmed(store: ScreeningStore, run: Run) -> str:
    """Precision of the predicted positives, with the interval that `screen metrics` shows."""
    words = []
    for result in run_metrics(store, run):
        counts, precision = result.assessment.counts, result.assessment.precision
        n = counts["tp"] + counts["fp"]
        if n and precision.low is not None and precision.high is not None:
            words.append(
                f"DFT ({result.engine}, {result.recipe}) confirmed {counts['tp']} of {n} predicted "
                f"positives with a verdict: precision {precision.low:.2f} to {precision.high:.2f} "
                "(95 %)."
            )
    return " ".join(words)
