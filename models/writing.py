"""Files that are there as a whole or not at all, whenever a process is killed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path beside `path` to write to, which takes its place at the end of the ``with`` block.

    After an error nothing has changed, and where the disk is full the error names the file. What
    a killed process leaves is named after the file and ends in ``.unfinished``. As when one writes
    into the file itself, it keeps its permissions, and a link leads to what is written. A device
    or a pipe is written to itself.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replacing(path) as unfinished:
    ...     length = unfinished.write_text("a,b")
    ...     path.exists()
    False
    >>> path.read_text()
    'a,b'
    """
    with _naming(path):
        if path.is_char_device() or path.is_fifo():  # which no file may replace
            yield path
            return
        whole = Path(os.path.realpath(path)) if path.is_symlink() else path
        unfinished = whole.with_name(f"{whole.name}.{os.getpid()}.unfinished")
        try:
            yield unfinished
            _keep_mode(whole, unfinished)
            unfinished.replace(whole)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _keep_mode(before: Path, now: Path) -> None:
    """Permissions as before, if there was a file; not all file systems let one change them."""
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(before.stat().st_mode)
        if mode != stat.S_IMODE(now.stat().st_mode):
            now.chmod(mode)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file it was that a disk had no room for; the system's error does not."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all.

    Parameters
    ----------
    path : Path
    content : str or bytes
        Text is written as UTF-8.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
