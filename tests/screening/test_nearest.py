"""The nearest training materials of a prediction, and what DFT says of them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure
from scipy.stats import wasserstein_distance

from models.data.label_files import LABEL_EDGES
from models.spectra.spectrum import EDOS_GRID
from models.training.materials import Neighbor, TrainingMaterial
from screening import GapCriteria, find_gaps, predict
from screening.criteria.gap_criterion import GapCriterion
from screening.nearest import SHIPPED_LABELS, with_labels

CHLORIDE = "mp-22865"  # CsCl


@pytest.fixture(scope="module")
def chloride():
    """A training material in a cell that is a little larger."""
    return predict(Structure(Lattice.cubic(4.2), ["Cs", "Cl"], [[0] * 3, [0.5] * 3]), device="cpu")


def label_by_hand(material_id):
    """Means of the 0.02 eV bins of a label in each bin of the grid, with the gap cut out."""
    row = pq.read_table(SHIPPED_LABELS, filters=[("material_id", "=", material_id)]).to_pylist()[0]
    cumulative = np.concatenate([[0], np.cumsum(np.array(row["dos"]) * 0.02)])
    edges = EDOS_GRID.edges
    below, above = edges[edges <= 0], edges[edges >= 0] + max(row["band_gap"], 0)
    sums = [np.diff(np.interp(ends, LABEL_EDGES, cumulative)) for ends in (below, above)]
    return np.concatenate(sums) / EDOS_GRID.width, row["nsites"]


def test_a_training_material_is_its_own_nearest(chloride):
    first, *others = chloride.nearest_materials
    assert (first.material_id, first.formula, len(others)) == (CHLORIDE, "CsCl", 2)
    distances = [material.distance for material in chloride.nearest_materials]
    assert distances == sorted(distances)
    assert np.mean(distances) == pytest.approx(chloride.training_distance, rel=1e-3)
    assert chloride.in_domain == "yes"
    assert chloride.domain.reasons == chloride.domain.reservations == []
    assert chloride.row()["in_domain"] == "yes"
    assert chloride.to_dataframe()["training_distance"].iloc[0] == chloride.training_distance
    assert chloride.member_spread > 0


def test_what_dft_says_of_it_is_that_of_the_label(chloride):
    first = chloride.nearest_materials[0]
    label, n_atoms = label_by_hand(CHLORIDE)
    np.testing.assert_allclose(first.spectrum.values, label, atol=2e-3 * label.max())
    assert first.spectrum.n_atoms == n_atoms
    assert first.is_positive == find_gaps(EDOS_GRID, label, GapCriteria(), [n_atoms]).is_gap[0]
    centers = EDOS_GRID.centers
    slow = wasserstein_distance(centers, centers, chloride.spectrum.values, label)
    assert first.wd == pytest.approx(slow, rel=1e-2)
    assert first.as_dict()["wd"] == first.wd


@pytest.mark.slow
def test_a_material_without_a_shipped_label_has_a_name_only(chloride):
    unknown = TrainingMaterial(material_id="mine-1", formula="NaCl", n_atoms=2)
    (found,) = with_labels([Neighbor(unknown, 0.5)], chloride.spectrum, GapCriterion())
    expected = {"material_id": "mine-1", "formula": "NaCl", "distance": 0.5}
    assert found.as_dict() == expected | {"is_positive": None, "wd": None}
    assert with_labels([], chloride.spectrum, GapCriterion()) == ()


@pytest.mark.slow
def test_what_is_unlike_all_training_materials_says_so():
    lonely = predict(Structure(Lattice.cubic(3.0), ["N"], [[0] * 3]), device="cpu")
    assert lonely.in_domain == "no"
    assert lonely.domain.is_only_distant
    assert lonely.remarks[0].startswith("unlike the training materials (percentile ")
