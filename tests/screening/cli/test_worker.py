"""`screen worker` on a real launchpad."""

import json

import pytest
from ase.build import bulk

from tests.screening.cli.test_search import one_line
from tests.workflows.launchpads import make_site, new_database, several_waits


@pytest.fixture
def site(tmp_path, screen, monkeypatch):
    with new_database() as uri:
        site = make_site(tmp_path, uri)
        monkeypatch.setenv("SCREEN_DB", site.db)
        for name in ("SCREEN_DEVICE", "SCREEN_WORKERS"):
            monkeypatch.setenv(name, "")  # so that what a command sets is forgotten afterwards
        yield site


@pytest.mark.mongo
def test_a_submitted_run_is_worked_off(screen, site, monkeypatch):
    outcome = screen("run", "--source", "prototypes", "--limit", 3, "--where", "launchpad")
    assert outcome.code == 0, outcome.err
    assert "`screen worker` or `rlaunch -l launchpad.yaml rapidfire` works it off" in outcome.err
    one_line(screen("worker", "--device", "cuda"), "device cuda: torch finds none here")
    monkeypatch.setenv("SCREEN_WORKERS", "many")
    one_line(screen("worker"), "SCREEN_WORKERS: 'many' is no number of processes")
    monkeypatch.setattr("workflows.worker.SLEEP", 0.1)
    outcome = screen("worker", "--workers", 1, "--device", "cpu")
    assert "Nothing is left to do; 3 jobs done" in outcome.err
    found = json.loads(screen("status", "--json").out)
    done = {"COMPLETED": 1}
    assert found["screening"] == {"read_shard": done, "score_shard": done, "finish": done}
    assert "score_shard" in screen("status").out
    one_line(screen("worker", "--launchpad", "no.yaml"), "no.yaml: No such file")
    refused = screen("worker", "--category", "gpaw", "--category", "predicton")
    assert refused.code == 2
    assert "'predicton' is not one of reading, prediction, screening, gpaw, vasp" in refused.err


@pytest.mark.mongo
@several_waits
def test_workers_judge_the_best_again_by_default(screen, site, monkeypatch):
    monkeypatch.delenv("SCREEN_RESCORE")
    source = ("--source", "prototypes", "--max-sites", 2, "--limit", 3)
    assert screen("run", *source, "--where", "launchpad").code == 0
    site.call("screen", "worker", "--workers", 1, "--device", "cpu")
    jobs = json.loads(screen("status", "--json").out)["screening"]
    assert jobs.pop("score_shard") == {"COMPLETED": 2}
    assert jobs["rescore"] == {"COMPLETED": 1}
    (run,) = json.loads(screen("runs", "--json").out)
    assert run["state"] == "done"
    assert run["second_model_id"].startswith("tight-binding-edos-")


@pytest.mark.mongo
@several_waits
def test_a_submitted_run_is_known_before_it_begins_and_after_it_could_not(screen, site, tmp_path):
    folder = tmp_path / "structures"
    folder.mkdir()
    bulk("Cu").write(folder / "Cu.cif")
    asked = ("run", "--source", folder, "--where", "launchpad")
    submitted = json.loads(screen(*asked, "--quiet", "--json").out)
    (run,) = json.loads(screen("runs", "--json").out)
    assert run["state"] == "running"
    assert submitted["run_id"] == run["run_id"]
    found = json.loads(screen("status", "--json").out)
    assert found["run_id"] == run["run_id"]
    assert found["screening"]["read_shard"] == {"READY": 1}
    one_line(screen(*asked, "--resume"), f"run {run['run_id']} is on the launchpad already")

    folder.rename(tmp_path / "elsewhere")
    site.call("screen", "worker", "--workers", 1, "--device", "cpu")
    (run,) = json.loads(screen("runs", "--json").out)
    assert run["state"] == "failed"
    assert f"{folder}: no such file" in run["error"]
    assert f"{folder}: no such file" in screen("status").out.replace("\n", " ")

    (tmp_path / "elsewhere").rename(folder)
    assert "1 fizzled jobs made ready again" in screen("status", "--rerun-failed").err
    site.call("screen", "worker", "--workers", 1, "--device", "cpu")
    (run,) = json.loads(screen("runs", "--json").out)
    assert (run["state"], run["screened"]) == ("done", 1)
