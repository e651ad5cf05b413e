"""Candidates from files in CIF."""

from __future__ import annotations

from collections.abc import Iterator

from screening.candidate import Candidate, Origin, SourceItem, Unreadable
from screening.sources.cif.reader import read_cif
from screening.sources.ids import nth
from screening.sources.opening import StructureFile


def read_cif_file(file: StructureFile) -> Iterator[SourceItem]:
    """The structures of a CIF, which is in memory while it is read."""
    for n, structure in enumerate(read_cif(file.text()), 1):
        name = nth(file.stem, n)
        if structure.crystal is None:
            yield Unreadable(name, structure.reason)
        else:
            yield Candidate(
                name,
                structure.crystal,
                is_magnetic=structure.is_magnetic,
                origin=Origin(file.label),
                remarks=structure.remarks,
            )
