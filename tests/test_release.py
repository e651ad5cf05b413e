"""What a release says of itself in several places is the same everywhere."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")
release_notes = runpy.run_path(str(ROOT / ".ci" / "release.py"))["release_notes"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_there_is_one_version(project: dict[str, Any], citation: dict[str, Any]) -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+),", changes, re.MULTILINE)
    assert newest
    assert {project["version"], citation["version"], newest[1]} == {version("edos-screening")}


def test_zenodo_and_citation_say_what_the_project_says(
    project: dict[str, Any], citation: dict[str, Any]
) -> None:
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert "version" not in zenodo  # Zenodo takes it from the tag
    assert zenodo["title"] == citation["title"]
    assert zenodo["description"] == citation["abstract"] == project["description"]
    assert zenodo["license"] == citation["license"] == project["license"]
    assert zenodo["keywords"] == citation["keywords"] == project["keywords"]
    assert [one["name"] for one in zenodo["creators"]] == [
        one["name"] for one in citation["authors"]
    ]
    cited = {one["identifier"] for one in zenodo["related_identifiers"]}
    assert cited == {one["doi"] for one in citation["references"]}


@pytest.fixture
def ready(tmp_path: Path, project: dict[str, Any]) -> Path:
    """Files of a release that is ready."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    changes, cited = tmp_path / "CHANGELOG.md", tmp_path / "CITATION.cff"
    old = "## 0.0.1, 2026-01-01\n\n- Old.\n"
    changes.write_text(f"# Changes\n\n## {project['version']}, 2026-12-01\n\n- New.\n\n{old}")
    text = re.sub(r"^date-released: .*\n", "", cited.read_text(), flags=re.MULTILINE)
    cited.write_text(text + "date-released: 2026-12-01\n")
    return tmp_path


def test_the_notes_are_those_of_the_version(ready: Path, project: dict[str, Any]) -> None:
    assert release_notes(f"v{project['version']}", ready) == "- New.\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("CHANGELOG.md", "2026-12-01", "unreleased", "not released on a day"),
        ("CHANGELOG.md", "## ", "## 9.", "has no section"),
        ("CITATION.cff", "\nversion: ", "\nversion: 9.", "CITATION.cff: version is not"),
        ("CITATION.cff", "date-released: 2026", "date-released: 2025", "date-released is not"),
    ],
)
def test_a_release_that_is_not_ready_stops(
    ready: Path, project: dict[str, Any], file: str, old: str, new: str, message: str
) -> None:
    text = (ready / file).read_text()
    assert old in text
    (ready / file).write_text(text.replace(old, new))
    with pytest.raises(SystemExit, match=message):
        release_notes(f"v{project['version']}", ready)


def test_another_tag_is_refused(ready: Path) -> None:
    with pytest.raises(SystemExit, match=r"the tag is v9, the version in pyproject\.toml"):
        release_notes("v9", ready)


def test_the_container_gets_all_that_the_wheel_is_made_of() -> None:
    """The list of what goes into the image's build knows the same files as the sdist."""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    needed = {line[1:] for line in ignore if line.startswith("!")}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    sdist = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert needed == {*sdist, "LICENSE", "README.md", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in needed)
