from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.crystal import Crystal
from models.errors import ModelError
from models.graphs.graph import (
    CrystalGraph,
    GraphConfig,
    build_graph,
    build_graphs,
    collate,
    edge_budget_batches,
)
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystal,
    random_crystals,
    rocksalt,
    supercell,
)

Edge = tuple[int, int, float]
ALL_EDGES = GraphConfig(merge=False)


def edges_of(graph: CrystalGraph) -> list[Edge]:
    """Sorted (centre, neighbour, distance to 1e-3 Å)."""
    triples = zip(
        graph.center.tolist(),
        graph.neighbor.tolist(),
        np.round(graph.distance.astype(float), 3).tolist(),
        strict=True,
    )
    return sorted(triples)


def brute_force_edges(crystal: Crystal, config: GraphConfig) -> list[Edge]:
    """Distances to all images in a box that is surely large enough, atom by atom."""
    inverse = np.linalg.inv(crystal.lattice)
    reach = np.ceil(config.cutoff * np.linalg.norm(inverse, axis=0)).astype(int) + 2
    images = np.array(
        [
            (a, b, c)
            for a in range(-reach[0], reach[0] + 1)
            for b in range(-reach[1], reach[1] + 1)
            for c in range(-reach[2], reach[2] + 1)
        ]
    )
    edges = []
    for i, center in enumerate(crystal.frac_coords):
        around = []
        for j, other in enumerate(crystal.frac_coords):
            distance = np.linalg.norm((other + images - center) @ crystal.lattice, axis=1)
            around += [(d, j) for d in distance if 1e-8 < d <= config.cutoff]
        around.sort()
        last = around[min(config.neighbors, len(around)) - 1][0] + config.tie_tolerance
        edges += [(i, j, round(float(np.float32(d)), 3)) for d, j in around if d <= last]
    return sorted(edges)


def assert_same_edges(found: list[Edge], expected: list[Edge]) -> None:
    assert [e[:2] for e in found] == [e[:2] for e in expected]
    np.testing.assert_allclose([e[2] for e in found], [e[2] for e in expected], atol=1.1e-3)


def neighbourhoods(graph: CrystalGraph) -> list[tuple]:
    """What each atom sees: its element, and elements and distances around it."""
    numbers = graph.atomic_numbers
    around: list[list[tuple[float, int]]] = [[] for _ in numbers]
    for i, j, d in zip(graph.center, graph.neighbor, graph.distance, strict=True):
        around[i].append((round(float(d), 2), int(numbers[j])))
    return sorted((int(z), tuple(sorted(a))) for z, a in zip(numbers, around, strict=True))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_edges_equal_brute_force(seed: int, n_atoms: int) -> None:
    crystal = random_crystal(np.random.default_rng(seed), n_atoms)
    assert_same_edges(
        edges_of(build_graph(crystal, ALL_EDGES)), brute_force_edges(crystal, ALL_EDGES)
    )


@pytest.mark.parametrize("neighbors", [1, 6, 30])
@pytest.mark.parametrize("cutoff", [4.5, 8.0, 9.5])
def test_every_configuration_equals_brute_force(cutoff: float, neighbors: int) -> None:
    config = GraphConfig(cutoff=cutoff, neighbors=neighbors, merge=False)
    for crystal in [rocksalt(), *random_crystals(3, seed=5)]:
        assert_same_edges(
            edges_of(build_graph(crystal, config)), brute_force_edges(crystal, config)
        )


def test_edges_are_among_pymatgens_neighbours() -> None:
    crystal = random_crystal(np.random.default_rng(7), 6)
    graph = build_graph(crystal, ALL_EDGES)
    structure = crystal.to_structure()
    for i, around in enumerate(structure.get_all_neighbors(8.0)):
        distances = sorted(n.nn_distance for n in around)[:12]
        found = np.sort(graph.distance[graph.center == i])[:12]
        np.testing.assert_allclose(found, distances, atol=1e-4)


def test_a_skewed_cell_has_the_edges_of_the_plain_one() -> None:
    plain = rocksalt()
    transform = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]])
    skewed = Crystal(
        transform @ plain.lattice,
        plain.frac_coords @ np.linalg.inv(transform),
        plain.atomic_numbers,
    )
    assert neighbourhoods(build_graph(skewed, ALL_EDGES)) == neighbourhoods(
        build_graph(plain, ALL_EDGES)
    )


def test_vectors_lead_from_the_centre_to_an_image_of_the_neighbour() -> None:
    crystal = random_crystal(np.random.default_rng(3), 6)
    graph = build_graph(crystal, GraphConfig(vectors=True))
    assert graph.vector is not None
    np.testing.assert_allclose(np.linalg.norm(graph.vector, axis=1), graph.distance, rtol=1e-5)
    sites = crystal.frac_coords
    images = sites[graph.center] - sites[graph.neighbor]
    images = images + graph.vector @ np.linalg.inv(crystal.lattice)
    np.testing.assert_allclose(images, np.round(images), atol=1e-5)
    np.testing.assert_allclose(graph.lattice, crystal.lattice, rtol=1e-6)
    without = build_graph(crystal)
    assert without.vector is None
    assert without.lattice is None


