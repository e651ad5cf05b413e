"""What the time of a DFT calculation follows: atoms, electrons, volume, bands, symmetry.

    python -m tests.benchmarks.dft_times STRUCTURES LABELS [LABELS ...] [--out FOLDER]

Least absolute deviations of the logarithms, ten times tenfold cross-validation. Labels were made in
batches, each sorted by name; batches whose times scatter as those of a shared machine do (more than
`SHARED`) are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.symmetry.groups import PointGroup, SpaceGroup

from screening.benchmark.tables import markdown
from workflows.dos.cost import EMPTY_BANDS, Cell, estimate_cost

SHARED = 0.9  # deviation of the logarithm of the times of a batch
BATCH = 50  # sorted rows that make a batch
MODELS = (
    ("bands",),
    ("atoms",),
    ("electrons",),
    ("volume",),
    ("electrons", "volume"),
    ("atoms", "electrons"),
    ("atoms", "electrons", "volume"),
    ("bands", "volume"),
    ("bands", "operations"),
    ("bands", "k-points"),
)


def times(structures: Path, labels: Sequence[Path]) -> pd.DataFrame:
    """Times (s) of the labels, what they may follow, and the batch that each is of."""
    columns = ["material_id", "formula", "nsites", "nelect", "kmesh", "seconds"]
    table = pd.concat([_in_batches(path, columns) for path in labels], ignore_index=True)
    known = pd.read_parquet(structures, columns=["material_id", "volume", "spacegroup_number"])
    table = table.merge(known, on="material_id")
    table["atoms"], table["electrons"] = table["nsites"], table["nelect"]
    table["bands"] = table["nelect"] / 2 + EMPTY_BANDS * table["nsites"]
    table["k-points"] = [float(np.prod(mesh)) for mesh in table["kmesh"]]
    orders = {n: _operations(n) for n in table["spacegroup_number"].unique()}
    table["operations"] = table["spacegroup_number"].map(orders)
    return table


def _in_batches(path: Path, columns: list[str]) -> pd.DataFrame:
    table = pd.read_parquet(path, columns=columns)
    ids = table["material_id"].to_numpy()
    number = np.concatenate([[0], np.cumsum(ids[1:] < ids[:-1])])
    sizes = np.bincount(number)
    is_long = sizes[number] >= BATCH  # others were made one by one
    long = np.where(is_long, number, 0 * number)
    return table.assign(batch=[f"{path.stem} {n + 1}" for n in long])


def _operations(number: int) -> int:
    return len(PointGroup(SpaceGroup.from_int_number(number).point_group).symmetry_ops)


def fitted(terms: NDArray[np.floating], logs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coefficients with the least absolute deviations."""
    weight = np.ones(len(logs))
    for _ in range(50):
        line = np.linalg.lstsq(terms * weight[:, None], logs * weight, rcond=None)[0]
        weight = 1 / np.sqrt(np.maximum(np.abs(logs - terms @ line), 1e-2))
    return line


def terms_of(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.floating]:
    """Ones and the logarithms of the columns."""
    logs = [np.log(table[name].to_numpy(float)) for name in names]
    return np.column_stack([np.ones(len(table)), *logs])


def deviations(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.floating]:
    """Of each logarithm from its prediction, mean over ten cross-validations."""
    terms, logs = terms_of(table, names), np.log(table["seconds"].to_numpy())
    total = np.zeros(len(logs))
    for seed in range(10):
        fold = np.random.default_rng(seed).permutation(len(logs)) % 10
        for i in range(10):
            line = fitted(terms[fold != i], logs[fold != i])
            total[fold == i] += np.abs(logs[fold == i] - terms[fold == i] @ line) / 10
    return total


def comparison(table: pd.DataFrame) -> list[dict[str, object]]:
    """A row for each model: exponents, median factor, and gain over the atoms."""
    atoms = deviations(table, ["atoms"])
    rows: list[dict[str, object]] = []
    for names in MODELS:
        found = deviations(table, names)
        line = fitted(terms_of(table, names), np.log(table["seconds"].to_numpy()))
        gain = atoms - found
        rows.append(
            {
                "of": " and ".join(names),
                "exponents": ", ".join(f"{x:.2f}" for x in line[1:]),
                "factor, median": f"{np.exp(np.median(found)):.2f}",
                "factor, 90 %": f"{np.exp(np.quantile(found, 0.9)):.2f}",
                "mean log better than atoms by": (
                    f"{gain.mean():.4f} ± {gain.std() / np.sqrt(len(gain)):.4f}"
                ),
            }
        )
    return rows


def learning(table: pd.DataFrame) -> list[dict[str, object]]:
    """How far `estimate_cost` is off after so many times, those left out being estimated."""
    cells = [Cell(f, n) for f, n in zip(table["formula"], table["nsites"], strict=True)]
    seconds = table["seconds"].to_numpy()
    rows: list[dict[str, object]] = []
    for n_known in (0, 1, 3, 10, 30, 100, 300):
        factors, totals = [], []
        for seed in range(20):
            order = np.random.default_rng(seed).permutation(len(cells))
            known = [(cells[i], seconds[i]) for i in order[:n_known]]
            others = order[n_known:]
            estimate = estimate_cost([cells[i] for i in others], known).seconds
            factors.append(np.exp(np.median(np.abs(np.log(estimate / seconds[others])))))
            totals.append(np.log(sum(estimate) / seconds[others].sum()))
        rows.append(
            {
                "times known": n_known,
                "factor, median": f"{np.mean(factors):.2f}",
                "estimated over true total": f"{np.exp(np.mean(totals)):.2f}",
                "its scatter, factor": f"{np.exp(np.std(totals)):.2f}",
            }
        )
    return rows


def main() -> None:
    """Write `dft_times.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path)
    parser.add_argument("labels", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    table = times(options.structures, options.labels)
    terms, logs = terms_of(table, ["bands"]), np.log(table["seconds"].to_numpy())
    table["deviation"] = logs - terms @ fitted(terms, logs)
    scatter = table.groupby("batch")["deviation"].std()
    quiet = table[table["batch"].map(scatter) < SHARED]
    batches: list[dict[str, object]] = [
        {
            "batch": name,
            "materials": int((table["batch"] == name).sum()),
            "median s": f"{table.loc[table['batch'] == name, 'seconds'].median():.0f}",
            "deviation of the logarithm": f"{deviation:.2f}",
            "counts": "yes" if deviation < SHARED else "no: shared machine",
        }
        for name, deviation in scatter.items()
    ]
    text = [
        "# What the time of a DFT calculation follows",
        f"{len(quiet)} of {len(table)} PBE calculations with GPAW (the recipe of the shipped "
        f"labels) of cells of {quiet['atoms'].min()} to {quiet['atoms'].max()} atoms, "
        f"{quiet['bands'].min():.0f} to {quiet['bands'].max():.0f} bands. Wall times on one core.",
        markdown(batches),
        "Fits of the logarithm of the time, cross-validated. Bands are half the electrons of the "
        f"PAW sets and {EMPTY_BANDS} for each atom.",
        markdown(comparison(quiet)),
        "`workflows.dos.cost.estimate_cost` with the times of some of them, means of 20 draws. "
        "What it assumes without times is of another recipe and a busy machine. It estimates "
        "means, which lie above most of the times.",
        markdown(learning(quiet)),
    ]
    (options.out / "dft_times.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
