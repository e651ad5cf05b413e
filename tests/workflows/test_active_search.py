"""Rounds of a search on both stores, interrupted anywhere, and on a launchpad with real workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from monty.json import MontyEncoder

from db.documents import FilterCount, RoundDoc
from db.open import open_store
from models.errors import ModelError
from models.training.card import ModelCard
from models.zoo import DEFAULT_EDOS, check_name, model_id
from screening.errors import ScreeningError
from screening.second_predictor import RESCORE_WITH, not_judged_again
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.launchpads import ROOT, SECRET, make_site, several_waits, wait_until
from tests.workflows.learning_examples import TRAINED, screened, teach
from tests.workflows.screened_run import crystal, put_run, validation, with_gap
from workflows import active_search
from workflows.active_search import (
    CALCULATED,
    ActiveSearchFlowMaker,
    begin_next_run,
    begin_round,
    calculations_left,
    learn_in_round,
    round_of_validations,
    rounds_of,
)
from workflows.launchpad import open_launchpad, submit_search
from workflows.learning import Learning, NothingToLearnError
from workflows.local import run_flow
from workflows.metrics import run_metrics

N = 10
embedded = pytest.mark.parametrize("db", ["embedded"], indirect=True)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teach(tmp_path_factory.mktemp("taught"))


@pytest.fixture
def maker(db, taught, tmp_path):
    """A search of two rounds: two positives each, and no negative, since all are positive."""
    return ActiveSearchFlowMaker(
        db=db,
        dos_maker=AnalyticDosMaker(log=str(tmp_path / "calculated.log")),
        choice={"limit": 2, "n_random": 1},
        learning=Learning((str(taught.labels),), str(taught.structures), epochs=1, force=True),
        rounds=2,
        models=str(tmp_path / "models"),
        workers=1,
    )


@pytest.fixture
def run_id(db, taught, structure_table):
    return screened(db, taught, structure_table, TRAINED[:N])


def calculated(maker):
    log = Path(maker.dos_maker.log)
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def documents(maker, run_id):
    with open_store(maker.db) as store:
        return rounds_of(store, store.run(run_id))


def facts(document):
    """What of a round does not depend on when and where it was."""
    same = {"number", "state", "choice", "chosen", "controls", "outcomes", "found", "learned"}
    same |= {"left_out", "is_kept", "remark", "error", "before", "after", "difference"}
    return document.model_dump(include=same)


def check_search(maker, first_id):
    """Two rounds that are done, each with a run whose model judged all its candidates."""
    rounds = documents(maker, first_id)
    assert [(r.number, r.state, r.is_kept) for r in rounds] == [
        ("1", "done", True),
        ("2", "done", True),
    ]
    seen: set[str] = set()
    with open_store(maker.db) as store:
        before = store.run(first_id)
        for document in rounds:
            assert document.chosen_in == before.run_id
            assert document.chosen == before.selection[:2]
            assert (document.controls, document.recipe) == ([], RECIPE)
            assert not seen & set(document.chosen)
            seen |= set(document.chosen)
            assert document.outcomes == {"done": 2}
            run = store.run(document.next_run_id)
            assert (run.state, run.parent) == ("done", before.run_id)
            assert run.model_id == document.new_model_id == model_id(Path(document.checkpoint))
            assert run.parameters["checkpoint"] == document.checkpoint
            assert before.model_id == document.model_id
            stage = run.funnel[-1]
            assert (stage.name, stage.entered - stage.dropped) == (CALCULATED, N - len(seen))
            judged = {c.material_id: c for c in store.candidates(run.run_id)}
            assert set(judged) == set(TRAINED[:N]) - seen
            assert {c.model_id for c in judged.values()} == {run.model_id}
            assert {c.state for c in judged.values()} == {"screened"}
            # A model may learn from what came before, and its figures from no candidate.
            assert document.learned == {"training": len(seen), "test": 0}
            assert document.before.n == document.after.n
            (metrics,) = run_metrics(store, before)
            assert (metrics.assessment.counts["tp"], metrics.assessment.counts["fp"]) == (
                len(document.found),
                2 - len(document.found),
            )
            before = run
    for name, value in rounds[0].after:
        assert getattr(rounds[1].before, name) == pytest.approx(value, rel=1e-5), name
    assert sorted(calculated(maker)) == sorted(seen)


@pytest.mark.slow
def test_a_flow_does_all_rounds(maker, run_id):
    run_flow(maker.make(run_id))
    check_search(maker, run_id)
    with pytest.raises(ScreeningError, match="has its 2 rounds; --rounds asks for more"):
        run_flow(maker.make(run_id))
    more = replace(maker, rounds=3)
    newest = documents(maker, run_id)[-1].next_run_id
    run_flow(more.make(newest))  # any run of the search names it
    assert [r.state for r in documents(maker, run_id)] == ["done"] * 3


@pytest.mark.slow
@embedded
def test_a_model_that_is_worse_does_not_judge(maker, run_id, monkeypatch):
    monkeypatch.setattr(active_search, "is_not_worse", lambda difference: False)
    maker = replace(maker, learning=replace(maker.learning, force=False), rounds=1)
    run_flow(maker.make(run_id))
    (document,) = documents(maker, run_id)
    assert (document.state, document.is_kept, document.checkpoint) == ("done", False, None)
    assert document.difference is not None
    assert not Path(maker.models).exists()
    with open_store(maker.db) as store:
        before, after = store.run(run_id), store.run(document.next_run_id)
        assert after.model_id == before.model_id
        # Nothing is predicted again, and what is left keeps its order.
        assert after.selection == before.selection[2:]


@pytest.mark.slow
@embedded
def test_the_best_are_judged_again_in_each_round_of_a_run_where_they_were(
    maker, db, taught, structure_table
):
    run_id = screened(db, taught, structure_table, TRAINED[:N], rescore=3)
    run_flow(replace(maker, rounds=1).make(run_id))
    (document,) = documents(maker, run_id)
    with open_store(maker.db) as store:
        before, after = store.run(run_id), store.run(document.next_run_id)
        assert document.chosen == before.selection[:2]
        assert after.second_model_id == before.second_model_id == model_id(RESCORE_WITH)
        assert before.counts["rescored"] == after.counts["rescored"] == 3
        judged = Counter(c.model_id for c in store.candidates(after.run_id))
        assert judged == {document.new_model_id: N - 2 - 3, after.second_model_id: 3}


def test_what_a_round_found_is_by_the_criterion_of_its_run(tmp_path, monkeypatch):
    def nothing(*_):
        raise NothingToLearnError("nothing new")

    monkeypatch.setattr(active_search, "learn", nothing)
    structures = {name: crystal(i) for i, name in enumerate(("a", "b", "c"))}
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, structures, list(structures))
        a, b, c = store.candidates(run.run_id, sort_by="material_id")
        asked_by_another = validation(a, True, spectrum=with_gap(False))
        store.upsert_validations([asked_by_another, validation(b, True), validation(c, None)])
        document = RoundDoc(
            run_id=run.run_id,
            number="1",
            chosen_in=run.run_id,
            choice={},
            chosen=list(structures),
            engine="gpaw",
            recipe=RECIPE,
            model_id="model-1",
            checkpoint=str(tmp_path / "new"),
            next_run_id="run-2",
        )
        learned = learn_in_round(store, document, Learning())
    assert learned.found == ["b"]
    assert learned.outcomes == {"done": 2, "failed": 1}
    assert learned.n_calculated == 2


def test_a_run_of_a_search_that_was_copied_alone_names_the_one_that_is_missing(tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, {"m": crystal(1)}).model_copy(update={"parent": "run-0"})
        with pytest.raises(ScreeningError, match=r"run run-1 goes on .*`screen export --run run-0"):
            rounds_of(store, run)


def test_what_a_source_could_not_read_is_not_counted_twice(db, taught, structure_table):
    def with_unreadable(rows):
        return structure_table([*rows, rows[0] | {"material_id": "flat", "lattice": [0.0] * 9}])

    run_id = screened(db, taught, with_unreadable, TRAINED[:3])
    with open_store(db) as store:
        run = store.run(run_id)
        assert run.counts["failed"] == 1
        document = RoundDoc(
            run_id=run_id,
            number="1",
            chosen_in=run_id,
            engine="gpaw",
            recipe=RECIPE,
            model_id=run.model_id,
            next_run_id="run-2",
        )
        *_, before, stage = begin_next_run(store, document).funnel
    assert stage.name == CALCULATED
    assert stage.entered == before.entered - before.dropped == 3
    assert stage.dropped == 0


def test_a_next_run_knows_no_refusals_by_the_second_model_of_the_run_before(tmp_path):
    read, refused = "read as P1", not_judged_again("tight-binding-edos", "no levels for Th")
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, {"m": crystal(1)}, ["m"])
        funnel = [FilterCount(name="readable", entered=1, dropped=0)]
        store.put_run(run.model_copy(update={"funnel": funnel}))
        (known,) = store.candidates(run.run_id)
        store.upsert_candidates([known.model_copy(update={"remarks": [read, refused]})])
        document = RoundDoc(
            run_id=run.run_id,
            number="1",
            chosen_in=run.run_id,
            engine="gpaw",
            recipe=RECIPE,
            model_id="model-1",
            checkpoint=str(DEFAULT_EDOS),
            next_run_id="run-2",
        )
        begin_next_run(store, document)
        (left,) = store.candidates("run-2")
    assert left.remarks == [read]


@pytest.mark.slow
@embedded
def test_no_model_judges_what_it_learned_by_another_name(maker, db, taught, structure_table):
    one, other, *rest = TRAINED[:4]

    def with_twin(rows):
        return structure_table([*rows, rows[0] | {"material_id": other}])

    run_id = screened(db, taught, with_twin, [one, *rest])
    with open_store(db) as store:
        (best,) = store.candidates(run_id, material_ids=[one])
        store.upsert_candidates([best.model_copy(update={"score": 9.0})])
        run = store.run(run_id)
        store.put_run(run.model_copy(update={"selection": [one, *rest, other]}))
    run_flow(replace(maker, choice={"limit": 1, "n_random": 0}, rounds=1).make(run_id))
    (document,) = documents(maker, run_id)
    assert document.chosen == [one]
    with open_store(db) as store:
        assert {c.material_id for c in store.candidates(document.next_run_id)} == set(rest)


@pytest.mark.slow
@embedded
def test_failed_calculations_are_no_labels_and_a_search_goes_on(maker, run_id):
    failing = replace(maker.dos_maker, failing="Al", refused="Cu")
    with open_store(maker.db) as store:
        formulas = {c.material_id: c.formula for c in store.candidates(run_id)}
        best = store.run(run_id).selection
    bad = [name for name in best if formulas[name] in ("Al", "Cu")]
    maker = replace(maker, dos_maker=failing, choice={"limit": N, "n_random": 0}, rounds=1)
    run_flow_of_failures(maker, run_id)
    (document,) = documents(maker, run_id)
    assert document.outcomes == {"failed": len(bad), "done": N - len(bad)}
    assert document.learned == {"training": N - len(bad), "test": 0}
    with open_store(maker.db) as store:
        assert store.run(document.next_run_id).counts == {"positive": 0}
        with pytest.raises(ScreeningError, match="no candidate is left to calculate"):
            begin_round(store, run_id, replace(maker, rounds=2))


@pytest.mark.slow
@embedded
def test_a_round_that_can_learn_nothing_says_so_and_the_next_one_begins(maker, run_id):
    maker = replace(maker, dos_maker=replace(maker.dos_maker, refused="Al"), rounds=2)
    with open_store(maker.db) as store:
        run = store.run(run_id)
        aluminium = [c for c in store.candidates(run_id) if c.formula == "Al"][:2]
        best = {"is_positive": True, "score": 9.0}  # which are chosen first
        store.upsert_candidates(c.model_copy(update=best) for c in aluminium)
        chosen = dict.fromkeys([c.material_id for c in aluminium] + run.selection)
        store.put_run(run.model_copy(update={"selection": list(chosen)}))
    run_flow(maker.make(run_id))
    first, second = documents(maker, run_id)
    assert "all 2 calculations failed" in first.remark
    assert (first.is_kept, first.new_model_id, first.outcomes) == (None, None, {"failed": 2})
    assert second.model_id == first.model_id
    assert second.is_kept
    assert not set(second.chosen) & set(first.chosen)


def run_flow_of_failures(maker, run_id):
    """Like the command line: what fails is recorded, and does not end the flow."""
    from workflows.local import validate_here

    with open_store(maker.db) as store:
        document = begin_round(store, run_id, maker)
        left = calculations_left(store, document, maker.dos_maker)
    for candidate in left:
        validate_here(maker.validation_maker(), candidate)
    run_flow(maker.make_learning(document))


# by hand


@pytest.mark.slow
@embedded
def test_what_a_user_calculated_is_a_round_too(maker, run_id):
    with open_store(maker.db) as store:
        with pytest.raises(ScreeningError, match="has no validations; `screen validate` first"):
            round_of_validations(store, store.run(run_id), Path(maker.models))
        document = begin_round(store, run_id, maker)
        candidates = calculations_left(store, document, maker.dos_maker)
        store.put_round(document.model_copy(update={"state": "done"}))  # as if there were none
    for candidate in candidates:
        run_flow(maker.validation_maker().make(candidate))
    with open_store(maker.db) as store:
        by_hand = round_of_validations(store, store.run(run_id), Path(maker.models))
    assert (by_hand.choice, by_hand.chosen, by_hand.state) == (None, document.chosen, "learning")
    run_flow(maker.make_learning(by_hand))
    ended = documents(maker, run_id)[-1]
    assert (ended.state, ended.is_kept, ended.outcomes) == ("done", True, {"done": 2})
    assert ModelCard.read(Path(ended.checkpoint)).name == "tiny-round-2"


def run_of_folder(store, folder):
    """A run with one candidate, whose model is the shipped one in a folder of another name."""
    folder.symlink_to(DEFAULT_EDOS)
    run = put_run(store, {"m": crystal(1)}, ["m"])
    checkpoint = {"checkpoint": str(folder)}
    changes = {"model_id": model_id(DEFAULT_EDOS), "parameters": run.parameters | checkpoint}
    store.put_run(run.model_copy(update=changes))
    return store.run(run.run_id)


def test_recipes_with_stand_ins_are_one_and_a_long_list_is_cut(tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        run = run_of_folder(store, tmp_path / "model")
        (known,) = store.candidates(run.run_id)

        def recipe_of_round(recipes):
            store.upsert_validations(validation(known, True, recipe=r) for r in recipes)
            return round_of_validations(store, run, tmp_path).recipe

        lanthanides = ("Ce", "Pr", "Nd", "Sm", "Gd", "Tb", "Dy", "Ho", "Er", "Tm")
        bare = "gpaw-pbe-standard-8c0a6922"
        assert recipe_of_round(f"{bare}+Y-for-{e}" for e in lanthanides) == bare
        several = recipe_of_round(f"recipe-{i:02}" for i in range(9))
        assert several == f"{bare}, recipe-00, recipe-01, recipe-02, recipe-03 and 5 more"
        long = recipe_of_round(f"a{i}-{'b' * 200}" for i in range(2))
        assert (len(long), long[-3:]) == (256, "...")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("first try", "first_try-round-1"),
        ("modell-ä", "modell-_-round-1"),
        (".hidden", "_hidden-round-1"),
        ("tiny+1.5_b", "tiny+1.5_b-round-1"),
    ],
)
def test_a_model_can_have_the_name_that_is_made_for_it(tmp_path, folder, name):
    with open_store(tmp_path / "s.sqlite") as store:
        run = run_of_folder(store, tmp_path / folder)
        (known,) = store.candidates(run.run_id)
        store.upsert_validations([validation(known, True)])
        with pytest.raises(ModelError, match="'my model': not the name of a model; letters"):
            round_of_validations(store, run, tmp_path, tmp_path / "my model")
        assert store.rounds() == []
        document = round_of_validations(store, run, tmp_path)
    assert Path(document.checkpoint).name == name
    check_name(name)


# interrupted


class StoppedError(Exception):
    """Stands for the end of the process."""


STEPS = (
    ("begin_round", "after"),
    ("calculations_left", "after"),
    ("learn", "before"),
    ("_kept", "after"),
    ("begin_next_run", "before"),
    ("_calculated", "after"),
    ("in_shards", "before"),
    ("end_round", "before"),
)


@pytest.mark.slow
@embedded
def test_interruptions_everywhere_change_nothing(
    maker, run_id, monkeypatch, taught, structure_table, tmp_path
):
    other = replace(maker, db=str(tmp_path / "other.sqlite"), models=str(tmp_path / "others"))
    other = replace(other, dos_maker=replace(maker.dos_maker, log=str(tmp_path / "other.log")))
    other_id = screened(other.db, taught, structure_table, TRAINED[:N])
    run_flow(other.make(other_id))

    for step, when in STEPS:
        whole = getattr(active_search, step)

        def stopped(*arguments, whole=whole, when=when, **options):
            if when == "after":
                whole(*arguments, **options)
            raise StoppedError

        monkeypatch.setattr(active_search, step, stopped)
        with pytest.raises(StoppedError):
            run_flow(maker.make(run_id))
        monkeypatch.setattr(active_search, step, whole)
    run_flow(maker.make(run_id))
    check_search(maker, run_id)
    pairs = zip(documents(maker, run_id), documents(other, other_id), strict=True)
    assert all(facts(ours) == facts(theirs) for ours, theirs in pairs)


@embedded
def test_a_round_is_ended_as_it_was_begun(maker, run_id):
    with open_store(maker.db) as store:
        begin_round(store, run_id, maker)
        changed = replace(maker, dos_maker=OtherRecipe())
        with pytest.raises(ScreeningError, match=f"begun with {RECIPE}, not another"):
            begin_round(store, run_id, changed)


class OtherRecipe(AnalyticDosMaker):
    @property
    def recipe(self) -> str:
        return "another"


# A search in a process of its own that comes to a moment of a round, and no further.
HANGING_SEARCH = """
import json, os, sys, time
from monty.json import MontyDecoder
from tests.workflows.analytic_dos import SECONDS
from workflows import active_search
from workflows.local import run_flow

