"""CIFs are read right or refused.

The hard cases are files that public bug reports are about; the rest is written here, by spglib
(:mod:`cif_writing`), so that what is read has a reference that the reader has no part in.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from models.crystal import Crystal
from screening.sources.cif.reader import CifStructure, read_cif
from screening.sources.cif.symmetry import named_settings, parse_operation
from screening.sources.cif.tags import CifError
from tests.models.cells import FCC, conventional_rocksalt
from tests.screening.sources.cif.cif_writing import (
    CONTENTS,
    Standard,
    cif_text,
    hall_numbers,
    space_group,
    standard,
    symmetry_spellings,
)

CASES = Path(__file__).parents[2] / "cases"
MATCHER = StructureMatcher(ltol=2e-3, stol=2e-2, angle_tol=0.2, scale=False)


def case(name: str) -> str:
    return (CASES / f"{name}.cif").read_text()


def only(text: str) -> CifStructure:
    (found,) = read_cif(text)
    assert (found.crystal is None) == bool(found.reason)
    assert "\n" not in found.reason
    return found


def crystal_of(text: str) -> Crystal:
    found = only(text)
    assert found.crystal is not None, found.reason
    return found.crystal


def from_group(symbol: str, lattice: Lattice, species: list[str], sites: list) -> Structure:
    return Structure.from_spacegroup(symbol, lattice, species, sites)


HEXAGONAL = Lattice.hexagonal(4.5, 12)
MONOCLINIC = Lattice.monoclinic(5, 6, 7, 105)
# P 1 21/n 1 by its operations, written out
ZIRCONIA = [(0.275, 0.04, 0.21), (0.07, 0.33, 0.345), (0.45, 0.757, 0.48)]
N_GLIDE = [(1, 1, 1, 0), (-1, -1, -1, 0), (-1, 1, -1, 0.5), (1, -1, 1, 0.5)]
SILICON = Structure(Lattice.cubic(5.43), ["Si"] * 8, [*FCC, *(FCC + 0.25)])
RIGHT = {
    "cubic_Pn-3m_Cu2O_origin2_224": Structure(
        Lattice.cubic(4.27), ["Cu"] * 4 + ["O"] * 2, [*FCC, [0.25] * 3, [0.75] * 3]
    ),
    "gold_short_P21-c_and_R-3m": from_group(
        "R-3m", HEXAGONAL, ["Au", "Se"], [[0, 0, 0], [0, 0, 0.26]]
    ),
    "mono_P_21-n": Structure(
        MONOCLINIC,
        ["Zr"] * 4 + ["O"] * 8,
        [np.multiply(site, (a, b, c)) + t for site in ZIRCONIA for a, b, c, t in N_GLIDE],
    ),
    "mp-2491_conventional": conventional_rocksalt(5.67484769, "Er", "Se"),
    "mp-2491_primitive": Structure(
        Lattice.rhombohedral(4.01272328, 60), ["Er", "Se"], [[0, 0, 0], [0.5] * 3]
    ),
    "nacl_hall_only": conventional_rocksalt(5.64, "Na", "Cl"),
    "si_1_plain_o1": SILICON,
    "si_3_colon1": SILICON,
    "si_a_fd-3m_lower": SILICON,
}


@pytest.mark.parametrize("name", RIGHT)
def test_hard_cases_are_read_right(name: str) -> None:
    crystal = crystal_of(case(name))
    assert len(crystal) == len(RIGHT[name])
    assert MATCHER.fit(crystal.to_structure(), RIGHT[name])


REFUSED = {
    "brucite_attached_hydrogens": "O1 has 1 hydrogen without a site",
    "disorder_only_in_label_text_395": "Al,Cu is a mixture",
    "formula_says_LiFePO4_but_no_Li_site": "its formula is Fe Li O P, its sites give Fe1 O1 P1",
    "label_only_OH_and_Wat": "'Wat1' does not say which element",
    "occupancy_dot_unknown": "occupancy of Na1 is not given",
    "split_atoms_0.6A_near_mirror": "atoms of Cl1 and Cl1 overlap: 0.677 Å",
    "vacancy_labelled_Va": "'Va' does not say which element it is; leave a vacancy out",
}


@pytest.mark.parametrize("name", REFUSED)
def test_hard_cases_are_refused(name: str) -> None:
    assert REFUSED[name] in only(case(name)).reason


def test_every_case_is_in_a_test() -> None:
    names = {path.stem for path in CASES.glob("*.cif")}
    assert names == RIGHT.keys() | REFUSED.keys() | {"three_ase_cifs_concatenated"}


def test_blocks_of_one_name_are_all_read() -> None:
    found = read_cif(case("three_ase_cifs_concatenated"))
    assert [f.crystal.formula for f in found if f.crystal] == ["Cu", "Al", "Si"]
    assert [f.block for f in found] == ["image0"] * 3


def test_the_choice_of_an_origin_is_remarked() -> None:
    (remark,) = only(case("si_1_plain_o1")).remarks
    assert remark == "read with F d -3 m:1; F d -3 m:2 would contradict its other data"


# --- all spellings of a symmetry -------------------------------------------------------------


def prototypes() -> list[Crystal]:
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    structures = [entry["snl"].structure for entry in AFLOW_PROTOTYPE_LIBRARY]
    return [Crystal.from_structure(s) for s in structures if s.is_ordered and len(s) < 40]


def settings_of(crystals: list[Crystal], most: int) -> Iterator[tuple[Crystal, Standard]]:
    """Every crystal in some settings of its space group."""
    rng = np.random.default_rng(0)
    for crystal in crystals:
        numbers = hall_numbers(space_group(crystal))
        for number in rng.choice(numbers, min(most, len(numbers)), replace=False):
            yield crystal, standard(crystal, int(number))


def read_back(crystals: list[Crystal], most: int) -> dict[str, Counter[str]]:
    """How often each spelling was read right, refused and read wrong."""
    rng = np.random.default_rng(1)
    counts: dict[str, Counter[str]] = {}
    for crystal, setting in settings_of(crystals, most):
        reference = crystal.to_structure()
        assert MATCHER.fit(setting.crystal.to_structure(), reference)
        for kind, lines in symmetry_spellings(setting):
            content, digits = CONTENTS[rng.integers(len(CONTENTS))], int(rng.choice([4, 6]))
            found = only(cif_text(setting, lines, content, digits)).crystal
            verdict = "refused"
            if found is not None:
                same = same_sites(found, setting.crystal) or (
                    len(found) == len(setting.numbers)
                    and MATCHER.fit(found.to_structure(), reference)
                )
                verdict = "right" if same else "wrong"
            counts.setdefault(kind, Counter())[verdict] += 1
    return counts


def same_sites(one: Crystal, other: Crystal) -> bool:
    """Whether two crystals have the same atoms in the same cell, to 0.01 Å."""
    if one.composition != other.composition:
        return False
    apart = one.frac_coords[:, None] - other.frac_coords[None]
    apart -= np.round(apart)
    distance = np.linalg.norm(apart @ other.lattice, axis=2)
    distance[one.atomic_numbers[:, None] != other.atomic_numbers[None]] = np.inf
    found = distance.argmin(1)
    return bool((distance.min(1) < 0.01).all() and len(set(found.tolist())) == len(found))


def assert_never_wrong(counts: dict[str, Counter[str]]) -> None:
    assert sum(c["wrong"] for c in counts.values()) == 0, counts
    # A number alone, or a short name of another unique axis than b, says too little.
    for kind, c in counts.items():
        least = 0.3 if kind in ("number", "short name") else 0.9
        assert c["right"] >= least * c.total(), (kind, c)


@pytest.mark.slow
def test_every_spelling_is_read_right_or_refused() -> None:
    assert_never_wrong(read_back(prototypes()[::28], 1))


@pytest.mark.slow
def test_every_spelling_of_every_prototype() -> None:
    assert_never_wrong(read_back(prototypes(), 2))


@pytest.mark.slow
@pytest.mark.data
def test_every_spelling_of_structures_of_the_snapshot(reference_data: Path) -> None:
    table = pq.read_table(
        reference_data / "mp_snapshot.parquet", columns=["lattice", "frac_coords", "species"]
    )
    rows = table.take(list(range(0, len(table), 400))).to_pylist()
    crystals = [Crystal(*(np.array(value) for value in row.values())) for row in rows]
    assert_never_wrong(read_back([c for c in crystals if len(c) <= 20], 2))


def test_names_without_an_origin_are_refused_if_nothing_decides() -> None:
    text = case("si_1_plain_o1").replace("_cell_formula_units_Z 8", "")
    reason = only(text).reason
    assert "may be F d -3 m:1 and F d -3 m:2" in reason
    assert "add the operations" in reason


@pytest.mark.parametrize(
    ("name", "hall"),
    [
        ("F d -3 m :1", "F 4d 2 3 -1d"),
        ("F d -3 m Z", "-F 4vw 2vw 3"),
        ("Fd-3mS", "F 4d 2 3 -1d"),
        ("F d -3 m (origin choice 2)", "-F 4vw 2vw 3"),
        ("F 4_1/d -3 2/m :2", "-F 4vw 2vw 3"),
        ("R -3 m H", '-R 3 2"'),
        ("R-3m:R", "-P 3* 2"),
        ("P 1 21/n 1", "-P 2yn"),
        ("P2(1)/c", "-P 2ybc"),
        ("P 2_1/b", "-P 2bc"),
        ("p n m a", "-P 2ac 2n"),
        ("P b n m", "-P 2c 2ab"),
        ("F m 3 m", "-F 4 2 3"),
        ("C m c e", "-C 2bc 2"),
        ("I 41/a m d :2", "-I 4bd 2"),
        ("P63/mmc", "-P 6c 2c"),
    ],
)
def test_names_have_the_operations_of_their_hall_symbols(name: str, hall: str) -> None:
    """The Hall symbols are those of table A1.4.2.7, International Tables B (spglib's)."""
    import spglib

    number = next(h for h in range(1, 531) if _hall(h) == hall.replace("C 2bc 2", "C 2ac 2"))
    expected = spglib.get_symmetry_from_database(number)
    (setting,) = named_settings(name)
    assert _operations(setting.rotations, setting.translations) == _operations(**_sorted(expected))


def _hall(number: int) -> str:
    import spglib

    return spglib.get_spacegroup_type(number).hall_symbol


def _sorted(operations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"rotations": operations["rotations"], "translations": operations["translations"]}


def _operations(rotations: np.ndarray, translations: np.ndarray) -> set[tuple]:
    shifts = np.round(translations * 24).astype(int) % 24
    return {(*r.ravel().tolist(), *t.tolist()) for r, t in zip(rotations, shifts, strict=True)}


@pytest.mark.parametrize("name", ["P 31 2", "F d -3 m :3", "nonsense", "P 6 3/m m c"])
def test_unknown_names_are_refused(name: str) -> None:
    assert named_settings(name) == []
    text = case("si_1_plain_o1").replace("F d -3 m", name)
    assert only(text).reason.startswith(f"space group '{name}' is not known; add its operations")


def test_operations() -> None:
    rotation, shift = parse_operation(" -Y, x-y+0.333 ,1/2 - Z")
    np.testing.assert_array_equal(rotation, [[0, -1, 0], [1, -1, 0], [0, 0, -1]])
    np.testing.assert_allclose(shift, [0, 1 / 3, 1 / 2])
    for text in ("x,y", "x,y,z,+1", "x,x,z", "x y z", "x,y,2w", "x,,z", "xy,z,x", "2x,y,z"):
        with pytest.raises(CifError, match="is no symmetry operation"):
            parse_operation(text)


def salt(symmetry: str, more: str = "", sites: str = "Na1 Na 0 0 0 1\nCl1 Cl .5 .5 .5 1") -> str:
    head = case("nacl_hall_only").partition("loop_\n_atom_site")[0]
    head = head.replace("_space_group_name_Hall '-F 4 2 3'", symmetry)
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    loop = "".join(f"_atom_site_{c}\n" for c in columns)
    return f"{head}{more}\nloop_\n{loop}{sites}\n"


IDENTITY = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
NO_FORMULA = re.compile(r"_chemical_formula_sum.*\n_cell_formula_units_Z.*\n")


def test_lost_operations_are_found_by_the_formula() -> None:
    text = salt("_symmetry_space_group_name_H-M 'F m -3 m'\n" + IDENTITY)
    found = only(text)
    assert found.crystal is not None
    assert len(found.crystal) == 8
    assert found.remarks == ("read with F m -3 m; its operations would contradict its other data",)
    assert "may be its operations and F m -3 m" in only(NO_FORMULA.sub("", text)).reason


def test_all_atoms_under_a_name_are_the_same_crystal() -> None:
    sites = "\n".join(
        f"{s}{k} {s} {x} {y} {z} 1"
        for s, o in (("Na", 0.0), ("Cl", 0.5))
        for k, (x, y, z) in enumerate(
            [(o, o, o), (o, o + 0.5, o + 0.5), (o + 0.5, o, o + 0.5), (o + 0.5, o + 0.5, o)]
        )
    )
    symmetry = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
    for text in (salt(symmetry + IDENTITY, sites=sites), salt(symmetry, sites=sites)):
        for form in (text, NO_FORMULA.sub("", text)):
            assert len(crystal_of(form)) == 8


def test_without_any_symmetry_the_file_must_show_that_all_atoms_are_there() -> None:
    assert "Z = 4, its sites give Cl1 Na1" in only(salt("")).reason
    assert (
        "nothing in it tells if all atoms are listed" in only(NO_FORMULA.sub("", salt(""))).reason
    )
    found = only(salt("").replace("units_Z 4", "units_Z 1"))
    assert found.remarks == ("it has no symmetry; its own data show that all atoms are listed",)


@pytest.mark.parametrize(
    ("symmetry", "reason"),
    [
        ("_symmetry_space_group_name_H-M 'P 63/m m c'", "cell does not have the shape"),
        ("_symmetry_Int_Tables_number 231", "no space group of number 231"),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'\n_symmetry_Int_Tables_number 216",
            "is F m -3 m and 216, which contradict",
        ),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'\n_space_group_name_Hall '-P 4 2 3'",
            "which contradict each other",
        ),
        (IDENTITY + "-x,y,z\nx,-y,z\n", "3 symmetry operations are no group"),
        (IDENTITY + "-x,y,w\n", "'-x,y,w' is no symmetry operation"),
        (IDENTITY + "y,x+y,z\n", "is no group"),
    ],
)
def test_symmetry_that_cannot_be(symmetry: str, reason: str) -> None:
    found = only(salt(symmetry)).reason
    assert reason in found or "no group" in found


