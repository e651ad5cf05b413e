import numpy as np
import pytest

from workflows.dos.gpaw.tetrahedra import BandMesh, _fraction_below

CELL = np.eye(3) * 3.0


def cosine_bands(n, dimension=3, shifts=(0.0,)):
    """Tight-binding bands -2t sum(cos k) with t = 1 eV on an n^3 mesh, every point its own."""
    k = np.meshgrid(*[2 * np.pi * np.arange(n) / n] * 3, indexing="ij")
    band = -2 * sum(np.cos(x) for x in k[:dimension])
    eigenvalues = np.stack([band.ravel() + shift for shift in shifts], axis=1)[None]
    return BandMesh(eigenvalues, np.arange(n**3).reshape(n, n, n), CELL)


def test_fraction_of_one_tetrahedron_against_random_points():
    rng = np.random.default_rng(0)
    barycentric = rng.dirichlet(np.ones(4), 400_000)
    corners = np.array([-1.0, 0.2, 0.5, 2.0])
    inside = barycentric @ corners
    for energy in (-0.5, 0.1, 0.3, 0.45, 0.9, 1.8):
        exact = _fraction_below(corners[None], np.array([energy]))[0]
        assert exact == pytest.approx((inside < energy).mean(), abs=0.003)


@pytest.mark.parametrize("corners", [(0, 0, 0, 1), (0, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0.5, 1)])
def test_fraction_of_degenerate_corners_is_continuous_and_ends_at_one(corners):
    energies = np.linspace(1e-9, 1 - 1e-9, 2001)
    fraction = _fraction_below(np.tile(np.array(corners, float), (2001, 1)), energies)
    assert (np.diff(fraction) >= -1e-12).all()
    assert np.diff(fraction).max() < 4e-3
    assert fraction[0] == pytest.approx(0, abs=1e-6)
    assert fraction[-1] == pytest.approx(1, abs=1e-6)


def test_states_of_full_bands_are_counted_exactly():
    mesh = cosine_bands(6, shifts=(0.0, 20.0))
    counts = mesh.integrated_states(np.array([-7.0, 7.0, 13.0, 27.0]))
    assert counts == pytest.approx([0.0, 2.0, 2.0, 4.0], abs=1e-12)


def test_dos_integrates_to_the_integrated_states():
    mesh = cosine_bands(8)
    edges = np.linspace(-7, 7, 701)
    dos = mesh.dos(edges)
    assert (dos >= 0).all()
    assert (dos * np.diff(edges)).sum() == pytest.approx(2.0, abs=1e-10)


@pytest.mark.slow
def test_dos_of_one_dimensional_band_against_the_formula():
    # N(E) = 2 (1 - arccos(E / 2t) / pi) for a band -2t cos k
    mesh = cosine_bands(60, dimension=1)
    energies = np.linspace(-1.9, 1.9, 39)
    exact = 2 * (1 - np.arccos(energies / 2) / np.pi)
    assert mesh.integrated_states(energies) == pytest.approx(exact, abs=2e-3)


@pytest.mark.slow
def test_tetrahedra_converge_to_the_dense_mesh_from_above():
    energies = np.linspace(-5.5, 5.5, 45)
    dense = cosine_bands(48).integrated_states(energies)
    errors = [
        np.abs(cosine_bands(n).integrated_states(energies) - dense).max() for n in (6, 12, 24)
    ]
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2]
    assert errors[2] < 0.005


def test_symmetric_mesh_gives_the_same_with_irreducible_points():
    full = cosine_bands(8)
    band = full.eigenvalues[0, :, 0]
    values, inverse = np.unique(np.round(band, 9), return_inverse=True)
    reduced = BandMesh(values[None, :, None], inverse.reshape(8, 8, 8), CELL)
    energies = np.linspace(-6.2, 6.2, 101)
    assert reduced.integrated_states(energies) == pytest.approx(
        full.integrated_states(energies), abs=1e-7
    )
    assert len(reduced.tetrahedra[0]) < len(full.tetrahedra[0]) / 3


def test_two_spin_channels_hold_one_electron_a_band():
    one = cosine_bands(6)
    both = BandMesh(np.repeat(one.eigenvalues, 2, axis=0), one.irreducible, CELL)
    energies = np.linspace(-6, 6, 25)
    assert both.integrated_states(energies) == pytest.approx(one.integrated_states(energies))


def test_fermi_level_of_a_half_filled_band_and_of_an_insulator():
    assert cosine_bands(12).fermi_level(1.0) == pytest.approx(0.0, abs=2e-4)
    assert cosine_bands(8, shifts=(0.0, 20.0)).fermi_level(2.0) == pytest.approx(10.0, abs=0.05)
    with pytest.raises(ValueError, match="do not hold 5 electrons"):
        cosine_bands(4, shifts=(0.0, 20.0)).fermi_level(5.0)


def test_single_point_mesh_is_a_step():
    mesh = BandMesh(np.array([[[1.0]]]), np.zeros((1, 1, 1), int), CELL)
    assert mesh.integrated_states(np.array([0.9, 1.1])).tolist() == [0.0, 2.0]


def test_many_energies_go_through_in_chunks(monkeypatch):
    mesh, energies = cosine_bands(6), np.linspace(-7, 7, 333)
    whole = mesh.integrated_states(energies)
    monkeypatch.setattr("workflows.dos.gpaw.tetrahedra._CHUNK", 1000)
    assert cosine_bands(6).integrated_states(energies) == pytest.approx(whole, abs=1e-12)