file, run_id, moment, number = sys.argv[1:]
name = {"calculating": "begin_round", "learning": "learn", "scoring": "in_shards"}[moment]
step, calls = getattr(active_search, name), []

def hanging(*arguments, **options):
    calls.append(name)
    if len(calls) == int(number):
        if moment == "calculating":
            os.environ[SECONDS] = "900"
        else:
            time.sleep(900)
    return step(*arguments, **options)

setattr(active_search, name, hanging)
with open(file) as text:
    maker = json.load(text, cls=MontyDecoder)
run_flow(maker.make(run_id))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["calculating", "learning", "scoring"])
@several_waits
def test_kill_9_loses_and_doubles_nothing(tmp_path, taught, structure_table, moment):
    db = str(tmp_path / "store.sqlite")
    maker = ActiveSearchFlowMaker(
        db=db,
        dos_maker=AnalyticDosMaker(log=str(tmp_path / "calculated.log")),
        choice={"limit": 2, "n_random": 1},
        learning=Learning((str(taught.labels),), str(taught.structures), epochs=1, force=True),
        rounds=2,
        models=str(tmp_path / "models"),
        workers=1,
    )
    run_id = screened(db, taught, structure_table, TRAINED[:N])
    file = tmp_path / "maker.json"
    file.write_text(json.dumps(maker, cls=MontyEncoder))

    def is_at(number):
        rounds = documents(maker, run_id)
        if len(rounds) < number or rounds[number - 1].state != moment:
            return False
        return not set(calculated(maker)).isdisjoint(rounds[number - 1].chosen)

    for number in (1, 2):
        command = [sys.executable, "-c", HANGING_SEARCH, str(file), run_id, moment, str(number)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda n=number, p=process: p.poll() is not None or is_at(n))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    run_flow(maker.make(run_id))
    # A calculation that was cut off has begun twice; its result is there once.
    log = Path(maker.dos_maker.log)
    log.write_text("\n".join(sorted(set(log.read_text().splitlines()))))
    begun = Counter(calculated(maker))
    assert sum(begun.values()) <= 4 + (2 if moment == "calculating" else 0)
    log.write_text("\n".join(f"{name} 0" for name in begun))
    check_search(maker, run_id)
    assert not [
        p
        for p in tmp_path.glob("models/*/*")
        if p.suffix != ".unfinished" and not (p / "card.json").exists()
    ]


