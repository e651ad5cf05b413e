"""FireWorks with its own commands: a real launchpad and workers in processes of their own."""

import json
import re
import signal
from collections import Counter
from dataclasses import replace

import pymongo
import pytest
import yaml
from monty.json import MontyEncoder

from db.open import open_store
from screening.errors import ScreeningError
from tests.conftest import crystal_row
from tests.workflows.analytic_dos import RECIPE, SECONDS, AnalyticDosMaker
from tests.workflows.launchpads import ROOT, SECRET, make_site, several_waits, wait_until
from tests.workflows.screened_run import (
    candidate,
    crystal,
    plan_validation,
    put_run,
    validation,
)
from workflows.launchpad import (
    GONE,
    LaunchPadFile,
    Waiting,
    open_launchpad,
    record_failures,
    rerun_failed,
    rerun_lost,
    submit,
    submit_screening,
    waiting,
    workflow_states,
)
from workflows.screening import ScreeningFlowMaker
from workflows.validation import ValidationFlowMaker, draft_of

# the file


def test_the_shipped_file_is_fireworks_own():
    from fireworks import LaunchPad

    fields = yaml.safe_load((ROOT / "launchpad.yaml").read_text())
    assert LaunchPadFile.read(ROOT / "launchpad.yaml") == LaunchPadFile()
    assert LaunchPad.from_dict(fields).to_dict().keys() == fields.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hots: db.example.org\n", "hots: Extra inputs are not permitted"),
        ("port: many\n", "port: Input should be a valid integer"),
        ("- host\n", "Input should be a valid dictionary"),
        ("host: [a\n", "not YAML"),
        ("host: 'a\n", "not YAML"),
        (b"\xff\xfe\x00host", "not YAML"),
        (f"host: mongodb://ann:{SECRET}@h:1\nport: x\n", "port: Input should be"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "launchpad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScreeningError) as caught, open_launchpad(path):
        pass
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    missing = r"no\.yaml: No such file or directory; --launchpad names another"
    with pytest.raises(ScreeningError, match=missing), open_launchpad(tmp_path / "no.yaml"):
        pass
    with pytest.raises(ScreeningError, match="Is a directory"), open_launchpad(tmp_path):
        pass


DOWN = {"mongoclient_kwargs": {"serverSelectionTimeoutMS": 200}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "127.0.0.1", "port": 1} | DOWN, "127.0.0.1:1 does not answer"),
        ({"host": f"mongodb://ann:{SECRET}@127.0.0.1:1", "uri_mode": True} | DOWN, "does not"),
        ({"host": f"mongodb://ann:{SECRET}@127.0.0.1:1"} | DOWN, "127.0.0.1:1"),
        ({"host": "mongodb://", "uri_mode": True}, "are wrong"),
        ({"mongoclient_kwargs": {"tsl": True}}, "are wrong"),
        ({"mongoclient_kwargs": {"maxPoolSize": "x"}}, "are wrong"),
    ],
)
def test_a_launchpad_that_is_down_or_misconfigured(tmp_path, fields, message):
    path = tmp_path / "launchpad.yaml"
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(ScreeningError) as caught, open_launchpad(path):
        pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


# the configuration files of CLUSTER.md


def shown(name):
    """YAML blocks of CLUSTER.md that begin with the name of the file."""
    text = (ROOT / "workflows" / "CLUSTER.md").read_text()
    return re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)


def test_the_launchpad_files_of_the_guide(tmp_path):
    blocks = shown("launchpad.yaml")
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "launchpad.yaml"
        path.write_text(block)
        assert "a-password" not in LaunchPadFile.read(path).address


def test_the_job_store_of_the_guide(tmp_path, monkeypatch):
    from jobflow.settings import JobflowSettings
    from maggma.stores import GridFSStore, MongoStore

    (block,) = shown("jobflow.yaml")
    path = tmp_path / "jobflow.yaml"
    path.write_text(block)
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(path))
    store = JobflowSettings().JOB_STORE
    assert isinstance(store.docs_store, MongoStore)
    assert isinstance(store.additional_stores["data"], GridFSStore)
    assert store.docs_store.auth_source == "admin"


