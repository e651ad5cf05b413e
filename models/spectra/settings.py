"""The paper's settings: how spectra are scaled and compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from models.spectra.metrics import wasserstein_of_shapes

Output = Literal["absolute", "sum-normalized", "max-normalized"]


class Setting(nn.Module, ABC):
    """A scaling of spectra together with the loss that goes with it.

    `target` turns labels into what the network learns, `activate` turns the network's output
    (logits) into the same space, `decode` brings a prediction back to spectra.

    Parameters
    ----------
    size : int
        Bins K'.
    extensive : bool
        The spectra grow with the cell, as an eDOS in states/eV/cell does; False for spectra that
        come normalised.
    """

    name: str
    output: Output  # what `decode` gives

    def __init__(self, size: int, extensive: bool = True) -> None:
        super().__init__()
        self.size, self.extensive = size, extensive

    def fit(self, spectra: Tensor, n_atoms: Tensor) -> None:
        """Take statistics of the training spectra.

        Parameters
        ----------
        spectra : Tensor, shape (n, K')
            Labels; in states/eV/cell if they are extensive.
        n_atoms : Tensor, shape (n,)
            Atoms in each cell.
        """

    @abstractmethod
    def target(self, spectra: Tensor, n_atoms: Tensor) -> Tensor:
        """Scaled labels, shape (B, K').

        Parameters
        ----------
        spectra : Tensor, shape (B, K')
        n_atoms : Tensor, shape (B,)
        """

    @abstractmethod
    def activate(self, logits: Tensor) -> Tensor:
        """Prediction in the space of the targets, shape (B, K')."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the batch.

        Parameters
        ----------
        logits, target : Tensor, shape (B, K')
            What the network gives, and scaled labels.
        """

    def decode(self, logits: Tensor, n_atoms: Tensor) -> Tensor:
        """Spectra, shape (B, K').

        Parameters
        ----------
        logits : Tensor, shape (B, K')
        n_atoms : Tensor, shape (B,)
            Atoms in each cell.
        """
        return self.activate(logits)


class StandardMAE(Setting):
    """Zero mean and unit variance for each bin, mean absolute error.

    The total DOS grows with the cell and the embedding of a crystal does not, so extensive
    labels are standardised per atom and predictions multiplied by the number of atoms.
    A bin in which the training set hardly varies is scaled with `MIN_STD` of the mean deviation:
    by its own, a first imaginary mode would weigh as much as all other bins together.
    Parameters are those of :class:`Setting`.
    """

    MIN_STD = 0.05

    name = "standard-mae"
    output = "absolute"

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, extensive: bool = True) -> None:
        super().__init__(size, extensive)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @override
    def fit(self, spectra: Tensor, n_atoms: Tensor) -> None:
        scaled = spectra / self._units(n_atoms)
        std = scaled.std(0, correction=0)
        floor = max(self.MIN_STD * float(std.mean()), 1e-6)
        self.mean.copy_(scaled.mean(0))
        self.std.copy_(std.clamp_min(floor))

    @override
    def target(self, spectra: Tensor, n_atoms: Tensor) -> Tensor:
        return (spectra / self._units(n_atoms) - self.mean) / self.std

    @override
    def activate(self, logits: Tensor) -> Tensor:
        return logits

    @override
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(logits, target)

    @override
    def decode(self, logits: Tensor, n_atoms: Tensor) -> Tensor:
        return (logits * self.std + self.mean).clamp_min(0.0) * self._units(n_atoms)

    def _units(self, n_atoms: Tensor) -> Tensor:
        """What spectra are divided by, shape (B, 1)."""
        return n_atoms[:, None] if self.extensive else torch.ones_like(n_atoms[:, None])


class _SumNorm(Setting):
    output = "sum-normalized"

    @override
    def target(self, spectra: Tensor, n_atoms: Tensor) -> Tensor:
        return spectra / spectra.sum(-1, keepdim=True)

    @override
    def activate(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


class SumNormKL(_SumNorm):
    """Sum 1, Kullback-Leibler divergence of the prediction from the label."""

    name = "sumnorm-kl"

    @override
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")


class SumNormWD(_SumNorm):
    """Sum 1, Wasserstein-1 distance in units of the bin width."""

    name = "sumnorm-wd"

    @override
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return wasserstein_of_shapes(self.activate(logits), target).mean()


class _MaxNorm(Setting):
    output = "max-normalized"

    @override
    def target(self, spectra: Tensor, n_atoms: Tensor) -> Tensor:
        return spectra / spectra.amax(-1, keepdim=True)


class MaxNormMSE(_MaxNorm):
    """Maximum 1, squared error, summed over the bins.

    The sum is as large as the other settings' losses; the mean over the bins would hardly count
    beside Mat2Spec's alignment and contrastive losses.

    As in the authors' code, a prediction is the positive part of the logits over its maximum:
    bins can be exactly empty, as most are in a phonon DOS, where a smooth positive function
    leaves a flat background. Unlike there, gradients pass negative logits at a tenth, so that a
    bin that is empty for all materials can fill again. Logits without any positive one are
    lifted by their smallest.
    """

    name = "maxnorm-mse"

    @override
    def activate(self, logits: Tensor) -> Tensor:
        any_positive = logits.amax(-1, keepdim=True) > 0
        lowest = logits.amin(-1, keepdim=True).detach()
        positive = torch.where(any_positive, _rectified(logits), logits - lowest)
        return positive / positive.amax(-1, keepdim=True).clamp_min(1e-8)

    @override
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return (self.activate(logits) - target).square().sum(-1).mean()


class MaxNormMAE(_MaxNorm):
    """Maximum 1, absolute error; the prediction itself may have another maximum.

    As on the JARVIS leaderboard: where a peak is uncertain the error is smallest when the
    prediction stays low, while one that must reach 1 somewhere has to bet on a place.
    """

    name = "maxnorm-mae"

    @override
    def activate(self, logits: Tensor) -> Tensor:
        return _rectified(logits)

    @override
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return (self.activate(logits) - target).abs().sum(-1).mean()


def _rectified(logits: Tensor) -> Tensor:
    """Positive part; gradients pass negative logits at a tenth, so that empty bins can fill."""
    leaky = F.leaky_relu(logits, 0.1)
    return leaky + (F.relu(logits) - leaky).detach()


SETTINGS: dict[str, type[Setting]] = {
    s.name: s for s in (StandardMAE, SumNormWD, SumNormKL, MaxNormMSE, MaxNormMAE)
}
