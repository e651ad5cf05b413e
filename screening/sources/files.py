"""Candidates from files: parquet tables and structure files, or a folder of them."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.crystal import Crystal
from models.errors import ModelError
from screening.candidate import MAX_ID_LENGTH, Candidate, Origin, SourceItem, Unreadable
from screening.errors import ScreeningError
from screening.sources.base import Source, digest

if TYPE_CHECKING:
    from pymatgen.core import Structure

KINDS = ".parquet, .cif, .json, .vasp, POSCAR*, CONTCAR*"


def open_path(path: Path) -> Source:
    """Source that reads a file or a folder.

    A ``.parquet`` file is a table of structures (:mod:`screening.sources.parquet`). A structure
    file holds one structure (CIF, POSCAR, CONTCAR, ``.vasp``) or several (CIF, JSON). JSON is a
    pymatgen structure dict, a list of them, or a dict of them by material id; in place of a
    structure there may be a document that has it under ``structure``, beside ``material_id``,
    ``energy_above_hull``, ``band_gap``, ``is_magnetic`` and ``has_edos`` as far as these are
    known. Structures in files without ids are called after the file.

    A folder is read file by file, in alphabetical order and without its subfolders; files of
    other kinds are passed over.

    Raises
    ------
    ScreeningError
        If the path does not exist, is of a wrong kind, or gives no structure.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise ScreeningError(f"cannot read {path}: {error.strerror}") from None
    if is_folder:
        return FolderSource(path)
    if not exists:
        raise ScreeningError(
            f"{path}: no such file or folder; a source is mp, prototypes, a file ({KINDS}) "
            "or a folder of them"
        )
    kind = file_kind(path)
    if kind is None:
        raise ScreeningError(f"{path}: cannot read this kind of file; the right ones: {KINDS}")
    if kind == "parquet":
        from screening.sources.parquet import ParquetSource

        return ParquetSource(path)
    return StructureFileSource(path)


def file_kind(path: Path) -> str | None:
    """``"parquet"``, ``"cif"``, ``"json"`` or ``"poscar"`` by the file's name, None for others."""
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".cif", ".json"):
        return suffix[1:]
    name = path.name.upper()
    is_poscar = name.startswith(("POSCAR", "CONTCAR"))
    return "poscar" if is_poscar or suffix in (".vasp", ".poscar", ".contcar") else None


def file_fingerprint(path: Path) -> str:
    """Changes when the file does, as far as its name, size and time of change tell."""
    state = path.stat()
    return digest(path.name, str(state.st_size), str(state.st_mtime_ns))


