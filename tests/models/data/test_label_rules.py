"""Labels that physics forbids, on crystals whose nature is known."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.data import covalent_radii
from pymatgen.core import Lattice, Structure

from models.crystal import Crystal
from models.data.dataset import edos_dataset
from models.data.label_files import edos_labels, read_crystals
from models.data.label_rules import Origin, isolated_atoms, open_shell, why_forbidden
from models.errors import ModelError
from tests.models.model_examples import (
    edos_label,
    label_row,
    random_crystals,
    rocksalt,
    structure_row,
)
from tests.models.model_examples import write_rows as write

COMMITTED = Path(__file__).parents[3] / "models" / "data" / "edos_labels.parquet"
METAL = Origin(gap=0.0)


def cubic(a: float, species: list[str], sites: list[list[float]], group: str = "P1") -> Crystal:
    cell = Structure.from_spacegroup(group, Lattice.cubic(a), species, sites)
    return Crystal.from_structure(cell.get_primitive_structure())


def fluorite(a: float, cation: str, anion: str) -> Crystal:
    lattice, sites = a / 2 * (1 - np.eye(3)), [[0] * 3, [0.25] * 3, [0.75] * 3]
    return Crystal.from_structure(Structure(lattice, [cation, anion, anion], sites))


def perovskite(a: float, *species: str) -> Crystal:
    return cubic(a, list(species), [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]], "Pm-3m")


NITROGEN = cubic(5.0, ["N"], [[0, 0, 0]])
VO = rocksalt(4.06, 23, 8)
# The ammonium chloride of CsCl type, N-H 1.03 Å: the anion touches hydrogen only.
NH4CL = cubic(3.87, ["Cl", "N", "H"], [[0, 0, 0], [0.5] * 3, [0.6537] * 3], "P-43m")
# A large cage: Si-B 3.04 Å, 1.56 times the sum of the covalent radii.
SIB6 = cubic(4.17, ["Si", "B"], [[0, 0, 0], [0.5, 0.5, 0.2]], "Pm-3m")


@pytest.mark.parametrize(
    ("crystal", "reason"),
    [
        (NITROGEN, "isolated atoms"),
        (cubic(3.84, ["H"], [[0, 0, 0]]), "isolated atoms"),
        (cubic(4.0, ["O"], [[0, 0, 0]]), "oxygen molecules are magnetic"),
        (cubic(5.0, ["K", "O", "O"], [[0, 0, 0], [0.5, 0.5, 0.37], [0.5, 0.5, 0.63]]), "oxygen"),
        (VO, r"V2\+ is magnetic"),
        (fluorite(5.15, "Ti", "F"), r"Ti2\+ is magnetic"),
        (perovskite(4.13, "K", "V", "F"), r"V2\+ is magnetic"),
        (cubic(3.89, ["Ti", "F"], [[0, 0, 0], [0.5, 0, 0]], "Pm-3m"), r"Ti3\+ is magnetic"),
        (rocksalt(4.25, 29, 8), r"Cu2\+ is magnetic"),
        (rocksalt(4.19, 28, 8), "Ni is magnetic"),
        (rocksalt(5.14, 59, 7), "Pr is a lanthanide"),
        (rocksalt(4.89, 92, 7), "U is an actinide"),
    ],
)
def test_what_is_not_the_material_without_spin(crystal: Crystal, reason: str) -> None:
    assert why_forbidden(crystal, METAL).startswith(reason.replace("\\", ""))


@pytest.mark.parametrize(
    "crystal",
    [
        rocksalt(),
        NH4CL,
        SIB6,
        rocksalt(4.24, 22, 7),  # TiN, VC: metals of 3d bands
        rocksalt(4.16, 23, 6),
        rocksalt(4.45, 21, 8),  # ScO
        cubic(2.83, ["Ti", "Al"], [[0, 0, 0], [0.5] * 3]),  # intermetallics
        cubic(3.78, ["V", "Al"], [[0, 0, 0], [0.5, 0.5, 0]], "Pm-3m"),  # VAl3
        perovskite(3.91, "Sr", "Ti", "O"),  # Ti4+ without 3d electrons
        fluorite(4.8, "Ti", "O"),
        rocksalt(4.27, 29, 9),  # Cu+ with ten
        fluorite(6.0, "O", "Cu"),  # of the formula Cu2O
        perovskite(3.9, "Na", "Ti", "O"),  # no more than Ti4+: a hole of oxygen
        rocksalt(5.7, 57, 7),
        cubic(3.5, ["K", "O", "O"], [[0, 0, 0], [0.5, 0.5, 0.29], [0.5, 0.5, 0.71]]),  # peroxide
    ],
)
def test_what_is(crystal: Crystal) -> None:
    assert why_forbidden(crystal, METAL) == ""


def test_vanadium_pentoxide_has_no_3d_electrons() -> None:
    """Only the composition counts."""
    sites = [[i / 7, 0, 0] for i in range(7)]
    assert open_shell(Crystal(np.diag([14.0, 3, 3]), sites, [23, 23, 8, 8, 8, 8, 8])) == ""
    assert open_shell(Crystal(np.diag([14.0, 3, 3]), sites[:5], [23, 23, 8, 8, 8])) == "V3+"
    # Low spin of eight 3d electrons in a square; nine in the square of another cuprate.
    assert open_shell(Crystal(np.diag([14.0, 3, 3]), sites[:4], [11, 29, 8, 8])) == ""
    assert open_shell(Crystal(np.diag([14.0, 3, 3]), sites[:4], [20, 29, 8, 8])) == "Cu2+"


def test_a_metal_of_titanium_and_oxygen_is_believed_when_the_source_says_so() -> None:
    tio, tif2 = rocksalt(4.18, 22, 8), fluorite(5.15, "Ti", "F")
    assert why_forbidden(tio, METAL) == "Ti2+ is magnetic"
    assert why_forbidden(tio, Origin(gap=0.0, source_gap=0.0)) == ""
    assert why_forbidden(tio, Origin(gap=0.0, source_gap=0.4)) == "Ti2+ is magnetic"
    for crystal in (tif2, VO):  # moments, but no gap: the source is no argument
        assert why_forbidden(crystal, Origin(gap=0.0, source_gap=0.0)).endswith("is magnetic")


def test_a_metal_where_the_source_has_a_wide_gap() -> None:
    reason = "a metal, but the source's band gap is above 1 eV"
    for spin in (False, True):
        assert why_forbidden(rocksalt(), Origin(spin, gap=0.0, source_gap=1.01)) == reason
        assert why_forbidden(rocksalt(), Origin(spin, gap=0.0, source_gap=0.99)) == ""
        assert why_forbidden(rocksalt(), Origin(spin, gap=0.3, source_gap=6.0)) == ""
        assert why_forbidden(rocksalt(), Origin(spin, gap=None, source_gap=6.0)) == ""


def test_moments_that_were_allowed_and_not_found_are_believed() -> None:
    spin = Origin(spin=True, gap=0.0)
    for crystal in (VO, rocksalt(2.9, 28, 13), rocksalt(5.14, 59, 7), rocksalt(4.89, 92, 7)):
        assert why_forbidden(crystal, spin) == ""
        assert why_forbidden(crystal, METAL) != ""
    assert why_forbidden(NITROGEN, spin) == "isolated atoms"


def test_stand_ins_are_for_the_lanthanides_that_they_name() -> None:
    crystal = cubic(5.0, ["Pr", "Gd"], [[0, 0, 0], [0.5] * 3])
    assert why_forbidden(crystal, Origin(stand_ins=frozenset({59, 64}))) == ""
    assert why_forbidden(crystal, Origin(stand_ins=frozenset({59}))) == "Gd is a lanthanide"


def test_isolated_atoms_are_those_that_a_supercell_shows() -> None:
    """Against a sum over images with the radii of the papers, typed in for these elements."""
    contact = {3: 2.12, 8: 1.5, 11: 2.5, 12: 2.51, 14: 2.19, 17: 1.82, 22: 2.46, 26: 2.44}
    contact |= {31: 2.32, 33: 1.88}
    shifts = np.array(list(product(range(-3, 4), repeat=3)))
    found = []
    for k, dense in enumerate(random_crystals(60, seed=4)):
        crystal = Crystal((1 + k / 60) * dense.lattice, dense.frac_coords, dense.atomic_numbers)
        z, positions = crystal.atomic_numbers, crystal.frac_coords @ crystal.lattice
        images = (positions + (shifts @ crystal.lattice)[:, None]).reshape(-1, 3)
        distance = np.linalg.norm(positions[:, None] - images, axis=-1)
        limit = np.array(
            [
                [max(1.5 * (covalent_radii[a] + covalent_radii[b]), contact[a] + contact[b])]
                for a in z.tolist()
                for b in z.tolist()
            ]
        ).reshape(len(z), len(z))
        near = (distance <= np.tile(limit, (1, len(shifts)))) & (distance > 1e-6)
        np.testing.assert_array_equal(isolated_atoms(crystal), ~near.any(1))
        found += isolated_atoms(crystal).tolist()
    assert 20 < sum(found) < len(found) - 20


def test_files_of_every_kind_obey_the_rules(tmp_path: Path) -> None:
    """The first three are refused however a file holds them; a source's spin excuses VO."""
    crystals = {"a": NITROGEN, "b": VO, "c": rocksalt(), "d": rocksalt()}
    gaps = {"a": 2.9, "b": None, "c": 5.0, "d": None}
    structures = write(
        tmp_path / "structures.parquet",
        [structure_row(i, c) | {"band_gap": gaps[i]} for i, c in crystals.items()],
    )
    fine = write(tmp_path / "fine.parquet", [label_row(i, edos_label()) for i in crystals])
    labels = edos_labels([fine], structures)
    assert labels.spectra.keys() == labels.crystals.keys() == {"d"}
    assert labels.left_out == {
        "a": "isolated atoms",
        "b": "V2+ is magnetic",
        "c": "a metal, but the source's band gap is above 1 eV",
    }
    energies = np.linspace(-12.0, 9.0, 500)
    points = {"energies": energies.tolist(), "dos": np.ones(500).tolist()}
    rows = [structure_row(i, c) | points for i, c in crystals.items()]
    shapes = write(tmp_path / "shapes.parquet", rows)
    assert edos_labels([shapes], structures).left_out == labels.left_out
    assert edos_labels([shapes]).left_out.keys() == {"a", "b"}  # nothing says what the gap is
    from tests.models.data.test_fetched_labels import EDOS_GRID, pa

    rows = [structure_row(i, c) | {"spectrum": [1.0] * 128} for i, c in crystals.items()]
    table = pa.Table.from_pylist([r | {"band_gap": 0.0} for r in rows])
    grid = {"grid": EDOS_GRID.model_dump_json()}
    pq.write_table(table.replace_schema_metadata(grid), tmp_path / "fetched.parquet")
    fetched = edos_labels([tmp_path / "fetched.parquet"], structures)
    assert fetched.left_out.keys() == {"a", "c"}


