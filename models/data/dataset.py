"""Labelled spectra joined with their structures, as graphs ready for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from models.crystal import ELEMENTS, Crystal
from models.data.label_files import Labels, edos_labels, phdos_labels, taught_labels
from models.errors import ModelError
from models.graphs.graph import CrystalGraph, GraphBatch, GraphConfig, build_graphs, collate
from models.spectra.band_labels import DEPTHS, BandLabels
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, EnergyGrid

NAMED_REASONS = 8  # in the error when no material can be used


@dataclass(frozen=True, eq=False)
class SpectrumDataset:
    """Spectra and crystal graphs of the same materials.

    Parameters
    ----------
    material_ids : tuple of str, length n
    graphs : GraphBatch
        The n graphs.
    spectra : Tensor, shape (n, K'), float32
        Labels, in states/eV/cell for an eDOS.
    grid : EnergyGrid
    left_out : dict
        Reason by `material_id` of those that cannot be used.
    extensive : bool
        The spectra grow with the cell; False for spectra that come normalised.
    parts : tuple of str, length n or 0
        Part of the source's own split that each material belongs to, if there is one.
    shapes_only : bool
        The labels came without a scale, so only SumNorm settings can use them.
    bands : BandLabels, optional
        What else the labels of an eDOS say.
    """

    material_ids: tuple[str, ...]
    graphs: GraphBatch
    spectra: torch.Tensor
    grid: EnergyGrid
    left_out: dict[str, str]
    extensive: bool = True
    parts: tuple[str, ...] = ()
    shapes_only: bool = False
    bands: BandLabels | None = None

    def __len__(self) -> int:
        return len(self.material_ids)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols that occur in the set, in alphabetical order."""
        return tuple(sorted(ELEMENTS[z] for z in self.graphs.atomic_numbers.unique().tolist()))

    @property
    def chemical_systems(self) -> tuple[str, ...]:
        """Chemical system of each material, such as ``"Al-Mg"``, length n."""
        atoms = self.graphs.atomic_numbers.split(self.graphs.n_nodes.tolist())
        return tuple("-".join(sorted({ELEMENTS[z] for z in a.tolist()})) for a in atoms)

    @property
    def formulas(self) -> tuple[str, ...]:
        """Reduced formula of each material, such as ``"Mg2Si"``, length n."""
        from pymatgen.core import Composition

        sizes = self.graphs.n_nodes.tolist()
        parts = (self.graphs.atomic_numbers.split(sizes), self.graphs.multiplicity.split(sizes))
        formulas = []
        for numbers, counts in zip(*parts, strict=True):
            composition: Counter[str] = Counter()
            for z, n in zip(numbers.tolist(), counts.tolist(), strict=True):
                composition[ELEMENTS[z]] += round(n)
            formulas.append(Composition(composition).reduced_formula)
        return tuple(formulas)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Those of graphs and labels."""
        parts = (self.graphs, self.bands)
        own = (getattr(p, f.name) for p in parts if p is not None for f in fields(p))
        return (self.spectra, *(tensor for tensor in own if tensor is not None))

    def to(self, device: torch.device | str) -> SpectrumDataset:
        """The same data set on another device."""
        bands = None if self.bands is None else self.bands.to(device)
        return replace(
            self, graphs=self.graphs.to(device), spectra=self.spectra.to(device), bands=bands
        )

    def subset(self, indices: Sequence[int] | np.ndarray) -> SpectrumDataset:
        """The materials with these indices."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.long)
        rows = index.tolist()
        return SpectrumDataset(
            tuple(self.material_ids[i] for i in rows),
            self.graphs.select(index),
            self.spectra[index],
            self.grid,
            {},
            self.extensive,
            tuple(self.parts[i] for i in rows) if self.parts else (),
            self.shapes_only,
            None if self.bands is None else self.bands.select(index),
        )

    def without_refused(self, refusal: Callable[[np.ndarray], str]) -> SpectrumDataset:
        """Without the materials that a model has no prediction for; `left_out` says why.

        Parameters
        ----------
        refusal : callable
            See :meth:`models.architectures.interface.Architecture.refusal`.
        """
        atoms = self.graphs.atomic_numbers.split(self.graphs.n_nodes.tolist())
        reasons = [refusal(numbers.numpy()) for numbers in atoms]
        if not any(reasons):
            return self
        refused = {i: why for i, why in zip(self.material_ids, reasons, strict=True) if why}
        left_out = self.left_out | refused
        if len(refused) == len(self):
            raise ModelError(_none_usable(left_out))
        kept = self.subset([row for row, why in enumerate(reasons) if not why])
        return replace(kept, left_out=left_out)


def usable_settings(dataset: SpectrumDataset) -> tuple[str, ...]:
    """Names of the settings that the labels have all information for."""
    normalized = (n for n, s in SETTINGS.items() if s.output == "sum-normalized")
    return tuple(normalized if dataset.shapes_only else SETTINGS)


def refuse_settings(dataset: SpectrumDataset, names: Sequence[str]) -> None:
    """Refuse settings that need a scale which the labels lack.

    Parameters
    ----------
    dataset : SpectrumDataset
    names : sequence of str
        Of the settings.

    Raises
    ------
    ModelError
        Names the first such setting, and those that can be used.
    """
    usable = usable_settings(dataset)
    for name in names:
        if name in SETTINGS and name not in usable:
            raise ModelError(f"{name}: labels without a scale train {' and '.join(usable)} only")


def edos_dataset(
    labels: Sequence[Path],
    structures: Path | None = None,
    grid: EnergyGrid = EDOS_GRID,
    graph: GraphConfig = GraphConfig(),
    only: Container[str] | None = None,
) -> SpectrumDataset:
    """Join eDOS labels with structures by `material_id`.

    Parameters
    ----------
    labels : sequence of Path
        Parquet files with `material_id`, `band_gap` (eV), `emax` (eV) and `dos` (1,200 averages
        in states/eV/cell, from -14 to 10 eV in steps of 0.02); or files as `screen fetch`
        writes them, with `material_id`, `spectrum` (states/eV/cell on the grid that the file's
        metadata name) and the structures; or files of shapes, with `material_id`, `energies`
        (eV relative to the Fermi level), `dos` (of any scale, at these energies), `species` and,
        optionally, the rest of the structures. The first usable label of an id counts. With a
        file of shapes among them all labels become SumNorm shapes. Labels that physics forbids
        (:mod:`models.data.label_rules`) are left out of every file; those of the first and the last
        kind count as computed without spin, unless `spin` says otherwise in the first kind, which
        may have the structures, too. It may name lanthanides in `stand_ins` (atomic numbers)
        whose place La or Y took in the calculation. Such a label is that of the compound with its
        4f shell frozen, as the Materials Project computes most lanthanides, and so the structure
        keeps its own elements.
    structures : Path, optional
        Parquet file with `material_id`, `lattice`, `species` and `frac_coords`, for labels
        without structures of their own; with `band_gap` (eV), labels are compared with it.
    grid : EnergyGrid
    graph : GraphConfig
    only : container of str, optional
        Materials to take, of those that can be used; all by default.

    Raises
    ------
    ModelError
        If a file or a column is missing; a file has another grid; or labels are NaN, negative or
        all zero, are there more than once in a file, or have no structure: their ids are named.
    """
    joined = edos_labels(labels, structures, grid)
    if only is not None:
        wanted = {name: crystal for name, crystal in joined.crystals.items() if name in only}
        joined = replace(joined, crystals=wanted)
    return _with_graphs(joined, grid, graph, labels, extensive=not joined.shapes_only)


def taught_dataset(
    path: Path, grid: EnergyGrid = EDOS_GRID, graph: GraphConfig = GraphConfig()
) -> SpectrumDataset:
    """eDOS labels of a teacher with the structures in the same file.

    Parameters
    ----------
    path : Path
        Parquet file as `screen distill` writes it.
    grid : EnergyGrid
        That of the file.

    Raises
    ------
    ModelError
        If the file is not one, or its labels cannot be used.
    """
    return _with_graphs(taught_labels(path, grid), grid, graph, [path], extensive=True)


def phdos_dataset(
    path: Path, grid: EnergyGrid = PHDOS_GRID, graph: GraphConfig = GraphConfig()
) -> SpectrumDataset:
    """Phonon DOS with the structures in the same file.

    Parameters
    ----------
    path : Path
        Parquet file with `material_id`, `lattice`, `species`, `frac_coords`, `phdos` (66 points,
        -300 to 1000 cm^-1) and, optionally, `split`; of a source's own split, ``"train"`` is for
        training and the other parts are for the test. Or a file as `screen fetch` writes it,
        with `spectrum` on the grid that its metadata name.
    grid : EnergyGrid
        The file's own, or of its 66 points the paper's 51
        (:data:`models.spectra.spectrum.PHDOS_PAPER_GRID`), those without imaginary modes.

    Raises
    ------
    ModelError
        If a column is missing, the grid is another one, or labels are NaN, negative or all zero,
        or are there more than once: their ids are named.
    """
    return _with_graphs(phdos_labels(path, grid), grid, graph, [path], extensive=False)


def _with_graphs(
    labels: Labels, grid: EnergyGrid, graph: GraphConfig, files: Sequence[Path], extensive: bool
) -> SpectrumDataset:
    graphs = _graphs(labels.crystals, graph)
    if not graphs.built:
        names = ", ".join(path.name for path in files)
        raise ModelError(f"{names}: {_none_usable(labels.left_out | graphs.failures)}")
    return SpectrumDataset(
        tuple(graphs.built),
        collate(list(graphs.built.values())),
        _stacked(labels.spectra[i] for i in graphs.built),
        grid,
        labels.left_out | graphs.failures,
        extensive,
        tuple(labels.parts[i] for i in graphs.built) if labels.parts else (),
        labels.shapes_only,
        _bands(labels, graphs.built) if labels.gaps else None,
    )


def _bands(labels: Labels, material_ids: Iterable[str]) -> BandLabels:
    unknown = np.full(len(DEPTHS), np.nan)
    gaps = [labels.gaps.get(i, np.nan) for i in material_ids]
    occupied = _stacked(labels.occupied.get(i, unknown) for i in material_ids)
    return BandLabels(torch.tensor(gaps, dtype=torch.float32), occupied)


def _none_usable(left_out: dict[str, str]) -> str:
    """That no material can be used, and which reason took how many; the commonest first."""
    counts = Counter(left_out.values()).most_common()
    reasons = [f"{n} left out: {reason}" for reason, n in counts[:NAMED_REASONS]]
    more = sum(n for _, n in counts[NAMED_REASONS:])
    reasons += [f"{more} for other reasons"] if more else []
    return f"no material can be used ({'; '.join(reasons) or 'there is none'})"


def with_structures(
    dataset: SpectrumDataset, crystals: dict[str, Crystal], graph: GraphConfig
) -> SpectrumDataset:
    """The same labels for other structures of the same materials.

    Parameters
    ----------
    dataset : SpectrumDataset
    graph : GraphConfig
    crystals : dict of Crystal
        By `material_id`; those that have no graph are left out.
    """
    graphs = _graphs({i: crystals[i] for i in dataset.material_ids}, graph)
    if not graphs.built:
        raise ModelError("none of the structures has a graph")
    rows = [i for i, m in enumerate(dataset.material_ids) if m in graphs.built]
    labelled = dataset.subset(rows)
    batch = collate(list(graphs.built.values()))
    return replace(labelled, graphs=batch, left_out=graphs.failures)


@dataclass(frozen=True)
class _Graphs:
    built: dict[str, CrystalGraph]
    failures: dict[str, str]


def _graphs(crystals: dict[str, Crystal], config: GraphConfig) -> _Graphs:
    results = zip(crystals, build_graphs(crystals.values(), config), strict=True)
    graphs = _Graphs({}, {})
    for material_id, result in results:
        if isinstance(result, str):
            graphs.failures[material_id] = result
        else:
            graphs.built[material_id] = result
    return graphs


def _stacked(spectra: Iterable[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(spectra)).astype(np.float32))
