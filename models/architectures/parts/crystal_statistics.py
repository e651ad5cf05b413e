"""A crystal as numbers: what it is made of, its bonds and its sites; nothing is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.parts.layers import register_tables
from models.architectures.parts.scatter import scatter
from models.elements import (
    N_PROPERTIES,
    PROPERTIES,
    atomic_masses,
    covalent_radii,
    element_properties,
)
from models.graphs.graph import GraphBatch

NEAREST = 0.15  # relative to the nearest neighbour's, the length at which a neighbour fades out
N_BOND, N_SITE = 6, 2  # quantities of a bond and of a site


class CrystalStatistics(nn.Module):
    """Statistics of the elements, bonds and sites of each crystal.

    - of the elements' properties over the atoms: mean, deviation, largest and smallest;
    - of the bonds to the nearest neighbours, mean and deviation: length relative to the sum of
      the covalent radii; length d; difference of the electronegativities; sum of the valence
      electrons; logarithm of the inverse reduced mass 1/mu; and of a frequency,
      (1/mu)^(1/2) d^(-3/2);
    - of the sites, like the properties: shortest distance, and logarithm of the number of
      nearest neighbours;
    - mean and shortest distance in the graph.

    Neighbours fade out with their relative length r as exp(-((r / r_1 - 1) / 0.15)^2), r_1 that
    of the nearest one. A supercell has the same statistics.

    Attributes
    ----------
    size : int
        Numbers of a crystal.
    """

    properties: Tensor
    radii: Tensor
    masses: Tensor
    size = 4 * (N_PROPERTIES + N_SITE) + 2 * N_BOND + 2

    def __init__(self) -> None:
        super().__init__()
        register_tables(
            self,
            properties=element_properties(),
            radii=covalent_radii(),
            masses=atomic_masses(),
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """Statistics of shape (B, size)."""
        graph, n = batch.graph_index, len(batch)
        edge_graph = graph[batch.center]
        count = batch.multiplicity[batch.center] * batch.edge_multiplicity
        nearness, bonds = self._nearness(batch), self._bonds(batch)
        sites = self._sites(batch, nearness)
        atoms = torch.cat([self.properties[batch.atomic_numbers], sites], dim=1)
        distance = batch.distance[:, None]
        parts = [
            *_moments(atoms, batch.multiplicity, graph, n),
            scatter(atoms, graph, n, reduce="max"),
            scatter(atoms, graph, n, reduce="min"),
            *_moments(bonds, count * nearness, edge_graph, n),
            _moments(distance, count, edge_graph, n)[0],
            scatter(distance, edge_graph, n, reduce="min"),
        ]
        return torch.cat(parts, dim=1)

    def sites(self, batch: GraphBatch) -> Tensor:
        """Shortest distance, and logarithm of the number of nearest neighbours, shape (N, 2)."""
        return self._sites(batch, self._nearness(batch))

    def relative_distance(self, batch: GraphBatch) -> Tensor:
        """Distances of the edges over the sum of the covalent radii, shape (E,)."""
        numbers = batch.atomic_numbers
        return batch.distance / (
            self.radii[numbers[batch.center]] + self.radii[numbers[batch.neighbor]]
        )

    def _nearness(self, batch: GraphBatch) -> Tensor:
        """How much each edge counts as a bond, shape (E,)."""
        relative, n_nodes = self.relative_distance(batch), len(batch.atomic_numbers)
        shortest = scatter(relative, batch.center, n_nodes, reduce="min")
        return torch.exp(-(((relative / shortest[batch.center] - 1) / NEAREST) ** 2))

    def _bonds(self, batch: GraphBatch) -> Tensor:
        """Quantities of the bonds, shape (E, N_BOND)."""
        ends = [batch.atomic_numbers[i] for i in (batch.center, batch.neighbor)]
        distance = batch.distance
        negativity, valence = (
            self.properties[:, PROPERTIES.index(name)]
            for name in ("electronegativity", "valence_electrons")
        )
        inverse_mass = (1 / self.masses[ends[0]] + 1 / self.masses[ends[1]]).log()
        quantities = [
            self.relative_distance(batch),
            distance,
            (negativity[ends[0]] - negativity[ends[1]]).abs(),
            valence[ends[0]] + valence[ends[1]],
            inverse_mass,
            0.5 * inverse_mass - 1.5 * distance.log(),
        ]
        return torch.stack(quantities, dim=1)

    def _sites(self, batch: GraphBatch, nearness: Tensor) -> Tensor:
        """Quantities of the sites, shape (N, N_SITE)."""
        n_nodes = len(batch.atomic_numbers)
        shortest = scatter(batch.distance, batch.center, n_nodes, reduce="min")
        near = scatter(nearness * batch.edge_multiplicity, batch.center, n_nodes)
        return torch.stack([shortest, near.log()], dim=1)


def _moments(value: Tensor, weight: Tensor, group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation in each group, of shape (n, k) each.

    The square root has no derivative at 0, but nothing is learned before it.
    """
    share = (weight / scatter(weight, group, n)[group])[:, None]
    mean = scatter(share * value, group, n)
    variance = scatter(share * (value - mean[group]).square(), group, n)
    return mean, variance.sqrt()
