"""Layers that the architectures share: graph attention over crystal graphs, perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.parts.neighbor_sums import FastInference, Neighbors, softplus_of_pairs
from models.architectures.parts.scatter import grouped_softmax, scatter
from models.elements import N_DESCRIPTORS, N_ELEMENTS, element_descriptors
from models.graphs.graph import GraphBatch


class EncoderConfig(BaseModel):
    """Size of the graph encoder.

    Parameters
    ----------
    layers, width, heads : int
        Attention layers (the paper's text has 2, the authors' code 3), features of an atom, and
        attention heads (averaged).
    context : bool
        Put the composition beside each atom's features in the attention layers too: the paper's
        context vector (eq. 2). The authors' code uses the composition for the pooling only.
    pooling : {'attention', 'mean'}
        The embedding of a crystal is the sum of its atoms' features in their attention weights,
        which sum to 1 (text, eqs. 4-5), or that sum divided by the number of atoms: the authors'
        code takes the mean of the weighted features. A supercell then has another embedding.
    dropout : float
        Probability of dropping an attention weight.
    gaussians : int
        Radial basis functions from 0 to `cutoff` Å.
    cutoff : float
        In Å; the spacing of the basis functions, which is also their sigma, follows from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(3, gt=0)
    width: int = Field(128, gt=0)
    heads: int = Field(4, gt=0)
    context: bool = False
    pooling: Literal["attention", "mean"] = "attention"
    dropout: float = Field(0.0, ge=0, lt=1)
    gaussians: int = Field(41, gt=1)
    cutoff: float = Field(8.0, gt=0)


def register_tables(module: nn.Module, **tables: np.ndarray) -> None:
    """Constants as buffers of these names, which are not kept with the weights.

    Parameters
    ----------
    module : Module
    **tables : ndarray
    """
    for name, table in tables.items():
        module.register_buffer(name, torch.from_numpy(table.copy()), persistent=False)


