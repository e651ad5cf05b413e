"""A DOS engine for tests: the DOS is a formula of the structure, and no DFT is done.

It stands in for GPAW and VASP where a test is about what happens to their documents. Workers
import it by its name, so it lives in a module of its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jobflow import job
from pymatgen.core import Structure

from workflows.dos.base import DosMaker
from workflows.dos.document import DosDocument
from workflows.dos.errors import DosError

RECIPE = "analytic-for-tests"
EFERMI = 5.0  # eV
STEP = 0.01  # eV
SECONDS = "ANALYTIC_DOS_SECONDS"  # how long each calculation of a process takes


def free_electrons(structure: Structure, gap: float = 0.0, **changes) -> DosDocument:
    """Document with D(E) = c sqrt(E - E0), the band bottom E0 6 eV below the VBM.

    Parameters
    ----------
    gap : float
        Band gap in eV, with the VBM at `EFERMI`; the bands above it are shifted rigidly.
    """
    relative = np.round(np.arange(-8.0, 6.0 + STEP, STEP), 6)
    dos = len(structure) * np.sqrt(np.maximum(relative + 6.0, 0.0))
    energies = EFERMI + relative
    if gap:
        zero = int(np.argmin(np.abs(relative)))
        inside = EFERMI + np.array([1e-6, gap - 1e-6])  # the DOS is zero from here to here
        energies = np.concatenate([energies[: zero + 1], inside, energies[zero:] + gap])
        dos = np.concatenate([dos[: zero + 1], [0.0, 0.0], dos[zero:]])
    return document(structure, energies, dos, EFERMI, EFERMI + gap, **changes)


def document(structure, energies, dos, vbm, cbm, **changes) -> DosDocument:
    """A document with this DOS (states/eV/cell at energies in eV)."""
    fields = {
        "structure": structure,
        "engine": "gpaw",
        "engine_version": "none: a formula",
        "recipe": RECIPE,
        "settings": {"formula": "free electrons"},
        "energies": energies,
        "dos": dos,
        "efermi": vbm,
        "vbm": vbm,
        "cbm": cbm,
        "band_gap": cbm - vbm,
        "energy": -1.0,
        "n_electrons": 8.0,
        "kmesh_scf": (1, 1, 1),
        "kmesh_dos": (1, 1, 1),
        "emax": float(energies[-1]),
        "wall_time": 0.5,
    }
    return DosDocument(**(fields | changes))


@job(output_schema=DosDocument)
def analytic_dos(
    structure: Structure,
    material_id: str | None,
    seconds: float,
    log: str | None,
    failing: str,
    together: int = 1,
) -> DosDocument:
    """Take a while, note that it ran, fail if asked to."""
    if log is not None:
        with Path(log).open("a") as file:
            file.write(f"{material_id} {os.getpid()}\n")
        _wait_for_others(Path(log), together)
    time.sleep(float(os.environ.get(SECONDS, seconds)))
    if structure.composition.reduced_formula == failing and not Path(f"{log}.repaired").exists():
        raise DosError(f"{failing}: the density did not converge")
    return free_electrons(structure, material_id=material_id)


def _wait_for_others(log: Path, n: int) -> None:
    """Until so many processes have begun a calculation."""
    end = time.monotonic() + 300
    while len({line.split()[1] for line in log.read_text().splitlines()}) < n:
        assert time.monotonic() < end, f"fewer than {n} processes calculate"
        time.sleep(0.05)


@dataclass
class AnalyticDosMaker(DosMaker):
    """A formula instead of GPAW.

    Parameters
    ----------
    seconds : float
        How long a calculation takes, in s.
    log : str, optional
        File with a line for each calculation that began.
    failing : str
        Formula whose calculation fails, until there is a file ``<log>.repaired``.
    refused : str
        Formula for which no flow can be made.
    together : int
        Calculations wait until so many processes have begun one, as the log has it.
    """

    engine = "gpaw"
    title = "a formula"

    name: str = "analytic_dos"
    seconds: float = 0.0
    log: str | None = None
    failing: str = ""
    refused: str = ""
    together: int = 1

    @property
    def recipe(self) -> str:
        return RECIPE

    @staticmethod
    def missing() -> list[str]:
        return []

    @staticmethod
    def installed() -> str:
        return "a formula"

    def check(self, structure: Structure) -> None:
        if structure.composition.reduced_formula == self.refused:
            raise DosError(f"no data set for {self.refused}")

    def jobs(self, structure: Structure, material_id, source) -> list:
        options = (self.seconds, self.log, self.failing, self.together)
        return [analytic_dos(structure, material_id, *options)]
