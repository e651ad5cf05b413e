"""Energy grids and the spectra on them: binning, band-edge alignment, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.errors import ModelError
from models.spectra.html import spectrum_html


class EnergyGrid(BaseModel):
    """Equal bins of an energy axis; points are bin centres.

    Parameters
    ----------
    start : float
        Lower edge of the first bin, in `unit`.
    width : float
        Bin width, in `unit`.
    size : int
        Number of bins K'.
    unit : str
        ``"eV"`` or ``"cm^-1"``.

    Examples
    --------
    >>> EDOS_GRID.centers[[0, -1]].tolist()
    [-3.96875, 3.96875]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float
    width: float = Field(gt=0)
    size: int = Field(gt=1)
    unit: str = "eV"

    def __eq__(self, other: object) -> bool:
        """By the fields: pydantic compares the cached arrays as well, and fails."""
        if not isinstance(other, EnergyGrid):
            return NotImplemented
        return self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    @property
    def _fields(self) -> tuple[float, float, int, str]:
        return self.start, self.width, self.size, self.unit

    @cached_property
    def edges(self) -> np.ndarray:
        """Bin edges, shape (size + 1,)."""
        return self.start + self.width * np.arange(self.size + 1)

    @cached_property
    def centers(self) -> np.ndarray:
        """Bin centres, shape (size,)."""
        return self.start + self.width * (np.arange(self.size) + 0.5)


EDOS_GRID = EnergyGrid(start=-4.0, width=0.0625, size=128)
"""128 bins of 62.5 meV, 4 eV on either side of the band edges (Methods, 'Data generation')."""

PHDOS_GRID = EnergyGrid(start=-310.0, width=20.0, size=66, unit="cm^-1")
"""66 points from -300 to 1000 cm^-1 (JARVIS-DFT); negative frequencies are imaginary modes."""

PHDOS_PAPER_GRID = EnergyGrid(start=-10.0, width=20.0, size=51, unit="cm^-1")
"""51 points from 0 to 1000 cm^-1 (Methods, 'Data generation')."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Non-negative values on an energy grid.

    Parameters
    ----------
    values : ndarray, shape (grid.size,)
        Bin averages; states/eV/cell for an eDOS.
    grid : EnergyGrid
    n_atoms : int, optional
        Atoms in the cell that the values are of.
    """

    values: np.ndarray
    grid: EnergyGrid
    n_atoms: int | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values, float)
        if values.shape != (self.grid.size,):
            raise ModelError(f"spectrum of shape {values.shape} on a grid of {self.grid.size} bins")
        object.__setattr__(self, "values", values)

    @property
    def integral(self) -> float:
        """Sum of the values times the bin width (states/cell for an eDOS)."""
        return float(self.values.sum() * self.grid.width)

    def __repr__(self) -> str:
        return f"<Spectrum: {self._in_words()}>"

    def _repr_html_(self) -> str:
        return spectrum_html(self.values, self.grid.edges, self._in_words())

    def _in_words(self) -> str:
        grid, is_electronic = self.grid, self.grid.unit == "eV"
        atoms = f", {self.n_atoms} atom{'s' * (self.n_atoms != 1)}" if self.n_atoms else ""
        return (
            f"{grid.size} bins from {grid.edges[0]:g} to {grid.edges[-1]:g} {grid.unit}, "
            f"maximum {self.values.max():.4g}{' states/eV/cell' if is_electronic else ''}, "
            f"integral {self.integral:.4g}{' states/cell' if is_electronic else ''}{atoms}"
        )


def sum_normalized(values: np.ndarray) -> np.ndarray:
    """Spectra (..., K') scaled to sum 1 (SumNorm); one that is zero everywhere stays so."""
    total = values.sum(-1, keepdims=True)
    return values / np.where(total == 0, 1, total)


def max_normalized(values: np.ndarray) -> np.ndarray:
    """Spectra (..., K') scaled to maximum 1 (MaxNorm)."""
    return values / values.max(-1, keepdims=True)


