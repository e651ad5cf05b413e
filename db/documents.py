"""The documents of a screening: runs, candidates, predictions, validations and rounds.

Frozen pydantic models that both stores keep and give back unchanged. So that they are equal
after a round trip through either store, times are rounded down to milliseconds and turned to
UTC, spectra are rounded to single precision, and free dicts hold JSON values only.

Numbers are strict: a string or a boolean is not a number, NaN and infinity are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from db.structures import StructureArrays
from models.spectra.html import html_table, known_rows
from models.spectra.spectrum import EnergyGrid

SCHEMA_VERSION = 1
# Validation context of what a store reads. It was checked when it was written: spectra are not
# rounded again, and of free dicts no more is asked than that a hand has left them JSON.
STORED = {"stored": True}
MAX_DEPTH = 32  # levels of nesting in a free dict; MongoDB allows 100 in a whole document
INT64 = 2**63

CandidateState = Literal["pending", "screened", "rejected", "failed"]
RunState = Literal["running", "done", "failed", "interrupted"]
GapKind = Literal["gap", "near-gap"]
InDomain = Literal["yes", "near", "no"]
ValidationState = Literal["queued", "running", "done", "magnetic", "failed"]
RoundState = Literal["calculating", "learning", "scoring", "done", "failed"]
FINISHED: tuple[ValidationState, ...] = ("done", "magnetic")
"""States of calculations that need not be repeated."""
VALIDATION_CHOICES = "validation_choices"
"""Key among a run's parameters: how its positives were chosen, a note by engine and recipe."""

CandidateKey = tuple[str, str]
PredictionKey = tuple[str, str, str]
ValidationKey = tuple[str, str, str, str]


def utc_now() -> datetime:
    """Current time in UTC, in the milliseconds that both stores keep."""
    return _in_utc_milliseconds(datetime.now(UTC))


