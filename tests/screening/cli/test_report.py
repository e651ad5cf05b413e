"""`screen report` on the command line, with what users do wrong."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re

import numpy as np
import pytest

from db.open import open_store
from models.spectra.spectrum import PHDOS_GRID
from tests.conftest import crystal_row
from tests.workflows.reported_run import EVIL, RUN, judged, put_reported_run, rocksalt
from tests.workflows.screened_run import candidate, crystal, put_run

DB = "screening.sqlite"


@pytest.fixture
def run(screen):
    with open_store(DB) as store:
        return put_reported_run(store)


def payload(path) -> dict:
    """What the browser unpacks."""
    (text,) = re.findall(r'<script id="payload" type="text/plain">(\S+)</script>', path.read_text())
    return json.loads(gzip.decompress(base64.b64decode(text)))


def one_line(outcome, *words):
    assert outcome.code != 0
    (line,) = outcome.err.splitlines()
    for word in words:
        assert word in line


@pytest.mark.slow
def test_it_says_what_it_wrote(screen, run, tmp_path):
    outcome = screen("report", "--run", RUN[:8], "-o", "page.html")
    assert outcome.code == 0
    assert re.match(rf"page\.html: run {RUN}, 6 positives, 8 materials, \d\.\d MB", outcome.out)
    document = payload(tmp_path / "page.html")
    assert len(document["materials"]) == 8
    assert set(document["run"]) == {"funnel", "elements", "hull"}
    first = document["materials"][0]["charts"]["spectrum"]
    assert "template" not in first["layout"]
    assert max(len(trace["y"]) for trace in first["data"]) == 128


def test_the_best_positives_and_near_misses_are_as_many_as_asked_for(screen, run, tmp_path):
    assert screen("report", "--positives", 2, "--near-misses", 0, "-q").code == 0
    # beside the two positives, what was calculated: one of these, two others and a negative
    assert len(payload(tmp_path / "report.html")["materials"]) == 4
    text = (tmp_path / "report.html").read_text()
    assert "The 2 best of 6 predicted positives" in text


@pytest.mark.slow
def test_nothing_from_outside_is_markup(screen, run, tmp_path):
    screen("report", "-q")
    text = (tmp_path / "report.html").read_text()
    assert EVIL not in text
    assert "<img src=x" not in text
    for material in payload(tmp_path / "report.html")["materials"]:
        assert "<img src=x" not in material["html"]
        for chart in material["charts"].values():
            assert "<b>" not in json.dumps([trace["name"] for trace in chart["data"]])


def test_the_policy_allows_the_pages_own_scripts_alone(screen, run, tmp_path):
    screen("report", "-q")
    text = (tmp_path / "report.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src &#39;none&#39;" in policy
    assert policy.count("sha256-") == len(re.findall(r"<script>", text)) == 3
    assert "unsafe-eval" not in policy
    assert not re.search(r'(src|href)="(?!#|data:|https://next-gen)', text.partition("payload")[0])


def test_a_run_without_positives(screen, tmp_path):
    with open_store(DB) as store:
        put_run(store, {"m-1": crystal(1)})
        store.upsert_candidates([judged("run-1", "m-1", rocksalt(4.2, ("Mg", "O")), False)])
    assert "0 positives, 1 material," in screen("report").out
    text = (tmp_path / "report.html").read_text()
    for words in (
        "Nothing met the criterion",
        "There are no positives",
        "Nothing has been calculated",
    ):
        assert words in text
    assert set(payload(tmp_path / "report.html")["run"]) == {"funnel", "hull"}


def test_a_run_in_which_nothing_was_screened(screen, structure_table, tmp_path):
    row = crystal_row("m-0", 4.0, ("Na", "Cl"), energy_above_hull=3.0)
    screen("run", "--source", structure_table([row]), "--workers", 1, "-q")
    assert "0 positives, 0 materials" in screen("report").out
    text = (tmp_path / "report.html").read_text()
    assert "Nothing was screened: the filters dropped every structure" in text


def test_documents_of_older_programs(screen, tmp_path):
    """Neither probability, nor domain, nor structure, nor prediction."""
    with open_store(DB) as store:
        put_run(store, {"m-1": crystal(1)}, positives=["m-1"])
        bare = candidate("run-1", "m-2", crystal(2), is_positive=True, score=0.5)
        store.upsert_candidates([bare.model_copy(update={"structure": None})])
    assert screen("report").code == 0
    materials = payload(tmp_path / "report.html")["materials"]
    assert [sorted(material["charts"]) for material in materials] == [["structure"], []]
    assert "There is no predicted spectrum in the store" in materials[0]["html"]
    text = (tmp_path / "report.html").read_text()
    assert "probability" not in text.partition('id="table"')[2].partition("</thead>")[0]
    assert "is gone or has changed" in text  # the model, whose card cannot be shown


def test_a_criterion_on_phonons(screen, structure_table, tmp_path):
    rows = [crystal_row("m-0", 4.1, ("Cs", "Cl")), crystal_row("m-1", 3.3, ("Mg", "O"))]
    source = structure_table(rows)
    assert screen("run", "--source", source, "--criterion", "phonon-gap", "-q").code == 0
    assert screen("report", "-q").code == 0
    document = payload(tmp_path / "report.html")
    spectrum = document["materials"][0]["charts"]["spectrum"]
    assert "1/cm" in spectrum["layout"]["xaxis"]["title"]["text"]
    assert spectrum["layout"]["xaxis"]["range"][0] == PHDOS_GRID.start
    html = document["materials"][0]["html"]
    assert "ao_gap.ratio &gt;= min_ratio" in html  # met or missed
    assert "ao_gap.ratio" in (tmp_path / "report.html").read_text()
    assert "phonon-gap screening" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_spectrum_of_dft_that_is_missing_is_said(screen, run, tmp_path):
    with open_store(DB) as store:
        (document,) = store.validations(material_ids=["mp-1"])
        store.upsert_validations([document.model_copy(update={"spectrum": None, "grid": None})])
    assert screen("report").code == 0
    assert (
        "but its spectrum is missing" in payload(tmp_path / "report.html")["materials"][0]["html"]
    )
    assert "its spectrum is missing" in (tmp_path / "report.html").read_text()


def test_bad_paths_end_in_one_line(screen, run, tmp_path):
    one_line(screen("report", "-o", "no/such/report.html"), "no folder no/such", "make it first")
    one_line(screen("report", "-o", tmp_path), "report", ".html")
    (tmp_path / "a.html").mkdir()
    one_line(screen("report", "-o", "a.html"), "this is a folder")
    one_line(screen("report", "-o", "report.pdf"), "end in .html")
    one_line(screen("report", "--run", "nothing"), "no run 'nothing'")
    one_line(screen("report", "--db", "other.sqlite"), "no such file")
    assert [path.name for path in tmp_path.glob("*.html*")] == ["a.html"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(screen, run, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    one_line(screen("report", "-o", locked / "report.html"), "no permission")


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_page(screen, run, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("models.writing.write_whole", full)
    one_line(screen("report", "-q"), "report.html: No space left on device")
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.slow
def test_five_hundred_positives_are_less_than_ten_megabytes(screen, run, tmp_path):
    """With a band, DFT and noise that does not compress; measured on 25 of them."""
    rng, page = np.random.default_rng(0), tmp_path / "report.html"
    screen("report", "-q")
    without = page.stat().st_size
    with open_store(DB) as store:
        (one,) = store.candidates(RUN, material_ids=["mp-4"], with_structure=True)
        key = ("mp-4", one.structure_hash, one.model_id)
        (prediction,) = store.predictions([key])
        (dft,) = store.validations(material_ids=["mp-1"])
        ids = [f"mp-1{i:04d}" for i in range(25)]
        changes = [
            {"material_id": name, "structure_hash": f"{i:032x}"} for i, name in enumerate(ids)
        ]
        store.upsert_candidates(one.model_copy(update=c) for c in changes)
        noisy = [c | {"spectrum": (9 * rng.random(128)).tolist()} for c in changes]
        store.upsert_predictions(prediction.model_copy(update=c) for c in noisy)
        store.upsert_validations(dft.model_copy(update=c) for c in noisy)
        store.put_run(
            run.model_copy(
                update={
                    "selection": [*run.selection, *ids],
                    "counts": {"screened": 33, "positive": 31},
                }
            )
        )
    screen("report", "-q")
    materials = payload(page)["materials"]
    assert sum("parts" in material["charts"] for material in materials) >= 25
    each = (page.stat().st_size - without) / 25
    assert each > 1000
    assert without + 500 * each < 10e6
