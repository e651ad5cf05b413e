import gzip
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io import write

from screening.candidate import Candidate, Unreadable
from screening.sources import open_source

SALT = bulk("NaCl", "rocksalt", a=5.64)


def same(found, atoms):
    crystal = found.structure
    np.testing.assert_allclose(crystal.lattice @ crystal.lattice.T, metric(atoms), atol=1e-5)
    off = crystal.frac_coords - atoms.get_scaled_positions()
    np.testing.assert_allclose(off - np.rint(off), 0, atol=1e-6)
    assert (crystal.atomic_numbers == atoms.numbers).all()


def metric(atoms):
    return atoms.cell.array @ atoms.cell.array.T


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.xyz", "extxyz"),
        ("a.extxyz", "extxyz"),
        ("a@1.xyz", "extxyz"),
        ("a.traj", "traj"),
        ("a.xsf", "xsf"),
        ("a.gen", "gen"),
        ("a.res", "res"),
        ("a.cell", "castep-cell"),
        ("geometry.in", "aims"),
        ("a.db", "db"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of ASE's writer that CASTEP is not there
def test_a_crystal_in_each_format(tmp_path, name, kind, packed):
    skew = SALT.copy()
    strain = np.array([[0, 0.1, 0], [0, 0, 0.2], [0.3, 0, 0]])
    skew.set_cell(skew.cell.array + strain, scale_atoms=True)
    path = tmp_path / name
    write(path, skew, format=kind)
    if packed:
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = path.with_name(f"{name}.gz")
    (found,) = open_source(path)
    same(found, skew)
    assert found.material_id == name.rsplit(".", 1)[0]
    assert found.origin.source == path.name


ESPRESSO = """&SYSTEM
 ibrav={ibrav}, nat=1, ntyp=1
/
ATOMIC_SPECIES
Cu1 63.5 Cu.UPF
CELL_PARAMETERS angstrom
0 1.8 1.8
1.8 0 1.8
1.8 1.8 0
ATOMIC_POSITIONS {{crystal}}
Cu1 0 0 0
K_POINTS gamma
"""


def test_input_of_quantum_espresso_written_by_hand(tmp_path):
    (tmp_path / "cu.pwi").write_text(ESPRESSO.format(ibrav=0))
    (tmp_path / "other.pwi").write_text(ESPRESSO.format(ibrav=2))
    copper, other = open_source(tmp_path)
    same(copper, bulk("Cu", a=3.6))
    assert "ASE does not support ibrav != 0" in other.reason


@pytest.mark.parametrize(
    ("nat", "positions", "found"),
    [(1, "Cu1 0 0 0\nCu1 .5 .5 .5", 2), (3, "! two\nCu1 0 0 0\nCu1 1/3 0 0", 2), (1, "", 0)],
)
def test_espresso_counts_its_atoms(tmp_path, nat, positions, found):
    text = ESPRESSO.format(ibrav=0).replace("nat=1", f"nat={nat}")
    (tmp_path / "cu.pwi").write_text(text.replace("Cu1 0 0 0", positions))
    (copper,) = open_source(tmp_path)
    assert f"{nat} atoms are counted by nat, there are {found}" in copper.reason


XSF = """# salt
CRYSTAL
PRIMVEC
4.2 0 0
0 4.2 0
0 0 4.2
PRIMCOORD
{n} 1
Mg 0 0 0 0.1 0.1 0.1
# the other one
8 2.1 2.1 2.1 0.1 0.1 0.1
"""
GRID = "BEGIN_BLOCK_DATAGRID_3D\ndata\nBEGIN_DATAGRID_3D_1\n2 2 2\n0 0 0\n1 2 3 4\n5 6 7 8\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (XSF.format(n=2) + GRID, None),
        (XSF.format(n=1), "1 atoms are counted below PRIMCOORD, there are 2"),
        (XSF.format(n=4), "4 atoms are counted below PRIMCOORD, there are 2"),
        (XSF[:40], "the file ends too early"),
    ],
)
def test_xsf_counts_its_atoms(tmp_path, text, reason):
    (tmp_path / "a.xsf").write_text(text)
    (found,) = open_source(tmp_path)
    assert found.formula == "MgO" if reason is None else reason in found.reason


