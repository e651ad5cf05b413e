"""The commands of the README and of the documentation, page by page in a folder like a fresh clone.

The pages begin with what a first run of the prototypes has left. To be done in minutes commands
are given small limits (`SMALL`); what a machine lacks, and what takes hours, is skipped with its
reason.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pymongo
import pytest

ROOT = Path(__file__).parents[1]
README = "README.md"
PAGES = (README, *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
FIRST_RUN = "screen run --source prototypes --max-sites 8"
MONGO = "SCREEN_TEST_MONGO_URI"
DATABASE = f"documentation_{uuid.uuid4().hex[:12]}"
LIMIT = 40  # candidates of a run

INSTEAD = {"make demo": "screen run --max-ehull 0.5\nscreen report"}  # but for what it installs
SMALL = (
    (r"(screen run (?!.*--limit).*)", rf"\1 --limit {LIMIT}"),
    (r"(screen validate .*)--limit \d+ --random \d+", r"\1--limit 0 --random 1 --wall-time 15"),
)
ONCE = (  # every page would find the same, and needs nothing that they leave
    "make demo",
    "screen doctor",
    FIRST_RUN,
    "screen run --max-ehull 0.5",
    "screen candidates --out positives.csv",
    "screen show aflow-A_hP2_194_c-Magnesium --plot Mg.png",
    "screen report -o report.html",
    "screen predict MgO.cif",
)
SKIPPED = {
    "make test": "runs this test",
    ".venv/bin/pip install": "installs GPAW",
    "python -m tests.benchmarks.gpaw_reference": "needs hours of DFT and reference spectra",
    "screen fetch": "needs a Materials Project key",
    "--source optimade:": "needs a network; tested against OPTIMADE's own server on loopback",
    "screen train": "needs what `screen fetch` gets",
    "screen distill structures.parquet": "needs structures that no page has",
    "screen learn": "needs structures of the labelled materials",
    "screen search": "needs structures of the labelled materials, and hours of DFT",
    "make retrain": "needs reference spectra and hours",
    "screen benchmark": "needs what `screen fetch` gets",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Each line of the shell blocks, without its comment, and each Python block as a whole."""
    written = []
    for language, text in blocks(page):
        if language == "bash":
            written += [line.split("  #")[0].rstrip() for line in text.splitlines() if line.strip()]
        elif language == "python":
            written.append(text)
    return written


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


def reason_to_skip(page: str, command: str) -> str | None:
    if command in ONCE and page != README:
        return f"{README} runs it"
    for text, reason in SKIPPED.items():
        if text in command:
            return reason
    if re.search("launchpad|lpad|rlaunch", command) and not os.environ.get(MONGO):
        return f"{MONGO} is not set: no server for FireWorks"
    if "validate" in command and importlib.util.find_spec("gpaw") is None:
        return "GPAW is not installed"
    return None


def run(command: str, folder: Path, *, rescores: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in a clone as its reader would, and say what came of it.

    All clones have one cache, empty at first, as on the machine of a user.

    `rescores`: with the second predictor of the default, which the other tests do without.
    """
    unset = {"MP_API_KEY", "SCREEN_DB", "SCREEN_CHECKPOINT", "SCREEN_DEVICE"}
    unset |= {"SCREEN_RESCORE"} if rescores else set()
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    return subprocess.run(
        ["bash", "-ec", f". .venv/bin/activate\n{command}"],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder.parent / "cache")},
        input=f"{DATABASE}\n",  # `lpad reset` wants to be sure
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_clone(folder: Path) -> Path:
    """Fill a folder with what is in a clone after `make demo`; its environment is this Python's."""
    for name in ("db", "models", "screening", "workflows", "launchpad.yaml"):
        (folder / name).symlink_to(ROOT / name)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("screen", "edos"):  # of this checkout, whatever is installed
        script = binaries / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from screening.cli import script\n"
            "if __name__ == '__main__':\n    sys.exit(script())\n"  # as pip writes it
        )
        script.chmod(0o755)
    path = f"{binaries}:{Path(sys.executable).parent}"
    (binaries / "activate").write_text(f"export PATH={path}:$PATH PYTHONPATH={ROOT}\n")
    if uri := os.environ.get(MONGO):
        (folder / "launchpad.yaml").unlink()
        text = f"host: {uri}\nuri_mode: true\nname: {DATABASE}\n"
        (folder / "launchpad.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone with the store of a first run."""
    folder = make_clone(tmp_path_factory.mktemp("first_run"))
    done = run(FIRST_RUN, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder
    if uri := os.environ.get(MONGO):
        with pymongo.MongoClient(uri) as client:
            client.drop_database(DATABASE)


@pytest.fixture(scope="module")
def clone(first_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each page; of all but the README with the store of the first run."""
    folders: dict[str, Path] = {}

    def clone_of(page: str) -> Path:
        if page not in folders:
            folders[page] = folder = make_clone(tmp_path_factory.mktemp("clone"))
            if page != README:
                for name in ("screening.sqlite", "screening.logs"):
                    source = first_run / name
                    (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
            for language, text in blocks(page):
                if language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", text)):
                    (folder / name[1]).write_text(text)
        return folders[page]

    return clone_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page}: {c[:60].strip()}" for page, c in COMMANDS]
)
def test_the_command_runs_as_written(clone: Callable[[str], Path], page: str, command: str) -> None:
    if reason := reason_to_skip(page, command):
        pytest.skip(reason)
    folder = clone(page)
    command = INSTEAD.get(command, command)
    for written, small in SMALL:
        command = re.sub(written, small, command)
    if command.startswith(("import ", "from ")):
        (folder / "block.py").write_text(command)
        command = "python block.py"
    done = run(command, folder, rescores=page == README)
    # Validations are cut short: that all calculations failed is an error.
    failed = "--wall-time 15" in command and "1 of 1 calculations failed" in done.stderr
    assert done.returncode == int(failed), done.stdout + done.stderr
    if not command.startswith("rlaunch"):  # it prints that of a job at its wall-time limit
        assert "Traceback" not in done.stdout + done.stderr
    assert "Warning:" not in done.stderr


def test_nothing_is_skipped_that_is_not_there() -> None:
    assert set(ONCE) <= {command for page, command in COMMANDS if page == README}
    for text in (*INSTEAD, *SKIPPED):
        assert any(text in command for _, command in COMMANDS), text


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_demo_ends_with_what_is_run_instead() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\ndemo:")[2].partition("\n\n")[0]
    steps = [line.strip().removeprefix("$(BIN)/") for line in recipe.splitlines()]
    assert "\n".join(steps[1:]) == INSTEAD["make demo"]
