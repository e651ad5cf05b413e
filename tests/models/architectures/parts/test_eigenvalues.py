from __future__ import annotations

import pytest
import torch

from models.architectures.parts import eigenvalues as module
from models.architectures.parts.eigenvalues import (
    bisected,
    eigenvalues,
    padded_size,
    tridiagonal,
)
from tests.models.model_examples import OnGpu


def hermitian(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(n, n, dtype=torch.complex128, generator=generator)
    return half + half.mH


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_that_fill_up_change_neither_eigenvalues_nor_derivatives(sign: int) -> None:
    """Also of matrices with eigenvalues of one sign, that are equal, or all zero."""
    generator = torch.Generator().manual_seed(9)
    equal = torch.eye(4, dtype=torch.complex128) * 3
    zero = torch.zeros(2, 2, dtype=torch.complex128)
    positive = hermitian(3, 1) @ hermitian(3, 1)
    own = [sign * m for m in (hermitian(5, 0), positive, equal, zero, hermitian(7, 2))]
    filled = torch.stack([torch.nn.functional.pad(m, (0, 7 - len(m)) * 2) for m in own])
    filled.requires_grad_()
    missing = torch.tensor([7 - len(m) for m in own])
    found, total = eigenvalues(filled, missing), 0.0
    assert found.shape == (5, 7)
    for matrix, values, more in zip(own, found, missing.tolist(), strict=True):
        matrix.requires_grad_()
        expected = torch.linalg.eigvalsh(matrix)
        torch.testing.assert_close(values[more:], expected)
        weight = torch.randn(1, generator=generator).item()
        # What depends on each of equal eigenvalues alone has no derivative.
        total = total + weight * values[more:].sum() + values[more:].square().sum()
        (weight * expected.sum() + expected.square().sum()).backward()
    total.backward()
    for matrix, derivative in zip(own, filled.grad, strict=True):
        torch.testing.assert_close(derivative[: len(matrix), : len(matrix)], matrix.grad)
    assert filled.grad.isfinite().all()


def test_a_gpu_gets_matrices_of_few_sizes() -> None:
    sizes = {padded_size(n, torch.device("cuda")) for n in range(1, 257)}
    assert len(sizes) == 16
    for n in range(1, 257):
        assert n <= padded_size(n, torch.device("cuda")) <= 1.5 * n
        assert padded_size(n, torch.device("cpu")) == n
    assert padded_size(10_000, torch.device("cuda")) == 10_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("n", [1, 2, 3, 9, 40])
def test_bisection_finds_what_lapack_finds(n: int, dtype: torch.dtype) -> None:
    """Of matrices at random, large and small, of low rank, diagonal, with equal eigenvalues."""
    generator = torch.Generator().manual_seed(n)
    half = torch.randn(6, n, n, dtype=dtype, generator=generator)
    matrices = half + half.mH
    matrices[1] *= 1e4
    matrices[2] *= 1e-4
    matrices[3] = half[3, :, :1] @ half[3, :, :1].mH
    matrices[4] = torch.diag(torch.randn(n, generator=generator)).to(dtype)
    matrices[5] = 3 * torch.eye(n)
    more = torch.stack([torch.zeros(n, n, dtype=dtype), torch.full((n, n), -2.0, dtype=dtype)])
    matrices = torch.cat([matrices, more]).view(2, 4, n, n)
    found = bisected(*tridiagonal(matrices))
    expected = torch.linalg.eigvalsh(matrices.to(torch.complex128))
    largest = expected.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    assert found.shape == (2, 4, n)
    assert found.dtype == matrices.real.dtype
    assert ((found - expected).abs() / largest).max() < 20 * torch.finfo(dtype).eps
    assert (found.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("tiny", [1e-170, 1e-158, 1e-150, 1e-320])
def test_numbers_whose_squares_vanish_are_none(tiny: float) -> None:
    """Rounding leaves them of a matrix of low rank, on some processors."""
    weak = tiny * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    strong = hermitian(3, 1).real.double()
    matrix = torch.block_diag(weak + weak.mT, strong)
    matrix[0, 4:] = matrix[4:, 0] = tiny
    expected = torch.linalg.eigvalsh(matrix)
    found = bisected(*tridiagonal(matrix[None]))[0]
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)


def test_bisection_of_a_chain() -> None:
    """2 cos(k pi / (n + 1)) are the levels of n atoms in a row."""
    n = 30
    found = bisected(torch.zeros(1, n), torch.ones(1, n - 1))
    expected = 2 * torch.cos(torch.arange(n, 0, -1) * torch.pi / (n + 1))
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_a_gpu_bisects_many_matrices_unless_something_is_learned(
    monkeypatch: pytest.MonkeyPatch, learned: bool
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        module, "bisected", lambda *parts: calls.append(len(parts[0])) or bisected(*parts)
    )
    many = torch.stack([hermitian(4, seed) for seed in range(40)])
    missing = torch.zeros(40, dtype=torch.int64)
    for matrices in (many, many.as_subclass(OnGpu)[:8], many.as_subclass(OnGpu)):
        given = matrices.detach().requires_grad_(learned)
        found = eigenvalues(given, missing[: len(given)]).detach().as_subclass(torch.Tensor)
        torch.testing.assert_close(found, torch.linalg.eigvalsh(many[: len(found)]))
    assert calls == ([] if learned else [40])
