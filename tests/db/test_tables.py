"""Tables in files: all of them, or what was there before."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from db.errors import StoreError
from db.tables import write_table

TABLE = pd.DataFrame({"material_id": ["mp-1", "mp-2"], "score": [0.25, None]})
ENDINGS = ("csv", "json", "parquet")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_takes_the_place_of_another(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table.{ending}"
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[ending]
    for table in (TABLE, TABLE[:1]):
        write_table(table, path)
        pd.testing.assert_frame_equal(read(path), table, check_dtype=False)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_the_table_before(tmp_path, monkeypatch, ending, error) -> None:
    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise error

    path = tmp_path / f"table.{ending}"
    path.write_text("of before")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises((StoreError, KeyboardInterrupt)) as raised:
        write_table(TABLE, path)
    if isinstance(error, OSError):
        assert str(raised.value) == f"{path} cannot be written: No space left on device"
    assert path.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_cannot_be_written(tmp_path: Path) -> None:
    for ending in ENDINGS:
        with pytest.raises(StoreError, match=rf"table\.{ending} cannot be written: No such"):
            write_table(TABLE, tmp_path / "nowhere" / f"table.{ending}")
    with pytest.raises(StoreError, match="unknown ending"):
        write_table(TABLE, tmp_path / "table.xls")
    assert list(tmp_path.iterdir()) == []
