"""The front door: structures and files in, spectra and verdicts out, the same as the CLI's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.core import Spin
from pymatgen.io.ase import AseAtomsAdaptor

from models.errors import ModelError
from models.predictor import SpectrumPredictor
from models.spectra.spectrum import EDOS_GRID, Spectrum
from models.uncertainty.calibration import Calibration
from models.uncertainty.held_out import read_held_out
from models.zoo import DEFAULT_EDOS
from screening import GapCriteria, find_gaps, predict
from screening.candidate import Unreadable
from screening.errors import ScreeningError
from screening.prediction import Prediction, Predictions
from tests.models.cells import FCC, conventional_rocksalt

ALLOY = Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
EASY = GapCriteria(max_dos=1e4, min_width=0.5, min_upper_edge=-4, max_upper_edge=4)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def hafnium() -> Structure:
    """Rocksalt HfC in its conventional cell, four times the primitive one."""
    return conventional_rocksalt(4.64, "Hf", "C")


@pytest.fixture(scope="module")
def result(hafnium) -> Prediction:
    """By the default predictor alone."""
    return predict(hafnium, device="cpu", rescore=0)


def independent(structure: Structure) -> np.ndarray:
    """The predictor's own spectrum of a cell."""
    return SpectrumPredictor.load(None, "cpu").predict([structure]).values[0]


def test_a_structure_gives_the_spectrum_of_its_primitive_cell(hafnium, result):
    assert (len(result.structure), result.candidate.cell_multiplicity) == (2, 4)
    expected = independent(hafnium.get_primitive_structure())
    np.testing.assert_allclose(result.spectrum.values, expected, atol=1e-4)
    kept = predict(hafnium, device="cpu", keep_cell=True, rescore=0)
    assert len(kept.structure) == 8
    np.testing.assert_allclose(kept.spectrum.values, independent(hafnium), atol=1e-4)


def test_a_spectrum_is_judged_without_further_arguments(result):
    assert find_gaps(result.spectrum).row(0) | {"score": result.gap()["score"]} == result.gap()
    assert find_gaps(result.spectrum).kind[0] in ("gap", "near-gap")
    bare = Spectrum(result.spectrum.values, EDOS_GRID)
    assert find_gaps(bare).kind[0] is None  # without a number of atoms
    assert find_gaps(bare, n_atoms=[2]).row(0) == find_gaps(result.spectrum).row(0)
    with pytest.raises(ScreeningError, match="has its own DOS"):
        find_gaps(result.spectrum, result.spectrum.values)
    with pytest.raises(ScreeningError, match="DOS is missing"):
        find_gaps(EDOS_GRID)


def test_pymatgens_dos_has_the_same_states_per_ev_and_cell_at_the_same_energies(result):
    dos = result.to_dos()
    assert dos.efermi == 0.0
    assert list(dos.densities) == [Spin.up]
    np.testing.assert_array_equal(dos.densities[Spin.up], result.spectrum.values)
    np.testing.assert_allclose(
        dos.energies[[0, 63, 64, 127]], [-3.96875, -0.03125, 0.03125, 3.96875]
    )
    # 2 HfC: 8 valence electrons a formula unit; the DOS per cell is for one of them
    below = dos.energies < dos.efermi
    assert dos.densities[Spin.up][below].sum() * 0.0625 == pytest.approx(
        result.spectrum.values[:64].sum() * EDOS_GRID.width
    )
    assert dos.get_interpolated_value(0.03125)[Spin.up] == pytest.approx(result.spectrum.values[64])


def test_ase_atoms_and_pymatgen_structures_are_the_same(hafnium, result):
    atoms = AseAtomsAdaptor.get_atoms(hafnium)
    atoms.positions += [1.0, 20.0, -3.0]  # out of the cell
    np.testing.assert_allclose(
        predict(atoms, device="cpu", rescore=0).spectrum.values, result.spectrum.values, atol=1e-4
    )
    assert predict(bulk("Cu"), device="cpu").formula == "Cu"


def partly_occupied() -> Atoms:
    atoms = bulk("Cu")
    atoms.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}  # as ase.io.read leaves it
    return atoms


