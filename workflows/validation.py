"""DFT validation: DOS document -> 128-bin spectrum -> criterion -> verdict -> store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Maker, OnMissing, job

from db.collections import CANDIDATES, VALIDATIONS, Query, conditions
from db.documents import CandidateDoc, PredictionDoc, ValidationDoc, utc_now
from db.store import ScreeningStore
from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID
from screening.candidate import crystal_of
from screening.criteria.interface import Criterion, Verdicts
from screening.criteria.registry import criterion_of
from workflows.dos.base import DosMaker
from workflows.dos.document import DosDocument, SourceFacts
from workflows.dos.engines import dos_maker
from workflows.dos.errors import DosError
from workflows.hardware import what_only_this_machine_lacks
from workflows.stores import open_reference, store_reference
from workflows.verdicts import prediction_errors, verdict_fields

SHOWN_OF_GAP = ("lower_edge", "upper_edge", "width", "is_lower_bound")
MAX_REASON = 500  # characters of a failure's reason
JOB_FAILED = (
    "the DFT job failed, or workers share no JOB_STORE; `screen status` asks the launchpad why"
)


@dataclass
class ValidationFlowMaker(Maker):
    """Make the flow that calculates one candidate's DOS and stores the verdict on it.

    Parameters
    ----------
    name : str
    db : str
        Path of the embedded store or MongoDB URI; see
        :class:`workflows.screening.ScreeningFlowMaker`.
    dos_maker : DosMaker
        Of the engine; see :func:`workflows.dos.engines.dos_maker`.

    Examples
    --------
    >>> maker = ValidationFlowMaker(db="screening.sqlite", dos_maker=dos_maker("vasp"))
    >>> flow = maker.make(candidate)  # doctest: +SKIP
    """

    name: str = "DFT validation"
    db: str = "screening.sqlite"
    dos_maker: DosMaker = field(default_factory=lambda: dos_maker("gpaw"))

    def make(self, candidate: CandidateDoc) -> Flow:
        """Flow of one candidate, which must have its structure.

        Raises
        ------
        DosError
            If the engine cannot calculate the structure.
        """
        structure = crystal_of(candidate.structure).to_structure()
        source = SourceFacts(candidate.band_gap, candidate.origin.get("functional"))
        calculation = self.dos_maker.make(structure, candidate.material_id, source)
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
    """Judge a calculated DOS by the run's criterion and store the verdict.

    Parameters
    ----------
    run_id : str
    db : str
        See :func:`workflows.stores.store_reference`.
    key : dict
        See :func:`key_of`.
    document : DosDocument, dict or None
        None if the calculation failed.

    Returns
    -------
    dict
        `state`, and `error` or `is_positive` (None without a verdict), `criterion` (None for the VB
        gap) and `gap`: edges and width of the range, in eV.

    Raises
    ------
    UnfitError
        If the criterion is of a package that is not here, or is another one here.
    """
    with open_reference(db) as store:
        if document is None:
            return store_failure(store, run_id, key, JOB_FAILED)
        with what_only_this_machine_lacks():  # the DOS waits for a worker that has the criterion
            criterion_of(store.run(run_id).parameters)
        try:
            document = DosDocument.model_validate(document)
            validation = validation_of(store, run_id, key, document)
        except (DosError, ModelError, ValueError) as error:
            return store_failure(store, run_id, key, str(error))
        _store(store, validation)
        return {
            "state": validation.state,
            "is_positive": validation.is_positive,
            "criterion": validation.criterion,
            "gap": validation.gap and validation.gap.model_dump(include=set(SHOWN_OF_GAP)),
        }


def _store(store: ScreeningStore, document: ValidationDoc) -> None:
    """Store a validation, also for other materials whose same calculation waits or has failed."""
    names = ("structure_hash", "engine", "recipe")
    same = {name: getattr(document, name) for name in names}
    asked = conditions(state=("queued", "failed"), **same)
    waiting = [
        document.model_copy(update={"material_id": other.material_id, "run_ids": other.run_ids})
        for other in store.find(Query(VALIDATIONS, asked))
        if other.material_id != document.material_id
    ]
    store.upsert_validations([document, *waiting])


def draft_of(store: ScreeningStore, run_id: str, key: dict[str, str]) -> ValidationDoc:
    """The stored validation, or a new one, with the run among those that asked for it.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
    key : dict
        See :func:`key_of`.
    """
    wanted = tuple(key[name] for name in VALIDATIONS.key_fields)
    known = next(iter(store.lookup(VALIDATIONS, [wanted])), None) or ValidationDoc(**key)
    return known.model_copy(update={"run_ids": sorted({*known.run_ids, run_id})})


def key_of(candidate: CandidateDoc, maker: DosMaker) -> dict[str, str]:
    """Fields of the key that a candidate's validation by this engine has.

    Parameters
    ----------
    candidate : CandidateDoc
    maker : DosMaker
    """
    return {
        "material_id": candidate.material_id,
        "structure_hash": candidate.structure_hash or "",
        "engine": maker.engine,
        "recipe": maker.recipe_for(candidate.elements),
    }


def store_failure(
    store: ScreeningStore, run_id: str, key: dict[str, str], reason: str
) -> dict[str, Any]:
    """Record that a calculation failed, and why; one that is done already stays as it is.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
        Of the run that asked for it.
    key : dict
        See :func:`key_of`.
    reason : str

    Returns
    -------
    dict
        `state` and `error`.
    """
    error = " ".join(reason.split())[:MAX_REASON]
    draft = draft_of(store, run_id, key)
    if not draft.is_finished:
        changes = {"state": "failed", "error": error, "updated_at": utc_now()}
        draft = draft.model_copy(update=changes)
    _store(store, draft)
    return {"state": "failed", "error": error}


def validation_of(
    store: ScreeningStore, run_id: str, key: dict[str, str], document: DosDocument
) -> ValidationDoc:
    """Verdict on a calculated DOS, and the error of the prediction.

    What has a magnetic moment gets no verdict: the criteria and the predictor are those of
    nonmagnetic materials, and the sum of two different spin channels is neither's DOS.

    The DOS is brought to the 128-bin grid with both band edges at zero, as the predictions are.
    The store keeps the DOS itself as the dict of a pymatgen ``Dos``, and under ``"document"``
    the structure as it was calculated, the settings and the other figures.

    The DOS is judged at its own resolution as well; a different verdict is a warning, and so is
    none: the criterion has no score for such a DOS. Another one is a metal where the source has an
    insulator, or the other way round.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str
        Of the run by whose criterion it is judged.
    key : dict
        See :func:`key_of`.
    document : DosDocument

    Raises
    ------
    ModelError
        If the DOS does not cover the grid.
    """
    run = store.run(run_id)
    spectrum = document.spectrum().values
    nsites = len(document.structure)
    criterion = criterion_of(run.parameters)
    verdicts = criterion.judge(spectrum[None], EDOS_GRID, [nsites])
    fine = judge_fine(document, criterion)
    verdict = verdict_fields(criterion, verdicts, 0)
    if verdict["gap"] is not None:
        of_fine = {"is_gap_fine": bool(fine.is_positive[0])}
        verdict["gap"] = verdict["gap"].model_copy(update=of_fine)
    draft, candidate = draft_of(store, run_id, key), _candidate(store, run_id, key)
    prediction = _prediction(store, candidate, key["structure_hash"])
    changes = {
        "formula": document.formula,
        "nsites": nsites,
        "state": "magnetic" if document.is_magnetic else "done",
        "spectrum": spectrum,
        "grid": EDOS_GRID,
        "efermi": document.efermi,
        "vbm": document.vbm,
        "cbm": document.cbm,
        "band_gap": document.band_gap,
        **verdict | ({"is_positive": None} if document.is_magnetic else {}),
        **(prediction_errors(prediction, spectrum) if prediction else {}),
        "raw_dos": store.put_raw_dos(_raw_dos(document)),
        "wall_time": document.wall_time,
        "warnings": [
            *document.warnings,
            *_difference(document, criterion, verdicts, fine),
            *_other_kind(document.band_gap, candidate),
        ],
        "error": None,
        "updated_at": utc_now(),
    }
    return ValidationDoc(**(draft.model_dump() | changes))


def judge_fine(document: DosDocument, criterion: Criterion) -> Verdicts:
    """Verdict on a calculated DOS at its own resolution.

    Parameters
    ----------
    document : DosDocument
    criterion : Criterion

    Raises
    ------
    ModelError
        If the DOS does not cover the grid.
    """
    spectrum = document.spectrum(document.own_grid)
    return criterion.judge(spectrum.values[None], spectrum.grid, [len(document.structure)])


def _difference(
    document: DosDocument, criterion: Criterion, binned: Verdicts, fine: Verdicts
) -> Iterator[str]:
    """A warning if the verdicts differ, or if there is none."""
    if refusal := binned.refusal(0):
        yield refusal
    elif binned.is_positive[0] != fine.is_positive[0]:
        own = 1000 * document.own_grid.width
        yield (
            f"the verdict depends on the resolution: {_in_words(criterion, binned)} in bins of "
            f"{1000 * EDOS_GRID.width:.1f} meV, {_in_words(criterion, fine)} in the DOS's own of "
            f"{own:.1f} meV"
        )


def _other_kind(band_gap: float, candidate: CandidateDoc | None) -> Iterator[str]:
    """A warning if only one of calculation and source has a band gap."""
    source = None if candidate is None else candidate.band_gap
    if source == 0 < band_gap:
        yield (
            f"a band gap of {band_gap:.2f} eV where the source has none: bands may cross between "
            "the k-points; see whether a finer mesh keeps it"
        )
    elif source and not band_gap:
        yield f"no band gap where the source has one of {source:.2f} eV"


def _in_words(criterion: Criterion, verdicts: Verdicts) -> str:
    gaps = verdicts.gaps
    if gaps is None:
        return f"{'' if verdicts.is_positive[0] else 'not '}{criterion.title}"
    if not gaps.is_gap[0]:
        return "no gap"
    return f"a gap from {gaps.lower_edge[0]:.2f} to {gaps.upper_edge[0]:.2f} eV"


def _raw_dos(document: DosDocument) -> dict[str, Any]:
    rest = document.model_dump(mode="json", exclude={"energies", "dos"})
    return {**document.to_pymatgen().as_dict(), "document": rest}


def _candidate(store: ScreeningStore, run_id: str, key: dict[str, str]) -> CandidateDoc | None:
    return next(iter(store.lookup(CANDIDATES, [(run_id, key["material_id"])])), None)


def _prediction(
    store: ScreeningStore, candidate: CandidateDoc | None, structure_hash: str
) -> PredictionDoc | None:
    """The prediction whose verdict the candidate has: of two models the second one's."""
    if candidate is None or candidate.model_id is None:
        return None
    wanted = (candidate.material_id, structure_hash, candidate.model_id)
    return next(iter(store.predictions([wanted])), None)
