"""Ids, packed files, folders, and the same crystal twice."""

import bz2
import gzip
import json
import lzma
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from models.crystal import Crystal
from models.primitive import reduce_cell
from screening.candidate import Candidate, Unreadable
from screening.errors import ScreeningError
from screening.sources import open_source
from screening.sources.files import open_path, open_paths, stem_of
from screening.sources.twins import Twins, mean_distances

POSCAR = """Mo
{a}
1 0 0
0 1 0
0 0 1
{element}
2
direct
0 0 0
0.5 0.5 0.5
"""
CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
 'x,y,z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
 A1 {element} 0 0 0
 A2 {element} 0.5 0.5 0.5
"""


def poscar(a=3.15, element="Mo"):
    return POSCAR.format(a=a, element=element)


def cif(a=3.15, element="Mo", name="image0"):
    return CIF.format(a=a, element=element, name=name)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ids(source):
    return [item.material_id for item in source]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.cif", "a"),
        ("a.b.CIF.gz", "a.b"),
        ("POSCAR", "POSCAR"),
        ("POSCAR.gz", "POSCAR"),
        ("CONTCAR.relaxed.xz", "CONTCAR.relaxed"),
        ("POSCAR.vasp", "POSCAR"),
        ("geometry.in", "geometry"),
        ("x.geometry.in", "x."),
        (".cif", ".cif"),
    ],
)
def test_names_without_what_tells_the_kind(name, stem):
    assert stem_of(name).rstrip(".") == stem.rstrip(".")


# --- ids ------------------------------------------------------------------------------------


def test_data_blocks_of_one_name_are_all_read(tmp_path):
    elements = ("Cu", "Al", "Nb")
    path = put(tmp_path / "three.cif", "".join(cif(element=e) for e in elements))
    found = list(open_source(path))
    assert [(i.material_id, i.formula) for i in found] == [
        ("three", "Cu"),
        ("three#2", "Al"),
        ("three#3", "Nb"),
    ]


def test_files_of_one_name_in_several_folders(tmp_path):
    for run, element in (("run1", "Mo"), ("run2", "Nb")):
        put(tmp_path / run / "CONTCAR", poscar(element=element))
        put(tmp_path / run / "deep" / "s.cif", cif(element=element) * 2)
    source = open_path(tmp_path, recursive=True)
    assert ids(source) == [
        "run1/CONTCAR",
        "run1/deep/s",
        "run1/deep/s#2",
        "run2/CONTCAR",
        "run2/deep/s",
        "run2/deep/s#2",
    ]
    assert [item.formula for item in source] == ["Mo"] * 3 + ["Nb"] * 3
    first = next(iter(source))
    assert first.origin.source == "run1/CONTCAR"


def test_an_id_does_not_depend_on_other_folders(tmp_path):
    put(tmp_path / "run1" / "CONTCAR", poscar())
    alone = ids(open_path(tmp_path, recursive=True))
    put(tmp_path / "run0" / "CONTCAR", poscar(3.3))
    assert set(alone) < set(ids(open_path(tmp_path, recursive=True)))


def test_files_of_one_folder_that_differ_in_their_kind(tmp_path):
    put(tmp_path / "a.cif", cif())
    put(tmp_path / "a.vasp", poscar(3.3))
    put(tmp_path / "b.cif", cif(3.4))
    assert ids(open_source(tmp_path)) == ["a.cif", "a.vasp", "b"]


def test_files_named_one_by_one(tmp_path):
    paths = [
        put(tmp_path / "x" / "run1" / "CONTCAR", poscar()),
        put(tmp_path / "y" / "run1" / "CONTCAR", poscar(3.3)),
        put(tmp_path / "y" / "run2" / "CONTCAR", poscar(3.4)),
        put(tmp_path / "salt.cif", cif(3.5)),
    ]
    assert ids(open_paths(paths)) == ["x/run1/CONTCAR", "y/run1/CONTCAR", "run2/CONTCAR", "salt"]
    assert ids(open_paths([*paths[3:], *paths[3:]])) == ["salt", "salt#2"]
    assert ids(open_paths(paths[:1])) == ["CONTCAR"]


def test_a_path_that_ends_another_one_has_an_id(tmp_path):
    outer = put(tmp_path / "s.cif", cif())
    inner = put(tmp_path / tmp_path.relative_to("/") / "s.cif", cif(3.4))
    whole = "/".join((*tmp_path.parts[1:], "s"))
    assert ids(open_paths([outer, inner])) == [whole, f"{tmp_path.name}/{whole}"]


def test_one_bad_file_of_several_stops_nothing(tmp_path):
    good = put(tmp_path / "good.cif", cif())
    bad = put(tmp_path / "bad.vasp", "nothing")
    folder = put(tmp_path / "folder" / "a.cif", cif(3.3)).parent
    paths = [bad, tmp_path / "absent.cif", tmp_path, good, folder]
    found = {i.material_id: i for i in open_paths(paths)}
    assert list(found) == ["bad", "absent", "good", "bad#2", "good#2", "a"]
    assert found["absent"].reason.startswith("no such file or folder")
    assert "ends before line 2" in found["bad"].reason
    assert isinstance(found["a"], Candidate)


def test_a_second_material_of_one_id_is_refused(tmp_path):
    """Called mp-1#2 it would not be in a list of known materials."""
    structure = Crystal(np.eye(3) * 3, [[0, 0, 0]], np.array([84])).as_dict()
    document = json.dumps({"material_id": "mp-1", "structure": structure})
    unnamed = json.dumps(structure)
    refused = "duplicate material_id mp-1: the first one is used"
    put(tmp_path / "mp.jsonl", f"{document}\n{unnamed}\n" * 2)
    found = list(open_source(tmp_path / "mp.jsonl"))
    assert [i.material_id for i in found] == ["mp-1", "mp#2", "mp-1#2", "mp#4"]
    assert found[2] == Unreadable("mp-1#2", refused)
    put(tmp_path / "b.json", json.dumps({"mp-1": structure, "mp-2": structure}))
    of_table, other, first, *_ = open_source(tmp_path)
    assert (of_table.material_id, other.material_id) == ("mp-1", "mp-2")
    assert first == Unreadable("mp-1#2", refused)