WRONG = {
    "alloy": (ALLOY, "partial occupancies"),
    "partly occupied atoms": (partly_occupied(), "partial occupancies"),
    "molecule": (Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), "there is no cell: a molecule"),
    "slab": (
        Atoms("Cu", cell=[3, 3, 20], pbc=[True, True, False]),
        "periodic in 2 of 3 directions",
    ),
    "slab of pymatgen": (
        Structure(Lattice.cubic(4, pbc=(True, True, False)), ["Cu"], [[0, 0, 0]]),
        "periodic in 2 of 3 directions: only crystals are judged",
    ),
    "no cell": (Atoms("Cu", pbc=True), "there is no cell"),
    "overlap": (
        Structure(Lattice.cubic(4), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 0.01]]),
        "overlap",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_only_structure_fails_with_one_line(name):
    wrong, message = WRONG[name]
    with pytest.raises(ScreeningError, match=message) as error:
        predict(wrong, device="cpu")
    assert "\n" not in str(error.value)
    assert not str(error.value).startswith("structure: ")


def test_what_fails_in_a_list_stays_in_its_place_with_its_reason(hafnium, tmp_path):
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n_atom_site_label\n")
    hafnium.to(filename=str(tmp_path / "good.cif"))
    given = [ALLOY, hafnium, tmp_path / "broken.cif", tmp_path / "none.cif", 5,
             *(wrong for wrong, _ in WRONG.values()), str(tmp_path / "good.cif")]  # fmt: skip
    results = predict(given, device="cpu")
    assert len(results) == len(given)
    assert [isinstance(item, Prediction) for item in results] == [
        False, True, *[False] * (3 + len(WRONG)), True,
    ]  # fmt: skip
    assert results[0] == Unreadable(
        "structure-1", "structure has partial occupancies; order it first"
    )
    assert "no such file" in results[3].reason
    assert "none.cif" in results[3].material_id
    assert "int is not a periodic structure" in results[4].reason
    assert [item.material_id for item in results.predicted] == ["structure-2", "good"]
    assert len(results.failures) == len(given) - 2
    assert results.gap()[0] is None
    assert results.gap()[1] == results[1].gap()
    assert [dos is None for dos in results.to_dos()] == [
        isinstance(item, Unreadable) for item in results
    ]
    frame = results.to_dataframe()
    assert frame["is_gap"].isna().tolist() == [isinstance(i, Unreadable) for i in results]
    assert frame["reason"].notna().sum() == len(results.failures)
    assert frame.loc[1, "width"] == results[1].gap()["width"]
    assert frame.loc[1, "margin_max_dos"] == results[1].gap()["margins"]["max_dos"]
    assert "structure-1: failed: structure has partial occupancies" in repr(results)


@pytest.mark.slow
def test_a_file_of_one_structure_gives_one_result_and_a_folder_a_sequence(hafnium, tmp_path):
    hafnium.to(filename=str(tmp_path / "one.cif"))
    (tmp_path / "two.json").write_text(json.dumps([hafnium.as_dict(), hafnium.as_dict()]))
    assert isinstance(predict(tmp_path / "one.cif", device="cpu"), Prediction)
    assert len(predict(str(tmp_path / "two.json"), device="cpu")) == 2
    assert len(predict(tmp_path, device="cpu")) == 3
    one = predict([tmp_path / "one.cif"], device="cpu")
    assert isinstance(one, Predictions)
    assert isinstance(one[:1], Predictions)
    with pytest.raises(ScreeningError, match="none"):
        predict(tmp_path / "none", device="cpu")
    assert len(predict([], device="cpu")) == 0
    assert predict([], device="cpu").to_dataframe().empty


def test_two_files_of_one_name_have_two_ids(hafnium, tmp_path):
    paths = []
    for run in ("run1", "run2"):
        (tmp_path / run).mkdir()
        paths.append(tmp_path / run / "CONTCAR")
        hafnium.to(filename=str(paths[-1]), fmt="poscar")
    ids = [item.material_id for item in predict(paths, device="cpu").predicted]
    assert len(set(ids)) == 2


def test_wrong_options_are_one_line(hafnium):
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        predict([hafnium], checkpoint="nowhere", device="cpu")
    with pytest.raises(ScreeningError, match="int is neither a structure"):
        predict(5)
    with pytest.raises(ScreeningError, match="dict is neither a structure"):
        predict(hafnium.as_dict())
    with pytest.raises(ScreeningError, match="a text is no path"):
        predict(hafnium.to(fmt="cif"))


