import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from db.open import open_store
from models.spectra.spectrum import EDOS_GRID
from models.zoo import DEFAULT_EDOS
from screening.cli.run import CRITERION, LARGE
from screening.criteria.gap_criterion import VB_GAP
from screening.gap import find_gaps
from screening.second_predictor import RESCORED
from tests.conftest import crystal_row


@pytest.fixture
def table(structure_table):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg"), ("Ti", "C"), ("Ce", "N")]
    rows = [crystal_row(f"m-{i}", 3.3 + 0.05 * i, pairs[i % 6]) for i in range(12)]
    rows[3]["energy_above_hull"] = 0.6
    return structure_table(rows)


EASY = ("--max-dos", 1000, "--min-width", 0.1, "--max-upper-edge", 5)


@pytest.mark.slow
def test_run_prints_the_funnel_on_stderr_and_the_positives_on_stdout(screen, table):
    outcome = screen("run", "--source", table, *EASY)
    assert outcome.code == 0
    assert "11 predicted positives" in outcome.out
    assert "m-0" in outcome.out
    assert "NaCl" in outcome.out
    assert "energy_above_hull" in outcome.err
    assert "11 screened, 11 positive, 0 without a prediction" in outcome.err
    words = " ".join(outcome.err.split())
    counted = r"Positives in the model's domain: (\d+); near it: (\d+); out of it: (\d+) \(not"
    inside, near, outside = map(int, re.search(counted, words).groups())
    assert inside + near + outside == 11
    assert "(not trained on Ce; " in words
    (row,) = json.loads(screen("runs", "--json").out)
    assert (row["positive"], row["positive_in_domain"]) == (11, inside)


@pytest.mark.slow
def test_a_second_predictor_judges_the_best_again(screen, table, tmp_path):
    outcome = screen("run", "--source", table, "--rescore", 3, *EASY)
    words = " ".join(outcome.err.split())
    assert "3 of them judged again by tight-binding-edos: 0 no longer positive, 0 now" in words
    assert "refused" not in words
    columns = ("judged by", "first positive", "first score eV")
    assert all(name in outcome.out for name in columns)
    rows = json.loads(screen("candidates", "--json").out)
    again = [row for row in rows if row["first_model_id"]]
    assert len(again) == 3
    assert all(row["model_id"].startswith("tight-binding-edos-") for row in again)
    rest = [row for row in rows if not row["first_model_id"]]
    assert max(row["score"] for row in rest) <= min(row["first_score"] for row in again)
    assert {row["model_id"].rpartition("-")[0] for row in rest} == {"mat2spec-plus-edos"}
    name, score = again[0]["material_id"], again[0]["first_score"]
    first = f"mat2spec-plus-edos: positive, score {score:.2f}"
    shown = screen("show", name).out
    assert first in shown
    assert f"predicted by {again[0]['model_id']}" in shown
    document = json.loads(screen("show", name, "--json").out)
    assert document["first_verdict"]["score"] == score
    assert first in screen("history", name).out
    (run,) = json.loads(screen("runs", "--json").out)
    assert run["second_model_id"] == again[0]["model_id"]
    screen("candidates", "--out", "all.csv")
    with (tmp_path / "all.csv").open() as file:
        assert {row["first_is_positive"] for row in csv.DictReader(file)} == {"True", ""}
    # without one nothing speaks of it
    plain = screen("run", "--source", table, "--rescore", 0, *EASY)
    assert not any(name in plain.out for name in columns)
    assert "again" not in plain.err


def test_the_help_says_how_many_are_judged_again(screen):
    words = " ".join(screen("run", "--help").out.replace("│", " ").split())
    assert f"Default: {RESCORED}" in words


def test_a_key_that_is_none_is_no_reason_for_another_source(screen, tmp_path, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "x" * 16)
    outcome = screen("run", "--limit", 2)
    assert outcome.code == 1
    assert "legacy" in outcome.err
    assert not (tmp_path / "screening.sqlite").exists()


def test_a_folder_called_like_the_default_is_used_and_said(screen, table, tmp_path):
    shutil.copytree(DEFAULT_EDOS, tmp_path / DEFAULT_EDOS.name)
    outcome = screen("run", "--source", table, "--limit", 2)
    words = f"The folder {DEFAULT_EDOS.name} here is used, not the shipped predictor"
    assert words in " ".join(outcome.err.split())
    assert outcome.code == 0


