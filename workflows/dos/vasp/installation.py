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
    command = shlex.split(expandvars(SETTINGS.VASP_CMD))
    programs = [command[0], *(word for word in command[1:] if "vasp" in Path(word).name)]
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        problems.append(
            f"VASP command not found: {', '.join(lacking)} (VASP_CMD is {SETTINGS.VASP_CMD!r}): "
            "set VASP_CMD in ~/.atomate2.yaml or ATOMATE2_VASP_CMD in the environment"
        )
    potcars = PYMATGEN_SETTINGS.get("PMG_VASP_PSP_DIR")
    if not potcars:
        problems.append(
            "no POTCAR directory: run pmg config --add PMG_VASP_PSP_DIR /path/to/potcars"
        )
    elif not Path(potcars).is_dir():
        problems.append(f"POTCAR directory {potcars} (PMG_VASP_PSP_DIR) does not exist")
    return problems


def installed() -> str:
    """What is there if nothing is missing; the version of VASP is known when it has run."""
    return "VASP command and POTCARs found"
