"""Named quantities of spectra, of which the expressions of a criterion are made.

All are finite numbers for any finite spectrum, so that a criterion without a division gives a
verdict on each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from scipy.constants import Boltzmann, elementary_charge

from models.spectra.phonons import ROOM_TEMPERATURE, heat_capacities, mean_frequencies
from models.spectra.spectrum import EDOS_GRID, EnergyGrid, sum_normalized
from screening.criteria.interface import SPECTRA_IN_WORDS, Spectra
from screening.errors import ScreeningError
from screening.gap import Gaps, find_gaps
from screening.gap_criteria import GapCriteria
from screening.user_input import UserInput

ACOUSTIC_MODES = 3
MOTT = 1e6 * np.pi**2 / 3 * (Boltzmann / elementary_charge) ** 2 * ROOM_TEMPERATURE
"""(pi^2 / 3) k_B^2 T / e at 300 K, in uV/K for a slope in 1/eV: 7.3."""

FloatArray = np.ndarray


class EdosMeasure(UserInput):
    """How the features of an electronic DOS are measured.

    Parameters
    ----------
    gap : GapCriteria
        What `vb_gap` is; `cb_gap` is the mirror image.
    slope_window : float
        In eV on either side of the Fermi level; 0.125 eV is 5 k_B T at 300 K, from where carriers
        come that conduct.
    """

    gap: GapCriteria = GapCriteria()
    slope_window: float = Field(default=0.125, ge=EDOS_GRID.width, le=4.0)


class PhdosMeasure(UserInput):
    """How the features of a phonon DOS are measured.

    Parameters
    ----------
    empty : float
        Share of its largest value below which a bin counts as empty.
    mode_tolerance : float
        By so many modes what is below the gap may differ from the three acoustic branches.
    """

    empty: float = Field(default=0.05, gt=0, lt=1)
    mode_tolerance: float = Field(default=0.5, gt=0, lt=3)


@dataclass(frozen=True, eq=False)
class MeasuredEdos:
    """Electronic DOS with what is measured on it, once each and when it is asked for.

    Parameters
    ----------
    dos : ndarray, shape (B, K)
        In states/eV/cell.
    grid : EnergyGrid
        In eV from the band edges, which are at 0.
    n_atoms : ndarray, shape (B,)
    measure : EdosMeasure
    """

    dos: FloatArray
    grid: EnergyGrid
    n_atoms: FloatArray
    measure: EdosMeasure

    @cached_property
    def vb_gap(self) -> Gaps:
        """VB gap or nearest miss."""
        return self._gaps("valence")

    @cached_property
    def cb_gap(self) -> Gaps:
        """CB gap or nearest miss."""
        return self._gaps("conduction")

    def _gaps(self, band: str) -> Gaps:
        criteria = self.measure.gap.model_copy(update={"band": band})
        return find_gaps(self.grid, self.dos, criteria, self.n_atoms)

    @property
    def at_fermi(self) -> FloatArray:
        """Mean DOS within a bin of the eDOS grid of the Fermi level, states/eV/cell."""
        return self.dos[:, np.abs(self.grid.centers) < EDOS_GRID.width].mean(axis=1)

    @cached_property
    def slope(self) -> FloatArray:
        """Slope of the straight line through the DOS near E_F, by the mean DOS there, in 1/eV.

        0 where there are no states.
        """
        near = np.abs(self.grid.centers) < self.measure.slope_window
        energies, dos = self.grid.centers[near], self.dos[:, near]
        energies = energies - energies.mean()
        mean = dos.mean(axis=1)
        slope = dos @ energies / (energies @ energies)
        return np.divide(slope, mean, out=np.zeros_like(slope), where=mean > 0)

    def states(self, sign: int) -> FloatArray:
        """States/cell on the grid below (-1) or above (1) the band edges."""
        return self.dos[:, sign * self.grid.centers > 0].sum(axis=1) * self.grid.width


@dataclass(frozen=True, eq=False)
class MeasuredPhdos:
    """Phonon DOS with what is measured on it.

    Parameters
    ----------
    dos : ndarray, shape (B, K)
        On any scale.
    grid : EnergyGrid
        In cm^-1.
    n_atoms : ndarray, shape (B,)
    measure : PhdosMeasure
    """

    dos: FloatArray
    grid: EnergyGrid
    n_atoms: FloatArray
    measure: PhdosMeasure

    @cached_property
    def occupied(self) -> np.ndarray:
        """Which bins hold modes, shape (B, K)."""
        return (self.dos > 0) & (
            self.dos >= self.measure.empty * self.dos.max(axis=1, keepdims=True)
        )

    @cached_property
    def ao_gap(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper edge of the gap between acoustic and optical branches, in cm^-1.

        The widest empty range between occupied bins with three of the cell's 3N modes below it;
        both edges are at the upper end of the modes without one.
        """
        modes = sum_normalized(self.dos) * 3 * self.n_atoms[:, None]
        below = np.cumsum(modes, axis=1)
        bins = np.arange(self.grid.size)
        # The first occupied bin at or above each, and the last one at or below it.
        upper = np.where(self.occupied, bins, self.grid.size)
        upper = np.minimum.accumulate(upper[:, ::-1], axis=1)[:, ::-1]
        following = np.append(upper[:, 1:], np.full((len(upper), 1), self.grid.size), axis=1)
        is_last = self.occupied & (following > bins + 1) & (following < self.grid.size)
        is_last &= np.abs(below - ACOUSTIC_MODES) <= self.measure.mode_tolerance
        width = np.where(is_last, following - bins - 1, 0)
        best = width.argmax(axis=1)
        widest = width[np.arange(len(width)), best]
        first_empty = np.where(widest > 0, best + 1, self.top)
        edges = self.grid.edges
        return edges[first_empty], edges[first_empty + widest]

    @cached_property
    def top(self) -> np.ndarray:
        """First edge above all modes, as its number, shape (B,); 0 without modes."""
        last = self.grid.size - self.occupied[:, ::-1].argmax(axis=1)
        return np.where(self.occupied.any(axis=1), last, 0)

    @property
    def ao_ratio(self) -> FloatArray:
        """Width of the gap by its lower edge, which is the width of the acoustic branches."""
        lower, upper = self.ao_gap
        return np.divide(upper - lower, lower, out=np.zeros_like(lower), where=lower > 0)

    @property
    def imaginary(self) -> FloatArray:
        """Share of the modes at negative frequencies."""
        share = sum_normalized(self.dos)
        return share[:, self.grid.edges[1:] <= 1e-6 * self.grid.width].sum(axis=1)

    @property
    def heat_capacity(self) -> FloatArray:
        """C_V at 300 K in J/K per mole of atoms."""
        return heat_capacities(self.dos, self.grid, self.n_atoms) / self.n_atoms


