"""Structures in chunks."""

from __future__ import annotations

from models.chunks import CHUNK, CHUNK_ATOMS, FIRST_CHUNK, IN_PROCESS, are_worth_processes, chunks
from tests.models.model_examples import rocksalt


def test_the_first_chunks_are_small_and_none_is_large() -> None:
    structures = [rocksalt()] * 1000
    sizes = [len(chunk) for chunk in chunks(structures)]
    assert sizes == [FIRST_CHUNK, 64, 128, CHUNK, CHUNK, CHUNK, 8]
    assert [len(chunk) for chunk in chunks(structures[:70], 32)] == [32, 32, 6]


def test_a_chunk_has_few_atoms() -> None:
    structures = [range(CHUNK_ATOMS // 3)] * 7  # of which it only asks how long they are
    assert [len(chunk) for chunk in chunks(structures)] == [3, 3, 1]  # type: ignore[arg-type]


def test_a_structure_is_taken_only_when_it_is_needed() -> None:
    structures = iter([rocksalt()] * 1000)
    assert len(next(chunks(structures))) == FIRST_CHUNK
    assert len(list(structures)) == 1000 - FIRST_CHUNK


def test_few_structures_are_not_worth_processes() -> None:
    for n, expected in ((0, False), (IN_PROCESS - 1, False), (IN_PROCESS, True)):
        are_many, structures = are_worth_processes([rocksalt()] * n)
        assert (are_many, len(list(structures))) == (expected, n)
