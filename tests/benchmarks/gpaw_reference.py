"""DOS of an engine against what others published: MP's elemental crystals, the paper's VB gaps.

::

    python -m tests.benchmarks.gpaw_reference elements --data DATA --runs RUNS --out OUT
    python -m tests.benchmarks.gpaw_reference vb-gaps  --data DATA --runs RUNS --out OUT

DATA holds ``edos_mp_elements.parquet`` and ``paper_predicted_positives.parquet``; RUNS keeps one
DOS a file, so that a stopped run goes on where it was; OUT gets ``<what>_<preset>.json`` and
a Markdown table, of the VB gaps also the spectra beside the shipped predictor's, as a figure and
as a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from models.predictor import SpectrumPredictor
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID, align_edos, band_edges
from models.zoo import model_name
from screening.criteria.gap_criterion import GapCriterion
from screening.gap import GapCriteria, find_gaps
from screening.report.plots import EdosPanel, formula_text, plot_edos_panels, save_figure
from tests.benchmarks.dos_campaign import materials, run
from workflows.dos.document import DosDocument
from workflows.dos.errors import DosError
from workflows.dos.gpaw.maker import GpawDosMaker
from workflows.dos.remarks import ACTINIDES, LANTHANIDES, MAGNETIC_3D
from workflows.validation import judge_fine
from workflows.verdicts import judge

MAX_VOLUME_PER_ATOM = 45.0  # Å^3; chains of alkali atoms and molecules in boxes are left out
MIN_VOLUME_PER_ATOM = 9.0  # Å^3; below it are cells far from equilibrium
MAX_SITES = 2  # close-packed polytypes of three and more atoms take a thousand k-points
RELATIVE_ZERO = 2e-3  # of a large DOS near the Fermi level; what counts as no states
VB_GAP_MATERIALS = (
    "mp-1039010",  # MgAl, confirmed
    "mp-1222270",  # LiMg, confirmed
    "mp-1094477",  # MgZn, refuted
    "mp-1094298",  # SrMg, refuted
    "mp-1180477",  # LiHPd, refuted
    "mp-1206725",  # LiAlPd, refuted
    "mp-1185435",  # LiYbAu2, confirmed; 4f shell closed
    "mp-1520737",  # NaLaNb2O6, confirmed
    "mp-1518664",  # KLaNb2O6, confirmed
)
"""Predicted positives of the paper without open 4f shells, small cells first."""


@dataclass(frozen=True)
class ElementRow:
    """One elemental crystal of an engine beside the Materials Project's.

    Parameters
    ----------
    wd : float
        Wasserstein distance of the SumNorm spectra on the 128-bin grid, in eV.
    wd_halves : float
        The same with the 64 bins below and the 64 above the band edges normalised apart, mean
        of both, in eV: what is left when MP's projections miss different shares of the valence
        and of the conduction states.
    share_valence, share_conduction : float
        MP's sum of projections over our total DOS, 4 eV below and above the band edges.
    band_gap, band_gap_mp : float
        Of our eigenvalues, and of MP's DOS where it vanishes, in eV.
    valence_bottom, valence_bottom_mp : float
        Lower end of the bands that end at the VBM or Fermi level, relative to it, in eV; where
        those bands reach below the grids, the end of the shorter one.
    wall_time : float or None
        In s.
    """

    material_id: str
    formula: str
    n_sites: int
    wd: float
    wd_halves: float
    share_valence: float
    share_conduction: float
    band_gap: float
    band_gap_mp: float
    valence_bottom: float
    valence_bottom_mp: float
    wall_time: float | None


@dataclass(frozen=True)
class VbGapRow:
    """Verdict on one predicted positive beside the paper's.

    Edges and width are of the 128-bin DFT spectrum, in eV relative to the VBM or Fermi level.

    Parameters
    ----------
    predicted : bool or None
        Verdict on the predictor's spectrum; None if it has none.
    predicted_wd : float or None
        Wasserstein distance of the predicted SumNorm spectrum from DFT's, in eV.
    """

    material_id: str
    formula: str
    n_sites: int
    paper: bool | None
    is_gap: bool
    lower_edge: float | None
    upper_edge: float | None
    width: float
    max_dos: float | None
    is_gap_fine: bool
    predicted: bool | None
    predicted_wd: float | None
    wall_time: float | None

    @property
    def gap(self) -> tuple[float, float] | None:
        """Edges of DFT's gap in eV, None if it has none."""
        if not self.is_gap or self.lower_edge is None or self.upper_edge is None:
            return None
        return self.lower_edge, self.upper_edge


