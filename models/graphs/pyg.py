"""Crystal graphs for models of PyTorch Geometric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from models.graphs.graph import CrystalGraph


def to_pyg(graph: CrystalGraph, **properties: Any) -> Data:
    """Graph as PyTorch Geometric has it, for models of one's own.

    Parameters
    ----------
    graph : CrystalGraph
        With ``GraphConfig(merge=False)`` each node is an atom.
    **properties
        Such as ``y``, a spectrum of shape (1, K').

    Returns
    -------
    Data
        ``z`` (n,), atomic numbers; ``edge_index`` (2, e), from the neighbour to the centre;
        ``edge_weight`` (e,), distances in Å; ``edge_vec`` (e, 3), from the centre to the neighbour
        in Å, and ``lattice`` (1, 3, 3), where the graph has them; ``multiplicity`` (n,) and
        ``edge_multiplicity`` (e,), how many atoms and neighbours each stands for.

    Examples
    --------
    >>> import numpy as np
    >>> from models.crystal import Crystal
    >>> from models.graphs.graph import GraphConfig, build_graph
    >>> cscl = Crystal(np.eye(3) * 4.12, [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17])
    >>> data = to_pyg(build_graph(cscl, GraphConfig(merge=False)))
    >>> data.num_nodes, data.num_edges  # 8 unlike and all 6 like neighbours of each
    (2, 28)
    """
    from torch_geometric.data import Data

    fields = {
        "z": torch.from_numpy(graph.atomic_numbers),
        "edge_index": torch.stack(
            [torch.from_numpy(graph.neighbor), torch.from_numpy(graph.center)]
        ),
        "edge_weight": torch.from_numpy(graph.distance),
        "multiplicity": torch.from_numpy(graph.multiplicity),
        "edge_multiplicity": torch.from_numpy(graph.edge_multiplicity),
    }
    if graph.vector is not None and graph.lattice is not None:
        fields["edge_vec"] = torch.from_numpy(graph.vector)
        fields["lattice"] = torch.from_numpy(graph.lattice)[None]
    return Data(num_nodes=len(graph.atomic_numbers), **fields, **properties)
