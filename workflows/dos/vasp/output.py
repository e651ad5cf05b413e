"""From the files of a static and a uniform VASP run to a DOS document."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from atomate2.utils.path import strip_hostname
from monty.io import zopen
from monty.os.path import zpath
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.electronic_structure.core import Spin
from pymatgen.io.vasp import Outcar, Vasprun

from workflows.dos.bands import band_edges
from workflows.dos.document import WINDOW, DosDocument
from workflows.dos.errors import DosError
from workflows.dos.vasp.remarks import remarks

if TYPE_CHECKING:
    from workflows.dos.vasp.maker import VaspDosMaker

ELECTRON_TOLERANCE = 0.01  # of NELECT, that the integrated DOS may lack at the Fermi level
SPINOR_TAGS = ("LSORBIT", "LNONCOLLINEAR")
FloatArray = NDArray[np.floating]


def read_dos(
    static_dir: str | Path,
    dos_dir: str | Path,
    maker: VaspDosMaker,
    material_id: str | None = None,
    earlier: Sequence[str | Path] = (),
) -> DosDocument:
    """DOS document of a static run and a uniform run.

    Parameters
    ----------
    static_dir, dos_dir : str or Path
        Folders with ``vasprun.xml`` and ``OUTCAR``, gzipped or not.
    maker : VaspDosMaker
        Whose recipe the runs follow.
    material_id : str, optional
    earlier : sequence of str or Path
        Folders of other runs of the calculation, whose time counts as well.

    Raises
    ------
    DosError
        If a run is missing, cut off, not converged, or with spin-orbit coupling; if it has no
        Fermi level, no eigenvalues or no integrated DOS; if its DOS does not hold NELECT electrons
        to 1 %, or its EMIN and EMAX or its bands miss the window.
    """
    static = _vasprun(static_dir, parse_dos=False, parse_eigen=True)
    dos = _vasprun(dos_dir, parse_dos=True, parse_eigen=True)
    _check_converged(static, f"static VASP run in {static_dir} did not reach self-consistency")
    _check_converged(dos, f"bands of the DOS run in {dos_dir} did not converge")
    for run, folder in ((static, static_dir), (dos, dos_dir)):
        _check_collinear(run, folder)
    if not math.isfinite(static.final_energy):
        raise DosError(f"vasprun.xml in {static_dir} has no energy that can be read: run it again")
    n_electrons = _electrons(dos, dos_dir)
    bands = _bands(dos, dos_dir)
    efermi = float(dos.efermi)
    edges = band_edges(bands, n_electrons)
    vbm, cbm = edges or (efermi, efermi)
    points, integrated = _integrated_dos(dos)
    if not np.isfinite(integrated).all():
        raise DosError(f"DOS of {dos_dir} holds numbers that VASP could not print (****)")
    _check_range(points, bands, vbm, cbm, dos_dir)
    if edges is None:
        held = float(np.interp(efermi, points, integrated))
    else:
        held = _below_gap(points, integrated, edges, n_electrons)
    if abs(held - n_electrons) > ELECTRON_TOLERANCE * n_electrons:
        raise DosError(
            f"DOS of {dos_dir} holds {held:.2f} electrons below the Fermi level, NELECT is "
            f"{n_electrons:g}: the run is broken, or its EMIN cuts bands off"
        )
    energies, total = _covering_below(*_averages(points, integrated), vbm)
    # Where the static run finds no moment, MPNonSCFSet leaves spin out of the uniform one.
    with_spin, folder = (dos, dos_dir) if dos.is_spin else (static, static_dir)
    has_spin = bool(with_spin.is_spin)
    symbols = {site.specie.symbol for site in dos.final_structure}
    return DosDocument.checked(
        material_id=material_id,
        structure=dos.final_structure,
        engine="vasp",
        engine_version=str(dos.vasp_version),
        recipe=maker.recipe,
        settings=maker.settings,
        energies=energies,
        dos=total,
        efermi=min(max(efermi, vbm), cbm),
        vbm=vbm,
        cbm=cbm,
        band_gap=cbm - vbm,
        energy=float(static.final_energy),
        n_electrons=n_electrons,
        kmesh_scf=_k_mesh(static),
        kmesh_dos=_k_mesh(dos),
        emax=float(bands[..., -1].min()),
        wall_time=_elapsed(*earlier, static_dir, dos_dir),
        is_spin_polarized=has_spin,
        magnetization=_magnetization(with_spin, folder) if has_spin else None,
        largest_moment=_largest_moment(static_dir) if has_spin else None,
        warnings=tuple(remarks(symbols, has_spin)),
    )


def final_structure(folder: str | Path) -> Structure:
    """Structure of a finished run, gzipped or not."""
    return _vasprun(folder, parse_dos=False, parse_eigen=False).final_structure


def _vasprun(folder: str | Path, **options: bool) -> Vasprun:
    path = Path(zpath(str(Path(strip_hostname(folder)) / "vasprun.xml")))
    if not path.exists():
        raise DosError(f"no vasprun.xml in {folder}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of stars; they are refused where they matter
            vasprun = Vasprun(str(path), parse_potcar_file=False, **options)
    except IndexError as error:  # pymatgen takes a step, and the DOS's third column, for granted
        lacking = "integrated DOS" if options.get("parse_dos") else "finished step"
        raise DosError(f"{path} has no {lacking}: run VASP again") from error
    except Exception as error:  # pymatgen raises whatever the XML parser does
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DosError(f"{path} cannot be read, or is cut off ({reason})") from error
    if options.get("parse_dos"):
        _check_has_dos(vasprun, path)
    return vasprun


def _check_has_dos(vasprun: Vasprun, path: Path) -> None:
    """Refuse a run without DOS; pymatgen passes over a whole DOS whose Fermi level is stars."""
    is_there = getattr(vasprun, "idos", None) is not None
    if is_there and vasprun.efermi is not None and math.isfinite(vasprun.efermi):
        return
    with zopen(path, "rt", encoding="utf-8", errors="replace") as file:
        dos = str(file.read()).partition("<dos>")[2]
    printed = re.search(r'<i name="efermi">([^<]*)</i>', dos)
    if dos and printed is None:
        raise DosError(f"{path} has no Fermi level in its DOS: run VASP again")
    if printed is not None and not _is_number(printed[1]):
        raise DosError(f"{path}: the Fermi level is {printed[1].strip()!r}: run VASP again")
    raise DosError(f"{path} has no integrated DOS: run VASP again")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_converged(vasprun: Vasprun, problem: str) -> None:
    """Refuse a run that took all the electronic steps that it was allowed."""
    if not vasprun.converged_electronic:
        raise DosError(f"{problem} in NELM = {vasprun.parameters['NELM']} steps")


def _check_collinear(vasprun: Vasprun, folder: str | Path) -> None:
    """Refuse spinors: each of their bands holds one electron, and they are not of the recipe."""
    for tag in SPINOR_TAGS:
        if vasprun.parameters.get(tag) or vasprun.incar.get(tag):
            raise DosError(
                f"VASP run in {folder} has {tag}: its bands hold one electron each and its "
                "moments no single sign; run it without spin-orbit coupling"
            )


def _check_range(
    points: FloatArray, bands: FloatArray, vbm: float, cbm: float, folder: str | Path
) -> None:
    """Refuse a DOS that EMIN or EMAX cuts within the window.

    By itself VASP begins below the lowest band and ends above the highest one. States that a DOS
    leaves out although the bands are there are a mistake of the input, not a lack of bands.
    """
    first, last = points[0], points[-1]
    if bands.min() < first and first > vbm - WINDOW:
        raise DosError(
            f"DOS of {folder} begins at {first:.2f} eV, {first - vbm:+.2f} eV from the VBM and "
            f"above its lowest band: its EMIN cuts bands off; {-WINDOW:g} eV are needed"
        )
    if bands[..., -1].min() > last and last < cbm + WINDOW:
        raise DosError(
            f"DOS of {folder} ends at {last:.2f} eV, {last - cbm:+.2f} eV from the CBM and "
            f"below its highest band: its EMAX cuts bands off; {WINDOW:+g} eV are needed"
        )


def _electrons(vasprun: Vasprun, folder: str | Path) -> float:
    n_electrons = vasprun.parameters.get("NELECT")
    if n_electrons is None or not n_electrons > 0:
        raise DosError(f"vasprun.xml in {folder} does not say NELECT: run it again")
    return float(n_electrons)


def _bands(vasprun: Vasprun, folder: str | Path) -> FloatArray:
    """Eigenvalues in eV, shape (n_spins, n_kpoints, n_bands)."""
    if not vasprun.eigenvalues:
        raise DosError(f"vasprun.xml in {folder} has no eigenvalues: run it again")
    spins = (Spin.up, Spin.down)[: 1 + vasprun.is_spin]
    bands = np.array([vasprun.eigenvalues[spin][..., 0] for spin in spins])
    if not np.isfinite(bands).all():
        raise DosError(f"eigenvalues in {folder} hold numbers that VASP could not print (****)")
    return bands


def _integrated_dos(vasprun: Vasprun) -> tuple[FloatArray, FloatArray]:
    """Energies in eV, equidistant as VASP has them before it rounds, and electrons below them."""
    printed = vasprun.idos.energies
    energies = np.linspace(printed[0], printed[-1], len(printed))
    return energies, np.sum(list(vasprun.idos.densities.values()), axis=0)


def _below_gap(
    points: FloatArray, integrated: FloatArray, edges: tuple[float, float], n_electrons: float
) -> float:
    """Electrons below the gap.

    A step in which a narrow band ends holds all of it only at its upper end. Of what the DOS holds
    at the first point above the VBM, at the last one below the CBM, and between, the nearest to
    NELECT counts; where the gap is narrower than a step these are the ends of the step.
    """
    vbm, cbm = edges
    ends = [np.searchsorted(points[:-1], vbm), np.searchsorted(points[1:], cbm, side="right")]
    return float(np.clip(n_electrons, *sorted(integrated[ends])))


def _averages(energies: FloatArray, integrated: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Middles of VASP's steps and the average DOS over each.

    VASP's own DOS is, with tetrahedra, the derivative of the integrated DOS *at* its energies; it
    passes over what is narrower than a step (VASP Wiki, 'DOSCAR').
    """
    return (energies[:-1] + energies[1:]) / 2, np.diff(integrated) / np.diff(energies)


