from __future__ import annotations

import pytest
import torch
from torch_geometric import utils as pyg

from models.architectures.parts.scatter import grouped_softmax, scatter

GROUPS = torch.tensor([3, 0, 3, 1, 0, 3, 5, 1])  # 2 and 4 are empty


def rows(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(GROUPS), *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("reduce", ["sum", "mean", "min", "max"])
def test_it_is_torch_geometrics(reduce: str, shape: tuple[int, ...]) -> None:
    ours, theirs = rows(*shape).requires_grad_(), rows(*shape).requires_grad_()
    reduced = scatter(ours, GROUPS, 6, reduce)
    expected = pyg.scatter(theirs, GROUPS, dim=0, dim_size=6, reduce=reduce)
    torch.testing.assert_close(reduced, expected, atol=0, rtol=0)
    weights = torch.arange(6, dtype=torch.float64).reshape(6, *[1] * len(shape))
    (weights * reduced).sum().backward()
    (weights * expected).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-15, rtol=1e-15)


def test_softmax_is_torch_geometrics_and_sums_to_one() -> None:
    scores = 300 * rows(2)  # whose exponentials would overflow
    weights = grouped_softmax(scores, GROUPS, 6)
    torch.testing.assert_close(weights, pyg.softmax(scores, GROUPS, num_nodes=6), atol=0, rtol=0)
    torch.testing.assert_close(
        scatter(weights, GROUPS, 6)[:, 0], torch.tensor([1.0, 1, 0, 1, 0, 1]).double()
    )
