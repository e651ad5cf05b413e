"""Training sets of electronic DOS from the Materials Project's total-DOS table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID, IntegratedDos, align_edos, band_edges
from screening.sources.materials_project.cache import Layout
from screening.sources.materials_project.documents import (
    material_row,
    material_schema,
    structure_columns,
    structure_fields,
)
from screening.sources.materials_project.source import ServerQuery
from screening.sources.properties import number
from screening.training_sets.delta_tables import Row
from screening.training_sets.training_set import (
    FetchOptions,
    FetchReport,
    Kind,
    LeftOutError,
    fetch,
    identifier_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

TOTAL_DOS = "s3a://materialsproject-parsed/core/electronic-structure/total-dos/"
TRACE, EMPTY = 1e-3, 0.05  # states/eV/cell; below the first are no states, below the second few
MOMENT = 0.05  # electrons that the spin channels of a nonmagnetic cell may differ by
ELECTRON_TOLERANCE = 0.01  # of the electrons below the Fermi level
EDGES = ("band_gap", "vbm", "cbm")


def fetch_edos(out: Path, **options: Unpack[FetchOptions]) -> FetchReport:
    """Write the eDOS of all nonmagnetic materials that have one, with their structures.

    A material is left out, and counted by the reason, unless its DOS can be trusted:

    - its functional is PBE (run type GGA), or PBE+U where the Materials Project uses U: one
      functional for each chemistry;
    - the structure is that of the DOS's own calculation, with as many sites as the material's;
    - its two spin channels, which are added, hold equal numbers of electrons to 0.05;
    - both its band edges agree with those of the material's band structure, or its gap with the
      material's where there are none, to one bin (62.5 meV), and that of a metal has states at
      the Fermi level;
    - it holds a whole number of electrons to 1 % (see below).

    The table holds neither the integrated DOS nor the number of electrons. So each bin is the
    integral of the piecewise-linear DOS, and what VASP's tetrahedra lose, which give the DOS *at*
    the energies and pass over bands narrower than their distance, is found by counting: between
    the last empty energy below the grid and the Fermi level is a whole number of electrons, odd
    where the crystal's is odd, since full bands hold two (with frozen 4f shells: any).

    The file has `material_id`, `formula`, `lattice`, `species` and `frac_coords` as a source
    file has them, and `spectrum`: averages over the 128 bins of the eDOS grid in
    states/eV/cell, bins below zero relative to the VBM and bins above to the CBM (Methods,
    'Data generation'). Also `band_gap`, `vbm`, `cbm` (eV; the edges on the calculation's own
    scale), `edges` and `run_type`. The grid and the version of the database are in the
    metadata.

    `edges` says where the band edges come from. ``'metal'``: the Fermi level.
    ``'eigenvalues'``: the material's band structure. ``'dos'``: where the DOS rises above 0.001 or
    0.05 states/eV/cell on either side of the Fermi level, whichever is nearer to the material's
    gap, for those whose band structure is missing or on another scale.

    Rows are in the order of their ids, and nothing in the file depends on when or in how many
    attempts it was fetched.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    **options
        See :class:`screening.training_sets.training_set.FetchOptions`.

    Raises
    ------
    ScreeningError
        In one line; what has been read is kept for the next attempt.
    """
    return fetch(out, _edos(), options)


def _edos() -> Kind:
    fields = ("material_id", "formula_pretty", "structure", "last_updated", "dos.task_id")
    query = ServerQuery((("nonmagnetic", {"ordering": "NM"}), ("with DOS", {"has_props": "dos"})))
    return Kind(
        name="electronic DOS",
        uri=TOTAL_DOS,
        columns=(
            "structure",
            "spin_up_densities",
            "spin_down_densities",
            "energies",
            "efermi",
            "run_type",
        ),
        grid=EDOS_GRID,
        layout=Layout(
            (*fields, *EDGES),
            _edos_material,
            _edos_schema,
            name="mp-edos",
            version=2,
        ),
        query=query,
        spectrum=edos_columns,
        extra=_edos_extra,
    )


def _edos_material(document: Row) -> Row:
    row = material_row(document, _properties)
    return row | {"nsites": len(row.get("species", ()))}


def _properties(document: Row) -> Row:
    edges = {name: number(document, name) for name in EDGES}
    return edges | {"identifier": identifier_of((document.get("dos") or {}).get("task_id"))}


def _edos_schema() -> pa.Schema:
    import pyarrow as pa

    texts = [("last_updated", pa.string()), ("identifier", pa.string())]
    return material_schema([*texts, *_edge_fields(), ("nsites", pa.int32())])


def _edge_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [(name, pa.float64()) for name in EDGES]


def _edos_extra() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    texts = [("edges", pa.string()), ("run_type", pa.string())]
    return [*_edge_fields(), *texts, *structure_fields()]


def edos_columns(row: Row, material: Row) -> Row:
    """Spectrum of a row of the total-DOS table on the 128-bin grid, with edges and structure.

    Parameters
    ----------
    row : dict
        `structure` as a pymatgen dict, `energies` (M,) in eV, `spin_up_densities` (M,) in
        states/eV/cell, `spin_down_densities` (None without spin), `efermi` in eV, `run_type`.
    material : dict
        `band_gap`, `vbm`, `cbm` in eV, None where not known, and `nsites`.

    Raises
    ------
    LeftOutError
        With the reason; see :func:`fetch_edos`.
    """
    structure = _own_structure(row, material)
    _check_functional(row.get("run_type"), structure["species"])
    energies, dos = _total_dos(row)
    vbm, cbm, edges = _band_edges(energies, dos, row["efermi"], material)
    low, high = vbm + EDOS_GRID.edges[0], cbm + EDOS_GRID.edges[-1]
    if energies[0] > low or energies[-1] < high:
        raise LeftOutError("DOS does not cover 4 eV on either side of the band edges")
    _check_electrons(energies, dos, (vbm + cbm) / 2, low, structure["species"])
    values = align_edos(energies, dos, vbm, cbm).values
    return {
        "spectrum": values.astype(np.float32),
        "band_gap": cbm - vbm,
        "vbm": vbm,
        "cbm": cbm,
        "edges": edges,
        "run_type": row.get("run_type"),
        **structure,
    }


def _own_structure(row: Row, material: Row) -> Row:
    """Structure of the calculation that the DOS is of, as columns."""
    try:
        structure = structure_columns(row)
    except ModelError:
        raise LeftOutError("no usable structure with the DOS") from None
    if len(structure["species"]) != material["nsites"]:
        raise LeftOutError("DOS of another cell than the material's")
    return structure


def _check_functional(run_type: str | None, species: Iterable[int]) -> None:
    expected = "GGA+U" if _has_hubbard_u(frozenset(int(z) for z in species)) else "GGA"
    if run_type != expected:
        raise LeftOutError(f"functional {run_type or 'not known'} where {expected} is wanted")


@lru_cache(maxsize=4096)
def _has_hubbard_u(atomic_numbers: frozenset[int]) -> bool:
    """Whether the Materials Project uses U: by the most electronegative element (`MPRelaxSet`)."""
    from pymatgen.core import Element
    from pymatgen.io.vasp.sets import MPRelaxSet

    elements = sorted((Element.from_Z(z) for z in atomic_numbers), key=lambda element: element.X)
    values = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    return any(values.get(element.symbol) for element in elements)


def _total_dos(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Energies (M,) in eV and the DOS (M,) of both spins in states/eV/cell."""
    energies, up, down = (
        row[name] for name in ("energies", "spin_up_densities", "spin_down_densities")
    )
    if energies is None or up is None or len(energies) != len(up) or len(up) < 2:
        raise LeftOutError("incomplete DOS")
    has_spin = down is not None and len(down) > 0
    if has_spin and len(down) != len(up):
        raise LeftOutError("incomplete DOS")
    channels = np.array([up, down] if has_spin else [up], float)
    if not (np.isfinite(energies).all() and np.isfinite(channels).all()):
        raise LeftOutError("NaN in the DOS")
    if (np.diff(energies) <= 0).any():
        raise LeftOutError("energies that do not increase")
    if not channels.any():
        raise LeftOutError("DOS is zero everywhere")
    if has_spin and abs(_moment(energies, channels, row["efermi"])) > MOMENT:
        raise LeftOutError("spin channels of a magnetic calculation")
    return np.asarray(energies, float), channels.sum(axis=0)


