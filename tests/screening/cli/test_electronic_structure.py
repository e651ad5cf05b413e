"""Band gaps and parts of the DOS on the screen, of predictors that know them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.zoo import ZOO
from tests.conftest import crystal_row
from tests.models.cells import conventional_rocksalt

TIGHT_BINDING = "tight-binding-edos"


@pytest.fixture
def salt(structure_table) -> Path:
    """One CsCl-like cell of Na and Cl."""
    return structure_table([crystal_row("m-0", 3.6, ("Na", "Cl"))])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def rows(text: str) -> list[list[str]]:
    return [cells(line) for line in text.splitlines() if line.startswith("│")]


@pytest.mark.slow
def test_show_has_the_gap_the_parts_and_the_panel(screen, salt, tmp_path):
    assert screen("run", "--source", salt, "--checkpoint", TIGHT_BINDING).code == 0
    shown = screen("show", "m-0", "--plot", "parts.svg")
    document = json.loads(screen("show", "m-0", "--json").out)
    structure = document["electronic_structure"]

    projected = np.array(structure["projected_dos"])
    axes = structure["axes"]
    assert (axes["atom"], axes["shell"]) == (["Na", "Cl"], ["s", "p", "d", "f"])
    spectrum = np.array(document["spectrum"])  # by `eigvalsh`, in another batch
    np.testing.assert_allclose(projected.sum((0, 1)), spectrum, atol=4e-3 * spectrum.max())

    table = rows(shown.out)
    assert ["predicted band gap (eV)", f"{structure['band_gap']:.3f}"] in table
    assert ["predicted to be", "an insulator"] in table
    assert "% of -1 to 0 eV" in shown.out
    parts = {tuple(row[:2]): list(map(float, row[2:])) for row in table if row[0] in ("Na", "Cl")}
    (total,) = (float(row[2]) for row in table if row[0] == "all")
    assert total == pytest.approx(6, abs=0.05)  # electrons of Cl 3p
    assert sum(row[0] for row in parts.values()) == pytest.approx(total, abs=0.03)
    assert parts["Cl", "p"][2] > 80  # % of the VBM
    assert sum(row[2] for row in parts.values()) == pytest.approx(100, abs=3)

    figure = (tmp_path / "parts.svg").read_text(encoding="utf-8")
    gap = f"a band gap of {structure['band_gap']:.2f} eV, cut out at 0"
    for text in (f"Prediction by element and shell: {gap}", "Na s", "Cl p", "all", "NaCl"):
        assert text in figure


@pytest.mark.slow
def test_predict_has_them_too(screen, tmp_path):
    conventional_rocksalt(5.64, "Na", "Cl").to("salt.cif")
    given = ("predict", "salt.cif", "--checkpoint", TIGHT_BINDING)
    shown = screen(*given, "--plot", "parts.svg").out
    (row,) = json.loads(screen(*given, "--json").out)["predictions"]
    assert 2 < row["predicted_band_gap"] < 7  # PBE: 5
    assert "band gap eV" in shown
    assert f"{row['predicted_band_gap']:.2f}" in rows(shown)[0]
    assert "States per cell" in shown
    assert "Cl p" in (tmp_path / "parts.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_predictor_that_knows_no_levels_says_what_it_said_before(screen, salt, tmp_path):
    screen("run", "--source", salt, "--quiet")
    shown = screen("show", "m-0", "--plot", "spectrum.svg")
    predicted = screen("predict", salt, "--json")
    document = json.loads(screen("show", "m-0", "--json").out)
    assert "electronic_structure" not in document
    assert "predicted_band_gap" not in json.loads(predicted.out)["predictions"][0]
    for text in (shown.out, shown.err, screen("predict", salt).out):
        assert "predicted band gap" not in text
        assert "States per cell" not in text
    assert "by element" not in (tmp_path / "spectrum.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_checkpoint_that_is_gone_or_changed_is_one_line(screen, salt, what):
    folder = Path("mine")
    shutil.copytree(ZOO / TIGHT_BINDING, folder)
    screen("run", "--source", salt, "--checkpoint", folder, "--quiet")
    if what == "gone":
        shutil.rmtree(folder)
    else:
        card = folder / "sumnorm-kl.json"
        document = json.loads(card.read_text())
        card.write_text(json.dumps(document | {"weights_sha256": "0" * 64}))
    shown = screen("show", "m-0")
    assert shown.code == 0
    assert "NaCl" in shown.out
    assert "States per cell" not in shown.out
    (line,) = [line for line in shown.err.splitlines() if "checkpoint" in line]
    assert line.startswith("No predicted band gap and no DOS by element: the checkpoint of mine-")
    assert "is gone or has changed" in line
    assert "electronic_structure" not in json.loads(screen("show", "m-0", "--json").out)


def test_damaged_weights_are_one_line(screen, salt):
    folder = Path("mine")
    shutil.copytree(ZOO / TIGHT_BINDING, folder)
    screen("run", "--source", salt, "--checkpoint", folder, "--quiet")
    (folder / "sumnorm-kl.safetensors").write_bytes(b"")
    shown = screen("show", "m-0")
    assert shown.code == 0
    assert "its hash is not the one in sumnorm-kl.json" in " ".join(shown.err.split())
