"""What is known of each element: 92 binary descriptors, properties as numbers, and stand-ins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

N_ELEMENTS = 103  # H to Lr: those that have a row, and the length of the composition vector
N_DESCRIPTORS = 92
PROPERTIES = (
    "group",
    "period",
    "electronegativity",
    "covalent_radius",
    "valence_electrons",
    "log_first_ionization_energy",
    "electron_affinity",
    "block",
    "log_molar_volume",
    "log_atomic_mass",
    "mendeleev_number",
    "melting_point",
    "atomic_radius",
)
N_PROPERTIES = len(PROPERTIES)
STAND_INS = dict.fromkeys(("Pr", "Nd", "Pm", "Sm"), "La") | dict.fromkeys(
    ("Gd", "Tb", "Dy", "Ho", "Er", "Tm"), "Y"
)
"""Trivalent lanthanides, and the element of the same valence and about the same size, without 4f
electrons, that takes their place where the 4f shell is left out: in DFT as in a Hamiltonian. The
Materials Project freezes the 4f shell of all of them but Gd, and that of Yb and Lu, too. Lu needs
none, since its shell is full; of Ce, Eu and Yb the 4f electrons take part in the bonds."""
_HAVE_STAND_INS = ("tight-binding",)  # architectures; named here to be known without torch
_OUTLIER = 4.0  # standard deviations at which a property is cut off
_NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86)


@dataclass(frozen=True)
class KnownElements:
    """What a model knows of the elements.

    Parameters
    ----------
    trained : frozenset of str
        Elements of the materials that it was trained on.
    stand_ins : mapping of str to str
        Elements to which the model gives the parameters of another one; see `STAND_INS`.

    Examples
    --------
    >>> KnownElements(frozenset({"La", "N"}), STAND_INS).unseen(["Fe", "Ho", "N", "Pr"])
    ['Fe', 'Ho']
    """

    trained: frozenset[str]
    stand_ins: Mapping[str, str] = field(default_factory=dict)

    def unseen(self, elements: Iterable[str]) -> list[str]:
        """Those of some elements whose parameters were not trained, sorted."""
        return sorted(e for e in set(elements) if self.stand_ins.get(e, e) not in self._known)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.stand_ins.get(e, e) for e in self.trained)


def stand_ins_of(architecture: str) -> Mapping[str, str]:
    """Elements to which an architecture gives the parameters of another one; mostly none.

    Examples
    --------
    >>> stand_ins_of("tight-binding")["Pr"], stand_ins_of("mat2spec")
    ('La', {})
    """
    return STAND_INS if architecture in _HAVE_STAND_INS else {}


def stand_ins_among(elements: Iterable[str]) -> dict[str, str]:
    """Those of some elements that are in `STAND_INS`, sorted, and their stand-ins.

    Examples
    --------
    >>> stand_ins_among(["Pr", "N", "Ho"])
    {'Ho': 'Y', 'Pr': 'La'}
    """
    return {e: STAND_INS[e] for e in sorted(elements) if e in STAND_INS}


@cache
def element_descriptors() -> np.ndarray:
    """Descriptor table, shape (104, 92), float32; row Z describes the element Z, row 0 is empty.

    Nine properties, each one-hot over its values or over equal intervals: group (18), period
    (7), Pauling electronegativity (10), covalent radius (10), valence electrons (12), logarithm
    of the first ionisation energy (10), electron affinity (10), block (4) and logarithm of the
    molar volume (11). A property that is not known is all zeros. These are the properties of
    the CGCNN table (Xie & Grossman, PRL 120, 145301 (2018)) that the paper uses, but the values
    come from pymatgen and ASE and the bins are ours, so single rows differ from it.
    """
    table = np.zeros((N_ELEMENTS + 1, N_DESCRIPTORS), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each property that it lacks
        properties = np.array([_properties(z) for z in range(1, N_ELEMENTS + 1)])
    columns = [
        _one_hot(properties[:, 0] - 1, 18),
        _one_hot(properties[:, 1] - 1, 7),
        _binned(properties[:, 2], 10),
        _binned(properties[:, 3], 10),
        _one_hot(properties[:, 4] - 1, 12),
        _binned(np.log(properties[:, 5]), 10),
        _binned(properties[:, 6], 10),
        _one_hot(properties[:, 7], 4),
        _binned(np.log(properties[:, 8]), 11),
    ]
    table[1:] = np.concatenate(columns, axis=1)
    table.setflags(write=False)
    return table


@cache
def element_properties() -> np.ndarray:
    """Properties of each element as numbers, shape (104, 13), float32; row Z is the element Z.

    The columns are `PROPERTIES`, each with zero mean and unit deviation over the elements H to
    Lr, cut off at four deviations. An element whose value is not known has the mean, and row 0
    is empty. The values come from pymatgen and ASE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each property that it lacks
        rows = [_properties(z) + _more_properties(z) for z in range(1, N_ELEMENTS + 1)]
    values = np.array(rows)
    logarithmic = [i for i, name in enumerate(PROPERTIES) if name.startswith("log_")]
    values[:, logarithmic] = np.log(values[:, logarithmic])
    scaled = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
    table = np.zeros((N_ELEMENTS + 1, N_PROPERTIES), np.float32)
    table[1:] = np.nan_to_num(scaled, nan=0.0).clip(-_OUTLIER, _OUTLIER)
    table.setflags(write=False)
    return table


