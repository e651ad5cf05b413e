"""Criteria by name, from files and from other packages, and what a run keeps of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import yaml

from models.spectra.spectrum import EDOS_GRID
from models.zoo import ZOO
from screening.criteria import registry
from screening.criteria.interface import Criterion, Verdicts
from screening.criteria.registry import (
    criterion_names,
    criterion_of,
    find_criterion,
    needed_grid,
    parameters_of,
)
from screening.errors import ScreeningError

FLAT = {
    "name": "flat",
    "description": "Many states at the Fermi level.",
    "source": "of our own",
    "spectra": "edos",
    "positive": "dos_at_fermi / n_atoms >= least",
    "score": "dos_at_fermi / n_atoms - least",
    "unit": "states/eV/atom",
    "parameters": {"least": 2.0},
}


@pytest.fixture
def write(tmp_path):
    def written(**changes):
        path = tmp_path / "flat.yaml"
        path.write_text(yaml.safe_dump(FLAT | changes, sort_keys=False))
        return str(path)

    return written


def test_a_users_file_is_a_criterion(write):
    criterion = find_criterion(write())
    assert (criterion.name, criterion.title, criterion.unit) == ("flat", "flat", "states/eV/atom")
    dos = np.array([np.full(128, 3.0), np.full(128, 5.0)])
    verdicts = criterion.judge(dos, EDOS_GRID, [2, 2])
    assert verdicts.is_positive.tolist() == [False, True]
    assert verdicts.score.tolist() == [-0.5, 0.5]
    assert {n: v.tolist() for n, v in verdicts.features.items()} == {
        "dos_at_fermi": [3.0, 5.0],
        "n_atoms": [2.0, 2.0],
    }


def test_how_features_are_measured_can_be_set(write):
    dos = np.full((1, 128), 5.0)
    dos[0, 32:48] = 1.5
    named = {"positive": "vb_gap.is_gap", "score": "vb_gap.score"}
    plain = find_criterion(write(**named)).judge(dos, EDOS_GRID, [1])
    looser = find_criterion(write(measure={"gap": {"max_dos": 2.0}}, **named))
    assert not plain.is_positive[0]
    assert looser.judge(dos, EDOS_GRID, [1]).is_positive[0]


def test_a_division_by_zero_is_no_verdict(write):
    criterion = find_criterion(write(score="1 / dos_at_fermi"))
    dos = np.array([np.zeros(128), np.full(128, 4.0)])
    verdicts = criterion.judge(dos, EDOS_GRID, [1, 1])
    assert verdicts.is_positive.tolist() == [False, True]
    assert np.isnan(verdicts.score[0])
    assert verdicts.refusals == {
        0: "no verdict by flat: its score or a comparison is not a finite number, such as after a "
        "division by zero (dos_at_fermi = 0, n_atoms = 1)"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"positive": "dos_at_fremi > 1"},
            "positive, column 1: unknown feature 'dos_at_fremi'; did",
        ),
        ({"score": "dos_at_fermi +"}, "score, column \\d+: invalid syntax"),
        ({"score": "vb_gap.is_gap"}, "score, column 1: vb_gap.is_gap is a condition"),
        ({"positive": "ao_gap.ratio > 1"}, "unknown feature 'ao_gap.ratio'"),
        ({"spectra": "xanes"}, "spectra: Input should be 'edos' or 'phdos'"),
        ({"name": "Flat bands"}, "name: String should match"),
        ({"name": "steep-edge"}, "another one is called steep-edge; give it its own name"),
        ({"name": "vb-gap"}, "another one is called vb-gap"),
        ({"parameters": {"least": "2"}}, "parameters.least: Input should be a valid number"),
        ({"parameters": {"least": float("nan")}}, "parameters.least"),
        ({"parameters": {"n_atoms": 2.0}}, "parameter 'n_atoms' is not a name of its own"),
        ({"parameters": {"a b": 2.0}}, "parameter 'a b' is not a name of its own"),
        ({"parameters": {}}, "positive, column 27: unknown feature 'least'"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"measure": {"gap": {"max_dos": -1}}}, "measure: gap.max_dos: Input should be greater"),
        ({"measure": {"empty": 0.1}}, "measure: empty: Extra inputs are not permitted"),
        ({"measure": {"slope_window": 0.01}}, "measure: slope_window: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(write, changes, message):
    path = write(**changes)
    with pytest.raises(ScreeningError, match=message) as error:
        find_criterion(path)
    assert "\n" not in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [flat", "line 1, column 12: expected"),
        (b"- flat", "not a list of fields"),
        (b"", "not a list of fields"),
        (b"\xff\xfe\x00", "criterion .*flat.yaml"),
        (b"!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"name: flat", "spectra: Field required \\(and 2 more\\)"),
    ],
)
def test_what_is_no_criterion_is_refused(tmp_path, content, message):
    path = tmp_path / "flat.yaml"
    path.write_bytes(content)
    with pytest.raises(ScreeningError, match=message) as error:
        find_criterion(str(path))
    assert "\n" not in str(error.value)


def test_names_are_known_or_alike(tmp_path):
    assert criterion_names()[:2] == ("vb-gap", "cb-gap")
    assert {"phonon-gap", "steep-edge", "transparent-conductor"} <= set(criterion_names())
    with pytest.raises(
        ScreeningError, match=r"unknown criterion 'steep'; (there are|did you mean)"
    ):
        find_criterion("steep")
    with pytest.raises(ScreeningError, match=r"nowhere.yaml: No such file or directory"):
        find_criterion(str(tmp_path / "nowhere.yaml"))


def test_limits_of_a_gap_belong_to_the_vb_gap():
    assert find_criterion("vb-gap", {"band": "conduction"}).name == "cb-gap"
    with pytest.raises(
        ScreeningError, match="--max-dos, --per-atom: of vb-gap, not of --criterion"
    ):
        find_criterion("steep-edge", {"max_dos": 2.0, "per_atom": True})
    with pytest.raises(ScreeningError, match="--band conduction has a CB gap with other limits"):
        find_criterion("cb-gap", {"min_width": 2.0})
    with pytest.raises(ScreeningError, match="--max-dos -1"):
        find_criterion("vb-gap", {"max_dos": -1})


# --- other packages -------------------------------------------------------------------------


@dataclass(frozen=True)
class Plugin(Criterion):
    """Many states above a limit."""

    least: float = 100.0
    name: str = "crowded"
    spectra: str = "edos"

    def judge(self, spectra, grid, n_atoms):
        states = spectra.sum(axis=1) * grid.width
        return Verdicts(states > self.least, states - self.least, {"states": states})


@pytest.fixture
def plugin(monkeypatch):
    class Entry:
        name, value, loaded = "crowded", "package:Plugin", Plugin

        def load(self):
            if isinstance(self.loaded, Exception):
                raise self.loaded
            return self.loaded

    entry = Entry()
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    return entry


def test_a_criterion_of_another_package_is_found_by_its_entry_point(plugin):
    assert registry.GROUP == "edos_screening.criteria"
    assert "crowded" in criterion_names()
    criterion = find_criterion("crowded")
    assert criterion.judge(np.full((1, 128), 20.0), EDOS_GRID, [1]).score.tolist() == [60.0]
    assert criterion.definition()["parameters"]["least"] == 100.0
    kept = json.loads(json.dumps(parameters_of(criterion)))
    assert criterion_of(kept) == criterion
    plugin.loaded = Plugin(least=50.0)
    assert find_criterion("crowded").least == 50.0
    with pytest.raises(ScreeningError, match="crowded is another than when the run began"):
        criterion_of(kept)


@dataclass(frozen=True)
class Windowed(Plugin):
    """With a field that a store gives back as a list."""

    window: Any = (-0.5, 0.5)


def test_what_a_store_gives_back_is_the_same_criterion(plugin):
    plugin.loaded = Windowed
    criterion = find_criterion("crowded")
    kept = json.loads(json.dumps(parameters_of(criterion)))
    assert kept == parameters_of(criterion)
    assert criterion_of(kept) == criterion
    assert criterion_of(parameters_of(criterion)) == criterion


@pytest.mark.parametrize("window", [(0.0, float("inf")), {1, 2}, object()])
def test_a_criterion_that_no_run_can_keep_is_named(plugin, window):
    with pytest.raises(ScreeningError, match="criterion crowded: no run can keep it: ") as error:
        parameters_of(Windowed(window=window))
    assert "\n" not in str(error.value)


def test_an_installed_package_is_enough(tmp_path, monkeypatch):
    info = tmp_path / "crowds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crowds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\ncrowded = crowds:Crowded\n")
    (tmp_path / "crowds.py").write_text(
        "from screening.criteria.interface import Criterion, Verdicts\n"
        "class Crowded(Criterion):\n"
        "    name, spectra = 'crowded', 'edos'\n"
        "    def judge(self, spectra, grid, n_atoms):\n"
        "        states = spectra.sum(axis=1) * grid.width\n"
        "        return Verdicts(states > 100, states - 100, {'states': states})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert criterion_names()[-1] == "crowded"
    criterion = find_criterion("crowded")
    assert criterion.judge(np.full((1, 128), 20.0), EDOS_GRID, [1]).is_positive.all()
    assert criterion.definition()["class"] == "crowds:Crowded"


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (ImportError("no module x"), "cannot be loaded: no module x"),
        (dict, "is no screening.criteria.interface.Criterion"),
        (Plugin(name="other"), "calls itself other"),
    ],
)
def test_a_broken_package_is_named(plugin, loaded, message):
    plugin.loaded = loaded
    with pytest.raises(ScreeningError, match=rf"crowded \(package:Plugin\) {message}"):
        find_criterion("crowded")


def test_a_package_that_is_gone_is_named(plugin, monkeypatch):
    kept = parameters_of(find_criterion("crowded"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    with pytest.raises(ScreeningError, match="unknown criterion 'crowded'"):
        criterion_of(kept)


# --- what a run keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transparent-conductor", "steep-edge", "phonon-gap", "file"])
def test_a_run_can_make_its_criterion_again_without_the_file(name, write):
    criterion = find_criterion(write() if name == "file" else name)
    kept = json.loads(json.dumps(parameters_of(criterion)))
    assert kept.keys() == {"criterion"}
    assert criterion_of(kept).definition() == criterion.definition()


def test_a_run_by_the_vb_gap_keeps_what_it_kept_before():
    kept = parameters_of(find_criterion("vb-gap", {"max_dos": 2.0}))
    assert kept == {
        "criteria": {
            "max_dos": 2.0,
            "min_width": 1.0,
            "min_upper_edge": -1.0,
            "max_upper_edge": -0.25,
            "per_atom": False,
            "single_gap": False,
            "band": "valence",
        }
    }
    assert criterion_of(kept).criteria.max_dos == 2.0
    assert criterion_of({}).name == "vb-gap"
    assert parameters_of(find_criterion("cb-gap"))["criteria"]["band"] == "conduction"


@pytest.mark.parametrize("name", ["mat2spec-phdos", "mat2spec-plus-phdos", "springs-phdos"])
def test_phonon_criteria_are_for_phonon_predictors(name):
    phonons = find_criterion("phonon-gap")
    assert needed_grid(phonons, ZOO / name).unit == "cm^-1"
    with pytest.raises(ScreeningError, match=r"judges the electronic DOS, checkpoint .* predicts"):
        needed_grid(find_criterion("vb-gap"), ZOO / name)
    with pytest.raises(ScreeningError, match=r"judges the phonon DOS.*such as springs-phdos"):
        needed_grid(phonons, ZOO / "mat2spec-edos")
