import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.crystal import Crystal
from screening.candidate import Candidate, Origin, Unreadable
from screening.errors import ScreeningError
from screening.sources import mark_known_edos, open_source
from screening.sources import parquet as parquet_module

SALT = Crystal(np.full((3, 3), 2.8) - np.eye(3) * 2.8, [[0, 0, 0], [0.5] * 3], np.array([11, 17]))
IRON = Crystal(np.eye(3) * 2.87, [[0, 0, 0], [0.5, 0.5, 0.5]], np.array([26, 26]))


def row(material_id, crystal=SALT, **columns):
    return {
        "material_id": material_id,
        "lattice": crystal.lattice.ravel().tolist(),
        "species": crystal.atomic_numbers.tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        **columns,
    }


def write(path, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


def items(path):
    return {item.material_id: item for item in open_source(path)}


def same(a, b):
    return (
        np.allclose(a.lattice, b.lattice)
        and np.allclose(a.frac_coords, b.frac_coords)
        and (a.atomic_numbers == b.atomic_numbers).all()
    )


# --- parquet --------------------------------------------------------------------------------


def test_any_rows_at_the_beginning_can_be_left_out(tmp_path, monkeypatch):
    """Also where ids come again, batches end inside row groups, or there are none."""
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 3)
    rows = [row(f"m-{i % 9}" if i != 4 else None) for i in range(14)]
    for size in (2, 4, 5, 14):
        source = open_source(write(tmp_path / "a.parquet", rows, row_group_size=size))
        whole = [(type(i), i.material_id) for i in source]
        for first in range(16):
            rest = [(type(i), i.material_id) for i in source.items_from(first)]
            assert rest == whole[first:]


def test_of_what_is_left_out_nothing_but_ids_is_read(tmp_path, monkeypatch):
    read, iter_batches = [], pq.ParquetFile.iter_batches

    def noted(self, size, *, row_groups, columns):
        read.append((row_groups, len(columns)))
        return iter_batches(self, size, row_groups=row_groups, columns=columns)

    path = write(tmp_path / "a.parquet", [row(f"m-{i}") for i in range(12)], row_group_size=4)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert len(list(open_source(path).items_from(9))) == 3
    assert read == [([0, 1, 2], 1), ([2], 4)]


def test_parquet_rows_become_candidates(tmp_path):
    known = {
        "energy_above_hull": 0.02,
        "band_gap": 0.0,
        "is_magnetic": True,
        "has_edos": False,
        "formula": "Fe",
        "last_updated": "2025-01-02T00:00:00",
    }
    path = write(
        tmp_path / "a.parquet", [row("mp-1", **dict.fromkeys(known)), row("mp-2", IRON, **known)]
    )
    source = open_source(str(path))
    assert (source.name, source.total, source.default_unknown) == ("a.parquet", 2, "keep")
    first, second = source
    assert same(first.structure, SALT)
    assert (first.energy_above_hull, first.band_gap, first.is_magnetic, first.has_edos) == (
        None,
    ) * 4
    assert first.formula == "NaCl"
    assert same(second.structure, IRON)
    assert (second.energy_above_hull, second.band_gap) == (0.02, 0.0)
    assert second.is_magnetic is True
    assert second.has_edos is False
    assert second.origin == Origin("a.parquet", None, "2025-01-02T00:00:00")


def test_parquet_is_read_again_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 3)
    ids = [f"mp-{n}" for n in range(10)]
    source = open_source(write(tmp_path / "a.parquet", [row(i) for i in ids], row_group_size=4))
    assert [c.material_id for c in source] == ids
    assert [c.material_id for c in source] == ids
    assert all(same(c.structure, SALT) for c in source)


def test_database_version_is_in_the_metadata_of_the_table(tmp_path):
    table = pa.Table.from_pylist([row("mp-1")])
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({"database_version": "2025.09.25"}), path)
    assert next(iter(open_source(path))).origin.database_version == "2025.09.25"


