"""The same crystal twice in a batch of files, whatever cell each is written in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from db.structures import StructureArrays
from models.crystal import Crystal
from screening.candidate import Candidate

NEIGHBORS = 32  # of each element that an atom is described by; fcc and hcp differ from the 19th
TOLERANCE = 0.01  # Å; as for atoms that a lattice translation maps onto each other
MAX_ATOMS = 200
DENSITY_STEP = 0.01  # of the logarithm of the volume per atom
MATCH = {"ltol": 0.02, "stol": 0.02, "angle_tol": 1.0}  # of pymatgen's StructureMatcher


@dataclass
class Twins:
    """Remarks which candidates are crystals that came before.

    Two are the same if they have the same composition and density, if for each pair of elements
    the mean distances from an atom of the one to its 32 nearest of the other (averages as in
    [1]_, apart by element) agree to 0.01 Å, and if pymatgen's matcher maps one onto the other.
    None of these depends on the choice of the cell, its origin, or its orientation. A crystal is
    not told from its mirror image, whose DOS is the same; the same material relaxed by another
    functional counts as another. Cells of more than 200 atoms are not compared. Of each crystal
    about 1 kB is kept, and nothing is calculated before another one has its composition and
    density.

    References
    ----------
    .. [1] D. Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022): average minimum
       distances.
    """

    found: int = 0
    _known: dict[str, list[_Known]] = field(default_factory=dict)

    def remarked(self, candidate: Candidate) -> Candidate:
        """The candidate, with a remark if it is the same crystal as an earlier one."""
        crystal = candidate.structure
        if len(crystal) > MAX_ATOMS:
            return candidate
        parts = (f"{e}{n / len(crystal)}" for e, n in crystal.composition.items())
        composition = " ".join(parts)  # a text, which takes less memory than what it says
        # The densities of equal crystals lie in the same bin or in the next one.
        density = round(np.log(crystal.volume / len(crystal)) / DENSITY_STEP)
        new = _Known.of(candidate)
        for step in (0, -1, 1):
            for known in self._known.get(f"{composition} {density + step}", ()):
                if known.is_same_as(new):
                    self.found += 1
                    remark = f"the same crystal as {known.name}"
                    return replace(candidate, remarks=(*candidate.remarks, remark))
        self._known.setdefault(f"{composition} {density}", []).append(new)
        return candidate


@dataclass(slots=True)
class _Known:
    """A crystal that came before, in little memory."""

    name: str
    structure: bytes
    distances: np.ndarray | None = None

    @classmethod
    def of(cls, candidate: Candidate) -> _Known:
        crystal = candidate.structure
        wrapped = (crystal.frac_coords % 1.0).astype(np.float32)
        arrays = StructureArrays(crystal.lattice, wrapped, crystal.atomic_numbers)
        return cls(candidate.material_id, arrays.to_bytes())

    def is_same_as(self, other: _Known) -> bool:
        """Whether the distances, and if so all atoms, agree."""
        if np.abs(self._distances() - other._distances()).max() >= TOLERANCE:
            return False
        from pymatgen.analysis.structure_matcher import StructureMatcher

        matcher = StructureMatcher(scale=False, **MATCH)
        return bool(matcher.fit(self._crystal().to_structure(), other._crystal().to_structure()))

    def _crystal(self) -> Crystal:
        arrays = StructureArrays.from_bytes(self.structure)
        return Crystal(arrays.lattice, arrays.frac_coords, arrays.atomic_numbers)

    def _distances(self) -> np.ndarray:
        if self.distances is None:
            self.distances = mean_distances(self._crystal()).astype(np.float32)
        return self.distances


def mean_distances(crystal: Crystal) -> np.ndarray:
    """Mean distances from atoms of one element to their nearest ones of another.

    Returns
    -------
    ndarray, shape (n_elements, n_elements, 32)
        In Å, elements by their atomic numbers.
    """
    from vesin import NeighborList

    elements, kinds = np.unique(crystal.atomic_numbers, return_inverse=True)
    n, n_kinds = len(crystal), len(elements)
    rarest = np.bincount(kinds).min()
    # A sphere with so many of the rarest element on average, and somewhat more.
    radius = 1.2 * (3 * NEIGHBORS * crystal.volume / rarest / (4 * np.pi)) ** (1 / 3)
    positions = crystal.frac_coords @ crystal.lattice
    while True:
        center, neighbor, distance = NeighborList(cutoff=radius, full_list=True).compute(
            points=positions, box=crystal.lattice, periodic=True, quantities="ijd"
        )
        group = center.astype(np.int64) * n_kinds + kinds[neighbor.astype(np.int64)]
        counts = np.bincount(group, minlength=n * n_kinds)
        if counts.min() >= NEIGHBORS:
            break
        radius *= 1.3
    order = np.lexsort((distance, group))
    first = np.cumsum(counts) - counts
    nearest = distance[order][first[:, None] + np.arange(NEIGHBORS)]
    by_atom = nearest.reshape(n, n_kinds, NEIGHBORS)
    means = [by_atom[kinds == kind].mean(0) for kind in range(n_kinds)]
    return np.array(means)
