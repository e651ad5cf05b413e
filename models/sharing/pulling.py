"""Take a predictor from a hub or a folder into the cache, where its name is enough to use it.

Everything is checked in a folder beside the others, which then takes its place in one step.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ModelError, describe
from models.sharing import hub
from models.sharing.listing import whole_predictor
from models.sharing.manifest import MANIFEST, Manifest, check_names
from models.writing import write_whole
from models.zoo import (
    check_name,
    pulled_folder,
    shipped_phonon_predictors,
    shipped_predictors,
)

ORIGIN = "origin.json"
_UNFINISHED = ".unfinished-"
_FORGOTTEN = 86400  # s, after which what a killed process has left is removed


class PulledFrom(BaseModel):
    """Where a predictor comes from, as `origin.json` beside it has it.

    Parameters
    ----------
    source : str
        As it was typed.
    commit : str, optional
        Of the hub's repository.
    pulled_at : str
        ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    commit: str | None = None
    pulled_at: str

    @classmethod
    def read(cls, folder: Path) -> PulledFrom | None:
        """Of a predictor in the cache; None if it is not from there.

        Raises
        ------
        ModelError
            If the file is damaged.
        """
        try:
            return cls.model_validate_json((folder / ORIGIN).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ModelError(f"{folder / ORIGIN}, {describe(error)}") from None


def pull(
    source: str,
    name: str | None = None,
    *,
    replace: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> Path:
    """Put a predictor into the cache.

    Parameters
    ----------
    source : str
        ``hf:owner/repository``, with ``@revision`` for another than the newest, or a folder; as
        `screen models push` writes them.
    name : str, optional
        By which it will be called here; the one in its manifest by default.
    replace : bool
        Let it take the place of another one of that name.
    announce : callable
        Gets one line when a step begins.

    Returns
    -------
    Path
        Its folder.

    Raises
    ------
    ModelError
        If it cannot be had, a file is not what its manifest says, is of another kind or too
        large, it cannot be loaded, or its name is taken.
    """
    cache = pulled_folder()
    cache.mkdir(parents=True, exist_ok=True)
    _forget_unfinished(cache)
    if name is not None:
        _check_name(name, cache, replace)
    with TemporaryDirectory(prefix=_UNFINISHED, dir=cache) as unfinished:
        room = Path(unfinished)
        try:
            commit = None
            if hub.is_on_hub(source):
                given = room / "given"
                given.mkdir()
                commit = hub.download(source, given, announce)
            else:
                given = Path(source).expanduser()
                _check_folder(given)
            name = name or Manifest.read(given).name
            _check_name(name, cache, replace)
            announce(f"Checking {name}")
            folder = _copy(given, room / name)
            check_loads(folder)
        except ModelError as error:  # in words that do not name the room
            raise ModelError(str(error).replace(str(room), source)) from None
        origin = PulledFrom(
            source=source, commit=commit, pulled_at=datetime.now(UTC).isoformat(timespec="seconds")
        )
        write_whole(folder / ORIGIN, origin.model_dump_json(indent=2) + "\n")
        put_in_place(folder, cache / name, room)
    return cache / name


def check_loads(folder: Path) -> None:
    """Refuse a predictor that is damaged, or that this version cannot load.

    Raises
    ------
    ModelError
        If it is so.
    """
    from models.predictor import SpectrumPredictor

    whole_predictor(folder)
    try:
        SpectrumPredictor.load(folder, "cpu")
    except ModelError:
        raise
    except Exception as error:  # whatever numbers in a stranger's card do to a constructor
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{folder.name}: cannot be loaded ({reason[:200]})") from None


def put_in_place(folder: Path, target: Path, room: Path) -> None:
    """Rename a finished folder; an earlier one in its place goes to `room` first.

    Parameters
    ----------
    folder, target : Path
        On one file system.
    room : Path
        A folder that will be removed.
    """
    earlier = room / "replaced"
    try:
        try:
            if target.exists():
                target.rename(earlier)
            folder.rename(target)
        finally:  # after Ctrl-C as well
            if earlier.exists() and not target.exists():
                earlier.rename(target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be put in place ({error.strerror})") from None


@contextmanager
def unfinished_beside(target: Path) -> Iterator[Path]:
    """A folder on the file system of another one, which is gone after the block."""
    with TemporaryDirectory(prefix=_UNFINISHED, dir=target.parent) as room:
        yield Path(room)


def _check_name(name: str, cache: Path, replace: bool) -> None:
    check_name(name)
    shipped = {each.casefold() for each in (*shipped_predictors(), *shipped_phonon_predictors())}
    if name.casefold() in shipped:
        raise ModelError(f"{name}: a shipped model is called so; --as gives it another name")
    if (cache / name).exists() and not replace:
        raise ModelError(
            f"{name}: there is one already in {cache / name}; --replace takes it away, "
            "--as gives the new one another name"
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder with what no predictor has."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such folder; a repository on the hub is hf:owner/repository"
        )
    sizes = {path.name: path.lstat().st_size for path in folder.iterdir()}
    check_names(sizes, folder)


def _copy(given: Path, folder: Path) -> Path:
    """Copy what the manifest lists, and check the copy."""
    manifest = Manifest.read(given)
    folder.mkdir()
    for name in (*manifest.files, MANIFEST):
        if (given / name).is_symlink() or not (given / name).is_file():
            raise ModelError(f"{given / name}: not there as a plain file, as {MANIFEST} has it")
        shutil.copyfile(given / name, folder / name)
    manifest.check(folder)
    return folder


def _forget_unfinished(cache: Path) -> None:
    """Remove what killed processes have left."""
    for left in cache.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _FORGOTTEN:
            shutil.rmtree(left, ignore_errors=True)
