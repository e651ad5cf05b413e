"""Tight binding: the eDOS of a crystal from a Hamiltonian between its atoms, which is learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from models.architectures.interface import (
    Architecture,
    ArchitectureConfig,
    GraphNeeds,
    Insights,
    StatesArchitecture,
)
from models.architectures.parts.ensemble import distribution, member_spread
from models.architectures.parts.layers import register_tables
from models.architectures.parts.scatter import scatter
from models.architectures.tight_binding.bands import (
    Edges,
    Integrals,
    Mesh,
    fill,
    from_edges,
    levels,
    levels_together,
    mesh_sizes,
    shifted_mesh,
    states_of,
    with_flat,
)
from models.architectures.tight_binding.correction import Correction
from models.architectures.tight_binding.free_atoms import WITHOUT_D, free_atoms, stand_ins
from models.architectures.tight_binding.interpolation import (
    Sample,
    Smearing,
    computed,
    even_sizes,
    interpolated,
)
from models.architectures.tight_binding.projections import projections
from models.architectures.tight_binding.slater_koster import (
    CHANNELS,
    LENGTH,
    N_ORBITALS,
    POWERS,
    SHELL_OF_ORBITAL,
    STRENGTHS,
    blocks,
)
from models.architectures.tight_binding.symmetry import (
    IDENTITY,
    point_group,
    reduced_mesh,
    sites,
)
from models.crystal import ELEMENTS
from models.elements import (
    N_PROPERTIES,
    PROPERTIES,
    STAND_INS,
    covalent_radii,
    element_properties,
)
from models.errors import ModelError
from models.graphs.graph import CrystalGraph, GraphBatch
from models.spectra.band_labels import DEPTHS, BandLabels
from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.settings import Setting
from models.spectra.spectrum import EDOS_GRID, EnergyGrid

N_SURROUNDINGS = 6
N_LENGTHS = 3
NEIGHBORS = 48
"""Neighbours that the graph of an atom needs: in fcc, 42 are within 1.75 times the nearest."""
_VANISHED = 8.0  # Å, the cutoff of the graph: integrals go to 0 from `_FADING` to there
_FADING = 6.0
_FULL = 1.3  # times the nearest distance: bonds up to here count fully
_OUTLIER = 4.0
_LARGEST = 15.0  # eV, of an integral before the network corrects it
_SMALL = 12  # atoms; smaller cells have finer meshes in a prediction
_BEYOND = 2.0  # eV; levels farther from a grid than this do not reach it
_DIFFUSE, _D = 3, 2  # shells


class LossWeights(ArchitectureConfig):
    """Weights of the parts of the loss, see :meth:`TightBinding.losses`.

    Parameters
    ----------
    distance : float
        Of the Wasserstein distance in eV.
    difference : float
        Of the absolute difference of spectra with the sum 1.
    occupied : float
        Of the error of the occupied states' mean depth, per electron, in eV.
    gap : float
        Of the error of an insulator's gap in eV.
    """

    distance: float = Field(1.0, ge=0)
    difference: float = Field(0.3, ge=0)
    occupied: float = Field(0.3, ge=0)
    gap: float = Field(0.1, ge=0)


class TightBindingConfig(ArchitectureConfig):
    """Size and parts of the tight-binding model.

    Parameters
    ----------
    members : int
        Networks that differ in their seeds and are trained each on its own; the prediction is the
        mean of their spectra.
    hidden : int
        Width of the perceptrons that give atoms their levels and bonds their integrals.
    embedding : int
        Learned numbers of each element, besides its properties.
    dropout : float
        Between their layers.
    reach : float
        Longest bonds, as a multiple of the nearest neighbour's distance; both relative to the
        covalent radii.
    mesh : float
        Size in Å of the supercell whose levels make a prediction; it decides how finely wave
        vectors are sampled. Small cells get a finer mesh.
    computed_mesh : float
        The same of the levels that are computed, of those that a symmetry makes equal one; the
        others are interpolated. The spectra of 300 structures of up to 60 atoms were 0.012 eV
        (Wasserstein distance) from those of all levels on 30 Å, with all levels on 20 Å 0.013 eV
        and on 24 Å 0.009 eV. Computed on 14 Å: 0.017 eV; on 20 Å, with a mesh of 30 Å: 0.009 eV.
    training_mesh : float
        Like `mesh`, in training.
    shifted : bool
        Whether each step of the training shifts that mesh at random.
    diffuse : bool
        Whether atoms have the diffuse s*, for the continuum.
    loss_weights : LossWeights
    max_orbitals : int
        Cells with more orbitals are refused: the time of a matrix grows with the cube of them,
        its memory with the square.
    kernel : float
        Share of a kernel regression of the residuals of the training materials that is added to
        the shape of a spectrum, see
        :class:`~models.architectures.tight_binding.correction.Correction`; 0: none. Atoms and
        shells keep their shares at each energy. Levels, band edges, and whose the states of an
        energy range are, are those of the Hamiltonian.
    grid : EnergyGrid
        Of the spectra, in eV; filled in when a model is trained.
    """

    members: int = Field(1, gt=0)
    hidden: int = Field(128, gt=0)
    embedding: int = Field(6, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    reach: float = Field(1.75, gt=_FULL)
    mesh: float = Field(24.0, gt=0)
    computed_mesh: float = Field(17.0, gt=0)
    training_mesh: float = Field(11.0, gt=0)
    shifted: bool = True
    diffuse: bool = True
    loss_weights: LossWeights = LossWeights()
    max_orbitals: int = Field(2500, gt=0)
    kernel: float = Field(0.0, ge=0, le=1)
    grid: EnergyGrid = EDOS_GRID


@dataclass(frozen=True, eq=False)
class _Bonds:
    """The E edges that are short enough to be bonds, and what is known of them.

    Parameters
    ----------
    center, neighbor, graph : Tensor, shape (E,), int64
        Nodes and the crystal, in the batch.
    distance : Tensor, shape (E,)
        In Å.
    relative : Tensor, shape (E,)
        Distance over the sum of the covalent radii.
    ratio : Tensor, shape (E,)
        `relative` over that of the nearest neighbour; of both ends' the farther one counts.
    weight : Tensor, shape (E,)
        1 for near bonds, going to 0 at the reach and at the cutoff of the graph.
    direction : Tensor, shape (E, 3)
    steps : Tensor, shape (E, 3)
        The bond in units of the lattice vectors.
    """

    center: Tensor
    neighbor: Tensor
    graph: Tensor
    distance: Tensor
    relative: Tensor
    ratio: Tensor
    weight: Tensor
    direction: Tensor
    steps: Tensor


class _Described(NamedTuple):
    """What the networks see of N atoms and E bonds.

    Parameters
    ----------
    sites : Tensor, shape (N, F)
    bonds : Tensor, shape (E, G)
    bound : Tensor, shape (N,)
        How bound the atoms are, from 0 to 1.
    """

    sites: Tensor
    bonds: Tensor
    bound: Tensor


@dataclass(frozen=True, eq=False)
class Bands:
    """Levels of one crystal and how they are filled.

    Parameters
    ----------
    levels : Tensor, shape (Q, M)
        In eV, rising; relative to the vacuum as far as the free atoms' levels are.
    mesh : Mesh
        The Q wave vectors.
    edges : Edges
    """

    levels: Tensor
    mesh: Mesh
    edges: Edges


class _Member(nn.Module):
    """Levels of atoms and integrals of bonds: what physics begins with, times what is learned.

    All parameters are deviations from the beginning, so that weight decay pulls towards it.
    """

    def __init__(self, n_atom: int, config: TightBindingConfig) -> None:
        super().__init__()
        n_elements, n_channels = len(free_atoms().levels), len(CHANNELS)
        self.embedding = nn.Embedding(n_elements, config.embedding)
        self.embedding.weight.data.mul_(0.1)
        self.element = nn.Embedding(n_elements, 4)
        self.element.weight.data.zero_()
        n_atom = n_atom + config.embedding
        self.site = _perceptron(2 * n_atom + N_SURROUNDINGS, 4 + 1, config)
        n_bond = 2 * (n_atom + N_SURROUNDINGS) + N_LENGTHS
        self.bond = _perceptron(n_bond, 2 * n_channels, config)
        self.strength = nn.Parameter(torch.zeros(n_channels))
        self.power = nn.Parameter(torch.zeros(n_channels))
        self.decay = nn.Parameter(torch.zeros(n_channels))
        self.flat = nn.Parameter(torch.zeros(n_elements))
        self.broadening = nn.Parameter(torch.tensor([0.0, 0.0, 0.0]))

    @property
    def log_width(self) -> Tensor:
        """See :func:`models.architectures.tight_binding.bands.states_below`."""
        start = torch.tensor([math.log(0.07), 0.0, 0.0]).to(self.broadening)
        return start + self.broadening


def _perceptron(n_in: int, n_out: int, config: TightBindingConfig) -> nn.Sequential:
    last = nn.Linear(config.hidden, n_out)
    last.weight.data.mul_(0.1)  # begin with the physics
    last.bias.data.zero_()
    return nn.Sequential(
        nn.Linear(n_in, config.hidden),
        nn.SiLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.hidden),
        nn.SiLU(),
        last,
    )


class TightBinding(StatesArchitecture):
    """Crystals to electronic spectra in states/eV/cell, through a Hamiltonian.

    An atom has the orbitals s, p, d (not H to Ne) and a diffuse s*, whose levels begin as those
    of the free atom. A network corrects them by what surrounds the atom, and gives each bond its
    21 Slater-Koster integrals, which begin with Harrison's powers of the distance, and its part in
    the crystal field of its two ends. The spectrum is that of the levels of this Hamiltonian. The
    electrons of the atoms fill them, so that metal or insulator, band edges and Fermi level
    follow; only energies are learned. Its limits: orbitals are orthogonal, there is no spin, charge
    moves levels only as far as that is learned, and what ten orbitals lack of the continuum is left
    to the broadening.

    Its logits are logarithms of states/eV/cell: softmax makes the shape of them, and no second
    model is needed for the scale. Needs graphs with edge vectors and `NEIGHBORS` neighbours.

    Parameters
    ----------
    size : int
        Bins K' of the spectrum.
    config : TightBindingConfig

    Raises
    ------
    ModelError
        If the grid of the configuration has another number of bins.
    """

    Config = TightBindingConfig
    graph_needs = GraphNeeds(vectors=True, neighbors=NEIGHBORS)
    single_precision = "levels are eigenvalues, which bfloat16 does not have"
    stand_ins = STAND_INS
    members_apart = True
    config: TightBindingConfig
    properties: Tensor
    free_levels: Tensor
    electrons: Tensor
    flat_level: Tensor
    stand_in: Tensor
    radii: Tensor
    edges: Tensor

    def __init__(self, size: int, config: TightBindingConfig) -> None:
        if size != config.grid.size:
            raise ModelError(f"tight binding: {size} bins, but a grid of {config.grid.size}")
        super().__init__(size, config)
        atoms = free_atoms()
        flat = np.full(len(atoms.electrons), np.nan, np.float32)
        flat[list(atoms.flat)] = list(atoms.flat.values())
        levels_and_bound = [(atoms.levels[:, :3] + 8) / 8, atoms.bound]
        register_tables(
            self,
            properties=np.concatenate([element_properties(), *levels_and_bound], axis=1),
            free_levels=atoms.levels,
            electrons=atoms.electrons,
            flat_level=flat,
            stand_in=stand_ins(),
            radii=covalent_radii(),
            edges=config.grid.edges.astype("float32"),
        )
        n_atom = N_PROPERTIES + 3 + 3
        self.members = nn.ModuleList(_Member(n_atom, config) for _ in range(config.members))
        filled = int((config.grid.centers < 0).sum())
        self.correction = Correction(size, config.kernel, filled) if config.kernel else None

    @property
    def networks(self) -> list[_Member]:
        """The members, each a network of its own."""
        return [m for m in self.members if isinstance(m, _Member)]

    def refusal(self, graph: CrystalGraph) -> str:
        """Why there is no prediction for a crystal; empty if there is one."""
        numbers = set(graph.atomic_numbers.tolist())
        unknown = sorted(z for z in numbers if not free_atoms().known[z])
        if unknown:
            names = ", ".join(ELEMENTS[z] for z in unknown)
            return f"tight binding has no atomic levels for {names}"
        n_orbitals = len(self._orbitals(torch.from_numpy(graph.atomic_numbers)))
        if n_orbitals > self.config.max_orbitals:
            return (
                f"{n_orbitals} orbitals in the cell, more than the {self.config.max_orbitals} "
                "that tight binding diagonalises; reduce the cell, or use another predictor"
            )
        return ""

    @override
    @torch.no_grad()
    def fit_trained(self, batch: GraphBatch, target: Tensor) -> None:
        """Fit the correction, a crystal at a time."""
        if self.correction is None:
            return
        self.forget_trained()
        crystals = torch.arange(len(batch), device=target.device).split(1)
        states = torch.cat([self.states(batch.select(one)) for one in crystals])
        self.correction.fit(batch, states, target)

    @override
    def forget_trained(self) -> None:
        """Without the correction until it is fitted again."""
        if self.correction is not None:
            self.correction.kernel.clear()

    @override
    def apart(self) -> list[TightBinding]:
        """A model of each network alone, without a correction."""
        config = self.config.model_copy(update={"members": 1})
        models = [TightBinding(self.size, config) for _ in self.members]
        for model, member in zip(models, self.members, strict=True):
            model.members[0].load_state_dict(member.state_dict())
        return models

    @override
    def join(self, models: Sequence[Architecture]) -> None:
        """Take the networks of models of one network each."""
        for member, model in zip(self.members, models, strict=True):
            assert isinstance(model, TightBinding)
            member.load_state_dict(model.members[0].state_dict())

    def states(self, batch: GraphBatch) -> Tensor:
        """Spectra in states/eV/cell, the mean of the members', corrected, shape (B, K')."""
        return self.states_and_insights(batch)[0]

    @override
    def states_and_insights(self, batch: GraphBatch) -> tuple[Tensor, Insights]:
        """The same; the embedding, the members' spread, and the median of their band gaps.

        So most of them decide whether it is a metal; of an even number the lower of the two gaps
        in the middle counts.
        """
        spectra, gaps, electrons = [], [], self.n_electrons(batch)
        of_members = [list(self.integrals(batch, member)) for member in self.networks]
        samples = self.samples(batch, of_members[0])
        for member, crystals in zip(self.networks, of_members, strict=True):
            smearing = Smearing.of(self.edges, member.log_width, _BEYOND)
            bands = self.interpolated_bands(crystals, samples, electrons)
            for sample, (energies, edges) in zip(samples, bands, strict=True):
                spectra.append(self._smeared_spectrum(energies, edges, sample, smearing))
                gaps.append(edges.gap)
        shape = len(self.networks), len(batch)
        states, band_gaps = torch.stack(spectra).unflatten(0, shape), torch.stack(gaps).view(shape)
        insights = Insights(
            self.embedding(batch), member_spread(distribution(states)), band_gaps.median(0).values
        )
        mean = states.mean(0)
        return mean if self.correction is None else self.correction(batch, mean), insights

    @override
    def embedding(self, batch: GraphBatch) -> Tensor:
        """Mean over the atoms of what the members make of their bonds, (B, members * hidden).

        They are computed again: that takes a hundredth of the time of the levels.
        """
        numbers, bonds = self._known_numbers(batch), self._bonds(batch)
        n_atoms, crystals = len(numbers), []
        strength = scatter(bonds.weight, bonds.center, n_atoms).clamp_min(1e-9)
        share = bonds.weight / strength[bonds.center] / batch.n_nodes[bonds.graph]
        for member in self.networks:
            hidden = member.bond[:-1](self._described(numbers, bonds, member).bonds)
            weighted = share[:, None] * hidden.float()
            crystals.append(scatter(weighted, bonds.graph, len(batch)))
        return torch.cat(crystals, 1)

    def electronic_structure(self, batch: GraphBatch) -> ElectronicStructure:
        """Projected DOS of one crystal, the mean of the members', and the edges of the median gap.

        Diffuse s* count as s. Takes three times as long as the spectrum alone (2 and 15 atoms, one
        CPU thread): symmetry saves nothing here.
        """
        (electrons,) = self.n_electrons(batch).tolist()
        (sample,) = self.samples(batch, list(self.integrals(batch)), turned=False)
        with_f = ~self.flat_level[self.stand_in[batch.atomic_numbers]].isnan()
        states, levels, ends = [], [], []
        for member in self.networks:
            (integrals,) = self.integrals(batch, member)
            smearing = Smearing.of(self.edges, member.log_width, _BEYOND)
            broadened, sharp, edges = projections(
                integrals, sample, electrons, with_f, self.edges, smearing
            )
            states.append(broadened)
            levels.append(sharp)
            ends.append(torch.stack([edges.vbm, edges.cbm]))
        of_members = torch.stack(ends)
        vbm, cbm = of_members[of_members.diff(dim=1)[:, 0].median(0).indices].tolist()
        dos = torch.stack(states).mean(0) / self.config.grid.width
        if self.correction is not None:
            dos = self.correction.of_parts(batch, dos)
        return ElectronicStructure(
            self.config.grid,
            tuple(ELEMENTS[z] for z in batch.atomic_numbers.tolist()),
            dos.cpu().numpy(),
            torch.stack(levels).mean(0).cpu().numpy(),
            (vbm + cbm) / 2,
            vbm,
            cbm,
        )

    def losses(
        self,
        batch: GraphBatch,
        target: Tensor,
        setting: Setting,
        spectra: Tensor | None = None,
        bands: BandLabels | None = None,
    ) -> dict[str, Tensor]:
        """Mean loss of the members; that of the setting is not used.

        The loss of a material is the Wasserstein distance in eV, the absolute difference of the
        SumNorm spectra, the mean depth (eV per electron) by which occupied states down to -12 eV
        are off, and the error of an insulator's gap in eV, each times its weight.

        Parameters
        ----------
        batch : GraphBatch
        target : Tensor, shape (B, K')
            SumNorm labels.
        setting : Setting
        spectra : Tensor, shape (B, K'), optional
            Not used.
        bands : BandLabels, optional
            What the labels say besides; without, whether a crystal is an insulator is the model's
            own guess, and the last two terms are missing.
        """
        totals, electrons = [], self.n_electrons(batch)
        for member in self.networks:
            crystals = list(self.bands(batch, member, bands))
            loss = self._shape_loss(self._spectra(crystals, member), target)
            if bands is not None:
                loss = loss + self._band_loss(crystals, member, electrons, bands)
            totals.append(loss)
        total = torch.stack(totals).mean()
        return {"total": total, "prediction": total}

    def bands(
        self, batch: GraphBatch, member: _Member | None = None, labels: BandLabels | None = None
    ) -> Iterator[Bands]:
        """Bands of each crystal.

        Parameters
        ----------
        batch : GraphBatch
        member : module, optional
            The network to use, the first without.
        labels : BandLabels, optional
            In training, what tells metals from insulators.
        """
        electrons = self.n_electrons(batch).tolist()
        gaps = [math.nan] * len(batch) if labels is None else labels.gap.tolist()
        crystals = list(self.integrals(batch, member))
        meshes = [self.mesh(batch, i, gap != 0).to(self.edges) for i, gap in enumerate(gaps)]
        points = [mesh.points for mesh in meshes]
        # A CPU gains nothing from many crystals at once, but their matrices take memory.
        found = (
            levels_together(crystals, points)
            if self.edges.is_cuda
            else map(levels, crystals, points)
        )
        for energies, mesh, n, gap in zip(found, meshes, electrons, gaps, strict=True):
            insulator = None if math.isnan(gap) else gap > 0
            yield Bands(energies, mesh, fill(energies, mesh.weights, n, insulator))

    def interpolated_bands(
        self, crystals: Sequence[Integrals], samples: Sequence[Sample], electrons: Tensor
    ) -> Iterator[tuple[Tensor, Edges]]:
        """Levels (Q, M) of each crystal for a prediction, by band, in eV, and their edges.

        Parameters
        ----------
        crystals : sequence of Integrals
        samples : sequence of Sample
            Of each crystal.
        electrons : Tensor, shape (B,)
        """
        if self.edges.is_cuda:
            bands_only = [replace(c, flat=c.flat[:0]) for c in crystals]
            points = [sample.mesh.points.to(self.edges) for sample in samples]
            found: Iterable[Tensor] = levels_together(bands_only, points)
        else:
            found = map(computed, crystals, samples)
        per_crystal = zip(found, crystals, samples, electrons.tolist(), strict=True)
        for bands, crystal, sample, n in per_crystal:
            energies = with_flat(interpolated(bands, sample), crystal)
            yield energies, fill(energies, sample.weights.to(energies), n)

    def samples(
        self, batch: GraphBatch, crystals: Sequence[Integrals], turned: bool = True
    ) -> list[Sample]:
        """Where the levels of each crystal are computed and interpolated for a prediction.

        Parameters
        ----------
        batch : GraphBatch
        crystals : sequence of Integrals
        turned : bool
            Of wave vectors that a symmetry of the crystal turns into each other compute one only.
            They have the same levels, but on other atoms.
        """
        assert batch.lattice is not None
        lattices = batch.lattice.cpu().numpy()
        numbers = batch.atomic_numbers.cpu().split(batch.n_nodes.tolist())
        samples = []
        for lattice, z, crystal in zip(lattices, numbers, crystals, strict=True):
            bonds = (x.cpu().numpy() for x in (crystal.center, crystal.neighbor, crystal.steps))
            places = sites(len(z), *bonds)
            rotations = point_group(lattice, places, z.numpy()) if turned else IDENTITY
            finer = max(1.0, (_SMALL / len(z)) ** (1 / 3))  # it costs little
            coarse = min(self.config.mesh, self.config.computed_mesh)
            mesh = reduced_mesh(even_sizes(mesh_sizes(lattice, coarse * finer)), rotations)
            fine = mesh_sizes(lattice, self.config.mesh * finer)
            samples.append(Sample.of(crystal, places, mesh, fine))
        return samples

    def n_electrons(self, batch: GraphBatch) -> Tensor:
        """Electrons of each crystal in its orbitals, shape (B,)."""
        return scatter(self.electrons[batch.atomic_numbers], batch.graph_index, len(batch))

    def mesh(self, batch: GraphBatch, crystal: int, edges: bool = True) -> Mesh:
        """Wave vectors of a crystal; in training their mesh has a random shift, if `shifted`.

        Parameters
        ----------
        batch : GraphBatch
        crystal : int
            Which one of the batch.
        edges : bool
            With those where band edges often are, which a metal has not.
        """
        assert batch.lattice is not None
        length = self.config.training_mesh if self.training else self.config.mesh
        finer = max(1.0, (4 / int(batch.n_nodes[crystal])) ** (1 / 3))  # it costs little
        sizes = mesh_sizes(batch.lattice[crystal].cpu().numpy(), length * finer)
        shifted = self.training and self.config.shifted
        return shifted_mesh(sizes, torch.rand(3).numpy() if shifted else None, edges)

    def integrals(self, batch: GraphBatch, member: _Member | None = None) -> Iterator[Integrals]:
        """Hamiltonian of each crystal in real space.

        Parameters
        ----------
        batch : GraphBatch
        member : module, optional
            The network to use, the first without.

        Raises
        ------
        ModelError
            If the graphs have no edge vectors, or there are no levels for an element.
        """
        member = member or self.networks[0]
        numbers, bonds = self._known_numbers(batch), self._bonds(batch)
        onsite, flat, hopping, field = self._energies(numbers, bonds, member)
        both = blocks(bonds.direction.repeat(2, 1), 0.5 * torch.cat([hopping, field]))
        between, own = both.chunk(2)
        diagonal = torch.diag_embed(0.5 * onsite[:, list(SHELL_OF_ORBITAL)])
        diagonal = diagonal.index_add(0, bonds.center, own)
        n_bonds = bonds.graph.bincount(minlength=len(batch)).tolist()
        first_atom = (batch.n_nodes.cumsum(0) - batch.n_nodes).tolist()
        parts = zip(
            numbers.split(batch.n_nodes.tolist()),
            diagonal.split(batch.n_nodes.tolist()),
            flat.split(batch.n_nodes.tolist()),
            between.split(n_bonds),
            bonds.center.split(n_bonds),
            bonds.neighbor.split(n_bonds),
            bonds.steps.split(n_bonds),
            first_atom,
            strict=True,
        )
        for z, own_of, flat_of, hop, center, neighbor, steps, first in parts:
            there = ~flat_of.isnan()
            shells = (flat_of[there] if there.any() else flat_of[:0]).repeat_interleave(7)
            yield Integrals(
                own_of, hop, center - first, neighbor - first, steps, self._orbitals(z), shells
            )

    def _orbitals(self, numbers: Tensor) -> Tensor:
        """Which of the ten orbitals of each atom there are, as indices, shape (M,)."""
        there = torch.ones(len(numbers), N_ORBITALS, dtype=torch.bool, device=numbers.device)
        light = torch.tensor([z in WITHOUT_D for z in numbers.tolist()], device=numbers.device)
        shells = torch.tensor(SHELL_OF_ORBITAL, device=numbers.device)
        there &= ~(light[:, None] & (shells == _D))
        if not self.config.diffuse:
            there &= shells != _DIFFUSE
        return there.flatten().nonzero().flatten()

    def _known_numbers(self, batch: GraphBatch) -> Tensor:
        """Atomic numbers of the elements whose levels the atoms have, shape (N,)."""
        numbers = self.stand_in[batch.atomic_numbers]
        unknown = numbers[self.electrons[numbers] == 0]
        if len(unknown):
            raise ModelError(f"tight binding has no atomic levels for {ELEMENTS[unknown[0]]}")
        return numbers

    def _spectra(self, crystals: Sequence[Bands], member: _Member) -> Tensor:
        """States/eV/cell in each bin, shape (B, K')."""
        relative = [(from_edges(c.levels, c.edges), c.mesh.weights) for c in crystals]
        energies = self.config.grid.edges
        reach = float(energies[0]) - _BEYOND, float(energies[-1]) + _BEYOND
        below = states_of(relative, self.edges, member.log_width, reach)
        return below.diff().clamp_min(0) / self.config.grid.width  # of rounded sums

    def _smeared_spectrum(
        self, energies: Tensor, edges: Edges, sample: Sample, smearing: Smearing
    ) -> Tensor:
        """States/eV/cell in each bin, shape (K',), of levels on a finer mesh."""
        counts = 2 * sample.weights.to(energies)
        counted = counts > 0
        relative = from_edges(energies[counted], edges)
        per_level = counts[counted, None].expand_as(relative).flatten()
        below = smearing.states_below(relative.flatten(), per_level)
        return below.diff().clamp_min(0) / self.config.grid.width  # of rounded sums

    def _shape_loss(self, spectra: Tensor, labels: Tensor) -> Tensor:
        """Of each crystal, shape (B,)."""
        width = self.config.grid.width
        difference = spectra / spectra.sum(1, keepdim=True).clamp_min(1e-3 / width) - labels
        distance = difference.cumsum(1).abs().sum(1) * width
        weights = self.config.loss_weights
        return weights.distance * distance + weights.difference * difference.abs().sum(1)

    def _band_loss(
        self, crystals: Sequence[Bands], member: _Member, electrons: Tensor, labels: BandLabels
    ) -> Tensor:
        """Of each crystal, shape (B,)."""
        gaps = torch.stack([crystal.edges.gap for crystal in crystals])
        filled = torch.tensor([c.edges.filled is not None for c in crystals]).to(gaps.device)
        wanted = torch.where(filled & (labels.gap > 0), labels.gap, gaps.detach())
        loss = self.config.loss_weights.gap * (gaps - wanted).abs()
        known = labels.occupied.isfinite().all(1).nonzero().flatten()
        if not len(known):
            return loss
        occupied = [
            (c.levels[:, : c.edges.filled] - c.edges.vbm, c.mesh.weights)
            for c in (crystals[i] for i in known.tolist())
        ]
        depths, most = torch.from_numpy(DEPTHS).to(gaps), electrons[known]
        reach = float(DEPTHS[0]) - _BEYOND, _BEYOND
        below = states_of(occupied, depths, member.log_width, reach)
        states = (below[:, -1:] - below).minimum(most[:, None])
        off = (states - labels.occupied[known].minimum(most[:, None])).abs().sum(1)
        per_electron = self.config.loss_weights.occupied * float(DEPTHS[1] - DEPTHS[0]) / most
        return loss.index_add(0, known, per_electron * off)

    def _bonds(self, batch: GraphBatch) -> _Bonds:
        if batch.vector is None or batch.lattice is None:
            raise ModelError("the architecture tight-binding needs graphs with edge vectors")
        radii = self.radii[batch.atomic_numbers]
        relative = batch.distance / (radii[batch.center] + radii[batch.neighbor])
        nearest = scatter(relative, batch.center, len(radii), reduce="min")
        ratio = relative / torch.maximum(nearest[batch.center], nearest[batch.neighbor])
        weight = _fading(ratio, _FULL, self.config.reach) * _fading(
            batch.distance, _FADING, _VANISHED
        )
        some = (weight > 0).nonzero().flatten()
        center = batch.center[some]
        graph = batch.graph_index[center]
        inverse = torch.linalg.inv(batch.lattice.double())
        steps = torch.einsum("ei,eij->ej", batch.vector[some].double(), inverse[graph])
        return _Bonds(
            center,
            batch.neighbor[some],
            graph,
            batch.distance[some],
            relative[some],
            ratio[some],
            weight[some],
            batch.vector[some] / batch.distance[some, None],
            steps.to(batch.distance),
        )

    def _energies(
        self, numbers: Tensor, bonds: _Bonds, member: _Member
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Levels (N, 4), 4f levels (N,) or NaN, integrals (E, 21) and crystal fields (E, 21)."""
        described = self._described(numbers, bonds, member)
        site = member.site(described.sites).float()
        shift = described.bound[:, None] * 3 * (site + F.pad(member.element(numbers), (0, 1)))
        onsite = self.free_levels[numbers] + shift[:, :4]
        flat = self.flat_level[numbers] + 5 * member.flat[numbers] + shift[:, 4]
        correction, field = member.bond(described.bonds).float().chunk(2, 1)
        hopping = bonds.weight[:, None] * self._law(bonds, member) * (1 + 2 * correction)
        near = bonds.weight * torch.exp(-3 * (bonds.ratio - 1))
        return onsite, flat, hopping, 0.5 * near[:, None] * field

    def _described(self, numbers: Tensor, bonds: _Bonds, member: _Member) -> _Described:
        atoms = torch.cat([self.properties[numbers], member.embedding(numbers)], dim=1)
        neighbors, surroundings, bound = self._surroundings(atoms, bonds)
        lengths = [3 * (bonds.relative - 1), 4 * (bonds.ratio - 1), bonds.distance - 2.7]
        of_both = [x[end] for x in (atoms, surroundings) for end in (bonds.center, bonds.neighbor)]
        geometry = torch.stack(lengths, 1).clamp(-_OUTLIER, _OUTLIER)
        sites = torch.cat([atoms, neighbors, surroundings], dim=1)
        return _Described(sites, torch.cat([*of_both, geometry], 1), bound)

    def _law(self, bonds: _Bonds, member: _Member) -> Tensor:
        """Integrals (E, 21) by powers of the distance, which longer bonds fall short of."""
        strength = torch.tensor(STRENGTHS).to(bonds.distance) * (1 + member.strength)
        power = torch.tensor(POWERS).to(bonds.distance) + member.power
        exponent = power * (bonds.distance / LENGTH).log()[:, None]
        exponent = exponent + (1 + member.decay) * (bonds.ratio - 1)[:, None]
        return (strength * torch.exp(-exponent)).clamp(-_LARGEST, _LARGEST)

    def _surroundings(self, atoms: Tensor, bonds: _Bonds) -> tuple[Tensor, Tensor, Tensor]:
        """Mean neighbour (N, F), numbers of the surroundings (N, 6), how bound it is (N,)."""
        n, i, j = len(atoms), bonds.center, bonds.neighbor

        def total(values: Tensor) -> Tensor:
            return scatter(values, i, n)

        near = bonds.weight * torch.exp(-4 * (bonds.ratio - 1))
        coordination = total(near)
        divisor = coordination.clamp_min(1e-9)
        mean = total(near[:, None] * atoms[j]) / divisor[:, None]
        strong = total(bonds.weight * torch.exp(-4 * (bonds.relative - 1)))
        electronegativity = atoms[:, PROPERTIES.index("electronegativity")]
        polarity = electronegativity[j] - electronegativity[i]
        numbers = [
            coordination / 8 - 1,
            4 * (total(near * bonds.relative) / divisor - 1),
            strong / 8 - 1,
            total(bonds.weight * torch.exp(-3 * (bonds.relative - 1)) * polarity) / 4,
            total(near * polarity.abs()) / divisor,
            total(near * bonds.distance) / divisor - 2.7,
        ]
        stacked = torch.stack(numbers, 1).clamp(-_OUTLIER, _OUTLIER)
        return mean, stacked, strong / (0.2 + strong)


def _fading(x: Tensor, full: float, gone: float) -> Tensor:
    """1 up to `full`, 0 from `gone` on, half a cosine between."""
    return 0.5 * (1 + torch.cos(math.pi * ((x - full) / (gone - full)).clamp(0, 1)))
