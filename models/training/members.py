"""Members of an ensemble that are trained each on its own.

Their gradients do not mix, so each is the training of the same configuration with one member, the
next seed, and its own best epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from models.architectures.registry import model_config, n_members_apart
from models.errors import ModelError
from models.training.checkpoint import Checkpoint
from models.training.config import TrainingConfig


@dataclass(frozen=True, eq=False)
class Member:
    """One of the members.

    Parameters
    ----------
    number, of : int
        From 1, and how many there are.
    config : TrainingConfig
        Of its training.
    stem : Path
        Of its checkpoint, as soon as it is trained.
    start : Checkpoint, optional
        What it is fine-tuned from.
    """

    number: int
    of: int
    config: TrainingConfig
    stem: Path
    start: Checkpoint | None = None

    @property
    def state(self) -> Path:
        """File of its unfinished training."""
        return self.stem.with_name(f"{self.stem.name}.state")

    def __str__(self) -> str:
        return f"member {self.number} of {self.of}"


@contextmanager
def members_of(
    config: TrainingConfig, state: Path | None = None, start: Checkpoint | None = None
) -> Iterator[list[Member]]:
    """The members of a configuration; none of one that is trained as a whole.

    Parameters
    ----------
    config : TrainingConfig
    state : Path, optional
        File of the unfinished training: those of member 1 are beside ``x.state`` as
        ``x.member-1.state``, ``.json`` and ``.safetensors``. Without, they are there in the
        ``with`` block only.
    start : Checkpoint, optional
        To be fine-tuned.

    Raises
    ------
    ModelError
        If `start` has another number of members.
    """
    n = n_members_apart(config.architecture, config.model)
    if start is not None:
        _refuse_other_members(config, start)
    if n == 1:
        yield []
        return
    starts = [None] * n if start is None else _apart(start)
    alone = config.model_copy(update={"model": config.model | {"members": 1}})
    with TemporaryDirectory() as own:
        whole = state or Path(own, "training.state")
        yield [
            Member(
                number,
                n,
                alone.model_copy(update={"seed": config.seed + number - 1}),
                whole.with_name(f"{whole.stem}.member-{number}"),
                its_start,
            )
            for number, its_start in enumerate(starts, start=1)
        ]


def _refuse_other_members(config: TrainingConfig, start: Checkpoint) -> None:
    own, given = (
        model_config(architecture, fields).model_dump().get("members")
        for architecture, fields in (
            (config.architecture, config.model),
            (start.card.architecture, start.card.config),
        )
    )
    if own != given:
        raise ModelError(
            f"{config.name}: the model to fine-tune has {given} members, and the configuration "
            f"{own}; write {given} there"
        )


def _apart(start: Checkpoint) -> list[Checkpoint]:
    return [replace(start, model=model) for model in start.model.apart()]
