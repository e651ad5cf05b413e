"""What there is to show of a run and of its materials, gathered from the store.

Nothing here draws: `screen show`, `screen report` and `screen dashboard` do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from db.collections import CANDIDATES, batched
from db.documents import FINISHED, CandidateDoc, PredictionDoc, Run, ValidationDoc
from db.questions import candidate_query
from db.store import ScreeningStore
from models.crystal import Crystal
from models.errors import ModelError
from models.processes import WorkerPool
from models.spectra.spectrum import EDOS_GRID, Spectrum
from models.zoo import find_predictor, gives_states
from screening.candidate import crystal_of
from screening.criteria.interface import Criterion
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from screening.families import family_of, space_group_symbol
from workflows.checkpoints import CHECKPOINTS
from workflows.domains import Domains, domains
from workflows.metrics import Metrics, run_metrics
from workflows.progress import advance
from workflows.verdicts import compared_with, judged_for

if TYPE_CHECKING:
    from models.predictor import SpectrumPredictor
    from models.spectra.electronic_structure import ElectronicStructure
    from models.training.card import ModelCard
    from screening.nearest import NearestMaterial

_BATCH = 100  # materials that are looked up together
_MANY = 100  # materials for which processes are worth their start
_SCREENED = ("material_id", "formula", "energy_above_hull", "score", "is_positive")


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
        The newest finished calculation of this structure, judged by the criterion of the run, with
        the errors of `prediction`; None also where that is one of phonons.
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
        try:
            return crystal_of(self.candidate.structure)
        except ModelError:
            return None

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


@dataclass(frozen=True)
class Family:
    """Materials of one anonymous formula and space group.

    Parameters
    ----------
    anonymous_formula : str
        Such as ``"ABC3"``.
    space_group : int
        Its number; :data:`screening.families.UNKNOWN` where none is found.
    symbol : str
        Of the space group, such as ``"Pm-3m"``.
    material_ids : tuple of str
    """

    anonymous_formula: str
    space_group: int
    symbol: str
    material_ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Screened:
    """All n candidates of a run that have a verdict, as far as a page shows them all.

    Parameters
    ----------
    material_ids, formulas : list of str
    energies_above_hull : ndarray, shape (n,)
        In eV/atom; NaN where it is not known.
    scores : ndarray, shape (n,)
    is_positive : ndarray of bool, shape (n,)
    elements : dict of str to int
        Positives with each element.
    """

    material_ids: list[str]
    formulas: list[str]
    energies_above_hull: np.ndarray
    scores: np.ndarray
    is_positive: np.ndarray
    elements: dict[str, int]


@dataclass(frozen=True, eq=False)
class RunView:
    """What there is to show of a run.

    Parameters
    ----------
    run : Run
    criterion : Criterion
        Of the run.
    materials : list of MaterialView
        The best positives, the near misses, and what else was validated, each best first.
    n_positive, n_best : int
        All positives, and the best ones, with which `materials` begins.
    families : list of Family
        Of the best positives, the largest first.
    screened : Screened
    domains : Domains
        Of all positives.
    metrics : list of Metrics
        For each engine and recipe.
    cards : dict of str to ModelCard or str
        Of the run's models by their ids, or why it cannot be read.
    failures : dict of str to str
        Reasons by the ids of what could not be judged.
    """

    run: Run
    criterion: Criterion
    materials: list[MaterialView]
    n_positive: int
    n_best: int
    families: list[Family]
    screened: Screened
    domains: Domains
    metrics: list[Metrics]
    cards: dict[str, ModelCard | str]
    failures: dict[str, str]


def view_run(
    store: ScreeningStore,
    run: Run,
    *,
    n_positives: int = 500,
    n_near_misses: int = 50,
    workers: int = 1,
) -> RunView:
    """What there is to show of a run.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    n_positives : int
        That are shown one by one, the best ones.
    n_near_misses : int
        Negatives with the best scores.
    workers : int
        See :func:`view_materials`.
    """
    screened = all_screened(store, run)
    best = partial(store.candidates, run.run_id, sort_by="score", descending=True)
    positives = list(best(is_positive=True, limit=n_positives))
    near = best(state="screened", is_positive=False, limit=n_near_misses)
    validated = {document.material_id for document in store.validations(run_id=run.run_id)}
    shown = {c.material_id: None for c in (*positives, *near, *best(material_ids=validated))}
    materials = list(view_materials(store, run, list(shown), workers=workers))
    failures = store.candidates(run.run_id, state="failed")
    return RunView(
        run,
        criterion_of(run.parameters),
        materials,
        int(screened.is_positive.sum()),
        len(positives),
        families(materials[: len(positives)]),
        screened,
        domains(store, run.run_id),
        run_metrics(store, run),
        model_cards(run),
        {candidate.material_id: candidate.reason or "" for candidate in failures},
    )


def all_screened(store: ScreeningStore, run: Run) -> Screened:
    """All candidates of a run that have a verdict, by falling score.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    query = candidate_query(run.run_id, state="screened", sort_by="score", descending=True)
    columns = list(zip(*store.values(query, _SCREENED), strict=True)) or [()] * len(_SCREENED)
    ids, formulas, energies, scores, positive = columns
    positives = candidate_query(run.run_id, state="screened", is_positive=True)
    elements = store.count_by(positives, "elements")
    numbers = np.array(energies, float), np.array(scores, float)
    return Screened(list(ids), list(formulas), *numbers, np.array(positive, bool), elements)


