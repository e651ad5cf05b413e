import gzip

import pandas as pd
import pytest

from screening.errors import ScreeningError
from screening.sources.ids import read_material_ids

BOTH = frozenset({"mp-129", "mp-22862"})
TABLE = "formula,material_id\nMo,mp-129\nNaCl,mp-22862\n"
TEXTS = {
    "a line each": ("ids.txt", "mp-129\nmp-22862\n"),
    "windows": ("ids.txt", "mp-129\r\n\r\nmp-22862\r\n"),
    "commas": ("ids.txt", "mp-129,mp-22862\n"),
    "commas and spaces": ("ids.txt", "mp-129, mp-22862,\n"),
    "semicolons": ("ids", "mp-129;mp-22862"),
    "quotes": ("ids.txt", "\"mp-129\", 'mp-22862'\n"),
    "list": ("ids.json", '["mp-129", "mp-22862"]'),
    "list in a text file": ("ids.txt", '["mp-129",\n "mp-22862"]'),
    "documents": ("ids.json", '[{"material_id": "mp-129"}, {"material_id": "mp-22862"}]'),
    "dict by id": ("ids.json", '{"mp-129": {"a": 1}, "mp-22862": {}}'),
    "flags": ("ids.json", '{"mp-129": true, "mp-22862": true, "mp-1": false}'),
    "response": ("ids.json", '{"data": [{"material_id": "mp-129"}, "mp-22862"]}'),
    "pandas": ("ids.JSON", pd.DataFrame({"material_id": ["mp-129", "mp-22862"]}).to_json()),
    "lines of JSON": ("ids.jsonl", '{"material_id": "mp-129"}\n{"material_id": "mp-22862"}\n'),
    "csv": ("ids.csv", TABLE),
    "csv with quotes": ("ids.CSV", TABLE.replace("mp-129", '"mp-129"')),
    "csv with semicolons": ("ids.csv", TABLE.replace(",", ";")),
    "tsv": ("ids.tsv", TABLE.replace(",", "\t")),
    "csv called txt": ("ids.txt", TABLE),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("name", "text"), TEXTS.values(), ids=TEXTS)
def test_lists_in_every_dress(tmp_path, name, text, encoding):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert read_material_ids(path) == BOTH


def test_packed_lists(tmp_path):
    path = tmp_path / "ids.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    assert read_material_ids(path) == BOTH


def test_ids_with_spaces_and_brackets(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text('"my salt#2"\nH2[relaxed]\n')
    assert read_material_ids(path) == {"my salt#2", "H2[relaxed]"}


@pytest.mark.parametrize("dtype", ["str", "category", "string[pyarrow]"])
def test_parquet(tmp_path, dtype):
    path = tmp_path / "ids.PARQUET"
    ids = pd.Series(["mp-129", "mp-22862", None], dtype=dtype)
    pd.DataFrame({"material_id": ids, "x": 1}).to_parquet(path)
    assert read_material_ids(path) == BOTH


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("ids.csv", b"mp-129,mp-22862\n", "there is no column material_id"),
        ("ids.csv", b"material_id,material_id\na,b\n", "there are 2 columns material_id"),
        ("ids.txt", b" \n", "there are no ids in it"),
        ("ids.json", b"[", "it is no JSON"),
        ("ids.json", b"[[1]]", "is no id"),
        ("ids.json", b'[{"id": 1}]', "no document with a material_id"),
        ("ids.json", b"{}", "there are no ids"),
        ("ids.xlsx", b"PK\x03\x04\x00\x00", "it is no text"),
        ("ids.txt", b"\xff\xfe\x00\xd8", "it is no text"),
        ("ids.parquet", b"PAR1", "ids.parquet: "),
        ("ids.txt.gz", b"plain", "it cannot be unpacked"),
    ],
)
def test_what_is_no_list_is_told_in_one_line(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ScreeningError) as caught:
        read_material_ids(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ScreeningError, match="No such file"):
        read_material_ids(tmp_path / "ids.txt")


def test_a_table_without_its_column(tmp_path):
    path = tmp_path / "ids.parquet"
    pd.DataFrame({"id": ["mp-1"]}).to_parquet(path)
    with pytest.raises(ScreeningError, match="there is no column material_id"):
        read_material_ids(path)