def test_a_setting_of_the_operations_comes_before_that_of_the_name() -> None:
    text = salt(
        "_symmetry_space_group_name_H-M 'P 1 21/c 1'\n"
        + IDENTITY
        + "-x,-y,-z\n-x+1/2,y+1/2,-z+1/2\nx+1/2,-y+1/2,z+1/2",
        sites="Na1 Na 0.2 0.1 0.3 1\nCl1 Cl 0.7 0.6 0.3 1",
    )
    (remark,) = only(text).remarks
    assert remark == "its operations are another setting than P 1 21/c 1; they were used"


def test_a_reference_name_is_of_the_type_where_another_name_gives_the_setting() -> None:
    alone = case("mono_P_21-n").replace(
        "_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt"
    )
    both = alone.replace("data_x\n", "data_x\n_space_group.name_H-M_ref 'P 1 21/c 1'\n")
    expected = crystal_of(alone)
    np.testing.assert_allclose(crystal_of(both).frac_coords, expected.frac_coords)
    other = alone.replace("data_x\n", "data_x\n_space_group.name_H-M_ref 'P n m a'\n")
    assert "which contradict each other" in only(other).reason


def test_a_primitive_cell_under_the_name_of_its_group_is_read_by_its_operations() -> None:
    text = (
        case("mp-2491_primitive").replace("'P 1'", "'F m -3 m'").replace("number   1", "number 225")
    )
    found = only(text)
    assert found.crystal is not None
    assert len(found.crystal) == 2
    assert found.remarks == (
        "its operations contradict the space group that it names; they were used",
    )


