"""Levels and counted states with derivatives by formula.

What autograd would record of them takes more time and memory than the levels themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.architectures.tight_binding.slater_koster import N_ORBITALS

_RANGE = 4.0  # eV to either side of the band edges in which widths change


@dataclass(frozen=True, eq=False)
class BlochSum:
    """How bonds add up to Hamiltonians: those between the same two atoms, side by side.

    Parameters
    ----------
    n_atoms : int
    pairs : Tensor, shape (P,), int64
        Centre times `n_atoms` plus neighbour, of all that are bound.
    steps : Tensor, shape (P, most, 3)
        From centre to neighbour, in units of the lattice vectors, padded.
    place : Tensor, shape (E,), int64
        Of each bond among the ``P * most``.
    orbitals : Tensor, shape (M,), int64
        Which of the 10 `n_atoms` orbitals there are.
    """

    n_atoms: int
    pairs: Tensor
    steps: Tensor
    place: Tensor
    orbitals: Tensor

    @classmethod
    def of(
        cls, n_atoms: int, center: Tensor, neighbor: Tensor, steps: Tensor, orbitals: Tensor
    ) -> BlochSum:
        """Sort bonds.

        Parameters
        ----------
        n_atoms : int
        center, neighbor : Tensor, shape (E,), int64
        steps : Tensor, shape (E, 3)
        orbitals : Tensor, shape (M,), int64
        """
        # On the host: these are short lists, and how many pairs there are must be known there.
        pairs, slot, counts = np.unique(
            (center * n_atoms + neighbor).cpu().numpy(), return_inverse=True, return_counts=True
        )
        most, order = int(counts.max()), slot.argsort(kind="stable")
        place = slot * most
        place[order] += np.arange(len(slot)) - (counts.cumsum() - counts).repeat(counts)
        pair, where = (torch.from_numpy(x).to(center.device) for x in (pairs, place))
        padded = steps.new_zeros(len(pairs) * most, 3).index_copy(0, where, steps)
        return cls(n_atoms, pair, padded.view(len(pairs), most, 3), where, orbitals)

    def phases(self, points: Tensor) -> Tensor:
        """Cosines and sines of k r at Q wave vectors, shape (P, most, 2 Q)."""
        angle = self.steps @ (2 * math.pi * points.T)
        return torch.cat([angle.cos(), angle.sin()], dim=2)

    def matrices(self, halves: Tensor, phases: Tensor) -> Tensor:
        """Hamiltonians, complex and Hermitian, shape (Q, M, M).

        Parameters
        ----------
        halves : Tensor, shape (E, 100)
            Half of what each bond adds, in real space.
        phases : Tensor, shape (P, most, 2 Q)
            See :meth:`phases`.
        """
        n, n_points = self.n_atoms, phases.shape[2] // 2
        blocks = halves.new_zeros(self.steps.shape[0] * self.steps.shape[1], N_ORBITALS**2)
        blocks = blocks.index_copy(0, self.place, halves).view(*self.steps.shape[:2], -1)
        sums = phases.mT @ blocks  # (P, 2 Q, 100)
        if len(sums) < n * n:
            sums = sums.new_zeros(n * n, *sums.shape[1:]).index_copy(0, self.pairs, sums)
        sums = sums.view(n, n, 2, n_points, N_ORBITALS, N_ORBITALS).permute(2, 3, 0, 4, 1, 5)
        size = n * N_ORBITALS
        real, imaginary = sums.reshape(2, n_points, size, size).unbind()
        if len(self.orbitals) < size:
            real, imaginary = (
                part.index_select(1, self.orbitals).index_select(2, self.orbitals)
                for part in (real, imaginary)
            )
        return torch.complex(real + real.mT, imaginary - imaginary.mT)

    def halves(self, gradient: Tensor, phases: Tensor) -> Tensor:
        """Derivatives by `halves` of :meth:`matrices`, shape (E, 100), from those by the matrices.

        Parameters
        ----------
        gradient : Tensor, shape (Q, M, M)
            Hermitian: of a number that changes by the trace of it times the change.
        phases : Tensor, shape (P, most, 2 Q)
        """
        n, n_points, size = self.n_atoms, len(gradient), self.n_atoms * N_ORBITALS
        if len(self.orbitals) < size:
            whole = gradient.new_zeros(n_points, size, size)
            whole[:, self.orbitals[:, None], self.orbitals] = gradient
            gradient = whole
        sums = torch.view_as_real(gradient).view(n_points, n, N_ORBITALS, n, N_ORBITALS, 2)
        sums = sums.permute(1, 3, 5, 0, 2, 4).reshape(n * n, 2 * n_points, N_ORBITALS**2)
        if len(self.pairs) < n * n:
            sums = sums.index_select(0, self.pairs)
        return 2 * (phases @ sums).flatten(0, 1).index_select(0, self.place)


def orthogonalized(hamiltonian: Tensor, mixing: Tensor | None = None) -> Tensor:
    """Hamiltonians A H A of orbitals that overlap, with A = 1 + X, shape (Q, M, M).

    Parameters
    ----------
    hamiltonian : Tensor, shape (Q, M, M)
    mixing : Tensor, shape (Q, M, M), optional
        X; without, orbitals are orthogonal.
    """
    if mixing is None:
        return hamiltonian
    a = _one_plus(mixing)
    return a @ hamiltonian @ a


def _one_plus(matrices: Tensor) -> Tensor:
    return matrices + torch.eye(matrices.shape[-1]).to(matrices)


def levels_of(
    bonds: BlochSum, points: Tensor, halves: Tensor, mixing: Tensor | None = None
) -> Tensor:
    """Levels at some wave vectors, rising, shape (Q, M).

    Parameters
    ----------
    bonds : BlochSum
    points : Tensor, shape (Q, 3)
    halves : Tensor, shape (E, 100)
        Of Hamiltonians, see :meth:`BlochSum.matrices`.
    mixing : Tensor, shape (E, 100), optional
        The same of X, see :func:`orthogonalized`.
    """
    if torch.is_grad_enabled() and halves.requires_grad:
        levels: Tensor = _Levels.apply(bonds, points, halves, mixing)
        return levels
    phases = bonds.phases(points)
    parts = [halves] if mixing is None else [halves, mixing]
    return torch.linalg.eigvalsh(orthogonalized(*(bonds.matrices(x, phases) for x in parts)))


class _Levels(torch.autograd.Function):
    """Levels: each follows a change of the Hamiltonian by its state's mean of that change.

    That is the theorem of Hellmann and Feynman (R. P. Feynman, Phys. Rev. 56, 340 (1939)).
    """

    @staticmethod
    def forward(
        ctx: Any, bonds: BlochSum, points: Tensor, halves: Tensor, mixing: Tensor | None
    ) -> Tensor:
        """See :func:`levels_of`."""
        ctx.bonds, phases = bonds, bonds.phases(points)
        matrices = bonds.matrices(halves, phases)
        if mixing is None:
            levels, states = torch.linalg.eigh(matrices)
            ctx.save_for_backward(phases, states)
        else:
            a = _one_plus(bonds.matrices(mixing, phases))
            levels, states = torch.linalg.eigh(a @ matrices @ a)
            ctx.save_for_backward(phases, states, matrices, a)
        return levels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, Tensor | None]:
        """By the halves of H and X."""
        phases, states, *overlapping = ctx.saved_tensors
        density = (states * gradient[:, None, :]) @ states.mH
        if not overlapping:
            return None, None, ctx.bonds.halves(density, phases), None
        matrices, a = overlapping  # tr(D d(A H A)) = tr(A D A dH) + tr((H A D + D A H) dA)
        turned = a @ density
        by_mixing = matrices @ turned
        by_halves = ctx.bonds.halves(turned @ a, phases)
        return None, None, by_halves, ctx.bonds.halves(by_mixing + by_mixing.mH, phases)


def smeared(
    levels: Tensor, counts: Tensor, energies: Tensor, log_width: Tensor, sizes: Sequence[int]
) -> Tensor:
    """States of each of B crystals below some energies, shape (B, K).

    Parameters
    ----------
    levels, counts, energies, log_width : Tensor
        See :func:`models.architectures.tight_binding.bands.states_below`; the levels of one crystal
        after the other.
    sizes : sequence of int
        How many levels each crystal has.
    """
    below: Tensor = _Smeared.apply(levels, counts, energies, log_width, sizes)
    return below


def share_below(levels: Tensor, energies: Tensor, log_width: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each level below each energy, shape (K, L), and their widths, shape (L,), in eV.

    Parameters
    ----------
    levels, energies, log_width : Tensor
        See :func:`models.architectures.tight_binding.bands.states_below`.
    """
    below, above = _sides(levels)
    width = torch.exp(log_width[0] + log_width[1] * below + log_width[2] * above)
    return (energies[:, None] - levels).div_(width).sigmoid_(), width


