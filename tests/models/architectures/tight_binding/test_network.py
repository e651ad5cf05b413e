"""Before a network has learned anything, it says what physics begins with."""

from __future__ import annotations

import torch

from models.architectures.tight_binding.bonds import Bonds
from models.architectures.tight_binding.config import TightBindingConfig
from models.architectures.tight_binding.network import Atoms, Network
from models.architectures.tight_binding.slater_koster import LENGTH, POWERS, STRENGTHS


def test_it_begins_with_free_atoms_and_powers_of_the_distance() -> None:
    network = Network(12, TightBindingConfig(hidden=8)).eval()
    for perceptron in (network.site, network.bond):
        perceptron[-1].weight.data.zero_()
    levels, flat = torch.tensor([[-8.0, -4.0, 1.0, 4.0]] * 2), torch.tensor([-2.0, torch.nan])
    atoms = Atoms(torch.tensor([57, 7]), torch.rand(2, 12), levels, flat)
    ends, ones = torch.tensor([0, 1]), torch.ones(2)
    direction = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    length, weight = torch.tensor([2.6, 3.0]), torch.tensor([1.0, 0.5])
    bonds = Bonds(ends, ends.flip(0), 0 * ends, length, ones, ones, weight, direction, direction)
    energies = network(atoms, bonds)
    torch.testing.assert_close(energies.levels, levels)
    torch.testing.assert_close(energies.flat, flat, equal_nan=True)
    expected = torch.tensor(STRENGTHS) * (LENGTH / length[:, None]) ** torch.tensor(POWERS)
    torch.testing.assert_close(energies.integrals, weight[:, None] * expected.clamp(-15, 15))
    torch.testing.assert_close(energies.field, torch.zeros(2, len(STRENGTHS)))
    assert network.features(atoms, bonds).shape == (2, 8)
