"""`screen predict`: the same as `screening.predict`, and one bad file never stops the others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pymatgen.core import Structure

from models.zoo import DEFAULT_EDOS
from screening import GapCriteria, find_gaps, predict
from screening.candidate import Candidate
from screening.errors import ScreeningError
from screening.second_predictor import RESCORE_WITH
from screening.sources import files
from screening.sources.cif import candidates as cif
from tests.models.cells import conventional_rocksalt

EASY = GapCriteria(max_dos=1e4, min_width=0.5, min_upper_edge=-4, max_upper_edge=4)


@pytest.fixture(scope="module")
def hafnium() -> Structure:
    """Rocksalt HfC in its conventional cell, four times the primitive one."""
    return conventional_rocksalt(4.64, "Hf", "C")


@pytest.mark.parametrize("criteria", [None, EASY, GapCriteria(per_atom=True, band="conduction")])
def test_the_verdict_is_that_of_the_command_line(screen, hafnium, criteria, monkeypatch):
    monkeypatch.delenv("SCREEN_RESCORE")
    hafnium.to(filename="hafnium.cif")
    options = [] if criteria is None else (
        [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
         for name, value in criteria.model_dump(exclude_defaults=True).items()]
    )  # fmt: skip
    (row,) = json.loads(screen("predict", "hafnium.cif", "--json", *options).out)["predictions"]
    found = predict("hafnium.cif", device="cpu", criteria=criteria)
    gap = found.gap()
    assert {name: row[name] for name in gap} == gap
    assert row["spectrum"] == found.spectrum.values.tolist()
    assert row == found.row() | {"spectrum": row["spectrum"]}
    alone = find_gaps(found.spectrum, criteria=criteria)  # the number of atoms comes along
    assert alone.row(0) | {"score": alone.score[0]} == gap


@pytest.mark.slow
def test_a_preference_and_an_option_decide_whether_it_is_judged_again(screen, hafnium, monkeypatch):
    monkeypatch.delenv("SCREEN_RESCORE")
    hafnium.to(filename="hafnium.cif")

    def model(*options):
        (row,) = json.loads(screen("predict", "hafnium.cif", "--json", *options).out)["predictions"]
        return row["model_id"].rpartition("-")[0]

    teacher = model()
    assert teacher == RESCORE_WITH.name
    assert model("--rescore", 0) == DEFAULT_EDOS.name
    monkeypatch.setenv("SCREEN_RESCORE", "0")
    assert model() == DEFAULT_EDOS.name
    assert model("--rescore", 1) == teacher
    monkeypatch.setenv("SCREEN_RESCORE", "5")
    assert model("--checkpoint", "mat2spec-edos") == teacher
    assert model("--checkpoint", RESCORE_WITH.name) == teacher  # a preference is not an error
    outcome = screen("predict", "hafnium.cif", "--checkpoint", RESCORE_WITH.name, "--rescore", 1)
    assert outcome.code == 1
    assert "cannot judge again what tight-binding-edos predicts" in outcome.err


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        ("dos.docx", "dos.docx: cannot write this type; use one of "),
        ("no/such/dos.png", "--plot no/such/dos.png: there is no folder no/such; make it first"),
        ("folder.png", "--plot folder.png: this is a folder; name a file in it"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_at_once(
    screen, hafnium, monkeypatch, plot, message
):
    hafnium.to(filename="hafnium.cif")
    Path("folder.png").mkdir()
    monkeypatch.setattr("screening.prediction.predict", lambda *_, **__: pytest.fail("too late"))
    outcome = screen("predict", "hafnium.cif", "--plot", plot)
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.slow
def test_verdicts_are_printed_before_a_plot_fails(screen, hafnium, monkeypatch):
    def full(*_):
        raise ScreeningError("dos.png: No space left on device")

    hafnium.to(filename="hafnium.cif")
    monkeypatch.setattr("screening.report.plots.save_figure", full)
    outcome = screen("predict", "hafnium.cif", "--plot", "dos.png", "--rescore", 0)
    assert outcome.code == 1
    assert "No space left" in outcome.err
    assert "HfC" in outcome.out


FAILED = ["broken", "nowhere", "notes.txt", "table"]


def test_one_bad_file_never_stops_the_others(screen, hafnium):
    hafnium.to(filename="good.cif")
    Path("broken.cif").write_text("data_x\n")
    Path("notes.txt").write_text("hello")
    Path("table.parquet").write_bytes(b"PAR1 no table PAR1")
    given = ("broken.cif", "good.cif", "nowhere.cif", "notes.txt", "table.parquet", "good.cif")
    outcome = screen("predict", *given)
    assert outcome.code == 1
    assert outcome.out.count("HfC") == 2
    note, *lines = outcome.err.splitlines()
    assert note == "1 structure is the same crystal as another"
    assert [line.split(":")[1].strip() for line in lines] == FAILED
    outcome = screen("predict", *given, "--json", "--quiet")
    assert outcome.code == 1
    assert outcome.err.splitlines() == lines
    document = json.loads(outcome.out)
    assert len(document["predictions"]) == 2
    assert [f["material_id"] for f in document["failures"]] == FAILED
    assert all(f["reason"] for f in document["failures"])


def test_whatever_a_reader_raises_is_the_failure_of_its_file(screen, hafnium, monkeypatch):
    hafnium.to(filename="good.cif")
    Path("odd.cif").write_text("# odd\n" + Path("good.cif").read_text())
    real = cif.read_cif

    def raises(text):
        if text.startswith("# odd"):
            raise KeyError("a bug of a reader")
        return real(text)

    monkeypatch.setattr(cif, "read_cif", raises)
    outcome = screen("predict", "odd.cif", "good.cif")
    assert outcome.code == 1
    assert "HfC" in outcome.out
    assert outcome.err == "screen: odd: does not parse: 'a bug of a reader'\n"


def test_remarks_of_a_reader_are_shown(screen, hafnium, monkeypatch):
    hafnium.to(filename="repaired.cif")
    real = files.read_structures

    def with_remark(path):
        for item in real(path):
            yield (
                replace(item, remarks=("hydrogens added",)) if isinstance(item, Candidate) else item
            )

    monkeypatch.setattr(files, "read_structures", with_remark)
    assert "hydrogens added; cell given" in screen("predict", "repaired.cif").out
    (row,) = json.loads(screen("predict", "repaired.cif", "--json").out)["predictions"]
    assert row["remarks"][0] == "hydrogens added"


def test_the_table_fits_eighty_columns(screen, hafnium, monkeypatch):
    import sys

    name = "a_long_name_of_a_file_such_as_people_give_them.cif"
    hafnium.to(filename=name)
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda stream: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    narrow = screen("predict", name, name, "--quiet").out
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in narrow.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum("a_long_name_of_a_file_such_as_people_give_them" in line for line in lines) == 2
    assert "Not shown at this width" in narrow
    wide = screen("predict", name, "--quiet", "--wide").out
    assert "cell given with 8 atoms, reduced to 1/4" in wide
