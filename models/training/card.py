"""The model card of a shipped predictor: what it was trained on, how good it is, its limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.elements import KnownElements, stand_ins_of
from models.errors import ModelError, describe
from models.writing import write_whole
from models.zoo import predictor_folder

CARD, README = "card.json", "README.md"
COLLAPSED = 0.05
_SPLIT = {"material": "the `material_id`", "chemsys": "the chemical system"}


class LessonsCard(BaseModel):
    """What a student has learned from a teacher before it saw labels of DFT.

    Parameters
    ----------
    teacher : str
        Id of the model.
    n_train, n_validation, n_test : int
        Materials that it labelled, in each part of the split.
    epochs : int
    kept : float
        Share of the weights of then in those of the end.
    figures : dict
        Of the student, as it is in the end, against the teacher's labels of the test part; see
        :class:`ModelCard`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    n_train: int
    n_validation: int
    n_test: int
    epochs: int
    kept: float = 0.0
    figures: dict[str, dict[str, float]]


class ModelCard(BaseModel):
    """Facts about a predictor, kept as ``card.json`` and shown as ``README.md`` beside the weights.

    Parameters
    ----------
    attribution : str
        Where structures and labels come from, and under which licence.
    n_train, n_validation, n_test : int
        Materials in each part.
    left_out : dict
        Number of labels that were not used, by reason.
    elements : tuple of str
        Elements of the training materials; others are extrapolation.
    figures : dict
        Test figures by what was predicted, such as ``{"sumnorm-kl": {"mae": 0.004, ...}}``, and
        their standard errors over the test materials, such as ``mae_error``.
    label_branch : dict
        By setting, the loss of Mat2Spec's label branch on the validation materials with the
        ``"true"`` and with ``"shuffled"`` labels.
    members : dict
        By setting, the validation MAE of each member that was trained apart, by itself and without
        what was fitted to all of them.
    unit : str
        Of the energy axis, and so of WD.
    split_by : str
        What is kept together in the split: a material, or a chemical system.
    gap : dict
        How well the VB gap is recognised on the test materials.
    lessons : LessonsCard, optional
        What it has learned from a teacher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    description: str
    labels: tuple[str, ...]
    attribution: str = ""
    n_train: int
    n_validation: int
    n_test: int
    left_out: dict[str, int]
    split_seed: int
    split_by: str = "material"
    elements: tuple[str, ...]
    figures: dict[str, dict[str, float]]
    label_branch: dict[str, dict[str, float]] = {}
    members: dict[str, tuple[float, ...]] = {}
    unit: str = "eV"
    gap: dict[str, Any] = {}
    lessons: LessonsCard | None = None
    limits: tuple[str, ...]
    versions: dict[str, str]
    trained_at: str
    training_seconds: float

    def write(self, folder: Path) -> None:
        """Write ``card.json`` and ``README.md`` into the checkpoint's folder."""
        write_whole(folder / CARD, self.model_dump_json(indent=2) + "\n")
        write_whole(folder / README, self.to_markdown())

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """Read ``card.json``.

        Raises
        ------
        ModelError
            If it is missing or a field is wrong.
        """
        try:
            return cls.model_validate_json((folder / CARD).read_bytes())
        except OSError as error:
            raise ModelError(f"model card {error.filename}: {error.strerror}") from None
        except ValidationError as error:
            raise ModelError(f"model card {folder / CARD}, {describe(error)}") from None

    def to_markdown(self) -> str:
        """The card for people."""
        n_labels = self.n_train + self.n_validation + self.n_test
        left_out = "".join(f"\n- {n} left out: {reason}" for reason, n in self.left_out.items())
        branch = "".join(
            f"\n- {name}: {label_branch_in_words(losses)}"
            for name, losses in self.label_branch.items()
        )
        branch += "".join(
            f"\n- {name}: validation MAE of each member, {', '.join(f'{e:.3g}' for e in errors)}"
            for name, errors in self.members.items()
        )
        gap = "\n".join(f"- {key}: {_plain(value)}" for key, value in self.gap.items())
        limits = "\n".join(f"- {limit}" for limit in self.limits)
        versions = ", ".join(f"{k} {v}" for k, v in self.versions.items())
        text = f"""# {self.name}

{self.description}

Architecture: {self.architecture}. Trained {self.trained_at} in {self.training_seconds:.0f} s \
({versions}).

## Data

{n_labels} labelled materials: {self.n_train} for training, {self.n_validation} for validation, \
{self.n_test} for the test; the split is a hash of {_SPLIT[self.split_by]} (seed {self.split_seed}).
{left_out}

Labels: {", ".join(self.labels)}. {self.attribution}

Elements in the training set ({len(self.elements)}): {" ".join(self.elements)}

## Test figures

On the {self.n_test} test materials, which no training step has seen. MAE and MSE are in the unit
of the row; WD in {self.unit}. ± is the standard error over the materials.

{_figures_table(self.figures)}
{branch}
{gap}
{_lessons_in_words(self.lessons)}

## What it must not be used for

{limits}
"""
        return re.sub(r"\n{3,}", "\n\n", text)  # of what is not there blank lines are left


def _figures_table(figures: dict[str, dict[str, float]]) -> str:
    head = "| predicted | R2 | MAE | MSE | WD |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(
        f"| {what} | {_r2(f)} | {with_error(f, 'mae')} | {with_error(f, 'mse')} "
        f"| {with_error(f, 'wd')} |"
        for what, f in figures.items()
    )


def _lessons_in_words(lessons: LessonsCard | None) -> str:
    if lessons is None:
        return ""
    n_labels = lessons.n_train + lessons.n_validation + lessons.n_test
    kept = (
        f" Its weights are {lessons.kept:g} times those of then and {1 - lessons.kept:g} times "
        "those that the labels of DFT made of them."
        if lessons.kept
        else ""
    )
    return f"""
## What a teacher taught

Before the labels of DFT it saw for {lessons.epochs} epochs what {lessons.teacher} predicts for \
{lessons.n_train:,} materials ({n_labels:,} with those for validation and test).{kept} Against the \
teacher, not DFT, on the {lessons.n_test:,} test materials of these:

{_figures_table(lessons.figures)}
"""


def trained_elements(folder: str | Path | None) -> KnownElements | None:
    """What an eDOS predictor knows of the elements; None if its card cannot be read.

    Parameters
    ----------
    folder : str, Path or None
        As in :func:`models.zoo.predictor_folder`.
    """
    try:
        card = ModelCard.read(predictor_folder(folder))
    except ModelError:
        return None
    return KnownElements(frozenset(card.elements), stand_ins_of(card.architecture))


def label_branch_in_words(losses: dict[str, float]) -> str:
    """Whether the label branch knows the labels: its losses with true and with shuffled ones."""
    true, shuffled = losses["true"], losses["shuffled"]
    collapsed = ": collapsed" if label_branch_collapsed(losses) else ""
    return f"label branch loss with true labels {true:.3g}, with shuffled {shuffled:.3g}{collapsed}"


def label_branch_collapsed(losses: dict[str, float]) -> bool:
    """Whether the losses with true and with shuffled labels differ by less than `COLLAPSED`."""
    return losses["shuffled"] < (1 + COLLAPSED) * losses["true"]


def _r2(figures: dict[str, float]) -> str:
    return f"{figures['r2']:.3f}" if "r2" in figures else "-"


def with_error(figures: dict[str, float], name: str) -> str:
    """A figure and its standard error, for people.

    Parameters
    ----------
    figures : dict
        Of one row of :attr:`ModelCard.figures`.
    name : str
    """
    error = figures.get(f"{name}_error")
    return f"{figures[name]:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
