"""Band edges of a crystal and its DOS by atom and shell, which follow from a Hamiltonian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.spectra.spectrum import EnergyGrid, IntegratedDos

SHELLS = ("s", "p", "d", "f")
SMALLEST_GAP = 0.05  # eV; less is a metal, as a mesh of wave vectors may miss what closes it


@dataclass(frozen=True, eq=False)
class ElectronicStructure:
    """Band edges of a crystal, and its DOS by atom and shell.

    Parameters
    ----------
    grid : EnergyGrid
        Relative to the band edges, between which there is nothing.
    symbols : tuple of str
        Element of each of the n atoms.
    projected_dos : ndarray, shape (n, 4, K')
        States/eV/cell on each atom in its s, p, d and f orbitals; the sum is the spectrum.
    projected_states : ndarray, shape (n, 4, K')
        States per cell in each bin, counted by levels without the broadening of the spectrum, which
        mixes the two sides of a gap.
    fermi_level : float
        In eV; the middle of the gap in an insulator. Its zero is about the vacuum level of the free
        atoms, and differs between crystals.
    valence_band_maximum, conduction_band_minimum : float
        In eV on the same scale; both the Fermi level in a metal.

    Examples
    --------
    >>> grid = EnergyGrid(start=-2.0, width=1.0, size=4)
    >>> dos = np.zeros((2, 4, 4))
    >>> dos[0, 0, 2:], dos[1, 1, 1] = 1.0, 6.0  # states/eV/cell: Na s and Cl p
    >>> salt = ElectronicStructure(grid, ("Na", "Cl"), dos, dos * grid.width, -1.0, -3.0, 1.0)
    >>> salt.band_gap, salt.is_metal
    (4.0, False)
    >>> salt.states(-0.5, 2.0)
    {('Na', 's'): 2.0, ('Cl', 'p'): 3.0}
    """

    grid: EnergyGrid
    symbols: tuple[str, ...]
    projected_dos: np.ndarray
    projected_states: np.ndarray
    fermi_level: float
    valence_band_maximum: float
    conduction_band_minimum: float

    @property
    def band_gap(self) -> float:
        """In eV; 0 in a metal."""
        return self.conduction_band_minimum - self.valence_band_maximum

    @property
    def is_metal(self) -> bool:
        """Whether the gap is less than `SMALLEST_GAP`."""
        return self.band_gap < SMALLEST_GAP

    @property
    def dos(self) -> np.ndarray:
        """States/eV/cell, shape (K',)."""
        total: np.ndarray = self.projected_dos.sum((0, 1))
        return total

    def by_element(self) -> dict[tuple[str, str], np.ndarray]:
        """States/eV/cell, shape (K',), of each element and shell, in the order of the atoms.

        Shells without a state on the grid are left out.
        """
        return self._added(self.projected_dos)

    def states(self, low: float, high: float) -> dict[tuple[str, str], float]:
        """States per cell of each element and shell that have their levels in a range of energies.

        Parameters
        ----------
        low, high : float
            In eV relative to the band edges, within the grid.
        """
        ends, width = np.array([low, high]), self.grid.width
        return {
            part: float(np.diff(IntegratedDos(self.grid.edges, counts / width)(ends))[0])
            for part, counts in self._added(self.projected_states).items()
        }

    def _added(self, of_atoms: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        """Sums (K',) over the atoms of an element, by element and shell, without empty shells."""
        symbols = np.array(self.symbols)
        sums = {
            (element, shell): of_atoms[symbols == element, column].sum(0)
            for element in dict.fromkeys(self.symbols)
            for column, shell in enumerate(SHELLS)
        }
        return {part: values for part, values in sums.items() if values.any()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: each number with its unit, and what the axes of the array are."""
        return {
            "band_gap": self.band_gap,
            "is_metal": self.is_metal,
            "fermi_level": self.fermi_level,
            "valence_band_maximum": self.valence_band_maximum,
            "conduction_band_minimum": self.conduction_band_minimum,
            "energy_zero": "about the vacuum level of the free atoms; differs between crystals",
            "projected_dos": np.round(self.projected_dos.astype(float), 6).tolist(),
            "axes": {
                "atom": list(self.symbols),
                "shell": list(SHELLS),
                "energy": "centers of the bins of `grid`",
            },
            "grid": self.grid.model_dump(),
            "units": {"energies": "eV", "projected_dos": "states/eV/cell"},
        }
