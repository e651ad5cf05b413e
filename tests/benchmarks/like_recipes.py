"""How much the labels that are shipped would differ by the recipes of `screen validate`.

    python -m tests.benchmarks.like_recipes --structures mp_snapshot.parquet --runs RUNS \
        [--n 8] [--presets fast standard] [--skip ID ...]

Materials are drawn at random from the labels of cells of at most three atoms. RUNS keeps one DOS a
file, so that a stopped benchmark goes on where it was. Both are compared as labels: on the 128-bin
grid, by the Wasserstein distance of the shapes and the mean absolute difference.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import pandas as pd

from models.data.label_files import edos_labels
from models.spectra.metrics import mae, wasserstein
from models.spectra.spectrum import EDOS_GRID
from screening.gap import GapCriteria
from tests.benchmarks.dos_campaign import materials, run
from workflows.dos.document import DosDocument
from workflows.dos.gpaw.maker import GpawDosMaker
from workflows.verdicts import judge

LABELS = Path(__file__).parents[2] / "models" / "data" / "edos_labels.parquet"
MAX_SITES, SEED = 3, 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--skip", nargs="*", default=[], help="ids, such as those that take long")
    parser.add_argument("--presets", nargs="+", default=["fast", "standard"])
    options = parser.parse_args()
    labels = edos_labels([LABELS], options.structures)
    small = [i for i, crystal in labels.crystals.items() if len(crystal) <= MAX_SITES]
    drawn = np.random.default_rng(SEED).permutation(sorted(small))[: options.n].tolist()
    drawn = [name for name in drawn if name not in options.skip]
    table = pd.read_parquet(options.structures).set_index("material_id", drop=False).loc[drawn]
    print(
        "| recipe | material | formula | WD (eV) | MAE (states/eV/cell) | gap | label's gap | s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for preset in options.presets:
        maker = GpawDosMaker(preset=preset)
        distances, errors, same = [], [], 0
        for material, document in zip(
            materials(table), run(materials(table), maker, options.runs), strict=True
        ):
            if not isinstance(document, DosDocument):
                print(f"| {preset} | {material.material_id} | {document} | | | | | |")
                continue
            label = labels.spectra[material.material_id]
            spectrum = document.spectrum().values
            distances.append(wasserstein(spectrum[None], label[None], EDOS_GRID.width))
            errors.append(mae(spectrum, label))
            n_atoms = [len(document.structure)] * 2
            verdicts = judge(np.array([spectrum, label]), n_atoms, GapCriteria()).is_gap.tolist()
            same += verdicts[0] == verdicts[1]
            row = (document.formula, f"{distances[-1]:.4f}", f"{errors[-1]:.4f}", *verdicts)
            seconds = f"{document.wall_time:.0f}"
            print("|", " | ".join(map(str, (preset, material.material_id, *row, seconds))), "|")
        print(
            f"| {document.recipe if isinstance(document, DosDocument) else preset} | median of "
            f"{len(distances)} | | {statistics.median(distances):.4f} | "
            f"{statistics.median(errors):.4f} | {same} of {len(distances)} verdicts agree | | |",
            flush=True,
        )


if __name__ == "__main__":
    main()
