"""CIF: read right or refused with the reason, never guessed.

The syntax and the space groups are gemmi's. Everything that this reader concludes is held against
what the file says of itself, and what contradicts it is refused (:mod:`.cif_checks`).

A parser of CIFs may go on with a warning; this one has none. What pymatgen's ``CifParser`` warns
of is here:

==============================================  ==================================================
pymatgen's warning                              here
==============================================  ==================================================
no operations, space group taken from its name  right, with all names, origins and settings
no symmetry information found, P1 is used       refused, unless the file's own data show P1 (remark)
stoichiometry differs, elements are missing     refused
implicit hydrogens                              refused
label parsed as another symbol                  refused, unless the formula leaves one element only
occupancies sum to more than 1                  refused, as all occupancies other than 1
coordinates rounded to 1/3, 2/3                 sites are moved onto special positions (remark
                                                from 0.01 Å on; at most 0.1 Å)
lattice type or angle made up                   refused
Pauling file: symbol is a mixture               refused
magCIF keys renamed                             all spellings are known
no structure in a data block                    refused if it has sites, else passed over
==============================================  ==================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.distances import close_pairs, overlap
from models.errors import ModelError
from screening.sources.cif.checks import Content, contradiction, elements_stated
from screening.sources.cif.symmetry import SpaceGroupSetting, possible_settings, union_name
from screening.sources.cif.tags import CifError, Tags, cif_number, read_blocks

SNAP = 0.1  # Å; images of a site nearer than this are one atom on a special position
_MOVED = 0.01  # Å; a shift that is worth a remark
_ALIKE = 1e-3  # Å; images of a site on a special position coincide to this
_FULL = 1e-3  # how far an occupancy may be from 1
HEAVIEST = 103  # Lr
_FRACTIONS = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
_LATTICE = (
    *(f"_cell_length_{axis}" for axis in "abc"),
    *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
)
_MOMENTS = tuple(
    f"_atom_site_moment_{name}"
    for name in (
        *(f"{system}_{axis}" for system in ("crystalaxis", "cartn") for axis in "xyz"),
        "spherical_modulus",
        "magnitude",
    )
)
_P1 = SpaceGroupSetting("P 1", np.eye(3, dtype=int)[None], np.zeros((1, 3)))


@dataclass(frozen=True, slots=True)
class CifStructure:
    """What a data block with atoms gives: a crystal or the reason why there is none.

    Parameters
    ----------
    block : str
        Name of the data block; several may have the same.
    crystal : Crystal, optional
    reason : str
        Why there is no crystal, in one line; empty if there is one.
    remarks : tuple of str
        Repairs, and what a person should know of how it was read.
    is_magnetic : bool, optional
        True if the block gives magnetic moments; None if it is silent.
    """

    block: str
    crystal: Crystal | None = None
    reason: str = ""
    remarks: tuple[str, ...] = ()
    is_magnetic: bool | None = None


def read_cif(text: str) -> list[CifStructure]:
    """Structures of the data blocks of a CIF that have atoms, in its order.

    Raises
    ------
    CifError
        If the text is no CIF or no block has atoms; the message is one line.
    """
    blocks = [tags for tags in read_blocks(text) if tags.has("_atom_site_")]
    if not blocks:
        raise CifError("no structure in it: there are no atom sites")
    return [_structure(tags) for tags in blocks]


def _structure(tags: Tags) -> CifStructure:
    try:
        crystal, remarks = _crystal(tags)
    except (CifError, ModelError) as error:
        return CifStructure(tags.name, reason=str(error))
    moments = (value for tag in _MOMENTS for value in tags.column(tag))
    magnetic = any(value and cif_number(value, "moment") for value in moments)
    return CifStructure(tags.name, crystal, "", tuple(remarks), True if magnetic else None)


def _crystal(tags: Tags) -> tuple[Crystal, list[str]]:
    """Crystal of a block, and what is to be remarked.

    Where several settings of the space group are possible, the one is taken that the file's own
    data (formula, Z, density, multiplicities) and the distances between its atoms allow, if there
    is one such crystal only.
    """
    if repeated := tags.value("_repeated"):
        raise CifError(f"{repeated} is there twice")
    if tags.has("_space_group_ssg") or tags.has("_cell_modulation_dimension"):
        raise CifError("it is a modulated structure")
    lattice = _lattice(tags)
    sites, remarks = _sites(tags)
    settings, more = possible_settings(tags, lattice)
    readings, failures = [], {}
    for setting in settings or [_P1]:
        try:
            readings.append(_read(tags, sites, setting, lattice))
        except (CifError, ModelError) as error:
            failures[setting] = str(error)
    readings = _distinct(readings)
    if not readings:
        tried = f"{union_name(settings)} do not fit: " if len(settings) > 1 else ""
        raise CifError(tried + next(iter(failures.values())))
    if len(readings) > 1:
        raise CifError(
            f"its space group may be {union_name([r.setting for r in readings])}, with different "
            "atoms; add the operations (_space_group_symop_operation_xyz) or the full name"
        )
    (reading,) = readings
    if not settings and not reading.confirmed:
        raise CifError(
            "it has no symmetry, and nothing in it tells if all atoms are listed; add the space "
            "group, 'P 1' if they are"
        )
    if not settings:
        more = ["it has no symmetry; its own data show that all atoms are listed"]
    elif reading.setting is not settings[0]:
        more = []  # they were about settings[0]
    if failures:
        others = union_name(list(failures))
        more.append(f"read with {reading.setting.name}; {others} would contradict its other data")
    return reading.crystal, [*remarks, *more, *reading.remarks]


def _lattice(tags: Tags) -> np.ndarray:
    from ase.geometry.cell import cellpar_to_cell

    values = []
    for tag in _LATTICE:
        value = tags.number(tag)
        if value is None:
            raise CifError(f"{tag} is missing")
        if value <= 0 or ("angle" in tag and value >= 180):
            raise CifError(f"{tag} is {value:g}")
        values.append(value)
    with np.errstate(invalid="ignore"):
        lattice = np.array(cellpar_to_cell(values))
    if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-3:
        raise CifError("cell has no volume")
    return lattice


# --- sites ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sites:
    """The sites that a file lists, one of each orbit or more.

    Parameters
    ----------
    labels : list of str
    numbers : ndarray, shape (m,), int64
    coordinates : ndarray, shape (m, 3)
    heavy : ndarray, shape (m,), bool
        Which are deuterium.
    multiplicities : list of float, optional
        Atoms of each in the cell, as far as the file says.
    unsure : str
        A site that is full only if the file's own data confirm it; empty if there is none.
    """

    labels: list[str]
    numbers: np.ndarray
    coordinates: np.ndarray
    heavy: np.ndarray
    multiplicities: list[float] | None
    unsure: str = ""


def _sites(tags: Tags) -> tuple[_Sites, list[str]]:
    """Sites of a block with atoms on them, all fully occupied."""
    rows, remarks = _rows(tags)
    stated = elements_stated(tags)
    symbols = [_symbol(row, stated) for row in rows]
    heavy = np.array([s in ("D", "T") for s in symbols])
    numbers = np.array([1 if h else ATOMIC_NUMBERS[s] for s, h in zip(symbols, heavy, strict=True)])
    if heavy.any():
        remarks.append("deuterium was read as hydrogen")
    _check_groups(rows, has_hydrogen=bool((numbers == 1).any()))
    coordinates = [[cif_number(x or "?", f"coordinate of {r.label}") for x in r.xyz] for r in rows]
    multiplicities = None
    if all(row.multiplicity for row in rows):
        multiplicities = [cif_number(str(r.multiplicity), "multiplicity") for r in rows]
    unknown = [row.label for row in rows if row.occupancy is None]
    if unknown:
        remarks.append(f"occupancy of {unknown[0]} is not given; full by the file's own data")
    labels = [row.label for row in rows]
    unsure = unknown[0] if unknown else ""
    return _Sites(labels, numbers, np.array(coordinates), heavy, multiplicities, unsure), remarks


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    type_symbol: str | None
    xyz: tuple[str | None, ...]
    occupancy: float | None
    multiplicity: str | None


def _rows(tags: Tags) -> tuple[list[_Row], list[str]]:
    """Rows of the table of sites, without those that stand for no atom.

    Raises
    ------
    CifError
        If a site is disordered, or has hydrogens that are not listed.
    """
    columns = [tags.column(tag) for tag in _FRACTIONS]
    if not all(columns):
        raise CifError("it has no fractional coordinates (_atom_site_fract_x, y and z)")
    size = len(columns[0])
    rows, dummies = [], []
    for k in range(size):

        def value(name: str, k: int = k) -> str | None:
            column = tags.column(f"_atom_site_{name}")
            return column[k] if len(column) == size else None

        label = value("label") or value("type_symbol") or f"{k + 1}"
        occupancy: float | None = 1.0
        if tags.column("_atom_site_occupancy"):
            text = value("occupancy")
            occupancy = None if text is None else cif_number(text, f"occupancy of {label}")
        if value("calc_flag") == "dum" or occupancy == 0:
            dummies.append(label)
            continue
        if occupancy is not None and abs(occupancy - 1) > _FULL:
            raise CifError(
                f"structure has partial occupancies ({label}: {occupancy:g}); order it first"
            )
        group = value("disorder_group") or value("disorder_assembly")
        if group not in (None, "0"):
            raise CifError(f"{label} is in a disorder group ({group}); order the structure first")
        hydrogens = value("attached_hydrogens")
        if hydrogens and cif_number(hydrogens, f"hydrogens of {label}"):
            raise CifError(f"{label} has {hydrogens} hydrogen without a site of its own; add it")
        xyz = tuple(column[k] for column in columns)
        multiplicity = value("symmetry_multiplicity") or value("site_symmetry_multiplicity")
        rows.append(_Row(label, value("type_symbol"), xyz, occupancy, multiplicity))
    if not rows:
        raise CifError("structure has no atoms")
    remark = f"{', '.join(dummies[:5])}: no atoms there (dummy or occupancy 0)"
    return rows, [remark] if dummies else []


_MIXED = re.compile(r"([A-Z][a-z]?)[0-9.+-]*\s*[,/+&|]\s*[0-9.]*([A-Z][a-z]?)")
_TWO = re.compile(r"([A-Z][a-z]?)([A-Z][a-z])(?![a-z])")
_CHARGED = re.compile(r"([A-Za-z]+)(?:\d*\.?\d*[+-]|[+-]\d+\.?\d*|0)?")
_LABEL = re.compile(r"([A-Za-z]+)(?:[^A-Za-z].*)?")
_GROUP = re.compile(r"(OH|O[Ww]|[Ww]at|WAT|H2O|HOH|H3O|N[Hh][34]?|CH[1-4])(?![a-z])")
_VACANT = re.compile(r"(Va|VA|Vac|VAC|Vc|Q|Du|X)(?![a-z])")
# Molecules that read as elements where all is in capitals: Co, No, Ho.
_CAPITALS = frozenset({"CO", "NO", "HO"})


def _symbol(row: _Row, stated: frozenset[str]) -> str:
    """Symbol of the element on a site, ``D`` or ``T`` for heavy hydrogen.

    The type symbol says it, if there is one, else the letters that the label begins with. What
    is no element as it stands (``CU``, ``Fea``, ``OA``) is one only if it can be but one of the
    elements that the file states (`stated`; empty if it states none).
    """
    label, kind = row.label, row.type_symbol
    for text in (label, kind or ""):
        pair = _MIXED.search(text)
        if pair and all(_is_element(symbol) for symbol in pair.groups()):
            raise CifError(f"{label} is a mixture ({text}); order the structure first")
    letters = (_CHARGED if kind else _LABEL).fullmatch(kind or label)
    if kind and not letters:
        letters = _LABEL.fullmatch(kind)  # a label in the place of a type
    word = letters[1] if letters else ""
    if word in ("D", "T"):
        return word
    symbol = word if _is_element(word) else _guess(word, bool(kind), stated)
    if not symbol:
        vacancy = "; leave a vacancy out" if _VACANT.match(kind or label) else ""
        raise CifError(f"site {label}: {kind or label!r} does not say which element it is{vacancy}")
    if kind and not stated:
        _check_label(label, symbol)
    return symbol


def _is_element(word: str) -> bool:
    return word != "X" and 0 < ATOMIC_NUMBERS.get(word, 0) <= HEAVIEST


def _guess(word: str, is_type: bool, stated: frozenset[str]) -> str:
    """The one element that a word may be; empty if there are several or none."""
    possible = {word.capitalize()} if len(word) < 3 else set()
    if not is_type:
        possible |= {word[:2].capitalize(), word[:1].upper()}
    if stated:
        possible &= stated
    elif not is_type or word in _CAPITALS:
        return ""
    possible = {symbol for symbol in possible if _is_element(symbol)}
    return possible.pop() if len(possible) == 1 else ""


def _check_label(label: str, symbol: str) -> None:
    """Refuse a label that says another thing than the type, where no formula tells which is right.

    Raises
    ------
    CifError
    """
    letters = _LABEL.fullmatch(label)
    word = letters[1] if letters else ""
    two = _TWO.fullmatch(word)
    other = _is_element(word) and word != symbol
    mixed = two is not None and symbol in two.groups() and all(map(_is_element, two.groups()))
    if other or mixed or (symbol == "V" and _VACANT.match(label)):
        raise CifError(f"site {label} is of type {symbol}; add the formula, or correct one of them")


def _check_groups(rows: Sequence[_Row], has_hydrogen: bool) -> None:
    """Refuse labels of hydroxyl, water or ammonium in a file without any hydrogen.

    Raises
    ------
    CifError
    """
    for row in rows if not has_hydrogen else ():
        for text in (row.label, row.type_symbol or ""):
            if _GROUP.match(text):
                raise CifError(f"{row.label}: the hydrogens of this group have no sites; add them")


# --- from sites to a crystal ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Reading:
    setting: SpaceGroupSetting
    crystal: Crystal
    confirmed: bool
    remarks: list[str] = field(default_factory=list)


def _read(tags: Tags, sites: _Sites, setting: SpaceGroupSetting, lattice: np.ndarray) -> _Reading:
    """The crystal in one setting.

    Raises
    ------
    CifError
        If atoms overlap, or the file says something else of its content.
    """
    orbits, moved = _orbits(sites, setting, lattice)
    remarks = (
        [f"sites were moved onto special positions by {moved:.2f} Å"] if moved > _MOVED else []
    )
    orbits, kept = _without_repeated(sites, orbits, lattice)
    if len(kept) < len(sites.labels):
        remarks.append(f"{len(sites.labels) - len(kept)} sites are images of others; left out")
    sizes = [len(orbit) for orbit in orbits]
    owner = np.repeat(kept, sizes)
    crystal = Crystal(lattice, np.concatenate(orbits), sites.numbers[owner])
    pair = overlap(crystal)
    if pair:
        i, j, distance = pair
        raise CifError(
            f"atoms of {sites.labels[owner[i]]} and {sites.labels[owner[j]]} overlap: "
            f"{distance:.3f} Å apart"
        )
    multiplicities = sites.multiplicities and [sites.multiplicities[k] for k in kept]
    content = Content(
        crystal, int(sites.heavy[owner].sum()), len(setting.rotations), sizes, multiplicities
    )
    reason, confirmed = contradiction(tags, content)
    if reason:
        raise CifError(reason)
    if sites.unsure and not confirmed:
        raise CifError(f"occupancy of {sites.unsure} is not given; add it, or formula and Z")
    return _Reading(setting, crystal, confirmed, remarks)


def _orbits(
    sites: _Sites, setting: SpaceGroupSetting, lattice: np.ndarray
) -> tuple[list[np.ndarray], float]:
    """All images of each site in the cell, and the farthest by which one was moved, in Å."""
    if setting.is_trivial:  # as :func:`_orbit` would do, for all sites at once
        return list(sites.coordinates[:, None] % 1.0), 0.0
    orbits, moved = [], 0.0
    for label, coordinate in zip(sites.labels, sites.coordinates, strict=True):
        orbit, shift = _orbit(label, coordinate, setting, lattice)
        orbits.append(orbit)
        moved = max(moved, shift)
    return orbits, moved


def _orbit(
    label: str, coordinate: np.ndarray, setting: SpaceGroupSetting, lattice: np.ndarray
) -> tuple[np.ndarray, float]:
    """All images of a site in the cell, shape (k, 3), and by how much it was moved in Å.

    A site nearer than `SNAP` to its own images is the mean of them, on the special position.
    """
    images = setting.rotations @ coordinate + setting.translations
    shift = images - coordinate
    shift -= np.round(shift)
    fixed = np.linalg.norm(shift @ lattice, axis=1) < SNAP
    mean = shift[fixed].mean(0)
    images = setting.rotations @ (coordinate + mean) + setting.translations
    apart = images[:, None] - images[None, :]
    apart -= np.round(apart)
    alike = np.linalg.norm(apart @ lattice, axis=2) < _ALIKE
    first = alike.argmax(1) == np.arange(len(images))
    if first.sum() * fixed.sum() != len(images):
        raise CifError(f"atoms of {label} overlap: it is near a special position, but not on it")
    return images[first] % 1.0, float(np.linalg.norm(mean @ lattice))


def _without_repeated(
    sites: _Sites, orbits: list[np.ndarray], lattice: np.ndarray
) -> tuple[list[np.ndarray], list[int]]:
    """Orbits without those that are listed a second time, and the numbers of their sites.

    Raises
    ------
    CifError
        If two different atoms are at one place.
    """
    owner = np.repeat(np.arange(len(orbits)), [len(orbit) for orbit in orbits])
    crystal = Crystal(lattice, np.concatenate(orbits), sites.numbers[owner])
    repeated = set()
    for i, j in zip(*close_pairs(crystal, SNAP)[:2], strict=True):
        first, second = sorted((owner[i], owner[j]))
        same = len(orbits[first]) == len(orbits[second])
        if sites.numbers[first] != sites.numbers[second] or not same:
            raise CifError(f"{sites.labels[first]} and {sites.labels[second]} are at one place")
        if first != second:
            repeated.add(second)
    distinct = [k for k in range(len(orbits)) if k not in repeated]
    return [orbits[k] for k in distinct], distinct


def _distinct(readings: list[_Reading]) -> list[_Reading]:
    """Readings without those that are the same crystal as an earlier one."""
    distinct: list[_Reading] = []
    for reading in readings:
        if not any(_same_crystal(reading.crystal, other.crystal) for other in distinct):
            distinct.append(reading)
    return distinct


def _same_crystal(one: Crystal, other: Crystal) -> bool:
    if one.composition != other.composition:
        return False
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, scale=False)
    return bool(matcher.fit(one.to_structure(), other.to_structure()))
