"""Candidates are scored while their source is read, whatever comes in between."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from db.open import open_store
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.funnel import Funnel
from screening.sources import open_source
from screening.sources.parquet import ParquetSource
from tests.workflows.screening_examples import (
    REJECTED_ROWS,
    UNREADABLE_ROWS,
    StoppedError,
    documents,
    good_rows,
    run,
    screening_maker,
)
from workflows.progress import reporting_to
from workflows.reading import CandidateReader
from workflows.runs import READ, resumable_run


@pytest.fixture
def maker(tmp_path, structure_table):
    return screening_maker(tmp_path, structure_table)


@pytest.mark.parametrize("stop_at", [("read", 0), ("scored", 0), ("scored", 1)])
def test_an_interrupted_run_ends_as_an_undisturbed_one(maker, stop_at, tmp_path):
    undisturbed = run(maker, "whole")
    whole, maker.db = maker.db, str(tmp_path / "broken.sqlite")
    seen = Counter()

    def interrupt(stage, done, total):
        if (stage, seen[stage]) == stop_at:
            raise StoppedError
        seen[stage] += 1

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    run_id = resumable_run(maker.db, maker.parameters()).run_id
    assert run_id == "broken"
    resumed = run(maker, run_id)
    assert resumed["funnel"] == undisturbed["funnel"]
    assert documents(maker.db, "broken") == documents(whole, "whole")
    with open_store(maker.db) as store, open_store(whole) as other:
        assert store.run("broken").selection == other.run("whole").selection
        assert store.run("broken").state == "done"
    with pytest.raises(ScreeningError, match="no unfinished run"):
        resumable_run(maker.db, maker.parameters())


def parquet_rows(monkeypatch):
    """Numbers of the rows of tables that are looked at from now on."""
    rows, item = [], ParquetSource._item

    def noted(self, table, k, row, seen):
        rows.append(row - 1)
        return item(self, table, k, row, seen)

    monkeypatch.setattr(ParquetSource, "_item", noted)
    return rows


@pytest.mark.parametrize(
    ("limit", "max_sites"),
    [(None, None), (7, 2)],  # a filter that looks at cells needs those of all
)
def test_what_was_stored_before_an_interruption_is_not_made_again(
    maker, limit, max_sites, tmp_path, monkeypatch
):
    monkeypatch.setattr("workflows.reading.READ_BATCH", 3)
    monkeypatch.setattr("workflows.streaming.READ_BATCH", 3)
    maker = replace(maker, limit=limit, filters={"max_sites": max_sites})
    undisturbed = run(replace(maker, db=str(tmp_path / "undisturbed.sqlite")))
    made = []
    block = CandidateReader._block

    def noted(self, judged, passed):
        made.extend(item.item.material_id for item in judged)
        return block(self, judged, passed)

    def interrupt(stage, done, total):
        if stage == "read" and len(made) >= 6:
            raise StoppedError

    monkeypatch.setattr(CandidateReader, "_block", noted)
    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "stopped")
    with open_store(maker.db) as store:
        n_stored = sum(store.candidate_counts("stopped").values())
    assert n_stored == 6
    before = list(made)
    made.clear()
    rows = parquet_rows(monkeypatch)
    resumed = run(maker, "stopped")
    assert resumed["funnel"] == undisturbed["funnel"]
    assert set(made).isdisjoint(before)
    assert rows[0] == 6
    expected = documents(str(tmp_path / "undisturbed.sqlite"), undisturbed["run_id"])
    assert documents(maker.db, "stopped") == expected


def counted(maker, n):
    """Funnel of the first items of a source."""
    filters = ScreeningFilters()
    funnel = Funnel.of(filters)
    for candidate in islice(open_source(Path(maker.source)), n):
        funnel.add(filters.judge(candidate))
    return funnel.as_dicts()


@pytest.mark.parametrize(
    ("what", "first"),
    [("noted by an older program", 0), ("of other filters", 0), ("killed before it was noted", 3)],
)
def test_a_run_goes_on_from_what_it_has_noted(maker, tmp_path, monkeypatch, what, first):
    monkeypatch.setattr("workflows.reading.READ_BATCH", 3)
    undisturbed = run(replace(maker, db=str(tmp_path / "undisturbed.sqlite")))

    def interrupt(stage, done, total):
        seen[stage] += done
        if seen["read"] >= 9:
            raise StoppedError

    seen = Counter()
    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "stopped")
    with open_store(maker.db) as store:
        stopped = store.run("stopped")
        assert stopped.source[READ] == counted(maker, 6)
        assert stopped.funnel == []
        noted = {
            "noted by an older program": [],
            "of other filters": counted(maker, 6)[:-1],
            "killed before it was noted": counted(maker, 3),
        }
        source = stopped.source | {READ: noted[what]}
        store.put_run(stopped.model_copy(update={"source": source}))
    rows = parquet_rows(monkeypatch)
    assert run(maker, "stopped")["funnel"] == undisturbed["funnel"]
    assert rows == list(range(first, 14))
    expected = documents(str(tmp_path / "undisturbed.sqlite"), undisturbed["run_id"])
    assert documents(maker.db, "stopped") == expected
    with open_store(maker.db) as store:
        assert READ not in store.run("stopped").source


def test_a_checkpoint_that_changes_under_way_ends_the_run(maker, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(maker.checkpoint, checkpoint)
    maker.checkpoint = str(checkpoint)

    def change(stage, done, total):
        if stage == "read":
            card = json.loads((checkpoint / "sumnorm-kl.json").read_text())
            card["weights_sha256"] = "0" * 64
            (checkpoint / "sumnorm-kl.json").write_text(json.dumps(card))

    with pytest.raises(ScreeningError, match="has changed since it began"), reporting_to(change):
        run(maker, "changed")
    with open_store(maker.db) as store:
        assert "has changed since it began" in store.run("changed").error


class ScoredError(Exception):
    pass


@pytest.fixture
def scored_with(maker, monkeypatch):
    """Device and processes with which a scoring job predicts."""

    class Predictor:
        def __init__(self, device):
            self.device = device

        def predict_parts(self, crystals, workers):
            raise ScoredError(self.device, workers)

    monkeypatch.setattr(
        "workflows.streaming.deferred_predictor", lambda _, device: Predictor(device)
    )

    def score(device, workers):
        maker.device, maker.workers = device, workers
        with pytest.raises(ScoredError) as scored:
            run(maker)
        return scored.value.args

    return score


def test_a_worker_brings_its_own_device_and_cores(scored_with, monkeypatch):
    monkeypatch.delenv("SCREEN_DEVICE", raising=False)
    monkeypatch.delenv("SCREEN_WORKERS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 7}, raising=False)
    assert scored_with(None, None) == ("auto", 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert scored_with(None, None) == ("auto", 8)
    monkeypatch.setenv("SCREEN_DEVICE", "cuda")
    monkeypatch.setenv("SCREEN_WORKERS", "12")
    assert scored_with(None, None) == ("cuda", 12)
    assert scored_with("cpu", 1) == ("cpu", 1)  # of a run in this process


@pytest.mark.slow
def test_what_a_process_of_its_own_reads_is_the_same(maker):
    source, filters = open_source(Path(maker.source)), ScreeningFilters()
    reader = CandidateReader("r", filters, 3, limit=6, keep_cell=False, trained=None)
    funnel, other = Funnel.of(filters), Funnel.of(filters)
    here = list(reader.blocks(source, funnel))
    assert here == list(reader.blocks_from_process(source, other))
    assert other == funnel
    assert source.can_move


@pytest.mark.slow
def test_a_run_whose_predictions_are_known_loads_no_torch(maker, structure_table):
    rows = good_rows() + REJECTED_ROWS + UNREADABLE_ROWS
    maker.source = str(structure_table(rows, "good.parquet"))
    run(maker)
    code = (
        "import sys\n"
        "from workflows.local import run_flow\n"
        "from workflows.screening import ScreeningFlowMaker\n"
        f"maker = ScreeningFlowMaker(db={maker.db!r}, source={maker.source!r}, rescore=0)\n"
        "assert run_flow(maker.make())['counts']['reused'] == 7\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
