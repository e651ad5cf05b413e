"""Tight binding: the eDOS of a crystal from a Hamiltonian between its atoms, which is learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from models.architectures.interface import (
    Architecture,
    GraphNeeds,
    Insights,
    StatesArchitecture,
)
from models.architectures.parts.ensemble import distribution, member_spread
from models.architectures.parts.layers import register_tables
from models.architectures.parts.scatter import scatter
from models.architectures.tight_binding.bands import (
    Bands,
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
from models.architectures.tight_binding.bonds import Bonds
from models.architectures.tight_binding.config import TightBindingConfig
from models.architectures.tight_binding.correction import Correction
from models.architectures.tight_binding.free_atoms import WITHOUT_D, free_atoms, stand_ins
from models.architectures.tight_binding.interpolation import (
    Sample,
    Smearing,
    computed,
    even_sizes,
    interpolated,
)
from models.architectures.tight_binding.losses import gap_loss, occupied_loss, shape_loss
from models.architectures.tight_binding.network import Atoms, Energies, Network
from models.architectures.tight_binding.projections import projections
from models.architectures.tight_binding.slater_koster import (
    N_ORBITALS,
    SHELL_OF_ORBITAL,
    blocks,
)
from models.architectures.tight_binding.symmetry import (
    IDENTITY,
    corners,
    in_reduced_cells,
    point_group,
    reduced_mesh,
    sites,
)
from models.crystal import ELEMENTS
from models.elements import (
    STAND_INS,
    covalent_radii,
    element_properties,
)
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from models.spectra.band_labels import BandLabels
from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.settings import Setting

NEIGHBORS = 48
"""Neighbours that the graph of an atom needs: in fcc, 42 are within 1.75 times the nearest."""
_SMALL = 12  # atoms; smaller cells have finer meshes in a prediction
_BEYOND = 2.0  # eV; levels farther from a grid than this do not reach it
_DIFFUSE, _D = 3, 2  # shells


class TightBinding(StatesArchitecture):
    """Crystals to electronic spectra in states/eV/cell, through a Hamiltonian.

    An atom has the orbitals s, p, d (not H to Ne) and a diffuse s*, whose levels begin as those
    of the free atom. A network corrects them by what surrounds the atom, and gives each bond its
    21 Slater-Koster integrals, which begin with Harrison's powers of the distance, and its part in
    the crystal field of its two ends. The spectrum is that of the levels of this Hamiltonian. The
    electrons of the atoms fill them, so that metal or insulator, band edges and Fermi level
    follow; only energies are learned, and with `overlap` how orbitals overlap. Its limits: there is
    no spin, charge moves levels only as far as that is learned, and what ten orbitals lack of the
    continuum is left to the broadening.

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
        n_atom = self.properties.shape[1]
        self.members = nn.ModuleList(Network(n_atom, config) for _ in range(config.members))
        filled = int((config.grid.centers < 0).sum())
        self.correction = Correction(size, config.kernel, filled) if config.kernel else None

    @property
    def networks(self) -> list[Network]:
        """The members, each a network of its own."""
        return [m for m in self.members if isinstance(m, Network)]

    def refusal(self, atomic_numbers: np.ndarray) -> str:
        """Why there is no prediction for a crystal; empty if there is one."""
        unknown = sorted(z for z in set(atomic_numbers.tolist()) if not free_atoms().known[z])
        if unknown:
            names = ", ".join(ELEMENTS[z] for z in unknown)
            return f"tight binding has no atomic levels for {names}"
        n_orbitals = len(self._orbitals(torch.from_numpy(atomic_numbers)))
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
        batch = in_reduced_cells(batch)
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
        atoms, bonds = self._atoms(batch), self._bonds(batch)
        n_atoms, crystals = len(atoms.numbers), []
        strength = scatter(bonds.weight, bonds.center, n_atoms).clamp_min(1e-9)
        share = bonds.weight / strength[bonds.center] / batch.n_nodes[bonds.graph]
        for member in self.networks:
            weighted = share[:, None] * member.features(atoms, bonds).float()
            crystals.append(scatter(weighted, bonds.graph, len(batch)))
        return torch.cat(crystals, 1)

    def electronic_structure(self, batch: GraphBatch) -> ElectronicStructure:
        """Projected DOS of one crystal, the mean of the members', and the edges of the median gap.

        Diffuse s* count as s. Takes three times as long as the spectrum alone (2 and 15 atoms, one
        CPU thread): symmetry saves nothing here.
        """
        batch = in_reduced_cells(batch)
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
        gaps = of_members.diff(dim=1)[:, 0]
        vbm, cbm = of_members[gaps == gaps.median()].mean(0).tolist()  # of all metals, if it is one
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
        totals, electrons, weights = [], self.n_electrons(batch), self.config.loss_weights
        for member in self.networks:
            crystals = list(self.bands(batch, member, bands))
            predicted = self._spectra(crystals, member)
            loss = shape_loss(predicted, target, self.config.grid.width, weights)
            if bands is not None:
                loss = loss + gap_loss(crystals, bands, weights)
                loss = loss + occupied_loss(
                    crystals, member.log_width, electrons, bands, weights, _BEYOND
                )
            totals.append(loss)
        total = torch.stack(totals).mean()
        return {"total": total, "prediction": total}

    def bands(
        self, batch: GraphBatch, member: Network | None = None, labels: BandLabels | None = None
    ) -> Iterator[Bands]:
        """Bands of each crystal.

        Parameters
        ----------
        batch : GraphBatch
        member : Network, optional
            The first without.
        labels : BandLabels, optional
            In training, what tells metals from insulators.
        """
        batch = in_reduced_cells(batch)
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
            places, part = sites(len(z), *bonds)
            kinds = z.numpy() + 128 * part  # no part, all at the origin, is mapped onto another
            rotations = point_group(lattice, places, kinds) if turned else IDENTITY
            finer = max(1.0, (_SMALL / len(z)) ** (1 / 3))  # it costs little
            coarse = min(self.config.mesh, self.config.computed_mesh)
            sizes = even_sizes(mesh_sizes(lattice, coarse * finer))
            mesh = reduced_mesh(sizes, rotations, corners(lattice))
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

    def integrals(self, batch: GraphBatch, member: Network | None = None) -> Iterator[Integrals]:
        """Hamiltonian of each crystal in real space.

        Parameters
        ----------
        batch : GraphBatch
        member : Network, optional
            The first without.

        Raises
        ------
        ModelError
            If the graphs have no edge vectors, or there are no levels for an element.
        """
        member = member or self.networks[0]
        atoms, bonds = self._atoms(batch), self._bonds(batch)
        energies: Energies = member(atoms, bonds)
        of_bonds = [energies.integrals, energies.field]
        if energies.mixing is not None:
            of_bonds.append(energies.mixing)
        directions = bonds.direction.repeat(len(of_bonds), 1)
        between, own, *mixing = blocks(directions, 0.5 * torch.cat(of_bonds)).chunk(len(of_bonds))
        diagonal = torch.diag_embed(0.5 * energies.levels[:, list(SHELL_OF_ORBITAL)])
        diagonal = diagonal.index_add(0, bonds.center, own)
        n_bonds = bonds.graph.bincount(minlength=len(batch)).tolist()
        first_atom = (batch.n_nodes.cumsum(0) - batch.n_nodes).tolist()
        parts = zip(
            atoms.numbers.split(batch.n_nodes.tolist()),
            diagonal.split(batch.n_nodes.tolist()),
            energies.flat.split(batch.n_nodes.tolist()),
            between.split(n_bonds),
            mixing[0].split(n_bonds) if mixing else [None] * len(batch),
            bonds.center.split(n_bonds),
            bonds.neighbor.split(n_bonds),
            bonds.steps.split(n_bonds),
            first_atom,
            strict=True,
        )
        for z, own_of, flat_of, hop, mix, center, neighbor, steps, first in parts:
            there = ~flat_of.isnan()
            shells = (flat_of[there] if there.any() else flat_of[:0]).repeat_interleave(7)
            yield Integrals(
                own_of,
                hop,
                center - first,
                neighbor - first,
                steps,
                self._orbitals(z),
                shells,
                mix,
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

    def _atoms(self, batch: GraphBatch) -> Atoms:
        """What the networks begin with; an element without levels is a ModelError."""
        numbers = self.stand_in[batch.atomic_numbers]
        unknown = numbers[self.electrons[numbers] == 0]
        if len(unknown):
            raise ModelError(f"tight binding has no atomic levels for {ELEMENTS[unknown[0]]}")
        tables = self.properties, self.free_levels, self.flat_level
        return Atoms(numbers, *(table[numbers] for table in tables))

    def _bonds(self, batch: GraphBatch) -> Bonds:
        return Bonds.of(batch, self.radii[batch.atomic_numbers], self.config.reach)

    def _spectra(self, crystals: Sequence[Bands], member: Network) -> Tensor:
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