def test_each_frame_of_an_animation_counts_its_atoms(tmp_path):
    path = tmp_path / "a.xsf"
    write(path, [SALT, SALT])
    assert len(list(open_source(path))) == 2
    begin, _, end = path.read_text().rpartition(" 2 1")
    path.write_text(f"{begin} 1 1{end}")
    (found,) = open_source(tmp_path)
    assert "1 atoms are counted below PRIMCOORD, there are 2" in found.reason


@pytest.mark.parametrize("rest", ["MIXTURE:( 1 0.5)", "mixture=(1 0.5)", "SPIN=2.0 ! no mixture"])
def test_mixtures_of_castep_are_refused(tmp_path, rest):
    (tmp_path / "po.cell").write_text(
        "%BLOCK LATTICE_ABC\n3.3 3.3 3.4\n90 90 90\n%ENDBLOCK LATTICE_ABC\n"
        f"%BLOCK POSITIONS_FRAC\nPo 0 0 0 {rest}\n%ENDBLOCK POSITIONS_FRAC\n"
    )
    (found,) = open_source(tmp_path)
    is_mixture = "no mixture" not in rest
    assert isinstance(found, Unreadable) == is_mixture
    assert not is_mixture or "partial occupancies; order it first" in found.reason


def test_cell_of_castep_by_lengths_and_angles(tmp_path):
    (tmp_path / "po.cell").write_text(
        "%BLOCK LATTICE_ABC\n3.3 3.3 3.4\n90 90 90\n%ENDBLOCK LATTICE_ABC\n"
        "%BLOCK POSITIONS_FRAC\nPo 0 0 0\n%ENDBLOCK POSITIONS_FRAC\n"
    )
    (found,) = open_source(tmp_path / "po.cell")
    assert found.formula == "Po"
    assert found.structure.volume == pytest.approx(3.3**2 * 3.4)


def test_every_frame_has_its_own_id(tmp_path):
    path = tmp_path / "md.xyz"
    write(path, [SALT, bulk("Cu"), molecule("H2O"), bulk("Al")])
    found = list(open_source(path))
    assert [i.material_id for i in found] == ["md", "md#2", "md#3", "md#4"]
    assert found[2].reason == "there is no cell: a molecule, or a file without its lattice"
    same(found[3], bulk("Al"))


def test_a_broken_frame_is_told_and_those_before_it_are_kept(tmp_path):
    path = tmp_path / "md.xyz"
    write(path, [SALT, bulk("Cu")])
    path.write_text(path.read_text() + "7\nLattice=\nCu 0 0\n")
    *good, bad = open_source(path)
    assert len(good) == 2
    assert bad.material_id == "md#3"
    assert "does not parse" in bad.reason


def test_properties_beside_the_atoms(tmp_path):
    salt = SALT.copy()
    salt.info = {"material_id": "mp-22862", "energy_above_hull": 0.1, "is_magnetic": False}
    write(tmp_path / "a.xyz", [salt, bulk("Cu")])
    first, second = open_source(tmp_path / "a.xyz")
    assert (first.material_id, first.energy_above_hull, first.is_magnetic) == (
        "mp-22862",
        0.1,
        False,
    )
    assert second.material_id == "a#2"
    salt.info = {"id": "mp-1"}
    write(tmp_path / "b.xyz", [salt])
    assert [item.material_id for item in open_source(tmp_path / "b.xyz")] == ["mp-1"]


@pytest.mark.parametrize("key", ["id", "material_id"])
def test_ids_that_are_numbers(tmp_path, key):
    salt = SALT.copy()
    salt.info = {key: "12345"}
    write(tmp_path / "a.xyz", [salt, salt])
    first, second = open_source(tmp_path / "a.xyz")
    assert first.material_id == "12345"
    assert isinstance(second, Unreadable)
    assert second.material_id == "12345#2"


def test_rows_of_a_database(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        database.write(SALT, material_id="mp-22862", band_gap=5.0)
        database.write(bulk("Cu"))
        database.write(molecule("H2O"))
    salt, copper, water = open_source(tmp_path / "a.db")
    assert (salt.material_id, salt.band_gap, copper.material_id) == ("mp-22862", 5.0, "a#2")
    same(salt, SALT)
    assert isinstance(water, Unreadable)


def test_databases_of_others_are_refused_and_left_as_they_are(tmp_path):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE runs (id)")
        database.commit()
    for name, content in (("empty.db", b""), ("thumbs.db", b"rubbish" * 99)):
        (tmp_path / name).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found = list(open_source(tmp_path))
    assert len(found) == 3
    assert all("it is no database of ASE" in item.reason for item in found)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (molecule("H2O", vacuum=5), "it is periodic in 0 of 3 directions"),
        (fcc111("Cu", (1, 1, 3), vacuum=8), "it is periodic in 2 of 3 directions"),
        (Atoms("X", cell=np.eye(3) * 4, pbc=True), "atomic numbers must be"),
    ],
)
def test_what_is_no_crystal_is_refused(tmp_path, atoms, reason):
    write(tmp_path / "a.traj", atoms)
    write(tmp_path / "b.traj", SALT)
    bad, good = open_source(tmp_path)
    assert reason in bad.reason
    assert isinstance(good, Candidate)