DRAWN = ("svg", "rect", "polyline", "line", "text")


class Text(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


def test_html_shows_what_comes_from_outside_as_text(hafnium, tmp_path):
    documents = {HOSTILE: hafnium.as_dict(), "<b>alloy</b>": ALLOY.as_dict()}
    (tmp_path / "x.json").write_text(json.dumps(documents))
    results = predict(tmp_path / "x.json", device="cpu")
    assert results[0].material_id == HOSTILE
    for shown in (results, results[0]):
        page = Text(shown._repr_html_())
        assert page.tags <= {"table", "caption", "tr", "th", "td", "p", *DRAWN}
        assert not any(name.startswith("on") for name in page.attributes)
        assert any(HOSTILE in text for text in page.texts)
    assert "<b>alloy</b>" in Text(results._repr_html_()).texts


@pytest.mark.slow
def test_the_repr_says_the_verdict(result, hafnium):
    assert repr(result).startswith("<Prediction structure: HfC, ")
    assert f"{result.gap()['width']:.2f} eV" in repr(result)
    found = predict(hafnium, device="cpu", criteria=EASY)
    assert "VB gap -4.00 to 4.00 eV, width ≥ 8.00 eV" in repr(found)
    many = predict([hafnium] * 12, device="cpu")
    assert repr(many).endswith("... and 2 more")
    assert "... and 2 more" in many._repr_html_()


@pytest.mark.parametrize("criteria", [{"max_dos": 0.5}, "cb-gap", ()])
def test_criteria_of_another_type_are_refused(hafnium, criteria):
    with pytest.raises(ScreeningError, match=r"criteria: \w+ is none; use GapCriteria\("):
        predict(hafnium, device="cpu", criteria=criteria)


def test_remarks_name_repairs_unknown_elements_lonely_atoms_and_the_cell(result):
    assert result.remarks == ("cell given with 8 atoms, reduced to 1/4",)
    lonely = predict(Structure(Lattice.cubic(7), ["Fm"], [[0, 0, 0]]), device="cpu")
    refused = "not judged again by tight-binding-edos: tight binding has no atomic levels for Fm"
    assert lonely.remarks == ("not trained on Fm", "isolated atoms", refused)


def test_plot_has_the_spectrum_in_axes_of_ones_own_or_new_ones(result, hafnium):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert result.plot(axes) is axes
    curve, band = (p.get_data() for p in axes.patches if hasattr(p, "get_data"))
    np.testing.assert_array_equal(curve.values, result.spectrum.values)
    np.testing.assert_array_equal((band.baseline, band.values), result.band)
    new = predict([hafnium, ALLOY, hafnium], device="cpu").plot()
    assert len(new) == 2
    assert new[0].figure.number in plt.get_fignums()
    plt.close("all")
    with pytest.raises(ScreeningError, match="nothing was predicted"):
        predict([ALLOY], device="cpu").plot()


def test_each_has_a_probability_and_a_band_by_the_calibration_of_its_model(result):
    calibration = Calibration(read_held_out(DEFAULT_EDOS))
    hints = np.array([result.member_spread]), np.array([result.training_distance])
    (error,) = calibration.expected_errors(*hints)
    assert result.expected_error == pytest.approx(error)
    plausible = calibration.plausible(result.spectrum.values, error)
    share = find_gaps(EDOS_GRID, plausible, None, [result.candidate.nsites] * len(plausible))
    assert 0 < result.probability < 1
    assert (result.probability > 0.5) == (share.is_gap.mean() > 0.6)
    np.testing.assert_allclose(result.band, calibration.band(result.spectrum.values, error))
    assert (result.band[0] <= result.band[1]).all()
    assert result.row()["probability"] == result.probability
    table = result.to_dataframe()
    assert table["expected_error"].tolist() == [result.expected_error]


def test_a_model_that_was_never_calibrated_says_nothing(hafnium, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(DEFAULT_EDOS, folder, ignore=shutil.ignore_patterns("held_out*"))
    alone = predict(hafnium, checkpoint=folder, device="cpu")
    assert (alone.probability, alone.expected_error, alone.band) == (None, None, None)
    assert alone.spectrum.values == pytest.approx(
        predict(hafnium, device="cpu", rescore=0).spectrum.values, rel=1e-5
    )


def test_by_default_the_teacher_judges_again_what_it_does_not_refuse(hafnium, carbide):
    cerium = Structure(Lattice.cubic(5.1), ["Ce"] * 4, FCC)
    given = [hafnium, ALLOY, cerium]
    carbon, alloy, lanthanide = results = predict(given, device="cpu")
    assert isinstance(alloy, Unreadable)
    assert carbon.model_id == carbide[0].model_id
    np.testing.assert_array_equal(carbon.spectrum.values, carbide[0].spectrum.values)
    assert carbon.row() == carbide[0].row()  # the probability is by its own calibration
    (alone,) = predict([cerium], device="cpu", rescore=0)
    np.testing.assert_allclose(lanthanide.spectrum.values, alone.spectrum.values, atol=1e-4)
    assert lanthanide.model_id == alone.model_id
    assert lanthanide.remarks[-1].startswith("not judged again by tight-binding-edos: ")
    assert carbon.model_id in repr(results)
    assert alone.model_id in repr(results)


def test_the_best_are_judged_again(hafnium):
    given = [bulk("Cu"), hafnium, bulk("Al")]
    first, second = (predict(given, device="cpu", rescore=n) for n in (0, 3))
    best = int(np.argmax([item.verdict["score"] for item in first]))
    models = [first[0].model_id] * 3
    models[best] = second[best].model_id
    assert [item.model_id for item in predict(given, device="cpu", rescore=1)] == models
    assert {item.model_id for item in second} == {second[best].model_id} != {first[0].model_id}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rescore": -1}, "rescore -1: must be 0 or more"),
        (
            {"rescore": 3, "checkpoint": "tight-binding-edos"},
            "rescore 3: tight-binding-edos cannot judge again what tight-binding-edos predicts",
        ),
    ],
)
def test_a_second_judgement_that_cannot_be_is_refused(hafnium, options, reason):
    with pytest.raises(ScreeningError, match=reason):
        predict(hafnium, device="cpu", **options)


