"""One crystal in many cells has one verdict, through `screen predict` and through a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import spglib
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from tests.models.cells import CELLS, SPACE_GROUPS, all_cells, displaced

FIGURES = ("lower_edge", "upper_edge", "width", "max_dos", "score")
DISORDERED = """data_alloy
_cell_length_a 3
_cell_length_b 3
_cell_length_c 3
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.5
Au1 Au 0 0 0 0.5
"""


def write_cells(folder: Path, names=SPACE_GROUPS) -> None:
    """Every crystal in every cell, as CIF and POSCAR files in turn."""
    for name in names:
        for i, (kind, crystal) in enumerate(all_cells(name).items()):
            stem = f"{name} {kind}".replace(" ", "_").replace(",", "")
            structure = crystal.to_structure().get_sorted_structure()
            if i % 2:
                (folder / f"{stem}.cif").write_text(str(CifWriter(structure)))
            else:
                (folder / f"{stem}.vasp").write_text(
                    Poscar(structure).get_str(significant_figures=8)
                )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "cells").mkdir()
    write_cells(tmp_path / "cells")
    return tmp_path / "cells"


@pytest.fixture
def criteria(screen, folder):
    """Options that the rocksalt crystal meets in its primitive cell, but not in a larger one.

    Its lowest bin is below the threshold, four times its lowest bin is not, whatever model is
    shipped.
    """
    (file,) = folder.glob("rocksalt_primitive.*")
    (row,) = json.loads(screen("predict", file, "--json").out)["predictions"]
    limits = ("--min-width", 0.0625, "--min-upper-edge", -4, "--max-upper-edge", 4)
    return ("--max-dos", 2 * min(row["spectrum"]), *limits)


def by_crystal(rows):
    """Rows of each crystal, the one of its primitive cell first."""
    for name in SPACE_GROUPS:
        stem = name.replace(" ", "_")
        own = [row for row in rows if row["material_id"].startswith(f"{stem}_")]
        assert len(own) == len(CELLS) + 2
        yield name, sorted(own, key=lambda row: not row["material_id"].endswith("_primitive"))


def assert_same_verdict(own, figures):
    first = own[0]
    for row in own[1:]:
        assert row["nsites"] == first["nsites"]
        for figure in figures:
            if first[figure] is None:
                assert row[figure] is None
            else:
                assert row[figure] == pytest.approx(first[figure], abs=1e-4), row["material_id"]


@pytest.mark.slow
def test_predict_judges_a_crystal_and_not_its_cell(screen, folder, criteria):
    rows = json.loads(screen("predict", folder, *criteria, "--json").out)["predictions"]
    for name, own in by_crystal(rows):
        assert_same_verdict(own, FIGURES)
        assert len({row["is_gap"] for row in own}) == 1
        spectra = np.array([row["spectrum"] for row in own])
        np.testing.assert_allclose(spectra, spectra[:1].repeat(len(own), 0), atol=1e-4)
        assert own[0]["cell_multiplicity"] == 1
        assert own[0]["is_gap"] or name != "rocksalt"
        found = sorted(row["cell_multiplicity"] for row in own)
        sizes = sorted(len(cell) // own[0]["nsites"] for cell in all_cells(name).values())
        assert found == sizes


@pytest.mark.slow
def test_predict_keeps_cells_on_request(screen, folder, criteria):
    outcome = screen("predict", folder, *criteria, "--json", "--keep-cell")
    rows = json.loads(outcome.out)["predictions"]
    verdicts = {row["material_id"]: row["is_gap"] for row in rows}
    assert verdicts["rocksalt_primitive"]
    assert not verdicts["rocksalt_conventional"]
    assert {row["cell_multiplicity"] for row in rows} == {None}
    assert {row["nsites"] for row in rows if row["material_id"] == "rocksalt_conventional"} == {8}


def test_predict_says_what_became_of_the_cell(screen, folder):
    outcome = screen("predict", *sorted(folder.glob("rocksalt_*al.*")))
    assert "cell given with 8 atoms, reduced to 1/4" in outcome.out


@pytest.mark.slow
def test_a_run_judges_a_crystal_and_not_its_cell(screen, folder, criteria):
    assert screen("run", "--source", folder, *criteria, "--quiet").code == 0
    rows = json.loads(screen("candidates", "--all", "--json").out)
    for name, own in by_crystal(rows):
        assert_same_verdict(own, ("gap_lower_edge", "gap_upper_edge", "gap_width", "score"))
        (verdict,) = {row["is_positive"] for row in own}
        assert verdict or name != "rocksalt"
    shown = screen("show", "rocksalt_conventional").out
    assert "given with 8 atoms, reduced to 1/4" in shown
    shown = screen("show", "rocksalt_primitive").out
    assert re.search(r"│cell +│ *primitive *│", shown)
    document = json.loads(screen("show", "rocksalt_2x1x1", "--json").out)
    assert (document["cell_multiplicity"], document["nsites"]) == (2, 2)


@pytest.mark.slow
def test_a_run_keeps_cells_on_request_and_says_so(screen, folder, criteria):
    screen("run", "--source", folder, *criteria, "--quiet")
    outcome = screen("run", "--source", folder, *criteria, "--keep-cell", "--json")
    kept = json.loads(outcome.out)
    assert kept["parameters"]["keep_cell"] is True
    found = {row["material_id"]: row for row in kept["positives"]}
    assert "rocksalt_primitive" in found
    assert "rocksalt_conventional" not in found
    assert "not reduced" in screen("show", "rocksalt_conventional").out


@pytest.mark.slow
def test_bad_cells_are_recorded_and_do_not_stop_a_run(screen, tmp_path, monkeypatch):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "alloy.cif").write_text(DISORDERED)
    write_cells(folder, ["bcc"])
    one_atom = "Po\n1.0\n3.35 0 0\n0 3.35 0\n0 0 3.35\nPo\n1\ndirect\n0 0 0\n"
    (folder / "one.vasp").write_text(one_atom)

    monkeypatch.setattr(spglib, "standardize_cell", lambda *given, **options: None)
    assert screen("run", "--source", folder, "--quiet").code == 0
    rows = {
        row["material_id"]: row for row in json.loads(screen("candidates", "--all", "--json").out)
    }
    assert rows["alloy"]["state"] == "failed"
    assert "partial occupancies" in rows["alloy"]["reason"]
    assert (rows["one"]["state"], rows["one"]["cell_multiplicity"]) == ("screened", 1)
    kept = rows["bcc_conventional"]
    assert (kept["state"], kept["nsites"], kept["cell_multiplicity"]) == ("screened", 2, None)
    assert "spglib finds no primitive cell" in kept["reduction_problem"]
    assert "kept as given: spglib finds no primitive" in screen("show", "bcc_conventional").out

    outcome = screen("predict", folder)
    assert outcome.code == 1  # the alloy
    assert "alloy: structure has partial occupancies" in outcome.err
    assert "cell kept as given: spglib finds" in outcome.out


def test_a_distorted_supercell_is_judged_as_it_is(screen, tmp_path):
    distorted = displaced(all_cells("perovskite")["2x1x1"], 0.1)
    Poscar(distorted.to_structure().get_sorted_structure()).write_file(tmp_path / "POSCAR")
    (row,) = json.loads(screen("predict", "POSCAR", "--json").out)["predictions"]
    assert (row["nsites"], row["cell_multiplicity"]) == (10, 1)


@pytest.mark.slow
def test_the_size_filter_counts_the_primitive_cell(screen, folder):
    arguments = ("run", "--source", folder, "--max-sites", 2, "--json")
    funnel = {s["name"]: s for s in json.loads(screen(*arguments).out)["funnel"]}
    n_cells = len(CELLS) + 2
    assert funnel["n_sites"]["dropped"] == 2 * n_cells  # the perovskite and CuO
    dropped = json.loads(screen("candidates", "--state", "rejected", "--json").out)
    assert {row["nsites"] for row in dropped} == {4, 5}
    assert {row["reason"][:20] for row in dropped} == {
        "4 atoms in the cell,",
        "5 atoms in the cell,",
    }
    kept = {s["name"]: s for s in json.loads(screen(*arguments, "--keep-cell").out)["funnel"]}
    assert kept["n_sites"]["dropped"] > 2 * n_cells
