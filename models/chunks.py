"""Structures in chunks, each of which is about a second of a core's work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from models.crystal import Crystal

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHUNK = 256  # structures that a process gets at a time,
CHUNK_ATOMS = 8_000  # or fewer, if they are large,
STATES_CHUNK = 32  # or if a model diagonalises matrices
FIRST_CHUNK = 32  # of the first one, and twice as many of each next: there is soon something to see
IN_PROCESS = 200  # fewer structures than this are not worth starting processes


def are_worth_processes(
    structures: Iterable[Crystal | Structure],
) -> tuple[bool, Iterable[Crystal | Structure]]:
    """Whether they are `IN_PROCESS` or more, and all of them."""
    rest = iter(structures)
    first = list(islice(rest, IN_PROCESS))
    return len(first) == IN_PROCESS, chain(first, rest)


def chunks(
    structures: Iterable[Crystal | Structure], size: int = CHUNK
) -> Iterator[list[Crystal | Structure]]:
    """Consecutive structures, at most `size` with `CHUNK_ATOMS` together; the first are fewer.

    Parameters
    ----------
    structures : iterable of Crystal or Structure
    size : int
    """
    chunk: list[Crystal | Structure] = []
    atoms, most = 0, min(FIRST_CHUNK, size)
    for structure in structures:
        if chunk and atoms + len(structure) > CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(structure)
        atoms += len(structure)
        if len(chunk) == most:
            yield chunk
            chunk, atoms, most = [], 0, min(2 * most, size)
    if chunk:
        yield chunk
