"""Ctrl-C as a terminal sends it: to the program and to all of its workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from db.open import open_store
from tests.conftest import crystal_row

PROMPTLY = 30.0  # s; alone on a machine it takes less than one
PAIRS = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg")]

# `screen` that says when the command begins.
TELLING = """
from screening import cli

run = cli._run
cli._run = lambda: (print("begun", flush=True), run())
cli.script()
"""
# `screen run` that keeps each part at once, and goes to sleep when it has more than 300.
SLEEPING = """
import time
from screening.cli import script
from workflows import scoring

keep, kept = scoring.Scorer.keep, 0

def keep_and_sleep(scorer, candidates, predicted):
    global kept
    failed = keep(scorer, candidates, predicted)
    kept += len(candidates)
    if kept > 300:
        time.sleep(90)
    return failed

scoring.Scorer.keep, scoring.KEEP_EVERY = keep_and_sleep, 0
script()
"""


def start(
    *arguments: object, cwd: Path, program: str | None = None, **environment: str
) -> subprocess.Popen[str]:
    what = ["-m", "screening.cli"] if program is None else ["-c", program]
    command = [sys.executable, *what, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool]) -> str:
    """Press Ctrl-C when it is time; what the program said, which it does promptly."""
    for _ in range(3000):
        if when():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=300)
    took = time.monotonic() - began
    out, err = process.communicate()
    assert "Traceback" not in out + err
    assert "Error" not in err
    lines = [line for line in err.splitlines() if "interrupted" in line.lower()]
    assert len(lines) == 1
    assert lines[0].startswith("screen: interrupted")
    assert process.returncode == 130
    assert took < PROMPTLY
    return lines[0]


def predictions(db: Path) -> int:
    with open_store(str(db)) as store:
        return len({(p.material_id, p.structure_hash) for p in _predictions(store)})


def _predictions(store):
    (run,) = store.runs()
    candidates = list(store.candidates(run.run_id))
    keys = [(c.material_id, c.structure_hash, run.model_id) for c in candidates]
    return list(store.predictions(keys))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_the_bar_showed_and_resume_does_the_rest(
    screen, tmp_path, structure_table, workers
):
    rows = [crystal_row(f"m-{i}", 3.2 + 0.0002 * i, PAIRS[i % 4]) for i in range(4000)]
    table = structure_table(rows, "many.parquet")
    db = tmp_path / "s.sqlite"
    options = ("run", "--source", table, "--workers", workers, "--db", db)

    def has_predictions() -> bool:
        if not db.exists():
            return False
        with open_store(str(db)) as store:
            runs = store.runs()
            counts = store.candidate_counts(runs[0].run_id) if runs else {}
        return counts.get("screened", 0) > 300

    line = interrupt(start(*options, cwd=tmp_path, program=SLEEPING), has_predictions)
    assert "--resume" in line
    with open_store(str(db)) as store:
        (run,) = store.runs()
        assert run.state == "interrupted"
        counts = store.candidate_counts(run.run_id)
        kept = len(_predictions(store))
    assert 300 < kept < 4000
    assert counts["screened"] == kept  # others were read, and await the model
    assert sum(counts.values()) <= 4000
    assert run.counts == counts | {"positive": run.counts["positive"]}
    assert "interrupted" in screen("runs", "--db", db).out
    assert screen(*options, "--resume").code == 0
    with open_store(str(db)) as store:
        (run,) = store.runs()
        assert run.state == "done"
        assert run.counts["screened"] == 4000
        assert len(_predictions(store)) == 4000


def test_ctrl_c_before_there_is_anything_to_keep(tmp_path):
    process = start("run", "--source", "prototypes", cwd=tmp_path, program=TELLING)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)  # it imports
    interrupt(process, lambda: True)


@pytest.mark.slow
def test_ctrl_c_in_predict(tmp_path, structure_table):
    rows = [crystal_row(f"m-{i}", 3.2 + 0.0002 * i, PAIRS[i % 4]) for i in range(20_000)]
    table = structure_table(rows, "many.parquet")
    process = start("predict", table, "--workers", 2, cwd=tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        began = time.monotonic()
        interrupt(process, lambda: time.monotonic() - began > 15)
    else:  # two workers and multiprocessing's tracker
        interrupt(process, lambda: len(children.read_text().split()) >= 3)


@pytest.mark.slow
def test_ctrl_c_in_fetch(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        server.settimeout(300)
        process = start(
            "fetch",
            "edos",
            "edos.parquet",
            cwd=tmp_path,
            MP_API_KEY="x" * 32,
            MP_API_ENDPOINT=f"http://127.0.0.1:{server.getsockname()[1]}/",
        )
        server.accept()
        interrupt(process, lambda: True)


def test_ctrl_c_that_falls_into_a_callback_of_the_interpreter_is_not_lost(tmp_path):
    """Such as those that end an import: Python prints what they raise, and goes on."""
    program = """
import signal, time, weakref
from screening import cli

class Module: pass

def busy():
    module = Module()
    reference = weakref.ref(module, lambda _: signal.raise_signal(signal.SIGINT))
    del module
    time.sleep(600)
    print("went on")

cli._run = busy
cli.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=300,  # it does not wait for the end of the sleep
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "screen: interrupted\n"