class Feature(NamedTuple):
    """A quantity of spectra.

    Parameters
    ----------
    unit : str
        Empty for a number.
    what : str
    of : callable
        From :class:`MeasuredEdos` or :class:`MeasuredPhdos` to the values, shape (B,).
    is_condition : bool
        It is true or false.
    """

    unit: str
    what: str
    of: Callable[[Any], np.ndarray]
    is_condition: bool = False


def _gap_features(name: str, edge: str, far: int) -> dict[str, Feature]:
    """Those of the VB gap or its mirror image, or of the nearest miss."""

    def edge_of(side: str) -> Callable[[MeasuredEdos], FloatArray]:
        def values(m: MeasuredEdos) -> FloatArray:
            found: FloatArray = getattr(getattr(m, name), side)
            return np.where(np.isnan(found), m.grid.edges[far], found)

        return values

    def largest(m: MeasuredEdos) -> FloatArray:
        gaps: Gaps = getattr(m, name)
        per_cell = m.n_atoms if gaps.criteria.per_atom else 1.0
        return (gaps.criteria.max_dos - gaps.margins[:, 0]) * per_cell

    def is_gap(m: MeasuredEdos) -> np.ndarray:
        return getattr(m, name).is_gap

    def score(m: MeasuredEdos) -> FloatArray:
        return getattr(m, name).score

    def width(m: MeasuredEdos) -> FloatArray:
        return getattr(m, name).width

    end = "lower" if far == 0 else "upper"
    return {
        f"{name}.is_gap": Feature("", f"is there one next to the {edge}", is_gap, True),
        f"{name}.score": Feature("eV", "its score, as of the runs for it", score),
        f"{name}.width": Feature("eV", "width of the gap or nearest miss, 0 without one", width),
        f"{name}.lower_edge": Feature(
            "eV", f"its lower edge; the {end} end of the grid without one", edge_of("lower_edge")
        ),
        f"{name}.upper_edge": Feature(
            "eV", f"its upper edge; the {end} end of the grid without one", edge_of("upper_edge")
        ),
        f"{name}.max_dos": Feature(
            "states/eV/cell", "largest DOS in it; the smallest anywhere without one", largest
        ),
    }


