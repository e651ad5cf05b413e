"""A screening run on a launchpad that several workers share."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from fireworks import Firework, FWorker, PyTask
from fireworks.core.rocket_launcher import rapidfire
from jobflow import Flow, job

from db.collections import CANDIDATES, Query, conditions
from db.errors import StoreError
from db.open import open_store
from models.zoo import ZOO
from screening.errors import ScreeningError
from tests.conftest import crystal_row
from tests.workflows.launchpads import ROOT, make_site, several_waits, wait_until
from tests.workflows.screening_examples import documents
from workflows.hardware import worker_device
from workflows.launchpad import (
    open_launchpad,
    rerun_failed,
    rerun_lost,
    screening_jobs,
    submit_flow,
    submit_screening,
)
from workflows.local import run_flow
from workflows.runs import note_submission
from workflows.screening import ScreeningFlowMaker
from workflows.shards import OPEN_READERS
from workflows.worker import work

PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Sn", "Te")]


def rows(n, rejected=True):
    """So many candidates, with rejected ones before, between and behind them."""
    found = [crystal_row(f"m-{i}", 3.3 + 0.01 * i, PAIRS[i % len(PAIRS)]) for i in range(n)]
    if rejected:
        for i in range(0, len(found) + 6, 5):
            found.insert(i, crystal_row(f"no-{i}", 4.0, ["Na", "Cl"], band_gap=5.0))
    return found


@pytest.fixture
def maker(tmp_path, structure_table):
    table = structure_table(rows(11))
    db = str(tmp_path / "s.sqlite")
    return ScreeningFlowMaker(db=db, source=str(table), shard_size=3, rescore=0)


@pytest.mark.parametrize("limit", [None, 6, 7])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_run_that_is_read_shard_by_shard_is_like_any_other(
    maker, monkeypatch, limit, is_forgotten
):
    maker.limit = limit
    whole = run_flow(maker.make("whole"))
    maker.shard_by_shard = True
    if is_forgotten:  # each job runs in another process
        monkeypatch.setattr("workflows.screening.OPEN_READERS", Forgetful())
    by_shard = run_flow(maker.make("by-shard"))
    assert by_shard["funnel"] == whole["funnel"]
    assert documents(maker.db, "by-shard") == documents(maker.db, "whole")
    assert not OPEN_READERS
    assert by_shard["counts"]["screened"] == (limit or 11)
    with open_store(maker.db) as store:
        assert store.run("by-shard").counts == store.run("whole").counts
        assert store.run("by-shard").selection == store.run("whole").selection


class Forgetful(dict):
    def pop(self, key, default=None):
        return default


def test_a_run_that_was_read_is_resumed_without_reading(maker, monkeypatch):
    maker.shard_by_shard = True
    run_flow(maker.make("run"))
    with open_store(maker.db) as store:
        again = [
            c.model_copy(update={"state": "pending"}) for c in store.candidates("run", shard=2)
        ]
        store.upsert_candidates(again)
    read = []
    monkeypatch.setattr("workflows.screening.ShardReader", lambda *_: read.append(1))
    assert run_flow(maker.make("run"))["counts"]["screened"] == 11
    assert not read


@pytest.mark.parametrize("portion", [1, 2])
def test_a_shard_is_scored_in_portions(maker, monkeypatch, portion):
    run_flow(maker.make("whole"))
    monkeypatch.setattr("workflows.screening.PORTION", portion)
    maker.db = maker.db.replace("s.sqlite", "portions.sqlite")
    counts = run_flow(maker.make("portions"))["counts"]
    assert (counts["predicted"], counts["reused"], counts["failed"]) == (11, 0, 0)
    whole = documents(maker.db.replace("portions.sqlite", "s.sqlite"), "whole")
    found = documents(maker.db, "portions")
    assert {m: c["state"] for m, c in found.items()} == {m: c["state"] for m, c in whole.items()}
    scores = [[c[name]["score"] for name in sorted(c)] for c in (found, whole)]
    assert scores[0] == [score and pytest.approx(score, abs=1e-5) for score in scores[1]]


# on a launchpad


@pytest.fixture
def site(tmp_path, mongo_uri, monkeypatch):
    site = make_site(tmp_path, mongo_uri)
    monkeypatch.setenv("SCREEN_DB", site.db)
    yield site
    site.stop()


def launches(pad, name):
    """Launches of the jobs of a name, with their times."""
    names = {job["fw_id"] for job in pad.fireworks.find({"name": name}, {"fw_id": 1})}
    return list(pad.launches.find({"fw_id": {"$in": sorted(names)}}).sort("time_start", 1))


@pytest.mark.mongo
def test_a_shard_is_scored_while_others_are_read(site, maker):
    maker.db = site.db
    with open_launchpad(site.launchpad) as pad, open_store(site.db) as store:
        submit_screening(pad, maker, "run-1")

        def do_one(category):
            rapidfire(pad, FWorker(category=category), nlaunches=1, m_dir=str(site.folder))

        do_one("reading")
        ready = Counter(job["name"] for job in pad.fireworks.find({"state": "READY"}))
        assert ready == {"read_shard": 1, "score_shard": 1}
        do_one("prediction")
        assert store.candidate_counts("run-1") == {"screened": 3, "rejected": 1}
        OPEN_READERS.clear()  # another worker reads on
        for shard in (1, 2, 3):
            do_one("reading")
            assert bool(store.run("run-1").funnel) == (shard == 3)
            do_one("prediction")
        assert store.candidate_counts("run-1") == {"screened": 11, "rejected": 4}
        do_one("screening")
        assert store.run("run-1").state == "done"


@pytest.mark.mongo
@pytest.mark.slow
@several_waits
def test_four_workers_share_a_run_and_one_is_killed(site, structure_table):
    n, size = 160, 20
    table = structure_table(rows(n, rejected=False))
    maker = ScreeningFlowMaker(
        db=site.db,
        source=str(table),
        shard_size=size,
        checkpoint=str(ZOO / "tight-binding-edos"),
    )
    alone = {"SCREEN_WORKERS": "1", "SCREEN_DEVICE": "cpu"}
    with open_launchpad(site.launchpad) as pad, open_store(site.db) as store:
        submit_screening(pad, maker, "run-1")
        with pytest.raises(ScreeningError, match="run-1 is on the launchpad already; `screen st"):
            submit_screening(pad, maker, "run-1")
        site.start_worker(categories=("reading", "screening"), ends=False, **alone)
        predicts = {"categories": ("prediction",), "ends": False}
        victim = site.start_worker(**predicts, program=NEVER_KEEPS, **alone)

        def running():
            return [x for x in launches(pad, "score_shard") if x["state"] == "RUNNING"]

        try:
            # One that is killed while it holds the lock of the workflow stops all for five minutes.
            wait_until((site.folder / "scored").exists)
            for _ in range(2):
                site.start_worker(**predicts, **alone)
            wait_until(lambda: len(launches(pad, "score_shard")) > 1)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            done = n // size - 1
            wait_until(lambda: states(pad)["COMPLETED"] == done and len(running()) == 1)
            assert store.count(pending("run-1")) <= size
            assert rerun_lost(pad, store, "run-1", seconds=3600) == 0  # it may still be alive
            assert rerun_lost(pad, store, "run-1", seconds=0) == 1
            wait_until(lambda: screening_jobs(pad, "run-1").states["finish"]["COMPLETED"] == 1)
            assert store.run("run-1").state == "done"
        finally:
            site.stop()
        assert store.run("run-1").counts == {
            "screened": n,
            "positive": len(store.run("run-1").selection),
        }
        assert screening_jobs(pad, "run-1").states == {
            "read_shard": {"COMPLETED": n // size},
            "score_shard": {"COMPLETED": n // size},
            "finish": {"COMPLETED": 1},
        }
        shards = Counter(launch["fw_id"] for launch in launches(pad, "score_shard"))
        assert sorted(shards.values()) == [1] * (n // size - 1) + [2]  # the one that was cut off


# What a worker runs first that predicts, and comes no further.
NEVER_KEEPS = """
import pathlib, time
from workflows.scoring import Scorer

