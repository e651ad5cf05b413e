"""JSON documents with structures: pymatgen, Materials Project, OPTIMADE, JARVIS, and ASE.

A document is recognised by its keys:

============== ================================================ ==============================
kind           recognised by                                    properties that are used
============== ================================================ ==============================
pymatgen       `lattice` and `sites`, or these in `structure`   those beside them
CIF            text in `structure` or `cif`                     those beside it
MP summary     `has_props` or `builder_meta` beside `structure` the same, `deprecated`
OPTIMADE [1]_  `attributes`                                     those of some providers
JARVIS [2]_    `lattice_mat`, or this in `atoms`                `ehull`, `optb88vdw_bandgap`
ASE            `numbers`, `positions` and `cell`                beside them, in `key_value_pairs`
============== ================================================ ==============================

Beside a structure, hull energies (eV/atom) are called `energy_above_hull` or `e_above_hull`, and
band gaps (eV) `band_gap` or, in matbench, `gap pbe`.

A file of JSON holds one document, a list, a dict of them by material id, the response of an API
(`data`), a table as pandas splits it (`columns` and `data`), or an ASE database; it is in memory
as a whole while it is read. Lines of JSON (``.jsonl``, ``.ndjson``) are read one at a time.

.. [1] Andersen et al., Sci. Data 8, 217 (2021); https://specification.optimade.org
.. [2] Choudhary et al., npj Comput. Mater. 6, 173 (2020)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.errors import ModelError
from screening.candidate import Candidate, Origin, SourceItem, Unreadable
from screening.errors import one_line
from screening.sources.ids import clean_id, nth
from screening.sources.materials_project.documents import has_dos, is_magnetic, time_of
from screening.sources.opening import StructureFile
from screening.sources.optimade.entries import candidate_of_entry, is_entry
from screening.sources.periodic import from_cartesian, periodic_in
from screening.sources.properties import BAND_GAPS, HULLS, flag, number

NO_STRUCTURES = "it holds no structure document, and no list or dict of them"
JARVIS_FUNCTIONAL = "OptB88vdW"
MAGNETIC = 0.1  # Bohr magnetons of a cell that are more than noise


def read_json(file: StructureFile) -> Iterator[SourceItem]:
    """The structures of a JSON file, which is read at once."""
    data = _loads(file.text())
    remark = _of_a_part(data)
    for material_id, document in _documents(data, file.stem):
        item = item_of(document, material_id, file.label)
        if remark and isinstance(item, Candidate):
            item = replace(item, remarks=(*item.remarks, remark))
        yield item


def _of_a_part(data: Any) -> str | None:
    """What is to be said of a response that is one page of several."""
    meta = data.get("meta") if isinstance(data, dict) else None
    is_part = isinstance(meta, dict) and meta.get("more_data_available") is True
    return "from a page of an API's answer, which says that there is more" if is_part else None


def read_json_lines(file: StructureFile) -> Iterator[SourceItem]:
    """The structures of a file with one JSON document a line, streamed."""
    n = 0
    for at, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        try:
            document = _loads(line)
        except ValueError as error:
            n += 1
            yield Unreadable(nth(file.stem, n), f"line {at} does not parse: {one_line(error)}")
            continue
        if _is_other_entry(document):
            continue
        n += 1
        item = item_of(document, nth(file.stem, n), file.label)
        if isinstance(item, Unreadable):
            item = replace(item, reason=f"line {at}: {item.reason}")
        yield item


def _is_other_entry(document: Any) -> bool:
    """Whether it is the header of an OPTIMADE file, or an entry that is about no structure."""
    if not isinstance(document, dict):
        return False
    kind = document.get("type")
    is_entry = isinstance(kind, str) and "attributes" in document
    is_info = kind == "info" or "x-optimade" in document
    return is_info or (is_entry and kind != "structures")


# --- JSON ----------------------------------------------------------------------------------


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """Dict of a JSON object; an array of numpy as a list, as monty and ASE write it.

    Raises
    ------
    ValueError
        If a key is there twice: Python would drop the first, a material in a dict of them.
    """
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r:.60} is there twice in one object")
    if document.get("@module") == "numpy" and document.get("@class") == "array":
        return document.get("data")
    if "__ndarray__" in document and len(document) == 1:
        shape, _, values = document["__ndarray__"]
        if prod(shape) == len(values):
            return np.reshape(values, shape).tolist()
    return document


def _documents(data: Any, stem: str) -> Iterator[tuple[str, Any]]:
    """The documents in a JSON file with the ids that they get if they have none."""
    if isinstance(data, dict) and data.get("errors") and not data.get("data"):
        raise ValueError(f"it is an error message of an API: {one_line(str(data['errors']))}")
    if isinstance(data, dict) and {"ids", "nextid"} <= data.keys():
        data = [data[str(i)] for i in data["ids"]]
    elif isinstance(data, dict) and {"columns", "data"} <= data.keys():
        data = [dict(zip(data["columns"], row, strict=True)) for row in data["data"]]
    elif isinstance(data, dict) and isinstance(data.get("data"), list | dict):
        data = data["data"]
    if _is_document(data):
        yield stem, data
    elif isinstance(data, list):
        entries = [document for document in data if not _is_other_entry(document)]
        yield from ((nth(stem, n), document) for n, document in enumerate(entries, 1))
    elif isinstance(data, dict) and any(isinstance(d, dict) for d in data.values()):
        yield from ((clean_id(key), document) for key, document in data.items())
    else:
        raise ValueError(NO_STRUCTURES)


def _is_document(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    is_structure = {"lattice", "sites"} <= data.keys() or "structure" in data or "cif" in data
    return is_structure or _is_ase(data) or is_entry(data) or _is_jarvis(data)


# --- documents ------------------------------------------------------------------------------


def item_of(document: Any, material_id: str, label: str) -> SourceItem:
    """Candidate of a document of any kind, or the reason why there is none.

    Parameters
    ----------
    document : object
        As JSON gives it.
    material_id : str
        Where the document has none of its own.
    label : str
        Of the file.
    """
    if not isinstance(document, dict):
        return Unreadable(material_id, f"a {type(document).__name__} is not a structure")
    if _is_ase(document) and isinstance(pairs := document.get("key_value_pairs"), dict):
        document = pairs | document
    own = next((document[k] for k in ("material_id", "jid", "id") if document.get(k)), None)
    if isinstance(own, str | int):
        material_id = clean_id(str(own))
    try:
        if is_entry(document):
            return candidate_of_entry(document, material_id, label)
        if _is_jarvis(document):
            return _of_jarvis(document, material_id, label)
        if _is_ase(document):
            crystal = _ase_crystal(document)
            return candidate_of(crystal, document, material_id, Origin(label))
        return _of_pymatgen(document, material_id, label)
    except ModelError as error:
        return Unreadable(material_id, str(error))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Unreadable(material_id, f"not a structure document: {one_line(repr(error))}")


def candidate_of(
    crystal: Crystal, properties: dict[str, Any], material_id: str, origin: Origin
) -> Candidate:
    """Candidate with the properties that a document has under the names used here.

    Parameters
    ----------
    crystal : Crystal
    properties : dict
        The document.
    material_id : str
    origin : screening.candidate.Origin

    Raises
    ------
    ModelError
        If one of them is of a wrong type.
    """
    has_edos = flag(properties, "has_edos")
    known_props = has_dos(properties.get("has_props"))
    return Candidate(
        material_id,
        crystal,
        energy_above_hull=_first_number(properties, HULLS),
        band_gap=_first_number(properties, BAND_GAPS),
        is_magnetic=_is_magnetic(properties),
        has_edos=known_props if has_edos is None else has_edos,
        origin=origin,
    )


def _first_number(properties: dict[str, Any], names: tuple[str, ...]) -> float | None:
    """The number under the first of some names that the document knows one for."""
    numbers = (number(properties, name) for name in names)
    return next((known for known in numbers if known is not None), None)


def _is_magnetic(properties: dict[str, Any]) -> bool | None:
    """By a document of one's own, or by the ordering that the Materials Project found."""
    if "ordering" in properties:
        return is_magnetic(properties)
    return flag(properties, "is_magnetic")