@pytest.fixture(scope="module")
def carbide(hafnium) -> Predictions:
    """By a predictor that knows levels; and one that fails."""
    return predict([hafnium, ALLOY], checkpoint="tight-binding-edos", device="cpu")


def test_a_hamiltonian_says_the_gap_and_whose_the_states_are(carbide, hafnium):
    found = carbide[0]
    structure = found.electronic_structure
    assert structure is found.electronic_structure  # computed once
    assert structure.symbols == tuple(site.specie.symbol for site in found.structure)
    spectrum = found.spectrum.values
    np.testing.assert_allclose(structure.dos, spectrum, atol=2e-3 * spectrum.max())
    assert structure.is_metal
    assert found.predicted_band_gap == 0
    assert found.row()["predicted_band_gap"] == 0
    frame = carbide.to_dataframe()
    assert frame["predicted_band_gap"].isna().tolist() == [False, True]
    assert "predicted band gap (eV)" in found._repr_html_()


def test_other_predictors_say_no_more_than_before(result, hafnium):
    assert result.electronic_structure is None
    assert result.predicted_band_gap is None
    assert "predicted_band_gap" not in result.row()
    assert "predicted_band_gap" not in result.to_dataframe()
    assert "predicted band gap" not in result._repr_html_()
    with pytest.raises(ScreeningError, match="knows no DOS by element and shell"):
        result.plot(projected=True)


def test_parts_are_drawn_in_axes_of_ones_own_or_new_ones(carbide):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert carbide[0].plot(axes, projected=True) is axes
    assert {"Hf d", "C p"} <= {text.get_text() for text in axes.get_legend().get_texts()}
    assert axes.get_title() == "HfC (structure-1)"
    assert len(carbide.plot(projected=True)) == 1
    plt.close("all")


def test_importing_screening_imports_no_library():
    code = (
        "import sys, screening; assert 'predict' in dir(screening); "
        "print(sorted({'torch', 'pymatgen', 'numpy', 'pandas', 'ase'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(ImportError):
        from screening import nothing  # noqa: F401
