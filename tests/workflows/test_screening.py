import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from db.collections import PREDICTIONS, Query
from db.documents import CandidateDoc
from db.open import open_store
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from models.training.materials import load_training_materials
from models.zoo import ZOO, model_id
from screening.candidate import Candidate
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.gap import GapCriteria, find_gaps
from screening.sources import Source, open_source
from screening.sources.parquet import ParquetSource
from tests.conftest import crystal_row
from tests.models.cells import all_cells
from tests.models.model_examples import structure_row
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.screened_run import plan_validation
from workflows.domains import Domains, domains
from workflows.hardware import worker_processes
from workflows.local import run_flow, validate_here
from workflows.progress import reporting_to
from workflows.reading import CandidateReader
from workflows.runs import READ, resumable_run
from workflows.screening import ScreeningFlowMaker
from workflows.validation import ValidationFlowMaker

PASSWORD = "correct-horse"


def good_rows(n=7):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Sn", "Te")]
    return [crystal_row(f"m-{i}", 3.3 + 0.1 * i, pairs[i % len(pairs)]) for i in range(n)]


BAD_ROWS = [
    crystal_row("overlap", 3.0, ["Na", "Cl"], frac_coords=[0, 0, 0, 0, 0, 0.01]),
    crystal_row("isolated", 30.0, ["Ar"]),
    crystal_row("superheavy", 4.0, ["Og", "Na"]),
]
REJECTED_ROWS = [
    crystal_row("above-hull", 4.0, ["Na", "Cl"], energy_above_hull=0.7),
    crystal_row("insulator", 4.0, ["Na", "Cl"], band_gap=5.0),
    crystal_row("five-elements", 6.0, ["Na", "Cl", "Mg", "O", "K"]),
]
UNREADABLE_ROWS = [crystal_row("nan", 4.0, ["Na"], frac_coords=[float("nan"), 0, 0])]


@pytest.fixture
def maker(tmp_path, structure_table):
    table = structure_table(good_rows() + BAD_ROWS + REJECTED_ROWS + UNREADABLE_ROWS)
    db = str(tmp_path / "s.sqlite")
    return ScreeningFlowMaker(db=db, source=str(table), shard_size=3, rescore=0)


def run(maker, run_id=None):
    return run_flow(maker.make(run_id))


def documents(db, run_id):
    with open_store(db) as store:
        found = store.candidates(run_id, with_structure=True)
        return {c.material_id: c.model_dump(exclude={"run_id"}) for c in found}


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


def test_predictions_have_spectra_in_states_per_cell_and_the_papers_verdict(maker):
    summary = run(maker)
    model = model_id(Path(maker.checkpoint))
    with open_store(maker.db) as store:
        candidates = list(store.candidates(summary["run_id"], state="screened"))
        keys = [(c.material_id, c.structure_hash, model) for c in candidates]
        predictions = {p.material_id: p for p in store.predictions(keys)}
    assert len(predictions) == 7
    for candidate in candidates:
        prediction = predictions[candidate.material_id]
        assert len(prediction.spectrum) == 128
        assert min(prediction.spectrum) >= 0
        # valence electrons of two atoms within 4 eV: a few to a few tens of states
        assert 0.1 < sum(prediction.spectrum) * prediction.grid.width < 100
        assert prediction.gap.is_gap == candidate.is_positive
        assert prediction.score == candidate.score


def test_predictions_say_how_far_the_members_and_the_training_materials_are(maker):
    maker.rescore, maker.rescore_with = 2, str(ZOO / "tight-binding-edos")
    summary = run(maker)
    with open_store(maker.db) as store:
        of_run = store.run(summary["run_id"])
        candidates = list(store.candidates(summary["run_id"], state="screened"))
        first, second = (
            list(store.predictions([(c.material_id, c.structure_hash, model) for c in candidates]))
            for model in (of_run.model_id, of_run.second_model_id)
        )
    assert len(first) == 7
    assert len(second) == 2
    assert all(p.member_spread > 0 and p.training_distance > 0 for p in first)
    assert all(p.member_spread > 0 and p.training_distance > 0 for p in second)