def _sides(levels: Tensor) -> tuple[Tensor, Tensor]:
    """How far levels are below and above the edges, from 0 to 1, shape (L,) both."""
    return (-levels).clamp(0, _RANGE) / _RANGE, levels.clamp(0, _RANGE) / _RANGE


class _Smeared(torch.autograd.Function):
    """States below some energies."""

    @staticmethod
    def forward(
        ctx: Any,
        levels: Tensor,
        counts: Tensor,
        energies: Tensor,
        log_width: Tensor,
        sizes: Sequence[int],
    ) -> Tensor:
        """See :func:`smeared`."""
        share, width = share_below(levels, energies, log_width)
        ctx.sizes = sizes
        ctx.save_for_backward(levels, counts, energies, log_width, width, share)
        of_crystals = zip(share.split(sizes, dim=1), counts.split(sizes), strict=True)
        return torch.stack([below @ own for below, own in of_crystals])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        """By the levels and `log_width`."""
        levels, counts, energies, log_width, width, share = ctx.saved_tensors
        slope = torch.addcmul(share, share, share, value=-1).split(ctx.sizes, dim=1)
        scale = counts / width
        by_shift, by_product = (
            scale * torch.cat([row @ own for row, own in zip(rows, slope, strict=True)])
            for rows in (gradient, gradient * energies)
        )
        by_width = levels * by_shift - by_product  # by its logarithm
        below, above = _sides(levels)
        rise = log_width[2] * _inside(above) - log_width[1] * _inside(below)
        by_log_width = torch.stack([by_width.sum(), below @ by_width, above @ by_width])
        return by_width * rise / _RANGE - by_shift, None, None, by_log_width, None


def _inside(sides: Tensor) -> Tensor:
    return (sides > 0) & (sides < 1)