def test_ties_are_kept() -> None:
    """Six neighbours at a, all twelve at sqrt(2) a although only six more were asked for."""
    simple_cubic = Crystal(3.35 * np.eye(3), [[0, 0, 0]], [84])
    distance = build_graph(simple_cubic, ALL_EDGES).distance
    np.testing.assert_allclose(np.sort(distance), [3.35] * 6 + [3.35 * 2**0.5] * 12, rtol=1e-6)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2), (3, 1, 2)])
def test_a_supercell_has_the_same_neighbourhoods(repeats: tuple[int, int, int]) -> None:
    for crystal in [rocksalt(), *random_crystals(4, seed=2)]:
        once = neighbourhoods(build_graph(crystal, ALL_EDGES))
        many = neighbourhoods(build_graph(supercell(crystal, repeats), ALL_EDGES))
        assert many == sorted(once * int(np.prod(repeats)))


def test_the_order_of_the_atoms_only_renumbers_the_edges() -> None:
    rng = np.random.default_rng(4)
    crystal = random_crystal(rng, 7)
    order = rng.permutation(7)
    shuffled = build_graph(permuted(crystal, order), ALL_EDGES)
    renamed = sorted((order[i], order[j], d) for i, j, d in edges_of(shuffled))
    assert_same_edges(renamed, edges_of(build_graph(crystal, ALL_EDGES)))


def test_edges_are_sorted_by_centre_and_typed() -> None:
    graph = build_graph(random_crystal(np.random.default_rng(0), 5))
    assert (np.diff(graph.center) >= 0).all()
    assert graph.center.dtype == graph.neighbor.dtype == graph.atomic_numbers.dtype == np.int64
    assert graph.distance.dtype == np.float32


@pytest.mark.parametrize(
    ("crystal", "message"),
    [
        (Crystal(4 * np.eye(3), [[0, 0, 0], [0.02, 0, 0]], [3, 3]), r"overlap: 0.080 Å apart"),
        (Crystal(4 * np.eye(3), [[0, 0, 0], [0, 0, 0]], [3, 3]), "overlap"),
        (Crystal(4 * np.eye(3), [[0, 0, 0], [1, 0, 0]], [3, 3]), "overlap"),
        (Crystal(0.9 * np.eye(3), [[0, 0, 0]], [3]), "atoms overlap"),
        (Crystal(np.diag([0.3, 9.0, 9.0]), [[0, 0, 0]], [3]), "overlap: 0.300"),
        (Crystal(20 * np.eye(3), [[0, 0, 0]], [3]), "atom 0 has no neighbour within 8.0"),
        (
            Crystal(30 * np.eye(3), [[0.5, 0.5, 0.5], [0, 0, 0], [0.1, 0, 0]], [3, 3, 3]),
            "atom 0 has no neighbour",
        ),
        (Crystal(4 * np.eye(3), [[0, 0, 0]], [104]), "element Rf has no descriptor"),
        (
            Crystal(100 * np.eye(3), np.random.default_rng(0).random((1001, 3)), [3] * 1001),
            "1001 atoms in the cell; the limit is 1000",
        ),
    ],
)
def test_what_cannot_be_a_graph_is_refused(crystal: Crystal, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_graph(crystal)


def test_many_structures_give_graphs_or_reasons() -> None:
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    lonely = Crystal(20 * np.eye(3), [[0, 0, 0]], [3])
    first, second, third, fourth = build_graphs(
        [rocksalt(), mixed, lonely, rocksalt().to_structure()]
    )
    assert isinstance(first, CrystalGraph)
    assert isinstance(second, str)
    assert "partial occupancies" in second
    assert isinstance(third, str)
    assert "no neighbour" in third
    assert isinstance(fourth, CrystalGraph)
    assert_same_edges(edges_of(first), edges_of(fourth))


def test_select_equals_collating_the_selected() -> None:
    graphs = [build_graph(c, GraphConfig(vectors=True)) for c in random_crystals(7)]
    for index in ([3], [6, 0, 2], [1, 1, 4], list(range(7))):
        selected = collate(graphs).select(torch.tensor(index))
        expected = collate([graphs[i] for i in index])
        for field in fields(selected):
            pair = getattr(selected, field.name), getattr(expected, field.name)
            assert torch.equal(*pair), field.name


def test_a_batch_keeps_its_graphs_apart() -> None:
    batch = batch_of(random_crystals(5))
    graph = batch.graph_index
    assert torch.equal(graph[batch.center], graph[batch.neighbor])
    assert torch.equal(torch.bincount(graph), batch.n_nodes)
    assert torch.equal(torch.bincount(graph[batch.center]), batch.n_edges)


def test_composition_is_fractions() -> None:
    batch = batch_of([rocksalt(), supercell(rocksalt(), (2, 1, 1)), rocksalt(cation=3)])
    composition = batch.composition()
    assert torch.equal(composition[0], composition[1])
    assert composition[0].nonzero().flatten().tolist() == [10, 16]
    assert composition[2, 2] == 0.5
    torch.testing.assert_close(composition.sum(1), torch.ones(3))


@settings(max_examples=100)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 500))
def test_edge_budget(sizes: list[int], budget: int) -> None:
    batches = list(edge_budget_batches(sizes, budget))
    together = np.concatenate(batches) if batches else np.array([])
    assert sorted(together.tolist()) == list(range(len(sizes)))
    for batch in batches:
        total = sum(sizes[i] for i in batch)
        assert total <= budget or len(batch) == 1
    # No batch has room for the first graph of the next one.
    for one, following in itertools.pairwise(batches):
        assert sum(sizes[i] for i in one) + sizes[following[0]] > budget
