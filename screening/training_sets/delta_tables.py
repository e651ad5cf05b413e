"""The Delta tables in which the Materials Project keeps spectra, read file by file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from screening.errors import ScreeningError, one_line
from screening.sources.retries import patiently

PUBLIC_STORE = {"AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1", "timeout": "300s"}
ATTEMPTS = 4  # to read one file of a table
BATCH_ROWS = 256

Row = dict[str, Any]


class SpectraTable:
    """A Delta table with a spectrum of each calculation, by its identifier.

    Parameters
    ----------
    name : str
        Of the spectra, for people.
    columns : sequence of str
        To read, beside `identifier`.
    uri : str
    storage_options : dict
        Of the object store, in the names of `deltalake`; else those of the public one.

    Raises
    ------
    ScreeningError
        In one line, if there is no such table, or it cannot be read.
    """

    def __init__(
        self, name: str, columns: Sequence[str], uri: str, storage_options: dict[str, str]
    ) -> None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        self._name, self._columns = name, columns
        try:
            self._delta = DeltaTable(uri, storage_options={**PUBLIC_STORE, **storage_options})
        except TableNotFoundError:
            raise ScreeningError(f"{uri}: there is no such table") from None
        except (DeltaError, OSError) as error:
            raise ScreeningError(f"cannot open the table {uri}: {one_line(error)}") from None

    @property
    def version(self) -> int:
        """Of the table, as Delta counts."""
        return int(self._delta.version())

    def files(self) -> list[Any]:
        """Fragments of Arrow's data set, in the order of their paths."""
        from deltalake.exceptions import DeltaError

        try:
            fragments = self._delta.to_pyarrow_dataset().get_fragments()
            return sorted(fragments, key=lambda fragment: fragment.path)
        except (DeltaError, OSError) as error:
            raise ScreeningError(f"cannot read the table: {one_line(error)}") from None

    def read(
        self,
        file: Any,
        wanted: Collection[str],
        label: Callable[[str, Row], Row | None],
        sleep: Callable[[float], None],
    ) -> list[Row]:
        """Labels of the rows of one file, which is read again where the network breaks off.

        Parameters
        ----------
        file : pyarrow.dataset.Fragment
        wanted : collection of str
            Identifiers of the rows to read.
        label : callable
            Makes a label of an identifier and its row; None of what is of no use.
        sleep : callable
            For the pauses between attempts.

        Raises
        ------
        ScreeningError
            If the file cannot be read, or lacks a column.
        """
        import pyarrow as pa

        broken = (OSError, pa.ArrowException)

        def labels() -> list[Row]:
            made = (label(identifier, row) for identifier, row in self._rows(file, wanted))
            return [each for each in made if each is not None]

        try:
            return patiently(labels, lambda error: isinstance(error, broken), ATTEMPTS, sleep)
        except broken as error:
            raise ScreeningError(
                f"cannot read {file.path} of the {self._name} table: {one_line(error)}; "
                "run it again, what has been read is kept"
            ) from None

    def _rows(self, file: Any, wanted: Collection[str]) -> Iterator[tuple[str, Row]]:
        import pyarrow.dataset as ds

        partition = ds.get_partition_keys(file.partition_expression)
        stored = [name for name in self._columns if name not in partition]
        missing = {"identifier", *stored} - set(file.physical_schema.names)
        if missing:
            names = ", ".join(sorted(missing))
            raise ScreeningError(f"the {self._name} table has no column {names}")
        for group in file.split_by_row_group():
            ids = group.to_table(columns=["identifier"])["identifier"].to_pylist()
            if not any(i in wanted for i in ids):
                continue
            columns = ["identifier", *stored]
            for batch in group.to_batches(columns=columns, batch_size=BATCH_ROWS):
                for k, identifier in enumerate(batch["identifier"].to_pylist()):
                    if identifier in wanted:
                        row = {name: _plain(batch[name][k]) for name in stored}
                        yield identifier, row | partition


def _plain(scalar: Any) -> Any:
    """Numpy array of a list of floats, a dict of a struct, else a Python value; None for null."""
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ListScalar) and pa.types.is_floating(scalar.type.value_type):
        return scalar.values.to_numpy(zero_copy_only=False)
    if hasattr(scalar, "keys"):
        return {key: _plain(scalar[key]) for key in scalar}
    return scalar.as_py()
