"""Other criteria than the VB gap, as a user sees them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from db.documents import FirstVerdict
from db.open import open_store
from models.spectra.spectrum import EDOS_GRID
from screening.criteria.registry import find_criterion, parameters_of
from tests.conftest import crystal_row
from tests.workflows.screened_run import crystal, put_run, validation, with_gap

DB = "screening.sqlite"
FLAT = {
    "name": "flat",
    "description": "Many states at the Fermi level.",
    "spectra": "edos",
    "positive": "dos_at_fermi >= 0",
    "score": "dos_at_fermi",
    "unit": "states/eV",
}


@pytest.fixture
def table(structure_table):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg")]
    return structure_table([crystal_row(f"m-{i}", 3.3, pairs[i]) for i in range(4)])


@pytest.fixture
def flat(tmp_path):
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(FLAT))
    return "flat.yaml"


def one_line(outcome, *words):
    assert outcome.code != 0
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("screen: "))
    assert all(word in line for word in words), line


@pytest.mark.slow
def test_every_listing_says_what_was_looked_for(screen, table, flat, tmp_path):
    outcome = screen("run", "--source", table, "--criterion", flat)
    assert "4 predicted positives by flat" in outcome.out
    assert "dos_at_fermi" in outcome.out
    assert not any(word in outcome.out for word in ("VB gap", "width eV", "robust"))
    listed = screen("candidates")
    assert "by flat" in listed.out
    rows = json.loads(screen("candidates", "--json").out)
    assert {row["criterion"] for row in rows} == {"flat"}
    assert all(row["features"]["dos_at_fermi"] == pytest.approx(row["score"]) for row in rows)
    screen("candidates", "--out", "all.csv")
    assert '""dos_at_fermi""' in (tmp_path / "all.csv").read_text()
    assert screen("candidates", "--out", "all.parquet").code == 0
    assert "dos_at_fermi" in pq.read_table("all.parquet").to_pylist()[0]["features"]
    shown = screen("show", "m-1", "--plot", "m-1.svg").out
    assert "│flat " in shown
    assert "score (states/eV)" in shown
    assert "dos_at_fermi (states/eV/cell)" in shown
    assert "VB gap" not in shown
    figure = (tmp_path / "m-1.svg").read_text()
    assert "states/eV/cell" in figure
    assert "threshold" not in figure
    assert "gap:" not in figure
    assert "flat" in screen("runs").out
    assert "flat" in screen("history", "m-1").out
    assert json.loads(screen("runs", "--json").out)[0]["criterion"] == "flat"
    for option in (("--min-width", 1), ("--kind", "gap"), ("--robust",), ("--sort", "width")):
        one_line(screen("candidates", *option), option[0], "has no gaps; its criterion is flat")
    assert "flat" in screen("validate", "--dry-run").out


@pytest.mark.slow
def test_a_run_by_the_vb_gap_does_not_speak_of_criteria(screen, table):
    loose = ("--max-dos", 1000, "--min-width", 0.1, "--max-upper-edge", 5)
    outcome = screen("run", "--source", table, "--criterion", "vb-gap", *loose)
    assert "4 predicted positives" in outcome.out
    assert "by vb-gap" not in outcome.out
    assert "width eV" in outcome.out
    assert "VB gap" in screen("show", "m-1").out
    assert "criterion" not in screen("runs").out + screen("history", "m-1").out
    assert json.loads(screen("candidates", "--json").out)[0]["criterion"] is None


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--criterion", "cb-gap"), ("--band", "conduction")])
def test_a_cb_gap_is_called_so(screen, table, options):
    outcome = screen("run", "--source", table, *options)
    assert "predicted positives by cb-gap" in outcome.out
    assert "width eV" in outcome.out
    assert json.loads(screen("runs", "--json").out)[0]["criterion"] == "cb-gap"
    shown = screen("show", "m-1").out
    assert "CB gap" in shown
    assert "VB gap" not in shown
    assert screen("candidates", "--all", "--min-width", 0).code == 0


@pytest.mark.slow
def test_phonons_have_their_own_axes_and_no_dft(screen, table, tmp_path):
    outcome = screen("run", "--source", table, "--criterion", "phonon-gap", "--json")
    summary = json.loads(outcome.out)
    assert summary["model_id"].startswith("springs-phdos-")
    assert summary["counts"]["screened"] == 4
    shown = screen("show", "m-1", "--plot", "m-1.svg").out
    assert "phonon-gap" in shown
    assert "Wavenumber" in shown
    assert "ao_gap.ratio" in shown
    assert "eV" not in shown.replace("eV/atom", "").replace("band gap (eV)", "")
    figure = (tmp_path / "m-1.svg").read_text()
    assert "Wavenumber (1/cm)" in figure
    assert "eV" not in figure
    assert json.loads(screen("show", "m-1", "--json").out)["grid"]["unit"] == "cm^-1"
    with open_store(DB) as store:
        (candidate,) = store.candidates(summary["run_id"], material_ids=["m-1"])
        store.upsert_validations([validation(candidate, is_gap=True)])  # its eDOS, for another run
    assert "gpaw" not in screen("show", "m-1", "--plot", "m-1.svg").out
    assert "0 disagreements" in screen("candidates", "--disagreements").out
    similar = screen("similar", "m-1").out
    assert "distance cm^-1" in similar
    assert "VB gap" not in similar
    assert "distance on any scale" in screen("similar", "m-1", "--metric", "mae").out
    for command in ("validate", "metrics", "learn"):
        one_line(screen(command), "its criterion phonon-gap judges the phonon DOS, which no DFT")
    assert "phonon" not in screen("history", "m-0", "--json").err


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_one_line(screen, table, flat, tmp_path):
    def run(*options):
        return screen("run", "--source", table, *options)

    one_line(run("--criterion", "steep-egde"), "'steep-egde'; did you mean steep-edge?")
    one_line(run("--criterion", "none.yaml"), "criterion none.yaml: No such file or directory")
    one_line(run("--criterion", flat, "--max-dos", 1), "--max-dos: of vb-gap, not of --criterion")
    one_line(run("--criterion", flat, "--per-atom"), "--per-atom: of vb-gap")
    one_line(run("--criterion", "phonon-gap", "--checkpoint", "mat2spec-edos"), "phonon DOS")
    one_line(run("--criterion", flat, "--checkpoint", "springs-phdos"), "judges the electronic")
    one_line(run("--checkpoint", "springs-phdos"), "--criterion vb-gap judges the electronic DOS")
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(FLAT | {"score": "dos_at_femri"}))
    one_line(run("--criterion", flat), "flat.yaml: score, column 1", "did you mean dos_at_fermi")
    assert not (tmp_path / DB).exists()


@pytest.mark.slow
def test_a_changed_file_cannot_go_on(screen, table, flat, tmp_path):
    screen("run", "--source", table, "--criterion", flat)
    with open_store(DB) as store:
        (run,) = store.runs()
        store.put_run(run.model_copy(update={"state": "interrupted"}))
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(FLAT | {"score": "2 * dos_at_fermi"}))
    one_line(
        screen("run", "--source", table, "--criterion", flat, "--resume"), "differs in criterion"
    )
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(FLAT))
    assert screen("run", "--source", table, "--criterion", flat, "--resume").code == 0


def test_a_division_by_zero_is_named_at_the_end(screen, table, tmp_path):
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(FLAT | {"score": "1 / (n_atoms - 2)"}))
    outcome = screen("run", "--source", table, "--criterion", "flat.yaml")
    assert outcome.code == 1
    assert "4 structures could not be judged: m-0 (no verdict by flat: its score" in outcome.err
    assert "n_atoms = 2" in outcome.err


@pytest.mark.slow
def test_dft_of_another_runs_criterion_is_judged_anew(screen, table, flat):
    """The same calculation is a VB gap for one run and no flat DOS for the other."""
    screen("run", "--source", table, "--criterion", "steep-edge")
    with open_store(DB) as store:
        (run,) = store.runs()
        candidates = {c.material_id: c for c in store.candidates(run.run_id)}
        steep = 6.0 + np.clip(EDOS_GRID.centers, -0.125, 0.125) * 40.0
        gap, other, *_ = (name for name, c in candidates.items() if not c.is_positive)
        store.upsert_validations(
            [
                validation(candidates[gap], is_gap=True, run_ids=[run.run_id]),
                validation(candidates[other], False, spectrum=steep, run_ids=[run.run_id]),
            ]
        )
    shown = screen("show", gap).out
    assert "steep-edge by gpaw" in shown
    assert "slope_at_fermi (1/eV) by gpaw" in shown
    assert "VB gap" not in shown
    differ = screen("candidates", "--disagreements")
    assert "by steep-edge" in differ.out
    assert other in differ.out
    assert "width" not in differ.out
    (row,) = json.loads(screen("candidates", "--disagreements", "--json").out)
    assert (row["predicted_positive"], row["dft_positive"]) == (False, True)
    metrics = screen("metrics")
    assert f"Run {run.run_id} by steep-edge, gpaw" in metrics.out
    assert json.loads(screen("metrics", "--json").out)["metrics"][0]["criterion"] == "steep-edge"


def test_a_calculation_says_by_what_it_was_judged(screen, monkeypatch):
    from tests.workflows.analytic_dos import AnalyticDosMaker

    monkeypatch.setattr("workflows.dos.engines.dos_maker", lambda *_, **__: AnalyticDosMaker())
    with open_store(DB) as store:
        run = put_run(store, {"m-0": crystal(0), "m-1": crystal(1)}, ["m-0"])
        by = parameters_of(find_criterion("steep-edge"))
        store.put_run(run.model_copy(update={"parameters": {"checkpoint": "none"} | by}))
    outcome = screen("validate", "--random", 1, "--json")
    assert outcome.code == 0
    results = json.loads(outcome.out)["results"]
    assert {result["criterion"] for result in results} == {"steep-edge"}
    assert "steep-edge" in outcome.err
    assert "VB gap" not in outcome.err
    with open_store(DB) as store:
        for document in store.validations():
            assert (document.criterion, document.gap) == ("steep-edge", None)
            spectrum = np.array(document.spectrum)
            fermi = (spectrum[63] + spectrum[64]) / 2
            assert document.features["dos_at_fermi"] == pytest.approx(fermi, rel=1e-6)
            assert document.is_positive is not None
    assert with_gap(True).min() == 0.0


def test_first_scores_have_the_unit_of_no_gap(screen):
    with open_store(DB) as store:
        run = put_run(store, {"m-0": crystal(0)}, ["m-0"])
        by = parameters_of(find_criterion("steep-edge"))
        store.put_run(run.model_copy(update={"parameters": {"checkpoint": "none"} | by}))
        first = FirstVerdict(model_id="first-1", is_positive=True, score=0.5)
        (known,) = store.candidates("run-1")
        store.upsert_candidates([known.model_copy(update={"first_verdict": first})])
    out = screen("candidates").out
    assert "first score" in out
    assert "eV" not in out.replace("hull eV/atom", "")


def test_the_criteria_are_listed_with_what_they_are_made_of(screen, flat):
    listed = screen("criteria").out
    for name in ("vb-gap", "cb-gap", "transparent-conductor", "steep-edge", "phonon-gap"):
        assert name in listed
    assert "A gap just below the valence band edge" in listed
    assert listed.count("just below the valence band edge") == 1
    assert "A gap just above the conduction band edge" in listed
    shown = screen("criteria", "phonon-gap").out
    assert "positive: ao_gap.ratio >= min_ratio" in shown
    assert "source: L. Lindsay" in shown
    assert "cm^-1" in shown
    own = json.loads(screen("criteria", flat, "--json").out)
    assert own["score"] == "dos_at_fermi"
    assert own["features"]["dos_at_fermi"] == ["states/eV/cell", "DOS at the Fermi level"]
    assert [c["name"] for c in json.loads(screen("criteria", "--json").out)][:1] == ["vb-gap"]
    assert "max_dos" in screen("criteria", "vb-gap").out
    one_line(screen("criteria", "nothing"), "unknown criterion 'nothing'")