def _covering_below(
    energies: FloatArray, dos: FloatArray, vbm: float
) -> tuple[FloatArray, FloatArray]:
    """Add zeros below VASP's first energy, which lies below all states, down to the window."""
    step = energies[1] - energies[0]
    count = int(np.ceil((energies[0] - (vbm - WINDOW)) / step)) + 1
    if count <= 1:
        return energies, dos
    below = energies[0] - step * np.arange(count, 0, -1)
    return np.concatenate([below, energies]), np.concatenate([np.zeros(count), dos])


def _k_mesh(vasprun: Vasprun) -> tuple[int, int, int]:
    n1, n2, n3 = (int(n) for n in vasprun.kpoints.kpts[0])
    return n1, n2, n3


def _magnetization(vasprun: Vasprun, folder: str | Path) -> float:
    """Moment of the cell in Bohr magnetons, from the occupations."""
    _bands(vasprun, folder)  # refuses a run without any
    weights = np.array(vasprun.actual_kpoints_weights)
    up, down = (weights @ vasprun.eigenvalues[s][..., 1].sum(axis=1) for s in (Spin.up, Spin.down))
    return float(up - down)


def _largest_moment(folder: str | Path) -> float | None:
    """Largest moment of a site in Bohr magnetons, from an OUTCAR; None if it does not tell."""
    path = Path(zpath(str(Path(strip_hostname(folder)) / "OUTCAR")))
    if not path.exists():
        return None
    moments = [abs(site["tot"]) for site in Outcar(str(path)).magnetization]
    return max(moments, default=None)


def _elapsed(*folders: str | Path) -> float | None:
    """Wall time in s from the OUTCARs; None if one of them does not tell."""
    total = 0.0
    for folder in folders:
        path = Path(zpath(str(Path(strip_hostname(folder)) / "OUTCAR")))
        if not path.exists():
            return None
        with zopen(path, "rt") as outcar:
            printed = re.search(r"Elapsed time \(sec\):\s*([\d.]+)", str(outcar.read()))
        if printed is None:
            return None
        total += float(printed[1])
    return total
