"""Structure to crystal graph (eqs. 1-5), and many graphs to one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from vesin import NeighborList

from models.crystal import ELEMENTS, Crystal
from models.distances import overlapping
from models.elements import N_ELEMENTS
from models.errors import ModelError
from models.graphs.equivalence import distance_steps, equivalent_atoms

if TYPE_CHECKING:
    from pymatgen.core import Structure


class GraphConfig(BaseModel):
    """What becomes an edge, and which cells are refused.

    Parameters
    ----------
    cutoff : float
        Largest distance of a neighbour, in Å.
    neighbors : int
        Neighbours of each atom. Those as near as the last one are kept too, so that the graph
        does not depend on the order of the atoms or the choice of the cell.
    tie_tolerance : float
        Distances that differ by less than this are equal, in Å.
    min_distance : float
        Atoms nearer than this overlap, in Å, as do those that are nearer than 0.6 times the sum
        of their covalent radii (:data:`models.distances.OVERLAP`): the structure is refused.
    max_atoms : int
        Largest cell.
    vectors : bool
        Keep the direction of every edge, and the cell, too; only some architectures need them.
    merge : bool
        One node for all atoms, and one edge for all neighbours, that distances cannot tell
        apart, with its multiplicity: the same spectrum from a fraction of the work. Graphs with
        vectors are never merged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float = Field(8.0, gt=0)
    neighbors: int = Field(12, gt=0)
    tie_tolerance: float = Field(1e-3, ge=0)
    min_distance: float = Field(0.5, ge=0)
    max_atoms: int = Field(1000, gt=0)
    vectors: bool = False
    merge: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class CrystalGraph:
    """Nodes and directed edges of one crystal, edges sorted by their centre.

    A node stands for one atom, or for several that have the same surroundings (see
    :func:`merged`).

    Parameters
    ----------
    atomic_numbers : ndarray, shape (n,), int64
    multiplicity : ndarray, shape (n,), int64
        Atoms of the cell that a node stands for.
    center, neighbor : ndarray, shape (e,), int64
        An edge carries a message from `neighbor` to `center`.
    distance : ndarray, shape (e,), float32
        In Å.
    edge_multiplicity : ndarray, shape (e,), int64
        Neighbours of one centre atom that an edge stands for.
    vector : ndarray, shape (e, 3), float32, optional
        From `center` to `neighbor`, in Å.
    lattice : ndarray, shape (3, 3), float32, optional
        Lattice vectors as rows, in Å; there if `vector` is.
    """

    atomic_numbers: np.ndarray
    multiplicity: np.ndarray
    center: np.ndarray
    neighbor: np.ndarray
    distance: np.ndarray
    edge_multiplicity: np.ndarray
    vector: np.ndarray | None = None
    lattice: np.ndarray | None = None