def _of_pymatgen(document: dict[str, Any], material_id: str, label: str) -> Candidate:
    if "structure" not in document and "cif" not in document:
        return candidate_of(_pymatgen_crystal(document), document, material_id, Origin(label))
    if document.get("deprecated") is True:
        raise ModelError("deprecated by the Materials Project")
    structure = document.get("structure") or document.get("cif")
    if structure is None:
        raise ModelError("the document has no structure")
    if isinstance(structure, str):  # as tables hold it
        if structure.lstrip()[:1] not in ("{", "["):
            return _of_cif(structure, document, material_id, label)
        structure = _loads(structure)
    meta = document.get("builder_meta")
    version = meta.get("database_version") if isinstance(meta, dict) else None
    updated = time_of(document.get("last_updated"))
    origin = Origin(label, version if isinstance(version, str) else None, updated)
    return candidate_of(_pymatgen_crystal(structure), document, material_id, origin)


def _of_cif(text: str, document: dict[str, Any], material_id: str, label: str) -> Candidate:
    from screening.sources.cif.reader import read_cif
    from screening.sources.cif.tags import CifError

    try:
        structures = read_cif(text)
    except CifError as error:
        raise ModelError(str(error)) from None
    if len(structures) > 1:
        raise ModelError(f"its CIF holds {len(structures)} structures")
    (structure,) = structures
    if structure.crystal is None:
        raise ModelError(structure.reason)
    candidate = candidate_of(structure.crystal, document, material_id, Origin(label))
    magnetic = structure.is_magnetic if candidate.is_magnetic is None else candidate.is_magnetic
    return replace(candidate, is_magnetic=magnetic, remarks=structure.remarks)


