"""What predictions on a CPU do differently: the same sums over neighbours by fewer operations.

A message depends on its edge by the distance alone, and an atom is the same seen from either end of
an edge. So what is computed of an atom and a distance is computed once for all edges that share
both. Nothing of it is needed again for gradients, which saves most of the memory. Results differ
by rounding, which is why trainings, and the errors that they report, do without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.graphs.graph import GraphBatch

BLOCK = 512  # pairs whose features are worked on at a time, so that they stay in the cache
LARGEST = 40.0  # exponent of an atom: what then underflows to 0 in a product is below 1e-20


class FastInference(nn.Module):
    """A module that has a faster way for predictions, which :func:`predict_fast` switches on."""

    predicts_fast = False

    def goes_fast(self, batch: GraphBatch) -> bool:
        """Whether the faster way is allowed, and made for this batch."""
        distance = batch.distance
        return (
            self.predicts_fast
            and not self.training
            and torch.is_inference_mode_enabled()
            and distance.device.type == "cpu"
            and distance.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )


def predict_fast(model: nn.Module) -> None:
    """Let a model that is not trained any more predict the faster way where it has one."""
    for module in model.modules():
        if isinstance(module, FastInference):
            module.predicts_fast = True


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The edges of a batch, by what they share.

    Parameters
    ----------
    batch : GraphBatch
    distances : Tensor, shape (D,)
        The different ones among the edges', in Å.
    of_edge : Tensor, shape (E,), int64
        Which of them is each edge's.
    """

    batch: GraphBatch
    distances: Tensor
    of_edge: Tensor
    _room: Tensor = field(default_factory=lambda: torch.empty(0, 0), repr=False)

    @classmethod
    def of(cls, batch: GraphBatch) -> Neighbors:
        """Those of a batch, whose distances are equal to the last bit or different."""
        bits, of_edge = torch.unique(batch.distance.view(torch.int32), return_inverse=True)
        return cls(batch, bits.view(torch.float32), of_edge)

    @cached_property
    def first_edges(self) -> Tensor:
        """First edge of each node, shape (N,): edges are sorted by their centre."""
        nodes = torch.arange(len(self.batch.atomic_numbers))
        return torch.searchsorted(self.batch.center, nodes)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes and distances, shape (P,) each, and the pair of each end of each edge (2, E).

        The first end is the centre.
        """
        n = len(self.distances)
        ends = torch.stack([self.batch.center, self.batch.neighbor])
        keys, pair_of_end = torch.unique(ends * n + self.of_edge, return_inverse=True)
        return keys // n, keys % n, pair_of_end

    @cached_property
    def numbers(self) -> Tensor:
        """Numbers of the edges, shape (E, 1)."""
        return torch.arange(len(self.of_edge))[:, None]

    @cached_property
    def parts(self) -> Tensor:
        """Rows of each edge among N of centres, N of neighbours and D of distances, (E, 3)."""
        n, batch = len(self.batch.atomic_numbers), self.batch
        return torch.stack([batch.center, n + batch.neighbor, 2 * n + self.of_edge], dim=1)

    def room(self, k: int) -> Tensor:
        """Memory for k features of each pair, the same for all layers: it is made only once."""
        if self._room.shape[1] != k:
            self._room.resize_(len(self.pairs[0]), k)
        return self._room

    def summed(self, rows: Tensor, row_of_edge: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum over the edges of each node, shape (N, k).

        Parameters
        ----------
        rows : Tensor, shape (n, k)
        row_of_edge : Tensor, shape (E, m), int64
        weight : Tensor, E * m numbers
            Of the rows.
        """
        return F.embedding_bag(
            row_of_edge.reshape(-1),
            rows,
            self.first_edges * row_of_edge.shape[1],
            mode="sum",
            per_sample_weights=weight.reshape(-1),
        )


def softplus_of_pairs(
    atoms: Tensor, edges: Tensor, neighbors: Neighbors, vectors: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Softplus of the sum of an atom's and a distance's features, and products with it.

    softplus(h + u) is log(1 + exp(h) exp(u)): one logarithm a pair, one exponential an atom and a
    distance. None where these numbers are too large for that.

    Parameters
    ----------
    atoms : Tensor, shape (N, k)
        Overwritten.
    edges : Tensor, shape (D, k)
        Overwritten.
    neighbors : Neighbors
    vectors : Tensor, shape (k, m)

    Returns
    -------
    tuple of Tensor
        Of each pair, shape (P, k), until the next call for these neighbours; its product with
        the vectors, shape (P, m).
    """
    if not atoms.abs().max() < LARGEST:  # else no product of what is rounded to 0 matters
        return None
    nodes, distances, _ = neighbors.pairs
    rows = neighbors.room(atoms.shape[1])
    products = atoms.new_empty(len(nodes), vectors.shape[1])
    atoms.exp_()
    edges.exp_()
    for start in range(0, len(nodes), BLOCK):
        block = slice(start, start + BLOCK)
        torch.index_select(atoms, 0, nodes[block], out=rows[block])
        rows[block].mul_(edges.index_select(0, distances[block])).add_(1).log_()
        torch.mm(rows[block], vectors, out=products[block])
    return (rows, products) if products.isfinite().all() else None
