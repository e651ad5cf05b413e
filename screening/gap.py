"""The VB-gap criteria: which spectra have an empty range just below the valence band edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from screening.errors import ScreeningError
from screening.options import Options

CRITERIA = ("max_dos", "min_width", "min_upper_edge", "max_upper_edge")
TOLERANCE = 1e-9  # eV; rounding may not decide whether a width or an edge is within its limit
_CHUNK = 1 << 17  # DOS values worked on at a time

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class GapCriteria(Options):
    """The four numbers that define a VB gap (paper, 'Predicting electronic DOS').

    A spectrum has a VB gap when a contiguous energy range has

    (i) a DOS below `max_dos` at every point,
    (ii) a width of at least `min_width`,
    (iii) its upper edge at `min_upper_edge` or above, and
    (iv) its upper edge at `max_upper_edge` or below,

    with energies relative to the valence band maximum (the Fermi level in a metal).

    Parameters
    ----------
    max_dos : float
        States/eV; of the cell as in the paper, so that small cells pass more easily, or of an
        atom with `per_atom`.
    min_width, min_upper_edge, max_upper_edge : float
        In eV.
    per_atom : bool
        Divide the DOS by the number of atoms in the cell first.
    band : {'valence', 'conduction'}
        ``'conduction'`` asks for the mirror image: a range above the conduction band minimum,
        with its *lower* edge between ``-max_upper_edge`` and ``-min_upper_edge``.
    """

    max_dos: float = Field(default=1.0, gt=0)
    min_width: float = Field(default=1.0, ge=0)
    min_upper_edge: float = -1.0
    max_upper_edge: float = -0.25
    per_atom: bool = False
    band: Literal["valence", "conduction"] = "valence"

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> Self:
        if self.min_upper_edge > self.max_upper_edge:
            raise ValueError(
                f"min_upper_edge ({self.min_upper_edge:g} eV) is above "
                f"max_upper_edge ({self.max_upper_edge:g} eV): nothing can pass"
            )
        return self

    @property
    def unit(self) -> str:
        """Unit of `max_dos` and of every DOS that a verdict reports."""
        return "states/eV/atom" if self.per_atom else "states/eV/cell"


@dataclass(frozen=True, eq=False)
class Gaps:
    """Verdicts on a batch of B spectra.

    Each entry is about one range of its spectrum: the widest of those that meet the criteria,
    or else the nearest miss (see :func:`find_gaps`).

    Parameters
    ----------
    criteria : GapCriteria
        What the spectra were judged by.
    lower_edge, upper_edge : ndarray, shape (B,)
        In eV; NaN where no point of the spectrum is below the threshold.
    width : ndarray, shape (B,)
        In eV; 0 where there is no range.
    max_dos : ndarray, shape (B,)
        Largest DOS at the grid points inside the range, in `criteria.unit`; NaN without one.
    is_lower_bound : ndarray of bool, shape (B,)
        The range runs off the far end of the grid (the low one for a valence band), so that
        the true width may be larger.
    holds : ndarray of bool, shape (B, 4)
        Which criteria the range meets, in the order of `CRITERIA`.
    score : ndarray, shape (B,)
        In eV, for ranking; see :func:`find_gaps`.
    """

    criteria: GapCriteria
    lower_edge: FloatArray
    upper_edge: FloatArray
    width: FloatArray
    max_dos: FloatArray
    is_lower_bound: BoolArray
    holds: BoolArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.width)

    @property
    def is_gap(self) -> BoolArray:
        """Whether all four criteria hold, shape (B,)."""
        return np.logical_and.reduce(self.holds, axis=1)

    def row(self, i: int) -> dict[str, Any]:
        """Verdict on spectrum `i` in plain Python values, None where there is no number."""
        holds = self.holds[i].tolist()
        return {
            "lower_edge": _plain(self.lower_edge[i]),
            "upper_edge": _plain(self.upper_edge[i]),
            "width": _plain(self.width[i]),
            "max_dos": _plain(self.max_dos[i]),
            "is_lower_bound": bool(self.is_lower_bound[i]),
            "holds": dict(zip(CRITERIA, holds, strict=True)),
            "is_gap": all(holds),
        }


def find_gaps(
    energies: ArrayLike,
    dos: ArrayLike,
    criteria: GapCriteria | None = None,
    n_atoms: ArrayLike | None = None,
    bounds: tuple[float, float] | None = None,
) -> Gaps:
    """Apply the VB-gap criteria to a batch of spectra.

    A range is a maximal run of points with a DOS below the threshold. Its edges are where the
    straight line between the last point inside and the first one outside crosses the
    threshold. A range that runs off the grid ends at `bounds`, by default at the outermost
    point. The same function judges 128-bin predictions (energies: bin centres) and a DFT DOS
    of thousands of points.

    Of several ranges the widest one that meets all criteria is reported. If none does, it is
    the nearest miss: the smallest total violation, that is the width that is missing plus the
    distance of the upper edge from its allowed interval; of equal ones the widest, of equally
    wide ones the one nearest to the band edge.

    The score of a gap is its width weighted with its emptiness, the integral over the range
    of ``1 - max(DOS, 0) / max_dos``, between 0 and the width. The score of a miss is minus its
    total violation. A spectrum without any range gets what the worst possible range on the
    grid would get, so that scores sort from best to worst without exceptions.

    Parameters
    ----------
    energies : array_like, shape (K,)
        In eV, increasing, relative to the band edge (0).
    dos : array_like or torch.Tensor, shape (B, K) or (K,)
        In states/eV/cell.
    criteria : GapCriteria, optional
        The paper's by default.
    n_atoms : array_like, shape (B,), optional
        Atoms in each cell; needed with ``criteria.per_atom``.
    bounds : (float, float), optional
        Where the grid ends in eV, such as the outer bin edges of a binned spectrum.

    Returns
    -------
    Gaps

    Raises
    ------
    ScreeningError
        If a DOS is not finite (the rows are named), or the arrays do not fit together.
    """
    criteria = criteria or GapCriteria()
    grid = _checked_grid(_array(energies), bounds)
    spectra = np.atleast_2d(_array(dos))
    if spectra.ndim != 2 or spectra.shape[1] != len(grid.energies):
        raise ScreeningError(f"DOS has shape {spectra.shape}, energies {grid.energies.shape}")
    divisors = _divisors(n_atoms, criteria, len(spectra))
    if criteria.band == "conduction":
        grid, spectra = grid.mirrored(), spectra[:, ::-1]

    step = max(1, _CHUNK // spectra.shape[1])
    starts = range(0, max(len(spectra), 1), step)
    chunks = []
    for start in starts:
        part = spectra[start : start + step].astype(float)
        _refuse_not_finite(part, start)
        if divisors is not None:
            part /= divisors[start : start + step, None]
        chunks.append(_judge(grid, part, criteria))
    lower, upper, largest, runs_off, score = (np.concatenate(c) for c in zip(*chunks, strict=True))

    width = np.nan_to_num(upper - lower)
    exists = ~np.isnan(upper)
    holds = np.column_stack(
        [exists, *(limit & exists for limit in _limits(width, upper, criteria))]
    )
    if criteria.band == "conduction":
        lower, upper = -upper, -lower
    return Gaps(criteria, lower, upper, width, largest, runs_off, holds, score)


@dataclass(frozen=True)
class _Grid:
    energies: FloatArray  # (K,), increasing
    bounds: tuple[float, float]

    def mirrored(self) -> _Grid:
        return _Grid(-self.energies[::-1], (-self.bounds[1], -self.bounds[0]))


@dataclass(frozen=True)
class _Ranges:
    """R ranges of a batch: the row, the first and the last point, and the edges of each."""

    row: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    lower: FloatArray
    upper: FloatArray

    def take(self, which: NDArray[np.intp]) -> _Ranges:
        return _Ranges(
            self.row[which],
            self.first[which],
            self.last[which],
            self.lower[which],
            self.upper[which],
        )


def _judge(grid: _Grid, dos: FloatArray, criteria: GapCriteria) -> tuple[np.ndarray, ...]:
    """Edges, largest DOS, whether the range runs off the grid, and score; shape (B,) each."""
    best = _best_of_each_row(_find_ranges(grid, dos, criteria.max_dos), criteria)
    lower, upper, largest = np.full((3, len(dos)), np.nan)
    lower[best.row], upper[best.row] = best.lower, best.upper
    runs_off = np.zeros(len(dos), bool)
    runs_off[best.row] = best.first == 0

    points = np.arange(dos.shape[1])
    chosen = dos if len(best.row) == len(dos) else dos[best.row]
    inside = (points >= best.first[:, None]) & (points <= best.last[:, None])
    largest[best.row] = np.where(inside, chosen, -np.inf).max(axis=1, initial=-np.inf)

    violation = _violation(best, criteria)
    score = np.full(len(dos), -_worst_violation(grid, criteria))
    score[best.row] = np.where(
        violation > 0, -violation, _emptiness(grid, chosen, inside, best, criteria.max_dos)
    )
    return lower, upper, largest, runs_off, score


def _find_ranges(grid: _Grid, dos: FloatArray, threshold: float) -> _Ranges:
    """All maximal runs of points below the threshold, in order of row and energy."""
    energies, end = grid.energies, len(grid.energies) - 1
    below = dos < threshold
    is_first, is_last = below.copy(), below.copy()
    is_first[:, 1:] &= ~below[:, :-1]
    is_last[:, :-1] &= ~below[:, 1:]
    row, first = np.nonzero(is_first)
    last = np.nonzero(is_last)[1]

    def crossing(inner: NDArray[np.intp], outer: NDArray[np.intp]) -> FloatArray:
        gap_to_inner = threshold - dos[row, inner]
        rise = dos[row, outer] - dos[row, inner]
        part = gap_to_inner / np.where(inner == outer, 1.0, rise)
        return energies[inner] + part * (energies[outer] - energies[inner])

    lower = np.where(first == 0, grid.bounds[0], crossing(first, np.maximum(first - 1, 0)))
    upper = np.where(last == end, grid.bounds[1], crossing(last, np.minimum(last + 1, end)))
    return _Ranges(row, first, last, lower, upper)


def _best_of_each_row(ranges: _Ranges, criteria: GapCriteria) -> _Ranges:
    """One range of each row that has any: least violation, then widest, then uppermost."""
    if not len(ranges.row):
        return ranges
    violation = np.round(_violation(ranges, criteria), 9)
    least = _best_per_row(-violation, ranges.row)
    width = np.where(least, np.round(ranges.upper - ranges.lower, 9), -1.0)
    widest = np.flatnonzero(_best_per_row(width, ranges.row))
    uppermost = np.diff(ranges.row[widest], append=-1) != 0
    return ranges.take(widest[uppermost])


def _best_per_row(values: FloatArray, row: NDArray[np.intp]) -> BoolArray:
    """Which of the values are the largest of their row; `row` is sorted, shape (R,)."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    largest = np.maximum.reduceat(values, starts)
    return values == np.repeat(largest, np.diff(starts, append=len(row)))


