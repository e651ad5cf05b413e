"""Eigenvalues of many Hermitian matrices at once, which are filled up to few sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SIZES = sorted({n * 2**power for power in range(12) for n in (1, 3)})
AT_ONCE = 2**26  # elements of the matrices that are in memory at once: half a GB
BINS = 64  # an eigenvalue becomes a share of about as many bins of a spectrum


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


def at_once(
    sizes: Sequence[int], counts: Sequence[int], most: int = AT_ONCE
) -> Iterator[list[int]]:
    """Crystals whose matrices are of one size, as many as memory should hold.

    Parameters
    ----------
    sizes, counts : sequence of int
        Rows of the matrices of each crystal, and how many it has.
    most : int
        Elements, of at least `BINS` columns; a crystal that has more is alone.

    Examples
    --------
    >>> list(at_once([3, 2, 3, 3], [1, 1, 1, 1], most=6 * BINS))
    [[0, 2], [3], [1]]
    """
    of_size = defaultdict(list)
    for crystal, size in enumerate(sizes):
        of_size[size].append(crystal)
    for size, crystals in of_size.items():
        group: list[int] = []
        elements = 0
        for crystal in crystals:
            own = counts[crystal] * size * max(size, BINS)
            if group and elements + own > most:
                yield group
                group, elements = [], 0
            group.append(crystal)
            elements += own
        yield group


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
