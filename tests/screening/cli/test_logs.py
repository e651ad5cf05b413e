"""What reaches the screen, what reaches the log, and what reaches neither."""

from __future__ import annotations

import io
import logging
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from db.open import open_store
from screening.cli import main
from tests.conftest import crystal_row
from tests.screening.cli.test_interrupt import start
from tests.workflows.screened_run import crystal, put_run

PASSWORD, KEY, TOKEN = "hush-hush", "k" * 31 + "7", "certificate-secret"


@pytest.fixture
def table(structure_table):
    return structure_table([crystal_row("m-1", 3.3, ["Na", "Cl"])])


def test_each_run_has_a_log_beside_its_database(screen, table, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for _ in range(2):
        assert screen("run", "--source", table, "--db", folder / "my.sqlite").code == 0
    logs = sorted((folder / "my.logs").iterdir())
    assert len(logs) == 2
    text = logs[0].read_text()
    assert f"--source {table}" in text
    assert f"run {logs[0].stem} is done: {{'screened': 1" in text
    assert "without_edos: 1 in, 0 dropped, 1 unknown" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_does_not_speak(screen, table, tmp_path):
    result = screen("run", "--source", table, "--db", tmp_path / "my.sqlite", "--log", "/dev/full")
    assert result.code == 0
    assert "Traceback" not in result.err
    assert "No space left" not in result.err


def test_arguments_that_are_not_utf_8(screen, tmp_path):
    outcome = screen("run", "--source", "a\udce9.cif", "--log", "x.log")
    assert outcome.code == 1
    reason = "its name is not UTF-8, and no run can store it; rename it"
    assert outcome.err.splitlines()[-1] == f"screen: {tmp_path / 'a_.cif'}: {reason}"
    assert "--source a\\udce9.cif" in (tmp_path / "x.log").read_text()


def test_a_failed_run_leaves_the_traceback_in_its_log(screen, table, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workflows.scoring.Scorer.keep", fail)
    outcome = screen("run", "--source", table)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "screen: No space left on device"
    (log,) = (tmp_path / "screening.logs").iterdir()
    assert "Traceback" in log.read_text()


def test_a_file_that_ends_too_early_is_no_interruption(screen, table, tmp_path, monkeypatch):
    def fail(*arguments):
        raise EOFError("marshal data too short")

    monkeypatch.setattr("workflows.scoring.Scorer.keep", fail)
    with pytest.raises(EOFError, match="too short"):
        screen("run", "--source", table)
    (log,) = (tmp_path / "screening.logs").iterdir()
    assert "marshal data too short" in log.read_text()


@pytest.mark.slow
def test_verbose_and_debug(screen, table, tmp_path, capsys, monkeypatch):
    assert "is done" not in screen("run", "--source", table).err
    assert "is done" in screen("run", "--source", table, "--verbose").err
    monkeypatch.setattr(sys, "argv", ["screen", "runs", "--db", "nowhere.sqlite", "--debug"])
    with pytest.raises(SystemExit):
        main()
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("screen: ")
    one = screen("runs", "--db", "nowhere.sqlite", "--log", "nowhere/x.log")
    assert "--log nowhere/x.log" in one.err


@pytest.mark.slow
@pytest.mark.parametrize("password", [PASSWORD, "hu'sh", 'hu"sh', "hu sh"])
def test_secrets_reach_neither_the_log_nor_the_screen(screen, tmp_path, monkeypatch, password):
    monkeypatch.setattr("screening.secrets._known", set())
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setattr("db.mongodb.OPEN_PATIENCE", 0.1)
    monkeypatch.setattr("screening.sources.materials_project.client.ATTEMPTS_TO_CONNECT", 1)
    uri = f"mongodb://ann:{password}@127.0.0.1:9/s?tls=true&tlsCertificateKeyFilePassword={TOKEN}"
    (tmp_path / "launchpad.yaml").write_text(
        f"host: 127.0.0.1\nport: 9\nusername: ann\npassword: {password}\n"
        "mongoclient_kwargs: {serverSelectionTimeoutMS: 100}\n"
    )
    said = ""
    for arguments in (
        ("run", "--source", "mp", "--db", "s.sqlite"),
        ("run", "--source", "prototypes", "--db", uri),
        ("runs", "--db", uri),
        ("db", "copy", uri, "s.sqlite"),
        ("run", "--source", "prototypes", "--db", "s.sqlite", "--where", "launchpad"),
    ):
        outcome = screen(*arguments, "--log", "all.log", "--verbose")
        assert outcome.code != 0
        said += outcome.out + outcome.err
    logs = [tmp_path / "all.log", *tmp_path.glob("*.logs/*")]
    text = said + "".join(log.read_text() for log in logs)
    assert "Traceback" in text
    assert "127.0.0.1:9/s" in text
    for secret in (password, KEY, TOKEN, "ann:"):
        assert secret not in text


@pytest.mark.parametrize("category", [FutureWarning, UserWarning, DeprecationWarning])
def test_warnings_of_libraries_reach_the_log_only(screen, table, tmp_path, monkeypatch, category):
    from workflows.scoring import Scorer

    kept = Scorer.keep

    def warn(*arguments):
        warnings.warn("a library wants attention", category, stacklevel=1)
        logging.getLogger("library").warning("so does another")
        return kept(*arguments)

    monkeypatch.setattr(Scorer, "keep", warn)
    outcome = screen("run", "--source", table)
    assert outcome.code == 0
    assert "attention" not in outcome.err + outcome.out
    (log,) = (tmp_path / "screening.logs").iterdir()
    assert "a library wants attention" in log.read_text()
    assert "so does another" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["database", "launchpad"])
def test_a_database_that_does_not_answer_is_waited_for_aloud(tmp_path, where):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        port = server.getsockname()[1]
        if where == "database":
            arguments = ["runs", "--db", f"mongodb://ann:{PASSWORD}@127.0.0.1:{port}/s"]
        else:
            (tmp_path / "launchpad.yaml").write_text(f"host: 127.0.0.1\nport: {port}\n")
            arguments = ["run", "--source", "prototypes", "--where", "launchpad"]
        process = start(*arguments, cwd=tmp_path)
        connected, _ = server.accept()  # it begins to wait now
        began = time.monotonic()
        assert process.stderr is not None
        told = [(time.monotonic() - began, line) for line in process.stderr]
        assert process.wait(timeout=60) == 1, told
        connected.close()
    waiting = [(when, line) for when, line in told if "does not answer yet; waiting for it" in line]
    assert len(waiting) == 1, told
    assert waiting[0][0] < told[-1][0] - 1, told  # said after 2 s; the attempt ends after 10
    assert told[-1][1].startswith("screen: "), told
    assert PASSWORD not in "".join(line for _, line in told)


def test_both_names_and_the_version(screen, capsys, monkeypatch):
    assert screen("--version").out.startswith("edos-screening ")
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/edos", "runs", "--nonsense"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("edos: no such option: --nonsense")
    code = (
        "import sys; sys.argv = ['edos', 'run', '--help']\n"
        "from screening.cli import script; script()"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "Usage: edos run" in out
    assert "edos run --source prototypes" in out
    scripts = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert 'edos = "screening.cli:script"' in scripts


def test_a_terminal_without_a_character_shows_a_question_mark(screen, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    with open_store("screening.sqlite") as store:
        put_run(store, {"Å ≥ 1": crystal(0)}, ["Å ≥ 1"])
    assert screen("candidates").code == 0
    sys.stdout.seek(0)
    assert "Å ? 1" in sys.stdout.read()


@pytest.mark.slow
def test_every_command_has_examples_and_choices_are_shown(screen):
    from screening.cli.app import EXAMPLES

    groups = {"edos": ["fetch"], "phdos": ["fetch"], "copy": ["db"], "migrate": ["db"]}
    groups |= {f"{name}_model": ["models"] for name in ("show", "pull", "push")}
    for name in EXAMPLES:
        shown = screen(*groups.get(name, []), name.removesuffix("_model"), "--help").out
        assert "Examples:" in shown, name
        assert "--debug" in shown, name
    shown = screen("run", "--help").out
    for choices in ("<auto|cpu|cuda>", "<keep|drop>", "<local|launchpad>", "<valence|conduction>"):
        assert choices in shown
