"""Ensembles: networks trained side by side, and a kernel regression beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.architectures.interface import Architecture, ArchitectureConfig
from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.kernel_regression import KernelRegression
from models.graphs.graph import GraphBatch
from models.spectra.metrics import wasserstein_of_shapes
from models.spectra.settings import Setting

_EMPTY = 1e-8  # share of a spectrum in a bin that has no logarithm
_SMALLEST = 1e-3  # deviation of a number that hardly varies


class Ensemble(Architecture):
    """Networks that differ in their initial weights, each trained as if it were alone.

    What the prediction makes of them is left to the architecture.
    """

    members: nn.ModuleList

    @abstractmethod
    def member_logits(self, batch: GraphBatch) -> Tensor:
        """Logits of each member, shape (members, B, K')."""

    @override
    def losses(
        self, batch: GraphBatch, target: Tensor, setting: Setting, spectra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Mean prediction loss of the members."""
        losses = [setting.loss(logits, target) for logits in self.member_logits(batch)]
        prediction = torch.stack(losses).mean()
        return {"total": prediction, "prediction": prediction}


class RegressedEnsemble(Ensemble):
    """An ensemble averaged with a kernel regression on the crystal's statistics.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : ArchitectureConfig
    members : iterable of Module
    share : float
        Of the regression in the prediction; 0: there is none.

    Attributes
    ----------
    outlier : float
        Deviations at which a statistic is cut off: a material unlike the training set.
    """

    outlier: ClassVar[float]
    center: Tensor
    scale: Tensor

    def __init__(
        self, size: int, config: ArchitectureConfig, members: Iterable[nn.Module], share: float
    ) -> None:
        super().__init__(size, config)
        self.share = share
        self.statistics = CrystalStatistics()
        self.register_buffer("center", torch.zeros(CrystalStatistics.size))
        self.register_buffer("scale", torch.ones(CrystalStatistics.size))
        self.members = nn.ModuleList(members)
        if share:
            self.kernel = KernelRegression(size, CrystalStatistics.size)

    @override
    def fit(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit the scales of the statistics and the regression."""
        self.center, self.scale = scales(self.statistics(batch))
        if self.share:
            self.kernel.fit(self.standardized(batch), target)

    @property
    def regresses(self) -> bool:
        """Whether there is a regression, and it is fitted."""
        return bool(self.share) and self.kernel.fitted

    def standardized(self, batch: GraphBatch) -> Tensor:
        """Statistics with mean 0 and deviation 1 over the training set, shape (B, size)."""
        return standardized(self.statistics(batch), self.center, self.scale, self.outlier)

    @property
    def makes_shapes(self) -> bool:
        """Whether its spectra have the sum 1."""
        return True

    def regression(self, statistics: Tensor) -> Tensor | None:
        """What the regression predicts, shape (B, K'); None if there is none, or it is not fitted.

        Parameters
        ----------
        statistics : Tensor, shape (B, size)
            Standardised.
        """
        if not self.regresses:
            return None
        spectra = self.kernel(statistics)
        return distribution(spectra.clamp_min(0)) if self.makes_shapes else spectra

    def averaged(self, spectra: Tensor, regression: Tensor | None) -> Tensor:
        """The members' prediction with the share of the regression, shape (B, K').

        Parameters
        ----------
        spectra, regression : Tensor, shape (B, K')
        """
        if regression is None:
            return spectra
        return (1 - self.share) * spectra + self.share * regression

    @abstractmethod
    def forward(self, batch: GraphBatch, regression: Tensor | None = None) -> Tensor:
        """Logits, shape (B, K').

        Parameters
        ----------
        batch : GraphBatch
        regression : Tensor, shape (B, K'), optional
            That of :meth:`regression`, where it is known: training does not change it.
        """


def member_spread(shapes: Tensor) -> Tensor | None:
    """How far the members are from each other, shape (B,), see :class:`Insights`; None of one.

    Parameters
    ----------
    shapes : Tensor, shape (members, B, K')
        The members' spectra with the sum 1.
    """
    return wasserstein_of_shapes(shapes, shapes.mean(0)).mean(0) if len(shapes) > 1 else None


def scales(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the rows of `values` (n, k), of shape (k,) each."""
    return values.mean(0), values.std(0, correction=0).clamp_min(_SMALLEST)


def standardized(values: Tensor, center: Tensor, scale: Tensor, outlier: float) -> Tensor:
    """Values with mean 0 and deviation 1.

    Parameters
    ----------
    values : Tensor, shape (..., k)
    center, scale : Tensor, shape (k,)
    outlier : float
        Deviations at which they are cut off.
    """
    return ((values - center) / scale).clamp(-outlier, outlier)


def distribution(spectra: Tensor) -> Tensor:
    """Spectra (..., K') with the sum 1; zeros stay zeros."""
    return spectra / spectra.sum(-1, keepdim=True).clamp_min(_EMPTY)


def logits_of(shapes: Tensor) -> Tensor:
    """What softmax makes the shapes (..., K') of; zeros become a flat spectrum."""
    return (shapes + _EMPTY).log()
