"""Predictors: those that come with the package, and any other folder of one.

What can be said of a folder without reading its weights, and so without torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.array_files import ArrayFiles
from models.errors import ModelError
from models.spectra.spectrum import EnergyGrid

ZOO = Path(__file__).parent
DEFAULT_EDOS = ZOO / "mat2spec-plus-edos"
DEFAULT_PHDOS = ZOO / "springs-phdos"
SHAPE, SCALE = "sumnorm-kl", "standard-mae"  # the checkpoints of an eDOS predictor
PHONON_SHAPES = ("sumnorm-wd", "maxnorm-mse", "maxnorm-mae")  # any of a phonon predictor will do
PARTS = (SHAPE, SCALE, *PHONON_SHAPES)
HELD_OUT = "held_out"  # the calibration beside them
NAME_PATTERN = r"^[A-Za-z0-9_+][A-Za-z0-9_.+-]*$"  # of a predictor, and so of its folder
REMEDY = "train it with `screen train`, or pull it with `screen models pull`"


class PartCard(BaseModel):
    """What is known of a checkpoint without its architecture; its card has more.

    Parameters
    ----------
    grid : EnergyGrid
    weights_sha256 : str
    states : bool
        See :class:`models.training.checkpoint.CheckpointCard`.
    """

    model_config = ConfigDict(frozen=True)

    grid: EnergyGrid
    weights_sha256: str
    states: bool = False


def shipped_predictors() -> tuple[str, ...]:
    """Names of the eDOS predictors that come with the package, the default first."""
    names = {card.parent.name for card in ZOO.glob(f"*/{SHAPE}.json")}
    whole = {
        name
        for name in names
        if all((ZOO / name / f"{part}.json").is_file() for part in predictor_parts(ZOO / name))
    }
    return tuple(sorted(whole, key=lambda name: (name != DEFAULT_EDOS.name, name)))


def shipped_phonon_predictors() -> tuple[str, ...]:
    """Names of the predictors of the phonon DOS that come with the package, the default first."""
    names = {card.parent.name for part in PHONON_SHAPES for card in ZOO.glob(f"*/{part}.json")}
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_PHDOS.name, name)))


def predictor_parts(folder: Path) -> tuple[str, ...]:
    """Names of the checkpoints of a predictor.

    Of the eDOS shape and scale, unless one knows both; of the phonon DOS the best of those there.
    """
    if not (folder / f"{SHAPE}.json").exists():
        for part in PHONON_SHAPES:
            if (folder / f"{part}.json").exists():
                return (part,)
    return (SHAPE,) if gives_states(folder) else (SHAPE, SCALE)


def gives_states(folder: Path) -> bool:
    """Whether one model of the predictor knows shape and scale, as those that diagonalise do."""
    try:
        return _files(folder, SHAPE).read_card().states
    except ModelError:  # whoever reads the checkpoint says what is wrong
        return False


def pulled_folder() -> Path:
    """Where predictors are that `screen models pull` has put there, each in a folder of its name.

    In ``XDG_CACHE_HOME`` or where the system keeps caches.
    """
    from platformdirs import user_cache_path

    return user_cache_path("edos-screening") / "models"


def pulled_predictors() -> tuple[str, ...]:
    """Names of the predictors that were pulled."""
    parts = pulled_folder().glob("[!.]*/*.json")
    return tuple(sorted({part.parent.name for part in parts if part.stem in PARTS}))


def part_files(folder: Path, part: str) -> tuple[Path, Path]:
    """The card and the weights of a checkpoint of a predictor.

    Parameters
    ----------
    folder : Path
    part : str
        Name of the checkpoint, one of :data:`PARTS`.
    """
    return folder / f"{part}.json", folder / f"{part}.safetensors"


def calibration_files(folder: Path) -> tuple[Path, Path]:
    """The card and the arrays of what a predictor says of held-out materials."""
    return folder / f"{HELD_OUT}.json", folder / f"{HELD_OUT}.safetensors"


def predictor_folder(name: str | Path | None = None) -> Path:
    """Folder of a predictor: a path, the name of a shipped or a pulled one, or the default's.

    The default is one of the eDOS. A folder of that name in the working folder comes before a
    shipped predictor, and this before a pulled one.

    Raises
    ------
    ModelError
        If there is neither.
    """
    if name is None:
        return DEFAULT_EDOS
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if str(name) in (*shipped_predictors(), *shipped_phonon_predictors()):
        return ZOO / name
    pulled = pulled_predictors()
    if str(name) in pulled:
        return pulled_folder() / name
    raise ModelError(
        f"checkpoint {name}: no such folder, and not one of the predictors "
        f"{', '.join((*shipped_predictors(), *pulled))} (`screen models` lists all)"
    )


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a predictor.

    Raises
    ------
    ModelError
        If it has other characters, or would be a hidden folder.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelError(f"{name!r}: not the name of a model; letters, digits, _ . + - make one")


def as_name(text: str) -> str:
    """A name that a predictor can have, made of any text.

    Examples
    --------
    >>> as_name(".first try")
    '_first_try'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]|^[.-]", "_", text)


