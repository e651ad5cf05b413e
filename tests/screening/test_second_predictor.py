"""How many candidates a second predictor judges again."""

from __future__ import annotations

import shutil

import pytest

from models.zoo import DEFAULT_EDOS, ZOO
from screening.second_predictor import RESCORE_WITH, RESCORED, n_unless_asked


def test_by_default_those_of_the_default_predictor():
    assert n_unless_asked(DEFAULT_EDOS, RESCORE_WITH) == RESCORED
    assert n_unless_asked(ZOO / "mat2spec-edos", RESCORE_WITH) == 0


@pytest.mark.parametrize(
    ("checkpoint", "preferred"),
    [(DEFAULT_EDOS, 5), (DEFAULT_EDOS, 0), (ZOO / "mat2spec-edos", 5)],
)
def test_what_a_user_prefers_holds_for_all_predictors(checkpoint, preferred):
    assert n_unless_asked(checkpoint, RESCORE_WITH, preferred) == preferred


def test_what_cannot_be_judged_again_is_not(tmp_path):
    copy = tmp_path / RESCORE_WITH.name
    shutil.copytree(RESCORE_WITH, copy)
    for checkpoint in (RESCORE_WITH, copy, ZOO / "springs-phdos"):
        assert n_unless_asked(checkpoint, RESCORE_WITH, 5) == 0
    assert n_unless_asked(DEFAULT_EDOS, DEFAULT_EDOS) == 0
