"""Criteria that are expressions over features: those of users, and most of those that ship."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import describe
from models.spectra.spectrum import EnergyGrid
from screening.criteria.expression import Expression, Sort
from screening.criteria.features import (
    FEATURES,
    MEASURES,
    EdosMeasure,
    Feature,
    PhdosMeasure,
    measured,
)
from screening.criteria.interface import Criterion, Spectra, Verdicts
from screening.errors import ScreeningError

SHOWN = 4  # features of a material without a verdict that its reason names


class CriterionFile(BaseModel):
    """What a criterion's YAML file holds.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and hyphens.
    description, source : str
        What it finds and why, with units; who says so.
    spectra : {'edos', 'phdos'}
    positive : str
        A condition over the features (:data:`screening.criteria.features.FEATURES`) of these
        spectra and the parameters.
    score : str
        A number, above 0 where positive: candidates are ranked by it.
    unit : str
        Of the score; empty for a number.
    parameters : dict of str to float
        Numbers that the expressions name.
    measure : dict
        How the features are measured, where it is not the default: fields of
        :class:`screening.criteria.features.EdosMeasure` or `PhdosMeasure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    description: str = ""
    source: str = ""
    spectra: Spectra
    positive: str
    score: str
    unit: str = Field(default="", max_length=20)
    parameters: dict[str, float] = Field(default_factory=dict)
    measure: dict[str, Any] = Field(default_factory=dict)


class ExpressionCriterion(Criterion):
    """A criterion from a YAML file, or from what a run keeps of one.

    Parameters
    ----------
    file : CriterionFile
    where : str
        What errors call it: the path.

    Raises
    ------
    ScreeningError
        If an expression or a setting is wrong; in one line, with the place.

    Examples
    --------
    >>> bands = ExpressionCriterion(CriterionFile(
    ...     name="flat", spectra="edos", positive="dos_at_fermi > least",
    ...     score="dos_at_fermi - least", parameters={"least": 10}))
    >>> from models.spectra.spectrum import EDOS_GRID
    >>> bands.judge(np.full((1, 128), 12.0), EDOS_GRID, [2]).score
    array([2.])
    """

    BOTH: ClassVar[tuple[str, str]] = ("positive", "score")

    def __init__(self, file: CriterionFile, where: str | None = None) -> None:
        self.file, self.name, self.spectra, self.unit = file, file.name, file.spectra, file.unit
        where = where or f"criterion {file.name}"
        self._features: dict[str, Feature] = FEATURES[file.spectra]
        try:
            self._measure: EdosMeasure | PhdosMeasure = MEASURES[file.spectra].model_validate(
                file.measure
            )
        except ValidationError as error:
            raise ScreeningError(f"{where}: measure: {describe(error)}") from None
        for name in file.parameters:
            if not name.isidentifier() or name in self._features:
                raise ScreeningError(
                    f"{where}: parameter {name!r:.60} is not a name of its own: letters, digits "
                    "and _, and not a feature"
                )
        sorts: dict[str, Sort] = {
            name: "condition" if feature.is_condition else "number"
            for name, feature in self._features.items()
        }
        sorts |= dict.fromkeys(file.parameters, "number")
        self._positive = Expression.parse(file.positive, "condition", sorts, f"{where}: positive")
        self._score = Expression.parse(file.score, "number", sorts, f"{where}: score")

    @classmethod
    def read(cls, path: Path) -> ExpressionCriterion:
        """Read a YAML file.

        Raises
        ------
        ScreeningError
            If it cannot be read or is not a criterion; in one line, with the place.
        """
        try:
            content = yaml.safe_load(path.read_bytes())
        except OSError as error:
            raise ScreeningError(f"criterion {path}: {error.strerror or error}") from None
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "not YAML"
            raise ScreeningError(f"criterion {path}{place}: {problem}") from None
        return cls.of(content, str(path))

    @classmethod
    def of(cls, content: Any, where: str) -> ExpressionCriterion:
        """From what a file, or a run, holds.

        Parameters
        ----------
        content : dict
            Fields of :class:`CriterionFile`.
        where : str
            What errors call it.
        """
        if not isinstance(content, dict):
            raise ScreeningError(f"criterion {where}: not a list of fields with their values")
        try:
            return cls(CriterionFile.model_validate(content), f"criterion {where}")
        except ValidationError as error:
            raise ScreeningError(f"criterion {where}: {describe(error)}") from None

    @cached_property
    def used(self) -> dict[str, Feature]:
        """The features that it looks at, in the order of its expressions."""
        names = dict.fromkeys((*self._positive.names, *self._score.names))
        return {name: self._features[name] for name in names if name in self._features}

    def judge(self, spectra: np.ndarray, grid: EnergyGrid, n_atoms: ArrayLike) -> Verdicts:
        """Parameters are those of :func:`screening.criteria.interface.Criterion.judge`."""
        of_spectra = measured(spectra, grid, n_atoms, self._measure)
        n = len(of_spectra.dos)
        features = {name: feature.of(of_spectra) for name, feature in self.used.items()}
        values = self.file.parameters | features
        positive = self._positive.evaluate(values, n)
        score = self._score.evaluate(values, n)
        known = np.isfinite(positive) & np.isfinite(score)
        refusals = {i: self._refusal(features, i) for i in np.flatnonzero(~known).tolist()}
        return Verdicts(
            known & (positive == 1.0), np.where(known, score, np.nan), features, refusals
        )

    def _refusal(self, features: dict[str, np.ndarray], i: int) -> str:
        named = ", ".join(f"{name} = {features[name][i]:g}" for name in list(features)[:SHOWN])
        return (
            f"no verdict by {self.name}: its score or a comparison is not a finite number, such as "
            f"after a division by zero ({named})"
        )

    def definition(self) -> dict[str, Any]:
        """The fields of the file."""
        return self.file.model_dump(mode="json")
