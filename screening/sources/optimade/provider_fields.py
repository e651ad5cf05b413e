"""Hull energies and band gaps, which OPTIMADE has no common names for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from screening.sources.properties import number

PROVIDER_FIELDS = {
    "energy_above_hull": (
        "_alexandria_hull_distance",
        "_gnome_hull_distance",
        "_jarvis_ehull",
        "_mp_stability",
        "_oqmd_stability",
    ),
    "band_gap": (
        "_alexandria_band_gap",
        "_gnome_bandgap",
        "_jarvis_optb88vdw_bandgap",
        "_mp_band_gap",
        "_oqmd_band_gap",
    ),
}
"""Fields of the databases by our names: hull energies in eV/atom, band gaps in eV."""

MP_HULLS = ("gga_gga+u_r2scan", "gga_gga+u", "r2scan")
"""Hulls of the Materials Project, in the order in which its own summaries prefer them."""


def properties_of(attributes: Mapping[str, Any]) -> dict[str, float | None]:
    """What an entry says of the properties that filters ask for; None where it does not.

    Raises
    ------
    ModelError
        If one of them is no number.

    Examples
    --------
    >>> properties_of({"_oqmd_stability": -0.1, "_oqmd_band_gap": None})
    {'energy_above_hull': 0.0, 'band_gap': None}
    """
    return {name: _first(attributes, fields) for name, fields in PROVIDER_FIELDS.items()}


def _first(attributes: Mapping[str, Any], fields: tuple[str, ...]) -> float | None:
    present = [field for field in fields if attributes.get(field) not in (None, "na")]
    for field in present:
        value = attributes[field]
        if not isinstance(value, Mapping):
            found = number(attributes, field)
            # The OQMD: negative on the hull, which would lie so much higher without it.
            return max(0.0, found) if field == "_oqmd_stability" and found is not None else found
        hulls = [value[hull] for hull in MP_HULLS if isinstance(value.get(hull), Mapping)]
        if hulls:
            return number(hulls[0], "energy_above_hull")
    return None
