"""Models go round: what was given away is what comes, or nothing comes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from models.errors import ModelError
from models.predictor import SpectrumPredictor
from models.sharing import manifest
from models.sharing.manifest import MANIFEST, Manifest
from models.sharing.pulling import PulledFrom, pull, put_in_place
from models.sharing.pushing import push
from models.training.card import ModelCard
from models.zoo import find_predictor, model_id, predictor_folder
from tests.hub_server import TOKEN, Hub
from tests.models.model_examples import rocksalt
from tests.models.sharing.conftest import SHIPPED, files_in

NAME = "theirs"


def test_what_is_pulled_by_its_name_predicts_the_same(shared: Path, cache: Path) -> None:
    assert pull(str(shared), NAME) == cache / NAME
    (expected,) = SpectrumPredictor.load(SHIPPED, "cpu").predict([rocksalt()]).values
    (pulled,) = SpectrumPredictor.load(NAME, "cpu").predict([rocksalt()]).values
    np.testing.assert_array_equal(pulled, expected)
    assert predictor_folder(NAME) == cache / NAME
    assert find_predictor(model_id(cache / NAME), []) == cache / NAME
    assert PulledFrom.read(cache / NAME).source == str(shared)


def test_what_is_pulled_can_be_given_on(shared: Path, cache: Path, tmp_path: Path) -> None:
    again = push(pull(str(shared), NAME), str(tmp_path / "again"), license_id="mit")
    assert pull(again, "third") == cache / "third"
    weights = "sumnorm-kl.safetensors"
    assert (cache / "third" / weights).read_bytes() == (SHIPPED / weights).read_bytes()


@pytest.mark.slow
def test_a_hub_keeps_what_is_pushed_and_gives_it_back(hub: Hub, cache: Path) -> None:
    address = push(SHIPPED, "hf:group/model", license_id="cc-by-4.0", datasets=["group/labels"])
    first = address.rpartition("/")[2]
    assert list(hub.repos["group/model"].commits)[-1] == first
    pulled = pull("hf:group/model", NAME)
    for name in ("sumnorm-kl.safetensors", "card.json", "held_out.safetensors"):
        assert (pulled / name).read_bytes() == (SHIPPED / name).read_bytes()
    assert PulledFrom.read(pulled).commit == first
    downloaded = {path for method, path in hub.requests if "/resolve/" in path}
    assert {path.split("/")[4] for path in downloaded} == {first}  # none of a later commit


@pytest.mark.slow
def test_another_model_in_the_same_repository_takes_its_files_away(hub: Hub, cache: Path) -> None:
    push(SHIPPED.parent / "mat2spec-plus-edos", "hf:group/model", license_id="mit")
    old = list(hub.repos["group/model"].commits)[-1]
    push(SHIPPED, "hf:group/model", license_id="mit")
    assert model_id(pull("hf:group/model", "new"))[-12:] == model_id(SHIPPED)[-12:]
    assert not (cache / "new" / "standard-mae.json").exists()
    assert (pull(f"hf:group/model@{old}", "old") / "standard-mae.json").exists()


def test_the_card_on_the_hub_has_the_measured_figures(shared: Path) -> None:
    _, facts, text = (shared / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(facts)
    assert head["license"] == "mit"
    assert head["library_name"] == "edos-screening"
    card = ModelCard.read(SHIPPED)
    (index,) = head["model-index"]
    assert len(index["results"]) == len(card.figures)
    for result, figures in zip(index["results"], card.figures.values(), strict=True):
        wasserstein = result["metrics"][-1]
        assert wasserstein["name"] == "Wasserstein distance (eV)"
        assert wasserstein["value"] == figures["wd"]
        assert wasserstein["args"]["standard_error"] == figures["wd_error"]
        assert f"{card.n_test} test materials" in result["dataset"]["name"]
    assert text.startswith(card.to_markdown())
    assert "screen models pull" in text


def test_the_card_is_what_the_hubs_own_reader_understands(shared: Path) -> None:
    from huggingface_hub import ModelCard as HubCard

    data = HubCard.load(shared / "README.md").data
    figures = ModelCard.read(SHIPPED).figures
    results = {(r.task_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert len(results) == 4 * len(figures)
    assert {value for (_, kind), value in results.items() if kind == "mae"} == {
        each["mae"] for each in figures.values()
    }


def relist(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def honest(folder: Path) -> None:
    """Let the manifest say what is there."""
    Manifest.of(folder, NAME).write(folder)


def pickled(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(pickle.dumps(print))


def pickled_weights(folder: Path) -> None:
    """With every hash right."""
    data = pickle.dumps(print)
    (folder / "sumnorm-kl.safetensors").write_bytes(data)
    card = json.loads((folder / "sumnorm-kl.json").read_text())
    card["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "sumnorm-kl.json").write_text(json.dumps(card))
    for path in (*folder.glob("held_out.*"), *folder.glob("training_materials.*")):
        path.unlink()  # of other weights
    honest(folder)


def linked(folder: Path) -> None:
    target = folder / "sumnorm-kl.safetensors"
    target.rename(folder.parent / "outside")
    target.symlink_to(folder.parent / "outside")


def changed(folder: Path) -> None:
    path = folder / "held_out.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut_off(folder: Path) -> None:
    path = folder / "sumnorm-kl.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lacking(folder: Path) -> None:
    (folder / "held_out.json").unlink()


def traversing(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["files"]["../outside.json"] = document["files"].pop("card.json")

    relist(folder, change)


def named_like_a_path(folder: Path) -> None:
    relist(folder, lambda document: document.update(name="../../outside"))


def not_listed(folder: Path) -> None:
    relist(folder, lambda document: document["files"].pop("card.json"))


def huge(folder: Path) -> None:
    with (folder / "card.json").open("r+b") as file:
        file.truncate(manifest.LARGEST[".json"] + 1)


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def of_other_weights(folder: Path) -> None:
    """Each file is whole, but two of them are of another model."""
    other = SHIPPED.parent / "mat2spec-plus-edos"
    for name in ("training_materials.json", "training_materials.safetensors"):
        (folder / name).write_bytes((other / name).read_bytes())
    honest(folder)


def coloured(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"description": "\x1b[2Jnew screen"}))
    honest(folder)


def figureless(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"figures": {"sumnorm-kl": {}}}))
    honest(folder)


def strangely_built(folder: Path) -> None:
    """A configuration that no constructor takes."""
    card = json.loads((folder / "sumnorm-kl.json").read_text())
    card["config"] = {"width": -3}
    (folder / "sumnorm-kl.json").write_text(json.dumps(card))
    honest(folder)


BROKEN = [
    (pickled, "no model has.*'model.pkl'"),
    (pickled_weights, "not safetensors"),
    (linked, "not there as a plain file"),
    (changed, "held_out.safetensors: its hash is not the one in manifest.json"),
    (cut_off, "sumnorm-kl.safetensors: its hash is not the one in manifest.json"),
    (lacking, "held_out.json: not there as a plain file"),
    (traversing, r"no model has.*'\.\./outside\.json'"),
    (named_like_a_path, "manifest.json, name: "),
    (not_listed, "card.json: No such file"),
    (huge, "card.json has more than 64 MiB"),
    (without_manifest, "`screen models push` writes one"),
    (of_other_weights, "of other weights than those beside it"),
    (coloured, "control characters"),
    (figureless, "card.json: lacks 'mae'"),
    (strangely_built, "width"),
]


@pytest.mark.parametrize(("harm", "message"), BROKEN, ids=[harm.__name__ for harm, _ in BROKEN])
def test_nothing_comes_of_a_folder_that_is_not_right(
    shared: Path, cache: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(shared)
    with pytest.raises(ModelError, match=message) as refusal:
        pull(str(shared), NAME)
    assert "\n" not in str(refusal.value)
    assert ".unfinished" not in str(refusal.value)
    assert files_in(cache) == []
    assert not (cache.parents[2] / "outside.json").exists()


ONLY_IN_FOLDERS = (linked, lacking, without_manifest, huge)
IN_REPOSITORY = [case for case in BROKEN if case[0] not in ONLY_IN_FOLDERS]


def in_repository(hub: Hub, folder: Path) -> None:
    hub.add("group/model", {path.name: path.read_bytes() for path in folder.iterdir()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "message"),
    IN_REPOSITORY,
    ids=[harm.__name__ for harm, _ in IN_REPOSITORY],
)
def test_nothing_comes_of_a_repository_that_is_not_right(
    hub: Hub, shared: Path, cache: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(shared)
    in_repository(hub, shared)
    with pytest.raises(ModelError, match=message):
        pull("hf:group/model", NAME)
    assert files_in(cache) == []


def test_what_a_repository_has_besides_is_never_downloaded(hub: Hub, shared: Path) -> None:
    pickled(shared)
    in_repository(hub, shared)
    with pytest.raises(ModelError):
        pull("hf:group/model", NAME)
    assert not any("/resolve/" in path for _, path in hub.requests)


def test_what_is_too_large_is_never_downloaded(
    hub: Hub, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(manifest.LARGEST, ".safetensors", 100_000)
    in_repository(hub, shared)
    with pytest.raises(ModelError, match="has more than 0 MiB, and is not touched"):
        pull("hf:group/model", NAME)
    assert not any("/resolve/" in path for _, path in hub.requests)


@pytest.mark.parametrize("file", ["manifest.json", "sumnorm-kl.safetensors"])
def test_nothing_comes_of_a_download_that_breaks_off(
    hub: Hub, shared: Path, cache: Path, file: str
) -> None:
    in_repository(hub, shared)
    hub.cut = file
    with pytest.raises(ModelError, match=r"hf:group/model: the hub cannot be reached"):
        pull("hf:group/model", NAME)
    assert files_in(cache) == []
    hub.cut = None
    assert pull("hf:group/model", NAME).is_dir()


def test_ctrl_c_leaves_nothing(hub: Hub, shared: Path, cache: Path) -> None:
    in_repository(hub, shared)

    def interrupted(line: str) -> None:
        if line.startswith("Checking"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("hf:group/model", NAME, announce=interrupted)
    assert files_in(cache) == []


def test_what_a_killed_process_left_is_not_used_and_goes(shared: Path, cache: Path) -> None:
    for name, age in (("killed", 2 * 86400), ("at-work", 60)):
        half = cache / f".unfinished-{name}" / NAME
        half.mkdir(parents=True)
        (half / "sumnorm-kl.json").write_text("{")
        then = time.time() - age
        os.utime(half.parent, (then, then))
    with pytest.raises(ModelError, match="no such folder"):
        predictor_folder(NAME)
    pull(str(shared), NAME)
    assert files_in(cache) == [".unfinished-at-work", NAME]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mat2spec-plus-edos", "a shipped model is called so; --as"),
        ("Springs-phDOS", "a shipped model is called so"),
        ("../up", "not the name of a model"),
        ("..", "not the name of a model"),
        (".hidden", "not the name of a model"),
        ("a/b", "not the name of a model"),
        ("", "not the name of a model"),
    ],
)
def test_names_that_no_pulled_model_can_have(
    shared: Path, cache: Path, name: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        pull(str(shared), name)
    assert files_in(cache) == []


def test_the_name_of_its_owner_may_not_be_that_of_a_shipped_one(shared: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="tight-binding-edos: a shipped model is called so; --as"):
        pull(str(shared))
    assert files_in(cache) == []


def test_another_of_the_same_name_stays_unless_it_shall_go(
    shared: Path, cache: Path, tmp_path: Path
) -> None:
    pull(str(shared), NAME)
    other = push(SHIPPED.parent / "mat2spec-plus-edos", str(tmp_path / "other"), license_id="mit")
    with pytest.raises(ModelError, match=r"there is one already.*--replace"):
        pull(other, NAME)
    before = model_id(cache / NAME)
    assert before.endswith(model_id(SHIPPED)[-12:])
    pull(other, NAME, replace=True)
    assert model_id(cache / NAME) != before
    assert files_in(cache) == [NAME]
    cut_off(Path(other))
    with pytest.raises(ModelError):
        pull(other, NAME, replace=True)
    assert SpectrumPredictor.load(NAME, "cpu").predict([rocksalt()]).values.shape == (1, 128)


@pytest.mark.parametrize("stop", [OSError(errno.EDQUOT, "Quota exceeded"), KeyboardInterrupt()])
def test_the_one_that_shall_go_is_kept_if_the_other_cannot_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    old, new, room = (tmp_path / name for name in (NAME, "new", "room"))
    for folder in (old, new, room):
        folder.mkdir()
    (old / "card.json").write_text("old")
    rename = Path.rename

    def stopped(path: Path, target: Path) -> Path:
        if path == new:
            raise stop
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    error = ModelError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(error):
        put_in_place(new, old, room)
    assert (old / "card.json").read_text() == "old"
    assert files_in(room) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:group/none", "no such repository, or HF_TOKEN does not let you see it"),
        ("hf:group/model@none", "the hub has no such revision"),
        ("hf:none", "it is hf:owner/repository"),
        ("hf:../../etc/passwd", "it is hf:owner/repository"),
        ("nowhere", "no such folder; a repository on the hub is hf:owner/repository"),
    ],
)
def test_what_is_not_there_is_named(
    hub: Hub, shared: Path, cache: Path, source: str, message: str
) -> None:
    in_repository(hub, shared)
    with pytest.raises(ModelError, match=message):
        pull(source, NAME)
    assert files_in(cache) == []


@pytest.mark.parametrize("status", [403, 500])
def test_a_hub_that_is_ill_is_one_line(hub: Hub, cache: Path, status: int) -> None:
    hub.status = status
    with pytest.raises(ModelError, match=f"hf:group/model: the hub .*{status}") as refusal:
        pull("hf:group/model", NAME)
    assert "\n" not in str(refusal.value)
    assert files_in(cache) == []


def test_no_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="hf:group/model: the hub cannot be reached"):
        pull("hf:group/model", NAME)


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_nobody_pushes_without_the_right_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match="HF_TOKEN") as refusal:
        push(SHIPPED, "hf:group/model", license_id="mit")
    assert token is None or token not in str(refusal.value)
    assert hub.repos == {}


def test_what_the_hub_says_of_the_licence_is_told(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"hf:group/model: .*Invalid metadata.*license") as refusal:
        push(SHIPPED, "hf:group/model", license_id="beer")
    assert "\n" not in str(refusal.value)


def test_an_upload_that_breaks_off_is_no_commit(hub: Hub) -> None:
    hub.full = True
    with pytest.raises(ModelError, match=r"hf:group/model: .*safetensors") as refusal:
        push(SHIPPED, "hf:group/model", license_id="mit")
    assert "\n" not in str(refusal.value)
    assert TOKEN not in str(refusal.value)
    assert len(hub.repos["group/model"].commits) == 1  # the Hub's own


def test_the_card_does_not_say_where_it_was_written(shared: Path) -> None:
    assert not any(str(shared.parent).encode() in f.read_bytes() for f in shared.iterdir())
    text = (shared / "README.md").read_text()
    assert "screen models pull shared --as my-tight-binding-edos" in text  # the other is taken


@pytest.mark.slow
def test_a_private_model_is_for_those_with_a_token(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(SHIPPED, "hf:group/model", license_id="mit", private=True)
    assert pull("hf:group/model", NAME).is_dir()
    assert f"Bearer {TOKEN}" in hub.tokens
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match="HF_TOKEN does not let you see it"):
        pull("hf:group/model", "again")


def test_a_damaged_model_is_not_given_away(shared: Path, tmp_path: Path) -> None:
    cut_off(shared)
    with pytest.raises(ModelError, match=r"its hash is not the one in sumnorm-kl\.json"):
        push(shared, str(tmp_path / "on"), license_id="mit")
    assert not (tmp_path / "on").exists()


def test_a_push_takes_nothing_away_that_is_no_model(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is there already; --replace"):
        push(SHIPPED, str(shared), license_id="mit")
    push(SHIPPED, str(shared), license_id="cc0-1.0", replace=True)
    assert "license: cc0-1.0" in (shared / "README.md").read_text()
    (shared / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"no model has.*thesis\.tex"):
        push(SHIPPED, str(shared), license_id="mit", replace=True)
    assert (shared / "thesis.tex").exists()
    assert files_in(tmp_path) == ["shared"]
