"""Eigenvalues of many Hermitian matrices at once, which are filled up to few sizes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SIZES = sorted({n * 2**power for power in range(12) for n in (1, 3)})
AT_ONCE = 2**26  # elements of the matrices that are in memory at once: half a GB
BINS = 64  # an eigenvalue becomes a share of about as many bins of a spectrum
_MANY = 32  # matrices; fewer are left to the GPU's library (not tuned)


def padded_size(n: int, device: torch.device) -> int:
    """Rows, or atoms, that matrices of `n` are filled up to.

    A GPU works on many matrices of one size at once; a CPU on one after the other.

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

    The derivatives are those of the matrices without these rows. Where none are wanted, a GPU gets
    all eigenvalues by :func:`bisected`.

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
    filled = matrices - torch.diag_embed(filler)
    is_learned = torch.is_grad_enabled() and filled.requires_grad
    if filled.is_cuda and not is_learned and filled[..., 0, 0].numel() >= _MANY:
        return bisected(*tridiagonal(filled))
    return torch.linalg.eigvalsh(filled)


def tridiagonal(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonals (..., n) and what is beside them, (..., n - 1), of matrices with few other numbers.

    They are real and have the eigenvalues of the matrices given, which Householder's reflections
    make them from, a column of all matrices at a time (G. H. Golub and C. F. Van Loan, Matrix
    Computations, 8.3.1).

    Parameters
    ----------
    matrices : Tensor, shape (..., n, n)
        Hermitian.
    """
    rest = matrices.clone()
    diagonal, beside = [rest[..., 0, 0].real], []
    smallest = 100 * math.sqrt(torch.finfo(matrices.dtype).tiny)  # squares of less vanish
    for _ in range(matrices.shape[-1] - 1):
        mirror = rest[..., 1:, :1].clone()
        length = torch.linalg.vector_norm(mirror, dim=-2, keepdim=True)
        first = mirror[..., :1, :]
        first += torch.where(first == 0, length, length * first.sgn())
        norm = torch.linalg.vector_norm(mirror, dim=-2, keepdim=True)
        mirror /= torch.where(length > smallest, norm, math.inf)
        rest = rest[..., 1:, 1:]
        image = rest @ mirror
        image = 2 * (image - (mirror.mH @ image) * mirror)
        rest -= torch.cat([mirror, image], -1) @ torch.cat([image, mirror], -1).mH
        beside.append(length[..., 0, 0])
        diagonal.append(rest[..., 0, 0].real)
    stacked = torch.stack(diagonal, -1)
    return stacked, torch.stack(beside, -1) if beside else stacked[..., :0]


def bisected(diagonal: Tensor, beside: Tensor) -> Tensor:
    """Eigenvalues of tridiagonal matrices, rising, shape (..., n).

    How many are below an energy is how many pivots are negative (Sturm; W. Barth, R. S. Martin and
    J. H. Wilkinson, Numer. Math. 9, 386 (1967)). For many matrices at once, on a GPU: an H200's
    library took 1.4 to 2.4 times as long for predictions by tight binding (``docs/benchmarks.md``).

    Parameters
    ----------
    diagonal : Tensor, shape (..., n)
    beside : Tensor, shape (..., n - 1)

    Examples
    --------
    >>> bisected(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0]]))
    tensor([[-1.,  1.]])
    """
    n, precision = diagonal.shape[-1], torch.finfo(diagonal.dtype)
    radius = F.pad(beside, (1, 0)) + F.pad(beside, (0, 1))  # Gershgorin
    low = (diagonal - radius).amin(-1, keepdim=True).expand_as(diagonal)
    high = (diagonal + radius).amax(-1, keepdim=True).expand_as(diagonal)
    number = torch.arange(n, device=diagonal.device)
    columns = diagonal[..., None].unbind(-2)
    squares = beside.square().clamp_min(precision.tiny)[..., None].unbind(-2)  # 0 / 0 is none
    for _ in range(2 - math.floor(math.log2(precision.eps))):
        middle = (low + high) / 2
        pivot = columns[0] - middle
        below = (pivot < 0).int()
        for column, square in zip(columns[1:], squares, strict=True):
            pivot = torch.addcdiv(column - middle, square, pivot, value=-1)
            below += pivot < 0
        is_below = below > number
        low, high = torch.where(is_below, low, middle), torch.where(is_below, middle, high)
    return (low + high) / 2