def test_the_worker_and_the_queue_of_the_guide():
    from fireworks import FWorker
    from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

    (block,) = shown("my_fworker.yaml")
    assert FWorker.from_dict(yaml.safe_load(block)).query["spec._category"] == {"$in": ["gpaw"]}
    for name, categories in (("cpu", ["reading", "screening"]), ("gpu", ["prediction"])):
        (block,) = shown(f"{name}_fworker.yaml")
        assert FWorker.from_dict(yaml.safe_load(block)).category == categories
    (block,) = shown("my_qadapter.yaml")
    script = CommonAdapter.from_dict(yaml.safe_load(block)).get_script_str("/launches")
    for line in (
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=16",
        "#SBATCH --time=24:00:00",
        "#SBATCH --partition=normal",
        "source ~/.screen_env && source ~/edos-screening/.venv/bin/activate",
    ):
        assert line in script.splitlines()
    assert "multi 16 --timeout 82800" in script
    assert "$${" not in script


def test_the_vasp_command_of_the_guide(tmp_path):
    from atomate2.settings import Atomate2Settings

    (block,) = shown("atomate2.yaml")
    assert Atomate2Settings(**yaml.safe_load(block)).VASP_CMD == "srun -n 32 vasp_std"


# a real launchpad


@pytest.fixture
def site(tmp_path, mongo_uri):
    site = make_site(tmp_path, mongo_uri)
    yield site
    site.stop()


@pytest.fixture
def pad(site):
    with open_launchpad(site.launchpad) as launchpad:
        yield launchpad


@pytest.fixture
def store(site, monkeypatch):
    monkeypatch.setenv("SCREEN_DB", site.db)
    with open_store(site.db) as opened:
        yield opened


def submitted(site, pad, store, n, run_id="run-1", structures=None, **options):
    """A run of `n` positives, best first, on the launchpad; returns the log of the workers."""
    structures = structures or {f"m-{i}": crystal(i) for i in range(n)}
    run = put_run(store, structures, list(structures), run_id=run_id)
    log = site.folder / "calculated.log"
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker(log=str(log), **options))
    plan = plan_validation(store, run, "gpaw", maker.dos_maker.recipe)
    submit(pad, store, maker, plan.todo)
    return log


def calculated(log):
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def states(store, run_id="run-1"):
    return Counter(v.state for v in store.validations(run_id=run_id))


def every_document(uri):
    with pymongo.MongoClient(uri) as client:
        database = client.get_default_database()
        return {
            name: json.dumps(list(database[name].find()), default=str, cls=MontyEncoder)
            for name in database.list_collection_names()
        }


@pytest.mark.mongo
@several_waits
def test_two_workers_finish_twenty_jobs_and_none_twice(site, pad, store):
    log = submitted(site, pad, store, 20, together=2)
    assert states(store) == {"queued": 20}
    listed = json.loads(site.call("lpad", "-l", site.launchpad, "get_wflows", "-d", "less"))
    assert len(listed) == 20

    idle = site.folder / "vasp_fworker.yaml"
    idle.write_text("name: other\ncategory: vasp\nquery: '{}'\n")
    site.wait_for(site.start_worker("-w", idle))
    assert not log.exists()  # it takes no jobs of another category

    workers = [site.start_worker(), site.start_worker()]
    for worker in workers:
        site.wait_for(worker)
    site.work()  # of what became ready when both were about to end
    assert Counter(calculated(log)) == {f"m-{i}": 1 for i in range(20)}
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2
    assert states(store) == {"done": 20}
    assert Counter(s.state for s in workflow_states(pad, "run-1")) == {"COMPLETED": 20}

    everything = every_document(site.uri)
    assert {"fireworks", "workflows", "launches", "validations", "outputs"} <= everything.keys()
    for name, content in everything.items():
        assert SECRET not in content, name
        assert "mongodb://" not in content, name


