"""How a store is opened: a file or a MongoDB database, by its name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from db.embedded import EmbeddedStore
from db.errors import StoreError
from db.opened_archive import OpenedArchive
from db.store import MONGODB_SCHEMES, ScreeningStore, mask_uri

_SQLITE = b"SQLite format 3\0"  # how a database begins


def open_store(uri_or_path: str | Path, *, read_only: bool = False) -> ScreeningStore:
    """Open the store at a path or a MongoDB URI; a new one is made where there is none.

    Parameters
    ----------
    uri_or_path : str or Path
        ``mongodb://...`` or ``mongodb+srv://...`` (the database is the one that the URI names,
        else ``screening``), or the path of the embedded store's file.
    read_only : bool
        Nothing is written, and no store is made: for readers that stay while others write.

    Raises
    ------
    StoreError
        If it cannot be opened.
    """
    text = str(uri_or_path)
    if text.startswith(MONGODB_SCHEMES):
        from db.mongodb import MongoStore  # pymongo takes as long as all else

        return MongoStore(text, read_only=read_only)
    if "://" in text:
        raise StoreError(
            f"store {mask_uri(text)}: unknown scheme; "
            "give a path, mongodb://... or mongodb+srv://..."
        )
    if not text.strip():
        raise StoreError("the store has no name; give a path or a MongoDB URI")
    path = Path(text).expanduser()
    if _is_archive(path):
        raise StoreError(
            f"{path}: a .zip is an archive of `screen export` and no database; "
            "`screen db copy` makes a database of it, in a file of another name"
        )
    return EmbeddedStore(path, read_only)


def open_source(uri_or_path: str | Path) -> ScreeningStore | OpenedArchive:
    """Open what can be copied: a store, or an archive that `screen export` wrote.

    Parameters
    ----------
    uri_or_path : str or Path
        As for :func:`open_store`, or the path of an archive.

    Raises
    ------
    StoreError
        If it cannot be opened.
    """
    path = Path(uri_or_path).expanduser()
    if "://" not in str(uri_or_path) and path.is_file() and _is_archive(path):
        return OpenedArchive(path)
    return open_store(uri_or_path)


def _is_archive(path: Path) -> bool:
    """Whether a file is an archive by how it begins, else by its name."""
    begins = b""
    with suppress(OSError):  # which whoever opens it names
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(len(_SQLITE))
    return begins.startswith(b"PK\x03\x04") or (path.suffix == ".zip" and begins != _SQLITE)
