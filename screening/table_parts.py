"""A table that comes part by part, kept on disk so that what was broken off can go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.writing import replacing, write_whole
from screening.errors import ScreeningError, one_line

if TYPE_CHECKING:
    import pyarrow as pa


class TableParts:
    """Parts of a parquet table, each a file that is there as a whole or not at all.

    Parameters
    ----------
    folder : Path
        Of the parts alone.
    schema : callable
        Arrow schema of each part.
    """

    def __init__(self, folder: Path, schema: Callable[[], pa.Schema]) -> None:
        self._folder = folder
        self._schema = schema

    def begin(self, state: str) -> None:
        """Keep the parts of an attempt that was broken off if they are of this state.

        Raises
        ------
        ScreeningError
            If the folder cannot be written to.
        """
        file = self._folder / "state.json"
        try:
            if file.exists() and file.read_text() == state:
                return
            self.remove()
            self._folder.mkdir(parents=True)
            write_whole(file, state)
        except OSError as error:
            raise ScreeningError(f"cannot write to {self._folder}: {error.strerror}") from None

    def ids(self, name: str) -> list[str] | None:
        """The column `material_id` of a part, None if it is not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self._part(name), columns=["material_id"])
        except (OSError, pa.ArrowException):
            return None
        ids: list[str] = table["material_id"].to_pylist()
        return ids

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Write a part and give its ids.

        Parameters
        ----------
        name : str
            Parts are joined in the order of their names.
        rows : sequence of dict

        Raises
        ------
        ScreeningError
            If it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = self._part(name)
        try:
            with replacing(part) as unfinished:
                pq.write_table(pa.Table.from_pylist(list(rows), self._schema()), unfinished)
        except OSError as error:
            raise ScreeningError(f"cannot write {part}: {error.strerror}") from None
        except pa.ArrowException as error:
            raise ScreeningError(f"cannot write {part}: {one_line(error)}") from None
        return [row["material_id"] for row in rows]

    def tables(self) -> Iterator[pa.Table]:
        """All parts, in the order of their names."""
        import pyarrow.parquet as pq

        return map(pq.read_table, sorted(self._folder.glob("*.parquet")))

    def remove(self) -> None:
        """Forget all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"
