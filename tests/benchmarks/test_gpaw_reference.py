"""Comparison with published DOS, on DOS that are known exactly."""

import json

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from scipy.stats import wasserstein_distance

from models.errors import ModelError
from models.predictor import SpectrumPredictor
from models.spectra.spectrum import EDOS_GRID
from tests.benchmarks import dos_campaign, gpaw_reference
from tests.benchmarks.gpaw_reference import compare_element, eligible_elements, judge_vb_gap
from workflows.dos.document import DosDocument
from workflows.dos.errors import DosError
from workflows.dos.gpaw.maker import GpawDosMaker

ENERGIES = np.arange(-15.0, 8.0, 0.01)


def document(dos, vbm=0.0, cbm=0.0, material_id="mp-1"):
    return DosDocument(
        material_id=material_id,
        structure=Structure(Lattice.cubic(3), ["Al"], [[0, 0, 0]]),
        engine="gpaw",
        engine_version="test",
        recipe="test",
        settings={},
        energies=ENERGIES,
        dos=dos,
        efermi=(vbm + cbm) / 2,
        vbm=vbm,
        cbm=cbm,
        band_gap=cbm - vbm,
        energy=-1.0,
        n_electrons=3,
        kmesh_scf=(4, 4, 4),
        kmesh_dos=(8, 8, 8),
        emax=7.5,
        wall_time=30.0,
    )


def between(*ranges, height=2.0):
    return height * sum(((a < ENERGIES) & (b > ENERGIES)).astype(float) for a, b in ranges)


def test_same_shape_on_another_scale_has_no_distance():
    dos = between((-6.0, 8.0))
    row = compare_element(document(dos), ENERGIES, 0.4 * dos)
    assert row.wd == pytest.approx(0.0, abs=1e-9)
    assert (row.share_valence, row.share_conduction) == pytest.approx((0.4, 0.4))
    assert row.valence_bottom == row.valence_bottom_mp == pytest.approx(-6.0, abs=0.02)
    assert row.band_gap == row.band_gap_mp == 0.0


def test_shifted_weight_has_the_distance_it_was_shifted_by():
    metal = between((-0.02, 0.02), height=0.1)
    ours = between((-2.0, -1.0), (1.0, 2.0)) + metal
    theirs = between((-2.5, -1.5), (1.0, 2.0)) + metal
    row = compare_element(document(ours), ENERGIES, theirs)
    assert row.wd == pytest.approx(0.25, abs=0.005)  # half of the weight by 0.5 eV


def test_shares_that_differ_leave_no_distance_of_the_halves():
    dos = between((-3.0, 8.0))
    row = compare_element(document(dos), ENERGIES, np.where(ENERGIES < 0, 0.2, 0.6) * dos)
    assert (row.share_valence, row.share_conduction) == pytest.approx((0.2, 0.6), abs=2e-3)
    assert row.wd > 0.5
    assert row.wd_halves < 2e-3


def test_gap_and_bottom_of_an_insulator_are_compared():
    ours = between((-12.0, -8.0), (-5.0, 0.0), (1.0, 8.0))
    theirs = between((-12.0, -8.0), (-5.5, 0.0), (1.3, 8.0))
    row = compare_element(document(ours, vbm=0.0, cbm=1.0), ENERGIES - 0.5, theirs)
    assert row.band_gap == 1.0
    assert row.band_gap_mp == pytest.approx(1.3, abs=0.03)
    assert row.valence_bottom == pytest.approx(-5.0, abs=0.03)
    assert row.valence_bottom_mp == pytest.approx(-5.5, abs=0.03)


def test_reference_that_misses_the_window_is_an_error():
    with pytest.raises(ModelError, match="covers"):
        compare_element(document(between((-6, 8))), ENERGIES[1300:], between((-6, 8))[1300:])


def test_vb_gap_is_found_and_reported_beside_the_paper():
    gap = judge_vb_gap(document(between((-8.0, -2.0), (-0.5, 8.0))), paper=True)
    assert gap.is_gap
    assert gap.is_gap_fine
    assert gap.width == pytest.approx(1.5, abs=0.07)
    assert (gap.lower_edge, gap.upper_edge) == pytest.approx((-2.0, -0.5), abs=0.04)
    assert gap.gap == (gap.lower_edge, gap.upper_edge)
    assert (gap.predicted, gap.predicted_wd) == (None, None)
    none = judge_vb_gap(document(between((-8.0, 8.0))), paper=None)
    assert not none.is_gap
    assert none.gap is None
    table = gpaw_reference.vb_gaps_table([gap, none])
    assert "| gap | gap | -2.0" in table
    assert "| unknown | no gap | - to - |" in table


def test_prediction_is_judged_and_measured_beside_dft():
    full = np.full(EDOS_GRID.size, 2.0)
    empty = np.where((EDOS_GRID.centers > -2.0) & (EDOS_GRID.centers < -0.5), 0.0, 2.0)
    true = document(between((-8.0, 8.0)))
    right, wrong = (judge_vb_gap(true, paper=False, predicted=p) for p in (full, empty))
    assert (right.predicted, wrong.predicted) == (False, True)
    assert right.predicted_wd == pytest.approx(0.0, abs=1e-3)
    expected = wasserstein_distance(EDOS_GRID.centers, EDOS_GRID.centers, empty, full)
    assert wrong.predicted_wd == pytest.approx(expected, rel=1e-3)


