"""`screen validate`, `status` and `metrics`; a formula stands in for DFT (see `analytic_dos`)."""

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from db.documents import ValidationDoc
from db.open import open_store
from models.spectra.spectrum import EDOS_GRID
from screening.cli.validate import _verdict
from screening.report.words import dft_rows
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.dos.toy_engine import LINE
from tests.workflows.launchpads import ROOT, SECRET, make_site, new_database, wait_until
from tests.workflows.screened_run import candidate, crystal, put_prediction, put_run, validation
from workflows.dos.engines import ENGINES, dos_maker
from workflows.dos.gpaw.remarks import remarks_on_stand_ins
from workflows.launchpad import open_launchpad
from workflows.reporting import find_validations

DB = "screening.sqlite"


def one_line(outcome, *words):
    """The command failed and said why in one line."""
    assert outcome.code != 0
    lines = [line for line in outcome.err.splitlines() if line.startswith("screen: ")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def materials(n):
    return {f"m-{i}": crystal(i) for i in range(n)}


@pytest.fixture
def run(screen):
    """A run with three positives and two negatives, in the folder where `screen` is called."""
    with open_store(DB) as store:
        return put_run(store, materials(5), ["m-2", "m-0", "m-1"])


@pytest.fixture
def formula(monkeypatch):
    """Let `screen` calculate by a formula."""
    use = {"maker": AnalyticDosMaker()}
    monkeypatch.setattr("workflows.dos.engines.dos_maker", lambda engine, **_: use["maker"])
    return use


def validations(db=DB):
    with open_store(db) as store:
        return {v.material_id: v for v in store.validations()}


def test_validate_calculates_positives_first_and_negatives(screen, run, formula):
    outcome = screen("validate")
    assert outcome.code == 0
    assert "Run run-1: 5 to calculate with analytic-for-tests, 0 there already" in outcome.err
    done = [line.split()[0] for line in outcome.err.splitlines() if "Al: no VB gap" in line]
    assert done[:3] == ["m-2", "m-0", "m-1"]
    assert sorted(done[3:]) == ["m-3", "m-4"]
    assert {v.state for v in validations().values()} == {"done"}
    again = screen("validate")
    assert "0 to calculate with analytic-for-tests, 5 there already" in again.err


@pytest.mark.slow
def test_validate_in_several_processes(screen, run, formula):
    assert screen("validate", "--workers", 2).code == 0
    assert {v.state for v in validations().values()} == {"done"}


def test_limit_and_random(screen, run, formula):
    screen("validate", "--limit", 1, "--random", 1)
    found = validations()
    assert len(found) == 2
    assert "m-2" in found


def test_a_failure_is_told_and_the_others_go_on(screen, formula):
    with open_store(DB) as store:
        put_run(store, {"a": crystal(0, "Cu"), "b": crystal(0)}, ["a", "b"])
    formula["maker"] = AnalyticDosMaker(failing="Cu")
    outcome = screen("validate")
    assert outcome.code == 0
    assert "a Cu: Cu: the density did not converge" in outcome.err
    assert "b Al: no VB gap" in outcome.err
    assert {m: v.state for m, v in validations().items()} == {"a": "failed", "b": "done"}
    formula["maker"] = AnalyticDosMaker()
    assert "1 to calculate" in screen("validate").err
    assert {v.state for v in validations().values()} == {"done"}


@pytest.mark.slow
def test_show_plots_the_calculated_dos_beside_the_predicted(screen, run, formula, tmp_path):
    document = candidate(run.run_id, "m-2", crystal(2))
    with open_store(DB) as store:
        put_prediction(store, document, np.ones(EDOS_GRID.size))
        assert find_validations(store, run, [document]) == ({}, {})
    assert screen("show", "m-2", "--plot", "before.svg").code == 0
    assert ">DFT</text>" not in (tmp_path / "before.svg").read_text()

    screen("validate", "--random", 0)
    with open_store(DB) as store:
        (found,) = find_validations(store, run, [document])[0].values()
        assert found.spectrum == validations()["m-2"].spectrum
        other = document.model_copy(update={"structure_hash": "relaxed"})
        assert find_validations(store, run, [other]) == ({}, {})
    assert screen("show", "m-2", "--plot", "after.svg").code == 0
    assert ">DFT</text>" in (tmp_path / "after.svg").read_text()
    assert "verdict by gpaw is robust" in screen("show", "m-2").out
    assert "at full resolution" not in screen("show", "m-2").out
    with open_store(DB) as store:
        (stored,) = store.validations(material_ids=["m-2"])
        differs = stored.gap.model_copy(update={"is_gap_fine": not stored.gap.is_gap})
        store.upsert_validations([stored.model_copy(update={"gap": differs})])
    assert "VB gap by gpaw at full resolution" in screen("show", "m-2").out
    shown = json.loads(screen("show", "m-2", "--json").out)["dft"]
    assert shown["gap"]["is_gap_fine"] is not shown["gap"]["is_gap"]


def test_quiet(screen, run, formula):
    outcome = screen("validate", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_what_failed_is_named_and_all_of_it_is_an_error(screen, formula):
    copper = {f"c-{i}": crystal(i, "Cu") for i in range(4)}
    with open_store(DB) as store:
        put_run(store, copper | {"a": crystal(0)}, list(copper))
    formula["maker"] = AnalyticDosMaker(failing="Cu")
    quiet = ("validate", "--random", 0, "--quiet")
    outcome = screen(*quiet, "--json")
    one_line(outcome, "4 of 4 calculations failed: c-0 (Cu: the density did not converge), c-1 (")
    one_line(outcome, "and 1 more (`screen validate --dry-run --run run-1`)")
    assert outcome.code == 1
    assert len(json.loads(outcome.out)["results"]) == 4
    some = screen("validate", "--quiet")
    assert (some.code, some.out) == (0, "")
    assert some.err.startswith("screen: 4 of 5 calculations failed: c-0 (")
    formula["maker"] = AnalyticDosMaker()
    assert screen(*quiet).code == 0
    nothing = screen(*quiet)
    assert (nothing.code, nothing.err) == (0, "")


@pytest.mark.slow
def test_bad_input_ends_in_one_line(screen, run):
    one_line(screen("validate", "--engine", "abinit"), "'abinit' is not one of 'gpaw', 'vasp'")
    one_line(
        screen("validate", "--engine", "vasp", "--preset", "fast"), "vasp has no option preset"
    )
    one_line(screen("validate", "--preset", "slow"), "--preset", "'slow' is not one of 'fast'")
    one_line(
        screen("validate", "--strategy", "worst"), "--strategy", "'worst' is not one of 'best'"
    )
    one_line(
        screen("validate", "--where", "moon"),
        "--where",
        "'moon' is not one of 'local', 'launchpad'",
    )
    one_line(screen("validate", "--run", "nowhere"), "no run 'nowhere'")
    one_line(screen("validate", "--db", "other.sqlite"), "other.sqlite")
    one_line(screen("validate", "--where", "launchpad"), "launchpad.yaml: No such file")
    one_line(screen("metrics"), "run run-1 has no validations; `screen validate` first")
    one_line(screen("metrics", "--run", "nowhere"), "no run 'nowhere'")
    one_line(screen("status"), "launchpad.yaml: No such file")
    assert validations() == {}


def test_a_run_that_is_not_finished(screen, run):
    with open_store(DB) as store:
        store.put_run(run.model_copy(update={"state": "running"}))
    one_line(screen("validate"), "run run-1 is not done; `screen run --resume` first")


def test_without_the_engine(screen, run, monkeypatch):
    with monkeypatch.context() as machine:
        machine.setattr("importlib.util.find_spec", lambda name, *_: None)
        outcome = screen("validate")
    one_line(outcome, "GPAW is not installed (gpaw and gpaw_data): run", "pip install")
    with monkeypatch.context() as machine:
        machine.setattr("shutil.which", lambda *_, **__: None)
        outcome = screen("validate", "--engine", "vasp")
    one_line(outcome, "VASP command not found", "VASP_CMD")


SCRIPT = """
import sys
import workflows.dos.engines
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
seconds, log, *arguments = sys.argv[1:]
maker = AnalyticDosMaker(seconds=float(seconds), log=log)
workflows.dos.engines.dos_maker = lambda engine, **options: maker
sys.argv = ["screen", "validate", *arguments]
from screening.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_cleanly_and_the_next_call_goes_on(screen, formula, tmp_path, workers):
    with open_store(DB) as store:
        put_run(store, materials(40), list(materials(40)))
    log = tmp_path / "calculated.log"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "0.5", str(log), "--yes", "--workers", str(workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, seconds=300)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        "screen: interrupted; the same command goes on with what is left"
    )
    began = len(log.read_text().splitlines())
    done = {m for m, v in validations().items() if v.state == "done"}
    assert len(done) >= 1
    assert len(validations()) == len(done)  # an interrupt is no failure
    assert began - len(done) <= workers + 1

    outcome = screen("validate", "--yes")
    assert (
        f"{40 - len(done)} to calculate with analytic-for-tests, {len(done)} there" in outcome.err
    )
    assert {v.state for v in validations().values()} == {"done"}
    assert len(validations()) == 40


@pytest.mark.slow
def test_a_killed_worker_process_ends_in_one_line(screen, run, tmp_path):
    log = tmp_path / "calculated.log"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "400", str(log), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), seconds=300)
    os.kill(int(log.read_text().split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("screen: a worker process was killed")


# asking first


@pytest.mark.slow
def test_many_calculations_are_not_started_unasked(screen, formula, monkeypatch):
    with open_store(DB) as store:
        run = put_run(store, materials(21), list(materials(21)))
    outcome = screen("validate", "--random", 0)
    one_line(outcome, "21 calculations. About 17 minutes with 1 at a time (rough", "--yes")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    outcome = screen("validate", "--random", 0)
    assert outcome.code != 0
    assert "Start them? [y/N]" in outcome.err
    assert "Traceback" not in outcome.err
    with open_store(DB) as store:
        assert store.run("run-1") == run  # nothing is noted of what was not started
    assert validations() == {}
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert screen("validate", "--random", 0).code == 0
    assert {v.state for v in validations().values()} == {"done"}


def test_what_others_do_until_the_question_is_answered_is_kept(screen, formula, monkeypatch):
    with open_store(DB) as store:
        run = put_run(store, materials(23), list(materials(23)))
        structures = materials(23)
        on_launchpad = [
            ValidationDoc(
                material_id=name,
                structure_hash=candidate("run-1", name, structures[name]).structure_hash,
                engine="gpaw",
                recipe=RECIPE,
                job_uuids=["job"],
                run_ids=["run-0"],
            )
            for name in ("m-0", "m-1")
        ]
        store.upsert_validations(on_launchpad[:1])

    def answer(*_, **__):
        done = validation(
            candidate("run-1", "m-0", structures["m-0"]), True, recipe=RECIPE, run_ids=["run-0"]
        )
        with open_store(DB) as store:
            store.upsert_validations([done, on_launchpad[1]])

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", answer)
    monkeypatch.setattr("screening.cli.validate.validate_locally", lambda _, todo, *__: [])
    outcome = screen("validate", "--random", 0, "--json")
    assert len(json.loads(outcome.out)["to_calculate"]) == 21
    found = validations()
    assert {name: v.state for name, v in found.items()} == {"m-0": "done", "m-1": "queued"}
    assert {tuple(v.run_ids) for v in found.values()} == {("run-0", run.run_id)}


@pytest.mark.slow
def test_twenty_calculations_are_started_and_yes_starts_more(screen, formula):
    with open_store(DB) as store:
        put_run(store, materials(22), list(materials(22)))
    assert screen("validate", "--random", 0, "--limit", 20).code == 0
    assert len(validations()) == 20
    assert screen("validate", "--random", 0, "--yes").code == 0
    assert len(validations()) == 22


@pytest.fixture
def domains(screen, formula):
    """A run whose best positive and whose negative m-3 are out of the model's domain."""
    with open_store(DB) as store:
        run = put_run(store, materials(6), ["m-2", "m-0", "m-1"])
        for name in ("m-2", "m-3"):
            (document,) = store.candidates("run-1", material_ids=[name])
            changes = {"unseen_elements": ["Po"], "out_of_domain": True}
            store.upsert_candidates([document.model_copy(update=changes)])
    return run


def test_a_dry_run_lists_what_and_why_not_and_writes_nothing(screen, domains):
    with open_store(DB) as store:
        store.upsert_validations(
            [
                validation(
                    candidate("run-1", "m-0", crystal(0)), True, recipe="analytic-for-tests"
                ).model_copy(update={"run_ids": ["another"]})
            ]
        )
    document = json.loads(screen("validate", "--dry-run", "--json").out)
    assert document["to_calculate"][0]["material_id"] == "m-1"  # positives first
    assert {row["material_id"] for row in document["to_calculate"]} == {"m-1", "m-4", "m-5"}
    assert document["there_already"] == ["m-0"]
    assert document["left_out"] == [{"material_id": "m-2", "reasons": ["not trained on Po"]}]
    assert document["estimated_hours"] == pytest.approx(3 * 48.775 / 3600, rel=1e-3)
    outcome = screen("validate", "--dry-run")
    assert "no: not trained on Po" in outcome.out
    assert "no: done already" in outcome.out
    assert "1 positives out of the model's domain are left out" in outcome.out
    assert "About 2 minutes with 1 at a time (rough" in outcome.out
    with open_store(DB) as store:
        assert store.run("run-1") == domains
        assert [v.run_ids for v in store.validations()] == [["another"]]
    all_of_them = json.loads(screen("validate", "--dry-run", "--json", "--out-of-domain").out)[
        "to_calculate"
    ]
    assert {row["material_id"] for row in all_of_them} == {"m-2", "m-1", "m-3", "m-4", "m-5"}


def test_a_dry_run_says_which_material_has_the_same_structure(screen, formula):
    with open_store(DB) as store:
        put_run(store, {"m-0": crystal(0), "twin": crystal(0)}, ["m-0", "twin"])
    assert "no: same structure as m-0" in screen("validate", "--dry-run").out


@pytest.mark.slow
def test_what_the_model_cannot_know_is_left_out_unless_asked_for(screen, domains):
    outcome = screen("validate", "--limit", 1)
    assert "1 positives out of the model's domain are left out (--out-of-domain" in outcome.err
    assert set(validations()) == {"m-0", "m-4", "m-5"}
    (found,) = json.loads(screen("metrics", "--json").out)["metrics"]
    assert found["in_domain"]
    assert found["design"].startswith("predicted positives: the 1 best of 2 (")
    assert found["design"].endswith("predicted negatives: all 2")
    assert "Of what the model can know only." in screen("metrics").out
    screen("validate", "--out-of-domain")
    assert len(validations()) == 6
    (found,) = json.loads(screen("metrics", "--json").out)["metrics"]
    assert not found["in_domain"]
    assert found["design"] == "predicted positives: all 3; predicted negatives: all 3"


def test_json_has_the_verdicts_and_progress_says_what_runs(screen, run, formula):
    outcome = screen("validate", "--random", 0, "--json")
    document = json.loads(outcome.out)
    assert [row["material_id"] for row in document["results"]] == ["m-2", "m-0", "m-1"]
    assert {row["state"] for row in document["results"]} == {"done"}
    lines = outcome.err.splitlines()
    begun = [line for line in lines if ": begun, " in line]
    assert begun == [f"m-{i} Al, 1 atom: begun, {k} of 3" for k, i in enumerate((2, 0, 1), 1)]
    assert lines.index(begun[1]) > lines.index(next(x for x in lines if "m-2 Al: no VB gap" in x))
    ended = next(line for line in lines if "m-2 Al: no VB gap" in line)
    found = validations()["m-2"].gap
    if found.width:
        assert f"{found.lower_edge:.2f} to {found.upper_edge:.2f} eV" in ended


def test_a_verdict_has_its_edges_and_its_width():
    gap = {"lower_edge": -4.0, "upper_edge": -0.5, "width": 3.5, "is_lower_bound": True}
    outcome = {"state": "done", "is_positive": True, "gap": gap}
    assert _verdict(outcome) == "VB gap, -4.00 to -0.50 eV, width ≥ 3.50 eV"
    missed = outcome | {"is_positive": False, "gap": gap | {"is_lower_bound": False}}
    assert _verdict(missed) == "no VB gap, nearest miss -4.00 to -0.50 eV, width 3.50 eV"
    nothing = {"state": "done", "is_positive": False, "gap": {"width": None}}
    assert _verdict(nothing) == "no VB gap"


def test_show_has_dft_beside_the_prediction(screen, run, formula):
    document = candidate(run.run_id, "m-2", crystal(2))
    with open_store(DB) as store:
        put_prediction(store, document, np.ones(EDOS_GRID.size))
    alone = screen("show", "m-2").out
    screen("validate", "--random", 0)
    out = screen("show", "m-2").out
    words = " ".join(out.split())
    found = validations()["m-2"]
    assert f"{found.mae:.3f}" in words
    assert "recipe of gpaw" in words
    assert "by gpaw (red dots)" in words
    assert out.count("⠉") != alone.count("⠉") or out.count("•") > 0
    dft = json.loads(screen("show", "m-2", "--json").out)["dft"]
    assert dft["spectrum"] == pytest.approx(found.spectrum)
    assert dft["gap"]["width"] == found.gap.width
    assert (dft["mae"], dft["wd"]) == (found.mae, found.wd)
    assert "raw_dos" not in dft


def test_show_says_why_there_is_no_dft(screen, run):
    documents = [candidate("run-1", name, crystal(i)) for i, name in enumerate(("m-0", "m-1"))]
    with open_store(DB) as store:
        store.upsert_validations(
            [
                validation(documents[0], None),
                validation(documents[1], None, state="queued", error=None),
            ]
        )
    shown = " ".join(screen("show", "m-0").out.split())
    assert "recipe of gpaw │ recipe-1" in shown
    assert "calculation by gpaw │ failed: no convergence" in shown
    assert "queued" in screen("show", "m-1").out
    assert "gpaw" not in screen("show", "m-2").out
    document = json.loads(screen("show", "m-0", "--json").out)
    assert document["unfinished_dft"] == {
        "engine": "gpaw", "recipe": "recipe-1", "state": "failed", "error": "no convergence",
    }  # fmt: skip
    assert "dft" not in document


def test_stand_ins_of_lanthanides_are_an_option_and_are_shown(screen):
    with open_store(DB) as store:
        put_run(store, {"a": crystal(0), "b": crystal(1, "Pr")}, ["a", "b"])
        document = candidate("run-1", "b", crystal(1, "Pr"))
        (known,) = store.candidates("run-1", material_ids=["b"])
        changes = {"unseen_elements": [], "has_isolated_atoms": False, "out_of_domain": False}
        store.upsert_candidates([known.model_copy(update=changes)])
    base = dos_maker("gpaw").recipe

    def recipes(*options):
        plan = json.loads(screen("validate", "--dry-run", "--json", *options).out)
        assert plan["recipe"] == base
        return {row["material_id"]: row["recipe"] for row in plan["to_calculate"]}

    assert recipes() == {"a": base, "b": f"{base}+La-for-Pr"}
    assert recipes("--lanthanides", "own") == {"a": base, "b": base}
    assert "(1 with stand-ins for lanthanides)" in screen("validate", "--dry-run").out
    with open_store(DB) as store:
        warnings = remarks_on_stand_ins({"Pr": "La"})
        recipe = f"{base}+La-for-Pr"
        store.upsert_validations([validation(document, True, recipe=recipe, warnings=warnings)])
    words = " ".join(screen("show", "b").out.split())
    assert recipe in words
    assert "La stands for Pr at the same positions" in words
    assert "La stands for Pr, without its 4f shell" in words
    shown = json.loads(screen("show", "b", "--json").out)
    assert shown["dft"]["warnings"] == warnings
    assert shown["remarks"] == ["La stands for Pr, without its 4f shell"]


# strategies


@pytest.fixture
def probable(run):
    """The same run with probabilities; m-1 is the most, m-2 the least probable."""
    with open_store(DB) as store:
        for name, probability in {"m-2": 0.1, "m-0": 0.25, "m-1": 0.75}.items():
            (document,) = store.candidates("run-1", material_ids=[name], with_structure=True)
            changed = document.model_copy(update={"probability": probability})
            store.upsert_candidates([changed])
    return run


def test_a_strategy_and_a_budget_choose(screen, probable, formula):
    outcome = screen("validate", "--strategy", "budget", "--budget", "2.5min", "--random", 1)
    assert outcome.code == 0
    assert "3 to calculate" in outcome.err  # of 49 s each
    assert "about 1.0 of 2 positives are expected to be confirmed" in outcome.err
    assert set(validations()) - {"m-3", "m-4"} == {"m-0", "m-1"}
    (found,) = json.loads(screen("metrics", "--json").out)["metrics"]
    assert "2 of 3 by budget (so nothing is known of the other 1)" in found["design"]
    planned = screen("validate", "--strategy", "probability", "--limit", 1, "--dry-run", "--json")
    document = json.loads(planned.out)
    assert document["there_already"][0] == "m-1"
    assert "m-2" not in {row["material_id"] for row in document["to_calculate"]}


@pytest.mark.parametrize(
    "budget", ["0h", "-3h", "40", "h", "3 weeks", "nanh", "1e999d", "infd", "..h", ""]
)
def test_a_budget_without_a_unit_or_of_nothing(screen, run, budget):
    one_line(screen("validate", f"--budget={budget}"), "--budget", "40h, 90min or 2d")


def test_what_cannot_be_chosen_is_said_in_one_line(screen, run):
    for strategy in ("probability", "uncertainty"):
        asked = ("validate", "--strategy", strategy)
        one_line(screen(*asked), f"{strategy} needs probabilities", "use --strategy best")
    one_line(screen("validate", "--strategy", "budget"), "budget needs a --budget, such as 40h")
    small = ("--budget", "0.5min", "--random", 0)
    one_line(screen("validate", *small), "less than the cheapest calculation, about 0.8 minutes")
    one_line(screen("validate", "--budget", "1min"), "2 random negatives take about 0.0 hours")
    one_line(screen("candidates", "--sort", "probability"), "--sort probability needs", "score")
    assert validations() == {}


def test_candidates_are_sorted_by_probability(screen, probable):
    rows = json.loads(screen("candidates", "--sort", "probability", "--json").out)
    assert [row["probability"] for row in rows] == [0.75, 0.25, 0.1]
    assert "0.75" in screen("candidates").out


# metrics


@pytest.fixture
def measured(run):
    """Two positives confirmed, one refuted, one negative missed; one failed."""
    truth = {"m-2": True, "m-0": True, "m-1": False, "m-3": True, "m-4": None}
    with open_store(DB) as store:
        structures = materials(5)
        store.upsert_validations(
            validation(candidate("run-1", m, structures[m]), is_gap) for m, is_gap in truth.items()
        )


def test_metrics_shows_intervals_before_estimates_and_how_materials_were_chosen(screen, measured):
    outcome = screen("metrics")
    assert outcome.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines()]
    assert ["precision, validated set", "0.094 to 0.99", "0.67"] in rows
    assert ["precision, screened set", "0.67", "0.67"] in rows
    # m-4 failed: none, or one more of two negatives
    assert ["recall, screened set", "0.50 to 0.67", "0.50 to 0.67"] in rows
    assert ["true positives", "2"] in rows
    assert ["false negatives", "1"] in rows
    assert ["without a verdict: failed", "1"] in rows
    assert "run-1, gpaw, recipe-1" in outcome.out
    assert "Validated: predicted positives: all 3; predicted negatives: all 2." in outcome.out


def test_metrics_json(screen, measured):
    document = json.loads(screen("metrics", "--json").out)
    assert document["run_id"] == "run-1"
    (found,) = document["metrics"]
    assert [found[name] for name in ("tp", "fp", "fn", "tn")] == [2, 1, 1, 0]
    assert found["undecided"] == {"failed": 1}
    assert found["design"] == "predicted positives: all 3; predicted negatives: all 2"
    assert list(found["precision"]) == ["low", "high", "value", "least", "most"]
    assert found["precision"]["value"] == pytest.approx(2 / 3)
    assert found["recall"]["value"] is None
    assert found["screened_recall"]["least"] == pytest.approx(2 / 4)
    assert found["screened_recall"]["most"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("best", "the 1 best of 3"), ("random", "1 of 3, drawn at random")],
)
def test_metrics_say_how_few_positives_were_chosen(screen, run, formula, strategy, words):
    assert screen("validate", "--limit", 1, "--strategy", strategy).code == 0
    (found,) = json.loads(screen("metrics", "--json").out)["metrics"]
    assert words in found["design"]
    assert (found["screened_precision"]["value"] is None) == (strategy == "best")
    assert found["screened_precision"]["low"] == 0


