"""Which spectra have an empty range just below the valence band edge: the criteria applied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.spectra.spectrum import EDOS_GRID, EnergyGrid, Spectrum
from screening.errors import ScreeningError
from screening.gap_criteria import GapCriteria, Limit, Ranges

__all__ = ["CRITERIA", "GapCriteria", "Gaps", "find_gaps", "has_gap"]

CRITERIA = GapCriteria.names()
EMPTY = 0.05  # states/eV/atom: below it a range counts as empty; see `find_gaps`
THRESHOLD_STEP = 0.1  # by which part of it `max_dos` is moved to see whether a verdict is robust
EDGE_STEP = EDOS_GRID.width  # eV; the same for the limits of width and upper edge
TOLERANCE = 1e-9  # eV; rounding may not decide whether a width or an edge is within its limit
_CHUNK = 1 << 17  # DOS values worked on at a time

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]


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
        In eV; NaN where no bin of the spectrum is below the threshold.
    width : ndarray, shape (B,)
        In eV; 0 where there is no range.
    max_dos : ndarray, shape (B,)
        Largest DOS of the bins inside the range, in `criteria.unit`; NaN without one.
    is_lower_bound : ndarray of bool, shape (B,)
        The range runs off the far end of the grid (the low one for a valence band), so that
        the true width may be larger.
    is_gap : ndarray of bool, shape (B,)
        All four criteria hold, and there is no second range if a single one is asked for.
    kind : ndarray of object, shape (B,)
        ``"gap"`` or ``"near-gap"``; None without a range or without the numbers of atoms.
    n_ranges : ndarray of int, shape (B,)
        Ranges that lie wholly below `criteria.max_upper_edge` and are wide enough.
    margins : ndarray, shape (B, 4)
        By how much the range keeps (positive) or misses (negative) each limit, in the order of
        `criteria.names()`: in `criteria.unit`, then three times in eV. Without a range the first
        is that of the lowest DOS anywhere on the grid, and the others are NaN.
    robust : ndarray of bool, shape (B,)
        `is_gap` survives small changes of the limits.
    score : ndarray, shape (B,)
        In eV, for ranking; see :func:`find_gaps`.
    """

    criteria: GapCriteria
    lower_edge: FloatArray
    upper_edge: FloatArray
    width: FloatArray
    max_dos: FloatArray
    is_lower_bound: BoolArray
    is_gap: BoolArray
    kind: NDArray[np.object_]
    n_ranges: IntArray
    margins: FloatArray
    robust: BoolArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.width)

    @property
    def holds(self) -> BoolArray:
        """Which criteria the range meets, in the order of `criteria.names()`, shape (B, 4)."""
        exists = ~np.isnan(self.upper_edge)
        return (self.margins >= -TOLERANCE) & exists[:, None]

    def row(self, i: int) -> dict[str, Any]:
        """Verdict on spectrum `i` in plain Python values, None where there is no number."""
        margins = dict(zip(self.criteria.names(), map(_plain, self.margins[i]), strict=True))
        exists = margins["min_width"] is not None
        holds = {name: exists and (m or 0.0) >= -TOLERANCE for name, m in margins.items()}
        if self.criteria.single_gap:
            holds["single_gap"] = bool(self.n_ranges[i] == 1)
        return {
            "lower_edge": _plain(self.lower_edge[i]),
            "upper_edge": _plain(self.upper_edge[i]),
            "width": _plain(self.width[i]),
            "max_dos": _plain(self.max_dos[i]),
            "is_lower_bound": bool(self.is_lower_bound[i]),
            "holds": holds,
            "is_gap": bool(self.is_gap[i]),
            "kind": self.kind[i],
            "n_ranges": int(self.n_ranges[i]),
            "margins": margins,
            "robust": bool(self.robust[i]),
        }


@overload
def find_gaps(energies: Spectrum, *, criteria: GapCriteria | None = None) -> Gaps: ...


@overload
def find_gaps(
    energies: EnergyGrid | ArrayLike,
    dos: ArrayLike,
    criteria: GapCriteria | None = None,
    n_atoms: ArrayLike | None = None,
) -> Gaps: ...


