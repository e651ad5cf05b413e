"""Graph attention as the equations read, on concatenated features: slow and obviously right.

It takes graphs with all atoms and edges, ``GraphConfig(merge=False)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.parts.layers import CompositionAttention, GraphAttention, GraphEncoder
from models.graphs.graph import GraphBatch


def group_softmax(score: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Softmax over the rows of each group."""
    exponential = torch.exp(score)
    total = torch.zeros(n_groups, *score.shape[1:]).index_add(0, group, exponential)
    return exponential / total[group]


def normalize(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    """Batch normalisation of torch itself; in training, without keeping the statistics."""
    kept = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    return F.batch_norm(rows, *kept, norm.weight, norm.bias, norm.training, 0.0, norm.eps)


def attention(layer: GraphAttention, atoms: Tensor, edges: Tensor, batch: GraphBatch) -> Tensor:
    """W acts on [h, u] of every edge, for the centre and for the neighbour (eqs. 1-3).

    With a context vector, on [h, c, u].
    """
    width = atoms.shape[1]
    weights = [layer.atom.weight, layer.edge.weight]
    if hasattr(layer, "context"):
        atoms = torch.cat([atoms, batch.composition()[batch.graph_index]], dim=1)
        weights.insert(1, layer.context.weight)
    weight = torch.cat(weights, dim=1)  # (heads * width, 2 width)
    shape = (-1, layer.heads, width)
    center = F.softplus(torch.cat([atoms[batch.center], edges], dim=1) @ weight.T).view(shape)
    neighbor = F.softplus(torch.cat([atoms[batch.neighbor], edges], dim=1) @ weight.T).view(shape)
    both = torch.cat([center, neighbor], dim=-1)
    vector = torch.cat([layer.attend_center, layer.attend_neighbor], dim=-1)
    score = F.softplus((both * vector).sum(-1))
    score = F.softplus(normalize(layer.score_norm, score))
    alpha = group_softmax(score, batch.center, len(atoms))
    alpha = layer.dropout(alpha)
    messages = (alpha[:, :, None] * neighbor).mean(1)
    return torch.zeros(len(atoms), width).index_add(0, batch.center, messages) + layer.bias


def pooling(pool: CompositionAttention, atoms: Tensor, batch: GraphBatch) -> Tensor:
    """The composition is put beside every atom's features (eqs. 4-5)."""
    graph = batch.graph_index
    weight = torch.cat([pool.atom.weight, pool.composition.weight], dim=1)
    both = torch.cat([atoms, batch.composition()[graph]], dim=1)
    score = pool.score(F.softplus(both @ weight.T + pool.atom.bias))
    return group_softmax(score, graph, len(batch))


def encode(encoder: GraphEncoder, batch: GraphBatch) -> Tensor:
    """Embeddings (B, width) by the same weights as the encoder's."""
    assert (batch.multiplicity == 1).all()
    assert (batch.edge_multiplicity == 1).all()
    atoms = encoder.embed_element(encoder.descriptors[batch.atomic_numbers])
    edges = F.leaky_relu(encoder.embed_distance(encoder.basis(batch.distance)), 0.2)
    for layer, norm in zip(encoder.layers, encoder.norms, strict=True):
        atoms = F.softplus(normalize(norm, attention(layer, atoms, edges, batch)))
    weighted = atoms * pooling(encoder.pool, atoms, batch)
    total = torch.zeros(len(batch), atoms.shape[1]).index_add(0, batch.graph_index, weighted)
    if not encoder.mean_pooling:
        return total
    return total / torch.bincount(batch.graph_index)[:, None]
