"""`screen export`, and `screen db copy` of what it wrote."""

import json
import zipfile

import pytest
import yaml

from db.open import open_store
from models.zoo import DEFAULT_EDOS, model_id
from tests.workflows.screened_run import candidate, crystal, put_prediction, put_run, validation
from tests.workflows.screened_run import with_gap as spectrum_of

DB = "screening.sqlite"
HOSTILE = "<script>alert(1)</script>"


def put_exported_run():
    with open_store(DB) as store:
        run = put_run(store, {"mp-1": crystal(0), "mine": crystal(1)}, ["mp-1"])
        for name, structure in (("mp-1", crystal(0)), ("mine", crystal(1))):
            document = candidate(run.run_id, name, structure)
            put_prediction(store, document, spectrum_of(True))
        reference = store.put_raw_dos({"energies": [0.0, 1.0]})
        document = candidate(run.run_id, "mp-1", crystal(0))
        store.upsert_validations([validation(document, True, raw_dos=reference)])
        own = {"model_id": model_id(DEFAULT_EDOS), "source": {"name": f"/home/ann/{HOSTILE}"}}
        parameters = run.parameters | {"checkpoint": str(DEFAULT_EDOS)}
        store.put_run(run.model_copy(update=own | {"parameters": parameters}))


def test_what_is_exported_can_be_copied_into_another_database(screen):
    put_exported_run()
    outcome = screen("export", "--quiet")
    assert outcome.code == 0
    assert outcome.out.startswith("run-1.zip: ")
    assert "2 candidates" in outcome.out
    assert "runs.parameters.checkpoint" in outcome.err
    assert "Data from the Materials Project" in " ".join(outcome.err.split())
    copied = screen("db", "copy", "run-1.zip", "copy.sqlite", "--json", "--quiet")
    assert copied.code == 0
    counts = {row["name"]: row["documents"] for row in json.loads(copied.out)}
    assert counts == {
        "runs": 1, "candidates": 2, "predictions": 2, "validations": 1, "rounds": 0, "raw_dos": 1,
    }  # fmt: skip
    again = json.loads(screen("db", "copy", "run-1.zip", "copy.sqlite", "--json", "--quiet").out)
    assert {row["written"] for row in again} == {0}
    assert "mp-1" in screen("show", "mp-1", "--db", "copy.sqlite").out


def test_the_archive_explains_itself(screen):
    put_exported_run()
    screen("export", "-o", "a.zip", "--no-raw-dos", "--quiet")
    with zipfile.ZipFile("a.zip") as archive:
        texts = {n: archive.read(n).decode() for n in archive.namelist() if "parquet" not in n}
    readme = texts["README.md"]
    assert "# Screening run run-1" in readme
    assert "DFT (gpaw, recipe-1): 1 of 1 predicted positives confirmed" in readme
    assert "raw_dos.parquet" not in readme
    assert "Data from the Materials Project" in readme
    assert "<script" not in readme
    citation = yaml.safe_load(texts["CITATION.cff"])
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "dataset"
    assert citation["references"][1]["doi"] == "10.1038/s41467-022-28543-x"
    assert "A. Jain et al." in citation["message"]
    assert {f"models/{DEFAULT_EDOS.name}/{name}" for name in ("README.md", "card.json")} <= set(
        texts
    )
    assert json.loads(texts["manifest.json"])["raw_dos"] == "left out"
    for text in texts.values():
        assert "/home" not in text
        assert str(DEFAULT_EDOS.parent) not in text


def test_contributions_are_written_and_counted_in_words(screen):
    put_exported_run()
    outcome = screen("export", "--mpcontribs", "c.json.gz", "--project", "mine", "--all")
    assert outcome.code == 0
    assert outcome.out == "c.json.gz: 1 contributions\n"
    assert "1 others have no id of the Materials Project" in outcome.err
    quiet = screen("export", "--mpcontribs", "c.json.gz", "--all", "--json", "--quiet")
    assert json.loads(quiet.out) == {
        "path": "c.json.gz", "written": 1, "without_id": 1, "without_prediction": 0,
    }  # fmt: skip
    assert "others" not in quiet.err
    assert "Data from the Materials Project" in quiet.err


@pytest.mark.slow
def test_wrong_input_is_one_line(screen, tmp_path):
    assert "no such file" in screen("export").err
    put_exported_run()
    for arguments, words in (
        (("--run", "x"), "has no run 'x'"),
        (("-o", "screening.sqlite"), "let its name end in .zip"),
        (("-o", "nowhere/a.zip"), "nowhere/a.zip cannot be written: No such file"),
        (("-o", "a.zip", "--mpcontribs", "c.json.gz"), "--out is for the archive"),
        (("--no-raw-dos", "--mpcontribs", "c.json.gz"), "--no-raw-dos is for the archive"),
        (("--all",), "--all is for --mpcontribs"),
        (("--project", "mine"), "--project is for --mpcontribs"),
        (("--mpcontribs", "c.csv"), "has to end in .json.gz"),
        (("--mpcontribs", "nowhere/c.json.gz"), "cannot be written"),
    ):
        outcome = screen("export", "--quiet", *arguments)
        assert outcome.code == 1
        assert words in " ".join(outcome.err.split())
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04")
    outcome = screen("db", "copy", "bad.zip", "copy.sqlite")
    assert outcome.code == 1
    assert "bad.zip: no zip file" in outcome.err
    assert list(tmp_path.glob("*.unfinished")) == []
