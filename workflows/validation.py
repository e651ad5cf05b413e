"""DFT validation: DOS document -> 128-bin spectrum -> four criteria -> verdict -> store."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import Flow, Maker, OnMissing, job

from db.documents import CandidateDoc, GridDoc, PredictionDoc, Run, ValidationDoc, utc_now
from db.query import VALIDATIONS, Query, conditions
from db.store import ScreeningStore
from models.crystal import Crystal
from models.errors import ModelError
from models.metrics import mae, wasserstein
from models.spectrum import EDOS_GRID, align_edos
from screening.classification import ConfusionMatrix, Proportion
from screening.errors import ScreeningError
from screening.gap import GapCriteria
from workflows.dos.document import DosDocument, DosError
from workflows.screening import gap_document, judge
from workflows.stores import open_reference, store_reference

ENGINES = ("gpaw", "vasp")
RANDOM_NEGATIVES = 49  # as in the paper


def dos_maker(engine: str, **options: Any) -> Maker:
    """Maker of an engine: the same interface and output document for both.

    Raises
    ------
    ScreeningError
        If there is no such engine or it has no such option.
    """
    if engine not in ENGINES:
        raise ScreeningError(f"unknown engine {engine!r}; use {' or '.join(ENGINES)}")
    try:
        if engine == "gpaw":
            from workflows.dos.gpaw import GpawDosMaker

            maker: Maker = GpawDosMaker(**options)
        else:
            from workflows.dos.vasp import VaspDosMaker

            maker = VaspDosMaker(**options)
        _ = maker.recipe  # wrong values show here, before anything is submitted
        return maker
    except (TypeError, ValueError, DosError) as error:
        raise ScreeningError(f"{engine}: {error}") from None


@dataclass(frozen=True)
class ValidationPlan:
    """What is to be calculated for a run.

    Parameters
    ----------
    todo : tuple of CandidateDoc
        With structures; positives first, the best before the others, then random negatives.
    reused : int
        Materials whose calculation is there already, or is on its way.
    """

    todo: tuple[CandidateDoc, ...]
    reused: int


def plan_validation(
    store: ScreeningStore,
    run: Run,
    engine: str,
    recipe: str,
    *,
    n_random: int = RANDOM_NEGATIVES,
    limit: int | None = None,
) -> ValidationPlan:
    """Choose predicted positives and random predicted negatives that need a calculation.

    The random negatives depend on the run only, so that a second call chooses the same ones. A
    calculation of the same structure with the same engine and recipe is used again, whichever
    run or material asked for it; a failed one is repeated.

    Parameters
    ----------
    n_random : int
        Predicted negatives, so that recall can be estimated.
    limit : int, optional
        Positives at most, best first.
    """
    positives = run.selection[:limit]
    negatives = sorted(
        c.material_id for c in store.candidates(run.run_id, state="screened", is_positive=False)
    )
    drawn = random.Random(run.run_id).sample(negatives, min(n_random, len(negatives)))
    chosen = [*positives, *drawn]
    found = {
        c.material_id: c
        for c in store.candidates(run.run_id, material_ids=chosen, with_structure=True)
    }
    todo, reused = [], 0
    for candidate in (found[material_id] for material_id in chosen):
        same = _calculated(store, candidate, engine, recipe)
        if same is None:
            todo.append(candidate)
            continue
        reused += 1
        store.upsert_validations([_shared_with(same, candidate)])
    return ValidationPlan(tuple(todo), reused)


def _calculated(
    store: ScreeningStore, candidate: CandidateDoc, engine: str, recipe: str
) -> ValidationDoc | None:
    """A calculation of the same structure that is done, or that a launchpad has."""
    same = conditions(structure_hash=candidate.structure_hash, engine=engine, recipe=recipe)
    usable = (
        document
        for document in store.find(Query(VALIDATIONS, same))
        if document.state == "done" or (document.state != "failed" and document.job_uuids)
    )
    return min(usable, key=lambda document: document.state != "done", default=None)


def _shared_with(document: ValidationDoc, candidate: CandidateDoc) -> ValidationDoc:
    run_ids = sorted({*document.run_ids, candidate.run_id})
    own = {"run_ids": run_ids, "material_id": candidate.material_id}
    return document.model_copy(update=own)


@dataclass
class ValidationFlowMaker(Maker):
    """Make the flow that calculates one candidate's DOS and stores the verdict on it.

    Parameters
    ----------
    name : str
    db : str
        Path of the embedded store or MongoDB URI; see
        :class:`workflows.screening.ScreeningFlowMaker`.
    dos_maker : Maker
        :class:`workflows.dos.gpaw.GpawDosMaker` or :class:`workflows.dos.vasp.VaspDosMaker`.

    Examples
    --------
    >>> maker = ValidationFlowMaker(db="screening.sqlite", dos_maker=dos_maker("vasp"))
    >>> flow = maker.make(candidate)  # doctest: +SKIP
    """

    name: str = "DFT validation"
    db: str = "screening.sqlite"
    dos_maker: Maker = field(default_factory=lambda: dos_maker("gpaw"))

    def make(self, candidate: CandidateDoc) -> Flow:
        """Flow of one candidate, which must have its structure.

        Raises
        ------
        DosError
            If the engine cannot calculate the structure.
        """
        structure = Crystal.from_dict(candidate.structure or {}).to_structure()
        calculation = self.dos_maker.make(structure, material_id=candidate.material_id)
        key = key_of(candidate, self.dos_maker)
        db = store_reference(self.db)
        stored = store_validation(candidate.run_id, db, key, calculation.output)
        # A calculation that failed is recorded as well.
        stored.config.on_missing_references = OnMissing.NONE
        name = f"{self.name} {candidate.formula} {candidate.material_id}"
        return Flow([calculation, stored], output=stored.output, name=name)


@job
def store_validation(
    run_id: str, db: str, key: dict[str, str], document: DosDocument | dict[str, Any] | None
) -> dict[str, Any]:
    """Judge a calculated DOS by the run's criteria and store the verdict.

    Returns
    -------
    dict
        `state`, and `is_positive` or `error`.
    """
    with open_reference(db) as store:
        if document is None:
            return store_failure(store, run_id, key, "the DFT job failed; see its launch folder")
        if not isinstance(document, DosDocument):
            document = DosDocument.model_validate(document)
        try:
            validation = validation_of(store, run_id, key, document)
        except (DosError, ModelError) as error:
            return store_failure(store, run_id, key, str(error))
        store.upsert_validations([validation])
        return {"state": "done", "is_positive": validation.is_positive}


def _known(store: ScreeningStore, key: dict[str, str]) -> ValidationDoc | None:
    wanted = tuple(key[name] for name in VALIDATIONS.key_fields)
    return next(iter(store.lookup(VALIDATIONS, [wanted])), None)


def key_of(candidate: CandidateDoc, maker: Maker) -> dict[str, str]:
    """Fields of the key that a candidate's validation by this engine has."""
    return {
        "material_id": candidate.material_id,
        "structure_hash": candidate.structure_hash or "",
        "engine": maker.engine,
        "recipe": maker.recipe,
    }


