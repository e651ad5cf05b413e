"""What to train, on what, and how: the configuration of `screen train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from models.architectures.registry import graphs_for, model_config
from models.data.dataset import SpectrumDataset, edos_dataset, phdos_dataset, taught_dataset
from models.data.label_files import teacher_of
from models.data.splits import SplitBy
from models.errors import ModelError, describe
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import PHDOS_GRID, PHDOS_PAPER_GRID
from models.zoo import NAME_PATTERN

Schedule = Literal["halved", "one-cycle"]


class TeacherConfig(BaseModel):
    """What is learned from a teacher before the labels of DFT.

    Parameters
    ----------
    labels : Path
        Parquet file as `screen distill` writes it.
    epochs, batch_size, learning_rate, schedule
        As in :class:`TrainingConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Path
    epochs: int = Field(20, gt=0)
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Schedule = "one-cycle"


class TrainingConfig(BaseModel):
    """What to train, on what, and how.

    ``models/zoo/paper.yaml`` and ``models/zoo/authors.yaml`` have all that the paper's text and
    the authors' code set for Mat2Spec.

    Parameters
    ----------
    name : str
        Of the checkpoint folder.
    target : {'edos', 'phdos', 'phdos-51'}
        What is predicted: the eDOS on 128 bins, the phonon DOS on the 66 points of JARVIS-DFT or
        on the paper's 51.
    labels : tuple of Path
        Parquet files of labels; see :func:`models.data.dataset.edos_dataset` and
        :func:`models.data.dataset.phdos_dataset`. A file may leave them to the command line.
    structures : Path, optional
        Parquet file of structures; phonon files and fetched ones have their own.
    architecture : str
    model : dict
        Configuration of the architecture, such as
        :class:`~models.architectures.mat2spec.model.Mat2SpecConfig`.
    settings : tuple of str
        One checkpoint each; an eDOS predictor needs ``sumnorm-kl`` and ``standard-mae``.
    epochs, batch_size : int
        The paper has 200 epochs; its text batches of 128, the authors' code of 256.
    learning_rate, weight_decay : float
        Of AdamW.
    schedule : {'halved', 'one-cycle'}
        The rate is halved after each quarter of the epochs, or rises to `learning_rate` during the
        first 15 % of the steps and falls to zero at the end.
    validate_every : int
        Epochs from one validation to the next, the last of them included. The weights that are
        kept are those of a validated epoch.
    patience : int, optional
        Stop when the validation error has not fallen for so many validations.
    half : bool
        Round the trained weights to half precision before they are measured and written.
    seed : int
        Of the initial weights and the order of the materials.
    split_seed : int
        Of the split into training, validation and test materials.
    split_by : {'material', 'chemsys'}
        Keep chemical systems together; see :func:`models.data.splits.split_of`.
    teacher : TeacherConfig, optional
        Learn from the labels of a teacher first; then `labels` fine-tune what it has learned.
    kept : float
        Where a model is fine-tuned, the share of the weights that it begins with in those at the
        end. With 0.5 it knows what either does (Wortsman et al., CVPR 2022, arXiv:2109.01903).
    description, attribution, limits : str, str, tuple of str
        For the model card: what it predicts, whose data it was trained on, and what it must not
        be used for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    target: Literal["edos", "phdos", "phdos-51"] = "edos"
    labels: tuple[Path, ...] = Field(min_length=1)
    structures: Path | None = None
    architecture: str = "mat2spec"
    model: dict[str, Any] = {}
    graph: GraphConfig = GraphConfig()
    settings: tuple[str, ...] = Field(("sumnorm-kl", "standard-mae"), min_length=1)
    epochs: int = Field(200, gt=0)
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Schedule = "halved"
    validate_every: int = Field(1, gt=0)
    patience: int | None = Field(None, gt=0)
    half: bool = False
    seed: int = Field(0, ge=0)
    split_seed: int = Field(0, ge=0)
    split_by: SplitBy = "material"
    teacher: TeacherConfig | None = None
    kept: float = Field(0.0, ge=0, lt=1)
    description: str = ""
    attribution: str = ""
    limits: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _validates_the_last(self) -> Self:
        if self.epochs % self.validate_every:
            raise ValueError(
                f"{self.epochs} epochs are no multiple of validate_every ({self.validate_every}), "
                "and the last ones would be in vain"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the default of a field that came later: earlier trainings are still known."""
        fields: dict[str, Any] = handler(self)
        if self.schedule == "halved":
            fields.pop("schedule", None)
        if self.teacher is None:
            fields.pop("teacher", None)
        if not self.kept:
            fields.pop("kept", None)
        if self.validate_every == 1:
            fields.pop("validate_every", None)
        return fields


def read_training_config(path: Path, **changes: Any) -> TrainingConfig:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
        Relative paths in the file are relative to it.
    **changes
        Fields that go before those of the file, and `teacher_labels`, the path of those; None and
        ``()`` are as if not given.

    Raises
    ------
    ModelError
        If the file is missing or not YAML, or a field is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: a mapping of fields is needed")
    given = {k: v for k, v in changes.items() if v not in (None, ())}
    taught = given.pop("teacher_labels", None)
    if taught is not None and isinstance(document.get("teacher") or {}, dict):
        document["teacher"] = (document.get("teacher") or {}) | {"labels": taught.absolute()}
    if not (document.get("labels") or "labels" in given):
        raise ModelError(f"{path}, labels: none; name the files there or with --labels")
    try:
        config = TrainingConfig.model_validate({"labels": given.get("labels")} | document)
        relative: dict[str, Any] = {
            "labels": tuple(path.parent / p for p in config.labels),
            "structures": config.structures and path.parent / config.structures,
        }
        if config.teacher:
            labels = path.parent / config.teacher.labels
            relative["teacher"] = config.teacher.model_copy(update={"labels": labels})
        config = TrainingConfig.model_validate(config.model_dump() | relative | given)
    except ValidationError as error:
        raise ModelError(f"{path}, {describe(error)}") from None
    unknown = [s for s in config.settings if s not in SETTINGS]
    if unknown:
        raise ModelError(f"{path}: unknown setting {unknown[0]!r}; use {', '.join(SETTINGS)}")
    try:
        model_config(config.architecture, config.model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return config


def load_dataset(config: TrainingConfig) -> SpectrumDataset:
    """The data set that a configuration names, with the graphs that its architecture needs.

    Raises
    ------
    ModelError
        If a file cannot be used, or the configuration does not say which.
    """
    graph = graphs_for(config.architecture, config.graph)
    if config.target == "edos":
        return edos_dataset(config.labels, config.structures, graph=graph)
    if config.teacher:
        raise ModelError(f"{config.name}: teachers have labels of the eDOS only")
    if len(config.labels) > 1:
        raise ModelError(f"{config.name}: one file of phonon labels at a time")
    grid = PHDOS_GRID if config.target == "phdos" else PHDOS_PAPER_GRID
    return phdos_dataset(config.labels[0], grid, graph)


def lessons_of(config: TrainingConfig) -> TrainingConfig:
    """How the labels of the teacher, which the configuration names, are learned."""
    assert config.teacher is not None
    changes = config.teacher.model_dump(exclude={"labels"})
    return config.model_copy(update=changes | {"validate_every": 1})


def load_taught(config: TrainingConfig) -> SpectrumDataset | None:
    """The labels of the teacher that a configuration names, if it names one.

    Raises
    ------
    ModelError
        If they cannot be used, or the teacher was tested on other materials than the student
        will be: it may have been trained on some of the student's test materials.
    """
    if config.teacher is None:
        return None
    path = config.teacher.labels
    dataset = taught_dataset(path, graph=graphs_for(config.architecture, config.graph))
    teacher, own = teacher_of(path), (config.split_seed, config.split_by)
    if teacher and (teacher.split_seed, teacher.split_by) != own:
        raise ModelError(
            f"{path}: its teacher was tested on the split by {teacher.split_by} of seed "
            f"{teacher.split_seed}, {config.name} is by {own[1]} of seed {own[0]}; use one split"
        )
    return dataset
