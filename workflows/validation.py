"""DFT validation: DOS document -> 128-bin spectrum -> four criteria -> verdict -> store."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jobflow import Flow, JobStore, Maker, OnMissing, job, run_locally
from maggma.stores import MemoryStore

from db.collections import VALIDATIONS, Condition, Query, batched, conditions
from db.documents import CandidateDoc, PredictionDoc, Run, ValidationDoc, utc_now
from db.errors import StoreError
from db.store import BATCH, ScreeningStore
from models.crystal import Crystal
from models.errors import ModelError
from models.spectra.metrics import mae, wasserstein
from models.spectra.spectrum import EDOS_GRID
from screening.classification import Assessment, Group, Sample
from screening.errors import ScreeningError
from screening.gap import GapCriteria, Gaps, find_gaps
from workflows.dos.document import DosDocument, DosError, SourceFacts
from workflows.screening import gap_document, judge
from workflows.stores import open_reference, store_reference

ENGINES = ("gpaw", "vasp")
RANDOM_NEGATIVES = 49  # as in the paper
DRAWS = ("best", "random")  # how positives are chosen if not all of them are calculated
CHOICES = "validation_choices"  # key among a run's parameters; see `Choice`
SHOWN_OF_GAP = ("lower_edge", "upper_edge", "width", "is_lower_bound")
MAX_REASON = 500  # characters of a failure's reason
JOB_FAILED = (
    "the DFT job failed, or workers share no JOB_STORE; `screen status` asks the launchpad why"
)


def dos_maker(engine: str, **options: Any) -> Maker:
    """Maker of an engine: the same interface and output document for both.

    Raises
    ------
    ScreeningError
        If there is no such engine or it has no such option.
    """
    if engine == "gpaw":
        from workflows.dos.gpaw.maker import GpawDosMaker as DosMaker
    elif engine == "vasp":
        from workflows.dos.vasp.maker import VaspDosMaker as DosMaker
    else:
        raise ScreeningError(f"unknown engine {engine!r}; use {' or '.join(ENGINES)}")
    if unknown := options.keys() - {option.name for option in fields(DosMaker)}:
        raise ScreeningError(f"{engine} has no option {', '.join(sorted(unknown))}")
    maker: Maker = DosMaker(**options)
    try:
        _ = maker.recipe  # wrong values show here, before anything is submitted
    except DosError as error:
        raise ScreeningError(f"{engine}: {error}") from None
    return maker


@dataclass(frozen=True)
class ValidationPlan:
    """What is to be calculated for a run.

    Parameters
    ----------
    run : Run
        With the note on how its positives are chosen; see :class:`Choice`.
    todo : tuple of CandidateDoc
        With structures; positives first, in the order that they were chosen in, then negatives.
    shared : tuple of ValidationDoc
        Of materials whose structure is calculated already, or is about to be.
    left_out : tuple of CandidateDoc
        Positives that the model cannot know, without structures; negatives are drawn among those
        that it can.
    """

    run: Run
    todo: tuple[CandidateDoc, ...]
    shared: tuple[ValidationDoc, ...]
    left_out: tuple[CandidateDoc, ...] = ()

    @property
    def reused(self) -> int:
        """Materials whose structure is calculated already, or is about to be."""
        return len(self.shared)


def plan_validation(
    store: ScreeningStore, run: Run, engine: str, recipe: str, **options: Any
) -> ValidationPlan:
    """Choose what to calculate, see :func:`choose_validation`, and write the choice down.

    The run's name is written into the validations that it shares, and how its positives were
    chosen into the run.
    """
    plan = choose_validation(store, run, engine, recipe, **options)
    record_plan(store, plan)
    return plan


def record_plan(store: ScreeningStore, plan: ValidationPlan) -> None:
    """Write down what was chosen, before the first calculation begins."""
    if plan.run != store.run(plan.run.run_id):
        store.put_run(plan.run)
    store.upsert_validations(plan.shared)


def choose_validation(
    store: ScreeningStore,
    run: Run,
    engine: str,
    recipe: str,
    *,
    n_random: int = RANDOM_NEGATIVES,
    limit: int | None = None,
    draw: str = "best",
    in_domain: bool = False,
) -> ValidationPlan:
    """Choose predicted positives and random predicted negatives that need a calculation.

    A structure is calculated once by an engine and recipe, whichever run or material asks for
    it; what failed is repeated. Nothing is written.

    Parameters
    ----------
    n_random : int
        Predicted negatives, so that recall can be estimated. They depend on the run only, and
        fewer are the first of more: asking for 10 and later for 49 calculates 49.
    limit : int, optional
        Positives at most.
    draw : str
        Which positives: the ``"best"``, so that most gaps are found, but nothing is known of the
        others; or ``"random"`` ones, so that precision and recall of the whole can be estimated.
        These depend on the run only, as the negatives do.
    in_domain : bool
        Leave out what the model cannot know (:class:`screening.domain.Domain`); of what it is
        not known whether it can, stays.

    Raises
    ------
    ScreeningError
        If there is no such draw.
    """
    if draw not in DRAWS:
        raise ScreeningError(f"--draw {draw}: use {' or '.join(DRAWS)}")
    outside = _outside(store, run) if in_domain else {}
    positives = run.selection if draw == "best" else _shuffled(run, run.selection)
    positives = [material_id for material_id in positives if material_id not in outside][:limit]
    negatives = _negatives(store, run, in_domain)[:n_random]
    noted = _with_choice(store, run, engine, recipe, positives, draw, in_domain, n_random)
    chosen = _with_structures(store, run, [*positives, *negatives])
    known = _calculations(store, {_structure_hash(c) for c in chosen}, engine, recipe)
    todo: dict[str, CandidateDoc] = {}
    shared: list[ValidationDoc] = []
    for candidate in chosen:
        structure = _structure_hash(candidate)
        same = known.get(structure, {})
        usable = [document for document in same.values() if _is_usable(document)]
        if not usable and structure not in todo:
            todo[structure] = candidate
            continue
        source = min(usable, key=lambda document: not document.is_finished, default=None)
        shared.append(_sharing(source, same.get(candidate.material_id), candidate, engine, recipe))
    left_out = tuple(outside[name] for name in run.selection if name in outside)
    return ValidationPlan(noted, tuple(todo.values()), tuple(shared), left_out)


def _outside(store: ScreeningStore, run: Run) -> dict[str, CandidateDoc]:
    """The predicted positives that the model cannot know."""
    positives = store.candidates(run.run_id, is_positive=True)
    return {c.material_id: c for c in positives if c.out_of_domain}


def _negatives(store: ScreeningStore, run: Run, in_domain: bool) -> list[str]:
    """Predicted negatives in the order that they are drawn in."""
    screened = store.candidates(run.run_id, state="screened", is_positive=False)
    outside: dict[str, bool] = {c.material_id: bool(c.out_of_domain) for c in screened}
    drawn = _shuffled(run, outside)
    return [name for name in drawn if not (in_domain and outside[name])]


def _shuffled(run: Run, material_ids: Iterable[str]) -> list[str]:
    """The same order each time for a run, so that few materials are the first of more."""
    shuffled = sorted(material_ids)
    random.Random(run.run_id).shuffle(shuffled)
    return shuffled


@dataclass(frozen=True)
class Choice:
    """How the positives of a run were chosen for an engine and recipe.

    Parameters
    ----------
    n_best : int
        So many were chosen by their rank.
    drawn : frozenset of str
        Drawn at random; those of them that are among the best count as chosen by rank, the rest is
        then a random part of the others.
    in_domain : bool
        All were chosen, negatives as well, among what the model can know.
    n_random : int or None
        Where first only those, and later all were chosen among: the negatives that were drawn
        among all, so that the first ones do not count twice.
    """

    n_best: int = 0
    drawn: frozenset[str] = frozenset()
    in_domain: bool = False
    n_random: int | None = None

    @classmethod
    def of(cls, run: Run, engine: str, recipe: str) -> Choice:
        """What the run notes; nothing in runs of older programs, which took the best only."""
        for note in run.parameters.get(CHOICES, []):
            if (note["engine"], note["recipe"]) == (engine, recipe):
                return cls(
                    note["n_best"],
                    frozenset(note["drawn"]),
                    note.get("in_domain", False),
                    note.get("n_random"),
                )
        return cls()

    def among(self, in_domain: bool, n_random: int, is_first: bool) -> Choice:
        """The same after another choice among the model's domain, or among all."""
        if is_first:
            return replace(self, in_domain=in_domain)
        if in_domain or not (self.in_domain or self.n_random is not None):
            return self
        return replace(self, in_domain=False, n_random=max(self.n_random or 0, n_random))

    def noted_in(self, run: Run, engine: str, recipe: str) -> Run:
        """The run with this choice among its parameters."""
        others = [
            note
            for note in run.parameters.get(CHOICES, [])
            if (note["engine"], note["recipe"]) != (engine, recipe)
        ]
        own: dict[str, Any] = {
            "engine": engine,
            "recipe": recipe,
            "n_best": self.n_best,
            "drawn": sorted(self.drawn),
            "in_domain": self.in_domain,
            "n_random": self.n_random,
        }
        parameters = run.parameters | {CHOICES: [*others, own]}
        return run.model_copy(update={"parameters": parameters})


