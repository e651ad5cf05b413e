"""What predictors there are: shipped, trained here, and pulled from elsewhere.

Read without torch, in a second or less; damaged ones are listed with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import ModelError
from models.sharing.manifest import MANIFEST, Manifest
from models.spectra.spectrum import EnergyGrid
from models.training.card import CARD, ModelCard
from models.training.materials import load_training_materials
from models.uncertainty.held_out import read_held_out
from models.zoo import (
    DEFAULT_EDOS,
    DEFAULT_PHDOS,
    PARTS,
    ZOO,
    check_predictor,
    model_id,
    predictor_folder,
    predictor_grid,
    pulled_folder,
)

Origin = Literal["shipped", "trained", "pulled"]
Target = Literal["eDOS", "phDOS"]


@dataclass(frozen=True)
class ListedPredictor:
    """A predictor of the list.

    Parameters
    ----------
    name : str
        Of its folder; what `--checkpoint` takes, but for trained ones.
    origin : str
    folder : Path
    model_id, grid, card : optional
        None if they cannot be read.
    problem : str, optional
        Why it cannot be used; None if it is whole.
    change : str, optional
        In what it is not as it was pulled, such as after `screen calibrate`.
    """

    name: str
    origin: Origin
    folder: Path
    model_id: str | None
    grid: EnergyGrid | None
    card: ModelCard | None
    problem: str | None = None
    change: str | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is used where none is named."""
        return self.folder in (DEFAULT_EDOS.resolve(), DEFAULT_PHDOS.resolve())

    @property
    def checkpoint(self) -> str:
        """What `--checkpoint` takes for it: a name, or the path of one that was trained here."""
        if self.origin != "trained":
            return self.name
        here = Path.cwd()
        return str(self.folder.relative_to(here) if here in self.folder.parents else self.folder)

    @property
    def is_hidden(self) -> bool:
        """Whether another predictor of that name comes before it."""
        if self.origin == "trained":
            return False
        return predictor_folder(self.name).resolve() != self.folder

    @property
    def target(self) -> Target | None:
        """What it predicts; None if that cannot be read."""
        return target_of(self.grid) if self.grid else None


def target_of(grid: EnergyGrid) -> Target:
    """What the spectra of a grid are."""
    return "eDOS" if grid.unit == "eV" else "phDOS"


def list_predictors(trained_in: Sequence[Path] = ()) -> list[ListedPredictor]:
    """All predictors: shipped ones, the defaults first, then trained, then pulled ones.

    Parameters
    ----------
    trained_in : sequence of Path
        Folders of which each subfolder may be a predictor that was trained here.
    """
    places: list[tuple[Origin, Path]] = [
        ("shipped", ZOO),
        *(("trained", folder) for folder in trained_in),
        ("pulled", pulled_folder()),
    ]
    origins: dict[Path, Origin] = {}
    for origin, place in places:
        for folder in _predictors_in(place):
            origins.setdefault(folder, origin)
    listed = [_listed(folder, origin) for folder, origin in origins.items()]
    order = [origin for origin, _ in places]
    listed.sort(key=lambda one: (order.index(one.origin), not one.is_default, one.name))
    return listed


def find_listed(name: str, trained_in: Sequence[Path] = ()) -> ListedPredictor:
    """The predictor of that folder, name or id; a folder comes first.

    Parameters
    ----------
    name : str
    trained_in : sequence of Path
        See :func:`list_predictors`.

    Raises
    ------
    ModelError
        If there is none, or there are several of that name.
    """
    folder = Path(name).expanduser().resolve()
    if _is_predictor(folder):
        origins: dict[Path, Origin] = {
            ZOO.resolve(): "shipped",
            pulled_folder().resolve(): "pulled",
        }
        return _listed(folder, origins.get(folder.parent, "trained"))
    listed = list_predictors(trained_in)
    called_so = [one for one in listed if name in (one.name, one.model_id)]
    if not called_so:
        names = ", ".join(dict.fromkeys(one.name for one in listed))
        raise ModelError(f"{name}: no such model; there are {names} (`screen models`)")
    if len(called_so) > 1:
        folders = ", ".join(str(one.folder) for one in called_so)
        raise ModelError(f"{name}: several models are called so; name a folder: {folders}")
    return called_so[0]


def whole_predictor(folder: Path) -> ModelCard:
    """The card of a predictor none of whose files is damaged.

    Raises
    ------
    ModelError
        If a file is missing, damaged or of another predictor, or the card cannot be shown.
    """
    check_predictor(folder, predictor_grid(folder))
    load_training_materials(folder)
    read_held_out(folder)
    card = ModelCard.read(folder)
    try:
        text = card.to_markdown()
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"model card {folder / CARD}: lacks {error}") from None
    if not all(character.isprintable() or character == "\n" for character in text):
        raise ModelError(f"model card {folder / CARD}: has control characters")
    return card


def _predictors_in(folder: Path) -> list[Path]:
    """Subfolders that are predictors, or were meant to be."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [each.resolve() for each in inside if each.name[0] != "." and _is_predictor(each)]


def _is_predictor(folder: Path) -> bool:
    """Whether there is a checkpoint, or the card of a model with a part of one beside it."""
    names = [f"{part}{ending}" for part in PARTS for ending in (".json", ".safetensors")]
    try:
        return any((folder / name).is_file() for name in (*names, CARD))
    except PermissionError:  # somebody else's, beside ours
        return False


def _listed(folder: Path, origin: Origin) -> ListedPredictor:
    problem = _complaint(whole_predictor, folder)
    change = _complaint(_as_pulled, folder) if (folder / MANIFEST).exists() else None
    name, grid, card = None, None, None
    try:
        grid = predictor_grid(folder)
        card = ModelCard.read(folder)
        name = model_id(folder)
    except ModelError:  # said above
        pass
    return ListedPredictor(folder.name, origin, folder, name, grid, card, problem, change)


def _as_pulled(folder: Path) -> None:
    Manifest.read(folder).check(folder)


def _complaint(check: Callable[[Path], object], folder: Path) -> str | None:
    """What a check has against a folder, in one line; None if it is right."""
    try:
        check(folder)
    except (ModelError, OSError) as error:
        return " ".join(str(error).split())
    return None
