"""Mat2Spec: probabilistic embeddings of crystals and spectra, aligned (Fig. 1, Algorithm 1)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from typing_extensions import override

from models.architectures.interface import Architecture, ArchitectureConfig, Insights
from models.architectures.mat2spec.losses import (
    AlignmentDirection,
    alignment_loss,
    contrastive_loss,
)
from models.architectures.parts.layers import EncoderConfig, GraphEncoder, mlp, readout
from models.graphs.graph import GraphBatch
from models.spectra.settings import Setting, StandardMAE

Gaussians = tuple[Tensor, Tensor]


class LossWeights(BaseModel):
    """Weights of the prediction, alignment and contrastive losses (lambda in eq. 10).

    The prediction loss is the mean of both branches'. The paper's text has 1, 1.1 and 1; the
    authors' code 1 for the *sum* of both branches' prediction losses (here 2), 1.1 and 0.1. With
    hundreds of labels an alignment of 1.1 collapses the label branch, see :class:`Mat2Spec`.

    Parameters
    ----------
    prediction, alignment, contrastive : float
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prediction: float = Field(1.0, ge=0)
    alignment: float = Field(0.01, ge=0)
    contrastive: float = Field(0.1, ge=0)


class Mat2SpecConfig(ArchitectureConfig):
    """Size and losses of Mat2Spec.

    Sizes are the paper's; where its text and the authors' code differ, or their label branch
    collapses, the defaults are what works with hundreds of labels. ``models/zoo/paper.yaml`` and
    ``models/zoo/authors.yaml`` have what the text and the code set.

    Parameters
    ----------
    encoder : EncoderConfig
    latent : int
        Dimension D of the Gaussians.
    components : int
        Gaussians K of a crystal; a spectrum has one for each bin.
    embedding, projection : int
        Output size of the translator and of the projector.
    predictor_layers, projector_layers : int
        Linear layers of the predictor and of the projector: two in the text, one in the code.
    dropout : float
        In the label and the feature encoder.
    temperature : float
        Of the contrastive loss.
    loss_weights : LossWeights
    alignment : {'feature-to-label', 'label-to-feature', 'symmetric'}
        Direction of the KL divergence, see :func:`~.losses.alignment_loss`: the first is the
        text's (eq. 7), the last the code's.
    label_input : {'standardised', 'unit-mean', 'target', 'spectrum'}
        What the label encoder sees: the scaled labels with mean 0 and variance 1 in each bin over
        the training set, or with the mean 1 in each spectrum, or as they are, or the labels
        before scaling, in states/eV/cell as in the code.
    label_temperature : float
        Of the softmax that makes mixing weights of what the label encoder sees.
    graph_beside_latent : {'both', 'feature', 'neither'}
        Branches whose translator gets the graph embedding beside the latent: both in text and
        code. By default the label branch predicts from the label alone.
    detach_labels : bool
        The alignment moves the feature mixture only; in text and code the label mixture as well.
    label_embedding : bool
        False: the ablation without label branch; only the prediction loss is left.
    projector : bool
        False: the ablation that contrasts the embeddings themselves.
    """

    encoder: EncoderConfig = EncoderConfig()
    latent: int = Field(128, gt=0)
    components: int = Field(10, gt=0)
    embedding: int = Field(512, gt=0)
    projection: int = Field(1024, gt=0)
    predictor_layers: int = Field(1, gt=0)
    projector_layers: int = Field(1, gt=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    temperature: float = Field(1.0, gt=0)
    loss_weights: LossWeights = LossWeights()
    alignment: AlignmentDirection = "feature-to-label"
    label_input: Literal["standardised", "unit-mean", "target", "spectrum"] = "standardised"
    label_temperature: float = Field(1.0, gt=0)
    graph_beside_latent: Literal["both", "feature", "neither"] = "feature"
    detach_labels: bool = True
    label_embedding: bool = True
    projector: bool = True


class GaussianHead(nn.Module):
    """Features to the mean and log-variance of Gaussians.

    Parameters
    ----------
    size : int
        Features.
    components : int
        Gaussians.
    latent : int
        Their dimension.
    """

    def __init__(self, size: int, components: int, latent: int) -> None:
        super().__init__()
        self.shape = (components, latent)
        self.mean = nn.Linear(size, components * latent)
        self.logvar = nn.Linear(size, components * latent)

    def forward(self, features: Tensor) -> Gaussians:
        """Mean and log-variance, each of shape (..., components, latent)."""
        return (
            self.mean(features).unflatten(-1, self.shape),
            self.logvar(features).unflatten(-1, self.shape),
        )


def sample(mean: Tensor, logvar: Tensor) -> Tensor:
    """Draw from diagonal Gaussians so that gradients reach their parameters.

    Parameters
    ----------
    mean, logvar : Tensor, of one shape
    """
    return mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)