def test_a_prediction_of_an_older_program_is_made_once_more(maker):
    first = run(maker)
    with open_store(maker.db) as store:
        old = list(store.find(Query(PREDICTIONS)))
        store.upsert_predictions(
            p.model_copy(update={"training_distance": None, "member_spread": None}) for p in old
        )
    second, third = run(maker), run(maker)
    counts = [(s["counts"]["predicted"], s["counts"]["reused"]) for s in (first, second, third)]
    assert counts == [(7, 0), (7, 0), (0, 7)]
    assert documents(maker.db, second["run_id"]) == documents(maker.db, first["run_id"])


def test_looser_criteria_change_the_verdict_and_not_the_prediction(maker):
    first = run(maker)
    maker.criteria = {"max_dos": 1000.0, "min_width": 0.1, "max_upper_edge": 5.0}
    second = run(maker)
    assert (first["counts"]["predicted"], second["counts"]["predicted"]) == (7, 0)
    assert second["counts"]["reused"] == 7
    assert second["counts"]["positive"] == 7
    with open_store(maker.db) as store:
        model = model_id(Path(maker.checkpoint))
        for candidate in store.candidates(second["run_id"], state="screened"):
            key = (candidate.material_id, candidate.structure_hash, model)
            (prediction,) = store.predictions([key])
            assert candidate.gap.criteria["max_dos"] == 1000.0
            assert prediction.gap.criteria["max_dos"] == 1.0


def test_limit_counts_candidates_that_pass(maker):
    maker.limit = 4
    summary = run(maker)
    assert summary["counts"]["screened"] == 4


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [("read", 0), ("scored", 0), ("scored", 1)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(maker, stop_at, tmp_path):
    undisturbed = run(maker, "whole")
    whole, maker.db = maker.db, str(tmp_path / "broken.sqlite")
    seen = Counter()

    def interrupt(stage, done, total):
        if (stage, seen[stage]) == stop_at:
            raise StoppedError
        seen[stage] += 1

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    run_id = resumable_run(maker.db, maker.parameters()).run_id
    assert run_id == "broken"
    resumed = run(maker, run_id)
    assert resumed["funnel"] == undisturbed["funnel"]
    assert documents(maker.db, "broken") == documents(whole, "whole")
    with open_store(maker.db) as store, open_store(whole) as other:
        assert store.run("broken").selection == other.run("whole").selection
        assert store.run("broken").state == "done"
    with pytest.raises(ScreeningError, match="no unfinished run"):
        resumable_run(maker.db, maker.parameters())


def parquet_rows(monkeypatch):
    """Numbers of the rows of tables that are looked at from now on."""
    rows, item = [], ParquetSource._item

    def noted(self, table, k, row, seen):
        rows.append(row - 1)
        return item(self, table, k, row, seen)

    monkeypatch.setattr(ParquetSource, "_item", noted)
    return rows


@pytest.mark.parametrize(
    ("limit", "max_sites"),
    [(None, None), (7, 2)],  # a filter that looks at cells needs those of all
)
def test_what_was_stored_before_an_interruption_is_not_made_again(
    maker, limit, max_sites, tmp_path, monkeypatch
):
    monkeypatch.setattr("workflows.reading.READ_BATCH", 3)
    monkeypatch.setattr("workflows.streaming.READ_BATCH", 3)
    maker = replace(maker, limit=limit, filters={"max_sites": max_sites})
    undisturbed = run(replace(maker, db=str(tmp_path / "undisturbed.sqlite")))
    made = []
    block = CandidateReader._block

    def noted(self, judged, passed):
        made.extend(item.item.material_id for item in judged)
        return block(self, judged, passed)

    def interrupt(stage, done, total):
        if stage == "read" and len(made) >= 6:
            raise StoppedError

    monkeypatch.setattr(CandidateReader, "_block", noted)
    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "stopped")
    with open_store(maker.db) as store:
        n_stored = sum(store.candidate_counts("stopped").values())
    assert n_stored == 6
    before = list(made)
    made.clear()
    rows = parquet_rows(monkeypatch)
    resumed = run(maker, "stopped")
    assert resumed["funnel"] == undisturbed["funnel"]
    assert set(made).isdisjoint(before)
    assert rows[0] == 6
    expected = documents(str(tmp_path / "undisturbed.sqlite"), undisturbed["run_id"])
    assert documents(maker.db, "stopped") == expected


