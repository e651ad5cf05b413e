from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from model_examples import (
    edos_label,
    label_row,
    random_crystals,
    rocksalt,
    small_dataset,
    structure_row,
    write_edos_files,
    write_rows,
)

from models.crystal import Crystal
from models.dataset import LABEL_EDGES, edos_dataset, fold, split_dataset
from models.errors import ModelError
from models.spectrum import EDOS_GRID, bin_averages


def files(tmp_path: Path, labels: list[dict], structures: list[dict] | None = None) -> tuple:
    structures = structures or [structure_row("x-0", rocksalt())]
    return (
        [write_rows(tmp_path / "labels.parquet", labels)],
        write_rows(tmp_path / "structures.parquet", structures),
    )


def test_labels_meet_their_structures(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, n=5)
    dataset = edos_dataset([labels], structures)
    assert sorted(dataset.material_ids) == [f"x-{i}" for i in range(5)]
    crystals = {f"x-{i}": c for i, c in enumerate(random_crystals(5))}
    for row, material_id in enumerate(dataset.material_ids):
        one = dataset.graphs.select(torch.tensor([row]))
        assert one.atomic_numbers.tolist() == crystals[material_id].atomic_numbers.tolist()
        expected = bin_averages(LABEL_EDGES, edos_label(int(material_id[2:])), EDOS_GRID.edges)
        np.testing.assert_allclose(dataset.spectra[row], expected, rtol=1e-5)
    assert dataset.left_out == {}


def test_the_gap_of_a_label_is_cut_out(tmp_path: Path) -> None:
    centers = (LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2
    dos = np.where((centers > 0) & (centers < 2.0), 0.0, 3.0)
    labels, structures = files(tmp_path, [label_row("x-0", dos, band_gap=2.0)])
    np.testing.assert_allclose(edos_dataset(labels, structures).spectra[0], 3.0, rtol=1e-5)


def test_a_negative_gap_is_a_metal(tmp_path: Path) -> None:
    labels, structures = files(tmp_path, [label_row("x-0", edos_label(), band_gap=-0.3)])
    expected = bin_averages(LABEL_EDGES, edos_label(), EDOS_GRID.edges)
    np.testing.assert_allclose(edos_dataset(labels, structures).spectra[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("dos", "message"),
    [
        (np.where(np.arange(1200) == 600, np.nan, 1.0), "label of x-0 holds NaN"),
        (np.where(np.arange(1200) == 600, -0.1, 1.0), "label of x-0 holds NaN or a negative DOS"),
        (np.where(np.arange(1200) < 100, 1.0, 0.0), "label of x-0 is zero everywhere"),
        (np.ones(1199), "label of x-0 has 1199 bins, not 1200"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, dos: np.ndarray, message: str) -> None:
    labels, structures = files(tmp_path, [label_row("x-0", dos)])
    with pytest.raises(ModelError, match=message):
        edos_dataset(labels, structures)


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good, dos = rocksalt(), edos_label()
    labels, structures = files(
        tmp_path,
        [
            label_row("good", dos),
            label_row("cut-off", dos, emax=3.0),
            label_row("wide-gap", dos, emax=9.9, band_gap=7.0),
            label_row("no-structure", dos),
            label_row("lonely", dos),
        ],
        [
            structure_row("good", good),
            structure_row("cut-off", good),
            structure_row("wide-gap", good),
            structure_row("lonely", Crystal(20 * np.eye(3), [[0, 0, 0]], [3])),
        ],
    )
    dataset = edos_dataset(labels, structures)
    assert dataset.material_ids == ("good",)
    assert dataset.left_out == {
        "cut-off": "DOS is complete only up to 3.05 eV",
        "wide-gap": "DOS is complete only up to 9.95 eV",
        "no-structure": "no structure in structures.parquet",
        "lonely": "atom 0 has no neighbour within 8.0 Å",
    }


def test_the_first_label_of_an_id_counts_across_files(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.parquet", [label_row("x-0", np.full(1200, 2.0))])
    second = write_rows(tmp_path / "b.parquet", [label_row("x-0", np.full(1200, 5.0))])
    structures = write_rows(tmp_path / "s.parquet", [structure_row("x-0", rocksalt())])
    assert edos_dataset([first, second], structures).spectra.max() == pytest.approx(2.0)
    assert edos_dataset([second, first], structures).spectra.max() == pytest.approx(5.0)


def test_an_id_twice_in_one_file_is_refused(tmp_path: Path) -> None:
    rows = [label_row("x-0", edos_label(0)), label_row("x-0", edos_label(1))]
    labels, structures = files(tmp_path, rows)
    with pytest.raises(ModelError, match=r"labels.parquet: x-0 .*more than once"):
        edos_dataset(labels, structures)


@pytest.mark.parametrize("column", ["material_id", "band_gap", "emax", "dos"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    row = label_row("x-0", edos_label())
    del row[column]
    labels, structures = files(tmp_path, [row])
    with pytest.raises(ModelError, match=f"labels.parquet: column {column} is missing"):
        edos_dataset(labels, structures)


def test_a_file_that_is_missing_or_not_parquet_is_named(tmp_path: Path) -> None:
    _, structures = write_edos_files(tmp_path, n=2)
    with pytest.raises(ModelError, match=r"none.parquet: cannot be read"):
        edos_dataset([tmp_path / "none.parquet"], structures)
    text = tmp_path / "text.parquet"
    text.write_text("not a table")
    with pytest.raises(ModelError, match=r"text.parquet: cannot be read as parquet"):
        edos_dataset([text], structures)


def test_labels_of_another_source_are_refused(tmp_path: Path) -> None:
    labels, structures = files(tmp_path, [label_row("y-0", edos_label())])
    with pytest.raises(ModelError, match="no label has a structure"):
        edos_dataset(labels, structures)


def test_a_subset_has_the_chosen_rows() -> None:
    dataset = small_dataset(10)
    subset = dataset.subset([7, 2])
    assert subset.material_ids == ("x-007", "x-002")
    assert torch.equal(subset.spectra, dataset.spectra[[7, 2]])
    assert torch.equal(subset.graphs.n_atoms, dataset.graphs.n_atoms[[7, 2]])


def test_a_split_has_every_material_once_in_the_asked_shares() -> None:
    ids = [f"mp-{i}" for i in range(3000)]
    split = split_dataset(ids, seed=0, validation=0.2, test=0.1)
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together) == list(range(3000))
    assert len(split.validation) / 3000 == pytest.approx(0.2, abs=0.03)
    assert len(split.test) / 3000 == pytest.approx(0.1, abs=0.02)


def test_a_material_stays_in_its_part_when_the_set_grows() -> None:
    few, many = [f"mp-{i}" for i in range(50)], [f"mp-{i}" for i in range(20, 500)]
    parts = []
    for ids in (few, many):
        split = split_dataset(ids, seed=3)
        parts.append(
            {ids[i]: p for p in ("train", "validation", "test") for i in getattr(split, p)}
        )
    common = parts[0].keys() & parts[1].keys()
    assert len(common) == 30
    assert all(parts[0][i] == parts[1][i] for i in common)


def test_another_seed_gives_another_split() -> None:
    ids = [f"mp-{i}" for i in range(200)]
    assert set(split_dataset(ids, 0).test) != set(split_dataset(ids, 1).test)
    assert fold("mp-1", 0) == fold("mp-1", 0) != fold("mp-1", 1)


def test_too_few_to_split() -> None:
    with pytest.raises(ModelError, match="1 materials are too few to split"):
        split_dataset(["mp-1"], 0)