class FeatureEncoder(nn.Module):
    """Graph embeddings (B, width) to K Gaussians each and their mixing weights."""

    def __init__(self, config: Mat2SpecConfig) -> None:
        super().__init__()
        self.body = mlp([config.encoder.width, 256, 512, 256], config.dropout)
        self.gaussians = GaussianHead(256, config.components, config.latent)
        self.weight = nn.Linear(256, config.components)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Gaussians]:
        """Weights beta (B, K), and mean and log-variance (B, K, D)."""
        hidden = self.body(embedding)
        return self.weight(hidden).softmax(-1), self.gaussians(hidden)


class LabelEncoder(nn.Module):
    """Spectra (B, K') to mixing weights over the K' bins' Gaussians.

    Parameters
    ----------
    config : Mat2SpecConfig
    size : int
        Bins K'.
    """

    def __init__(self, config: Mat2SpecConfig, size: int) -> None:
        super().__init__()
        self.size, self.config = size, config
        self.scaling = StandardMAE(size, extensive=False)
        self.body = mlp([size, 512, 256], config.dropout)
        self.gaussians = GaussianHead(256, 1, config.latent)
        self.weight = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, size))

    def fit(self, target: Tensor) -> None:
        """Take mean and deviation of the bins from the training labels (n, K')."""
        self.scaling.fit(target, target.new_ones(len(target)))

    def forward(self, target: Tensor) -> tuple[Tensor, Gaussians]:
        """Weights alpha (B, K'), and mean and log-variance (K', D) of the bins."""
        bins = torch.eye(self.size, device=target.device, dtype=target.dtype)
        mean, logvar = self.gaussians(self.body(bins))
        score = self.weight(self._scaled(target)) / self.config.label_temperature
        return score.softmax(-1), (mean.squeeze(1), logvar.squeeze(1))

    def _scaled(self, target: Tensor) -> Tensor:
        if self.config.label_input == "standardised":
            return self.scaling.target(target, target.new_ones(len(target)))
        if self.config.label_input == "unit-mean":
            return target / target.mean(-1, keepdim=True)
        return target


