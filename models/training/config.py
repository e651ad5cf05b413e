"""What to train, on what, and how: the configuration of `screen train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from models.architectures.registry import graphs_for, model_config
from models.data.dataset import SpectrumDataset, edos_dataset, phdos_dataset
from models.data.splits import SplitBy
from models.errors import ModelError, describe
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import PHDOS_GRID, PHDOS_PAPER_GRID


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
    patience : int, optional
        Stop when the validation error has not fallen for so many epochs.
    half : bool
        Round the trained weights to half precision before they are measured and written.
    seed : int
        Of the initial weights and the order of the materials.
    split_seed : int
        Of the split into training, validation and test materials.
    split_by : {'material', 'chemsys'}
        Keep chemical systems together; see :func:`models.data.splits.split_of`.
    description, attribution, limits : str, str, tuple of str
        For the model card: what it predicts, whose data it was trained on, and what it must not
        be used for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
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
    schedule: Literal["halved", "one-cycle"] = "halved"
    patience: int | None = Field(None, gt=0)
    half: bool = False
    seed: int = Field(0, ge=0)
    split_seed: int = Field(0, ge=0)
    split_by: SplitBy = "material"
    description: str = ""
    attribution: str = ""
    limits: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the default of a field that came later: earlier trainings are still known."""
        fields: dict[str, Any] = handler(self)
        if self.schedule == "halved":
            fields.pop("schedule", None)
        return fields


def read_training_config(path: Path, **changes: Any) -> TrainingConfig:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
        Relative paths in the file are relative to it.
    **changes
        Fields that go before those of the file; None and ``()`` are as if not given.

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
    if not (document.get("labels") or "labels" in given):
        raise ModelError(f"{path}, labels: none; name the files there or with --labels")
    try:
        config = TrainingConfig.model_validate({"labels": given.get("labels")} | document)
        relative = {
            "labels": tuple(path.parent / p for p in config.labels),
            "structures": config.structures and path.parent / config.structures,
        }
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
    if len(config.labels) > 1:
        raise ModelError(f"{config.name}: one file of phonon labels at a time")
    grid = PHDOS_GRID if config.target == "phdos" else PHDOS_PAPER_GRID
    return phdos_dataset(config.labels[0], grid, graph)
