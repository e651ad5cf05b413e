"""What a run is resumed with, and with what it is refused."""

import json
import shutil
from pathlib import Path

import pytest

from db.open import open_store
from screening.errors import ScreeningError
from tests.models.cells import all_cells
from tests.models.model_examples import structure_row
from tests.workflows.screening_examples import StoppedError, good_rows, run, screening_maker
from workflows.progress import reporting_to
from workflows.runs import resumable_run


@pytest.fixture
def maker(tmp_path, structure_table):
    return screening_maker(tmp_path, structure_table)


def test_a_run_is_resumed_with_the_same_model_wherever_it_lies(maker, tmp_path):
    def interrupt(stage, done, total):
        raise StoppedError

    before = tmp_path / "before" / Path(maker.checkpoint).name
    copy = tmp_path / "elsewhere" / before.name
    shutil.copytree(maker.checkpoint, before)
    maker.checkpoint = str(before)
    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    before.parent.rename(copy.parent)
    maker.checkpoint = str(copy)
    assert resumable_run(maker.db, maker.parameters()).run_id == "broken"
    assert run(maker, "broken")["counts"]["screened"] == 7
    card = copy / "sumnorm-kl.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": "0" * 64}))
    with open_store(maker.db) as store:
        store.put_run(store.run("broken").model_copy(update={"state": "interrupted"}))
    with pytest.raises(ScreeningError, match="broken differs in checkpoint"):
        resumable_run(maker.db, maker.parameters())


def test_resuming_with_other_options_names_the_difference(maker):
    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    maker.limit = 2
    with pytest.raises(ScreeningError, match="broken differs in limit"):
        resumable_run(maker.db, maker.parameters())


def test_a_source_that_changed_cannot_be_resumed(maker, structure_table):
    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "broken")
    structure_table(good_rows(3))
    with pytest.raises(ScreeningError, match=r"size and time of change\) is another"):
        run(maker, "broken")


@pytest.mark.slow
def test_a_run_from_before_cells_were_reduced_goes_on_without(maker, structure_table):
    rows = [structure_row(kind, cell) for kind, cell in all_cells("rocksalt").items()]
    maker.source = str(structure_table(rows))

    def interrupt(stage, done, total):
        raise StoppedError

    with pytest.raises(StoppedError), reporting_to(interrupt):
        run(maker, "old")
    with open_store(maker.db) as store:
        old = store.run("old")
        parameters = {k: v for k, v in old.parameters.items() if k != "keep_cell"}
        store.put_run(old.model_copy(update={"parameters": parameters, "funnel": []}))
    with pytest.raises(ScreeningError, match="old differs in keep_cell"):
        resumable_run(maker.db, maker.parameters())
    run(maker, "old")
    with open_store(maker.db) as store:
        found = {c.material_id: c for c in store.candidates("old")}
    assert found["conventional"].nsites == 8
    assert found["conventional"].cell_multiplicity is None
