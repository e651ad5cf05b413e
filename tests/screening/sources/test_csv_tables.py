"""CSV tables with a column of structures, and that files of many structures are streamed."""

import gc
import gzip
import json
import tracemalloc

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.db import connect
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from screening.candidate import Candidate, Unreadable
from screening.errors import ScreeningError
from screening.sources import open_source
from screening.sources.files import read_structures
from screening.sources.opening import StructureFile
from tests.models.cells import conventional_rocksalt

SALT = conventional_rocksalt(4.21, "Mg", "O")
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
CIF = str(CifWriter(SALT))


def is_same(crystal, structure):
    return np.allclose(crystal.to_structure().distance_matrix, structure.distance_matrix) and (
        crystal.composition == {e.symbol: n for e, n in structure.composition.items()}
    )


def table(**columns):
    """As the data sets of generative models are: CIFs over many lines, an index without a name."""
    rows = {"material_id": ["mp-1", "mp-2"], "cif": [CIF, str(CifWriter(RUTILE))]}
    return pd.DataFrame(rows | columns)


def items(path, text, **options):
    path.write_text(text)
    return list(open_source(path, **options))


@pytest.mark.parametrize("structure", ["cif", "structure"])
@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("A.CSV", ",")]
)
def test_cifs_in_a_column(tmp_path, name, separator, structure):
    columns = {
        "e_above_hull": [0.01, np.nan],
        "band_gap": [4.5, 1.8],
        "spacegroup.number": [225, 136],
    }
    frame = table(**columns).rename(columns={"cif": structure})
    salt, rutile = items(tmp_path / name, frame.to_csv(sep=separator))
    assert [salt.material_id, rutile.material_id] == ["mp-1", "mp-2"]
    assert is_same(salt.structure, SALT)
    assert is_same(rutile.structure, RUTILE)
    assert (salt.energy_above_hull, rutile.energy_above_hull) == (0.01, None)
    assert (salt.band_gap, rutile.band_gap) == (4.5, 1.8)
    assert salt.origin.source == name


def test_json_in_a_column_as_in_matbench(tmp_path):
    rows = {"structure": [json.dumps(SALT.as_dict())], "gap pbe": [4.4], "is_magnetic": ["False"]}
    (salt,) = items(tmp_path / "matbench.csv", pd.DataFrame(rows).to_csv(index=False))
    assert salt.material_id == "matbench"
    assert is_same(salt.structure, SALT)
    assert salt.band_gap == 4.4
    assert salt.is_magnetic is False


@pytest.mark.parametrize("pack", [gzip.compress, "zst"])
def test_packed_table(tmp_path, pack):
    text = table().to_csv().encode()
    path = tmp_path / ("a.csv.zst" if pack == "zst" else "a.csv.gz")
    if pack == "zst":
        import pyarrow as pa

        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(text)
    else:
        path.write_bytes(pack(text))
    assert [c.material_id for c in open_source(path)] == ["mp-1", "mp-2"]


GOOD = f'good,"{CIF}",0,false\n'
BAD_ROWS = [
    ("a,b,c", "line {line}: it has 3 cells, the header 4"),
    ("x,,0.1,true", "line {line}: the document has no structure"),
    ("x,data_a,0.1,true", "line {line}: no structure in it: there are no atom sites"),
    ("x,{,0.1,true", "line {line}: not a structure document"),
    (f'x,"{CIF}",low,true', "line {line}: energy_above_hull is not a number but 'low'"),
    (f'x,"{CIF}",0.1,maybe', "line {line}: is_magnetic is neither true nor false but 'maybe'"),
    (f'x,"{CIF}{CIF}",0.1,true', "line {line}: its CIF holds 2 structures"),
    (f'x,"{CIF.replace("Mg", "Qq")}",0.1,true', "line {line}: "),
]


def test_bad_rows_are_named_by_line_and_stop_nothing(tmp_path):
    header, good = "material_id,cif,energy_above_hull,is_magnetic\n", GOOD
    last = GOOD.replace("good", "last", 1)
    for row, reason in BAD_ROWS:
        before, bad, after = items(tmp_path / "a.csv", f"{header}{good}{row}\n\n{last}")
        assert isinstance(before, Candidate)
        assert isinstance(after, Candidate)
        assert isinstance(bad, Unreadable), row
        assert bad.reason.startswith(reason.format(line=2 + GOOD.count("\n"))), bad.reason
        assert "\n" not in bad.reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no column structure and no cif"),
        ("id,formula\n1,MgO\n", "there is no column structure and no cif, only 'id, formula'"),
        ("cif,cif\na,b\n", "column cif is there twice"),
        ("cif\n", "no structure in it"),
        ('cif\n"data_', "line 2: unexpected end of data"),
        ("cif\nda\0ta\n", "line 2"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ScreeningError, match=words):
        open_source(path)


def test_open_quote_ends_the_table_behind_what_was_read(tmp_path):
    text = table().to_csv() + 'x,mp-3,"data_'
    *good, bad = items(tmp_path / "a.csv", text)
    assert len(good) == 2
    assert "line" in bad.reason


def test_folder_with_other_tables(tmp_path):
    table().to_csv(tmp_path / "a.csv")
    (tmp_path / "id_prop.csv").write_text("a,0.1\nb,0.2\n")
    source = open_source(tmp_path)
    assert [c.material_id for c in source] == ["mp-1", "mp-2"]
    assert source.notes[0] == "not read: 1 tables without structures (id_prop.csv)"


# --- files of many structures ---------------------------------------------------------------


def csv_of(path, n):
    with path.open("w") as file:
        file.write("cif\n")
        for _ in range(n):
            file.write(f'"{CIF}"\n')


def json_lines_of(path, n):
    with path.open("w") as file:
        for _ in range(n):
            file.write(json.dumps({"cif": CIF}) + "\n")


def packed_lines_of(path, n):
    with gzip.open(path, "wt") as file:
        for _ in range(n):
            file.write(json.dumps({"structure": SALT.as_dict()}) + "\n")


def extxyz_of(path, n):
    ase.io.write(path, [bulk("MgO", "rocksalt", 4.21, cubic=True)] * n, format="extxyz")


def database_of(path, n):
    with connect(path) as database:
        for _ in range(n):
            database.write(bulk("MgO", "rocksalt", 4.21, cubic=True))


SIZES = {"a.jsonl.gz": 400 * len(json.dumps(SALT.as_dict()))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "n_structures"),
    [
        ("a.csv", csv_of, 400),
        ("a.jsonl", json_lines_of, 400),
        ("a.jsonl.gz", packed_lines_of, 400),
        ("a.extxyz", extxyz_of, 400),
        ("a.db", database_of, 800),  # SQLite and ASE take 160 kB
    ],
)
def test_files_of_many_structures_are_streamed(tmp_path, name, write, n_structures):
    path = tmp_path / name
    write(path, n_structures)
    text = SIZES.get(name, 0) or path.stat().st_size
    write(tmp_path / f"few-{name}", 2)  # what the first file makes a library load is not the file's
    assert len(list(read_structures(StructureFile(tmp_path / f"few-{name}", "few", name)))) == 2
    tracemalloc.start()
    stream = read_structures(StructureFile(path, "a", name))
    for n, item in enumerate(stream, 1):
        assert isinstance(item, Candidate)
        if n in (40, n_structures):
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < text / 2
    tracemalloc.stop()
    assert n == n_structures
