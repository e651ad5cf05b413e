"""The model of a run learns what DFT said of the candidates of its search.

It is fine-tuned from its weights, or trained anew, on its old labels and those of
:mod:`workflows.validated_labels`. No material of the test part is among these, under any name, so
that the figures before and after are those of the same materials that neither model has seen, each
on graphs like those that it learned from. The new model is kept if it is not worse there
(:func:`is_not_worse`).

torch is imported when something is learned.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from db.documents import DifferenceDoc, FiguresDoc, Run
from db.store import ScreeningStore
from models.crystal import Crystal
from models.data.label_files import Labels, edos_labels
from models.spectra.metrics import wasserstein_distances
from models.training.card import ModelCard
from models.zoo import find_predictor, predictor_parts
from screening.classification import ConfusionMatrix
from screening.errors import ScreeningError
from screening.gap import GapCriteria
from screening.trust import calibrate_trained
from workflows.hardware import worker_processes
from workflows.runs import find_run
from workflows.validated_labels import (
    NothingToLearnError,
    ValidatedLabels,
    labels_of,
    write_labels,
)
from workflows.verdicts import judge

if TYPE_CHECKING:
    from models.data.dataset import SpectrumDataset
    from models.training.checkpoint import Checkpoint
    from models.training.config import TrainingConfig
    from models.training.train import TrainedPredictor

log = logging.getLogger(__name__)

LABELS_FILE = "labels.parquet"  # beside the weights of a model: what it learned of a search
FINE_TUNING = {"batch_size": 32, "learning_rate": 3e-4, "schedule": "one-cycle", "kept": 0.5}
"""As the shipped default learned from DFT after its teacher (``models/zoo/*.yaml``)."""


@dataclass(frozen=True)
class Learning:
    """How a model learns.

    Parameters
    ----------
    labels : tuple of str
        Files of its old labels, with whose test part it is compared.
    structures : str, optional
        File of structures for labels without their own.
    epochs : int
        Of the fine-tuning.
    from_scratch : str, optional
        Configuration of a training as `screen train` takes it, that begins anew instead.
    force : bool
        Keep the new model even if it is worse.
    """

    labels: tuple[str, ...] = ()
    structures: str | None = None
    epochs: int = 30
    from_scratch: str | None = None
    force: bool = False

    @property
    def files(self) -> list[Path]:
        """Of the old labels."""
        return [Path(label) for label in self.labels]


@dataclass(frozen=True)
class Learned:
    """A model that has learned, beside the one that it was.

    Parameters
    ----------
    trained : TrainedPredictor
    dataset : SpectrumDataset
        All labels that it was trained, validated and tested on.
    labels : ValidatedLabels
        What it has learned of the search, and which calculations are no labels.
    counts : dict of str to int
        Of these labels in the ``"training"`` and the ``"validation"`` part, and of those that were
        kept out of both because they are in the ``"test"`` part.
    before, after : FiguresDoc
        On the test materials.
    difference : DifferenceDoc
        Of the errors, after less before.
    """

    trained: TrainedPredictor
    dataset: SpectrumDataset
    labels: ValidatedLabels
    counts: dict[str, int]
    before: FiguresDoc
    after: FiguresDoc
    difference: DifferenceDoc

    @contextmanager
    def saved(self, folder: Path) -> Iterator[Path]:
        """Write the model, its card and what it learned, as a whole or not at all.

        The folder that the ``with`` block gets, for more files, becomes `folder` at its end.

        Raises
        ------
        ScreeningError
            If `folder` is there already.
        """
        check_free(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        counts = self.after.model_dump(include={"tp", "fp", "fn", "tn"})
        with TemporaryDirectory(dir=folder.parent, suffix=".unfinished") as own:
            unfinished = Path(own, folder.name)
            gap = {f"VB gaps among the test materials, {n.upper()}": v for n, v in counts.items()}
            self.trained.save(unfinished, gap)
            write_labels(unfinished / LABELS_FILE, self.labels.rows)
            log.info(calibrate_trained(unfinished, self.dataset))
            yield unfinished
            unfinished.rename(folder)


def check_free(folder: Path) -> None:
    """Refuse to write a model where something is.

    Raises
    ------
    ScreeningError
        If `folder` is there already.
    """
    if folder.exists():
        raise ScreeningError(f"{folder} is there already; --out names another folder")


def lineage(store: ScreeningStore, run: Run) -> list[Run]:
    """A run and those that it comes from; the last one has no parent.

    Parameters
    ----------
    store : ScreeningStore
    run : Run

    Raises
    ------
    ScreeningError
        If one of them is not in the store, as where only the last one was copied.
    """
    runs = [run]
    while (parent := runs[-1].parent) is not None:
        if (known := find_run(store, parent)) is None:
            raise ScreeningError(
                f"run {runs[-1].run_id} goes on with what run {parent} found, which is not in "
                f"{store.location}; copy that run, too (`screen export --run {parent}`)"
            )
        runs.append(known)
    return runs


def checkpoint_of(run: Run) -> Path:
    """Folder of the model of a run.

    Raises
    ------
    ScreeningError
        If it is gone or has changed.
    """
    named = run.parameters.get("checkpoint")
    folder = find_predictor(run.model_id or "", [named] if named else [])
    if folder is None:
        raise ScreeningError(
            f"run {run.run_id}: its model {run.model_id} is gone or has changed ({named}); put it "
            "back, or screen again with another"
        )
    return folder


def learn(
    store: ScreeningStore,
    run: Run,
    learning: Learning,
    name: str,
    announce: Callable[[str], None] = log.info,
) -> Learned:
    """Let the model of a run learn from all calculations of its search.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    learning : Learning
    name : str
        Of the new model.
    announce : callable
        Gets one line when a step begins or ends.

    Raises
    ------
    NothingToLearnError
        If there is no new label, and why.
    ScreeningError
        If the checkpoint of the run is gone, the calculations are of recipes unlike those of the
        old labels, or there is nothing to test on.
    """
    from models.training.train import train_predictor

    folder = checkpoint_of(run)
    card = ModelCard.read(folder)
    structures = Path(learning.structures) if learning.structures else None
    labels = labels_of(store, lineage(store, run), learning.files)
    old = edos_labels(learning.files, structures)
    part = partial(_part, card=card)
    if not (test := {name for name, c in old.crystals.items() if part(name, c) == "test"}):
        raise ScreeningError(
            f"{', '.join(learning.labels)}: none of {len(old.crystals)} labels is in the test "
            "part, so nothing tells whether the new model is worse"
        )
    known = labels.without(dict.fromkeys(old.spectra, "has a label already"))
    tested = [n for n, c in known.crystals.items() if _is_tested(n, c, old, part)]
    with TemporaryDirectory() as own:
        file = Path(own, LABELS_FILE)
        config = _training(folder, card, learning, [*learning.files, file], structures, name)
        write_labels(file, known.rows)
        allowed = known.without(dict.fromkeys(tested, "in the test part"))
        allowed = allowed.without(edos_labels([file], config.structures).left_out)
        if not allowed.rows:
            raise NothingToLearnError(_nothing(run, allowed))
        write_labels(file, allowed.rows)
        before = _predicted(_checkpoints(folder), learning.files, config.structures, test)
        start = None if learning.from_scratch else _checkpoints(folder)
        trained = train_predictor(config, announce, start=start, workers=worker_processes())
    if not np.isfinite(trained.predicted).all():
        raise ScreeningError(f"{learning.from_scratch}: trains no predictor of the eDOS")
    counts = Counter(part(*item) for item in allowed.crystals.items())
    counts["test"] = len(tested)
    return _compared(before, card, trained, allowed, dict(counts))


def _part(name: str, crystal: Crystal, card: ModelCard) -> str:
    """Part of the split that a model was trained and tested on."""
    from models.data.splits import part_of

    return part_of(name if card.split_by == "material" else crystal.chemsys, card.split_seed)


def _is_tested(
    name: str, crystal: Crystal, old: Labels, part: Callable[[str, Crystal], str]
) -> bool:
    """Whether a material is in the test part, or is the same as one that is by another name."""
    return part(name, crystal) == "test" or any(
        _is_same(crystal, other)
        for other_name, other in old.crystals.items()
        if other.formula == crystal.formula and part(other_name, other) == "test"
    )


def _is_same(crystal: Crystal, other: Crystal) -> bool:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return bool(StructureMatcher().fit(crystal.to_structure(), other.to_structure()))


def _nothing(run: Run, labels: ValidatedLabels) -> str:
    reasons = Counter(labels.left_out.values()).most_common()
    words = "; ".join(f"{n} {reason}" for reason, n in reasons)
    return f"run {run.run_id}: none of its calculations is a new label ({words})"


# Training and comparison.


def _training(
    folder: Path,
    card: ModelCard,
    learning: Learning,
    labels: Sequence[Path],
    structures: Path | None,
    name: str,
) -> TrainingConfig:
    from models.training.config import TrainingConfig, read_training_config

    split = {"split_seed": card.split_seed, "split_by": card.split_by}
    facts: dict[str, Any] = split | {
        "name": name,
        "labels": tuple(labels),
        "structures": structures,
    }
    if learning.from_scratch:
        return read_training_config(Path(learning.from_scratch), **facts)
    checkpoints = _checkpoints(folder)
    weights = next(iter(checkpoints.values())).card
    return TrainingConfig(
        **facts,
        **FINE_TUNING,
        architecture=weights.architecture,
        model=weights.config,
        graph=weights.graph,
        settings=tuple(checkpoints),
        epochs=learning.epochs,
        half=all(map(_is_half, checkpoints.values())),
        weight_decay=weights.training.get("weight_decay", 0.01),
        description=card.description,
        attribution=card.attribution,
        limits=card.limits,
    )


def _checkpoints(folder: Path) -> dict[str, Checkpoint]:
    from models.training.checkpoint import load_checkpoint

    return {part: load_checkpoint(folder / part) for part in predictor_parts(folder)}


def _is_half(checkpoint: Checkpoint) -> bool:
    """Whether the weights are those of half precision, as the file of a model may have them."""
    weights = [p for p in checkpoint.model.state_dict().values() if p.is_floating_point()]
    return all(bool((p.half() == p).all()) for p in weights)


def _predicted(
    checkpoints: dict[str, Checkpoint],
    files: Sequence[Path],
    structures: Path | None,
    names: set[str],
) -> dict[str, np.ndarray]:
    """Spectra of labelled materials by a model on its own graphs, in states/eV/cell, by name.

    What is wrong with them ends in an error here, before hours of training.
    """
    from models.data.dataset import edos_dataset
    from models.training.train import evaluate

    graph = next(iter(checkpoints.values())).card.graph
    dataset = edos_dataset(files, structures, graph=graph, only=names)
    for checkpoint in checkpoints.values():
        dataset = dataset.without_refused(checkpoint.model.refusal)
    _, predicted = evaluate(checkpoints, dataset)
    return dict(zip(dataset.material_ids, predicted, strict=True))


def _compared(
    known: dict[str, np.ndarray],
    card: ModelCard,
    trained: TrainedPredictor,
    labels: ValidatedLabels,
    counts: dict[str, int],
) -> Learned:
    """Both models on the test materials that have graphs for both."""
    rows = [i for i, name in enumerate(trained.test.material_ids) if name in known]
    if not rows:
        raise ScreeningError("no material of the test part has graphs for both models")
    test, new = trained.test.subset(rows), trained.predicted[rows]
    old = np.stack([known[name] for name in test.material_ids])
    if trained.config.teacher is None:  # what it knew before, it has not forgotten
        facts = {
            "elements": tuple(sorted({*card.elements, *trained.card.elements})),
            "lessons": card.lessons,
        }
        trained = dataclasses.replace(trained, card=trained.card.model_copy(update=facts))
    before, after = _errors(old, test), _errors(new, test)
    return Learned(
        trained,
        trained.dataset,
        labels,
        counts,
        before=_figures(before, old, test),
        after=_figures(after, new, test),
        difference=difference_of(before, after),
    )


def _errors(predicted: np.ndarray, test: SpectrumDataset) -> dict[str, np.ndarray]:
    """Of each test material, (n,): Wasserstein distance in eV, and MAE in states/eV/cell."""
    label = test.spectra.numpy()
    return {
        "wd": wasserstein_distances(predicted, label, test.grid.width),
        "mae": np.abs(predicted - label).mean(-1),
    }


def difference_of(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> DifferenceDoc:
    """Means over materials of the differences of their errors, with standard errors.

    Parameters
    ----------
    before, after : dict of ndarray, shape (n,)
        ``"wd"`` in eV and ``"mae"`` in states/eV/cell of the same materials.

    Examples
    --------
    >>> errors = {"wd": np.array([0.2, 0.4]), "mae": np.array([1.0, 1.0])}
    >>> difference = difference_of(errors, errors | {"wd": np.array([0.25, 0.5])})
    >>> round(difference.wd, 3), round(difference.wd_error, 3), is_not_worse(difference)
    (0.075, 0.025, False)
    """
    return DifferenceDoc(**_means({name: after[name] - before[name] for name in before}))


def is_not_worse(difference: DifferenceDoc) -> bool:
    """Whether neither error has grown by more than a standard error of the paired comparison.

    A model that has learned ten labels more differs little, and 100 test materials cannot tell
    little from nothing; but one that were kept although it is worse by two standard errors, round
    after round, would drift away.

    Parameters
    ----------
    difference : DifferenceDoc
    """
    return difference.wd <= difference.wd_error and difference.mae <= difference.mae_error


def _figures(
    errors: dict[str, np.ndarray], predicted: np.ndarray, test: SpectrumDataset
) -> FiguresDoc:
    n_atoms = test.graphs.n_atoms.tolist()
    verdicts = (
        judge(spectra, n_atoms, GapCriteria()).is_gap
        for spectra in (predicted, test.spectra.numpy())
    )
    matrix = ConfusionMatrix.of(zip(*verdicts, strict=True))
    counts = {name: getattr(matrix, name) for name in ("tp", "fp", "fn", "tn")}
    return FiguresDoc(n=len(test), **_means(errors), **counts)


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Means, and their standard errors as ``..._error``; 0 of a single value."""
    means = {name: float(v.mean()) for name, v in values.items()}
    errors = {
        f"{name}_error": float(v.std(ddof=1) / np.sqrt(len(v))) if len(v) > 1 else 0.0
        for name, v in values.items()
    }
    return means | errors