# the launchpad


@pytest.fixture
def site(tmp_path, screen):
    with new_database() as uri:
        yield make_site(tmp_path, uri)


@pytest.mark.mongo
def test_submit_work_off_and_ask(screen, site, formula, monkeypatch):
    monkeypatch.setenv("SCREEN_DB", site.db)
    with open_store(site.db) as store:
        put_run(store, {"a": crystal(0, "Cu"), "b": crystal(0), "c": crystal(1)}, ["a", "b"])
    formula["maker"] = AnalyticDosMaker(failing="Cu", log=str(site.folder / "log"))

    outcome = screen("validate", "--where", "launchpad")
    assert "3 workflows submitted; `rlaunch -l launchpad.yaml rapidfire` works" in outcome.err
    assert "0 to calculate" in screen("validate", "--where", "launchpad").err
    found = json.loads(screen("status", "--json").out)
    assert found["workflows"] == {"READY": 3}
    assert found["validations"] == {"queued": 3}

    site.work()
    found = json.loads(screen("status", "--json").out)
    assert found["workflows"] == {"COMPLETED": 2, "FIZZLED": 1}
    assert found["validations"] == {"done": 2, "failed": 1}
    assert found["reasons"] == {"a": "Cu: the density did not converge"}
    outcome = screen("status")
    assert "a: Cu: the density did not converge" in outcome.out
    assert validations(site.db)["a"].error == "Cu: the density did not converge"

    outcome = screen("status", "--rerun-failed", "--rerun-lost")
    assert "0 lost jobs made ready again" in outcome.err
    assert "1 fizzled jobs made ready again" in outcome.err
    assert Counter(v.state for v in validations(site.db).values()) == {"done": 2, "queued": 1}
    (site.folder / "log.repaired").touch()
    site.work()
    assert json.loads(screen("status", "--json").out)["workflows"] == {"COMPLETED": 3}
    assert screen("metrics").code == 0


