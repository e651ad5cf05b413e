"""What a benchmark trains: variants of the architectures, and the runs of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from models.architectures.registry import ARCHITECTURES
from screening.benchmark.subclasses import Subclass

Regime = Literal["global", "subclass only", "fine-tuned"]
REGIMES: tuple[Regime, ...] = get_args(Regime)


class Variant(BaseModel):
    """A row of a benchmark table: an architecture with its configuration.

    Parameters
    ----------
    name : str
        What the tables call it.
    architecture : str
    model : dict
        Configuration of the architecture.
    training : dict
        Fields of :class:`models.training.config.TrainingConfig` that differ for it.
    epochs : float
        Part of the benchmark's epochs that it is trained for.
    ablates : str, optional
        Name of the variant that it differs from in one choice, and is compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}
    epochs: float = Field(1.0, gt=0)
    ablates: str | None = None


def _ablation(of: Variant, what: str, **model: Any) -> Variant:
    """The same with other choices in the configuration of its architecture."""
    changes = {"name": f"{of.name} {what}", "model": model, "ablates": of.name}
    return of.model_copy(update=changes)


_MAT2SPEC = Variant(name="mat2spec", architecture="mat2spec")
# Smaller batches, so more steps in an epoch, and stronger weight decay.
_PLUS = Variant(
    name="mat2spec+",
    architecture="mat2spec+",
    training={"batch_size": 32, "weight_decay": 1.0},
    epochs=0.5,
)
# Few epochs: there is little to learn, and each step takes eigenvalues.
_SPRINGS = Variant(
    name="springs",
    architecture="springs",
    training={"batch_size": 16, "weight_decay": 0.3, "learning_rate": 3e-3},
    epochs=0.06,
)
# Small batches, the rate falling to zero.
_TIGHT_BINDING = Variant(
    name="tight-binding",
    architecture="tight-binding",
    training={
        "batch_size": 8,
        "weight_decay": 0.05,
        "learning_rate": 3e-3,
        "schedule": "one-cycle",
    },
    epochs=0.6,
)
_TRAINED_OTHERWISE = {v.architecture: v for v in (_PLUS, _SPRINGS, _TIGHT_BINDING)}
ARCHITECTURE_VARIANTS = tuple(
    _TRAINED_OTHERWISE.get(a, Variant(name=a, architecture=a)) for a in ARCHITECTURES
)
ABLATION_VARIANTS = (
    _ablation(_MAT2SPEC, "without label embedding", label_embedding=False),
    _ablation(_MAT2SPEC, "without projector", projector=False),
    _ablation(_MAT2SPEC, "without contrastive loss", loss_weights={"contrastive": 0.0}),
    _ablation(_MAT2SPEC, "without alignment loss", loss_weights={"alignment": 0.0}),
    _ablation(_PLUS, "with one member", members=1),
    _ablation(_PLUS, "without element properties", properties=False),
    _ablation(_PLUS, "without statistics", statistics=False),
    _ablation(_PLUS, "without spectra of sites", site_resolved=False),
    _ablation(_PLUS, "without kernel regression", kernel=0),
    _ablation(_PLUS, "with strained structures", strain=0.02),
    Variant(name="mat2spec+ trained as the others", architecture="mat2spec+", ablates="mat2spec+"),
    _ablation(_SPRINGS, "with one member", members=1),
    _ablation(_SPRINGS, "without kernel regression", kernel=0),
    _ablation(_TIGHT_BINDING, "without diffuse s*", diffuse=False),
    _ablation(_TIGHT_BINDING, "with near bonds only", reach=1.4),
    _ablation(_TIGHT_BINDING, "on one mesh", shifted=False),
    _ablation(
        _TIGHT_BINDING, "without the loss of occupied states", loss_weights={"occupied": 0.0}
    ),
    _ablation(_TIGHT_BINDING, "without the loss of gaps", loss_weights={"gap": 0.0}),
    _ablation(_TIGHT_BINDING, "corrected", kernel=0.6),
    _ablation(_TIGHT_BINDING, "of overlapping orbitals", overlap=True),
)
MEAN_SPECTRUM = Variant(name="mean spectrum", architecture="none")
NEAREST_COMPOSITION = Variant(name="nearest composition", architecture="none")
REFERENCES = (MEAN_SPECTRUM, NEAREST_COMPOSITION)  # nothing is trained for them


class BenchmarkRun(BaseModel):
    """One training of a benchmark, and what it is measured on.

    Parameters
    ----------
    fraction : float
        Part of the training materials that is used.
    subclass : Subclass, optional
        Only its test materials are measured.
    regime : {'global', 'subclass only', 'fine-tuned'}
        Trained on all materials, on those of the subclass, or on all and then on those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    setting: str
    seed: int
    fraction: float = Field(1.0, gt=0, le=1)
    subclass: Subclass | None = None
    regime: Regime = "global"

    @property
    def title(self) -> str:
        """For people."""
        part = "" if self.fraction == 1 else f", {self.fraction:g} of the data"
        of = "" if self.subclass is None else f", {self.subclass.name} {self.regime}"
        return f"{self.variant.name}, {self.setting}, seed {self.seed}{part}{of}"

    @property
    def whole(self) -> BenchmarkRun:
        """The run of the same kind with all materials for training and for the test."""
        return self.model_copy(update={"fraction": 1.0, "subclass": None, "regime": "global"})


def plan(
    variants: Sequence[Variant],
    settings: Sequence[str],
    seeds: int,
    fractions: Sequence[float] = (1.0,),
) -> list[BenchmarkRun]:
    """All combinations, the first seed of everything first.

    Parameters
    ----------
    variants : sequence of Variant
    settings : sequence of str
        Names of scalings and losses.
    seeds : int
    fractions : sequence of float
        Parts of the training set.
    """
    return [
        BenchmarkRun(variant=v, setting=s, seed=seed, fraction=f)
        for seed in range(seeds)
        for f in fractions
        for v in variants
        for s in settings
    ]


def plan_subclasses(
    whole: Sequence[BenchmarkRun], subclasses: Sequence[Subclass]
) -> list[BenchmarkRun]:
    """For each run with all materials one on each subclass alone, and one fine-tuned to it.

    Parameters
    ----------
    whole : sequence of BenchmarkRun
    subclasses : sequence of Subclass
    """
    return [
        run.model_copy(update={"subclass": subclass, "regime": regime})
        for run in whole
        for subclass in subclasses
        for regime in REGIMES
        if regime != "global"
    ]
