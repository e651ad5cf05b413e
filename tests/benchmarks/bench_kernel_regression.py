"""What few points cost the kernel regression in accuracy, and save in time and memory.

    python tests/benchmarks/bench_kernel_regression.py taught.parquet 600,600 600,300 21000,8192

The table is one that `screen distill` wrote; each pair is a number of materials to learn from and
the largest number of points. The Wasserstein distance is that of 2,000 other materials from the
labels. One thread.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.architectures.parts.crystal_statistics import CrystalStatistics
from models.architectures.parts.ensemble import distribution, scales, standardized
from models.architectures.parts.kernel_regression import KernelRegression
from models.data.dataset import taught_dataset
from models.spectra.metrics import wasserstein_of_shapes

N_TEST, OUTLIER = 2000, 5.0


def main() -> None:
    """Print a row for each pair of numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("taught", type=Path)
    parser.add_argument("pairs", nargs="+", help="Materials and points: 21000,8192.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = taught_dataset(arguments.taught)
    statistics = CrystalStatistics()(dataset.graphs)
    features = standardized(statistics, *scales(statistics), OUTLIER)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1))
    features, shapes = features[order], distribution(dataset.spectra)[order]
    print("| materials | points | fit, s | prediction, ms | WD, eV | peak memory, GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n, points in (map(int, pair.split(",")) for pair in arguments.pairs):
        model = KernelRegression(dataset.grid.size, features.shape[1], max_points=points)
        began = time.perf_counter()
        model.fit(
            features[: min(n, len(dataset) - N_TEST)], shapes[: min(n, len(dataset) - N_TEST)]
        )
        fitted = time.perf_counter()
        predicted = distribution(model(features[-N_TEST:]).clamp_min(0))
        ended = time.perf_counter()
        errors = wasserstein_of_shapes(predicted, shapes[-N_TEST:]) * dataset.grid.width
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| {n:,} | {min(n, points):,} | {fitted - began:.1f} "
            f"| {1000 * (ended - fitted) / N_TEST:.2f} "
            f"| {errors.mean():.3f} ± {errors.std() / N_TEST**0.5:.3f} | {memory:.1f} |"
        )


if __name__ == "__main__":
    main()
