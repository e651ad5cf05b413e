"""The Makefile as it is written; what it calls is a stand-in, since training takes hours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from models.zoo import ZOO

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(card.parent.name for card in ZOO.glob("*/card.json"))
SCREEN = """#!/bin/sh
echo "$*" >> calls
[ "$1" = distill ] && touch "$3"
case "$*" in *"$FAILS"*) mkdir -p models/zoo/$FAILS/.progress; exit 1;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with an environment that has nothing but a program of that name."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    program = tmp_path / ".venv/bin/screen"
    program.parent.mkdir(parents=True)
    program.write_text(SCREEN)
    program.chmod(0o755)
    (tmp_path / "data").mkdir()
    environment = (".venv/bin/python", ".venv/torch", ".venv/installed")
    for name in ("constraints.txt", "pyproject.toml", *environment):
        (tmp_path / name).touch()
    return tmp_path


def surroundings(**variables: str) -> dict[str, str]:
    """That of this process, without what would change where `make` works."""
    unset = ("DATA", "VENV")
    return {k: v for k, v in os.environ.items() if k not in unset} | {"MAKEFLAGS": ""} | variables


def retrain(folder: Path, *variables: str, fails: str = "nowhere") -> tuple[int, list[str]]:
    """Exit status, and what was called."""
    (folder / "calls").write_text("")
    status = subprocess.run(
        ["make", "retrain", *variables],
        cwd=folder,
        check=False,
        env=surroundings(FAILS=fails),
        capture_output=True,
    ).returncode
    return status, (folder / "calls").read_text().splitlines()


def trained(calls: list[str]) -> list[str]:
    """Names of the predictors in calls of `screen train`."""
    return [Path(call.split()[1]).stem for call in calls if call.startswith("train ")]


def test_all_that_ships_is_trained_the_student_after_its_teacher(folder: Path) -> None:
    status, calls = retrain(folder, "DATA=data")
    assert status == 0
    assert sorted(trained(calls)) == SHIPPED
    steps = ("train models/zoo/tight-binding-edos.yaml", "distill ", "--teacher-labels ")
    teacher, lessons, student = (
        next(i for i, call in enumerate(calls) if step in call) for step in steps
    )
    assert teacher < lessons < student
    assert "data/taught.parquet" in calls[lessons]
    assert "data/taught.parquet" in calls[student]
    for call in calls:
        if call.startswith("train "):
            config = ROOT / call.split()[1]
            assert yaml.safe_load(config.read_text())["name"] == config.stem
            assert f"--out models/zoo/{config.stem}" in call
            assert "--resume" not in call


def test_after_an_interruption_it_goes_on(folder: Path) -> None:
    status, calls = retrain(folder, "DATA=data", fails="mat2spec-plus-edos")
    assert status != 0
    done = set(trained(calls)) - {"mat2spec-plus-edos"}
    assert "tight-binding-edos" in done
    status, calls = retrain(folder, "DATA=data")
    assert status == 0
    assert set(trained(calls)) == set(SHIPPED) - done
    assert not any(call.startswith("distill") for call in calls)
    (student,) = [call for call in calls if "mat2spec-plus-edos.yaml" in call]
    assert "--resume" in student


def test_when_all_is_done_it_begins_anew(folder: Path) -> None:
    first, second = retrain(folder, "DATA=data"), retrain(folder, "DATA=data")
    assert first == second


def test_without_data_it_says_what_it_needs(folder: Path) -> None:
    status, calls = retrain(folder)
    assert status != 0
    assert not calls


# Like `python -m venv folder`: it makes all folders above, and fails where another process does so.
PYTHON = """#!/bin/sh
for folder; do :; done
[ "$folder" = .venv ] && sleep 1 && [ -e .venv ] && exit 1
mkdir -p "$folder/bin"
for name in python pip; do printf '#!/bin/sh\\n' > "$folder/bin/$name"; done
chmod +x "$folder"/bin/*
"""


def test_both_environments_can_be_made_at_once(folder: Path) -> None:
    shutil.rmtree(folder / ".venv")
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    targets = (".venv/installed-dev", ".venv/wheel/installed")
    command = ["make", "--jobs=2", *targets, "PYTHON=./python"]
    made = subprocess.run(command, cwd=folder, check=False, env=surroundings(), capture_output=True)
    assert made.returncode == 0, made.stderr
    assert all((folder / target).exists() for target in targets)