def _violation(ranges: _Ranges, criteria: GapCriteria) -> FloatArray:
    """By how much each range fails (ii) to (iv) in all, in eV; exactly 0 for a gap."""
    upper = ranges.upper
    amounts = (
        criteria.min_width - (upper - ranges.lower),
        criteria.min_upper_edge - upper,
        upper - criteria.max_upper_edge,
    )
    return np.sum([np.where(a > TOLERANCE, a, 0.0) for a in amounts], axis=0)


def _limits(width: FloatArray, upper: FloatArray, criteria: GapCriteria) -> list[BoolArray]:
    return [
        width >= criteria.min_width - TOLERANCE,
        upper >= criteria.min_upper_edge - TOLERANCE,
        upper <= criteria.max_upper_edge + TOLERANCE,
    ]


def _worst_violation(grid: _Grid, criteria: GapCriteria) -> float:
    """The violation of a range of width 0 at the end of the grid farthest from the interval.

    More than 0 even where such a range would do: there is none below the threshold.
    """
    bottom, top = grid.bounds
    distance = max(criteria.min_upper_edge - bottom, top - criteria.max_upper_edge, 0.0)
    return max(criteria.min_width + distance, TOLERANCE)


def _emptiness(
    grid: _Grid, dos: FloatArray, inside: BoolArray, best: _Ranges, threshold: float
) -> FloatArray:
    """Integral of 1 - DOS / threshold over each range by the trapezoidal rule, shape (R,).

    At an interpolated edge the integrand is 0; beyond the last point of the grid it keeps the
    value of that point.
    """
    emptiness = np.clip(1.0 - dos / threshold, 0.0, 1.0)
    half_steps = np.diff(grid.energies) / 2
    to_left, to_right = np.append(0.0, half_steps), np.append(half_steps, 0.0)
    total = np.where(inside, emptiness, 0.0) @ (to_left + to_right)

    rows, end = np.arange(len(best.row)), len(grid.energies) - 1
    at_first, at_last = emptiness[rows, best.first], emptiness[rows, best.last]
    below = (grid.energies[best.first] - best.lower) * np.where(best.first == 0, 1.0, 0.5)
    above = (best.upper - grid.energies[best.last]) * np.where(best.last == end, 1.0, 0.5)
    total += at_first * (below - to_left[best.first])
    total += at_last * (above - to_right[best.last])
    return total