def test_the_gap_of_a_label_is_not_that_of_a_source(tmp_path: Path) -> None:
    titanium = rocksalt(4.18, 22, 8)  # believed to be a metal where a source says so
    row = structure_row("a", titanium)
    gap = {"band_gap": 0.0}
    own = write(tmp_path / "own.parquet", [row | label_row("a", edos_label())])
    says = write(tmp_path / "structures.parquet", [row | gap])
    assert edos_labels([own]).left_out == {"a": "Ti2+ is magnetic"}
    assert edos_labels([own], says).left_out == {}
    # Points of a DOS have their own gap in them: what else is there is the source's.
    points = {"energies": np.linspace(-12.0, 9.0, 500).tolist(), "dos": np.ones(500).tolist()}
    shapes = write(tmp_path / "shapes.parquet", [row | points | gap])
    assert edos_labels([shapes]).left_out == {}


def test_stand_ins_are_read_from_the_labels(tmp_path: Path) -> None:
    crystals = {"a": rocksalt(5.14, 59, 7), "b": rocksalt(5.12, 60, 7)}
    structures = write(tmp_path / "s.parquet", [structure_row(i, c) for i, c in crystals.items()])
    stand_ins: dict[str, list[int]] = {"a": [59], "b": []}
    rows = [label_row(i, edos_label(), stand_ins=stand_ins[i]) for i in crystals]
    labels = edos_labels([write(tmp_path / "labels.parquet", rows)], structures)
    assert labels.crystals["a"].elements == ("N", "Pr")
    assert labels.left_out == {"b": "Nd is a lanthanide"}


