"""GATGNN: the graph encoder with a multilayer perceptron on top, the paper's first baseline."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from models.architectures.interface import Architecture, ArchitectureConfig, Insights
from models.architectures.parts.layers import EncoderConfig, GraphEncoder, mlp
from models.graphs.graph import GraphBatch


class GATGNNConfig(ArchitectureConfig):
    """Size of GATGNN.

    Parameters
    ----------
    encoder : EncoderConfig
        The same as Mat2Spec's, so that a comparison is one of what follows the encoder.
    hidden : tuple of int
        Widths of the perceptron's hidden layers.
    dropout : float
        In the perceptron.
    """

    encoder: EncoderConfig = EncoderConfig()
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = Field(0.0, ge=0, lt=1)


class GATGNN(Architecture):
    """Crystal graphs to spectra with graph attention (Louis et al. 2020) and a perceptron.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : GATGNNConfig

    References
    ----------
    S.-Y. Louis et al., Phys. Chem. Chem. Phys. 22, 18141 (2020).
    """

    Config = GATGNNConfig

    def __init__(self, size: int, config: GATGNNConfig = GATGNNConfig()) -> None:
        super().__init__(size, config)
        self.encoder = GraphEncoder(config.encoder)
        widths = [config.encoder.width, *config.hidden]
        self.head = nn.Sequential(mlp(widths, config.dropout), nn.Linear(widths[-1], size))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""
        return self.logits_and_insights(batch)[0]

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """The encoder's pooled atoms, shape (B, width)."""
        return self.encoder(batch)

    @override
    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), and the embedding that they are made of."""
        embedding = self.embedding(batch)
        return self.head(embedding), Insights(embedding)
