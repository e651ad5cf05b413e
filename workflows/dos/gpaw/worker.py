"""The process in which GPAW runs: ``python -m workflows.dos.gpaw.worker REQUEST RESULT``.

REQUEST is a JSON file with ``task`` ('static', 'relax' or 'dos'), ``settings`` (fields of
:class:`~workflows.dos.gpaw.settings.GpawSettings`), ``cell`` (Å), ``numbers``, ``frac_coords``
and ``magmoms`` (Bohr magnetons, or null). RESULT is a JSON file with the numbers, or with
``error``, one line. GPAW gets a process of its own because the number of OpenMP threads must be
set before Python starts, and because only a process can be stopped at a wall-time limit.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from models.writing import write_whole
from workflows.dos.bands import SMALL_GAP, band_edges
from workflows.dos.gpaw.settings import GpawSettings, k_mesh
from workflows.dos.gpaw.tetrahedra import BandMesh

BELOW_VBM, ABOVE_CBM = 15.0, 8.0  # eV that the DOS covers
BAND_BUFFER = 4  # bands that are iterated but need not converge
DOS_ATTEMPTS = 3
MAX_SCF_STEPS = 100
MAX_BAND_STEPS = 150
MAX_RELAX_STEPS = 100


class WorkerError(Exception):
    """A calculation that cannot succeed; the message is one line."""


def main(request_file: Path, result_file: Path) -> None:
    """Do what a request asks for and write the result, whole or not at all.

    Parameters
    ----------
    request_file, result_file : Path
        See the module.
    """
    _watch_parent()
    warnings.filterwarnings("ignore")
    request = json.loads(request_file.read_text())
    try:
        result = run(request)
    except WorkerError as error:
        result = {"error": str(error)}
    write_whole(result_file, json.dumps(result))


def _watch_parent() -> None:
    """End this process when standard input closes, which it does when the parent dies."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock the interpreter needs to shut down
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Result of a request, in JSON values.

    Raises
    ------
    WorkerError
        If the self-consistent density, the bands or the relaxation do not converge.
    """
    settings = GpawSettings(**request["settings"])
    atoms = Atoms(
        numbers=request["numbers"],
        cell=request["cell"],
        scaled_positions=request["frac_coords"],
        pbc=True,
        magmoms=request["magmoms"],
    )
    task = {"static": static, "relax": relax, "dos": density_of_states}[request["task"]]
    return _with_safer_mixing(lambda safer: task(atoms, settings, safer))


def _with_safer_mixing(task: Callable[[bool], dict[str, Any]]) -> dict[str, Any]:
    """Run a task, and once more with safer mixing if its density does not converge."""
    from gpaw import ConvergenceError

    try:
        return {**task(False), "safer_mixing": False}
    except ConvergenceError:
        print("density did not converge; once more with safer mixing", flush=True)
    try:
        return {**task(True), "safer_mixing": True}
    except ConvergenceError:
        raise WorkerError(
            f"self-consistency not reached in {MAX_SCF_STEPS} steps, nor in "
            f"{3 * MAX_SCF_STEPS} with safer mixing"
        ) from None


def symmetric_mesh(atoms: Atoms, spacing: float) -> tuple[int, int, int]:
    """Divisions of a k-mesh that has the symmetry of the crystal.

    Parameters
    ----------
    atoms : Atoms
    spacing : float
        Largest distance of k-points in 1/Å, with the factor 2 pi.
    """
    import spglib

    crystal = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    symmetry = spglib.get_symmetry(crystal, symprec=1e-3)
    return k_mesh(atoms.cell, spacing, symmetry["rotations"] if symmetry else None)


def calculator(atoms: Atoms, settings: GpawSettings, safer: bool) -> Any:
    """GPAW calculator of the self-consistent run.

    Parameters
    ----------
    atoms : Atoms
    settings : GpawSettings
    safer : bool
        Small mixing steps, a longer eigensolver step, wider smearing and three times the steps.
    """
    from gpaw import GPAW

    parameters: dict[str, Any] = {
        "mode": {"name": "pw", "ecut": settings.ecut},
        "xc": settings.xc,
        "kpts": {"size": symmetric_mesh(atoms, settings.k_spacing_scf), "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": settings.smearing},
        "convergence": {"density": settings.density_tolerance, "energy": 1e-4},
        "maxiter": MAX_SCF_STEPS,
        "spinpol": settings.spin_polarized,
        "txt": "-",
    }
    if safer:
        parameters |= {
            "mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0},
            "eigensolver": {"name": "davidson", "niter": 3},
            "occupations": {"name": "fermi-dirac", "width": 2 * settings.smearing},
            "maxiter": 3 * MAX_SCF_STEPS,
        }
    return GPAW(**parameters)


def static(atoms: Atoms, settings: GpawSettings, safer: bool) -> dict[str, Any]:
    """Total energy (eV/cell), forces (eV/Å) and stress (eV/Å^3, Voigt).

    Parameters
    ----------
    atoms : Atoms
    settings : GpawSettings
    safer : bool
        See :func:`calculator`.
    """
    atoms.calc = calculator(atoms, settings, safer)
    return {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces().tolist(),
        "stress": atoms.get_stress().tolist(),
        "magnetization": _magnetization(atoms.calc, settings),
    }


def relax(atoms: Atoms, settings: GpawSettings, safer: bool) -> dict[str, Any]:
    """Cell (Å) and fractional coordinates of least energy, symmetry kept.

    Parameters
    ----------
    atoms : Atoms
    settings : GpawSettings
    safer : bool
        See :func:`calculator`.
    """
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    if settings.relax_ecut is None:
        raise WorkerError("relaxation without relax_ecut")
    atoms = atoms.copy()
    atoms.set_constraint(FixSymmetry(atoms, symprec=1e-3, verbose=False))
    atoms.calc = calculator(atoms, replace(settings, ecut=settings.relax_ecut), safer)
    optimizer = BFGS(FrechetCellFilter(atoms), logfile="-")
    if not optimizer.run(fmax=settings.relax_fmax, steps=MAX_RELAX_STEPS):
        raise WorkerError(f"relaxation did not converge in {MAX_RELAX_STEPS} steps")
    return {
        "cell": atoms.cell.tolist(),
        "frac_coords": atoms.get_scaled_positions().tolist(),
        "energy": atoms.get_potential_energy(),
        "n_steps": optimizer.nsteps,
    }


def density_of_states(atoms: Atoms, settings: GpawSettings, safer: bool) -> dict[str, Any]:
    """Static run, bands at fixed density on the denser mesh, DOS by tetrahedra.

    All energies are in eV on GPAW's axis, the DOS is in states/eV/cell with both spins.

    Parameters
    ----------
    atoms : Atoms
    settings : GpawSettings
    safer : bool
        See :func:`calculator`.
    """
    atoms.calc = calc = calculator(atoms, settings, safer)
    energy = atoms.get_potential_energy()
    n_electrons = float(calc.get_number_of_electrons())
    n_bands = _bands_needed(calc, settings, n_electrons)
    mesh = _dos_mesh(calc, settings, n_electrons)
    for _ in range(DOS_ATTEMPTS):
        bands = _bands_on_mesh(calc, mesh, n_bands, settings)
        edges = band_edges(bands.eigenvalues, n_electrons)
        efermi = sum(edges) / 2 if edges else bands.fermi_level(n_electrons)
        vbm, cbm = edges or (efermi, efermi)
        emax = float(bands.eigenvalues[..., -1].min())
        if emax >= cbm + settings.reach:
            break
        n_bands = math.ceil(1.25 * n_bands)
    step = settings.energy_step
    first = math.floor((vbm - BELOW_VBM - efermi) / step)
    last = math.floor((min(emax, cbm + ABOVE_CBM) - efermi) / step)
    grid = efermi + step * np.arange(first, last + 1)
    return {
        "energy": energy,
        "energies": ((grid[:-1] + grid[1:]) / 2).tolist(),
        "dos": bands.dos(grid).tolist(),
        "efermi": efermi,
        "vbm": vbm,
        "cbm": cbm,
        "emax": emax,
        "n_electrons": n_electrons,
        "kmesh_scf": symmetric_mesh(atoms, settings.k_spacing_scf),
        "kmesh_dos": mesh,
        "magnetization": _magnetization(calc, settings),
        "largest_moment": _largest_moment(calc, settings),
    }


def _magnetization(calc: Any, settings: GpawSettings) -> float | None:
    return float(calc.get_magnetic_moment()) if settings.spin_polarized else None


def _largest_moment(calc: Any, settings: GpawSettings) -> float | None:
    """Of an atom in Bohr magnetons, which opposite moments have although the cell has none."""
    return float(np.abs(calc.get_magnetic_moments()).max()) if settings.spin_polarized else None


def _dos_mesh(calc: Any, settings: GpawSettings, n_electrons: float) -> tuple[int, int, int]:
    """Divisions of the k-mesh of the DOS; the gap on the mesh of the density decides them."""
    atoms = calc.get_atoms()
    coarse = symmetric_mesh(atoms, settings.k_spacing_dos)
    fine = symmetric_mesh(atoms, min(settings.k_spacing_metal, settings.k_spacing_dos))
    if fine == coarse:
        return coarse
    loose = replace(settings, eigenstates_tolerance=100 * settings.eigenstates_tolerance)
    n_bands = math.ceil(n_electrons / 2) + 2
    mesh = symmetric_mesh(atoms, settings.k_spacing_scf)
    edges = band_edges(_bands_on_mesh(calc, mesh, n_bands, loose).eigenvalues, n_electrons)
    return coarse if edges and edges[1] - edges[0] > SMALL_GAP else fine


def _bands_needed(calc: Any, settings: GpawSettings, n_electrons: float) -> int:
    """Bands that reach far enough above the Fermi level on a mesh of 2 x 2 x 2 k-points."""
    n_filled = math.ceil(n_electrons / 2 - 1e-6)
    is_even = abs(n_electrons - 2 * n_filled) < 1e-6
    extra = max(12, 6 * len(calc.get_atoms()))
    fermi = calc.get_fermi_level()
    if not math.isfinite(fermi):  # the static run of an insulator may have no empty band
        fermi = -math.inf
    while True:
        n_bands = n_filled + extra
        loose = replace(settings, eigenstates_tolerance=100 * settings.eigenstates_tolerance)
        bands = _bands_on_mesh(calc, (2, 2, 2), n_bands, loose).eigenvalues
        bottom = bands[..., n_filled].min() if is_even else -np.inf
        target = max(bottom, fermi) + settings.reach + 0.3
        enough = np.flatnonzero(bands.min(axis=(0, 1)) > target)
        if len(enough):
            return int(enough[0]) + 1
        extra *= 2


def _bands_on_mesh(
    calc: Any, mesh: tuple[int, int, int], n_bands: int, settings: GpawSettings
) -> BandMesh:
    """Converged bands at the density of a calculator on a gamma-centred mesh."""
    from gpaw import ConvergenceError

    try:
        fixed = calc.fixed_density(
            kpts={"size": mesh, "gamma": True},
            nbands=n_bands + BAND_BUFFER,
            convergence={"bands": n_bands, "eigenstates": settings.eigenstates_tolerance},
            maxiter=MAX_BAND_STEPS,
            update_fermi_level=True,
            txt="-",
        )
    except ConvergenceError:
        raise WorkerError(
            f"{n_bands} bands not converged in {MAX_BAND_STEPS} steps at fixed density"
        ) from None
    n_irreducible = len(fixed.get_ibz_k_points())
    eigenvalues = np.array(
        [
            [fixed.get_eigenvalues(kpt=k, spin=spin)[:n_bands] for k in range(n_irreducible)]
            for spin in range(fixed.get_number_of_spins())
        ]
    )
    return BandMesh(eigenvalues, _irreducible_points(fixed, mesh), np.array(fixed.atoms.cell))


def _irreducible_points(calc: Any, mesh: tuple[int, int, int]) -> NDArray[np.int64]:
    """Irreducible k-point of each mesh point, shape `mesh`."""
    position = np.rint(calc.get_bz_k_points() * mesh).astype(int) % np.array(mesh)
    irreducible = np.full(mesh, -1, dtype=np.int64)
    irreducible[tuple(position.T)] = calc.get_bz_to_ibz_map()
    if (irreducible < 0).any():
        raise WorkerError(f"GPAW's k-points are not a gamma-centred mesh of {mesh}")
    return irreducible


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
