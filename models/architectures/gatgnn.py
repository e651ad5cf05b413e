"""GATGNN: the graph encoder with a multilayer perceptron on top, the paper's first baseline."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.architectures.parts.layers import EncoderConfig, GraphEncoder, mlp
from models.graphs.graph import GraphBatch
from models.spectra.settings import Setting


class GATGNNConfig(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = Field(0.0, ge=0, lt=1)


class GATGNN(nn.Module):
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

    def __init__(self, size: int, config: GATGNNConfig = GATGNNConfig()) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        widths = [config.encoder.width, *config.hidden]
        self.head = nn.Sequential(mlp(widths, config.dropout), nn.Linear(widths[-1], size))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""
        return self.head(self.encoder(batch))

    def losses(self, batch: GraphBatch, target: Tensor, setting: Setting) -> dict[str, Tensor]:
        """The prediction loss for scaled labels `target` (B, K')."""
        prediction = setting.loss(self(batch), target)
        return {"total": prediction, "prediction": prediction}