def build_graph(crystal: Crystal, config: GraphConfig = GraphConfig()) -> CrystalGraph:
    """Graph of the nearest neighbours of every atom.

    Parameters
    ----------
    crystal : Crystal
    config : GraphConfig

    Raises
    ------
    ModelError
        If the cell is too large, atoms overlap, an atom has no neighbour within the cutoff, or
        an element has no descriptor.

    Examples
    --------
    >>> po = Crystal(np.eye(3) * 3.35, [[0, 0, 0]], [84])
    >>> build_graph(po).edge_multiplicity  # 6 nearest and all 12 next-nearest neighbours
    array([ 6, 12])
    """
    numbers = crystal.atomic_numbers
    if len(numbers) > config.max_atoms:
        raise ModelError(f"{len(numbers)} atoms in the cell; the limit is {config.max_atoms}")
    if numbers.max() > N_ELEMENTS:
        raise ModelError(f"element {ELEMENTS[numbers.max()]} has no descriptor")
    if len(numbers) > crystal.volume:  # diamond has 0.18 atoms/Å^3
        raise ModelError(f"{len(numbers)} atoms in {crystal.volume:.3g} Å^3: atoms overlap")
    positions = crystal.frac_coords @ crystal.lattice
    # Most cells have all their nearest neighbours within 5 Å, a fourth of the pairs.
    for cutoff in (min(5.0, config.cutoff), config.cutoff):
        center, neighbor, distance, *vectors = NeighborList(cutoff=cutoff, full_list=True).compute(
            points=positions,
            box=crystal.lattice,
            periodic=True,
            quantities="ijdD" if config.vectors else "ijd",
        )
        k = _overlap(numbers, center, neighbor, distance, config.min_distance)
        if k is not None:
            raise ModelError(
                f"atoms {center[k]} ({ELEMENTS[numbers[center[k]]]}) and {neighbor[k]} "
                f"({ELEMENTS[numbers[neighbor[k]]]}) overlap: {distance[k]:.3f} Å apart"
            )
        keep, complete = _nearest(center, distance, len(numbers), cutoff, config)
        if complete:
            break
    center, neighbor, distance = center[keep], neighbor[keep], distance[keep]
    lonely = np.bincount(center.astype(np.int64), minlength=len(numbers)) == 0
    if lonely.any():
        raise ModelError(f"atom {int(lonely.argmax())} has no neighbour within {config.cutoff} Å")
    graph = CrystalGraph(
        numbers,
        np.ones_like(numbers),
        center.astype(np.int64),
        neighbor.astype(np.int64),
        distance.astype(np.float32),
        np.ones(len(distance), np.int64),
        vectors[0][keep].astype(np.float32) if vectors else None,
        crystal.lattice.astype(np.float32) if vectors else None,
    )
    return merged(graph) if config.merge and not config.vectors else graph


def _overlap(
    numbers: np.ndarray, i: np.ndarray, j: np.ndarray, distance: np.ndarray, smallest: float
) -> int | None:
    """A pair of atoms that overlap, None if there is none."""
    if len(distance) and distance.min() < smallest:
        return int(distance.argmin())
    return overlapping(numbers, i, j, distance)


def merged(graph: CrystalGraph) -> CrystalGraph:
    """The graph with one node for atoms, and one edge for neighbours, that look the same.

    A model that sees elements and distances gives all atoms of a class of
    :func:`models.graphs.equivalence.equivalent_atoms` the same features, so one of them with its
    multiplicity says as much as all. Most cells shrink to a fourth of their edges, small
    symmetric ones to a tenth.
    """
    color = equivalent_atoms(graph.atomic_numbers, graph.center, graph.neighbor, graph.distance)
    _, first, counts = np.unique(color, return_index=True, return_counts=True)
    order = np.argsort(first)  # nodes in the order of the atoms that represent them
    representative, multiplicity = first[order], counts[order]
    node = np.argsort(order)[color]
    edges = np.flatnonzero(np.isin(graph.center, representative))
    center, neighbor = node[graph.center[edges]], node[graph.neighbor[edges]]
    steps = distance_steps(graph.distance[edges])
    same = (center * len(first) + neighbor) * (steps.max() + 1) + steps
    _, first_of_equal, edge_multiplicity = np.unique(same, return_index=True, return_counts=True)
    return CrystalGraph(
        graph.atomic_numbers[representative],
        multiplicity,
        center[first_of_equal],
        neighbor[first_of_equal],
        graph.distance[edges][first_of_equal],
        edge_multiplicity,
    )


def _nearest(
    center: np.ndarray, distance: np.ndarray, n_atoms: int, cutoff: float, config: GraphConfig
) -> tuple[np.ndarray, bool]:
    """Indices of the edges to keep, sorted by centre, and whether `cutoff` was wide enough."""
    order = np.lexsort((distance, center))
    counts = np.bincount(center.astype(np.int64), minlength=n_atoms)
    first = np.cumsum(counts) - counts
    farthest = np.full(n_atoms, np.inf)
    full = counts >= config.neighbors
    sorted_distance = distance[order]
    farthest[full] = sorted_distance[first[full] + config.neighbors - 1] + config.tie_tolerance
    keep = order[sorted_distance <= np.repeat(farthest, counts)]
    return keep, bool((farthest < cutoff).all())


