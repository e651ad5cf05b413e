from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import SchNet

from models.graphs.graph import GraphConfig, build_graph, collate
from models.graphs.pyg import to_pyg
from tests.models.model_examples import random_crystals, supercell


class EdgesOf(torch.nn.Module):
    """The edges of a graph, where a model would look for its own."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.edges = data.edge_index, data.edge_weight

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.edges


@pytest.mark.parametrize("config", [GraphConfig(), GraphConfig(vectors=True)])
def test_a_batch_of_pyg_is_ours(config: GraphConfig) -> None:
    graphs = [build_graph(crystal, config) for crystal in random_crystals(5)]
    ours = collate(graphs)
    theirs = Batch.from_data_list([to_pyg(graph, y=torch.ones(1, 4)) for graph in graphs])
    assert torch.equal(theirs.edge_index, torch.stack([ours.neighbor, ours.center]))
    assert torch.equal(theirs.z, ours.atomic_numbers)
    assert torch.equal(theirs.batch, ours.graph_index)
    assert torch.equal(theirs.edge_weight, ours.distance)
    assert torch.equal(theirs.multiplicity, ours.multiplicity.long())
    assert torch.equal(theirs.edge_multiplicity, ours.edge_multiplicity.long())
    assert theirs.y.shape == (5, 4)
    if config.vectors:
        assert torch.equal(theirs.edge_vec, ours.vector)
        assert torch.equal(theirs.lattice, ours.lattice)


def test_a_model_of_pyg_takes_it() -> None:
    """One that knows periodic cells through our edges: a supercell has as much energy per atom."""
    torch.manual_seed(0)
    model = SchNet(hidden_channels=8, num_filters=8, num_interactions=2, num_gaussians=5)
    crystal = random_crystals(3)[2]
    energies = []
    for cell in (crystal, supercell(crystal, (1, 1, 2))):
        data = to_pyg(build_graph(cell, GraphConfig(merge=False)))
        model.interaction_graph = EdgesOf(data)
        energies.append(model(data.z, torch.zeros(data.num_nodes, 3)).item() / data.num_nodes)
    assert energies[1] == pytest.approx(energies[0], rel=1e-4)
    assert energies[0] != 0
