"""The network that gives atoms their levels and bonds their integrals.

It begins with physics: levels of the free atoms, and Harrison's powers of the distance, see
:mod:`.slater_koster`. What is learned corrects them by what surrounds the atoms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.parts.scatter import scatter
from models.architectures.tight_binding.bonds import Bonds
from models.architectures.tight_binding.config import TightBindingConfig
from models.architectures.tight_binding.free_atoms import free_atoms
from models.architectures.tight_binding.slater_koster import CHANNELS, LENGTH, POWERS, STRENGTHS
from models.elements import PROPERTIES

N_SURROUNDINGS = 6
N_LENGTHS = 3
_OUTLIER = 4.0
_LARGEST = 15.0  # eV, of an integral before the network corrects it
_MIXING = 0.036  # 1/eV: V = 1.75 E S (R. Hoffmann, 1963), with levels E about -8 eV


class Atoms(NamedTuple):
    """What is known of N atoms before their bonds are.

    Parameters
    ----------
    numbers : Tensor, shape (N,), int64
        Of the elements whose levels they have.
    properties : Tensor, shape (N, P)
        Numbers that describe the element, :data:`models.elements.PROPERTIES` first.
    levels : Tensor, shape (N, 4)
        Of the free atom's s, p, d and s*, in eV, relative to the vacuum.
    flat : Tensor, shape (N,)
        Of its 4f, in eV; NaN for an element that has none of its own.
    """

    numbers: Tensor
    properties: Tensor
    levels: Tensor
    flat: Tensor


class Energies(NamedTuple):
    """What the Hamiltonian of N atoms and E bonds is made of, in eV but for `mixing`.

    Parameters
    ----------
    levels : Tensor, shape (N, 4)
        Of s, p, d and s*.
    flat : Tensor, shape (N,)
        Of the 4f; NaN where there is none.
    integrals : Tensor, shape (E, 21)
        Of the bonds, by :data:`~.slater_koster.CHANNELS`.
    field : Tensor, shape (E, 21)
        Part of each bond in the crystal field of its centre.
    mixing : Tensor, shape (E, 21), or None
        What orbitals that overlap take of each other to be orthogonal; None if they are.
    """

    levels: Tensor
    flat: Tensor
    integrals: Tensor
    field: Tensor
    mixing: Tensor | None


class _Described(NamedTuple):
    """What the networks see of N atoms and E bonds.

    Parameters
    ----------
    sites : Tensor, shape (N, F)
    bonds : Tensor, shape (E, G)
    bound : Tensor, shape (N,)
        How bound the atoms are, from 0 to 1.
    """

    sites: Tensor
    bonds: Tensor
    bound: Tensor


class Network(nn.Module):
    """Levels of atoms and integrals of bonds: what physics begins with, times what is learned.

    All parameters are deviations from the beginning, so that weight decay pulls towards it.

    Parameters
    ----------
    n_atom : int
        Numbers P that describe an element.
    config : TightBindingConfig
    """

    def __init__(self, n_atom: int, config: TightBindingConfig) -> None:
        super().__init__()
        n_elements, n_channels = len(free_atoms().levels), len(CHANNELS)
        self.embedding = nn.Embedding(n_elements, config.embedding)
        self.embedding.weight.data.mul_(0.1)
        self.element = nn.Embedding(n_elements, 4)
        self.element.weight.data.zero_()
        n_atom = n_atom + config.embedding
        self.site = _perceptron(2 * n_atom + N_SURROUNDINGS, 4 + 1, config)
        n_bond = 2 * (n_atom + N_SURROUNDINGS) + N_LENGTHS
        self.bond = _perceptron(n_bond, (3 if config.overlap else 2) * n_channels, config)
        self.strength = nn.Parameter(torch.zeros(n_channels))
        self.power = nn.Parameter(torch.zeros(n_channels))
        self.decay = nn.Parameter(torch.zeros(n_channels))
        self.mixing = nn.Parameter(torch.zeros(n_channels)) if config.overlap else None
        self.flat = nn.Parameter(torch.zeros(n_elements))
        self.broadening = nn.Parameter(torch.tensor([0.0, 0.0, 0.0]))

    @property
    def log_width(self) -> Tensor:
        """See :func:`models.architectures.tight_binding.bands.states_below`."""
        start = torch.tensor([math.log(0.07), 0.0, 0.0]).to(self.broadening)
        return start + self.broadening

    def forward(self, atoms: Atoms, bonds: Bonds) -> Energies:
        """Levels of the atoms and integrals of the bonds.

        Parameters
        ----------
        atoms : Atoms
        bonds : Bonds
        """
        described = self._described(atoms, bonds)
        site = self.site(described.sites).float()
        element = F.pad(self.element(atoms.numbers), (0, 1))
        shift = described.bound[:, None] * 3 * (site + element)
        levels = atoms.levels + shift[:, :4]
        flat = atoms.flat + 5 * self.flat[atoms.numbers] + shift[:, 4]
        learned = self.bond(described.bonds).float().split(len(CHANNELS), dim=1)
        law = bonds.weight[:, None] * self._law(bonds)
        near = bonds.weight * torch.exp(-3 * (bonds.ratio - 1))
        mixing = None  # in proportion to the integrals, as overlaps are
        if self.mixing is not None:
            mixing = law * (_MIXING + 0.1 * (self.mixing + learned[2]))
        return Energies(
            levels,
            flat,
            integrals=law * (1 + 2 * learned[0]),
            field=0.5 * near[:, None] * learned[1],
            mixing=mixing,
        )

    def features(self, atoms: Atoms, bonds: Bonds) -> Tensor:
        """What the network makes of the E bonds, shape (E, hidden).

        Parameters
        ----------
        atoms : Atoms
        bonds : Bonds
        """
        hidden: Tensor = self.bond[:-1](self._described(atoms, bonds).bonds)
        return hidden

    def _described(self, atoms: Atoms, bonds: Bonds) -> _Described:
        elements = torch.cat([atoms.properties, self.embedding(atoms.numbers)], dim=1)
        neighbors, surroundings, bound = _surroundings(elements, bonds)
        lengths = [3 * (bonds.relative - 1), 4 * (bonds.ratio - 1), bonds.distance - 2.7]
        of_both = [
            x[end] for x in (elements, surroundings) for end in (bonds.center, bonds.neighbor)
        ]
        geometry = torch.stack(lengths, 1).clamp(-_OUTLIER, _OUTLIER)
        sites = torch.cat([elements, neighbors, surroundings], dim=1)
        return _Described(sites, torch.cat([*of_both, geometry], 1), bound)

    def _law(self, bonds: Bonds) -> Tensor:
        """Integrals (E, 21) by powers of the distance, which longer bonds fall short of."""
        strength = torch.tensor(STRENGTHS).to(bonds.distance) * (1 + self.strength)
        power = torch.tensor(POWERS).to(bonds.distance) + self.power
        exponent = power * (bonds.distance / LENGTH).log()[:, None]
        exponent = exponent + (1 + self.decay) * (bonds.ratio - 1)[:, None]
        return (strength * torch.exp(-exponent)).clamp(-_LARGEST, _LARGEST)


def _surroundings(elements: Tensor, bonds: Bonds) -> tuple[Tensor, Tensor, Tensor]:
    """Mean neighbour (N, F), numbers of the surroundings (N, 6), how bound it is (N,)."""
    n, i, j = len(elements), bonds.center, bonds.neighbor

    def total(values: Tensor) -> Tensor:
        return scatter(values, i, n)

    near = bonds.weight * torch.exp(-4 * (bonds.ratio - 1))
    coordination = total(near)
    divisor = coordination.clamp_min(1e-9)
    mean = total(near[:, None] * elements[j]) / divisor[:, None]
    strong = total(bonds.weight * torch.exp(-4 * (bonds.relative - 1)))
    electronegativity = elements[:, PROPERTIES.index("electronegativity")]
    polarity = electronegativity[j] - electronegativity[i]
    numbers = [
        coordination / 8 - 1,
        4 * (total(near * bonds.relative) / divisor - 1),
        strong / 8 - 1,
        total(bonds.weight * torch.exp(-3 * (bonds.relative - 1)) * polarity) / 4,
        total(near * polarity.abs()) / divisor,
        total(near * bonds.distance) / divisor - 2.7,
    ]
    stacked = torch.stack(numbers, 1).clamp(-_OUTLIER, _OUTLIER)
    return mean, stacked, strong / (0.2 + strong)


def _perceptron(n_in: int, n_out: int, config: TightBindingConfig) -> nn.Sequential:
    last = nn.Linear(config.hidden, n_out)
    last.weight.data.mul_(0.1)  # begin with the physics
    last.bias.data.zero_()
    return nn.Sequential(
        nn.Linear(n_in, config.hidden),
        nn.SiLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.hidden),
        nn.SiLU(),
        last,
    )
