"""Both settings of a pair in processes beside each other, as in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import ModelError
from models.processes import WorkerDiedError, WorkerPool
from models.threads import torch_threads
from models.training import settings
from models.training.config import TrainingConfig
from models.training.train import TrainedPredictor, train_predictor
from tests.models.model_examples import write_edos_files

SETTINGS = ("sumnorm-kl", "standard-mae")
SMALL = {"encoder": {"layers": 1, "width": 8}, "latent": 4, "components": 2, "embedding": 8}


def config(folder: Path, **changes: Any) -> TrainingConfig:
    labels, structures = write_edos_files(folder)
    fields = {"name": "pair", "labels": [labels], "structures": structures, "settings": SETTINGS}
    fields |= {"model": SMALL, "epochs": 2, "batch_size": 8}
    return TrainingConfig.model_validate(fields | changes)


def train(config: TrainingConfig, **more: Any) -> tuple[TrainedPredictor, list[str]]:
    """With one thread, as the processes have: their number changes how sums are rounded."""
    lines: list[str] = []
    with torch_threads(1):
        return train_predictor(config, lines.append, **more), lines


def refused(*_: object) -> Any:
    raise AssertionError("a process is asked for")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of processes that are started


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_beside_each_other_as_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(tmp_path)
    beside, lines = train(chosen, workers=2)
    assert lines[1] == "2 at a time, without bars: sumnorm-kl, standard-mae"
    ended = {line.partition(":")[0] for line in lines[2:]}
    assert ended == set(SETTINGS)
    assert all("label branch" in line for line in lines[2:])
    monkeypatch.setattr(settings, "train_side_by_side", refused)
    after, _ = train(chosen)
    np.testing.assert_array_equal(beside.predicted, after.predicted)
    assert list(beside.checkpoints) == list(after.checkpoints) == list(SETTINGS)
    for name in SETTINGS:
        one, other = beside.checkpoints[name], after.checkpoints[name]
        assert one.card.training == other.card.training
        assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_is_trained_before_a_process_dies_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, progress = config(tmp_path), tmp_path / "progress"
    whole, _ = train(chosen)
    as_done = WorkerPool.as_done

    def dies(pool: WorkerPool, *arguments: Any) -> Any:
        yield next(iter(as_done(pool, *arguments)))
        raise WorkerDiedError("a worker process died")

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "as_done", dies)
        with pytest.raises(WorkerDiedError):
            train(chosen, folder=progress, workers=2)
    assert len(list(progress.glob("*.json"))) >= 1
    resumed, lines = train(chosen, folder=progress, resume=True, workers=2)
    assert "trained before" in lines[1]
    np.testing.assert_array_equal(resumed.predicted, whole.predicted)


def test_members_that_are_trained_apart_have_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be workers of workers."""
    fields = {"name": "x", "labels": ["l"], "architecture": "tight-binding", "settings": SETTINGS}
    given: list[int] = []

    def noted(*arguments: Any, workers: int, **more: Any) -> Any:
        given.append(workers)
        raise ModelError("not trained here")

    monkeypatch.setattr(settings, "train_setting", noted)
    monkeypatch.setattr(settings, "train_side_by_side", refused)
    kept = type("Nothing", (), {"finished": lambda *_: None, "state_file": lambda *_: None})()
    chosen = TrainingConfig.model_validate(fields | {"model": {"members": 2}})
    with pytest.raises(ModelError, match="not trained here"):
        settings.SettingsTraining(chosen, None, None, kept).run(2, print)  # type: ignore[arg-type]
    assert given == [2]
