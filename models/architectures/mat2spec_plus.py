"""Mat2Spec+: what measurably helps when there are hundreds of spectra, not tens of thousands."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from models.architectures.interface import ArchitectureConfig, Insights
from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.ensemble import RegressedEnsemble, logits_of, member_spread
from models.architectures.parts.layers import GaussianBasis, register_tables, share_of_group
from models.architectures.parts.neighbor_sums import FastInference, Neighbors
from models.architectures.parts.scatter import scatter
from models.elements import element_descriptors, element_properties
from models.graphs.graph import GraphBatch
from models.spectra.settings import Output, Setting


class Mat2SpecPlusConfig(ArchitectureConfig):
    """Size and parts of Mat2Spec+; each part can be left out, to see what it is worth.

    Parameters
    ----------
    members : int
        Networks that differ in their initial weights and are trained side by side; the
        prediction is the mean of their logits.
    layers, width, hidden : int
        Convolutions, features of an atom, and width of the perceptron that makes the spectrum.
    dropout : float
        In front of each layer of that perceptron.
    gaussians : int
        Radial basis functions from 0 to `cutoff` Å.
    cutoff : float
        Where the smooth envelope of the messages ends, in Å.
    neighbors : float
        Typical number of neighbours, which messages are divided by.
    properties : bool
        Give each atom its element's properties as numbers, beside the 92 binned descriptors.
    statistics : bool
        Give the perceptron the crystal's :class:`~.parts.crystal_statistics.CrystalStatistics`.
    site_resolved : bool
        Every atom makes a spectrum of its own, and the crystal's is their mixture; where the
        spectra are distributions (SumNorm).
    kernel : float
        Share of a kernel regression on the statistics in the prediction; 0: none. Not where
        spectra have the maximum 1.
    output : str, optional
        What the setting's spectra are, see :class:`models.spectra.settings.Setting`; filled in
        when a model is trained.
    strain : float
        Deviation of a random isotropic strain of each training structure; 0: none.
    """

    members: int = Field(5, gt=0)
    layers: int = Field(2, gt=0)
    width: int = Field(64, gt=0)
    hidden: int = Field(128, gt=0)
    dropout: float = Field(0.3, ge=0, lt=1)
    gaussians: int = Field(41, gt=1)
    cutoff: float = Field(8.0, gt=0)
    neighbors: float = Field(12.0, gt=0)
    properties: bool = True
    statistics: bool = True
    site_resolved: bool = True
    kernel: float = Field(0.4, ge=0, lt=1)
    output: Output | None = None
    strain: float = Field(0.0, ge=0, lt=0.2)

    @property
    def mixes_sites(self) -> bool:
        """Whether the spectrum of a crystal is the mixture of its sites' spectra."""
        return self.site_resolved and self.output == "sum-normalized"

    @property
    def kernel_share(self) -> float:
        """What the kernel regression contributes."""
        return self.kernel if self.output in ("absolute", "sum-normalized") else 0.0


