"""Which strategy finds VB gaps for the least DFT: a search whose DFT is known, replayed.

    python -m tests.benchmarks.active_search --structures mp_snapshot.parquet
        [--labels FILE ...] [--seeds 10] [--out FOLDER]

Of all labelled materials 100 random ones count as calculated. In each round a strategy takes 20 of
the others, their labels are uncovered, and the model is trained again, until half of the gaps that
were hidden are found and at least ten rounds are over.

The model is small enough to be trained thousands of times: an ensemble of kernel regressions on the
statistics of the crystals (parts of Mat2Spec+), each on a bootstrap sample of the calculated
materials. The shipped networks have seen these labels and would know the answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.ensemble import scales, standardized
from models.architectures.parts.kernel_regression import KernelRegression
from models.data.dataset import edos_dataset
from models.data.label_files import read_crystals
from models.spectra.metrics import wasserstein_distances
from models.spectra.spectrum import EDOS_GRID
from screening.acquisition import Pool, choose
from screening.benchmark.tables import markdown
from screening.families import family_of
from screening.gap import GapCriteria, find_gaps
from screening.report.plots import new_figure, save_figure
from workflows.dos.cost import Cell, estimate_cost

RESULTS = Path(__file__).parent / "results"
LABELS = Path("models/data/edos_labels.parquet")
N_FIRST, N_ROUND, ROUNDS, MOST_ROUNDS = 100, 20, 10, 40
TEST = 0.2  # part of the materials that shows what a model learned
FIXED = "best, never trained again"
MEMBERS = 16
OUTLIER = 4.0  # deviations at which a statistic is cut off
SEARCHES = {
    "random": "drawn",
    FIXED: "best score of the first model",
    "best": "best score",
    "probability": "largest probability",
    "budget": "largest expected number for the time that 20 take on average",
    "uncertainty": "probability nearest to 1/2",
    "spread": "largest spread of the members, as of the expected error",
    "diverse": "best score of each family first",
}
"""Searches that are compared; all but two are strategies of `screen validate`."""


@dataclass(frozen=True, eq=False)
class Materials:
    """Labelled materials.

    Parameters
    ----------
    names : tuple of str, length n
    features : Tensor, shape (n, k)
        Standardised.
    spectra : Tensor, shape (n, 128)
        By DFT, in states/eV/atom.
    n_atoms : ndarray, shape (n,)
    is_gap : ndarray of bool, shape (n,)
        By DFT.
    seconds : ndarray, shape (n,)
        Estimated time of the calculation.
    families : tuple, length n
    """

    names: tuple[str, ...]
    features: torch.Tensor
    spectra: torch.Tensor
    n_atoms: NDArray[np.integer]
    is_gap: NDArray[np.bool_]
    seconds: NDArray[np.floating]
    families: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: NDArray[np.integer]) -> Materials:
        """Some of the materials."""
        return Materials(
            tuple(self.names[i] for i in index),
            self.features[index],
            self.spectra[index],
            self.n_atoms[index],
            self.is_gap[index],
            self.seconds[index],
            tuple(self.families[i] for i in index),
        )

    def scores(self, spectra: torch.Tensor, which: NDArray[np.integer]) -> NDArray[np.floating]:
        """Scores (eV) of predicted spectra (states/eV/atom) of some of the materials."""
        n_atoms = self.n_atoms[which]
        return find_gaps(
            EDOS_GRID, spectra.numpy() * n_atoms[:, None], GapCriteria(), n_atoms
        ).score


def read(labels: Sequence[Path], structures: Path) -> Materials:
    """Materials with a usable label."""
    dataset = edos_dataset(labels, structures)
    graphs = dataset.graphs
    with torch.no_grad():
        statistics = CrystalStatistics()(graphs)
    crystals = read_crystals(structures, set(dataset.material_ids))
    ordered = [crystals[name] for name in dataset.material_ids]
    n_atoms = np.array([len(crystal) for crystal in ordered])
    gaps = find_gaps(EDOS_GRID, dataset.spectra.numpy(), GapCriteria(), n_atoms)
    times = pd.concat(
        [pd.read_parquet(path, columns=["material_id", "seconds"]) for path in labels]
    ).set_index("material_id")["seconds"]
    cells = [Cell(crystal.formula, len(crystal)) for crystal in ordered]
    known = list(zip(cells, times[list(dataset.material_ids)], strict=True))
    return Materials(
        dataset.material_ids,
        standardized(statistics, *scales(statistics), OUTLIER),
        dataset.spectra / torch.from_numpy(n_atoms[:, None]),
        n_atoms,
        gaps.is_gap,
        np.array(estimate_cost(cells, known).seconds),
        tuple(map(family_of, ordered)),
    )


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of some materials, arrays of shape (n,), spectra (n, 128)."""

    spectra: torch.Tensor
    scores: NDArray[np.floating]
    probabilities: NDArray[np.floating]
    spreads: NDArray[np.floating]

    def select(self, index: NDArray[np.integer]) -> Prediction:
        """Those of some of the materials."""
        arrays = (self.spectra, self.scores, self.probabilities, self.spreads)
        return Prediction(*(array[index] for array in arrays))