def _with_choice(
    store: ScreeningStore,
    run: Run,
    engine: str,
    recipe: str,
    positives: Sequence[str],
    draw: str,
    in_domain: bool,
    n_random: int,
) -> Run:
    """The run with a note on how its positives were chosen, so that metrics know."""
    run = store.run(run.run_id)
    before = Choice.of(run, engine, recipe)
    if draw == "best":
        now = replace(before, n_best=max(before.n_best, len(positives)))
    else:
        asked = conditions(engine=engine, recipe=recipe)
        by_run = (*asked, Condition("run_ids", "has", run.run_id))
        known = {document.material_id for document in store.find(Query(VALIDATIONS, by_run))}
        by_rank = known - before.drawn  # also of programs that left no note
        now = replace(before, drawn=before.drawn | (set(positives) - by_rank))
    now = now.among(in_domain, n_random, is_first=before == Choice())
    return run if now == before else now.noted_in(run, engine, recipe)


def _with_structures(store: ScreeningStore, run: Run, chosen: Sequence[str]) -> list[CandidateDoc]:
    found = {
        c.material_id: c
        for c in store.candidates(run.run_id, material_ids=chosen, with_structure=True)
    }
    return [found[material_id] for material_id in chosen]


def _calculations(
    store: ScreeningStore, hashes: Iterable[str], engine: str, recipe: str
) -> dict[str, dict[str, ValidationDoc]]:
    """Validations of these structures by structure hash and material."""
    found: dict[str, dict[str, ValidationDoc]] = {}
    for batch in batched(sorted(hashes), BATCH):
        asked = conditions(structure_hash=batch, engine=engine, recipe=recipe)
        for document in store.find(Query(VALIDATIONS, asked)):
            found.setdefault(document.structure_hash, {})[document.material_id] = document
    return found