# --- what the file says of its content --------------------------------------------------------

FULL = salt("_space_group_name_Hall '-F 4 2 3'")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("'Na Cl'", "'Na Cl2'", "its formula is Na Cl2, its sites give Cl4 Na4"),
        ("'Na Cl'", "'Na Cl H'", "its formula is Na Cl H"),
        ("'Na Cl'", "'Na0.9 Cl'", "its formula is Na0.9 Cl"),
        ("'Na Cl'", "'Na (Cl, Br)'", "cannot be read"),
        ("units_Z 4", "units_Z 2", "with Z = 2, its sites give"),
        ("units_Z 4", "units_Z four", "_cell_formula_units_z is no number but 'four'"),
        ("_cell_formula_units_Z 4", "_cell_volume 90", "its cell volume is 90 Å^3"),
        ("_cell_formula_units_Z 4", "_exptl_crystal_density_diffrn 2.3", "its density is 2.3"),
        ("_cell_formula_units_Z 4", "_exptl_crystal_density_meas 1.5", "its density is 1.5"),
        ("units_Z 4", "units_Z 4\n_chemical_formula_weight 60.4", "weighs 60.4 u"),
        (
            "_cell_formula_units_Z 4",
            "loop_\n_atom_type_symbol\n_atom_type_number_in_cell\nNa1+ 4\nCl1- 8",
            "its cell has Cl8 Na4",
        ),
        (
            "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4",
            "loop_\n_atom_type_symbol\nNa\nCl\nH",
            "its sites have no H",
        ),
        (
            "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4",
            "_chemical_formula_moiety 'Na 1+, Cl 1-, 2(H2 O)'",
            "its sites have no H, O",
        ),
        ("Na 0 0 0 1", "Na 0 0 0 0.5", "structure has partial occupancies (Na1: 0.5)"),
        ("Na 0 0 0 1", "Na 0 0 0 1.2", "structure has partial occupancies"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0 0 0 0", "its formula is Na Cl, its sites give Cl4"),
        ("Cl1 Cl", "Cl1 Na", "its formula is Na Cl"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0 0 0 1\nK1 K 0 0 0 1", "Na1 and K1 are at one place"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0.05 0 0 1", "atoms of Na1 and Na1 overlap"),
        ("_cell_length_b 5.64", "", "_cell_length_b is missing"),
        ("_cell_angle_alpha 90", "_cell_angle_alpha 190", "_cell_angle_alpha is 190"),
        ("_cell_length_b 5.64", "_cell_length_b 5.94", "does not have the shape"),
        ("_cell_length_b 5.64", "_cell_length_b 5.64\n_cell_length_b 5.94", "there twice"),
        ("Na 0 0 0 1", "Na 0 0 ? 1", "coordinate of Na1 is no number"),
    ],
)
def test_contradictions_are_refused(old: str, new: str, reason: str) -> None:
    assert crystal_of(FULL).composition == {"Cl": 4, "Na": 4}
    assert old in FULL
    assert reason in only(FULL.replace(old, new)).reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'Na Cl'", "'Na4 Cl4'"),  # as pymatgen writes it
        ("'Na Cl'", "'Na1.00 Cl1.00'"),
        ("'Na Cl'", "NaCl"),
        ("units_Z 4", "units_Z 4\n_exptl_crystal_density_diffrn 2.163"),
        ("units_Z 4", "units_Z 4\n_chemical_formula_weight 58.44"),
        ("units_Z 4", "units_Z 4\n_exptl_crystal_density_meas 2.1(1)"),
        ("Na 0 0 0 1", "Na 0 0 0 ."),  # formula and Z say that it is full
        ("Na 0 0 0 1", "Na 0 0 0 1.0000(5)"),
        ("Na1 Na", "Na1 Na1+"),
        ("Na1 Na", "Na1 Na+"),
        ("Na1 Na", "Na1 NA"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0 0 0 1\nX1 X 0.3 0.3 0.3 0"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0.0003 0 0 1"),
        ("Na1 Na 0 0 0 1", "Na1 Na 0 0 0 1\nNa2 Na 0.5 0.5 0 1"),
    ],
)
def test_other_ways_to_write_the_same(old: str, new: str) -> None:
    assert old in FULL
    crystal = crystal_of(FULL.replace(old, new))
    assert MATCHER.fit(crystal.to_structure(), crystal_of(FULL).to_structure())


