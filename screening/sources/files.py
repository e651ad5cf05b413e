"""Candidates from files: one, several, or a folder of them.

Which file is of which kind stands in :data:`FORMATS`; a new kind is a reader and a line there.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from screening.candidate import Candidate, SourceItem, Unreadable
from screening.errors import ScreeningError, one_line
from screening.sources.ase_formats import (
    EXTENDED_XYZ,
    read_ase,
    read_ase_database,
    read_extended_xyz,
)
from screening.sources.ase_formats import FORMATS as ASE_FORMATS
from screening.sources.base import Source, digest
from screening.sources.csv_tables import has_structures, read_csv_table
from screening.sources.ids import clean_id, name_uniquely, nth, printable
from screening.sources.json_documents import read_json, read_json_lines
from screening.sources.opening import StructureFile, file_fingerprint, unpacked_name
from screening.sources.poscar import read_poscar
from screening.sources.twins import Twins

Reader = Callable[[StructureFile], Iterator[SourceItem]]

PEEKED = 1000  # structures of a file that are kept, so that most files are parsed once
NAMED = 3  # files of a kind that is not read whose names are told


def _read_cif(file: StructureFile) -> Iterator[SourceItem]:
    from screening.sources.cif.candidates import read_cif_file

    return read_cif_file(file)


def _read_parquet(file: StructureFile) -> Iterator[SourceItem]:
    from screening.sources.parquet import ParquetSource

    return ParquetSource(file.path, file.label, file.stem).items(set())


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file.

    Parameters
    ----------
    words : str
        How an error message shows it.
    read : callable
        Streams the candidates of one file, with ids that may not be unique yet.
    suffixes : tuple of str
        Endings of its files' names, in small letters.
    prefixes : tuple of str
        Beginnings of its files' names, in capitals.
    holds_many : bool
        Whether a file of it usually holds more than one structure.
    may_be_packed : bool
        Whether it may be compressed: .gz, .bz2, .xz, .zst.
    """

    words: str
    read: Reader
    suffixes: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    holds_many: bool = False
    may_be_packed: bool = True


TABLE = Format(".parquet", _read_parquet, (".parquet",), holds_many=True, may_be_packed=False)
CSV = Format(".csv", read_csv_table, (".csv", ".tsv"), holds_many=True)
FORMATS = (
    TABLE,
    Format(".cif", _read_cif, (".cif",)),
    Format(".json", read_json, (".json",), holds_many=True),
    Format(".jsonl", read_json_lines, (".jsonl", ".ndjson"), holds_many=True),
    CSV,
    Format(
        ".vasp, POSCAR*, CONTCAR*",
        read_poscar,
        (".vasp", ".poscar", ".contcar"),
        ("POSCAR", "CONTCAR"),
    ),
    Format(", ".join(EXTENDED_XYZ), read_extended_xyz, EXTENDED_XYZ, holds_many=True),
    Format(", ".join(ASE_FORMATS), read_ase, tuple(ASE_FORMATS), holds_many=True),
    Format(".db", read_ase_database, (".db",), holds_many=True),
)
"""All kinds; where several fit a name, an ending counts before a beginning."""

KINDS = f"{', '.join(format.words for format in FORMATS)}; most of them also as .gz"


def format_of(name: str) -> Format | None:
    """The kind of a file by its name, None for others."""
    plain = unpacked_name(name)
    low = plain.lower()
    for format in FORMATS:
        if low.endswith(format.suffixes):
            return format if format.may_be_packed or plain == name else None
    return next((f for f in FORMATS if f.prefixes and plain.upper().startswith(f.prefixes)), None)


def stem_of(name: str) -> str:
    """Name of a file without the endings that tell its kind."""
    plain = unpacked_name(name)
    format = format_of(name)
    endings = format.suffixes if format else ()
    ending = next((end for end in endings if plain.lower().endswith(end)), "")
    if ending == plain.lower():  # such as geometry.in
        ending = Path(plain).suffix
    return plain[: len(plain) - len(ending)] or plain


# --- sources --------------------------------------------------------------------------------


def open_path(path: Path, recursive: bool = False) -> Source:
    """Source that reads a file or a folder.

    A ``.parquet`` file is a table of structures (:mod:`screening.sources.parquet`), so is CSV
    (:mod:`screening.sources.csv_tables`). CIFs, JSON (:mod:`screening.sources.json_documents`),
    and the formats of ASE (:mod:`screening.sources.ase_formats`) may hold several structures, a
    POSCAR holds one. All but parquet may be compressed by gzip, bzip2, xz, or Zstandard. A
    structure without an id of its own is called after its file, the second one ``FILE#2``.

    A folder is read file by file, in alphabetical order. Structures in its subfolders are called
    after the path from there: ``run1/CONTCAR``. What is of another kind is counted and named in
    the source's notes.

    All of it streams, but a CIF or a JSON file is in memory as long as it is read, and of a
    folder the names of its files, the ids, and about 1 kB of each structure.

    Parameters
    ----------
    path : Path
    recursive : bool
        Whether the subfolders of a folder are read, too; those that are links are not.

    Raises
    ------
    ScreeningError
        If the path does not exist, is of a wrong kind, or gives no structure.
    """
    if _is_folder(path):
        return _open_folder(path, recursive)
    problem = _problem_of(path)
    if problem:
        raise ScreeningError(f"{path}: {problem}")
    if format_of(path.name) is TABLE:
        from screening.sources.parquet import ParquetSource

        return ParquetSource(path)
    return FileSource(path)


