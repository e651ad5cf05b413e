from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from models.architectures.registry import build_model
from models.errors import ModelError
from models.graphs.graph import GraphConfig
from models.spectra.settings import SETTINGS
from models.training.checkpoint import Checkpoint, CheckpointCard, load_checkpoint, save_checkpoint
from tests.models.model_examples import SMALL_GRID, batch_of, random_crystals, random_spectra

SMALL = {"encoder": {"layers": 1, "width": 8}, "latent": 4, "components": 2, "embedding": 8}


def checkpoint(setting_name: str = "standard-mae") -> Checkpoint:
    model = build_model("mat2spec", SMALL_GRID.size, SMALL)
    setting = SETTINGS[setting_name](SMALL_GRID.size)
    setting.fit(random_spectra(6, SMALL_GRID.size), torch.ones(6))
    card = CheckpointCard(
        architecture="mat2spec",
        config=model.config.model_dump(),
        setting=setting_name,
        grid=SMALL_GRID,
        graph=GraphConfig(),
        elements=("Cl", "Na"),
    )
    return Checkpoint(model.eval(), setting.eval(), card)


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "folder" / "weights", checkpoint())
    return tmp_path / "folder" / "weights"


def edit_card(stem: Path, **changes: Any) -> None:
    file = stem.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("setting_name", SETTINGS)
def test_a_checkpoint_predicts_the_same_after_loading(tmp_path: Path, setting_name: str) -> None:
    before = checkpoint(setting_name)
    card = save_checkpoint(tmp_path / "weights", before)
    after = load_checkpoint(tmp_path / "weights")
    batch = batch_of(random_crystals(3))
    assert torch.equal(before.model(batch), after.model(batch))
    assert torch.equal(
        before.setting.decode(before.model(batch), batch.n_atoms),
        after.setting.decode(after.model(batch), batch.n_atoms),
    )
    assert after.card == card
    assert not after.model.training


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "v1.2", checkpoint())
    assert load_checkpoint(tmp_path / "v1.2").card.grid == SMALL_GRID
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1.2.json", "v1.2.safetensors"]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_missing_file_is_named(stem: Path, suffix: str) -> None:
    stem.with_suffix(suffix).unlink()
    with pytest.raises(ModelError, match=rf"weights\{suffix}: No such file"):
        load_checkpoint(stem)


def test_other_weights_are_refused(stem: Path) -> None:
    file = stem.with_suffix(".safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"its hash is not the one in weights.json"):
        load_checkpoint(stem)


def test_truncated_weights_are_refused(stem: Path) -> None:
    file = stem.with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its hash is not"):
        load_checkpoint(stem)


def test_a_truncated_card_is_refused(stem: Path) -> None:
    file = stem.with_suffix(".json")
    file.write_text(file.read_text()[:-40])
    with pytest.raises(ModelError, match=r"weights.json, .*JSON"):
        load_checkpoint(stem)


@pytest.mark.parametrize("field", ["architecture", "config", "setting", "grid", "graph"])
def test_a_missing_field_is_named(stem: Path, field: str) -> None:
    file = stem.with_suffix(".json")
    card = json.loads(file.read_text())
    del card[field]
    file.write_text(json.dumps(card))
    with pytest.raises(ModelError, match=f"weights.json, {field}: Field required"):
        load_checkpoint(stem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "has format 99, this version reads 1"),
        ({"setting": "minmax"}, "unknown setting 'minmax'"),
        ({"architecture": "cgcnn"}, "unknown architecture 'cgcnn'"),
        ({"config": {"latent": -1}}, "latent: "),
        ({"grid": {"start": -1.0, "width": 0.125, "size": 17}}, "does not fit its card"),
        ({"config": SMALL | {"latent": 5}}, "does not fit its card"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(stem: Path, changes: dict, message: str) -> None:
    edit_card(stem, **changes)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(stem)


def test_weights_of_another_layout_are_refused_in_one_line(stem: Path) -> None:
    """Such as Mat2Spec's from before its label encoder had a scaling."""
    file = stem.with_suffix(".safetensors")
    kept = {k: v for k, v in load(file.read_bytes()).items() if ".scaling." not in k}
    data = save(kept)
    file.write_bytes(data)
    edit_card(stem, weights_sha256=hashlib.sha256(data).hexdigest())
    message = r"earlier version \(.*\); train it with `screen train`, or pull it with .*$"
    with pytest.raises(ModelError, match=message) as raised:
        load_checkpoint(stem)
    assert "\n" not in str(raised.value)


class Bomb:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_never_loaded(stem: Path) -> None:
    """Even with the hash that its card promises."""
    data = pickle.dumps(Bomb())
    stem.with_suffix(".safetensors").write_bytes(data)
    edit_card(stem, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ModelError, match=r"weights\.safetensors: not safetensors"):
        load_checkpoint(stem)
