"""Runs of the whole graph: what becomes of each material, and what jobs hand on."""

import json
from pathlib import Path

import pytest
from jobflow import JobStore, run_locally
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from db.documents import CandidateDoc
from db.open import open_store
from screening.errors import ScreeningError
from tests.models.cells import all_cells
from tests.models.model_examples import structure_row
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.screened_run import plan_validation
from tests.workflows.screening_examples import (
    BAD_ROWS,
    REJECTED_ROWS,
    UNREADABLE_ROWS,
    good_rows,
    run,
    screening_maker,
)
from workflows.domains import Domains
from workflows.hardware import worker_processes
from workflows.local import validate_here
from workflows.reading import open_source_of_run
from workflows.screening import ScreeningFlowMaker, prepare, read_shard
from workflows.shards import OPEN_READERS
from workflows.validation import ValidationFlowMaker

PASSWORD = "correct-horse"


@pytest.fixture
def maker(tmp_path, structure_table):
    return screening_maker(tmp_path, structure_table)


def test_every_material_ends_in_a_state_with_its_reason(maker):
    summary = run(maker)
    with open_store(maker.db) as store:
        found = {c.material_id: c for c in store.candidates(summary["run_id"])}
        stored = store.run(summary["run_id"])
    assert len(found) == 14
    assert all(found[row["material_id"]].state == "screened" for row in good_rows())
    assert all(found[row["material_id"]].state == "rejected" for row in REJECTED_ROWS)
    assert all(found[r["material_id"]].state == "failed" for r in BAD_ROWS + UNREADABLE_ROWS)
    assert "overlap" in found["overlap"].reason
    assert "no neighbour within 8.0 Å" in found["isolated"].reason
    assert "Og" in found["superheavy"].reason
    assert "finite" in found["nan"].reason
    assert "0.7 eV/atom above hull" in found["above-hull"].reason
    assert stored.state == "done"
    assert stored.finished_at is not None
    assert stored.counts["screened"] == 7
    assert stored.counts["failed"] == 4


def test_the_funnel_accounts_for_every_material(maker):
    funnel = {stage["name"]: stage for stage in run(maker)["funnel"]}
    assert funnel["readable"] == {"name": "readable", "entered": 14, "dropped": 1, "unknown": 0}
    assert funnel["energy_above_hull"]["dropped"] == 1
    assert funnel["n_elements"]["dropped"] == 1
    assert funnel["band_gap"]["dropped"] == 1
    assert funnel["nonmagnetic"]["unknown"] == 10


def test_limit_counts_candidates_that_pass(maker):
    maker.limit = 4
    summary = run(maker)
    assert summary["counts"]["screened"] == 4


def test_a_failed_run_says_why(maker):
    maker.checkpoint = str(Path(maker.checkpoint).with_name("nowhere"))
    with pytest.raises(ValueError, match="nowhere"):
        run(maker, "failed")

    maker.checkpoint = ScreeningFlowMaker.checkpoint
    run(maker, "good")
    Path(maker.source).unlink()
    with pytest.raises(ScreeningError, match=r"structures\.parquet"):
        run(maker, "gone")


@pytest.mark.parametrize("begin", [prepare, read_shard])
def test_a_run_that_has_begun_does_not_ask_its_database_again(maker, monkeypatch, begin):
    asked = []

    def opened(source, filters, options):
        asked.append(options.get("refresh", False))
        return open_source_of_run(source, filters, {})

    monkeypatch.setattr("workflows.screening.open_source_of_run", opened)
    hardware = {"device": "cpu", "workers": 1}
    for _ in range(2):
        begin.original("r", maker.db, {"refresh": True}, maker.parameters(), hardware)
        OPEN_READERS.clear()
    assert asked == [True, False]


def test_a_source_that_cannot_be_opened_leaves_no_database(maker):
    options = {"device": "cpu", "workers": 1}
    parameters = maker.parameters() | {"source": "missing.parquet"}
    with pytest.raises(ScreeningError, match=r"missing\.parquet"):
        prepare.original("r", maker.db, {}, parameters, options)
    assert not Path(maker.db).exists()


def test_known_edos_are_not_screened_again(maker, tmp_path):
    known = tmp_path / "known.txt"
    known.write_text("m-0\nm-1\n")
    maker.source_options = {"known_edos": str(known)}
    summary = run(maker)
    funnel = {stage["name"]: stage for stage in summary["funnel"]}
    assert funnel["without_edos"]["dropped"] == 2
    assert funnel["without_edos"]["unknown"] == 0
    assert summary["counts"]["screened"] == 5


