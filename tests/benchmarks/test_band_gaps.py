"""The benchmark of band gaps, on materials and gaps that were chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.predictor import SpectrumPredictor
from tests.benchmarks.band_gaps import compare, eligible, groups, report

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]).ravel() * 2.82


def salt(number: int = 0, **changes: object) -> dict[str, object]:
    row = {
        "material_id": f"m-{number}",
        "chemsys": "Cl-Na",
        "nsites": 2,
        "band_gap": 5.0,
        "energy_above_hull": 0.0,
        "lattice": FCC,
        "species": [11, 17],
        "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5],
    }
    return row | changes


def test_only_small_stable_nonmagnetic_materials_without_a_label_count() -> None:
    rows = [
        salt(0),
        salt(1, chemsys="Fe-O"),
        salt(2, chemsys="Eu-O"),
        salt(3, chemsys="La-O"),
        salt(4, nsites=13),
        salt(5, energy_above_hull=0.2),
        salt(6, band_gap=None),
        salt(7),
    ]
    assert list(eligible(pd.DataFrame(rows), {"m-7"})["material_id"]) == ["m-0", "m-3"]


@pytest.mark.parametrize("checkpoint", ["tight-binding-edos", None])
def test_gaps_are_those_of_the_predictor(checkpoint: str | None) -> None:
    predictor = SpectrumPredictor.load(checkpoint, "cpu")
    (predicted,) = compare(pd.DataFrame([salt()]), predictor)["predicted"]
    if checkpoint is None:
        assert np.isnan(predicted)
    else:
        assert 2 < predicted < 8


def test_the_tables_count_what_is_there() -> None:
    """Two metals, one of them called so; three insulators with errors of 1, 2 and 2 eV."""
    pairs = [(0.0, 0.0), (0.04, 0.3), (1.0, 2.0), (5.0, 3.0), (2.0, 0.0)]
    systems = ["Al-Mg", "Al-Mg", "O-Zn", "Cl-Na", "O-Ti"]
    found = pd.DataFrame(
        [
            salt(i, chemsys=system, band_gap=gap) | {"predicted": predicted}
            for i, ((gap, predicted), system) in enumerate(zip(pairs, systems, strict=True))
        ]
    )
    parts = list(groups(found, frozenset({"Al", "Mg", "O", "Zn", "Ti", "Na"}), {"O-Zn"}))
    lines = report(found, parts)
    assert "| metal | 1 | 1 |" in lines
    assert "| insulator | 1 | 2 |" in lines
    assert "| all | 5 | 3 | 60.0 (14.7 to 94.7) | 1.667 ± 0.333 | -1.000 ± 1.000 |" in lines
    assert "| oxides | 2 | 2 | 50.0 (1.3 to 98.7) | 1.500 ± 0.500 | -0.500 ± 1.500 |" in lines
    assert "| an element has no label | 1 | 1 | 100.0 (2.5 to 100.0) | - | - |" in lines
    assert "| chemical system has a label | 1 | 1 | 100.0 (2.5 to 100.0) | - | - |" in lines
    assert "| below 0.05 eV | 2 | 0 | 50.0 (1.3 to 98.7) | - | - |" in lines
    assert "| 1 to 2 eV | 1 | 1 | 100.0 (2.5 to 100.0) | - | - |" in lines
    sentence = next(line for line in lines if line.startswith("Of the insulators"))
    assert "66.7 (9.4 to 99.2) % are called so" in sentence
    assert "Where both say insulator, the MAE is 1.500 ± 0.500 eV" in sentence
    assert "is right for 60.0 %" in sentence
