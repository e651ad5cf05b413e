import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from models.crystal import Crystal
from screening.candidate import Candidate, Origin, Unreadable
from screening.sources import open_source
from screening.sources.json_documents import item_of

SALT = Crystal(np.full((3, 3), 2.8) - np.eye(3) * 2.8, [[0, 0, 0], [0.5] * 3], np.array([11, 17]))
STRUCTURE = SALT.as_dict()
POSITIONS = (SALT.frac_coords @ SALT.lattice).tolist()


def same(a, b=SALT):
    return (
        np.allclose(a.lattice, b.lattice)
        and np.allclose(a.frac_coords, b.frac_coords)
        and (a.atomic_numbers == b.atomic_numbers).all()
    )


def items(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return list(open_source(path))


# --- Materials Project ----------------------------------------------------------------------

SUMMARY = {
    "material_id": "mp-22862",
    "structure": STRUCTURE,
    "energy_above_hull": 0.0,
    "band_gap": 5.0,
    "is_magnetic": False,
    "ordering": "NM",
    "deprecated": False,
    "has_props": {"dos": True, "phonon": False},
    "last_updated": {"$date": "2025-01-02T00:00:00"},
    "builder_meta": {"database_version": "2025.09.25"},
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"has_edos": True, "is_magnetic": False, "band_gap": 5.0, "energy_above_hull": 0.0}),
        ({"has_props": ["dos", "xas"]}, {"has_edos": True}),
        ({"has_props": ["xas"]}, {"has_edos": False}),
        ({"has_props": {"dos": False}}, {"has_edos": False}),
        ({"has_props": None}, {"has_edos": None}),
        ({"ordering": "AFM"}, {"is_magnetic": True}),
        ({"ordering": "Unknown"}, {"is_magnetic": None}),
        ({"ordering": "Unknown", "is_magnetic": True}, {"is_magnetic": True}),
    ],
)
def test_summary_documents_of_the_materials_project(changes, expected):
    found = item_of(SUMMARY | changes, "a", "a.json")
    assert found.material_id == "mp-22862"
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.origin == Origin("a.json", "2025.09.25", "2025-01-02T00:00:00")


def test_deprecated_documents_are_refused():
    found = item_of(SUMMARY | {"deprecated": True}, "a", "a.json")
    assert found == Unreadable("mp-22862", "deprecated by the Materials Project")


def test_response_of_the_materials_project(tmp_path):
    found = items(tmp_path / "a.json", {"data": [SUMMARY], "meta": {"total_doc": 1}})
    assert [i.material_id for i in found] == ["mp-22862"]


# --- OPTIMADE -------------------------------------------------------------------------------

ENTRY = {
    "type": "structures",
    "id": "x/1",
    "attributes": {
        "lattice_vectors": SALT.lattice.tolist(),
        "cartesian_site_positions": POSITIONS,
        "species_at_sites": ["sodium", "Cl"],
        "species": [
            {"name": "sodium", "chemical_symbols": ["Na"], "concentration": [1.0]},
            {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0], "mass": [35.4]},
        ],
        "dimension_types": [1, 1, 1],
        "nsites": 2,
        "elements": ["Cl", "Na"],
        "structure_features": [],
        "last_modified": "2024-05-01T00:00:00Z",
    },
}


def entry(**changes):
    changed = copy.deepcopy(ENTRY)
    changed["attributes"] |= changes
    return changed


def species(**changes):
    first, second = ENTRY["attributes"]["species"]
    return [first | changes, second]


@pytest.mark.parametrize("document", [{"data": [ENTRY]}, {"data": ENTRY}, [ENTRY], ENTRY])
def test_optimade_responses(tmp_path, document):
    (found,) = items(tmp_path / "a.json", document)
    assert found.material_id == "x/1"
    assert same(found.structure)
    assert found.origin.last_updated == "2024-05-01T00:00:00Z"
    assert found.band_gap is None


@pytest.mark.parametrize("more", [True, False])
def test_one_page_of_several_is_said(tmp_path, more):
    response = {"data": [ENTRY], "meta": {"more_data_available": more}}
    (found,) = items(tmp_path / "a.json", response)
    assert ("there is more" in " ".join(found.remarks)) is more


