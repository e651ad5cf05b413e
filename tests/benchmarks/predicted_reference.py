"""Predictors against what others published: the paper's predicted positives, MP's elements.

::

    python -m tests.benchmarks.predicted_reference --data DATA --out OUT \\
        --labels LABELS --checkpoint tight-binding-edos --checkpoint mat2spec-edos

DATA holds ``edos_mp_elements.parquet`` and ``paper_predicted_positives.parquet``; materials in
LABELS, the files that the predictors were trained on, are left out. OUT gets
``predicted_reference.md``. The paper's materials are a last look: nothing was chosen by them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.crystal import Crystal
from models.predictor import SpectrumPredictor
from models.primitive import reduce_cell
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID, align_edos, band_edges
from models.zoo import predictor_folder
from screening.classification import ConfusionMatrix
from screening.criteria.registry import VB_GAP, find_criterion
from screening.gap import find_gaps
from screening.gap_criteria import GapCriteria
from screening.trust import Trust, trust_in
from tests.benchmarks.gpaw_reference import eligible_elements, zero_of

HEAD = """# Predictors against what others published

Made by `python -m tests.benchmarks.predicted_reference --data DATA --out OUT --labels LABELS {}`.

"""


@dataclass(frozen=True)
class Verdicts:
    """A predictor on the paper's predicted positives whose DFT the paper names.

    Parameters
    ----------
    matrix : ConfusionMatrix
        Of those that it predicts, with the paper's DFT as truth.
    called, false : tuple of str
        Formulas that it calls a VB gap, by the paper's DFT.
    refused : dict of str
        Reason by formula.
    probabilities : dict of float
        That DFT agrees with a call, by formula; of a predictor that is calibrated.
    """

    matrix: ConfusionMatrix
    called: tuple[str, ...]
    false: tuple[str, ...]
    refused: dict[str, str]
    probabilities: dict[str, float]

    def in_words(self, formulas: Sequence[str]) -> str:
        """Formulas with their probabilities, the largest first."""
        p = self.probabilities
        ordered = sorted(formulas, key=lambda formula: -p.get(formula, 0.0))
        return ", ".join(f"{f} ({p[f]:.2f})" if f in p else f for f in ordered) or "-"


def crystals(table: pd.DataFrame) -> list[Crystal]:
    """Primitive cells of a table with `lattice` (Å), `species` and `frac_coords`."""
    cells = zip(table["lattice"], table["frac_coords"], table["species"], strict=True)
    return [reduce_cell(Crystal(*map(np.array, cell))).crystal for cell in cells]


def paper_verdicts(
    predictor: SpectrumPredictor, table: pd.DataFrame, trust: Trust | None = None
) -> Verdicts:
    """Verdicts on the materials of a table with `formula` and `dft_vb_gap`."""
    table = table[table["dft_vb_gap"].notna()]
    cells = crystals(table)
    predicted = predictor.predict(cells)
    good = [i for i in range(len(table)) if i not in predicted.failures]
    spectra = predicted.values[good]
    gaps = find_gaps(EDOS_GRID, spectra, GapCriteria())
    is_gap = gaps.is_gap
    formulas = table["formula"].to_numpy()
    truth = table["dft_vb_gap"].to_numpy(bool)[good]
    names = formulas[good]
    probabilities = {}
    if trust is not None:
        n_atoms = np.array([len(cells[i]) for i in good])
        hints = predicted.member_spread[good], predicted.training_distance[good]
        errors = trust.calibration.expected_errors(*hints)
        p = trust.probabilities(spectra, n_atoms, gaps.score, errors)
        probabilities = dict(zip(names, p.tolist(), strict=True))
    return Verdicts(
        ConfusionMatrix.of(zip(is_gap.tolist(), truth.tolist(), strict=True)),
        tuple(names[is_gap & truth]),
        tuple(names[is_gap & ~truth]),
        {formulas[i]: reason for i, reason in predicted.failures.items()},
        probabilities,
    )


def element_distances(predictor: SpectrumPredictor, table: pd.DataFrame) -> NDArray[np.floating]:
    """Wasserstein distance from MP's DOS of each elemental crystal in eV, NaN where refused.

    The 64 bins below and the 64 above the band edges are normalised apart, and this is the mean
    of both: MP's are sums of projections, which miss different shares of the two.
    """
    predicted = predictor.predict(crystals(table)).values
    reference = []
    for columns in zip(table["energies"], table["dos"], strict=True):
        energies, dos = (np.array(column, float) for column in columns)
        vbm, cbm = band_edges(energies, dos, 0.0, zero_of(energies, dos))
        reference.append(align_edos(energies, dos, vbm, cbm).values)
    half = EDOS_GRID.size // 2
    sides = [
        wasserstein_distances(predicted[:, side], np.array(reference)[:, side], EDOS_GRID.width)
        for side in (slice(half), slice(half, None))
    ]
    distances: NDArray[np.floating] = np.mean(sides, axis=0)
    return distances


def page(names: Sequence[str], data: Path, labels: Sequence[Path]) -> str:
    """Markdown page of some predictors."""
    known_ids = [i for path in labels for i in pd.read_parquet(path)["material_id"]]
    paper, elements = (
        table[~table["material_id"].isin(known_ids)]
        for table in (
            pd.read_parquet(data / "paper_predicted_positives.parquet"),
            eligible_elements(pd.read_parquet(data / "edos_mp_elements.parquet")),
        )
    )
    predictors = [SpectrumPredictor.load(name, device="cpu", grid=EDOS_GRID) for name in names]
    trust = [trust_in(predictor_folder(name), find_criterion(VB_GAP)) for name in names]
    verdicts = [paper_verdicts(p, paper, t) for p, t in zip(predictors, trust, strict=True)]
    distances = [element_distances(predictor, elements) for predictor in predictors]
    known = np.isfinite(distances).all(0)
    lines = [
        f"## The paper's {int(paper['dft_vb_gap'].notna().sum())} predicted positives",
        "",
        "Confirmed and refuted are by the paper's DFT. In brackets the probability that a "
        "predictor gives to its call.",
        "",
        "| predictor | confirmed ones called | refuted ones called | refused | called, confirmed "
        "| called, refuted |",
        "|---|---:|---:|---:|---|---|",
    ]
    for predictor, v in zip(predictors, verdicts, strict=True):
        m = v.matrix
        lines.append(
            f"| {predictor.model_id} | {m.tp} of {m.tp + m.fn} | {m.fp} of {m.fp + m.tn} "
            f"| {', '.join(v.refused) or '0'} | {v.in_words(v.called)} | {v.in_words(v.false)} |"
        )
    lines += [
        "",
        f"## {int(known.sum())} elemental crystals of the Materials Project without a label",
        "",
        "Wasserstein distance (eV) from MP's DOS (CC-BY 4.0), below and above the band edges "
        "normalised apart.",
        "",
        "| predictor | median | mean ± standard error | worst |",
        "|---|---:|---:|---|",
    ]
    formulas = elements["formula"].to_numpy()[known]
    for predictor, of_all in zip(predictors, distances, strict=True):
        wd = of_all[known]
        worst = ", ".join(f"{formulas[i]} {wd[i]:.2f}" for i in np.argsort(-wd)[:4])
        error = wd.std(ddof=1) / len(wd) ** 0.5
        lines.append(
            f"| {predictor.model_id} | {statistics.median(wd):.3f} | {wd.mean():.3f} ± "
            f"{error:.3f} | {worst} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=Path, action="append", required=True)
    parser.add_argument("--checkpoint", action="append", required=True)
    options = parser.parse_args()
    names = " ".join(f"--checkpoint {Path(name).name}" for name in options.checkpoint)
    text = HEAD.format(names) + page(options.checkpoint, options.data, options.labels)
    (options.out / "predicted_reference.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