scored = pathlib.Path("scored").absolute()

def keep(*_):
    scored.touch()
    time.sleep(3600)

Scorer.keep = keep
"""


def states(pad):
    return Counter(job["state"] for job in pad.fireworks.find({"name": "score_shard"}))


def pending(run_id):
    return Query(CANDIDATES, conditions(run_id=run_id, state="pending"))


# what a worker lacks


@pytest.fixture
def pad(site):
    with open_launchpad(site.launchpad) as launchpad:
        yield launchpad


def submitted_of_copy(site, maker, pad, folder):
    """A run of a checkpoint of its own; its folder."""
    checkpoint = folder / "shared" / "mat2spec-plus-edos"
    shutil.copytree(maker.checkpoint, checkpoint)
    maker.db, maker.checkpoint = site.db, str(checkpoint)
    submit_screening(pad, maker, "run-1")
    return checkpoint


def submitted(site, maker, pad, folder):
    """The same, where all is read already."""
    checkpoint = submitted_of_copy(site, maker, pad, folder)
    rapidfire(pad, FWorker(category="reading"), sleep_time=1)
    return checkpoint


@pytest.mark.mongo
@pytest.mark.parametrize("lack", ["missing", "another", "device", "processes"])
def test_an_unfit_worker_leaves_its_shard_to_others(site, pad, maker, tmp_path, monkeypatch, lack):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.worker.SLEEP", 0.05)
    monkeypatch.setenv("SCREEN_WORKERS", "1")
    checkpoint = submitted(site, maker, pad, tmp_path)
    hidden = checkpoint.with_name("hidden")
    message = f"{checkpoint}"
    if lack == "missing":
        checkpoint.rename(hidden)
    elif lack == "another":
        shutil.copytree(checkpoint, hidden)
        card = next(checkpoint.glob("*kl.json"))
        card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": "0" * 64}))
        message += r" has changed since it began, or another machine has it .*; copy mat2spec"
    elif lack == "device":
        monkeypatch.setenv("SCREEN_DEVICE", "cuda")
        message = "device cuda: torch finds none here; use auto or cpu"
    else:
        monkeypatch.setenv("SCREEN_WORKERS", "many")
        message = "SCREEN_WORKERS: 'many' is no number of processes"
    with pytest.raises(ScreeningError, match=message) as refused:
        work(pad, ["prediction"])
    assert str(refused.value).startswith(f"{platform.node()}: ")
    assert str(refused.value).endswith("; the job waits for another worker")
    assert "\n" not in str(refused.value)
    assert states(pad) == {"READY": 4}
    with open_store(site.db) as store:
        assert store.run("run-1").state == "running"
        if hidden.exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
            hidden.rename(checkpoint)
        monkeypatch.setenv("SCREEN_DEVICE", "cpu")
        monkeypatch.setenv("SCREEN_WORKERS", "1")
        lines = []
        assert work(pad, tell=lines.append) == 5
        assert store.run("run-1").state == "done"
    assert re.fullmatch(r"score_shard \(\d+\) in \d+\.\d s", lines[0])


@pytest.mark.mongo
@pytest.mark.parametrize("lack", ["missing", "another"])
@pytest.mark.parametrize("category", ["reading", "screening"])
def test_so_does_one_that_reads_or_chooses(site, pad, maker, tmp_path, monkeypatch, category, lack):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.worker.SLEEP", 0.05)
    monkeypatch.setenv("SCREEN_WORKERS", "1")
    monkeypatch.setenv("SCREEN_DEVICE", "cpu")
    shared = tmp_path / "shared" / "mat2spec-plus-edos"
    shutil.copytree(maker.checkpoint, shared)
    if category == "reading":
        maker.checkpoint = str(shared)
    else:
        maker.checkpoint, maker.rescore, maker.rescore_with = (
            str(ZOO / "mat2spec-edos"),
            2,
            str(shared),
        )
    maker.db = site.db
    note_submission(site.db, "run-1", maker.parameters())
    submit_screening(pad, maker, "run-1")
    if category == "screening":
        for other in ("reading", "prediction"):
            rapidfire(pad, FWorker(category=other), sleep_time=1)
    hidden = shared.with_name("hidden")
    if lack == "missing":
        shared.rename(hidden)
    else:
        shutil.copytree(shared, hidden)
        card = next(shared.glob("*kl.json"))
        card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": "0" * 64}))
    with pytest.raises(ScreeningError, match=f"{shared}.*; the job waits for another worker"):
        work(pad, [category])
    with open_store(site.db) as store:
        assert store.run("run-1").state == "running"
        shutil.rmtree(shared, ignore_errors=True)
        hidden.rename(shared)
        work(pad)
        assert store.run("run-1").state == "done"


@pytest.mark.mongo
def test_a_job_of_a_dead_worker_is_done_by_one_that_lives(site, pad, maker, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.worker.SLEEP", 0.05)
    maker.db = site.db
    submit_screening(pad, maker, "run-1")
    for name in ("screen worker dead", "an rlaunch"):
        pad.checkout_fw(FWorker(name, "reading"), str(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            work(pad, ["screening"], lost_after=0, tell=interrupted(monkeypatch))
        found = pad.fireworks.find_one({"name": "read_shard"})
        assert found["state"] == ("READY" if name.startswith("screen") else "RUNNING")


@job
def nothing():
    """A job that does nothing."""


def submit_nothing(pad, n):
    """So many jobs of a screening that do nothing."""
    flow = Flow([nothing() for _ in range(n)])
    submit_flow(pad, flow, category="reading", metadata={"screening": "run-1"})


@pytest.mark.mongo
def test_a_worker_that_starts_again_in_its_container_does_the_job_of_before(
    pad, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.worker.SIGN_OF_LIFE", 0.05)
    submit_nothing(pad, 1)
    same_host_and_pid = f"screen worker {platform.node()}-{os.getpid()}"
    pad.checkout_fw(FWorker(same_host_and_pid, "reading"), str(tmp_path))
    end = time.monotonic() + 120

    def sleep(_):
        assert time.monotonic() < end, "the job of before is kept alive"
        time.sleep(0.1)

    monkeypatch.setattr("workflows.worker.sleep", sleep)
    assert work(pad, ["reading"], lost_after=0.5) == 1
    assert pad.fireworks.find_one({"name": "nothing"})["state"] == "COMPLETED"


@pytest.mark.mongo
def test_a_worker_that_was_beaten_to_a_job_counts_none_and_goes_on(pad, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    submit_nothing(pad, 2)
    is_beaten = iter([False, True, False])

    def beaten_once(*arguments, **options):
        if not next(is_beaten):
            rapidfire(*arguments, **options)

    monkeypatch.setattr("workflows.worker.rapidfire", beaten_once)
    lines = []
    assert work(pad, ["reading"], lines.append) == 2
    assert lines[1] == "another worker was faster"
    assert len(set(lines)) == len(lines) == 3


@pytest.mark.mongo
def test_a_worker_that_was_beaten_does_not_wait_a_minute(pad, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    submit_nothing(pad, 1)
    waits = []

    def taken(*_, **__):
        pad.fireworks.update_many({}, {"$set": {"state": "COMPLETED"}})
        return False

    monkeypatch.setattr("fireworks.core.rocket_launcher.launch_rocket", taken)
    clock = SimpleNamespace(sleep=waits.append)
    monkeypatch.setattr("fireworks.core.rocket_launcher.time", clock)
    lines = []
    assert work(pad, ["reading"], lines.append) == 0
    assert lines == ["another worker was faster"]
    assert max(waits) <= 1


@pytest.mark.mongo
def test_a_worker_for_dft_does_not_wait_for_a_screening(site, pad, maker, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    maker.db = site.db
    submit_screening(pad, maker, "run-1")
    interrupted(monkeypatch)
    assert work(pad, ["gpaw"]) == 0
    with pytest.raises(KeyboardInterrupt):
        work(pad, ["gpaw", "prediction"])


def interrupted(monkeypatch):
    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("workflows.worker.sleep", sleep)
    return print


@pytest.mark.mongo
def test_a_failed_shard_is_told_and_made_ready_again(site, pad, maker, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.worker.SLEEP", 0.05)
    monkeypatch.setenv("SCREEN_WORKERS", "1")
    maker.db = site.db
    submit_screening(pad, maker, "run-1")
    lines = []
    with monkeypatch.context() as broken, open_store(site.db) as store:
        broken.setattr("workflows.scoring.Scorer.keep", no_room)
        assert work(pad, tell=lines.append) == 8
        jobs = screening_jobs(pad, "run-1")
        assert jobs.states["score_shard"] == {"FIZZLED": 4}
        assert jobs.states["finish"] == {"WAITING": 1}
        assert jobs.reasons == ("no room left",)
        assert lines[-1].endswith("failed: no room left")
        assert (store.run("run-1").state, store.run("run-1").error) == ("failed", "no room left")
        assert rerun_failed(pad, store, "run-1") == 4
        assert (store.run("run-1").state, store.run("run-1").error) == ("running", None)
    assert work(pad) == 5
    with open_store(site.db) as store:
        assert store.run("run-1").counts["screened"] == 11


def no_room(*_):
    raise StoreError("no room left")


@pytest.mark.mongo
@pytest.mark.slow
def test_workers_that_rlaunch_packs_share_gpus_and_cores(site, pad):
    (site.folder / "probe.py").write_text(PROBE)
    for _ in range(3):
        pad.add_wf(Firework(PyTask(func="probe.probe")))
    environment = {"PYTHONPATH": f"{ROOT}:{site.folder}"}
    site.call(
        "rlaunch", "-l", site.launchpad, "multi", 3, "--ppn", 5, "--timeout", 300, **environment
    )
    found = [line.split() for line in (site.folder / "probed").read_text().splitlines()]
    assert {device for device, _ in found} == {"cuda:0", "cuda:1", "cuda:2"}
    assert {processes for _, processes in found} == {"5"}


PROBE = """
import os, pathlib, time
from unittest.mock import patch
from workflows.hardware import worker_device, worker_processes

def probe():
    pathlib.Path(f"../met-{os.getpid()}").touch()
    end = time.monotonic() + 300
    while len(list(pathlib.Path("..").glob("met-*"))) < 3:  # each takes one
        assert time.monotonic() < end, "fewer than three work at once"
        time.sleep(0.05)
    with patch("torch.cuda.device_count", lambda: 3), open("../probed", "a") as file:
        file.write(f"{worker_device()} {worker_processes()}\\n")
"""


@pytest.mark.parametrize(("gpus", "place", "device"), [(4, "5", "cuda:1"), (1, "5", "auto")])
def test_tasks_of_a_slurm_job_take_different_gpus(monkeypatch, gpus, place, device):
    monkeypatch.delenv("SCREEN_DEVICE", raising=False)
    monkeypatch.setenv("SLURM_LOCALID", place)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert worker_device() == device
    monkeypatch.setenv("SCREEN_DEVICE", "cpu")
    assert worker_device() == "cpu"
