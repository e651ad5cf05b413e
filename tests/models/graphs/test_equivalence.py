"""Merged graphs: smaller, and the same to every model that sees elements and distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.architectures.parts.layers import EncoderConfig, GraphEncoder, WeightedBatchNorm
from models.crystal import Crystal
from models.graphs.graph import CrystalGraph, GraphConfig, build_graph
from tests.models import straightforward
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystal,
    random_crystals,
    rocksalt,
    supercell,
)

ALL = GraphConfig(merge=False)


def symmetric_crystals() -> list[Crystal]:
    """Cells in which most atoms have a twin, and some without any symmetry."""
    sodium = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    chlorine = [[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    fcc_cell = Crystal(5.64 * np.eye(3), sodium + chlorine, [11] * 4 + [17] * 4)
    rng = np.random.default_rng(0)
    return [
        rocksalt(),
        permuted(fcc_cell, rng.permutation(8)),
        supercell(random_crystal(rng, 3), (2, 1, 2)),
        *random_crystals(4),
    ]


def test_a_conventional_cell_has_one_node_of_each_element() -> None:
    graph = build_graph(symmetric_crystals()[1])
    assert sorted(graph.atomic_numbers) == [11, 17]
    assert graph.multiplicity.tolist() == [4, 4]
    # 6 ions of the other kind at a/2 and 12 of the same at a/sqrt(2)
    assert sorted(graph.edge_multiplicity) == [6, 6, 12, 12]


def test_atoms_that_differ_only_far_away_are_not_merged() -> None:
    """A chain with a defect: how far an atom is from it shows after some rounds only."""
    n = 9
    chain = np.column_stack([np.arange(n) / n, np.zeros(n), np.zeros(n)])
    lattice = np.diag([2.5 * n, 7.5, 7.5])
    config = GraphConfig(neighbors=2, cutoff=4.0)
    pure = build_graph(Crystal(lattice, chain, [6] * n), config)
    assert pure.multiplicity.tolist() == [n]
    defect = build_graph(Crystal(lattice, chain, [7] + [6] * (n - 1)), config)
    assert sorted(defect.multiplicity) == [1, 2, 2, 2, 2]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([(2, 1, 1), (1, 3, 1), (2, 2, 1)]))
def test_a_supercell_is_the_same_graph_with_more_atoms(
    seed: int, n_atoms: int, repeats: tuple[int, int, int]
) -> None:
    crystal = random_crystal(np.random.default_rng(seed), n_atoms)
    once, many = build_graph(crystal), build_graph(supercell(crystal, repeats))
    assert many.multiplicity.sum() == np.prod(repeats) * once.multiplicity.sum()
    assert len(many.atomic_numbers) == len(once.atomic_numbers)
    assert sorted(many.edge_multiplicity) == sorted(once.edge_multiplicity)
    np.testing.assert_allclose(np.sort(many.distance), np.sort(once.distance), atol=1e-4)


def test_nothing_is_lost() -> None:
    for crystal in symmetric_crystals():
        whole, small = build_graph(crystal, ALL), build_graph(crystal)
        assert small.multiplicity.sum() == len(crystal)
        in_all = small.multiplicity[small.center] * small.edge_multiplicity
        assert in_all.sum() == len(whole.distance)
        assert (np.diff(small.center) >= 0).all()
        assert histogram(small, in_all) == histogram(whole, np.ones(len(whole.distance)))


def histogram(graph: CrystalGraph, counts: np.ndarray) -> dict[tuple, int]:
    """How many edges there are between each two elements at each distance (to 1e-2 Å)."""
    found: dict[tuple, int] = {}
    for i, j, d, n in zip(graph.center, graph.neighbor, graph.distance, counts, strict=True):
        key = (graph.atomic_numbers[i], graph.atomic_numbers[j], round(float(d), 2))
        found[key] = found.get(key, 0) + int(n)
    return found


def test_graphs_with_vectors_keep_all_atoms() -> None:
    graph = build_graph(symmetric_crystals()[1], GraphConfig(vectors=True))
    assert graph.multiplicity.tolist() == [1] * 8


def test_rows_that_count_several_times_are_normalised_like_repeated_ones() -> None:
    torch.manual_seed(0)
    rows, count = torch.randn(6, 3), torch.tensor([1, 4, 2, 1, 7, 3])
    ours, torchs = WeightedBatchNorm(3), nn.BatchNorm1d(3)
    for _ in range(3):
        repeated = torchs(rows.repeat_interleave(count, dim=0))
        found = ours(rows, count.float()).repeat_interleave(count, dim=0)
        torch.testing.assert_close(found, repeated)
        rows = rows * 1.7 + 0.3
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())
    ours.eval(), torchs.eval()
    torch.testing.assert_close(ours(rows, count.float()), torchs(rows))


@pytest.mark.parametrize("training", [True, False])
def test_a_merged_graph_has_the_embedding_and_the_gradients_of_the_whole(training: bool) -> None:
    torch.manual_seed(0)
    encoder = GraphEncoder(EncoderConfig(layers=2, width=16)).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    whole, small = (double(batch_of(symmetric_crystals(), c)) for c in (ALL, GraphConfig()))
    assert len(small.distance) < 0.6 * len(whole.distance)
    encoder.train(training)
    torch.set_default_dtype(torch.float64)
    try:
        expected = straightforward.encode(encoder, whole)
    finally:
        torch.set_default_dtype(torch.float32)
    found = encoder(small)
    # The distances of edges that are merged differ by their rounding to single precision.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad(e.square().mean(), list(encoder.parameters()))
        for e in (found, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def double(batch):  # type: ignore[no-untyped-def]
    for name in ("distance", "multiplicity", "edge_multiplicity"):
        object.__setattr__(batch, name, getattr(batch, name).double())
    return batch