@pytest.mark.mongo
def test_status_names_what_no_worker_does(screen, site, formula, monkeypatch):
    monkeypatch.setenv("SCREEN_DB", site.db)
    with open_store(site.db) as store:
        put_run(store, {"a": crystal(0), "b": crystal(1), "c": crystal(2)}, ["a", "b", "c"])
    screen("validate", "--where", "launchpad")
    assert "lpad" not in screen("status").out
    site.call("lpad", "-l", site.launchpad, "defuse_wflows", "-i", 1)
    site.call("lpad", "-l", site.launchpad, "archive_wflows", "-i", 3)
    found = json.loads(screen("status", "--json").out)
    assert (found["paused"], found["gone"]) == (["a"], ["b"])
    shown = " ".join(screen("status").out.split())
    assert "paused: a; `lpad resume_fws` lets them go on. To give them up, `lpad archive" in shown
    assert "queued, but archived, defused or no more on the launchpad: b; `screen status" in shown
    assert screen("status", "--rerun-lost").code == 0
    assert "b" in screen("validate", "--dry-run", "--json").out
    found = json.loads(screen("status", "--json").out)
    assert found["validations"] == {"queued": 2, "failed": 1}
    assert (found["paused"], found["gone"]) == (["a"], [])


@pytest.mark.mongo
def test_vasp_is_submitted_without_vasp_and_a_worker_without_it_says_so(screen, site, monkeypatch):
    monkeypatch.setenv("SCREEN_DB", site.db)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(site.folder / "none"))
    with open_store(site.db) as store:
        put_run(store, {"a": crystal(0), "b": crystal(0, "At")}, ["a", "b"])
    outcome = screen("validate", "--engine", "vasp", "--where", "launchpad")
    assert outcome.code == 0
    assert "1 workflows submitted" in outcome.err
    refused = validations(site.db)["b"]
    assert refused.error == "the Materials Project recipe has no POTCAR for At"
    assert f"1 of 2 calculations failed: b ({refused.error})" in outcome.err
    outcome = screen("validate", "--engine", "vasp", "--where", "launchpad", "--quiet")
    assert outcome.code == 1
    one_line(outcome, f"1 of 1 calculations failed: b ({refused.error})")
    with open_launchpad(site.launchpad) as pad:
        specs = {f["name"]: f["spec"] for f in pad.fireworks.find()}
    assert specs.keys() == {"MP GGA static", "MP GGA uniform", "VASP DOS", "store_validation"}
    assert {spec["_category"] for spec in specs.values()} == {"vasp"}

    site.work()
    found = json.loads(screen("status", "--json").out)
    assert found["workflows"] == {"FIZZLED": 1}
    assert found["validations"] == {"failed": 2}
    assert "PMG_VASP_PSP_DIR" in found["reasons"]["a"]


