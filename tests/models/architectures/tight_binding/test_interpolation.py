"""Levels between computed ones, and what is counted of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.architectures.tight_binding import interpolation
from models.architectures.tight_binding.bands import (
    Integrals,
    fermi_level,
    fill,
    levels,
    states_below,
)
from models.architectures.tight_binding.interpolation import (
    Sample,
    Smearing,
    computed,
    interpolated,
)
from models.architectures.tight_binding.symmetry import IDENTITY, reduced_mesh, sites
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from tests.models.architectures.tight_binding.test_bands import (
    HOPPING,
    S,
    integrals_of,
    overlapping,
    random_integrals,
)

Sizes = tuple[int, int, int]
EDGES = torch.from_numpy(EDOS_GRID.edges).double()
CUBIC = integrals_of(Crystal(3.0 * np.eye(3), [[0, 0, 0]], [11]), 3.1, [S], {})


def sample_of(integrals: Integrals, sizes: Sizes, fine: Sizes) -> Sample:
    ends = integrals.center.numpy(), integrals.neighbor.numpy()
    places, _ = sites(len(integrals.onsite), *ends, integrals.steps.numpy())
    return Sample.of(integrals, places, reduced_mesh(sizes, IDENTITY), fine)


def mesh_points(sizes: Sizes) -> Tensor:
    """(m + 1/2) / size, for the first half of the first direction."""
    n1, n2, n3 = sizes
    index = np.stack(np.meshgrid(*map(np.arange, (n1 // 2, n2, n3)), indexing="ij"), -1)
    return torch.from_numpy((index.reshape(-1, 3) + 0.5) / sizes)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("n_atoms", "most"), [(1, 10**9), (3, 10**9), (2, 0)])
def test_computed_levels_are_those_of_the_hamiltonian(
    n_atoms: int, most: int, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At Gamma and points like it, where it is real in other phases, and elsewhere."""
    monkeypatch.setattr(interpolation, "_MOST", most)
    integrals = random_integrals(4, n_atoms)
    if overlap:
        integrals = overlapping(integrals, 0.02)
    sample = sample_of(integrals, (4, 2, 2), (4, 2, 2))
    expected = levels(integrals, sample.mesh.points.double())
    torch.testing.assert_close(computed(integrals, sample), expected, atol=1e-4, rtol=0)


def test_the_band_of_a_simple_cubic_crystal_between_points() -> None:
    """2 t times the sum of the cosines; the error falls with the third power of the step."""
    errors = []
    for n in (8, 16):
        sample = sample_of(CUBIC, (n, n, n), (24, 24, 24))
        found = interpolated(computed(CUBIC, sample), sample)[: 12 * 24 * 24, 0]
        expected = 2 * HOPPING["ss"] * (2 * np.pi * mesh_points(sample.fine)).cos().sum(1)
        errors.append(float((found - expected).abs().max()))
    assert errors[0] < 0.02 * abs(6 * HOPPING["ss"])
    assert errors[1] < errors[0] / 7


def test_the_density_of_states_of_a_simple_cubic_crystal() -> None:
    """From 6 points along each axis, against the formula at 120, which has the van Hove kinks."""
    sample = sample_of(CUBIC, (6, 6, 6), (24, 24, 24))
    found = interpolated(computed(CUBIC, sample), sample)[: 12 * 24 * 24, 0]
    energies = torch.linspace(-9, 9, 145).double()
    narrow = torch.tensor([np.log(0.1), 0.0, 0.0]).double()
    weights = torch.full_like(found, 1 / len(found))
    below = Smearing.of(energies, narrow, 2.0).states_below(found, weights)
    cosines = np.cos(2 * np.pi * (np.arange(60) + 0.5) / 120)
    exact = 2 * HOPPING["ss"] * (cosines[:, None, None] + cosines[:, None] + cosines).ravel()
    smeared = 1 / (1 + np.exp(np.clip((exact[:, None] - energies[::8].numpy()) / 0.1, -50, 50)))
    np.testing.assert_allclose(below[::8], smeared.mean(0), atol=0.008)


def test_computed_levels_stay_and_count_nothing() -> None:
    integrals = random_integrals(5, 2)
    sample = sample_of(integrals, (2, 4, 2), (3, 5, 4))
    assert sample.fine == (4, 5, 4)
    bands = computed(integrals, sample)
    found = interpolated(bands, sample)
    assert len(found) == len(sample.weights) == 2 * 5 * 4 + len(bands)
    assert sample.weights.sum() == pytest.approx(1)
    assert (sample.weights[-len(bands) :] == 0).all()
    assert torch.equal(found[-len(bands) :], bands)
    constant = interpolated(torch.ones_like(bands), sample)
    torch.testing.assert_close(constant, torch.ones_like(constant))


@pytest.mark.parametrize("kinds", [None, 3])
def test_states_counted_by_steps(kinds: int | None) -> None:
    rng = np.random.default_rng(0)
    energies = torch.from_numpy(rng.uniform(-7, 7, 3000))
    shape = (3000,) if kinds is None else (3000, kinds)
    counts = torch.from_numpy(rng.uniform(0, 0.1, shape))
    log_width = torch.tensor([np.log(0.07), 0.4, 1.3]).double()
    inside = (energies > -6) & (energies < 6)
    expected = states_below(energies[inside], counts[inside], EDGES, log_width)
    found = Smearing.of(EDGES, log_width, 2.0).states_below(energies, counts)
    torch.testing.assert_close(found, expected, atol=2e-3 * float(expected.max()), rtol=0)
    exact, by_steps = expected.diff(dim=0), found.diff(dim=0)
    assert float((by_steps - exact).abs().max()) < 2e-3 * float(exact.max())


@pytest.mark.parametrize("electrons", [3.0, 15.0, 27.5])
def test_full_and_empty_bands_do_not_move_the_fermi_level(electrons: float) -> None:
    rng = np.random.default_rng(1)
    energies = torch.from_numpy(rng.uniform(-0.4, 0.4, (10, 20)) + np.arange(-10, 10)).double()
    weights = torch.full((10,), 0.1).double()
    expected = float(fermi_level(energies, weights, electrons))
    assert float(fill(energies, weights, electrons).vbm) == pytest.approx(expected, abs=1e-6)
