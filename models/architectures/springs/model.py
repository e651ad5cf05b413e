"""Springs: the phonon DOS of a crystal from springs between its atoms, which are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from models.architectures.interface import ArchitectureConfig, GraphNeeds, Insights
from models.architectures.parts.crystal_statistics import N_SITE, CrystalStatistics
from models.architectures.parts.ensemble import (
    RegressedEnsemble,
    distribution,
    logits_of,
    member_spread,
    scales,
    standardized,
)
from models.architectures.parts.layers import register_tables
from models.architectures.parts.scatter import scatter
from models.architectures.springs.lattice_dynamics import (
    Springs,
    modes,
    smeared,
    waves_of,
)
from models.elements import N_PROPERTIES, atomic_masses, element_properties
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from models.spectra.spectrum import PHDOS_GRID, EnergyGrid

N_FEATURES = 3 + 2 * (N_PROPERTIES + N_SITE)  # of a bond
_STIFFNESS, _SOFTENING = (5.9, -3.0), -3.0  # before training, see _Member


class SpringsConfig(ArchitectureConfig):
    """Size and parts of the model of springs.

    Parameters
    ----------
    members : int
        Networks that differ in their initial weights and are trained side by side; the
        prediction is the mean of their spectra.
    hidden : int
        Width of the perceptron that gives a bond its force constants.
    dropout : float
        Between its layers.
    reach : float
        Longest springs, as a multiple of the nearest neighbour's distance; both relative to the
        covalent radii.
    mesh : float
        Size in Å of the supercell whose modes are computed, see
        :func:`models.architectures.springs.lattice_dynamics.waves_of`.
    kernel : float
        Share of a kernel regression on the crystal's
        :class:`~models.architectures.parts.crystal_statistics.CrystalStatistics` in the
        prediction; 0: none.
    grid : EnergyGrid
        Of the spectra, in cm^-1; filled in when a model is trained.
    """

    members: int = Field(5, gt=0)
    hidden: int = Field(128, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    reach: float = Field(1.6, gt=1)
    mesh: float = Field(9.0, gt=0)
    kernel: float = Field(0.2, ge=0, lt=1)
    grid: EnergyGrid = PHDOS_GRID


@dataclass(frozen=True, eq=False)
class _Bonds:
    """What is known of E edges, the same in both directions.

    Parameters
    ----------
    features : Tensor, shape (E, N_FEATURES)
    log_distance : Tensor, shape (E,)
        Of the distance in Å.
    ratio : Tensor, shape (E,)
        Of the distance to that of the nearest neighbour, both relative to the covalent radii; of
        the two ends' nearest neighbours the farther one counts.
    within : Tensor, shape (E,)
        1 if the bond is a spring, 0 if it is too long for one.
    """

    features: Tensor
    log_distance: Tensor
    ratio: Tensor
    within: Tensor


class _Member(nn.Module):
    """Force constants of bonds: a power law of the distance times what a perceptron says.

    k_L = exp(a + b log d + c (ratio - 1) + p_1), k_T = k_L sigmoid(p_2), in N/m, d in Å; p_1 and
    p_2 are the perceptron's.
    """

    def __init__(self, config: SpringsConfig) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(_STIFFNESS))
        self.softening = nn.Parameter(torch.tensor(_SOFTENING))
        self.bond = nn.Linear(N_FEATURES, config.hidden)
        self.crystal = nn.Linear(CrystalStatistics.size, config.hidden, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(config.hidden, config.hidden)
        self.output = nn.Linear(config.hidden, 2)
        self.output.weight.data.mul_(0.1)  # begin with the power law
        self.output.bias.data = torch.tensor([0.0, -1.5])
        self.smearing = nn.Parameter(torch.tensor(math.log(0.6)))  # in bins

    def forward(self, bonds: _Bonds, statistics: Tensor, graph: Tensor) -> Springs:
        """Springs of the E edges, of the crystals `graph` (E,) with `statistics` (B, size)."""
        features = self.features(bonds, statistics, graph)
        factor, transverse = self.output(features).float().unbind(1)
        power_law = self.stiffness[0] + self.stiffness[1] * bonds.log_distance
        exponent = power_law + self.softening * (bonds.ratio - 1) + factor
        longitudinal = bonds.within * exponent.clamp(-15, 15).exp()
        return Springs(longitudinal, longitudinal * transverse.sigmoid())

    def features(self, bonds: _Bonds, statistics: Tensor, graph: Tensor) -> Tensor:
        """What the network makes of the E edges, shape (E, hidden); arguments as of a call."""
        features = F.silu(self.bond(bonds.features) + self.crystal(statistics)[graph])
        return F.silu(self.hidden(self.dropout(features)))


class SpringModel(RegressedEnsemble):
    """Crystals to phonon spectra with the sum 1, through springs between the atoms.

    Each edge of the graph is a spring along the bond and one across it, whose force constants a
    network derives from the bond's length, its two atoms and the crystal as a whole. The
    spectrum is that of the vibrations of this network of springs, so masses, coordination and
    connectivity count as they do in nature, and only force constants have to be learned. It has
    no imaginary modes, and the limits of :mod:`~.springs.lattice_dynamics`: rotations cost energy,
    and there is no LO-TO splitting. Needs graphs with edge vectors (``GraphConfig(vectors=True)``).

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : SpringsConfig

    Raises
    ------
    ModelError
        If the grid of the configuration has another number of bins.
    """

    Config = SpringsConfig
    graph_needs = GraphNeeds(vectors=True)
    unit, output = "cm^-1", "sum-normalized"
    predicts = "phonon spectra with the sum 1 (sumnorm-wd, sumnorm-kl)"
    config: SpringsConfig
    outlier = 4.0  # also of a number that describes a bond
    bond_center: Tensor
    bond_scale: Tensor
    properties: Tensor
    masses: Tensor
    edges: Tensor

    def __init__(self, size: int, config: SpringsConfig = SpringsConfig()) -> None:
        if size != config.grid.size:
            raise ModelError(f"springs: {size} bins, but a grid of {config.grid.size}")
        members = (_Member(config) for _ in range(config.members))
        super().__init__(size, config, members, config.kernel)
        register_tables(
            self,
            properties=element_properties(),
            masses=atomic_masses(),
            edges=config.grid.edges.astype("float32"),
        )
        self.register_buffer("bond_center", torch.zeros(N_FEATURES))
        self.register_buffer("bond_scale", torch.ones(N_FEATURES))

    @override
    def fit(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit the scales of the numbers that describe bonds and crystals, and the regression."""
        bonds = self._bonds(batch)
        self.bond_center, self.bond_scale = scales(bonds.features[bonds.within > 0])
        super().fit(batch, target)

    @override
    def forward(self, batch: GraphBatch, regression: Tensor | None = None) -> Tensor:
        return self._logits(self.member_spectra(batch), batch, regression)

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """Mean of what the members make of the springs, side by side, (B, members * hidden)."""
        bonds, statistics = self._bonds(batch), self.standardized(batch)
        bonds, graph = self._standardized_bonds(bonds), batch.graph_index[batch.center]
        n_springs = scatter(bonds.within, graph, len(batch)).clamp_min(1)
        share = (bonds.within / n_springs[graph])[:, None]
        features = [member.features(bonds, statistics, graph) for member in self.members]
        return scatter(share * torch.cat(features, 1), graph, len(batch))

    @override
    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), the embedding and the spread of the members."""
        spectra = self.member_spectra(batch)
        return self._logits(spectra, batch), Insights(self.embedding(batch), member_spread(spectra))

    def _logits(
        self, member_spectra: Tensor, batch: GraphBatch, regression: Tensor | None = None
    ) -> Tensor:
        if regression is None:
            regression = self.regression(self.standardized(batch))
        return logits_of(self.averaged(member_spectra.mean(0), regression))

    def member_logits(self, batch: GraphBatch) -> Tensor:
        """Logits of each member, shape (members, B, K')."""
        return logits_of(self.member_spectra(batch))

    def member_spectra(self, batch: GraphBatch) -> Tensor:
        """Spectra of each member, with the sum 1, shape (members, B, K').

        Raises
        ------
        ModelError
            If the graphs have no edge vectors.
        """
        if batch.vector is None:
            raise ModelError("the architecture springs needs graphs with edge vectors")
        masses, waves = self.masses[batch.atomic_numbers], waves_of(batch, self.config.mesh)
        springs = self.springs(batch)
        with torch.autocast(batch.distance.device.type, enabled=False):
            together = Springs(
                torch.stack([s.longitudinal for s in springs]),
                torch.stack([s.transverse for s in springs]),
            )
            smearing = torch.stack([member.smearing for member in self.members])
            smearing = self.config.grid.width * smearing.exp().clamp(0.2, 3)
            spectra = (
                smeared(some, len(batch), self.edges, smearing)
                for some in modes(batch, together, masses, waves)
            )
            return distribution(torch.stack(list(spectra)).sum(0))

    def springs(self, batch: GraphBatch) -> list[Springs]:
        """The springs that each member sees in the edges."""
        bonds, statistics = self._standardized_bonds(self._bonds(batch)), self.standardized(batch)
        some = bonds.within.nonzero().flatten()  # half of the edges are too long for a spring
        bonds = _Bonds(*(getattr(bonds, f.name).index_select(0, some) for f in fields(bonds)))
        graph = batch.graph_index.index_select(0, batch.center[some])
        none = bonds.within.new_zeros(len(batch.center))
        return [
            Springs(*(none.index_add(0, some, k) for k in (found.longitudinal, found.transverse)))
            for found in (member(bonds, statistics, graph) for member in self.members)
        ]

    def _standardized_bonds(self, bonds: _Bonds) -> _Bonds:
        features = standardized(bonds.features, self.bond_center, self.bond_scale, self.outlier)
        return replace(bonds, features=features)

    def _bonds(self, batch: GraphBatch) -> _Bonds:
        relative, n_nodes = self.statistics.relative_distance(batch), len(batch.atomic_numbers)
        shortest = scatter(relative, batch.center, n_nodes, reduce="min")
        ratio = relative / torch.maximum(shortest[batch.center], shortest[batch.neighbor])
        log_distance = batch.distance.log()
        atoms = self.properties[batch.atomic_numbers]
        atoms = torch.cat([atoms, self.statistics.sites(batch)], dim=1)
        center, neighbor = atoms[batch.center], atoms[batch.neighbor]
        lengths = torch.stack([log_distance, relative, ratio], dim=1)
        features = torch.cat([lengths, center + neighbor, (center - neighbor).abs()], dim=1)
        return _Bonds(features, log_distance, ratio, (ratio < self.config.reach).float())