SHELX = """TITL x
CELL 0.71 4.21 4.21 4.21 90 90 90
LATT -1
SFAC Mg O
Mg 1 0.0 0.0 0.0 {magnesium}
O 2 0.5 0.5 0.5 11.0
END
"""


def shelx(tmp_path, text=SHELX, magnesium="1.0"):
    (tmp_path / "a.res").write_text(text.format(magnesium=magnesium))
    (found,) = open_source(tmp_path)
    return found


@pytest.mark.parametrize("line", ["LATT 1", "latt 1", "LATT -4", "LATT -1\nSYMM -X,-Y,-Z", ""])
def test_shelx_files_with_a_symmetry_are_refused(tmp_path, line):
    found = shelx(tmp_path, SHELX.replace("LATT -1", line))
    symmetry = line.split("\n")[-1] or "no LATT, which is LATT 1"
    assert f"it has a symmetry ({symmetry})" in found.reason


@pytest.mark.parametrize("occupancy", ["1.0", "11.00000", "1.0 3.0"])
def test_shelx_atoms_that_are_there_in_full(tmp_path, occupancy):
    assert shelx(tmp_path, magnesium=occupancy).formula == "MgO"


@pytest.mark.parametrize("occupancy", ["0.5", "10.5", "21.0", "-21.0"])
def test_partial_occupancy_of_shelx_is_refused(tmp_path, occupancy):
    assert "partial occupancies; order it first" in shelx(tmp_path, magnesium=occupancy).reason


@pytest.mark.parametrize(
    ("atom", "reason"),
    [
        ("Mg1 1 0.0 0.0 0.0 1.0", "its atoms must be called by their elements, not 'Mg1'"),
        ("Mg 1 0.0 0.0 0.0", "'Mg 1 0.0 0.0 0.0' must be an atom such as 'Mg 1 0.0 0.5 0.5 1.0'"),
        ("Mg 1 0.0 0.0 1e-7 1.0", "must be an atom such as"),
    ],
)
def test_shelx_atoms_that_would_be_passed_over(tmp_path, atom, reason):
    found = shelx(tmp_path, SHELX.replace("Mg 1 0.0 0.0 0.0 {magnesium}", atom))
    assert reason in found.reason


def test_bad_frames_are_named_by_line_and_stop_nothing(tmp_path):
    path = tmp_path / "a.xyz"
    good = '1\nLattice="2 2 0 2 0 2 0 2 2" pbc="T T T"\nAl 0 0 0\n'
    path.write_text(
        good + good.replace("0 0 0\n", "0 0 x\n") + "\n" + good.replace("Al", "Xy") + good
    )
    first, bad, worse, last = open_source(path)
    assert isinstance(first, Candidate)
    assert isinstance(last, Candidate)
    assert bad.reason.startswith("line 4: does not parse: ")
    assert worse.reason.startswith("line 8: does not parse: ")
    assert last.material_id == "a#4"


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("Al 1 1 1\n", "line 4 should be a number of atoms, it is 'Al 1 1 1'"),
        ('3\nLattice="2 2 0 2 0 2 0 2 2"\nAl 0 0 0\n', "line 4: there are 1 of 3 atoms"),
        ("3\n", "line 4: there are 0 of 3 atoms"),
    ],
)
def test_a_file_of_frames_that_breaks_off(tmp_path, rest, reason):
    path = tmp_path / "a.xyz"
    path.write_text('1\nLattice="2 2 0 2 0 2 0 2 2" pbc="T T T"\nAl 0 0 0\n' + rest)
    first, bad = open_source(path)
    assert isinstance(first, Candidate)
    assert reason in bad.reason
    assert bad.reason.endswith("; what follows in the file is not read")