def counted(maker, n):
    """Funnel of the first items of a source."""
    filters = ScreeningFilters()
    funnel = Funnel.of(filters)
    for candidate in islice(open_source(Path(maker.source)), n):
        funnel.add(filters.judge(candidate))
    return funnel.as_dicts()


@pytest.mark.parametrize(
    ("what", "first"),
    [("noted by an older program", 0), ("of other filters", 0), ("killed before it was noted", 3)],
)
def test_a_run_goes_on_from_what_it_has_noted(maker, tmp_path, monkeypatch, what, first):
    monkeypatch.setattr("workflows.reading.READ_BATCH", 3)
    undisturbed = run(replace(maker, db=str(tmp_path / "undisturbed.sqlite")))

    def interrupt(stage, done, total):
        seen[stage] += done
        if seen["read"] >= 9:
            raise StoppedError

    seen = Counter()
    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "stopped")
    with open_store(maker.db) as store:
        stopped = store.run("stopped")
        assert stopped.source[READ] == counted(maker, 6)
        assert stopped.funnel == []
        noted = {
            "noted by an older program": [],
            "of other filters": counted(maker, 6)[:-1],
            "killed before it was noted": counted(maker, 3),
        }
        source = stopped.source | {READ: noted[what]}
        store.put_run(stopped.model_copy(update={"source": source}))
    rows = parquet_rows(monkeypatch)
    assert run(maker, "stopped")["funnel"] == undisturbed["funnel"]
    assert rows == list(range(first, 14))
    expected = documents(str(tmp_path / "undisturbed.sqlite"), undisturbed["run_id"])
    assert documents(maker.db, "stopped") == expected
    with open_store(maker.db) as store:
        assert READ not in store.run("stopped").source


def test_a_run_is_resumed_with_the_same_model_wherever_it_lies(maker, tmp_path):
    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    copy = tmp_path / "elsewhere" / Path(maker.checkpoint).name
    shutil.copytree(maker.checkpoint, copy)
    maker.checkpoint = str(copy)
    assert resumable_run(maker.db, maker.parameters()).run_id == "broken"
    assert run(maker, "broken")["counts"]["screened"] == 7
    card = copy / "sumnorm-kl.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": "0" * 64}))
    with open_store(maker.db) as store:
        store.put_run(store.run("broken").model_copy(update={"state": "interrupted"}))
    with pytest.raises(ScreeningError, match="broken differs in checkpoint"):
        resumable_run(maker.db, maker.parameters())


def test_resuming_with_other_options_names_the_difference(maker):
    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    maker.limit = 2
    with pytest.raises(ScreeningError, match="broken differs in limit"):
        resumable_run(maker.db, maker.parameters())


def test_a_source_that_changed_cannot_be_resumed(maker, structure_table):
    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    structure_table(good_rows(3))
    with pytest.raises(ScreeningError, match="content of the source is another"):
        run(maker, "broken")


def test_a_failed_run_says_why(maker):
    maker.checkpoint = str(Path(maker.checkpoint).with_name("nowhere"))
    with pytest.raises(ValueError, match="nowhere"):
        run(maker, "failed")

    maker.checkpoint = ScreeningFlowMaker.checkpoint
    run(maker, "good")
    Path(maker.source).unlink()
    with pytest.raises(ScreeningError, match=r"structures\.parquet"):
        run(maker, "gone")