def p1(
    sites: str, more: str = "", columns: str = "label type_symbol fract_x fract_y fract_z"
) -> str:
    cell = re.search(r"(_cell_length_a.*_cell_angle_gamma 90\n)", FULL, re.DOTALL)
    assert cell
    loop = "".join(f"_atom_site_{c}\n" for c in columns.split())
    return f"data_x\n{cell[1]}{IDENTITY}{more}\nloop_\n{loop}{sites}\n"


UNCLEAR = [
    ("Va1 0 0 0", "", "does not say which element it is; leave a vacancy out"),
    ("OH1 0 0 0", "", "the hydrogens of this group have no sites|does not say which element"),
    ("Wat1 0 0 0", "", "does not say which element"),
    ("NH4 0 0 0", "", "does not say which element"),
    ("M1 0 0 0", "", "does not say which element"),
    ("CO1 0 0 0", "", "does not say which element"),
    ("SI1 0 0 0", "", "does not say which element"),
    ("OA 0 0 0", "", "does not say which element"),
    ("O1 OH 0 0 0", "t", "does not say which element"),
    ("N1 NH4 0 0 0", "t", "does not say which element"),
    ("O1 Wat 0 0 0", "t", "does not say which element"),
    ("OH1 O 0 0 0", "t", "the hydrogens of this group have no sites"),
    ("OW1 O 0 0 0", "t", "the hydrogens of this group have no sites"),
    ("C1 CO 0 0 0", "t", "does not say which element"),
    ("Va1 V 0 0 0", "t", "is of type V"),
    ("K1 Na 0 0 0", "t", "is of type Na"),
    ("AlSi1 Al 0 0 0", "t", "is of type Al"),
    ("Al1 'Al0.5 + Si0.5' 0 0 0", "t", "is a mixture"),
    ("Fe/Mg1 Fe 0 0 0", "t", "is a mixture"),
    ("Nb,Zr '0.8Nb + 0.2Zr' 0 0 0", "t", "is a mixture"),
    ("X1 X 0 0 0", "t", "does not say which element"),
    ("Nh1 Nh 0 0 0", "t", "does not say which element"),
]


