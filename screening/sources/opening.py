"""A file that holds structures: its name, its ids, and its content, packed or not."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from screening.errors import ScreeningError, one_line
from screening.sources.base import digest


def _open_zstd(path: Path, mode: str) -> IO[bytes]:
    """By Arrow, since Python has it from 3.14 on only."""
    import pyarrow as pa

    assert mode == "rb"
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


_OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError)
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, which begins alike
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def unpacked_name(name: str) -> str:
    """Name of a file without the ending of its compression."""
    at = name.rfind(".")  # pathlib takes seconds for the 100,000 files of a folder
    return name[:at] if at > 0 and name[at:].lower() in _OPENERS else name


def file_fingerprint(path: str | Path, label: str | None = None) -> str:
    """Changes when the file does, as far as its name, size and time of change tell.

    Parameters
    ----------
    path : str or Path
    label : str, optional
        Instead of its name.
    """
    state = os.stat(path)  # noqa: PTH116, see unpacked_name
    return digest(label or Path(path).name, str(state.st_size), str(state.st_mtime_ns))


def open_binary(path: Path) -> IO[bytes]:
    """The content of a file as bytes, unpacked if its name ends in .gz, .bz2, .xz or .zst."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    file: IO[bytes] = opener(path, "rb")
    return file


def encoding_of(start: bytes) -> str:
    """Encoding by the byte order mark, UTF-8 without one."""
    return next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")


@contextmanager
def text_of(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """A file's text, to be read in a ``with`` block.

    Parameters
    ----------
    path : Path
    errors : str
        What is done with bytes that are no text, as in :func:`open`.

    Raises
    ------
    ScreeningError
        In one line, if it cannot be read or unpacked, or is no text.
    """
    try:
        with open_binary(path) as file:
            start = file.read(4)
        with open_binary(path) as file:  # anew, since not all of them can be wound back
            encoding = encoding_of(start)
            with io.TextIOWrapper(file, encoding=encoding, errors=errors) as text:
                yield text
    except _BROKEN as error:
        raise ScreeningError(f"{path}: {_why(error)}") from None
    except OSError as error:
        raise ScreeningError(f"{path}: {error.strerror or _why(error)}") from None


def _why(error: BaseException) -> str:
    if isinstance(error, UnicodeError):
        return "it is no text (neither UTF-8 nor UTF-16)"
    return f"it cannot be unpacked: {one_line(error)}"


@dataclass(frozen=True, slots=True)
class StructureFile:
    """A file with one or more structures.

    Parameters
    ----------
    path : Path
    stem : str
        Id of its first structure, if that has none of its own.
    label : str
        How messages and origins call it: its name, in a folder the path from there.
    """

    path: Path
    stem: str
    label: str

    def text(self) -> str:
        """The whole text; what is not UTF-8 in it, such as names in comments, is replaced.

        Raises
        ------
        ValueError
            If it cannot be read or unpacked.
        """
        return "".join(self.lines(errors="replace"))

    def lines(self, errors: str = "strict") -> Iterator[str]:
        """The lines, one at a time.

        Raises
        ------
        ValueError
            If it cannot be read or unpacked, or is no text.
        """
        try:
            with text_of(self.path, errors) as text:
                yield from text
        except ScreeningError as error:  # without the path, which whoever records it knows
            raise ValueError(str(error).removeprefix(f"{self.path}: ")) from None

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Path of the plain file; of a temporary copy for what is packed."""
        ending = self.path.suffix.lower()
        if ending not in _OPENERS:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="structures-") as folder:
            copy = Path(folder) / unpacked_name(self.path.name)
            try:
                with open_binary(self.path) as packed, copy.open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
            except (*_BROKEN, OSError) as error:
                strerror = error.strerror if isinstance(error, OSError) else None
                raise ValueError(strerror or _why(error)) from None
            yield copy