def eligible_elements(table: pd.DataFrame) -> pd.DataFrame:
    """One nonmagnetic crystal of each element without open 4f or 5f shells, cheapest first."""
    excluded = {*ACTINIDES, *MAGNETIC_3D, *LANTHANIDES, "O"} - {"La", "Lu"}
    symbols = [chemical_symbols[species[0]] for species in table["species"]]
    volumes = np.array([abs(np.linalg.det(np.reshape(x, (3, 3)))) for x in table["lattice"]])
    per_atom = volumes / table["nsites"]
    table = table.assign(symbol=symbols, cost=volumes * (1 + table["nsites"]))
    table = table[
        ~table["symbol"].isin(excluded)
        & per_atom.between(MIN_VOLUME_PER_ATOM, MAX_VOLUME_PER_ATOM)
        & (table["nsites"] <= MAX_SITES)
    ]
    return table.sort_values("cost").drop_duplicates("symbol")


def compare_element(document: DosDocument, energies: ArrayLike, dos: ArrayLike) -> ElementRow:
    """Compare a DOS with MP's of the same crystal.

    Parameters
    ----------
    document : DosDocument
    energies, dos : array_like, shape (m,)
        MP's; eV relative to its Fermi level, and any scale.
    """
    energies_mp, dos_mp = np.asarray(energies, float), np.asarray(dos, float)
    vbm, cbm = band_edges(energies_mp, dos_mp, 0.0, zero_of(energies_mp, dos_mp))
    ours = document.spectrum().values
    theirs = align_edos(energies_mp, dos_mp, vbm, cbm).values
    half = EDOS_GRID.size // 2
    halves = [(ours[:half], theirs[:half]), (ours[half:], theirs[half:])]
    floor = max(document.energies[0] - document.vbm, energies_mp[0] - vbm)
    return ElementRow(
        material_id=document.material_id or "",
        formula=document.formula,
        n_sites=len(document.structure),
        wd=_distance(ours, theirs),
        wd_halves=sum(_distance(a, b) for a, b in halves) / 2,
        share_valence=float(halves[0][1].sum() / halves[0][0].sum()),
        share_conduction=float(halves[1][1].sum() / halves[1][0].sum()),
        band_gap=document.band_gap,
        band_gap_mp=cbm - vbm,
        valence_bottom=_bottom(document.energies, document.dos, document.vbm, floor),
        valence_bottom_mp=_bottom(energies_mp, dos_mp, vbm, floor),
        wall_time=document.wall_time,
    )


def judge_vb_gap(
    document: DosDocument, paper: bool | None, predicted: NDArray[np.floating] | None = None
) -> VbGapRow:
    """Verdict on a DOS by the paper's criteria, on the 128 bins and on the fine DOS.

    Parameters
    ----------
    document : DosDocument
    paper : bool or None
        The paper's verdict by DFT.
    predicted : ndarray, shape (128,), optional
        A predicted spectrum in states/eV/cell, to be judged as well.
    """
    spectrum, n_sites = document.spectrum().values, len(document.structure)
    binned = judge(spectrum, [n_sites], GapCriteria()).row(0)
    fine = judge_fine(document, GapCriterion()).gaps.row(0)
    return VbGapRow(
        material_id=document.material_id or "",
        formula=document.formula,
        n_sites=n_sites,
        paper=paper,
        is_gap=binned["is_gap"],
        lower_edge=binned["lower_edge"],
        upper_edge=binned["upper_edge"],
        width=binned["width"],
        max_dos=binned["max_dos"],
        is_gap_fine=fine["is_gap"],
        predicted=(
            None
            if predicted is None
            else bool(judge(predicted, [n_sites], GapCriteria()).is_gap[0])
        ),
        predicted_wd=None if predicted is None else _distance(predicted, spectrum),
        wall_time=document.wall_time,
    )


