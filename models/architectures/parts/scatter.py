"""Rows of a tensor reduced by groups: the atoms of a crystal, the edges of an atom.

Like those of :mod:`torch_geometric.utils`, which the tests compare them with; to import that takes
1.6 s in each process, as long as a thousand predictions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_SMALLEST = 1e-16  # so that an empty group is no division by zero


def scatter(
    rows: Tensor, group: Tensor, n_groups: int, reduce: Literal["sum", "mean", "min", "max"] = "sum"
) -> Tensor:
    """Sum, mean, smallest or largest row of each group, shape (n_groups, ...); 0 of an empty one.

    Parameters
    ----------
    rows : Tensor, shape (n, ...)
    group : Tensor, shape (n,), int64
        That each row belongs to.
    n_groups : int
    reduce : str

    Examples
    --------
    >>> scatter(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 3)
    tensor([1., 0., 6.])
    """
    empty = rows.new_zeros(n_groups, *rows.shape[1:])
    if reduce in ("sum", "mean"):
        total = empty.index_add(0, group, rows)
        if reduce == "sum":
            return total
        one = torch.ones_like(group, dtype=torch.float32)
        count = one.new_zeros(n_groups).index_add(0, group, one).clamp_min(1).to(rows.dtype)
        return total / count.reshape(-1, *[1] * (rows.dim() - 1))
    index = group.reshape(-1, *[1] * (rows.dim() - 1)).expand_as(rows)
    return empty.scatter_reduce(0, index, rows, f"a{reduce}", include_self=False)


def grouped_softmax(scores: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Softmax over the rows of each group, shape (n, k).

    Parameters
    ----------
    scores : Tensor, shape (n, k)
    group : Tensor, shape (n,), int64
        That each row belongs to.
    n_groups : int
    """
    highest = scatter(scores.detach(), group, n_groups, "max")
    weights = (scores - highest.index_select(0, group)).exp()
    total = scatter(weights, group, n_groups) + _SMALLEST
    return weights / total.index_select(0, group)
