"""What a tight-binding model says of a crystal besides its spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.architectures.tight_binding.bands import (
    fill,
    from_edges,
    projected_levels,
    states_below,
)
from models.architectures.tight_binding.model import TightBinding
from models.architectures.tight_binding.slater_koster import N_ORBITALS, SHELL_OF_ORBITAL
from models.crystal import Crystal
from models.errors import ModelError
from models.graphs.graph import GraphConfig, build_graph, collate
from models.spectra.spectrum import EnergyGrid

SHELLS = ("s", "p", "d", "f")
_SHELL = (0, 1, 2, 0)  # s* counts as s
_F = SHELLS.index("f")


@dataclass(frozen=True, eq=False)
class ElectronicStructure:
    """Band edges of a crystal, and its DOS by atom and shell.

    Parameters
    ----------
    grid : EnergyGrid
        Relative to the band edges, between which there is nothing.
    projected_dos : ndarray, shape (n, 4, K')
        States/eV/cell on each atom in its s, p, d and f orbitals; diffuse s* count as s.
    fermi_level : float
        In eV; the middle of the gap in an insulator. Its zero is about the vacuum level of the free
        atoms, and differs between crystals.
    valence_band_maximum, conduction_band_minimum : float
        In eV on the same scale; both the Fermi level in a metal.
    """

    grid: EnergyGrid
    projected_dos: np.ndarray
    fermi_level: float
    valence_band_maximum: float
    conduction_band_minimum: float

    @property
    def band_gap(self) -> float:
        """In eV; 0 in a metal."""
        return self.conduction_band_minimum - self.valence_band_maximum

    @property
    def dos(self) -> np.ndarray:
        """States/eV/cell, shape (K',)."""
        total: np.ndarray = self.projected_dos.sum((0, 1))
        return total


@torch.inference_mode()
def electronic_structure(
    model: TightBinding, crystal: Crystal, graph: GraphConfig
) -> ElectronicStructure:
    """Band edges and projected DOS of a crystal; the mean of the model's members.

    Takes 1.5 to 2 times as long as the spectrum alone (2 and 16 atoms, one CPU thread).

    Parameters
    ----------
    model : TightBinding
    crystal : Crystal
    graph : GraphConfig
        That of the checkpoint of the model.

    Raises
    ------
    ModelError
        If there is no graph, or the model refuses the crystal.

    Examples
    --------
    >>> from models.training.checkpoint import load_checkpoint
    >>> from models.zoo import ZOO
    >>> checkpoint = load_checkpoint(ZOO / "tight-binding-edos" / "sumnorm-kl")
    >>> fcc = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    >>> salt = Crystal(fcc, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    >>> structure = electronic_structure(checkpoint.model, salt, checkpoint.card.graph)
    >>> round(structure.band_gap), structure.projected_dos.shape  # eV; atom, shell, bin
    (4, (2, 4, 128))
    """
    made = build_graph(crystal, graph)
    if reason := model.refusal(made):
        raise ModelError(reason)
    batch = collate([made]).to(model.edges.device)
    mesh = model.mesh(batch, 0).to(model.edges)
    electrons = float(model.n_electrons(batch))
    dos, ends = [], []
    for member in model.networks:
        integrals = next(model.integrals(batch, member))
        atom_and_shell = _groups(model, batch.atomic_numbers, integrals.orbitals)
        levels, shares = projected_levels(integrals, mesh.points, atom_and_shell)
        edges = fill(levels, mesh.weights, electrons)
        relative, counts = from_edges(levels, edges), 2 * mesh.weights[:, None, None] * shares
        below = states_below(
            relative.flatten(), counts.flatten(0, 1), model.edges, member.log_width
        )
        dos.append(below.diff(dim=0).clamp_min(0) / model.config.grid.width)
        ends.append(torch.stack([edges.vbm, edges.cbm]))
    mean = torch.stack(dos).mean(0)
    projected = torch.zeros(len(mean), len(crystal) * len(SHELLS)).to(mean)
    projected[:, : mean.shape[1]] = mean
    vbm, cbm = torch.stack(ends).mean(0).tolist()
    return ElectronicStructure(
        model.config.grid,
        projected.T.reshape(len(crystal), len(SHELLS), -1).cpu().numpy(),
        (vbm + cbm) / 2,
        vbm,
        cbm,
    )


def _groups(model: TightBinding, numbers: Tensor, orbitals: Tensor) -> Tensor:
    """Atom times 4 plus shell of each orbital, those of the 4f levels last."""
    shell = torch.tensor([_SHELL[s] for s in SHELL_OF_ORBITAL]).to(orbitals)
    of_orbital = orbitals // N_ORBITALS * len(SHELLS) + shell[orbitals % N_ORBITALS]
    with_f = (~model.flat_level[model.stand_in[numbers]].isnan()).nonzero().flatten()
    return torch.cat([of_orbital, (with_f * len(SHELLS) + _F).repeat_interleave(7)])
