"""What others install: the sdist and the wheel, and the program where there is nothing else.

`make check-wheel` runs all of it; `make test` leaves out what installs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest

from models.zoo import ZOO

ROOT = Path(__file__).parents[1]
PACKAGES = ("db", "models", "screening", "workflows")
LARGEST_WHEEL = 40e6  # bytes; 30e6 of them are weights
NOT_SHIPPED = ("tests", "benchmarks", "examples", "docs", "results")
NOT_SHIPPED_KINDS = (".ipynb", ".pkl", ".pt", ".pth", ".ckpt", ".sqlite", ".pyc", ".so")

pytestmark = pytest.mark.slow


def build(source: Path, out: Path, *kinds: str) -> list[Path]:
    options = ("--no-isolation", "--outdir", str(out))  # without a download
    command = [sys.executable, "-m", "build", *options, *kinds, str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = build(ROOT, tmp_path_factory.mktemp("sdist"), "--sdist")
    return path


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the sdist alone, as pip does without a wheel."""
    (path,) = build(unpacked, tmp_path_factory.mktemp("wheel"), "--wheel")
    return path


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_of_packages() -> set[str]:
    """What git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository, so nobody knows which files belong to it")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def is_shipped(name: str) -> bool:
    return not set(PurePosixPath(name).parts[:-1]) & set(NOT_SHIPPED)


def test_the_wheel_has_what_the_packages_have_and_nothing_else(wheel: Path) -> None:
    files = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert files == {name for name in files_of_packages() if is_shipped(name)}
    assert not {name for name in files if name.endswith(NOT_SHIPPED_KINDS)}
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    for part in ZOO.glob("*/*.safetensors"):
        assert f"models/zoo/{part.parent.name}/{part.name}" in files
    for name in ("criteria/shipped/phonon-gap.yaml", "report/templates/page.html"):
        assert f"screening/{name}" in files
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_no_file_names_a_place_on_this_machine(wheel: Path) -> None:
    places = {str(ROOT), str(Path.home()), sys.prefix} - {"/root"}
    for name, data in contents(wheel).items():
        assert not any(place.encode() in data for place in places), name


def test_the_wheel_of_the_sdist_is_that_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    (own,) = build(ROOT, tmp_path, "--wheel")
    digests = [
        {name: hashlib.sha256(data).hexdigest() for name, data in contents(each).items()}
        for each in (wheel, own)
    ]
    assert digests[0] == digests[1]


def test_the_sdist_has_no_tests_and_no_results(unpacked: Path) -> None:
    top = {path.name for path in unpacked.iterdir()}
    files = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt"}
    assert top == {*PACKAGES, *files, ".gitignore", "PKG-INFO", "pyproject.toml"}


def test_the_metadata_says_what_it_is(wheel: Path) -> None:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    facts = message_from_bytes(contents(wheel)[name])
    assert facts["License-Expression"] == "MIT"
    assert facts["Requires-Python"] == ">=3.11"
    assert facts["Description-Content-Type"] == "text/markdown"
    assert {"dashboard", "gpaw", "hub"} <= set(facts.get_all("Provides-Extra"))
    assert any(file.endswith("licenses/LICENSE") for file in contents(wheel))


# Where nothing is of the repository.


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Folder of the programs of an environment with the wheel and what it needs in it."""
    if not (folder := os.environ.get("SCREEN_TEST_WHEEL")):
        pytest.skip("SCREEN_TEST_WHEEL names no environment with what the wheel needs")
    programs = ROOT / folder / "bin"
    for command in (("uninstall", "--yes", "edos-screening"), ("install", "--no-index", wheel)):
        subprocess.run(
            [programs / "pip", "--quiet", *command],
            check=True,
            cwd=wheel.parent,
            env=outside(programs.parent),
            timeout=300,
        )
    return programs


def outside(folder: Path) -> dict[str, str]:
    """Environment of a user who has no repository."""
    unset = ("PYTHONPATH", "MP_API_KEY", "VIRTUAL_ENV", "GPAW_CONFIG")
    kept = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("SCREEN_")}
    return kept | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    lattice, sites = "0 a a\na 0 a\na a 0".replace("a", "2.105"), "0 0 0\n0.5 0.5 0.5"
    (folder / "MgO.poscar").write_text(f"MgO\n1.0\n{lattice}\nMg O\n1 1\nDirect\n{sites}\n")
    return folder


def call(installed: Path, workplace: Path, *command: str) -> str:
    environment = outside(installed.parent) | {"HOME": str(workplace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(installed / command[0]), *command[1:]],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.wheel
def test_nothing_comes_from_the_repository(installed: Path, workplace: Path) -> None:
    program = (
        "import json, sys, screening.cli.app, workflows.screening, models.predictor, db.open\n"
        "print(json.dumps([m.__file__ for m in list(sys.modules.values())"
        " if getattr(m, '__file__', None)]))"
    )
    files = json.loads(call(installed, workplace, "python", "-c", program))
    own = [file for file in files if f"{os.sep}screening{os.sep}" in file]
    assert own
    assert all(Path(file).is_relative_to(installed.parent) for file in own)
    elsewhere = [Path(file) for file in files if not Path(file).is_relative_to(installed.parent)]
    assert not [file for file in elsewhere if file.is_relative_to(ROOT)]


@pytest.mark.wheel
def test_a_screening_runs_from_structures_to_verdicts(installed: Path, workplace: Path) -> None:
    assert "Usage" in call(installed, workplace, "screen", "--help")
    assert call(installed, workplace, "edos", "--version").split()[1] == version("edos-screening")
    checked = json.loads(call(installed, workplace, "screen", "doctor", "--json"))
    usable = {one["what"]: one["usable"] for one in checked}
    assert usable["software"]
    assert usable["checkpoint"]
    call(installed, workplace, "screen", "run", "--source", "prototypes", "--limit", "20")
    listing = call(installed, workplace, "screen", "candidates", "--state", "screened", "--json")
    candidates = json.loads(listing)
    assert candidates
    assert all(one["probability"] is not None for one in candidates)
    name = candidates[0]["material_id"]
    call(installed, workplace, "screen", "show", name, "--plot", "spectrum.png")
    call(installed, workplace, "screen", "report", "-o", "report.html")
    assert name in (workplace / "report.html").read_text(encoding="utf-8")
    predicted = json.loads(call(installed, workplace, "screen", "predict", "MgO.poscar", "--json"))
    assert len(predicted["predictions"][0]["spectrum"]) == 128
    models = json.loads(call(installed, workplace, "screen", "models", "--json"))
    assert {one["name"] for one in models} == {path.parent.name for path in ZOO.glob("*/card.json")}
    assert all(one["usable"] for one in models)


@pytest.mark.wheel
def test_it_needs_no_more_than_it_says(installed: Path, workplace: Path) -> None:
    call(installed, workplace, "python", "-m", "pip", "check")