def _moment(energies: np.ndarray, channels: np.ndarray, efermi: float | None) -> float:
    """Electrons of the first channel less those of the second, below the Fermi level."""
    if efermi is None or not energies[0] <= efermi <= energies[-1]:
        raise LeftOutError("no usable band edges")
    return float(IntegratedDos(energies, channels[0] - channels[1])(np.array([efermi]))[0])


def _band_edges(
    energies: np.ndarray, dos: np.ndarray, efermi: float | None, material: Row
) -> tuple[float, float, str]:
    """VBM and CBM in eV, and where they come from (see :func:`fetch_edos`)."""
    gap, vbm, cbm = material["band_gap"], material["vbm"], material["cbm"]
    if gap and vbm is not None and cbm is not None and cbm > vbm:
        edges_of_dos = _edges_of_dos(energies, dos, (vbm + cbm) / 2)
        if _agrees(vbm, [e[0] for e in edges_of_dos]) and _agrees(
            cbm, [e[1] for e in edges_of_dos]
        ):
            return vbm, cbm, "eigenvalues"
    edges_of_dos = _edges_of_dos(energies, dos, efermi)
    if not edges_of_dos or efermi is None:
        raise LeftOutError("no usable band edges")
    if gap is None:
        return *edges_of_dos[-1], "dos"
    if gap == 0 and edges_of_dos[0][1] - edges_of_dos[0][0] > EDOS_GRID.width:
        raise LeftOutError("metal whose DOS is empty at the Fermi level")
    if gap == 0:
        return efermi, efermi, "metal"
    if not _agrees(gap, [high - low for low, high in edges_of_dos]):
        raise LeftOutError("band gap of the DOS differs from the material's")
    return *min(edges_of_dos, key=lambda e: abs(e[1] - e[0] - gap)), "dos"


