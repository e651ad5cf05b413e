"""What a criterion is: from spectra to verdicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.spectra.spectrum import EnergyGrid

if TYPE_CHECKING:
    from screening.gap import Gaps

Spectra = Literal["edos", "phdos"]
SPECTRA_IN_WORDS: dict[str, str] = {"edos": "electronic DOS", "phdos": "phonon DOS"}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What a criterion says of B spectra.

    Parameters
    ----------
    is_positive : ndarray of bool, shape (B,)
        False where there is no verdict.
    score : ndarray, shape (B,)
        For ranking, in the criterion's `unit`: continuous in the spectrum as far as possible, above
        0 where positive; NaN where there is no verdict.
    features : mapping of str to ndarray, shape (B,)
        The quantities that decided, by name.
    refusals : mapping of int to str
        Why a row has no verdict.
    gaps : Gaps, optional
        Of the criteria that are a gap.
    """

    is_positive: NDArray[np.bool_]
    score: NDArray[np.float64]
    features: Mapping[str, np.ndarray]
    refusals: Mapping[int, str] = field(default_factory=dict)
    gaps: Gaps | None = None

    def refusal(self, i: int) -> str | None:
        """Why a row has no verdict; None if it has one."""
        if i in self.refusals or np.isfinite(self.score[i]):
            return self.refusals.get(i)
        return "no verdict: the score is not a finite number"


class Criterion(ABC):
    """Which spectra are interesting, and how much.

    Of another package it is an object, or a class without arguments, in the entry point group
    ``edos_screening.criteria``.

    Attributes
    ----------
    name : str
        For the command line and the documents, such as ``"steep-edge"``.
    spectra : {'edos', 'phdos'}
        What it judges: electronic DOS on an aligned grid in eV, or phonon DOS on a grid in cm^-1.
    unit : str
        Of the score; empty for a number.
    """

    name: str
    spectra: Spectra
    unit: str = ""

    @property
    def title(self) -> str:
        """For people: what a positive is or has."""
        return self.name

    @abstractmethod
    def judge(self, spectra: np.ndarray, grid: EnergyGrid, n_atoms: ArrayLike) -> Verdicts:
        """Judge spectra, all at once.

        Parameters
        ----------
        spectra : ndarray, shape (B, K)
            In states/eV/cell; a phonon DOS on any scale.
        grid : EnergyGrid
        n_atoms : array_like, shape (B,)
            Atoms in each cell.

        Raises
        ------
        ScreeningError
            If the grid is that of other spectra, or a DOS is not finite.
        """

    def is_positive(
        self, spectra: np.ndarray, grid: EnergyGrid, n_atoms: ArrayLike
    ) -> NDArray[np.bool_]:
        """Which spectra are positive, shape (B,), where nothing else is asked.

        Parameters
        ----------
        spectra, grid, n_atoms
            As for :meth:`judge`.
        """
        return self.judge(spectra, grid, n_atoms).is_positive

    def definition(self) -> dict[str, Any]:
        """All that decides its verdicts, as JSON; a run keeps it."""
        kind = type(self)
        parameters: dict[str, Any] = asdict(self) if is_dataclass(self) else {}
        return {
            "name": self.name,
            "spectra": self.spectra,
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "parameters": parameters,
        }
