import warnings

import pytest

from models.elements import STAND_INS
from workflows.dos.gpaw.remarks import remarks as gpaw_remarks
from workflows.dos.remarks import FROZEN_4F, HUBBARD_U
from workflows.dos.vasp.remarks import remarks as vasp_remarks


@pytest.mark.parametrize("remarks", [gpaw_remarks, vasp_remarks])
def test_plain_metals_need_no_words(remarks):
    assert remarks(["Mg", "Al", "La", "O"], spin_polarized=False) == []


def test_each_special_element_is_named():
    text = " ".join(gpaw_remarks(["Nd", "Fe", "O"], spin_polarized=False))  # Nd itself
    assert "Nd_3" in text
    assert "Fe, Nd: computed without spin" in text
    assert "Hubbard U" in text
    assert "Hubbard" not in " ".join(gpaw_remarks(["Fe", "S"], False))
    assert "5f" in " ".join(vasp_remarks(["U", "O"], True))
    assert "ferromagnetic start" in " ".join(gpaw_remarks(["Fe"], True))


def test_tables_are_those_of_the_materials_project():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.io.vasp.sets import MPRelaxSet
    potcars = MPRelaxSet.CONFIG["POTCAR"]
    assert {e: potcars[e] for e in FROZEN_4F} == FROZEN_4F
    assert set(STAND_INS) == set(FROZEN_4F) - {"Yb", "Lu"} | {"Gd"}
    assert potcars["Gd"] == "Gd"
    assert set(HUBBARD_U) == set(MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["O"])
    assert set(HUBBARD_U) == set(MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["F"])