def test_a_file_of_which_nothing_is_left_says_which_rule_took_how_many(tmp_path: Path) -> None:
    crystals = [NITROGEN, NITROGEN, VO, rocksalt(4.19, 28, 8), rocksalt()]
    structures = [structure_row(f"x-{i}", c) for i, c in enumerate(crystals)]
    file = write(tmp_path / "s.parquet", structures)
    emax = [9.0, 9.0, 9.0, 9.0, 3.0]
    rows = [label_row(f"x-{i}", edos_label(), emax=e) for i, e in enumerate(emax)]
    labels = write(tmp_path / "labels.parquet", rows)
    with pytest.raises(ModelError) as caught:
        edos_dataset([labels], file)
    assert str(caught.value) == (
        "labels.parquet: no material can be used (2 left out: isolated atoms; 1 left out: DOS is "
        "complete only up to 3.05 eV; 1 left out: V2+ is magnetic; 1 left out: Ni is magnetic)"
    )


# The labels that the project ships.

FORBIDDEN = {
    "mp-12103": "isolated atoms",
    "mp-570752": "isolated atoms",
    "mp-634659": "isolated atoms",
    "mp-672234": "isolated atoms",
    "mp-607540": "oxygen molecules are magnetic",
    "mp-282": "Ti2+ is magnetic",
    "mp-557257": "a metal, but the source's band gap is above 1 eV",
    "mp-1866": "oxygen molecules are magnetic",  # KO2
    "mp-246": "Ti3+ is magnetic",  # TiF3
    "mp-14549": "Cu2+ is magnetic",  # CuO
    "mp-19184": "a metal, but the source's band gap is above 1 eV",  # VO
    "mp-610917": "oxygen molecules are magnetic",
    "mp-23907": "isolated atoms",
}