def test_several_files_of_known_edos_count_together(maker, tmp_path):
    files = []
    for name in ("m-0", "m-1"):
        files.append(tmp_path / f"{name}.txt")
        files[-1].write_text(name)
    maker.source_options = {"known_edos": [str(file) for file in files]}
    funnel = {stage["name"]: stage for stage in run(maker)["funnel"]}
    assert funnel["without_edos"]["dropped"] == 2


def test_the_flow_survives_json_and_becomes_a_firework(maker):
    flow = json.loads(json.dumps(maker.make("r"), cls=MontyEncoder), cls=MontyDecoder)
    assert [job.name for job in flow.jobs] == ["prepare", "finish"]
    workflow = flow_to_workflow(maker.make("r"), store=JobStore(MemoryStore()))
    assert len(workflow.fws) == 2
    assert len(json.dumps(workflow.to_dict(), cls=MontyEncoder)) < 100_000


@pytest.mark.parametrize("number", ["none", "0", "-1", "1.5"])
def test_a_wrong_number_of_processes_is_told_in_one_line(monkeypatch, number):
    monkeypatch.setenv("SCREEN_WORKERS", number)
    with pytest.raises(ScreeningError, match=f"^SCREEN_WORKERS: '{number}' is no number of"):
        worker_processes()


def test_a_password_never_enters_a_specification(maker):
    maker.db = f"mongodb://ann:{PASSWORD}@db.example.org/screening"
    workflow = flow_to_workflow(maker.make("r"), store=JobStore(MemoryStore()))
    text = json.dumps(workflow.to_dict(), cls=MontyEncoder)
    assert "$SCREEN_DB" in text
    assert PASSWORD not in text
    assert "example.org" not in text


def test_job_outputs_are_small(maker, structure_table):
    maker.source = str(structure_table(good_rows(60), "many.parquet"))
    store = JobStore(MemoryStore())
    run_locally(maker.make(), log=False, store=store, raise_immediately=True)
    outputs = [json.dumps(d["output"], default=str) for d in store.query()]
    assert outputs
    assert max(map(len, outputs)) < 5_000


@pytest.mark.slow
def test_verdicts_are_of_primitive_cells_also_by_dft(maker, structure_table):
    cells = {kind: all_cells("rocksalt")[kind] for kind in ("conventional", "2x1x1")}
    table = structure_table([structure_row(kind, cell) for kind, cell in cells.items()])
    maker.source = str(table)
    run_id = run(maker)["run_id"]
    validating = ValidationFlowMaker(db=maker.db, dos_maker=AnalyticDosMaker())
    with open_store(maker.db) as store:
        screened = store.run(run_id)
        plan = plan_validation(store, screened, "gpaw", RECIPE, n_random=2)
        assert {c.nsites for c in plan.todo} == {2}
        assert {c.material_id: c.cell_multiplicity for c in store.candidates(run_id)} == {
            "conventional": 4,
            "2x1x1": 2,
        }
    for candidate in plan.todo:
        assert validate_here(validating, candidate)["state"] == "done"
    with open_store(maker.db) as store:
        calculated = [v for v in store.validations(run_id=run_id) if v.state == "done"]
    assert calculated
    assert {v.nsites for v in calculated} == {2}
    for validation in calculated:  # D(E) of `free_electrons` is per atom
        assert validation.spectrum == calculated[0].spectrum
        assert max(validation.spectrum) < 2 * 12**0.5


def test_pending_candidates_have_structures_and_rejected_ones_do_not(maker):
    run_id = run(maker)["run_id"]
    with open_store(maker.db) as store:
        found: list[CandidateDoc] = list(store.candidates(run_id, with_structure=True))
    for candidate in found:
        assert (candidate.structure is not None) == (candidate.shard is not None)


def test_reasons_are_counted_in_words():
    words = Domains(2, 4, 3, 0, {"Po": 1}, isolated_atoms=1, magnetic=1, distant=1).in_words()
    assert words == (
        "Positives in the model's domain: 2; near it: 4; out of it: 3 "
        "(not trained on Po; 1 with isolated atoms; 1 magnetic; 1 unlike the training materials)"
    )