def _distance(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    return float(wasserstein_distances(ours[None], theirs[None], EDOS_GRID.width)[0])


def _bottom(energies: ArrayLike, dos: ArrayLike, vbm: float, floor: float) -> float:
    """Lower end of the bands that end at `vbm`, relative to it; not below `floor`."""
    relative, values = np.asarray(energies, float) - vbm, np.asarray(dos, float)
    step = float(np.diff(relative).max())
    empty = (values < zero_of(relative, values)) & (relative < -step) & (relative >= floor)
    # a pseudogap is not an end: the empty range must be at least 0.2 eV wide
    width = max(1, round(0.2 / step))
    runs = np.convolve(empty, np.ones(width), mode="full")[width - 1 :] >= width
    ends = np.flatnonzero(runs)
    return float(relative[ends[-1] + width - 1]) if len(ends) else float(floor)


def zero_of(relative: NDArray[np.floating], dos: NDArray[np.floating]) -> float:
    """DOS below which there are no states; lone spikes do not count for the scale."""
    return RELATIVE_ZERO * float(np.percentile(dos[np.abs(relative) < 5.0], 90))


def elements_table(rows: Sequence[ElementRow]) -> str:
    """Markdown table of the elemental crystals, largest distance last."""
    lines = [
        "| Material | Id | WD (eV) | WD of the halves (eV) | MP's share below, above "
        "| Gap, MP (eV) | Valence bottom, MP (eV) | Time (s) |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.formula} | {r.material_id} | {r.wd:.3f} | {r.wd_halves:.3f} "
        f"| {r.share_valence:.2f}, {r.share_conduction:.2f} "
        f"| {r.band_gap:.2f}, {r.band_gap_mp:.2f} "
        f"| {r.valence_bottom:.2f}, {r.valence_bottom_mp:.2f} | {_seconds(r.wall_time)} |"
        for r in sorted(rows, key=lambda r: r.wd)
    ]
    return "\n".join(lines)


def vb_gaps_table(rows: Sequence[VbGapRow]) -> str:
    """Markdown table of the verdicts."""
    lines = [
        "| Material | Id | Paper | Verdict | Gap range (eV) | Width (eV) | Largest DOS inside "
        "| Verdict on the fine DOS | Predicted | WD of the prediction (eV) | Time (s) |",
        "|---|---|---|---|---:|---:|---:|---|---|---:|---:|",
    ]
    lines += [
        f"| {r.formula} | {r.material_id} | {_verdict(r.paper)} | {_verdict(r.is_gap)} "
        f"| {_number(r.lower_edge)} to {_number(r.upper_edge)} | {r.width:.2f} "
        f"| {_number(r.max_dos)} | {_verdict(r.is_gap_fine)} | {_verdict(r.predicted)} "
        f"| {_number(r.predicted_wd)} | {_seconds(r.wall_time)} |"
        for r in rows
    ]
    return "\n".join(lines)


def _verdict(is_gap: bool | None) -> str:
    return "unknown" if is_gap is None else "gap" if is_gap else "no gap"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def compare_elements(data: Path, runs: Path, out: Path, maker: GpawDosMaker, limit: int) -> None:
    """Compute elemental crystals, compare them with MP's and write the results."""
    table = eligible_elements(pd.read_parquet(data / "edos_mp_elements.parquet")).head(limit)
    references = table.set_index("material_id")
    rows, failures = [], []
    for material, outcome in zip(materials(table), run(materials(table), maker, runs), strict=True):
        if isinstance(outcome, DosError):
            failures.append({"material_id": material.material_id, "error": str(outcome)})
            continue
        reference = references.loc[material.material_id]
        rows.append(compare_element(outcome, reference["energies"], reference["dos"]))
        print(f"{rows[-1].formula:4s} WD {rows[-1].wd:.3f} eV", flush=True)
    medians = {
        "median_wd": statistics.median(r.wd for r in rows),
        "median_wd_halves": statistics.median(r.wd_halves for r in rows),
    }
    _write(out / f"elements_{maker.preset}", maker, rows, failures, medians)
    title = (
        "# Elemental crystals\n\n"
        f"{len(rows)} elemental crystals, {maker.recipe}: median WD {medians['median_wd']:.3f} eV, "
        f"of the halves {medians['median_wd_halves']:.3f} eV\n\n"
    )
    (out / f"elements_{maker.preset}.md").write_text(title + elements_table(rows) + "\n")


def check_vb_gaps(
    data: Path, runs: Path, out: Path, maker: GpawDosMaker, ids: Iterable[str]
) -> None:
    """Compute predicted positives, judge them and write the results."""
    table = pd.read_parquet(data / "paper_predicted_positives.parquet")
    table = table.set_index("material_id", drop=False).loc[list(ids)]
    documents, failures = [], []
    for material, outcome in zip(materials(table), run(materials(table), maker, runs), strict=True):
        if isinstance(outcome, DosError):
            failures.append({"material_id": material.material_id, "error": str(outcome)})
            continue
        documents.append(outcome)
        print(f"{outcome.formula:10s} {outcome.wall_time:.0f} s", flush=True)
    predictor = SpectrumPredictor.load(device="cpu", grid=EDOS_GRID)
    predicted = predictor.predict([document.structure for document in documents]).values
    verdicts = table["dft_vb_gap"].to_dict()
    rows = [
        judge_vb_gap(
            document,
            _known(verdicts[document.material_id]),
            None if np.isnan(spectrum).any() else spectrum,
        )
        for document, spectrum in zip(documents, predicted, strict=True)
    ]
    agree = sum(r.is_gap == r.paper for r in rows)
    summary = {"agree_with_paper": agree, "predictor": predictor.model_id}
    target = out / f"vb_gaps_{maker.preset}"
    _write(target, maker, rows, failures, summary)
    title = (
        "# VB gaps of the paper's predicted positives\n\n"
        f"{maker.recipe}: {agree} of {len(rows)} verdicts agree with the paper's\n\n"
    )
    target.with_suffix(".md").write_text(title + vb_gaps_table(rows) + "\n")
    spectra = [document.spectrum().values for document in documents]
    _write_spectra(target, rows, spectra, predicted, model_name(predictor.model_id))


def _known(verdict: Any) -> bool | None:
    return None if pd.isna(verdict) else bool(verdict)


def _write_spectra(
    target: Path,
    rows: Sequence[VbGapRow],
    dft: Iterable[NDArray[np.floating]],
    predicted: Iterable[NDArray[np.floating]],
    model: str,
) -> None:
    """Write the figure, and its numbers in eV and states/eV/cell."""
    panels, columns = [], {"energy": EDOS_GRID.centers}
    for row, calculated, guess in zip(rows, dft, predicted, strict=True):
        panels.append(EdosPanel(_panel_title(row), guess, calculated, row.gap, _gap_edges(guess)))
        columns[f"{row.material_id} dft"] = calculated
        columns[f"{row.material_id} predicted"] = guess
    figure = plot_edos_panels(EDOS_GRID.centers, panels, GapCriteria().max_dos, model)
    save_figure(figure, target.with_suffix(".png"))
    pd.DataFrame(columns).to_csv(target.with_suffix(".csv"), index=False, float_format="%.5f")


def _gap_edges(predicted: NDArray[np.floating]) -> tuple[float, float] | None:
    """Edges of the gap of a predicted spectrum; None if it has none, or is missing."""
    if np.isnan(predicted).any():
        return None
    gaps = find_gaps(EDOS_GRID, predicted)
    return (float(gaps.lower_edge[0]), float(gaps.upper_edge[0])) if gaps.is_gap[0] else None


def _panel_title(row: VbGapRow) -> str:
    return (
        f"{formula_text(row.formula)}: {_verdict(row.is_gap)} by DFT (paper: {_verdict(row.paper)})"
    )


def _write(
    target: Path,
    maker: GpawDosMaker,
    rows: Sequence[ElementRow | VbGapRow],
    failures: list[dict[str, str]],
    summary: Mapping[str, object],
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "recipe": maker.recipe,
        "settings": maker.settings.as_dict(),
        **summary,
        "rows": [asdict(row) for row in rows],
        "failures": failures,
    }
    target.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpaw_reference")
    parser.add_argument("what", choices=["elements", "vb-gaps"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the parquet files")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps each DOS")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--limit", type=int, default=20, help="elemental crystals")
    parser.add_argument("--ids", nargs="+", default=list(VB_GAP_MATERIALS), help="VB-gap materials")
    parser.add_argument("--wall-time-limit", type=float, default=1800.0, help="s a material")
    args = parser.parse_args()
    maker = GpawDosMaker(preset=args.preset, wall_time_limit=args.wall_time_limit)
    if args.what == "elements":
        compare_elements(args.data, args.runs, args.out, maker, args.limit)
    else:
        check_vb_gaps(args.data, args.runs, args.out, maker, args.ids)


if __name__ == "__main__":
    main()
