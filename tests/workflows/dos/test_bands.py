import numpy as np

from workflows.dos.bands import band_edges


def test_band_edges_of_an_insulator_a_semimetal_and_an_odd_count():
    bands = np.array([[[-5.0, 1.0, 2.0], [-4.0, 0.5, 3.0]]])
    assert band_edges(bands, 4) == (1.0, 2.0)
    assert band_edges(bands, 3) is None
    assert band_edges(bands, 6) is None  # no empty band to say where the CBM is
    overlapping = np.array([[[-5.0, 1.0, 2.0], [-4.0, 0.5, 0.9]]])
    assert band_edges(overlapping, 4) is None


def test_band_edges_of_a_half_metal_like_spin_pair():
    up, down = [[-3.0, 0.0, 4.0]], [[-2.0, 2.0, 5.0]]
    assert band_edges(np.array([up, down]), 3) == (0.0, 2.0)