def predict(
    materials: Materials,
    calculated: NDArray[np.integer],
    others: NDArray[np.integer],
    rng: np.random.Generator,
) -> Prediction:
    """Train on the calculated materials and predict the others.

    The probability is a logistic function of score and spread, fitted to the calculated materials
    as members predict them that were not trained on them.
    """
    every = np.concatenate([calculated, others])
    features = materials.features[every]
    members, unseen = [], []
    for _ in range(MEMBERS):
        drawn = rng.integers(len(calculated), size=len(calculated))
        sample = np.unique(drawn)  # copies would only change the ridge
        model = KernelRegression(EDOS_GRID.size, features.shape[1])
        model.fit(features[sample], materials.spectra[calculated[sample]])
        members.append(model(features).clamp_min(0))
        unseen.append(~np.isin(np.arange(len(every)), sample))
    spectra, counts = torch.stack(members), torch.from_numpy(np.array(unseen)).float()
    mean = (counts[:, :, None] * spectra).sum(0) / counts.sum(0).clamp_min(1)[:, None]
    distances = [wasserstein_distances(s.numpy(), mean.numpy(), EDOS_GRID.width) for s in spectra]
    spreads = np.average(distances, axis=0, weights=np.maximum(counts.numpy(), 1e-9))
    scores = materials.scores(mean, every)
    n = len(calculated)
    coefficients = logistic(scores[:n], spreads[:n], materials.is_gap[calculated])
    probabilities = _probability(coefficients, scores, spreads)
    return Prediction(mean[n:], scores[n:], probabilities[n:], spreads[n:])


