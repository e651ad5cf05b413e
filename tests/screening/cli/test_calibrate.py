"""`screen calibrate` as a user calls it."""

from __future__ import annotations

import json
import shutil

import pytest

from models.zoo import DEFAULT_EDOS
from tests.conftest import crystal_row
from tests.models.model_examples import write_edos_files


@pytest.fixture
def predictor(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(DEFAULT_EDOS, folder, ignore=shutil.ignore_patterns("held_out*"))
    return folder


@pytest.mark.slow
def test_a_predictor_is_calibrated_and_its_verdicts_get_probabilities(
    screen, predictor, tmp_path, structure_table
):
    table = structure_table([crystal_row(f"m-{i}", 3.3 + 0.1 * i, ("Na", "Cl")) for i in range(4)])
    run = ("run", "--source", table, "--checkpoint", predictor, "--quiet")
    candidates = ("candidates", "--all", "--json")
    assert screen(*run).code == 0
    assert {c["probability"] for c in json.loads(screen(*candidates).out)} == {None}

    (tmp_path / "dft").mkdir()
    labels, structures = write_edos_files(tmp_path / "dft", 60)
    given = ("calibrate", predictor, "--labels", labels, "--structures", structures)
    calibrated = screen(*given)
    assert calibrated.code == 0
    assert "materials calibrated on" in calibrated.out
    assert "covered by the band of 90 %" in calibrated.out
    assert json.loads(screen(*given, "--json").out)["n_held_out"] > 20

    assert screen(*run).code == 0
    stored = json.loads(screen(*candidates).out)
    assert all(0 <= c["probability"] <= 1 for c in stored), stored
    assert all(c["expected_error"] > 0 for c in stored)
    shown = screen("show", "m-0", "--plot", "m-0.png")
    assert shown.code == 0
    assert "probability of a positive by DFT" in shown.out
    assert "expected error of the spectrum, WD (eV)" in shown.out
    assert (tmp_path / "m-0.png").exists()
    assert "probability" in screen("candidates", "--all").out


def test_what_cannot_be_calibrated_is_one_line(screen, predictor, tmp_path):
    labels, structures = write_edos_files(tmp_path, 12)
    few = screen("calibrate", predictor, "--labels", labels, "--structures", structures)
    assert few.code == 1
    assert "too few to calibrate on" in few.err
    assert screen("calibrate", "nobody", "--labels", labels).code == 1
    phonons = screen("calibrate", "springs-phdos", "--labels", labels, "--structures", structures)
    assert phonons.code == 1
    assert "springs-phdos predicts 66 bins from -310 cm^-1; needed are 128" in phonons.err


def test_a_damaged_calibration_ends_a_run_in_one_line(screen, predictor, structure_table):
    shutil.copy(DEFAULT_EDOS / "held_out.json", predictor)
    (predictor / "held_out.safetensors").write_bytes(b"nothing")
    table = structure_table([crystal_row("m-0", 3.3, ("Na", "Cl"))])
    outcome = screen("run", "--source", table, "--checkpoint", predictor, "--quiet")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("screen: calibration ")
    assert "screen calibrate" in outcome.err
