"""Hand-made VASP output: written here from given arrays, never by VASP.

The XML has the elements that pymatgen reads from a real vasprun.xml of VASP 5 and 6, in the same
nesting; it goes through the same parser as real output.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pymatgen.core import Structure


def _vectors(name: str, rows: np.ndarray) -> str:
    lines = "".join(f"<v>{' '.join(f'{x:.8f}' for x in row)}</v>" for row in rows)
    return f'<varray name="{name}">{lines}</varray>'


def _structure(structure: Structure, name: str = "") -> str:
    label = f' name="{name}"' if name else ""
    lattice = structure.lattice
    return (
        f"<structure{label}><crystal>{_vectors('basis', lattice.matrix)}"
        f'<i name="volume">{lattice.volume:.8f}</i>'
        f"{_vectors('rec_basis', lattice.inv_matrix.T)}</crystal>"
        f"{_vectors('positions', structure.frac_coords)}</structure>"
    )


def _atoms(structure: Structure) -> str:
    symbols = [site.specie.symbol for site in structure]
    kinds = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s}</c><c>{kinds.index(s) + 1}</c></rc>" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(k)}</c><c>{k}</c><c>1.0</c><c>3.0</c>"
        f"<c>PAW_PBE {k} 01Jan2000</c></rc>"
        for k in kinds
    )
    return (
        f"<atominfo><atoms>{len(symbols)}</atoms><types>{len(kinds)}</types>"
        '<array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field>'
        f'<field type="int">atomtype</field><set>{atoms}</set></array>'
        '<array name="atomtypes"><dimension dim="1">type</dimension>'
        '<field type="int">atomspertype</field><field type="string">element</field>'
        "<field>mass</field><field>valence</field>"
        f'<field type="string">pseudopotential</field><set>{types}</set></array></atominfo>'
    )


def _eigenvalues(bands: np.ndarray, occupations: np.ndarray) -> str:
    spins = []
    for s, (energies, filled) in enumerate(zip(bands, occupations, strict=True)):
        points = "".join(
            f'<set comment="kpoint {k + 1}">'
            + "".join(f"<r>{e:.6f} {f:.6f}</r>" for e, f in zip(*pair, strict=True))
            + "</set>"
            for k, pair in enumerate(zip(energies, filled, strict=True))
        )
        spins.append(f'<set comment="spin {s + 1}">{points}</set>')
    return (
        '<eigenvalues><array><dimension dim="1">band</dimension>'
        '<dimension dim="2">kpoint</dimension>'
        '<dimension dim="3">spin</dimension><field>eigene</field><field>occ</field>'
        f"<set>{''.join(spins)}</set></array></eigenvalues>"
    )


def _dos(
    efermi: float, energies: np.ndarray, dos: np.ndarray, integrated: np.ndarray | None
) -> str:
    if integrated is None:  # VASP's starts at 0
        steps = np.diff(energies, prepend=energies[0])
        integrated = np.cumsum(dos * steps, axis=1)
    spins = []
    for s, (values, below) in enumerate(zip(dos, integrated, strict=True)):
        rows = zip(energies, values, below, strict=True)
        lines = "".join(f"<r>{e:.4f} {d:.6f} {i:.6f}</r>" for e, d, i in rows)
        spins.append(f'<set comment="spin {s + 1}">{lines}</set>')
    return (
        f'<dos><i name="efermi">{efermi:.8f}</i><total><array>'
        '<dimension dim="1">gridpoints</dimension>'
        '<dimension dim="2">spin</dimension><field>energy</field><field>total</field>'
        f"<field>integrated</field><set>{''.join(spins)}</set></array></total></dos>"
    )


def _moments(moments: list[float] | None) -> str:
    if moments is None:
        return ""
    rows = "".join(
        f"  {k + 1:3d}        0.000   0.000  {m:6.3f}  {m:6.3f}\n" for k, m in enumerate(moments)
    )
    line = "-" * 50
    return (
        " magnetization (x)\n\n# of ion       s       p       d       tot\n"
        f"{line}\n{rows}{line}\ntot            0.000   0.000   0.000   {sum(moments):.3f}\n\n"
    )


def write_run(
    folder: Path,
    structure: Structure,
    *,
    energy: float,
    n_electrons: float,
    mesh: tuple[int, int, int],
    efermi: float = 0.0,
    energies: np.ndarray | None = None,
    dos: np.ndarray | None = None,
    integrated: np.ndarray | None = None,
    moments: list[float] | None = None,
    bands: np.ndarray | None = None,
    occupations: np.ndarray | None = None,
    n_steps: int = 5,
    seconds: float = 12.5,
    tags: str = "",
) -> None:
    """Write ``vasprun.xml`` and ``OUTCAR`` of one run.

    Parameters
    ----------
    dos : ndarray, shape (n_spins, n_energies)
        States/eV/cell of each spin.
    integrated : ndarray, shape (n_spins, n_energies), optional
        States/cell of each spin; the sum of `dos` over the steps by default.
    moments : list of float, optional
        Of the sites, in Bohr magnetons; goes into the OUTCAR.
    bands, occupations : ndarray, shape (n_spins, n_kpoints, n_bands)
        In eV; occupations of each spin between 0 and 1.
    n_steps : int
        Electronic steps; at NELM = 100 the run counts as not converged.
    tags : str
        Further elements of ``<parameters>``, as VASP writes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_spins = 1 if dos is None else len(dos)
    n_points = 1 if bands is None else bands.shape[1]
    n_bands = 1 if bands is None else bands.shape[2]
    weights = "".join(f"<v>{1 / n_points:.8f}</v>" for _ in range(n_points))
    points = "".join(f"<v>{k / n_points:.8f} 0.0 0.0</v>" for k in range(n_points))
    spectrum = (
        ""
        if dos is None
        else _eigenvalues(bands, occupations) + _dos(efermi, energies, dos, integrated)
    )
    total = (
        f'<energy><i name="e_fr_energy">{energy}</i><i name="e_wo_entrp">{energy}</i>'
        f'<i name="e_0_energy">{energy}</i></energy>'
    )
    steps = f"<scstep>{total}</scstep>" * n_steps
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?><modeling><generator>'
        '<i name="program" type="string">vasp</i>'
        '<i name="version" type="string">6.4.2</i></generator>'
        '<incar><i type="string" name="PREC">accurate</i><i type="int" name="ISMEAR">-5</i></incar>'
        '<kpoints><generation param="Gamma"><v type="int" name="divisions">'
        f'{" ".join(map(str, mesh))}</v><v name="usershift">0 0 0</v></generation>'
        f'<varray name="kpointlist">{points}</varray><varray name="weights">{weights}</varray>'
        '</kpoints><parameters><separator name="electronic">'
        f'<i name="NELECT">{n_electrons:.8f}</i><i type="int" name="ISPIN">{n_spins}</i>'
        f'<i type="int" name="NBANDS">{n_bands}</i>'
        '<i type="int" name="NELM">100</i><i type="int" name="NSW">0</i>'
        '<i type="int" name="IBRION">-1</i><i type="logical" name="LORBIT">F</i>'
        f"{tags}</separator></parameters>{_atoms(structure)}{_structure(structure, 'initialpos')}"
        f"<calculation>{steps}{_structure(structure)}{total}{spectrum}</calculation>"
        f"{_structure(structure, 'finalpos')}</modeling>"
    )
    (folder / "vasprun.xml").write_text(text)
    (folder / "OUTCAR").write_text(
        f" hand-made\n running on    1 total cores\n   number of bands    NBANDS= {n_bands}\n"
        "   total plane-waves  NPLWV =   1000\n   IBRION =     -1    ionic relax\n"
        f"  E-fermi :   {efermi:.4f}\n{_moments(moments)}  Elapsed time (sec):     {seconds:.3f}\n"
    )
