"""Training of a predictor: configuration in, checkpoint folder with its model card out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from models.architectures.interface import Architecture, StatesArchitecture
from models.architectures.registry import build_model, config_for
from models.data.dataset import SpectrumDataset, edos_dataset, refuse_settings
from models.data.label_files import teacher_of
from models.data.splits import Split, split_of
from models.errors import ModelError
from models.graphs.graph import GraphBatch
from models.spectra.metrics import spectrum_metrics, standard_errors
from models.spectra.settings import SETTINGS
from models.training.card import LessonsCard, ModelCard
from models.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.training.config import TrainingConfig, lessons_of, load_dataset, load_taught
from models.training.fit import Hardware
from models.training.materials import TrainingMaterial, TrainingMaterials, material_files
from models.training.resume import TrainingProgress
from models.training.settings import SettingsTraining
from models.zoo import PARTS, SCALE, SHAPE, calibration_files, part_files

BATCH = 32  # materials that are embedded at a time
PART = 512  # materials that are predicted at a time: 1.5 GB, cells of 27 atoms
TAUGHT = "-taught"  # behind the name of a setting: what it has learned of a teacher


@dataclass(frozen=True)
class TrainedPredictor:
    """A predictor as trained, with its test materials.

    Parameters
    ----------
    dataset : SpectrumDataset
        All materials with labels.
    test : SpectrumDataset
        Those that no training step has seen; labels in states/eV/cell.
    predicted : ndarray, shape (n_test, K')
        Their predicted spectra in states/eV/cell, NaN unless both parts of the pair were trained.
    trained_on : TrainingMaterials or None
        Where the training materials are in the embedding of the shape; None if there is none.
    progress : TrainingProgress or None
        What is left on disk for `--resume` until the predictor is saved.
    """

    config: TrainingConfig
    checkpoints: dict[str, Checkpoint]
    card: ModelCard
    dataset: SpectrumDataset
    test: SpectrumDataset
    predicted: np.ndarray
    trained_on: TrainingMaterials | None = None
    progress: TrainingProgress | None = None

    def save(self, folder: Path, gap: dict[str, Any] | None = None) -> ModelCard:
        """Write all checkpoints and the card into `folder`, replacing what is there.

        Parameters
        ----------
        folder : Path
        gap : dict, optional
            How well the VB gap is recognised, for the card.
        """
        for name, checkpoint in self.checkpoints.items():
            save_checkpoint(folder / name, checkpoint, self.config.half)
        if self.trained_on is not None:
            self.trained_on.save(folder)
        gone: tuple[Path, ...] = calibration_files(folder)
        if self.trained_on is None:
            gone += material_files(folder)
        for part in set(PARTS) - set(self.checkpoints):
            gone += part_files(folder, part)
        for file in gone:  # of the predictor that was there before
            file.unlink(missing_ok=True)
        card = self.card.model_copy(update={"gap": gap or {}})
        card.write(folder)
        if self.progress is not None:
            self.progress.clear()
        return card


def train_predictor(
    config: TrainingConfig,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
    *,
    hardware: Hardware = Hardware(),
    folder: Path | None = None,
    resume: bool = False,
    start: dict[str, Checkpoint] | None = None,
    workers: int = 1,
) -> TrainedPredictor:
    """Train every setting of the configuration and measure it on the test materials.

    Parameters
    ----------
    config : TrainingConfig
    announce : callable
        Gets one line when a step begins or ends.
    progress : bool
        Show bars with the loss and the validation error.
    hardware : Hardware
        Where it runs.
    folder : Path, optional
        Where progress is kept until the predictor is saved, so that an interrupted training can go
        on.
    resume : bool
        Go on from what an interrupted training left in `folder`.
    start : dict of Checkpoint, optional
        By the names of their settings: fine-tune these, instead of what a teacher taught or
        random weights.
    workers : int
        Trainings at a time on a CPU, each in a process of its own: settings or, of an ensemble
        whose members are trained apart, members. Settings that share the threads of torch differ
        from those that have them one after the other by how sums are rounded.
    """
    dataset, taught = load_dataset(config), load_taught(config)
    refuse_settings(dataset, config.settings)
    dataset = _without_refused(config, dataset)
    taught = None if taught is None else _without_refused(config, taught)
    split = split_of(dataset, config.split_seed, config.split_by)
    announce(f"{_parts_in_words(dataset, split)}; {len(dataset.left_out)} left out")
    datasets = [dataset] if taught is None else [dataset, taught]
    with TemporaryDirectory() as own:
        kept = TrainingProgress(folder or Path(own, "progress"), config, *datasets, resume=resume)
        settings = partial(SettingsTraining, kept=kept, hardware=hardware, bars=progress)
        started = time.perf_counter()
        if taught is not None:
            taught_split = split_of(taught, config.split_seed, config.split_by)
            announce(f"of a teacher: {_parts_in_words(taught, taught_split)}")
            lessons = settings(lessons_of(config), taught, taught_split, suffix=TAUGHT)
            start = lessons.run(workers, announce)
        checkpoints = settings(config, dataset, split, start=start).run(workers, announce)
        seconds = time.perf_counter() - started
    if config.half:
        for checkpoint in checkpoints.values():
            _round(checkpoint.model)
    test = dataset.subset(split.test)
    figures, predicted = evaluate(checkpoints, test)
    how = {name: checkpoint.card.training for name, checkpoint in checkpoints.items()}
    card = _card(config, dataset, split, figures, how, seconds)
    if taught is not None:
        card = card.model_copy(update=_of_teacher(config, taught, taught_split, checkpoints))
    shape = checkpoints.get(SHAPE)
    trained_on = None if shape is None else embedded(shape, dataset.subset(split.train))
    return TrainedPredictor(
        config,
        checkpoints,
        card,
        dataset,
        test,
        predicted,
        trained_on,
        progress=None if folder is None else kept,
    )


def _round(model: Architecture) -> None:
    """Round what is saved of a model, as `save_checkpoint` does, and not its tables."""
    state = model.state_dict()
    model.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in state.items()})


def _without_refused(config: TrainingConfig, dataset: SpectrumDataset) -> SpectrumDataset:
    """Without materials that the architecture has no prediction for."""
    setting = SETTINGS[config.settings[0]](dataset.grid.size, dataset.extensive)
    fields = config_for(config.architecture, config.model, setting, dataset.grid)
    model = build_model(config.architecture, dataset.grid.size, fields)
    return dataset.without_refused(model.refusal)


@torch.inference_mode()
def embedded(checkpoint: Checkpoint, dataset: SpectrumDataset) -> TrainingMaterials | None:
    """Where the materials of a data set are in a model's embedding; None if it has none.

    Parameters
    ----------
    checkpoint : Checkpoint
    dataset : SpectrumDataset
        What the model was trained on.
    """
    device, embeddings = next(checkpoint.model.parameters()).device, []
    for rows in torch.arange(len(dataset)).split(BATCH):
        embedding = checkpoint.model.embedding(dataset.graphs.select(rows).to(device))
        if embedding is None:
            return None
        embeddings.append(embedding.float().cpu())
    of_each = zip(
        dataset.material_ids, dataset.formulas, dataset.graphs.n_atoms.tolist(), strict=True
    )
    materials = [TrainingMaterial(material_id=i, formula=f, n_atoms=n) for i, f, n in of_each]
    return TrainingMaterials.of(materials, torch.cat(embeddings).numpy())


def add_training_materials(
    folder: Path, labels: Sequence[Path], structures: Path | None = None
) -> None:
    """Write which materials an eDOS predictor was trained on, if its training did not.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    labels, structures : sequence of Path, Path
        Those that it was trained on, see :func:`models.data.dataset.edos_dataset`.

    Raises
    ------
    ModelError
        If there are not as many as its card says.

    Examples
    --------
    >>> labels = [Path("my_labels.parquet")]
    >>> add_training_materials(Path("my-predictor"), labels)  # doctest: +SKIP
    """
    card, checkpoint = ModelCard.read(folder), load_checkpoint(folder / SHAPE)
    dataset = edos_dataset(labels, structures, checkpoint.card.grid, checkpoint.card.graph)
    dataset = dataset.without_refused(checkpoint.model.refusal)
    # The card, which is read from a file, has the name of a split as a plain string.
    split = split_of(
        dataset, card.split_seed, "chemsys" if card.split_by == "chemsys" else "material"
    )
    if len(split.train) != card.n_train:
        raise ModelError(
            f"{folder}: trained on {card.n_train} materials, but these labels have "
            f"{len(split.train)}; name the labels that it was trained on"
        )
    trained_on = embedded(checkpoint, dataset.subset(split.train))
    if trained_on is not None:
        trained_on.save(folder)


def _parts_in_words(dataset: SpectrumDataset, split: Split) -> str:
    return (
        f"{len(dataset)} labelled materials: {len(split.train)} training, "
        f"{len(split.validation)} validation, {len(split.test)} test"
    )


def _of_teacher(
    config: TrainingConfig,
    taught: SpectrumDataset,
    split: Split,
    checkpoints: dict[str, Checkpoint],
) -> dict[str, Any]:
    """Fields of a student's card: what its teacher taught, and how much of that it knows."""
    assert config.teacher is not None
    teacher = teacher_of(config.teacher.labels)
    figures, _ = evaluate(checkpoints, taught.subset(split.test))
    lessons = LessonsCard(
        teacher=teacher.model_id if teacher else "",
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
        epochs=config.teacher.epochs,
        kept=config.kept,
        figures=figures,
    )
    elements = {element for c in checkpoints.values() for element in c.card.elements}
    return {"elements": tuple(sorted(elements)), "lessons": lessons}


def _card(
    config: TrainingConfig,
    dataset: SpectrumDataset,
    split: Split,
    figures: dict[str, dict[str, float]],
    how: dict[str, dict[str, Any]],
    seconds: float,
) -> ModelCard:
    return ModelCard(
        name=config.name,
        architecture=config.architecture,
        description=config.description,
        labels=tuple(path.name for path in config.labels),
        attribution=config.attribution,
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
        left_out=dict(Counter(dataset.left_out.values())),
        split_seed=config.split_seed,
        split_by=config.split_by,
        elements=dataset.subset(split.train).elements,
        figures=figures,
        label_branch={
            n: facts["label_branch"] for n, facts in how.items() if "label_branch" in facts
        },
        members={
            name: tuple(member["validation_mae"] for member in facts["members"])
            for name, facts in how.items()
            if "members" in facts
        },
        unit=dataset.grid.unit,
        limits=config.limits,
        versions={p: version(p) for p in ("torch", "lightning", "edos-screening")},
        trained_at=date.today().isoformat(),
        training_seconds=round(seconds, 1),
    )


@torch.inference_mode()
def evaluate(
    checkpoints: dict[str, Checkpoint], test: SpectrumDataset
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """Test figures of each checkpoint and of the pair, and the pair's spectra in states/eV/cell.

    With each figure but R2 comes its standard error over the materials, as ``mae_error``. What is
    not defined, such as the R2 of one material, is not among them.

    A normalised prediction is compared with the label normalised in the same way; an absolute
    one, and the shape times the predicted sum, with the label in states/eV/cell.

    Parameters
    ----------
    checkpoints : dict of Checkpoint
        By the names of their settings.
    test : SpectrumDataset

    Returns
    -------
    figures : dict
        By what was predicted, then by figure, see :func:`models.spectra.metrics.spectrum_metrics`.
    predicted : ndarray, shape (n, K')
        NaN without a scale.
    """
    width, n_atoms = test.grid.width, test.graphs.n_atoms
    label = test.spectra.numpy()
    figures, decoded = {}, {}
    for name, checkpoint in checkpoints.items():
        setting = checkpoint.setting
        decoded[name] = setting.decode(_in_parts(checkpoint.model, test.graphs), n_atoms).numpy()
        normalized = setting.output != "absolute"
        reference = setting.target(test.spectra, n_atoms).numpy() if normalized else label
        figures[name] = _figures(decoded[name], reference, width)
    shape = checkpoints.get(SHAPE)
    if shape is not None and isinstance(shape.model, StatesArchitecture):
        predicted = _in_parts(shape.model.states, test.graphs).numpy()
        figures["states/eV/cell"] = _figures(predicted, label, width)
        return figures, predicted
    if not test.extensive or not {SHAPE, SCALE} <= decoded.keys():
        return figures, np.full_like(label, np.nan)
    predicted = decoded[SHAPE] * decoded[SCALE].sum(-1, keepdims=True)
    figures[f"{SHAPE} x sum of {SCALE} (states/eV/cell)"] = _figures(predicted, label, width)
    return figures, predicted


def _in_parts(predict: Callable[[GraphBatch], torch.Tensor], graphs: GraphBatch) -> torch.Tensor:
    """Predictions for many crystals, as many at a time as the memory of a workstation holds."""
    parts = torch.arange(len(graphs)).split(PART)
    return torch.cat([predict(graphs.select(rows)) for rows in parts])


def _figures(prediction: np.ndarray, label: np.ndarray, width: float) -> dict[str, float]:
    """Figures as far as they are defined: one material has no R2 and no standard errors."""
    errors = standard_errors(prediction, label, width)
    figures = spectrum_metrics(prediction, label, width)
    figures |= {f"{name}_error": error for name, error in errors.items()}
    return {name: value for name, value in figures.items() if np.isfinite(value)}