def test_lines_of_optimade_with_header_and_other_entries(tmp_path):
    header = {"x-optimade": {"meta": {"api_version": "1.1.0"}}}
    info = {"type": "info", "id": "structures", "properties": {}}
    reference = {"type": "references", "id": "doi", "attributes": {"doi": "10/x"}}
    lines = [header, info, ENTRY, reference, entry(nsites=3)]
    good, bad = items(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert same(good.structure)
    assert bad == Unreadable(
        "x/1#2", "line 5: the entry has 3 sites by its own account, 2 are there"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"structure_features": ["disorder"]}, "it is disordered"),
        ({"structure_features": ["implicit_atoms"]}, "atoms without positions"),
        ({"structure_features": ["site_attachments"]}, "attached to sites"),
        ({"structure_features": ["assemblies"]}, "occupied in groups"),
        ({"structure_features": ["new"]}, "'new', which is not understood"),
        ({"assemblies": [{"sites_in_groups": [[0], [1]]}]}, "occupied in groups"),
        (
            {"species": species(chemical_symbols=["Na", "K"], concentration=[0.5, 0.5])},
            "species 'sodium' has partial occupancies",
        ),
        (
            {"species": species(chemical_symbols=["Na", "vacancy"], concentration=[0.9, 0.1])},
            "partial occupancies",
        ),
        ({"species": species(concentration=[0.9])}, "partial occupancies"),
        ({"species": species(attached=["H"], nattached=[2])}, "species 'sodium': atoms are"),
        ({"species": species(chemical_symbols=["X"])}, "'X' is no element"),
        ({"species": species(name="Na")}, "the species 'sodium' of a site is not described"),
        ({"species": None}, "the entry has no species; ask the provider"),
        ({"cartesian_site_positions": None}, "no cartesian_site_positions"),
        ({"cartesian_site_positions": POSITIONS[:1]}, "3 coordinates for 2 atoms"),
        ({"lattice_vectors": None}, "no lattice_vectors"),
        ({"dimension_types": [1, 1, 0]}, "periodic in 2 of 3 directions"),
        ({"dimension_types": [0, 0, 0]}, "it is a molecule"),
        ({"elements": ["Cl", "K"]}, "the entry is of Cl, K by its own account"),
        ({"lattice_vectors": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}, "no volume"),
    ],
)
def test_optimade_entries_that_are_no_ordered_crystal(changes, reason):
    found = item_of(entry(**changes), "a", "a.json")
    assert isinstance(found, Unreadable)
    assert reason in found.reason
    assert "\n" not in found.reason


# --- JARVIS ---------------------------------------------------------------------------------

JARVIS = {
    "jid": "JVASP-1",
    "atoms": {
        "lattice_mat": SALT.lattice.tolist(),
        "coords": SALT.frac_coords.tolist(),
        "elements": ["Na", "Cl"],
        "cartesian": False,
        "abc": [3.9, 3.9, 3.9],
        "props": ["", ""],
    },
    "ehull": 0.01,
    "optb88vdw_bandgap": 5.5,
    "mbj_bandgap": "na",
    "magmom_oszicar": 0.0,
}


def test_jarvis_documents_say_of_which_functional_they_are(tmp_path):
    (found,) = items(tmp_path / "d.json", [JARVIS])
    assert found.material_id == "JVASP-1"
    assert same(found.structure)
    assert (found.energy_above_hull, found.band_gap) == (0.01, 5.5)
    assert found.is_magnetic is None  # a moment of zero may be an antiferromagnet's
    assert found.has_edos is None
    assert found.origin.functional == "OptB88vdW"
    assert found.remarks == ("energy above hull and band gap by OptB88vdW, of JARVIS",)


def test_jarvis_documents_with_gaps_in_them():
    cartesian = JARVIS["atoms"] | {"coords": POSITIONS, "cartesian": True}
    document = {"atoms": cartesian, "ehull": "na", "magmom_outcar": -2.0}
    found = item_of(document, "a#2", "a.json")
    assert found.material_id == "a#2"
    assert same(found.structure)
    assert (found.energy_above_hull, found.band_gap, found.is_magnetic) == (None, None, True)
    assert found.remarks == ()
    assert same(item_of(JARVIS["atoms"], "a", "a.json").structure)
    wrong = item_of({"atoms": cartesian | {"elements": ["Na", "Qq"]}}, "a", "a.json")
    assert "atomic numbers" in wrong.reason


# --- others ---------------------------------------------------------------------------------


def test_json_database_of_ase(tmp_path):
    from ase.io import write

    path = tmp_path / "a.json"
    write(path, [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)])
    assert [(i.material_id, i.formula) for i in open_source(path)] == [("a", "Cu"), ("a#2", "NaCl")]
    write(path, bulk("Al"))
    (aluminium,) = open_source(path)
    np.testing.assert_allclose(aluminium.structure.lattice, bulk("Al").cell.array)


