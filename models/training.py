"""Training through Lightning: configuration in, checkpoint folder with its model card out."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.architectures import build_model
from models.card import SCALE, SHAPE, ModelCard
from models.checkpoint import Checkpoint, CheckpointCard, save_checkpoint
from models.dataset import SpectrumDataset, Split, edos_dataset, split_dataset
from models.errors import ModelError
from models.graph import GraphBatch, GraphConfig
from models.losses import SETTINGS, Setting
from models.metrics import spectrum_metrics


class TrainingConfig(BaseModel):
    """What to train, on what, and how; the defaults are the paper's.

    Parameters
    ----------
    name : str
        Of the checkpoint folder.
    labels : tuple of Path
        Parquet files of labels; see :func:`models.dataset.edos_dataset`.
    structures : Path
        Parquet file of structures.
    architecture : str
    model : dict
        Configuration of the architecture, such as :class:`models.mat2spec.Mat2SpecConfig`.
    settings : tuple of str
        One checkpoint each; a predictor needs ``sumnorm-kl`` and ``standard-mae``.
    epochs, batch_size : int
        The paper's text has batches of 128, the authors' code of 256.
    learning_rate, weight_decay : float
        Of AdamW; the rate is halved after each quarter of the epochs.
    patience : int, optional
        Stop when the validation error has not fallen for so many epochs.
    seed : int
        Of the initial weights and the order of the materials.
    split_seed : int
        Of the split into training, validation and test materials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    labels: tuple[Path, ...] = Field(min_length=1)
    structures: Path
    architecture: str = "mat2spec"
    model: dict[str, Any] = {}
    graph: GraphConfig = GraphConfig()
    settings: tuple[str, ...] = Field(("sumnorm-kl", "standard-mae"), min_length=1)
    epochs: int = Field(200, gt=0)
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    patience: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)
    split_seed: int = Field(0, ge=0)
    description: str = ""
    limits: tuple[str, ...] = ()


def read_training_config(path: Path, **changes: Any) -> TrainingConfig:
    """Read a YAML file; relative paths in it are relative to the file.

    Raises
    ------
    ModelError
        If the file is missing or not YAML, or a field is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: a mapping of fields is needed")
    try:
        config = TrainingConfig.model_validate(document)
        unknown = [s for s in config.settings if s not in SETTINGS]
        if unknown:
            raise ModelError(f"{path}: unknown setting {unknown[0]!r}; use {', '.join(SETTINGS)}")
        relative = {
            "labels": tuple(path.parent / p for p in config.labels),
            "structures": path.parent / config.structures,
        }
        given = {k: v for k, v in changes.items() if v not in (None, ())}
        return TrainingConfig.model_validate(config.model_dump() | relative | given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path}, {field}: {first['msg']}") from None


class GraphLoader:
    """Batches of a data set that is in memory; shuffled anew each epoch if a seed is given."""

    def __init__(self, dataset: SpectrumDataset, batch_size: int, seed: int | None = None) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[GraphBatch, Tensor]]:
        order = torch.arange(len(self.dataset))
        if self.generator is not None:
            order = torch.randperm(len(self.dataset), generator=self.generator)
        for index in order.split(self.batch_size):
            yield self.dataset.graphs.select(index), self.dataset.spectra[index]


class SpectrumModule(lightning.LightningModule):
    """A model with its setting and optimiser."""

    def __init__(self, model: torch.nn.Module, setting: Setting, config: TrainingConfig) -> None:
        super().__init__()
        self.model, self.setting, self.training_config = model, setting, config

    def training_step(self, batch: tuple[GraphBatch, Tensor], _: int) -> Tensor:
        """Total loss of a batch."""
        graphs, spectra = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        losses = self.model.losses(graphs, target, self.setting)
        self.log("loss", losses["total"], prog_bar=True, batch_size=len(graphs))
        return losses["total"]

    def validation_step(self, batch: tuple[GraphBatch, Tensor], _: int) -> None:
        """Mean absolute error in the space of the targets."""
        graphs, spectra = batch
        target = self.setting.target(spectra, graphs.n_atoms)
        error = (self.setting.activate(self.model(graphs)) - target).abs().mean()
        self.log("validation_mae", error, prog_bar=True, batch_size=len(graphs))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, its rate halved after each quarter of the epochs."""
        config = self.training_config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        step = max(1, config.epochs // 4)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=step, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class KeepBest(lightning.Callback):
    """Keeps the weights of the epoch with the smallest validation error."""

    def __init__(self) -> None:
        self.error, self.epoch = float("inf"), -1
        self.state: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, module: SpectrumModule) -> None:
        """Copy the weights if this epoch is the best so far."""
        error = float(trainer.callback_metrics["validation_mae"])
        if not trainer.sanity_checking and error < self.error:
            self.error, self.epoch = error, trainer.current_epoch
            self.state = copy.deepcopy(module.model.state_dict())


@dataclass(frozen=True)
class Trained:
    """A trained checkpoint and how its training went."""

    checkpoint: Checkpoint
    best_epoch: int
    validation_mae: float
    seconds: float


