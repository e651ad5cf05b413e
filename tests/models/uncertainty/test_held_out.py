"""The file of held-out materials: round trip, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from models.errors import ModelError
from models.uncertainty.held_out import read_held_out, write_held_out
from models.zoo import DEFAULT_EDOS
from tests.models.uncertainty.test_calibration import world


@pytest.fixture
def predictor(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(DEFAULT_EDOS, folder, ignore=shutil.ignore_patterns("held_out*"))
    return folder


@pytest.fixture
def held_out():
    return world(np.random.default_rng(0), 24)


def test_round_trip(predictor, held_out):
    assert read_held_out(predictor) is None
    write_held_out(predictor, held_out, {"coverage": 0.9})
    same = read_held_out(predictor)
    assert same is not None
    assert same.material_ids == held_out.material_ids
    assert same.chemical_systems == held_out.chemical_systems
    assert same.grid == held_out.grid
    for name in ("predicted", "labels", "n_atoms", "member_spread", "training_distance"):
        assert getattr(same, name) == pytest.approx(getattr(held_out, name), rel=1e-6, nan_ok=True)
    assert json.loads((predictor / "held_out.json").read_text())["figures"] == {"coverage": 0.9}
    assert len(same.take(same.n_atoms == 2)) == 24


def test_a_renamed_predictor_keeps_its_own(predictor, held_out):
    write_held_out(predictor, held_out, {})
    assert read_held_out(predictor.rename(predictor.with_name("other"))) is not None


def broken(predictor, what):
    card, arrays = predictor / "held_out.json", predictor / "held_out.safetensors"
    document = json.loads(card.read_text())
    if what == "no arrays":
        arrays.unlink()
    elif what == "arrays cut off":
        arrays.write_bytes(arrays.read_bytes()[:-8])
    elif what == "arrays changed":
        data = bytearray(arrays.read_bytes())
        data[-1] ^= 1
        arrays.write_bytes(bytes(data))
    elif what == "other weights":
        document["weights_sha256"] = "0" * 64
    elif what == "other format":
        document["format_version"] = 99
    elif what == "a material less":
        document["material_ids"] = document["material_ids"][1:]
    elif what == "no card":
        document = ["no card"]
    card.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no arrays", "held_out.safetensors: No such file"),
        ("arrays cut off", "its hash is not the one in held_out.json"),
        ("arrays changed", "its hash is not the one in held_out.json"),
        ("other weights", "of other weights than those beside it"),
        ("other format", "has format 99, this version reads 1"),
        ("a material less", "does not fit"),
        ("no card", "held_out.json"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(predictor, held_out, what, message):
    write_held_out(predictor, held_out, {})
    broken(predictor, what)
    with pytest.raises(ModelError, match=message) as refusal:
        read_held_out(predictor)
    assert "screen calibrate" in str(refusal.value)
    assert "\n" not in str(refusal.value)
