from __future__ import annotations

import numpy as np
import pytest
import torch

from models.architectures.parts.layers import (
    CompositionAttention,
    EncoderConfig,
    GaussianBasis,
    GraphEncoder,
)
from tests.models import straightforward
from tests.models.model_examples import batch_of, random_crystals, rocksalt, supercell


def shaken_encoder(config: EncoderConfig) -> GraphEncoder:
    """An encoder in which no parameter has the value it is initialised with."""
    encoder = GraphEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("changes", [{}, {"context": True}, {"pooling": "mean"}])
def test_fast_attention_equals_the_straightforward_one(changes: dict) -> None:
    batch = batch_of(random_crystals(6))
    encoder = shaken_encoder(EncoderConfig(**changes))
    encoder(batch)  # running statistics that are not the initial ones
    encoder.eval()
    torch.testing.assert_close(
        encoder(batch), straightforward.encode(encoder, batch), atol=1e-5, rtol=1e-5
    )


def test_fast_attention_has_the_straightforward_gradients() -> None:
    batch = batch_of(random_crystals(4))
    encoder = shaken_encoder(EncoderConfig(layers=2, width=16)).double()
    batch_double = batch.to(torch.device("cpu"))
    object.__setattr__(batch_double, "distance", batch.distance.double())
    encoder.eval()
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    fast = torch.autograd.grad(encoder(batch_double).square().sum(), parameters)
    torch.set_default_dtype(torch.float64)
    try:
        slow = torch.autograd.grad(
            straightforward.encode(encoder, batch_double).square().sum(), parameters
        )
    finally:
        torch.set_default_dtype(torch.float32)
    for name, a, b in zip(names, fast, slow, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_basis_is_41_gaussians_of_width_0_2() -> None:
    expansion = GaussianBasis(41, 8.0)(torch.tensor([0.0, 2.0, 3.1]))
    centers = np.arange(0, 8.01, 0.2)
    expected = np.exp(-(((np.array([[0.0], [2.0], [3.1]]) - centers) / 0.2) ** 2))
    np.testing.assert_allclose(expansion.numpy(), expected, atol=1e-5)


def test_pooling_weights_sum_to_one_over_each_crystal() -> None:
    batch = batch_of(random_crystals(5))
    weights = CompositionAttention(8)(torch.randn(len(batch.atomic_numbers), 8), batch)
    sums = torch.zeros(5, 1).index_add(0, batch.graph_index, weights)
    torch.testing.assert_close(sums, torch.ones(5, 1))
    assert (weights > 0).all()


@pytest.mark.parametrize(("pooling", "same"), [("attention", True), ("mean", False)])
def test_the_embedding_of_a_supercell_depends_on_the_pooling(pooling: str, same: bool) -> None:
    encoder = shaken_encoder(EncoderConfig(pooling=pooling)).eval()
    one, two = encoder(batch_of([rocksalt(), supercell(rocksalt(), (2, 1, 1))]))
    torch.testing.assert_close(two, one if same else one / 2, atol=1e-5, rtol=1e-4)
