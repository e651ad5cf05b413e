"""`screen doctor`: what is configured, what is missing, and how to get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from screening.cli import options

Finding = tuple[str, bool, str]
"""What was looked at, whether it is usable, and what was found or how to get it."""


def doctor(
    db: options.Db = options.DEFAULT_DB,
    checkpoint: options.Checkpoint = None,
    mp_api_key_file: options.MpApiKeyFile = None,
    as_json: options.Json = False,
) -> None:
    """Check key, database, GPU, checkpoint, DFT engines; exits with 1 if screening cannot run."""
    from screening.cli.console import print_json, stdout, table
    from workflows.dos.engines import ENGINES

    findings = [
        _look("software", _software),
        _look("checkpoint", lambda: _checkpoint(checkpoint)),
        _look("database", lambda: _database(db)),
        _look("Materials Project key", lambda: _key(mp_api_key_file)),
        _look("GPU", _gpu),
        *map(_engine, ENGINES),
    ]
    if as_json:
        print_json([{"what": w, "usable": ok, "found": found} for w, ok, found in findings])
    else:
        rows = [(what, "ok" if ok else "missing", found) for what, ok, found in findings]
        stdout().print(table(None, ("what", "state", "found, or how to get it"), rows))
    if not all(ok for what, ok, _ in findings if what in ("software", "checkpoint", "database")):
        raise typer.Exit(1)


def _look(what: str, check: Callable[[], tuple[bool, str]]) -> Finding:
    """Result of a check; an error of ours becomes what was found."""
    from db.errors import StoreError
    from models.errors import ModelError
    from screening.errors import ScreeningError

    try:
        return (what, *check())
    except (StoreError, ModelError, ScreeningError, OSError) as error:
        return what, False, " ".join(str(error).split())


def _software() -> tuple[bool, str]:
    import platform
    from importlib.metadata import version

    names = ("edos-screening", "torch", "pymatgen", "jobflow", "atomate2", "fireworks")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return True, f"Python {platform.python_version()}, {versions}"


def _checkpoint(name: str | None) -> tuple[bool, str]:
    from models.predictor import SpectrumPredictor
    from models.training.card import ModelCard
    from models.zoo import predictor_folder, shipped_predictors

    predictor = SpectrumPredictor.load(predictor_folder(name), device="cpu")
    card = ModelCard.read(predictor.folder)
    default, *others = shipped_predictors()
    return True, (
        f"{predictor.model_id}: architecture {card.architecture}, trained on {card.n_train} "
        f"materials ({predictor.folder}); shipped are {default} (the default), {', '.join(others)}"
    )


def _database(db: str) -> tuple[bool, str]:
    from db.open import open_store
    from db.store import mask_uri

    options.check_folder_of(db)
    if "://" not in db and not Path(db).expanduser().exists():
        return True, f"{db}: will be made by the first `screen run`"
    with open_store(db) as store:
        return True, f"{mask_uri(db)}: {len(store.runs())} runs"


def _key(key_file: Path | None) -> tuple[bool, str]:
    from screening.sources.materials_project.client import find_api_key

    find_api_key(key_file)
    return True, "found"


def _gpu() -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return False, "none that torch can use; predictions run on the CPU (install CUDA's torch)"
    return True, torch.cuda.get_device_name()


def _engine(name: str) -> Finding:
    from screening.errors import ScreeningError
    from workflows.dos.engines import engine_class

    try:
        maker = engine_class(name)
    except ScreeningError as error:  # of a file that it reads when it is imported
        return name.upper(), False, str(error)

    def check() -> tuple[bool, str]:
        lacking = maker.missing()
        return not lacking, "; ".join(lacking) or maker.installed()

    return _look(maker.title, check)
