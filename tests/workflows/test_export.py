"""What an archive says of itself in words."""

from __future__ import annotations

import pytest

from db.open import open_store
from screening.criteria.registry import CRITERION, find_criterion
from tests.workflows.screened_run import crystal, put_run
from workflows.export import readme


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