def families(materials: Iterable[MaterialView]) -> list[Family]:
    """Materials grouped by anonymous formula and space group, the largest groups first.

    Parameters
    ----------
    materials : iterable of MaterialView
    """
    members: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for view in materials:
        if view.crystal is not None:
            members[family_of(view.crystal)].append(view.candidate.material_id)
            advance("grouped", 1)
    return [
        Family(formula, number, space_group_symbol(number), tuple(ids))
        for (formula, number), ids in sorted(members.items(), key=lambda item: -len(item[1]))
    ]


def model_cards(run: Run) -> dict[str, ModelCard | str]:
    """Cards of the models of a run by their ids, or why they cannot be read."""
    from models.training.card import ModelCard

    cards: dict[str, ModelCard | str] = {}
    judges = _Judges(run)
    for model in filter(None, (run.model_id, run.second_model_id)):
        try:
            cards[model] = ModelCard.read(judges.folder(model))
        except (ModelError, ScreeningError) as error:
            cards[model] = str(error)
    return cards


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
    material_ids: Sequence[str],
    *,
    band: bool = True,
    parts: bool = True,
    nearest: bool = False,
    workers: int = 1,
) -> Iterator[MaterialView]:
    """What there is to show of materials of a run, in their order; unknown ones are left out.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    material_ids : sequence of str
    band : bool
        Find the bands; some ms a material.
    parts : bool
        Find the electronic structures, of a model that knows levels 0.2 s a material.
    nearest : bool
        Find the nearest training materials, for which the model reads each structure again.
    workers : int
        Processes for the electronic structures of many materials.
    """
    explain = partial(_Judges(run).explain, band=band, parts=parts, nearest=nearest)
    stored = _stored_views(store, run, material_ids)
    if workers > 1 and parts and len(material_ids) >= _MANY and _knows_levels(run):
        with WorkerPool(workers, _prepare, (explain,)) as pool:
            yield from _counted(pool.in_order(_explain_in_worker, stored), len(material_ids))
    else:
        yield from _counted(map(explain, stored), len(material_ids))


def _stored_views(
    store: ScreeningStore, run: Run, material_ids: Sequence[str]
) -> Iterator[MaterialView]:
    """What the store has of materials."""
    for batch in batched(material_ids, _BATCH):
        keys = [(run.run_id, material_id) for material_id in batch]
        found = store.lookup(CANDIDATES, keys, with_structure=True)
        by_id = {candidate.material_id: candidate for candidate in found}
        candidates = [by_id[material_id] for material_id in batch if material_id in by_id]
        predictions = find_predictions(store, candidates)
        finished, others = (
            {name: compared_with(found[name], predictions.get(name)) for name in found}
            for found in find_validations(store, run, candidates)
        )
        for candidate in candidates:
            name = candidate.material_id
            view = MaterialView(candidate, predictions.get(name), finished.get(name))
            yield view if view.validation else replace(view, unfinished=others.get(name))


def _counted(views: Iterable[MaterialView], total: int) -> Iterator[MaterialView]:
    for view in views:
        yield view
        advance("viewed", 1, total)


_explain: Callable[[MaterialView], MaterialView] | None = None  # of a worker process


def _prepare(explain: Callable[[MaterialView], MaterialView]) -> None:
    global _explain
    _explain = explain


def _explain_in_worker(view: MaterialView) -> MaterialView:
    assert _explain is not None
    return _explain(view)


def _knows_levels(run: Run) -> bool:
    """Whether one of its models does."""
    folders = (find_model(run, model) for model in (run.model_id, run.second_model_id) if model)
    return any(folder is not None and gives_states(folder) for folder in folders)


def find_model(run: Run, model: str) -> Path | None:
    """Folder of a model of a run; None if it is gone or has changed.

    Parameters
    ----------
    run : Run
    model : str
        See :func:`models.zoo.model_id`.
    """
    return find_predictor(model, _checkpoints(run))


def _checkpoints(run: Run) -> list[str]:
    return [run.parameters[name] for name in CHECKPOINTS if name in run.parameters]


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


def run_validations(store: ScreeningStore, run: Run) -> dict[str, ValidationDoc]:
    """The newest calculation that a run asked for of each material, with a spectrum, by id.

    They are judged by the criterion of the run; one of phonons has none. A material whose newest
    one is magnetic has none either.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    """
    if criterion_of(run.parameters).spectra != "edos":
        return {}
    finished = store.validations(run_id=run.run_id, state=FINISHED)
    comparable = [d for d in finished if d.spectrum is not None and d.grid == EDOS_GRID]
    oldest_first = sorted(comparable, key=lambda document: (document.updated_at, document.key))
    newest = {document.material_id: document for document in oldest_first}
    done = [document for document in newest.values() if document.state == "done"]
    return {document.material_id: document for document in judged_for(run, done)}


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
        if folder is None or not gives_states(folder) or view.crystal is None:
            return None
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
        if candidate.model_id is None or candidate.state != "screened":
            return None
        return self.folder(candidate.model_id)

    def folder(self, model: str) -> Path:
        """Folder of a model of the run.

        Raises
        ------
        ScreeningError
            If it is not there any more.
        """
        if model not in self._folders:
            self._folders[model] = find_model(self.run, model)
        folder = self._folders[model]
        if folder is None:
            used = _checkpoints(self.run)
            raise ScreeningError(
                f"the checkpoint of {model} is gone or has changed "
                f"({', '.join(used) or 'the run names none'})"
            )
        return folder
