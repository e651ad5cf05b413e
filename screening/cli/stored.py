"""What several commands look up in a store: a run, a material, its spectra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.documents import CandidateDoc, PredictionDoc, Run, ValidationDoc
    from db.store import ScreeningStore
    from models.crystal import Crystal
    from models.spectra.electronic_structure import ElectronicStructure
    from screening.nearest import NearestMaterial

_CHECKPOINTS = ("checkpoint", "rescore_with")  # parameters of a run that name predictors
_NAMED = 10  # runs that an error names


def existing(db: str) -> str:
    """The same name, if there is such a store: a command that reads makes no new file.

    Raises
    ------
    ScreeningError
        If the file does not exist.
    """
    from screening.errors import ScreeningError

    if "://" not in db and not Path(db).expanduser().exists():
        raise ScreeningError(f"{db}: no such file; `screen run` makes it, --db names another")
    return db


def find_run(store: ScreeningStore, run_id: str | None) -> Run:
    """The run whose id is this or begins with it, by default the newest one.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str or None
        Or the beginning of one.

    Raises
    ------
    ScreeningError
        If there is none, or if several begin like that; they are named.
    """
    from screening.errors import ScreeningError

    runs = store.runs()
    if run_id is None:
        if not runs:
            raise ScreeningError(f"{store.location} holds no run yet; begin with `screen run`")
        return runs[0]
    for run in runs:
        if run.run_id == run_id:
            return run
    alike = [run for run in runs if run_id and run.run_id.startswith(run_id)]
    if len(alike) > 1:
        names = ", ".join(run.run_id for run in alike[:_NAMED])
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        raise ScreeningError(f"--run {run_id}: {len(alike)} runs begin so: {names}{more}")
    return alike[0] if alike else store.run(run_id)


def in_runs(
    store: ScreeningStore, run_id: str | None, material_id: str
) -> list[tuple[Run, CandidateDoc]]:
    """A material in each run that has it, newest first; only in the one that is asked for.

    Parameters
    ----------
    store : ScreeningStore
    run_id : str or None
        Or the beginning of one.
    material_id : str

    Raises
    ------
    ScreeningError
        If no run, or not the one that is asked for, has it.
    """
    from db.collections import CANDIDATES, Query, conditions
    from screening.errors import ScreeningError

    asked = None if run_id is None else find_run(store, run_id)
    query = Query(CANDIDATES, conditions(material_id=material_id))
    by_run = {candidate.run_id: candidate for candidate in store.find(query)}
    having = [(run, by_run[run.run_id]) for run in store.runs() if run.run_id in by_run]
    if not having:
        raise ScreeningError(f"{material_id} is in no run of {store.location}")
    if asked is None:
        return having
    if asked.run_id not in by_run:
        raise ScreeningError(
            f"{material_id} is not in run {asked.run_id}; the newest that has it is "
            f"{having[0][0].run_id}"
        )
    return [(asked, by_run[asked.run_id])]


def find_prediction(store: ScreeningStore, candidate: CandidateDoc) -> PredictionDoc | None:
    """What the run's model predicts for a candidate, None if it has not.

    Parameters
    ----------
    store : ScreeningStore
    candidate : CandidateDoc
    """
    if candidate.structure_hash is None or candidate.model_id is None:
        return None
    key = (candidate.material_id, candidate.structure_hash, candidate.model_id)
    return next(iter(store.predictions([key])), None)


def find_electronic_structure(
    store: ScreeningStore, run: Run, candidate: CandidateDoc
) -> ElectronicStructure | None:
    """Band edges and DOS by element of the model that judged a candidate, from its structure.

    None if the model does not know levels; of most that is clear before torch is loaded.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
        That the candidate is in.
    candidate : CandidateDoc

    Raises
    ------
    ScreeningError
        If the checkpoint is not there any more.
    ModelError
        If it is damaged.
    """
    from models.zoo import predictor_parts

    folder = _folder_of_judge(run, candidate)
    if folder is None or len(predictor_parts(folder)) > 1:  # one for the scale: no levels
        return None
    from models.predictor import SpectrumPredictor

    return SpectrumPredictor.load(folder, "cpu").electronic_structure(_crystal(store, candidate))


def find_nearest_materials(
    store: ScreeningStore, run: Run, candidate: CandidateDoc, prediction: PredictionDoc
) -> tuple[NearestMaterial, ...]:
    """The training materials of the model that are nearest to a candidate; none if not known.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
        That the candidate is in.
    candidate : CandidateDoc
    prediction : PredictionDoc
        Of the model that judged it.

    Raises
    ------
    ScreeningError
        If the checkpoint is not there any more.
    ModelError
        If it is damaged.
    """
    import numpy as np

    from models.spectra.spectrum import Spectrum
    from screening.gap import GapCriteria
    from screening.nearest import with_labels

    folder = _folder_of_judge(run, candidate)
    if folder is None or candidate.training_percentile is None:
        return ()
    from models.predictor import SpectrumPredictor

    predictor = SpectrumPredictor.load(folder, "cpu")
    neighbors = predictor.nearest_materials(_crystal(store, candidate))
    spectrum = Spectrum(np.array(prediction.spectrum), prediction.grid, prediction.nsites)
    return with_labels(neighbors, spectrum, GapCriteria(**run.parameters.get("criteria", {})))


def _folder_of_judge(run: Run, candidate: CandidateDoc) -> Path | None:
    """Folder of the model that judged a candidate; None if none did."""
    from models.zoo import find_predictor
    from screening.errors import ScreeningError

    if candidate.model_id is None or candidate.state != "screened":
        return None
    used = [run.parameters[name] for name in _CHECKPOINTS if name in run.parameters]
    folder = find_predictor(candidate.model_id, used)
    if folder is None:
        raise ScreeningError(
            f"the checkpoint of {candidate.model_id} is gone or has changed "
            f"({', '.join(used) or 'the run names none'})"
        )
    return folder


def _crystal(store: ScreeningStore, candidate: CandidateDoc) -> Crystal:
    from db.collections import CANDIDATES
    from models.crystal import Crystal

    (stored,) = store.lookup(CANDIDATES, [candidate.key], with_structure=True)
    return Crystal.from_dict(stored.structure or {})


def find_validation(store: ScreeningStore, candidate: CandidateDoc) -> ValidationDoc | None:
    """The newest finished calculation of a candidate's structure; None without one.

    Parameters
    ----------
    store : ScreeningStore
    candidate : CandidateDoc
    """
    from db.documents import FINISHED

    finished = store.validations(material_ids=[candidate.material_id], state=FINISHED)
    same = [v for v in finished if v.structure_hash == candidate.structure_hash and v.spectrum]
    return max(same, key=lambda validation: validation.updated_at, default=None)