def store_failure(
    store: ScreeningStore, run_id: str, key: dict[str, str], reason: str
) -> dict[str, Any]:
    """Record that a calculation failed, and why."""
    known = _known(store, key)
    document = known or ValidationDoc(**key)
    changes = {
        "state": "failed",
        "error": " ".join(reason.split())[:500],
        "run_ids": sorted({*document.run_ids, run_id}),
        "updated_at": utc_now(),
    }
    store.upsert_validations([document.model_copy(update=changes)])
    return {"state": "failed", "error": changes["error"]}


def validation_of(
    store: ScreeningStore, run_id: str, key: dict[str, str], document: DosDocument
) -> ValidationDoc:
    """Verdict on a calculated DOS, and the error of the prediction.

    The DOS is brought to the 128-bin grid with both band edges at zero, as the predictions are.

    Raises
    ------
    ModelError
        If the DOS does not cover the grid.
    """
    run = store.run(run_id)
    spectrum = align_edos(
        np.array(document.energies), np.array(document.dos), document.vbm, document.cbm
    ).values
    known = _known(store, key)
    draft = known or ValidationDoc(**key)
    nsites = len(document.structure)
    gaps = judge(spectrum, [nsites], GapCriteria(**run.parameters.get("criteria", {})))
    prediction = _prediction(store, run, key)
    errors: dict[str, Any] = {}
    if prediction is not None:
        predicted = np.array(prediction.spectrum)
        errors = {
            "prediction_model_id": prediction.model_id,
            "mae": mae(predicted, spectrum),
            "wd": wasserstein(predicted[None], spectrum[None], EDOS_GRID.width),
        }
    raw = {
        "energies": list(document.energies),
        "dos": list(document.dos),
        "efermi": document.efermi,
        "settings": document.settings,
        "engine_version": document.engine_version,
    }
    fields = {
        **errors,
        "formula": document.formula,
        "nsites": nsites,
        "state": "done",
        "run_ids": sorted({*draft.run_ids, run_id}),
        "spectrum": spectrum,
        "grid": GridDoc(**EDOS_GRID.model_dump()),
        "efermi": document.efermi,
        "vbm": document.vbm,
        "cbm": document.cbm,
        "band_gap": document.band_gap,
        "gap": gap_document(gaps, 0),
        "is_positive": bool(gaps.is_gap[0]),
        "raw_dos": store.put_raw_dos(raw),
        "wall_time": document.wall_time,
        "warnings": list(document.warnings),
        "error": None,
        "updated_at": utc_now(),
    }
    return ValidationDoc(**{**draft.model_dump(), **fields})