def mlp(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers, each followed by ReLU and dropout.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input and of each layer.
    dropout : float
    """
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def readout(size: int, layers: int, out: int) -> nn.Sequential:
    """A perceptron whose hidden layers are as wide as the input.

    Parameters
    ----------
    size : int
        Width of the input.
    layers : int
        Linear layers.
    out : int
        Width of the output.
    """
    return nn.Sequential(mlp([size] * layers), nn.Linear(size, out))


class GaussianBasis(nn.Module):
    """Distances to Gaussians of them.

    Parameters
    ----------
    size : int
        Gaussians, equally spaced.
    cutoff : float
        Centre of the last one, in Å; the first is at 0.
    """

    centers: Tensor

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0, cutoff, size), persistent=False)
        self.sigma = cutoff / (size - 1)

    def forward(self, distance: Tensor) -> Tensor:
        """Expansion of shape (E, size) of distances (E,) in Å."""
        return torch.exp(-(((distance[:, None] - self.centers) / self.sigma) ** 2))


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows that stand for several equal ones each.

    Merged graphs are normalised with the statistics of all atoms or edges that they stand for.
    """

    def forward(self, rows: Tensor, count: Tensor) -> Tensor:
        """Normalised rows, shape (n, features).

        Parameters
        ----------
        rows : Tensor, shape (n, features)
        count : Tensor, shape (n,)
            How many equal rows each stands for.
        """
        # In the precision of the weights, also where autocast lowers it: variances are differences.
        with torch.autocast(rows.device.type, enabled=False):
            return self._normalized(rows.to(self.weight.dtype), count).to(rows.dtype)

    def _normalized(self, rows: Tensor, count: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        total = count.sum()
        share = count / total
        mean = share @ rows
        variance = share @ (rows - mean).square()
        with torch.no_grad():
            unbiased = variance * total / (total - 1).clamp_min(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (rows - mean) * scale + self.bias


def share_of_group(score: Tensor, count: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Softmax over the rows of each group, of rows that stand for several equal ones each.

    Parameters
    ----------
    score : Tensor, shape (n, k)
    count, group : Tensor, shape (n,)
        How many equal rows each row stands for, and the group that it belongs to.

    Returns
    -------
    Tensor, shape (n, k)
        For the row as a whole, that is, for all that it stands for together.
    """
    return grouped_softmax(score + count.log()[:, None], group, n_groups)


class GraphAttention(nn.Module):
    """One attention layer with edge features (eqs. 1-3).

    A message is softplus(W (h + u)) with h the atom's and u the edge's features side by side, and
    the composition as a third where `context` is set. It is computed as W_h h + W_u u: there are
    12 times fewer atoms than edges. Edges that stand
    for several equal ones count as many times, except that dropout takes all of them or none.

    Parameters
    ----------
    width : int
        Features of an atom and of an edge.
    heads : int
    dropout : float
        Probability of dropping an attention weight.
    context : bool
        See :class:`EncoderConfig`.
    """

    def __init__(self, width: int, heads: int, dropout: float, context: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.atom = nn.Linear(width, heads * width, bias=False)
        self.edge = nn.Linear(width, heads * width, bias=False)
        self.attend_center = nn.Parameter(torch.empty(heads, width))
        self.attend_neighbor = nn.Parameter(torch.empty(heads, width))
        self.score_norm = WeightedBatchNorm(heads)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(width))
        if context:
            self.context = nn.Linear(N_ELEMENTS, heads * width, bias=False)
        for parameter in (self.atom.weight, self.edge.weight):
            nn.init.xavier_uniform_(parameter)
        for parameter in (self.attend_center, self.attend_neighbor):
            nn.init.xavier_uniform_(parameter)

    def forward(self, atoms: Tensor, edges: Tensor, batch: GraphBatch) -> Tensor:
        """New features of the atoms, shape (N, width).

        Parameters
        ----------
        atoms : Tensor, shape (N, width)
        edges : Tensor, shape (E, width)
        batch : GraphBatch
        """
        h, u = self._of_atoms(atoms, batch), self.edge(edges)
        from_center = F.softplus(h.index_select(0, batch.center).add_(u))
        from_neighbor = F.softplus(h.index_select(0, batch.neighbor).add_(u))
        # One product with block-diagonal vectors is much faster than a batch of dot products.
        score = from_center @ torch.block_diag(*self.attend_center).T
        score = score + from_neighbor @ torch.block_diag(*self.attend_neighbor).T
        weight = self._weights(score, batch)
        heads = zip(weight.split(1, dim=1), from_neighbor.chunk(self.heads, dim=1), strict=True)
        messages = sum(w * message for w, message in heads)
        return scatter(messages, batch.center, len(atoms)) + self.bias

    def predicted(self, atoms: Tensor, edges: Tensor, neighbors: Neighbors) -> Tensor:
        """:meth:`forward` where nothing is learned.

        Parameters
        ----------
        atoms : Tensor, shape (N, width)
        edges : Tensor, shape (D, width)
            Of the distances of `neighbors`.
        neighbors : Neighbors
        """
        batch, heads = neighbors.batch, self.heads
        attend = [torch.block_diag(*v) for v in (self.attend_center, self.attend_neighbor)]
        messages_and_scores = softplus_of_pairs(
            self._of_atoms(atoms, batch), self.edge(edges), neighbors, torch.cat(attend).T
        )
        if messages_and_scores is None:
            return self(atoms, edges[neighbors.of_edge], batch)
        messages, scores = messages_and_scores
        center, neighbor = neighbors.pairs[2]
        score = scores[:, :heads].index_select(0, center)
        score += scores[:, heads:].index_select(0, neighbor)
        message_of_edge = heads * neighbor[:, None] + torch.arange(heads)
        messages = messages.view(-1, atoms.shape[1])
        return neighbors.summed(messages, message_of_edge, self._weights(score, batch)) + self.bias

    def _of_atoms(self, atoms: Tensor, batch: GraphBatch) -> Tensor:
        """What the atoms, and the composition, give to messages, shape (N, heads * width)."""
        h = self.atom(atoms)
        if hasattr(self, "context"):
            h = h + self.context(batch.composition())[batch.graph_index]
        return h

    def _weights(self, score: Tensor, batch: GraphBatch) -> Tensor:
        """Weights of the heads' messages, shape (E, heads)."""
        edges_in_all = batch.multiplicity[batch.center] * batch.edge_multiplicity
        score = F.softplus(self.score_norm(F.softplus(score), edges_in_all))
        n_nodes = len(batch.atomic_numbers)
        weight = share_of_group(score, batch.edge_multiplicity, batch.center, n_nodes)
        return self.dropout(weight) / self.heads


class CompositionAttention(nn.Module):
    """Weight of each atom in its crystal, from the atom and the composition (GATGNN).

    Parameters
    ----------
    width : int
        Features of an atom.
    hidden : int
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.atom = nn.Linear(width, hidden)
        self.composition = nn.Linear(N_ELEMENTS, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, atoms: Tensor, batch: GraphBatch) -> Tensor:
        """Weights (N, 1) that sum to 1 over the nodes of each crystal.

        Parameters
        ----------
        atoms : Tensor, shape (N, width)
        batch : GraphBatch
        """
        graph = batch.graph_index
        context = self.composition(batch.composition())[graph]
        score = self.score(F.softplus(self.atom(atoms) + context))
        return share_of_group(score, batch.multiplicity, graph, len(batch))


class GraphEncoder(FastInference):
    """Crystal graphs to embeddings of shape (B, width) (eqs. 1-5).

    With attention pooling, a supercell has the embedding of its primitive cell.
    """

    descriptors: Tensor

    def __init__(self, config: EncoderConfig = EncoderConfig()) -> None:
        super().__init__()
        width = config.width
        register_tables(self, descriptors=element_descriptors())
        self.embed_element = nn.Linear(N_DESCRIPTORS, width)
        self.basis = GaussianBasis(config.gaussians, config.cutoff)
        self.embed_distance = nn.Linear(config.gaussians, width)
        self.layers = nn.ModuleList(
            GraphAttention(width, config.heads, config.dropout, config.context)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(WeightedBatchNorm(width) for _ in range(config.layers))
        self.pool = CompositionAttention(width)
        self.mean_pooling = config.pooling == "mean"

    def forward(self, batch: GraphBatch) -> Tensor:
        """Embeddings, shape (B, width)."""
        atoms = self.embed_element(self.descriptors)[batch.atomic_numbers]
        neighbors = Neighbors.of(batch) if self.goes_fast(batch) else None
        distance = batch.distance if neighbors is None else neighbors.distances
        edges = F.leaky_relu(self.embed_distance(self.basis(distance)), 0.2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            if neighbors is None:
                received = layer(atoms, edges, batch)
            else:
                received = layer.predicted(atoms, edges, neighbors)
            atoms = F.softplus(norm(received, batch.multiplicity))
        weighted = atoms * self.pool(atoms, batch)
        pooled = scatter(weighted, batch.graph_index, len(batch))
        return pooled / batch.n_atoms[:, None] if self.mean_pooling else pooled