def test_many_equal_ids_are_named_in_linear_time(tmp_path):
    document = {"structure": Crystal(np.eye(3) * 3, [[0, 0, 0]], [84]).as_dict()}
    lines = json.dumps({"material_id": "mp-1"} | document) + "\n"
    path = put(tmp_path / "a.jsonl", lines * 3000)
    names = ids(open_source(path))
    assert (names[0], names[1], names[-1]) == ("mp-1", "mp-1#2", "mp-1#3000")
    assert len(set(names)) == 3000


# --- packed files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mo.cif", cif()),
        ("POSCAR", poscar()),
        ("CONTCAR.1", poscar()),
        ("mo.json", json.dumps(Crystal(np.eye(3) * 3, [[0, 0, 0]], [42]).as_dict())),
        ("mo.jsonl", json.dumps(Crystal(np.eye(3) * 3, [[0, 0, 0]], [42]).as_dict())),
    ],
)
def test_packed_files(tmp_path, name, text, ending, pack):
    (tmp_path / (name + ending)).write_bytes(pack(text.encode()))
    (plain,) = open_source(put(tmp_path / "plain" / name, text))
    (packed,) = open_source(tmp_path / (name + ending))
    assert packed.material_id == plain.material_id
    assert packed.structure.structure_hash == plain.structure.structure_hash


@pytest.mark.parametrize("name", ["a.cif.gz", "a.vasp.gz", "a.json.xz", "a.jsonl.bz2", "a.xyz.gz"])
def test_packed_files_that_are_broken(tmp_path, name):
    good = gzip.compress(cif().encode())
    packed = gzip.compress(("8\n" + "Al 0 0 0\n" * 9).encode()) if ".xyz" in name else good
    (tmp_path / name).write_bytes(packed[: len(packed) // 2] if name.endswith("gz") else b"plain")
    (tmp_path / "good.cif.gz").write_bytes(good)
    bad, fine = open_source(tmp_path)
    assert "cannot be unpacked" in bad.reason
    assert isinstance(fine, Candidate)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("a.cif", cif()), ("POSCAR", poscar())])