def _structure_hash(candidate: CandidateDoc) -> str:
    return candidate.structure_hash or ""  # every screened candidate has one


def _is_usable(document: ValidationDoc) -> bool:
    """Whether the calculation is done, or on a launchpad."""
    return document.is_finished or (document.state != "failed" and bool(document.job_uuids))


def _sharing(
    source: ValidationDoc | None,
    own: ValidationDoc | None,
    candidate: CandidateDoc,
    engine: str,
    recipe: str,
) -> ValidationDoc:
    """Validation of a candidate from that of the same structure; queued if there is none yet."""
    asking = {*(own.run_ids if own else ()), candidate.run_id}
    changes = {"material_id": candidate.material_id, "run_ids": sorted(asking)}
    if source is None:
        source = ValidationDoc(
            material_id=candidate.material_id,
            structure_hash=_structure_hash(candidate),
            engine=engine,
            recipe=recipe,
            formula=candidate.formula,
            nsites=candidate.nsites,
        )
    return source.model_copy(update=changes)


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
        :class:`~workflows.dos.gpaw.maker.GpawDosMaker` or
        :class:`~workflows.dos.vasp.maker.VaspDosMaker`.

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
    """Judge a calculated DOS by the run's criteria and store the verdict.

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
        `state`, and `error` or `is_positive` (None for a magnetic material) and `gap`: edges and
        width of the range, in eV.
    """
    with open_reference(db) as store:
        if document is None:
            return store_failure(store, run_id, key, JOB_FAILED)
        try:
            document = DosDocument.model_validate(document)
            validation = validation_of(store, run_id, key, document)
        except (DosError, ModelError, ValueError) as error:
            return store_failure(store, run_id, key, str(error))
        _store(store, validation)
        return {
            "state": validation.state,
            "is_positive": validation.is_positive,
            "gap": validation.gap and validation.gap.model_dump(include=set(SHOWN_OF_GAP)),
        }