@pytest.mark.parametrize(("sites", "typed", "reason"), UNCLEAR)
def test_unclear_elements_are_refused(sites: str, typed: str, reason: str) -> None:
    columns = f"label {'type_symbol' if typed else ''} fract_x fract_y fract_z"
    assert re.search(reason, only(p1(sites, "", columns)).reason)


@pytest.mark.parametrize(
    ("sites", "formula", "expected"),
    [
        ("CU1 0 0 0", "'Cu1'", {"Cu": 1}),
        ("OA 0 0 0\nOB 0.5 0.5 0", "'O2'", {"O": 2}),
        ("HO1 0 0 0\nO1 0.2 0 0", "'H O'", {"H": 1, "O": 1}),
        ("CA1 0 0 0", "'Ca'", {"Ca": 1}),
        ("D1 0 0 0\nO1 0.2 0 0", "'D O'", {"H": 1, "O": 1}),
    ],
)
def test_the_formula_tells_elements_of_labels(
    sites: str, formula: str, expected: dict[str, int]
) -> None:
    text = p1(sites, f"_chemical_formula_sum {formula}", "label fract_x fract_y fract_z")
    assert crystal_of(text).composition == expected


def test_a_group_is_not_an_atom_even_if_the_formula_agrees() -> None:
    columns = "label fract_x fract_y fract_z"
    text = p1("Ca1 0 0 0\nOH1 0.4 0 0", "_chemical_formula_sum 'Ca O H'", columns)
    assert "hydrogens of this group" in only(text).reason