def test_run_quiet_prints_the_table_only(screen, table):
    outcome = screen("run", "--source", table, "--quiet", *EASY)
    assert outcome.err == ""
    assert "11 predicted positives" in outcome.out


def test_run_json(screen, table):
    outcome = screen("run", "--source", table, "--json", "--top", 3, *EASY)
    summary = json.loads(outcome.out)
    assert summary["counts"]["screened"] == 11
    assert summary["funnel"][1] == {
        "name": "energy_above_hull",
        "entered": 12,
        "dropped": 1,
        "unknown": 0,
    }
    scores = [row["score"] for row in summary["positives"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_without_a_key_prototypes_are_screened(screen):
    outcome = screen("run", "--limit", 2)
    assert outcome.code == 0
    assert "No Materials Project key" in outcome.err
    assert "2 screened" in outcome.err


@pytest.mark.slow
def test_filters_are_options(screen, table):
    outcome = screen(
        "run", "--source", table, "--max-ehull", "inf", "--elements", "Na", "--json", *EASY
    )
    found = {row["formula"] for row in json.loads(outcome.out)["positives"]}
    assert found == {"NaCl"}
    outcome = screen("run", "--source", table, "--exclude-elements", "Na,Ce", "--json", *EASY)
    assert not {"NaCl", "CeN"} & {r["formula"] for r in json.loads(outcome.out)["positives"]}
    assert json.loads(outcome.out)["counts"]["screened"] == 7
    outcome = screen("run", "--source", table, "--unknown", "drop", "--json", *EASY)
    assert json.loads(outcome.out)["counts"]["rejected"] == 12


def one_line(outcome, *words):
    """The command failed and said why in one line."""
    assert outcome.code != 0
    lines = [line for line in outcome.err.splitlines() if line.startswith("screen: ")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


@pytest.mark.slow
def test_bad_input_ends_in_one_line(screen, table, tmp_path, structure_table):
    one_line(screen("run", "--source", "nowhere.parquet"), "nowhere.parquet")
    (tmp_path / "structure.docx").write_text("no")
    one_line(screen("run", "--source", "structure.docx"), "structure.docx", ".cif")
    rows = [{k: v for k, v in crystal_row("a", 4.0, ["Na"]).items() if k != "species"}]
    one_line(screen("run", "--source", structure_table(rows, "no.parquet")), "species")
    (tmp_path / "bad.cif").write_text("this is not a CIF")
    one_line(screen("run", "--source", "bad.cif"), "bad.cif")
    one_line(screen("run", "--source", table, "--limit", -1), "--limit")
    one_line(screen("run", "--source", table, "--max-ehull", -1), "--max-ehull -1.0: input should")
    one_line(screen("run", "--source", table, "--max-gap", -1), "--max-gap -1.0: input should")
    one_line(screen("run", "--source", table, "--max-elements", 0), "--max-elements 0: input")
    one_line(screen("run", "--source", table, "--max-dos", -1), "--max-dos -1.0: input should")
    both = ("--elements", "Na", "--exclude-elements", "Na,K")
    one_line(screen("run", "--source", table, *both), "--elements and --exclude-elements", "Na")
    one_line(screen("run", "--source", table, "--elements", "Xx"), "--elements Xx:")
    one_line(screen("run", "--source", table, "--unknown", "maybe"), "unknown")
    one_line(screen("run", "--source", table, "--db", tmp_path), str(tmp_path))
    one_line(screen("run", "--source", table, "--resume"), "no unfinished run")
    one_line(screen("run", "--source", table, "--where", "moon"), "--where", "moon", "launchpad")
    one_line(screen("run", "--source", table, "--where", "launchpad"), "launchpad.yaml")
    one_line(screen("run", "--source", table, "--checkpoint", "nowhere"), "nowhere")
    one_line(screen("run", "--source", table, "--rescore-with", "nowhere"), "nowhere")
    one_line(screen("run", "--source", table, "--rescore", -1), "--rescore", "-1")
    same = ("--rescore", 5, "--rescore-with", "mat2spec-plus-edos")
    one_line(screen("run", "--source", table, *same), "--rescore-with", "is the model of the run")


def test_wrong_options_end_before_anything_is_made(screen, table, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = set(tmp_path.iterdir())
    one_line(screen("run", "--source", table, "--db", "typo/s.sqlite"), "no folder typo")
    for db in ("", ".", "/", tmp_path):
        one_line(screen("run", "--source", table, "--db", db), f"--db {str(db)!r} names no file")
    assert not tmp_path.with_suffix(".logs").exists()
    one_line(screen("run", "--source", table, "--known-edos", "known.csv"), "known.csv")
    if not torch.backends.cuda.is_built():
        one_line(screen("run", "--source", table, "--device", "cuda"), "device cuda")
        one_line(screen("predict", table, "--device", "cuda"), "device cuda")
    damaged = tmp_path.parent / f"{tmp_path.name}-damaged"
    shutil.copytree(DEFAULT_EDOS, damaged)
    (damaged / "standard-mae.safetensors").write_bytes(b"no weights")
    one_line(screen("run", "--source", table, "--checkpoint", damaged), "hash")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("how", [(), ("--quiet",), ("--json",)])
def test_a_file_that_failed_is_named_and_does_not_stop_the_others(screen, tmp_path, how):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "POSCAR").write_text(
        "NaCl\n1.0\n4.0 0 0\n0 4.0 0\n0 0 4.0\nNa Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
    )
    (folder / "bad.cif").write_text("this is not a CIF")
    outcome = screen("run", "--source", folder, *how)
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("screen: ")]
    assert line.startswith("screen: 1 structure could not be judged: bad")
    if "--json" in how:
        ((name, reason),) = json.loads(outcome.out)["failures"].items()
        assert "bad" in name
        assert reason

    (folder / "POSCAR").write_text((folder / "POSCAR").read_text().replace("0.5 0.5 0.5", "0 0 0"))
    assert screen("run", "--source", folder, *how).code == 1  # nothing could be judged


def test_a_damaged_list_of_training_materials_ends_in_one_line(screen, table, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(DEFAULT_EDOS, damaged)
    (damaged / "training_materials.safetensors").write_bytes(b"no embeddings")
    for command in (("run", "--source"), ("predict",)):
        words = "training materials", "its hash is not the one in"
        one_line(screen(*command, table, "--checkpoint", damaged), *words)


def test_damaged_checkpoints_end_in_one_line(screen, table, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(DEFAULT_EDOS, damaged)
    weights = damaged / "sumnorm-kl.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    one_line(screen("run", "--source", table, "--checkpoint", damaged), "hash")

    other = tmp_path / "other"
    shutil.copytree(DEFAULT_EDOS, other)
    for name in ("sumnorm-kl", "standard-mae"):
        card = other / f"{name}.json"
        document = json.loads(card.read_text())
        document["grid"]["start"] = -5.0
        card.write_text(json.dumps(document))
    one_line(screen("run", "--source", table, "--checkpoint", other), "from -5 eV", "from -4 eV")


def test_a_file_in_the_way_of_the_store(screen, table, tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, and too long to be an empty one\n" * 99)
    one_line(screen("run", "--source", table, "--db", "notes.txt"), "notes.txt")


@pytest.mark.slow
def test_candidates_lists_and_exports(screen, table, tmp_path):
    screen("run", "--source", table, *EASY)
    assert "11 candidates of run" in screen("candidates").out
    assert "1 candidates of run" in screen("candidates", "--state", "rejected").out
    rows = json.loads(screen("candidates", "--elements", "Na", "--json").out)
    assert {row["formula"] for row in rows} == {"NaCl"}
    outcome = screen("candidates", "--all", "--out", "all.csv", "--sort", "material_id")
    assert "12 rows in all.csv" in outcome.err
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[0]["material_id"] == "m-9"
    assert {"score", "gap_width", "energy_above_hull", "structure_hash"} <= rows[0].keys()
    one_line(screen("candidates", "--sort", "beauty"), "beauty")
    one_line(screen("candidates", "--db", "other.sqlite"), "other.sqlite")
    (tmp_path / "full.csv").symlink_to("/dev/full")
    one_line(screen("candidates", "--out", "full.csv"), "No space left on device")
    one_line(screen("candidates", "--out", "all.docx"), ".csv, .json, .parquet")


@pytest.mark.slow
def test_show_prints_plots_and_writes(screen, table, tmp_path):
    screen("run", "--source", table, *EASY)
    outcome = screen("show", "m-1", "--plot", "m-1.png")
    assert outcome.code == 0
    assert "MgO" in outcome.out
    assert "DOS (states/eV/cell)" in outcome.out
    assert (tmp_path / "m-1.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads(screen("show", "m-1", "--json").out)
    assert len(document["spectrum"]) == document["grid"]["size"] == 128
    nearest = document["nearest_training_materials"]
    assert len(nearest) == 3
    mean = sum(material["distance"] for material in nearest) / 3
    assert mean == pytest.approx(document["training_distance"], rel=1e-3)
    assert document["member_spread"] > 0
    for material in nearest:
        assert {"formula", "is_positive", "wd"} <= material.keys()
        assert material["material_id"] in outcome.out
    assert "Ce" in screen("show", "m-5").out
    one_line(screen("show", "m-99"), "m-99")
    one_line(screen("show", "m-1", "--plot", "m-1.docx"), "docx")


@pytest.mark.slow
def test_predict_own_structures(screen, tmp_path):
    poscar = "NaCl\n1.0\n4.0 0 0\n0 4.0 0\n0 0 4.0\nNa Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 {z}\n"
    (tmp_path / "POSCAR").write_text(poscar.format(z=0.5))
    outcome = screen("predict", "POSCAR", "--plot", "nacl.png")
    assert outcome.code == 0
    assert "NaCl" in outcome.out
    assert (tmp_path / "nacl.png").exists()
    document = json.loads(screen("predict", "POSCAR", "--json").out)
    (row,) = document["predictions"]
    assert len(row["spectrum"]) == 128
    alone = find_gaps(EDOS_GRID, row["spectrum"], n_atoms=[2])
    assert {name: row[name] for name in alone.row(0)} == alone.row(0)
    assert row["score"] == alone.score[0]
    assert f"{row['margins']['max_dos']:+.3f} states/eV/cell" in outcome.out
    assert "robust" in outcome.out
    single = json.loads(screen("predict", "POSCAR", "--single-gap", "--json").out)
    assert single["predictions"][0]["holds"]["single_gap"] is (row["n_ranges"] == 1)

    (tmp_path / "POSCAR.overlap").write_text(
        poscar.format(z=0.5).replace("0.5 0.5 0.5", "0 0 0.01")
    )
    outcome = screen("predict", "POSCAR", "POSCAR.overlap")
    assert "overlap" in outcome.err
    assert "NaCl" in outcome.out
    assert outcome.code == 1
    one_line(screen("predict", "nowhere.cif"), "nowhere.cif")


def test_doctor_says_what_is_missing(screen):
    outcome = screen("doctor", "--json")
    found = {line["what"]: line for line in json.loads(outcome.out)}
    assert found["checkpoint"]["usable"]
    for part in ("architecture mat2spec+", "mat2spec-plus-edos (the default), mat2spec-edos"):
        assert part in found["checkpoint"]["found"]
    assert not found["Materials Project key"]["usable"]
    assert "MP_API_KEY" in found["Materials Project key"]["found"]
    assert outcome.code == 0
    assert screen("doctor", "--checkpoint", "nowhere").code == 1
    named = json.loads(screen("doctor", "--checkpoint", "mat2spec-edos", "--json").out)
    assert "architecture mat2spec," in {line["what"]: line for line in named}["checkpoint"]["found"]


def found_of_vasp(out):
    (found,) = [line for line in json.loads(out) if line["what"] == "VASP"]
    assert not found["usable"]
    return found["found"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "problem"), [("", "empty"), ("mpirun 'vasp_std", "quotation")])
def test_doctor_says_what_is_wrong_with_the_command_of_vasp(screen, monkeypatch, command, problem):
    monkeypatch.setattr("atomate2.SETTINGS.VASP_CMD", command)
    outcome = screen("doctor", "--json")
    assert outcome.code == 0
    assert problem in found_of_vasp(outcome.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("VASP_CMD:\n", "(VASP_CMD: Input should be a valid string)"),
        ("VASP_CMD: [vasp_std\n", "line 2 is no YAML"),
    ],
)
def test_doctor_says_what_is_wrong_with_the_file_of_atomate(tmp_path, content, reason):
    file = tmp_path / "atomate2.yaml"
    file.write_text(content)
    doctor = subprocess.run(
        [Path(sys.executable).with_name("screen"), "doctor", "--json"],
        env={**os.environ, "ATOMATE2_CONFIG_FILE": str(file)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = found_of_vasp(doctor.stdout)
    assert found.startswith(f"atomate2 refuses {file} or an ATOMATE2_ variable")
    assert reason in found
    assert "\n" not in found


def test_train_bad_config(screen, tmp_path):
    one_line(screen("train", "nowhere.yaml"), "nowhere.yaml")
    (tmp_path / "c.yaml").write_text(
        "name: x\nlabels: [l.parquet]\nstructures: s.parquet\nepoch: 3\n"
    )
    one_line(screen("train", "c.yaml"), "epoch")
    (tmp_path / "c.yaml").write_text("name: x\nlabels: [l.parquet]\nstructures: s.parquet\n")
    one_line(screen("train", "c.yaml"), "l.parquet")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['screen', '--help']\n"
        "from screening.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'torch', 'pymatgen', 'jobflow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_worker_loads_the_model_before_this_process_imports_the_rest(tmp_path):
    (tmp_path / "large.parquet").write_bytes(bytes(LARGE))
    code = (
        "import os, sys; sys.argv = ['screen', 'run', '--source', 'large.parquet']\n"
        "from models.deferred_predictor import DeferredPredictor\n"
        "def start(predictor, workers):\n"
        "    heavy = {'torch', 'scipy', 'pymatgen', 'jobflow', 'pyarrow'} & set(sys.modules)\n"
        "    os._exit(1 if heavy else 42)\n"
        "DeferredPredictor.start = start\n"
        "from screening.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True)
    assert ended.returncode == 42


def test_the_default_criterion_is_the_gap():
    assert CRITERION == VB_GAP


# `screen` that kills itself when it has kept so many predictions.
KILLED = """
import os, signal, sys
from screening.cli import script
from workflows.scoring import Scorer

keep, left = Scorer.keep, int(sys.argv.pop(1))

def keep_and_die(scorer, candidates, predicted):
    global left
    failed = keep(scorer, candidates, predicted)
    left -= len(candidates)
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return failed

Scorer.keep = keep_and_die
script()
"""


def _predicted(store):
    (run,) = store.runs()
    candidates = list(store.candidates(run.run_id))
    models = filter(None, (run.model_id, run.second_model_id))
    keys = itertools.product(((c.material_id, c.structure_hash) for c in candidates), models)
    return store.has_predictions((*structure, model) for structure, model in keys if structure[1])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "at_least", "rescored"), [(2000, 20, 0), (200, 220, 150)])
def test_kill_9_and_resume_give_the_same_documents(
    screen, tmp_path, structure_table, n, at_least, rescored
):
    pairs = [("Na", "Cl"), ("Mg", "O"), ("Al", "Cu"), ("Li", "Mg")]
    rows = [crystal_row(f"m-{i}", 3.2 + 0.002 * i, pairs[i % 4]) for i in range(n)]
    table = structure_table(rows, "many.parquet")
    options = ("--source", table, "--shard-size", 20, "--workers", 1, "--rescore", rescored)
    db = tmp_path / "killed.sqlite"
    command = [sys.executable, "-c", KILLED, at_least, "run", *options, "--db", db]
    killed = subprocess.run(
        list(map(str, command)), stderr=subprocess.DEVNULL, timeout=500, check=False
    )
    assert killed.returncode == -signal.SIGKILL

    with open_store(str(db)) as store:
        before = {p.key: p.created_at for p in store.predictions(_predicted(store))}
        assert store.runs()[0].state == "running"
    assert at_least <= len(before) < n + rescored
    assert screen("run", *options, "--db", db, "--resume").code == 0
    assert screen("run", *options, "--db", tmp_path / "whole.sqlite").code == 0
    with open_store(str(db)) as store, open_store(str(tmp_path / "whole.sqlite")) as whole:
        (run,), (other,) = store.runs(), whole.runs()
        assert run.state == "done"
        assert run.selection == other.selection
        assert run.counts == other.counts
        ours, theirs = (
            [
                c.model_dump(exclude={"run_id"})
                for c in s.candidates(r.run_id, with_structure=True, sort_by="material_id")
            ]
            for s, r in ((store, run), (whole, other))
        )
        assert ours == theirs
        after = {p.key: p for p in store.predictions(_predicted(store))}
        assert {k: after[k].created_at for k in before} == before
        assert {k: p.spectrum for k, p in after.items()} == {
            p.key: p.spectrum for p in whole.predictions(_predicted(whole))
        }