def check_predictor(folder: Path, grid: EnergyGrid) -> None:
    """Refuse a damaged predictor, or one of another grid, in milliseconds.

    Parameters
    ----------
    folder : Path
    grid : EnergyGrid
        That is needed.

    Raises
    ------
    ModelError
        If a file is missing, the weights are not those of the card, or the grid is another.
    """
    for part in predictor_parts(folder):
        card, _ = _files(folder, part).read_bytes()
        check_grid(folder, card.grid, grid)


def predictor_grid(folder: Path) -> EnergyGrid:
    """Grid of the spectra that a predictor gives.

    Raises
    ------
    ModelError
        If its first checkpoint is missing or is not one.
    """
    return _files(folder, predictor_parts(folder)[0]).read_card().grid


def check_grid(folder: Path, own: EnergyGrid, needed: EnergyGrid) -> None:
    """Refuse a predictor of another grid.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    own, needed : EnergyGrid

    Raises
    ------
    ModelError
        If the grids differ.
    """
    if own != needed:
        raise ModelError(
            f"checkpoint {folder} predicts {own.size} bins from {own.start:g} {own.unit}; "
            f"needed are {needed.size} bins from {needed.start:g} {needed.unit}"
        )


def model_name(model_id: str) -> str:
    """Name of a model without the hash of its weights, for people.

    Examples
    --------
    >>> model_name("mat2spec-plus-edos-0123456789ab")
    'mat2spec-plus-edos'
    """
    return model_id.rpartition("-")[0] or model_id


def model_id(folder: Path) -> str:
    """Name of the folder and a hash of all weights in it, without reading the weights.

    Raises
    ------
    ModelError
        If a checkpoint is missing or is not one.
    """
    hashes = [weights_hash(folder, part) for part in predictor_parts(folder)]
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return f"{folder.resolve().name}-{digest[:12]}"


def weights_hash(folder: Path, part: str) -> str:
    """Hash of the weights of one of a predictor's checkpoints, as its card has it.

    Parameters
    ----------
    folder : Path
    part : str
        Name of the checkpoint.

    Raises
    ------
    ModelError
        If the checkpoint is missing or is not one.
    """
    return _files(folder, part).read_card().weights_sha256


def find_predictor(model: str, folders: Iterable[str | Path]) -> Path | None:
    """Folder of the predictor with this id; None if it is nowhere, or has changed.

    Parameters
    ----------
    model : str
        See :func:`model_id`.
    folders : iterable of str or Path
        Where to look before the shipped and the pulled predictors.
    """
    shipped = (ZOO / name for name in (*shipped_predictors(), *shipped_phonon_predictors()))
    pulled = (pulled_folder() / name for name in pulled_predictors())
    for folder in (*map(Path, folders), *shipped, *pulled):
        try:
            if model_id(folder) == model:
                return folder
        except ModelError:
            continue
    return None


def _files(folder: Path, part: str) -> ArrayFiles[PartCard]:
    return ArrayFiles(folder / part, PartCard, "weights_sha256", "checkpoint", REMEDY)
