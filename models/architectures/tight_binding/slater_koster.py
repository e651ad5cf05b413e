"""Two-centre integrals along a bond, and what they are in the axes of the crystal.

An atom has ten orbitals: s, the three p, the five d, and a diffuse s* for the states that a
minimal basis does not reach. Along a bond only orbitals with the same angular momentum around it
interact, which leaves 21 numbers, the channels (J. C. Slater and G. F. Koster, Phys. Rev. 94, 1498
(1954), table I, with s* as a second s).

Instead of their table of direction cosines the blocks are made of projectors. With the bond along
the unit vector u, and the d orbitals as the symmetric traceless tensors B_m,

- the p orbital along the bond is u, those across it are what 1 - u u^T leaves,
- the d orbital of sigma symmetry is q_m = sqrt(3/2) u^T B_m u, those of pi symmetry are the columns
  of W_m = sqrt(2) (B_m u - u u^T B_m u), those of delta symmetry are what 1 - q q^T - W W^T leaves,

which holds in any axes, so that the blocks turn exactly as the crystal does.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

N_ORBITALS = 10
SHELL_OF_ORBITAL = (0, *[1] * 3, *[2] * 5, 3)
"""Of s, p, d and s*, the shell of each of the ten orbitals; p are x, y, z, d as in `_d_tensors`."""

# Harrison's universal parameters (of s and p W. A. Harrison, Phys. Rev. B 24, 5835 (1981), of d his
# Electronic Structure and the Properties of Solids (1980), table 20-1):
# V = eta (hbar^2 / m) / d^2 between s and p, d^-3.5 with one d, and d^-5 between two, times the
# powers of an element's r_d that make these eV, here 1 Å for all. The first orbital is the
# centre's, the second the neighbour's, at the head of u. Those with s* (t) and ddd, where his is
# 0, are ours.
_HARRISON = {
    "ss": (-1.32, 2.0),
    "sp": (1.42, 2.0),
    "ps": (-1.42, 2.0),
    "pps": (2.22, 2.0),
    "ppp": (-0.63, 2.0),
    "sd": (-3.16, 3.5),
    "ds": (-3.16, 3.5),
    "pds": (-2.95, 3.5),
    "pdp": (1.36, 3.5),
    "dps": (2.95, 3.5),
    "dpp": (-1.36, 3.5),
    "dds": (-16.2, 5.0),
    "ddp": (8.75, 5.0),
    "ddd": (-1.0, 5.0),
    "ts": (-1.0, 2.0),
    "st": (-1.0, 2.0),
    "tt": (-1.3, 2.0),
    "tp": (1.4, 2.0),
    "pt": (-1.4, 2.0),
    "td": (-2.0, 2.0),
    "dt": (-2.0, 2.0),
}
CHANNELS = tuple(_HARRISON)
HBAR2_OVER_M = 7.62  # eV Å^2
LENGTH = 2.6
"""Distance in Å that the strengths are for."""
STRENGTHS = tuple(eta * HBAR2_OVER_M / LENGTH**power for eta, power in _HARRISON.values())
"""Integrals of each channel at `LENGTH`, in eV, as they begin."""
POWERS = tuple(power for _, power in _HARRISON.values())
"""Powers of the distance that each channel falls off with, as they begin."""


def blocks(direction: Tensor, integrals: Tensor) -> Tensor:
    """Integrals between the orbitals of two atoms, in the axes of the crystal.

    Parameters
    ----------
    direction : Tensor, shape (E, 3)
        Unit vectors from the centre to the neighbour.
    integrals : Tensor, shape (E, 21)
        Of the `CHANNELS`, in eV.

    Returns
    -------
    Tensor, shape (E, 10, 10)
        Rows are orbitals of the centre, columns of the neighbour.

    Examples
    --------
    >>> along_z = torch.tensor([[0.0, 0.0, 1.0]])
    >>> ones = torch.ones(1, len(CHANNELS))
    >>> blocks(along_z, ones)[0, 1:4, 1:4]  # sigma for p_z, pi for p_x and p_y
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    v = dict(zip(CHANNELS, integrals[:, :, None, None].unbind(1), strict=True))
    u = direction[:, :, None]
    bent = torch.einsum("mij,ej->emi", _d_tensors().to(direction), direction)  # B_m u
    stretch = bent @ u  # u^T B_m u
    q = math.sqrt(1.5) * stretch
    w = math.sqrt(2.0) * (bent - stretch * u.mT)
    along, across = u @ u.mT, torch.eye(3).to(u) - u @ u.mT
    sigma, pi = q @ q.mT, w @ w.mT
    delta = torch.eye(5).to(u) - sigma - pi
    rows = (
        (v["ss"], v["sp"] * u.mT, v["sd"] * q.mT, v["st"]),
        (
            v["ps"] * u,
            v["pps"] * along + v["ppp"] * across,
            v["pds"] * u @ q.mT + v["pdp"] * w.mT,
            v["pt"] * u,
        ),
        (
            v["ds"] * q,
            v["dps"] * q @ u.mT + v["dpp"] * w,
            v["dds"] * sigma + v["ddp"] * pi + v["ddd"] * delta,
            v["dt"] * q,
        ),
        (v["ts"], v["tp"] * u.mT, v["td"] * q.mT, v["tt"]),
    )
    return torch.cat([torch.cat(row, dim=2) for row in rows], dim=1)


@cache
def _d_tensors() -> Tensor:
    """The d orbitals xy, yz, z^2, xz and x^2 - y^2 as tensors with the norm 1, shape (5, 3, 3)."""
    with torch.inference_mode(False):  # kept, and wanted for training too
        tensors = torch.zeros(5, 3, 3)
        for m, (i, j) in {0: (0, 1), 1: (1, 2), 3: (0, 2)}.items():
            tensors[m, i, j] = tensors[m, j, i] = math.sqrt(0.5)
        tensors[2] = torch.diag(torch.tensor([-1.0, -1.0, 2.0])) / math.sqrt(6)
        tensors[4] = torch.diag(torch.tensor([1.0, -1.0, 0.0])) * math.sqrt(0.5)
        return tensors
