"""One structure of an OPTIMADE database, as a server or a file gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.crystal import ATOMIC_NUMBERS, Crystal
from models.errors import ModelError
from screening.candidate import Candidate, Origin
from screening.sources.materials_project.documents import time_of
from screening.sources.optimade.provider_fields import properties_of
from screening.sources.periodic import from_cartesian, periodic_in

FEATURES = {
    "disorder": "it is disordered",
    "implicit_atoms": "it has atoms without positions",
    "site_attachments": "atoms are attached to sites without positions of their own",
    "assemblies": "it is disordered: its sites are occupied in groups",
}


def is_entry(document: dict[str, Any]) -> bool:
    """Whether a document is an entry of OPTIMADE."""
    return isinstance(document.get("attributes"), dict)


def candidate_of_entry(document: dict[str, Any], material_id: str, label: str) -> Candidate:
    """Candidate of an entry, whose own account of itself must fit its sites.

    Parameters
    ----------
    document : dict
        The entry, with its `attributes`.
    material_id : str
    label : str
        Of the file or of the database.

    Raises
    ------
    ModelError
        If there is no ordered crystal in it.
    """
    attributes = document["attributes"]
    for feature in attributes.get("structure_features") or ():
        raise ModelError(FEATURES.get(feature, f"it has {feature!r:.40}, which is not understood"))
    if attributes.get("assemblies"):
        raise ModelError(FEATURES["assemblies"])
    names = _needed(attributes, "species_at_sites")
    positions = _needed(attributes, "cartesian_site_positions")
    lattice = _needed(attributes, "lattice_vectors")
    periodic = attributes.get("dimension_types") or [1, 1, 1]
    if not all(periodic):
        raise ModelError(periodic_in(periodic))
    species = _needed(attributes, "species")
    symbols = {entry["name"]: _symbol(entry) for entry in species}
    missing = next((name for name in names if name not in symbols), None)
    if missing is not None:
        raise ModelError(f"the species {missing!r:.40} of a site is not described")
    numbers = np.array([ATOMIC_NUMBERS[symbols[name]] for name in names])
    if np.size(positions) != 3 * len(names):
        raise ModelError(f"{np.size(positions)} coordinates for {len(names)} atoms")
    crystal = from_cartesian(lattice, positions, numbers)
    _check_against(attributes, crystal)
    known = properties_of(attributes)
    updated = time_of(attributes.get("last_modified"))
    return Candidate(
        material_id,
        crystal,
        energy_above_hull=known.get("energy_above_hull"),
        band_gap=known.get("band_gap"),
        origin=Origin(label, last_updated=updated),
    )


def _needed(attributes: dict[str, Any], key: str) -> Any:
    value = attributes.get(key)
    if value is None:
        raise ModelError(f"the entry has no {key}; ask the provider for it (response_fields)")
    return value


def _symbol(species: dict[str, Any]) -> str:
    """The one element of a species.

    Raises
    ------
    ModelError
        If there are several, vacancies, or attached atoms.
    """
    name, symbols = species["name"], species["chemical_symbols"]
    if any(species.get("nattached") or ()) or species.get("attached"):
        raise ModelError(f"species {name!r:.40}: {FEATURES['site_attachments']}")
    shares = species.get("concentration") or [1.0]
    if "vacancy" in symbols or len(symbols) != 1 or abs(shares[0] - 1) > 1e-6:
        raise ModelError(f"species {name!r:.40} has partial occupancies; order it first")
    if ATOMIC_NUMBERS.get(symbols[0], 0) < 1:
        raise ModelError(f"species {name!r:.40}: {symbols[0]!r:.20} is no element")
    return str(symbols[0])


def _check_against(attributes: dict[str, Any], crystal: Crystal) -> None:
    """What the entry says of itself must fit its sites.

    Raises
    ------
    ModelError
        If it does not.
    """
    nsites, elements = attributes.get("nsites"), attributes.get("elements")
    if nsites is not None and type(nsites) is not int:
        raise ModelError(f"nsites is not a number but {nsites!r:.40}")
    if elements is not None and not isinstance(elements, list):
        raise ModelError(f"elements is not a list but {elements!r:.40}")
    if nsites is not None and nsites != len(crystal):
        raise ModelError(
            f"the entry has {nsites} sites by its own account, {len(crystal)} are there"
        )
    if elements is not None and sorted(elements) != sorted(crystal.elements):
        raise ModelError(
            f"the entry is of {', '.join(elements)} by its own account, its sites are of "
            f"{', '.join(crystal.elements)}"
        )