class IntegratedDos:
    """Running integral of a DOS, exact between its points.

    Parameters
    ----------
    energies : ndarray, shape (M,)
        Points of a piecewise-linear DOS, or the M edges of a histogram; strictly increasing, eV.
    dos : ndarray, shape (M,) or (M - 1,)
        DOS at the points, or averages of the M - 1 bins, in states/eV/cell.

    Raises
    ------
    ModelError
        If the energies do not increase, a number is not finite, or the lengths do not match.
    """

    def __init__(self, energies: np.ndarray, dos: np.ndarray) -> None:
        energies, dos = np.asarray(energies, float), np.asarray(dos, float)
        if not (np.isfinite(energies).all() and np.isfinite(dos).all()):
            raise ModelError("DOS holds NaN or infinity")
        steps = np.diff(energies)
        if len(energies) < 2 or (steps <= 0).any():
            raise ModelError("energies of the DOS do not increase")
        if len(dos) == len(energies):
            self._left, self._slope = dos[:-1], np.diff(dos) / steps
            areas = steps * (dos[:-1] + dos[1:]) / 2
        elif len(dos) == len(energies) - 1:
            self._left, self._slope = dos, np.zeros_like(dos)
            areas = steps * dos
        else:
            raise ModelError(f"{len(dos)} DOS values for {len(energies)} energies")
        self._energies = energies
        self._cumulative = np.concatenate([[0.0], np.cumsum(areas)])

    @classmethod
    def of_averages(cls, centers: np.ndarray, dos: np.ndarray) -> IntegratedDos:
        """Running integral of a DOS given as averages over the steps around equidistant energies.

        Parameters
        ----------
        centers : ndarray, shape (M,)
            In eV.
        dos : ndarray, shape (M,)
            In states/eV/cell.
        """
        centers = np.asarray(centers, float)
        between = (centers[:-1] + centers[1:]) / 2
        first, last = 2 * centers[0] - between[0], 2 * centers[-1] - between[-1]
        return cls(np.concatenate([[first], between, [last]]), dos)

    @property
    def reach(self) -> tuple[float, float]:
        """First and last energy in eV."""
        return float(self._energies[0]), float(self._energies[-1])

    def __call__(self, energies: np.ndarray) -> np.ndarray:
        """Integral from the first point to `energies`, in states/cell."""
        low, high = self.reach
        if energies.min() < low - 1e-9 or energies.max() > high + 1e-9:
            raise ModelError(
                f"DOS covers {low:.2f} to {high:.2f} eV, "
                f"needed are {energies.min():.2f} to {energies.max():.2f} eV"
            )
        interval = np.clip(np.searchsorted(self._energies, energies) - 1, 0, len(self._left) - 1)
        offset = energies - self._energies[interval]
        within = offset * (self._left[interval] + 0.5 * self._slope[interval] * offset)
        return self._cumulative[interval] + within


def align_edos(
    energies: np.ndarray,
    dos: np.ndarray,
    vbm: float,
    cbm: float,
    grid: EnergyGrid = EDOS_GRID,
) -> Spectrum:
    """eDOS on a grid whose zero is both band edges (Methods, 'Data generation').

    Bins below zero are relative to the VBM, bins above zero to the CBM, so the band gap is cut
    out. In a metal both edges are the Fermi level.

    Parameters
    ----------
    energies, dos : ndarray
        As for :class:`IntegratedDos`; eV and states/eV/cell (both spins).
    vbm, cbm : float
        Band edges on the axis of `energies`, in eV.

    Returns
    -------
    Spectrum
        Bin averages in states/eV/cell.

    Raises
    ------
    ModelError
        If the DOS does not cover the grid, or zero is not a bin edge of the grid.
    """
    return _aligned(IntegratedDos(energies, dos), vbm, cbm, (vbm, cbm), grid)


def align_integral(
    integral: IntegratedDos, vbm: float, cbm: float, grid: EnergyGrid = EDOS_GRID
) -> Spectrum:
    """:func:`align_edos` of a DOS whose running integral is known, that is of averages over steps.

    There are no states between the edges: what the step that an edge falls into holds beyond it
    is counted in the bin next to the edge, so that no electron is lost.

    Parameters
    ----------
    integral : IntegratedDos
    vbm, cbm : float
        Band edges, in eV.
    grid : EnergyGrid
    """
    middle = (vbm + cbm) / 2
    return _aligned(integral, vbm, cbm, (middle, middle), grid)


def _aligned(
    integral: IntegratedDos, vbm: float, cbm: float, ends: tuple[float, float], grid: EnergyGrid
) -> Spectrum:
    """Bins below `vbm`, the last of which ends at ``ends[0]``, and those above `cbm`."""
    if cbm < vbm:
        raise ModelError(f"CBM {cbm:.3f} eV lies below VBM {vbm:.3f} eV")
    edges = grid.edges
    zero = int(np.argmin(np.abs(edges)))
    if abs(edges[zero]) > 1e-9:
        raise ModelError("0 eV is not a bin edge of the grid")
    valence = np.diff(integral(np.append(vbm + edges[:zero], ends[0])))
    conduction = np.diff(integral(np.append(ends[1], cbm + edges[zero + 1 :])))
    averages = np.concatenate([valence, conduction]) / grid.width
    return Spectrum(np.maximum(averages, 0.0), grid)


def band_edges(
    energies: np.ndarray, dos: np.ndarray, efermi: float, tolerance: float = 0.05
) -> tuple[float, float]:
    """VBM and CBM of a DOS that comes without eigenvalues.

    The gap is the range around the Fermi level in which the DOS stays below `tolerance`. Edges
    found so move by some 0.1 eV with the k-mesh and the smearing; eigenvalues are better.

    Parameters
    ----------
    energies, dos : ndarray, shape (M,)
        Points of the DOS, in eV and states/eV/cell.
    efermi : float
        Fermi level in eV; anywhere inside the gap of an insulator.
    tolerance : float
        DOS that counts as zero, in states/eV/cell.

    Returns
    -------
    vbm, cbm : float
        In eV; both the Fermi level for a metal.
    """
    energies, dos = np.asarray(energies, float), np.asarray(dos, float)
    filled = energies[(dos > tolerance) & (energies <= efermi)]
    empty = energies[(dos > tolerance) & (energies > efermi)]
    if not len(filled) or not len(empty):
        raise ModelError("DOS has no states on one side of the Fermi level")
    vbm, cbm = float(filled[-1]), float(empty[0])
    spacing = np.diff(energies).max()
    return (vbm, cbm) if cbm - vbm > 1.5 * spacing else (efermi, efermi)
