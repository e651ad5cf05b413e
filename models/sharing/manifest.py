"""Which files a predictor that travels may have, and their hashes.

Only files of fixed names and kinds: weights as safetensors, facts as JSON, a card as markdown. So
nothing that is taken from elsewhere can be run, be a link, or lie outside the predictor's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import ModelError, describe, named
from models.training.card import CARD, README
from models.training.materials import material_files
from models.writing import write_whole
from models.zoo import HELD_OUT, NAME_PATTERN, PARTS

MANIFEST = "manifest.json"
LARGEST = {".safetensors": 2 * 2**30, ".json": 64 * 2**20, ".md": 2**20}  # bytes of a file
_STEMS = (*PARTS, HELD_OUT, material_files(Path())[0].stem)
ALLOWED = frozenset(
    {CARD, README} | {f"{stem}{ending}" for stem in _STEMS for ending in (".json", ".safetensors")}
)
"""Files that a predictor may have."""
IGNORED = frozenset({MANIFEST, "origin.json", ".gitattributes", "LICENSE", "LICENSE.md"})
"""Files that may lie beside them."""


class ListedFile(BaseModel):
    """A file as the manifest has it; `size` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, path: Path) -> ListedFile:
        """What it must say of a file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(sha256=digest, size=path.stat().st_size)


class Manifest(BaseModel):
    """The files of a predictor.

    Parameters
    ----------
    name : str
        Of the predictor.
    files : dict
        By their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    files: dict[str, ListedFile]

    @classmethod
    def of(cls, folder: Path, name: str) -> Manifest:
        """Manifest of what is in a folder.

        Parameters
        ----------
        folder : Path
        name : str
            Of the predictor.
        """
        files = sorted(path for path in folder.iterdir() if path.name in ALLOWED)
        return cls(name=name, files={path.name: ListedFile.of(path) for path in files})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it from a folder.

        Raises
        ------
        ModelError
            If it is missing, damaged, or lists a file that no predictor has.
        """
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror}; `screen models push` writes one with the model"
            ) from None
        except ValidationError as error:
            raise ModelError(f"{path}, {describe(error)}") from None
        check_names({name: file.size for name, file in manifest.files.items()}, path)
        return manifest

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_whole(folder / MANIFEST, self.model_dump_json(indent=2) + "\n")

    def check(self, folder: Path) -> None:
        """Refuse a folder whose files are not the listed ones.

        Raises
        ------
        ModelError
            If one is missing, is a link, or differs; or there is one that is not listed.
        """
        for name, expected in self.files.items():
            path = folder / name
            if path.is_symlink() or not path.is_file():
                raise ModelError(f"{path}: not there as a plain file, as {MANIFEST} has it")
            if path.stat().st_size != expected.size or ListedFile.of(path) != expected:
                raise ModelError(f"{path}: its hash is not the one in {MANIFEST}")
        inside = {path.name for path in folder.iterdir()}
        if more := sorted(inside & ALLOWED - self.files.keys()):
            raise ModelError(f"{folder}: {MANIFEST} does not list {named(more)}")


def check_names(sizes: Mapping[str, int | None], where: object) -> None:
    """Refuse files that no predictor has, and such as are too large.

    Parameters
    ----------
    sizes : mapping
        Bytes of each file, by its name; None if they are not known.
    where : object
        How errors call the place of the files.

    Raises
    ------
    ModelError
        If there is one.
    """
    if strange := sorted(name for name in sizes if name not in ALLOWED | IGNORED):
        raise ModelError(
            f"{where}: has files that no model has, and is not touched: "
            f"{named([repr(name) for name in strange])}"
        )
    for name, size in sizes.items():
        if name in ALLOWED | {MANIFEST} and (size or 0) > LARGEST[Path(name).suffix]:
            limit = LARGEST[Path(name).suffix] // 2**20
            raise ModelError(f"{where}: {name} has more than {limit} MiB, and is not touched")