def find_gaps(
    energies: Spectrum | EnergyGrid | ArrayLike,
    dos: ArrayLike | None = None,
    criteria: GapCriteria | None = None,
    n_atoms: ArrayLike | None = None,
) -> Gaps:
    """Apply the VB-gap criteria to a spectrum or a batch of spectra.

    A spectrum is a histogram: each value stands for its bin, and a range is a maximal run of
    bins with a DOS below the threshold. Its edges are bin edges. Points of a finely sampled DOS
    are judged in the same way: each stands for the interval that is nearer to it than to its
    neighbours, the first and the last one for an interval with the point in its middle.

    Bin edges are not refined, since nothing tried was less biased. Of 1,174 walls in labels of
    20 meV, put on 62.5 meV bins at random positions, bin edges moved the walls by -2.8 meV on
    average (negative: the range got narrower), with a standard deviation of 22 meV, little more
    than that of a uniform error of one bin. Interpolation between bin centres gave -4.6 (15) meV
    and -20 meV where the DOS rises to 8 to 16 times the threshold within two bins (bin edges:
    -3 meV); the position that keeps the electrons of the wall's bin gave +8 (23) meV. A vertical
    wall is the worst case: its range ends at the last bin edge before it, up to a bin too early.

    Of several ranges the widest one that meets all criteria is reported. If none does, it is
    the nearest miss: the smallest total violation, that is the width that is missing plus the
    distance of the upper edge from its allowed interval; of equal ones the widest, of equally
    wide ones the one nearest to the band edge.

    The score of a gap is its width weighted with its emptiness, the integral over the range
    of ``1 - max(DOS, 0) / max_dos``, between 0 and the width. The score of a miss is minus its
    total violation; for a gap that is not the single one asked for, by how much the other
    ranges are too wide. A spectrum without any range gets what the worst possible range on the
    grid would get, so that scores sort from best to worst without exceptions.

    A range is a ``"gap"`` if the DOS stays below `EMPTY`, 0.05 states/eV/atom, over a stretch of
    it as wide as `criteria.min_width`, and else a ``"near-gap"``: low, but not empty, or empty
    but not wide enough. The largest DOS of the whole range does not tell them apart: a
    continuous DOS comes near the threshold at both ends of a range, whatever lies between (the
    median of 79 labels with a VB gap is 0.93 states/eV). The value matters little: of the 79
    there are 31 gaps by 0.01 states/eV/atom, 37 by 0.05 and 42 by 0.1.

    A verdict is robust if it stays the same in all nine combinations of `criteria.max_dos` times
    0.9, 1 or 1.1 (`THRESHOLD_STEP`) with the limits of the width and of the upper edge all
    tightened, kept or loosened by 62.5 meV (`EDGE_STEP`: one bin of the eDOS grid, whatever the
    resolution of this spectrum). Negatives can fail this as positives can.

    Parameters
    ----------
    energies : Spectrum, EnergyGrid or array_like, shape (K + 1,) or (K,)
        A spectrum with its grid and its number of atoms, and nothing else is needed. Or a grid,
        or K + 1 bin edges, or K points; in eV, increasing, relative to the band edge (0). The
        centres of equal bins are the same as their edges.
    dos : array_like or torch.Tensor, shape (B, K) or (K,)
        In states/eV/cell; not with a `Spectrum`.
    criteria : GapCriteria, optional
        The paper's by default.
    n_atoms : array_like, shape (B,), optional
        Atoms in each cell; needed for `Gaps.kind`, and with ``criteria.per_atom``.

    Returns
    -------
    Gaps

    Raises
    ------
    ScreeningError
        If a DOS is not finite (the rows are named), or the arrays do not fit together.

    Examples
    --------
    >>> find_gaps([-2.0, -1.5, -0.5, 0.0], [[5.0, 0.1, 5.0]]).row(0)["width"]
    1.0
    """
    if isinstance(energies, Spectrum):
        if dos is not None:
            raise ScreeningError("a spectrum has its own DOS: give a spectrum, or energies and DOS")
        n_atoms = energies.n_atoms if n_atoms is None else n_atoms
        dos = energies.values
        energies = energies.grid
    elif dos is None:
        raise ScreeningError("energies alone are no spectrum: the DOS is missing")
    criteria = criteria or GapCriteria()
    edges, spectra, atoms = _prepared(energies, dos, criteria, n_atoms)
    chunks = []
    for part, counts in _parts(spectra, atoms, criteria):
        empty = np.full((len(part), 1), np.nan)  # nothing is below it
        if counts is not None:
            empty = np.full_like(counts, EMPTY) if criteria.per_atom else EMPTY * counts
        chunks.append(_judge(edges, part, criteria, empty))
    together = (np.concatenate(column) for column in zip(*chunks, strict=True))
    lower, upper, largest, runs_off, is_gap, has_core, n_ranges, margins, robust, score = together

    kind = np.where(has_core, "gap", "near-gap").astype(object)
    kind[np.isnan(upper)] = None
    if atoms is None:
        kind[:] = None
    width = np.nan_to_num(upper - lower)
    if criteria.band == "conduction":
        lower, upper = -upper, -lower
    return Gaps(
        criteria,
        lower,
        upper,
        width,
        largest,
        runs_off,
        is_gap,
        kind,
        n_ranges,
        margins,
        robust,
        score,
    )


