"""Real crystal structures that come with pymatgen: the AFLOW prototype library."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from models.crystal import Crystal
from models.errors import ModelError
from screening.candidate import Candidate, Origin, SourceItem, Unreadable
from screening.errors import ScreeningError
from screening.sources.base import Source, digest

PACKAGE = "pymatgen.analysis.prototypes"
FILE = "aflow_prototypes.json.gz"


class PrototypeSource(Source):
    """The representatives of the AFLOW prototypes, one real compound each, as they come.

    Nothing is known of their hull energy, band gap, magnetism or DOS.

    References
    ----------
    Mehl et al., Comput. Mater. Sci. 136, S1 (2017); Hicks et al., ibid. 161, S1 (2019).
    """

    name = "prototypes"
    description = "crystal structures of pymatgen's AFLOW prototype library"

    @property
    def fingerprint(self) -> str:
        """Identifies the release of pymatgen, which holds the library."""
        return digest(self.name, self._version)

    @property
    def total(self) -> int:
        """Number of structures in the library."""
        return len(self._entries)

    def __iter__(self) -> Iterator[SourceItem]:
        """Stream the library in its own order."""
        origin = Origin("pymatgen AFLOW prototypes", self._version)
        seen: set[str] = set()
        for entry in self._entries:
            yield _item(entry, origin, seen)

    @cached_property
    def _version(self) -> str:
        return version("pymatgen-core")

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        path = _library_path()
        try:
            with gzip.open(path) as file:
                entries: list[dict[str, Any]] = json.load(file)
        except (OSError, EOFError, ValueError) as error:
            raise ScreeningError(f"cannot read {path}: {error}; reinstall pymatgen") from None
        return entries


def _library_path() -> Path:
    """The data file; found without importing its package, which takes seconds."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ScreeningError(
            f"there is no {PACKAGE}: the prototypes need pymatgen 2026.10 or newer"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


def _item(entry: dict[str, Any], origin: Origin, seen: set[str]) -> SourceItem:
    tags = entry["tags"]
    try:
        crystal = Crystal.from_dict(entry["snl"])
    except ModelError as error:
        material_id = _unused(["aflow", tags["aflow"], tags["mineral"]], seen)
        return Unreadable(material_id, str(error))
    parts = ["aflow", tags["aflow"], tags["mineral"] or crystal.formula, crystal.formula]
    return Candidate(_unused(parts, seen), crystal, source_formula=crystal.formula, origin=origin)


def _unused(parts: list[str], seen: set[str]) -> str:
    """Shortest id that is not taken: label and mineral, then the formula, then a number."""
    slugs = [re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_") for part in parts]
    short, full = "-".join(slugs[:3]), "-".join(slugs)
    ids = chain([short, full], (f"{full}-{number}" for number in count(2)))
    material_id = next(i for i in ids if i not in seen)
    seen.add(material_id)
    return material_id