class Mat2Spec(Architecture):
    """Crystal graphs to spectra.

    The alignment's bound (:func:`~.losses.alignment_loss`) vanishes only where all components of
    both mixtures are one Gaussian, and then the label's latent says nothing of the label.
    Beside the graph embedding the label branch can do without it, and at the weight of eq. 10
    that is what it learns from hundreds of spectra: the same loss with true and with shuffled
    labels. Trainings report both (:func:`models.training.fit.label_branch_losses`). By default the
    label branch gets no graph embedding and its mixture is not moved by the alignment, whose
    weight is small so that the features are not drawn away from their prediction.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : Mat2SpecConfig

    Examples
    --------
    >>> logits = Mat2Spec(128)(batch)  # doctest: +SKIP
    """

    Config = Mat2SpecConfig
    config: Mat2SpecConfig

    def __init__(self, size: int, config: Mat2SpecConfig = Mat2SpecConfig()) -> None:
        super().__init__(size, config)
        self.encoder = GraphEncoder(config.encoder)
        self.features = FeatureEncoder(config)
        beside = 0 if config.graph_beside_latent == "neither" else config.encoder.width
        self.translator = nn.Sequential(
            nn.Linear(beside + config.latent, 512),
            nn.ReLU(),
            nn.Linear(512, config.embedding),
            nn.LeakyReLU(),
        )
        self.predictor = readout(config.embedding, config.predictor_layers, size)
        if config.label_embedding:
            self.labels = LabelEncoder(config, size)
            if config.projector:
                self.projector = readout(
                    config.embedding, config.projector_layers, config.projection
                )

    @property
    def has_label_branch(self) -> bool:
        """Whether the labels are embedded in training."""
        return self.config.label_embedding

    @override
    def fit(self, batch: GraphBatch, target: Tensor) -> None:
        """Take the statistics of the scaled labels that the label encoder needs."""
        if self.has_label_branch:
            self.labels.fit(target)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits (B, K') of the feature branch, which is all that inference needs."""
        return self.logits_and_insights(batch)[0]

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """The encoder's pooled atoms, shape (B, width)."""
        return self.encoder(batch)

    @override
    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), and the embedding that they are made of."""
        embedding = self.embedding(batch)
        features = self._feature_embedding(embedding, *self.features(embedding))
        return self.predictor(features), Insights(embedding)

    @override
    def losses(
        self,
        batch: GraphBatch,
        target: Tensor,
        setting: Setting,
        spectra: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of both branches; ``"total"`` is minimised."""
        weights = self.config.loss_weights
        embedding = self.encoder(batch)
        beta, feature = self.features(embedding)
        feature_embedding = self._feature_embedding(embedding, beta, feature)
        prediction = setting.loss(self.predictor(feature_embedding), target)
        if not self.config.label_embedding:
            return {"total": weights.prediction * prediction, "prediction": prediction}
        alpha, label = self.labels(self._label_input(target, spectra))
        label_embedding = self._label_embedding(embedding, alpha, label)
        label_prediction = setting.loss(self.predictor(label_embedding), target)
        prediction = (prediction + label_prediction) / 2
        if self.config.detach_labels:
            alpha, label = alpha.detach(), (label[0].detach(), label[1].detach())
        alignment = alignment_loss(alpha, label, beta, feature, self.config.alignment)
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

    @override
    def label_logits(
        self, batch: GraphBatch, target: Tensor, spectra: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K') of the label branch."""
        alpha, label = self.labels(self._label_input(target, spectra))
        return self.predictor(self._label_embedding(self.encoder(batch), alpha, label))

    def _label_input(self, target: Tensor, spectra: Tensor | None) -> Tensor:
        if self.config.label_input != "spectrum" or spectra is None:
            return target
        return spectra

    def _project(self, embedding: Tensor) -> Tensor:
        return self.projector(embedding) if self.config.projector else embedding

    def _feature_embedding(self, graph: Tensor, beta: Tensor, feature: Gaussians) -> Tensor:
        latent = torch.einsum("bk,bkd->bd", beta, self._draw(feature))
        if self.config.graph_beside_latent == "neither":
            return self.translator(latent)
        return self.translator(torch.cat([graph, latent], dim=-1))

    def _label_embedding(self, graph: Tensor, alpha: Tensor, label: Gaussians) -> Tensor:
        latent = alpha @ self._draw(label)
        if self.config.graph_beside_latent == "neither":
            return self.translator(latent)
        if self.config.graph_beside_latent == "feature":
            graph = torch.zeros_like(graph)
        return self.translator(torch.cat([graph, latent], dim=-1))

    def _draw(self, gaussians: Gaussians) -> Tensor:
        return sample(*gaussians) if self.training else gaussians[0]
