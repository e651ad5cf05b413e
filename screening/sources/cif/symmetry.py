"""Space groups in CIFs: operations, Hall symbols, Hermann-Mauguin names, numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import gemmi
import numpy as np

from screening.sources.cif.tags import CifError, Tags

STRAIN = 5e-3  # how far a cell may be from the shape that its space group asks for
_SHIFT = 2e-3  # two translations (fractions) nearer than this are the same
_GRID = gemmi.Op.DEN  # translations of all tabulated settings are multiples of 1/24

OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
MAGNETIC_OPERATIONS = "_space_group_symop_magn_operation_xyz"
MAGNETIC_CENTERING = "_space_group_symop_magn_centering_xyz"
HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m",
)
REFERENCE_NAME = "_space_group_name_h-m_ref"  # of the type; on these axes only if none is given
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
CHOICE = "_space_group_it_coordinate_system_code"


@dataclass(frozen=True, eq=False)
class SpaceGroupSetting:
    """A space group on given axes with a given origin.

    Parameters
    ----------
    name : str
        For people.
    rotations : ndarray, shape (n, 3, 3), int64
    translations : ndarray, shape (n, 3), float64
        Operations on fractional coordinates, centring translations multiplied out.
    """

    name: str
    rotations: np.ndarray
    translations: np.ndarray

    @cached_property
    def number(self) -> int:
        """Number of the space-group type in the International Tables, 0 if it is not known."""
        import spglib

        space_group = spglib.get_spacegroup_type_from_symmetry(
            self.rotations.astype(np.intc), self.translations, symprec=1e-3
        )
        return space_group.number if space_group else 0

    def strain(self, lattice: np.ndarray) -> float:
        """By how much the operations change lengths in the cell, relative; 0 if they fit it."""
        metric = lattice @ lattice.T
        turned = np.einsum("nji,jk,nkl->nil", self.rotations, metric, self.rotations)
        lengths = np.sqrt(np.diag(metric))
        return float(np.abs((turned - metric) / np.outer(lengths, lengths)).max() / 2)

    @property
    def is_trivial(self) -> bool:
        """Whether it is P1, without a shift: each site stands for itself."""
        is_one = len(self.rotations) == 1 and not self.translations.any()
        return is_one and bool((self.rotations[0] == np.eye(3, dtype=int)).all())

    def equals(self, other: SpaceGroupSetting) -> bool:
        """Whether both have the same operations, up to lattice translations."""
        if len(self.rotations) != len(other.rotations):
            return False
        return bool(_same(self, other.rotations, other.translations).any(1).all())


def possible_settings(tags: Tags, lattice: np.ndarray) -> tuple[list[SpaceGroupSetting], list[str]]:
    """Every setting that a block may mean, and what is to be remarked if it is the first.

    Positions are defined by the operations of a file, so these come before its names: where a
    name is of the same type on other axes, as ``P 21/c`` often is for all of its settings, the
    operations are used. Where a name or number is of another type, one of both was left over or
    lost (``x,y,z`` alone from a program that forgot the others), so both are possible. Without
    operations, the setting is what the Hall symbol, the Hermann-Mauguin names, the coordinate
    system code and the number agree on; it may be several (``F d -3 m`` has two origins, ``R -3 m``
    two kinds of axes, ``P 21/m`` two unique axes), of which those stay that fit the cell.

    Parameters
    ----------
    tags : Tags
    lattice : ndarray, shape (3, 3)
        Row vectors in Å.

    Returns
    -------
    settings : list of SpaceGroupSetting
        Empty if the block says nothing of symmetry.
    remarks : list of str

    Raises
    ------
    CifError
        If the operations are not a group, a name is not known, descriptions contradict one
        another, or the cell has not the shape that the space group asks for.
    """
    listed = _listed(tags)
    if tags.column(MAGNETIC_OPERATIONS):
        descriptions: dict[str, list[SpaceGroupSetting]] = {}
        unknown: list[str] = []
    else:
        descriptions, unknown = _descriptions(tags)
    if listed is None and unknown:
        raise CifError(
            f"space group {unknown[0]!r} is not known; add its operations "
            "(_space_group_symop_operation_xyz)"
        )
    remarks: list[str] = []
    if listed is None:
        settings = _agreed(descriptions)
    else:
        settings, remarks = _beside_operations(listed, descriptions)
    fitting = [s for s in settings if s.strain(lattice) <= STRAIN]
    if settings and not fitting:
        names = " or ".join(dict.fromkeys(s.name for s in settings[:3]))
        raise CifError(f"the cell does not have the shape that {names} asks for")
    if listed is not None and len(settings) > 1 and fitting == [listed]:
        remarks.append("its operations contradict the space group that it names; they were used")
    return fitting, remarks if fitting and fitting[0] is settings[0] else []


def _beside_operations(
    listed: SpaceGroupSetting, descriptions: dict[str, list[SpaceGroupSetting]]
) -> tuple[list[SpaceGroupSetting], list[str]]:
    remarks: list[str] = []
    others: list[SpaceGroupSetting] = []
    for text, settings in descriptions.items():
        if not settings or any(listed.equals(s) for s in settings):
            continue
        if listed.number and any(s.number == listed.number for s in settings):
            remarks.append(f"its operations are another setting than {text}; they were used")
        else:
            others += settings
    return [listed, *others], remarks


def _agreed(descriptions: dict[str, list[SpaceGroupSetting]]) -> list[SpaceGroupSetting]:
    """The settings that all descriptions allow."""
    agreed: list[SpaceGroupSetting] = []
    first = ""
    for text, settings in descriptions.items():
        if not agreed:
            agreed, first = settings, text
            continue
        both = [s for s in agreed if any(s.equals(t) for t in settings)]
        if not both and text.isdigit():  # a setting that is not in the tables has a number, too
            both = [s for s in agreed if s.number == int(text)]
        if not both:
            raise CifError(f"its space group is {first} and {text}, which contradict each other")
        agreed = both
    return agreed


def _descriptions(tags: Tags) -> tuple[dict[str, list[SpaceGroupSetting]], list[str]]:
    """Settings by the text that describes them, and the texts that nothing is known of."""
    by_name: dict[str, list[SpaceGroupSetting]] = {}
    unknown = []
    for text in tags.values(*HALL):
        try:
            by_name[text] = [hall_setting(text)]
        except (RuntimeError, ValueError):
            unknown.append(text)
    for text in tags.values(*NAMES):
        if text not in by_name:
            by_name[text] = named_settings(text)
            unknown += [] if by_name[text] else [text]
    reference = tags.value(REFERENCE_NAME)
    if reference and reference not in by_name:
        settings = named_settings(reference)
        by_name[reference] = (
            numbered_settings(settings[0].number) if by_name and settings else settings
        )
        unknown += [] if settings else [reference]
    for text in tags.values(*NUMBERS):
        number = int(text) if text.isdigit() else 0
        if not 1 <= number <= 230:
            raise CifError(f"there is no space group of number {text}")
        by_name[text] = numbered_settings(number)
    code = (tags.value(CHOICE) or "").lower()
    for text, settings in by_name.items():
        with_code = [s for s in settings if code and code in _codes(s.name)]
        by_name[text] = with_code or settings
    known = {text: settings for text, settings in by_name.items() if settings}
    # One good name makes up for a bad one, but a number does not say which setting it is.
    named = any(not text.isdigit() for text in known)
    return known, [] if named else unknown


# --- from words to settings -----------------------------------------------------------------


@cache
def named_settings(text: str) -> list[SpaceGroupSetting]:
    """Settings that a Hermann-Mauguin name may mean, empty if it is not known.

    The name may be short, full or old (``F d 3 m``), with or without spaces, in any case, and
    may end in an origin choice (``:1``, ``:2``, ``S`` or ``Z`` as in the ICSD), in axes (``:H``,
    ``R``) or in a cell choice (``:b2``). A Hall symbol in the place of a name is taken, too,
    if it begins with ``-``.

    Examples
    --------
    >>> [s.name for s in named_settings("f d 3 m")]
    ['F d -3 m:1', 'F d -3 m:2']
    >>> [s.name for s in named_settings("R-3m H")]
    ['R -3 m:H']
    """
    base, choice = _split_name(text)
    groups = _groups(base) or _fully_named(base)
    if not groups and text.startswith("-"):  # as no Hermann-Mauguin name does
        try:
            return [hall_setting(text)]
        except (RuntimeError, ValueError):
            return []
    if choice:
        groups = [g for g in groups if choice in _codes(g.xhm())]
    return [_tabulated(g.xhm()) for g in groups]


@cache
def numbered_settings(number: int) -> list[SpaceGroupSetting]:
    """All settings of a space-group type that the International Tables list."""
    return [_tabulated(g.xhm()) for g in gemmi.spacegroup_table_itb() if g.number == number]


@cache
def hall_setting(symbol: str) -> SpaceGroupSetting:
    """Setting of a Hall symbol.

    Raises
    ------
    RuntimeError, ValueError
        If it is none (gemmi's errors).
    """
    symbol = " ".join(symbol.replace("_", " ").split())
    if not re.match(r"-?[PABCIRFpabcirf]( |$)", symbol):
        raise ValueError(f"{symbol!r} is no Hall symbol")
    return _of_operations(symbol, gemmi.symops_from_hall(symbol))


@cache
def _tabulated(xhm: str) -> SpaceGroupSetting:
    return _of_operations(xhm, _table()[xhm].operations())


@cache
def _table() -> dict[str, gemmi.SpaceGroup]:
    return {g.xhm(): g for g in gemmi.spacegroup_table()}


def _of_operations(name: str, operations: Iterable[gemmi.Op]) -> SpaceGroupSetting:
    pairs = [(op.rot, op.tran) for op in operations]
    rotations = np.array([r for r, _ in pairs]) // _GRID
    return SpaceGroupSetting(name, rotations, np.array([t for _, t in pairs]) / _GRID)


_CHOICES = {"s": "1", "z": "2", "o1": "1", "o2": "2", "rh": "r", "hr": "h"}


def _split_name(text: str) -> tuple[str, str]:
    """Name and choice of origin, axes or cell, the latter lower-case and maybe empty."""
    choice = r"\(\s*(?:origin|choice|setting|cell|\s)+(\d)\s*\)$"
    name = re.sub(choice, r":\1", text.strip(), flags=re.IGNORECASE)
    name = re.sub(r"\((\d)\)", r"\1", name)  # P2(1)/c
    name = re.sub(r"(\d)_(\d)", r"\1\2", name).replace("_", " ")  # P 2_1/c
    name = re.sub(r"\s*/\s*", "/", " ".join(name.split()))
    match = (
        re.fullmatch(r"(.+?)\s*:\s*([-a-z0-9]+)", name, re.IGNORECASE)
        or re.fullmatch(r"(.*\S)\s+([SZHR]|HR|RH|O[12])", name, re.IGNORECASE)
        or re.fullmatch(r"(.*[^\s/])([SZHR])", name)  # Fd-3mS: no name ends in such a letter
    )
    if not match:
        return name, ""
    code = match[2].lower()
    return match[1], _CHOICES.get(code, code)


def _groups(base: str) -> list[gemmi.SpaceGroup]:
    """Tabulated settings that a name without its choice may mean."""
    short = re.fullmatch(r"([PABCIF])\s*([2mabcden/1-]+)", base, re.IGNORECASE)
    if short:
        lattice, axis = short[1].upper(), short[2].lower()
        full = (f"{lattice} 1 {axis} 1", f"{lattice} 1 1 {axis}")  # a short name is of b or c
        groups = [_table()[name] for name in full if name in _table()]
        if groups:
            return groups
    space_group = gemmi.find_spacegroup_by_name(base)
    if space_group is None or not _same_digits(base, space_group.hm):
        return []
    return [
        g for g in _table().values() if g.number == space_group.number and g.hm == space_group.hm
    ]


def _fully_named(base: str) -> list[gemmi.SpaceGroup]:
    """Tabulated settings of a full name: spglib knows ``P 21/n 21/m 21/a``, gemmi does not."""
    full, groups = _full_names().get(base.replace(" ", "").lower(), ("", []))
    return groups if _same_digits(base, full) else []


@cache
def _full_names() -> dict[str, tuple[str, list[gemmi.SpaceGroup]]]:
    import spglib

    names: dict[str, tuple[str, list[gemmi.SpaceGroup]]] = {}
    for hall_number in range(1, 531):
        kind = spglib.get_spacegroup_type(hall_number)
        if kind is None:  # there are 530
            continue
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(kind.hall_symbol))
        if group is not None:
            full = kind.international_full.replace("_", "")
            names.setdefault(full.replace(" ", "").lower(), (full, []))[1].append(group)
    return names


def _same_digits(name: str, found: str) -> bool:
    """Whether a name that is spaced out has the axes of the one that was found for it.

    gemmi passes over spaces and so takes ``P 31 2``, which is none, for ``P 3 1 2``.
    """
    if len(name.split()) < 3:
        return True
    return _digits(name) == _digits(found)


def _digits(name: str) -> list[str]:
    return [digits for digits in re.findall(r"\d+", name) if digits != "1"]


def _codes(xhm: str) -> set[str]:
    """Choice of origin, axes and cell of a tabulated setting, lower-case."""
    group = _table().get(xhm)
    if group is None:
        return set()
    return {code.lower() for code in (group.ext.strip("\0"), group.qualifier) if code}


# --- from operations to a setting -----------------------------------------------------------


def _listed(tags: Tags) -> SpaceGroupSetting | None:
    magnetic = tags.column(MAGNETIC_OPERATIONS)
    if magnetic:
        centering = tags.column(MAGNETIC_CENTERING) or ["x,y,z,+1"]
        return _group(tuple(map(str, magnetic)), tuple(map(str, centering)), True)
    for tag in OPERATIONS:
        operations = tags.column(tag)
        if operations and any(operations):
            return _group(tuple(map(str, operations)))
    return None


@lru_cache(512)
def _group(
    operations: tuple[str, ...], centering: tuple[str, ...] = (), magnetic: bool = False
) -> SpaceGroupSetting:
    """Setting of the operations that a file lists.

    Raises
    ------
    CifError
        If one cannot be read, or they are not a group.
    """
    parsed = [parse_operation(text, magnetic) for text in operations]
    if centering:
        extra = [parse_operation(text, magnetic) for text in centering]
        parsed = [(c @ r, c @ t + s) for c, s in extra for r, t in parsed]
    rotations = np.array([r for r, _ in parsed])
    translations = np.array([t for _, t in parsed])
    everything = SpaceGroupSetting("its operations", rotations, translations)
    same = _same(everything, rotations, translations)
    first = same.argmax(1) == np.arange(len(rotations))
    setting = SpaceGroupSetting(everything.name, rotations[first], translations[first])
    _check_closed(setting)
    return setting


def _check_closed(setting: SpaceGroupSetting) -> None:
    for rotation, shift in zip(setting.rotations, setting.translations, strict=True):
        products = setting.rotations @ rotation
        shifts = setting.rotations @ shift + setting.translations
        if not _same(setting, products, shifts).any(1).all():
            raise CifError(
                f"its {len(setting.rotations)} symmetry operations are no group: some are missing"
            )


def _same(
    setting: SpaceGroupSetting, rotations: np.ndarray, translations: np.ndarray
) -> np.ndarray:
    """Which operations are which of the setting's, shape (m, n), bool."""
    place = 16 ** np.arange(9)
    keys, own = ((r.reshape(-1, 9) + 8) @ place for r in (rotations, setting.rotations))
    shift = translations[:, None, :] - setting.translations[None, :, :]
    shift -= np.round(shift)
    return (keys[:, None] == own[None, :]) & (np.abs(shift) < _SHIFT).all(2)


_TERM = re.compile(r"([+-]?)(?:(\d+)?\*?([xyz])|(\d*\.?\d+|\d+\.)(?:/(\d+))?)")


def parse_operation(text: str, magnetic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rotation, shape (3, 3), int64, and translation, shape (3,), of a text like ``-y,x+1/2,z``.

    Translations as near to a multiple of 1/24 as three digits are (``0.333``) are taken for it.

    Parameters
    ----------
    text : str
    magnetic : bool
        A fourth part may reverse time.

    Raises
    ------
    CifError
        If it cannot be read or is no rotation.
    """
    parts = re.sub(r"\s", "", text).lower().split(",")
    if magnetic and len(parts) == 4:
        parts = parts[:3]  # the fourth reverses time
    rotation, translation = np.zeros((3, 3), int), np.zeros(3)
    readable = len(parts) == 3
    for row, part in enumerate(parts[:3]):
        terms = list(_TERM.finditer(part))
        signed = all(term[1] for term in terms[1:])
        readable &= bool(terms) and signed and "".join(t[0] for t in terms) == part
        for sign, count, axis, number, divisor in (t.groups() for t in terms):
            factor = -1 if sign == "-" else 1
            if axis:
                rotation[row, "xyz".index(axis)] += factor * int(count or 1)
            else:
                translation[row] += factor * float(number) / max(int(divisor or 1), 1)
    if not readable or round(abs(np.linalg.det(rotation))) != 1:
        raise CifError(f"{text!r} is no symmetry operation")
    nearest = np.round(translation * _GRID) / _GRID
    return rotation, np.where(np.abs(translation - nearest) < 1e-3, nearest, translation)


def union_name(settings: Sequence[SpaceGroupSetting]) -> str:
    """The names of several settings in a line.

    Examples
    --------
    >>> union_name(named_settings("F d -3 m"))
    'F d -3 m:1 and F d -3 m:2'
    """
    names = [s.name for s in settings]
    return " and ".join(names) if len(names) < 4 else f"{len(names)} settings"
