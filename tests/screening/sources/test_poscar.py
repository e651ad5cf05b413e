"""POSCARs against ASE's and pymatgen's readers where these are right, and by hand."""

import io
import os
import warnings

import numpy as np
import pytest

from models.errors import ModelError
from screening.sources.poscar import parse_poscar


def poscar(
    scale="1.0",
    species="Na Cl\n1 1",
    mode="Direct",
    atoms=("0 0 0", "0.5 0.5 0.5"),
    lattice=("0.0 2.8 2.9", "2.8 0.1 2.8", "2.7 2.8 0.0"),
    after="",
):
    return "\n".join(["title", scale, *lattice, species, mode, *atoms]) + "\n" + after


def by_pymatgen(text):
    from pymatgen.io.vasp.inputs import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = Poscar.from_str(text).structure
    return structure.lattice.matrix, structure.cart_coords, [s.specie.symbol for s in structure]


def by_ase(text):
    from ase.io import read

    atoms = read(io.StringIO(text), format="vasp")
    return atoms.cell.array, atoms.positions, atoms.get_chemical_symbols()


def read(text):
    crystal, remarks = parse_poscar(text)
    symbols = [crystal.to_structure()[i].specie.symbol for i in range(len(crystal))]
    return crystal.lattice, crystal.frac_coords @ crystal.lattice, symbols, remarks