def has_gap(
    energies: EnergyGrid | ArrayLike,
    dos: ArrayLike,
    criteria: GapCriteria | None = None,
    n_atoms: ArrayLike | None = None,
) -> BoolArray:
    """`Gaps.is_gap` of :func:`find_gaps` alone, in a tenth of the time.

    Parameters
    ----------
    energies, dos, criteria, n_atoms
        As for :func:`find_gaps`.

    Returns
    -------
    ndarray of bool, shape (B,)

    Raises
    ------
    ScreeningError
        As :func:`find_gaps`.

    Examples
    --------
    >>> has_gap([-2.0, -1.5, -0.5, 0.0], [[5.0, 0.1, 5.0], [5.0, 2.0, 5.0]]).tolist()
    [True, False]
    """
    criteria = criteria or GapCriteria()
    edges, spectra, atoms = _prepared(energies, dos, criteria, n_atoms)
    limits, verdicts = _Limits.of(criteria), [np.zeros(0, bool)]
    for part, _ in _parts(spectra, atoms, criteria):
        ranges = _find_ranges(edges, part, criteria.max_dos)
        verdicts.append(limits.verdicts(ranges, len(part)))
    return np.concatenate(verdicts)


def _prepared(
    energies: EnergyGrid | ArrayLike,
    dos: ArrayLike,
    criteria: GapCriteria,
    n_atoms: ArrayLike | None,
) -> tuple[FloatArray, np.ndarray, FloatArray | None]:
    """Edges (K + 1,), spectra (B, K) and atoms (B,), mirrored for a conduction band."""
    spectra = np.atleast_2d(_array(dos))
    if spectra.ndim != 2:
        raise ScreeningError(f"DOS has shape {spectra.shape}: one or two dimensions are needed")
    edges = _bin_edges(energies, spectra.shape[1])
    atoms = _checked_counts(n_atoms, criteria, len(spectra))
    if criteria.band == "conduction":
        edges, spectra = -edges[::-1], spectra[:, ::-1]
    return edges, spectra, atoms


