"""Derivatives by formula against those of autograd and of small changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.architectures.tight_binding.bands import (
    Integrals,
    hamiltonians,
    levels,
    shifted_mesh,
    states_below,
    states_of,
)
from tests.models.architectures.tight_binding.test_bands import random_integrals


def summed_bond_by_bond(integrals: Integrals, points: Tensor) -> Tensor:
    """H(k) of the formula, one bond after the other."""
    n = len(integrals.onsite)
    matrices = torch.zeros(len(points), 10 * n, 10 * n, dtype=torch.complex128)
    ends = zip(integrals.center.tolist(), integrals.neighbor.tolist(), strict=True)
    for bond, (a, b) in enumerate(ends):
        phase = torch.exp(2j * np.pi * (points @ integrals.steps[bond]))
        block = phase[:, None, None] * integrals.hopping[bond]
        matrices[:, 10 * a : 10 * a + 10, 10 * b : 10 * b + 10] += block
    for a, own in enumerate(integrals.onsite):
        matrices[:, 10 * a : 10 * a + 10, 10 * a : 10 * a + 10] += own
    matrices = matrices + matrices.mH
    return matrices[:, integrals.orbitals[:, None], integrals.orbitals]


@pytest.mark.parametrize("n_atoms", [1, 3])
@pytest.mark.parametrize("overlap", [False, True])
def test_levels_and_their_derivatives_are_those_of_the_formula(n_atoms: int, overlap: bool) -> None:
    points = shifted_mesh((2, 1, 2), np.array([0.1, 0.2, 0.7])).points.double()
    results = []
    for by_formula in (True, False):
        integrals = random_integrals(4, n_atoms)
        onsite, hopping, mixing = (
            x.clone().requires_grad_()
            for x in (integrals.onsite, integrals.hopping, 0.01 * integrals.hopping.sin())
        )
        integrals = replace(integrals, onsite=onsite, hopping=hopping)
        if overlap:
            integrals = replace(integrals, mixing=mixing)
        if by_formula:
            matrices = summed_bond_by_bond(integrals, points)
            if overlap:
                x = replace(integrals, onsite=torch.zeros_like(onsite), hopping=mixing)
                a = summed_bond_by_bond(x, points) + torch.eye(matrices.shape[-1])
                matrices = a @ matrices @ a
            torch.testing.assert_close(hamiltonians(integrals, points), matrices)
            energies = torch.linalg.eigvalsh(matrices)
        else:
            energies = levels(integrals, points)
        (energies * torch.cos(energies.detach() / 5)).sum().backward()
        results.append((energies.detach(), onsite.grad, hopping.grad, mixing.grad))
    for expected, own in zip(*results, strict=True):
        if expected is None:
            assert own is None
            continue
        torch.testing.assert_close(own, expected, atol=1e-10, rtol=1e-10)


def test_levels_that_nothing_is_learned_from() -> None:
    integrals = random_integrals(5, 2)
    points = shifted_mesh((1, 2, 1), np.zeros(3)).points.double()
    learned = replace(integrals, hopping=integrals.hopping.clone().requires_grad_())
    torch.testing.assert_close(levels(integrals, points), levels(learned, points).detach())


def two_crystals() -> tuple[list[Tensor], list[Tensor]]:
    """Levels on both sides of the edges, some far off, and weights, some 0."""
    rng = np.random.default_rng(6)
    energies = [torch.from_numpy(rng.uniform(-7, 7, (4, n))) for n in (5, 3)]
    weights = [torch.tensor(w).double() for w in ([0.5, 0.25, 0.25, 0], [0.1, 0.2, 0.3, 0.4])]
    return energies, weights


def test_states_of_several_crystals_are_those_of_each() -> None:
    energies, weights = two_crystals()
    grid, log_width = torch.linspace(-4, 4, 33).double(), torch.tensor([-1.0, 0.4, 1.3]).double()
    found = states_of(list(zip(energies, weights, strict=True)), grid, log_width, (-6, 6))
    for row, own, weight in zip(found, energies, weights, strict=True):
        some = (own.abs() < 6) & (weight > 0)[:, None]
        counts = (2 * weight[:, None]).expand_as(own)[some]
        torch.testing.assert_close(row, states_below(own[some], counts, grid, log_width))


def test_the_derivatives_of_counted_states_are_those_of_small_changes() -> None:
    energies, weights = two_crystals()
    grid = torch.linspace(-4, 4, 9).double()

    def states(log_width: Tensor, *own: Tensor) -> Tensor:
        return states_of(list(zip(own, weights, strict=True)), grid, log_width, (-6, 6))

    log_width = torch.tensor([-1.0, 0.4, 1.3]).double()
    inputs = [x.clone().requires_grad_() for x in (log_width, *energies)]
    assert torch.autograd.gradcheck(states, inputs)
