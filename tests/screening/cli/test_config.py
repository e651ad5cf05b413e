import json

import pytest

from db.open import open_store
from tests.conftest import crystal_row


@pytest.fixture
def settings(screen, monkeypatch):
    """Settings that `screen config` shows: name to value and origin."""
    for name in ("MP_API_KEY_FILE", "CHECKPOINT", "RESCORE", "DEVICE", "LAUNCHPAD"):
        monkeypatch.delenv(f"SCREEN_{name}", raising=False)

    def read(*arguments):
        found = json.loads(screen("config", "--json", *arguments).out)
        return {setting["name"]: (setting["value"], setting["from"]) for setting in found}

    return read


def test_without_settings_there_are_the_defaults(settings):
    assert settings() == {
        "db": ("screening.sqlite", "default"),
        "mp_api_key_file": (None, "default"),
        "checkpoint": (None, "default"),
        "rescore": (None, "default"),
        "device": ("auto", "default"),
        "launchpad": ("launchpad.yaml", "default"),
    }


def test_the_command_line_wins_over_the_file_and_that_over_the_environment(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCREEN_DB", "environment.sqlite")
    assert settings()["db"] == ("environment.sqlite", "SCREEN_DB")
    (tmp_path / "screen.yaml").write_text("db: file.sqlite\ndevice: cpu\n")
    assert settings()["db"] == ("file.sqlite", "screen.yaml")
    assert settings()["device"] == ("cpu", "screen.yaml")
    assert settings("--db", "typed.sqlite")["db"] == ("typed.sqlite", "command line")
    (tmp_path / "screen.yaml").unlink()
    monkeypatch.setenv("SCREEN_DB", "")
    assert settings()["db"] == ("screening.sqlite", "default")


def test_zero_is_a_preference_too(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("SCREEN_RESCORE", "5")
    assert settings()["rescore"] == ("5", "SCREEN_RESCORE")
    (tmp_path / "screen.yaml").write_text("rescore: 0\n")
    assert settings()["rescore"] == ("0", "screen.yaml")
    assert settings("--rescore", 7)["rescore"] == ("7", "command line")


def test_paths_may_begin_with_a_tilde(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    (tmp_path / "screen.yaml").write_text("mp_api_key_file: ~/key\nlaunchpad: ~/launchpad.yaml\n")
    assert settings()["mp_api_key_file"] == ("/home/ann/key", "screen.yaml")
    assert settings()["launchpad"] == ("/home/ann/launchpad.yaml", "screen.yaml")


def test_passwords_are_masked(settings, screen, tmp_path):
    (tmp_path / "screen.yaml").write_text("db: mongodb://ann:hush@db.example.org/s?tls=true\n")
    assert settings()["db"] == ("mongodb://db.example.org/s", "screen.yaml")
    for arguments in (("config",), ("run", "--help"), ("config", "--help"), ("runs", "--help")):
        outcome = screen(*arguments)
        assert outcome.code == 0
        assert "hush" not in outcome.out + outcome.err


@pytest.mark.slow
def test_commands_use_the_settings(screen, structure_table, tmp_path, monkeypatch):
    table = structure_table([crystal_row("m-1", 3.3, ["Na", "Cl"])])
    monkeypatch.setenv("SCREEN_DB", "environment.sqlite")
    assert screen("run", "--source", table).code == 0
    assert screen("run", "--source", table, "--db", "typed.sqlite").code == 0
    (tmp_path / "screen.yaml").write_text("db: file.sqlite\ndevice: cpu\n")
    assert screen("run", "--source", table).code == 0
    for name in ("environment", "typed", "file"):
        with open_store(f"{name}.sqlite") as store:
            assert len(store.runs()) == 1
    assert "file.sqlite: 1 runs" in screen("doctor").out
    (tmp_path / "screen.yaml").write_text("db: file.sqlite\ncheckpoint: nowhere\n")
    outcome = screen("run", "--source", table)
    assert outcome.code != 0
    assert "nowhere" in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dbb: x.sqlite", "no setting dbb; there are db, mp_api_key_file"),
        ("- db", "not a list of settings"),
        ("{", "not YAML"),
        ("device: gpu", "screen.yaml, device: input should be 'auto', 'cpu' or 'cuda'"),
        ("rescore: -1", "screen.yaml, rescore: input should be greater than or equal to 0"),
        ("rescore: yes", "screen.yaml, rescore: a number of candidates is needed"),
        ("rescore: many", "screen.yaml, rescore: input should be a valid integer"),
        ("db: [mongodb://ann:hush@host]", "screen.yaml, db: input should be a valid string"),
    ],
)
def test_a_wrong_file_is_one_line_without_its_values(screen, tmp_path, text, message):
    (tmp_path / "screen.yaml").write_text(text)
    outcome = screen("config")
    assert outcome.code != 0
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert "hush" not in outcome.err


def test_a_wrong_variable_is_named(screen, monkeypatch):
    monkeypatch.setenv("SCREEN_DEVICE", "gpu")
    assert "SCREEN_DEVICE: input should be" in screen("config").err