# on a launchpad


@pytest.mark.slow
@pytest.mark.mongo
@several_waits
def test_workers_do_all_rounds(tmp_path, mongo_uri, monkeypatch, taught, structure_table):
    site = make_site(tmp_path, mongo_uri)
    monkeypatch.setenv("SCREEN_DB", site.db)
    run_id = screened(site.db, taught, structure_table, TRAINED[:N])
    maker = ActiveSearchFlowMaker(
        db=site.db,
        dos_maker=AnalyticDosMaker(log=str(tmp_path / "calculated.log")),
        choice={"limit": 2, "n_random": 1},
        learning=Learning((str(taught.labels),), str(taught.structures), epochs=1, force=True),
        rounds=2,
        models=str(tmp_path / "models"),
    )
    with open_launchpad(site.launchpad) as pad:
        submit_search(pad, maker, run_id)
        site.work()
        check_search(maker, run_id)
        categories = {f["name"]: f["spec"]["_category"] for f in pad.fireworks.find()}
        assert {name: c for name, c in categories.items() if name.startswith("DFT ")} == {
            "DFT analytic_dos": "gpaw",
            "DFT store_validation": "gpaw",
        }
        assert categories["score_shard"] == "prediction"
        others = ("select", "learn_of_round", "judge_again", "finish", "end_round")
        assert {categories[name] for name in others} == {"screening"}
        stored = json.dumps([*pad.fireworks.find(), *pad.workflows.find()], default=str)
    assert SECRET not in stored
    assert "mongodb://" not in stored