def _prediction(store: ScreeningStore, run: Run, key: dict[str, str]) -> PredictionDoc | None:
    if run.model_id is None:
        return None
    wanted = (key["material_id"], key["structure_hash"], run.model_id)
    return next(iter(store.predictions([wanted])), None)


def validate_here(maker: ValidationFlowMaker, candidate: CandidateDoc) -> dict[str, Any]:
    """Calculate one candidate in this process; a failure is recorded, never raised.

    Returns
    -------
    dict
        As of :func:`store_validation`.
    """
    from tempfile import TemporaryDirectory

    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    try:
        flow = maker.make(candidate)
        with TemporaryDirectory(prefix="screen-validate-") as folder:
            responses = run_locally(
                flow,
                log=False,
                store=JobStore(MemoryStore()),
                root_dir=Path(folder),
                raise_immediately=True,
            )
        outcome: dict[str, Any] = responses[flow.output.uuid][1].output
        return outcome
    except (DosError, ModelError) as error:
        with open_reference(store_reference(maker.db)) as store:
            key = key_of(candidate, maker.dos_maker)
            return store_failure(store, candidate.run_id, key, str(error))


@dataclass(frozen=True)
class Metrics:
    """How right a run was, by one engine and recipe.

    Parameters
    ----------
    matrix : ConfusionMatrix
        On the validated materials.
    screened_recall : Proportion
        Recall weighted to the whole screened set.
    n_positive, n_negative : int
        Predicted positives and negatives of the run.
    n_failed : int
        Calculations that failed; they count nowhere.
    """

    engine: str
    recipe: str
    matrix: ConfusionMatrix
    screened_recall: Proportion
    n_positive: int
    n_negative: int
    n_failed: int

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {
            "engine": self.engine,
            "recipe": self.recipe,
            **self.matrix.as_dict(),
            "screened_recall": self.screened_recall.as_dict(),
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "n_failed": self.n_failed,
        }


def run_metrics(store: ScreeningStore, run: Run) -> list[Metrics]:
    """Precision and recall of a run for each engine and recipe that validated it.

    Only the calculations that the run asked for count: its positives and its random negatives.
    The DFT spectra are judged by the run's own criteria.
    """
    validations: dict[tuple[str, str], list[ValidationDoc]] = {}
    for document in store.validations(run_id=run.run_id):
        validations.setdefault((document.engine, document.recipe), []).append(document)
    positives = set(run.selection)
    n_negative = run.counts.get("screened", 0) - len(positives)
    criteria = GapCriteria(**run.parameters.get("criteria", {}))
    results = []
    for (engine, recipe), documents in sorted(validations.items()):
        verdicts = _verdicts(documents, criteria)
        pairs = ((m in positives, is_gap) for m, is_gap in verdicts)
        matrix = ConfusionMatrix.of(pairs)
        recall = matrix.screened_recall(len(positives), n_negative)
        failed = sum(document.state == "failed" for document in documents)
        results.append(Metrics(engine, recipe, matrix, recall, len(positives), n_negative, failed))
    return results


def _verdicts(
    documents: Iterable[ValidationDoc], criteria: GapCriteria
) -> Iterator[tuple[str, bool]]:
    done = [d for d in documents if d.state == "done" and d.spectrum is not None]
    if not done:
        return
    spectra = np.array([document.spectrum for document in done])
    gaps = judge(spectra, [document.nsites for document in done], criteria)
    for document, is_gap in zip(done, gaps.is_gap, strict=True):
        yield document.material_id, bool(is_gap)