def _edges_of_dos(
    energies: np.ndarray, dos: np.ndarray, inside: float | None
) -> list[tuple[float, float]]:
    """Ends of the range about an energy with no states, and of that with few; none without one.

    Of a light band, whose DOS rises slowly, the first is the edge; of a smeared band the second.
    """
    if inside is None or not np.isfinite(inside):
        return []
    try:
        return [band_edges(energies, dos, inside, most) for most in (TRACE, EMPTY)]
    except ModelError:
        return []


def _agrees(value: float, values: list[float]) -> bool:
    """Whether a value lies between the found ones, or within a bin of one of them."""
    width = EDOS_GRID.width
    return bool(values) and min(values) - width <= value <= max(values) + width


def _check_electrons(
    energies: np.ndarray, dos: np.ndarray, efermi: float, low: float, species: Iterable[int]
) -> None:
    """Count the electrons of the bands that reach above `low` (see :func:`fetch_edos`)."""
    empty = np.flatnonzero((dos <= TRACE) & (energies <= low))
    first = empty[-1] if len(empty) else 0
    held = float(IntegratedDos(energies[first:], dos[first:])(np.array([efermi]))[0])
    numbers = np.array([int(z) for z in species])
    frozen = ((numbers >= 57) & (numbers <= 71)).any()
    step = 1 if frozen else 2
    odd = 0 if frozen else int(numbers.sum()) % 2
    nearest = max(odd + step * round((held - odd) / step), 1)
    if abs(held - nearest) > ELECTRON_TOLERANCE * nearest:
        raise LeftOutError("DOS does not hold a whole number of electrons")
