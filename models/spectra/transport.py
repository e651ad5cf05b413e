"""Spectra as mass on an energy axis, and how one becomes another: optimal transport in 1D.

In one dimension the best transport is known: the quantile `u` of one distribution goes to the
quantile `u` of the other one (Villani, Topics in Optimal Transportation, 2003, theorem 2.18), and
the mean distance of this way is the Wasserstein-1 distance that eDOS are compared by. The
displacement of each quantile so says where, and by how much, a predicted spectrum is wrong.
"""

from __future__ import annotations

import numpy as np

from models.spectra.spectrum import EnergyGrid, sum_normalized

QUANTILES = 64
_LEVEL = (np.arange(QUANTILES) + 0.5) / QUANTILES
_FLAT = 1e-9  # share of the mass in each bin besides, so that every quantile has one place
_BEYOND = 16  # bins of each end that its continuation beyond the grid is like


def displacements(spectra: np.ndarray, others: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """Way of each quantile from spectra to others, in the grid's unit.

    Parameters
    ----------
    spectra, others : ndarray, shape (n, K')
        Of any scale; negative values count as 0.
    grid : EnergyGrid

    Returns
    -------
    ndarray, shape (n, QUANTILES)
        The mean of its absolute values is the Wasserstein distance, as far as so many quantiles
        tell it.

    Examples
    --------
    >>> grid = EnergyGrid(start=0.0, width=1.0, size=4)
    >>> way = displacements(np.array([[1.0, 0, 0, 0]]), np.array([[0, 0, 1.0, 0]]), grid)
    >>> way.shape, np.unique(way.round(6)).tolist()
    ((1, 64), [2.0])
    """
    return _quantiles(others, grid) - _quantiles(spectra, grid)


def displaced(spectrum: np.ndarray, ways: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """A spectrum after each of some displacements of its quantiles.

    Its bins become narrower, wider or shifted, with the same states in them; what leaves the grid
    is lost, and what comes in from beyond its ends is like the `_BEYOND` bins there.

    Parameters
    ----------
    spectrum : ndarray, shape (K',)
        Not negative; the sum is more than 0.
    ways : ndarray, shape (D, QUANTILES)
        In the grid's unit.
    grid : EnergyGrid

    Returns
    -------
    ndarray, shape (D, K')

    Examples
    --------
    >>> grid = EnergyGrid(start=0.0, width=1.0, size=50)
    >>> (moved,) = displaced(np.eye(50)[20], np.full((1, 64), 3.0), grid)
    >>> np.flatnonzero(moved > 1e-9).tolist()
    [23]
    """
    spectrum = np.asarray(spectrum, float)
    margin = len(spectrum) // 2
    low, high = spectrum[:_BEYOND].mean(), spectrum[-_BEYOND:].mean()
    inside = np.concatenate([[0.0], np.cumsum(spectrum)])
    # States below each edge of the grid and of its continuation, (M,), 0 at the grid's start.
    steps = np.arange(1, margin + 1)
    below = np.concatenate([-low * steps[::-1], inside, inside[-1] + high * steps])
    edges = grid.start + grid.width * np.arange(-margin, len(spectrum) + 1 + margin)
    level = np.clip(below / inside[-1], 0.0, 1.0)
    moved = _at_levels(ways, level)
    moved += edges[:, None]
    np.maximum.accumulate(moved, axis=0, out=moved)
    grid_edges = grid.edges
    at_edges = np.array([np.interp(grid_edges, row, below) for row in moved.T.copy()])
    result: np.ndarray = at_edges[:, 1:] - at_edges[:, :-1]
    return result


def _quantiles(spectra: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """Energies below which each share `_LEVEL` of a spectrum lies, shape (n, QUANTILES)."""
    shapes = sum_normalized(np.clip(np.asarray(spectra, float), 0.0, None)) + _FLAT
    below = np.concatenate([np.zeros((len(shapes), 1)), np.cumsum(shapes, axis=1)], axis=1)
    below /= below[:, -1:]
    return np.array([np.interp(_LEVEL, row, grid.edges) for row in below]).reshape(-1, QUANTILES)


def _at_levels(ways: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Displacements (D, QUANTILES) at levels (M,) between 0 and 1, linear between them; (M, D)."""
    place = np.clip(level * QUANTILES - 0.5, 0.0, QUANTILES - 1)
    left = np.minimum(place.astype(int), QUANTILES - 2)
    share = (place - left)[:, None]
    by_level = ways.T.copy()
    result, to_right = by_level.take(left, 0), by_level.take(left + 1, 0)
    result *= 1 - share
    to_right *= share
    result += to_right
    return result