def open_paths(paths: Sequence[Path], recursive: bool = False) -> Source:
    """Source that reads several files and folders; one path is opened as :func:`open_path` does.

    A file that cannot be read gives an unreadable item, as in a folder, and stops nothing. Files
    of one name are called after as much of their paths as tells them apart.

    Parameters
    ----------
    paths : sequence of Path
    recursive : bool
        Whether the subfolders of a folder are read, too.
    """
    if len(paths) == 1:
        return open_path(paths[0], recursive)
    single = [path for path in paths if not _is_folder(path)]
    entries = list(_apart(single))
    unread: Unread = defaultdict(list)
    for path in paths:
        if _is_folder(path):
            inside = list(_walk(path, "", recursive, unread))
            entries += inside
            if not inside:
                unread["folders without structure files"].append(printable(str(path)))
    return FilesSource("files", f"{len(entries):,} files", entries, unread)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise ScreeningError(f"cannot read {path}: {error.strerror}") from None


def _problem_of(path: Path) -> str | None:
    """Why a path cannot be a source, None if it can."""
    try:
        exists = path.exists()
    except OSError as error:
        return error.strerror
    if not exists:
        return (
            "no such file or folder; a source is mp, prototypes, a file "
            f"({KINDS}) or a folder of them"
        )
    if format_of(path.name) is None:
        return f"cannot read this kind of file; the right ones: {KINDS}"
    return None


class FileSource(Source):
    """One file of structures.

    Raises
    ------
    ScreeningError
        If there is no usable structure in it.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        items = self._items()
        self._first = list(islice(items, PEEKED))
        self._is_all = len(self._first) < PEEKED
        if not any(isinstance(item, Candidate) for item in chain(self._first, items)):
            reasons = [item.reason for item in self._first if isinstance(item, Unreadable)]
            raise ScreeningError(f"{path}: {reasons[0]}")
        n = len(self._first)
        number = f"{n}" if self._is_all else f"{n:,} or more"
        self.description = f"{path}: {number} structure{'s' if n > 1 else ''}"

    @property
    def fingerprint(self) -> str:
        """Of the file's name, size and time of change."""
        return file_fingerprint(self._path)

    @property
    def total(self) -> int | None:
        """Number of structures in the file, the unusable ones included; None in a long file."""
        return len(self._first) if self._is_all else None

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the structures in the order of the file."""
        return iter(self._first) if self._is_all else self._items()

    def _items(self) -> Iterator[SourceItem]:
        file = StructureFile(self._path, clean_id(stem_of(self.name)), self.name)
        return name_uniquely(read_structures(file), set(), file.stem)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to be read.

    Parameters
    ----------
    path : str
    stem : str
        Id of its first structure.
    label : str
        How it is called, printable.
    """

    path: str
    stem: str
    label: str


Unread = dict[str, list[str]]
"""Names of what is not read, by kind."""


