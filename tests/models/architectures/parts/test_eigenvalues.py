from __future__ import annotations

import pytest
import torch

from models.architectures.parts.eigenvalues import eigenvalues, padded_size


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
