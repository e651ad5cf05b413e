"""`screen models` as a user types it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.training.card import ModelCard
from models.zoo import DEFAULT_EDOS, DEFAULT_PHDOS, ZOO, model_id
from tests.hub_server import TOKEN, serve

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.parent.name for path in ZOO.glob("*/card.json"))
SMALL = ZOO / "tight-binding-edos"
WEIGHTS = model_id(SMALL).rpartition("-")[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    return tmp_path / ".cache" / "edos-screening" / "models"


def listed(screen, *arguments):
    return {
        one["checkpoint"]: one for one in json.loads(screen("models", "--json", *arguments).out)
    }


def test_shipped_models_are_listed_with_their_figures(screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    shown = screen("models")
    assert shown.code == 0
    models = listed(screen)
    assert sorted(models) == SHIPPED
    assert [one["checkpoint"] for one in models.values() if one["default"]] == [
        DEFAULT_EDOS.name,
        DEFAULT_PHDOS.name,
    ]
    rows = {line.split("│")[1].strip(): line for line in shown.out.splitlines() if "│" in line}
    for name, one in models.items():
        card = ModelCard.read(ZOO / name)
        (wasserstein,) = (
            card.figures[k] for k in ("sumnorm-kl", "sumnorm-wd") if k in card.figures
        )
        assert one["usable"]
        assert one["remarks"] == []
        assert one["target"] == ("phDOS" if name.endswith("phdos") else "eDOS")
        error = f"± {wasserstein['wd_error']:.2g} {card.unit}"
        for cell in (f"{wasserstein['wd']:.4g} {error}", f" {card.n_train} ", one["model_id"]):
            assert cell in rows[name]
        assert f" {len(card.elements)} " in rows[name]
        assert ("default" in rows[name]) == one["default"]


def test_the_mean_absolute_error_is_that_in_states(screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    shown = screen("models", "--wide").out
    figures = ModelCard.read(DEFAULT_EDOS).figures
    (mae,) = (f"{f['mae']:.4g} ± {f['mae_error']:.2g}" for w, f in figures.items() if "x sum" in w)
    assert mae in shown
    (row,) = (line for line in shown.splitlines() if "springs-phdos" in line)
    assert " - " in row


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_the_terminal(screen, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = screen("models")
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.out).splitlines()
    assert max(map(len, lines)) <= columns
    assert "mat2spec-plus-edos" in shown.out


@pytest.mark.slow
def test_ones_own_models_are_found_beside_the_database_and_here(screen, tmp_path):
    for place in ("other.models/learned", "my-model", "elsewhere/unseen"):
        shutil.copytree(SMALL, tmp_path / place)
    (tmp_path / "structures").mkdir()
    models = listed(screen, "--db", "other.sqlite")
    trained = [name for name, one in models.items() if one["origin"] == "trained"]
    assert trained == ["other.models/learned", "my-model"]
    assert "my-model" in listed(screen)
    assert "other.models/learned" not in listed(screen)
    assert screen("models", "my-model").out.startswith(f"my-model-{WEIGHTS} (trained; ")


def test_a_folder_of_somebody_else_hides_no_model(screen, tmp_path, monkeypatch):
    (tmp_path / "private").mkdir()
    is_file = Path.is_file

    def refused(path):
        if path.parent.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    shutil.copytree(SMALL, tmp_path / "my-model")
    models = listed(screen)
    assert "my-model" in models
    assert "private" not in models
    assert screen("models", "my-model").code == 0


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("sumnorm-kl.safetensors", b"no weights", "its hash is not the one in sumnorm-kl.json"),
        ("sumnorm-kl.safetensors", None, "No such file"),
        ("sumnorm-kl.json", b"{}", "sumnorm-kl.json, grid: Field required"),
        ("card.json", None, "No such file"),
        ("card.json", b'{"name": "x"}', "architecture: Field required"),
        ("held_out.safetensors", b"", "its hash is not the one in held_out.json"),
        ("training_materials.json", b"[]", "training_materials.json, "),
    ],
)
def test_a_damaged_model_is_listed_with_the_reason(screen, tmp_path, file, content, reason):
    shutil.copytree(SMALL, tmp_path / "broken")
    (tmp_path / "broken" / file).unlink()
    if content is not None:
        (tmp_path / "broken" / file).write_bytes(content)
    one = listed(screen)["broken"]
    assert not one["usable"]
    (remark,) = one["remarks"]
    assert reason in remark
    shown = screen("models")
    assert shown.code == 0
    assert "damaged" in shown.out
    assert remark in shown.out
    alone = screen("models", "broken")
    assert alone.code == 1
    assert reason in alone.err
    assert len(alone.err.splitlines()) == 1


def test_a_folder_that_comes_before_a_shipped_model_is_marked(screen, tmp_path):
    shutil.copytree(SMALL, tmp_path / "springs-phdos")
    models = json.loads(screen("models", "--json").out)
    shipped, own = (one for one in models if one["name"] == "springs-phdos")
    assert (shipped["origin"], own["origin"]) == ("shipped", "trained")
    assert shipped["remarks"] == ["another of that name comes before it"]
    assert own["remarks"] == []


def test_a_card_is_shown_by_name_id_and_folder(screen):
    by_name = screen("models", "springs-phdos")
    assert by_name.code == 0
    assert ModelCard.read(DEFAULT_PHDOS).to_markdown().rstrip() in by_name.out
    full_name = by_name.out.split()[0]
    assert screen("models", "show", full_name).out == by_name.out
    assert screen("models", "show", DEFAULT_PHDOS).out == by_name.out
    document = json.loads(screen("models", "show", "springs-phdos", "--json").out)
    assert ModelCard.model_validate(document["card"]) == ModelCard.read(DEFAULT_PHDOS)


@pytest.mark.slow
def test_a_model_goes_through_a_folder_and_is_used_by_its_name(screen, cache):
    pushed = screen("models", "push", "tight-binding-edos", "given", "--license", "mit")
    assert pushed.code == 0
    pulled = screen("models", "pull", "given", "--as", "theirs")
    assert pulled.code == 0
    assert "--checkpoint theirs" in pulled.out
    one = listed(screen)["theirs"]
    assert (one["origin"], one["folder"]) == ("pulled", str(cache / "theirs"))
    assert one["pulled"]["source"] == "given"
    assert "pulled from given" in screen("models", "theirs").out
    run = ("run", "--source", "prototypes", "--limit", 2, "--max-sites", 2, "--workers", 1)
    assert screen(*run, "--checkpoint", "theirs").code == 0
    candidates = json.loads(screen("candidates", "--json", "--state", "screened").out)
    assert {one["model_id"] for one in candidates} == {f"theirs-{WEIGHTS}"}
    checked = screen("doctor", "--checkpoint", "theirs")
    assert f"theirs-{WEIGHTS}" in " ".join(checked.out.split())
    for path in (cache / "theirs").glob("held_out.*"):
        path.unlink()
    one = listed(screen)["theirs"]
    assert one["usable"]
    assert one["remarks"][0].startswith("not as it was pulled: ")
    (cache / "theirs" / "card.json").write_text("{}")
    one = listed(screen)["theirs"]
    assert not one["usable"]
    assert one["remarks"][0].startswith("damaged: model card ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("show", "none"), "none: no such model; there are"),
        (("none",), "none: no such model"),
        (("pull", "nowhere"), "nowhere: no such folder"),
        (("push", "springs-phdos", "no/where", "--license", "mit"), "make it first"),
        (("push", "springs-phdos", "given"), "--license"),
        (("--nothing",), "no such option"),
    ],
)
def test_mistakes_end_in_one_line(screen, command, message):
    outcome = screen("models", *command)
    assert outcome.code != 0
    assert message in outcome.err.lower()
    assert len(outcome.err.splitlines()) == 1


def test_without_the_hubs_client_it_is_named(screen, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    outcome = screen("models", "pull", "hf:group/model")
    assert outcome.code == 1
    assert "pip install 'edos-screening[hub]'" in outcome.err


@pytest.mark.slow
def test_a_model_goes_over_a_hub_and_the_token_is_shown_nowhere(tmp_path):
    """The client with nothing but its environment, as users have it."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in knows LFS only
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def call(*arguments):
        command = [sys.executable, "-m", "screening.cli", "models", *arguments]
        options = ("--debug", "--log", "log.txt")
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    with serve() as hub:
        environment["HF_ENDPOINT"] = hub.endpoint
        assert hub.endpoint in call(
            "push", str(SMALL), "hf:group/model", "--license", "cc-by-4.0", "--private"
        )
        assert hub.repos["group/model"].private
        call("pull", "hf:group/model", "--as", "theirs")
        assert f"Bearer {TOKEN}" in hub.tokens
    assert "pulled from hf:group/model" in call("show", "theirs")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "log.txt" for path in written)
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
