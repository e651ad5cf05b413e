"""What there is to show of a run and of its materials, gathered from the store.

Nothing here draws: `screen show`, `screen report` and `screen dashboard` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from db.collections import CANDIDATES, batched
from db.documents import FINISHED, CandidateDoc, PredictionDoc, Run, ValidationDoc
from db.store import ScreeningStore
from models.crystal import Crystal
from models.errors import ModelError
from models.spectra.spectrum import Spectrum
from models.zoo import find_predictor, predictor_parts
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from workflows.progress import advance
from workflows.verdicts import judged_for

if TYPE_CHECKING:
    from models.predictor import SpectrumPredictor
    from models.spectra.electronic_structure import ElectronicStructure
    from screening.nearest import NearestMaterial

_CHECKPOINTS = ("checkpoint", "rescore_with")  # parameters of a run that name predictors
_BATCH = 100  # materials that are looked up together


@dataclass(frozen=True, eq=False)
class MaterialView:
    """What there is to show of a material in a run.

    Parameters
    ----------
    candidate : CandidateDoc
        With its structure.
    prediction : PredictionDoc or None
        Of the model that judged it.
    validation : ValidationDoc or None
        The newest finished calculation of this structure, judged by the criterion of the run; None
        also where that is one of phonons.
    unfinished : ValidationDoc or None
        The newest calculation that failed, waits or runs, where none is finished.
    band : ndarray, shape (2, K'), or None
        That holds most of what DFT finds, in states/eV/cell; None if nothing is known of the
        errors of the model.
    electronic_structure : ElectronicStructure or None
        Of a model that knows levels.
    nearest : tuple of NearestMaterial
        Training materials of the model.
    lacking : tuple of str
        What could not be had, and why: the checkpoint is gone.
    """

    candidate: CandidateDoc
    prediction: PredictionDoc | None = None
    validation: ValidationDoc | None = None
    unfinished: ValidationDoc | None = None
    band: np.ndarray | None = None
    electronic_structure: ElectronicStructure | None = None
    nearest: tuple[NearestMaterial, ...] = ()
    lacking: tuple[str, ...] = ()

    @cached_property
    def crystal(self) -> Crystal | None:
        """The cell that was judged; None of a material that could not be read."""
        structure = self.candidate.structure
        return None if structure is None else Crystal.from_dict(structure)

    @property
    def spectrum(self) -> Spectrum | None:
        """The prediction in states/eV/cell; a phonon DOS on the scale of its model."""
        prediction = self.prediction
        if prediction is None:
            return None
        return Spectrum(np.array(prediction.spectrum), prediction.grid, prediction.nsites)

    @property
    def dft(self) -> np.ndarray | None:
        """Spectrum by DFT that is comparable with the prediction, shape (K',), states/eV/cell."""
        validation = self.validation
        if validation is None or validation.state != "done":
            return None
        return np.array(validation.spectrum)


def view_material(
    store: ScreeningStore,
    run: Run,
    material_id: str,
    *,
    band: bool = True,
    parts: bool = True,
    nearest: bool = False,
) -> MaterialView:
    """What there is to show of a material in a run.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    material_id : str
    band, parts, nearest : bool
        As for :func:`view_materials`.

    Raises
    ------
    ScreeningError
        If the run does not have the material.
    """
    views = view_materials(store, run, [material_id], band=band, parts=parts, nearest=nearest)
    for view in views:
        return view
    raise ScreeningError(f"{material_id} is not in run {run.run_id}")


def view_materials(
    store: ScreeningStore,
    run: Run,
    material_ids: Iterable[str],
    *,
    band: bool = True,
    parts: bool = True,
    nearest: bool = False,
) -> Iterator[MaterialView]:
    """What there is to show of materials of a run, in their order; unknown ones are left out.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    material_ids : iterable of str
    band : bool
        Find the bands; some ms a material.
    parts : bool
        Find the electronic structures, of a model that knows levels 0.07 s a material.
    nearest : bool
        Find the nearest training materials, for which the model reads each structure again.
    """
    judges = _Judges(run)
    for batch in batched(material_ids, _BATCH):
        keys = [(run.run_id, material_id) for material_id in batch]
        found = store.lookup(CANDIDATES, keys, with_structure=True)
        by_id = {candidate.material_id: candidate for candidate in found}
        candidates = [by_id[material_id] for material_id in batch if material_id in by_id]
        predictions = find_predictions(store, candidates)
        finished, others = find_validations(store, run, candidates)
        for candidate in candidates:
            name = candidate.material_id
            view = MaterialView(candidate, predictions.get(name), finished.get(name))
            if view.validation is None:
                view = replace(view, unfinished=others.get(name))
            yield judges.explain(view, band=band, parts=parts, nearest=nearest)
            advance("viewed", 1)


def find_predictions(
    store: ScreeningStore, candidates: Iterable[CandidateDoc]
) -> dict[str, PredictionDoc]:
    """What the models that judged candidates of one run predict for them, by their ids.

    Parameters
    ----------
    store : ScreeningStore
    candidates : iterable of CandidateDoc
    """
    keys = [
        (candidate.material_id, candidate.structure_hash, candidate.model_id)
        for candidate in candidates
        if candidate.structure_hash is not None and candidate.model_id is not None
    ]
    return {prediction.material_id: prediction for prediction in store.predictions(keys)}


def find_validations(
    store: ScreeningStore, run: Run, candidates: Iterable[CandidateDoc]
) -> tuple[dict[str, ValidationDoc], dict[str, ValidationDoc]]:
    """The newest finished calculation of each candidate's structure, and the newest other one.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
        By whose criterion they are judged; one of phonons has none.
    candidates : iterable of CandidateDoc
        Of one run.

    Returns
    -------
    finished, others : dict
        By the id of the material.
    """
    finished: dict[str, ValidationDoc] = {}
    others: dict[str, ValidationDoc] = {}
    hashes = {candidate.material_id: candidate.structure_hash for candidate in candidates}
    if criterion_of(run.parameters).spectra != "edos":
        return finished, others
    for document in store.validations(material_ids=list(hashes)):
        name = document.material_id
        same = finished if document.state in FINISHED and document.spectrum else others
        is_newer = name not in same or same[name].updated_at < document.updated_at
        if document.structure_hash == hashes[name] and is_newer:
            same[name] = document
    judged = judged_for(run, list(finished.values()))
    return {document.material_id: document for document in judged}, others


class _Judges:
    """The models of a run, each loaded once, and what they know of a material beside a verdict.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._folders: dict[str, Path | None] = {}
        self._predictors: dict[Path, SpectrumPredictor] = {}

    def explain(
        self, view: MaterialView, *, band: bool, parts: bool, nearest: bool
    ) -> MaterialView:
        """The same view with what is asked for."""
        if view.prediction is None:
            return view
        lacking = []
        try:
            if parts:
                view = replace(view, electronic_structure=self._electronic_structure(view))
            if nearest:
                view = replace(view, nearest=self._nearest(view))
        except (ModelError, ScreeningError) as error:
            lacking.append(f"No predicted band gap and no DOS by element: {error}")
        try:
            if band:
                view = replace(view, band=self._band(view))
        except (ModelError, ScreeningError) as error:
            lacking.append(f"No band: {error}")
        return replace(view, lacking=tuple(lacking))

    def _electronic_structure(self, view: MaterialView) -> ElectronicStructure | None:
        """None if the model does not know levels; of most that is clear before torch is loaded."""
        folder = self._folder(view.candidate)
        if folder is None or len(predictor_parts(folder)) > 1 or view.crystal is None:
            return None  # two parts, one of them for the scale: no levels
        return self._predictor(folder).electronic_structure(view.crystal)

    def _nearest(self, view: MaterialView) -> tuple[NearestMaterial, ...]:
        from screening.nearest import with_labels

        folder = self._folder(view.candidate)
        crystal, spectrum = view.crystal, view.spectrum
        if folder is None or crystal is None or view.candidate.training_percentile is None:
            return ()
        assert spectrum is not None
        neighbors = self._predictor(folder).nearest_materials(crystal)
        return with_labels(neighbors, spectrum, criterion_of(self.run.parameters))

    def _band(self, view: MaterialView) -> np.ndarray | None:
        from screening.trust import calibration_of

        error, spectrum = view.candidate.expected_error, view.spectrum
        folder = None if error is None else self._folder(view.candidate)
        calibration = None if folder is None else calibration_of(folder)
        if calibration is None or error is None or spectrum is None:
            return None
        return calibration.band(spectrum.values, error)

    def _predictor(self, folder: Path) -> SpectrumPredictor:
        from models.predictor import SpectrumPredictor

        if folder not in self._predictors:
            self._predictors[folder] = SpectrumPredictor.load(folder, "cpu")
        return self._predictors[folder]

    def _folder(self, candidate: CandidateDoc) -> Path | None:
        """Folder of the model that judged a candidate; None if none did."""
        model = candidate.model_id
        if model is None or candidate.state != "screened":
            return None
        used = [self.run.parameters[name] for name in _CHECKPOINTS if name in self.run.parameters]
        if model not in self._folders:
            self._folders[model] = find_predictor(model, used)
        folder = self._folders[model]
        if folder is None:
            raise ScreeningError(
                f"the checkpoint of {model} is gone or has changed "
                f"({', '.join(used) or 'the run names none'})"
            )
        return folder
