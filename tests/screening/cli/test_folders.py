"""`screen run` on a folder of what people have."""

import json
import shutil

import numpy as np
import pytest

from db.open import open_store
from models.crystal import Crystal


def document(a, element=29):
    return json.dumps(Crystal(np.eye(3) * a, [[0] * 3, [0.5] * 3], [element] * 2).as_dict())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    for name, text in {
        "a.json": document(3.0),
        "run1/b.json": document(3.1),
        "run2/b.json": document(3.0),
        "run2/broken.vasp": "nothing",
        "notes.txt": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folder_with_its_subfolders(screen, folder):
    outcome = screen("run", "--source", folder, "--recursive", "--db", "a.sqlite")
    assert outcome.code == 0
    assert "not read: 1 .txt (notes.txt)" in outcome.err
    assert "1 structure is the same crystal as another" in outcome.err
    with open_store("a.sqlite") as store:
        (run,) = store.runs()
        found = {c.material_id: c.state for c in store.candidates(run.run_id)}
        failed = next(iter(store.candidates(run.run_id, state="failed")))
    assert found == {
        "a": "screened",
        "run1/b": "screened",
        "run2/b": "screened",
        "run2/broken": "failed",
    }
    assert "the file ends before line 2" in failed.reason
    assert run.source["notes"] == [
        "not read: 1 .txt (notes.txt)",
        "1 structure is the same crystal as another",
    ]


def test_a_folder_without_its_subfolders(screen, folder):
    outcome = screen("run", "--source", folder, "--json")
    run = json.loads(outcome.out)
    assert run["funnel"][0]["entered"] == 1
    assert "2 folders, which --recursive reads (run1, run2)" in run["source"]["notes"][0]
    shutil.rmtree(folder)
    assert screen("run", "--source", folder, "--recursive").code == 1


def test_only_recursive_runs_have_the_parameter():
    """Runs from before there was one can be resumed."""
    from workflows.screening import ScreeningFlowMaker

    assert ScreeningFlowMaker(source_options={"recursive": True}).parameters()["recursive"] is True
    assert "recursive" not in ScreeningFlowMaker().parameters()


def test_known_edos_says_how_many_ids_matched(screen, folder, tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text('["a", "run1/b", "run9/b"]')
    outcome = screen("run", "--source", folder, "--recursive", "--known-edos", ids)
    note = "known DOS: 2 of 3 ids name a material that was read, 1 match nothing (run9/b)"
    assert note in outcome.err.replace("\n", " ")
    assert "1 screened" in outcome.err


def test_known_edos_of_several_files_in_any_order(screen, folder, tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.csv"
    one.write_text("a")
    other.write_text("material_id\nrun1/b\n")
    run = ("run", "--source", folder, "--recursive")
    outcome = screen(*run, "--known-edos", one, "--known-edos", other)
    assert "known DOS: 2 of 2 ids name a material that was read" in outcome.err.replace("\n", " ")
    assert screen(*run, "--known-edos", other, "--known-edos", one).code == 0
    with open_store("screening.sqlite") as store:
        first, second = store.runs()
    assert first.parameters == second.parameters  # either order resumes the other
    refused = screen(*run, "--known-edos", one, "--known-edos", "none.csv")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "none.csv" in refused.err
