"""Predicted band gaps against the Materials Project's, on materials that no label is of.

    python -m tests.benchmarks.band_gaps --structures mp_snapshot.parquet
        [--checkpoint tight-binding-edos] [--limit 2000] [--seed 0] [--out FILE.md]

The table needs the columns of `screen run`, `chemsys` and `energy_above_hull` (eV/atom). A random
part is taken of its stable, small and nonmagnetic materials without a label: labels are those of
the repository, and those in ``edos_gpaw.parquet`` beside the table, or in the files of `--labels`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from models.crystal import Crystal
from models.predictor import SpectrumPredictor
from models.spectra.electronic_structure import SMALLEST_GAP
from models.spectra.spectrum import EDOS_GRID
from models.writing import write_whole
from screening.benchmark.subclasses import SUBCLASSES, Subclass
from screening.classification import Estimate, proportion
from workflows.dos.remarks import ACTINIDES, LANTHANIDES, MAGNETIC_3D

RESULTS = Path(__file__).parent / "results" / "band_gaps.md"
LABELS = Path("models/data/edos_labels.parquet")
MAX_ENERGY_ABOVE_HULL = 0.1  # eV/atom
MAX_SITES = 12
RANGES = (SMALLEST_GAP, 1.0, 2.0, 4.0, 6.0, math.inf)  # eV
CLASSES = (
    *SUBCLASSES.values(),
    Subclass(name="nitrides, phosphides, arsenides", elements=("N", "P", "As"), min_elements=2),
    Subclass(name="hydrides", elements=("H",), min_elements=2),
)
_EXCLUDED = {*MAGNETIC_3D, *ACTINIDES, *LANTHANIDES} - {"La", "Lu"}


def eligible(table: pd.DataFrame, labelled: set[str]) -> pd.DataFrame:
    """Rows of stable, small, nonmagnetic materials that have a gap and no label.

    Parameters
    ----------
    table : DataFrame
    labelled : set of str
        Ids of materials with a label.
    """
    magnetic = table["chemsys"].str.split("-").map(lambda own: not _EXCLUDED.isdisjoint(own))
    return table[
        ~magnetic
        & ~table["material_id"].isin(labelled)
        & (table["energy_above_hull"] <= MAX_ENERGY_ABOVE_HULL)
        & (table["nsites"] <= MAX_SITES)
        & table["band_gap"].notna()
    ]


def compare(materials: pd.DataFrame, predictor: SpectrumPredictor) -> pd.DataFrame:
    """The materials with `predicted`, their predicted band gaps in eV, NaN where refused.

    Parameters
    ----------
    materials : DataFrame
    predictor : SpectrumPredictor
    """
    columns = ("lattice", "frac_coords", "species")
    rows = zip(*(materials[name] for name in columns), strict=True)
    crystals = [Crystal(*map(np.array, row)) for row in rows]
    return materials.assign(predicted=predictor.predict(crystals).band_gaps)


def groups(
    found: pd.DataFrame, trained: frozenset[str], labelled: set[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Parts of the materials with their names; they overlap.

    Parameters
    ----------
    found : DataFrame
        What :func:`compare` returns.
    trained : frozenset of str
        Elements of the training set.
    labelled : set of str
        Chemical systems that have a label.
    """
    elements = found["chemsys"].str.split("-")
    for kind in CLASSES:
        yield kind.name, found[elements.map(kind.holds)]
    yield "elements", found[elements.map(len) == 1]
    known = found["chemsys"].isin(labelled)
    yield "chemical system has a label", found[known]
    yield "chemical system has none", found[~known]
    yield "an element has no label", found[~elements.map(trained.issuperset)]
    yield f"up to 6 atoms, of {MAX_SITES}", found[found["nsites"] <= 6]


def group_row(name: str, part: pd.DataFrame) -> str:
    """Row of the table of groups.

    Parameters
    ----------
    name : str
    part : DataFrame
        With `band_gap` and `predicted`, both in eV.
    """
    insulators = part[part["band_gap"] >= SMALLEST_GAP]
    right = (part["band_gap"] >= SMALLEST_GAP) == (part["predicted"] >= SMALLEST_GAP)
    share = proportion(int(right.sum()), len(part))
    errors = insulators["predicted"] - insulators["band_gap"]
    return (
        f"| {name} | {len(part):,} | {len(insulators):,} | {in_percent(share)} "
        f"| {mean_and_error(errors.abs())} | {mean_and_error(errors, '+')} |"
    )


def in_percent(share: Estimate) -> str:
    """A proportion and its 95 % interval."""
    if share.value is None or share.low is None or share.high is None:
        return "-"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def mean_and_error(values: pd.Series, sign: str = "") -> str:
    """Mean and its standard error; a single number has none.

    Parameters
    ----------
    values : Series
    sign : str
        ``"+"`` writes plus signs.
    """
    if len(values) < 2:
        return "-"
    return f"{values.mean():{sign}.3f} ± {values.sem():.3f}"


GROUP_HEADER = (
    "| materials | number | insulators | right calls, % (95 %) | MAE, eV | mean error, eV |",
    "|---|---:|---:|---:|---:|---:|",
)


