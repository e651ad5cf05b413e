"""GPAW in a child process, with one OpenMP thread and a wall-time limit, and what it hands back."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers
from pymatgen.core import Structure

from screening.errors import one_line
from workflows.dos.base import check_structure
from workflows.dos.document import DosDocument
from workflows.dos.errors import DosError
from workflows.dos.gpaw.installation import installed, missing
from workflows.dos.gpaw.remarks import remarks, remarks_on_stand_ins
from workflows.dos.gpaw.settings import PAW_ELEMENTS, GpawSettings
from workflows.dos.limited import one_thread_environment, run_limited

DEFAULT_MOMENT = 0.6  # Bohr magnetons of an element without a moment in the MP recipe

_PROJECT = Path(__file__).resolve().parents[3]


def check(structure: Structure) -> None:
    """Refuse what GPAW cannot compute.

    Raises
    ------
    DosError
        If a site is partially occupied or an element has no PAW set; it is named.
    """
    lacking = "GPAW has no PBE data set for {}; use the VASP engine or leave the material out"
    check_structure(structure, PAW_ELEMENTS, lacking)


def symbols(structure: Structure) -> set[str]:
    """Elements of an ordered structure."""
    return {site.specie.symbol for site in structure}


def compute_dos(
    structure: Structure,
    settings: GpawSettings,
    recipe: str,
    wall_time_limit: float = 3600.0,
    material_id: str | None = None,
) -> DosDocument:
    """DOS of a structure with GPAW, now.

    Parameters
    ----------
    structure : Structure
        With its own elements, also where settings have stand-ins for them.
    settings : GpawSettings
    recipe : str
        See :func:`workflows.dos.gpaw.maker.recipe_of`.
    wall_time_limit : float
        In s.
    material_id : str, optional

    Raises
    ------
    DosError
        See :func:`run_gpaw`; also if the DOS misses its window.
    """
    started = time.perf_counter()
    result = run_gpaw("dos", structure, settings, wall_time_limit)
    own = symbols(structure)
    stand_ins = settings.stand_ins(own)
    notes = remarks_on_stand_ins(stand_ins)
    notes += remarks({stand_ins.get(e, e) for e in own}, settings.spin_polarized)
    if result.pop("safer_mixing"):
        notes.append(
            "the density converged only with safer mixing and "
            f"{2 * settings.smearing:g} eV smearing"
        )
    return DosDocument.checked(
        material_id=material_id,
        structure=structure,
        engine="gpaw",
        engine_version=installed(),
        recipe=recipe,
        settings=settings.as_dict() | ({"stand_ins": stand_ins} if stand_ins else {}),
        band_gap=result["cbm"] - result["vbm"],
        wall_time=time.perf_counter() - started,
        is_spin_polarized=settings.spin_polarized,
        warnings=tuple(notes),
        **result,
    )


def run_gpaw(
    task: str, structure: Structure, settings: GpawSettings, wall_time_limit: float
) -> dict[str, Any]:
    """Run GPAW in a child process and read its result.

    GPAW's log is written to ``gpaw-<task>.txt`` in the working directory.

    Parameters
    ----------
    task : {'static', 'relax', 'dos'}
    structure : Structure
        The stand-ins that settings have for its elements are put in their place.
    settings : GpawSettings
    wall_time_limit : float
        In s.

    Returns
    -------
    dict
        See :mod:`workflows.dos.gpaw.worker`.

    Raises
    ------
    DosError
        If GPAW is missing or lacks an element, a step does not converge, or the limit is
        reached.
    """
    for problem in missing():
        raise DosError(problem)
    check(structure)
    stand_ins = settings.stand_ins(symbols(structure))
    computed = [stand_ins.get(site.specie.symbol, site.specie.symbol) for site in structure]
    request = {
        "task": task,
        "settings": asdict(settings),
        "cell": structure.lattice.matrix.tolist(),
        "numbers": [atomic_numbers[symbol] for symbol in computed],
        "frac_coords": structure.frac_coords.tolist(),
        "magmoms": _initial_moments(computed) if settings.spin_polarized else None,
    }
    log = Path(f"gpaw-{task}.txt").resolve()
    with tempfile.TemporaryDirectory(prefix="gpaw-") as folder:
        request_file, result_file = Path(folder, "request.json"), Path(folder, "result.json")
        request_file.write_text(json.dumps(request))
        command = [sys.executable, "-m", "workflows.dos.gpaw.worker"]
        status = run_limited(
            [*command, str(request_file), str(result_file)],
            limit=wall_time_limit,
            log=log,
            environment=one_thread_environment(_with_project_on_path(os.environ)),
        )
        if status != 0 or not result_file.exists():
            last = one_line(_last_line(log))  # short, so that the log is named in what is stored
            raise DosError(f"GPAW ended with status {status}: {last} (log: {log})")
        result: dict[str, Any] = json.loads(result_file.read_text())
    if "error" in result:
        raise DosError(f"{structure.composition.reduced_formula}: {result['error']} (log: {log})")
    return result


def _with_project_on_path(environment: Mapping[str, str]) -> dict[str, str]:
    paths = [str(_PROJECT), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _initial_moments(computed: Iterable[str]) -> list[float]:
    """The Materials Project's initial moments, in Bohr magnetons, all parallel."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    moments = MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]
    return [float(moments.get(symbol, DEFAULT_MOMENT)) for symbol in computed]