@pytest.mark.mongo
def test_a_launchpad_with_a_wrong_field(screen, site, run):
    with site.launchpad.open("a") as file:
        file.write(f"hots: {SECRET}\n")
    outcome = screen("validate", "--where", "launchpad")
    one_line(outcome, "launchpad.yaml: hots: Extra inputs are not permitted")
    one_line(screen("status", "--run", "run-1"), "hots")
    assert SECRET not in outcome.err
    assert validations() == {}


# a new engine is one folder and one line


def test_a_new_engine_on_the_command_line(screen, monkeypatch):
    monkeypatch.setitem(ENGINES, *next(iter(LINE.items())))
    with open_store(DB) as store:
        put_run(store, {"a": crystal(0), "b": crystal(1, "Cu"), "c": crystal(2)}, ["a", "b"])
    plan = json.loads(screen("validate", "--engine", "toy", "--dry-run", "--json").out)
    assert plan["estimated_hours"] == pytest.approx(2.27, abs=0.01)  # Al has few bands
    outcome = screen("validate", "--engine", "toy")
    assert outcome.code == 0
    assert "b Cu: the toy has no Cu" in outcome.err
    with open_store(DB) as store:
        found = {v.material_id: v for v in store.validations(engine="toy")}
    assert {m: v.state for m, v in found.items()} == {"a": "done", "b": "failed", "c": "done"}
    assert found["a"].recipe == dos_maker("toy").recipe
    findings = json.loads(screen("doctor", "--json").out)
    assert {"what": "Toy", "usable": True, "found": "a formula"} in findings
    assert "'abinit' is not one of 'gpaw', 'vasp', 'toy'" in (
        screen("validate", "--engine", "abinit").err
    )


