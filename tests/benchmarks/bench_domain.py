"""How large the error of the shipped predictors is in their domain, near it and out of it.

    python tests/benchmarks/bench_domain.py --structures mp_snapshot.parquet [--sample 3000]
        --labels edos_gpaw.parquet models/data/edos_labels.parquet

Measured on materials with a label of DFT that a predictor was not trained on. Prints Markdown: the
Wasserstein error by the word for the domain, by the percentile of the distance from the training
materials, the rank correlation of both with the error, and the words of a random sample of all
structures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.crystal import Crystal
from models.data.label_files import edos_labels
from models.errors import ModelError
from models.predicted_spectra import PredictedSpectra
from models.predictor import SpectrumPredictor
from models.spectra.metrics import wasserstein_distances
from models.zoo import shipped_predictors
from screening.candidate import Candidate
from screening.domain import Domain, Training
from screening.gap import GapCriteria, find_gaps

WORDS = ("yes", "near", "no")
BANDS = (-1, 25, 50, 75, 90, 95, 100)


@dataclass(frozen=True, eq=False)
class Judged:
    """Materials with their domain, and how wrong the prediction is.

    Parameters
    ----------
    domains : ndarray of Domain, shape (n,)
    errors : ndarray, shape (n,)
        Wasserstein distance in eV; NaN without a label.
    has_gap, predicted_gap : ndarray of bool, shape (n,)
    spread, distance : ndarray, shape (n,)
    """

    domains: np.ndarray
    errors: np.ndarray
    has_gap: np.ndarray
    predicted_gap: np.ndarray
    spread: np.ndarray
    distance: np.ndarray


def domains(
    predictor: SpectrumPredictor, crystals: list[Crystal], predicted: PredictedSpectra
) -> np.ndarray:
    """Domain of each crystal, None where it has no prediction."""
    training = Training(predictor.known, predictor.trained_on)
    found = np.full(len(crystals), None)
    for i, crystal in enumerate(crystals):
        if i not in predicted.failures:
            distance = float(predicted.training_distance[i])
            found[i] = Domain.of_candidate(Candidate("m", crystal), training, distance)
    return found


def judged(predictor: SpectrumPredictor, labels: Iterable[Path], structures: Path) -> Judged:
    """The labelled materials that a predictor was not trained on and does not refuse."""
    assert predictor.trained_on is not None
    joined = edos_labels(list(labels), structures)
    trained = {material.material_id for material in predictor.trained_on.materials}
    held_out = [i for i in joined.crystals if i not in trained]
    crystals = [joined.crystals[i] for i in held_out]
    label = np.stack([joined.spectra[i] for i in held_out])
    predicted = predictor.predict(crystals)
    n_atoms = [len(crystal) for crystal in crystals]
    width, criteria = predictor.grid.width, GapCriteria()
    good = [i for i in range(len(crystals)) if i not in predicted.failures]
    gaps = [find_gaps(predictor.grid, s, criteria, n_atoms) for s in (label, predicted.values)]
    return Judged(
        domains(predictor, crystals, predicted)[good],
        wasserstein_distances(predicted.values[good], label[good], width),
        gaps[0].is_gap[good],
        gaps[1].is_gap[good],
        predicted.member_spread[good],
        predicted.training_distance[good],
    )


def row(name: str, of: Judged, chosen: np.ndarray) -> str:
    """Line of the table for some of the materials."""
    n = int(chosen.sum())
    if not n:
        return f"| {name} | 0 | | | | |"
    errors = of.errors[chosen]
    standard_error = f" ± {errors.std(ddof=1) / n**0.5:.3f}" if n > 1 else ""
    called, true = of.predicted_gap & chosen, of.has_gap & chosen
    return (
        f"| {name} | {n} | {errors.mean():.3f}{standard_error} | {np.median(errors):.3f} "
        f"| {np.quantile(errors, 0.9):.3f} | {(called & true).sum()} of {true.sum()}, "
        f"{(called & ~true).sum()} false |"
    )


def report(predictor: SpectrumPredictor, of: Judged) -> str:
    """Tables of one predictor."""
    words = np.array([domain.in_domain for domain in of.domains])
    percentile = np.array([domain.training_percentile for domain in of.domains])
    head = "| {} | materials | WD, eV | median | 90 % below | VB gaps found |"
    line = "| --- | --- | --- | --- | --- | --- |"
    rows = [row(word, of, words == word) for word in WORDS]
    bands = [
        row(f"{max(low, 0)} to {high}", of, (percentile > low) & (percentile <= high))
        for low, high in pairwise(BANDS)
    ]
    ranks = [f"distance {spearmanr(of.distance, of.errors)[0]:.2f}"]
    if np.isfinite(of.spread).all():
        ranks.append(f"spread of the members {spearmanr(of.spread, of.errors)[0]:.2f}")
    return "\n".join(
        [
            f"## {predictor.folder.name}",
            f"Rank correlation with the error: {', '.join(ranks)}.\n",
            head.format("in the domain"),
            line,
            *rows,
            "",
            head.format("percentile of the distance"),
            line,
            *bands,
        ]
    )


def sample(predictor: SpectrumPredictor, structures: Path, n: int) -> str:
    """How many of some random structures are in the domain, near it and out of it."""
    table = pq.read_table(structures, columns=["lattice", "frac_coords", "species"])
    crystals = []
    for line in table.take(np.random.default_rng(0).permutation(len(table))[:n]).to_pylist():
        try:
            crystals.append(Crystal(line["lattice"], line["frac_coords"], line["species"]))
        except ModelError:
            continue
    predicted = predictor.predict(crystals)
    found = [domain for domain in domains(predictor, crystals, predicted) if domain is not None]
    counts = {word: sum(domain.in_domain == word for domain in found) for word in WORDS}
    unseen = sum(bool(domain.unseen_elements) for domain in found)
    shares = ", ".join(f"{word} {100 * count / len(found):.1f} %" for word, count in counts.items())
    return (
        f"{len(found):,} random structures: {shares}; {100 * unseen / len(found):.1f} % hold an "
        f"element that it was not trained on; {len(predicted.failures)} are refused"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=0, help="structures whose words are counted")
    parser.add_argument("--predictors", nargs="+", default=shipped_predictors())
    options = parser.parse_args()
    for name in options.predictors:
        predictor = SpectrumPredictor.load(name, "cpu")
        print(report(predictor, judged(predictor, options.labels, options.structures)))
        if options.sample:
            print(f"\n{sample(predictor, options.structures, options.sample)}")
        print()


if __name__ == "__main__":
    main()