def test_eligible_elements_are_cheap_nonmagnetic_and_one_of_each():
    def row(material_id, z, volume, n=1):
        edge = volume ** (1 / 3)
        return {
            "material_id": material_id,
            "species": [z] * n,
            "nsites": n,
            "lattice": np.eye(3).ravel() * edge,
        }

    table = pd.DataFrame(
        [
            row("al-large", 13, 33.0, 2),
            row("al", 13, 16.0),
            row("iron", 26, 12.0),
            row("uranium", 92, 20.0),
            row("neodymium", 60, 30.0),
            row("lanthanum", 57, 37.0),
            row("oxygen", 8, 20.0),
            row("chain", 19, 400.0),
            row("five", 14, 100.0, 5),
        ]
    )
    assert list(eligible_elements(table)["material_id"]) == ["al", "lanthanum"]


def test_campaign_goes_on_where_it_was_and_keeps_failures(tmp_path, monkeypatch):
    table = pd.DataFrame(
        {
            "material_id": ["mp-1", "mp-2"],
            "lattice": [np.eye(3).ravel() * 3] * 2,
            "species": [np.array([13]), np.array([12])],
            "frac_coords": [np.zeros(3)] * 2,
        }
    )
    todo, calls = dos_campaign.materials(table), []
    assert [m.structure.formula for m in todo] == ["Al1", "Mg1"]

    def compute(structure, settings, recipe, limit, material_id):
        calls.append(material_id)
        if material_id == "mp-2":
            raise DosError("did not converge")
        return document(between((-6, 8)), material_id=material_id)

    monkeypatch.setattr(dos_campaign, "compute_dos", compute)
    first = list(dos_campaign.run(todo, GpawDosMaker(), tmp_path))
    again = list(dos_campaign.run(todo, GpawDosMaker(), tmp_path))
    assert calls == ["mp-1", "mp-2"]
    assert first[0] == again[0] == document(between((-6, 8)))
    assert str(first[1]) == str(again[1]) == "did not converge"
    assert not list(tmp_path.glob("*.unfinished"))
    list(dos_campaign.run(todo, GpawDosMaker(preset="fast"), tmp_path))
    assert calls == ["mp-1", "mp-2"] * 2  # another recipe is another file


def test_results_are_written_as_json_and_table(tmp_path, monkeypatch):
    shape = between((-6, 8))
    pd.DataFrame(
        {
            "material_id": ["mp-1"],
            "nsites": [1],
            "lattice": [np.eye(3).ravel() * 3],
            "species": [np.array([13])],
            "frac_coords": [np.zeros(3)],
            "energies": [ENERGIES],
            "dos": [shape],
        }
    ).to_parquet(tmp_path / "edos_mp_elements.parquet")
    monkeypatch.setattr(dos_campaign, "compute_dos", lambda *args: document(shape))
    maker = GpawDosMaker()
    gpaw_reference.compare_elements(tmp_path, tmp_path / "runs", tmp_path / "out", maker, 5)
    result = json.loads((tmp_path / "out" / "elements_standard.json").read_text())
    assert result["recipe"] == maker.recipe
    assert result["median_wd"] == pytest.approx(0.0, abs=1e-9)
    assert result["rows"][0]["formula"] == "Al"
    assert "| Al | mp-1 | 0.000 |" in (tmp_path / "out" / "elements_standard.md").read_text()


@pytest.mark.slow
def test_vb_gaps_are_written_with_spectra_and_figure(tmp_path, monkeypatch):
    materials = {
        "mp-1": (between((-8.0, -2.0), (-0.5, 8.0)), True),
        "mp-2": (between((-8, 8)), None),
    }
    pd.DataFrame(
        {
            "material_id": list(materials),
            "lattice": [np.eye(3).ravel() * 3] * 2,
            "species": [np.array([13])] * 2,
            "frac_coords": [np.zeros(3)] * 2,
            "dft_vb_gap": [paper for _, paper in materials.values()],
        }
    ).to_parquet(tmp_path / "paper_predicted_positives.parquet")

    def compute(structure, settings, recipe, limit, material_id):
        return document(materials[material_id][0], material_id=material_id)

    monkeypatch.setattr(dos_campaign, "compute_dos", compute)
    out = tmp_path / "out"
    gpaw_reference.check_vb_gaps(tmp_path, tmp_path / "runs", out, GpawDosMaker(), materials)

    predictor = SpectrumPredictor.load(device="cpu")
    result = json.loads((out / "vb_gaps_standard.json").read_text())
    assert (result["agree_with_paper"], result["predictor"]) == (1, predictor.model_id)
    assert [row["paper"] for row in result["rows"]] == [True, None]
    assert "1 of 2 verdicts" in (out / "vb_gaps_standard.md").read_text()
    assert (out / "vb_gaps_standard.png").read_bytes().startswith(b"\x89PNG")

    spectra = pd.read_csv(out / "vb_gaps_standard.csv")
    structure = document(materials["mp-1"][0]).structure
    np.testing.assert_allclose(spectra["energy"], EDOS_GRID.centers, atol=1e-5)
    inside = spectra["energy"].between(-1.9, -0.6)
    assert spectra.loc[inside, "mp-1 dft"].max() == 0.0
    assert spectra["mp-2 dft"].min() == pytest.approx(2.0)
    expected = predictor.predict([structure]).values[0]
    np.testing.assert_allclose(spectra["mp-1 predicted"], expected, atol=1e-5)
