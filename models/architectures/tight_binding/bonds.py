"""The edges of a graph that are short enough to be bonds, and what is known of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.architectures.parts.scatter import scatter
from models.errors import ModelError
from models.graphs.graph import GraphBatch

FULL = 1.3
"""Times the nearest distance: bonds up to here count fully."""
_VANISHED = 8.0  # Å, the cutoff of the graph: integrals go to 0 from `_FADING` to there
_FADING = 6.0


@dataclass(frozen=True, eq=False)
class Bonds:
    """The E edges that are short enough to be bonds, and what is known of them.

    Parameters
    ----------
    center, neighbor, graph : Tensor, shape (E,), int64
        Nodes and the crystal, in the batch.
    distance : Tensor, shape (E,)
        In Å.
    relative : Tensor, shape (E,)
        Distance over the sum of the covalent radii.
    ratio : Tensor, shape (E,)
        `relative` over that of the nearest neighbour; of both ends' the farther one counts.
    weight : Tensor, shape (E,)
        1 for near bonds, going to 0 at the reach and at the cutoff of the graph.
    direction : Tensor, shape (E, 3)
    steps : Tensor, shape (E, 3)
        The bond in units of the lattice vectors.
    """

    center: Tensor
    neighbor: Tensor
    graph: Tensor
    distance: Tensor
    relative: Tensor
    ratio: Tensor
    weight: Tensor
    direction: Tensor
    steps: Tensor

    @classmethod
    def of(cls, batch: GraphBatch, radii: Tensor, reach: float) -> Bonds:
        """Bonds of the crystals of a batch, those of each crystal together.

        Parameters
        ----------
        batch : GraphBatch
        radii : Tensor, shape (N,)
            Covalent radii of the atoms in Å.
        reach : float
            Longest bonds, as a multiple of the nearest neighbour's distance; both relative to the
            covalent radii.

        Raises
        ------
        ModelError
            If the graphs have no edge vectors.
        """
        if batch.vector is None or batch.lattice is None:
            raise ModelError("the architecture tight-binding needs graphs with edge vectors")
        relative = batch.distance / (radii[batch.center] + radii[batch.neighbor])
        nearest = scatter(relative, batch.center, len(radii), reduce="min")
        ratio = relative / torch.maximum(nearest[batch.center], nearest[batch.neighbor])
        weight = _fading(ratio, FULL, reach) * _fading(batch.distance, _FADING, _VANISHED)
        some = (weight > 0).nonzero().flatten()
        center = batch.center[some]
        graph = batch.graph_index[center]
        inverse = torch.linalg.inv(batch.lattice.double())
        steps = torch.einsum("ei,eij->ej", batch.vector[some].double(), inverse[graph])
        return cls(
            center,
            batch.neighbor[some],
            graph,
            batch.distance[some],
            relative[some],
            ratio[some],
            weight[some],
            batch.vector[some] / batch.distance[some, None],
            steps.to(batch.distance),
        )


def _fading(x: Tensor, full: float, gone: float) -> Tensor:
    """1 up to `full`, 0 from `gone` on, half a cosine between."""
    return 0.5 * (1 + torch.cos(math.pi * ((x - full) / (gone - full)).clamp(0, 1)))