def train_setting(
    config: TrainingConfig,
    setting_name: str,
    dataset: SpectrumDataset,
    split: Split,
    progress: bool = False,
) -> Trained:
    """Train one architecture under one setting; the best epoch's weights are kept.

    Raises
    ------
    ModelError
        If the validation error is never a number.
    """
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    train, validation = dataset.subset(split.train), dataset.subset(split.validation)
    model = build_model(config.architecture, dataset.grid.size, config.model)
    setting = SETTINGS[setting_name](dataset.grid.size)
    setting.fit(train.spectra, train.graphs.n_atoms)
    best = KeepBest()
    callbacks: list[lightning.Callback] = [best]
    if config.patience:
        stop = lightning.pytorch.callbacks.EarlyStopping("validation_mae", patience=config.patience)
        callbacks.append(stop)
    started = time.perf_counter()
    trainer = _quiet_trainer(
        max_epochs=config.epochs,
        callbacks=callbacks,
        deterministic="warn",
        enable_progress_bar=progress,
    )
    module = SpectrumModule(model, setting, config)
    trainer.fit(
        module,
        GraphLoader(train, config.batch_size, seed=config.seed),
        GraphLoader(validation, config.batch_size),
    )
    if not best.state:
        raise ModelError(f"{setting_name}: the validation error was never a number")
    model.load_state_dict(best.state)
    card = CheckpointCard(
        architecture=config.architecture,
        config=model.config.model_dump(),
        setting=setting_name,
        grid=dataset.grid,
        graph=config.graph,
        elements=train.elements,
        training={
            "epochs": config.epochs,
            "best_epoch": best.epoch,
            "validation_mae": best.error,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "seed": config.seed,
        },
    )
    checkpoint = Checkpoint(model.cpu().eval(), setting.cpu().eval(), card)
    return Trained(checkpoint, best.epoch, best.error, time.perf_counter() - started)


def _quiet_trainer(**options: Any) -> lightning.Trainer:
    """Trainer without log files, checkpoints and advice about them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


@dataclass(frozen=True)
class TrainedPredictor:
    """A predictor as trained, with its test materials.

    Parameters
    ----------
    test : SpectrumDataset
        Materials that no training step has seen; labels in states/eV/cell.
    predicted : ndarray, shape (n_test, K')
        Their predicted spectra in states/eV/cell, NaN unless both parts of the pair were trained.
    """

    checkpoints: dict[str, Checkpoint]
    card: ModelCard
    test: SpectrumDataset
    predicted: np.ndarray

    def save(self, folder: Path, gap: dict[str, Any] | None = None) -> ModelCard:
        """Write all checkpoints and the card into `folder`, replacing what is there."""
        for name, checkpoint in self.checkpoints.items():
            save_checkpoint(folder / name, checkpoint)
        card = self.card.model_copy(update={"gap": gap or {}})
        card.write(folder)
        return card


def train_predictor(
    config: TrainingConfig,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> TrainedPredictor:
    """Train every setting of the configuration and measure it on the test materials.

    Parameters
    ----------
    announce : callable
        Gets one line when a step begins or ends.
    progress : bool
        Show bars with the loss and the validation error.
    """
    dataset = edos_dataset(config.labels, config.structures, graph=config.graph)
    split = split_dataset(dataset.material_ids, config.split_seed)
    announce(
        f"{len(dataset)} labelled materials: {len(split.train)} training, "
        f"{len(split.validation)} validation, {len(split.test)} test; "
        f"{len(dataset.left_out)} left out"
    )
    started = time.perf_counter()
    checkpoints = {}
    for name in config.settings:
        trained = train_setting(config, name, dataset, split, progress)
        checkpoints[name] = trained.checkpoint
        announce(
            f"{name}: validation MAE {trained.validation_mae:.4g} at epoch "
            f"{trained.best_epoch + 1}, {trained.seconds:.0f} s"
        )
    test = dataset.subset(split.test)
    figures, predicted = evaluate(checkpoints, test)
    card = ModelCard(
        name=config.name,
        architecture=config.architecture,
        description=config.description,
        labels=tuple(path.name for path in config.labels),
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
        left_out=dict(Counter(dataset.left_out.values())),
        split_seed=config.split_seed,
        elements=dataset.subset(split.train).elements,
        figures=figures,
        limits=config.limits,
        versions={p: version(p) for p in ("torch", "lightning", "edos-screening")},
        trained_at=date.today().isoformat(),
        training_seconds=round(time.perf_counter() - started, 1),
    )
    return TrainedPredictor(checkpoints, card, test, predicted)


@torch.inference_mode()
def evaluate(
    checkpoints: dict[str, Checkpoint], test: SpectrumDataset
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """Test figures of each checkpoint and of the pair, and the pair's spectra in states/eV/cell.

    A normalised prediction is compared with the label normalised in the same way; an absolute
    one, and the shape times the predicted sum, with the label in states/eV/cell.
    """
    width, n_atoms = test.grid.width, test.graphs.n_atoms
    label = test.spectra.numpy()
    figures, decoded = {}, {}
    for name, checkpoint in checkpoints.items():
        setting = checkpoint.setting
        decoded[name] = setting.decode(checkpoint.model(test.graphs), n_atoms).numpy()
        normalized = setting.output != "absolute"
        reference = setting.target(test.spectra, n_atoms).numpy() if normalized else label
        figures[name] = spectrum_metrics(decoded[name], reference, width)
    if not {SHAPE, SCALE} <= decoded.keys():
        return figures, np.full_like(label, np.nan)
    predicted = decoded[SHAPE] * decoded[SCALE].sum(-1, keepdims=True)
    figures[f"{SHAPE} x sum of {SCALE} (states/eV/cell)"] = spectrum_metrics(
        predicted, label, width
    )
    return figures, predicted
