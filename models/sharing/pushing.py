"""Give a predictor away: its files, a manifest, and a card that the hub understands."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from models.errors import ModelError
from models.sharing import hub
from models.sharing.manifest import ALLOWED, Manifest, check_names
from models.sharing.pulling import check_loads, put_in_place, unfinished_beside
from models.training.card import README, ModelCard
from models.writing import write_whole
from models.zoo import ZOO, check_name, predictor_grid

LIBRARY = "edos-screening"
TASK = "graph-ml"  # of the hub's tasks
METRICS = {"r2": "r_squared", "mae": "mae", "mse": "mse", "wd": "wasserstein_distance"}
"""What the hub calls our figures."""


def push(
    folder: Path,
    target: str,
    *,
    license_id: str,
    datasets: Sequence[str] = (),
    private: bool = False,
    replace: bool = False,
) -> str:
    """Write a predictor to a hub or into a folder, whence others can pull it.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    target : str
        ``hf:owner/repository``, or a folder that does not exist yet.
    license_id : str
        What others may do, by an identifier of the hub, such as ``"cc-by-4.0"``.
    datasets : sequence of str
        Data sets on the hub that it was trained on.
    private : bool
        Of a repository that does not exist yet.
    replace : bool
        Let it take the place of a folder that is there.

    Returns
    -------
    str
        Address of the commit, or the folder.

    Raises
    ------
    ModelError
        If the predictor is damaged, the target is taken, or the hub refuses.
    """
    check_name(folder.name)
    check_loads(folder)
    if hub.is_on_hub(target):
        hub.Repository.of(target)
        with TemporaryDirectory() as room:
            ready = _prepare(folder, Path(room, folder.name), target, license_id, datasets)
            return hub.upload(ready, target, private, f"{folder.name} by {LIBRARY}")
    place = Path(target).expanduser().absolute()
    if not place.parent.is_dir():
        raise ModelError(f"{target}: there is no folder {place.parent}; make it first")
    if place.exists():
        if not replace:
            raise ModelError(f"{target}: is there already; --replace takes it away")
        check_names({path.name: None for path in place.iterdir()}, place)
    with unfinished_beside(place) as beside:
        ready = _prepare(folder, beside / "ready", place.name, license_id, datasets)
        put_in_place(ready, place, beside)
    return str(place)


def hub_card(
    card: ModelCard, unit: str, license_id: str, datasets: Sequence[str] = ()
) -> dict[str, object]:
    """The card as the hub reads it: the YAML at the top of ``README.md``.

    Parameters
    ----------
    card : ModelCard
    unit : str
        Of the grid: eV or cm^-1.
    license_id : str
    datasets : sequence of str
        On the hub.
    """
    results = [
        {
            "task": {"type": TASK, "name": f"{what}, on materials that no training step has seen"},
            "dataset": {
                "type": "labels",
                "name": f"{', '.join(card.labels)}: {card.n_test} test materials",
            },
            "metrics": [_metric(name, figures, unit) for name in METRICS if name in figures],
        }
        for what, figures in card.figures.items()
    ]
    kind = "electronic" if unit == "eV" else "phonon"
    document: dict[str, object] = {
        "license": license_id,
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": ["materials-science", f"{kind}-density-of-states", card.architecture],
        "metrics": [
            metric for metric in METRICS if any(metric in f for f in card.figures.values())
        ],
        "model-index": [{"name": card.name, "results": results}],
    }
    return document | ({"datasets": list(datasets)} if datasets else {})


def _metric(name: str, figures: dict[str, float], unit: str) -> dict[str, object]:
    """A figure with its standard error over the test materials."""
    words = f"Wasserstein distance ({unit})" if name == "wd" else name.upper()
    metric = {"type": METRICS[name], "name": words, "value": figures[name]}
    error = figures.get(f"{name}_error")
    return metric if error is None else metric | {"args": {"standard_error": error}}


def _prepare(
    folder: Path, ready: Path, target: str, license_id: str, datasets: Sequence[str]
) -> Path:
    """Copy what a predictor may have into a new folder, with its card and its manifest."""
    ready.mkdir()
    for path in folder.iterdir():
        if path.name in ALLOWED:
            shutil.copyfile(path, ready / path.name)
    card = ModelCard.read(folder)
    unit = predictor_grid(folder).unit
    facts = yaml.safe_dump(
        hub_card(card, unit, license_id, datasets), sort_keys=False, allow_unicode=True
    )
    name = f"my-{folder.name}" if folder.parent == ZOO else folder.name
    criterion = "" if unit == "eV" else "--criterion phonon-gap "
    use = (
        f"\n## Use\n\nWith {LIBRARY} (`pip install '{LIBRARY}[hub]'`):\n\n```bash\n"
        f"screen models pull {target} --as {name}\n"
        f"screen run --source structures/ {criterion}--checkpoint {name}\n```\n"
    )
    write_whole(ready / README, f"---\n{facts}---\n{card.to_markdown()}{use}")
    Manifest.of(ready, folder.name).write(ready)
    return ready
