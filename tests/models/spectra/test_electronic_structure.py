"""Projections of a DOS: sums over atoms, shells and energies that can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.spectra.electronic_structure import SHELLS, ElectronicStructure
from models.spectra.spectrum import EDOS_GRID


def rutile(gap: float = 1.8) -> ElectronicStructure:
    """O p below and Ti d above the edges; the second O has twice what the first has."""
    dos = np.zeros((3, 4, EDOS_GRID.size), np.float32)
    dos[0, 2, 64:] = 2.0  # states/eV over 4 eV
    dos[1, 1, :64], dos[2, 1, :64] = 1.0, 2.0
    states = dos * EDOS_GRID.width
    return ElectronicStructure(EDOS_GRID, ("Ti", "O", "O"), dos, states, gap / 2 - 7, -7.0, gap - 7)


def test_atoms_of_an_element_are_added_and_empty_shells_left_out() -> None:
    found = rutile().by_element()
    assert list(found) == [("Ti", "d"), ("O", "p")]
    np.testing.assert_array_equal(found["O", "p"], np.where(EDOS_GRID.centers < 0, 3.0, 0.0))
    np.testing.assert_allclose(sum(found.values()), rutile().dos)


@pytest.mark.parametrize(
    ("low", "high", "ti", "o"),
    [(-4, 0, 0, 12), (0, 4, 8, 0), (-1, 1, 2, 3), (-0.03, 0, 0, 0.09), (1, 1, 0, 0)],
)
def test_states_in_a_range_are_counted_parts_of_bins_too(low, high, ti, o) -> None:
    found = rutile().states(low, high)
    assert found == {("Ti", "d"): pytest.approx(ti), ("O", "p"): pytest.approx(o)}


def test_metal_or_insulator() -> None:
    assert rutile().band_gap == pytest.approx(1.8)
    assert [rutile(gap).is_metal for gap in (0.0, 0.04, 0.06, 1.8)] == [True, True, False, False]


def test_json_names_axes_and_units() -> None:
    document = json.loads(json.dumps(rutile().as_dict(), allow_nan=False))
    projected = np.array(document["projected_dos"])
    axes = document["axes"]
    assert (axes["atom"], axes["shell"]) == (["Ti", "O", "O"], list(SHELLS))
    assert projected.shape == (len(axes["atom"]), len(axes["shell"]), document["grid"]["size"])
    np.testing.assert_allclose(projected.sum((0, 1)), rutile().dos)
    assert document["units"]["projected_dos"] == "states/eV/cell"
    assert document["conduction_band_minimum"] - document["valence_band_maximum"] == (
        pytest.approx(document["band_gap"])
    )