# settings of others


ATOMATE2 = "atomate2 refuses ~/.atomate2.yaml or an ATOMATE2_ variable of the environment ("
JOBFLOW = "jobflow refuses ~/.jobflow.yaml or a JOBFLOW_ variable of the environment ("
REFUSED = [
    (".atomate2.yaml", "VASP_CMD: [a\n", "validate --relax", f"{ATOMATE2}line 2 is no YAML: "),
    (".atomate2.yaml", "CMD: a\n", "validate --relax", f"{ATOMATE2}CMD: Extra inputs are not"),
    (".atomate2.yaml", "CMD: a\n", "validate --engine vasp", f"{ATOMATE2}CMD: Extra inputs are"),
    (".jobflow.yaml", "JOB_STORE: [a\n", "validate", f"{JOBFLOW}line 2 is no YAML: "),
    (".jobflow.yaml", f"STORE: {SECRET}\n", "validate --debug", f"{JOBFLOW}STORE: Extra inputs"),
    (
        ".jobflow.yaml",
        f"JOB_STORE: {{docs_store: {{type: NoStore, password: {SECRET}}}}}\n",
        "status --debug",
        f"{JOBFLOW}KeyError 'NoStore')",
    ),
    (
        ".jobflow.yaml",
        f"password: {SECRET}\npassword: another-{SECRET}\n",
        "status --debug",
        f"{JOBFLOW}line 2 is no YAML: DuplicateKeyError)",
    ),
    (
        ".jobflow.yaml",
        f"JOB_STORE:\n  password: *{SECRET}\n",
        "status --debug",
        f"{JOBFLOW}line 2 is no YAML: ComposerError)",
    ),
    (
        ".jobflow.yaml",
        "JOB_STORE: {docs_store: {type: MongoURIStore, collection_name: x, "
        f"uri: 'mongodb://ann:/{SECRET}@host/db'}}}}\n",
        "status --debug",
        JOBFLOW,
    ),
    (
        ".fireworks/FW_config.yaml",
        "NO_SUCH: 1\n",
        "status",
        "FireWorks refuses {home}/.fireworks/FW_config.yaml (unknown parameter: NO_SUCH)",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "content", "command", "refusal"), REFUSED)
