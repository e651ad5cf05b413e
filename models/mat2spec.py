"""Mat2Spec: probabilistic embeddings of crystals and spectra, aligned (Fig. 1, Algorithm 1)."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.graph import GraphBatch
from models.layers import EncoderConfig, GraphEncoder, mlp
from models.losses import Setting, alignment_loss, contrastive_loss


class LossWeights(BaseModel):
    """Weights of the prediction, alignment and contrastive losses (lambda in eq. 10).

    The paper's text gives 1, 1 and 1.1; the authors' code uses 1 for the *sum* of both
    branches' prediction losses, 1.1 and 0.1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prediction: float = Field(1.0, ge=0)
    alignment: float = Field(1.0, ge=0)
    contrastive: float = Field(1.1, ge=0)


class Mat2SpecConfig(BaseModel):
    """Size and losses of Mat2Spec; the defaults are the paper's.

    Parameters
    ----------
    encoder : EncoderConfig
        The paper's text and code differ in the number of layers, see there.
    latent : int
        Dimension D of the Gaussians.
    components : int
        Gaussians K of a crystal; a spectrum has one for each bin.
    embedding, projection : int
        Output size of the translator and of the projector.
    dropout : float
        In the label and the feature encoder.
    temperature : float
        Of the contrastive loss.
    label_embedding : bool
        False: the ablation without label branch; only the prediction loss is left.
    projector : bool
        False: the ablation that contrasts the embeddings themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    latent: int = Field(128, gt=0)
    components: int = Field(10, gt=0)
    embedding: int = Field(512, gt=0)
    projection: int = Field(1024, gt=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    temperature: float = Field(1.0, gt=0)
    loss_weights: LossWeights = LossWeights()
    label_embedding: bool = True
    projector: bool = True


class GaussianHead(nn.Module):
    """Features (..., n) to the mean and log-variance of `components` Gaussians."""

    def __init__(self, size: int, components: int, latent: int) -> None:
        super().__init__()
        self.shape = (components, latent)
        self.mean = nn.Linear(size, components * latent)
        self.logvar = nn.Linear(size, components * latent)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each of shape (..., components, latent)."""
        return (
            self.mean(features).unflatten(-1, self.shape),
            self.logvar(features).unflatten(-1, self.shape),
        )


def sample(mean: Tensor, logvar: Tensor) -> Tensor:
    """Draw from diagonal Gaussians so that gradients reach their parameters."""
    return mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)


class FeatureEncoder(nn.Module):
    """Graph embeddings (B, width) to K Gaussians each and their mixing weights."""

    def __init__(self, config: Mat2SpecConfig) -> None:
        super().__init__()
        self.body = mlp([config.encoder.width, 256, 512, 256], config.dropout)
        self.gaussians = GaussianHead(256, config.components, config.latent)
        self.weight = nn.Linear(256, config.components)

    def forward(self, embedding: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Weights beta (B, K), and mean and log-variance (B, K, D)."""
        hidden = self.body(embedding)
        return self.weight(hidden).softmax(-1), self.gaussians(hidden)


class LabelEncoder(nn.Module):
    """Spectra (B, K') to mixing weights over the K' bins' Gaussians."""

    def __init__(self, config: Mat2SpecConfig, size: int) -> None:
        super().__init__()
        self.size = size
        self.body = mlp([size, 512, 256], config.dropout)
        self.gaussians = GaussianHead(256, 1, config.latent)
        self.weight = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, size))

    def forward(self, target: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Weights alpha (B, K'), and mean and log-variance (K', D) of the bins."""
        bins = torch.eye(self.size, device=target.device, dtype=target.dtype)
        mean, logvar = self.gaussians(self.body(bins))
        return self.weight(target).softmax(-1), (mean.squeeze(1), logvar.squeeze(1))


class Mat2Spec(nn.Module):
    """Crystal graphs to spectra.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : Mat2SpecConfig

    Notes
    -----
    Where the paper is ambiguous, a configuration value chooses: layers of the encoder (text 2,
    code 3), loss weights (text 1, 1, 1.1; code 1, 1.1, 0.1), batch size (text 128, code 256; see
    :class:`models.training.TrainingConfig`). The alignment is the KL divergence of the label from
    the feature mixture; the authors' code averages both directions.

    Examples
    --------
    >>> logits = Mat2Spec(128)(batch)  # doctest: +SKIP
    """

    def __init__(self, size: int, config: Mat2SpecConfig = Mat2SpecConfig()) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        self.features = FeatureEncoder(config)
        self.translator = nn.Sequential(
            nn.Linear(config.encoder.width + config.latent, 512),
            nn.ReLU(),
            nn.Linear(512, config.embedding),
            nn.LeakyReLU(),
        )
        self.predictor = nn.Linear(config.embedding, size)
        if config.label_embedding:
            self.labels = LabelEncoder(config, size)
            if config.projector:
                self.projector = nn.Linear(config.embedding, config.projection)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits (B, K') of the feature branch, which is all that inference needs."""
        embedding = self.encoder(batch)
        weight, (mean, logvar) = self.features(embedding)
        return self.predictor(self._translate(embedding, weight, mean, logvar))

    def losses(self, batch: GraphBatch, target: Tensor, setting: Setting) -> dict[str, Tensor]:
        """Losses of both branches for scaled labels `target` (B, K'); ``"total"`` is minimised."""
        weights = self.config.loss_weights
        embedding = self.encoder(batch)
        beta, feature = self.features(embedding)
        feature_embedding = self._translate(embedding, beta, *feature)
        prediction = setting.loss(self.predictor(feature_embedding), target)
        if not self.config.label_embedding:
            return {"total": weights.prediction * prediction, "prediction": prediction}
        alpha, label = self.labels(target)
        label_embedding = self._translate(embedding, alpha, *label)
        prediction = (prediction + setting.loss(self.predictor(label_embedding), target)) / 2
        alignment = alignment_loss(alpha, label, beta, feature)
        contrastive = contrastive_loss(
            self._project(label_embedding),
            self._project(feature_embedding),
            self.config.temperature,
        )
        total = (
            weights.prediction * prediction
            + weights.alignment * alignment
            + weights.contrastive * contrastive
        )
        return {
            "total": total,
            "prediction": prediction,
            "alignment": alignment,
            "contrastive": contrastive,
        }

    def _project(self, embedding: Tensor) -> Tensor:
        return self.projector(embedding) if self.config.projector else embedding

    def _translate(self, embedding: Tensor, weight: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """Embedding (B, 512) of the mixture with components (B, K, D) or (K, D)."""
        components = sample(mean, logvar) if self.training else mean
        subscripts = "bk,bkd->bd" if components.dim() == 3 else "bk,kd->bd"
        latent = torch.einsum(subscripts, weight, components)
        return self.translator(torch.cat([embedding, latent], dim=-1))
