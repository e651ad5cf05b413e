"""Structures in documents: three arrays, which to a reader are the dict of a pymatgen structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import orjson

LATTICE = 9 * 8  # bytes
DOUBLE, SINGLE = b"\x01", b"\x02"  # first byte of a blob: precision of the coordinates
_COORDINATES = {DOUBLE: "<f8", SINGLE: "<f4"}


@dataclass(frozen=True, eq=False)
class StructureArrays(Mapping[str, Any]):
    """An ordered structure without properties of its sites, 15 times as fast to keep as its dict.

    It is a mapping with the keys and values of the dict that ``pymatgen.core.Structure.from_dict``
    reads, which are made when somebody asks for one of them, and equal to that dict.

    Parameters
    ----------
    lattice : ndarray, shape (3, 3), float64
        Lattice vectors as rows, in Å.
    frac_coords : ndarray, shape (n, 3), float64
        Fractional coordinates.
    atomic_numbers : ndarray of int, shape (n,)

    Examples
    --------
    >>> structure = StructureArrays(np.eye(3) * 3.0, np.zeros((1, 3)), np.array([84]))
    >>> structure["sites"]
    [{'species': [{'element': 'Po', 'occu': 1}], 'abc': [0.0, 0.0, 0.0]}]
    >>> StructureArrays.from_bytes(structure.to_bytes()) == structure.as_dict()
    True
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def as_dict(self) -> dict[str, Any]:
        """The dict itself."""
        return dict(self._fields)

    @cached_property
    def _fields(self) -> dict[str, Any]:
        symbols = _symbols()
        sites = [
            {"species": [{"element": symbols[number], "occu": 1}], "abc": abc}
            for number, abc in zip(
                self.atomic_numbers.tolist(), self.frac_coords.tolist(), strict=True
            )
        ]
        return {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0,
            "lattice": {"matrix": self.lattice.tolist()},
            "sites": sites,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StructureArrays | None:
        """Arrays of such a dict; None of one that says more, or anything in another way."""
        if isinstance(document, cls):
            return document
        try:
            sites = document["sites"]
            numbers = [_numbers()[site["species"][0]["element"]] for site in sites]
            arrays = cls(
                np.array(document["lattice"]["matrix"], float).reshape(3, 3),
                np.array([site["abc"] for site in sites], float).reshape(-1, 3),
                np.array(numbers, np.uint8),
            )
            same = bool(numbers) and orjson.dumps(arrays.as_dict()) == orjson.dumps(document)
        except (KeyError, TypeError, IndexError, ValueError):
            return None
        return arrays if same else None

    def to_bytes(self) -> bytes:
        """All numbers exactly; the coordinates in single precision where this is exact."""
        kind, coordinates = SINGLE, self.frac_coords.astype("<f4")
        if not np.array_equal(coordinates, self.frac_coords):
            kind, coordinates = DOUBLE, self.frac_coords.astype("<f8", copy=False)
        numbers = self.atomic_numbers.astype(np.uint8, copy=False)
        lattice = self.lattice.astype("<f8", copy=False)
        return b"".join([kind, lattice.tobytes(), coordinates.tobytes(), numbers.tobytes()])

    @classmethod
    def from_bytes(cls, blob: bytes) -> StructureArrays:
        """Structure of what :meth:`to_bytes` made.

        Raises
        ------
        ValueError
            If it made something else.
        """
        kind = _COORDINATES.get(blob[:1])
        if kind is None:
            raise ValueError("not a structure")
        width = 3 * np.dtype(kind).itemsize
        n, rest = divmod(len(blob) - 1 - LATTICE, width + 1)
        if n < 1 or rest:
            raise ValueError("not a structure")
        numbers = np.frombuffer(blob, np.uint8, n, 1 + LATTICE + n * width)
        if not 1 <= numbers.min() <= numbers.max() <= len(_symbols()) - 1:
            raise ValueError("not a structure")
        return cls(
            np.frombuffer(blob, "<f8", 9, 1).reshape(3, 3),
            np.frombuffer(blob, kind, 3 * n, 1 + LATTICE).reshape(-1, 3).astype(float),
            numbers,
        )


@cache
def _symbols() -> list[str]:
    from ase.data import chemical_symbols  # takes 90 ms, and most commands read no structure

    return chemical_symbols


@cache
def _numbers() -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(_symbols()) if number}
