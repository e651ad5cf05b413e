"""What an architecture is: the one interface of training, checkpoints and prediction.

A new one is a file with an :class:`Architecture` and its :class:`ArchitectureConfig`, and a line in
:mod:`models.architectures.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.graphs.graph import GraphBatch, GraphConfig
from models.spectra.band_labels import BandLabels
from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.settings import Output, Setting
from models.spectra.spectrum import EnergyGrid

_NO_STATES = 1e-6  # states/eV/cell in a bin that has no logarithm


class ArchitectureConfig(BaseModel):
    """Size and parts of an architecture.

    The fields `output` (of the setting) and `grid` are filled in when a model is trained, where
    an architecture has them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class GraphNeeds(NamedTuple):
    """Least values of fields of :class:`~models.graphs.graph.GraphConfig`."""

    vectors: bool = False
    neighbors: int = 1


class Insights(NamedTuple):
    """What one pass says of B crystals besides their spectra; None where a model cannot say it.

    Parameters
    ----------
    embedding : Tensor, shape (B, d)
        See :meth:`Architecture.embedding`.
    member_spread : Tensor, shape (B,)
        Of an ensemble: mean Wasserstein distance of the members' SumNorm spectra from their mean,
        in bins.
    band_gaps : Tensor, shape (B,)
        In eV, 0 in a metal.
    """

    embedding: Tensor | None = None
    member_spread: Tensor | None = None
    band_gaps: Tensor | None = None


class Architecture(nn.Module, ABC):
    """Crystal graphs to logits (B, K'), which a setting makes spectra of.

    A subclass is made with the number of bins K' and its configuration. Supercells, rotations and
    the order of the atoms must not matter to it; nodes and edges stand for as many atoms and
    neighbours as their multiplicities say.

    Attributes
    ----------
    Config : type
        Of `config`.
    graph_needs : GraphNeeds
        What its graphs must have.
    unit, output : str, optional
        Only spectra on a grid in this unit, and such that :attr:`Setting.output` is this.
    predicts : str
        These in words.
    single_precision : str
        Why it is trained in single precision only; empty where mixed precision will do.
    stand_ins : mapping of str to str
        Elements to which it gives the parameters of another one; see
        :data:`models.elements.STAND_INS`.
    members_apart : bool
        Its members, as many as the field `members` of its configuration says, are trained each on
        its own, and are all that is trained of it; see :meth:`apart` and :meth:`join`.
    """

    Config: ClassVar[type[ArchitectureConfig]]
    graph_needs: ClassVar[GraphNeeds] = GraphNeeds()
    unit: ClassVar[str | None] = None
    output: ClassVar[Output | None] = None
    predicts: ClassVar[str] = "all spectra"
    single_precision: ClassVar[str] = ""
    stand_ins: ClassVar[Mapping[str, str]] = {}
    members_apart: ClassVar[bool] = False

    def __init__(self, size: int, config: ArchitectureConfig) -> None:
        super().__init__()
        self.size, self.config = size, config

    @abstractmethod
    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""

    def embedding(self, batch: GraphBatch) -> Tensor | None:
        """The model's own representation of each crystal, shape (B, d); None if it has none.

        Supercells, rotations and the order of the atoms do not change it.
        """
        return None

    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), and what the same pass says besides."""
        return self(batch), Insights(self.embedding(batch))

    def losses(
        self, batch: GraphBatch, target: Tensor, setting: Setting, spectra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalars, ``"prediction"`` among them; ``"total"`` is minimised.

        Parameters
        ----------
        batch : GraphBatch
        target : Tensor, shape (B, K')
            Scaled labels.
        setting : Setting
        spectra : Tensor, shape (B, K'), optional
            Labels before scaling.
        """
        prediction = setting.loss(self(batch), target)
        return {"total": prediction, "prediction": prediction}

    def fit(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit what is not trained, before training.

        Parameters
        ----------
        batch : GraphBatch
            All n training materials.
        target : Tensor, shape (n, K')
            Their scaled labels.
        """

    def fit_trained(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit what depends on what was trained, after training.

        Parameters
        ----------
        batch : GraphBatch
            All n training materials.
        target : Tensor, shape (n, K')
            Their scaled labels.
        """

    def forget_trained(self) -> None:
        """Undo :meth:`fit_trained`: what is trained further is compared without it."""

    def apart(self) -> Sequence[Architecture]:
        """A model of each member alone, where :attr:`members_apart`."""
        raise NotImplementedError

    def join(self, models: Sequence[Architecture]) -> None:
        """Take the members of as many models of one member each, where :attr:`members_apart`.

        Parameters
        ----------
        models : sequence of Architecture
            Of the same class. What :meth:`fit_trained` fitted of them is left behind.
        """
        raise NotImplementedError

    @property
    def has_label_branch(self) -> bool:
        """Whether spectra are made of the labels themselves, too, in training."""
        return False

    def label_logits(
        self, batch: GraphBatch, target: Tensor, spectra: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K') of the label branch.

        Parameters
        ----------
        batch : GraphBatch
        target : Tensor, shape (B, K')
            Scaled labels.
        spectra : Tensor, shape (B, K'), optional
            Labels before scaling.
        """
        raise NotImplementedError

    def refusal(self, atomic_numbers: np.ndarray) -> str:
        """Why there is no prediction for a crystal that has a graph; empty if there is one.

        Parameters
        ----------
        atomic_numbers : ndarray, shape (N,)
            Of the graph's nodes.
        """
        return ""

    @classmethod
    def suits(cls, setting: Setting | type[Setting], grid: EnergyGrid) -> bool:
        """Whether it predicts what a setting makes of spectra.

        Parameters
        ----------
        setting : Setting
            An object or a class.
        grid : EnergyGrid
        """
        return cls.unit in (None, grid.unit) and cls.output in (None, setting.output)

    @classmethod
    def graphs(cls, config: GraphConfig) -> GraphConfig:
        """The graphs that it needs, which have at least what `config` says."""
        needs = cls.graph_needs._asdict().items()
        return config.model_copy(update={name: max(getattr(config, name), n) for name, n in needs})


class StatesArchitecture(Architecture):
    """An architecture that predicts states/eV/cell, so that no second model says the scale."""

    unit, output = "eV", "sum-normalized"
    predicts = "electronic spectra, whose scale it knows by itself (sumnorm-kl, sumnorm-wd)"

    @abstractmethod
    def states(self, batch: GraphBatch) -> Tensor:
        """Spectra in states/eV/cell, shape (B, K')."""

    def states_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """The same, and what the pass says besides; band gaps if it knows levels."""
        return self.states(batch), Insights(self.embedding(batch))

    def electronic_structure(self, batch: GraphBatch) -> ElectronicStructure | None:
        """Band edges and projected DOS of a batch of one crystal; None unless it knows levels."""
        return None

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K'): logarithms of states/eV/cell."""
        return (self.states(batch) + _NO_STATES).log()

    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), and what the same pass says besides."""
        states, insights = self.states_and_insights(batch)
        return (states + _NO_STATES).log(), insights

    @abstractmethod
    def losses(
        self,
        batch: GraphBatch,
        target: Tensor,
        setting: Setting,
        spectra: Tensor | None = None,
        bands: BandLabels | None = None,
    ) -> dict[str, Tensor]:
        """As for other architectures; `bands` are what the labels say besides."""