def _store(store: ScreeningStore, document: ValidationDoc) -> None:
    """Store a validation, also for the other materials that wait for the same calculation."""
    names = ("structure_hash", "engine", "recipe")
    asked = conditions(state="queued", **{name: getattr(document, name) for name in names})
    waiting = [
        document.model_copy(update={"material_id": other.material_id, "run_ids": other.run_ids})
        for other in store.find(Query(VALIDATIONS, asked))
        if other.material_id != document.material_id
    ]
    store.upsert_validations([document, *waiting])


def _draft(store: ScreeningStore, run_id: str, key: dict[str, str]) -> ValidationDoc:
    """The stored validation, or a new one, with the run among those that asked for it."""
    wanted = tuple(key[name] for name in VALIDATIONS.key_fields)
    known = next(iter(store.lookup(VALIDATIONS, [wanted])), None) or ValidationDoc(**key)
    return known.model_copy(update={"run_ids": sorted({*known.run_ids, run_id})})


def key_of(candidate: CandidateDoc, maker: Maker) -> dict[str, str]:
    """Fields of the key that a candidate's validation by this engine has."""
    return {
        "material_id": candidate.material_id,
        "structure_hash": _structure_hash(candidate),
        "engine": maker.engine,
        "recipe": maker.recipe,
    }


