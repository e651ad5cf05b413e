"""What this machine has of VASP; flows are made and submitted without any of it."""

from __future__ import annotations

import shlex
import shutil
from os.path import expandvars
from pathlib import Path

from atomate2 import SETTINGS
from pymatgen.core import SETTINGS as PYMATGEN_SETTINGS


def missing() -> list[str]:
    """One line for each thing that this machine lacks to run VASP; empty if it can."""
    problems = []
    if problem := _problem_of_command(SETTINGS.VASP_CMD):
        problems.append(
            f"{problem} (VASP_CMD is {SETTINGS.VASP_CMD!r}): set VASP_CMD in ~/.atomate2.yaml or "
            "ATOMATE2_VASP_CMD in the environment"
        )
    potcars = PYMATGEN_SETTINGS.get("PMG_VASP_PSP_DIR")
    if not potcars:
        problems.append(
            "no POTCAR directory: run pmg config --add PMG_VASP_PSP_DIR /path/to/potcars"
        )
    elif not Path(potcars).is_dir():
        problems.append(f"POTCAR directory {potcars} (PMG_VASP_PSP_DIR) does not exist")
    return problems


def _problem_of_command(line: str) -> str | None:
    try:
        command = shlex.split(expandvars(line))
    except ValueError as error:  # a quote or an escape that does not end
        return f"VASP command cannot be read: {error}"
    if not command:
        return "VASP command is empty"
    programs = [command[0], *(word for word in command[1:] if "vasp" in Path(word).name)]
    lacking = [program for program in programs if shutil.which(program) is None]
    return f"VASP command not found: {', '.join(lacking)}" if lacking else None


def installed() -> str:
    """What is there if nothing is missing; the version of VASP is known when it has run."""
    return "VASP command and POTCARs found"
