"""The criteria by name: those that ship, those of other packages, those in a user's files."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from db.documents import check_free_dict
from models.spectra.spectrum import EDOS_GRID, EnergyGrid
from models.zoo import DEFAULT_EDOS, DEFAULT_PHDOS, predictor_grid
from screening.criteria.expression import unknown
from screening.criteria.expression_criterion import ExpressionCriterion
from screening.criteria.features import UNITS
from screening.criteria.gap_criterion import CB_GAP, VB_GAP, GapCriterion
from screening.criteria.interface import SPECTRA_IN_WORDS, Criterion
from screening.errors import ScreeningError
from screening.gap_criteria import GapCriteria

GROUP = "edos_screening.criteria"
"""Entry points of criteria of other packages."""
_SHIPPED = Path(__file__).parent / "shipped"
_ENDINGS = (".yaml", ".yml")
CRITERION, GAP_CRITERIA = "criterion", "criteria"  # keys among the parameters of a run


def find_criterion(name: str, gap: dict[str, Any] | None = None) -> Criterion:
    """A criterion by its name or file.

    Parameters
    ----------
    name : str
        ``"vb-gap"``, ``"cb-gap"``, another one that ships, one of another package, or the path of a
        YAML file.
    gap : dict, optional
        Fields of :class:`screening.gap_criteria.GapCriteria`, for ``"vb-gap"``.

    Raises
    ------
    ScreeningError
        If there is none, its file is wrong, or there are limits of a gap that it does not have.

    Examples
    --------
    >>> find_criterion("vb-gap", {"max_dos": 2.0}).criteria.max_dos
    2.0
    >>> find_criterion("steep-edge").spectra
    'edos'
    """
    if name == VB_GAP:
        return GapCriterion(GapCriteria.from_options(**(gap or {})))
    if gap:
        options = ", ".join(GapCriteria.option(field).partition("/")[0] for field in gap)
        hint = "; --band conduction has a CB gap with other limits" if name == CB_GAP else ""
        raise ScreeningError(f"{options}: of {VB_GAP}, not of --criterion {name}{hint}")
    if name == CB_GAP:
        return GapCriterion(GapCriteria(band="conduction"))
    if name.endswith(_ENDINGS):
        criterion = ExpressionCriterion.read(Path(name).expanduser())
        if criterion.name in criterion_names():
            raise ScreeningError(
                f"criterion {name}: another one is called {criterion.name}; give it its own name"
            )
        return criterion
    if name in _shipped_files():
        return ExpressionCriterion.read(_shipped_files()[name])
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _loaded(entry)
    known = unknown("criterion", name, criterion_names())
    raise ScreeningError(f"{known} (or a file that ends in .yaml)")


def criterion_names() -> tuple[str, ...]:
    """Names of the criteria that ship, the default first, and of those of other packages."""
    others = sorted(entry.name for entry in entry_points(group=GROUP))
    return (VB_GAP, CB_GAP, *_shipped_files(), *others)


@cache
def _shipped_files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def _loaded(entry: EntryPoint) -> Criterion:
    """The criterion of another package."""
    where = f"criterion {entry.name} ({entry.value})"
    try:
        loaded = entry.load()
        criterion = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise ScreeningError(f"{where} cannot be loaded: {error}") from None
    if not isinstance(criterion, Criterion):
        raise ScreeningError(f"{where} is no screening.criteria.interface.Criterion")
    if criterion.name != entry.name:
        raise ScreeningError(f"{where} calls itself {criterion.name}")
    return criterion


def parameters_of(criterion: Criterion) -> dict[str, Any]:
    """What a run keeps of its criterion, with which it can be made again.

    A gap's limits stand where they stood before there were other criteria, so that older runs
    resume.
    """
    if isinstance(criterion, GapCriterion):
        return {GAP_CRITERIA: criterion.criteria.model_dump(mode="json")}
    return {CRITERION: _definition(criterion)}


def _definition(criterion: Criterion) -> dict[str, Any]:
    """What defines a criterion as a store gives it back, with lists for tuples.

    Raises
    ------
    ScreeningError
        If something in it is no JSON.
    """
    try:
        return check_free_dict(criterion.definition())
    except ValueError as error:
        raise ScreeningError(f"criterion {criterion.name}: no run can keep it: {error}") from None


def criterion_of(parameters: dict[str, Any]) -> Criterion:
    """The criterion of a run, as it was when the run began.

    Parameters
    ----------
    parameters : dict
        Of the run.

    Raises
    ------
    ScreeningError
        If it is of another package that is gone, or that defines it differently now.

    Examples
    --------
    >>> criterion_of({}).name, criterion_of({"criteria": {"band": "conduction"}}).name
    ('vb-gap', 'cb-gap')
    """
    definition = parameters.get(CRITERION)
    if definition is None:
        return GapCriterion(GapCriteria(**parameters.get(GAP_CRITERIA, {})))
    if "class" not in definition:
        return ExpressionCriterion.of(definition, str(definition.get("name")))
    criterion = find_criterion(definition["name"])
    if _definition(criterion) != definition:
        raise ScreeningError(
            f"criterion {criterion.name} is another than when the run began; start a new run"
        )
    return criterion


def default_predictor(criterion: Criterion) -> str:
    """Name of the shipped predictor of the spectra that a criterion judges."""
    return (DEFAULT_EDOS if criterion.spectra == "edos" else DEFAULT_PHDOS).name


def needed_grid(criterion: Criterion, checkpoint: Path) -> EnergyGrid:
    """Grid of the spectra that a predictor is to give: the eDOS one, or its own of phonons.

    Parameters
    ----------
    criterion : Criterion
    checkpoint : Path
        Folder of the predictor.

    Raises
    ------
    ScreeningError
        If it predicts spectra that the criterion does not judge.
    """
    own = predictor_grid(checkpoint)
    if own.unit != UNITS[criterion.spectra]:
        of_model = next((name for name, unit in UNITS.items() if unit == own.unit), own.unit)
        raise ScreeningError(
            f"--criterion {criterion.name} judges the {SPECTRA_IN_WORDS[criterion.spectra]}, "
            f"checkpoint {checkpoint} predicts the {SPECTRA_IN_WORDS.get(of_model, of_model)}; "
            f"use another --checkpoint, such as {default_predictor(criterion)}"
        )
    return EDOS_GRID if criterion.spectra == "edos" else own
