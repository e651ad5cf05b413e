"""What `screen run` judges again by a second predictor when nobody says so."""

import json
import shutil

import pytest

from db.open import open_store
from models.zoo import DEFAULT_EDOS
from screening.second_predictor import RESCORE_WITH, RESCORED
from tests.conftest import crystal_row

PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Ce", "N"), ("Li", "Mg")]
TEACHER = RESCORE_WITH.name


@pytest.fixture
def table(structure_table):
    return structure_table([crystal_row(f"m-{i}", 3.3 + 0.1 * i, PAIRS[i]) for i in range(4)])


@pytest.fixture
def run(screen, table, monkeypatch):
    """Call `screen run` on four structures, of which the second predictor refuses CeN."""
    monkeypatch.delenv("SCREEN_RESCORE")
    return lambda *options: screen("run", "--source", table, *options)


@pytest.fixture
def asked(run, monkeypatch):
    """What is asked of the flow: its second predictor, and how many it is to judge."""
    monkeypatch.setattr("screening.cli.run._report", lambda *_: None)
    made = []
    monkeypatch.setattr("screening.cli.run._execute", lambda maker, *_: made.append(maker))

    def parameters(*options):
        outcome = run(*options)
        assert outcome.code == 0, outcome.err
        found = made.pop().parameters()
        return found.get("rescore", 0)

    return parameters


def stored(db="screening.sqlite"):
    with open_store(db) as store:
        return store.runs()


def interrupted(run_id, db="screening.sqlite"):
    with open_store(db) as store:
        found = store.run(run_id)
        store.put_run(found.model_copy(update={"state": "interrupted"}))


@pytest.mark.slow
def test_the_best_are_judged_again_and_what_is_refused_is_told(run, screen):
    outcome = run()
    words = " ".join(outcome.err.split())
    assert f"3 of them judged again by {TEACHER}: 0 no longer positive, 1 now positive; " in words
    assert f"1 refused, still with the verdict of {DEFAULT_EDOS.name}" in words
    assert stored()[0].parameters["rescore"] == RESCORED
    shown = " ".join(screen("show", "m-2").out.split())
    assert f"not judged again by {TEACHER}: tight binding has no atomic levels for Ce" in shown
    # all of a source may be refused
    words = " ".join(run("--elements", "Ce").err.split())
    assert f"0 of them judged again by {TEACHER}; 1 refused, still with the verdict of" in words


@pytest.mark.slow
def test_zero_or_another_predictor_turns_it_off(asked):
    assert asked() == RESCORED
    assert asked("--checkpoint", DEFAULT_EDOS.name) == RESCORED
    assert asked("--criterion", "steep-edge") == RESCORED
    assert asked("--max-dos", 2) == RESCORED
    assert asked("--rescore", 0) == 0
    assert asked("--checkpoint", TEACHER) == 0
    assert asked("--checkpoint", "mat2spec-edos") == 0
    assert asked("--criterion", "phonon-gap") == 0


@pytest.mark.slow
def test_a_preference_is_for_all_predictors_that_can_be_judged_again(
    asked, run, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCREEN_RESCORE", "5")
    assert asked() == 5
    assert asked("--rescore", 7) == 7
    assert asked("--rescore", 0) == 0
    assert asked("--checkpoint", "mat2spec-edos") == 5
    assert asked("--checkpoint", TEACHER) == 0
    assert asked("--criterion", "phonon-gap") == 0
    copy = tmp_path / "copy" / TEACHER
    shutil.copytree(RESCORE_WITH, copy)
    assert asked("--checkpoint", copy) == 0
    (tmp_path / "screen.yaml").write_text("rescore: 0\n")
    assert asked() == 0
    (tmp_path / "screen.yaml").write_text(f"rescore: 3\ncheckpoint: {TEACHER}\n")
    assert asked() == 0
    typed = run("--rescore", 3)
    assert typed.code != 0
    assert f"--rescore-with {TEACHER}: is the model of the run itself" in typed.err


@pytest.mark.slow
@pytest.mark.parametrize("preferred", [None, "5"])
def test_a_run_of_before_goes_on_without_a_second_predictor(run, monkeypatch, preferred):
    run("--rescore", 0)
    (before,) = stored()
    assert not {"rescore", "rescore_with"} & before.parameters.keys()
    interrupted(before.run_id)
    if preferred:
        monkeypatch.setenv("SCREEN_RESCORE", preferred)
    assert "differs in rescore, rescore_with" in run("--resume", "--rescore", RESCORED).err
    assert run("--resume").code == 0
    (after,) = stored()
    assert (after.state, after.second_model_id) == ("done", None)
    assert after.counts == before.counts


@pytest.mark.slow
def test_of_two_runs_the_one_with_the_same_options_goes_on(run):
    run()
    run("--rescore", 0)
    without, judged = stored()
    for found in (without, judged):
        interrupted(found.run_id)
    assert run("--resume").code == 0
    assert [(r.run_id, r.state) for r in stored()] == [
        (without.run_id, "interrupted"),
        (judged.run_id, "done"),
    ]
    assert run("--resume", "--rescore", 0).code == 0
    assert {r.state for r in stored()} == {"done"}
    interrupted(judged.run_id)
    other = run("--resume", "--rescore", 0)
    assert f"{judged.run_id} differs in rescore, rescore_with" in other.err


def test_json_says_what_was_judged_again(run):
    summary = json.loads(run("--json").out)
    assert summary["parameters"]["rescore"] == RESCORED
    assert (summary["counts"]["rescored"], summary["counts"]["refused"]) == (3, 1)
