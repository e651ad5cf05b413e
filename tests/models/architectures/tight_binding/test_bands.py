"""Levels against formulas of textbooks, and how they are filled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from models.architectures.tight_binding.bands import (
    FERMI_WIDTH,
    Integrals,
    fermi_level,
    fill,
    from_edges,
    hamiltonians,
    levels,
    levels_together,
    mesh_sizes,
    projected_levels,
    shifted_mesh,
    states_below,
)
from models.architectures.tight_binding.slater_koster import CHANNELS, N_ORBITALS, blocks
from models.crystal import Crystal
from models.graphs.graph import GraphConfig
from tests.models.model_examples import batch_of, random_crystal, supercell

S, X, Z = 0, 1, 3
D = range(4, 9)
HOPPING = {"ss": -1.4, "sp": 1.8, "ps": -1.8, "pps": 2.6, "ppp": -0.8, "dds": -0.9, "ddp": 0.5}


def integrals_of(
    crystal: Crystal, nearest: float, orbitals: list[int], levels: dict[int, float]
) -> Integrals:
    """A crystal whose bonds up to `nearest` Å are all alike, in double precision.

    Parameters
    ----------
    orbitals : list of int
        Those of an atom that there are.
    levels : dict of float
        Energies of some orbitals in eV, else 0.
    """
    batch = batch_of([crystal], GraphConfig(vectors=True, neighbors=30))
    bonds = batch.distance < nearest
    assert batch.vector is not None
    vector = batch.vector[bonds].double()
    values = torch.tensor([HOPPING.get(c, 0.0) for c in CHANNELS]).double()
    hopping = 0.5 * blocks(vector / vector.norm(dim=1, keepdim=True), values.repeat(len(vector), 1))
    onsite = torch.zeros(len(crystal), N_ORBITALS, N_ORBITALS).double()
    for orbital, energy in levels.items():
        onsite[:, orbital, orbital] = energy / 2
    steps = vector @ torch.linalg.inv(torch.from_numpy(crystal.lattice))
    kept = [N_ORBITALS * i + o for i in range(len(crystal)) for o in orbitals]
    ends = batch.center[bonds], batch.neighbor[bonds]
    return Integrals(onsite, hopping, *ends, steps, torch.tensor(kept), torch.empty(0).double())


FCC = Crystal(1.8 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), [[0, 0, 0]], [29])
GRAPHENE = Crystal(
    np.array([[2.46, 0, 0], [-1.23, 1.23 * np.sqrt(3), 0], [0, 0, 7.0]]),
    [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]],
    [6, 6],
)


def test_a_chain_of_two_orbitals_by_formula() -> None:
    """E = mean of the two bands of s and p +- what their mixing adds."""
    chain = Crystal(np.diag([2.5, 7.0, 7.0]), [[0, 0, 0]], [14])
    integrals = integrals_of(chain, 3.0, [S, X], {S: -5.0, X: 2.0})
    k = torch.linspace(-0.5, 0.5, 9).double()
    found = levels(integrals, torch.stack([k, 0 * k + 0.3, 0 * k], 1))
    phase = 2 * np.pi * k
    s = -5.0 + 2 * HOPPING["ss"] * phase.cos()
    p = 2.0 + 2 * HOPPING["pps"] * phase.cos()
    mixed = (((s - p) / 2) ** 2 + (2 * HOPPING["sp"] * phase.sin()) ** 2).sqrt()
    expected = torch.stack([(s + p) / 2 - mixed, (s + p) / 2 + mixed], 1)
    torch.testing.assert_close(found, expected)


def overlapping(integrals: Integrals, per_ev: float = -0.05) -> Integrals:
    """With overlaps in proportion to the integrals."""
    return replace(integrals, mixing=-0.5 * per_ev * integrals.hopping)


def test_a_chain_of_overlapping_orbitals_by_formula() -> None:
    """E = (eps + 2 V cos) (1 + 2 X cos)^2, whose band is wider above eps than below it."""
    chain = Crystal(np.diag([2.5, 7.0, 7.0]), [[0, 0, 0]], [11])
    integrals = integrals_of(chain, 3.0, [S], {S: -5.0})
    k = torch.linspace(-0.5, 0.5, 9).double()
    found = levels(overlapping(integrals), torch.stack([k, 0 * k, 0 * k], 1))[:, 0]
    cosine = (2 * np.pi * k).cos()
    x = 0.025 * HOPPING["ss"]
    expected = (-5.0 + 2 * HOPPING["ss"] * cosine) * (1 + 2 * x * cosine) ** 2
    torch.testing.assert_close(found, expected)
    assert found.max() + 5 > -5 - found.min()


def test_levels_are_those_of_the_generalised_problem() -> None:
    """H c = E S c with S = A^-2, by SciPy."""
    integrals = overlapping(random_integrals(2), 0.02)
    points = torch.tensor([[0.1, 0.2, -0.3], [0.0, 0.0, 0.0]]).double()
    plain = hamiltonians(replace(integrals, mixing=None), points)
    assert integrals.mixing is not None
    only_x = replace(integrals, onsite=0 * integrals.onsite, hopping=integrals.mixing, mixing=None)
    a = torch.eye(27) + hamiltonians(only_x, points)
    overlap = torch.linalg.inv(a @ a)
    for found, h, s in zip(levels(integrals, points), plain, overlap, strict=True):
        expected = eigh(h.numpy(), (s + s.mH).numpy() / 2, eigvals_only=True)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_the_s_band_of_fcc_by_formula() -> None:
    points = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (7, 3)))
    found = levels(integrals_of(FCC, 2.8, [S], {S: -3.0}), points)[:, 0]
    x, y, z = (np.pi * 3.6 * points @ torch.linalg.inv(torch.from_numpy(FCC.lattice)).T).unbind(1)
    cosines = x.cos() * y.cos() + y.cos() * z.cos() + z.cos() * x.cos()
    expected = -3.0 + 4 * HOPPING["ss"] * cosines
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # edges are in float32


def test_the_bands_of_graphene_touch_at_k() -> None:
    """And are 6 |V_pp pi| wide at Gamma."""
    integrals = integrals_of(GRAPHENE, 1.6, [Z], {})
    found = levels(integrals, torch.tensor([[1 / 3, 1 / 3, 0], [0, 0, 0]]).double())
    width = -3 * HOPPING["ppp"]
    expected = torch.tensor([[0, 0], [-width, width]]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_d_levels_of_a_cubic_crystal_are_three_and_two() -> None:
    found = levels(integrals_of(FCC, 2.8, list(D), {}), torch.zeros(1, 3).double())[0]
    _, multiplicities = (found * 1e3).round().unique(return_counts=True)
    assert sorted(multiplicities.tolist()) == [2, 3]


def random_integrals(seed: int = 0, n_atoms: int = 3, flat: int = 0) -> Integrals:
    """All orbitals and bonds of a crystal without symmetry, with random numbers."""
    rng = np.random.default_rng(seed)
    crystal = random_crystal(rng, n_atoms)
    batch = batch_of([crystal])
    assert batch.vector is not None
    n_bonds = len(batch.distance)
    numbers = torch.from_numpy(rng.normal(size=(n_atoms + n_bonds, N_ORBITALS, N_ORBITALS)))
    steps = batch.vector.double() @ torch.linalg.inv(torch.from_numpy(crystal.lattice))
    return Integrals(
        numbers[:n_atoms],
        numbers[n_atoms:],
        batch.center,
        batch.neighbor,
        steps,
        torch.arange(N_ORBITALS * n_atoms)[3:],
        torch.linspace(-2, 1, flat).double(),
    )


def test_hamiltonians_are_hermitian_and_periodic() -> None:
    integrals = random_integrals()
    points = torch.tensor([[0.1, 0.2, -0.3]]).double()
    matrices = hamiltonians(integrals, points)
    assert matrices.shape == (1, 27, 27)
    assert torch.equal(matrices, matrices.mH)
    shifted = levels(integrals, points + torch.tensor([1.0, -2.0, 0.0]))
    torch.testing.assert_close(shifted, levels(integrals, points), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(levels(integrals, -points), levels(integrals, points))


def test_a_mesh_of_waves_is_a_supercell() -> None:
    """The waves that fit into the supercell have all of its levels at Gamma."""
    crystal, repeats = random_crystal(np.random.default_rng(5), 2), (2, 1, 3)
    kept = list(range(N_ORBITALS))
    energies = {S: -4.0, X: 1.0}
    one = integrals_of(crystal, 6.0, kept, energies)
    large = integrals_of(supercell(crystal, repeats), 6.0, kept, energies)
    mesh = shifted_mesh(repeats, np.zeros(3), edges=False)
    found = levels(one, mesh.points.double()).flatten().sort().values
    expected = levels(large, torch.zeros(1, 3).double())[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 3, 1), (3, 3, 3), (2, 5, 1)])
def test_half_a_mesh_stands_for_all_of_it(sizes: tuple[int, int, int]) -> None:
    mesh = shifted_mesh(sizes, edges=False)
    assert mesh.weights.sum().item() == pytest.approx(1)
    n = int(np.prod(sizes))
    assert len(mesh.points) <= n // 2 + 4
    both = torch.cat([mesh.points, -mesh.points]).remainder(1).mul(60).round().remainder(60)
    assert len(both.unique(dim=0)) == n
    whole = shifted_mesh(sizes, np.full(3, 0.5), edges=False)
    energies = [levels(random_integrals(), m.points.double()) for m in (mesh, whole)]
    sums = [m.weights.double() @ e for m, e in zip((mesh, whole), energies, strict=True)]
    torch.testing.assert_close(*sums)


def test_a_finer_mesh_for_a_smaller_cell() -> None:
    assert mesh_sizes(np.diag([3.0, 6.0, 40.0]), 12.0) == (4, 2, 1)
    counted = shifted_mesh((2, 2, 2)).weights
    assert (counted == 0).sum() == 8


@pytest.mark.parametrize("electrons", [1.0, 3.0, 4.0, 7.5, 11.0])
def test_a_metal_holds_its_electrons(electrons: float) -> None:
    energies = levels(random_integrals(1, 2), shifted_mesh((3, 3, 2), edges=False).points.double())
    weights = shifted_mesh((3, 3, 2), edges=False).weights.double()
    edges = fill(energies, weights, electrons, insulator=None)
    assert edges.filled is None
    assert edges.gap == 0
    occupation = torch.sigmoid((edges.fermi_level - energies) / FERMI_WIDTH)
    assert 2 * (weights @ occupation).sum().item() == pytest.approx(electrons, abs=1e-6)


TWO_BANDS = torch.tensor([[-3.0, 1.0], [-2.0, 2.5]])
HALF = torch.tensor([0.5, 0.5])


def test_an_insulator_has_whole_bands() -> None:
    edges = fill(TWO_BANDS, HALF, 2)
    assert (edges.filled, float(edges.vbm), float(edges.cbm)) == (1, -2.0, 1.0)
    assert float(edges.fermi_level) == -0.5
    torch.testing.assert_close(
        from_edges(TWO_BANDS, edges), torch.tensor([[-1.0, 0.0], [0.0, 1.5]])
    )


@pytest.mark.parametrize("electrons", [1, 3])
def test_an_odd_number_of_electrons_is_a_metal(electrons: int) -> None:
    assert fill(TWO_BANDS, HALF, electrons).filled is None
    assert fill(TWO_BANDS, HALF, electrons, insulator=True).filled is None


def test_more_electrons_than_levels_hold() -> None:
    assert fill(TWO_BANDS, HALF, 4).filled is None


@pytest.mark.parametrize("rounding", [-1e-5, 0.0, 1e-5])
def test_a_metal_that_fills_up_to_a_gap_of_its_mesh(rounding: float) -> None:
    """An odd number, with as many states below a range that the mesh leaves open."""
    energies = torch.tensor([[-1.0, 0.5, 3.0], [-0.8, 2.0, 4.0]])
    found = fermi_level(energies, HALF, 3 + rounding)
    assert 0.5 < found < 2.0
    if not rounding:
        assert float(found) == pytest.approx(1.25, abs=0.02)


def test_a_gap_below_the_threshold_is_a_metal() -> None:
    narrow = torch.tensor([[-1.0, 1.0], [-0.02, 0.02]])
    assert fill(narrow, HALF, 2).filled is None
    assert fill(narrow, HALF, 2, insulator=True).filled == 1


def test_the_derivative_of_the_fermi_level() -> None:
    energies = levels(random_integrals(2, 2), shifted_mesh((3, 2, 2), edges=False).points.double())
    energies = (energies / 20).requires_grad_()
    weights = shifted_mesh((3, 2, 2), edges=False).weights.double()
    fermi_level(energies, weights, 9).backward()
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=energies.shape))
    step = 1e-5 * direction
    higher, lower = (fermi_level(energies.detach() + s, weights, 9) for s in (step, -step))
    assert energies.grad is not None
    numeric = float(higher - lower) / 2e-5
    assert float((energies.grad * direction).sum()) == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize("size", [None, 48])
def test_crystals_together_have_the_levels_of_each_alone(size: int | None) -> None:
    """And the same derivatives, also of a symmetric crystal with levels that are equal."""
    flat = torch.tensor([-7.0, 3.0]).double()
    crystals = [
        random_integrals(0, 2),
        integrals_of(FCC, 2.8, [S, *D], {S: -3.0}),
        replace(random_integrals(1, 2), flat=flat),
        random_integrals(3, 3),
    ]
    points = [shifted_mesh((2, 2, n)).points.double() for n in (1, 2, 3, 4)]
    derivatives = []
    for together in (False, True):
        own = [replace(c, hopping=c.hopping.clone().requires_grad_()) for c in crystals]
        if together:
            found = levels_together(own, points, lambda n, _: size or n)
        else:
            found = [levels(c, p) for c, p in zip(own, points, strict=True)]
        sum(energies.sin().sum() for energies in found).backward()
        derivatives.append((found, [c.hopping.grad for c in own]))
    for one, other in zip(*derivatives, strict=True):
        for alone, among in zip(one, other, strict=True):
            torch.testing.assert_close(among, alone, atol=1e-9, rtol=1e-7)


def test_shares_of_orbitals_add_up_to_the_levels() -> None:
    integrals = random_integrals(3, 2, flat=7)
    points = shifted_mesh((2, 1, 1), edges=False).points.double()
    groups = torch.cat([integrals.orbitals // N_ORBITALS, torch.full((7,), 2)])
    found, shares = projected_levels(integrals, points, groups)
    torch.testing.assert_close(found, levels(integrals, points))
    torch.testing.assert_close(shares.sum(2), torch.ones_like(found))
    assert shares[:, :, 2].sum() == 7 * len(points)
    assert (shares >= 0).all()


def test_states_are_counted_below_an_energy() -> None:
    energies, counts = torch.tensor([-1.0, 0.5, 9.0]), torch.tensor([2.0, 4.0, 6.0])
    narrow = torch.tensor([np.log(1e-3), 0.0, 0.0])
    below = states_below(energies, counts, torch.tensor([-2.0, 0.0, 1.0, 20.0]), narrow)
    torch.testing.assert_close(below, torch.tensor([0.0, 2.0, 6.0, 12.0]))
    halfway = states_below(energies, counts, torch.tensor([-1.0]), torch.zeros(3))
    assert 1.0 < halfway.item() < 2.0


@pytest.mark.parametrize("electrons", [1.0, 2.0, 7.0, 12.0, 33.999, 34.0])
def test_the_fermi_level_is_that_of_halving_ranges(electrons: float) -> None:
    mesh = shifted_mesh((3, 2, 2))
    energies = levels(random_integrals(6, 2), mesh.points.double()) / 10
    weights = mesh.weights.double()

    def count(energy: float) -> float:
        filled = torch.sigmoid((energy - energies) / FERMI_WIDTH)
        return float(2 * (weights[:, None] * filled).sum() / weights.sum())

    def reached(number: float) -> float:
        low, high = float(energies.min()) - 3, float(energies.max()) + 3
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if count(middle) < number else (low, middle)
        return high

    found = float(fermi_level(energies, weights, electrons))
    if electrons == 34:  # all are filled, and nothing is above
        assert found > energies.max()
    else:
        bounds = reached(electrons - 1.1e-9), reached(electrons + 1.1e-9)
        assert bounds[0] <= found <= bounds[1]