def _pymatgen_crystal(document: Any) -> Crystal:
    if not isinstance(document, dict):
        raise ModelError(f"a {type(document).__name__} is not a structure")
    if "sites" in document and "lattice" not in document:
        raise ModelError("it is a molecule: there is no lattice")
    lattice = document.get("lattice")
    if isinstance(lattice, dict) and not all(lattice.get("pbc", [True])):
        raise ModelError(periodic_in(lattice["pbc"]))
    if not isinstance(lattice, dict) or "matrix" in lattice:
        return Crystal.from_dict(document)
    from pymatgen.core import Structure  # for lattices that are given by lengths and angles

    try:
        return Crystal.from_structure(Structure.from_dict(document))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"not a structure document: {one_line(error)}") from None


def _is_jarvis(document: dict[str, Any]) -> bool:
    atoms = document.get("atoms")
    return "lattice_mat" in document or (isinstance(atoms, dict) and "lattice_mat" in atoms)


def _of_jarvis(document: dict[str, Any], material_id: str, label: str) -> Candidate:
    """Candidate of JARVIS; hull energy and gap are of the functional that it relaxes with.

    A total magnetic moment of zero may be that of an antiferromagnet, so that it leaves open
    whether a material is magnetic.
    """
    atoms = document.get("atoms", document)
    lattice = np.array(atoms["lattice_mat"], float).reshape(3, 3)
    numbers = np.array([ATOMIC_NUMBERS.get(symbol, 0) for symbol in atoms["elements"]])
    coordinates = np.array(atoms["coords"], float).reshape(-1, 3)
    crystal = Crystal(lattice, coordinates, numbers)
    if str(atoms.get("cartesian", False)).lower() == "true":
        crystal = from_cartesian(lattice, coordinates, numbers)
    known = {key: value for key, value in document.items() if value != "na"}
    hull, gap = number(known, "ehull"), number(known, "optb88vdw_bandgap")
    moments = [number(known, key) for key in ("magmom_oszicar", "magmom_outcar")]
    magnetic = any(m is not None and abs(m) >= MAGNETIC for m in moments) or None
    is_jarvis = str(document.get("jid", "")).startswith("JVASP-")
    functional = JARVIS_FUNCTIONAL if is_jarvis or gap is not None else None
    remarks = (f"energy above hull and band gap by {JARVIS_FUNCTIONAL}, of JARVIS",)
    return Candidate(
        material_id,
        crystal,
        energy_above_hull=hull,
        band_gap=gap,
        is_magnetic=magnetic,
        origin=Origin(label, functional=functional),
        remarks=remarks if (hull, gap) != (None, None) else (),
    )


def _is_ase(document: dict[str, Any]) -> bool:
    return {"numbers", "positions", "cell"} <= document.keys()


def _ase_crystal(document: dict[str, Any]) -> Crystal:
    cell = document["cell"]
    if isinstance(cell, dict):
        cell = cell["array"]
    pbc = document.get("pbc", [True])
    if not all(pbc):
        raise ModelError(periodic_in(pbc))
    return from_cartesian(cell, document["positions"], np.array(document["numbers"]))