class FilesSource(Source):
    """Files of structures and tables, read one at a time.

    Parameters
    ----------
    name, description : str
    entries : list of Entry
        The files, in order.
    unread : dict
        What lies beside them.
    """

    def __init__(self, name: str, description: str, entries: list[Entry], unread: Unread) -> None:
        self.name = name
        self.description = description
        self._entries = entries
        self._unread = unread
        self._twins: int | None = None

    @property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of change of all files."""
        return digest(*(_fingerprint(entry) for entry in self._entries))

    @property
    def total(self) -> int | None:
        """Number of structures if each file holds one; None with tables or JSON among them."""
        formats = {format_of(Path(entry.path).name) for entry in self._entries}
        return None if any(f and f.holds_many for f in formats) else len(self._entries)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not read, and after reading, how many crystals were there before."""
        notes = []
        if self._unread:
            kinds = sorted(self._unread.items())
            notes.append(f"not read: {', '.join(_in_words(*kind) for kind in kinds)}")
        if self._twins:
            n = self._twins
            notes.append(f"{n} structure{'s are' if n > 1 else ' is'} the same crystal as another")
        return tuple(notes)

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream file by file; a file that cannot be read gives one unreadable item."""
        seen: set[str] = set()
        twins = Twins()
        for entry in self._entries:
            file = StructureFile(Path(entry.path), entry.stem, entry.label)
            is_table = format_of(file.path.name) is TABLE
            items = self._table(file, seen) if is_table else read_structures(file)
            for item in items if is_table else name_uniquely(items, seen, file.stem):
                if is_table or isinstance(item, Unreadable):
                    yield item
                else:
                    yield twins.remarked(item)
        self._twins = twins.found

    @staticmethod
    def _table(file: StructureFile, seen: set[str]) -> Iterator[SourceItem]:
        from screening.sources.parquet import ParquetSource

        try:
            yield from ParquetSource(file.path, file.label, file.stem).items(seen)
        except ScreeningError as error:
            reason = str(error).removeprefix(f"{file.path}: ")
            yield from name_uniquely([Unreadable(file.stem, reason)], seen)


def _in_words(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names):,} {kind} ({shown})"


def _fingerprint(entry: Entry) -> str:
    try:
        return file_fingerprint(entry.path, entry.label)
    except OSError:  # it is not there, which its item says
        return digest(entry.label)


def _open_folder(folder: Path, recursive: bool) -> Source:
    unread: Unread = defaultdict(list)
    entries = list(_walk(folder, "", recursive, unread))
    if not entries:
        hint = "" if recursive else "; its subfolders are read with --recursive"
        raise ScreeningError(f"{folder}: no structure files in this folder ({KINDS}){hint}")
    name = folder.resolve().name
    return FilesSource(name, f"{folder}: a folder of {len(entries):,} files", entries, unread)


def _walk(folder: Path, prefix: str, recursive: bool, unread: Unread) -> Iterator[Entry]:
    """The files of a folder in alphabetical order, then those of its subfolders.

    Parameters
    ----------
    folder : Path
    prefix : str
        Path from the folder where the walk began, with a slash behind it.
    recursive : bool
    unread : dict
        Takes the names of what is passed over.
    """
    try:
        with os.scandir(folder) as scan:
            inside = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if not prefix:
            raise ScreeningError(f"cannot read {folder}: {error.strerror}") from None
        unread["folders without permission"].append(prefix.rstrip("/"))
        return
    files: list[tuple[os.DirEntry[str], str]] = []
    folders = []
    for entry in inside:
        name = prefix + printable(entry.name)
        if entry.name.startswith("."):
            unread["hidden"].append(name)
        elif entry.is_dir():
            folders.append(entry)
        elif (format := format_of(entry.name)) is None or not entry.is_file():
            unread[_kind_in_words(entry)].append(name)
        elif format is CSV and not has_structures(Path(entry.path)):
            unread["tables without structures"].append(name)
        else:
            files.append((entry, stem_of(entry.name)))
    stems = Counter(stem for _, stem in files)
    for entry, stem in files:
        own = stem if stems[stem] == 1 else entry.name
        yield Entry(entry.path, clean_id(prefix + own), prefix + printable(entry.name))
    for entry in folders:
        name = prefix + printable(entry.name)
        if not recursive or entry.is_symlink():
            kind = "linked folders" if recursive else "folders, which --recursive reads"
            unread[kind].append(name)
        else:
            yield from _walk(Path(entry.path), f"{name}/", recursive, unread)


def _kind_in_words(entry: os.DirEntry[str]) -> str:
    if not entry.is_file():
        return "broken links or devices"
    return printable(Path(entry.name).suffix.lower() or entry.name)


def _apart(paths: Sequence[Path]) -> Iterator[Entry]:
    """Entries of files named one by one, with as much of the paths as tells them apart."""
    parts = [(*path.absolute().parts[1:-1], stem_of(path.name)) for path in paths]
    same = Counter(parts)
    longest = max(map(len, parts), default=0)
    ends = [Counter(own[-n:] for own in parts) for n in range(1, longest + 1)]
    for path, own in zip(paths, parts, strict=True):
        lengths = range(1, len(own) + 1)
        length = next((n for n in lengths if ends[n - 1][own[-n:]] == same[own]), len(own))
        yield Entry(str(path), clean_id("/".join(own[-length:])), printable(str(path)))


# --- one file -------------------------------------------------------------------------------


def read_structures(file: StructureFile) -> Iterator[SourceItem]:
    """Candidates of one file, streamed.

    A file that does not parse gives one unreadable item, behind those that came before the
    place where it stops to.
    """
    format = format_of(file.path.name)
    problem = _problem_of(file.path)
    if problem or format is None:
        yield Unreadable(file.stem, problem or "cannot read this kind of file")
        return
    items = format.read(file)
    for n in range(1, 1 << 62):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                item = next(items, None)
        except Exception as error:  # whatever the parsers raise on whatever is in the file
            rest = "; what follows in the file is not read" if n > 1 else ""
            yield Unreadable(nth(file.stem, n), f"does not parse: {one_line(error)}{rest}")
            return
        if item is None:
            if n == 1:
                yield Unreadable(file.stem, "no structure in it")
            return
        yield item
