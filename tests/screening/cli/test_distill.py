"""`screen distill` as a user calls it, and a student that learns from its file."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from models.training.card import ModelCard
from screening.cli.fetch import training_set_table
from screening.training_sets.distillation import DistillReport
from tests.conftest import crystal_row
from tests.models.model_examples import write_edos_files

NAME = "mat2spec-edos"  # a fast teacher


@pytest.mark.slow
def test_a_table_is_labelled_and_a_student_learns_from_it(screen, tmp_path, structure_table):
    rows = [crystal_row(f"m-{i}", 3.8 + 0.01 * i, ("Na", "Cl")) for i in range(30)]
    table = structure_table([*rows, crystal_row("unseen", 4.0, ("Na", "Pu"))])
    labelled = screen("distill", table, "taught.parquet", "--teacher", NAME, "--quiet")
    assert labelled.code == 0
    assert "written to taught.parquet" in labelled.out
    assert "the teacher was not trained on Pu" in labelled.out
    assert pq.read_table("taught.parquet").num_rows == 30

    labels, structures = write_edos_files(tmp_path)
    config = {
        "name": "student",
        "labels": [str(labels)],
        "structures": str(structures),
        "architecture": "gatgnn",
        "model": {"encoder": {"layers": 1, "width": 8}, "hidden": [8]},
        "teacher": {"epochs": 1},
        "epochs": 1,
    }
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(config))
    trained = screen("train", "student.yaml", "--teacher-labels", "taught.parquet", "--quiet")
    assert trained.code == 0
    lessons = ModelCard.read(tmp_path / "student").lessons
    assert lessons is not None
    assert lessons.teacher.startswith(NAME)
    assert lessons.n_train + lessons.n_validation + lessons.n_test == 30

    as_dft = ("--labels", "taught.parquet", "--teacher-labels", "taught.parquet")
    mistaken = screen("train", "student.yaml", *as_dft, "--quiet")
    assert mistaken.code == 1
    assert "its labels are those of a teacher" in mistaken.err


def test_json_and_limits(screen, structure_table):
    table = structure_table([crystal_row(f"m-{i}", 4.0, ("Na", "Cl")) for i in range(3)])
    given = ("distill", table, "t.parquet", "--teacher", NAME, "--limit", 2)
    document = json.loads(screen(*given, "--json", "--quiet").out)
    assert document["path"] == "t.parquet"
    assert document["teacher"].startswith(NAME)
    assert (document["written"], document["left_out"]) == (2, {})


def test_what_cannot_be_distilled_is_one_line(screen, structure_table):
    table = structure_table([crystal_row("m-0", 4.0, ("Pu", "U"))])
    refused = screen("distill", table, "t.parquet", "--teacher", NAME)
    assert refused.code == 1
    assert "no structure gets a label" in refused.err
    unknown = screen("distill", table, "t.parquet", "--teacher", "nobody")
    assert unknown.code == 1
    assert "checkpoint nobody: no such folder" in unknown.err
    phonons = screen("distill", table, "t.parquet", "--teacher", "springs-phdos")
    assert phonons.code == 1
    assert "springs-phdos predicts 66 bins from -310 cm^-1; needed are 128" in phonons.err
    folder = screen("distill", table, ".", "--teacher", NAME)
    assert (folder.code, folder.err) == (1, "screen: .: this is a folder; name a file in it\n")
    missing = screen("distill", "missing.parquet", "t.parquet", "--teacher", NAME)
    assert missing.code == 1
    assert "missing.parquet" in missing.err


@pytest.mark.parametrize("read", ["structures.parquet", "."])
def test_labels_replace_no_structures(screen, structure_table, read):
    table = structure_table([crystal_row("m-0", 4.0, ("Na", "Cl"))])
    content = table.read_bytes()
    refused = screen("distill", read, table.name, "--teacher", NAME, "--quiet")
    assert refused.code == 1
    assert f"{table.name} is among the structures that are read" in refused.err
    assert table.read_bytes() == content


def test_rare_reasons_are_one_line():
    left_out = {f"reason {n}": n for n in range(1, 16)}
    report = DistillReport(Path("out.parquet"), "t", 7, left_out)
    table = Console(width=100, file=StringIO())
    table.print(training_set_table("Labels", report, "structures"))
    lines = [line.strip("│ ") for line in table.file.getvalue().splitlines() if "reason" in line]
    assert len(lines) == 13
    assert [line.split()[-1] for line in lines[:2]] == ["15", "14"]
    assert "3 rarer reasons, see --json" in lines[-1]
    assert lines[-1].split()[-1] == "6"
