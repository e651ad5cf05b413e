"""How well VB gaps are found among the test materials, and how many labels have one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.data.dataset import SpectrumDataset
from models.data.splits import split_of
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EnergyGrid
from models.training.config import TrainingConfig
from screening.benchmark.data import held_out, n_elements, shared_dataset
from screening.benchmark.runs import RunResult
from screening.benchmark.tables import deviation
from screening.benchmark.variants import NEAREST_COMPOSITION
from screening.classification import ConfusionMatrix
from screening.gap import find_gaps

MATERIALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # by their number of elements
    "all": lambda n: n > 0,
    "compounds": lambda n: n > 1,
    "elements": lambda n: n == 1,
}


def gap_rows(config: TrainingConfig, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of the VB gap, with counts summed over seeds.

    A normalised spectrum is multiplied with the sum that the Standard-MAE model of the same
    variant, seed and training set predicts. The first row is a reference that knows nothing but
    the size of the cell: see :func:`largest_cell`.

    Parameters
    ----------
    config : TrainingConfig
        Of the benchmark.
    results : sequence of RunResult

    Returns
    -------
    list of dict
        One for each kind of run on all test ``materials``, then on the compounds among them and
        on the elements, where there are any; ``precision``, ``recall`` and ``f1`` have
        ``value``, the 95 % interval ``low`` to ``high`` (of the test materials, however many
        seeds) and ``std`` over seeds.
    """
    verdicts = _verdicts(config, results)
    if verdicts:
        verdicts = _size_reference(config) | verdicts
    return [
        {"materials": materials, "model": name, "setting": setting, "fraction": fraction}
        | _over_seeds([v.matrix(materials) for v in of_seeds])
        for materials in MATERIALS
        for (name, setting, fraction), of_seeds in verdicts.items()
        if of_seeds[0].of(materials).any()
    ]


@dataclass(frozen=True, eq=False)
class _Verdicts:
    """Which test materials have a VB gap: predicted, and by the labels; shape (n,) each."""

    predicted: np.ndarray
    true: np.ndarray
    n_elements: np.ndarray

    def of(self, materials: str) -> np.ndarray:
        """Which of them are all materials, compounds, or elements; shape (n,), bool."""
        return MATERIALS[materials](self.n_elements)

    def matrix(self, materials: str) -> ConfusionMatrix:
        rows = self.of(materials)
        return ConfusionMatrix.of(zip(self.predicted[rows], self.true[rows], strict=True))


_OfRuns = dict[tuple[str, str, float], list[_Verdicts]]  # by model, setting and fraction


def _verdicts(config: TrainingConfig, results: Sequence[RunResult]) -> _OfRuns:
    """Verdicts of each seed of each kind of run that has a scale."""
    scales = {
        (r.run.variant.name, r.run.fraction, r.run.seed): r.prediction.sum(-1, keepdims=True)
        for r in results
        if r.run.setting == "standard-mae"
    }
    verdicts: _OfRuns = defaultdict(list)
    for result in results:
        run = result.run
        scale = scales.get((run.variant.name, run.fraction, run.seed))
        # Scaled, the nearest composition's shape is its spectrum again.
        again = run.variant == NEAREST_COMPOSITION and run.setting != "standard-mae"
        if scale is None or again:
            continue
        dos = result.prediction
        if SETTINGS[run.setting].output != "absolute":
            dos = dos / dos.sum(-1, keepdims=True) * scale
        test = held_out(config, run)
        true = has_gap(test.spectra.numpy(), test.grid)
        of_seed = _Verdicts(has_gap(dos, test.grid), true, n_elements(test))
        verdicts[run.variant.name, run.setting, run.fraction].append(of_seed)
    return verdicts


