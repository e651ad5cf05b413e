"""Members of an ensemble that are trained each on its own, here and in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.data.dataset import SpectrumDataset
from models.data.splits import Split, split_dataset
from models.errors import ModelError
from models.processes import WorkerPool
from models.spectra.spectrum import EDOS_GRID
from models.training import resume as resuming
from models.training.callbacks import SaveState
from models.training.card import ModelCard
from models.training.checkpoint import Checkpoint
from models.training.config import TrainingConfig, load_dataset, read_training_config
from models.training.fit import Trained, train_setting
from models.training.resume import TrainingProgress
from models.training.train import train_predictor
from tests.models.architectures.tight_binding.test_tight_binding import (
    SMALL,
    crystals,
    graphs,
    labels_of,
)
from tests.models.model_examples import rocksalt, write_edos_files

NAME = "sumnorm-kl"
MODEL = SMALL | {"dropout": 0.1, "kernel": 0.6}
SPLIT = split_dataset(tuple(f"x-{i}" for i in range(12)), 0, 0.3, 0.2)


def config(members: int, **changes: Any) -> TrainingConfig:
    fields = {
        "name": "small",
        "labels": ["labels.parquet"],
        "architecture": "tight-binding",
        "model": MODEL | {"members": members},
        "settings": [NAME],
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 0.01,
        "seed": 3,
    }
    return TrainingConfig.model_validate(fields | changes)


@cache
def dataset() -> SpectrumDataset:
    structures = crystals(12)
    spectra, bands = labels_of(structures)
    ids = tuple(f"x-{i}" for i in range(12))
    return SpectrumDataset(ids, graphs(structures), spectra, EDOS_GRID, {}, bands=bands)


def train(members: int, split: Split = SPLIT, **more: Any) -> Trained:
    options = {n: more.pop(n) for n in ("start", "state", "workers", "announce") if n in more}
    return train_setting(config(members, **more), NAME, dataset(), split, **options)


def test_materials_that_a_model_refuses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own, cerium = dataset(), rocksalt(5.0, cation=58)
    with_cerium = replace(
        own,
        material_ids=(*own.material_ids, "ce"),
        graphs=graphs([*crystals(12), cerium]),
        spectra=torch.cat([own.spectra, own.spectra[:1]]),
        bands=None,
    )
    without = replace(own, bands=None)
    monkeypatch.setattr("models.training.train.load_dataset", lambda _: with_cerium)
    trained = train_predictor(config(1, epochs=1))
    assert trained.dataset.left_out == {"ce": "tight binding has no atomic levels for Ce"}
    assert trained.dataset.material_ids == without.material_ids
    monkeypatch.setattr("models.training.train.load_dataset", lambda _: without)
    assert same(
        trained.checkpoints[NAME].model,
        train_predictor(config(1, epochs=1)).checkpoints[NAME].model,
    )
    with pytest.raises(ModelError, match=r"no material can be used .*levels for Ce"):
        with_cerium.subset([12]).without_refused(trained.checkpoints[NAME].model.refusal)


@cache
def alone(seed: int) -> Trained:
    return train(1, seed=seed)


def error_of(checkpoint: Checkpoint) -> float:
    """On the validation materials."""
    validation = dataset().subset(SPLIT.validation)
    with torch.inference_mode():
        target = checkpoint.setting.target(validation.spectra, validation.graphs.n_atoms)
        predicted = checkpoint.setting.activate(checkpoint.model(validation.graphs))
    return float((predicted - target).abs().mean())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_members_are_those_of_trainings_with_one_member_each(workers: int) -> None:
    lines: list[str] = []
    joined = train(2, workers=workers, announce=lines.append)
    model, singles = joined.checkpoint.model, [alone(3), alone(4)]
    for member, single in zip(model.members, singles, strict=True):
        assert same(member, single.checkpoint.model.members[0])
    assert not same(*model.members)
    told = [single.in_words.rpartition(",")[0] for single in singles]
    if workers > 1:
        assert lines.pop(0) == "2 at a time, without bars: member 1 of 2, member 2 of 2"
    ended = {line.rpartition(",")[0] for line in lines}
    assert ended == {f"member {i + 1} of 2: {words}" for i, words in enumerate(told)}
    again = train(2)
    assert same(model, again.checkpoint.model)  # and so is what is fitted to all of them
    assert joined.checkpoint.card == again.checkpoint.card


@pytest.mark.slow
def test_what_is_shipped_is_measured_and_the_members_are_kept_in_the_card() -> None:
    joined, singles = train(2), [alone(3), alone(4)]
    assert len(joined.checkpoint.model.correction.kernel.points) == len(SPLIT.train)
    assert joined.validation_mae == pytest.approx(error_of(joined.checkpoint), rel=1e-4)
    assert joined.best_epoch == max(single.best_epoch for single in singles)
    facts = joined.checkpoint.card.training
    assert facts["validation_mae"] == joined.validation_mae
    assert facts["members"] == [
        {"seed": seed, "best_epoch": s.best_epoch, "validation_mae": s.validation_mae}
        for seed, s in zip((3, 4), singles, strict=True)
    ]
    assert joined.checkpoint.card.config["members"] == 2
    assert "members" not in alone(3).checkpoint.card.training


@pytest.mark.slow
def test_a_predictor_says_how_far_its_members_are_apart(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, 20)
    changes = {"labels": [labels], "structures": structures, "epochs": 1}
    trained = train_predictor(config(2, **changes))
    trained.save(tmp_path / "two")
    card = ModelCard.read(tmp_path / "two")
    (errors,) = card.members.values()
    assert len(errors) == 2
    told = f"validation MAE of each member, {errors[0]:.3g}, {errors[1]:.3g}"
    assert f"- {NAME}: {told}\n" in card.to_markdown()
    one = train_predictor(config(1, **changes)).card
    assert "each member" not in one.to_markdown()


@pytest.mark.slow
def test_trainings_with_one_member_each_are_joined(tmp_path: Path) -> None:
    """Put where a training of all of them would have left its members."""
    labels, structures = write_edos_files(tmp_path, 20)
    files = {"labels": [labels], "structures": structures, "epochs": 1}
    progress, lines = tmp_path / ".progress", list[str]()
    TrainingProgress(progress, config(2, **files), load_dataset(config(2, **files)), resume=False)
    for number, seed in enumerate((3, 4), start=1):
        train_predictor(config(1, seed=seed, **files)).save(tmp_path / "one")
        for file in (tmp_path / "one").glob(f"{NAME}.*"):
            file.rename(progress / f"{NAME}.member-{number}{file.suffix}")
    joined = train_predictor(config(2, **files), lines.append, folder=progress, resume=True)
    assert sum("trained before" in line for line in lines) == 2
    whole = train_predictor(config(2, **files))
    assert same(joined.checkpoints[NAME].model, whole.checkpoints[NAME].model)
    assert joined.checkpoints[NAME].card == whole.checkpoints[NAME].card
    assert joined.card.members == whole.card.members


class InterruptionError(Exception):
    pass


@pytest.mark.slow
def test_only_what_is_missing_is_trained_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch of the second of three members."""
    state, save, epochs = tmp_path / f"{NAME}.state", SaveState.on_train_epoch_end, list[int]()

    def save_and_stop(self: SaveState, trainer: Any, module: Any) -> None:
        self.every = 0.0
        save(self, trainer, module)
        epochs.append(trainer.current_epoch)
        if len(epochs) == 5:
            raise InterruptionError

    monkeypatch.setattr(SaveState, "on_train_epoch_end", save_and_stop)
    with pytest.raises(InterruptionError):
        train(3, state=state)
    assert sorted(p.name.partition("member-")[2] for p in tmp_path.iterdir()) == [
        "1.json",
        "1.safetensors",
        "2.state",
    ]
    lines: list[str] = []
    resumed = train(3, state=state, announce=lines.append)
    assert epochs == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert ["trained before" in line for line in lines] == [True, False, False]
    undisturbed = train(3)
    assert same(resumed.checkpoint.model, undisturbed.checkpoint.model)
    assert resumed.checkpoint.card == undisturbed.checkpoint.card


