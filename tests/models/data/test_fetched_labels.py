"""Labels that are on a grid already, with their structures in the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.dataset import edos_dataset, phdos_dataset
from models.errors import ModelError
from models.spectra.spectrum import EDOS_GRID, PHDOS_GRID, PHDOS_PAPER_GRID, EnergyGrid
from tests.models.model_examples import (
    label_row,
    labelled_crystals,
    structure_row,
    write_edos_files,
    write_rows,
)


def fetched(
    path: Path, spectra: list[np.ndarray], grid: EnergyGrid | None = EDOS_GRID, prefix: str = "mp"
) -> Path:
    """A file in the format of `screen fetch`."""
    rows = [
        structure_row(f"{prefix}-{i}", crystal) | {"spectrum": spectrum.tolist()}
        for i, (crystal, spectrum) in enumerate(
            zip(labelled_crystals(len(spectra)), spectra, strict=True)
        )
    ]
    metadata = {} if grid is None else {"grid": grid.model_dump_json()}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), path)
    return path


def spectra_of(n: int, bins: int = 128) -> list[np.ndarray]:
    return list(np.random.default_rng(1).uniform(0.1, 9, (n, bins)))


def test_spectra_come_as_they_are_with_their_own_structures(tmp_path: Path) -> None:
    spectra = spectra_of(5)
    dataset = edos_dataset([fetched(tmp_path / "mp.parquet", spectra)])
    assert dataset.material_ids == tuple(f"mp-{i}" for i in range(5))
    np.testing.assert_allclose(dataset.spectra, spectra, rtol=1e-6)
    assert dataset.graphs.n_atoms.tolist() == [len(c) for c in labelled_crystals(5)]


def test_both_kinds_of_labels_go_together(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, n=3)
    mine = fetched(tmp_path / "mp.parquet", spectra_of(4))
    dataset = edos_dataset([mine, labels], structures)
    assert set(dataset.material_ids) == {f"mp-{i}" for i in range(4)} | {f"x-{i}" for i in range(3)}


def test_the_first_label_of_an_id_counts(tmp_path: Path) -> None:
    first = fetched(tmp_path / "first.parquet", spectra_of(2))
    second = fetched(tmp_path / "second.parquet", [2 * s for s in spectra_of(3)])
    dataset = edos_dataset([first, second])
    expected = [*spectra_of(2), 2 * spectra_of(3)[2]]
    np.testing.assert_allclose(dataset.spectra, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("spectrum", "grid", "message"),
    [
        (np.ones(128), PHDOS_GRID, r"66 bins from -310 cm\^-1 are not the 128 from -4 eV"),
        (np.ones(128), EnergyGrid(start=-4, width=0.1, size=128), "are not the 128"),
        (np.ones(128), None, "metadata name no grid"),
        (np.ones(51), EDOS_GRID, "not 128 numbers: mp-0$"),
        (np.zeros(128), EDOS_GRID, "zero everywhere: mp-0$"),
        (np.full(128, np.nan), EDOS_GRID, "NaN or infinity: mp-0$"),
        (-np.ones(128), EDOS_GRID, "negative DOS: mp-0$"),
    ],
)
def test_bad_spectra(
    tmp_path: Path, spectrum: np.ndarray, grid: EnergyGrid | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        edos_dataset([fetched(tmp_path / "mp.parquet", [spectrum], grid)])


def test_fine_labels_need_a_file_of_structures(tmp_path: Path) -> None:
    labels = write_rows(tmp_path / "labels.parquet", [label_row("x-0", np.ones(1200))])
    with pytest.raises(ModelError, match="the field structures is needed"):
        edos_dataset([labels])


def test_phonon_spectra_on_the_papers_grid(tmp_path: Path) -> None:
    spectra = spectra_of(3, 51)
    path = fetched(tmp_path / "ph.parquet", spectra, PHDOS_PAPER_GRID)
    dataset = phdos_dataset(path, PHDOS_PAPER_GRID)
    np.testing.assert_allclose(dataset.spectra, [s / s.max() for s in spectra], rtol=1e-6)
    with pytest.raises(ModelError, match="no grid of 66 points"):
        phdos_dataset(path, PHDOS_GRID)