@dataclass(frozen=True, eq=False, slots=True)
class GraphBatch:
    """Graphs laid end to end, as tensors.

    With B graphs, N nodes and E edges in all:

    Parameters
    ----------
    atomic_numbers : Tensor, shape (N,), int64
    multiplicity : Tensor, shape (N,), float32
        Atoms that a node stands for.
    center, neighbor : Tensor, shape (E,), int64
        Node indices in the batch; `center` is sorted.
    distance : Tensor, shape (E,), float32
        In Å.
    edge_multiplicity : Tensor, shape (E,), float32
        Neighbours of one atom that an edge stands for.
    n_nodes, n_edges : Tensor, shape (B,), int64
        Nodes and edges of each graph.
    n_atoms : Tensor, shape (B,), int64
        Atoms of each cell.
    vector : Tensor, shape (E, 3), float32, optional
        From `center` to `neighbor`, in Å.
    lattice : Tensor, shape (B, 3, 3), float32, optional
        Lattice vectors as rows, in Å; there if `vector` is.
    """

    atomic_numbers: torch.Tensor
    multiplicity: torch.Tensor
    center: torch.Tensor
    neighbor: torch.Tensor
    distance: torch.Tensor
    edge_multiplicity: torch.Tensor
    n_nodes: torch.Tensor
    n_edges: torch.Tensor
    n_atoms: torch.Tensor
    vector: torch.Tensor | None = None
    lattice: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.n_nodes)

    @property
    def graph_index(self) -> torch.Tensor:
        """Graph of each node, shape (N,)."""
        graphs = torch.arange(len(self), device=self.n_nodes.device)
        return graphs.repeat_interleave(self.n_nodes, output_size=len(self.atomic_numbers))

    def composition(self) -> torch.Tensor:
        """Atomic fractions over the elements H to Lr, shape (B, 103)."""
        counts = self.distance.new_zeros(len(self), N_ELEMENTS)
        atoms = self.multiplicity.to(counts.dtype)
        counts.index_put_((self.graph_index, self.atomic_numbers - 1), atoms, accumulate=True)
        return counts / self.n_atoms[:, None]

    def to(self, device: Any, non_blocking: bool = False) -> GraphBatch:
        """The same batch on another device.

        Parameters
        ----------
        device : str or torch.device
        non_blocking : bool
            As for tensors.
        """
        tensors = (getattr(self, f.name) for f in fields(self))
        moved = (t if t is None else t.to(device, non_blocking=non_blocking) for t in tensors)
        return GraphBatch(*moved)

    def pin_memory(self) -> GraphBatch:
        """The same batch in memory from which a GPU is sent to while the processor goes on."""
        tensors = (getattr(self, f.name) for f in fields(self))
        return GraphBatch(*(t if t is None else t.pin_memory() for t in tensors))

    def select(self, graphs: torch.Tensor, totals: tuple[int, int] | None = None) -> GraphBatch:
        """Batch of some of the graphs, in their order.

        Parameters
        ----------
        graphs : Tensor, shape (b,), int64
        totals : tuple of int, optional
            Nodes and edges of the batch, where they are known: then no device is waited for.
        """
        n_nodes, n_edges = self.n_nodes[graphs], self.n_edges[graphs]
        all_nodes, all_edges = totals or (int(n_nodes.sum()), int(n_edges.sum()))
        old_first = self.n_nodes.cumsum(0)[graphs] - n_nodes
        nodes = _ranges(old_first, n_nodes, all_nodes)
        edges = _ranges(self.n_edges.cumsum(0)[graphs] - n_edges, n_edges, all_edges)
        # A node index moves by as much as the first node of its graph does.
        shift = n_nodes.cumsum(0) - n_nodes - old_first
        shift = shift.repeat_interleave(n_edges, output_size=all_edges)
        return GraphBatch(
            self.atomic_numbers[nodes],
            self.multiplicity[nodes],
            self.center[edges] + shift,
            self.neighbor[edges] + shift,
            self.distance[edges],
            self.edge_multiplicity[edges],
            n_nodes,
            n_edges,
            self.n_atoms[graphs],
            None if self.vector is None else self.vector[edges],
            None if self.lattice is None else self.lattice[graphs],
        )


