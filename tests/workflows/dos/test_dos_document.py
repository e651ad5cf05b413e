import json

import numpy as np
import pytest
from monty.json import MontyDecoder, MontyEncoder
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from workflows.dos.document import DosDocument, recipe_id
from workflows.dos.errors import DosError

SILICON = Structure(
    Lattice([[0, 2.73, 2.73], [2.73, 0, 2.73], [2.73, 2.73, 0]]),
    ["Si", "Si"],
    [[0, 0, 0], [0.25, 0.25, 0.25]],
)


def fields(**changes):
    energies = np.linspace(-9, 11, 401)
    document = {
        "material_id": "mp-149",
        "structure": SILICON,
        "engine": "gpaw",
        "engine_version": "26.7.0",
        "recipe": "gpaw-pbe-test",
        "settings": {"ecut": 400.0},
        "energies": energies,
        "dos": np.where((energies > 1) & (energies < 1.5), 0.0, 2.0),
        "efermi": 1.2,
        "vbm": 1.0,
        "cbm": 1.5,
        "band_gap": 0.5,
        "energy": -10.8,
        "n_electrons": 8,
        "kmesh_scf": (8, 8, 8),
        "kmesh_dos": (12, 12, 12),
        "emax": 10.0,
        "wall_time": 12.5,
    }
    return {**document, **changes}


def test_document_survives_json():
    document = DosDocument(**fields(warnings=["one"], magnetization=0.0))
    for text in (document.model_dump_json(), json.dumps(document.model_dump(mode="json"))):
        assert DosDocument.model_validate_json(text) == document
    decoded = json.loads(json.dumps(document, cls=MontyEncoder), cls=MontyDecoder)
    assert decoded == document
    assert decoded.structure == SILICON


def test_document_is_frozen_and_refuses_unknown_fields():
    document = DosDocument(**fields())
    with pytest.raises(ValidationError):
        document.efermi = 0.0
    with pytest.raises(ValidationError, match="colour"):
        DosDocument(**fields(colour="blue"))


def test_formula_and_energy_axis():
    document = DosDocument(**fields())
    assert document.formula == "Si"
    assert document.relative_energies[0] == pytest.approx(-10.2)
    assert document.to_pymatgen().efermi == 1.2
    assert not document.is_metal
    assert document.is_magnetic is None
    assert DosDocument(**fields(magnetization=-2.1)).is_magnetic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energies": np.zeros(401)}, "do not increase"),
        ({"dos": np.ones(400)}, "400 DOS values"),
        ({"dos": np.full(401, np.nan)}, "finite"),
        ({"dos": np.full(401, -0.5)}, "negative"),
        ({"band_gap": 0.4}, "band_gap"),
        ({"efermi": 3.0}, "Fermi level"),
        ({"energy": float("inf")}, "finite"),
        ({"engine": "abinit"}, "engine"),
    ],
)
def test_wrong_numbers_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        DosDocument(**fields(**changes))


def test_negative_noise_is_clipped_and_reported():
    dos = np.ones(401)
    dos[7] = -1e-4
    document = DosDocument(**fields(dos=dos))
    assert min(document.dos) == 0.0
    assert document.warnings == ("negative DOS down to -1.0e-04 states/eV/cell set to zero",)


@pytest.mark.parametrize("changes", [{"emax": 5.4}, {"energies": np.linspace(-2.9, 11, 401)}])
def test_dos_that_misses_the_window_names_what_it_covers(changes):
    with pytest.raises(DosError, match="compute more bands"):
        DosDocument(**fields(**changes))


def test_recipe_follows_the_settings_but_not_their_order():
    one = recipe_id("x", {"a": 1, "b": [1, 2]})
    assert one == recipe_id("x", {"b": [1, 2], "a": 1})
    assert one != recipe_id("x", {"a": 2, "b": [1, 2]})
    assert one.startswith("x-")