def test_a_settings_file_of_others_is_named(tmp_path, file, content, command, refusal):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with open_store(tmp_path / DB) as store:
        put_run(store, {"a": crystal(0)}, ["a"])
    taken = ("ATOMATE2_CONFIG_FILE", "JOBFLOW_CONFIG_FILE", "FW_CONFIG_FILE", "SCREEN_DB")
    rest = {name: value for name, value in os.environ.items() if name not in taken}
    ended = subprocess.run(
        [Path(sys.executable).with_name("screen"), *command.split()],
        env={**rest, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert f"screen: {refusal.format(home=tmp_path)}" in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("): correct the line or take it out")
    assert ("Traceback" in ended.stderr) == ("--debug" in command)
    assert SECRET not in ended.stderr
    assert validations(tmp_path / DB) == {}  # no calculation is to blame


# one real calculation


@pytest.mark.dft
def test_aluminium_with_gpaw(screen):
    from workflows.dos.gpaw.installation import missing

    for problem in missing():
        pytest.skip(problem)
    half = 4.05 / 2  # of the cubic lattice constant, Å
    aluminium = Structure([[0, half, half], [half, 0, half], [half, half, 0]], ["Al"], [[0, 0, 0]])
    with open_store(DB) as store:
        run = put_run(store, {"Al": aluminium}, ["Al"])
        put_prediction(store, candidate(run.run_id, "Al", aluminium), [0.4] * EDOS_GRID.size)
    outcome = screen("validate", "--preset", "fast")
    assert outcome.code == 0, outcome.err
    found = validations()["Al"]
    assert (found.state, found.error) == ("done", None)
    assert found.vbm == found.cbm == found.efermi
    assert found.band_gap == 0
    # three free electrons in 16.6 Å^3: D(E_F) = 3 N / 2 E_F = 0.39 states/eV at E_F = 11.7 eV
    around = [v for e, v in zip(EDOS_GRID.centers, found.spectrum, strict=True) if abs(e) < 1.0]
    assert 0.25 < sum(around) / len(around) < 0.55
    assert min(found.spectrum) > 0.1
    assert not found.is_positive
    assert found.wall_time > 0
    assert 0 < found.mae < 0.4
    assert 0 < found.wd < 1.0


def test_magnetic_result_is_told_as_such():
    found = ValidationDoc(
        material_id="m", structure_hash="h", engine="vasp", recipe="r", state="magnetic"
    )
    assert dict(dft_rows(found))["VB gap by vasp"].startswith("magnetic, so no verdict")
    judged = found.model_copy(update={"state": "done", "is_positive": False})
    assert dict(dft_rows(judged))["VB gap by vasp"] is False
    assert _verdict({"state": "magnetic", "is_positive": None}) == "magnetic, no verdict"