@pytest.mark.mongo
@several_waits
def test_the_best_come_first_and_bad_ones_hold_up_no_one(site, pad, store):
    symbols = ["Al", "Cu", "Ag", "Au", "Al"]
    structures = {f"m-{i}": crystal(i, symbol) for i, symbol in enumerate(symbols)}
    log = submitted(site, pad, store, 5, structures=structures, failing="Cu", refused="Ag")
    specs = [f["spec"] for f in pad.fireworks.find({"name": "analytic_dos"})]
    assert sorted(spec["_priority"] for spec in specs) == [1, 2, 4, 5]
    assert {spec["_category"] for spec in specs} == {"gpaw"}
    refused = next(v for v in store.validations(state="failed"))
    assert (refused.material_id, refused.error) == ("m-2", "no data set for Ag")

    site.work()
    assert calculated(log) == ["m-0", "m-1", "m-3", "m-4"]
    assert states(store) == {"done": 3, "failed": 2}
    found = {s.material_id: s for s in workflow_states(pad, "run-1")}
    assert (found["m-1"].state, found["m-0"].state) == ("FIZZLED", "COMPLETED")
    assert found["m-1"].reason == "Cu: the density did not converge"
    assert record_failures(pad, store, "run-1") == 1
    assert record_failures(pad, store, "run-1") == 0
    (failed,) = store.validations(state="failed", material_ids=["m-1"])
    assert failed.error == "Cu: the density did not converge"

    site.folder.joinpath("calculated.log.repaired").touch()
    assert rerun_failed(pad, store, "run-1") == 1
    assert states(store) == {"done": 3, "queued": 1, "failed": 1}
    run = store.run("run-1")
    todo = plan_validation(store, run, "gpaw", failed.recipe).todo
    assert [c.material_id for c in todo] == ["m-2"]  # m-1 is on the launchpad again
    site.work()
    assert states(store) == {"done": 4, "failed": 1}
    assert calculated(log)[4:] == ["m-1"]


@pytest.mark.mongo
@several_waits
def test_kill_9_of_a_worker_loses_nothing(site, pad, store, monkeypatch):
    log = submitted(site, pad, store, 6)

    def is_at_work(worker):
        lines = log.read_text().splitlines() if log.exists() else []
        return str(worker.pid) in {line.split()[1] for line in lines}

    victim = site.start_worker(**{SECONDS: "3600"})
    wait_until(lambda: is_at_work(victim))
    other = site.start_worker()
    wait_until(lambda: is_at_work(other))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    wait_until(lambda: states(store)["done"] == 5)
    wait_until(lambda: pad.launches.count_documents({"state": "RUNNING"}) == 1)
    assert states(store) == {"done": 5, "queued": 1}
    assert rerun_lost(pad, store, "run-1", seconds=3600) == 0  # it may still be alive
    rerun_fw, before = pad.rerun_fw, []

    def noted(job_id):
        before.extend(pad.fireworks.distinct("state"))
        return rerun_fw(job_id)

    monkeypatch.setattr(pad, "rerun_fw", noted)
    assert rerun_lost(pad, store, "run-1", seconds=0) == 1
    assert sorted(before) == ["COMPLETED", "RUNNING", "WAITING"]  # nothing for `other` to take
    site.wait_for(other)  # it waits for the child of the lost job
    assert states(store) == {"done": 6}
    assert Counter(s.state for s in workflow_states(pad, "run-1")) == {"COMPLETED": 6}
    times = Counter(calculated(log))
    assert set(times) == {f"m-{i}" for i in range(6)}
    assert sum(times.values()) == 7  # the one that was cut off, and no other, ran again


@pytest.mark.mongo
def test_a_launchpad_that_was_reset_is_submitted_to_again(site, pad, store):
    submitted(site, pad, store, 2)
    pad.reset("", require_password=False)
    recipe = AnalyticDosMaker().recipe
    run = store.run("run-1")
    assert plan_validation(store, run, "gpaw", recipe).todo == ()
    assert rerun_lost(pad, store, "run-1") == 0
    assert {v.error for v in store.validations(run_id="run-1")} == {GONE}
    assert len(plan_validation(store, run, "gpaw", recipe).todo) == 2


@pytest.mark.mongo
@pytest.mark.parametrize("command", ["archive_wflows", "defuse_fws"])
@several_waits
def test_a_workflow_that_was_put_aside_is_submitted_again(site, pad, store, command):
    submitted(site, pad, store, 2)
    first = pad.workflows.find_one({"metadata.material_id": "m-0"})["nodes"][0]
    site.call("lpad", "-l", site.launchpad, command, "-i", first)
    assert rerun_lost(pad, store, "run-1") == 0
    errors = {v.material_id: (v.state, v.error) for v in store.validations(run_id="run-1")}
    assert errors == {"m-0": ("failed", GONE), "m-1": ("queued", None)}
    recipe = AnalyticDosMaker().recipe
    (todo,) = plan_validation(store, store.run("run-1"), "gpaw", recipe).todo
    assert todo.material_id == "m-0"
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    submit(pad, store, maker, [todo])
    assert rerun_lost(pad, store, "run-1") == 0
    assert states(store) == {"queued": 2}
    site.work()
    assert states(store) == {"done": 2}


