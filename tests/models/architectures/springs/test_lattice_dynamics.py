"""Lattice dynamics against formulas, and against a supercell's Hessian assembled by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.constants import c, physical_constants

from models.architectures.springs.lattice_dynamics import (
    WAVENUMBER,
    Modes,
    Springs,
    Waves,
    _force_constants,
    dynamical_matrices,
    half_meshes,
    modes,
    smeared,
    waves_of,
)
from models.crystal import Crystal
from models.graphs.graph import GraphBatch
from tests.models.model_examples import (
    batch_of,
    random_crystal,
    random_crystals,
    rocksalt,
    supercell,
)

GAMMA = torch.zeros(1, 3)
POLONIUM = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])  # simple cubic


def springs_of(batch: GraphBatch, transverse: float = 0.3) -> Springs:
    """Springs that soften with the distance, the same in both directions."""
    longitudinal = 300 * batch.distance**-3
    return Springs(longitudinal, transverse * longitudinal)


def same_waves(batch: GraphBatch, mesh: torch.Tensor) -> Waves:
    """The same wave vectors for each crystal."""
    counts = torch.full((len(batch),), len(mesh))
    crystal = torch.arange(len(batch)).repeat_interleave(counts)
    return Waves(mesh.repeat(len(batch), 1), crystal, counts)


def matrices(batch: GraphBatch, springs: Springs, mesh: torch.Tensor) -> torch.Tensor:
    """Dynamical matrices (B, Q, 3n, 3n) of crystals of n atoms each."""
    waves, n = same_waves(batch, mesh), len(batch.atomic_numbers) // len(batch)
    found = dynamical_matrices(batch, springs, masses_of(batch), waves, n)
    return found.unflatten(0, (len(batch), len(mesh)))


def frequencies(
    batch: GraphBatch, springs: Springs, masses: torch.Tensor, mesh: torch.Tensor
) -> torch.Tensor:
    """Frequencies (B, Q, 3n) of crystals of n atoms each."""
    (found,) = modes(batch, springs, masses, same_waves(batch, mesh))
    return found.frequency.unflatten(0, (len(batch), len(mesh)))


def half_mesh(*sizes: int) -> torch.Tensor:
    """Half of the points (m + 1/2) / size, one after the other."""
    halved = next((i for i, size in enumerate(sizes) if size > 1), None)
    ranges = [range(n // 2 if i == halved else n) for i, n in enumerate(sizes)]
    return (torch.tensor(list(itertools.product(*ranges))) + 0.5) / torch.tensor(sizes)


def masses_of(batch: GraphBatch) -> torch.Tensor:
    return batch.atomic_numbers.float() * 2


def test_the_unit_is_that_of_spectroscopy() -> None:
    atomic_mass = physical_constants["atomic mass constant"][0]
    assert pytest.approx(np.sqrt(1 / atomic_mass) / (2 * np.pi * c * 100), rel=1e-4) == WAVENUMBER


def test_simple_cubic_by_formula() -> None:
    """m w^2 = 2 k_L (1 - cos q_x a) + 2 k_T (2 - cos q_y a - cos q_z a), and so on."""
    batch, mass = batch_of([POLONIUM]), 209.0
    nearest = batch.distance < 3.4
    springs = Springs(40.0 * nearest, 6.0 * nearest)
    mesh = torch.tensor([[0.1, 0.2, 0.35], [0.5, 0.25, 0.0]])
    found = frequencies(batch, springs, torch.tensor([mass]), mesh)[0]
    bend = 1 - np.cos(2 * np.pi * mesh.numpy())
    along = 2 * (40 * bend + 6 * (bend.sum(1, keepdims=True) - bend)) / mass
    expected = np.sort(WAVENUMBER * np.sqrt(along), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_rotation_costs_what_the_transverse_springs_take_for_it() -> None:
    """The limit that the module states: (k_T / 2) |rotation x bond|^2 for each spring."""
    batch = batch_of([POLONIUM])
    turned = torch.linalg.cross(torch.tensor([[0.0, 0.0, 1.0]]), batch.vector)
    for transverse in (0.0, 0.3):
        springs = springs_of(batch, transverse)
        force = _force_constants(batch, springs, torch.arange(len(batch.center)))
        found = torch.einsum("ei,eij,ej->", turned, force, turned)
        expected = 0.5 * (springs.transverse * turned.square().sum(1)).sum()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
        assert (found > 1) == (transverse > 0)


def hessian_of_supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> np.ndarray:
    """Eigenvalues of the mass-weighted Hessian of a periodic supercell, all in real space."""
    batch = batch_of([supercell(crystal, repeats)])
    springs, mass = springs_of(batch), masses_of(batch).numpy()
    matrix = np.zeros((len(mass), 3, len(mass), 3))
    assert batch.vector is not None
    for e, (i, j) in enumerate(zip(batch.center.tolist(), batch.neighbor.tolist(), strict=True)):
        u = (batch.vector[e] / batch.vector[e].norm()).numpy().astype(float)
        k_l, k_t = springs.longitudinal[e].item() / 2, springs.transverse[e].item() / 2
        force = k_l * np.outer(u, u) + k_t * (np.eye(3) - np.outer(u, u))
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            matrix[a, :, b, :] += sign * force / np.sqrt(mass[a] * mass[b])
    size = 3 * len(mass)
    return np.linalg.eigvalsh(matrix.reshape(size, size))


def test_a_mesh_of_waves_is_a_supercell() -> None:
    """With Gamma and the other waves that fit into it, both have the same modes."""
    crystal, repeats = random_crystal(np.random.default_rng(5), 3), (2, 1, 3)
    batch = batch_of([crystal])
    mesh = torch.tensor(list(itertools.product(*map(range, repeats)))) / torch.tensor(repeats)
    squares = torch.linalg.eigvalsh(matrices(batch, springs_of(batch), mesh))
    found = np.sort(squares.numpy().ravel())
    expected = hessian_of_supercell(crystal, repeats)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_moving_the_whole_crystal_costs_nothing() -> None:
    for crystal in random_crystals(4):
        batch = batch_of([crystal])
        matrix = matrices(batch, springs_of(batch), GAMMA)[0, 0]
        assert torch.equal(matrix, matrix.mH)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert eigenvalues[:3].abs().max() < 1e-5 * eigenvalues.max()
        assert len(crystal) == 1 or eigenvalues[3] > 1e-3 * eigenvalues.max()


def test_heavier_atoms_and_softer_springs_are_slower() -> None:
    batch = batch_of([rocksalt()])
    springs, masses, mesh = springs_of(batch), masses_of(batch), half_mesh(2, 2, 2)
    found = frequencies(batch, springs, masses, mesh)
    soft = Springs(springs.longitudinal / 4, springs.transverse / 4)
    torch.testing.assert_close(2 * frequencies(batch, soft, masses, mesh), found)
    torch.testing.assert_close(2 * frequencies(batch, springs, 4 * masses, mesh), found)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 2, 1), (1, 2, 2), (1, 1, 8)])
def test_half_a_mesh_stands_for_all_of_it(sizes: tuple[int, int, int]) -> None:
    """With -q added it is every point once; Gamma is not among them."""
    half = half_mesh(*sizes)
    both = torch.cat([half, -half]).remainder(1).mul(32).round().unique(dim=0)
    assert len(both) == np.prod(sizes)
    assert not (both == 0).all(dim=1).any()


def test_each_crystal_has_a_mesh_of_its_own() -> None:
    sizes = [(1, 1, 1), (4, 2, 1), (1, 2, 2), (1, 1, 8), (2, 4, 2)]
    found = half_meshes(torch.tensor(sizes))
    assert found.counts.tolist() == [1, 4, 2, 4, 8]
    for i, expected in enumerate(sizes):
        torch.testing.assert_close(found.points[found.crystal == i], half_mesh(*expected))


def test_the_mesh_follows_the_size_of_the_cell() -> None:
    """Of about 9 Å, to a factor of 2: two points along 5.64 / sqrt(3) Å, one along twice that."""
    crystals = [rocksalt(), POLONIUM, rocksalt(a=5.7), supercell(rocksalt(), (2, 1, 1))]
    waves = waves_of(batch_of(crystals), 9.0)
    for i, sizes in enumerate([(2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]):
        torch.testing.assert_close(waves.points[waves.crystal == i], half_mesh(*sizes))


def modes_of(crystal: Crystal, length: float) -> np.ndarray:
    batch = batch_of([crystal])
    (found,) = modes(batch, springs_of(batch), masses_of(batch), waves_of(batch, length))
    return found.frequency.flatten().numpy()


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2), (1, 1, 4)])
def test_a_doubled_cell_has_the_same_modes(repeats: tuple[int, int, int]) -> None:
    for crystal in (rocksalt(), *random_crystals(3)):
        one, larger = modes_of(crystal, 22.0), modes_of(supercell(crystal, repeats), 22.0)
        quantiles = np.linspace(0, 1, 21)
        np.testing.assert_allclose(
            np.quantile(one, quantiles, method="nearest"),
            np.quantile(larger, quantiles, method="nearest"),
            rtol=2e-3,
        )


def test_modes_of_one_crystal_do_not_depend_on_the_others() -> None:
    crystals = [rocksalt(), rocksalt(a=5.7, cation=19)]
    together = batch_of(crystals)
    found = frequencies(together, springs_of(together), masses_of(together), half_mesh(2, 2, 2))
    for row, crystal in zip(found, crystals, strict=True):
        batch = batch_of([crystal])
        alone = frequencies(batch, springs_of(batch), masses_of(batch), half_mesh(2, 2, 2))[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-2)


def test_a_spectrum_counts_the_modes() -> None:
    frequency, half = torch.tensor([[25.0, 45.0], [45.0, 500.0]]), torch.full((2, 2), 0.5)
    found = Modes(frequency, half, torch.tensor([0, 1]))
    edges = torch.linspace(0, 100, 6)
    shares = smeared(found, 2, edges, torch.tensor(0.01))
    torch.testing.assert_close(
        shares, torch.tensor([[0, 0.5, 0.5, 0, 0], [0, 0, 0.5, 0, 0]]), atol=1e-6, rtol=0
    )
    wide = smeared(found, 2, torch.linspace(-1000, 2000, 61), torch.tensor(10.0))
    torch.testing.assert_close(wide.sum(1), torch.ones(2))
    of_both = smeared(replace(found, share=half / 2), 3, edges, torch.tensor([0.01, 0.01]))
    assert of_both.shape == (2, 3, 5)
    torch.testing.assert_close(of_both[1, :2], shares / 2)
    assert (of_both[:, 2] == 0).all()


def in_double(batch: GraphBatch) -> GraphBatch:
    parts = (batch.distance, batch.vector, batch.lattice)
    distance, vector, lattice = (p.double() for p in parts)
    return replace(batch, distance=distance, vector=vector, lattice=lattice)


@pytest.mark.parametrize("size", [8, 11])
def test_filled_up_matrices_have_the_same_modes_and_derivatives(size: int) -> None:
    """As crystal by crystal, also where symmetry makes modes equal."""
    crystals = [rocksalt(), *random_crystals(5), POLONIUM, supercell(rocksalt(), (2, 1, 2))]
    batch = in_double(batch_of(crystals))
    masses, edges = masses_of(batch).double(), torch.linspace(0, 600, 13).double()
    weight = torch.randn(len(batch), 12, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for padded in (lambda n, _: n, lambda *_: size):
        springs = springs_of(batch)
        k = torch.stack([springs.longitudinal, 2 * springs.longitudinal]).requires_grad_()
        found = list(modes(batch, Springs(k, 0.3 * k), masses, waves_of(batch, 9.0), padded))
        width = torch.full((2,), 9.0).double()
        spectra = sum(smeared(some, len(batch), edges, width) for some in found)
        (spectra * weight).sum().backward()
        results.append((len(found), spectra.detach(), k.grad))
    (n_sizes, exact, derivative), (one, filled, derivative_filled) = results
    assert n_sizes > one == 1
    torch.testing.assert_close(filled, exact, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(derivative_filled, derivative, atol=1e-10, rtol=1e-7)
    assert derivative.abs().max() > 1e-3
    for i, crystal in enumerate(crystals):
        alone = in_double(batch_of([crystal]))
        waves, own = waves_of(alone, 9.0), springs_of(alone)
        (some,) = modes(alone, own, masses_of(alone).double(), waves)
        torch.testing.assert_close(
            smeared(some, 1, edges, torch.tensor(9.0).double())[0],
            exact[0, i],
            atol=1e-9,
            rtol=1e-8,
        )


def test_the_derivative_by_a_spring_is_that_of_small_changes() -> None:
    batch, mesh = batch_of([random_crystal(np.random.default_rng(2), 3)]), half_mesh(2, 1, 1)
    springs, masses = springs_of(batch), masses_of(batch)

    def mean(change: torch.Tensor) -> torch.Tensor:
        changed = Springs(springs.longitudinal * (1 + change), springs.transverse)
        return frequencies(batch, changed, masses, mesh).mean()

    at = torch.zeros_like(springs.longitudinal, requires_grad=True)
    mean(at).backward()
    assert at.grad is not None
    direction = torch.sin(torch.arange(len(at)).float())
    step = 0.01 * direction
    numeric = (mean(step) - mean(-step)).item() / 0.02
    assert (at.grad @ direction).item() == pytest.approx(numeric, rel=1e-2)