def test_deuterium_is_hydrogen_with_a_remark() -> None:
    found = only(p1("D1 D 0 0 0\nO1 O 0.17 0 0", "_exptl_crystal_density_diffrn 0.167"))
    assert found.crystal is not None, found.reason
    assert found.crystal.composition == {"H": 1, "O": 1}
    assert "deuterium was read as hydrogen" in found.remarks


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("disorder_group", "1", "disorder group"),
        ("disorder_assembly", "A", "disorder group"),
        ("attached_hydrogens", "2", "2 hydrogen without a site"),
        ("calc_flag", "dum", "no atoms"),
    ],
)
def test_site_flags(column: str, value: str, reason: str) -> None:
    columns = f"label type_symbol fract_x fract_y fract_z {column}"
    assert reason in only(p1(f"O1 O 0 0 0 {value}", "", columns)).reason
    assert crystal_of(p1("O1 O 0 0 0 .", "", columns)).formula == "O2"


@pytest.mark.parametrize("multiplicity", ["4", "48"])  # of the site; its symmetry, as SHELX has it
def test_multiplicities(multiplicity: str) -> None:
    text = NO_FORMULA.sub("", FULL).replace("occupancy", "symmetry_multiplicity")
    good = text.replace("0 0 0 1", f"0 0 0 {multiplicity}")
    good = good.replace(".5 .5 .5 1", f".5 .5 .5 {multiplicity}")
    assert len(crystal_of(good)) == 8
    bad = good.replace(f"0 0 0 {multiplicity}", "0 0 0 8")
    assert "has the multiplicity" in only(bad).reason