@pytest.mark.parametrize(
    "types",
    [
        {"lattice": pa.list_(pa.float64(), 9), "species": pa.list_(pa.uint8())},
        {"lattice": pa.large_list(pa.float32()), "frac_coords": pa.list_(pa.float32())},
        {"material_id": pa.dictionary(pa.int32(), pa.string()), "band_gap": pa.null()},
        {"material_id": pa.string_view()},
        {"material_id": pa.large_string(), "formula": pa.string_view()},
        {"material_id": pa.dictionary(pa.int8(), pa.large_string())},
    ],
)
def test_other_arrow_types_of_the_same_meaning_are_read(tmp_path, types):
    rows = [row(i, c, band_gap=None, formula=None) for i, c in (("mp-1", SALT), ("mp-2", IRON))]
    inferred = pa.Table.from_pylist(rows).schema
    schema = pa.schema([pa.field(f.name, types.get(f.name, f.type)) for f in inferred])
    found = items(write(tmp_path / "a.parquet", rows, schema))
    assert same(found["mp-1"].structure, SALT)
    assert same(found["mp-2"].structure, IRON)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"lattice": None, "species": None, "frac_coords": None}, "no structure"),
        ({"lattice": [], "species": [], "frac_coords": []}, "no structure"),
        ({"lattice": None}, "lattice has 0 numbers, 9 are needed"),
        ({"lattice": [1.0] * 8}, "lattice has 8 numbers"),
        ({"lattice": [0.0] * 9}, "no volume"),
        ({"lattice": [float("inf")] + [1.0] * 8}, "not finite"),
        ({"frac_coords": [0.0] * 5}, "5 coordinates for 2 atoms"),
        ({"frac_coords": [float("nan")] * 6}, "not finite"),
        ({"frac_coords": [None] * 6}, "not finite"),
        ({"species": [11, 0]}, "atomic numbers"),
        ({"species": [11, None]}, "atomic numbers"),
        ({"species": [11, 119]}, "atomic numbers"),
    ],
)
def test_bad_rows_are_streamed_with_their_reason(tmp_path, columns, reason):
    rows = [row("mp-1"), row("mp-2", **columns), row("mp-3", IRON)]
    found = items(write(tmp_path / "a.parquet", rows))
    assert isinstance(found["mp-2"], Unreadable)
    assert reason in found["mp-2"].reason
    assert same(found["mp-1"].structure, SALT)
    assert same(found["mp-3"].structure, IRON)


def test_later_duplicates_do_not_replace_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 2)
    rows = [row("mp-1"), row("mp-2"), row("mp-1", IRON), row("mp-3")]
    found = list(open_source(write(tmp_path / "a.parquet", rows)))
    assert [i.material_id for i in found] == ["mp-1", "mp-2", "a#row-3", "mp-3"]
    assert found[2] == Unreadable("a#row-3", "duplicate material_id mp-1: the first one is used")


@pytest.mark.parametrize("bad", [None, "", "a\x00b", "x" * 300])
def test_rows_without_a_usable_id(tmp_path, bad):
    first, second = open_source(write(tmp_path / "a.parquet", [row(bad), row("mp-1")]))
    assert isinstance(first, Unreadable)
    assert first.material_id == "a#row-1"
    assert "material_id" in first.reason
    assert isinstance(second, Candidate)


def test_nan_means_unknown(tmp_path):
    rows = [row("mp-1", energy_above_hull=float("nan"), band_gap=1.0), row("mp-2", band_gap=None)]
    found = items(write(tmp_path / "a.parquet", rows))
    assert found["mp-1"].energy_above_hull is None
    assert found["mp-1"].band_gap == 1.0
    assert found["mp-2"].band_gap is None


def test_other_names_of_columns(tmp_path):
    other = row("mp-1") | {"e_above_hull": 3.0, "gap pbe": 1.5}
    (found,) = open_source(write(tmp_path / "a.parquet", [other]))
    assert (found.energy_above_hull, found.band_gap) == (3.0, 1.5)
    (found,) = open_source(write(tmp_path / "b.parquet", [other | {"energy_above_hull": 0.1}]))
    assert found.energy_above_hull == 0.1
    (found,) = open_source(write(tmp_path / "d.parquet", [other | {"energy_above_hull": None}]))
    assert found.energy_above_hull == 3.0
    with pytest.raises(ScreeningError, match="column e_above_hull must be a number"):
        open_source(write(tmp_path / "c.parquet", [other | {"e_above_hull": "low"}]))


