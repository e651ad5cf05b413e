"""What CONTRIBUTING.md names exists: rooms, functions, tests; what it says to type runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```(\w*)\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    for line in text.splitlines()
    if language == "bash"
]
NAMES = sorted(set(re.findall(r"`((?:db|models|screening|workflows)(?:\.\w+)+)`", PAGE)))


def rooms() -> list[str]:
    """Folders of the tree that the page shows."""
    (tree,) = (text for language, text in BLOCKS if not language)
    folders: list[str] = []
    path: list[str] = []
    for indent, name in re.findall(r"^( *)(\w+)/ ", tree, re.MULTILINE):
        path = [*path[: len(indent) // 2], name]
        folders.append("/".join(path))
    return folders


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_code(name: str) -> None:
    resolve_name(name)


def test_files_and_tests_are_there() -> None:
    for path in re.findall(r"`((?:db|models|screening|workflows|tests)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / path).exists(), path
    written = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    for test in re.findall(r"`(test_\w+)`", PAGE):
        assert f"def {test}(" in written, test


def test_every_room_is_in_the_tree() -> None:
    packages = ("db", "models", "screening", "workflows")
    there = {
        str(path.parent.relative_to(ROOT))
        for package in packages
        for path in ROOT.glob(f"{package}/**/__init__.py")
    }
    assert set(rooms()) == there | {"models/zoo", "docs", "tests"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pytest ")])
def test_pytest_takes_the_commands(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m {command} --no-cov --collect-only -q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets
    for target in targets:
        assert f"\n{target}:" in makefile


def test_the_public_workflow_does_what_the_page_says() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    assert matrix["python"][0] == oldest[1]
    assert {each["dependencies"] for each in matrix["include"]} == {"lowest", "newest"}
    assert "mongodb" in job["services"]