def logistic(
    scores: NDArray[np.floating], spreads: NDArray[np.floating], is_gap: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Coefficients of constant, score and spread, with a weak normal prior on the last two."""

    def surprise(coefficients: NDArray[np.floating]) -> float:
        p = _probability(coefficients, scores, spreads).clip(1e-12, 1 - 1e-12)
        likelihood = np.log(np.where(is_gap, p, 1 - p)).sum()
        return float(-likelihood + 0.5 * ((coefficients[1:] / 5) ** 2).sum())

    coefficients: NDArray[np.floating] = minimize(surprise, np.zeros(3), method="BFGS").x
    return coefficients


def _probability(
    coefficients: NDArray[np.floating],
    scores: NDArray[np.floating],
    spreads: NDArray[np.floating],
) -> NDArray[np.floating]:
    logit = coefficients[0] + coefficients[1] * scores + coefficients[2] * spreads
    probability: NDArray[np.floating] = 1 / (1 + np.exp(-np.clip(logit, -40, 40)))
    return probability


def search(
    materials: Materials, name: str, seed: int, most_rounds: int = MOST_ROUNDS
) -> pd.DataFrame:
    """One search: a row for each calculation in its order, with the model's judgement of it."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(materials))
    calculated, others = order[:N_FIRST], order[N_FIRST:]
    wanted, spent = (materials.is_gap[others].sum() + 1) // 2, 0.0
    first = prediction = predict(materials, calculated, others, rng)
    rounds, found = [], 0
    for number in range(1, most_rounds + 1):
        taken = _chosen(materials, name, others, prediction, f"{seed} {number}")
        index = others[taken]
        rounds.append(
            pd.DataFrame(
                {
                    "search": name,
                    "seed": seed,
                    "round": number,
                    "index": index,
                    "is_gap": materials.is_gap[index],
                    "probability": prediction.probabilities[taken],
                    "hours": materials.seconds[index] / 3600,
                }
            )
        )
        found += int(materials.is_gap[index].sum())
        spent += float(materials.seconds[index].sum())
        calculated = np.concatenate([calculated, index])
        left = np.setdiff1d(np.arange(len(others)), taken)
        others = others[left]
        is_over = number >= ROUNDS and spent >= ROUNDS * N_ROUND * materials.seconds.mean()
        if not len(others) or (is_over and found >= wanted):
            break
        first = first.select(left)
        is_fixed = name in ("random", FIXED)
        prediction = first if is_fixed else predict(materials, calculated, others, rng)
    return pd.concat(rounds, ignore_index=True)


def learned(materials: Materials, name: str, seed: int) -> dict[str, Any]:
    """What a model has learned by ten rounds, on materials that were kept from the search."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(materials))
    n_test = int(TEST * len(materials))
    test, rest = order[:n_test], order[n_test:]
    of_rest = materials.subset(rest)
    taken = search(of_rest, name, seed, ROUNDS)["index"].to_numpy()
    first = np.random.default_rng(seed).permutation(len(rest))[:N_FIRST]
    calculated = first if name == FIXED else np.concatenate([first, taken])
    prediction = predict(materials, rest[calculated], test, rng)
    is_gap, scores = materials.is_gap[test], prediction.scores
    above = scores[is_gap][:, None] - scores[~is_gap]
    distances = wasserstein_distances(
        prediction.spectra.numpy(), materials.spectra[test].numpy(), EDOS_GRID.width
    )
    return {
        "search": name,
        "area": float((above > 0).mean() + (above == 0).mean() / 2),
        "brier": float(((prediction.probabilities - is_gap) ** 2).mean()),
        "wd": float(distances.mean()),
    }


def _chosen(
    materials: Materials,
    name: str,
    others: NDArray[np.integer],
    prediction: Prediction,
    seed: str,
) -> NDArray[np.integer]:
    """Positions among the others that a search takes in a round."""
    if name == "spread":
        return np.argsort(-prediction.spreads)[:N_ROUND]
    pool = Pool(
        [str(i) for i in range(len(others))],
        prediction.scores,
        prediction.probabilities,
        materials.seconds[others],
        [materials.families[i] for i in others],
        np.zeros(len(others), bool),
    )
    mean = float(materials.seconds.mean())
    options: dict[str, Any] = {"budget": N_ROUND * mean} if name == "budget" else {"limit": N_ROUND}
    strategy: Any = "best" if name == FIXED else name
    return np.array([int(i) for i in choose(pool, strategy, seed=seed, **options)])


def random_effort(n: int, n_gaps: int, wanted: int) -> float:
    """Calculations that random choice needs on average until it has found so many gaps.

    Parameters
    ----------
    n, n_gaps, wanted : int
        Of the materials to choose from, with a gap, and to find.
    """
    return wanted * (n + 1) / (n_gaps + 1)


def summary(materials: Materials, searches: pd.DataFrame) -> pd.DataFrame:
    """For each search and seed: what was found by ten rounds, and what half of the gaps took."""
    rows = []
    total, mean = int(materials.is_gap.sum()), float(materials.seconds.mean()) / 3600
    for (name, seed), rows_of in searches.groupby(["search", "seed"], sort=False):
        first = np.random.default_rng(seed).permutation(len(materials))[:N_FIRST]
        hidden = total - int(materials.is_gap[first].sum())
        wanted = (hidden + 1) // 2
        found, hours = rows_of["is_gap"].cumsum(), rows_of["hours"].cumsum()
        n_half = int((found < wanted).sum()) + 1
        by_random = random_effort(len(materials) - N_FIRST, hidden, wanted)
        is_there = found.iloc[-1] >= wanted
        to_half = hours.iloc[n_half - 1] if is_there else np.nan
        ten = rows_of["round"] <= ROUNDS
        hits = ten & rows_of["is_gap"]
        rows.append(
            {
                "search": name,
                "seed": seed,
                "calculations": int(ten.sum()),
                "hours": hours[ten].iloc[-1],
                "found": int(rows_of.loc[ten, "is_gap"].sum()),
                "found per cent": 100 * rows_of.loc[ten, "is_gap"].sum() / hidden,
                "calculations to half": n_half if is_there else np.nan,
                "hours to half": to_half,
                "factor, calculations": by_random / n_half if is_there else np.nan,
                "factor, hours": by_random * mean / to_half,
                "found in the hours": int(
                    rows_of.loc[hours <= ROUNDS * N_ROUND * mean, "is_gap"].sum()
                ),
                "families": len({materials.families[i] for i in rows_of["index"][hits]}),
                "expected": float(rows_of.loc[ten, "probability"].sum()),
            }
        )
    figures = pd.DataFrame(rows)
    fixed = figures[figures["search"] == FIXED].set_index("seed")["calculations to half"]
    figures["over fixed"] = figures["seed"].map(fixed) / figures["calculations to half"]
    return figures


def mean_and_error(values: pd.Series, digits: int = 1) -> str:
    """Mean and its standard error over the seeds."""
    error = values.std() / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def curves(searches: pd.DataFrame, by: str, points: NDArray[np.floating]) -> pd.DataFrame:
    """Gaps found after so many calculations or hours, mean and standard error over the seeds."""
    rows = []
    for name, of_search in searches.groupby("search", sort=False):
        found = []
        for _, rows_of in of_search.groupby("seed"):
            spent = rows_of["hours"].cumsum() if by == "hours" else np.arange(1, len(rows_of) + 1)
            steps = np.concatenate([[0], rows_of["is_gap"].cumsum()])
            found.append(steps[np.searchsorted(spent, points, side="right")])
        error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
        means = np.mean(found, axis=0)
        rows += [
            {"search": name, by: point, "found": mean, "standard error": deviation}
            for point, mean, deviation in zip(points, means, error, strict=True)
        ]
    return pd.DataFrame(rows)


def draw(by_number: pd.DataFrame, by_hours: pd.DataFrame, file: Path) -> None:
    """Gaps found against calculations and against core hours, bands of one standard error."""
    styles = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
    figure = new_figure(9.0, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    panels = ((by_number, "calculations", "Calculations"), (by_hours, "hours", "Core hours"))
    for ax, (table, by, label) in zip(axes, panels, strict=True):
        for style, (name, curve) in zip(styles, table.groupby("search", sort=False), strict=True):
            x, mean, error = (curve[c].to_numpy() for c in (by, "found", "standard error"))
            (line,) = ax.plot(x, mean, linestyle=style, label=name)
            ax.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.15, lw=0)
        ax.set_xlabel(label)
        ax.set_xlim(0, x[-1])
    axes[0].set_ylabel("VB gaps found")
    axes[0].legend(fontsize=7)
    save_figure(figure, file)


def page(materials: Materials, figures: pd.DataFrame, knowledge: pd.DataFrame, command: str) -> str:
    """The table, and what it says."""
    n_seeds = figures["seed"].nunique()
    limit = ROUNDS * N_ROUND * float(materials.seconds.mean()) / 3600
    rows: list[dict[str, object]] = [
        {
            "search": name,
            "takes": SEARCHES[str(name)],
            "calculations": f"{part['calculations'].mean():.0f}",
            "core hours": mean_and_error(part["hours"], 2),
            "gaps found": mean_and_error(part["found"]),
            f"gaps in {limit:.2f} core hours": mean_and_error(part["found in the hours"]),
            "% of the hidden": mean_and_error(part["found per cent"]),
            "calculations to half": mean_and_error(part["calculations to half"], 0),
            "core hours to half": mean_and_error(part["hours to half"], 2),
            "factor saved, calculations": mean_and_error(part["factor, calculations"], 2),
            "factor saved, hours": mean_and_error(part["factor, hours"], 2),
            "factor over the first model": mean_and_error(part["over fixed"], 2),
            "families with a gap": mean_and_error(part["families"]),
            "expected / found": f"{part['expected'].sum() / part['found'].sum():.2f}",
        }
        for name, part in figures.groupby("search", sort=False)
    ]
    learning: list[dict[str, object]] = [
        {
            "search": name,
            "area under the ROC curve": mean_and_error(part["area"], 3),
            "Brier score": mean_and_error(part["brier"], 4),
            "WD, eV": mean_and_error(part["wd"], 3),
        }
        for name, part in knowledge.groupby("search", sort=False)
    ]
    return "\n\n".join(
        [
            "# A search for VB gaps that learns, replayed",
            f"`{command}`",
            f"{len(materials)} labelled materials, {materials.is_gap.sum()} with a VB gap. "
            f"{N_FIRST} random ones are known at the start; {N_ROUND} are taken in each of "
            f"{ROUNDS} rounds (`budget`: what fits into the time of {N_ROUND} average ones), then "
            f"on until half of the hidden gaps are found and {limit:.2f} core hours are spent. "
            f"Means and standard errors of {n_seeds} seeds, each of which starts from the same "
            "materials in all searches. Core hours are "
            "estimates (`workflows.dos.cost`) after the measured times of all of these "
            "calculations.",
            markdown(rows),
            "The factor saved is what random choice needs on average for half of the hidden gaps "
            "over what the search needed; that over the first model is against the best scores of "
            "the model that is never trained again. Expected over found: sum of the probabilities "
            "of what was taken, over the gaps among it. The model is an ensemble of kernel "
            "regressions on the statistics of the crystals, trained again after each round; the "
            "shipped networks have seen these labels.",
            "## What the model learns",
            f"The same with {100 * TEST:.0f} % of the materials kept from the search: what the "
            f"model says of these after {ROUNDS} rounds (`{FIXED}`: at the start).",
            markdown(learning),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.active_search")
    parser.add_argument("--structures", type=Path, required=True, help="table of structures")
    parser.add_argument("--labels", type=Path, nargs="+", help="tables of labels")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    labels = args.labels or [LABELS, args.structures.with_name("edos_gpaw.parquet")]
    materials = read(labels, args.structures)
    searches = pd.concat(
        [search(materials, name, seed) for name in SEARCHES for seed in range(args.seeds)]
    )
    figures = summary(materials, searches)
    knowledge = pd.DataFrame(
        [learned(materials, name, seed) for name in SEARCHES for seed in range(args.seeds)]
    )
    n, hours = ROUNDS * N_ROUND, ROUNDS * N_ROUND * float(materials.seconds.mean()) / 3600
    by_number = curves(searches, "calculations", np.arange(0.0, n + 1, 5))
    by_hours = curves(searches, "hours", np.linspace(0, hours, 41))
    command = (
        f"python -m tests.benchmarks.active_search --structures {args.structures.name} "
        f"--seeds {args.seeds}"
    )
    text = page(materials, figures, knowledge, command)
    (args.out / "active_search.md").write_text(text + "\n")
    by_number.to_csv(args.out / "active_search.csv", index=False, float_format="%.3f")
    draw(by_number, by_hours, args.out / "active_search.png")
    print(text)


if __name__ == "__main__":
    main()