def test_infinity_is_not_unknown(tmp_path):
    rows = [row("mp-1", energy_above_hull=float("inf")), row("mp-2", energy_above_hull=0.1)]
    found = items(write(tmp_path / "a.parquet", rows))
    assert found["mp-1"] == Unreadable("mp-1", "energy_above_hull is not finite but inf")
    assert found["mp-2"].energy_above_hull == 0.1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"species": ...}, "no column species$"),
        ({"lattice": ..., "frac_coords": ...}, "no column lattice and no frac_coords$"),
        ({"species": ["Na", "Cl"]}, "column species must be a list of integers, it is list"),
        ({"species": [11.0, 17.0]}, "column species must be a list of integers"),
        ({"lattice": 3.0}, "column lattice must be a list of numbers, it is double"),
        ({"material_id": 7}, "column material_id must be text, it is int64"),
        ({"is_magnetic": 1}, "column is_magnetic must be true or false"),
        ({"band_gap": "0"}, "column band_gap must be a number"),
    ],
)
def test_columns_that_are_missing_or_wrong_are_named(tmp_path, columns, message):
    content = {k: v for k, v in {**row("mp-1"), **columns}.items() if v is not ...}
    with pytest.raises(ScreeningError, match=message) as caught:
        open_source(write(tmp_path / "a.parquet", [content]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["material_id", "energy_above_hull"])
def test_a_column_that_is_there_twice_is_named(tmp_path, name):
    table = pa.Table.from_pylist([row("mp-1", energy_above_hull=0.0)])
    path = tmp_path / "a.parquet"
    pq.write_table(table.append_column(name, table[name]), path)
    with pytest.raises(ScreeningError, match=f"column {name} is there twice; leave one of them"):
        open_source(path)


def test_columns_that_are_not_read_may_be_there_twice(tmp_path):
    table = pa.Table.from_pylist([row("mp-1", x=1)])
    path = tmp_path / "a.parquet"
    pq.write_table(table.append_column("x", table["x"]), path)
    assert list(items(path)) == ["mp-1"]


def test_parquet_that_is_cut_off(tmp_path):
    path = write(tmp_path / "a.parquet", [row(f"mp-{n}") for n in range(100)])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ScreeningError, match="not a parquet file"):
        open_source(path)


def test_parquet_that_is_damaged_inside(tmp_path):
    path = write(tmp_path / "a.parquet", [row(f"mp-{n}") for n in range(1000)])
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ScreeningError, match=r"a\.parquet: cannot read"):
        list(source)


# --- structure files ------------------------------------------------------------------------