@pytest.mark.parametrize(
    "moment",
    ["crystalaxis_x", "crystalaxis_z", "Cartn_x", "Cartn_z", "spherical_modulus", "magnitude"],
)
def test_magnetic_cif(moment: str) -> None:
    text = p1("Mn1 Mn 0 0 0").replace(
        IDENTITY,
        "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx+1/2,y+1/2,z+1/2,-1\n"
        f"loop_\n_atom_site_moment_label\n_atom_site_moment.{moment}\nMn1 3.9\n",
    )
    found = only(text)
    assert found.is_magnetic is True
    assert found.crystal is not None
    np.testing.assert_allclose(found.crystal.frac_coords, [[0] * 3, [0.5] * 3])
    assert only(FULL).is_magnetic is None
    modulated = text.replace("data_x", "data_x\n_cell_modulation_dimension 1")
    assert "modulated" in only(modulated).reason


def test_what_is_no_cif() -> None:
    for text in ("", "this is no CIF", "data_a\n_x 'y\n", "data_a\n_x a b\n", "\0\x01"):
        with pytest.raises(CifError) as caught:
            read_cif(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(CifError, match=r"^line 2: "):
        read_cif("data_a\n_x a b\n")
    with pytest.raises(CifError, match="no atom sites"):
        read_cif("data_global\n_journal_year 2020\n")


def test_accents_marks_and_line_ends_do_no_harm() -> None:
    text = "\ufeff# Müller\n" + FULL.replace("data_x", "data_é\n_publ_author Ångström")
    assert len(crystal_of(text.replace("\n", "\r\n"))) == 8


def test_one_bad_block_leaves_the_others() -> None:
    bad = FULL.replace("Na 0 0 0 1", "Na 0 0 0 0.5")
    assert [bool(f.reason) for f in read_cif(FULL + bad + FULL)] == [False, True, False]


@pytest.mark.slow
def test_what_pymatgen_writes() -> None:
    for crystal in prototypes()[::40]:
        structure = crystal.to_structure()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            texts = [str(CifWriter(structure)), str(CifWriter(structure, symprec=1e-3))]
        for text in texts:
            assert MATCHER.fit(crystal_of(text).to_structure(), structure)


@pytest.mark.slow
def test_a_lost_site_is_always_missed() -> None:
    """Of each prototype, in its standard setting, one site at a time is taken out or changed."""
    tried = 0
    for crystal, setting in settings_of(prototypes()[::16], 1):
        lines = dict(symmetry_spellings(setting))["operations"]
        text = cif_text(setting, lines, "formula and Z")
        if not only(text).crystal or len(crystal.elements) < 2:
            continue
        rows = re.findall(r"^[A-Z][a-z]?\d+ [A-Z].*$", text, re.MULTILINE)
        for row in rows:
            changed = re.sub(r"^(\S+) \S+", r"\1 Xe", row)
            for corrupted in (text.replace(row + "\n", ""), text.replace(row, changed)):
                assert only(corrupted).reason
                tried += 1
    assert tried > 50
