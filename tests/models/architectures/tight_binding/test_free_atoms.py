"""Levels and electrons of free atoms."""

from __future__ import annotations

import pytest

from models.architectures.tight_binding.free_atoms import free_atoms
from models.crystal import ATOMIC_NUMBERS


def test_the_atoms_of_the_table_are_as_gpaw_counts_them() -> None:
    """Up to closed shells, as it must be for the band edges to be those of the labels."""
    setups = pytest.importorskip("gpaw.setup_data")
    atoms = free_atoms()
    for symbol in ("H", "O", "Na", "Al", "Ti", "Zn", "Ga", "Pd", "In", "La", "Lu", "W", "Pt", "Bi"):
        valence = setups.SetupData(symbol, "PBE", "paw").Nv
        closed = valence - atoms.electrons[ATOMIC_NUMBERS[symbol]]
        assert closed in (0, 6, 8, 10), symbol


def test_elements_that_have_levels() -> None:
    assert free_atoms().levels[1, 0] == pytest.approx(-6.49, abs=0.01)
    assert not free_atoms().known[[0, 58, 63, 70, 92]].any()