CIF = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 {occupancy}
Cl1 Cl {x} 0.5 0.5 1
"""
POSCAR = """NaCl
1.0
0.0 2.8 2.8
2.8 0.0 2.8
2.8 2.8 0.0
{symbols}1 1
direct
0.0 0.0 0.0
0.5 0.5 0.5
"""


def cif(x="0.5", occupancy="1"):
    return CIF.format(x=x, occupancy=occupancy)


def poscar(symbols="Na Cl\n"):
    return POSCAR.format(symbols=symbols)


@pytest.mark.parametrize(
    ("name", "text", "material_id"),
    [
        ("salt.cif", cif(), "salt"),
        ("salt.CIF", cif(), "salt"),
        ("POSCAR", poscar(), "POSCAR"),
        ("POSCAR_salt", poscar(), "POSCAR_salt"),
        ("CONTCAR.relaxed", poscar(), "CONTCAR.relaxed"),
        ("rock.salt.vasp", poscar(), "rock.salt"),
        ("salt.json", json.dumps(SALT.as_dict()), "salt"),
        (
            "salt.json",
            json.dumps({"structure": SALT.as_dict(), "material_id": "mp-22862"}),
            "mp-22862",
        ),
    ],
)
def test_one_structure_file(tmp_path, name, text, material_id):
    path = tmp_path / name
    path.write_text(text)
    source = open_source(path)
    (found,) = source
    assert found.material_id == material_id
    assert found.formula == "NaCl"
    assert found.origin == Origin(name)
    assert source.total == 1
    assert next(iter(source)) is found


def test_json_as_pymatgen_writes_it(tmp_path):
    from monty.serialization import dumpfn
    from pymatgen.core import Lattice, Species, Structure

    ionic = Structure(Lattice.cubic(4), [Species("Na", 1), Species("Cl", -1)], [[0] * 3, [0.5] * 3])
    path = tmp_path / "salts.json"
    dumpfn({"a": SALT.to_structure(), "b": ionic}, path)
    assert {i: c.formula for i, c in items(path).items()} == {"a": "NaCl", "b": "NaCl"}
    dumpfn([SALT.to_structure(), ionic], path)
    assert list(items(path)) == ["salts", "salts#2"]


def test_json_documents_with_properties(tmp_path):
    document = {
        "structure": IRON.as_dict(),
        "material_id": "mp-13",
        "energy_above_hull": 0,
        "band_gap": float("nan"),
        "is_magnetic": True,
    }
    path = tmp_path / "a.json"
    wrong = {**document, "material_id": "mp-14", "is_magnetic": "yes"}
    no_sites = {**document, "material_id": "mp-15", "structure": {"lattice": {}}}
    path.write_text(json.dumps([document, wrong, no_sites, 3, document]))
    good, bad, worse, worst, again = open_source(path)
    assert (good.energy_above_hull, good.band_gap, good.is_magnetic) == (0.0, None, True)
    assert "is_magnetic is neither true nor false" in bad.reason
    assert "not a structure document" in worse.reason
    assert worst == Unreadable("a#4", "a int is not a structure")
    assert again.material_id == "mp-13#2"


def test_json_with_lengths_and_angles(tmp_path):
    document = IRON.as_dict()
    document["lattice"] = {"a": 2.87, "b": 2.87, "c": 2.87, "alpha": 90, "beta": 90, "gamma": 90}
    path = tmp_path / "iron.json"
    path.write_text(json.dumps(document))
    assert items(path)["iron"].structure.volume == pytest.approx(2.87**3)


def test_cif_with_several_blocks(tmp_path):
    path = tmp_path / "two.cif"
    path.write_text(cif() + cif().replace("data_NaCl", "data_other"))
    assert list(items(path)) == ["two", "two#2"]


def test_broken_block_of_a_cif_is_told(tmp_path):
    path = tmp_path / "three.cif"
    nothing = "data_global\n_journal_year 2020\n"
    path.write_text(nothing + cif().replace("5.64", "x.y", 1) + cif().replace("NaCl", "other"))
    bad, good = open_source(path)
    assert (bad.material_id, good.material_id) == ("three", "three#2")
    assert isinstance(good, Candidate)
    assert bad.reason == "_cell_length_a is no number but 'x.y'"


BAD_FILES = [
    ("bad.cif", "this is no CIF", "does not parse"),
    ("bad.cif", "", "does not parse"),
    ("bad.cif", cif(occupancy="0.5"), "partial occupancies"),
    ("bad.cif", cif(x="nan"), "is no number but 'nan'"),
    ("bad.cif", cif().replace("5.64", "0"), "_cell_length_a is 0"),
    ("bad.vasp", poscar(symbols=""), "no element symbols"),
    (
        "bad.vasp",
        poscar().replace("0.5 0.5 0.5", "x y z"),
        "line 10 must be the coordinates of atom 2 of 2",
    ),
    ("bad.vasp", poscar().replace("0.5 0.5 0.5", "nan 0.5 0.5"), "line 10 must be the coordinates"),
    ("bad.json", "{", "does not parse"),
    ("bad.json", "{}", "no structure document"),
    ("bad.json", "[]", "no structure"),
    ("bad.json", "7", "no structure document"),
    ("bad.json", json.dumps(SALT.as_dict()).replace("Na", "Xx"), "not a structure"),
    ("bad.json", json.dumps(SALT.as_dict()).replace("0.5", "NaN"), "not finite"),
]


@pytest.mark.parametrize(("name", "text", "reason"), BAD_FILES)
def test_bad_file_given_alone_is_one_clear_line(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ScreeningError, match=re.escape(reason)) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(("name", "text", "reason"), BAD_FILES)
def test_bad_file_in_a_folder_holds_up_nothing(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    (tmp_path / "good.cif").write_text(cif())
    found = items(tmp_path)
    assert isinstance(found["good"], Candidate)
    assert isinstance(found["bad"], Unreadable)
    assert reason in found["bad"].reason


def test_binary_rubbish(tmp_path):
    for name in ("a.cif", "b.json", "c.vasp", "d.parquet"):
        (tmp_path / name).write_bytes(bytes(range(256)))
    (tmp_path / "good.cif").write_text(cif())
    found = items(tmp_path)
    assert [i for i in found if isinstance(found[i], Unreadable)] == ["a", "b", "c", "d"]


# --- folders --------------------------------------------------------------------------------


def test_folder_is_read_in_order_with_unique_ids(tmp_path):
    (tmp_path / "b.cif").write_text(cif())
    (tmp_path / "a.json").write_text(json.dumps({"b": SALT.as_dict(), "mp-1": IRON.as_dict()}))
    write(tmp_path / "c.parquet", [row("mp-1"), row("mp-2")])
    (tmp_path / "notes.txt").write_text("not a structure")
    (tmp_path / ".hidden.cif").write_text("not a structure")
    (tmp_path / "sub.cif").mkdir()
    source = open_source(tmp_path)
    assert [i.material_id for i in source] == ["b", "mp-1", "b#2", "c#row-1", "mp-2"]
    assert [i.material_id for i in source] == ["b", "mp-1", "b#2", "c#row-1", "mp-2"]
    assert source.total is None


def test_folder_of_structure_files_knows_its_size(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.cif").write_text(cif())
    source = open_source(tmp_path)
    assert source.total == 3
    before = source.fingerprint
    (tmp_path / "3.cif").write_text(cif())
    assert open_source(tmp_path).fingerprint != before


def test_empty_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("not a structure")
    with pytest.raises(ScreeningError, match="no structure files"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.parquet", "no such file or folder"),
        ("structure.docx", r"kind of file; the right ones: \.parquet, \.cif"),
        ("a" * 400, "cannot read .* too long"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, name, message):
    (tmp_path / "structure.docx").write_text("")
    with pytest.raises(ScreeningError, match=message) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_fingerprint_follows_the_content(tmp_path):
    path = write(tmp_path / "a.parquet", [row("mp-1")])
    before = open_source(path).fingerprint
    assert open_source(path).fingerprint == before
    write(path, [row("mp-1"), row("mp-2")])
    assert open_source(path).fingerprint != before


# --- prototypes and known DOS ---------------------------------------------------------------


def test_prototypes_are_real_structures_with_stable_ids():
    source = open_source("prototypes")
    found = {c.material_id: c for c in source}
    assert source.total == len(found) > 250
    assert list(found) == [c.material_id for c in source]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", i) for i in found)
    cinnabar = found["aflow-AB_hP6_154_a_b-Cinnabar"]
    assert (cinnabar.formula, cinnabar.nsites) == ("HgS", 6)
    assert cinnabar.energy_above_hull is None
    assert cinnabar.origin.database_version
    assert source.fingerprint == open_source("prototypes").fingerprint


@pytest.mark.slow
def test_prototypes_agree_with_pymatgens_own_library():
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    for ours, theirs in zip(open_source("prototypes"), AFLOW_PROTOTYPE_LIBRARY, strict=True):
        structure = theirs["snl"].structure
        assert ours.formula == structure.reduced_formula
        assert ours.structure.volume == pytest.approx(structure.volume)


def test_known_edos_marks_what_the_source_does_not_know(tmp_path):
    rows = [row("a", has_edos=None), row("b", has_edos=None), row("c", has_edos=True)]
    source = open_source(write(tmp_path / "a.parquet", rows))
    marked = mark_known_edos(source, ["b", "z"])
    assert {c.material_id: c.has_edos for c in marked} == {"a": False, "b": True, "c": True}
    assert marked.total == 3
    assert marked.fingerprint != source.fingerprint
    assert marked.fingerprint != mark_known_edos(source, ["a"]).fingerprint


def test_known_edos_leaves_unreadable_materials_alone(tmp_path):
    source = open_source(write(tmp_path / "a.parquet", [row("a"), row("b", species=[0, 0])]))
    assert isinstance(list(mark_known_edos(source, ["b"]))[1], Unreadable)


@pytest.mark.slow
def test_sources_import_nothing_heavy():
    code = (
        "import sys, screening.filters, screening.gap, screening.classification; "
        "from screening.sources import open_source; s = open_source('prototypes'); s.description; "
        "print([m for m in ('pymatgen.core', 'pandas', 'mp_api', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert result.stdout.strip() == "[]"


# --- reference data -------------------------------------------------------------------------


@pytest.fixture
def data():
    folder = os.environ.get("SCREEN_TEST_DATA")
    if not folder:
        pytest.skip("SCREEN_TEST_DATA is not set")
    return Path(folder)


@pytest.mark.data
def test_papers_predicted_positives_that_have_a_structure(data):
    found = items(data / "paper_predicted_positives.parquet")
    without = [i for i in found.values() if isinstance(i, Unreadable)]
    assert len(found) == 32
    assert [i.reason for i in without] == ["no structure"] * 6
    assert found["mp-1039010"].formula == "MgAl"


@pytest.mark.slow
@pytest.mark.data
def test_snapshot_gives_the_candidates_of_the_paper_s_filters(data):
    from screening.filters import ScreeningFilters
    from screening.funnel import Funnel

    filters = ScreeningFilters()
    funnel = Funnel.of(filters)
    for item in open_source(data / "mp_snapshot.parquet"):
        funnel.add(filters.judge(item))
    assert (funnel.entered, funnel.passed) == (51149, 18229)
    table = pq.read_table(
        data / "mp_snapshot.parquet", columns=["energy_above_hull", "nelements", "band_gap"]
    ).to_pandas()
    independent = (table.energy_above_hull <= 0.5) & (table.nelements < 5) & (table.band_gap == 0)
    assert funnel.passed == independent.sum()