def test_files_with_a_byte_order_mark(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [item.formula for item in open_source(tmp_path / name)] == ["Mo"]


# --- folders --------------------------------------------------------------------------------


def test_what_a_folder_holds_beside_structures_is_counted_and_named(tmp_path):
    put(tmp_path / "a.cif", cif())
    for name in ("ids.txt", "notes.TXT", "OUTCAR", "b.parquet.gz", ".hidden.cif", "sub/b.cif"):
        put(tmp_path / name, "")
    (tmp_path / "gone.cif").symlink_to(tmp_path / "nowhere")
    source = open_source(tmp_path)
    assert source.notes == (
        "not read: 1 .gz (b.parquet.gz), 2 .txt (ids.txt, notes.TXT), 1 OUTCAR (OUTCAR), "
        "1 broken links or devices (gone.cif), 1 folders, which --recursive reads (sub), "
        "1 hidden (.hidden.cif)",
    )
    assert ids(source) == ["a"]
    assert ids(open_path(tmp_path, recursive=True))[0] == "a"


def test_only_a_few_of_many_are_named(tmp_path):
    put(tmp_path / "a.cif", cif())
    for n in range(1200):
        put(tmp_path / f"{n:04d}.log", "")
    assert open_source(tmp_path).notes == (
        "not read: 1,200 .log (0000.log, 0001.log, 0002.log, ...)",
    )


def test_links_to_folders_are_not_followed(tmp_path):
    put(tmp_path / "a.cif", cif())
    (tmp_path / "loop").symlink_to(tmp_path)
    source = open_path(tmp_path, recursive=True)
    assert ids(source) == ["a"]
    assert source.notes == ("not read: 1 linked folders (loop)",)


LATIN = os.fsdecode(b"\xe9")  # an accent in Latin-1, which is no UTF-8


def test_names_that_are_not_utf_8(tmp_path):
    put(tmp_path / f"a{LATIN}.cif", cif())
    put(tmp_path / f"b{LATIN}.parquet", "")
    put(tmp_path / f"note{LATIN}.txt", "")
    put(tmp_path / f"x.{LATIN}", "")
    put(tmp_path / f"run{LATIN}" / "POSCAR", poscar(3.3))
    source = open_path(tmp_path, recursive=True)
    crystal, table, inside = source
    assert (crystal.material_id, crystal.origin.source) == ("a_", "a_.cif")
    assert table.reason == "its name is not UTF-8, as Arrow wants it; rename it"
    assert (inside.material_id, inside.origin.source) == ("run_/POSCAR", "run_/POSCAR")
    assert source.notes == ("not read: 1 ._ (x._), 1 .txt (note_.txt)",)
    assert len(source.fingerprint) == 32


def test_a_source_whose_own_name_is_not_utf_8(tmp_path):
    path = put(tmp_path / f"a{LATIN}.cif", cif())
    with pytest.raises(ScreeningError, match=r"a_\.cif: its name is not UTF-8, .*; rename it$"):
        open_source(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_subfolder_without_permission(tmp_path):
    put(tmp_path / "a.cif", cif())
    closed = put(tmp_path / "closed" / "b.cif", cif()).parent
    closed.chmod(0)
    source = open_path(tmp_path, recursive=True)
    closed.chmod(0o700)
    assert ids(source) == ["a"]
    assert source.notes == ("not read: 1 folders without permission (closed)",)


def test_a_folder_with_structures_in_its_subfolders_only(tmp_path):
    put(tmp_path / "run1" / "CONTCAR", poscar())
    with pytest.raises(ScreeningError, match="its subfolders are read with --recursive"):
        open_path(tmp_path)
    assert ids(open_path(tmp_path, recursive=True)) == ["run1/CONTCAR"]


def test_a_folder_reads_one_file_at_a_time(tmp_path):
    for n in range(3):
        put(tmp_path / f"{n}.cif", cif(3.0 + n / 10))
    stream = iter(open_source(tmp_path))
    assert next(stream).material_id == "0"
    (tmp_path / "2.cif").unlink()
    assert next(stream).material_id == "1"
    gone = next(stream)
    assert gone.material_id == "2"
    assert gone.reason.startswith("no such file")


def test_a_file_without_structures_is_told(tmp_path):
    put(tmp_path / "a.cif", cif())
    put(tmp_path / "b.json", "[]")
    put(tmp_path / "c.jsonl", "\n\n")
    put(tmp_path / "d.xyz", "")
    assert [i.material_id for i in open_source(tmp_path) if isinstance(i, Unreadable)] == [
        "b",
        "c",
        "d",
    ]


# --- the same crystal twice -----------------------------------------------------------------


def fcc(a, element=29):
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Crystal(np.eye(3) * a, corners, [element] * 4)


def candidates(*crystals):
    twins = Twins()
    return [twins.remarked(Candidate(f"c{i}", c)) for i, c in enumerate(crystals)]


def test_the_same_crystal_in_two_cells_is_said(tmp_path):
    conventional = fcc(3.6)
    put(tmp_path / "conventional.json", json.dumps(conventional.as_dict()))
    primitive = reduce_cell(conventional).crystal
    put(tmp_path / "primitive.json", json.dumps(primitive.as_dict()))
    put(tmp_path / "other.json", json.dumps(fcc(3.7).as_dict()))
    source = open_source(tmp_path)
    remarks = {item.material_id: item.remarks for item in source}
    assert remarks == {
        "conventional": (),
        "other": (),
        "primitive": ("the same crystal as conventional",),
    }
    assert source.notes == ("1 structure is the same crystal as another",)


def test_distances_do_not_depend_on_the_cell():
    rng = np.random.default_rng(0)
    lattice = np.array([[4.0, 0.3, 0], [0, 5.0, 0.2], [0.7, 0, 6.0]])
    crystal = Crystal(lattice, rng.random((4, 3)), [11, 17, 17, 8])
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    skewed = np.array([[1, 1, 0], [0, 1, 0], [0, -2, 1]])  # another basis of the same lattice
    moved = (crystal.frac_coords + np.array([0.1, 0.7, 0.3])) @ np.linalg.inv(skewed)
    other = Crystal(skewed @ lattice @ rotation, moved, crystal.atomic_numbers)
    twice = Crystal(
        lattice * [[2], [1], [1]],
        np.vstack([crystal.frac_coords, crystal.frac_coords + np.array([1, 0, 0])]) * [0.5, 1, 1],
        np.tile(crystal.atomic_numbers, 2),
    )
    expected = mean_distances(crystal)
    assert expected.shape == (3, 3, 32)
    np.testing.assert_allclose(mean_distances(other), expected, atol=1e-9)
    np.testing.assert_allclose(mean_distances(twice), expected, atol=1e-9)
    assert candidates(crystal, other, twice)[2].remarks == ("the same crystal as c0",)


def test_what_differs_is_not_the_same():
    a, c = 2.5, 2.5 * np.sqrt(8 / 3)
    hexagonal = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    hcp = Crystal(hexagonal, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [29, 29])
    corners = fcc(1).frac_coords
    layered = Crystal(np.eye(3) * 3.6, corners, [29, 29, 79, 79])  # L1_0
    double = np.diag([1, 1, 2])
    stacked = Crystal(  # the same lattice with another order of the same atoms
        double * 3.6,
        np.vstack([corners, corners + np.array([0, 0, 1])]) / [1, 1, 2],
        [29, 29, 29, 29, 79, 79, 79, 79],
    )
    different = [fcc(a * np.sqrt(2)), hcp, fcc(3.6), fcc(3.6, 79), layered, stacked, fcc(3.63)]
    assert not any(c.remarks for c in candidates(*different))


def test_the_remark_survives_the_reduction_of_the_cell():
    same = candidates(fcc(3.6), fcc(3.6))[1]
    assert same.reduced().remarks == ("the same crystal as c0",)


@pytest.mark.slow
@pytest.mark.data
def test_crystals_of_the_snapshot_are_known_again_in_other_cells():
    """In turned and skewed supercells, moved and rounded; and none is taken for another."""
    folder = os.environ.get("SCREEN_TEST_DATA")
    if not folder:
        pytest.skip("SCREEN_TEST_DATA is not set")
    rng = np.random.default_rng(0)
    twins = Twins()
    source = open_source(Path(folder) / "mp_snapshot.parquet")
    some = [c for c in islice(source, 0, 50_000, 1000) if c.nsites <= 60]
    assert not any(twins.remarked(candidate).remarks for candidate in some)
    for candidate in some:
        crystal, n = candidate.structure, rng.integers(1, 3)
        skew = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        copies = crystal.frac_coords[None] + np.arange(n)[:, None, None] * [0, 0, 1]
        coordinates = np.round(copies.reshape(-1, 3) / [1, 1, n] + rng.random(3), 6)
        lattice = crystal.lattice * [[1], [1], [n]]
        other = Crystal(
            skew @ lattice @ turn,
            coordinates @ np.linalg.inv(skew),
            np.tile(crystal.atomic_numbers, n),
        )
        found = twins.remarked(Candidate("other", other))
        assert found.remarks == (f"the same crystal as {candidate.material_id}",)