def _in_utc_milliseconds(time: datetime) -> datetime:
    if time.tzinfo is UTC and not time.microsecond % 1000:
        return time
    time = time.astimezone(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _in_single_precision(values: Any, info: ValidationInfo) -> Any:
    """Rounded list of a sequence of numbers; anything else is left for pydantic to refuse."""
    if isinstance(values, (str, bytes, dict)) or info.context is STORED:
        return values
    try:
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            return values
        return array.astype(np.float32).tolist()
    except (TypeError, ValueError):
        return values


def check_free_dict(document: dict[str, Any]) -> dict[str, Any]:
    """Refuse what one of the stores could not keep as it is.

    Returns the document itself, or its copy with lists for tuples and Python numbers for NumPy
    scalars.

    Raises
    ------
    ValueError
        If a key is empty, is not a string or has ``$``, ``.`` or NUL in it, or if a value is
        not JSON: NaN, infinity, an integer of more than 64 bits, an object.
    """
    if _needs_plain_copy(document, 0):
        copy: dict[str, Any] = orjson.loads(orjson.dumps(document, option=_NUMPY))
        return copy
    return document


def _free_dict(document: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if info.context is not STORED:
        return check_free_dict(document)
    try:
        orjson.dumps(document, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None
    return document


def _structure(structure: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return structure if isinstance(structure, StructureArrays) else check(structure)


def _structure_dict(structure: Any) -> Any:
    return structure.as_dict() if isinstance(structure, StructureArrays) else structure


_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_NOT_FINITE = (float("inf"), float("-inf"))


def _needs_plain_copy(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is float:
        if value != value or value in _NOT_FINITE:
            raise ValueError("a number is NaN or infinite")
        return False
    if kind is str:
        _check_text(value)
        return False
    if kind is bool or value is None:
        return False
    if kind is int:
        if not -INT64 <= value < INT64:
            raise ValueError("an integer has more than 64 bits")
        return False
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if kind is dict:
        copy = False
        for key, item in value.items():
            _check_key(key)
            if item is not None and type(item) is not bool:
                copy |= _needs_plain_copy(item, depth + 1)
        return copy
    if kind is list or kind is tuple:
        copy = kind is tuple
        for item in value:
            copy |= _needs_plain_copy(item, depth + 1)
        return copy
    plain = _plain(value)
    if plain is not None:
        _needs_plain_copy(plain, depth + 1)
        return True
    raise ValueError(f"{kind.__name__} is not a JSON value")


def _check_keys(document: dict[str, Any]) -> dict[str, Any]:
    for key in document:
        _check_key(key)
    return document


def _plain(value: Any) -> Any:
    """Python number or string of a NumPy scalar or of a subclass such as ``bson.Int64``."""
    if isinstance(value, np.generic):
        return value.item()
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


@lru_cache(maxsize=4096)  # documents have few different keys
def _check_key(key: Any) -> None:
    if type(key) is not str or not key:
        raise ValueError(f"key {key!r:.60} is not a string with a character in it")
    if "$" in key or "." in key or "\0" in key:
        raise ValueError(f"key {key!r:.60} has '$', '.' or NUL in it")
    _check_text(key)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("text has NUL in it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("text is not valid Unicode") from None


Identifier = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
Text = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=INT64)]
Flag = Annotated[bool, Field(strict=True)]
Time = Annotated[AwareDatetime, AfterValidator(_in_utc_milliseconds)]
SpectrumValues = Annotated[list[Number], BeforeValidator(_in_single_precision)]
FreeDict = Annotated[dict[str, Any], AfterValidator(_free_dict)]
# A dict, or what cannot be told from one by its keys and values.
StructureDict = Annotated[FreeDict, WrapValidator(_structure), PlainSerializer(_structure_dict)]
Counts = Annotated[dict[str, Count], AfterValidator(_check_keys)]
Flags = Annotated[dict[str, Flag], AfterValidator(_check_keys)]


class Model(BaseModel):
    """Frozen, without unknown fields, without NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def of_checked(cls, **values: Any) -> Self:
        """One of values that are as they would be after all checks, which take 10 times as long.

        Times are in UTC milliseconds, spectra lists of numbers in single precision, and so on:
        for what this program has computed itself, never for what it has read.
        """
        blank, made = _blank(cls)
        values = blank | {name: make() for name, make in made.items()} | values
        model = cls.__new__(cls)
        object.__setattr__(model, "__dict__", values)
        object.__setattr__(model, "__pydantic_fields_set__", set(values))
        object.__setattr__(model, "__pydantic_extra__", None)
        object.__setattr__(model, "__pydantic_private__", None)
        return model


@cache
def _blank(model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
    """Default of each field in their order, and what makes those that are made each time."""
    fields = model.model_fields.items()
    return (
        {name: None if info.is_required() else info.default for name, info in fields},
        {name: info.default_factory for name, info in fields if info.default_factory},  # type: ignore[misc]
    )


class Document(Model):
    """A document that a store keeps."""

    schema_version: Literal[1] = 1


class MarginsDoc(Model):
    """By how much a range keeps (positive) or misses (negative) each limit; None if unknown.

    Parameters
    ----------
    max_dos : float or None
        In the unit of the threshold.
    min_width, min_upper_edge, max_upper_edge : float or None
        In eV.
    """

    max_dos: Number | None = None
    min_width: Number | None = None
    min_upper_edge: Number | None = None
    max_upper_edge: Number | None = None


class GapDoc(Model):
    """Verdict on the gap of one spectrum, with the numbers that it was judged by.

    Parameters
    ----------
    lower_edge, upper_edge, width : float or None
        Energy range in eV relative to the band edge or Fermi level; None where there is none.
    max_dos : float or None
        Largest DOS inside the range in states/eV, per atom if `per_atom`, else per cell.
    is_lower_bound : bool
        The range runs off the grid, so that `width` is a lower bound.
    per_atom : bool
        The DOS was judged per atom.
    criteria : dict
        The thresholds.
    holds : dict of str to bool
        Which of the criteria hold.
    is_gap : bool
        All of them hold.
    kind : str or None
        ``"gap"`` for a range that is nearly empty over the width that is asked for, else
        ``"near-gap"``; None without a range.
    n_ranges : int or None
        Ranges below the band edge that are wide enough.
    margins : MarginsDoc or None
    robust : bool or None
        `is_gap` stays the same when the limits move a little; see
        :func:`screening.gap.find_gaps`.
    is_gap_fine : bool or None
        `is_gap` of a calculated DOS at its own resolution; None for a prediction.

    The last five are None in documents older than they.
    """

    lower_edge: Number | None = None
    upper_edge: Number | None = None
    width: Number | None = None
    max_dos: Number | None = None
    is_lower_bound: Flag = False
    per_atom: Flag = False
    criteria: FreeDict = Field(default_factory=dict)
    holds: Flags = Field(default_factory=dict)
    is_gap: Flag
    kind: GapKind | None = None
    n_ranges: Count | None = None
    margins: MarginsDoc | None = None
    robust: Flag | None = None
    is_gap_fine: Flag | None = None


class Judged(Model):
    """By what else than the VB gap a document was judged.

    Parameters
    ----------
    criterion : str or None
        Its name; None for the VB gap, also in documents older than other criteria.
    features : dict or None
        The quantities that decided, by the two parts of their names:
        ``{"vb_gap": {"width": 1.2}, "n_atoms": 2.0}``; None if it is the gap of the document.
    """

    criterion: Identifier | None = None
    features: FreeDict | None = None


class FilterCount(Model):
    """What one filter of the funnel did."""

    name: Identifier
    entered: Count
    dropped: Count
    unknown: Count = 0


class Run(Document):
    """One screening run.

    Parameters
    ----------
    model_id : str or None
        Of the model that judges all candidates.
    second_model_id : str or None
        Of the model that judges the best of them again; None in runs without one.
    parent : str or None
        The run whose candidates are judged again, by a model that has learned from its DFT.
    """

    run_id: Identifier
    state: RunState = "running"
    parameters: FreeDict = Field(default_factory=dict)
    versions: FreeDict = Field(default_factory=dict)
    funnel: list[FilterCount] = Field(default_factory=list)
    counts: Counts = Field(default_factory=dict)
    model_id: Identifier | None = None
    second_model_id: Identifier | None = None
    parent: Identifier | None = None
    selection: list[Identifier] = Field(default_factory=list)
    source: FreeDict = Field(default_factory=dict)
    created_at: Time = Field(default_factory=utc_now)
    updated_at: Time = Field(default_factory=utc_now)
    finished_at: Time | None = None
    error: Text | None = None

    @property
    def key(self) -> str:
        """The run's identifier."""
        return self.run_id


class FirstVerdict(Model):
    """What the first model of a run said of a candidate that was to be judged again."""

    model_id: Identifier
    is_positive: Flag
    score: Number


class CandidateDoc(Document, Judged):
    """A material in a run.

    Parameters
    ----------
    structure_hash : str or None
        Of `structure`; None for a material whose structure could not be read.
    nsites : int
        Atoms of `structure`: the primitive cell, or the cell as the source gave it.
    cell_multiplicity : int or None
        Primitive cells in the cell as the source gave it. None where that was not reduced: it
        was to be kept or could not be reduced, or a filter had dropped the material before.
    reduction_problem : str or None
        Why the cell could not be reduced.
    energy_above_hull : float or None
        In eV/atom.
    band_gap : float or None
        In eV.
    origin : dict
        Name of the source, version of the database, last update.
    shard : int or None
        Which part of the run's work the candidate is in.
    state : str
        ``"pending"``: passed the filters and awaits a prediction, of the run's second model if
        there is a `first_verdict`; ``"screened"``; ``"rejected"`` and ``"failed"``, both with a
        `reason`.
    structure : dict or None
        Dict of a pymatgen structure, or :class:`db.structures.StructureArrays` with its content.
    remarks : list of str or None
        What a person should know of how the structure was read, such as a repair of its file,
        and why the run's second model did not judge it.
    unseen_elements : list of str or None
        Elements that the training set of the model lacks whose verdict this is.
    has_isolated_atoms : bool or None
        Whether an atom touches no other.
    out_of_domain : bool or None
        Whether the model cannot know the material; see :class:`screening.domain.Domain`, which
        has the reasons in words.
    in_domain : str or None
        The same in one word with a grade between: ``"yes"``, ``"near"`` or ``"no"``.
    training_percentile : float or None
        Percentage of the training materials that are nearer to each other than this one is to them.
    exceeds_training_cells : bool or None
        Its cell has more atoms than that of any training material.
    is_positive_per_atom : bool or None
        `is_positive` with the threshold of the DOS for an atom instead of for the cell; the same
        as `is_positive` in a run whose threshold is for an atom. None by another criterion than a
        gap, which has no such threshold.
    model_id : str or None
        Of the model that gave the verdict: of two the second one.
    probability : float or None
        That DFT finds the candidate positive, 0 to 1; None where the model is not calibrated.
    expected_error : float or None
        Wasserstein distance in eV that the spectrum is expected to have from that of DFT; None
        where the model is not calibrated.
    first_verdict : FirstVerdict or None
        Of a candidate that was to be judged again; the verdict still is the first one where the
        second model would not.

    Notes
    -----
    From `remarks` to `is_positive_per_atom`, and `probability` and `expected_error`, they are None
    in documents older than they, and in candidates that were not to be screened, but for `remarks`.
    `criterion` and `features` are those of :class:`Judged`.
    """

    run_id: Identifier
    material_id: Identifier
    structure_hash: Identifier | None = None
    formula: Text = ""
    chemsys: Text = ""
    elements: list[Identifier] = Field(default_factory=list)
    nelements: Count = 0
    nsites: Count = 0
    cell_multiplicity: Annotated[Count, Field(ge=1)] | None = None
    reduction_problem: Text | None = None
    energy_above_hull: Number | None = None
    band_gap: Number | None = None
    is_magnetic: Flag | None = None
    has_edos: Flag | None = None
    origin: FreeDict = Field(default_factory=dict)
    shard: Count | None = None
    state: CandidateState = "pending"
    reason: Text | None = None
    structure: StructureDict | None = None
    remarks: list[Text] | None = None
    unseen_elements: list[Identifier] | None = None
    has_isolated_atoms: Flag | None = None
    out_of_domain: Flag | None = None
    in_domain: InDomain | None = None
    training_percentile: Number | None = None
    exceeds_training_cells: Flag | None = None
    model_id: Identifier | None = None
    gap: GapDoc | None = None
    is_positive: Flag | None = None
    is_positive_per_atom: Flag | None = None
    score: Number | None = None
    probability: Number | None = None
    expected_error: Number | None = None
    first_verdict: FirstVerdict | None = None

    @property
    def key(self) -> CandidateKey:
        """``(run_id, material_id)``."""
        return self.run_id, self.material_id

    def _repr_html_(self) -> str:
        gap, edges = self.gap, None
        if gap and gap.is_gap and gap.lower_edge is not None and gap.upper_edge is not None:
            edges = f"{gap.lower_edge:.2f} to {gap.upper_edge:.2f}"
        rows = [
            ("run", self.run_id),
            ("formula", self.formula),
            ("atoms in the cell", self.nsites),
            ("energy above hull (eV/atom)", self.energy_above_hull),
            ("band gap (eV)", self.band_gap),
            ("state", self.state),
            ("reason", self.reason),
            ("criterion", self.criterion),
            ("positive", self.is_positive),
            ("gap (eV)", edges),
            ("score (eV)" if self.criterion is None else "score", self.score),
            ("probability of a positive by DFT", self.probability),
            ("in the domain of the model", self.in_domain),
            ("model", self.model_id),
            *(("remark", remark) for remark in self.remarks or ()),
        ]
        return html_table(f"Candidate {self.material_id}", known_rows(rows))

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        _check_reason(self.state, self.reason)
        return self


class Verdict(Judged):
    """Partial update of a candidate: what a model said of it, and whether it can know it."""

    run_id: Identifier
    material_id: Identifier
    state: CandidateState
    reason: Text | None = None
    model_id: Identifier | None = None
    gap: GapDoc | None = None
    is_positive: Flag | None = None
    is_positive_per_atom: Flag | None = None
    score: Number | None = None
    probability: Number | None = None
    expected_error: Number | None = None
    unseen_elements: list[Identifier] | None = None
    out_of_domain: Flag | None = None
    in_domain: InDomain | None = None
    training_percentile: Number | None = None
    exceeds_training_cells: Flag | None = None

    @property
    def key(self) -> CandidateKey:
        """``(run_id, material_id)``."""
        return self.run_id, self.material_id

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        _check_reason(self.state, self.reason)
        return self


VERDICT_FIELDS = tuple(
    name for name in Verdict.model_fields if name not in ("run_id", "material_id")
)
"""Fields of a candidate that a verdict replaces."""


class PredictionDoc(Document):
    """What a model predicts for a structure; kept once for all runs.

    Parameters
    ----------
    spectrum : list of float, length ``grid.size``
        In states/eV/cell, in single precision; a phonon DOS on the scale of its model.
    gap : GapDoc or None
        Of an electronic DOS by the paper's criteria; None of a phonon DOS.
    score : float or None
        Of `gap`.
    member_spread : float or None
        How far the model's members are from each other, in eV; see
        :class:`models.predicted_spectra.PredictedSpectra`. None if there is one.
    training_distance : float or None
        To the nearest training materials in the model's embedding; None if it is not known.

    The last two are None in documents older than they.
    """

    material_id: Identifier
    structure_hash: Identifier
    model_id: Identifier
    formula: Text = ""
    nsites: Count = 0
    grid: EnergyGrid
    spectrum: SpectrumValues
    gap: GapDoc | None = None
    score: Number | None = None
    member_spread: Number | None = None
    training_distance: Number | None = None
    created_at: Time = Field(default_factory=utc_now)

    @property
    def key(self) -> PredictionKey:
        """``(material_id, structure_hash, model_id)``."""
        return self.material_id, self.structure_hash, self.model_id

    @model_validator(mode="after")
    def _fits_its_grid(self) -> Self:
        _check_size(self.spectrum, self.grid)
        return self


class ValidationDoc(Document, Judged):
    """A DFT calculation of a structure's DOS and what it says of the prediction.

    Parameters
    ----------
    state : str
        ``"done"``: calculated and judged. ``"magnetic"``: calculated, but with a magnetic moment,
        so that the criteria, which are those of nonmagnetic materials, say nothing: `is_positive`
        is None, and `spectrum` and `gap` are those of the sum of both spins. The others have no
        result.
    spectrum : list of float or None, length ``grid.size``
        In states/eV/cell, in single precision.
    efermi, vbm, cbm : float or None
        In eV, on the calculation's own scale.
    band_gap : float or None
        In eV.
    prediction_model_id : str or None
        Of the model whose prediction `mae` and `wd` are errors of.
    mae : float or None
        Mean absolute error of the prediction in states/eV/cell.
    wd : float or None
        Wasserstein distance of the prediction in eV.
    raw_dos : dict or None
        Where the raw DOS is.
    wall_time : float or None
        In s.

    Notes
    -----
    `criterion` and `features` are those of :class:`Judged`, of the run that asked for the
    calculation first; :func:`workflows.verdicts.judged_for` gives the verdict of another one.
    """

    material_id: Identifier
    structure_hash: Identifier
    engine: Identifier
    recipe: Identifier
    formula: Text = ""
    nsites: Count = 0
    state: ValidationState = "queued"
    run_ids: list[Identifier] = Field(default_factory=list)
    spectrum: SpectrumValues | None = None
    grid: EnergyGrid | None = None
    efermi: Number | None = None
    vbm: Number | None = None
    cbm: Number | None = None
    band_gap: Number | None = None
    gap: GapDoc | None = None
    is_positive: Flag | None = None
    prediction_model_id: Identifier | None = None
    mae: Number | None = None
    wd: Number | None = None
    raw_dos: FreeDict | None = None
    job_uuids: list[Identifier] = Field(default_factory=list)
    wall_time: Number | None = None
    warnings: list[Text] = Field(default_factory=list)
    error: Text | None = None
    created_at: Time = Field(default_factory=utc_now)
    updated_at: Time = Field(default_factory=utc_now)

    @property
    def key(self) -> ValidationKey:
        """``(material_id, structure_hash, engine, recipe)``."""
        return self.material_id, self.structure_hash, self.engine, self.recipe

    @property
    def is_finished(self) -> bool:
        """Whether it has a result."""
        return self.state in FINISHED

    def without_other_errors(self, model_id: str | None) -> Self:
        """The same calculation, without errors of the prediction by another model.

        Parameters
        ----------
        model_id : str or None
            Of the model whose errors they may be.
        """
        if self.prediction_model_id == model_id:
            return self
        return self.model_copy(update={"prediction_model_id": None, "mae": None, "wd": None})

    @model_validator(mode="after")
    def _fits_its_grid(self) -> Self:
        if self.spectrum is not None:
            if self.grid is None:
                raise ValueError("a spectrum needs its grid")
            _check_size(self.spectrum, self.grid)
        return self


class FiguresDoc(Model):
    """How good a model is on the test materials, which no training sees.

    Parameters
    ----------
    n : int
        Test materials.
    wd, wd_error : float
        Mean Wasserstein distance of the shapes in eV, and its standard error.
    mae, mae_error : float
        Mean absolute error in states/eV/cell, and its standard error.
    tp, fp, fn, tn : int
        VB gaps by the paper's criteria that are found, false alarms, missed, and rightly none.
    """

    n: Count
    wd: Number
    wd_error: Number
    mae: Number
    mae_error: Number
    tp: Count
    fp: Count
    fn: Count
    tn: Count


class DifferenceDoc(Model):
    """Means over the test materials of what a model's error is larger than another one's.

    Parameters
    ----------
    wd, wd_error : float
        Of the Wasserstein distance in eV, and the standard error of that mean.
    mae, mae_error : float
        The same of the absolute error in states/eV/cell.
    """

    wd: Number
    wd_error: Number
    mae: Number
    mae_error: Number


class RoundDoc(Document):
    """A round of a search: candidates chosen, calculated, learned from, and all judged again.

    Parameters
    ----------
    run_id : str
        The first run of the search, which has no parent.
    number : str
        Of the round, from ``"1"``.
    chosen_in : str
        The run whose candidates it chose among.
    choice : dict or None
        How: options of :func:`workflows.plan.choose_validation`; None if a user chose.
    chosen : list of str
        Predicted positives, in the order that they were chosen in.
    controls : list of str
        Random predicted negatives.
    outcomes : dict of str to int
        Of these, calculations in each state.
    found : list of str
        Those of them that have a VB gap by DFT.
    learned : dict of str to int
        Labels of the search that are in the ``"training"`` and ``"validation"`` part, and how many
        were ``"kept out"`` since they are test materials.
    left_out : list of str
        Finished calculations that are no labels, each with the reason.
    model_id, new_model_id : str or None
        Before and after.
    checkpoint : str or None
        Folder for the new model; None if it is not kept.
    before, after : FiguresDoc or None
        Of both models on the same test materials.
    difference : DifferenceDoc or None
        After less before, material by material.
    is_kept : bool or None
        Whether the new model judges the candidates now; None if nothing was learned.
    next_run_id : str
        The run in which they are judged.
    remark, error : str or None
        Why nothing was learned; why the round failed.
    """

    run_id: Identifier
    number: Identifier
    chosen_in: Identifier
    state: RoundState = "calculating"
    choice: FreeDict | None = None
    chosen: list[Identifier] = Field(default_factory=list)
    controls: list[Identifier] = Field(default_factory=list)
    engine: Identifier
    recipe: Identifier
    outcomes: Counts = Field(default_factory=dict)
    found: list[Identifier] = Field(default_factory=list)
    learned: Counts = Field(default_factory=dict)
    left_out: list[Text] = Field(default_factory=list)
    model_id: Identifier
    new_model_id: Identifier | None = None
    checkpoint: Text | None = None
    before: FiguresDoc | None = None
    after: FiguresDoc | None = None
    difference: DifferenceDoc | None = None
    is_kept: Flag | None = None
    next_run_id: Identifier
    remark: Text | None = None
    error: Text | None = None
    created_at: Time = Field(default_factory=utc_now)
    updated_at: Time = Field(default_factory=utc_now)
    finished_at: Time | None = None

    @property
    def key(self) -> tuple[str, str]:
        """``(run_id, number)``."""
        return self.run_id, self.number

    @property
    def n_calculated(self) -> int:
        """Calculations with a result."""
        return sum(self.outcomes.get(state, 0) for state in FINISHED)


def _check_reason(state: str, reason: str | None) -> None:
    if state in ("rejected", "failed") and not reason:
        raise ValueError(f"state {state!r} needs a reason")


def _check_size(spectrum: list[float], grid: EnergyGrid) -> None:
    if len(spectrum) != grid.size:
        raise ValueError(f"spectrum has {len(spectrum)} values, its grid has {grid.size} bins")