def test_a_checkpoint_that_changes_under_way_ends_the_run(maker, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(maker.checkpoint, checkpoint)
    maker.checkpoint = str(checkpoint)

    def change(stage, done, total):
        if stage == "read":
            card = json.loads((checkpoint / "sumnorm-kl.json").read_text())
            card["weights_sha256"] = "0" * 64
            (checkpoint / "sumnorm-kl.json").write_text(json.dumps(card))

    with pytest.raises(ScreeningError, match="has changed since it began"), reporting_to(change):
        run(maker, "changed")
    with open_store(maker.db) as store:
        assert "has changed since it began" in store.run("changed").error


def test_known_edos_are_not_screened_again(maker, tmp_path):
    known = tmp_path / "known.txt"
    known.write_text("m-0\nm-1\n")
    maker.source_options = {"known_edos": str(known)}
    summary = run(maker)
    funnel = {stage["name"]: stage for stage in summary["funnel"]}
    assert funnel["without_edos"]["dropped"] == 2
    assert funnel["without_edos"]["unknown"] == 0
    assert summary["counts"]["screened"] == 5


def test_the_flow_survives_json_and_becomes_a_firework(maker):
    flow = json.loads(json.dumps(maker.make("r"), cls=MontyEncoder), cls=MontyDecoder)
    assert [job.name for job in flow.jobs] == ["prepare", "finish"]
    workflow = flow_to_workflow(maker.make("r"), store=JobStore(MemoryStore()))
    assert len(workflow.fws) == 2
    assert len(json.dumps(workflow.to_dict(), cls=MontyEncoder)) < 100_000


class ScoredError(Exception):
    pass


@pytest.fixture
def scored_with(maker, monkeypatch):
    """Device and processes with which a scoring job predicts."""

    class Predictor:
        def __init__(self, device):
            self.device = device

        def predict_parts(self, crystals, workers):
            raise ScoredError(self.device, workers)

    monkeypatch.setattr(
        "workflows.streaming.deferred_predictor", lambda _, device: Predictor(device)
    )

    def score(device, workers):
        maker.device, maker.workers = device, workers
        with pytest.raises(ScoredError) as scored:
            run(maker)
        return scored.value.args

    return score


def test_a_worker_brings_its_own_device_and_cores(scored_with, monkeypatch):
    monkeypatch.delenv("SCREEN_DEVICE", raising=False)
    monkeypatch.delenv("SCREEN_WORKERS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 7}, raising=False)
    assert scored_with(None, None) == ("auto", 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert scored_with(None, None) == ("auto", 8)
    monkeypatch.setenv("SCREEN_DEVICE", "cuda")
    monkeypatch.setenv("SCREEN_WORKERS", "12")
    assert scored_with(None, None) == ("cuda", 12)
    assert scored_with("cpu", 1) == ("cpu", 1)  # of a run in this process


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


def test_a_run_from_before_cells_were_reduced_goes_on_without(maker, structure_table):
    rows = [structure_row(kind, cell) for kind, cell in all_cells("rocksalt").items()]
    maker.source = str(structure_table(rows))

    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "old")
    with open_store(maker.db) as store:
        old = store.run("old")
        parameters = {k: v for k, v in old.parameters.items() if k != "keep_cell"}
        store.put_run(old.model_copy(update={"parameters": parameters, "funnel": []}))
    with pytest.raises(ScreeningError, match="old differs in keep_cell"):
        resumable_run(maker.db, maker.parameters())
    run(maker, "old")
    with open_store(maker.db) as store:
        found = {c.material_id: c for c in store.candidates("old")}
    assert found["conventional"].nsites == 8
    assert found["conventional"].cell_multiplicity is None


def test_what_a_process_of_its_own_reads_is_the_same(maker):
    source, filters = open_source(Path(maker.source)), ScreeningFilters()
    reader = CandidateReader("r", filters, 3, limit=6, keep_cell=False, trained=None)
    funnel, other = Funnel.of(filters), Funnel.of(filters)
    here = list(reader.blocks(source, funnel))
    assert here == list(reader.blocks_from_process(source, other))
    assert other == funnel
    assert source.can_move


def test_a_run_whose_predictions_are_known_loads_no_torch(maker, structure_table):
    rows = good_rows() + REJECTED_ROWS + UNREADABLE_ROWS
    maker.source = str(structure_table(rows, "good.parquet"))
    run(maker)
    code = (
        "import sys\n"
        "from workflows.local import run_flow\n"
        "from workflows.screening import ScreeningFlowMaker\n"
        f"maker = ScreeningFlowMaker(db={maker.db!r}, source={maker.source!r}, rescore=0)\n"
        "assert run_flow(maker.make())['counts']['reused'] == 7\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pending_candidates_have_structures_and_rejected_ones_do_not(maker):
    run_id = run(maker)["run_id"]
    with open_store(maker.db) as store:
        found: list[CandidateDoc] = list(store.candidates(run_id, with_structure=True))
    for candidate in found:
        assert (candidate.structure is not None) == (candidate.shard is not None)


# what a person needs to disbelieve a verdict


def test_candidates_carry_their_domain_and_their_verdict_per_atom(maker, structure_table):
    rows = [
        crystal_row("familiar", 4.12, ["Cs", "Cl"]),
        crystal_row("strange", 4.4, ["Mg", "O"]),
        crystal_row("unseen", 3.4, ["Ce", "N"]),
        crystal_row("isolated", 7.5, ["Ar"]),
        crystal_row("superheavy", 4.0, ["Og", "Na"]),
        crystal_row("rejected", 3.4, ["Mg", "O"], band_gap=5.0),
    ]
    maker.source = str(structure_table(rows, "domain.parquet"))
    maker.criteria = {"max_dos": 5.0, "min_width": 0.1, "max_upper_edge": 5.0}
    summary = run(maker)
    with open_store(maker.db) as store:
        found = {c.material_id: c for c in store.candidates(summary["run_id"])}
        model = model_id(Path(maker.checkpoint))
        predictions = {
            p.material_id: p
            for p in store.predictions(
                (c.material_id, c.structure_hash, model) for c in found.values() if c.structure_hash
            )
        }
        counted = domains(store, summary["run_id"])
    expected = {
        "familiar": ([], False, False, "yes"),
        "strange": ([], False, True, "no"),
        "unseen": (["Ce"], False, True, "no"),
        "superheavy": (["Og"], None, True, "no"),
        "rejected": (None, None, None, None),
    }
    for name, domain in expected.items():
        c = found[name]
        facts = c.unseen_elements, c.has_isolated_atoms, c.out_of_domain, c.in_domain
        assert facts == domain, name
    materials = load_training_materials(Path(maker.checkpoint))
    for name, prediction in predictions.items():
        percentile = materials.percentile(prediction.training_distance)
        assert found[name].training_percentile == percentile
        assert found[name].exceeds_training_cells is False
    assert found["isolated"].has_isolated_atoms
    assert found["isolated"].out_of_domain
    for name, prediction in predictions.items():
        per_atom = GapCriteria(**maker.criteria, per_atom=True)
        gaps = find_gaps(EDOS_GRID, np.array([prediction.spectrum]), per_atom, [prediction.nsites])
        assert found[name].is_positive_per_atom == gaps.is_gap[0]
    positives = [c for c in found.values() if c.is_positive]
    assert counted.outside == sum(bool(c.out_of_domain) for c in positives)
    assert counted.inside == sum(c.in_domain == "yes" for c in positives)
    assert counted.near == sum(c.in_domain == "near" for c in positives)
    assert counted.unseen_elements.get("Ce", 0) == found["unseen"].is_positive
    # a run that reuses the predictions knows as much
    again = run(maker)
    assert again["counts"]["reused"] == len(predictions)
    assert documents(maker.db, again["run_id"]) == documents(maker.db, summary["run_id"])


def test_reasons_are_counted_in_words():
    words = Domains(2, 4, 3, 0, {"Po": 1}, isolated_atoms=1, magnetic=1, distant=1).in_words()
    assert words == (
        "Positives in the model's domain: 2; near it: 4; out of it: 3 "
        "(not trained on Po; 1 with isolated atoms; 1 magnetic; 1 unlike the training materials)"
    )


def test_remarks_of_a_reader_are_kept_and_a_checkpoint_without_a_card_is_not_known(
    maker, monkeypatch
):
    class Reader(Source):
        name, description, fingerprint = "files", "a file", "f"

        def __iter__(self):
            crystal = Crystal(np.eye(3) * 3.4, [[0, 0, 0]], np.array([13]))
            remarks = ("sites within 0.01 Å of each other were merged",)
            yield Candidate("m", crystal, 0.0, 0.0, remarks=remarks)

    monkeypatch.setattr("workflows.screening.open_source_of_run", lambda *_: Reader())
    monkeypatch.setattr("models.training.card.trained_elements", lambda _: None)
    monkeypatch.setattr("workflows.scoring.trained_elements", lambda _: None)
    monkeypatch.setattr("workflows.scoring.load_training_materials", lambda _: None)
    summary = run(maker)
    with open_store(maker.db) as store:
        (found,) = store.candidates(summary["run_id"])
    assert found.remarks == ["sites within 0.01 Å of each other were merged"]
    assert (found.unseen_elements, found.out_of_domain, found.in_domain) == (None, None, None)
    assert found.has_isolated_atoms is False
