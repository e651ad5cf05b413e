"""A screening run on a launchpad that several workers share."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from fireworks import FWorker
from fireworks.core.rocket_launcher import rapidfire

from db.collections import CANDIDATES, Query, conditions
from db.open import open_store
from models.zoo import ZOO
from screening.errors import ScreeningError
from tests.conftest import crystal_row
from tests.workflows.launchpads import make_site, wait_until
from workflows.launchpad import open_launchpad, rerun_lost, screening_jobs, submit_screening
from workflows.local import run_flow
from workflows.screening import ScreeningFlowMaker
from workflows.shards import OPEN_READERS

PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Sn", "Te")]


def rows(n, rejected=True):
    """So many candidates, with rejected ones before, between and behind them."""
    found = [crystal_row(f"m-{i}", 3.3 + 0.01 * i, PAIRS[i % len(PAIRS)]) for i in range(n)]
    if rejected:
        for i in range(0, len(found) + 6, 5):
            found.insert(i, crystal_row(f"no-{i}", 4.0, ["Na", "Cl"], band_gap=5.0))
    return found


def documents(db, run_id):
    with open_store(db) as store:
        found = store.candidates(run_id, with_structure=True)
        return {c.material_id: c.model_dump(exclude={"run_id"}) for c in found}


@pytest.fixture
def maker(tmp_path, structure_table):
    table = structure_table(rows(11))
    return ScreeningFlowMaker(db=str(tmp_path / "s.sqlite"), source=str(table), shard_size=3)


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
    return site


def launches(pad, name):
    """Launches of the jobs of a name, with their times."""
    names = {job["fw_id"] for job in pad.fireworks.find({"name": name}, {"fw_id": 1})}
    return list(pad.launches.find({"fw_id": {"$in": sorted(names)}}).sort("time_start", 1))


@pytest.mark.mongo
def test_a_shard_is_scored_while_others_are_read(site, maker):
    maker.db = site.db
    with open_launchpad(site.launchpad) as pad, open_store(site.db) as store:
        submit_screening(pad, maker, "run-1")

        def work(category):
            rapidfire(pad, FWorker(category=category), nlaunches=1, m_dir=str(site.folder))

        work("reading")
        ready = Counter(job["name"] for job in pad.fireworks.find({"state": "READY"}))
        assert ready == {"read_shard": 1, "score_shard": 1}
        work("prediction")
        assert store.candidate_counts("run-1") == {"screened": 3, "rejected": 1}
        OPEN_READERS.clear()  # another worker reads on
        for shard in (1, 2, 3):
            work("reading")
            assert bool(store.run("run-1").funnel) == (shard == 3)
            work("prediction")
        assert store.candidate_counts("run-1") == {"screened": 11, "rejected": 4}
        work("screening")
        assert store.run("run-1").state == "done"


@pytest.mark.mongo
@pytest.mark.slow
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
        victim, *others = [
            site.start_worker(categories=("prediction",), ends=False, **alone) for _ in range(3)
        ]
        reader = site.start_worker(categories=("reading", "screening"), ends=False, **alone)

        def running():
            return [x for x in launches(pad, "score_shard") if x["state"] == "RUNNING"]

        try:
            # One that is killed while it holds the lock of the workflow stops all for five minutes.
            wait_until(lambda: len(running()) == 3 and not is_locked(pad))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            done = n // size - 1
            wait_until(lambda: states(pad)["COMPLETED"] == done and len(running()) == 1, 120)
            assert store.count(pending("run-1")) <= size
            assert rerun_lost(pad, store, "run-1", seconds=3600) == 0  # it may still be alive
            assert rerun_lost(pad, store, "run-1", seconds=0) == 1
            wait_until(lambda: screening_jobs(pad, "run-1").states["finish"]["COMPLETED"] == 1)
            assert store.run("run-1").state == "done"
        finally:
            for worker in (victim, *others, reader):
                worker.kill()
                worker.wait()
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


def states(pad):
    return Counter(job["state"] for job in pad.fireworks.find({"name": "score_shard"}))


def is_locked(pad):
    return pad.workflows.find_one({"locked": {"$exists": True}}) is not None


def pending(run_id):
    return Query(CANDIDATES, conditions(run_id=run_id, state="pending"))
