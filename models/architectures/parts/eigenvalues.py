"""Eigenvalues of many Hermitian matrices at once, which are filled up to few sizes."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = sorted({n * 2**power for power in range(12) for n in (1, 3)})


def padded_size(n: int, device: torch.device) -> int:
    """Rows, or atoms, that matrices of `n` are filled up to.

    A GPU diagonalises many matrices of one size in the time of one; a CPU one after the other.

    Parameters
    ----------
    n : int
    device : torch.device
    """
    if device.type == "cpu":
        return n
    return next((size for size in SIZES if size >= n), n)


def eigenvalues(matrices: Tensor, missing: Tensor) -> Tensor:
    """Eigenvalues, rising, shape (..., W, n), after those of the rows that fill up.

    The derivatives are those of the matrices without these rows.

    Parameters
    ----------
    matrices : Tensor, shape (..., W, n, n)
        Hermitian, with zeros in the rows and columns that fill up, the last ones.
    missing : Tensor, shape (W,)
        How many these are; the first eigenvalues, as many, mean nothing.
    """
    rows = torch.arange(matrices.shape[-1], device=matrices.device)
    fills = rows >= len(rows) - missing[:, None]
    # Below all others, which are at most as large as a row's sum of absolute values.
    bound = matrices.detach().abs().sum(-1).amax(-1, keepdim=True)
    filler = ((1.1 * bound + 1) * fills).to(matrices.dtype)
    return torch.linalg.eigvalsh(matrices - torch.diag_embed(filler))
