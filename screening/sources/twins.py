"""The same crystal twice in a batch of files, whatever cell each is written in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from models.crystal import Crystal
from screening.candidate import Candidate

NEIGHBORS = 32  # of each element that an atom is described by; fcc and hcp differ from the 19th
TOLERANCE = 0.01  # Å; as for atoms that a lattice translation maps onto each other
MAX_ATOMS = 200


@dataclass
class Twins:
    """Remarks which candidates are crystals that came before.

    Two are the same if they have the same composition, and for each pair of elements the mean
    distances from an atom of the one to its 32 nearest of the other (averages as in [1]_, apart
    by element) agree to 0.01 Å. These do not depend on the choice of the cell, its origin, or
    its orientation. They do not tell a crystal from its mirror image, whose DOS is the same; the
    same material relaxed by another functional counts as another; stackings that differ only
    beyond these neighbours would count as the same. Cells of more than 200 atoms are not
    compared. Of each crystal 0.1 kB is kept for each pair of its elements.

    References
    ----------
    .. [1] D. Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022): average minimum
       distances.
    """

    found: int = 0
    _known: dict[tuple[object, int], list[tuple[str, np.ndarray]]] = field(default_factory=dict)

    def remarked(self, candidate: Candidate) -> Candidate:
        """The candidate, with a remark if it is the same crystal as an earlier one."""
        crystal = candidate.structure
        if len(crystal) > MAX_ATOMS:
            return candidate
        distances = mean_distances(crystal)
        composition = tuple((e, n / len(crystal)) for e, n in crystal.composition.items())
        # Means of distances that agree to the tolerance lie in the same bin or in the next one.
        middle = int(distances.mean() / TOLERANCE)
        for step in (0, -1, 1):
            for name, other in self._known.get((composition, middle + step), ()):
                if np.abs(distances - other).max() < TOLERANCE:
                    self.found += 1
                    remark = f"the same crystal as {name}"
                    return replace(candidate, remarks=(*candidate.remarks, remark))
        entry = (candidate.material_id, distances.astype(np.float32))
        self._known.setdefault((composition, middle), []).append(entry)
        return candidate


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