@pytest.mark.data
def test_metals_that_were_labels_once_are_refused(tmp_path: Path, data_folder: Path) -> None:
    rows = [label_row(i, edos_label()) for i in (*FORBIDDEN, "mp-1953")]  # and TiAl
    file = write(tmp_path / "labels.parquet", rows)
    labels = edos_labels([file], data_folder / "mp_snapshot.parquet")
    assert labels.left_out == FORBIDDEN
    assert labels.spectra.keys() == {"mp-1953"}


@pytest.mark.data
def test_of_the_shipped_labels_few_are_left_out(data_folder: Path) -> None:
    ids = set(pq.read_table(COMMITTED, columns=["material_id"])["material_id"].to_pylist())
    labels = edos_labels([COMMITTED], data_folder / "mp_snapshot.parquet")
    assert ids & FORBIDDEN.keys() <= labels.left_out.keys()
    # The file grows by what is computed, and the rules say of each new label whether it is used.
    forbidden = [r for r in labels.left_out.values() if "complete only up to" not in r]
    assert len(forbidden) <= 0.1 * len(ids)
    kept = read_crystals(data_folder / "mp_snapshot.parquet", {"mp-7700", "mp-34337"})
    assert not any(isolated_atoms(c).any() for c in kept.values())  # SiB6 and NH4Cl
    assert len(kept) == 2
