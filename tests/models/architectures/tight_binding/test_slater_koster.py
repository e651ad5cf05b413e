"""Blocks of integrals against the table of Slater and Koster, and under rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.constants import e, hbar, m_e

from models.architectures.tight_binding.slater_koster import (
    CHANNELS,
    LENGTH,
    N_ORBITALS,
    STRENGTHS,
    _d_tensors,
    blocks,
)

S, X, Y, Z, XY, YZ, ZZ, XZ, XX_YY, STAR = range(N_ORBITALS)


def unit_vectors(n: int) -> torch.Tensor:
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(n, 3)))
    return vectors / vectors.norm(dim=1, keepdim=True)


def integrals(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(n, len(CHANNELS))))


def orthogonal() -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0])


def turn_of_orbitals(rotation: torch.Tensor) -> torch.Tensor:
    """What a rotation makes of the ten orbitals."""
    d = _d_tensors().double()
    turn = torch.eye(N_ORBITALS, dtype=torch.float64)
    turn[1:4, 1:4] = rotation
    turn[4:9, 4:9] = torch.einsum("mij,ik,nkl,jl->mn", d, rotation, d, rotation)
    return turn


@pytest.mark.parametrize(
    ("channel", "eta", "power"), [("sp", 1.42, 2.0), ("pds", -2.95, 3.5), ("dds", -16.2, 5.0)]
)
def test_strengths_are_harrisons_with_one_d_radius(channel: str, eta: float, power: float) -> None:
    hbar2_over_m, radius = hbar**2 / m_e / e * 1e20, 1.0  # eV Å^2, Å
    expected = eta * hbar2_over_m * radius ** (power - 2) / LENGTH**power
    assert STRENGTHS[CHANNELS.index(channel)] == pytest.approx(expected, rel=1e-3)


def test_the_table_of_slater_and_koster() -> None:
    """Entries of table I; the other ones follow from these by permuting the axes."""
    direction, values = unit_vectors(5), integrals(5)
    found = blocks(direction, values)
    l, m, n = direction.unbind(1)  # noqa: E741
    v = dict(zip(CHANNELS, values.unbind(1), strict=True))
    root = math.sqrt(3)
    expected = {
        (S, S): v["ss"],
        (S, X): l * v["sp"],
        (X, S): l * v["ps"],
        (X, X): l**2 * v["pps"] + (1 - l**2) * v["ppp"],
        (X, Y): l * m * (v["pps"] - v["ppp"]),
        (S, XY): root * l * m * v["sd"],
        (S, XX_YY): root / 2 * (l**2 - m**2) * v["sd"],
        (S, ZZ): (n**2 - (l**2 + m**2) / 2) * v["sd"],
        (X, XY): root * l**2 * m * v["pds"] + m * (1 - 2 * l**2) * v["pdp"],
        (X, YZ): l * m * n * (root * v["pds"] - 2 * v["pdp"]),
        (Z, ZZ): n * (n**2 - (l**2 + m**2) / 2) * v["pds"] + root * n * (l**2 + m**2) * v["pdp"],
        (XY, XY): 3 * l**2 * m**2 * v["dds"]
        + (l**2 + m**2 - 4 * l**2 * m**2) * v["ddp"]
        + (n**2 + l**2 * m**2) * v["ddd"],
        (ZZ, ZZ): (n**2 - (l**2 + m**2) / 2) ** 2 * v["dds"]
        + 3 * n**2 * (l**2 + m**2) * v["ddp"]
        + 0.75 * (l**2 + m**2) ** 2 * v["ddd"],
        (STAR, ZZ): (n**2 - (l**2 + m**2) / 2) * v["td"],
        (YZ, STAR): root * m * n * v["dt"],
    }
    for (row, column), value in expected.items():
        torch.testing.assert_close(found[:, row, column], value, msg=f"{row}, {column}")


@pytest.mark.parametrize("sign", [1, -1])
def test_blocks_turn_with_the_bond(sign: int) -> None:
    """Rotations, and reflections of p orbitals too."""
    rotation = sign * orthogonal()
    direction, values = unit_vectors(6), integrals(6)
    turn = turn_of_orbitals(rotation)
    torch.testing.assert_close(turn @ turn.T, torch.eye(N_ORBITALS).double())
    expected = turn @ blocks(direction, values) @ turn.T
    torch.testing.assert_close(blocks(direction @ rotation.T, values), expected)


def test_the_bond_from_the_other_end() -> None:
    """The block is transposed; a p orbital has its other lobe there."""
    direction, values = unit_vectors(4), integrals(4)
    other = values.clone()
    for c, channel in enumerate(CHANNELS):
        first, second = channel[:2]
        parity = -1 if (first == "p") != (second == "p") else 1
        swapped = CHANNELS.index(second + first + channel[2:])
        other[:, swapped] = parity * values[:, c]
    torch.testing.assert_close(blocks(-direction, other), blocks(direction, values).mT)
