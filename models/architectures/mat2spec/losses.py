"""Mat2Spec's losses beside the prediction's: alignment (eqs. 6-7) and contrast (eq. 8)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_kl(mean_p: Tensor, logvar_p: Tensor, mean_q: Tensor, logvar_q: Tensor) -> Tensor:
    """KL(p_i || q_j) between all pairs of diagonal Gaussians, without forming the pairs.

    Parameters
    ----------
    mean_p, logvar_p : Tensor, shape (I, D)
    mean_q, logvar_q : Tensor, shape (J, D)

    Returns
    -------
    Tensor, shape (I, J)
    """
    precision = torch.exp(-logvar_q)
    quadratic = (
        (logvar_p.exp() + mean_p**2) @ precision.T
        - 2 * mean_p @ (precision * mean_q).T
        + (precision * mean_q**2).sum(-1)
    )
    log_ratio = logvar_q.sum(-1) - logvar_p.sum(-1)[:, None]
    return 0.5 * (quadratic + log_ratio - mean_p.shape[-1])


AlignmentDirection = Literal["feature-to-label", "label-to-feature", "symmetric"]


def alignment_loss(
    label_weight: Tensor,
    label: tuple[Tensor, Tensor],
    feature_weight: Tensor,
    feature: tuple[Tensor, Tensor],
    direction: AlignmentDirection = "feature-to-label",
) -> Tensor:
    """Upper bound of the KL divergence between the feature and the label mixture (eqs. 6-7).

    The KL divergence of two mixtures has no closed form; by convexity it is at most the mean
    over all pairs of components, each pair weighted with both mixing weights. The bound is
    zero only where all components are the same.

    Parameters
    ----------
    label_weight : Tensor, shape (B, K')
        Mixing weights alpha.
    label : tuple of Tensor, shape (K', D)
        Mean and log-variance of each bin's Gaussian.
    feature_weight : Tensor, shape (B, K)
        Mixing weights beta.
    feature : tuple of Tensor, shape (B, K, D)
        Mean and log-variance of each crystal's Gaussians.
    direction : {'feature-to-label', 'label-to-feature', 'symmetric'}
        KL(Z_F || Z_L) as in eq. 7, KL(Z_L || Z_F), or the mean of both as in the authors' code.

    Returns
    -------
    Tensor, scalar
        Mean over the batch, in nats.
    """
    mean, logvar = (t.flatten(0, 1) for t in feature)
    divergences = []
    if direction != "label-to-feature":
        divergences.append(gaussian_kl(mean, logvar, *label).T)
    if direction != "feature-to-label":
        divergences.append(gaussian_kl(*label, mean, logvar))
    pairs = (sum(divergences) / len(divergences)).unflatten(1, feature_weight.shape)
    return torch.einsum("bi,ibj,bj->b", label_weight, pairs, feature_weight).mean()


def contrastive_loss(label: Tensor, feature: Tensor, temperature: float = 1.0) -> Tensor:
    """Contrast each crystal's two projections with the other crystals' (eq. 8).

    -log(exp(s_bb / t) / sum over c != b of exp(s_bc / t)), s the cosine similarity; the positive
    pair is not in the denominator.

    Parameters
    ----------
    label, feature : Tensor, shape (B, P)
        Projections; of a single crystal the loss is 0, since nothing contrasts with it.
    """
    if len(label) < 2:
        return label.new_zeros(())
    similarity = F.normalize(label, dim=-1) @ F.normalize(feature, dim=-1).T / temperature
    positive = similarity.diagonal()
    others = similarity.masked_fill(
        torch.eye(len(label), dtype=torch.bool, device=label.device), -torch.inf
    )
    return (others.logsumexp(-1) - positive).mean()
