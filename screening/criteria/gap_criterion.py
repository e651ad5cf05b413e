"""The paper's criterion, a gap just below the valence band edge, and its mirror image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.spectra.spectrum import EnergyGrid
from screening.criteria.interface import Criterion, Verdicts
from screening.gap import find_gaps, has_gap
from screening.gap_criteria import GapCriteria

VB_GAP, CB_GAP = "vb-gap", "cb-gap"
_DESCRIPTIONS = {
    VB_GAP: "A gap just below the valence band edge, as in the paper",
    CB_GAP: "A gap just above the conduction band edge, the mirror image of the paper's",
}


@dataclass(frozen=True)
class GapCriterion(Criterion):
    """A gap just below the valence band edge, or just above the conduction band edge.

    They are ``"vb-gap"``, the default, and ``"cb-gap"``. Both are defined by the numbers of
    :class:`screening.gap_criteria.GapCriteria`; the verdicts are those of
    :func:`screening.gap.find_gaps`, energies and scores in eV. Source of the VB gap: Kong et al.,
    Nature Communications 13, 949 (2022), 'Predicting electronic DOS'. The CB gap is its mirror
    image above the conduction band edge.

    Parameters
    ----------
    criteria : GapCriteria
    """

    spectra = "edos"
    unit = "eV"
    criteria: GapCriteria = field(default_factory=GapCriteria)

    @property
    def name(self) -> str:  # type: ignore[override]
        """By the band."""
        return VB_GAP if self.criteria.band == "valence" else CB_GAP

    @property
    def title(self) -> str:
        """As the paper calls it."""
        return gap_title(self.name) or self.name

    def judge(self, spectra: np.ndarray, grid: EnergyGrid, n_atoms: ArrayLike) -> Verdicts:
        """Parameters are those of :func:`screening.criteria.interface.Criterion.judge`."""
        gaps = find_gaps(grid, spectra, self.criteria, n_atoms)
        names = ("lower_edge", "upper_edge", "width", "max_dos")
        features = {name: getattr(gaps, name) for name in names}
        return Verdicts(gaps.is_gap, gaps.score, features, gaps=gaps)

    def is_positive(
        self, spectra: np.ndarray, grid: EnergyGrid, n_atoms: ArrayLike
    ) -> NDArray[np.bool_]:
        """Parameters are those of :func:`screening.criteria.interface.Criterion.judge`."""
        return has_gap(grid, spectra, self.criteria, n_atoms)

    def definition(self) -> dict[str, Any]:
        """Its limits."""
        return {
            "name": self.name,
            "description": _DESCRIPTIONS[self.name],
            "spectra": self.spectra,
            "unit": self.unit,
            "criteria": self.criteria.model_dump(mode="json"),
        }


def gap_title(name: str | None) -> str | None:
    """What the gap of that name is called; None of a criterion that is none.

    Documents older than other criteria name none: theirs is the VB gap.

    Examples
    --------
    >>> gap_title(None), gap_title("cb-gap"), gap_title("steep-edge")
    ('VB gap', 'CB gap', None)
    """
    return {VB_GAP: "VB gap", CB_GAP: "CB gap"}.get(name or VB_GAP)