def store_failure(
    store: ScreeningStore, run_id: str, key: dict[str, str], reason: str
) -> dict[str, Any]:
    """Record that a calculation failed, and why; one that is done already stays as it is.

    Returns
    -------
    dict
        `state` and `error`.
    """
    error = " ".join(reason.split())[:MAX_REASON]
    draft = _draft(store, run_id, key)
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

    The DOS is judged at its own resolution as well; a different verdict is a warning.

    Raises
    ------
    ModelError
        If the DOS does not cover the grid.
    """
    run = store.run(run_id)
    spectrum = document.spectrum().values
    nsites = len(document.structure)
    criteria = GapCriteria(**run.parameters.get("criteria", {}))
    gaps = judge(spectrum, [nsites], criteria)
    fine = judge_fine(document, criteria)
    draft = _draft(store, run_id, key)
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
        "gap": gap_document(gaps, 0).model_copy(update={"is_gap_fine": bool(fine.is_gap[0])}),
        "is_positive": None if document.is_magnetic else bool(gaps.is_gap[0]),
        **_errors(_prediction(store, run, key), spectrum),
        "raw_dos": store.put_raw_dos(_raw_dos(document)),
        "wall_time": document.wall_time,
        "warnings": [*document.warnings, *_difference(document, gaps, fine)],
        "error": None,
        "updated_at": utc_now(),
    }
    return ValidationDoc(**(draft.model_dump() | changes))


def judge_fine(document: DosDocument, criteria: GapCriteria) -> Gaps:
    """Verdict on a calculated DOS at its own resolution.

    Raises
    ------
    ModelError
        If the DOS does not cover the grid.
    """
    spectrum = document.spectrum(document.own_grid)
    return find_gaps(spectrum.grid, spectrum.values, criteria, [len(document.structure)])


def _difference(document: DosDocument, binned: Gaps, fine: Gaps) -> Iterator[str]:
    """A warning if the verdicts differ."""
    if binned.is_gap[0] != fine.is_gap[0]:
        own = 1000 * document.own_grid.width
        yield (
            f"the verdict depends on the resolution: {_in_words(binned)} in bins of "
            f"{1000 * EDOS_GRID.width:.1f} meV, {_in_words(fine)} in the DOS's own of {own:.1f} meV"
        )


def _in_words(gaps: Gaps) -> str:
    if not gaps.is_gap[0]:
        return "no gap"
    return f"a gap from {gaps.lower_edge[0]:.2f} to {gaps.upper_edge[0]:.2f} eV"


def _raw_dos(document: DosDocument) -> dict[str, Any]:
    rest = document.model_dump(mode="json", exclude={"energies", "dos"})
    return {**document.to_pymatgen().as_dict(), "document": rest}


def _errors(prediction: PredictionDoc | None, spectrum: np.ndarray) -> dict[str, Any]:
    """Errors of a prediction: `mae` in states/eV/cell, `wd` in eV."""
    if prediction is None:
        return {}
    predicted = np.array(prediction.spectrum)
    comparable = predicted.any() and spectrum.any()  # an empty spectrum has no shape
    return {
        "prediction_model_id": prediction.model_id,
        "mae": mae(predicted, spectrum),
        "wd": wasserstein(predicted[None], spectrum[None], EDOS_GRID.width) if comparable else None,
    }


def _prediction(store: ScreeningStore, run: Run, key: dict[str, str]) -> PredictionDoc | None:
    if run.model_id is None:
        return None
    wanted = (key["material_id"], key["structure_hash"], run.model_id)
    return next(iter(store.predictions([wanted])), None)


def validate_here(maker: ValidationFlowMaker, candidate: CandidateDoc) -> dict[str, Any]:
    """Calculate one candidate in this process.

    Whatever goes wrong with the calculation is recorded as its failure, so that the next
    candidate has its turn; only a store that fails is an error.

    Returns
    -------
    dict
        As of :func:`store_validation`.

    Raises
    ------
    StoreError
        If the store cannot be used.
    """
    try:
        with TemporaryDirectory(prefix="screen-validate-") as folder:
            flow = maker.make(candidate)
            responses = run_locally(
                flow,
                log=False,
                store=JobStore(MemoryStore()),
                root_dir=folder,
                raise_immediately=True,
            )
        outcome: dict[str, Any] = responses[flow.output.uuid][1].output
        return outcome
    except StoreError:
        raise
    except Exception as error:
        named = isinstance(error, (DosError, ModelError))
        reason = str(error) if named else f"{type(error).__name__}: {error}"
        with open_reference(store_reference(maker.db)) as store:
            return store_failure(
                store, candidate.run_id, key_of(candidate, maker.dos_maker), reason
            )


@dataclass(frozen=True)
class Metrics:
    """How right a run was, by one engine and recipe.

    Parameters
    ----------
    assessment : Assessment
        Precision and recall, and how the materials were chosen.
    undecided : dict of str to int
        Calculations without a verdict by their state, or ``"not judged"`` where they are done; the
        intervals hold whatever they would say.
    in_domain : bool
        The figures are those of what the model can know; nothing else was chosen or counts.
    """

    engine: str
    recipe: str
    assessment: Assessment
    undecided: dict[str, int]
    in_domain: bool = False

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        names = {"engine": self.engine, "recipe": self.recipe}
        rest = {"undecided": self.undecided, "in_domain": self.in_domain}
        return names | self.assessment.as_dict() | rest


def run_metrics(store: ScreeningStore, run: Run) -> list[Metrics]:
    """Precision and recall of a run for each engine and recipe that validated it.

    Only the calculations that the run asked for count: its positives and its random negatives.
    The DFT spectra are judged by the run's own criteria. Positives of which the run does not say
    how they were chosen count as chosen by rank, which claims least.
    """
    validations: dict[tuple[str, str], list[ValidationDoc]] = {}
    for document in store.validations(run_id=run.run_id):
        validations.setdefault((document.engine, document.recipe), []).append(document)
    criteria = GapCriteria(**run.parameters.get("criteria", {}))
    results = []
    for (engine, recipe), asked_for in sorted(validations.items()):
        choice = Choice.of(run, engine, recipe)
        population = _population(store, run, choice)
        documents = [d for d in asked_for if population.has(d.material_id)]
        predicted = set(population.positives)
        negatives = [d for d in documents if d.material_id not in predicted]
        assessment = Assessment(
            _positives(population.positives, documents, choice, criteria),
            Group(population.n_negative, drawn=_sample(negatives, criteria)),
        )
        undecided = Counter(_why_open(d) for d in documents if not _is_decided(d))
        counted = dict(sorted(undecided.items()))
        results.append(Metrics(engine, recipe, assessment, counted, choice.in_domain))
    return results


@dataclass(frozen=True)
class _Population:
    """What the validated materials were chosen among.

    `negatives` are those that count as drawn; None for all.
    """

    positives: list[str]
    n_negative: int
    negatives: frozenset[str] | None = None

    def has(self, material_id: str) -> bool:
        if self.negatives is None:
            return True
        return material_id in self.negatives or material_id in self.positives


def _population(store: ScreeningStore, run: Run, choice: Choice) -> _Population:
    if choice.in_domain:
        outside = _outside(store, run)
        positives = [name for name in run.selection if name not in outside]
        negatives = _negatives(store, run, in_domain=True)
        return _Population(positives, len(negatives), frozenset(negatives))
    n_negative = run.counts.get("screened", 0) - len(run.selection)
    if choice.n_random is None:
        return _Population(run.selection, n_negative)
    drawn = _negatives(store, run, in_domain=False)[: choice.n_random]
    return _Population(run.selection, n_negative, frozenset(drawn))


def _positives(
    selection: Sequence[str],
    documents: Sequence[ValidationDoc],
    choice: Choice,
    criteria: GapCriteria,
) -> Group:
    """The predicted positives, best first, from all of its validations by an engine and recipe."""
    calculated = {d.material_id: d for d in documents}.keys() & set(selection)
    by_rank = {*selection[: choice.n_best], *(calculated - choice.drawn)}
    return Group(
        len(selection),
        ranked=_sample([d for d in documents if d.material_id in by_rank], criteria),
        drawn=_sample([d for d in documents if d.material_id in calculated - by_rank], criteria),
        missing=len(by_rank - calculated),
    )


def _is_decided(document: ValidationDoc) -> bool:
    """Whether DFT gave a verdict; a finished calculation may refuse one."""
    done = document.state == "done" and document.spectrum is not None
    return done and document.is_positive is not None


def _why_open(document: ValidationDoc) -> str:
    return "not judged" if document.state == "done" else document.state


def _sample(documents: Sequence[ValidationDoc], criteria: GapCriteria) -> Sample:
    decided = [document for document in documents if _is_decided(document)]
    n_undecided = len(documents) - len(decided)
    if not decided:
        return Sample(undecided=n_undecided)
    spectra = np.array([document.spectrum for document in decided])
    gaps = judge(spectra, [document.nsites for document in decided], criteria)
    n_positive = int(gaps.is_gap.sum())
    return Sample(n_positive, len(decided) - n_positive, n_undecided)