PAUSED, GIVEN_UP = Waiting(paused=("m-0",)), Waiting(gone=("m-0",))
LPAD = [
    # What a user may do to the first of two workflows, before it begins or when one of its jobs is
    # done: job 2 calculates, job 1 stores.
    ("pause_wflows", 1, 0, PAUSED),
    ("defuse_wflows", 1, 0, PAUSED),  # FireWorks has it pause
    ("defuse_wflows", 2, 1, PAUSED),
    ("pause_fws", 1, 0, PAUSED),
    ("pause_fws", 2, 0, PAUSED),
    ("defuse_fws", 1, 1, GIVEN_UP),
    ("defuse_fws", 2, 0, GIVEN_UP),
    ("archive_wflows", 1, 1, GIVEN_UP),
    ("delete_wflows", 1, 0, GIVEN_UP),
]


@pytest.mark.mongo
@pytest.mark.parametrize(("command", "fw_id", "n_done", "expected"), LPAD)
@several_waits
def test_what_no_worker_does_is_named(site, pad, store, command, fw_id, n_done, expected):
    submitted(site, pad, store, 2)
    if n_done:
        site.call("rlaunch", "-l", site.launchpad, "singleshot", "-f", 2)
    site.call("lpad", "-l", site.launchpad, command, "-i", fw_id)
    assert waiting(pad, store, "run-1") == expected
    site.work()
    assert waiting(pad, store, "run-1") == expected
    assert states(store) == {"done": 1, "queued": 1}
    assert rerun_lost(pad, store, "run-1") == 0
    assert waiting(pad, store, "run-1") == replace(expected, gone=())
    assert states(store)["failed"] == len(expected.gone)


@pytest.mark.mongo
@several_waits
def test_a_workflow_that_is_paused_keeps_its_place(site, pad, store):
    submitted(site, pad, store, 1)
    site.call("lpad", "-l", site.launchpad, "pause_wflows", "-i", 1)
    assert rerun_lost(pad, store, "run-1") == 0
    assert states(store) == {"queued": 1}
    other = put_run(store, {"twin": crystal(0)}, ["twin"], run_id="run-2")
    assert plan_validation(store, other, "gpaw", AnalyticDosMaker().recipe).todo == ()
    assert waiting(pad, store, "run-2") == Waiting(paused=("twin",))
    for fw_id in (1, 2):
        site.call("lpad", "-l", site.launchpad, "resume_fws", "-i", fw_id)
    assert waiting(pad, store, "run-1") == waiting(pad, store, "run-2") == Waiting()
    site.work()
    assert states(store) == states(store, "run-2") == {"done": 1}


@pytest.mark.mongo
@several_waits
def test_what_is_given_up_and_submitted_anew_is_not_gone(site, pad, store):
    submitted(site, pad, store, 1)
    site.call("lpad", "-l", site.launchpad, "archive_wflows", "-i", 1)
    rerun_lost(pad, store, "run-1")
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    run = store.run("run-1")
    todo = plan_validation(store, run, "gpaw", maker.dos_maker.recipe).todo
    submit(pad, store, maker, todo)
    assert waiting(pad, store, "run-1") == Waiting()
    submit(pad, store, maker, todo)
    site.call("lpad", "-l", site.launchpad, "archive_wflows", "-i", 5)
    assert [w["state"] for w in pad.workflows.find().sort("nodes", 1)] == [
        "ARCHIVED",
        "READY",
        "ARCHIVED",
    ]
    assert waiting(pad, store, "run-1") == Waiting()  # the one in between goes on


@pytest.mark.mongo
def test_a_calculation_of_another_run_that_fizzled_is_not_waited_for(site, pad, store):
    submitted(site, pad, store, 1)
    other = put_run(store, {"twin": crystal(0)}, ["twin"], run_id="run-2")
    plan_validation(store, other, "gpaw", AnalyticDosMaker().recipe)
    storing = site.start_worker(SCREEN_DB="")  # so the job that stores the result fails
    site.wait_for(storing)
    assert states(store, "run-2") == {"queued": 1}
    assert record_failures(pad, store, "run-2") == 1
    (twin,) = store.validations(run_id="run-2")
    assert (twin.state, twin.error) == (
        "failed",
        "SCREEN_DB is not set; this job writes to the database it names",
    )
    assert states(store) == {"failed": 1}


