"""Lists of material ids, such as those whose DOS is known already."""

from __future__ import annotations

from pathlib import Path

from screening.errors import ScreeningError

COLUMN = "material_id"


def read_material_ids(path: Path) -> frozenset[str]:
    """Ids in the column `material_id` of a parquet or CSV file, or one a line of a text file.

    Raises
    ------
    ScreeningError
        If the file cannot be read or has no such column.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path, columns=[COLUMN])
        elif path.suffix == ".csv":
            table = pd.read_csv(path, usecols=[COLUMN], dtype=str)
        else:
            ids = path.read_text().split()
            return frozenset(ids)
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ScreeningError(f"{path}: no column {COLUMN} can be read ({reason})") from None
    return frozenset(table[COLUMN].dropna().astype(str))
