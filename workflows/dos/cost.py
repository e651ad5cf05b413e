"""How long calculations will take, roughly, before they are started."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

SMALL_CELL = 10  # atoms
SMALL_EXPONENT, LARGE_EXPONENT = 0.8, 2.0
FIRST_ATOM = 80.0  # s, of a cell of one atom
ENOUGH = 3  # calculations of the same recipe that tell more than the model does


@dataclass(frozen=True)
class CostEstimate:
    """Estimated time of some calculations.

    Parameters
    ----------
    seconds : tuple of float
        Of each, on one core.
    basis : str
        What the estimate rests on, in words.
    """

    seconds: tuple[float, ...]
    basis: str

    def hours(self, workers: int = 1) -> float:
        """Wall time of all with so many at a time, in h."""
        return sum(self.seconds) / 3600 / workers


def estimate_cost(
    sizes: Sequence[int], known: Iterable[tuple[int, float]], first_atom: float = FIRST_ATOM
) -> CostEstimate:
    """Estimate from calculations of the same recipe, or from a model.

    Up to ten atoms a cell times grow with the number of atoms to the power 0.8: a least-squares
    fit to 312 PBE calculations of cells of 1 to 10 atoms with GPAW, which single times miss by a
    factor of 2 (the number of electrons or the volume instead of the atoms: no better). Beyond,
    the square is assumed: cubic in the atoms for a wave vector, of which larger cells need fewer.
    Without known times a cell of one atom takes `first_atom`: 80 s is about what a quarter of those
    in ``tests/benchmarks/results`` keep, which were measured on a busy machine.

    Parameters
    ----------
    sizes : sequence of int
        Atoms in each cell.
    known : iterable of (int, float)
        Atoms and wall time in s of finished calculations with the same recipe.
    first_atom : float
        Time of a cell of one atom in s; see
        :attr:`workflows.dos.base.DosMaker.first_atom_time`.

    Examples
    --------
    >>> estimate_cost([1, 1], []).seconds
    (80.0, 80.0)
    >>> estimate_cost([2], [(2, 30.0), (2, 40.0), (2, 90.0)]).seconds
    (40.0,)
    """
    scales = [seconds / _growth(n_atoms) for n_atoms, seconds in known if n_atoms and seconds > 0]
    if len(scales) >= ENOUGH:
        scale = median(scales)
        basis = f"rough: from the atoms, and {len(scales)} calculations with this recipe"
    else:
        scale = first_atom
        basis = "rough, easily wrong by 3: from the atoms, no times with this recipe are known"
    return CostEstimate(tuple(round(scale * _growth(n), 6) for n in sizes), basis)


def _growth(n_atoms: int) -> float:
    """Time of a cell in those of a cell of one atom."""
    small = min(n_atoms, SMALL_CELL) ** SMALL_EXPONENT
    return float(small * max(1.0, n_atoms / SMALL_CELL) ** LARGE_EXPONENT)
