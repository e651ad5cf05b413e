import warnings

from workflows.dos.elements import FROZEN_4F, HUBBARD_U, engine_warnings


def test_plain_metals_need_no_words():
    for engine in ("gpaw", "vasp"):
        assert engine_warnings(["Mg", "Al", "La", "O"], engine, spin_polarized=False) == []


def test_each_special_element_is_named():
    text = " ".join(engine_warnings(["Nd", "Fe", "O"], "gpaw", spin_polarized=False))
    assert "Nd_3" in text
    assert "Fe, Nd: computed without spin" in text
    assert "Hubbard U" in text
    assert "Hubbard" not in " ".join(engine_warnings(["Fe", "S"], "gpaw", False))
    assert "5f" in " ".join(engine_warnings(["U", "O"], "vasp", True))
    assert "ferromagnetic start" in " ".join(engine_warnings(["Fe"], "gpaw", True))


def test_tables_are_those_of_the_materials_project():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.io.vasp.sets import MPRelaxSet
    potcars = MPRelaxSet.CONFIG["POTCAR"]
    assert {e: potcars[e] for e in FROZEN_4F} == FROZEN_4F
    assert set(HUBBARD_U) == set(MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["O"])
    assert set(HUBBARD_U) == set(MPRelaxSet.CONFIG["INCAR"]["LDAUU"]["F"])
