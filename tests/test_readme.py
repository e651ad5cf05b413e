"""The commands of the README, one after the other in a folder like a fresh clone.

To be done in minutes they are given small limits (`SMALL`); what a machine lacks, and what takes
hours, is skipped with its reason.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MONGO = "SCREEN_TEST_MONGO_URI"
DATABASE = f"readme_{os.getpid()}"
LIMIT = 40  # candidates of a run

INSTEAD = {"make demo": "screen run --max-ehull 0.5\nscreen report"}  # but for what it installs
SMALL = (
    (r"(screen run (?!.*--limit).*)", rf"\1 --limit {LIMIT}"),
    (r"(screen validate .*)--limit \d+ --random \d+", r"\1--limit 0 --random 1 --wall-time 15"),
)
SKIPPED = {
    "make test": "runs this test",
    ".venv/bin/pip install": "installs GPAW",
    "python -m tests.benchmarks.gpaw_reference": "needs hours of DFT and reference spectra",
    "screen fetch": "needs a Materials Project key",
    "screen train": "needs what `screen fetch` gets",
    "screen learn": "needs structures of the labelled materials",
    "screen search": "needs structures of the labelled materials, and hours of DFT",
    "make retrain": "needs reference spectra and hours",
    "screen benchmark": "needs what `screen fetch` gets",
}


def commands() -> list[str]:
    """Each line of the shell blocks, without its comment, and each Python block as a whole."""
    found = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        if language == "bash":
            found += [line.split("  #")[0].rstrip() for line in text.splitlines() if line.strip()]
        elif language == "python":
            found.append(text)
    return found


COMMANDS = commands()


def reason_to_skip(command: str) -> str | None:
    for text, reason in SKIPPED.items():
        if text in command:
            return reason
    if "launchpad" in command and not os.environ.get(MONGO):
        return f"{MONGO} is not set: no server for FireWorks"
    if "validate" in command and importlib.util.find_spec("gpaw") is None:
        return "GPAW is not installed"
    return None


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what is in a clone after `make demo`, and this Python as its environment."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("db", "models", "screening", "workflows", "launchpad.yaml"):
        (folder / name).symlink_to(ROOT / name)
    for name, text in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(text)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("screen", "edos"):  # of this checkout, whatever is installed
        script = binaries / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from screening.cli import script\nscript()\n"
        )
        script.chmod(0o755)
    path = f"{binaries}:{Path(sys.executable).parent}"
    (binaries / "activate").write_text(f"export PATH={path}:$PATH PYTHONPATH={ROOT}\n")
    uri = os.environ.get(MONGO)
    if not uri:
        yield folder
        return
    (folder / "launchpad.yaml").unlink()
    text = f"host: {uri}\nuri_mode: true\nname: {DATABASE}\n"
    (folder / "launchpad.yaml").write_text(text)
    yield folder
    with pymongo.MongoClient(uri) as client:
        client.drop_database(DATABASE)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda n: COMMANDS[n][:60].strip())
def test_the_command_runs_as_written(clone: Path, number: int) -> None:
    command = COMMANDS[number]
    if reason := reason_to_skip(command):
        pytest.skip(reason)
    command = INSTEAD.get(command, command)
    for written, small in SMALL:
        command = re.sub(written, small, command)
    if command.startswith(("import ", "from ")):
        (clone / "block.py").write_text(command)
        command = "python block.py"
    unset = ("MP_API_KEY", "SCREEN_DB", "SCREEN_CHECKPOINT", "SCREEN_DEVICE")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        ["bash", "-ec", f". .venv/bin/activate\n{command}"],
        cwd=clone,
        env=environment | {"OMP_NUM_THREADS": "1"},
        input=f"{DATABASE}\n",  # `lpad reset` wants to be sure
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if not command.startswith("rlaunch"):  # it prints that of a job at its wall-time limit
        assert "Traceback" not in done.stdout + done.stderr
    assert "Warning:" not in done.stderr


def test_nothing_is_skipped_that_is_not_there() -> None:
    for text in (*INSTEAD, *SKIPPED):
        assert any(text in command for command in COMMANDS), text


def test_the_demo_ends_with_what_is_run_instead() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\ndemo:")[2].partition("\n\n")[0]
    steps = [line.strip().removeprefix("$(BIN)/") for line in recipe.splitlines()]
    assert "\n".join(steps[1:]) == INSTEAD["make demo"]