class StructureFileSource(Source):
    """One CIF, POSCAR or JSON file, read at once."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._items = list(name_uniquely(read_structures(path), set()))
        reasons = [item.reason for item in self._items if isinstance(item, Unreadable)]
        if len(reasons) == len(self._items):
            raise ScreeningError(f"{path}: {reasons[0] if reasons else 'no structure in it'}")
        n = len(self._items)
        self.description = f"{path}: {n} structure{'s' if n > 1 else ''}"

    @property
    def fingerprint(self) -> str:
        """Of the file's name, size and time of change."""
        return file_fingerprint(self._path)

    @property
    def total(self) -> int:
        """Number of structures in the file, the unusable ones included."""
        return len(self._items)

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the structures in the order of the file."""
        return iter(self._items)


class FolderSource(Source):
    """The structure files and tables in a folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self._folder = folder
        files = self._files()
        if not files:
            raise ScreeningError(f"{folder}: no structure files in this folder ({KINDS})")
        self.description = f"{folder}: a folder of {len(files):,} files"

    @property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of change of all files."""
        return digest(*(file_fingerprint(path) for path in self._files()))

    @property
    def total(self) -> int | None:
        """Number of structures if each file holds one; None with tables or JSON in the folder."""
        kinds = {file_kind(path) for path in self._files()}
        return None if kinds & {"parquet", "json"} else len(self._files())

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream file by file; a file that cannot be read gives one unreadable item."""
        seen: set[str] = set()
        for path in self._files():
            if file_kind(path) == "parquet":
                yield from self._table(path, seen)
            else:
                yield from name_uniquely(read_structures(path), seen)

    def _files(self) -> list[Path]:
        try:
            paths = sorted(p for p in self._folder.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise ScreeningError(f"cannot read {self._folder}: {error.strerror}") from None
        return [p for p in paths if file_kind(p) and p.is_file()]

    @staticmethod
    def _table(path: Path, seen: set[str]) -> Iterator[SourceItem]:
        from screening.sources.parquet import ParquetSource

        try:
            yield from ParquetSource(path).items(seen)
        except ScreeningError as error:
            yield from name_uniquely(iter([Unreadable(id_of(path), str(error))]), seen)


def name_uniquely(items: Iterator[SourceItem], seen: set[str]) -> Iterator[SourceItem]:
    """Append -2, -3, ... to the ids that are taken already, and take note of all of them."""
    for item in items:
        own = item.material_id
        names = (own if n == 1 else f"{own}-{n}" for n in count(1))
        free = next(name for name in names if name not in seen)
        seen.add(free)
        yield item if free == own else replace(item, material_id=free)


def id_of(path: Path) -> str:
    """Material id made of a file's name without its extension."""
    name = path.stem if path.suffix.lower().lstrip(".") in _SUFFIXES else path.name
    return clean_id(name)


def clean_id(text: str) -> str:
    """The text as a material id: printable and not too long."""
    printable = "".join(c if c.isprintable() else "_" for c in text.strip())
    return printable[: MAX_ID_LENGTH - 16] or "structure"


_SUFFIXES = {"parquet", "cif", "json", "vasp", "poscar", "contcar"}


# --- structure files ------------------------------------------------------------------------


def read_structures(path: Path) -> Iterator[SourceItem]:
    """Candidates of one structure file; a file that does not parse gives one unreadable item."""
    reader: Callable[[Path], Iterator[SourceItem]] = {
        "cif": _read_cif,
        "poscar": _read_poscar,
        "json": _read_json,
    }[file_kind(path) or ""]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            items = list(reader(path))
    except Exception as error:  # whatever the parsers raise on whatever is in the file
        reason = f"does not parse: {one_line(error)}"
        items = [Unreadable(id_of(path), reason)]
    yield from items


def one_line(error: BaseException | str, length: int = 200) -> str:
    """Message of an error in one line, its type if it has none."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    message = " ".join(text.split()) or type(error).__name__
    return message if len(message) <= length else message[: length - 3] + "..."


def _read_cif(path: Path) -> Iterator[SourceItem]:
    from screening.sources.cif import read_cif

    for found in read_cif(path.read_text(encoding="utf-8", errors="replace")):
        if found.crystal is None:
            yield Unreadable(id_of(path), found.reason)
        else:
            yield Candidate(
                id_of(path),
                found.crystal,
                is_magnetic=found.is_magnetic,
                origin=Origin(path.name),
                remarks=found.remarks,
            )


def _read_poscar(path: Path) -> Iterator[SourceItem]:
    from pymatgen.io.vasp.inputs import Poscar

    # without symbols pymatgen would make up H, He, Li, ... and warn
    warnings.filterwarnings("error", message="Elements in POSCAR cannot be determined")
    try:
        poscar = Poscar.from_str(path.read_text(errors="replace"))
    except UserWarning:
        raise ValueError("there are no element symbols in it") from None
    yield _from_structure(id_of(path), poscar.structure, path)


def _from_structure(material_id: str, structure: Structure, path: Path) -> SourceItem:
    try:
        crystal = Crystal.from_structure(structure)
    except ModelError as error:
        return Unreadable(material_id, str(error))
    return Candidate(material_id, crystal, origin=Origin(path.name))


def _read_json(path: Path) -> Iterator[SourceItem]:
    with path.open(encoding="utf-8") as file:
        data = json.load(file)
    origin = Origin(path.name)
    for material_id, document in _documents(data, id_of(path)):
        yield _from_document(material_id, document, origin)


def _documents(data: Any, stem: str) -> Iterator[tuple[str, Any]]:
    """The documents in a JSON file with the ids that they get if they have none."""
    if _is_document(data):
        yield stem, data
    elif isinstance(data, list):
        digits = len(str(len(data)))
        for number, document in enumerate(data, 1):
            yield f"{stem}-{number:0{digits}d}", document
    elif isinstance(data, dict) and any(isinstance(d, dict) for d in data.values()):
        for key, document in data.items():
            yield clean_id(key), document
    else:
        raise ValueError("it holds no pymatgen structure, and no list or dict of them")


def _is_document(data: Any) -> bool:
    return isinstance(data, dict) and ({"lattice", "sites"} <= data.keys() or "structure" in data)


def _from_document(material_id: str, document: Any, origin: Origin) -> SourceItem:
    """Candidate of a structure dict or of a document that has one under ``structure``."""
    properties: dict[str, Any] = {}
    if isinstance(document, dict) and "structure" in document:
        properties, document = document, document["structure"]
        if properties.get("material_id"):
            material_id = clean_id(str(properties["material_id"]))
    try:
        return Candidate(
            material_id,
            _crystal(document),
            energy_above_hull=number(properties, "energy_above_hull"),
            band_gap=number(properties, "band_gap"),
            is_magnetic=flag(properties, "is_magnetic"),
            has_edos=flag(properties, "has_edos"),
            origin=origin,
        )
    except ModelError as error:
        return Unreadable(material_id, str(error))


def _crystal(document: Any) -> Crystal:
    if not isinstance(document, dict):
        raise ModelError(f"a {type(document).__name__} is not a structure")
    lattice = document.get("lattice")
    if not isinstance(lattice, dict) or "matrix" in lattice:
        return Crystal.from_dict(document)
    from pymatgen.core import Structure  # for lattices that are given by lengths and angles

    try:
        return Crystal.from_structure(Structure.from_dict(document))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"not a structure document: {one_line(error)}") from None


def number(document: dict[str, Any], key: str) -> float | None:
    """Finite number in a document, None if it is missing, null or NaN.

    Raises
    ------
    ModelError
        If it is of another type.
    """
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"{key} is not a number but {value!r:.40}")
    return float(value) if math.isfinite(value) else None


def flag(document: dict[str, Any], key: str) -> bool | None:
    """True or false in a document, None if it is missing or null.

    Raises
    ------
    ModelError
        If it is of another type.
    """
    value = document.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{key} is neither true nor false but {value!r:.40}")
    return value
