"""Training sets of phonon DOS from the Materials Project's phonon table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from models.spectra.spectrum import PHDOS_PAPER_GRID, IntegratedDos, sum_normalized
from screening.sources.materials_project.cache import Layout
from screening.sources.materials_project.documents import material_row, material_schema
from screening.sources.materials_project.source import ServerQuery
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

PHONON_DOS = "s3a://materialsproject-parsed/phonon/electronic-structure/dos/"
THZ = 33.35640951981521  # cm^-1


Method = Literal["dfpt", "pheasy"]


def fetch_phdos(out: Path, method: Method = "dfpt", **options: Unpack[FetchOptions]) -> FetchReport:
    """Write the phonon DOS of all materials that have one, with their structures.

    The file is like that of :func:`screening.training_sets.edos.fetch_edos`. `spectrum` has 51
    points from 0 to 1000 cm^-1 (Methods, 'Data generation') in states/cm^-1/cell, after a
    Savitzky-Golay filter of second order; the paper does not give its window, here it is the
    width of a bin. Each point is the average over its bin, so that no mode is lost or counted
    twice. `imaginary` is the part of the modes below zero frequency.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    method : str
        How the phonons were calculated.
    **options
        See :class:`screening.training_sets.training_set.FetchOptions`.

    Raises
    ------
    ScreeningError
        In one line; what has been read is kept for the next attempt.
    """
    return fetch(out, _phdos(method), options)


def _phdos(method: str) -> Kind:
    fields = ("material_id", "formula_pretty", "structure", "last_updated", "phonon_IDs")

    def properties(document: Row) -> Row:
        ids = (document.get("phonon_IDs") or {}).get(method) or [None]
        return {"identifier": identifier_of(ids[0])}

    def material(document: Row) -> Row:
        return material_row(document, properties)

    return Kind(
        name="phonon DOS",
        uri=PHONON_DOS,
        columns=("phonon_method", "dos"),
        grid=PHDOS_PAPER_GRID,
        layout=Layout(fields, material, _phdos_schema, name=f"mp-phdos-{method}"),
        query=ServerQuery((("with phonons", {"has_props": "phonon"}),)),
        spectrum=phdos_columns,
        extra=_phdos_extra,
        is_wanted=lambda row: row["phonon_method"] == method,
    )


def _phdos_schema() -> pa.Schema:
    import pyarrow as pa

    return material_schema([("last_updated", pa.string()), ("identifier", pa.string())])


def _phdos_extra() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [("imaginary", pa.float64())]


def phdos_columns(row: Row, material: Row) -> Row:
    """Spectrum of a row of the phonon-DOS table on the 51-point grid.

    It has the modes that the table has in the range of the grid: what the filter takes below zero
    next to a sharp peak is cut off, and the rest scaled by as much.

    Parameters
    ----------
    row : dict
        `dos` with `frequencies` (M,) in THz and `densities` (M,) in states/THz/cell.
    material : dict
        Not used.

    Raises
    ------
    LeftOutError
        With the reason.
    """
    from scipy.signal import savgol_filter

    dos = row["dos"] or {}
    frequencies, densities = dos.get("frequencies"), dos.get("densities")
    if frequencies is None or densities is None or len(frequencies) != len(densities):
        raise LeftOutError("incomplete DOS")
    frequencies, densities = np.asarray(frequencies) * THZ, np.asarray(densities) / THZ
    if len(frequencies) < 2 or not (np.isfinite(frequencies) & np.isfinite(densities)).all():
        raise LeftOutError("NaN in the DOS" if len(frequencies) > 1 else "incomplete DOS")
    steps = np.diff(frequencies)
    if (steps <= 0).any():
        raise LeftOutError("energies that do not increase")
    total = np.trapezoid(densities, frequencies)
    if total <= 0:
        raise LeftOutError("DOS is zero everywhere")
    negative = np.where(frequencies < 0, densities, 0.0)
    held = _averages(frequencies, densities).sum()
    window = int(PHDOS_PAPER_GRID.width / np.median(steps)) // 2 * 2 + 1
    if 3 <= window <= len(densities):
        densities = savgol_filter(densities, window, polyorder=2)
    shape = sum_normalized(np.maximum(_averages(frequencies, densities), 0))
    return {
        "spectrum": (max(held, 0) * shape).astype(np.float32),
        "imaginary": float(np.trapezoid(negative, frequencies) / total),
    }


def _averages(frequencies: np.ndarray, densities: np.ndarray) -> np.ndarray:
    """Averages of a DOS over the bins of the grid, shape (51,); 0 where it is not known."""
    integral = IntegratedDos(frequencies, densities)
    return np.diff(integral(PHDOS_PAPER_GRID.edges.clip(*integral.reach))) / PHDOS_PAPER_GRID.width