@cache
def covalent_radii() -> np.ndarray:
    """Covalent radius of each element in Å, shape (104,), float32; from ASE."""
    from ase.data import covalent_radii as radii

    return _read_only(radii)


@cache
def atomic_masses() -> np.ndarray:
    """Atomic mass of each element in u, shape (104,), float32; from ASE."""
    from ase.data import atomic_masses as masses

    return _read_only(masses)


def _read_only(values: np.ndarray) -> np.ndarray:
    table = np.array(values[: N_ELEMENTS + 1], np.float32)
    table.setflags(write=False)
    return table


def _more_properties(z: int) -> list[float]:
    from pymatgen.core import Element

    element = Element.from_Z(z)
    return [
        float(element.atomic_mass),
        _known(element, "mendeleev_no"),
        _known(element, "melting_point"),
        _known(element, "atomic_radius"),
    ]


def _properties(z: int) -> list[float]:
    from ase.data import covalent_radii
    from pymatgen.core import Element

    element = Element.from_Z(z)
    return [
        element.group,
        min(element.row, 7),
        _known(element, "X"),
        covalent_radii[z] if covalent_radii[z] > 0.2 else np.nan,
        _valence_electrons(z, element.group, element.block),
        _known(element, "ionization_energy"),
        _known(element, "electron_affinity"),
        "spdf".index(element.block),
        _known(element, "molar_volume"),
    ]


def _known(element: object, name: str) -> float:
    value = getattr(element, name, None)
    return np.nan if value is None else float(value)


def _valence_electrons(z: int, group: int, block: str) -> int:
    """Electrons outside the noble-gas core and filled d and f shells, at most 12."""
    if z == 2:
        return 2
    if block == "p":
        return group - 10
    core = max(n for n in _NOBLE_GASES if n < z)
    filled_f = 14 if block == "d" and z - core > 16 else 0
    return min(z - core - filled_f, 12)


def _one_hot(index: np.ndarray, size: int) -> np.ndarray:
    return (index[:, None] == np.arange(size)).astype(np.float32)


def _binned(values: np.ndarray, size: int) -> np.ndarray:
    """One-hot over `size` equal intervals between the smallest and the largest value."""
    low, high = np.nanmin(values), np.nanmax(values)
    known = np.isfinite(values)
    index = np.full(len(values), -1)
    index[known] = np.minimum((values[known] - low) / (high - low) * size, size - 1).astype(int)
    return _one_hot(index, size)
