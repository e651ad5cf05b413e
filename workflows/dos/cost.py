"""How long calculations will take, roughly, before they are started.

Times follow the bands, half the electrons and about three empty bands for each atom, to the power
0.86. That is a fit to 708 PBE calculations with GPAW of cells of 1 to 10 atoms (most have at most
5), which single ones miss by a factor of 1.41 (median; cross-validated). The atoms alone miss them
by 1.46, the electrons alone by 1.48, electrons and volume by 1.46, the volume alone by 1.54. Beside
the bands, volume and k-points make no difference, and the order of the point group hardly one:
``tests/benchmarks/results/dft_times.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pymatgen.core import Composition

from models.elements import STAND_INS

# Electrons that GPAW's PBE data sets have in the valence, semicore included.
_ELECTRONS = (
    "H1 He2 Li1 Be2 B3 C4 N5 O6 F7 Ne8 Na7 Mg10 Al3 Si4 P5 S6 Cl7 Ar8 K9 Ca10 Sc11 Ti12 V13 Cr6 "
    "Mn15 Fe8 Co9 Ni16 Cu11 Zn12 Ga3 Ge4 As5 Se6 Br7 Kr8 Rb9 Sr10 Y11 Zr12 Nb13 Mo14 Ru16 Rh15 "
    "Pd16 Ag17 Cd12 In13 Sn14 Sb15 Te6 I7 Xe8 Cs9 Ba10 La11 Ce12 Pr13 Nd14 Pm15 Sm16 Eu17 Gd18 "
    "Tb19 Dy20 Ho21 Er22 Tm23 Yb24 Lu25 Hf12 Ta13 W14 Re13 Os14 Ir15 Pt16 Au11 Hg18 Tl13 Pb14 "
    "Bi15 Rn8"
)
ELECTRONS = {symbol: int(n) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d+)", _ELECTRONS)}
TYPICAL = 10  # electrons of an atom of which nothing is known
EMPTY_BANDS = 3  # of each atom, which reach 4 eV above the Fermi level

SMALL_CELL = 45.0  # bands; the largest cells of the fit have as many
EXPONENT = 0.86
LARGE_EXPONENT = 2.0  # assumed: cubic for a wave vector, of which larger cells need fewer
SCATTER = 0.55  # deviation of the logarithm of a time from that of its estimate
FIRST_ATOM = 80.0  # s, of a cell of one atom with eight bands
FIRST_BANDS = 8.0
# Deviations of what is assumed without times: of the logarithm of FIRST_ATOM, and of EXPONENT.
_UNSURE = (math.log(3.0), 0.15)
_TAIL = 4.0  # degrees of freedom of Student's t, by which a time that is far off counts less


@dataclass(frozen=True)
class Cell:
    """What is known of a cell before it is calculated.

    Parameters
    ----------
    formula : str
        Reduced or not; empty where it is not known.
    n_atoms : int

    Examples
    --------
    >>> Cell("NaCl", 2).bands
    13.0
    """

    formula: str
    n_atoms: int

    @property
    def bands(self) -> float:
        """Bands that are calculated: half the electrons, and the empty ones.

        Trivalent lanthanides count as their stand-ins, as they are calculated by default.
        """
        return self.n_atoms * (_electrons_of_an_atom(self.formula) / 2 + EMPTY_BANDS)


@lru_cache(maxsize=4096)
def _electrons_of_an_atom(formula: str) -> float:
    """Mean over the atoms."""
    if not formula:
        return TYPICAL
    composition = Composition(formula)
    amounts = composition.get_el_amt_dict()
    electrons = sum(n * ELECTRONS.get(STAND_INS.get(e, e), TYPICAL) for e, n in amounts.items())
    return electrons / float(composition.num_atoms)


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
    cells: Sequence[Cell], known: Iterable[tuple[Cell, float]], first_atom: float = FIRST_ATOM
) -> CostEstimate:
    """Estimate from the bands, and from calculations of the same recipe as far as there are some.

    The logarithm of the time is a straight line in that of the bands. Its height and slope are
    those that are assumed without times, drawn to the times the more of them there are: the largest
    posterior for Student's t about the line, since single times on a busy machine are far off.
    Estimates are means, so that they may be added up: above the median by exp(`SCATTER` ^2 / 2).
    Without times it takes `first_atom`: 80 s is about what a quarter of the times in
    ``tests/benchmarks/results`` keep, which were measured on a busy machine.

    Parameters
    ----------
    cells : sequence of Cell
    known : iterable of (Cell, float)
        Finished calculations with the same recipe, and their wall time in s.
    first_atom : float
        Time of a cell of one atom in s; see
        :attr:`workflows.dos.base.DosMaker.first_atom_time`.

    Examples
    --------
    >>> estimate_cost([Cell("Al", 1)], []).hours() * 3600
    48.774785
    """
    timed = [(cell, seconds) for cell, seconds in known if cell.n_atoms and seconds > 0]
    line = np.array([math.log(first_atom) - SCATTER**2 / 2, EXPONENT])
    if timed:
        line = _drawn_to([cell for cell, _ in timed], [s for _, s in timed], line)
        n = len(timed)
        basis = f"rough: from electrons and atoms, and {n} calculations with this recipe"
    else:
        basis = "rough, easily wrong by 3: no times with this recipe are known"
    small, large = _growth(cells)
    seconds = np.exp(small @ line + large + SCATTER**2 / 2)
    return CostEstimate(tuple(seconds.round(6).tolist()), basis)


def _growth(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """Terms of the line, (n, 2), and what is added to the logarithm in large cells, (n,)."""
    bands = np.array([max(cell.bands, 1.0) for cell in cells])
    small = np.log(np.minimum(bands, SMALL_CELL) / FIRST_BANDS)
    large = LARGE_EXPONENT * np.log(np.maximum(bands / SMALL_CELL, 1.0))
    return np.column_stack([np.ones(len(bands)), small]), large


def _drawn_to(cells: Sequence[Cell], seconds: Sequence[float], line: np.ndarray) -> np.ndarray:
    """The assumed line, (2,), after these times."""
    terms, large = _growth(cells)
    logs = np.log(seconds) - large
    assumed, sureness = line, np.diag(1 / np.square(_UNSURE))
    weight = np.ones(len(logs))
    line = np.array([np.median(logs - terms[:, 1] * EXPONENT), EXPONENT])
    for _ in range(20):  # iteratively reweighted least squares
        weight = (_TAIL + 1) / (_TAIL + ((logs - terms @ line) / SCATTER) ** 2)
        weighted = terms.T * (weight / SCATTER**2)
        line = np.linalg.solve(weighted @ terms + sureness, weighted @ logs + sureness @ assumed)
    return line
