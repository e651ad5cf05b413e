"""Expected errors, bands and probabilities of the shipped predictors, on materials never seen.

    python -m tests.benchmarks.calibration --labels edos_gpaw.parquet
        --labels models/data/edos_labels.parquet --structures mp_snapshot.parquet
        [--out FOLDER]

All labelled materials that a predictor has not learned from take part, its test materials too.
They are cut into five parts by chemical system, and each part is judged by a calibration on the
other four. (What a predictor ships with is calibrated without the test materials, whose figures
`screen calibrate` prints.) Written are ``calibration.md``, ``.csv`` with every material, and a
reliability diagram.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.data.dataset import edos_dataset
from models.data.splits import fold
from models.predictor import SpectrumPredictor
from models.uncertainty.calibration import Calibration
from models.uncertainty.held_out import HeldOut
from models.uncertainty.measure import ask, parts_for_calibration
from models.uncertainty.reliability import (
    average_precision,
    brier_score,
    expected_calibration_error,
    reliability_bins,
)
from models.writing import write_whole
from screening.classification import proportion
from screening.criteria.gap_criterion import GapCriterion
from screening.gap import find_gaps
from screening.gap_criteria import GapCriteria
from screening.report.plots import new_figure, save_figure
from screening.trust import Trust

RESULTS = Path(__file__).parent / "results"
PREDICTORS = ("mat2spec-edos", "mat2spec-plus-edos", "tight-binding-edos")
PARTS = 5
_BLUES = ("#56B4E9", "#0072B2", "#D55E00")


@dataclass(frozen=True, eq=False)
class Judged:
    """What is said of n held-out materials by calibrations on other chemical systems.

    Parameters
    ----------
    held_out : HeldOut
    expected_errors, probabilities, coverage : ndarray, shape (n,)
        In eV; of a VB gap; share of the bins in the band.
    is_positive, verdicts : ndarray of bool, shape (n,)
        By DFT, and by the predicted spectrum.
    scores : ndarray, shape (n,)
        In eV.
    """

    held_out: HeldOut
    expected_errors: np.ndarray
    probabilities: np.ndarray
    coverage: np.ndarray
    is_positive: np.ndarray
    verdicts: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, held_out: HeldOut, criteria: GapCriteria) -> Judged:
        """Judge each fifth by the others.

        Parameters
        ----------
        held_out : HeldOut
        criteria : GapCriteria
        """
        n = len(held_out)
        parts = np.array([int(PARTS * fold(s, 0)) for s in held_out.chemical_systems])
        predicted = find_gaps(held_out.grid, held_out.predicted, criteria, held_out.n_atoms)
        true = find_gaps(held_out.grid, held_out.labels, criteria, held_out.n_atoms)
        errors, probabilities, coverage = np.full((3, n), np.nan)
        for part in range(PARTS):
            rows = np.flatnonzero(parts == part)
            others = held_out.take(rows)
            trust = Trust(Calibration(held_out.take(parts != part)), GapCriterion(criteria))
            hints = others.member_spread, others.training_distance
            errors[rows] = trust.calibration.expected_errors(*hints)
            coverage[rows] = trust.calibration.coverage(others)
            probabilities[rows] = trust.probabilities(
                others.predicted, others.n_atoms, predicted.score[rows], errors[rows]
            )
        verdicts, is_positive = predicted.is_gap, true.is_gap
        scores = predicted.score
        return cls(held_out, errors, probabilities, coverage, is_positive, verdicts, scores)

    def figures(self) -> dict[str, Any]:
        """Figures for the table."""
        hard = self.verdicts.astype(float)
        p, is_positive, n = self.probabilities, self.is_positive, len(self.held_out)
        by_score = np.where(self.verdicts, 1e3, 0.0) + self.scores
        return {
            "materials": n,
            "VB gaps": int(is_positive.sum()),
            "mean error (eV)": f"{self.held_out.errors.mean():.3f}",
            "band covers (90 %)": f"{self.coverage.mean():.3f} ± "
            f"{self.coverage.std(ddof=1) / n**0.5:.3f}",
            "expected gaps": f"{p.sum():.1f}",
            "Brier score, verdict": f"{brier_score(hard, is_positive):.3f}",
            "Brier score, probability": f"{brier_score(p, is_positive):.3f}",
            "expected calibration error": f"{_ece(p, is_positive):.3f}",
            "average precision, by score": f"{average_precision(by_score, is_positive):.2f}",
            "by probability": f"{average_precision(p, is_positive):.2f}",
        }

    def errors_by_fifth(self) -> list[tuple[float, float]]:
        """Mean expected and mean actual error of the materials in fifths by expected error."""
        order = np.argsort(self.expected_errors)
        return [
            (float(self.expected_errors[rows].mean()), float(self.held_out.errors[rows].mean()))
            for rows in np.array_split(order, PARTS)
        ]

    def table(self, name: str) -> pd.DataFrame:
        """Every material."""
        return pd.DataFrame(
            {
                "predictor": name,
                "material_id": self.held_out.material_ids,
                "chemsys": self.held_out.chemical_systems,
                "expected_error": self.expected_errors.round(4),
                "error": self.held_out.errors.round(4),
                "coverage": self.coverage.round(4),
                "probability": self.probabilities.round(4),
                "predicted_vb_gap": self.verdicts,
                "dft_vb_gap": self.is_positive,
                "score": self.scores.round(4),
            }
        )


def _ece(probabilities: np.ndarray, is_positive: np.ndarray) -> float:
    return expected_calibration_error(reliability_bins(probabilities, is_positive))


def report(judged: dict[str, Judged]) -> str:
    """The tables as Markdown."""
    figures = pd.DataFrame({name: j.figures() for name, j in judged.items()}).T
    lines = [
        "# How far to trust the shipped predictors\n",
        "Made by `python -m tests.benchmarks.calibration`; all labelled materials that the "
        "predictor has not learned from, each judged by a calibration on other chemical "
        "systems.\n",
        figures.to_markdown() + "\n",
        "Expected and actual Wasserstein error (eV), in fifths by expected error:\n",
        "| predictor | " + " | ".join(f"{k + 1}" for k in range(PARTS)) + " |",
        "|---|" + "---|" * PARTS,
    ]
    for name, j in judged.items():
        cells = (f"{a:.3f}, {b:.3f}" for a, b in j.errors_by_fifth())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["\nMaterials by probability of a VB gap, and how many have one by DFT:\n"]
    for name, j in judged.items():
        cells = [
            f"{b.mean_probability:.2f}: {b.n_positive} of {b.n}"
            for b in reliability_bins(j.probabilities, j.is_positive)
        ]
        lines.append(f"- {name}: " + "; ".join(cells))
    return "\n".join(lines) + "\n"


def diagram(judged: dict[str, Judged]) -> Any:
    """Reliability diagram: share of VB gaps by DFT against probability, 95 % intervals."""
    figure = new_figure(4.6, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--", label="reliable")
    for (name, j), color in zip(judged.items(), _BLUES, strict=False):
        bins = reliability_bins(j.probabilities, j.is_positive)
        shares = [proportion(b.n_positive, b.n) for b in bins]
        x = np.array([b.mean_probability for b in bins])
        y = np.array([share.value for share in shares])
        ends = np.array([[share.low, share.high] for share in shares])
        axes.errorbar(
            x, y, np.abs(ends - y[:, None]).T, color=color, marker="o", capsize=3, label=name
        )
    axes.set(
        xlabel="Predicted probability of a VB gap",
        ylabel="Share with a VB gap by DFT",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(frameon=False, fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--labels", type=Path, action="append", required=True)
    parser.add_argument("--structures", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    judged = {}
    for name in PREDICTORS:
        predictor = SpectrumPredictor.load(name, "cpu")
        dataset = edos_dataset(
            options.labels, options.structures, predictor.grid, predictor.shape.card.graph
        )
        held_out, test = parts_for_calibration(predictor, dataset)
        ids = {*held_out.material_ids, *test.material_ids}
        rows = [i for i, material in enumerate(dataset.material_ids) if material in ids]
        judged[name] = Judged.of(ask(predictor, dataset.subset(rows)), GapCriteria())
    text = report(judged)
    print(text)
    write_whole(options.out / "calibration.md", text)
    tables = pd.concat([j.table(name) for name, j in judged.items()])
    write_whole(options.out / "calibration.csv", tables.to_csv(index=False))
    save_figure(diagram(judged), options.out / "calibration.png")


if __name__ == "__main__":
    main()
