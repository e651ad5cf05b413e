from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from models.architectures.mat2spec.losses import alignment_loss, contrastive_loss, gaussian_kl


def gaussians(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=generator, dtype=torch.float64),
        0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64),
    )


def distribution(mean: torch.Tensor, logvar: torch.Tensor) -> Independent:
    return Independent(Normal(mean, (0.5 * logvar).exp()), 1)


def test_kl_equals_torch_distributions() -> None:
    p, q = gaussians(3, 5, 0), gaussians(4, 5, 1)
    expected = [
        [kl_divergence(distribution(*a), distribution(*b)) for b in zip(*q, strict=True)]
        for a in zip(*p, strict=True)
    ]
    torch.testing.assert_close(gaussian_kl(*p, *q), torch.tensor(expected, dtype=torch.float64))


def test_kl_equals_a_monte_carlo_estimate() -> None:
    p, q = gaussians(2, 3, 2), gaussians(2, 3, 3)
    for i in range(2):
        for j in range(2):
            p_i, q_j = distribution(p[0][i], p[1][i]), distribution(q[0][j], q[1][j])
            x = p_i.sample((400_000,))
            log_ratio = p_i.log_prob(x) - q_j.log_prob(x)
            error = 5 * log_ratio.std() / len(x) ** 0.5
            estimate = log_ratio.mean().item()
            assert gaussian_kl(*p, *q)[i, j].item() == pytest.approx(estimate, abs=error.item())


DIRECTIONS = {"feature-to-label": (1.0, 0.0), "label-to-feature": (0.0, 1.0)}
DIRECTIONS["symmetric"] = (0.5, 0.5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_alignment_equals_a_double_loop_and_bounds_the_divergence_of_the_mixtures(
    direction: str,
) -> None:
    """Eq. 7, with its sum over all pairs of components written out."""
    n_crystals, n_bins, n_components, d = 2, 5, 3, 2
    label = gaussians(n_bins, d, 0)
    flat = gaussians(n_crystals * n_components, d, 1)
    feature = tuple(t.reshape(n_crystals, n_components, d) for t in flat)
    alpha = torch.rand(n_crystals, n_bins, dtype=torch.float64).softmax(-1)
    beta = torch.rand(n_crystals, n_components, dtype=torch.float64).softmax(-1)
    forward, backward = DIRECTIONS[direction]
    totals = []
    for b in range(n_crystals):
        total = torch.zeros((), dtype=torch.float64)
        for i in range(n_bins):
            for j in range(n_components):
                of_label = distribution(label[0][i], label[1][i])
                of_feature = distribution(feature[0][b, j], feature[1][b, j])
                divergence = forward * kl_divergence(of_feature, of_label)
                divergence = divergence + backward * kl_divergence(of_label, of_feature)
                total = total + alpha[b, i] * beta[b, j] * divergence
        totals.append(total)
    expected = torch.stack(totals)
    found = alignment_loss(alpha, label, beta, (feature[0], feature[1]), direction)
    torch.testing.assert_close(found, expected.mean())

    for b in range(n_crystals):
        of_label = mixture(alpha[b], *label)
        of_feature = mixture(beta[b], feature[0][b], feature[1][b])
        divergence = forward * divergence_of(of_feature, of_label)
        divergence += backward * divergence_of(of_label, of_feature)
        assert 0 < divergence < expected[b]


def mixture(weight: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(weight), distribution(mean, logvar))


def divergence_of(p: MixtureSameFamily, q: MixtureSameFamily) -> float:
    """Monte Carlo estimate of KL(p || q)."""
    x = p.sample((50_000,))
    return float((p.log_prob(x) - q.log_prob(x)).mean())


def test_the_default_alignment_is_the_divergence_of_the_features_from_the_labels() -> None:
    """Of N(0, 1) from N(0, 4) it is ln 2 + 1/8 - 1/2; the other way round 3/2 - ln 2."""
    weight, mean = torch.ones(1, 1), torch.zeros(1, 1)
    narrow, wide = torch.zeros(1, 1, 1), torch.full((1, 1), np.log(4.0))
    given = (weight, (mean, wide), weight, (mean[None], narrow))
    forward, backward = np.log(2) + 1 / 8 - 1 / 2, 3 / 2 - np.log(2)
    assert alignment_loss(*given).item() == pytest.approx(forward)
    assert alignment_loss(*given, "label-to-feature").item() == pytest.approx(backward)
    both = alignment_loss(*given, "symmetric").item()
    assert both == pytest.approx((forward + backward) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_contrastive_loss_equals_a_direct_double_loop(temperature: float) -> None:
    """Eq. 8, without the positive pair in the denominator."""
    label, feature = torch.randn(5, 7), torch.randn(5, 7)
    total = 0.0
    for b in range(5):
        similarity = [
            float(label[b] @ feature[c] / (label[b].norm() * feature[c].norm())) / temperature
            for c in range(5)
        ]
        others = sum(np.exp(similarity[c]) for c in range(5) if c != b)
        total -= np.log(np.exp(similarity[b]) / others)
    assert contrastive_loss(label, feature, temperature).item() == pytest.approx(total / 5)


def test_contrastive_loss_of_one_crystal_is_zero() -> None:
    assert contrastive_loss(torch.randn(1, 7), torch.randn(1, 7)) == 0