def _array(values: Any) -> np.ndarray:
    """Numpy array of an array_like or of a torch tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ScreeningError(f"a spectrum must be made of real numbers, not of {array.dtype}")
    return array


def _checked_grid(energies: np.ndarray, bounds: tuple[float, float] | None) -> _Grid:
    energies = energies.astype(float)
    if energies.ndim != 1 or len(energies) < 2 or not (np.diff(energies) > 0).all():
        raise ScreeningError("energies must be increasing, finite and at least two")
    first, last = float(energies[0]), float(energies[-1])
    bounds = bounds or (first, last)
    if not (-np.inf < bounds[0] <= first and last <= bounds[1] < np.inf):
        raise ScreeningError(f"the bounds {bounds} do not enclose energies {first:g} to {last:g}")
    return _Grid(energies, bounds)


def _divisors(n_atoms: ArrayLike | None, criteria: GapCriteria, n: int) -> FloatArray | None:
    """Number that divides each DOS, None for a threshold per cell."""
    if not criteria.per_atom:
        return None
    if n_atoms is None:
        raise ScreeningError("a threshold per atom needs the number of atoms of every cell")
    counts = np.atleast_1d(_array(n_atoms)).astype(float)
    if counts.shape != (n,) or not (counts > 0).all():
        raise ScreeningError(f"n_atoms must be {n} positive numbers, one for each spectrum")
    return counts


def _refuse_not_finite(dos: FloatArray, offset: int) -> None:
    bad = np.flatnonzero(~np.isfinite(dos).all(axis=1)) + offset
    if len(bad):
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise ScreeningError(f"the DOS is not finite (NaN or infinity) in row {rows}")


def _plain(value: np.floating) -> float | None:
    return None if np.isnan(value) else float(value)
