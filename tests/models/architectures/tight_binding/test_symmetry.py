"""Wave vectors that a symmetry turns into each other have the same levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import spglib
import torch

from models.architectures.tight_binding.bands import levels
from models.architectures.tight_binding.symmetry import (
    IDENTITY,
    SYMPREC,
    corners,
    in_reduced_cells,
    point_group,
    reduced_mesh,
    sites,
)
from models.crystal import Crystal
from models.predictor import SpectrumPredictor
from models.spectra.spectrum import EDOS_GRID
from tests.models.architectures.tight_binding.test_bands import GRAPHENE, Z, integrals_of
from tests.models.architectures.tight_binding.test_tight_binding import SETTING, graphs, small
from tests.models.cells import CELLS
from tests.models.model_examples import random_crystal, rocksalt, supercell

TETRAGONAL = Crystal(np.diag([3.0, 3.0, 4.5]), [[0, 0, 0], [0.5, 0.5, 0.4]], [22, 8])
WURTZITE = Crystal(
    np.array([[3.25, 0, 0], [-1.625, 3.25 * np.sqrt(0.75), 0], [0, 0, 5.2]]),
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
    [30, 30, 8, 8],
)


def sites_of(crystal: Crystal) -> np.ndarray:
    with torch.inference_mode():
        bonds = next(small().integrals(graphs([crystal])))
    ends = bonds.center.numpy(), bonds.neighbor.numpy()
    return sites(len(crystal), *ends, bonds.steps.numpy())[0]


def rotations_of(crystal: Crystal) -> np.ndarray:
    return point_group(crystal.lattice, sites_of(crystal), crystal.atomic_numbers)


def in_other_axes(crystal: Crystal, axes: list[list[int]]) -> Crystal:
    frac_coords = crystal.frac_coords @ np.linalg.inv(axes)
    return Crystal(np.array(axes) @ crystal.lattice, frac_coords, crystal.atomic_numbers)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bonds_tell_where_the_atoms_are(seed: int) -> None:
    crystal = random_crystal(np.random.default_rng(seed), 6)
    off = sites_of(crystal) - crystal.frac_coords
    off -= off[0]
    np.testing.assert_allclose(off, off.round(), atol=1e-4)


def test_parts_that_no_bond_joins_begin_at_the_origin() -> None:
    ends, steps = np.array([[1, 3], [2, 0]]), np.array([[0.25, 0, 0], [0, 0.5, 0]])
    expected = [[0, 0, 0], [0, 0, 0], [0.25, 0, 0], [0, -0.5, 0]]
    places, part = sites(4, *ends, steps)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(part, [0, 1, 1, 0])


CRYSTALS = {
    "rocksalt": (rocksalt(), 48),
    "hexagonal": (GRAPHENE, 24),
    "supercell": (supercell(rocksalt(), (1, 1, 2)), 12),
    "tetragonal": (TETRAGONAL, 8),
    "wurtzite": (WURTZITE, 12),
    "random": (random_crystal(np.random.default_rng(0), 4), 1),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetries_are_those_that_spglib_finds(name: str) -> None:
    crystal, n = CRYSTALS[name]
    cell = crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist()
    symmetry = spglib.get_symmetry(cell, symprec=SYMPREC)
    assert symmetry is not None
    expected = np.unique(symmetry["rotations"], axis=0)
    found = rotations_of(crystal)
    assert len(found) == n
    np.testing.assert_array_equal(np.unique(found, axis=0), expected)


def test_an_atom_that_is_off_its_place_breaks_a_symmetry() -> None:
    crystal = supercell(rocksalt(), (1, 1, 2))
    for off, n in ((0.2 * SYMPREC, 12), (20 * SYMPREC, 1)):
        sites = crystal.frac_coords.copy()
        sites[0] += off * np.array([0.3, 0.5, 0.8]) @ np.linalg.inv(crystal.lattice)
        assert len(point_group(crystal.lattice, sites, crystal.atomic_numbers)) == n


def test_numbers_of_irreducible_points_of_textbooks() -> None:
    """8 and 29 of the meshes 4 and 8 around Gamma of fcc; 7 of 6 x 6 in a hexagonal layer."""
    fcc, hexagonal = rotations_of(rocksalt()), rotations_of(GRAPHENE)
    for sizes, rotations, n in (
        ((4, 4, 4), fcc, 8),
        ((8, 8, 8), fcc, 29),
        ((6, 6, 2), hexagonal, 14),
        ((4, 4, 4), IDENTITY, 36),
        ((3, 2, 2), IDENTITY, 8),
    ):
        mesh = reduced_mesh(sizes, rotations)
        assert len(mesh.points) == n, sizes
        assert len(mesh.point) == np.prod(sizes)


@pytest.mark.parametrize(
    ("crystal", "sizes"),
    [
        (rocksalt(), (4, 4, 4)),
        (rocksalt(), (2, 4, 4)),
        (GRAPHENE, (6, 6, 2)),
        (supercell(rocksalt(), (1, 1, 2)), (4, 4, 2)),
        (TETRAGONAL, (4, 4, 2)),
        (WURTZITE, (4, 4, 2)),
    ],
    ids=["fcc", "fcc-uneven", "hexagonal", "supercell", "tetragonal", "wurtzite"],
)
def test_points_left_out_have_the_levels_of_those_taken(
    crystal: Crystal, sizes: tuple[int, int, int]
) -> None:
    mesh = reduced_mesh(sizes, rotations_of(crystal))
    index = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, 3)
    with torch.inference_mode():
        integrals = next(small().integrals(graphs([crystal])))
        every = levels(integrals, torch.from_numpy(index / sizes).float())
        taken = levels(integrals, mesh.points)
    assert len(mesh.points) < np.prod(sizes) / 2
    torch.testing.assert_close(taken[mesh.point], every, atol=5e-3, rtol=1e-3)
    opposite = (2 * mesh.points[: mesh.n_real]).frac().abs()
    assert (opposite < 1e-6).all()


@pytest.mark.parametrize(
    "axes",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]],  # 60 degrees
        [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
        [[0, -1, 0], [0, 0, 1], [1, 0, 0]],
    ],
)
def test_the_corners_of_a_hexagonal_zone_are_where_the_bands_of_graphene_touch(
    axes: list[list[int]],
) -> None:
    crystal = in_other_axes(GRAPHENE, axes)
    points = torch.from_numpy(corners(crystal.lattice))
    found = levels(integrals_of(crystal, 1.6, [Z], {}), points)
    torch.testing.assert_close(found, torch.zeros(2, 2).to(found), atol=1e-4, rtol=0)


def test_only_hexagonal_lattices_have_corners() -> None:
    others = [rocksalt(), TETRAGONAL, supercell(GRAPHENE, (2, 1, 1)), CRYSTALS["random"][0]]
    assert not any(len(corners(crystal.lattice)) for crystal in others)
    assert len(corners(WURTZITE.lattice)) == 2


def test_points_beside_a_mesh_are_its_last() -> None:
    mesh = reduced_mesh((4, 4, 2), IDENTITY)
    more = reduced_mesh((4, 4, 2), IDENTITY, corners(GRAPHENE.lattice))
    torch.testing.assert_close(more.points[:-2], mesh.points)
    torch.testing.assert_close(more.points[-2:, 2], torch.tensor([0, 0.5]))
    assert more.n_real == mesh.n_real
    assert more.point is mesh.point


@pytest.mark.parametrize("vacuum", [13.0, 20.0])
def test_a_layer_of_graphene_has_no_gap(vacuum: float) -> None:
    lattice = GRAPHENE.lattice * [[1], [1], [vacuum / 7]]
    layer = Crystal(lattice, GRAPHENE.frac_coords, GRAPHENE.atomic_numbers)
    prediction = SpectrumPredictor.load("tight-binding-edos", "cpu").predict([layer])
    assert prediction.band_gaps[0] < 0.02


def test_a_part_of_a_crystal_does_not_stand_for_another() -> None:
    """A chain of CuO between planes of CuO2: two axes of four turns only the planes have."""
    crystal = Crystal(
        np.diag([3.85, 3.85, 18.2]),
        [[0, 0, 0], [0, 0, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0, 0.5]],
        [29, 29, 8, 8, 8],
    )
    model, batch = small(), graphs([crystal])
    with torch.inference_mode():
        integrals = next(model.integrals(batch))
        ((mesh,), (every,)) = (
            [sample.mesh for sample in model.samples(batch, [integrals], turned)]
            for turned in (True, False)
        )
        taken, expected = (levels(integrals, of.points)[of.point] for of in (mesh, every))
    assert len(rotations_of(crystal)) == 16  # one too many where parts are not told apart
    torch.testing.assert_close(taken, expected, atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("axes", [[[1, 1, 0], [0, 1, 0], [0, 0, 1]], CELLS["skewed"]])
def test_another_primitive_cell_has_the_same_spectrum(axes: list[list[int]]) -> None:
    """Gaps, the sum over the atoms, and what is learned are the same, too."""
    model, target = small(), torch.full((1, EDOS_GRID.size), 1 / EDOS_GRID.size)
    for crystal in (rocksalt(), WURTZITE, random_crystal(np.random.default_rng(2), 3)):
        one, other = graphs([crystal]), graphs([in_other_axes(crystal, axes)])
        with torch.inference_mode():
            (spectrum, insights), (expected, of_one) = map(model.states_and_insights, (other, one))
            sums = [torch.from_numpy(model.electronic_structure(b).dos) for b in (other, one)]
            losses = [model.losses(b, target, SETTING)["total"] for b in (other, one)]
        torch.testing.assert_close(spectrum, expected, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(insights.band_gaps, of_one.band_gaps, atol=1e-4, rtol=0)
        torch.testing.assert_close(*sums, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_a_lattice_that_cannot_be_reduced_stays() -> None:
    batch = graphs([rocksalt()])
    flat = replace(batch, lattice=torch.tensor([[[5.0, 0, 0], [0, 5, 0], [5e5, 3e5, 5]]]))
    torch.testing.assert_close(in_reduced_cells(flat).lattice, flat.lattice)