def test_rows_of_both_databases_of_ase_are_alike(tmp_path):
    from ase.db import connect

    pairs = {"material_id": "mp-30", "energy_above_hull": 0.2, "band_gap": 1.5, "is_magnetic": True}
    found = []
    for name in ("a.json", "a.db"):
        connect(tmp_path / name).write(bulk("Cu"), **pairs)
        found += open_source(tmp_path / name)
    one, other = found
    assert same(one.structure, other.structure)
    assert replace(one, origin=None) == replace(other, origin=None, structure=one.structure)
    assert {name: getattr(one, name) for name in pairs} == pairs


def test_documents_as_monty_writes_them(tmp_path):
    from monty.serialization import dumpfn
    from pymatgen.core import Molecule
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = SALT.to_structure()
    entry = ComputedStructureEntry(structure, -6.0)
    arrays = STRUCTURE | {"lattice": {"matrix": SALT.lattice}}
    path = tmp_path / "a.json.gz"
    dumpfn([entry, {"structure": structure}, arrays, Molecule(["O"], [[0, 0, 0]])], path)
    *crystals, molecule = open_source(path)
    assert all(same(found.structure) for found in crystals)
    assert molecule == Unreadable("a#4", "it is a molecule: there is no lattice")


@pytest.mark.parametrize("document", [STRUCTURE, {"structure": STRUCTURE}])
def test_properties_beside_a_structure(document):
    properties = {"energy_above_hull": 3.0, "is_magnetic": True, "has_edos": True}
    found = item_of(document | properties, "a", "a.json")
    assert same(found.structure)
    assert {name: getattr(found, name) for name in properties} == properties


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_a_property_by_its_other_name(unknown):
    properties = {"energy_above_hull": unknown, "e_above_hull": 3.0, "band_gap": unknown}
    found = item_of(STRUCTURE | properties, "a", "a.json")
    assert (found.energy_above_hull, found.band_gap) == (3.0, None)


@pytest.mark.parametrize("number", ["Infinity", "-1e999", "1" + "0" * 400])
def test_what_is_infinite_is_not_unknown(number):
    document = json.loads(f'{{"energy_above_hull": {number}}}')
    found = item_of(STRUCTURE | document, "a", "a.json")
    assert found.reason.startswith("energy_above_hull is not finite but ")


def test_table_as_pandas_splits_it(tmp_path):
    table = {"index": [7, 8], "columns": ["structure", "y"], "data": [[STRUCTURE, 1], [None, 2]]}
    good, bad = items(tmp_path / "matbench.json", table)
    assert same(good.structure)
    assert bad == Unreadable("matbench#2", "the document has no structure")


def test_a_key_that_is_there_twice_loses_nothing_in_silence(tmp_path):
    text = json.dumps({"mp-1": STRUCTURE})
    twice = tmp_path / "folder" / "twice.json"
    twice.parent.mkdir()
    twice.write_text(f"{text[:-1]}, {text[1:]}")
    (found,) = open_source(twice.parent)
    assert found == Unreadable(
        "twice", "does not parse: the key 'mp-1' is there twice in one object"
    )


def test_lines_of_json_with_bad_ones_among_them(tmp_path):
    lines = [json.dumps(STRUCTURE), "", "{", "[1]", json.dumps(SUMMARY)]
    found = items(tmp_path / "a.jsonl", "\n".join(lines))
    assert [i.material_id for i in found] == ["a", "a#2", "a#3", "mp-22862"]
    assert "line 3 does not parse" in found[1].reason
    assert found[2].reason == "line 4: a list is not a structure"


def test_slabs_of_pymatgen_are_no_crystals():
    document = copy.deepcopy(STRUCTURE)
    document["lattice"]["pbc"] = [True, True, False]
    assert "periodic in 2 of 3" in item_of(document, "a", "a.json").reason


def test_an_answer_that_is_an_error(tmp_path):
    path = tmp_path / "folder" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"errors": [{"detail": "no such filter"}], "meta": {}}))
    (found,) = open_source(path.parent)
    assert "error message of an API" in found.reason
    assert "no such filter" in found.reason


def test_lines_stream(tmp_path, monkeypatch):
    """Twice as many lines take no more memory."""
    import tracemalloc

    from screening.sources import files

    monkeypatch.setattr(files, "PEEKED", 10)
    line = json.dumps(SUMMARY | {"material_id": None}) + "\n"
    peaks = []
    for n in (400, 800):
        path = tmp_path / f"{n}.jsonl"
        path.write_text(line * n)
        source = open_source(path)
        assert source.total is None
        tracemalloc.start()
        assert sum(isinstance(item, Candidate) for item in source) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # the ids are kept, 0.1 kB each; the lines, 0.8 kB each, are not
    assert peaks[1] - peaks[0] < 400 * len(line) / 2
