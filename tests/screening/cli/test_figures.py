"""`screen figures`."""

import json
import os
import subprocess
import sys

import pytest

from db.open import open_store
from models.zoo import DEFAULT_EDOS, model_id
from tests.workflows.test_paper import put_paper_run

DB = "screening.sqlite"


@pytest.mark.slow
def test_figures_are_written_and_named(screen, tmp_path):
    with open_store(DB) as store:
        put_paper_run(store, positives=1, validated=0)
    outcome = screen("figures", "--out", "paper/figures")
    assert outcome.code == 0
    assert outcome.out.split() == [
        f"paper/figures/{name}" for name in ("figure6.pdf", "figure6.png", "captions.md")
    ]
    reasons = [line[:12] for line in outcome.err.splitlines() if line.startswith("no figure")]
    assert reasons == ["no figure 2:", "no figure 3:", "no figure 5:"]


def test_without_any_figure_the_exit_status_is_1(screen):
    with open_store(DB) as store:
        put_paper_run(store, n=1, positives=0, validated=0)
    outcome = screen("figures")
    assert outcome.code == 1
    assert outcome.out == ""
    document = json.loads(screen("figures", "--json").out)
    assert document["run_id"] == "run-1"
    assert list(document["left_out"]) == ["2", "3", "5", "6"]


def test_wrong_input_is_one_line(screen, tmp_path):
    assert "no such file" in screen("figures", "--db", "none.sqlite").err
    with open_store(DB) as store:
        put_paper_run(store)
    assert "has no run 'x'" in screen("figures", "--run", "x").err
    (tmp_path / "file").write_text("")
    outcome = screen("figures", "--out", "file/figures")
    assert outcome.code == 1
    assert "file/figures: Not a directory" in outcome.err


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    with open_store(tmp_path / DB) as store:
        put_paper_run(store, model=model_id(DEFAULT_EDOS))
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "screening.cli", "figures", "--out", seed]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(files) == 9
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