def has_gap(dos: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """Which spectra (n, K'), in states/eV/cell, have a VB gap by the paper's criteria; (n,).

    Parameters
    ----------
    dos : ndarray, shape (n, K')
        In states/eV/cell.
    grid : EnergyGrid
    """
    return find_gaps(grid, dos).is_gap


def _size_reference(config: TrainingConfig) -> _OfRuns:
    """What the verdicts would be if a small cell were all that it takes."""
    dataset = shared_dataset(config)
    split = split_of(dataset, config.split_seed, config.split_by)
    train, test = dataset.subset(split.train), dataset.subset(split.test)
    largest = largest_cell(train.graphs.n_atoms.numpy(), has_gap(train.spectra.numpy(), train.grid))
    predicted = test.graphs.n_atoms.numpy() <= largest
    true = has_gap(test.spectra.numpy(), test.grid)
    name = f"cell of at most {largest} atom{'s' * (largest != 1)}"
    return {(name, "-", 1.0): [_Verdicts(predicted, true, n_elements(test))]}


def largest_cell(n_atoms: np.ndarray, true: np.ndarray) -> int:
    """Number N of atoms for which 'at most N atoms' finds the VB gaps with the best F1.

    Parameters
    ----------
    n_atoms : ndarray, shape (n,)
        Of the training materials.
    true : ndarray, shape (n,), bool
        Which of them have a VB gap.

    Returns
    -------
    int
        The smallest of several; 0 if none has a VB gap.
    """
    sizes = np.unique(n_atoms)
    at_most = n_atoms[:, None] <= sizes
    f1 = 2 * (at_most & true[:, None]).sum(0) / (at_most.sum(0) + true.sum())
    return int(sizes[f1.argmax()]) if true.any() else 0


def label_counts(config: TrainingConfig) -> list[dict[str, Any]]:
    """How many labels there are, by cell size, number of elements, and element.

    Returns
    -------
    list of dict
        ``by`` and ``value``; how many ``materials`` there are in all, in ``train``,
        ``validation`` and ``test``, and how many labels have a VB gap, in all (``vb_gaps``) and
        in the test (``test_vb_gaps``); None where labels have no scale.
    """
    dataset = shared_dataset(config)
    split = split_of(dataset, config.split_seed, config.split_by)
    parts = {name: np.zeros(len(dataset), bool) for name in ("train", "validation", "test")}
    for name, part in parts.items():
        part[getattr(split, name)] = True
    gaps = None if dataset.shapes_only else has_gap(dataset.spectra.numpy(), dataset.grid)
    rows = []
    for by, value, members in _label_groups(dataset):
        row: dict[str, Any] = {"by": by, "value": value, "materials": int(members.sum())}
        row |= {name: int((members & part).sum()) for name, part in parts.items()}
        for name, some in (("vb_gaps", members), ("test_vb_gaps", members & parts["test"])):
            row[name] = None if gaps is None else int((gaps & some).sum())
        rows.append(row)
    return rows


def _label_groups(dataset: SpectrumDataset) -> Iterator[tuple[str, str, np.ndarray]]:
    """Kind, value and members (n,) of each group of labels that is counted."""
    numbers = {"atoms in the cell": dataset.graphs.n_atoms.numpy()}
    numbers["number of elements"] = n_elements(dataset)
    for by, values in numbers.items():
        for value in np.unique(values):
            yield by, str(value), values == value
    systems = [set(system.split("-")) for system in dataset.chemical_systems]
    for symbol in dataset.elements:
        yield "element", symbol, np.array([symbol in system for system in systems])


def _over_seeds(matrices: list[ConfusionMatrix]) -> dict[str, Any]:
    pooled = sum(matrices[1:], matrices[0])
    document = replace(pooled, repeats=len(matrices)).as_dict()
    for name in ("precision", "recall", "f1"):
        values = [getattr(m, name).value for m in matrices]
        defined = [v for v in values if v is not None]
        document[name]["std"] = deviation(defined) if len(defined) > 1 else None
    return {"seeds": len(matrices)} | document