@pytest.mark.mongo
def test_a_calculation_that_another_run_submitted_anew_has_not_failed(site, pad, store):
    copper = crystal(1, "Cu")
    submitted(site, pad, store, 1, structures={"m": copper}, failing="Cu")
    site.work()
    assert states(store) == {"failed": 1}
    other = put_run(store, {"twin": copper}, ["twin"], run_id="run-2")
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    submit(pad, store, maker, plan_validation(store, other, "gpaw", maker.dos_maker.recipe).todo)
    assert plan_validation(store, store.run("run-1"), "gpaw", maker.dos_maker.recipe).todo == ()
    assert states(store) == {"queued": 1}
    assert record_failures(pad, store, "run-1") == 0
    assert states(store) == states(store, "run-2") == {"queued": 1}


@pytest.mark.mongo
def test_a_workflow_that_ended_leaves_nothing_queued_and_results_as_they_are(site, pad, store):
    submitted(site, pad, store, 2)
    site.work()
    done, other = store.validations(run_id="run-1")
    store.upsert_validations([other.model_copy(update={"state": "queued"})])
    assert rerun_lost(pad, store, "run-1") == 0
    found = {v.material_id: v for v in store.validations(run_id="run-1")}
    assert found[done.material_id] == done
    lost = found[other.material_id]
    assert (lost.state, lost.error) == ("failed", GONE)


@pytest.mark.mongo
def test_a_calculation_that_another_run_submitted_is_not_gone(site, pad, store):
    submitted(site, pad, store, 2)
    other = put_run(store, {"twin": crystal(1)}, ["twin"], run_id="run-2")
    plan = plan_validation(store, other, "gpaw", AnalyticDosMaker().recipe)
    assert (plan.todo, plan.reused) == ((), 1)
    assert rerun_lost(pad, store, "run-2") == 0
    assert states(store, "run-2") == {"queued": 1}
    site.work()
    assert states(store, "run-2") == {"done": 1}


@pytest.mark.mongo
@several_waits
def test_a_calculation_that_failed_and_runs_again_is_that_of_its_twins_too(site, pad, store):
    copper = crystal(1, "Cu")
    log = submitted(site, pad, store, 1, structures={"m": copper}, failing="Cu")
    other = put_run(store, {"twin": copper}, ["twin"], run_id="run-2")
    plan_validation(store, other, "gpaw", AnalyticDosMaker().recipe)
    site.work()
    assert states(store, "run-2") == {"failed": 1}
    log.with_suffix(".log.repaired").touch()
    assert rerun_failed(pad, store, "run-1") == 1
    site.work()
    assert states(store, "run-1") == states(store, "run-2") == {"done": 1}


@pytest.mark.mongo
@several_waits
def test_what_was_submitted_anew_is_not_rerun(site, pad, store):
    submitted(site, pad, store, 1, structures={"m": crystal(1, "Cu")}, failing="Cu")
    site.work()
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    plan = plan_validation(store, store.run("run-1"), "gpaw", maker.dos_maker.recipe)
    submit(pad, store, maker, plan.todo)
    assert rerun_failed(pad, store, "run-1") == 0
    site.work()
    assert states(store) == {"done": 1}
    assert rerun_failed(pad, store, "run-1") == 0
    assert states(store) == {"done": 1}


@pytest.mark.mongo
def test_runs_on_one_launchpad_are_told_apart(site, pad, store):
    submitted(site, pad, store, 1)
    submitted(site, pad, store, 1, run_id="run-2", structures={"x": crystal(7)})
    assert [s.material_id for s in workflow_states(pad, "run-1")] == ["m-0"]
    assert [s.state for s in workflow_states(pad, "run-2")] == ["READY"]


@pytest.mark.mongo
def test_submitting_keeps_what_other_runs_asked_for(site, pad, store):
    run = put_run(store, {"m": crystal(0)}, ["m"])
    put_run(store, {"m": crystal(0)}, ["m"], run_id="run-2")
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    todo = [candidate(run.run_id, "m", crystal(0))]
    submit(pad, store, maker, todo)
    submit(pad, store, maker, [todo[0].model_copy(update={"run_id": "run-2"})])
    (found,) = store.validations()
    assert found.run_ids == ["run-1", "run-2"]
    assert found.state == "queued"


def finish(store):
    """Store results, as a fast worker does."""
    done = candidate("run-1", "m", crystal(0))
    store.upsert_validations([validation(done, True, recipe=RECIPE, run_ids=["run-0"])])


