"""What an archive says of itself in words, and what its reader may do."""

from __future__ import annotations

import pytest

from db.copy import copy_store
from db.open import open_source, open_store
from screening.criteria.registry import CRITERION, find_criterion
from tests.workflows.analytic_dos import RECIPE, AnalyticDosMaker
from tests.workflows.screened_run import candidate, crystal, put_run, validation
from workflows.export import export_run, readme
from workflows.plan import choose_validation


@pytest.mark.parametrize(
    ("criterion", "unit", "other"),
    [("steep-edge", "states/eV/cell", "cm^-1"), ("phonon-gap", "cm^-1", "eV")],
)
def test_spectra_have_the_units_of_their_sort(tmp_path, criterion, unit, other):
    with open_store(tmp_path / "s.sqlite") as store:
        run = put_run(store, {"mp-1": crystal(0)})
        run.parameters[CRITERION] = find_criterion(criterion).definition()
        text = readme(store, run, [], with_raw_dos=False)
    assert unit in text
    assert other not in text


def test_what_waits_on_a_launchpad_elsewhere_is_calculated_here(tmp_path):
    waits = {"recipe": RECIPE, "state": "queued", "error": None, "job_uuids": ["theirs"]}
    with open_store(tmp_path / "theirs.sqlite") as theirs:
        run = put_run(theirs, {"m": crystal(0)}, ["m"])
        queued = validation(candidate("run-1", "m", crystal(0)), None, **waits)
        theirs.upsert_validations([queued])
        export_run(theirs, run, tmp_path / "run.zip")
        assert choose_validation(theirs, run, AnalyticDosMaker()).todo == ()
    with open_store(tmp_path / "mine.sqlite") as mine:
        for job_uuids in (["mine"], None):  # a second copy leaves it on the launchpad here
            with open_source(tmp_path / "run.zip") as archive:
                copy_store(archive, mine)
            todo = choose_validation(mine, mine.run("run-1"), AnalyticDosMaker()).todo
            assert [c.material_id for c in todo] == (["m"] if job_uuids else [])
            if job_uuids:
                mine.upsert_validations([queued.model_copy(update={"job_uuids": job_uuids})])
