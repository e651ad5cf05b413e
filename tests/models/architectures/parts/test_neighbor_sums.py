from __future__ import annotations

import copy
from unittest.mock import patch

import pytest
import torch
from torch import nn

from models.architectures.mat2spec_plus import Mat2SpecPlus, Mat2SpecPlusConfig
from models.architectures.parts.layers import EncoderConfig, GraphAttention, GraphEncoder
from models.architectures.parts.neighbor_sums import Neighbors, predict_fast
from models.graphs.graph import GraphBatch
from models.predictor import SpectrumPredictor
from tests.models import straightforward
from tests.models.architectures.parts.test_layers import shaken_encoder
from tests.models.model_examples import batch_of, random_crystals, rocksalt

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def encoder_and_fast_one(batch: GraphBatch, **changes: object) -> tuple[GraphEncoder, GraphEncoder]:
    """An encoder with running statistics that are not the initial ones, twice."""
    encoder = shaken_encoder(EncoderConfig(**changes))
    encoder(batch)
    fast = copy.deepcopy(encoder.eval())
    predict_fast(fast)
    return encoder, fast


def goes_fast(model: nn.Module, batch: GraphBatch) -> bool:
    """Whether a pass asks for what edges share."""
    with patch.object(Neighbors, "of", wraps=Neighbors.of) as asked:
        model(batch)
    return asked.called


@pytest.mark.parametrize(
    "changes",
    [{}, {"context": True}, {"pooling": "mean"}, {"layers": 1, "heads": 2}, {"width": 16}],
)
def test_predictions_equal_the_straightforward_ones(changes: dict) -> None:
    batch = batch_of([*random_crystals(6), rocksalt()])  # one atom of each kind, far from the rest
    encoder, fast = encoder_and_fast_one(batch, **changes)
    with torch.inference_mode():
        assert goes_fast(fast, batch)
        torch.testing.assert_close(fast(batch), straightforward.encode(encoder, batch), **TOLERANCE)


@pytest.mark.parametrize("part", ["atom", "edge"])
@pytest.mark.parametrize("factor", [30.0, -300.0, 3000.0])
def test_features_too_large_for_a_product_of_exponentials(part: str, factor: float) -> None:
    batch = batch_of(random_crystals(4))
    encoder, fast = encoder_and_fast_one(batch, layers=1)
    for model in (encoder, fast):
        layer = model.layers[0]
        assert isinstance(layer, GraphAttention)
        with torch.no_grad():
            getattr(layer, part).weight.mul_(factor)
    with torch.inference_mode():
        expected = encoder(batch)
        assert expected.isfinite().all()
        error = (fast(batch) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_atoms_and_distances_that_edges_share_are_computed_once() -> None:
    batch = batch_of(random_crystals(5))
    neighbors = Neighbors.of(batch)
    assert len(neighbors.distances) < len(batch.distance)
    assert torch.equal(neighbors.distances[neighbors.of_edge], batch.distance)
    nodes, distances, (center, neighbor) = neighbors.pairs
    assert torch.equal(nodes[center], batch.center)
    assert torch.equal(nodes[neighbor], batch.neighbor)
    assert torch.equal(distances[center], neighbors.of_edge)
    assert torch.equal(distances[neighbor], neighbors.of_edge)
    assert len({*zip(nodes.tolist(), distances.tolist(), strict=True)}) == len(nodes)


def test_only_predictions_go_fast() -> None:
    batch = batch_of(random_crystals(3))
    encoder, fast = encoder_and_fast_one(batch)
    assert torch.equal(fast(batch), encoder(batch))  # there are gradients
    with torch.inference_mode():
        assert not goes_fast(encoder, batch)  # one that is not asked to, as in a validation
        assert not goes_fast(fast.train(), batch)
        with torch.autocast("cpu", torch.bfloat16):
            assert not goes_fast(fast.eval(), batch)


@pytest.mark.parametrize("output", ["sum-normalized", "absolute"])
def test_mat2spec_plus_predicts_the_same(output: str) -> None:
    batch = batch_of(random_crystals(6))
    model = Mat2SpecPlus(16, Mat2SpecPlusConfig(members=2, output=output)).eval()
    with torch.inference_mode():
        expected = model(batch)
        predict_fast(model)
        assert goes_fast(model, batch)
        torch.testing.assert_close(model(batch), expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["mat2spec-edos", "mat2spec-plus-edos"])
def test_shipped_predictors_predict_what_their_checkpoints_do(name: str) -> None:
    crystals = random_crystals(20)
    predictor = SpectrumPredictor.load(name, "cpu")
    fast = predictor.predict(crystals)
    for part in (predictor.shape, predictor.scale):
        for module in part.model.modules():
            module.__dict__.pop("predicts_fast", None)
    exact = predictor.predict(crystals)
    scale = abs(exact.values).max(1, keepdims=True)
    assert (abs(fast.values - exact.values) < 1e-5 * scale).all()