def test_progress_of_members_that_were_trained_side_by_side_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "n_members_apart", lambda *_: 1)  # as it was
        for members in (1, 2):
            TrainingProgress(tmp_path / f"{members}", config(members), dataset(), resume=False)
    TrainingProgress(tmp_path / "1", config(1), dataset(), resume=True)
    with pytest.raises(ModelError, match="another configuration or other data"):
        TrainingProgress(tmp_path / "2", config(2), dataset(), resume=True)


def vector(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters())


STILL = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_member_is_fine_tuned_from_its_own_weights(workers: int) -> None:
    start = train(2).checkpoint
    tuned = train(2, start=start, seed=8, workers=workers, **STILL).checkpoint
    for own, given in zip(tuned.model.members, start.model.members, strict=True):
        found, expected = (
            torch.nn.utils.parameters_to_vector(m.parameters()) for m in (own, given)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert [one["seed"] for one in tuned.card.training["members"]] == [8, 9]


@pytest.mark.parametrize(("given", "own"), [(1, 2), (2, 1), (2, 3)])
def test_a_start_with_another_number_of_members_is_refused(given: int, own: int) -> None:
    start = alone(3) if given == 1 else train(given, epochs=1)
    message = f"^small: the model to fine-tune has {given} members, and the configuration {own}; "
    with pytest.raises(ModelError, match=message):
        train(own, start=start.checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_fine_tuned_networks_are_compared_without_the_correction_of_before(members: int) -> None:
    """Which is fitted again afterwards, to the training materials of now."""
    start = alone(3).checkpoint if members == 1 else train(2).checkpoint
    fewer = replace(SPLIT, train=SPLIT.train[:-2])
    tuned = train(members, split=fewer, start=start, **STILL)
    facts = tuned.checkpoint.card.training.get(
        "members", [{"validation_mae": tuned.validation_mae}]
    )
    corrected = error_of(start)
    for fact, model in zip(facts, start.model.apart(), strict=True):
        plain = error_of(replace(start, model=model.eval()))
        assert fact["validation_mae"] == pytest.approx(plain, rel=1e-4)
        assert abs(plain - corrected) > 1e-3 * plain
    assert len(tuned.checkpoint.model.correction.kernel.points) == len(fewer.train)
    assert len(start.model.correction.kernel.points) == len(SPLIT.train)  # and keeps its own


@pytest.mark.slow
def test_data_that_shared_memory_does_not_hold_are_trained_on_in_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> Any:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>")

    monkeypatch.setattr(WorkerPool, "as_done", full)
    lines: list[str] = []
    joined = train(2, workers=2, announce=lines.append)
    assert "no room for the data set: one training follows the other" in lines[1]
    assert same(joined.checkpoint.model, train(2).checkpoint.model)


def command(
    folder: Path, out: str, *more: str, program: Sequence[str] = ("-m", "screening.cli")
) -> list[str]:
    return [
        *(sys.executable, *program, "train", str(folder / "config.yaml")),
        *("--out", str(folder / out), "--accelerator", "cpu", *more),
    ]


def wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + 120
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline
            time.sleep(0.05)


# `screen` that is killed by the worker whose member is the first to end.
KILLED = """
import multiprocessing, os, signal, time
from contextlib import suppress
from models.training import fit
from screening.cli import script

save = fit.save_checkpoint

def save_and_kill(*arguments):
    save(*arguments)
    with suppress(ProcessLookupError):  # another has done it
        os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
    time.sleep(600)

fit.save_checkpoint = save_and_kill
if __name__ == "__main__":
    script()
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(tmp_path: Path) -> None:
    """Three members, two at a time: when the first has ended the third has not."""
    labels, structures = write_edos_files(tmp_path, 20)
    own = config(3, labels=[labels], structures=structures, epochs=6)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
    own = read_training_config(tmp_path / "config.yaml")
    program = tmp_path / "killed.py"  # a file, since workers import it again
    program.write_text(KILLED)
    killed = subprocess.Popen(
        command(tmp_path, "killed", "--workers", "2", "--quiet", program=(str(program),)),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        start_new_session=True,
    )
    progress = tmp_path / "killed" / ".progress"
    assert killed.wait(timeout=400) == -signal.SIGKILL
    wait_for_the_end_of(killed.pid)
    kept = list(progress.glob("*.json"))
    assert kept
    assert not (progress / f"{NAME}.member-3.json").exists()
    of_both = []
    for out, resume in (("killed", True), ("whole", False)):
        lines: list[str] = []
        trained = train_predictor(
            own, lines.append, folder=tmp_path / out / ".progress", resume=resume
        )
        of_both.append(trained.checkpoints[NAME])
        assert sum(line.startswith("member ") for line in lines) == 3
        assert sum("trained before" in line for line in lines) == (len(kept) if resume else 0)
    resumed, whole = of_both
    assert same(resumed.model, whole.model)
    assert resumed.card == whole.card


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_of_members(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, 20)
    fields = config(2, labels=[labels], structures=structures, epochs=100_000)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields.model_dump(mode="json")))
    process = subprocess.Popen(
        command(tmp_path, "out", "--workers", "2", "--quiet"),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("no list of a process's children on this system")
    while len(children.read_text().split()) < 3:  # two workers and multiprocessing's tracker
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(5)  # they train, or are about to
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "--resume" in err
    wait_for_the_end_of(process.pid)
    assert time.monotonic() - began < 60
