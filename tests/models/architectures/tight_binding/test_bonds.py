"""Which edges are bonds, and what is said of them."""

from __future__ import annotations

import torch

from models.architectures.tight_binding.bonds import Bonds
from models.crystal import Crystal
from models.elements import covalent_radii
from tests.models.architectures.tight_binding.test_tight_binding import crystals, graphs
from tests.models.model_examples import rocksalt


def bonds_of(structures: list[Crystal], reach: float) -> Bonds:
    batch = graphs(structures)
    return Bonds.of(batch, torch.tensor(covalent_radii())[batch.atomic_numbers], reach)


def test_near_neighbours_count_fully_and_farther_ones_fade() -> None:
    """Simple cubic sodium: 6 neighbours, 12 at sqrt(2) of their distance, 8 at sqrt(3)."""
    cubic = rocksalt(6.0, cation=11, anion=11)
    bonds = bonds_of([cubic], reach=1.75)
    values, shell, counts = bonds.ratio.round(decimals=3).unique(
        return_inverse=True, return_counts=True
    )
    torch.testing.assert_close(values, torch.tensor([1.0, 1.414, 1.732]))
    assert counts.tolist() == [2 * 6, 2 * 12, 2 * 8]
    near, second, third = (bonds.weight[shell == i] for i in range(3))
    torch.testing.assert_close(near, torch.ones(12))
    assert 1 > float(second.max()) > float(third.max()) > 0
    assert len(bonds_of([cubic], reach=1.4).weight) == 12


def test_each_bond_is_there_in_both_directions() -> None:
    bonds = bonds_of(crystals(3), reach=1.75)
    ends = torch.stack([bonds.center, bonds.neighbor], 1)
    what = torch.cat([ends, bonds.steps, bonds.weight[:, None]], 1)
    back = torch.cat([ends.flip(1), -bonds.steps, bonds.weight[:, None]], 1)
    distance = torch.cdist(what.double(), back.double()).min(1).values
    assert float(distance.max()) < 1e-4