class GatedConvolution(nn.Module):
    """Residual convolution: gated messages that fade out smoothly with the distance.

    The gate and the message are linear in the features of both atoms and of the edge, computed
    as W_c h_c + W_n h_n + W_e u.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.center = nn.Linear(width, 2 * width)
        self.neighbor = nn.Linear(width, 2 * width, bias=False)
        self.edge = nn.Linear(width, 2 * width, bias=False)

    def forward(self, atoms: Tensor, edges: Tensor, weight: Tensor, batch: GraphBatch) -> Tensor:
        """New features of the atoms, shape (N, width).

        Parameters
        ----------
        atoms : Tensor, shape (N, width)
        edges : Tensor, shape (E, width)
        weight : Tensor, shape (E,)
            Of the edges' messages.
        batch : GraphBatch
        """
        normed = self.norm(atoms)
        both = self.center(normed).index_select(0, batch.center)
        both = both + self.neighbor(normed).index_select(0, batch.neighbor)
        gate, message = (both + self.edge(edges)).chunk(2, dim=1)
        messages = torch.sigmoid(gate) * F.silu(message) * weight[:, None]
        return atoms + scatter(messages, batch.center, len(atoms))

    def predicted(
        self,
        atoms: Tensor,
        basis: Tensor,
        embed_distance: nn.Linear,
        weight: Tensor,
        neighbors: Neighbors,
    ) -> Tensor:
        """:meth:`forward` where nothing is learned.

        Parameters
        ----------
        atoms : Tensor, shape (N, width)
        basis : Tensor, shape (D, gaussians)
            Of the distances of `neighbors`.
        embed_distance : Linear
            Makes features of edges of it; together with :attr:`edge` that is one linear map.
        weight : Tensor, shape (E,)
            Of the edges' messages.
        neighbors : Neighbors
        """
        normed, n, edge = self.norm(atoms), len(atoms), self.edge.weight
        parts = atoms.new_empty(2 * n + len(basis), len(edge))
        torch.addmm(self.center.bias, normed, self.center.weight.T, out=parts[:n])
        torch.mm(normed, self.neighbor.weight.T, out=parts[n : 2 * n])
        of_basis = edge @ embed_distance.weight, edge @ embed_distance.bias
        torch.addmm(of_basis[1], basis, of_basis[0].T, out=parts[2 * n :])
        gate, message = F.embedding_bag(neighbors.parts, parts, mode="sum").chunk(2, dim=1)
        messages = torch.sigmoid(gate).mul_(F.silu(message))
        return atoms + neighbors.summed(messages, neighbors.numbers, weight)


@dataclass(frozen=True, eq=False, slots=True)
class _Shared:
    """What all members of the ensemble see of a batch.

    Parameters
    ----------
    graph : Tensor, shape (N,), int64
        Crystal of each node.
    basis : Tensor, shape (E, gaussians)
        Distances of the edges, or of `neighbors`.
    weight : Tensor, shape (E,)
        Of the edges' messages.
    statistics : Tensor, shape (B, size)
        Standardised.
    neighbors : Neighbors, optional
        Where the faster way is gone.
    """

    graph: Tensor
    basis: Tensor
    weight: Tensor
    statistics: Tensor
    neighbors: Neighbors | None


class _Member(nn.Module):
    """One network of the ensemble: crystal graphs to logits (B, K')."""

    descriptors: Tensor

    def __init__(self, size: int, config: Mat2SpecPlusConfig) -> None:
        super().__init__()
        self.config = config
        width, descriptors = config.width, element_descriptors()
        if config.properties:
            descriptors = np.concatenate([descriptors, element_properties()], axis=1)
        register_tables(self, descriptors=descriptors)
        self.embed_element = nn.Linear(descriptors.shape[1], width)
        self.embed_distance = nn.Linear(config.gaussians, width)
        self.convolutions = nn.ModuleList(GatedConvolution(width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        features = width
        if config.statistics:
            self.context = nn.Sequential(
                nn.Linear(CrystalStatistics.size, width),
                nn.SiLU(),
                nn.Dropout(config.dropout),
            )
            features += width
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(features, config.hidden),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, size),
        )
        if config.mixes_sites:
            self.share = nn.Linear(features, 1, bias=False)

    def forward(self, batch: GraphBatch, shared: _Shared) -> tuple[Tensor, Tensor]:
        """Logits, shape (B, K'), and the mean of the atoms' features, shape (B, width)."""
        graph, n, statistics = shared.graph, len(batch), shared.statistics
        atoms = self._atoms(batch, shared)
        fraction = (batch.multiplicity / batch.n_atoms[graph])[:, None]
        crystals = scatter(fraction * atoms, graph, n)
        context = self.context(statistics) if self.config.statistics else None
        if not self.config.mixes_sites:
            features = crystals if context is None else torch.cat([crystals, context], 1)
            return self.head(features), crystals
        sites = atoms if context is None else torch.cat([atoms, context[graph]], dim=1)
        share = share_of_group(self.share(sites), batch.multiplicity, graph, n)
        return _mixture(self.head(sites), share, graph, n), crystals

    def _atoms(self, batch: GraphBatch, shared: _Shared) -> Tensor:
        """Features of the atoms, shape (N, width)."""
        atoms = self.embed_element(self.descriptors).index_select(0, batch.atomic_numbers)
        if shared.neighbors is None:
            edges = self.embed_distance(shared.basis)
            for convolution in self.convolutions:
                atoms = convolution(atoms, edges, shared.weight, batch)
            return self.norm(atoms)
        for convolution in self.convolutions:
            atoms = convolution.predicted(
                atoms, shared.basis, self.embed_distance, shared.weight, shared.neighbors
            )
        return self.norm(atoms)


def _mixture(logits: Tensor, share: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
    """Logarithm of the mixture of the sites' spectra, shape (B, K').

    Parameters
    ----------
    logits : Tensor, shape (N, K')
        Of each site; softmax makes a spectrum of them.
    share : Tensor, shape (N, 1)
        Of each site in its crystal's spectrum.
    """
    return logits_of(scatter(share * logits.softmax(-1), graph, n_graphs))


class Mat2SpecPlus(RegressedEnsemble, FastInference):
    """Crystal graphs to spectra; a variant of Mat2Spec for small training sets.

    Of Mat2Spec it keeps the input, the settings and the interface. What differs, and what each
    change is worth, is in the benchmark tables of ``models/zoo``:

    - gated residual convolutions whose messages fade out smoothly with the distance, instead of
      graph attention, and layer instead of batch normalisation;
    - the elements' properties as numbers, and statistics of elements, bonds and sites;
    - in the SumNorm settings a spectrum for each site, mixed in learned shares;
    - an ensemble of networks, trained side by side, averaged with a kernel regression on the
      statistics;
    - no label branch: the probabilistic embedding and its losses did not help here.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : Mat2SpecPlusConfig
    """

    Config = Mat2SpecPlusConfig
    config: Mat2SpecPlusConfig
    outlier = 5.0

    def __init__(self, size: int, config: Mat2SpecPlusConfig = Mat2SpecPlusConfig()) -> None:
        members = (_Member(size, config) for _ in range(config.members))
        super().__init__(size, config, members, config.kernel_share)
        self.basis = GaussianBasis(config.gaussians, config.cutoff)

    @property
    @override
    def makes_shapes(self) -> bool:
        return self.config.output == "sum-normalized"

    @override
    def forward(self, batch: GraphBatch, regression: Tensor | None = None) -> Tensor:
        return self._logits(batch, self._shared(batch), regression)[0]

    @override
    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'); the members' embeddings side by side, and their spread."""
        logits, of_members, embedding = self._logits(batch, self._shared(batch), None)
        spread = member_spread(of_members.softmax(-1)) if self.makes_shapes else None
        return logits, Insights(embedding, spread)

    def _logits(
        self, batch: GraphBatch, shared: _Shared, regression: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K') with the share of the regression, of each member, and embeddings."""
        of_members, embedding = self._of_members(batch, shared)
        logits = of_members.mean(0)
        if regression is None:
            regression = self.regression(shared.statistics)
        if regression is not None:
            spectra = logits.softmax(-1) if self.makes_shapes else logits
            averaged = self.averaged(spectra, regression)
            logits = logits_of(averaged) if self.makes_shapes else averaged
        return logits, of_members, embedding

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """Mean of the atoms' last features, the members' side by side, (B, members * width)."""
        return self._of_members(batch, self._shared(batch))[1]

    def member_logits(self, batch: GraphBatch) -> Tensor:
        """Logits of each member, shape (members, B, K')."""
        return self._of_members(batch, self._shared(batch))[0]

    def _of_members(self, batch: GraphBatch, shared: _Shared) -> tuple[Tensor, Tensor]:
        """Logits, shape (members, B, K'), and embeddings, shape (B, members * width)."""
        logits, crystals = zip(*(member(batch, shared) for member in self.members), strict=True)
        return torch.stack(logits), torch.cat(crystals, 1)

    def _shared(self, batch: GraphBatch) -> _Shared:
        reach = (batch.distance / self.config.cutoff).clamp_max(1.0)
        envelope = 0.5 * (torch.cos(math.pi * reach) + 1)
        neighbors = Neighbors.of(batch) if self.goes_fast(batch) else None
        return _Shared(
            batch.graph_index,
            self.basis(batch.distance if neighbors is None else neighbors.distances),
            envelope * batch.edge_multiplicity / self.config.neighbors,
            self.standardized(batch),
            neighbors,
        )

    @override
    def losses(
        self, batch: GraphBatch, target: Tensor, setting: Setting, spectra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Mean prediction loss of the members, for strained structures if they are asked for."""
        strained = self._strained(batch) if self.config.strain else batch
        return super().losses(strained, target, setting, spectra)

    def _strained(self, batch: GraphBatch) -> GraphBatch:
        """The structures, each larger or smaller by a random factor."""
        factor = 1 + self.config.strain * torch.randn(len(batch), device=batch.distance.device)
        scale = factor[batch.graph_index[batch.center]]
        return replace(batch, distance=batch.distance * scale)
