"""Fewer nodes and edges for the same spectrum: atoms that a model cannot tell apart become one."""

from __future__ import annotations

import numpy as np

SAME_DISTANCE = 1e-4  # Å; structures in databases keep their symmetry to a hundredth of this
_PRIMES = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))


def equivalent_atoms(
    atomic_numbers: np.ndarray, center: np.ndarray, neighbor: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Class of each atom, shape (n,), such that no model of distances can tell its members apart.

    Two atoms are in one class if they are of the same element and have equally many neighbours
    of each class at each distance: the colours of the Weisfeiler-Leman test at rest. Atoms that
    a symmetry of the crystal maps onto each other always are.

    Parameters
    ----------
    atomic_numbers : ndarray, shape (n,)
    center, neighbor : ndarray, shape (e,)
        Atoms of each edge, sorted by `center`; every atom has an edge.
    distance : ndarray, shape (e,)
        In Å.
    """
    _, color = np.unique(atomic_numbers, return_inverse=True)
    first_edge = np.flatnonzero(np.diff(center, prepend=-1))
    steps = distance_steps(distance).astype(np.uint64) * _PRIMES[0]
    while True:
        # A sum does not depend on the order of the neighbours; wrapping around is wanted.
        around = np.add.reduceat(_mixed(steps + color[neighbor].astype(np.uint64)), first_edge)
        around ^= _mixed(color.astype(np.uint64) + np.uint64(1))
        _, finer = np.unique(around, return_inverse=True)
        if finer.max() == color.max():
            return color
        color = finer


def distance_steps(distance: np.ndarray) -> np.ndarray:
    """Distances in whole steps of `SAME_DISTANCE`."""
    return np.rint(distance / SAME_DISTANCE).astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Well-spread 64-bit hashes (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * _PRIMES[1]
    values = (values ^ (values >> np.uint64(27))) * _PRIMES[2]
    return values ^ (values >> np.uint64(31))