SELECTIVE = "Selective dynamics\nDirect"
ORDINARY = {
    "direct": poscar(),
    "cartesian": poscar(mode="Cartesian", atoms=("0 0 0", "1.4 2.1 0.3")),
    "k is cartesian": poscar(mode="kartesisch", atoms=("0 0 0", "1.4 2.1 0.3")),
    "scaled": poscar(scale="1.7", mode="c", atoms=("0.1 0 0", "1.4 2.1 0.3")),
    "volume": poscar(scale="-99.5"),
    "selective": poscar(mode=SELECTIVE, atoms=("0 0 0 T T F", "0.5 0.5 0.5 F F F")),
    "symbols behind": poscar(atoms=("0 0 0 Na", "0.5 0.5 0.5 Cl")),
    "one species twice": poscar(
        species="Na Cl Na\n1 1 1", atoms=("0 0 0", "0.5 0.5 0.5", "0.2 0.2 0.2")
    ),
    "velocities": poscar(after="\n0.1 0.2 0.3\n0.4 0.5 0.6\n"),
    "windows": poscar().replace("\n", "\r\n"),
    "no title": poscar().removeprefix("title"),
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
@pytest.mark.parametrize("reference", [by_pymatgen, by_ase])
def test_ordinary_files_are_read_as_ase_and_pymatgen_do(text, reference):
    lattice, positions, symbols, remarks = read(text)
    expected = reference(text.replace("\r\n", "\n"))
    np.testing.assert_allclose(lattice, expected[0], atol=1e-9)
    np.testing.assert_allclose(positions, expected[1], atol=1e-9)
    assert symbols == expected[2]
    assert remarks == ()


def test_three_scale_factors_are_of_the_cartesian_components():
    direct = read(poscar(scale="2.0 3.0 4.0", lattice=("1 0 0", "0 1 0", "0.5 0 1")))
    np.testing.assert_allclose(direct[0], [[2, 0, 0], [0, 3, 0], [1, 0, 4]])
    np.testing.assert_allclose(direct[1][1], [1.5, 1.5, 2])
    text = poscar(
        scale="2 3 4",
        lattice=("1 0 0", "0 1 0", "0.5 0 1"),
        mode="Cartesian",
        atoms=("0 0 0", "0.1 0.2 0.3"),
    )
    np.testing.assert_allclose(read(text)[1][1], [0.2, 0.6, 1.2])
    # ASE reads three factors, too
    np.testing.assert_allclose(read(text)[0], by_ase(text)[0])
    np.testing.assert_allclose(read(text)[1], by_ase(text)[1])


def test_minus_the_volume_scales_cartesian_positions_too():
    text = poscar(
        scale="-216",
        lattice=("3 0 0", "0 3 0", "0 0 3"),
        mode="Cartesian",
        atoms=("0 0 0", "1.5 1.5 0.75"),
    )
    np.testing.assert_allclose(read(text)[0], 6 * np.eye(3))
    np.testing.assert_allclose(read(text)[1][1], [3, 3, 1.5])


def test_numbers_as_fortran_writes_them():
    text = poscar(scale="0.1D+01", atoms=(".0 0. 0", "0.5d0, 5.0D-01, +0.5E+00 ! chlorine"))
    for ours, plain in zip(read(text), read(poscar()), strict=True):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(
    "species", ["Na_pv Cl\n1 1", "Na_sv_GW/abc Cl/f00\n1 1", "Na Cl ! salt\n1 1 ! each"]
)
def test_names_of_potentials_are_elements(species):
    assert read(poscar(species=species))[2] == ["Na", "Cl"]


def test_an_element_without_atoms_is_none():
    assert read(poscar(species="Na K Cl\n1 0 1"))[2] == ["Na", "Cl"]


def test_symbols_behind_the_coordinates_serve_a_file_of_vasp_4():
    atoms = ("0 0 0 Na", "0.5 0.5 0.5 Cl")
    symbols, remarks = read(poscar(species="1 1", atoms=atoms))[2:]
    assert symbols == ["Na", "Cl"]
    assert remarks == ("its element symbols are those behind the coordinates",)


def test_line_6_counts_where_symbols_disagree_and_that_is_said():
    symbols, remarks = read(poscar(species="K Cl\n1 1", atoms=("0 0 0 Na", "0.5 0.5 0.5 Cl")))[2:]
    assert symbols == ["K", "Cl"]
    assert remarks == ("an atom is K by line 6, as VASP takes it, Na behind its coordinates",)


BAD = {
    "": "the file ends before line 2, the scale factor",
    "title\n1.0\n1 0 0\n": "the file ends before line 4, a lattice vector",
    poscar(scale="0"): "line 2: '0' is no scale",
    poscar(scale="1 2"): "line 2 must be one scale factor, or three, not '1 2'",
    poscar(scale="1 -1 1"): "line 2: '1 -1 1' is no scale",
    poscar(scale="one"): "line 2 must be one scale factor",
    poscar(scale="-5", lattice=("1 0 0", "2 0 0", "0 0 1")): "cell has no volume",
    poscar(lattice=("1 0 0", "2 0 0", "0 0 1")): "cell has no volume",
    poscar(lattice=("1 0", "0 1 0", "0 0 1")): "line 3 must be a lattice vector, three numbers",
    poscar(species="1 1"): "write them in a line of their own before the numbers of atoms",
    poscar(species="1 1", atoms=("0 0 0 Na", "0 0 1 Cl", "")[:1]): "only 1 of the 2 atoms",
    poscar(species="2", atoms=("0 0 0 Na", "0.5 0.5 0.5 Cl")): "do not fit the numbers of atoms",
    poscar(species="Na Cl K\n1 1"): "line 6 has 3 element symbols (Na Cl K), line 7 has 2",
    poscar(species="Na Xx\n1 1"): "line 6: 'Xx' is no element symbol",
    poscar(species="Na H.5\n1 1"): "line 6: 'H.5' is no element symbol",
    poscar(species="Na Cl\n1 x"): "line 7: 'x' is no number of atoms",
    poscar(species="Na Cl\n1 -1"): "line 7 must be the numbers of atoms",
    poscar(species="Na Cl\n1.0 1.0"): "line 7: '1.0' is no number of atoms",
    poscar(species="Na Cl\n1 2"): "coordinates of only 2 of the 3 atoms that are counted",
    poscar(species="Na Cl\n1 0"): "line 10 has coordinates of a further atom than the 1",
    poscar(mode="0 0 0", atoms=("0.5 0.5 0.5",)): "line 8 must say Direct or Cartesian",
    poscar(mode="Selective"): "line 9 must say Direct or Cartesian, it is '0 0 0'",
    poscar(atoms=("0 0 0", "0.5 0.5")): "line 10 must be the coordinates of atom 2 of 2",
    poscar(atoms=("0 0 0", "0.5 0.5 ***")): "line 10 must be the coordinates of atom 2 of 2",
    poscar(atoms=("0 0 0", "1e999 0 0")): "not finite",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=range(len(BAD)))
def test_what_is_wrong_is_said_in_one_line(text, reason):
    with pytest.raises(ModelError) as caught:
        parse_poscar(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused():
    text = poscar(mode=SELECTIVE, atoms=("0 0 0 T T F", "0.5 0.5 0.5 F F F"))
    lines = text.splitlines(keepends=True)
    for n in range(len(lines)):
        with pytest.raises(ModelError):
            parse_poscar("".join(lines[:n]))


@pytest.mark.data
@pytest.mark.parametrize("direct", [True, False])
def test_crystals_of_the_snapshot_as_pymatgen_and_ase_write_them(direct):
    from itertools import islice
    from pathlib import Path

    from ase import Atoms
    from ase.io import write
    from pymatgen.io.vasp.inputs import Poscar

    from screening.sources import open_source

    folder = os.environ.get("SCREEN_TEST_DATA")
    if not folder:
        pytest.skip("SCREEN_TEST_DATA is not set")
    for item in islice(open_source(Path(folder) / "mp_snapshot.parquet"), 0, 20_000, 200):
        crystal = item.structure
        structure = crystal.to_structure()
        atoms = Atoms(
            crystal.atomic_numbers, cell=crystal.lattice, scaled_positions=crystal.frac_coords
        )
        by_ase = io.StringIO()
        write(by_ase, atoms, format="vasp", direct=direct, sort=False)
        by_pymatgen = Poscar(structure, sort_structure=False).get_str(
            direct=direct, significant_figures=12
        )
        for text in (by_pymatgen, by_ase.getvalue()):
            found, remarks = parse_poscar(text)
            np.testing.assert_allclose(found.lattice, crystal.lattice, atol=1e-9)
            off = found.frac_coords - crystal.frac_coords
            np.testing.assert_allclose(off - np.rint(off), 0, atol=1e-9)
            assert (found.atomic_numbers == crystal.atomic_numbers).all()
            assert remarks == ()