@pytest.mark.mongo
def test_a_result_that_comes_while_it_is_submitted_stays(site, pad, store, monkeypatch):
    put_run(store, {"m": crystal(0)}, ["m"])

    def before(*args):
        draft = draft_of(*args)
        finish(store)
        return draft

    monkeypatch.setattr("workflows.launchpad.draft_of", before)
    maker = ValidationFlowMaker(db=site.db, dos_maker=AnalyticDosMaker())
    submit(pad, store, maker, [candidate("run-1", "m", crystal(0))])
    (found,) = store.validations()
    assert (found.state, found.run_ids) == ("done", ["run-0", "run-1"])


@pytest.mark.mongo
def test_a_result_that_comes_while_failed_jobs_are_made_ready_stays(site, pad, store, monkeypatch):
    submitted(site, pad, store, 1, structures={"m": crystal(0)}, failing="Al")
    site.work()
    validations = store.validations

    def before(**asked):
        found = list(validations(**asked))
        finish(store)
        return iter(found)

    monkeypatch.setattr(store, "validations", before)
    rerun_failed(pad, store, "run-1")
    (found,) = validations()
    assert (found.state, found.run_ids) == ("done", ["run-0", "run-1"])


@pytest.mark.mongo
def test_a_database_that_is_no_launchpad_yet(tmp_path, mongo_uri):
    site = make_site(tmp_path, mongo_uri)
    with pymongo.MongoClient(mongo_uri) as client:
        client.get_default_database()["fw_id_assigner"].drop()
    new = r"no launchpad yet; run `lpad -l .* reset` once"
    with pytest.raises(ScreeningError, match=new), open_launchpad(site.launchpad):
        pass


@pytest.mark.mongo
def test_the_screening_run_of_the_guide(site, pad, store, structure_table, monkeypatch):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu")]
    table = structure_table([crystal_row(f"m-{i}", 3.3 + 0.1 * i, pairs[i]) for i in range(3)])
    guide = (ROOT / "workflows" / "CLUSTER.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    code = code.replace("/shared/structures.parquet", str(table))
    monkeypatch.chdir(site.folder)
    exec(code.replace("shard_size=20_000", "shard_size=2"), {})
    site.work()
    (run,) = store.runs()
    assert (run.state, run.error) == ("done", None)
    assert run.counts["screened"] == 3
    jobs = list(pad.fireworks.find())
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    # Both shards by the predictor, and by the more accurate one: all three are among the likeliest.
    assert Counter((job["name"], job["spec"]["_category"]) for job in jobs) == {
        ("read_shard", "reading"): 2,
        ("score_shard", "prediction"): 4,
        ("rescore", "screening"): 1,
        ("store_inputs", "screening"): 1,
        ("finish", "screening"): 1,
    }
    for name, content in every_document(site.uri).items():
        assert SECRET not in content, name


@pytest.mark.mongo
def test_jobs_of_a_second_model_wait_for_workers_with_gpus_too(site, pad, store, structure_table):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Th", "N")]
    table = structure_table([crystal_row(f"m-{i}", 3.3 + 0.1 * i, pairs[i]) for i in range(3)])
    maker = ScreeningFlowMaker(db=site.db, source=str(table), rescore=2)
    submit_screening(pad, maker, "run-1")
    site.work()
    (run,) = store.runs()
    assert (run.state, run.error) == ("done", None)
    assert run.counts["rescored"] == 2
    categories = Counter((job["name"], job["spec"]["_category"]) for job in pad.fireworks.find())
    assert categories == {
        ("read_shard", "reading"): 1,
        ("score_shard", "prediction"): 2,
        ("rescore", "screening"): 1,
        ("store_inputs", "screening"): 1,
        ("finish", "screening"): 1,
    }


@pytest.mark.mongo
def test_a_submitted_run_knows_nothing_of_the_hardware_it_was_submitted_from(
    site, pad, structure_table
):
    table = structure_table([crystal_row("m", 3.3, ["Na", "Cl"])])
    maker = ScreeningFlowMaker(db=site.db, source=str(table), device="cuda", workers=5)
    submit_screening(pad, maker, "run-1")
    (reading,) = pad.fireworks.find({"name": "read_shard"})
    assert "cuda" not in json.dumps(reading, default=str)
    (site.folder / "cpu_fworker.yaml").write_text("name: cpu\ncategory: reading\nquery: '{}'\n")
    worker = site.start_worker("-w", site.folder / "cpu_fworker.yaml")
    site.wait_for(worker)
    (scoring,) = pad.fireworks.find({"name": "score_shard"})
    assert scoring["state"] == "READY"  # it waits for a worker of the other category
    arguments = scoring["spec"]["_tasks"][0]["job"]["function_kwargs"]
    assert arguments == {"device": None, "workers": None}