def _ranges(starts: torch.Tensor, lengths: torch.Tensor, total: int) -> torch.Tensor:
    """Concatenation of ``arange(start, start + length)``, `total` numbers in all."""
    offset = starts - (lengths.cumsum(0) - lengths)
    positions = torch.arange(total, device=starts.device)
    return positions + offset.repeat_interleave(lengths, output_size=total)


def collate(graphs: Sequence[CrystalGraph]) -> GraphBatch:
    """One batch of all `graphs`."""
    n_nodes = np.array([len(g.atomic_numbers) for g in graphs])
    n_edges = np.array([len(g.distance) for g in graphs])
    n_atoms = np.array([g.multiplicity.sum() for g in graphs])
    shift = np.repeat(np.cumsum(n_nodes) - n_nodes, n_edges)
    vectors = [g.vector for g in graphs if g.vector is not None]
    lattices = [g.lattice for g in graphs if g.lattice is not None]
    return GraphBatch(
        torch.from_numpy(np.concatenate([g.atomic_numbers for g in graphs])),
        torch.from_numpy(np.concatenate([g.multiplicity for g in graphs])).float(),
        torch.from_numpy(np.concatenate([g.center for g in graphs]) + shift),
        torch.from_numpy(np.concatenate([g.neighbor for g in graphs]) + shift),
        torch.from_numpy(np.concatenate([g.distance for g in graphs])),
        torch.from_numpy(np.concatenate([g.edge_multiplicity for g in graphs])).float(),
        torch.from_numpy(n_nodes),
        torch.from_numpy(n_edges),
        torch.from_numpy(n_atoms),
        torch.from_numpy(np.concatenate(vectors)) if len(vectors) == len(graphs) else None,
        torch.from_numpy(np.stack(lattices)) if len(lattices) == len(graphs) else None,
    )


def edge_budget_batches(n_edges: Sequence[int], budget: int) -> Iterator[np.ndarray]:
    """Indices of graphs of similar size for each batch.

    Parameters
    ----------
    n_edges : sequence of int
        Of each graph.
    budget : int
        Most edges of a batch; a graph that has more is a batch of its own.

    Examples
    --------
    >>> [batch.tolist() for batch in edge_budget_batches([30, 10, 90, 20], budget=60)]
    [[1, 3, 0], [2]]
    """
    sizes = np.asarray(n_edges)
    order = np.argsort(sizes, kind="stable")
    start, total = 0, 0
    for position, index in enumerate(order):
        if total + sizes[index] > budget and position > start:
            yield order[start:position]
            start, total = position, 0
        total += sizes[index]
    if start < len(order):
        yield order[start:]


def build_graphs(
    structures: Iterable[Crystal | Structure], config: GraphConfig = GraphConfig()
) -> list[CrystalGraph | str]:
    """Graphs of many structures, in order; where there is none, the reason stands instead.

    Parameters
    ----------
    structures : iterable of Crystal or Structure
    config : GraphConfig
    """
    return [_graph_or_reason(structure, config) for structure in structures]


def _graph_or_reason(structure: Crystal | Structure, config: GraphConfig) -> CrystalGraph | str:
    try:
        ordered = isinstance(structure, Crystal)
        return build_graph(structure if ordered else Crystal.from_structure(structure), config)
    except ModelError as error:
        return str(error)