def _parts(
    spectra: np.ndarray, atoms: FloatArray | None, criteria: GapCriteria
) -> Iterator[tuple[FloatArray, FloatArray | None]]:
    """Some spectra at a time, in the unit of the criteria, and their atoms (b, 1)."""
    step = max(1, _CHUNK // spectra.shape[1])
    for start in range(0, max(len(spectra), 1), step):
        part = spectra[start : start + step].astype(float)
        _refuse_not_finite(part, start)
        counts = None if atoms is None else atoms[start : start + step, None]
        if criteria.per_atom:
            part /= counts
        yield part, counts


@dataclass(frozen=True)
class _Limits:
    """The limits (ii) to (iv), each with its value in eV."""

    limits: tuple[tuple[Limit, float], ...]
    min_width: float
    single: bool

    @classmethod
    def of(cls, criteria: GapCriteria) -> Self:
        return cls(criteria.limits(), criteria.min_width, criteria.single_gap)

    def tightened(self, by: float) -> _Limits:
        moved = ((limit, value + limit.sign * by) for limit, value in self.limits)
        return _Limits(tuple(moved), self.min_width + by, self.single)

    def margins(self, ranges: Ranges) -> list[FloatArray]:
        """How far each range is within each limit, in eV, shape (R,) each."""
        return [limit.margin(ranges, value) for limit, value in self.limits]

    def counted(self, ranges: Ranges) -> BoolArray:
        """Which ranges count as one of their row's, however deep, shape (R,)."""
        margins = [
            limit.margin(ranges, value) for limit, value in self.limits if limit.of_any_depth
        ]
        counted: BoolArray = np.min(margins, axis=0) >= -TOLERANCE
        return counted

    def count(self, ranges: Ranges, n: int) -> IntArray:
        """Ranges of each of the n rows that are wide enough and below the band edge."""
        return np.bincount(ranges.row[self.counted(ranges)], minlength=n)

    def verdicts(self, ranges: Ranges, n: int) -> BoolArray:
        """Which of the n rows have a range that meets all limits."""
        passes = np.zeros(n, bool)
        passes[ranges.row[np.min(self.margins(ranges), axis=0) >= -TOLERANCE]] = True
        return passes & (self.count(ranges, n) == 1) if self.single else passes


def _judge(
    edges: FloatArray, dos: FloatArray, criteria: GapCriteria, empty: FloatArray
) -> tuple[np.ndarray, ...]:
    """The fields of `Gaps` that are found spectrum by spectrum, shape (B,) or (B, 4) each."""
    n, limits = len(dos), _Limits.of(criteria)
    ranges = _find_ranges(edges, dos, criteria.max_dos)
    n_ranges, is_gap = limits.count(ranges, n), limits.verdicts(ranges, n)
    best = _best_of_each_row(ranges, limits)
    row = best.row
    lower, upper, largest = np.full((3, n), np.nan)
    lower[row], upper[row] = best.lower, best.upper
    runs_off = np.zeros(n, bool)
    runs_off[row] = best.first == 0

    bins = np.arange(dos.shape[1])
    with_range = dos if len(row) == n else dos[row]
    inside = (bins >= best.first[:, None]) & (bins <= best.last[:, None])
    largest[row] = np.where(inside, with_range, -np.inf).max(axis=1, initial=-np.inf)
    margins = np.full((n, 1 + len(limits.limits)), np.nan)
    margins[:, 0] = criteria.max_dos - np.where(np.isnan(largest), dos.min(axis=1), largest)
    margins[row, 1:] = np.column_stack(limits.margins(best))

    violation = _violation(best, limits)
    if criteria.single_gap:
        violation += _surplus(ranges, best, limits, n)[row]
    emptiness = np.where(inside, np.clip(1.0 - with_range / criteria.max_dos, 0.0, 1.0), 0.0)
    score = np.full(n, -_worst_violation(edges, criteria))
    score[row] = np.where(violation > 0, -violation, emptiness @ np.diff(edges))

    has_core = np.zeros(n, bool)
    wide = best.width - criteria.min_width >= -TOLERANCE
    cores = np.where(inside[wide], with_range[wide], np.inf)
    has_core[row[wide]] = _has_wide_range(edges, cores, empty[row[wide]], criteria.min_width)

    robust = _is_robust(edges, dos, criteria, is_gap)
    return lower, upper, largest, runs_off, is_gap, has_core, n_ranges, margins, robust, score


def _find_ranges(edges: FloatArray, dos: FloatArray, threshold: float | FloatArray) -> Ranges:
    """All maximal runs of bins below the threshold, in order of row and energy."""
    below = dos < threshold
    starts, ends = below.copy(), below.copy()
    starts[:, 1:] &= ~below[:, :-1]
    ends[:, :-1] &= ~below[:, 1:]
    size = dos.shape[1]  # indices of the flat array: a nonzero of two dimensions is far slower
    row, first = np.divmod(np.flatnonzero(starts), size)
    last = np.flatnonzero(ends) - row * size
    return Ranges(row, first, last, edges[first], edges[last + 1])


def _has_wide_range(
    edges: FloatArray, dos: FloatArray, threshold: float | FloatArray, width: float
) -> BoolArray:
    """Which of the rows are below the threshold over such a width."""
    ranges = _find_ranges(edges, dos, threshold)
    wide = np.zeros(len(dos), bool)
    wide[ranges.row[ranges.width >= width - TOLERANCE]] = True
    return wide


def _is_robust(
    edges: FloatArray, dos: FloatArray, criteria: GapCriteria, is_gap: BoolArray
) -> BoolArray:
    """Whether the verdicts stay the same when the limits move; see `find_gaps`."""
    robust = np.ones(len(dos), bool)
    # A row without a range that is wide enough for the loosest limits is a negative by all.
    loosest = criteria.max_dos * (1 + THRESHOLD_STEP), criteria.min_width - EDGE_STEP
    open_rows = np.flatnonzero(_has_wide_range(edges, dos, *loosest))
    for passes in _moved_verdicts(edges, dos[open_rows], criteria):
        robust[open_rows] &= passes == is_gap[open_rows]
    return robust


def _moved_verdicts(
    edges: FloatArray, dos: FloatArray, criteria: GapCriteria
) -> Iterator[BoolArray]:
    """Verdicts by all combinations of moved limits."""
    limits = _Limits.of(criteria)
    for factor in (1 - THRESHOLD_STEP, 1.0, 1 + THRESHOLD_STEP):
        ranges = _find_ranges(edges, dos, criteria.max_dos * factor)
        wide = ranges.width >= criteria.min_width - EDGE_STEP - TOLERANCE
        ranges = ranges.take(wide)  # the others are too narrow for all limits
        for step in (-EDGE_STEP, 0.0, EDGE_STEP):
            yield limits.tightened(step).verdicts(ranges, len(dos))


def _best_of_each_row(ranges: Ranges, limits: _Limits) -> Ranges:
    """One range of each row that has any: least violation, then widest, then uppermost."""
    if not len(ranges.row):
        return ranges
    violation = np.round(_violation(ranges, limits), 9)
    least = _best_per_row(-violation, ranges.row)
    width = np.where(least, np.round(ranges.width, 9), -1.0)
    widest = np.flatnonzero(_best_per_row(width, ranges.row))
    uppermost = np.diff(ranges.row[widest], append=-1) != 0
    return ranges.take(widest[uppermost])


def _best_per_row(values: FloatArray, row: IntArray) -> BoolArray:
    """Which of the values are the largest of their row; `row` is sorted, shape (R,)."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    largest = np.maximum.reduceat(values, starts)
    return values == np.repeat(largest, np.diff(starts, append=len(row)))


def _violation(ranges: Ranges, limits: _Limits) -> FloatArray:
    """By how much each range fails (ii) to (iv) in all, in eV; exactly 0 for a gap."""
    missing = (np.where(m < -TOLERANCE, -m, 0.0) for m in limits.margins(ranges))
    total: FloatArray = sum(missing, np.zeros(len(ranges.row)))
    return total


def _surplus(ranges: Ranges, best: Ranges, limits: _Limits, n: int) -> FloatArray:
    """By how much the other ranges of each row are too wide to be none, in eV, shape (n,)."""
    reported = np.full(n, -1)
    reported[best.row] = best.first
    others = limits.counted(ranges) & (ranges.first != reported[ranges.row])
    excess = np.maximum((ranges.width - limits.min_width)[others], TOLERANCE)
    surplus: FloatArray = np.bincount(ranges.row[others], excess, minlength=n).astype(float)
    return surplus


def _worst_violation(edges: FloatArray, criteria: GapCriteria) -> float:
    """The violation of a range of width 0 at the end of the grid farthest from the interval.

    More than 0 even where such a range would do: there is none below the threshold.
    """
    bottom, top = float(edges[0]), float(edges[-1])
    distance = max(criteria.min_upper_edge - bottom, top - criteria.max_upper_edge, 0.0)
    return max(criteria.min_width + distance, TOLERANCE)


def _array(values: Any) -> np.ndarray:
    """Numpy array of an array_like or of a torch tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ScreeningError(f"a spectrum must be made of real numbers, not of {array.dtype}")
    return array


def _bin_edges(energies: EnergyGrid | ArrayLike, size: int) -> FloatArray:
    """Edges of the bins of spectra with so many values, shape (size + 1,)."""
    if isinstance(energies, EnergyGrid):
        if energies.unit != "eV":
            raise ScreeningError(f"a VB gap needs energies in eV, the grid is in {energies.unit}")
        energies = energies.edges
    values = _array(energies).astype(float)
    if values.ndim != 1 or len(values) < 2 or not (np.diff(values) > 0).all():
        raise ScreeningError("energies must be increasing, finite and at least two")
    if not np.isfinite(values).all():
        raise ScreeningError("energies must be increasing, finite and at least two")
    if len(values) == size + 1:
        return values
    if len(values) != size:
        raise ScreeningError(
            f"spectra of {size} values need {size + 1} bin edges or {size} points, "
            f"not {len(values)} energies"
        )
    middles = (values[:-1] + values[1:]) / 2
    ends = 2 * values[[0, -1]] - middles[[0, -1]]
    return np.concatenate([ends[:1], middles, ends[1:]])


def _checked_counts(n_atoms: ArrayLike | None, criteria: GapCriteria, n: int) -> FloatArray | None:
    """Atoms in each cell, shape (n,); None if they are not known and not needed."""
    if n_atoms is None:
        if criteria.per_atom:
            raise ScreeningError("a threshold per atom needs the number of atoms of every cell")
        return None
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
    number = float(value)
    return None if math.isnan(number) else number