FEATURES: dict[str, dict[str, Feature]] = {
    "edos": {
        **_gap_features("vb_gap", "VBM", 0),
        **_gap_features("cb_gap", "CBM", -1),
        "dos_at_fermi": Feature("states/eV/cell", "DOS at the Fermi level", lambda m: m.at_fermi),
        "slope_at_fermi": Feature(
            "1/eV", "d ln(DOS)/dE at the Fermi level of a metal", lambda m: m.slope
        ),
        "mott_seebeck": Feature(
            "uV/K",
            "thermopower at 300 K by Mott's formula, if the conductivity goes as the DOS",
            lambda m: -MOTT * m.slope,
        ),
        "valence_states": Feature(
            "states/cell", "states on the grid below the VBM", lambda m: m.states(-1)
        ),
        "conduction_states": Feature(
            "states/cell", "states on the grid above the CBM", lambda m: m.states(1)
        ),
        "n_atoms": Feature("", "atoms in the cell", lambda m: m.n_atoms),
    },
    "phdos": {
        "ao_gap.width": Feature(
            "cm^-1",
            "width of the gap between acoustic and optical branches, 0 without one",
            lambda m: m.ao_gap[1] - m.ao_gap[0],
        ),
        "ao_gap.lower_edge": Feature(
            "cm^-1", "its lower edge; the upper end of all modes without one", lambda m: m.ao_gap[0]
        ),
        "ao_gap.upper_edge": Feature(
            "cm^-1", "its upper edge; the upper end of all modes without one", lambda m: m.ao_gap[1]
        ),
        "ao_gap.ratio": Feature("", "its width by its lower edge", lambda m: m.ao_ratio),
        "max_frequency": Feature("cm^-1", "upper end of all modes", lambda m: m.grid.edges[m.top]),
        "mean_frequency": Feature(
            "cm^-1", "of the real modes", lambda m: mean_frequencies(m.dos, m.grid)
        ),
        "imaginary_share": Feature(
            "", "share of the modes at negative frequencies", lambda m: m.imaginary
        ),
        "heat_capacity": Feature(
            "J/K/mol", "C_V at 300 K per mole of atoms", lambda m: m.heat_capacity
        ),
        "n_atoms": Feature("", "atoms in the cell", lambda m: m.n_atoms),
    },
}
"""By the sort of spectra and by name."""

MEASURES: dict[str, type[EdosMeasure | PhdosMeasure]] = {
    "edos": EdosMeasure,
    "phdos": PhdosMeasure,
}
UNITS = {"edos": "eV", "phdos": "cm^-1"}
"""Of the grids."""


def measured(
    spectra: np.ndarray, grid: EnergyGrid, n_atoms: Any, measure: EdosMeasure | PhdosMeasure
) -> MeasuredEdos | MeasuredPhdos:
    """Spectra of which features can be asked.

    Parameters
    ----------
    spectra : ndarray, shape (B, K)
    grid : EnergyGrid
    n_atoms : array_like, shape (B,)
    measure : EdosMeasure or PhdosMeasure

    Raises
    ------
    ScreeningError
        If the grid is that of other spectra.
    """
    dos, atoms = np.asarray(spectra, float), np.asarray(n_atoms, float)
    if isinstance(measure, EdosMeasure):
        check_unit(grid, "edos")
        return MeasuredEdos(dos, grid, atoms, measure)
    check_unit(grid, "phdos")
    return MeasuredPhdos(dos, grid, atoms, measure)


def check_unit(grid: EnergyGrid, spectra: Spectra) -> None:
    """Refuse a grid of other spectra.

    Parameters
    ----------
    grid : EnergyGrid
    spectra : {'edos', 'phdos'}

    Raises
    ------
    ScreeningError
        If its unit is another.
    """
    if grid.unit != UNITS[spectra]:
        raise ScreeningError(
            f"a criterion on the {SPECTRA_IN_WORDS[spectra]} needs a grid in {UNITS[spectra]}, "
            f"not in {grid.unit}"
        )