def report(found: pd.DataFrame, parts: Sequence[tuple[str, pd.DataFrame]]) -> list[str]:
    """Lines of the tables.

    Parameters
    ----------
    found : DataFrame
        What :func:`compare` returns, without refused materials.
    parts : sequence of (str, DataFrame)
        The :func:`groups`.
    """
    is_insulator, called = (found[name] >= SMALLEST_GAP for name in ("band_gap", "predicted"))
    both = found[is_insulator & called]
    usual = max(is_insulator.mean(), 1 - is_insulator.mean())
    insulators = found[is_insulator]["band_gap"]
    guess = (insulators - insulators.median()).abs()
    recall, precision = (
        in_percent(proportion(int((is_insulator & called).sum()), int(those.sum())))
        for those in (is_insulator, called)
    )
    lines = [
        "| Materials Project | predicted metal | predicted insulator |",
        "|---|---:|---:|",
        f"| metal | {(~is_insulator & ~called).sum():,} | {(~is_insulator & called).sum():,} |",
        f"| insulator | {(is_insulator & ~called).sum():,} | {(is_insulator & called).sum():,} |",
        "",
        f"Of the insulators {recall} % are called so; of those called so {precision} % are "
        "insulators (95 % intervals). Where both say insulator, the MAE is "
        f"{mean_and_error((both['predicted'] - both['band_gap']).abs())} eV. For comparison: to "
        f"call all what most are is right for {100 * usual:.1f} %, and the median gap for each "
        f"insulator has an MAE of {mean_and_error(guess)} eV.",
        "",
        *GROUP_HEADER,
        group_row("all", found),
    ]
    lines += [group_row(name, part) for name, part in parts]
    lines += ["", "By the gap of the Materials Project:", "", *GROUP_HEADER]
    metals = found[~is_insulator]
    lines.append(group_row(f"below {SMALLEST_GAP:g} eV", metals))
    for low, high in pairwise(RANGES):
        part = found[(found["band_gap"] >= low) & (found["band_gap"] < high)]
        name = f"{low:g} to {high:g} eV" if high < math.inf else f"{low:g} eV and more"
        lines.append(group_row(name, part))
    return lines


def introduction(command: str, model: str, n_eligible: int, found: pd.DataFrame) -> list[str]:
    """Lines above the tables: how they were made, and of what.

    Parameters
    ----------
    command : str
    model : str
        Id of the predictor.
    n_eligible : int
        Materials that the random part is taken of.
    found : DataFrame
        What :func:`compare` returns.
    """
    refused = int(found["predicted"].isna().sum())
    return [
        "# Predicted band gaps against the Materials Project's",
        "",
        f"Made by `{command}`; model `{model}`.",
        "",
        f"{len(found):,} materials at random of {n_eligible:,} that no label is of: at most "
        f"{MAX_SITES} atoms and {MAX_ENERGY_ABOVE_HULL:g} eV/atom above the hull, without "
        f"{', '.join(MAGNETIC_3D)}, lanthanides but La and Lu, and actinides. {refused:,} of them "
        "are refused, and not counted below.",
        "",
        "The Materials Project's gaps are PBE's, with spin, and with +U for V, Mo and W in oxides "
        "and fluorides; they come from calculations of mixed settings (band structures along "
        "lines, DOS on uniform meshes, self-consistent ones). The labels of the shipped models are "
        "PBE's by GPAW without spin and U. So a part of the difference is not the model's. "
        f"A gap below {SMALLEST_GAP:g} eV is a metal on both sides. MAE and mean error (predicted "
        "minus the Materials Project's, ± standard error) are of what that calls an insulator; "
        "one that is called a metal counts with its whole gap. "
        "Intervals are exact (Clopper-Pearson). Groups overlap.",
        "",
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.band_gaps")
    parser.add_argument("--structures", type=Path, required=True, help="table of structures")
    parser.add_argument("--checkpoint", default="tight-binding-edos", help="folder or name")
    parser.add_argument("--labels", type=Path, nargs="+", help="tables of labelled materials")
    parser.add_argument("--limit", type=int, default=2000, help="materials")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = pd.read_parquet(args.structures)
    labels = [LABELS, *(args.labels or [args.structures.with_name("edos_gpaw.parquet")])]
    labelled = {i for path in labels for i in pd.read_parquet(path)["material_id"]}
    possible = eligible(table, labelled)
    materials = possible.sample(min(args.limit, len(possible)), random_state=args.seed)
    predictor = SpectrumPredictor.load(args.checkpoint, grid=EDOS_GRID)
    began = time.process_time()
    found = compare(materials, predictor)
    seconds = time.process_time() - began
    predicted = found[found["predicted"].notna()]
    if predicted.empty:
        parser.error(f"{predictor.model_id} knows no band gaps")
    systems = set(table["chemsys"][table["material_id"].isin(labelled)])
    command = (
        f"python -m tests.benchmarks.band_gaps --structures {args.structures.name} "
        f"--checkpoint {args.checkpoint} --limit {args.limit} --seed {args.seed}"
    )
    lines = introduction(command, predictor.model_id, len(possible), found)
    lines += report(predicted, list(groups(predicted, predictor.elements, systems)))
    write_whole(args.out, ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))
    print(f"{seconds / len(found):.3f} s of processor time a material")


if __name__ == "__main__":
    main()
