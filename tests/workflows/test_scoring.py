"""What candidates are judged to be, and what is kept of the predictions."""

from pathlib import Path

import numpy as np
import pytest

from db.collections import PREDICTIONS, Query
from db.open import open_store
from models.crystal import Crystal
from models.spectra.spectrum import EDOS_GRID
from models.training.materials import load_training_materials
from models.zoo import ZOO, model_id
from screening.candidate import Candidate
from screening.gap import GapCriteria, find_gaps
from screening.sources import Source
from tests.conftest import crystal_row
from tests.workflows.screening_examples import documents, run, screening_maker
from workflows import scoring
from workflows.domains import domains


@pytest.fixture
def maker(tmp_path, structure_table):
    return screening_maker(tmp_path, structure_table)


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


@pytest.mark.parametrize(("answers", "n_written"), [(60.0, 2), (0.0, 1)])
def test_ctrl_c_while_predictions_are_written(maker, monkeypatch, answers, n_written):
    """They are written once more, unless the store hangs."""
    write, calls = scoring.write_verdicts, []

    def interrupted_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(scoring, "write_verdicts", interrupted_once)
    monkeypatch.setattr(scoring, "ANSWERS", answers)
    with pytest.raises(KeyboardInterrupt):
        run(maker)
    assert len(calls) == n_written
    with open_store(maker.db) as store:
        (of_run,) = store.runs()
        predicted = store.count(Query(PREDICTIONS))
        judged = store.candidate_counts(of_run.run_id).get("screened", 0)
    assert predicted > 0
    assert judged == (predicted if n_written == 2 else 0)


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
