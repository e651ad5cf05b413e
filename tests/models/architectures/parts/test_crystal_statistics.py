from __future__ import annotations

import numpy as np
import torch
from ase.data import atomic_masses, covalent_radii

from models.architectures.parts.crystal_statistics import N_BOND, N_SITE, CrystalStatistics
from models.crystal import Crystal
from models.elements import N_PROPERTIES, PROPERTIES
from models.graphs.graph import GraphConfig
from tests.models.model_examples import (
    batch_of,
    permuted,
    random_crystals,
    rocksalt,
    rotated,
    supercell,
)

NA, CL, A = 11, 17, 5.64


def parts(crystal: Crystal, config: GraphConfig = GraphConfig()) -> list[torch.Tensor]:
    """Mean, deviation, largest, smallest of atoms; mean, deviation of bonds; distances."""
    found = CrystalStatistics()(batch_of([crystal], config))[0]
    of_atoms = [N_PROPERTIES + N_SITE] * 4
    return list(found.split([*of_atoms, N_BOND, N_BOND, 2]))


def test_elements_by_hand() -> None:
    properties = CrystalStatistics().properties
    mean, deviation, largest, smallest = (p[:N_PROPERTIES] for p in parts(rocksalt())[:4])
    torch.testing.assert_close(mean, (properties[NA] + properties[CL]) / 2)
    torch.testing.assert_close(deviation, (properties[NA] - properties[CL]).abs() / 2)
    torch.testing.assert_close(largest, torch.maximum(properties[NA], properties[CL]))
    torch.testing.assert_close(smallest, torch.minimum(properties[NA], properties[CL]))


def shells(center: int) -> list[tuple[int, float, int]]:
    """Neighbours of an atom of rock salt: element, distance, number; two shells in the graph."""
    other = CL if center == NA else NA
    return [(other, A / 2, 6), (center, A / 2**0.5, 12)]


def relative(center: int, neighbor: int, distance: float) -> float:
    return distance / (covalent_radii[center] + covalent_radii[neighbor])


def nearness(center: int) -> list[float]:
    """Of the two shells, from their lengths relative to the sum of the covalent radii."""
    lengths = [relative(center, z, d) for z, d, _ in shells(center)]
    return [np.exp(-(((r / min(lengths) - 1) / 0.15) ** 2)) for r in lengths]


def test_bonds_by_hand() -> None:
    properties = CrystalStatistics().properties
    column = {name: properties[:, i].numpy() for i, name in enumerate(PROPERTIES)}
    negativity, valence = column["electronegativity"], column["valence_electrons"]
    rows, weights = [], []
    for center in (NA, CL):
        for (z, d, n), near in zip(shells(center), nearness(center), strict=True):
            inverse = np.log(1 / atomic_masses[center] + 1 / atomic_masses[z])
            rows.append([relative(center, z, d), d, abs(negativity[center] - negativity[z])])
            rows[-1] += [valence[center] + valence[z], inverse, 0.5 * inverse - 1.5 * np.log(d)]
            weights.append(n * near)
    expected = np.average(rows, axis=0, weights=weights)
    deviation = np.average((np.array(rows) - expected) ** 2, axis=0, weights=weights) ** 0.5
    found = parts(rocksalt(a=A), GraphConfig(neighbors=18))[4:6]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found[1], deviation, rtol=1e-3)


def test_sites_by_hand() -> None:
    found = parts(rocksalt(a=A), GraphConfig(neighbors=18))
    shortest, near = found[0][N_PROPERTIES:]
    assert abs(shortest - A / 2) < 1e-4
    expected = np.mean([np.log(6 + 12 * nearness(center)[1]) for center in (NA, CL)])
    assert abs(near - expected) < 1e-4
    assert abs(found[6][1] - A / 2) < 1e-4
    assert abs(found[6][0] - (6 * A / 2 + 12 * A / 2**0.5) / 18) < 1e-4


def test_distances_and_masses_matter() -> None:
    one, longer = parts(rocksalt(a=A))[4], parts(rocksalt(a=1.1 * A))[4]
    torch.testing.assert_close(longer[:2], 1.1 * one[:2])
    assert longer[5] < one[5]  # softer
    assert parts(rocksalt(cation=3))[4][5] > one[5]  # lighter


def test_neither_cell_nor_order_nor_direction_matters() -> None:
    statistics = CrystalStatistics()
    crystals = [rocksalt(), *random_crystals(5)]
    expected = statistics(batch_of(crystals))
    rng = np.random.default_rng(0)
    for changed in (
        [supercell(c, (3, 1, 1)) for c in crystals],
        [permuted(c, rng.permutation(len(c))) for c in crystals],
        [rotated(c) for c in crystals],
    ):
        for config in (GraphConfig(), GraphConfig(merge=False)):
            found = statistics(batch_of(changed, config))
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_statistics_of_an_elemental_crystal_are_finite() -> None:
    fcc = Crystal(2.0 * (np.ones((3, 3)) - np.eye(3)), np.zeros((1, 3)), np.array([13]))
    assert all(part.isfinite().all() for part in parts(fcc))
