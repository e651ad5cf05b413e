"""E3NN: a Euclidean-equivariant network, the paper's second baseline (Chen et al. 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from models.architectures.interface import Architecture, ArchitectureConfig, GraphNeeds, Insights
from models.architectures.parts.layers import GaussianBasis, register_tables
from models.architectures.parts.scatter import scatter
from models.elements import N_DESCRIPTORS, element_descriptors
from models.errors import ModelError
from models.graphs.graph import GraphBatch


class E3NNConfig(ArchitectureConfig):
    """Size of the network; the default trains on a workstation.

    Parameters
    ----------
    scalars, vectors, tensors : int
        Features of an atom of degree 0, 1 and 2 (of even, odd and even parity).
    layers : int
        Convolutions before the last one, which makes scalars only.
    gaussians : int
        Radial basis functions from 0 to `cutoff` Å.
    radial : int
        Hidden width of the network that makes the weights of an edge from its length.
    cutoff : float
        In Å.
    neighbors : float
        Typical number of neighbours, which messages are normalised with.
    """

    scalars: int = Field(64, gt=0)
    vectors: int = Field(16, gt=0)
    tensors: int = Field(8, gt=0)
    layers: int = Field(2, gt=0)
    gaussians: int = Field(20, gt=1)
    radial: int = Field(64, gt=0)
    cutoff: float = Field(8.0, gt=0)
    neighbors: float = Field(14.0, gt=0)


def _o3() -> Any:
    try:
        from e3nn import o3
    except ImportError:
        raise ModelError(
            "the architecture e3nn needs the package e3nn; install the extra `e3nn`"
        ) from None
    return o3


class Convolution(nn.Module):
    """Messages from the neighbours: features times spherical harmonics of the edge.

    Every path of the tensor product that leads to an irrep of `irreps_out` is taken, with
    weights that a perceptron makes from the length of the edge.

    Parameters
    ----------
    irreps_in, irreps_edge, irreps_out : Irreps
        Of the atoms' features, the edges' harmonics and the result.
    config : E3NNConfig
    """

    def __init__(self, irreps_in: Any, irreps_edge: Any, irreps_out: Any, config: E3NNConfig):
        super().__init__()
        o3 = _o3()
        self.neighbors = config.neighbors
        wanted = {ir for _, ir in irreps_out}
        middle: list[tuple[int, Any]] = []
        paths = []
        for i, (mul, ir_in) in enumerate(irreps_in):
            for j, (_, ir_edge) in enumerate(irreps_edge):
                for ir in ir_in * ir_edge:
                    if ir in wanted:
                        paths.append((i, j, len(middle), "uvu", True))
                        middle.append((mul, ir))
        irreps_middle, order, _ = o3.Irreps(middle).sort()
        paths = [(i, j, order[k], mode, train) for i, j, k, mode, train in paths]
        self.before = o3.Linear(irreps_in, irreps_in)
        self.product = o3.TensorProduct(
            irreps_in,
            irreps_edge,
            irreps_middle,
            paths,
            shared_weights=False,
            internal_weights=False,
        )
        self.radial = nn.Sequential(
            nn.Linear(config.gaussians, config.radial),
            nn.SiLU(),
            nn.Linear(config.radial, self.product.weight_numel),
        )
        self.after = o3.Linear(irreps_middle.simplify(), irreps_out)
        self.self_interaction = o3.Linear(irreps_in, irreps_out)

    def forward(
        self, atoms: Tensor, harmonics: Tensor, lengths: Tensor, batch: GraphBatch
    ) -> Tensor:
        """New features of the atoms, shape (N, dim of `irreps_out`).

        Parameters
        ----------
        atoms : Tensor, shape (N, dim of `irreps_in`)
        harmonics : Tensor, shape (E, dim of `irreps_edge`)
            Of the edges' directions.
        lengths : Tensor, shape (E, gaussians)
            Basis functions of the edges' lengths.
        batch : GraphBatch
        """
        messages = self.product(self.before(atoms)[batch.neighbor], harmonics, self.radial(lengths))
        received = scatter(messages, batch.center, len(atoms))
        return self.self_interaction(atoms) + self.after(received / math.sqrt(self.neighbors))


class E3NN(Architecture):
    """Crystal graphs to spectra with Euclidean-equivariant convolutions.

    The features of an atom are scalars, vectors and second-rank tensors which turn with the
    crystal; the spectrum is made of scalars, averaged over the atoms, and does not. As in the
    reference, gated non-linearities and an average over atoms are used; other than there, atoms
    are described by the same 92 properties as for the other architectures rather than by their
    mass, the neighbours are the nearest ones of the graph, and the output is activated by the
    setting. Needs graphs with edge vectors (``GraphConfig(vectors=True)``).

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : E3NNConfig

    Raises
    ------
    ModelError
        If the package e3nn is not installed.

    References
    ----------
    Z. Chen et al., Adv. Sci. 8, 2004214 (2021).
    """

    Config = E3NNConfig
    single_precision = "the tensor products of e3nn take no two precisions"
    graph_needs = GraphNeeds(vectors=True)
    descriptors: Tensor

    def __init__(self, size: int, config: E3NNConfig = E3NNConfig()) -> None:
        super().__init__(size, config)
        o3 = _o3()
        from e3nn.nn import Gate

        register_tables(self, descriptors=element_descriptors())
        self.embed_element = nn.Linear(N_DESCRIPTORS, config.scalars)
        self.basis = GaussianBasis(config.gaussians, config.cutoff)
        self.harmonics = o3.SphericalHarmonics(
            o3.Irreps.spherical_harmonics(2), normalize=True, normalization="component"
        )
        irreps_edge = self.harmonics.irreps_out
        scalars = o3.Irreps(f"{config.scalars}x0e")
        gates = o3.Irreps(f"{config.vectors + config.tensors}x0e")
        gated = o3.Irreps(f"{config.vectors}x1o+{config.tensors}x2e")
        irreps = scalars
        self.convolutions, self.gates = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.layers):
            gate = Gate(scalars, [F.silu], gates, [torch.sigmoid], gated)
            self.convolutions.append(Convolution(irreps, irreps_edge, gate.irreps_in, config))
            self.gates.append(gate)
            irreps = gate.irreps_out
        self.last = Convolution(irreps, irreps_edge, scalars, config)
        self.head = nn.Linear(config.scalars, size)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Logits, shape (B, K')."""
        return self.logits_and_insights(batch)[0]

    @override
    def logits_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """Logits, shape (B, K'), and the embedding that they are made of."""
        embedding = self.embedding(batch)
        return self.head(embedding), Insights(embedding)

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """Mean of the atoms' last scalars, shape (B, scalars)."""
        if batch.vector is None:
            raise ModelError("the architecture e3nn needs graphs with edge vectors")
        harmonics, lengths = self.harmonics(batch.vector), self.basis(batch.distance)
        atoms = self.embed_element(self.descriptors)[batch.atomic_numbers]
        for convolution, gate in zip(self.convolutions, self.gates, strict=True):
            atoms = gate(convolution(atoms, harmonics, lengths, batch))
        atoms = F.silu(self.last(atoms, harmonics, lengths, batch))
        return scatter(atoms, batch.graph_index, len(batch), reduce="mean")
